"""Files of predictions and annotations that any method can write."""

import dataclasses
import pathlib
import zipfile
import zlib

import numpy as np

_SMALLEST_POSE_MM = 10.0  # a median pose below that is in metres: a person is 0.5 to 2.5 of them across


@dataclasses.dataclass(frozen=True)
class PosePair:
    """Predictions and the annotations that they are scored against.

    Attributes:
        predictions, annotations: paths of the files.
        joints3d_pred, joints3d_true: [num_poses, num_joints, 3] camera space, mm.
        validity: [num_poses, num_joints], which annotations count, not checked yet; None: all.
        root: index of the joint that root-relative metrics subtract.
        sequence, activity: [num_poses] labels, not checked yet; None: not known.
        joint_names: of the joints; None: not known.
    """

    predictions: str
    annotations: str
    joints3d_pred: np.ndarray
    joints3d_true: np.ndarray
    validity: np.ndarray | None
    root: int
    sequence: np.ndarray | None
    activity: np.ndarray | None
    joint_names: list[str] | None


def read_poses(predictions: str | pathlib.Path, annotations: str | pathlib.Path) -> PosePair:
    """Reads a prediction file and its annotation file.

    Args:
        predictions: .npz with `joints3d` [num_poses, num_joints, 3], camera space, mm; optional `joint_names`
            [num_joints].
        annotations: .npz with `joints3d`, same poses and joints in the same order; optional `joint_validity_mask`
            [num_poses, num_joints] (default: all), `root` (joint index, default 0), `sequence` and `activity`
            [num_poses], `joint_names` [num_joints].

    Raises: ValueError, FileNotFoundError: a message that names the file and the array, and says what to do.
    """
    pred, true = (_read_npz(path, required=("joints3d",)) for path in (predictions, annotations))
    for path, arrays in ((predictions, pred), (annotations, true)):
        _check_poses(arrays["joints3d"], path)
    if pred["joints3d"].shape != true["joints3d"].shape:
        raise ValueError(
            f"{predictions}: joints3d is {list(pred['joints3d'].shape)}, but that of {annotations} is "
            f"{list(true['joints3d'].shape)}. Both need the same poses and the same joints, in the same order.")
    names = _joint_names(pred, predictions), _joint_names(true, annotations)
    if None not in names and names[0] != names[1]:
        j = next(j for j, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
        raise ValueError(f"{predictions}: joint {j} is called {names[0][j]!r}, but {names[1][j]!r} in {annotations}. "
                         "Bring the joints into one order.")
    root = true.get("root", np.array(0))
    if root.ndim or not np.issubdtype(root.dtype, np.integer):
        raise ValueError(f"{annotations}: root must be one joint index, an integer; got {root!r}")
    mask = true.get("joint_validity_mask")
    _check_units(pred["joints3d"], mask, predictions)
    _check_units(true["joints3d"], mask, annotations)
    return PosePair(str(predictions), str(annotations), pred["joints3d"], true["joints3d"], mask, int(root),
                    true.get("sequence"), true.get("activity"), names[0] or names[1])


def _read_npz(path, required):
    path = pathlib.Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array, not several by name")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:  # Python objects are a ValueError, too
        raise ValueError(f"{path} cannot be read as an .npz archive of plain numeric and text arrays: {error}. "
                         "Write it with numpy.savez.") from error
    if missing := [name for name in required if name not in arrays]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds: {', '.join(arrays) or 'nothing'}")
    return arrays


def _check_poses(joints3d, path):
    if joints3d.ndim != 3 or joints3d.shape[-1] != 3:
        raise ValueError(f"{path}: joints3d must be [num_poses, num_joints, 3]; got shape {list(joints3d.shape)}")
    if not np.issubdtype(joints3d.dtype, np.floating) and not np.issubdtype(joints3d.dtype, np.integer):
        raise ValueError(f"{path}: joints3d must hold numbers; got {joints3d.dtype}")
    if not len(joints3d):
        raise ValueError(f"{path}: joints3d holds no pose")


def _joint_names(arrays, path):
    if "joint_names" not in arrays:
        return None
    names = [str(name) for name in np.ravel(arrays["joint_names"])]
    if len(names) != arrays["joints3d"].shape[1]:
        raise ValueError(f"{path}: joint_names has {len(names)} names for {arrays['joints3d'].shape[1]} joints")
    return names


def _check_units(joints3d, mask, path):
    """Raises ValueError if the poses look as if they were in metres."""
    is_counted = np.isfinite(joints3d).all(axis=-1)
    if mask is not None and np.shape(mask) == is_counted.shape:
        is_counted &= np.asarray(mask, bool)
    joints3d, is_counted = np.asarray(joints3d, np.float64), is_counted[..., None]
    extent = (np.max(joints3d, axis=1, where=is_counted, initial=-np.inf)
              - np.min(joints3d, axis=1, where=is_counted, initial=np.inf)).max(axis=-1)
    extent = extent[extent > 0]  # poses with two counted points or more
    if extent.size and (median := float(np.median(extent))) < _SMALLEST_POSE_MM:
        raise ValueError(f"{path}: the median pose is {median:.3g} mm across, as if joints3d were in metres. "
                         "Millimetres are expected: multiply by 1000.")
