"""Running one training phase: steps, checkpoints, logging, the inference-mode tail, a clean stop."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging
from tqdm import tqdm

from posepile.data.batches import BatchPlan, batch_rows
from posepile.data.part_workers import WorkerError
from posepile.data.queue_statistics import QueueStatistics
from posepile.models.pose_trainer import PoseTrainer
from posepile.training.checkpoints import restore_checkpoint, save_checkpoint
from posepile.training.run_log import RunLog
from posepile.training.schedules import Schedule, make_optimizer

LOG_INTERVAL = 50  # steps


class TrainingInterrupted(Exception):
    """A stop was asked for; the checkpoint is written and the same command goes on from it."""


class NonFiniteLossError(ArithmeticError):
    """The loss or the weights became nan or infinite; the message says at which step and names the data sets to look at."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase's length and rates.

    Attributes:
        name: "initial" or "finetune".
        steps: all of them; the last `bn_inference_steps` run with BatchNorm's stored statistics.
        head, backbone: learning rate schedules.
        drop_step: where the head's schedule drops.
    """

    name: str
    steps: int
    bn_inference_steps: int
    head: Schedule
    backbone: Schedule
    drop_step: int

    def describe(self) -> dict:
        return {"name": self.name, "steps": self.steps, "bn_inference_steps": self.bn_inference_steps,
                "learning_rates": {"head": self.head.corners(self.drop_step),
                                   "backbone": self.backbone.corners(self.drop_step)}}


def run_phase(trainer: PoseTrainer, phase: Phase, batches: Callable[[int], Iterator[dict]], *, run_dir: pathlib.Path,
              log: RunLog, weight_decay: float, checkpoint_interval: int, should_stop: Callable[[], bool],
              jit_compile: bool | str = "auto", blame: Callable[[dict], str] = lambda batch: "",
              statistics: QueueStatistics | None = None) -> None:
    """Takes the trainer through a phase, from its newest checkpoint if there is one.

    Args:
        trainer: made for this phase; its weights are the starting point.
        batches: called with the first step; yields that step's batch and the following ones.
        should_stop: asked after every step; when True, a checkpoint is written and TrainingInterrupted raised.
        jit_compile: as in `keras.Model.compile`.
        blame: says in words which data sets make the loss of a batch non-finite, for the error message.
        statistics: of `batches`; goes to the log with the losses, its warnings to the screen.

    Raises: TrainingInterrupted; NonFiniteLossError, keeping the last good checkpoint.
    """
    trainer.compile(optimizer=make_optimizer(phase.head, phase.backbone, weight_decay), jit_compile=jit_compile)
    trainer.optimizer.build(trainer.trainable_variables)
    state = [*trainer.variables, *trainer.optimizer.variables]
    folder = run_dir / "checkpoints"
    step = restore_checkpoint(folder, phase.name, state)
    if step == 0:
        save_checkpoint(folder, phase.name, 0, state)  # what NonFiniteLossError goes back to
    log.truncate(phase.name, step)
    first_inference_step = phase.steps - phase.bn_inference_steps
    trainer.set_use_stored_statistics(step >= first_inference_step)

    def fail(what, batch):
        restore_checkpoint(folder, phase.name, state)
        raise NonFiniteLossError(f"{what} step {step - 1} of {phase.name}. {blame(batch)} The last good checkpoint is kept in "
                                 f"{folder}.")

    window = _LogWindow()
    progress = tqdm(total=phase.steps, initial=step, desc=f"{phase.name:12}", unit="step", smoothing=0.05,
                    mininterval=1.0, dynamic_ncols=True)
    with progress, _closing(batches(step) if step < phase.steps else iter(())) as stream:
        for batch in _until_stopped(stream, should_stop):
            if step == first_inference_step and phase.bn_inference_steps:
                trainer.set_use_stored_statistics(True)
                trainer.make_train_function(force=True)
            losses = trainer.train_on_batch(batch, return_dict=True)
            step += 1
            if not np.isfinite(losses["loss"]):
                fail(f"the loss is {losses['loss']} at", batch)
            window.add(losses, batch["image"].shape[0])
            progress.update()
            if step % LOG_INTERVAL == 0 or step == phase.steps:
                values = window.flush()
                queue_figures, warnings = statistics.report() if statistics else ({}, [])
                for warning in warnings:
                    logging.warning("%s", warning)
                progress.set_postfix(loss=f"{values['loss']:.3f}", crops_per_s=f"{values['crops_per_second']:.0f}")
                log.write(phase.name, step, **values, learning_rate_head=phase.head.rate(step - 1),
                          learning_rate_backbone=phase.backbone.rate(step - 1), **queue_figures)
            stop = should_stop() and step < phase.steps
            if step % checkpoint_interval == 0 or step == phase.steps or stop:
                if not _has_finite_weights(trainer):
                    fail("weights are not finite after", batch)
                save_checkpoint(folder, phase.name, step, state)
            if stop:
                raise TrainingInterrupted(f"stopped after step {step} of {phase.steps} of {phase.name}")
            if step >= phase.steps:
                break
    if step < phase.steps:  # the stream has ended
        if _has_finite_weights(trainer):
            save_checkpoint(folder, phase.name, step, state)
        raise TrainingInterrupted(f"stopped after step {step} of {phase.steps} of {phase.name}")
    trainer.set_use_stored_statistics(False)


def blame_datasets(trainer: PoseTrainer, batch: dict, plan: BatchPlan) -> str:
    """Says in words which data sets have a non-finite loss in a batch, judged by the trainer's present weights."""
    prediction = np.asarray(trainer.pose_model.predict_on_batch(batch))
    found = []
    for part in plan.parts:
        name = f"joints{part.kind}"
        rows = batch_rows(plan, part, name)
        labels, mask = np.asarray(batch[name])[rows], np.asarray(batch[f"{name}_mask"])[rows]
        if not np.isfinite(labels[mask]).all() or not np.isfinite(prediction[part.rows]).all():
            found.append(part.dataset.name)
    if found:
        return f"Labels or predictions are not finite for: {', '.join(found)}."
    return "With the last checkpoint's weights all labels and predictions are finite: a lower --learning-rate may help."


def _has_finite_weights(trainer: PoseTrainer) -> bool:
    return all(np.isfinite(np.asarray(v)).all() for v in trainer.trainable_variables)


def _until_stopped(stream: Iterator[dict], should_stop: Callable[[], bool]) -> Iterator[dict]:
    """The batches; ends if the processes that make them were told to end together with this one."""
    try:
        yield from stream
    except WorkerError:
        if not should_stop():
            raise


@contextlib.contextmanager
def _closing(stream: Iterator) -> Iterator[Iterator]:
    try:
        yield stream
    finally:
        if hasattr(stream, "close"):  # a generator, whose queues would otherwise be at work when the program ends
            stream.close()


class _LogWindow:
    """Means of the losses since the last line of the log."""

    def __init__(self):
        self._losses, self._crops, self._since = [], 0, time.monotonic()

    def add(self, losses, num_crops):
        self._losses.append(losses)
        self._crops += num_crops

    def flush(self) -> dict[str, float]:
        now = time.monotonic()
        values = {name: float(np.mean([entry[name] for entry in self._losses])) for name in self._losses[0]}
        values["crops_per_second"] = self._crops / (now - self._since)
        self._losses, self._crops, self._since = [], 0, now
        return values
