"""Fits the affine-combining autoencoder to poses; numpy and scipy only.

The published fit takes 450k batches of 32 from random weights. Here the second moments of the joints take the place of the
poses: a convex first guess, sweeps of `BlockDescent`, and then some hundred steps on the objective itself, which knows of
perspective and missing joints.
"""

import numpy as np
import tqdm
from threadpoolctl import threadpool_limits

from ace.affine_weights import latent_mirror, prune_weights, tie_and_normalize
from ace.autoencoder import AffineAutoencoder
from ace.block_descent import BlockDescent
from ace.first_guess import CRITERIA, guess_weights
from ace.moments import complete_poses, joint_moments
from ace.objective import L1_NUM_JOINTS, L1_NUM_LATENTS, FitData, make_fit_data, objective_and_gradients
from ace.poses import center_poses, evenly_spread
from posepile.geometry.skeleton import Skeleton

L1_WEIGHT = 0.6
MAX_SWEEPS = 200
RESTART_SWEEPS = 25  # after which the best of several first guesses is known
MAX_POSES = 20_000  # evenly spread over those given
ZERO_WEIGHT = 1e-5  # smaller weights become 0 after the sweeps and stay so
REFINING_RATES, REFINING_STEPS, REFINING_BATCH_SIZE = (1e-4, 1e-5), 300, 128  # of each rate
MIN_EXTENT_MM, MAX_EXTENT_MM = 20.0, 3000.0  # of a joint from the middle of its pose, the largest in all poses
NUM_HISTORY_POSES = 1000  # poses that the history's objective is taken of
HISTORY_INTERVAL = 5  # sweeps
LATENT_GROWTH = 0.35  # exponent: 24 points for the 77 joints of four formats, 48 for 555
ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-12


