"""One more output format after training: decoder rows for the joints of a new skeleton, from a few hundred poses.

Minimised, per joint and mirror image together, over rows w that sum to 1 (the decoder's part of the autoencoder's
objective, see `ace.objective`):

    mean |projected difference| / 1000 + l1 / 48 |w|

A projected difference is (x - u z) D / z for the point (x, y, z) = w latents, the label's x/z = u and the person's mean
depth D, and likewise for y. With z of the denominators held, this is a linear program, solved exactly; z hardly depends
on w, so that a second solution with the first one's z is the end. Labels are read on the image plane alone, so 2D labels
do, and labels in 3D may come from another estimate of depth than the known joints. Trusted depth would not help: on
generated poses, noise-free depth labels as a third coordinate change the error by less than 2 %.
"""

import dataclasses
import io
import json
import os
import pathlib

import numpy as np
from scipy.optimize import linprog

from ace.autoencoder import AffineAutoencoder
from ace.files import write_whole
from ace.objective import L1_NUM_LATENTS, MIN_DEPTH_SHARE
from ace.poses import evenly_spread
from ace.transfer_samples import checked_samples, pose_extents
from posepile.geometry.skeleton import Skeleton

CURVE_POSES = (25, 50, 100, 200)  # of the learning curve, and all
# Of these the best on held-out poses is taken. The paper's 0.6 makes rows convex, which costs accuracy where a joint
# lies outside of the latent points: generated poses come out 5.6 mm off the truth with 0.6 and 5.5 mm with 0.02.
L1_WEIGHTS = (0.6, 0.2, 0.06, 0.02)
NUM_ROUNDS = 2  # a third one moves weights by less than 1e-3
NUM_BLOCKS, HELD_OUT_BLOCKS = 20, 5  # blocks of consecutive poses: frames of one video stay together
ZERO_WEIGHT = 1e-7  # the solver's tolerance
SWAPPED_SIDE = -0.25  # left weights minus right weights of a left joint; 1: among the left points
FAR_BETTER = 0.5  # share of an error to which another reading of the labels has to bring it down, ...
FAR_BETTER_MM = 30.0  # ... and by how much
UNRELATED = 0.25  # held-out error in person sizes from which labels do not follow the known joints


@dataclasses.dataclass(frozen=True, eq=False)
class AddedSkeleton:
    """A new output format of an autoencoder's joint list.

    Attributes:
        skeleton: the new format, K joints.
        joint_names: of the J known joints.
        decoder: [K, L] float32, rows sum to 1; mirror images have equal weights to the last bit.
        weights: [K, J] float32, decoder x encoder: joints of the new format = weights x known joints.
        l1: factor of the mean absolute weights.
        learning_curve: [m, 3] number of poses, held-out error in 3D (nan for 2D labels), and on the image plane, mm.
        joint_errors: [K, 2] the last two by joint, of rows fitted to all poses but those held out, mm.
        warnings: what is suspicious about the labels.
    """

    skeleton: Skeleton
    joint_names: tuple[str, ...]
    decoder: np.ndarray
    weights: np.ndarray
    l1: float
    learning_curve: np.ndarray
    joint_errors: np.ndarray
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """A text report: the learning curve and the error of each joint."""
        lines = [f"{self.skeleton.name}: {self.skeleton.num_joints} joints from {len(self.joint_names)}, l1 {self.l1:g}",
                 f"\n{'held-out error, mm':25}{'3D':>8}{'image plane':>14}"]
        rows = [(f"{num:.0f} poses", errors) for num, *errors in self.learning_curve]
        rows += list(zip(self.skeleton.joint_names, self.joint_errors, strict=True))
        for k, (name, errors) in enumerate(rows):
            if k == len(self.learning_curve):
                lines.append("")
            texts = ["-" if np.isnan(error) else f"{error:.1f}" for error in errors]
            lines.append(f"{name:25}{texts[0]:>8}{texts[1]:>14}")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def save(self, path: str | os.PathLike) -> None:
        """Writes the .npz file that prediction reads; it appears under its name only when complete.

        Arrays: `weights` [K, J], `joint_names` [J], `skeleton` (JSON text), `decoder` [K, L], `l1`, `learning_curve`
        [m, 3], `joint_errors` [K, 2].
        """
        file = io.BytesIO()
        np.savez(file, weights=self.weights, joint_names=np.array(self.joint_names),
                 skeleton=json.dumps(self.skeleton.to_dict()), decoder=self.decoder, l1=self.l1,
                 learning_curve=self.learning_curve, joint_errors=self.joint_errors)
        write_whole(pathlib.Path(path), file.getvalue())


