"""Weight matrices of affine combinations: rows sum to 1, and both sides of the body share their weights.

Mirroring permutes joints and latent points: W[mirror[i], mirror[j]] = W[i, j]. In blocks of left, right and centre
points this reads left-left = right-right, left-right = right-left, and rows of the centre weigh both sides equally.
"""

import numpy as np

MIN_ROW_SUM = 0.25  # free weights are divided by their row sum; to rows with a smaller one all weights add equally


def latent_mirror(num_left: int, num_centre: int) -> np.ndarray:
    """[2 num_left + num_centre] int64: left points, then their mirror images, then the centre's, their own images."""
    left = np.arange(num_left)
    return np.concatenate([left + num_left, left, 2 * num_left + np.arange(num_centre)])


def tie_and_normalize(free: np.ndarray, row_mirror: np.ndarray, column_mirror: np.ndarray) -> np.ndarray:
    """Affine weights from free ones.

    Args:
        free: [rows, columns] float64, unconstrained.
        row_mirror, column_mirror: [rows], [columns] index of each point's mirror image.

    Returns: [rows, columns] float64; rows sum to 1, mirror images have equal weights to the last bit.
    """
    tied = (free + free[row_mirror][:, column_mirror]) / 2
    sums = _row_sums(tied)
    return (tied + np.maximum(MIN_ROW_SUM - sums, 0) / tied.shape[1]) / np.maximum(sums, MIN_ROW_SUM)


def free_gradient(gradient: np.ndarray, free: np.ndarray, row_mirror: np.ndarray,
                  column_mirror: np.ndarray) -> np.ndarray:
    """The gradient by the free weights, from that by the affine weights of `tie_and_normalize`; all [rows, columns]."""
    tied = (free + free[row_mirror][:, column_mirror]) / 2
    sums = _row_sums(tied)
    along_sum = np.where(sums > MIN_ROW_SUM, (gradient * tied).sum(axis=1, keepdims=True) / sums,
                         gradient.mean(axis=1, keepdims=True))
    gradient = (gradient - along_sum) / np.maximum(sums, MIN_ROW_SUM)
    return (gradient + gradient[row_mirror][:, column_mirror]) / 2


def prune_weights(weights: np.ndarray, threshold: float) -> np.ndarray:
    """Zeroes weights of magnitude < threshold, but for each row's largest, and scales rows to sum to 1.

    Returns: [rows, columns] float64.
    Raises: ValueError for a threshold below 0, or if what remains of a row does not sum to a positive number.
    """
    if not threshold >= 0:
        raise ValueError(f"the pruning threshold is {threshold}; expected a number of at least 0")
    magnitude = np.abs(np.asarray(weights, np.float64))
    keep = (magnitude >= threshold) | (magnitude == magnitude.max(axis=1, keepdims=True))
    kept = np.where(keep, weights, 0).astype(np.float64)
    sums = _row_sums(kept)
    if not (sums > 0).all():
        raise ValueError(f"pruning at {threshold} leaves no positive weight in row {int(np.argmin(sums))}; "
                         "use a lower threshold")
    return kept / sums


def _row_sums(weights):
    """[rows, 1]; sorted first, so that the sums of mirrored rows are equal to the last bit."""
    return np.sort(weights, axis=1).sum(axis=1, keepdims=True)
