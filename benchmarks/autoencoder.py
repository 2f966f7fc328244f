"""The fit of the affine-combining autoencoder on poses with a known truth; with --json as one JSON line.

    python -m benchmarks.autoencoder [--json] [--poses=100000] [--yardstick-steps=450000]

555 joints (240 left, 240 right, 75 centre) of `benchmarks.generated_formats`, 48 latent points; errors on 5000 other poses.

    time_ratio              seconds of the fit to those of the yardstick; null unless the fit's objective is at least as low
    seconds                 of the fit, from poses in memory to weights
    reconstruction_ratio    error of the reconstruction on the image plane, scaled to the person's mean depth, to that of the
                            best affine reconstruction through 48 points without any l1 (least squares on the image plane)
    share_nonzero           share of the weights of both matrices with a magnitude above 1e-3
    negative_weight         |sum of the negative weights| of a row, mean over the rows of both matrices
    depth_noise_ratio       error in depth against the truth without noise, root mean square, to the noise of 20 mm
    new_skeleton_error_mm   distance from the truth without noise of the 30 joints of a new skeleton, added with 300 poses

The yardstick is the published fit as plain Keras: random weights, batches of 32, Adam at 3e-2, 3e-3 and 3e-4 for a third of
450,000 steps each, `Model.fit`, compiled with XLA. It takes some 20 minutes on two cores; 0 steps leave it out.

Also given: the objective of both on the same poses (`objective`, `yardstick_objective`), the yardstick's seconds, the error on
the image plane in mm (`image_error_mm`), the ratio against the truth instead of what was observed
(`reconstruction_ratio_to_truth`), and negative weights and nonzero shares of each matrix.
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

from ace.fitting import L1_WEIGHT, fit_autoencoder
from ace.objective import make_fit_data, objective_and_gradients
from ace.transfer import fit_skeleton
from benchmarks.generated_formats import DEPTH_NOISE_MM, joint_combinations, made_up_skeleton, true_and_observed
from benchmarks.machine import machine_facts

NUM_SIDE, NUM_CENTRE, NUM_LATENTS = 240, 75, 48
NUM_NEW_SIDE, NUM_NEW_CENTRE, NUM_NEW_POSES = 13, 4, 300
NUM_HELD_OUT = 5000
YARDSTICK_STEPS, YARDSTICK_BATCH_SIZE, YARDSTICK_RATES = 450_000, 32, (3e-2, 3e-3, 3e-4)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoencoder", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--poses", type=int, default=100_000, help="to fit to (%(default)s)")
    parser.add_argument("--yardstick-steps", type=int, default=YARDSTICK_STEPS, help="0: no yardstick (%(default)s)")
    options = parser.parse_args(arguments)
    result = measure(options.poses, options.yardstick_steps)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure(num_poses: int, yardstick_steps: int) -> dict:
    """Returns: the figures named in the module's docstring."""
    rng = np.random.default_rng(1)
    known, new = joint_combinations(rng, NUM_SIDE, NUM_CENTRE), joint_combinations(rng, NUM_NEW_SIDE, NUM_NEW_CENTRE)
    _, poses = true_and_observed(rng, num_poses, known)
    truth, observed = true_and_observed(rng, NUM_HELD_OUT, np.concatenate([known, new]))
    new_truth, truth, observed = truth[:, len(known):], truth[:, :len(known)], observed[:, :len(known)]
    skeleton = made_up_skeleton("known", NUM_SIDE, NUM_CENTRE)

    start = time.perf_counter()
    autoencoder = fit_autoencoder(poses, skeleton, NUM_LATENTS, progress=False)
    seconds = time.perf_counter() - start
    matrices = np.float64(autoencoder.encoder), np.float64(autoencoder.decoder)
    mirrors = autoencoder.latent_mirror, np.array(skeleton.mirror)
    objective = mean_objective(matrices, poses, mirrors)
    yardstick = fit_yardstick(poses, mirrors, yardstick_steps) if yardstick_steps else None
    yardstick_objective = None if yardstick is None else mean_objective(yardstick[0], poses, mirrors)

    restored = np.matmul(np.float32(matrices[1] @ matrices[0]), observed)
    best = np.matmul(np.float32(least_squares(poses[:20_000], NUM_LATENTS)), observed)
    errors = [[image_plane_errors(ours, theirs).mean() for ours in (restored, best)] for theirs in (observed, truth)]
    added = add_skeleton(autoencoder, rng, known, new)
    new_errors = np.linalg.norm(np.matmul(added.astype(np.float32), observed) - new_truth, axis=-1)
    nonzero, negative = [np.abs(w) > 1e-3 for w in matrices], [-np.minimum(w, 0).sum(axis=1) for w in matrices]
    reached = yardstick is not None and objective <= yardstick_objective
    return {
        "benchmark": "autoencoder",
        "time_ratio": round(seconds / yardstick[1], 5) if reached else None,
        "seconds": round(seconds, 1),
        "reconstruction_ratio": round(float(errors[0][0] / errors[0][1]), 3),
        "share_nonzero": round(float(np.mean(np.concatenate([n.ravel() for n in nonzero]))), 4),
        "negative_weight": round(float(np.concatenate(negative).mean()), 4),
        "depth_noise_ratio": round(float(np.sqrt(np.square((restored - truth)[..., 2]).mean()) / DEPTH_NOISE_MM), 3),
        "new_skeleton_error_mm": round(float(new_errors.mean()), 2),
        "objective": round(objective, 6),
        "yardstick_objective": None if yardstick is None else round(yardstick_objective, 6),
        "yardstick_seconds": None if yardstick is None else round(yardstick[1], 1),
        "yardstick_steps": yardstick_steps,
        "image_error_mm": [round(float(e), 3) for e in errors[0]],
        "reconstruction_ratio_to_truth": round(float(errors[1][0] / errors[1][1]), 3),
        "share_nonzero_of_matrices": [round(float(n.mean()), 4) for n in nonzero],
        "negative_weight_of_matrices": [round(float(n.mean()), 4) for n in negative],
        "poses": num_poses,
        **machine_facts(),
    }


