"""Fits the affine-combining autoencoder to poses: a convex first guess, then minibatch Adam; numpy only.

The published fit takes 450k batches of 32 from random weights, with learning rates of 3e-2, 3e-3 and 3e-4. From a first
guess that links latent points to the joints around them, some thousand steps at smaller rates do.
"""

import numpy as np
import tqdm

from ace.affine_weights import latent_mirror, tie_and_normalize
from ace.autoencoder import AffineAutoencoder, center_poses
from ace.objective import L1_NUM_JOINTS, L1_NUM_LATENTS, FitData, make_fit_data, objective_and_gradients
from posepile.geometry.skeleton import Skeleton

L1_WEIGHT = 0.6
BATCH_SIZE = 32  # with 77 joints, products small enough for one thread: faster than what several make of larger ones
LEARNING_RATES = (1e-3, 1e-4, 1e-5)  # each for a third of the steps at most
LATENT_GROWTH = 0.35  # exponent: 24 points for the 77 joints of four formats, 48 for 555
INITIAL_SPREAD_MM = 100.0  # how far the first guess of a latent point reaches for joints
INITIAL_SAMPLE = 200  # poses that the first guess looks at
FLAT_INTERVAL = 200  # steps over which the objective is averaged
FLAT_IMPROVEMENT = 1e-3  # relative; an average must beat the best one by so much
FLAT_PATIENCE = 3  # averages in a row that fail to, before a learning rate has done its work
ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-12


def default_num_latents(skeleton: Skeleton) -> int:
    """48 (J / 555)^0.35, even, at most J: 48 latent points for 555 joints, 24 for 77, 14 for 17.

    More formats mostly repeat the same body parts, so the number grows far slower than that of the joints. On poses of
    four formats, 24 points for 77 joints leave 7 mm of error and a third of the formats' disagreement in depth; 40
    points leave 3 mm and half of it.
    """
    number = 2 * round(L1_NUM_LATENTS / 2 * (skeleton.num_joints / L1_NUM_JOINTS) ** LATENT_GROWTH)
    return min(max(number, 1), skeleton.num_joints)