def default_num_latents(skeleton: Skeleton) -> int:
    """48 (J / 555)^0.35, even, at most J: 48 latent points for 555 joints, 24 for 77, 14 for 17.

    More formats mostly repeat the same body parts, so the number grows far slower than that of the joints. On noise-free
    poses of four formats, 24 points for 77 joints leave 5.3 mm of error, 40 points 3.0 mm.
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
    num_side, num_centre_joints = (num_latents - round(num_latents / 6)) // 2, skeleton.num_joints - 2 * len(skeleton.left)
    num_side = min(max(num_side, (num_latents - num_centre_joints) // 2), len(skeleton.left))
    return num_side, num_latents - 2 * num_side


def fit_autoencoder(poses: np.ndarray, skeleton: Skeleton, num_latents: int | None = None,
                    masks: np.ndarray | None = None, *, l1: float = L1_WEIGHT, joint_weights: np.ndarray | None = None,
                    sweeps: int = MAX_SWEEPS, restarts: int = len(CRITERIA), seed: int = 1,
                    progress: bool = True) -> AffineAutoencoder:
    """Fits encoder and decoder to poses in all formats; the same arguments give the same weights.

    Args:
        poses: [n, num_joints, 3] camera space, mm; every person in all formats, for instance predictions. Of more than
            20,000, so many are used, evenly spread.
        skeleton: the joint list; its mirror table ties the weights of both sides.
        num_latents: default: `default_num_latents`; split by `split_latents`.
        masks: [n, num_joints] bool, False for joints to leave out; default: those that are not nan.
        l1: factor of the mean absolute weights, see `ace.objective`.
        joint_weights: [num_joints] >= 0, of the joints in the reconstruction error; default: all alike. Joints of a pair
            get the mean of theirs.
        sweeps: of all weights, at most so many; fewer where the objective goes flat.
        restarts: first guesses, of which the best one after 25 sweeps goes on: one by each criterion of `guess_weights`,
            further ones at random.
        seed: of the further guesses, and of the order of the poses.

    Raises: ValueError for poses, masks or numbers that do not fit, naming the first wrong pose and joint.
    """
    poses, masks = _checked_poses(poses, masks, skeleton)
    if len(poses) > MAX_POSES:
        chosen = evenly_spread(len(poses), MAX_POSES)
        poses, masks = poses[chosen], None if masks is None else masks[chosen]
    num_side, num_centre = split_latents(default_num_latents(skeleton) if num_latents is None else num_latents,
                                         skeleton)
    if sweeps < 1 or restarts < 1 or not 0 <= l1 < np.inf:
        raise ValueError(f"sweeps ({sweeps}) and restarts ({restarts}) must be at least 1, l1 ({l1}) at least 0")
    joint_weights = _checked_joint_weights(joint_weights, skeleton)
    mirrors = (latent_mirror(num_side, num_centre), np.array(skeleton.mirror))
    rng = np.random.default_rng(seed)
    # Several threads take twice as long as one for matrices of this size, and round differently.
    with (threadpool_limits(1, "blas"),
          tqdm.tqdm(desc="autoencoder: moments", unit="sweep", disable=not progress, mininterval=1, dynamic_ncols=True) as bar):
        moments = joint_moments(poses, masks, mirrors[1])
        data = make_fit_data(poses if masks is None else complete_poses(poses, masks, moments), masks, joint_weights)
        sample = data.take(evenly_spread(len(poses), NUM_HISTORY_POSES))
        guesses = [(criterion, None) for criterion in CRITERIA] + [(c, rng) for _ in range(restarts) for c in CRITERIA]
        descents = [BlockDescent(*guess_weights(moments, mirrors[1], num_side, num_centre, *guess),
                                 moments, joint_weights, mirrors, l1) for guess in guesses[:restarts]]
        bar.set_description("autoencoder")
        histories = [_History(sample, mirrors, l1, bar) for _ in descents]

        def descend(descent, history, num_sweeps):
            while not descent.is_flat and len(descent.objectives) < num_sweeps:
                if len(descent.objectives) % HISTORY_INTERVAL == 0:
                    history.note(len(descent.objectives), (descent.encoder, descent.decoder))
                descent.sweep()
                bar.update()

        if restarts > 1:
            for descent, history in zip(descents, histories, strict=True):
                descend(descent, history, min(RESTART_SWEEPS, sweeps))
        best, history = min(zip(descents, histories, strict=True), key=lambda pair: pair[0].objectives[-1:])
        descend(best, history, sweeps)
        bar.set_description("autoencoder: refining")
        weights = [prune_weights(w, ZERO_WEIGHT) for w in (best.encoder, best.decoder)]
        weights = _refine(weights, data, mirrors, l1, rng, history, len(best.objectives))
    encoder, decoder = (tie_and_normalize(w, *m) for w, m in zip(weights, (mirrors, mirrors[::-1]), strict=True))
    order = _left_points_first(encoder, skeleton, num_side)
    encoder, decoder = encoder[order], decoder[:, order]
    return AffineAutoencoder(encoder, decoder, skeleton, num_side, num_side, num_centre, np.array(history.entries),
                             encoder @ moments @ encoder.T)


class _History:
    """The objective on some of the poses, in the course of a fit."""

    def __init__(self, sample, mirrors, l1, bar):
        self.entries = []
        self._sample, self._mirrors, self._l1, self._bar = sample, mirrors, l1, bar

    def note(self, number, weights):
        self.entries.append((number, objective_and_gradients(weights, self._sample, self._mirrors, self._l1)[0]))
        self._bar.set_postfix(objective=f"{self.entries[-1][1]:.5f}", refresh=False)
        return self.entries[-1][1]


def _refine(weights, data: FitData, mirrors, l1, rng, history, num_sweeps):
    """Adam on the objective itself, with what is 0 kept so. Returns: the weights, before or after, that are better."""
    best = history.note(num_sweeps, weights), [w.copy() for w in weights]
    kept = [w != 0 for w in weights]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    batches = _batches(len(data.centered), REFINING_BATCH_SIZE, rng)
    for number, rate in enumerate(REFINING_RATES):
        for step in range(1 + number * REFINING_STEPS, 1 + (number + 1) * REFINING_STEPS):
            _, gradients = objective_and_gradients(weights, data.take(next(batches)), mirrors, l1)
            for values, gradient, keep, (first, second) in zip(weights, gradients, kept, moments, strict=True):
                _adam_step(values, gradient * keep, first, second, step, rate)
        best = min(best, (history.note(num_sweeps + number + 1, weights), [w.copy() for w in weights]), key=lambda b: b[0])
    return best[1]


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


def _checked_joint_weights(joint_weights, skeleton):
    """[num_joints] float64, equal for both joints of a pair."""
    if joint_weights is None:
        return np.ones(skeleton.num_joints)
    joint_weights = np.asarray(joint_weights, np.float64)
    if joint_weights.shape != (skeleton.num_joints,):
        raise ValueError(f"joint_weights has shape {list(joint_weights.shape)}; expected [{skeleton.num_joints}], one weight "
                         f"per joint of {skeleton.name}")
    if not (np.isfinite(joint_weights).all() and joint_weights.min() >= 0 and joint_weights.any()):
        raise ValueError("joint_weights must be finite and at least 0, and not all 0")
    return (joint_weights + joint_weights[list(skeleton.mirror)]) / 2


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


def _checked_poses(poses, masks, skeleton):
    """Poses as floats, and masks or None where all joints are valid."""
    poses = np.asarray(poses)
    if poses.ndim != 3 or poses.shape[1:] != (skeleton.num_joints, 3) or not len(poses):
        raise ValueError(f"poses have shape {list(poses.shape)}; expected [n, {skeleton.num_joints}, 3]: at least one "
                         f"pose with the {skeleton.num_joints} joints of {skeleton.name}")
    if poses.dtype.kind not in "fiu":
        raise ValueError(f"poses have dtype {poses.dtype}; expected real numbers")
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
    extents = np.abs(center_poses(poses, masks)[1]).max(axis=-1)
    if extents.max() > MAX_EXTENT_MM:
        pose, joint = np.unravel_index(extents.argmax(), extents.shape)
        raise ValueError(f"poses[{pose}]: the joint {skeleton.joint_names[joint]} is {extents.max():.0f} mm from the middle of "
                         f"its pose ({(extents > MAX_EXTENT_MM).sum()} joints in all are farther than {MAX_EXTENT_MM:.0f} mm). "
                         "One such joint outweighs hundreds of poses: leave it out, or set its mask to False.")
    if 0 < extents.max() < MIN_EXTENT_MM:
        raise ValueError(f"no joint is farther than {extents.max():.2g} mm from the middle of its pose: the poses look like "
                         "metres; multiply them by 1000")
    if masks.all():
        return poses, None
    together = masks.T.astype(np.float32) @ masks.astype(np.float32)
    if len(apart := np.argwhere(together == 0)):
        first, second = (skeleton.joint_names[j] for j in apart[0])
        raise ValueError(f"no pose has both {first} and {second} ({len(apart) // 2} such pairs of joints): how they lie to "
                         "each other cannot be learned. Predict the missing ones with a model that knows all formats.")
    return poses, masks
