"""Missing joints, estimated from the visible ones: poses are combinations of a few points, and these go with one another."""

import numpy as np

from ace.poses import center_poses

NOISE_VARIANCE = 100.0  # mm^2, of a visible joint around the combination
MIN_VARIANCE_SHARE = 1e-6  # of the mean one: points that always coincide have none
_CHUNK = 1000  # poses


def fill_missing(points: np.ndarray, mask: np.ndarray, basis: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Poses with their missing joints where the visible ones let expect them.

    Joints are basis x K points, plus noise. How the points go with one another is known, but not where they are together.
    Given the visible joints, the expected place of the points is a linear function of these, which moves with rotations,
    translations and scale.

    Args:
        points: [n, J, d] mm; mask: [n, J] bool, False for missing joints, whose coordinates are not read.
        basis: [J, K], for instance a decoder; rows sum to 1.
        precision: [K, K] 1 / mm^2, of the points relative to each other: its rows sum to 0.

    Returns: [n, J, d]; a pose without any visible joint is 0.
    """
    prior = NOISE_VARIANCE * precision + 1e-9 * np.eye(len(precision))  # the latter for poses without visible joints
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)
    filled = points.copy()
    incomplete = np.flatnonzero(~mask.all(axis=1))
    for start in range(0, len(incomplete), _CHUNK):
        chosen = incomplete[start:start + _CHUNK]
        center, centered = center_poses(points[chosen].astype(np.float64), mask[chosen])
        visible = mask[chosen].astype(np.float64)
        systems = (visible @ products).reshape(-1, *prior.shape) + prior
        expected = basis @ np.linalg.solve(systems, basis.T @ centered) + center
        filled[chosen] = np.where(mask[chosen][..., None], points[chosen], expected)
    return filled


def relative_precision(covariance: np.ndarray) -> np.ndarray:
    """[K, K] 1 / mm^2 from the covariance of points, mm^2: what it says of them relative to each other; rows sum to 0."""
    regular = covariance + max(MIN_VARIANCE_SHARE * np.trace(covariance) / len(covariance), 1e-6) * np.eye(len(covariance))
    precision = np.linalg.inv(regular)
    along = precision.sum(axis=1)
    return precision - np.outer(along, along) / along.sum()