def fit_skeleton(autoencoder: AffineAutoencoder, skeleton: Skeleton, *, l1: float | None = None, seed: int = 1,
                 **arrays: np.ndarray) -> AddedSkeleton:
    """Fits the joints of a new skeleton to those of an autoencoder; the same arguments give the same weights.

    Args:
        skeleton: of the new joints; its mirror table ties the weights of both sides.
        l1: factor of the mean absolute weights; None: the best of `L1_WEIGHTS` on held-out poses.
        seed: which poses are held out.
        arrays: `joints3d` or `latents3d`, and `new_joints3d` or `new_joints2d` with `intrinsics`, as described in
            `ace.transfer_samples`; `joints3d_mask`.

    Raises: ValueError for arrays that do not fit, saying what to do.
    """
    if l1 is not None and not 0 <= l1 < np.inf:
        raise ValueError(f"l1 is {l1}; expected a finite number that is not negative")
    samples = checked_samples(autoencoder, skeleton, **arrays)
    mirrors = np.array(skeleton.mirror), autoencoder.latent_mirror
    rng = np.random.default_rng(seed)
    held_out = _held_out(len(samples.depth), rng)
    rest, test = samples.take(~held_out), samples.take(held_out)
    if l1 is None:
        inner = _held_out(len(rest.depth), rng)
        errors = [_mean(_errors(_fit_rows(rest.take(~inner), mirrors, candidate), rest.take(inner))[1])
                  for candidate in L1_WEIGHTS]
        l1 = L1_WEIGHTS[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]
    curve = []
    for number in [*(n for n in CURVE_POSES if n < len(rest.depth)), len(rest.depth)]:
        rows = _fit_rows(rest.take(evenly_spread(len(rest.depth), number)), mirrors, l1)
        errors = _errors(rows, test)
        curve.append((number, *(_mean(error) for error in errors)))
    joint_errors = np.array([[_mean(joint) for joint in error.T] for error in errors]).T
    _check_mirror_table(skeleton, mirrors, rest, test, joint_errors[:, 1], l1)
    decoder = _fit_rows(samples, mirrors, l1).astype(np.float32)
    weights = decoder.astype(np.float64) @ autoencoder.encoder
    weights = (weights + weights[mirrors[0]][:, list(autoencoder.skeleton.mirror)]) / 2  # rounding differs by side
    return AddedSkeleton(skeleton, autoencoder.joint_names, decoder, weights.astype(np.float32), l1, np.array(curve),
                         joint_errors, tuple(_suspicions(decoder, samples, skeleton, autoencoder, curve[-1][2])))


def _fit_rows(samples, mirrors, l1):
    """[K, L] float64; nan rows for joints without labels."""
    joint_mirror, latent_mirror = mirrors
    num_latents = len(latent_mirror)
    rows = np.full((len(joint_mirror), num_latents), np.nan)
    first = np.flatnonzero(latent_mirror >= np.arange(num_latents))
    symmetric = np.eye(num_latents)[first]
    symmetric[np.arange(len(first)), latent_mirror[first]] = 1
    for joint, image in enumerate(joint_mirror):
        if image < joint:
            rows[joint] = rows[image][latent_mirror]
        elif image == joint:
            rows[joint] = _fit_row(samples.latents, samples.rays[:, joint], samples.depth, symmetric, l1)
        else:
            rows[joint] = _fit_row(np.concatenate([samples.latents, samples.latents[:, latent_mirror]]),
                                   np.concatenate([samples.rays[:, joint], samples.rays[:, image]]),
                                   np.tile(samples.depth, 2), np.eye(num_latents), l1)
    return rows


def _fit_row(latents, rays, depth, basis, l1):
    """The best row of the form v basis.

    Args: latents: [n, L, 3]; rays: [n, 2]; depth: [n]; basis: [V, L], not negative.
    Returns: [L] float64; nan if there are no labels.
    """
    valid = np.isfinite(rays).all(axis=-1)
    if not valid.any():
        return np.full(basis.shape[1], np.nan)
    latents, rays, depth = np.swapaxes(latents[valid], 1, 2) @ basis.T, rays[valid], depth[valid] / 1000
    unscaled = latents[:, :2] - rays[..., None] * latents[:, 2:]  # [n, 2, V]
    multiples = basis.sum(axis=1)
    row, z = None, 1000 * depth
    for _ in range(NUM_ROUNDS):
        row = _least_absolute(np.concatenate(np.swapaxes(unscaled * (depth / z)[:, None, None], 0, 1)), multiples,
                              l1 / L1_NUM_LATENTS)
        z = np.maximum(latents[:, 2] @ row, MIN_DEPTH_SHARE * 1000 * depth)
    row = np.where(np.abs(row) > ZERO_WEIGHT, row, 0) @ basis
    return row / row.sum()


