"""Second moments of poses on the image plane: all that a squared objective of affine combinations sees of them."""

import numpy as np

from ace.poses import center_poses

_CHUNK = 4096  # poses
_MIN_VARIANCE_SHARE = 1e-9  # of the largest variance: by rounding, and with missing joints, there are negative ones


def joint_moments(poses: np.ndarray, masks: np.ndarray | None, mirror: np.ndarray) -> np.ndarray:
    """Second moments of the joints across the line of sight to the person, mirror images counted alike.

    A camera turned towards the middle of the person sees x and y nearly as its image shows them, and errors in depth move
    joints along its axis. Moments of missing joints are those of the poses that have both joints, by their distances, which
    need no common origin (classical multidimensional scaling).

    Args:
        poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool or None.
        mirror: [num_joints] index of each joint's mirror image.

    Returns: [num_joints, num_joints] float64 mm^2, relative to the mean of the joints, positive definite unless all is 0.
    """
    products = np.zeros((poses.shape[1],) * 2)
    squares, counts = np.zeros_like(products), np.zeros_like(products)
    for start in range(0, len(poses), _CHUNK):
        mask = None if masks is None else masks[start:start + _CHUNK]
        points = _across_line_of_sight(poses[start:start + _CHUNK], mask)
        products += points.T @ points
        if mask is not None:
            twice = np.concatenate([mask, mask]).astype(points.dtype)
            squares += np.square(points).T @ twice
            counts += twice.T @ twice
    if masks is None:
        moments = products / (2 * len(poses))
    else:
        distances = np.divide(squares + squares.T - 2 * products, counts, where=counts > 0, out=np.full_like(counts, np.nan))
        moments = -np.where(np.isnan(distances), np.nanmean(distances), distances) / 2
    moments = moments - moments.mean(axis=0)
    moments -= moments.mean(axis=1, keepdims=True)
    moments = (moments + moments[mirror][:, mirror]) / 2
    variances, axes = np.linalg.eigh(moments)
    moments = axes * np.maximum(variances, _MIN_VARIANCE_SHARE * variances[-1]) @ axes.T
    return (moments + moments[mirror][:, mirror]) / 2


def _across_line_of_sight(poses, mask):
    """[2 n, num_joints]: x, then y, relative to the middle of the person, in a camera that looks at it; 0 where masked."""
    center, centered = center_poses(np.asarray(poses, np.float32), mask)
    sight = center / np.linalg.norm(center, axis=-1, keepdims=True)
    # The smallest rotation that takes the line of sight to the z axis; only its first two rows are needed.
    along = np.matmul(centered, sight.swapaxes(1, 2)) + centered[..., 2:]
    turned = centered[..., :2] - along / (1 + sight[..., 2:]) * sight[..., :2]
    return np.concatenate([turned[..., 0], turned[..., 1]])
