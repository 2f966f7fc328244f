"""Scoring predictions: of all formats of a merged skeleton at once, and of plain files of any method."""

import math
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.consistency import compute_inconsistency
from posepile.evaluation.protocols import flat
from posepile.geometry.skeleton import Skeleton, joint_indices

PROTOCOLS = {"flat": flat.evaluate}

HEADLINE_METRICS = ("mpjpe", "pa_mpjpe", "pck100", "cps200")

_SMALLEST_POSE_MM = 10.0  # a median pose below that is in metres: a person is 0.5 to 2.5 of them across


def score_merged(joints3d_pred, joints3d_true, validity, merged: Skeleton) -> dict:
    """Scores the prediction of a merged skeleton: each format in its own right, all together, and against each other.

    Args:
        joints3d_pred, joints3d_true: [num_poses, merged.num_joints, 3] camera space, mm.
        validity: [num_poses, merged.num_joints] bool, which annotations count; None: all.
        merged: a merged skeleton, or a plain format.

    Returns:
        `formats`: {format name: metrics}, see `metrics.compute_metrics`, root-relative to the format's own root (to the
            mean of the valid joints where it has none);
        `pooled`: the same over all formats: joints of all formats pooled, and every (pose, format) pair one pose for
            CPS, `num_poses` and `num_undefined`; a joint that two formats of one family share counts in both;
        `inconsistency`: see `consistency.compute_inconsistency`.
    Raises: ValueError for arrays that do not fit, or a valid annotation that is not finite.
    """
    pred, true, validity = metrics.check_poses(joints3d_pred, joints3d_true, validity)
    _check_merged(pred, merged)
    distances = {name: metrics.joint_distances(pred[:, joints], true[:, joints], validity[:, joints], root)
                 for name, joints, root in _formats(merged)}
    return {"formats": {name: metrics.summarize(d) for name, d in distances.items()},
            "pooled": metrics.summarize(metrics.pool_distances(distances.values())),
            "inconsistency": compute_inconsistency(pred, true, validity, merged)}


def mean_relative_pose(joints3d, validity, merged: Skeleton) -> np.ndarray:
    """The mean pose of each format in a training set, for `mean_pose_baseline`.

    Args:
        joints3d: [num_poses, merged.num_joints, 3] camera space, mm; each example may label one format only.
        validity: [num_poses, merged.num_joints] bool.

    Returns: [merged.num_joints, 3] mm: the mean of each joint relative to the root of its format; nan for joints that
        no example has together with that root.
    """
    joints3d, _, validity = metrics.check_poses(joints3d, joints3d, validity)
    _check_merged(joints3d, merged)
    total, count = np.zeros((merged.num_joints, 3)), np.zeros((merged.num_joints, 1))
    for _, joints, root in _formats(merged):
        reference, is_known = _root_positions(joints3d[:, joints], validity[:, joints], root)
        is_counted = (validity[:, joints] & is_known[:, None])[..., None]
        total[joints] += np.sum(joints3d[:, joints] - reference[:, None], axis=0, where=is_counted)
        count[joints] += is_counted.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return total / np.where(count, count, np.nan)


def mean_pose_baseline(mean_pose, joints3d_true, validity, merged: Skeleton) -> dict:
    """Scores the constant prediction: how hard the test data are for someone who does not look at the image.

    Args:
        mean_pose: [merged.num_joints, 3] mm, from `mean_relative_pose` of the training data.
        joints3d_true, validity: as in `score_merged`.

    Returns: `formats` and `pooled` as `score_merged`, without the metrics in absolute camera space, where the constant
        pose has no place, and without inconsistency.
    """
    _, true, validity = metrics.check_poses(joints3d_true, joints3d_true, validity)
    _check_merged(true, merged)
    mean_pose = np.asarray(mean_pose, np.float64)
    if mean_pose.shape != true.shape[1:]:
        raise ValueError(f"mean_pose must be {list(true.shape[1:])}, one point per merged joint; "
                         f"got shape {list(mean_pose.shape)}")
    distances = {}
    for name, joints, root in _formats(merged):
        pred = np.broadcast_to(mean_pose[joints], (len(true), len(joints), 3))
        distances[name] = metrics.joint_distances(pred, true[:, joints], validity[:, joints], root)
    return {"formats": {name: _without_absolute(metrics.summarize(d)) for name, d in distances.items()},
            "pooled": _without_absolute(metrics.summarize(metrics.pool_distances(distances.values())))}


def headline(score: Mapping) -> dict[str, float]:
    """The few numbers of a `score_merged` result to put first: pooled metrics, and the inconsistency in mm."""
    numbers = {name: score["pooled"][name] for name in HEADLINE_METRICS}
    return {**numbers, "inconsistency": score["inconsistency"]["total"]} if "inconsistency" in score else numbers


def score_files(predictions: str | pathlib.Path, annotations: str | pathlib.Path, protocol: str = "flat") -> dict:
    """Scores a prediction file of any method; needs no data set and no TensorFlow.

    Args:
        predictions: .npz with `joints3d` [num_poses, num_joints, 3], camera space, mm; optional `joint_names`
            [num_joints].
        annotations: .npz with `joints3d`, same poses and joints in the same order; optional `joint_validity_mask`
            [num_poses, num_joints] (default: all), `root` (joint index, default 0), `sequence` and `activity`
            [num_poses], `joint_names` [num_joints].
        protocol: a key of PROTOCOLS.

    Returns: the protocol's record, see `protocols.flat.evaluate`; its `stamp` names the files, too.
    Raises: ValueError, FileNotFoundError: a message that names the file and the array, and says what to do.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known ones: {', '.join(PROTOCOLS)}")
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
    try:
        record = PROTOCOLS[protocol](
            pred["joints3d"], true["joints3d"], mask, int(root), sequence=true.get("sequence"),
            activity=true.get("activity"), joint_names=names[0] or names[1])
    except ValueError as error:
        raise ValueError(f"{predictions} against {annotations}: {error}") from error
    files = {"predictions": str(predictions), "annotations": str(annotations)}
    return {**record, "stamp": {**record["stamp"], **files}}


def json_ready(value):
    """A record with plain Python numbers, and None for what is not finite: JSON has no nan."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _formats(merged):
    """Name, joint indices and root (within the format) of every format that a skeleton consists of."""
    if not merged.formats:
        return [(merged.name, np.arange(merged.num_joints), merged.root)]
    return [(fmt.name, joint_indices(merged, fmt), fmt.root) for fmt in merged.formats]


def _check_merged(poses, merged):
    if poses.shape[1] != merged.num_joints:
        raise ValueError(f"the poses have {poses.shape[1]} joints, but the merged skeleton {merged.name} has "
                         f"{merged.num_joints}")


def _root_positions(joints3d, validity, root):
    """[num_poses, 3] reference points of root-relative coordinates, and for which poses [num_poses] there is one."""
    if root is not None:
        return joints3d[:, root], validity[:, root]
    count = validity.sum(axis=1)
    return np.sum(joints3d, axis=1, where=validity[..., None]) / np.maximum(count, 1)[:, None], count > 0


def _without_absolute(record):
    return {name: value for name, value in record.items() if name not in ("a_mpjpe", "apck150", "apck300")}


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