def split_latents(num_latents: int, skeleton: Skeleton) -> tuple[int, int]:
    """How many latent points lie on each side and how many on the centre line: about a sixth there, as 8 of 48.

    Returns: num_left (= num_right), num_centre.
    Raises: ValueError if there are more latent points than joints, or none.
    """
    if not 1 <= num_latents <= skeleton.num_joints:
        raise ValueError(f"num_latents is {num_latents}; expected 1 to {skeleton.num_joints}, the number of joints of "
                         f"{skeleton.name}. The default is {default_num_latents(skeleton)}.")
    num_side = min((num_latents - round(num_latents / 6)) // 2, len(skeleton.left))
    return num_side, num_latents - 2 * num_side


def fit_autoencoder(poses: np.ndarray, skeleton: Skeleton, num_latents: int | None = None,
                    masks: np.ndarray | None = None, *, l1: float = L1_WEIGHT, steps: int = 9000,
                    batch_size: int = BATCH_SIZE, learning_rates: tuple[float, ...] = LEARNING_RATES, seed: int = 1,
                    progress: bool = True) -> AffineAutoencoder:
    """Fits encoder and decoder to poses in all formats; the same arguments give the same weights.

    Args:
        poses: [n, num_joints, 3] camera space, mm; every person in all formats, for instance predictions.
        skeleton: the joint list; its mirror table ties the weights of both sides.
        num_latents: default: `default_num_latents`; split by `split_latents`.
        masks: [n, num_joints] bool, False for joints to leave out; default: those that are not nan.
        l1: factor of the mean absolute weights, see `ace.objective`.
        steps: at most so many; fewer where the objective goes flat.

    Raises: ValueError for poses, masks or numbers that do not fit, naming the first wrong pose and joint.
    """
    poses, masks = _checked_poses(poses, masks, skeleton)
    num_side, num_centre = split_latents(default_num_latents(skeleton) if num_latents is None else num_latents,
                                         skeleton)
    if steps < 1 or batch_size < 1 or not learning_rates or not l1 >= 0:
        raise ValueError(f"steps ({steps}) and batch_size ({batch_size}) must be at least 1, l1 ({l1}) at least 0, and "
                         f"learning_rates ({learning_rates}) not empty")
    mirrors = (latent_mirror(num_side, num_centre), np.array(skeleton.mirror))
    free = initial_weights(poses, masks, skeleton, num_side, num_centre)
    data = make_fit_data(poses, masks)
    history = _minimize(free, data, mirrors, l1, steps, batch_size, learning_rates, seed, progress)
    encoder, decoder = tie_and_normalize(free[0], *mirrors), tie_and_normalize(free[1], *mirrors[::-1])
    order = _left_points_first(encoder, skeleton, num_side)
    return AffineAutoencoder(encoder[order], decoder[:, order], skeleton, num_side, num_side, num_centre, history)


def initial_weights(poses: np.ndarray, masks: np.ndarray | None, skeleton: Skeleton, num_side: int,
                    num_centre: int) -> list[np.ndarray]:
    """Convex first guess: latent points at joints far from each other, linked to the joints around them.

    Candidates for the sides are the left joints and their mirror images; for the centre the centre joints or, where
    they are too few, also the midpoints of mirror pairs. The next one chosen is the one farthest from those before.

    Returns: encoder [L, J] and decoder [J, L], float64.
    """
    chosen = np.linspace(0, len(poses) - 1, min(len(poses), INITIAL_SAMPLE)).astype(int)
    mask = np.ones((len(chosen), skeleton.num_joints), bool) if masks is None else masks[chosen]
    center, centered = center_poses(poses[chosen], mask)
    joints = (centered + center).transpose(1, 0, 2)  # a missing joint stands at the mean of its pose
    mirror, left = np.array(skeleton.mirror), np.array(skeleton.left, int)
    midline = joints[mirror == np.arange(len(mirror))]
    if len(midline) < num_centre:
        midline = np.concatenate([midline, (joints[left] + joints[mirror[left]]) / 2])
    on_left = left[_farthest_first(joints[left], num_side)]
    points = np.concatenate([joints[on_left], joints[mirror[on_left]], midline[_farthest_first(midline, num_centre)]])
    distance = _mean_distances(points, joints)
    latents = latent_mirror(num_side, num_centre)
    distance = (distance + distance[latents][:, mirror]) / 2
    nearness = np.exp(-np.square(distance / INITIAL_SPREAD_MM) / 2) + 1e-4 / len(mirror)
    return [nearness / nearness.sum(axis=1, keepdims=True), nearness.T / nearness.sum(axis=0)[:, None]]


def _minimize(free, data: FitData, mirrors, l1, steps, batch_size, learning_rates, seed, progress):
    """Adam on `free`, in place. Returns: [k, 2] float64, step and mean objective since the entry before."""
    batches = _batches(len(data.centered), batch_size, np.random.default_rng(seed))
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in free]
    history, step = [], 0
    with tqdm.tqdm(total=steps, desc="autoencoder", unit="step", disable=not progress, mininterval=1.0) as bar:
        for stage, rate in enumerate(learning_rates, 1):
            best, failures, stage_end = np.inf, 0, steps * stage // len(learning_rates)
            stage_end = step + stage_end - steps * (stage - 1) // len(learning_rates)
            while step < stage_end and failures < FLAT_PATIENCE:
                interval = min(FLAT_INTERVAL, stage_end - step)
                objective = 0.0
                for _ in range(interval):
                    step += 1
                    value, gradients = objective_and_gradients(free, data.take(next(batches)), mirrors, l1)
                    objective += value / interval
                    for weights, gradient, (first, second) in zip(free, gradients, moments, strict=True):
                        _adam_step(weights, gradient, first, second, step, rate)
                history.append((step, objective))
                failures = 0 if objective < best * (1 - FLAT_IMPROVEMENT) else failures + 1
                best = min(best, objective)
                bar.set_postfix(objective=f"{objective:.5f}", rate=rate, refresh=False)
                bar.update(interval)
            bar.total -= stage_end - step  # what this rate did not need
        bar.refresh()
    return np.array(history)


