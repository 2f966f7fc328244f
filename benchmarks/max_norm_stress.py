"""What bounding the kernels does for float16: training at a huge learning rate with kernel max-norm and without it.

    python -m benchmarks.max_norm_stress [--json] [--steps=20000]

BatchNorm behind a convolution takes the scale of its kernel away, so that nothing in the loss keeps the kernel from growing,
and in float16 what comes out of the convolution is infinite beyond 65504. The network has the layers of the backbone `tiny`,
with fewer channels, as a CPU has to emulate float16; head, losses, dynamic loss scale and optimizer are those of training.
Crops are made up: a coloured square per joint. Every figure is given with and without the bound:

    max_kernel_norm   largest L2 norm of a filter after any step; the bound is 20
    max_activation    largest output of a convolution, computed in float32 with the weights of every 100th step
    skipped_share     steps left out because loss or gradient was not finite
    final_loss        mean of the last 100 steps, but for those left out; null: they all were
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import keras
import numpy as np

from posepile.geometry.skeleton import Skeleton, averaging_matrix, merge_skeletons, skeleton_from_dict
from posepile.models import backbones
from posepile.models.constraints import CONVOLUTION_AXES
from posepile.models.objective import LossSettings, PoseObjective
from posepile.models.pose_model import PoseModel
from posepile.training import backend
from posepile.training.config import WEIGHT_DECAY
from posepile.training.optimizer import DYNAMIC, PoseOptimizer
from posepile.training.schedules import Schedule
from posepile.training.steps import TrainingSteps, make_steps

LEARNING_RATE = 30.0  # the method's is 2e-4
CROP_SIDE, BATCH_SIZE, GROUP_SIZE = 32, 8, 4
PROBE_INTERVAL = 100  # steps
_BACKBONE = "narrow"
_DEPTH_MM, _FOCAL_PX = 3000.0, 40.0
_SKELETON = {"name": "stress", "joints": ["pelvis", "neck", "left_wrist", "right_wrist"], "root": "pelvis",
             "mirror_pairs": [["left_wrist", "right_wrist"]], "edges": ["pelvis-neck-left_wrist", "neck-right_wrist"]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.max_norm_stress", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--steps", type=int, default=20_000, help="of each of the two trainings")
    options = parser.parse_args(arguments)
    result = measure(options.steps)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure(num_steps: int) -> dict:
    """Returns: the figures named in the module's docstring."""
    start = time.monotonic()
    figures = {name: train(num_steps, is_bounded) for name, is_bounded in (("with", True), ("without", False))}
    return {"benchmark": "max_norm_stress", "steps": num_steps, "learning_rate": LEARNING_RATE, "precision": "mixed_float16",
            **{figure: {name: _rounded(values[figure]) for name, values in figures.items()} for figure in figures["with"]},
            "benchmark_seconds": round(time.monotonic() - start)}


def train(num_steps: int, is_bounded: bool, seed: int = 1) -> dict:
    """Trains the small network. Returns: max_kernel_norm, max_activation, skipped_share, final_loss."""
    with mock.patch.dict(backbones.BACKBONES, {_BACKBONE: backbones.BackboneInfo(8, 5.5, _narrow)}):
        return _train(num_steps, is_bounded, seed)


def _train(num_steps: int, is_bounded: bool, seed: int) -> dict:
    skeleton = merge_skeletons([skeleton_from_dict(_SKELETON)])
    steps = make_stress_steps(skeleton, num_steps, is_bounded, seed)
    model, in_float32 = steps.objective.pose_model, _float32_backbone(seed)
    probe = keras.Model(in_float32.input, [layer.output for layer in _convolutions(in_float32)])
    norms, activations, losses = [], [], []
    for step, batch in zip(range(num_steps), batches(skeleton, seed), strict=False):
        loss, gradient_norm = (float(value) for value in steps.run({**batch, "step": np.int32(step)}))
        losses.append(loss if np.isfinite(gradient_norm) else np.nan)
        norms.append(largest_kernel_norm(model))
        if (step + 1) % PROBE_INTERVAL == 0:
            in_float32.set_weights(model.backbone.get_weights())
            outputs = probe(batch["image"], training=True)
            activations.append(max(float(np.abs(np.asarray(output)).max()) for output in outputs))
    last_losses = [loss for loss in losses[-100:] if np.isfinite(loss)]
    return {"max_kernel_norm": max(norms), "max_activation": max(activations, default=None),
            "skipped_share": float(np.asarray(steps.optimizer.num_skipped)) / num_steps,
            "final_loss": float(np.mean(last_losses)) if last_losses else None}


