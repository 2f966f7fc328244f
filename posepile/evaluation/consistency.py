"""Inconsistency between the formats of one prediction.

A network that predicts several joint formats says several times where, for example, the left knee is. The formats mean
slightly different points by it, so their predictions need not coincide, but they should differ as the annotations do.
"""

import dataclasses
import itertools

import numpy as np

from posepile.evaluation.metrics import check_poses
from posepile.evaluation.statistics import PoseSums
from posepile.geometry.skeleton import Skeleton, plain_joint_names

_CHUNK_POSES = 1024  # bounds the memory: there are thousands of pairs in large merged skeletons


def shared_joint_pairs(merged: Skeleton) -> tuple[np.ndarray, list[str]]:
    """Joints that two formats of a merged skeleton name alike.

    Formats of one family that share a joint predict it once; there is no pair then.

    Returns: [num_pairs, 2] int64 joint indices, and the plain joint name of each pair.
    """
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(plain_joint_names(merged)):
        by_name.setdefault(name, []).append(i)
    pairs = [(i, j, name) for name, joints in by_name.items() for i, j in itertools.combinations(joints, 2)]
    return np.array([(i, j) for i, j, _ in pairs], np.int64).reshape(-1, 2), [name for _, _, name in pairs]


def compute_inconsistency(joints3d_pred, joints3d_true, validity, merged: Skeleton) -> dict:
    """How far the formats' predictions of equally named joints deviate from each other, beyond what the truth has.

    For a pair of joints a, b that two formats name alike, with p predicted and g annotated, all in absolute camera
    space, the deviation is the vector (p_a - p_b) - (g_a - g_b). A common translation of a prediction has no influence.
    The average runs over all pairs and poses in which both joints are annotated.

    * total: mean length of that vector; the summary figure.
    * depth: mean absolute z of it.
    * image_plane: mean length of the same deviation taken between the image positions (x/z, y/z), each pose scaled to
      mm by its own mean depth over the valid joints, as the autoencoder's loss does. Poses with a valid joint at or
      behind the camera (z <= 0), predicted or annotated, have no image; they are left out here and counted in
      `num_not_imaged`.

    Args:
        joints3d_pred, joints3d_true: [num_poses, merged.num_joints, 3] camera space, mm.
        validity: [num_poses, merged.num_joints] bool, or None: all valid.
        merged: the merged skeleton.

    Returns: `total`, `depth`, `image_plane` in mm (nan if no pair is annotated or a prediction that counts is not
        finite), `num_pairs`: how many pairs the average runs over, `num_not_imaged`: poses, and `per_joint`:
        {plain joint name: the `total` of its pairs}.
    Raises: ValueError for shapes that do not fit, or a valid annotation that is not finite.
    """
    deviations = _measure(joints3d_pred, joints3d_true, validity, merged)
    sums, names = deviations.sums, deviations.names
    per_joint = {}
    for name in dict.fromkeys(names):
        is_of_joint = np.array([n == name for n in names])
        per_joint[name] = _ratio(deviations.totals[is_of_joint].sum(), deviations.counts[is_of_joint].sum())
    return {**dict(zip(sums.names, sums.values().tolist(), strict=True)), "num_pairs": int(deviations.counts.sum()),
            "num_not_imaged": deviations.num_not_imaged, "per_joint": per_joint}


def inconsistency_sums(joints3d_pred, joints3d_true, validity, merged: Skeleton) -> PoseSums:
    """What every pose adds to `total`, `depth` and `image_plane` of `compute_inconsistency`, whose arguments it takes."""
    return _measure(joints3d_pred, joints3d_true, validity, merged).sums


@dataclasses.dataclass(frozen=True)
class _Deviations:
    """Sums of the deviations of pairs: of every pose, and of every pair, [num_pairs] totals in mm and counts."""

    sums: PoseSums
    names: list[str]
    totals: np.ndarray
    counts: np.ndarray
    num_not_imaged: int


def _measure(joints3d_pred, joints3d_true, validity, merged):
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity)
    if pred.shape[1] != merged.num_joints:
        raise ValueError(f"the poses have {pred.shape[1]} joints, but the merged skeleton {merged.name} has "
                         f"{merged.num_joints}")
    pairs, names = shared_joint_pairs(merged)
    a, b = pairs.T
    totals, counts = np.zeros(len(pairs)), np.zeros(len(pairs))
    numerators, denominators = np.zeros((3, len(pred))), np.zeros((3, len(pred)))
    num_not_imaged = 0
    for start in range(0, len(pred), _CHUNK_POSES):
        rows = slice(start, start + _CHUNK_POSES)
        p, g, v = (array[rows] for array in (pred, true, validity))
        is_pair = v[:, a] & v[:, b]
        with np.errstate(invalid="ignore", over="ignore"):
            deviation = (p[:, a] - p[:, b]) - (g[:, a] - g[:, b])
            length = np.where(is_pair, np.linalg.norm(deviation, axis=-1), 0.0)
            flat_pred, is_imaged_pred = _image_plane(p, v)
            flat_true, is_imaged_true = _image_plane(g, v)
            flat = (flat_pred[:, a] - flat_pred[:, b]) - (flat_true[:, a] - flat_true[:, b])
            is_imaged = is_imaged_pred & is_imaged_true
            is_counted = is_pair & is_imaged[:, None]
            numerators[:, rows] = (length.sum(axis=1), np.sum(np.abs(deviation[..., 2]), axis=1, where=is_pair),
                                   np.sum(np.linalg.norm(flat, axis=-1), axis=1, where=is_counted))
        denominators[:, rows] = is_pair.sum(axis=1), is_pair.sum(axis=1), is_counted.sum(axis=1)
        totals += length.sum(axis=0)
        counts += is_pair.sum(axis=0)
        num_not_imaged += int(np.count_nonzero(is_pair.any(axis=1) & ~is_imaged))
    return _Deviations(PoseSums(("total", "depth", "image_plane"), numerators, denominators), names, totals, counts,
                       num_not_imaged)


def _image_plane(poses, validity):
    """Image positions [n, num_joints, 2], mm at each pose's mean depth, and which poses [n] are before the camera."""
    z = poses[..., 2]
    is_imaged = ~((z <= 0) & validity).any(axis=1)  # nan depths stay in, they make the mean undefined
    mean_depth = np.sum(z, axis=1, where=validity) / np.maximum(validity.sum(axis=1), 1)
    safe_z = np.where(validity & is_imaged[:, None], z, 1.0)
    return poses[..., :2] / safe_z[..., None] * mean_depth[:, None, None], is_imaged


def _ratio(total, count):
    return float(total / count) if count and np.isfinite(total) else float("nan")