def _least_absolute(matrix, multiples, l1):
    """The v [V] that minimises mean |matrix v| + l1 multiples |v| where multiples v = 1.

    Solved as the dual linear program, which has few constraints: maximise m where |matrix^T y - m multiples| <= n l1
    multiples and |y| <= 1; v are the multipliers of the constraints.
    """
    n, num_weights = matrix.shape
    constraints = np.c_[matrix.T, -multiples[:, None]]
    result = linprog(np.r_[np.zeros(n), -1.0], A_ub=np.r_[constraints, -constraints],
                     b_ub=n * l1 * np.r_[multiples, multiples], bounds=[*[(-1, 1)] * n, (None, None)], method="highs-ds")
    if not result.success:
        raise ValueError(f"the linear program of a new joint has no solution: {result.message}. Check its labels.")
    multipliers = result.ineqlin.marginals
    return multipliers[:num_weights] - multipliers[num_weights:]


def _errors(rows, samples):
    """Distances in 3D and on the image plane at the person's mean depth, both [n, K] mm; nan where not defined.

    In 3D, labels are scaled to the fitted points' depth, which leaves their projection alone.
    """
    joints = rows @ samples.latents
    z = np.where(joints[..., 2:] > 0, joints[..., 2:], np.nan)
    image = np.linalg.norm(joints[..., :2] / z - samples.rays, axis=-1) * samples.depth[:, None]
    ratio = z[..., 0] / samples.label_depth
    scale = np.array([[_median(row)] for row in ratio])
    labels = np.concatenate([samples.rays, np.ones_like(z)], axis=-1) * (samples.label_depth * scale)[..., None]
    return np.linalg.norm(joints - labels, axis=-1), image


def _held_out(num, rng):
    """[num] bool: some blocks of consecutive poses."""
    return np.isin(np.arange(num) * NUM_BLOCKS // num, rng.permutation(NUM_BLOCKS)[:HELD_OUT_BLOCKS])


def _mean(values):
    """nan, without a warning, if all of them are nan."""
    values = values[np.isfinite(values)]
    return values.mean() if values.size else np.nan


def _median(values):
    values = values[np.isfinite(values)]
    return np.median(values) if values.size else np.nan


def _check_mirror_table(skeleton, mirrors, rest, test, errors, l1):
    """Raises ValueError if joints that should be their own mirror images follow one side of the body."""
    for joint in np.flatnonzero((mirrors[0] == np.arange(len(errors))) & (errors > FAR_BETTER_MM)):
        row = _fit_row(rest.latents, rest.rays[:, joint], rest.depth, np.eye(rest.latents.shape[1]), l1)
        free = _mean(_errors(np.where(np.arange(len(errors))[:, None] == joint, row, np.nan), test)[1][:, joint])
        if free < FAR_BETTER * errors[joint] and free < errors[joint] - FAR_BETTER_MM:
            raise ValueError(f"the joint {skeleton.joint_names[joint]} follows one side of the body, but has no mirror image "
                             f"in the skeleton {skeleton.name}: list it in mirror_pairs with the joint of the other side "
                             f"(held-out error {errors[joint]:.0f} mm on the centre line, {free:.0f} mm beside it)")


def _suspicions(decoder, samples, skeleton, autoencoder, error):
    """Yields texts about labels that look wrong."""
    left, names = np.array(skeleton.left, int), skeleton.joint_names
    right = np.array(skeleton.mirror)[left]
    num = autoencoder.num_left
    side = decoder[:, :num].sum(axis=1) - decoder[:, num:2 * num].sum(axis=1)
    if swapped := [f"{names[a]}/{names[b]}" for a, b in zip(left, right, strict=True) if side[a] < SWAPPED_SIDE]:
        yield (f"left and right look swapped: {', '.join(swapped)} follow the other side of the body. Left is the person's "
               "left, and mirror_pairs lists it first.")
    if len(left):
        exchanged = dataclasses.replace(samples, rays=samples.rays[:, list(skeleton.mirror)])
        errors = np.stack([_errors(decoder, labels)[1][:, np.r_[left, right]] for labels in (samples, exchanged)])
        errors = np.where(np.isfinite(errors).all(axis=0), errors, 0).sum(axis=-1) / (2 * len(left))
        poses = samples.index[(errors[1] < FAR_BETTER * errors[0]) & (errors[1] < errors[0] - FAR_BETTER_MM)]
        if len(poses):
            yield (f"in {len(poses)} of {len(samples.depth)} poses the labels fit far better with left and right swapped; "
                   f"correct them. The first ones: {', '.join(map(str, poses[:8]))}")
    size = np.median(pose_extents(samples.latents, np.ones(samples.latents.shape[:2], bool)))
    if error > UNRELATED * size:
        yield (f"the labels hardly follow the known joints: the error is {error:.0f} mm at a person size of {size:.0f} mm. Are "
               "both in the same order, of the same person, in the same camera?")