def _batches(num, batch_size, rng):
    """Endless index arrays [min(batch_size, num)], epoch by epoch in random order; a rest is left out."""
    batch_size = min(batch_size, num)
    while True:
        order = rng.permutation(num)
        for start in range(0, num - batch_size + 1, batch_size):
            yield order[start:start + batch_size]


def _adam_step(weights, gradient, first, second, step, rate):
    first += (1 - ADAM_BETA1) * (gradient - first)
    second += (1 - ADAM_BETA2) * (gradient * gradient - second)
    scale = rate / (1 - ADAM_BETA1**step)
    weights -= scale * first / (np.sqrt(second / (1 - ADAM_BETA2**step)) + ADAM_EPSILON)


def _left_points_first(encoder, skeleton, num_side):
    """[L] order of the latent points that puts, of each mirror pair, the one with more weight on left joints first."""
    left = np.array(skeleton.left, int)
    right = np.array(skeleton.mirror)[left]
    magnitude = np.abs(encoder[:num_side])
    swap = magnitude[:, right].sum(axis=1) > magnitude[:, left].sum(axis=1)
    order = np.arange(len(encoder))
    order[:num_side] += num_side * swap
    order[num_side:2 * num_side] -= num_side * swap
    return order


def _mean_distances(points, others):
    """[a, n, 3] and [b, n, 3] in n poses -> [a, b] mean distances."""
    return np.stack([np.linalg.norm(others - p, axis=-1).mean(axis=1) for p in points])


def _farthest_first(points, number):
    """Indices of `number` of the points [k, n, 3] that lie far apart; they repeat if there are too few points."""
    if number == 0:
        return np.zeros(0, int)
    distances = _mean_distances(points, points)
    chosen = [int(distances.sum(axis=1).argmax())]
    while len(chosen) < number:
        chosen.append(int(distances[chosen].min(axis=0).argmax()))
    return np.array(chosen)


def _checked_poses(poses, masks, skeleton):
    """Poses as floats, and masks or None where all joints are valid."""
    poses = np.asarray(poses)
    if poses.ndim != 3 or poses.shape[1:] != (skeleton.num_joints, 3) or not len(poses):
        raise ValueError(f"poses have shape {list(poses.shape)}; expected [n, {skeleton.num_joints}, 3]: at least one "
                         f"pose with the {skeleton.num_joints} joints of {skeleton.name}")
    poses = poses.astype(np.float32 if poses.dtype == np.float32 else np.float64, copy=False)
    masks = ~np.isnan(poses).any(axis=-1) if masks is None else np.asarray(masks)
    if masks.shape != poses.shape[:2] or masks.dtype != bool:
        raise ValueError(f"masks have shape {list(masks.shape)} and dtype {masks.dtype}; expected bool "
                         f"{list(poses.shape[:2])}, one value per joint")
    if len(bad := np.argwhere(masks & ~np.isfinite(poses).all(axis=-1))):
        pose, joint = bad[0]
        raise ValueError(f"poses[{pose}]: the joint {skeleton.joint_names[joint]} is not finite, though its mask is "
                         f"True ({len(bad)} such joints in all). Set the mask to False where there is no joint.")
    if len(bad := np.argwhere(masks & (poses[..., 2] <= 0))):
        pose, joint = bad[0]
        raise ValueError(f"poses[{pose}]: the joint {skeleton.joint_names[joint]} is behind the camera, z = "
                         f"{poses[pose, joint, 2]:.1f} mm ({len(bad)} such joints in all). Poses must be in camera "
                         "space; leave out implausible ones, or set the masks of such joints to False.")
    if not masks.any(axis=1).all():
        raise ValueError(f"poses[{int(np.argmin(masks.any(axis=1)))}] has no valid joint; leave it out")
    if len(never := np.flatnonzero(~masks.any(axis=0))):
        raise ValueError(f"{len(never)} joints are valid in no pose, so there is nothing to fit them to: "
                         + ", ".join(skeleton.joint_names[j] for j in never[:8]))
    return poses, None if masks.all() else masks