def _rounded(value: float | None) -> float | None:
    return value if value is None else float(f"{value:.5g}")


def make_stress_steps(skeleton: Skeleton, num_steps: int, is_bounded: bool, seed: int) -> TrainingSteps:
    """Training steps in mixed_float16 of the small network, whose kernels are bounded or not."""
    backend.configure(seed, "mixed_float16")
    model = PoseModel(_BACKBONE, CROP_SIDE, skeleton, ghost_batch_size=GROUP_SIZE, seed=seed)
    if not is_bounded:
        for variable in model.trainable_variables:
            variable.constraint = None
    objective = PoseObjective(model, LossSettings(averaging_matrix(skeleton, skeleton.joint_names), absolute_loss_start=0,
                                                  weak_perspective_steps=0, num_datasets=1))
    schedule = Schedule(LEARNING_RATE, num_steps)
    optimizer = PoseOptimizer(schedule, schedule, WEIGHT_DECAY, loss_scale=DYNAMIC)
    optimizer.build(objective.trainable_variables)
    return make_steps(objective, optimizer)


def batches(skeleton: Skeleton, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, of few people again and again: a square per joint, of its own colour, on noise."""
    rng = np.random.default_rng(seed)
    num_examples = 16 * BATCH_SIZE
    joints3d = rng.uniform(-700, 700, (num_examples, skeleton.num_joints, 3)) + np.array([0, 0, _DEPTH_MM])
    center = CROP_SIDE / 2
    pixels = np.int64(joints3d[..., :2] / joints3d[..., 2:] * _FOCAL_PX + center)
    images = rng.integers(0, 64, (num_examples, CROP_SIDE, CROP_SIDE, 3), dtype=np.uint8)
    colors = rng.integers(128, 256, (skeleton.num_joints, 3), dtype=np.uint8)
    for image, positions in zip(images, pixels, strict=True):
        for (x, y), color in zip(positions, colors, strict=True):
            image[y - 2:y + 3, x - 2:x + 3] = color
    intrinsics = np.float32([[_FOCAL_PX, 0, center], [0, _FOCAL_PX, center], [0, 0, 1]])
    constant = {"intrinsics": np.tile(intrinsics, (BATCH_SIZE, 1, 1)), "mix": np.full(BATCH_SIZE, 0.5, np.float32),
                "joints3d_mask": np.ones((BATCH_SIZE, skeleton.num_joints), bool), "dataset": np.zeros(BATCH_SIZE, np.int32)}
    while True:
        for rows in rng.permutation(num_examples).reshape(-1, BATCH_SIZE):
            yield {"image": images[rows], "joints3d": np.float32(joints3d[rows]), **constant}


def largest_kernel_norm(model: PoseModel) -> float:
    """The largest L2 norm of a convolution filter of the backbone."""
    kernels = (np.asarray(layer.kernel) for layer in _convolutions(model.backbone))
    return max(float(np.sqrt(np.square(kernel, dtype=np.float64).sum(axis=CONVOLUTION_AXES)).max()) for kernel in kernels)


def _convolutions(backbone: keras.Model) -> list[keras.layers.Conv2D]:
    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]


def _float32_backbone(seed: int) -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    backbone = backbones.build_backbone(_BACKBONE, CROP_SIDE, GROUP_SIZE, seed=seed)
    keras.config.set_dtype_policy(policy)
    return backbone


def _narrow(image: keras.KerasTensor) -> keras.KerasTensor:
    """The layers of `tiny`, with fewer channels."""
    def conv_bn(x, channels, **kwargs):
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False, kernel_initializer="he_normal", **kwargs)(x)
        return keras.layers.BatchNormalization(momentum=0.9)(x)

    x = keras.layers.ReLU()(conv_bn(backbones.SpaceToDepth(4)(image), 8))
    x = keras.layers.ReLU()(conv_bn(x, 16, strides=2))
    for _ in range(2):
        y = conv_bn(keras.layers.ReLU()(conv_bn(x, 16)), 16)
        x = keras.layers.ReLU()(keras.layers.add([x, y]))
    return keras.layers.ReLU()(conv_bn(x, 24))


if __name__ == "__main__":
    sys.exit(main())
