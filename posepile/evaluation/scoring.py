"""Scoring predictions: of all formats of a merged skeleton at once, and of plain files of any method."""

import math
import pathlib
from collections.abc import Mapping

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.consistency import compute_inconsistency
from posepile.evaluation.prediction_files import Poses, read_annotations, read_predictions
from posepile.evaluation.protocols import flat, h36m, mpi_inf_3dhp, mupots, threedpw
from posepile.geometry.skeleton import Skeleton, joint_indices

PROTOCOLS = {"flat": flat.score, "h36m": h36m.score, "mpi_inf_3dhp": mpi_inf_3dhp.score, "3dpw": threedpw.score,
             "mupots": mupots.score}

HEADLINE_METRICS = ("mpjpe", "pa_mpjpe", "pck100", "cps200")


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
                 for name, joints, root in formats_of(merged)}
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
    for _, joints, root in formats_of(merged):
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
    for name, joints, root in formats_of(merged):
        pred = np.broadcast_to(mean_pose[joints], (len(true), len(joints), 3))
        distances[name] = metrics.joint_distances(pred, true[:, joints], validity[:, joints], root)
    return {"formats": {name: _without_absolute(metrics.summarize(d)) for name, d in distances.items()},
            "pooled": _without_absolute(metrics.summarize(metrics.pool_distances(distances.values())))}


def headline(score: Mapping) -> dict[str, float]:
    """The few numbers of a `score_merged` result to put first: pooled metrics, and the inconsistency in mm."""
    numbers = {name: score["pooled"][name] for name in HEADLINE_METRICS}
    return {**numbers, "inconsistency": score["inconsistency"]["total"]} if "inconsistency" in score else numbers


def formats_of(merged: Skeleton) -> list[tuple[str, np.ndarray, int | None]]:
    """Name, joint indices and root (within the format) of every format that a skeleton consists of."""
    if not merged.formats:
        return [(merged.name, np.arange(merged.num_joints), merged.root)]
    return [(fmt.name, joint_indices(merged, fmt), fmt.root) for fmt in merged.formats]


def score_files(predictions: str | pathlib.Path, annotations: str | pathlib.Path, protocol: str = "flat",
                confidence: float = 0.95) -> dict:
    """Scores a prediction file of any method; needs no data set and no TensorFlow.

    Args:
        predictions, annotations: .npz, see `prediction_files`.
        protocol: a key of PROTOCOLS.
        confidence: of the intervals, above 0, below 1.

    Returns: the protocol's record, see `protocols`.
    Raises: ValueError, FileNotFoundError: a message that names the file and the array, and says what to do.
    """
    return score_poses(read_predictions(predictions), read_annotations(annotations), protocol, confidence)


def score_poses(pred: Poses, true: Poses, protocol: str = "flat", confidence: float = 0.95) -> dict:
    """`score_files` of files that are read already."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known ones: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol](pred, true, confidence)


def json_ready(value):
    """A record with plain Python numbers, and None for what is not finite: JSON has no nan."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
