"""Poses of one body in as many joints as 28 formats have together, with a known truth: for benchmarks of the autoencoder.

60 true points are moved by a 3D kinematic body of 15 rigid segments: 4 points on every limb's segment, 26 on each side and 8
on the centre line. A joint is a convex combination of 1 to 4 of them, the first one drawn at random and the others among its
nearest; joints of the right mirror those of the left. What is observed is a network's prediction: 20 mm of noise in depth,
along the line of sight, and 3 mm of noise in every coordinate, both of them independent for every joint.
"""

import numpy as np

from benchmarks.kinematic_poses import kinematic_poses, noisy
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

DEPTH_NOISE_MM, IMAGE_NOISE_MM = 20.0, 3.0
NUM_NEAR = 8  # points that may be combined, the first one included
_CHUNK = 10_000  # poses
# segment, place in its frame, mm: of the left side
SIDE_POINTS = [
    ("thigh", (0, 0, 0)), ("thigh", (10, -120, 60)), ("thigh", (60, -220, 0)), ("thigh", (0, -300, -50)),
    ("shank", (0, 0, 0)), ("shank", (0, -60, 45)), ("shank", (15, -150, -55)), ("shank", (-25, -280, 10)),
    ("foot", (0, 0, 0)), ("foot", (0, -50, -60)), ("foot", (35, -65, 110)), ("foot", (5, -70, 190)),
    ("arm", (0, 0, 0)), ("arm", (40, -60, 0)), ("arm", (0, -150, 40)), ("arm", (0, -220, -40)),
    ("forearm", (0, 0, 0)), ("forearm", (20, -70, -25)), ("forearm", (-20, -140, 20)), ("forearm", (0, -210, 10)),
    ("hand", (0, 0, 0)), ("hand", (-30, -80, 0)), ("hand", (20, -90, 15)), ("hand", (0, -170, 0)),
    ("torso", (110, 340, 40)), ("head", (70, 115, 20))]
CENTRE_POINTS = [
    ("pelvis", (0, 0, 0)), ("pelvis", (0, 30, -100)), ("torso", (0, 60, 90)), ("torso", (0, 200, -90)),
    ("torso", (0, 330, 100)), ("torso", (0, 420, -20)), ("head", (0, 100, 110)), ("head", (0, 240, 0))]
NUM_SIDE_POINTS, NUM_POINTS = len(SIDE_POINTS), 2 * len(SIDE_POINTS) + len(CENTRE_POINTS)


def true_landmarks() -> list[tuple[str, np.ndarray]]:
    """The 60 points, as `kinematic_poses` takes them: left, right, centre."""
    sides = [(segment if segment in ("torso", "head") else side + segment, np.array(place) * [sign, 1.0, 1.0])
             for side, sign in (("left_", 1), ("right_", -1)) for segment, place in SIDE_POINTS]
    return sides + [(segment, np.array(place, float)) for segment, place in CENTRE_POINTS]


def joint_combinations(rng: np.random.Generator, num_side: int, num_centre: int) -> np.ndarray:
    """[2 num_side + num_centre, 60] convex weights of the points: joints of the left, of the right, of the centre."""
    rest = kinematic_poses(np.random.default_rng(0), 200, true_landmarks())
    distances = np.stack([np.linalg.norm(rest - rest[:, k:k + 1], axis=-1).mean(axis=0) for k in range(NUM_POINTS)])
    left, centre = np.arange(NUM_SIDE_POINTS), np.arange(2 * NUM_SIDE_POINTS, NUM_POINTS)
    mirror = np.concatenate([left + NUM_SIDE_POINTS, left, centre])
    weights = np.zeros((2 * num_side + num_centre, NUM_POINTS))
    for joint in range(num_side):
        points = _first_and_near(rng, rng.choice(left), np.concatenate([left, centre]), distances)
        weights[joint, points] = rng.dirichlet(np.ones(len(points)))
    weights[num_side:2 * num_side] = weights[:num_side, mirror]
    for joint in range(2 * num_side, len(weights)):
        if rng.random() < 0.5:
            points = _first_and_near(rng, rng.choice(centre), centre, distances)
            weights[joint, points] = rng.dirichlet(np.ones(len(points)))
        else:  # between both points of a pair, or between them and a centre point
            point, share = rng.choice(left), rng.choice([1.0, rng.uniform(0.2, 1)])
            weights[joint, [point, mirror[point]]] = share / 2
            weights[joint, rng.choice(centre)] += 1 - share
    return weights


def made_up_skeleton(name: str, num_side: int, num_centre: int) -> Skeleton:
    """With joints in the order of `joint_combinations`."""
    left, right = ([f"{side}_{name}_{i}" for i in range(num_side)] for side in ("left", "right"))
    return skeleton_from_dict({"name": name, "joints": [*left, *right, *(f"{name}_{i}" for i in range(num_centre))],
                               "mirror_pairs": [list(pair) for pair in zip(left, right, strict=True)]})


def true_and_observed(rng: np.random.Generator, num_poses: int, combinations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[num_poses, joints, 3] float32 mm, camera space: without noise and with it."""
    truth = np.empty((num_poses, len(combinations), 3), np.float32)
    observed = np.empty_like(truth)
    for start in range(0, num_poses, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, num_poses))
        truth[chunk] = combinations @ kinematic_poses(rng, chunk.stop - start, true_landmarks())
        observed[chunk] = noisy(truth[chunk], rng, DEPTH_NOISE_MM, IMAGE_NOISE_MM)
    return truth, observed


def _first_and_near(rng, first, allowed, distances):
    """1 to 4 points: the first one, and others of its nearest among those allowed."""
    near = allowed[np.argsort(distances[first][allowed])[1:NUM_NEAR]]
    return np.concatenate([[first], rng.permutation(near)[:rng.integers(0, 4)]])
