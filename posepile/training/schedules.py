"""Learning rate schedules: exponential decay in pieces, with a drop between them (WACV 2023, supplement S2 and Fig. S1)."""

import dataclasses

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
        decay: factor by which a piece decays.
    """

    start_rate: float
    steps: int
    drop_step: int | None = None
    decay: float = DECAY_FACTOR

    def rate(self, step: int) -> float:
        """The learning rate at a step, 0-based."""
        if self.drop_step is None:
            return self.start_rate * self.decay ** (-step / self.steps)
        if step < self.drop_step:
            return self.start_rate * self.decay ** (-step / self.drop_step)
        after = (step - self.drop_step) / (self.steps - self.drop_step)
        return self.start_rate / (self.decay * DROP_FACTOR) * self.decay ** -after

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


def bn_inference_schedule(base_rate: float, steps: int) -> Schedule:
    """Of steps with BatchNorm's stored statistics on their own: the rate at which the phases end, constant."""
    return Schedule(base_rate / (DECAY_FACTOR**2 * DROP_FACTOR), steps, decay=1.0)


def rate_at(schedule: Schedule, step):
    """`schedule.rate` for a step that may be a tensor; float32."""
    step = ops.cast(step, "float32")
    if schedule.drop_step is None:
        return schedule.start_rate * ops.power(schedule.decay, -step / schedule.steps)
    before = ops.power(schedule.decay, -step / schedule.drop_step)
    after = ops.power(schedule.decay, -(step - schedule.drop_step) / (schedule.steps - schedule.drop_step))
    return schedule.start_rate * ops.where(step < schedule.drop_step, before, after / (schedule.decay * DROP_FACTOR))
