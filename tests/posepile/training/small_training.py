"""Training steps of the small model."""

import numpy as np

from posepile.data.batches import BatchPlan, make_batch
from posepile.geometry.skeleton import averaging_matrix
from posepile.models.objective import LossSettings, PoseObjective
from posepile.training.distribution import Distribution
from posepile.training.optimizer import PoseOptimizer
from posepile.training.schedules import Schedule, initial_schedule
from posepile.training.step_inputs import dataset_names, step_inputs
from posepile.training.steps import TrainingSteps, make_steps
from tests.posepile import small_model

SCHEDULE = initial_schedule(2e-3, 8)


def make_small_steps(plan: BatchPlan, seed: int = 0, ghost_batch_size: int | tuple[int, ...] | None = 4,
                     distribution: Distribution | None = None, schedule: Schedule = SCHEDULE, losses: dict | None = None,
                     **optimizer_settings) -> TrainingSteps:
    """Steps with the losses of `LossSettings` and the settings of `PoseOptimizer` that are given."""
    distribution = distribution or Distribution()
    settings = LossSettings(averaging_matrix(plan.skeleton, plan.joint_names_2d), num_datasets=len(dataset_names(plan)),
                            **{"absolute_loss_start": 2, "weak_perspective_steps": 1} | (losses or {}))
    with distribution.scope():
        objective = PoseObjective(small_model.make_model(seed, ghost_batch_size), settings, distribution.num_blocks,
                                  distribution.sum_over_devices)
        optimizer = PoseOptimizer(schedule, schedule, **{"weight_decay": 0.1} | optimizer_settings,
                                  update_each=distribution.update_each)
        optimizer.build(objective.trainable_variables)
    return make_steps(objective, optimizer, distribution)


def batch_of(plan: BatchPlan, seed: int, step: int) -> dict:
    """A batch as training takes it."""
    return {**make_batch(plan, seed, step), **step_inputs(plan, seed, step, step)}


def values_of(variables) -> list[np.ndarray]:
    return [np.asarray(v).copy() for v in variables]
