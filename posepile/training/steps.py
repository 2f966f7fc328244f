"""Training steps on any Keras backend: gradients of the objective on micro-batches, then one step of the optimizer."""

from collections.abc import Mapping

import keras
import numpy as np

from posepile.models.normalization import ghost_layers
from posepile.models.objective import PoseObjective
from posepile.training.distribution import Distribution
from posepile.training.optimizer import PoseOptimizer
from posepile.training.step_inputs import blocks


class TrainingSteps:
    """Runs steps; work on an accelerator may still be under way when `run` returns.

    Args:
        objective: on the model to be trained.
        optimizer: built with the objective's trainable variables.
        distribution: of the devices.
        jit_compile: by XLA; TensorFlow on one device only.
    """

    def __init__(self, objective: PoseObjective, optimizer: PoseOptimizer, distribution: Distribution,
                 jit_compile: bool = False):
        self.objective, self.optimizer, self.distribution = objective, optimizer, distribution
        self.jit_compile = jit_compile
        for layer in ghost_layers(objective.pose_model):
            layer.num_replicas = distribution.num_replicas
        self.reset()

    @property
    def variables(self) -> list[keras.Variable]:
        """All state of the training: weights, statistics, random states, running sums, optimizer."""
        return [*self.objective.variables, *self.optimizer.variables]

    def reset(self) -> None:
        """Makes the compiled functions anew at the next step, after a change of the layers' behaviour."""
        self.sync()
        self._functions = {False: self._compile(is_last=False), True: self._compile(is_last=True)}

    def run(self, batch: Mapping[str, np.ndarray]):
        """One step on a worker's batch.

        Returns: its loss, and the norm of the gradient, as tensors: as numbers they would have to be waited for.
        """
        *first, last = blocks(batch, self.optimizer.micro_batches)
        results = [self._call(self._functions[False], block) for block in first]
        results.append(self._call(self._functions[True], last))
        return results[0][0] if len(results) == 1 else sum(loss for loss, _ in results) / len(results), results[-1][1]

    def sync(self) -> None:
        """Brings the Keras variables up to date; to be called before they are read or written."""

    def _compile(self, is_last: bool):
        """The function of one micro-batch, which returns its loss and the norm of the gradient."""
        raise NotImplementedError

    def _call(self, function, block):
        return function(self.distribution.place(block))


class TensorFlowSteps(TrainingSteps):
    """A graph of TensorFlow, which on several devices runs once on each."""

    def _compile(self, is_last):
        import tensorflow as tf

        variables = self.objective.trainable_variables

        def on_device(block):
            with tf.GradientTape() as tape:
                loss = self.objective(block, training=True)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, [v.value for v in variables],
                                      unconnected_gradients=tf.UnconnectedGradients.ZERO)
            if self.distribution.num_replicas > 1:
                loss, *gradients = self.distribution.sum_over_devices([loss, *gradients])
            return loss, self.optimizer.apply(gradients) if is_last else self.optimizer.accumulate(gradients)

        if self.distribution.num_replicas == 1:
            return tf.function(on_device, jit_compile=self.jit_compile, autograph=False)
        strategy = self.distribution.strategy
        return tf.function(lambda block: [strategy.experimental_local_results(result)[0]
                                          for result in strategy.run(on_device, args=(block,))], autograph=False)


class JaxSteps(TrainingSteps):
    """A pure function of all state; the state stays on the device until `sync`."""

    _state = None

    def _compile(self, is_last):
        import jax

        objective, optimizer = self.objective, self.optimizer

        def loss_of(trainable, other, slots, block):
            loss, other = objective.stateless_call(trainable, other, block, training=True)
            with keras.StatelessScope(list(zip(optimizer.variables, slots, strict=True))):
                scaled = optimizer.scale_loss(loss)
            return scaled, (loss, other)

        def step(state, block):
            trainable, other, slots = state
            (_, (loss, other)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, other, slots, block)
            known = list(zip([*objective.trainable_variables, *optimizer.variables], [*trainable, *slots], strict=True))
            with keras.StatelessScope(known) as scope:
                norm = optimizer.apply(gradients) if is_last else optimizer.accumulate(gradients)
            trainable, slots = ([scope.get_current_value(v) for v in variables]
                                for variables in (objective.trainable_variables, optimizer.variables))
            return (loss, norm), (trainable, other, slots)

        return jax.jit(step, donate_argnums=0)

    def _call(self, function, block):
        if self._state is None:
            self._state = tuple([v.value for v in variables] for variables in self._groups())
        result, self._state = function(self._state, self.distribution.place(block))
        return result

    def sync(self):
        if self._state is not None:
            for variables, values in zip(self._groups(), self._state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        self._state = None

    def _groups(self):
        return self.objective.trainable_variables, self.objective.non_trainable_variables, self.optimizer.variables


class TorchSteps(TrainingSteps):
    """Plain PyTorch on its default device."""

    def _compile(self, is_last):
        import torch

        variables = self.objective.trainable_variables

        def step(block):
            for variable in variables:
                variable.value.grad = None
            loss = self.objective(block, training=True)
            self.optimizer.scale_loss(loss).backward()
            gradients = [torch.zeros_like(v.value) if v.value.grad is None else v.value.grad for v in variables]
            with torch.no_grad():
                return loss.detach(), self.optimizer.apply(gradients) if is_last else self.optimizer.accumulate(gradients)

        return step


def make_steps(objective: PoseObjective, optimizer: PoseOptimizer, distribution: Distribution | None = None,
               jit_compile: bool = False) -> TrainingSteps:
    """The steps for the Keras backend in use."""
    classes = {"tensorflow": TensorFlowSteps, "jax": JaxSteps, "torch": TorchSteps}
    return classes[keras.backend.backend()](objective, optimizer, distribution or Distribution(), jit_compile)