def mean_objective(matrices: Sequence[np.ndarray], poses: np.ndarray, mirrors: Sequence[np.ndarray]) -> float:
    """What the fit minimises, over the first 20,000 poses."""
    chunks = [make_fit_data(poses[start:start + 1000], None) for start in range(0, min(len(poses), 20_000), 1000)]
    return float(np.mean([objective_and_gradients(matrices, chunk, mirrors, L1_WEIGHT)[0] for chunk in chunks]))


def image_plane_errors(joints: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """[n, J] mm: distances on the image plane, scaled to the person's mean depth."""
    depth = expected[..., 2:].mean(axis=1, keepdims=True)
    return np.linalg.norm((joints[..., :2] / joints[..., 2:] - expected[..., :2] / expected[..., 2:]) * depth, axis=-1)


def fit_yardstick(poses: np.ndarray, mirrors: Sequence[np.ndarray], num_steps: int) -> tuple[list[np.ndarray], float]:
    """Returns: encoder and decoder of the published fit, float64, and the seconds it took."""
    import keras
    from keras import ops

    from ace.layer import AffineCombination

    class Yardstick(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = AffineCombination(*mirrors, seed=1)
            self.decoder = AffineCombination(*mirrors[::-1], seed=2)

        def call(self, joints):
            return self.decoder(self.encoder(joints))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            depth = ops.mean(x[..., 2:], axis=1, keepdims=True)
            projected = y_pred[..., :2] / ops.maximum(y_pred[..., 2:], 0.1 * depth)
            error = ops.mean(ops.abs(projected - x[..., :2] / x[..., 2:]) * depth) / 1000
            return error + L1_WEIGHT * (ops.mean(ops.abs(self.encoder.affine_weights))
                                        + ops.mean(ops.abs(self.decoder.affine_weights)))

    boundaries = [num_steps // 3, 2 * num_steps // 3]
    rates = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, list(YARDSTICK_RATES))
    start = time.perf_counter()
    model = Yardstick()
    model.compile(optimizer=keras.optimizers.Adam(rates), jit_compile=True)
    epoch_steps = min(num_steps, len(poses) // YARDSTICK_BATCH_SIZE)
    model.fit(poses[:epoch_steps * YARDSTICK_BATCH_SIZE], batch_size=YARDSTICK_BATCH_SIZE,
              epochs=round(num_steps / epoch_steps), verbose=0)
    seconds = time.perf_counter() - start
    return [np.float64(ops.convert_to_numpy(layer.affine_weights)) for layer in (model.encoder, model.decoder)], seconds


def least_squares(poses: np.ndarray, num_latents: int) -> np.ndarray:
    """[J, J] the affine reconstruction through so many points that is best on the image plane of these poses.

    Its rows sum to 1, so it keeps the mean of the joints, and what is relative to it goes through num_latents - 1 principal
    components.
    """
    depth = poses[..., 2:].mean(axis=1, keepdims=True)
    points = np.float64(poses[..., :2] / poses[..., 2:] * depth)
    points -= points.mean(axis=1, keepdims=True)
    points = np.moveaxis(points, 1, 2).reshape(-1, poses.shape[1])
    components = np.linalg.eigh(points.T @ points)[1][:, 1 - num_latents:]
    return components @ components.T + 1 / poses.shape[1]


def add_skeleton(autoencoder, rng, known, new):
    """[K, J] weights of a new skeleton's joints, from a few observed poses that have both."""
    _, both = true_and_observed(rng, NUM_NEW_POSES, np.concatenate([known, new]))
    return fit_skeleton(autoencoder, made_up_skeleton("new", NUM_NEW_SIDE, NUM_NEW_CENTRE), joints3d=both[:, :len(known)],
                        new_joints3d=both[:, len(known):]).weights


if __name__ == "__main__":
    raise SystemExit(main())
