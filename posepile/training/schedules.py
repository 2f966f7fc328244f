"""Learning rate schedules: exponential decay in pieces, with a drop between them (WACV 2023, supplement S2 and Fig. S1)."""

import dataclasses

import keras
from keras import ops

DECAY_FACTOR = 3.0  # of each exponentially decaying piece
DROP_FACTOR = 10.0
INITIAL_DROP_FRACTION = 0.92
FINETUNE_DROP_FRACTION = 0.50


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A rate that decays exponentially by DECAY_FACTOR up to `drop_step`, drops, and decays by DECAY_FACTOR again to the end.

    Attributes:
        start_rate: at step 0.
        steps: of the phase.
        drop_step: first step after the drop; None: a single decaying piece.
    """

    start_rate: float
    steps: int
    drop_step: int | None = None

    def rate(self, step: int) -> float:
        """The learning rate at a step, 0-based."""
        if self.drop_step is None:
            return self.start_rate * DECAY_FACTOR ** (-step / self.steps)
        if step < self.drop_step:
            return self.start_rate * DECAY_FACTOR ** (-step / self.drop_step)
        after = (step - self.drop_step) / (self.steps - self.drop_step)
        return self.start_rate / (DECAY_FACTOR * DROP_FACTOR) * DECAY_FACTOR ** -after

    def corners(self, drop_step: int) -> list[list[float]]:
        """[step, rate] at the start, just before `drop_step`, at it, and at the last step."""
        return [[step, self.rate(step)] for step in (0, max(drop_step - 1, 0), min(drop_step, self.steps - 1),
                                                     self.steps - 1)]


def drop_step(steps: int, fraction: float) -> int:
    """The first step after the drop, at `fraction` of the phase; both pieces get at least one step."""
    return min(max(round(steps * fraction), 1), max(steps - 1, 1))


def initial_schedule(base_rate: float, steps: int) -> Schedule:
    """Of all weights in the initial phase."""
    return Schedule(base_rate, steps, drop_step(steps, INITIAL_DROP_FRACTION))


def finetune_head_schedule(base_rate: float, steps: int) -> Schedule:
    """The warm restart of the head: the initial recipe with its drop at half time."""
    return Schedule(base_rate, steps, drop_step(steps, FINETUNE_DROP_FRACTION))


def finetune_backbone_schedule(base_rate: float, steps: int) -> Schedule:
    """The last, decaying segment of the initial schedule, over the whole of fine-tuning."""
    return Schedule(base_rate / (DECAY_FACTOR * DROP_FACTOR), steps)


@keras.saving.register_keras_serializable(package="posepile")
class KerasSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`Schedule` inside an optimizer; `step` may be a tensor."""

    def __init__(self, start_rate, steps, drop_step=None):
        self.schedule = Schedule(start_rate, steps, drop_step)

    def __call__(self, step):
        s = self.schedule
        step = ops.cast(step, "float32")
        if s.drop_step is None:
            return s.start_rate * ops.power(DECAY_FACTOR, -step / s.steps)
        before = ops.power(DECAY_FACTOR, -step / s.drop_step)
        after = ops.power(DECAY_FACTOR, -(step - s.drop_step) / (s.steps - s.drop_step)) / (DECAY_FACTOR * DROP_FACTOR)
        return s.start_rate * ops.where(step < s.drop_step, before, after)

    def get_config(self):
        return dataclasses.asdict(self.schedule)


def make_optimizer(head: Schedule, backbone: Schedule, weight_decay: float) -> keras.optimizers.Optimizer:
    """AdamW with decoupled decay and one schedule for the head, one for the backbone.

    Under the policy mixed_float16 the loss is scaled dynamically, so that small gradients do not vanish; steps whose gradients
    overflow are left out.
    """

    def adamw(schedule, name):
        return keras.optimizers.AdamW(KerasSchedule(**dataclasses.asdict(schedule)), weight_decay=weight_decay, name=name)

    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(adamw(backbone, "backbone"), {r"(.*/)?head/.*": adamw(head, "head")}))
    if keras.config.dtype_policy().name == "mixed_float16":  # compile() looks at the policy of the outermost model only
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
