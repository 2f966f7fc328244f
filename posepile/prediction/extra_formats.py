"""Output formats added to a trained model: each joint an affine combination of the joints that the model predicts.

The file of a format is an .npz without pickles (`python -m ace add-skeleton` writes such files):

    weights [K, J] float32, rows sum to 1: the format's K joints = weights x the model's J joints
    joint_names [J] text, of the model's joints, in order
    skeleton, text: the format's definition as JSON, see `posepile.geometry.skeleton.skeleton_from_dict`

Other arrays are not read.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from posepile.geometry.skeleton import Skeleton, merge_skeletons, merged_joint_names, skeleton_from_dict

ROW_SUM_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class ExtraFormat:
    """An added output format.

    Attributes:
        skeleton: K joints.
        weights: [K, J] float32, rows sum to 1.
        joint_names: of the J joints that are combined.
        source: the file it comes from, for messages.
    """

    skeleton: Skeleton
    weights: np.ndarray
    joint_names: tuple[str, ...]
    source: str = "the extra format"


def load_extra_format(path: str | os.PathLike) -> ExtraFormat:
    """Reads a file as described above. Raises: FileNotFoundError; ValueError naming the file and what is wrong with it."""
    source = os.fspath(path)
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if missing := [name for name in ("weights", "joint_names", "skeleton") if name not in archive.files]:
                    raise ValueError(f"it lacks {', '.join(missing)}")
                weights, joint_names = archive["weights"], archive["joint_names"]
                skeleton = skeleton_from_dict(json.loads(str(archive["skeleton"])))
        if skeleton.formats:
            raise ValueError(f"{skeleton.name} is merged from several formats; expected a single one")
        if weights.shape != (skeleton.num_joints, joint_names.size) or weights.dtype.kind != "f":
            raise ValueError(f"weights are {weights.dtype} {list(weights.shape)}; expected float32 "
                             f"[{skeleton.num_joints}, {joint_names.size}]")
        error = np.abs(weights.sum(axis=1, dtype=np.float64) - 1).max()
        if not error <= ROW_SUM_TOLERANCE:
            raise ValueError(f"the sum of a row of weights is off by {error:.3g}; rows sum to 1")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {source} of an extra format") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{source} is not an extra format: {error}. `python -m ace add-skeleton` writes one.") from error
    return ExtraFormat(skeleton, np.float32(weights), tuple(map(str, joint_names.ravel())), source)


def extend_outputs(skeleton: Skeleton, formats: Sequence[ExtraFormat]) -> tuple[Skeleton, np.ndarray]:
    """A model's joint list with the joints of extra formats behind it.

    Args: skeleton: of the model, J joints.
    Returns: the merged skeleton, and [added joints, J] float32: added joints = weights x the model's joints.
    Raises: ValueError if a format belongs to other joints, or its name or joints are taken.
    """
    for extra in formats:
        if len(extra.joint_names) != skeleton.num_joints:
            raise ValueError(f"{extra.source} is for a model with {len(extra.joint_names)} joints; this one predicts "
                             f"{skeleton.num_joints}, of {skeleton.name}")
        for j, (expected, name) in enumerate(zip(extra.joint_names, skeleton.joint_names, strict=True)):
            if expected != name:
                raise ValueError(f"{extra.source} is for another model: its joint {j} is {expected!r}, but this model "
                                 f"predicts {name!r}. Add the skeleton to the autoencoder of this model.")
    merged = skeleton
    for extra in formats:
        names = {fmt.name for fmt in merged.formats or (merged,)}
        if extra.skeleton.name in names:
            raise ValueError(f"{extra.source}: the model has a format {extra.skeleton.name!r} already; rename the skeleton")
        if taken := sorted(set(merged_joint_names(extra.skeleton)) & set(merged.joint_names)):
            raise ValueError(f"{extra.source}: the model predicts {', '.join(taken[:5])} already; give the skeleton a family "
                             "of its own")
        merged = merge_skeletons([merged, extra.skeleton])
    return merged, np.concatenate([np.zeros((0, skeleton.num_joints), np.float32), *(extra.weights for extra in formats)])
