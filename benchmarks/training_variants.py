"""Trainings to be compared: this project's step in full, its backbone alone, and stock Keras. Any Keras backend.

A variant is a function without arguments that takes one training step and waits for it.
"""

from collections.abc import Callable

import keras
import numpy as np

from posepile.geometry.skeleton import Skeleton
from posepile.models.backbones import build_backbone
from posepile.models.heads import VOLUME_DEPTH
from posepile.models.objective import LossSettings, PoseObjective
from posepile.models.pose_model import PoseModel
from posepile.prediction.predictor import default_jit_compile
from posepile.training import backend
from posepile.training.optimizer import PoseOptimizer
from posepile.training.schedules import initial_schedule
from posepile.training.steps import TrainingSteps, make_steps

SHARE_3D = 0.75  # of the examples have 3D labels: 96 of 128 (WACV 2023, supplement)
NUM_JOINTS_2D, NUM_DATASETS = 19, 28  # of the full set
LEARNING_RATE, WEIGHT_DECAY, PHASE_STEPS = 2.12e-4, 0.0224, 400_000  # WACV 2023, supplement
STEP = 6000  # of the phase: every loss has set in

_STOCK = {"efficientnetv2-b0": "EfficientNetV2B0", "efficientnetv2-s": "EfficientNetV2S", "efficientnetv2-m": "EfficientNetV2M",
          "efficientnetv2-l": "EfficientNetV2L", "resnet50": "ResNet50", "mobilenetv3-small": "MobileNetV3Small",
          "mobilenetv3-large": "MobileNetV3Large"}

configure = backend.configure


def make_batch(batch_size: int, crop_side: int, num_joints: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What `PoseObjective` takes: noise for pictures, and people of noise at 3 m whose joints are all labelled."""
    rng = np.random.default_rng(seed)
    num_3d = round(batch_size * SHARE_3D)
    num_2d = batch_size - num_3d
    focal_length, center = 1.6 * crop_side, (crop_side - 1) / 2
    intrinsics = np.float32([[focal_length, 0, center], [0, focal_length, center], [0, 0, 1]])
    return {"image": rng.integers(0, 256, (batch_size, crop_side, crop_side, 3), dtype=np.uint8),
            "intrinsics": np.tile(intrinsics, (batch_size, 1, 1)),
            "joints3d": np.float32(rng.normal((0, 0, 3000), 300, (num_3d, num_joints, 3))),
            "joints3d_mask": np.ones((num_3d, num_joints), bool),
            "joints2d": np.float32(rng.uniform(0, crop_side, (num_2d, NUM_JOINTS_2D, 2))),
            "joints2d_mask": np.ones((num_2d, NUM_JOINTS_2D), bool),
            "step": np.int32(STEP), "mix": rng.random(batch_size, np.float32),
            "dataset": rng.integers(0, NUM_DATASETS, batch_size, dtype=np.int32)}


def make_training(backbone: str, crop_side: int, num_joints: int, group_sizes: int | tuple[int, ...] | None = 16,
                  micro_batches: int = 1) -> TrainingSteps:
    """The training of this project: fine-tuning with the consistency loss, as it is done by default."""
    skeleton = Skeleton("made_up", "made_up", tuple(f"joint_{i}" for i in range(num_joints)), tuple(range(num_joints)), ())
    model = PoseModel(backbone, crop_side, skeleton, ghost_batch_size=group_sizes)
    rng = np.random.default_rng(0)
    averaging_matrix = np.float32(rng.dirichlet(np.ones(num_joints), NUM_JOINTS_2D))
    projection_matrix = np.float32(rng.dirichlet(np.ones(num_joints), num_joints))
    objective = PoseObjective(model, LossSettings(averaging_matrix, projection_matrix=projection_matrix,
                                                  num_datasets=NUM_DATASETS))
    schedule = initial_schedule(LEARNING_RATE, PHASE_STEPS)
    is_float16 = keras.config.dtype_policy().compute_dtype == "float16"
    optimizer = PoseOptimizer(schedule, schedule, WEIGHT_DECAY, micro_batches=micro_batches,
                              loss_scale="dynamic" if is_float16 else None)
    optimizer.build(objective.trainable_variables)
    return make_steps(objective, optimizer, jit_compile=bool(default_jit_compile()))


def full_step(backbone: str, crop_side: int, batch_size: int, num_joints: int, micro_batches: int = 1) -> Callable[[], None]:
    """This project's step: Ghost BatchNorm, bounded kernels, head, reconstruction, all losses, AdamW."""
    steps = make_training(backbone, crop_side, num_joints, micro_batches=micro_batches)
    batch = make_batch(batch_size, crop_side, num_joints)
    return lambda: wait(steps.run(batch))


def stock_step(backbone: str, crop_side: int, batch_size: int, num_joints: int) -> Callable[[], None]:
    """keras.applications with a 1x1 convolution to as many channels as the head has, mean square, and AdamW of Keras.

    By `train_on_batch` on tensors, as fast as a loop of one's own around a tf.function.
    """
    network = _stock_network(backbone, crop_side)
    outputs = keras.layers.Conv2D(num_joints * (1 + VOLUME_DEPTH), 1, dtype="float32")(network.outputs[0])
    return _stock_training(keras.Model(network.inputs, outputs), batch_size,
                           keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY))[0]


