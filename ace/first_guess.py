"""Where a fit starts: latent points at joints that span the others, as the corners of a convex hull do."""

import numpy as np

HULL_STEPS, FINAL_HULL_STEPS = 60, 300  # accelerated gradient steps after each corner, and after the last one
RESTART_SHARE = 0.7  # of the largest distance from the hull: beyond it a guess with `rng` picks its corners


def guess_weights(moments: np.ndarray, mirror: np.ndarray, num_side: int, num_centre: int,
                  rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Convex weights. Corners are added one by one, each at the joint farthest from the convex hull of those before it.

    Candidates for the sides are the joints of one side, each with its mirror image; for the centre, the centre joints or,
    where they are too few, also the midpoints of mirror pairs. Where even they are too few, corners repeat.

    Args:
        moments: [J, J] second moments of the joints, equal for mirror images.
        mirror: [J] index of each joint's mirror image.
        rng: picks at random among the joints far from the hull, for another guess; None: always the farthest one.

    Returns: encoder [num_side left, num_side right, num_centre; J] and decoder [J, latent points], float64.
    """
    identity = np.eye(len(mirror))
    left, centre = np.flatnonzero(mirror > np.arange(len(mirror))), np.flatnonzero(mirror == np.arange(len(mirror)))
    midpoints = (identity[left] + identity[mirror[left]]) / 2 if len(centre) < num_centre else identity[:0]
    candidates = np.concatenate([identity[left], identity[centre], midpoints])
    on_side = np.arange(len(candidates)) < len(left)
    picked = []
    corners, weights = identity[:0], np.zeros((len(mirror), 0))
    for _ in range(num_side + num_centre):
        distances = _distances_from_hull(candidates, corners, weights, moments)
        distances[picked] = -1
        for group, size in ((on_side, num_side), (~on_side, num_centre)):
            if group[picked].sum() == size:
                distances[group] = -2
        picked.append(int(distances.argmax()) if rng is None
                      else int(rng.choice(np.flatnonzero(distances >= RESTART_SHARE * distances.max()))))
        corner = candidates[picked[-1]]
        corners = np.concatenate([corners, [corner, corner[mirror]] if on_side[picked[-1]] else [corner]])
        added = np.full((len(mirror), len(corners) - weights.shape[1]), 0.0 if weights.size else 1 / len(corners))
        weights = _hull_weights(np.concatenate([weights, added], axis=1), corners, moments, HULL_STEPS)
    sides, middle = candidates[[c for c in picked if on_side[c]]], candidates[[c for c in picked if not on_side[c]]]
    encoder = np.concatenate([sides, sides[:, mirror], middle])
    start = np.full((len(mirror), len(encoder)), 1 / len(encoder))
    return encoder, _hull_weights(start, encoder, moments, FINAL_HULL_STEPS)


def _distances_from_hull(points, corners, weights, moments):
    """[n] mm, for points [n, J] given as weights of joints, and each joint's weights of the corners."""
    difference = points - points @ weights @ corners
    return np.sqrt(np.maximum(((difference @ moments) * difference).sum(axis=1), 0))


def _hull_weights(weights, corners, moments, num_steps):
    """[J, n] convex weights that bring n corners close to every joint: Nesterov's accelerated projected gradient."""
    gram, products = corners @ moments @ corners.T, moments @ corners.T
    rate = 1 / max(np.linalg.eigvalsh(gram)[-1], 1e-12)
    ahead, momentum = weights, 1.0
    for _ in range(num_steps):
        before, weights = weights, _project_to_simplex(ahead - rate * (ahead @ gram - products))
        momentum, last = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = weights + (last - 1) / momentum * (weights - before)
    return weights


def _project_to_simplex(points):
    """The nearest rows of weights >= 0 that sum to 1 (Held, Wolfe and Crowder 1974)."""
    descending = -np.sort(-points, axis=1)
    excess = (np.cumsum(descending, axis=1) - 1) / np.arange(1, points.shape[1] + 1)
    last = (descending > excess).sum(axis=1) - 1
    return np.maximum(points - excess[np.arange(len(points)), last][:, None], 0)
