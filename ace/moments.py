"""Second moments of poses on the image plane: all that a squared objective of affine combinations sees of them."""

import numpy as np

from ace.missing_joints import fill_missing
from ace.poses import center_poses, evenly_spread

_CHUNK = 4096  # poses
_MIN_VARIANCE_SHARE = 1e-9  # of the largest variance: by rounding there are negative ones
_MIN_VARIANCE = 1e-2  # mm^2, of a component
COMPLETION_ROUNDS = 8
MAX_COMPLETED_POSES = 10_000  # that the moments of incomplete poses are taken of
NUM_COMPONENTS = 64  # principal components that incomplete poses are completed with


def joint_moments(poses: np.ndarray, masks: np.ndarray | None, mirror: np.ndarray) -> np.ndarray:
    """Second moments of the joints across the line of sight to the person, mirror images counted alike.

    A camera turned towards the middle of the person sees x and y nearly as its image shows them, and errors in depth move
    joints along its axis. Missing joints are estimated from the moments themselves, in turn with these: expectation and
    maximisation, after a start by the distances of the joints that a pose has.

    Args:
        poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool or None. Every two joints occur together.
        mirror: [num_joints] index of each joint's mirror image.

    Returns: [num_joints, num_joints] float64 mm^2, relative to the mean of the joints, positive definite unless all is 0.
    """
    if masks is None:
        return _symmetric(_moments(poses), mirror)
    if len(poses) > MAX_COMPLETED_POSES:
        chosen = evenly_spread(len(poses), MAX_COMPLETED_POSES)
        poses, masks = poses[chosen], masks[chosen]
    moments = _symmetric(_moments_by_distances(poses, masks), mirror)
    missing = np.diag((~masks).mean(axis=0))
    for _ in range(COMPLETION_ROUNDS):
        unexplained = np.linalg.eigvalsh(moments)[:-NUM_COMPONENTS]
        moments = _moments(complete_poses(poses, masks, moments)) + missing * (unexplained.mean() if len(unexplained) else 0)
        moments = _symmetric(moments, mirror)
    return moments


def complete_poses(poses: np.ndarray, masks: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """[n, num_joints, 3] poses with missing joints where the visible ones and the moments of all let expect them."""
    variances, axes = np.linalg.eigh(moments)
    axes, precisions = axes[:, -NUM_COMPONENTS:], 1 / np.maximum(variances[-NUM_COMPONENTS:], _MIN_VARIANCE)
    # The mean of the joints is one point, and every component, added to it, another one.
    basis = np.concatenate([1 - axes.sum(axis=1, keepdims=True), axes], axis=1)
    precision = np.diag(np.concatenate([[precisions.sum()], precisions]))
    precision[0, 1:] = precision[1:, 0] = -precisions
    return fill_missing(poses, masks, basis, precision)


def _moments(poses):
    products = np.zeros((poses.shape[1],) * 2)
    for start in range(0, len(poses), _CHUNK):
        points = _across_line_of_sight(poses[start:start + _CHUNK], None)
        products += points.T @ points
    return products / (2 * len(poses))


def _moments_by_distances(poses, masks):
    """From the mean squared distances of every two joints in the poses that have both (classical multidimensional scaling)."""
    products = np.zeros((poses.shape[1],) * 2)
    squares, counts = np.zeros_like(products), np.zeros_like(products)
    for start in range(0, len(poses), _CHUNK):
        mask = masks[start:start + _CHUNK]
        points = _across_line_of_sight(poses[start:start + _CHUNK], mask)
        twice = np.concatenate([mask, mask]).astype(points.dtype)
        products += points.T @ points
        squares += np.square(points).T @ twice
        counts += twice.T @ twice
    distances = (squares + squares.T - 2 * products) / np.maximum(counts, 1)
    return -np.where(counts > 0, distances, distances[counts > 0].mean()) / 2


def _symmetric(moments, mirror):
    """Relative to the mean of the joints, equal for mirror images, and positive."""
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
