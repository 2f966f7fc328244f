"""AdamW with rates per part of the network, and all that surrounds a step: loss scale, accumulation, clipping, averages.

Source: decoupled weight decay, Loshchilov and Hutter, ICLR 2019; Adam, Kingma and Ba, ICLR 2015.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from posepile.training.schedules import Schedule, rate_at

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
STATIC_LOSS_SCALE = 128.0  # WACV 2023, supplement
INITIAL_LOSS_SCALE, MAX_LOSS_SCALE = 2.0**15, 2.0**24  # of the dynamic one
LOSS_SCALE_GROWTH_STEPS = 2000  # finite steps until a dynamic loss scale doubles
DYNAMIC = "dynamic"
_AVERAGE_WARMUP = 10.0  # early steps make an average over about a tenth of the past
_TINY = 1e-12


class PoseOptimizer(keras.optimizers.Optimizer):
    """AdamW whose step changes nothing if a gradient is not finite: weights, slots, rates wait for the next batch.

    One step consists of `micro_batches - 1` calls of `accumulate` and one of `apply`; the gradients are averaged. Constraints
    of the weights hold after every step.

    Args:
        head, backbone: learning rates of the variables under "head/", and of all others.
        weight_decay: decoupled, times the learning rate at each step.
        micro_batches: gradients per step.
        clip_norm: largest global norm of the gradient; None: unbounded.
        average_momentum: of an exponential moving average of the weights (`averages`); None: there is none.
        loss_scale: a factor of the loss that keeps small gradients in range of float16, "dynamic" (halved when a gradient
            overflows, doubled after 2000 steps without), or None.
        update_each: how to update all variables, see `update_here`; several devices need a way of their own.

    Attributes:
        gradient_norm: [] variable, of the last step, before clipping; not finite if that step was left out.
        num_skipped: [] variable, how many steps were left out.
        loss_scale: [] variable.
        averages: the averaged weights, one for each trainable variable.
    """

    def __init__(self, head: Schedule, backbone: Schedule, weight_decay: float, *, micro_batches: int = 1,
                 clip_norm: float | None = None, average_momentum: float | None = None,
                 loss_scale: float | str | None = None, update_each: Callable | None = None):
        super().__init__(learning_rate=0.0, name="optimizer")  # the rates are the schedules' own
        self._head, self._backbone = head, backbone
        self.decay, self.micro_batches = weight_decay, micro_batches
        self.clip_norm, self.average_momentum = clip_norm, average_momentum
        self.update_each = update_each or update_here
        self.is_scale_dynamic = loss_scale == DYNAMIC
        self._initial_loss_scale = INITIAL_LOSS_SCALE if self.is_scale_dynamic else loss_scale or 1.0

    def build(self, variables: Sequence) -> None:
        super().build(variables)
        self._is_head = [v.path.startswith("head/") or "/head/" in v.path for v in variables]
        slots = [self.add_optimizer_variables(variables, name) for name in ("momentum", "velocity")]
        self._accumulators = self.add_optimizer_variables(variables, "accumulator") if self.micro_batches > 1 else []
        self.averages = self.add_optimizer_variables(variables, "average") if self.average_momentum is not None else []
        for average, variable in zip(self.averages, variables, strict=False):
            average.assign(np.asarray(variable))  # a copy: the variable's own array may be given away
        self._slots = list(zip(*(column for column in (*slots, self._accumulators, self.averages) if column), strict=True))
        self.gradient_norm = self._scalar("gradient_norm", 0.0)
        self.num_skipped = self._scalar("num_skipped", 0.0)
        self.loss_scale = self._scalar("loss_scale", self._initial_loss_scale)
        self._finite_steps = self._scalar("finite_steps", 0.0)  # since the loss scale changed

    def _scalar(self, name, value):
        return self.add_variable((), keras.initializers.Constant(value), "float32", "only_first_replica", name=name)

    def scale_loss(self, loss):
        return loss * ops.cast(self.loss_scale, loss.dtype)

    def accumulate(self, gradients: Sequence):
        """Takes in the gradients of the scaled loss of a micro-batch that is not the last of its step. Returns: 0."""
        def update(index, variable, gradient, accumulator):
            accumulator.assign_add(gradient)

        self.update_each(update, self._trainable_variables, gradients, [(a,) for a in self._accumulators], ())
        return ops.zeros(())

    def apply(self, gradients: Sequence, trainable_variables: Sequence | None = None):
        """One step by the gradients of the scaled loss of the last micro-batch and those accumulated before.

        Returns: [] norm of the gradient of the loss, before clipping.
        """
        if self._accumulators:
            gradients = [g + a for g, a in zip(gradients, self._accumulators, strict=True)]
        unscale = 1 / (self.loss_scale * self.micro_batches)
        norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients)) * unscale
        is_finite = ops.isfinite(norm)
        keep = ops.cast(is_finite, "float32")  # a factor of everything that a step changes
        factor = unscale if self.clip_norm is None else unscale * ops.minimum(1.0, self.clip_norm / ops.maximum(norm, _TINY))
        step = ops.cast(self._iterations, "float32") + 1
        correction = ops.sqrt(1 - ops.power(BETA_2, step)) / (1 - ops.power(BETA_1, step))
        rates = tuple(keep * rate_at(schedule, self._iterations) for schedule in (self._backbone, self._head))
        average_share = keep * (1 - ops.minimum(self.average_momentum or 0.0, step / (_AVERAGE_WARMUP + step)))
        self.update_each(self._update, self._trainable_variables, gradients, self._slots,
                         (is_finite, keep, factor, correction, average_share, *rates))
        self._iterations.assign_add(ops.cast(is_finite, self._iterations.dtype))
        self.gradient_norm.assign(norm)
        self.num_skipped.assign_add(1 - keep)
        if self.is_scale_dynamic:
            self._adapt_loss_scale(is_finite)
        return norm

    def _update(self, index, variable, gradient, momentum, velocity, *slots_and_shared):
        """AdamW for one variable; multiplying by `keep` rather than branching costs nothing and leaves values bitwise."""
        *slots, is_finite, keep, factor, correction, average_share, backbone_rate, head_rate = slots_and_shared
        rate = head_rate if self._is_head[index] else backbone_rate
        gradient = ops.where(is_finite, ops.cast(gradient, "float32") * factor, 0.0)
        momentum.assign_add((gradient - momentum) * ((1 - BETA_1) * keep))
        velocity.assign_add((ops.square(gradient) - velocity) * ((1 - BETA_2) * keep))
        old = ops.convert_to_tensor(variable)
        change = (rate * correction) * momentum / (ops.sqrt(velocity) + EPSILON) + (rate * self.decay) * old
        constraint = self._trainable_variables[index].constraint
        if constraint is None:
            variable.assign_sub(change)
        else:
            variable.assign(ops.where(is_finite, constraint(old - change), old))
        if self._accumulators:
            slots[0].assign(ops.zeros_like(gradient))
        if self.averages:
            slots[-1].assign_add((variable - slots[-1]) * average_share)

    def _adapt_loss_scale(self, is_finite):
        old, finite_steps = ops.convert_to_tensor(self.loss_scale), ops.where(is_finite, self._finite_steps + 1, 0.0)
        grows = finite_steps >= LOSS_SCALE_GROWTH_STEPS
        scale = ops.where(is_finite, ops.where(grows, 2 * old, old), old / 2)
        self.loss_scale.assign(ops.clip(scale, 1.0, MAX_LOSS_SCALE))
        self._finite_steps.assign(ops.where(grows, 0.0, finite_steps))

    def get_config(self):
        raise NotImplementedError("an optimizer is made anew from the settings of its run")


def update_here(update: Callable, variables: Sequence, gradients: Sequence, slots: Sequence[tuple], shared: tuple) -> None:
    """Calls update(index, variable, gradient, *slots of the variable, *shared) for every variable."""
    for index, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
        update(index, variable, gradient, *slots[index], *shared)
