"""Training one model in one phase: the model on its devices, losses, optimizer, steps, and the files that come of it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import keras

from posepile.data.batches import BatchPlan
from posepile.data.queue_statistics import QueueStatistics
from posepile.geometry.skeleton import averaging_matrix
from posepile.models.objective import LossSettings, PoseObjective
from posepile.models.pose_model import PoseModel
from posepile.prediction.predictor import default_jit_compile
from posepile.training import backend
from posepile.training.config import TrainConfig
from posepile.training.diagnosis import explain_non_finite
from posepile.training.distribution import Distribution
from posepile.training.optimizer import PoseOptimizer
from posepile.training.phases import Phase, PhaseRun, TrainingInterrupted, copy_weights
from posepile.training.run_log import RunLog
from posepile.training.step_inputs import dataset_names
from posepile.training.steps import make_steps
from posepile.training.stop_signal import Preempted, stop_requested
from posepile.training.validation import Validation

AVERAGE_SUFFIX = "_average"  # of the name of a model whose weights are averaged over the training


@dataclasses.dataclass(frozen=True)
class Training:
    """What the phases of a run have in common.

    Attributes:
        config: settings of the run.
        batch_plan: this process's share of every batch.
        distribution: the devices.
        run_dir: folder of the run.
        log: of the run.
        validation: crops to score the model on; None: there are none.
        data_workers: processes that make training crops; 0: threads of this one.
        on_nan: see `PhaseRun`.
    """

    config: TrainConfig
    batch_plan: BatchPlan
    distribution: Distribution
    run_dir: pathlib.Path
    log: RunLog
    validation: Validation | None = None
    data_workers: int = 0
    on_nan: str = "stop"

    @property
    def group_sizes(self) -> int | tuple[int, ...] | None:
        """Of Ghost BatchNorm on these devices."""
        workers = self.batch_plan.num_workers
        return self.config.group_sizes(self.batch_plan.num_3d * workers, self.batch_plan.num_2d * workers,
                                       self.distribution.num_replicas, self.distribution.num_blocks)

    def run(self, phase: Phase, make_model: Callable[[], PoseModel], name: str, first_step: int = 0, **losses) -> None:
        """Takes a model through a phase and saves it as NAME.keras, and its averaged weights, if any, beside it.

        Args:
            phase: with the name under which its checkpoints and figures go.
            make_model: makes the model with the weights to start from.
            name: of the model's file.
            first_step: steps of the run before this phase, whose batches it does not draw again.
            losses: of `LossSettings`.

        Raises: TrainingInterrupted; Preempted; NonFiniteLossError; OSError.
        """
        config, plan, distribution = self.config, self.batch_plan, self.distribution
        names = dataset_names(plan)
        settings = LossSettings(averaging_matrix(plan.skeleton, plan.joint_names_2d), num_datasets=len(names), **losses)
        keras.utils.set_random_seed(config.seed)  # all processes go on alike, whatever one of them has drawn alone before
        with distribution.scope():
            model = make_model()
            objective = PoseObjective(model, settings, distribution.num_blocks, distribution.sum_over_devices)
            optimizer = PoseOptimizer(
                phase.head, phase.backbone, config.weight_decay, micro_batches=config.micro_batches,
                clip_norm=config.clip_norm or None, average_momentum=config.average_momentum or None,
                loss_scale=config.resolved_loss_scale(), update_each=distribution.update_each)
            optimizer.build(objective.trainable_variables)
        statistics = QueueStatistics(plan)
        batches = backend.batch_stream(plan, config.seed, first_step, statistics, self.data_workers)
        with stop_requested() as should_stop:
            phase_run = PhaseRun(
                make_steps(objective, optimizer, distribution, bool(default_jit_compile())), phase, batches,
                run_dir=self.run_dir, log=self.log, checkpoint_interval=config.checkpoint_interval, should_stop=should_stop,
                dataset_names=names, on_nan=self.on_nan, blame=lambda batch: self._explain(model, batch),
                statistics=statistics, validation=self.validation, validation_interval=config.validation_interval)
            try:
                phase_run.run()
            except TrainingInterrupted as stop:
                if should_stop.is_preemption or not should_stop():  # or another process was asked to stop
                    raise Preempted(str(stop)) from None
                raise
        if distribution.is_chief:
            self._save(model, None, name)
            if optimizer.averages:
                self._save(model, optimizer, f"{name}{AVERAGE_SUFFIX}")

    def _explain(self, model: PoseModel, batch: dict) -> str:
        return explain_non_finite(_on_one_device(model), batch, self.batch_plan)

    def _save(self, model: PoseModel, optimizer: PoseOptimizer | None, name: str) -> None:
        save_model(_on_one_device(model, optimizer), self.run_dir / f"{name}.keras")


def _on_one_device(model: PoseModel, optimizer: PoseOptimizer | None = None) -> PoseModel:
    """A copy of a model; with an optimizer, with the averages of the weights in their place."""
    copied = type(model).from_config(model.get_config())
    copy_weights(model, copied, optimizer)
    return copied


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Saves a .keras file, which appears only when it is complete."""
    temporary = path.with_name(f".{path.stem}.part.keras")
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
