"""Where a fit starts: latent points at joints that span the others, as the corners of a convex hull do."""

import numpy as np

HULL_STEPS, FINAL_HULL_STEPS = 60, 300  # accelerated gradient steps after each corner, and after the last one
_MIN_SQUARED_MM = 1e-12
RESTART_SHARE = 0.7  # of the best score: beyond it a guess with `rng` picks its corners


def guess_weights(moments: np.ndarray, mirror: np.ndarray, num_side: int, num_centre: int, criterion: str = "distance",
                  rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Convex weights. Corners are added one by one, by one of two criteria; which one is better depends on the joints.

    * distance: the joint farthest from the convex hull of the corners before it. Finds all extremes of dense joint lists.
    * gain: the joint that would bring the hull closest to all joints. Passes over extremes of little use.

    Candidates for the sides are the joints of one side, each with its mirror image; for the centre, the centre joints or,
    where they are too few, also the midpoints of mirror pairs. Where even they are too few, corners repeat.

    Args:
        moments: [J, J] second moments of the joints, equal for mirror images.
        mirror: [J] index of each joint's mirror image.
        rng: picks at random among the joints that score well, for another guess; None: always the best one.

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
        scores = CRITERIA[criterion](candidates, corners, weights, moments)
        scores[picked] = -1
        for group, size in ((on_side, num_side), (~on_side, num_centre)):
            if group[picked].sum() == size:
                scores[group] = -2
        picked.append(int(scores.argmax()) if rng is None
                      else int(rng.choice(np.flatnonzero(scores >= RESTART_SHARE * scores.max()))))
        corner = candidates[picked[-1]]
        corners = np.concatenate([corners, [corner, corner[mirror]] if on_side[picked[-1]] else [corner]])
        added = np.full((len(mirror), len(corners) - weights.shape[1]), 0.0 if weights.size else 1 / len(corners))
        weights = _hull_weights(np.concatenate([weights, added], axis=1), corners, moments, HULL_STEPS)
    sides, middle = candidates[[c for c in picked if on_side[c]]], candidates[[c for c in picked if not on_side[c]]]
    encoder = np.concatenate([sides, sides[:, mirror], middle])
    start = np.full((len(mirror), len(encoder)), 1 / len(encoder))
    return encoder, _hull_weights(start, encoder, moments, FINAL_HULL_STEPS)


def _distances_from_hull(candidates, corners, weights, moments):
    """[n] mm, for candidates [n, J] as weights of joints, and each joint's weights of the corners."""
    off_hull = candidates - candidates @ weights @ corners
    return np.sqrt(np.maximum(((off_hull @ moments) * off_hull).sum(axis=1), 0))


def _gains(candidates, corners, weights, moments):
    """[n] mm^2: by how much candidates would lower the squared distances of all joints from the hull of the corners.

    Estimated as in matching pursuit: every joint moves from its place in the hull along the candidate's distance from
    the hull, by a share of 0 to 1.
    """
    residuals = np.eye(len(moments)) - weights @ corners
    off_hull = candidates @ residuals
    common = off_hull @ moments @ residuals.T
    squared = np.maximum(((off_hull @ moments) * off_hull).sum(axis=1), _MIN_SQUARED_MM)[:, None]
    shares = np.clip(common / squared, 0, 1)
    return (shares * (2 * common - shares * squared)).sum(axis=1)


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


CRITERIA = {"distance": _distances_from_hull, "gain": _gains}