def backbone_step(backbone: str, crop_side: int, batch_size: int, group_sizes: int | tuple[int, ...] | str,
                  ) -> tuple[Callable[[], None], Callable[[], None]]:
    """A backbone on its own with mean square and plain SGD. Returns: its step; what makes it be compiled anew.

    Args: group_sizes: of Ghost BatchNorm; "plain": keras.applications with keras.layers.BatchNormalization.
    """
    network = _stock_network(backbone, crop_side) if group_sizes == "plain" else build_backbone(
        backbone, crop_side, group_sizes, max_kernel_norm=None)
    return _stock_training(network, batch_size, keras.optimizers.SGD(1e-6))


def _stock_network(backbone: str, crop_side: int) -> keras.Model:
    """Raises: ValueError for a backbone that is not of keras.applications."""
    if backbone not in _STOCK:
        raise ValueError(f"there is no stock network to compare {backbone!r} with; there is for {', '.join(_STOCK)}")
    return getattr(keras.applications, _STOCK[backbone])(include_top=False, weights=None, input_shape=(crop_side, crop_side, 3))


def _stock_training(model: keras.Model, batch_size: int, optimizer: keras.optimizers.Optimizer):
    model.compile(optimizer, "mse", jit_compile=default_jit_compile())
    optimizer.build(model.trainable_variables)  # in the first step it would have that traced twice
    images = make_batch(batch_size, model.inputs[0].shape[1], 1)["image"]
    targets = np.random.default_rng(0).normal(size=(batch_size, *model.outputs[0].shape[1:]))
    images, targets = keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(targets, "float32")
    return lambda: model.train_on_batch(images, targets), lambda: model.make_train_function(force=True)


def wait(results) -> None:
    """Until the numbers that a step returns are there."""
    for value in results:
        keras.ops.convert_to_numpy(value)


def count_flops(model: PoseModel) -> int:
    """Floating point operations of the convolutions for one crop, forward; a multiplication with its addition counts 2."""
    layers = [layer for layer in model.backbone.layers if hasattr(layer, "kernel")]
    positions = [np.prod(layer.output.shape[1:3]) for layer in layers] + [np.prod(model.backbone.output_shape[1:3])]
    return 2 * sum(int(n * np.prod(layer.kernel.shape)) for n, layer in zip(positions, [*layers, model.head.conv], strict=True))


def has_graphs() -> bool:
    """Whether the backend compiles a step before it takes the first one."""
    return keras.backend.backend() != "torch"


def device_name() -> str | None:
    """What the accelerator is called that the backend computes on; None: it is a CPU."""
    name = keras.backend.backend()
    if name == "jax":
        import jax
        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if name == "torch":
        import torch
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf
    devices = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None
