"""Every setting of a training run, with the method's defaults (WACV 2023, supplement S2; MeTRAbs)."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from posepile.data.augmentation import AugmentationConfig
from posepile.models.backbones import IMAGENET, backbone_info, list_backbones
from posepile.models.consistency import CONSISTENCY_MODES
from posepile.training.optimizer import DYNAMIC, MAX_LOSS_SCALE

PHASES = ("initial", "autoencoder", "finetune", "bn_inference")
DEFAULT_PHASES = PHASES[:3]
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16", "auto")
BASE_LEARNING_RATE = 2.12e-4
WEIGHT_DECAY = 3e-3 / math.sqrt(400_000) / BASE_LEARNING_RATE
ABSOLUTE_LOSS_START = 5000
TEACHER_LOSS_START = 5000
WEAK_PERSPECTIVE_STEPS = 500
BN_INFERENCE_STEPS = 1000
PSEUDO_LABEL_DATASETS = ("h36m", "bml_movi")  # where a set trains on neither: all with 3D labels
_SHORT_PHASE_SHARE = 8  # onsets and tails take at most this part of a phase that is too short for the published step counts


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The resolved settings of a run; a set's [hyperparameters] and the command line override the defaults.

    Attributes:
        backbone, backbone_weights: see `posepile.models.backbones`; `make_config` takes the weights "none" by default
            for a backbone without ImageNet weights.
        crop_side: px.
        initial_steps, finetune_steps: of the two training phases.
        bn_inference_steps: last steps of each phase with BatchNorm's stored statistics.
        absolute_loss_start: step of each phase from which the absolute loss counts.
        teacher_loss_start: step of fine-tuning from which the teacher loss of the hybrid consistency counts.
        weak_perspective_steps: first steps of the initial phase with the weak-perspective closed form.
        ghost_batch_size: "16" or another group size, "3d/2d", or "none".
        precision: Keras dtype policy; "auto" becomes mixed_bfloat16 on a CPU that computes in bfloat16, else float32.
        loss_scale: "dynamic", a fixed number, or "none"; "auto": dynamic under mixed_float16, else none.
        base_learning_rate, weight_decay: of AdamW.
        micro_batches: every step takes its batch in so many equal parts, one after the other, to save memory.
        clip_norm: largest global norm of the gradient; 0: unbounded.
        average_momentum: of an exponential moving average of the weights, which is evaluated beside them; 0: none.
        consistency: how fine-tuning enforces consistency between formats; several ways, separated by commas, are all
            trained and compared, and the first one makes the run's finetuned model.
        num_latents: latent points of the autoencoder; None: its default for the joint list.
        autoencoder_l1: factor of its l1 penalty.
        autoencoder_sweeps: over all its weights, at most so many.
        pseudo_label_datasets: data sets whose training images are pseudo-labelled; empty: see `pseudo_labelled_datasets`.
        pseudo_labels_per_dataset: at most so many images of each.
        checkpoint_interval, validation_interval: steps.
        augmentation: how the training crops vary.
        dataset_augmentation: the same, by name, for the data sets that have settings of their own.
        occluder_dir, background_dir: folders of pictures to paste before and behind people; empty: drawn ones.
        skip_bad: take another example of the data set in place of one whose record cannot be used, instead of stopping.
        seed: of everything random.

    Raises: ValueError listing the valid values of a setting.
    """

    backbone: str = "efficientnetv2-s"
    backbone_weights: str = "imagenet"
    crop_side: int = 256
    initial_steps: int = 400_000
    finetune_steps: int = 40_000
    bn_inference_steps: int = BN_INFERENCE_STEPS
    absolute_loss_start: int = ABSOLUTE_LOSS_START
    teacher_loss_start: int = TEACHER_LOSS_START
    weak_perspective_steps: int = WEAK_PERSPECTIVE_STEPS
    ghost_batch_size: str = "16"
    precision: str = "float32"
    loss_scale: str = "auto"
    base_learning_rate: float = BASE_LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    micro_batches: int = 1
    clip_norm: float = 0.0
    average_momentum: float = 0.0
    consistency: str = "regularize"
    num_latents: int | None = None
    autoencoder_l1: float = 0.6
    autoencoder_sweeps: int = 200
    pseudo_label_datasets: tuple[str, ...] = ()
    pseudo_labels_per_dataset: int = 20_000
    checkpoint_interval: int = 2000
    validation_interval: int = 2000
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    dataset_augmentation: dict[str, AugmentationConfig] = dataclasses.field(default_factory=dict)
    occluder_dir: str = ""
    background_dir: str = ""
    skip_bad: bool = False
    seed: int = 1

    def __post_init__(self):
        _check_choice("backbone", self.backbone, list_backbones())
        for mode in self.consistency_modes:
            _check_choice("consistency", mode, CONSISTENCY_MODES)
        if len(set(self.consistency_modes)) < len(self.consistency_modes):
            raise ValueError(f"consistency {self.consistency!r} names a way twice")
        _check_choice("precision", self.precision, PRECISIONS)
        for name in ("crop_side", "initial_steps", "finetune_steps", "checkpoint_interval", "autoencoder_sweeps",
                     "pseudo_labels_per_dataset", "micro_batches", "validation_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        backbone = backbone_info(self.backbone)
        if self.crop_side % backbone.stride:
            raise ValueError(f"crop_side must be a multiple of {backbone.stride} px, the stride of the backbone "
                             f"{self.backbone}; got {self.crop_side}")
        if self.backbone_weights == IMAGENET and backbone.imagenet_file is None:
            raise ValueError(f"the backbone {self.backbone} has no ImageNet weights; valid backbone_weights (--weights): "
                             "none, or the path of a file")
        if not self.bn_inference_steps >= 0:
            raise ValueError(f"bn_inference_steps must not be negative, got {self.bn_inference_steps}")
        if not self.base_learning_rate > 0 or not math.isfinite(self.base_learning_rate):
            raise ValueError(f"base_learning_rate must be positive, got {self.base_learning_rate}")
        if not 0 <= self.average_momentum < 1:
            raise ValueError(f"average_momentum must be 0 (no average) or less than 1, e.g. 0.999; got {self.average_momentum}")
        if not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be 0 (no clipping) or positive, got {self.clip_norm}")
        self.resolved_loss_scale()
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        if self.ghost_batch_size not in ("3d/2d", "none") and not (
                self.ghost_batch_size.isdigit() and int(self.ghost_batch_size) > 0):
            raise ValueError(f"unknown ghost_batch_size {self.ghost_batch_size!r}; valid ones: a number of examples such as "
                             "16, 3d/2d, none")

    @property
    def consistency_modes(self) -> tuple[str, ...]:
        return tuple(mode.strip() for mode in self.consistency.split(","))

    def resolved_loss_scale(self) -> float | str | None:
        """For `PoseOptimizer`. Raises: ValueError."""
        if self.loss_scale == "auto":
            return DYNAMIC if self.precision == "mixed_float16" else None
        if self.loss_scale in ("none", DYNAMIC):
            return None if self.loss_scale == "none" else DYNAMIC
        try:
            if 1 <= (scale := float(self.loss_scale)) <= MAX_LOSS_SCALE:
                return scale
        except ValueError:
            pass
        raise ValueError(f"unknown loss_scale {self.loss_scale!r}; valid ones: auto, dynamic, none, or a number from 1 to "
                         f"{MAX_LOSS_SCALE:.0f} such as 128")

    def group_sizes(self, num_3d: int, num_2d: int, num_replicas: int = 1,
                    num_blocks: int = 1) -> int | tuple[int, ...] | None:
        """Ghost BatchNorm's groups, which never straddle devices.

        Args:
            num_3d, num_2d: examples of either kind per step.
            num_replicas: devices that run the model side by side, each on its share.
            num_blocks: devices on which one run of the model works.

        Raises: ValueError if the groups do not divide a device's share of a micro-batch.
        """
        num_shares = num_replicas * num_blocks * self.micro_batches
        if num_3d % num_shares or num_2d % num_shares:
            raise ValueError(f"the {num_3d} examples with 3D labels and the {num_2d} with 2D labels of a batch cannot be "
                             f"shared equally by {num_replicas * num_blocks} devices times {self.micro_batches} micro-batches")
        if self.ghost_batch_size == "none":
            return None
        if self.ghost_batch_size == "3d/2d":
            return tuple(n // num_shares for n in (num_3d, num_2d) if n) * num_blocks
        size, share = int(self.ghost_batch_size), (num_3d + num_2d) // num_shares
        if share % size:
            raise ValueError(f"ghost_batch_size {size} does not divide the {share} examples that a device takes at once; "
                             "choose another one, 3d/2d, or none")
        return size

    def bn_steps(self, steps: int) -> int:
        """`bn_inference_steps`, or fewer in a phase too short for them."""
        return min(self.bn_inference_steps, steps // _SHORT_PHASE_SHARE)

    def absolute_start(self, steps: int) -> int:
        """`absolute_loss_start`, or earlier in a phase too short for it."""
        return min(self.absolute_loss_start, steps // _SHORT_PHASE_SHARE)

    def teacher_start(self, steps: int) -> int:
        """`teacher_loss_start`, or earlier in a phase too short for it."""
        return min(self.teacher_loss_start, steps // _SHORT_PHASE_SHARE)

    def weak_steps(self, steps: int) -> int:
        """`weak_perspective_steps`, or fewer in a phase too short for them."""
        return min(self.weak_perspective_steps, steps // _SHORT_PHASE_SHARE)


def make_config(hyperparameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> TrainConfig:
    """The method's defaults, overridden by a set's hyperparameters, overridden by what the user gave (None: not given).

    Raises: ValueError for a setting that does not exist or has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    if unknown := set(hyperparameters) - set(fields):
        raise ValueError(f"unknown hyperparameters {sorted(unknown)}; valid ones: {', '.join(fields)}")
    values = {**hyperparameters, **{k: v for k, v in overrides.items() if v is not None}}
    for name, value in values.items():
        default = fields[name].default
        if default is dataclasses.MISSING:
            default = fields[name].default_factory()
        if isinstance(value, list):
            values[name] = value = tuple(value)
        expected = int if default is None else type(default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif expected is str and isinstance(value, (int, float)):
            values[name] = str(value)
        elif not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise ValueError(f"{name} must be a {expected.__name__}, got {value!r}")
    backbone = values.get("backbone", TrainConfig.backbone)
    if "backbone_weights" not in values and backbone in list_backbones() and backbone_info(backbone).imagenet_file is None:
        values["backbone_weights"] = "none"
    if values.get("precision") == "auto":
        values["precision"] = "mixed_bfloat16" if cpu_has_bfloat16() else "float32"
    return TrainConfig(**values)


def pseudo_labelled_datasets(names: Sequence[str], trained: Sequence[str]) -> tuple[str, ...]:
    """The data sets whose training images are pseudo-labelled, in the order of `trained`.

    Args:
        names: the chosen ones; if empty, those of PSEUDO_LABEL_DATASETS that are trained on, or all if none is.
        trained: the data sets with 3D labels that are trained on.

    Raises: ValueError naming those that are not trained on.
    """
    if unknown := [name for name in names if name not in trained]:
        raise ValueError(f"pseudo_label_datasets names {', '.join(unknown)}; valid ones are the data sets that are trained on "
                         f"with 3D labels: {', '.join(trained)}")
    chosen = names or PSEUDO_LABEL_DATASETS
    return tuple(name for name in trained if name in chosen) or tuple(trained)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; elsewhere bfloat16 is emulated, and slower than float32."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; valid ones: {', '.join(choices)}")
