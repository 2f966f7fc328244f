"""Running one training phase: steps, validation, checkpoints, logging, the inference-mode tail, a clean stop."""

import contextlib
import dataclasses
import json
import operator
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
from absl import logging
from tqdm import tqdm

from posepile.data.atomic_files import write_json
from posepile.data.part_workers import WorkerError
from posepile.data.queue_statistics import QueueStatistics
from posepile.models.objective import read_sums
from posepile.prediction.predictor import Predictor
from posepile.training.checkpoints import restore_checkpoint, save_checkpoint
from posepile.training.optimizer import PoseOptimizer
from posepile.training.run_directory import peak_memory_mb
from posepile.training.run_log import RunLog, read_log
from posepile.training.schedules import Schedule
from posepile.training.steps import TrainingSteps
from posepile.training.validation import SCORE_NAME, Validation

LOG_INTERVAL = 50  # steps
ON_NAN = ("stop", "skip")
MAX_SKIPPED_IN_A_ROW = 50


class TrainingInterrupted(Exception):
    """A stop was asked for; the checkpoint is written and the same command goes on from it."""


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became nan or infinite; the message says at which step, and what to look at."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase's length and rates.

    Attributes:
        name: "initial", "finetune", or "bn_inference".
        steps: all of them; the last `bn_inference_steps` run with BatchNorm's stored statistics.
        head, backbone: learning rate schedules.
    """

    name: str
    steps: int
    bn_inference_steps: int
    head: Schedule
    backbone: Schedule

    def describe(self) -> dict:
        drop_step = self.head.drop_step or self.backbone.drop_step or 0
        return {"name": self.name, "steps": self.steps, "bn_inference_steps": self.bn_inference_steps,
                "learning_rates": {"head": self.head.corners(drop_step), "backbone": self.backbone.corners(drop_step)}}


class PhaseRun:
    """Takes a model through a phase, from its newest checkpoint if there is one.

    Args:
        steps: of training, made for this phase; the weights of its model are the starting point.
        phase: its length and rates.
        batches: called with the first step; yields that step's batch, with what `step_inputs` adds, and the following ones.
        run_dir: folder of the run.
        log: of the run.
        checkpoint_interval, validation_interval: steps.
        should_stop: asked after every step; when True, a checkpoint is written and TrainingInterrupted raised.
        dataset_names: of the data sets that `dataset` in a batch counts.
        on_nan: "stop", or "skip" to leave out steps whose loss is not finite.
        blame: says in words what makes the loss of a batch non-finite.
        statistics: of `batches`; goes to the log with the losses, its warnings to the screen.
        validation: scored every validation_interval steps and at the end; its best checkpoint is kept.
    """

    def __init__(self, steps: TrainingSteps, phase: Phase, batches: Callable[[int], Iterator[dict]], *, run_dir: pathlib.Path,
                 log: RunLog, checkpoint_interval: int, should_stop: Callable[[], bool], dataset_names: Sequence[str] = (),
                 on_nan: str = "stop", blame: Callable[[dict], str] = lambda batch: "",
                 statistics: QueueStatistics | None = None, validation: Validation | None = None,
                 validation_interval: int = 0):
        self._steps, self._phase, self._batches = steps, phase, batches
        self._folder, self._log = run_dir / "checkpoints", log
        self._checkpoint_interval, self._validation_interval = checkpoint_interval, validation_interval
        self._is_asked_to_stop = should_stop
        self._dataset_names = list(dataset_names)
        self._on_nan, self._blame = on_nan, blame
        self._statistics, self._validation = statistics, validation
        self._is_chief = steps.distribution.is_chief
        self._pending, self._predictor = None, None
        self._skipped_in_a_row, self._crops, self._since = 0, 0, time.monotonic()

    def run(self) -> None:
        """Raises: TrainingInterrupted; NonFiniteLossError, keeping the last good checkpoint; OSError if it cannot write."""
        phase = self._phase
        step = restore_checkpoint(self._folder, phase.name, self._steps.variables)
        if self._is_chief:
            self._log.truncate(phase.name, step)
            self._note_best()
        first_inference_step = phase.steps - phase.bn_inference_steps
        self._use_stored_statistics(step >= first_inference_step)
        progress = tqdm(total=phase.steps, initial=step, desc=f"{phase.name:12}", unit="step", smoothing=0.05,
                        mininterval=1.0, dynamic_ncols=True, disable=not self._is_chief)
        self._since, stop = time.monotonic(), False
        with progress, _closing(self._batches(step) if step < phase.steps else iter(())) as stream:
            for batch in self._agreed(_until_stopped(stream, self._is_asked_to_stop)):
                if step == first_inference_step and phase.bn_inference_steps:
                    self._use_stored_statistics(True)
                pending = (step, batch, *self._steps.run(batch))
                self._check_last_step()  # an accelerator is at work on this step meanwhile
                self._pending = pending
                step += 1
                self._crops += len(batch["image"]) * self._steps.distribution.num_workers
                progress.update()
                if step % LOG_INTERVAL == 0 or step == phase.steps:
                    self._write_log(step, progress)
                if self._validation and (step % self._validation_interval == 0 or step == phase.steps):
                    self._validate(step)
                stop = self._steps.distribution.any_worker(self._is_asked_to_stop())
                if step % self._checkpoint_interval == 0 or step == phase.steps or stop:
                    self._save(step)
                if stop or step >= phase.steps:
                    break
        if step < phase.steps or stop:
            if not stop:  # the stream has ended by itself
                self._save(step)
            raise TrainingInterrupted(f"stopped after step {step} of {phase.steps} of {phase.name}")
        self._use_stored_statistics(False)

    def _agreed(self, stream: Iterator[dict]) -> Iterator[dict]:
        """The batches, until any of the processes that train together has none: no other then starts a step without it."""
        while not self._steps.distribution.any_worker((batch := next(stream, None)) is None):
            yield batch

    def _use_stored_statistics(self, value: bool) -> None:
        self._steps.objective.set_use_stored_statistics(value)
        self._steps.reset()

    def _check_last_step(self) -> None:
        """Looks at the loss and gradient of the step before, which has done nothing if they are not finite."""
        if self._pending is None:
            return
        step, batch, loss, gradient_norm = self._pending
        self._pending = None
        loss, gradient_norm = float(loss), float(gradient_norm)
        if np.isfinite([loss, gradient_norm]).all():
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        what = f"the loss is {loss}" if not np.isfinite(loss) else f"the gradient's norm is {gradient_norm}"
        is_overflow = np.isfinite(loss) and self._steps.optimizer.is_scale_dynamic  # a smaller loss scale is to mend that
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW or (self._on_nan == "stop" and not is_overflow):
            self._steps.sync()
            raise NonFiniteLossError(
                f"{what} at step {step} of {self._phase.name}. {self._blame(batch)} The last good checkpoint is kept in "
                f"{self._folder}. --on-nan=skip leaves such steps out.")
        if not is_overflow:
            logging.warning("%s at step %d of %s: left out", what, step, self._phase.name)

    def _write_log(self, step: int, progress: tqdm) -> None:
        """Logs the means since the last line."""
        self._check_last_step()
        self._steps.sync()
        now, optimizer = time.monotonic(), self._steps.optimizer
        sums = self._steps.objective.sums
        values = read_sums(np.asarray(sums), self._dataset_names)
        sums.assign(np.zeros(sums.shape, "float32"))
        speed, self._crops, self._since = self._crops / (now - self._since), 0, now
        queue_figures, warnings = self._statistics.report() if self._statistics else ({}, [])
        for warning in warnings:
            logging.warning("%s", warning)
        progress.set_postfix(loss=f"{values.get('loss', np.nan):.3f}", crops_per_s=f"{speed:.0f}")
        if self._is_chief:
            self._log.write(
                self._phase.name, step, **values, **queue_figures, crops_per_second=speed,
                learning_rate_head=self._phase.head.rate(step - 1),
                learning_rate_backbone=self._phase.backbone.rate(step - 1),
                weight_norm=_norm(self._steps.objective.trainable_variables), memory_mb=peak_memory_mb(),
                **{name: float(getattr(optimizer, variable).numpy()) for name, variable in (
                    ("gradient_norm", "gradient_norm"), ("loss_scale", "loss_scale"), ("skipped_steps", "num_skipped"))})

    def _validate(self, step: int) -> None:
        """Scores the model, and its averaged weights beside it, on the fixed validation crops."""
        self._steps.sync()
        if not self._is_chief:
            return
        model = self._steps.objective.pose_model
        if self._predictor is None:
            self._predictor = Predictor(type(model).from_config(model.get_config()))
        predict = self._predictor.predict_crops
        copy_weights(model, self._predictor.model)
        scores = self._validation.score(predict)
        self._log.write_pictures(self._phase.name, step, self._validation.pictures(predict))
        if self._steps.optimizer.averages:
            copy_weights(model, self._predictor.model, self._steps.optimizer)
            scores |= {f"average/{name}": value for name, value in self._validation.score(predict).items()}
        self._log.write(self._phase.name, step, **scores)
        best = read_best(self._folder, self._phase.name)
        if scores[SCORE_NAME] < (best[SCORE_NAME] if best else np.inf):  # nan is never the best
            self._save(step)
            self._note_best()

    def _note_best(self) -> None:
        """Writes down which checkpoint is the best by the log, which may say more, or less, after a crash."""
        records = read_log(self._log.path) if self._log.path.is_file() else []
        scored = [r for r in records if r["phase"] == self._phase.name and np.isfinite(r.get(SCORE_NAME, np.nan))]
        path = _best_path(self._folder, self._phase.name)
        if scored:
            best = min(scored, key=operator.itemgetter(SCORE_NAME))
            write_json(path, {name: value for name, value in best.items() if name != "phase"})
        else:
            path.unlink(missing_ok=True)

    def _save(self, step: int) -> None:
        self._check_last_step()
        self._steps.sync()
        if self._is_chief:
            best = read_best(self._folder, self._phase.name)
            save_checkpoint(self._folder, self._phase.name, step, self._steps.variables, keep=best["step"] if best else None)


def read_best(folder: pathlib.Path, phase: str) -> dict | None:
    """The scores and the step of the phase's best checkpoint by validation."""
    path = _best_path(folder, phase)
    return json.loads(path.read_text()) if path.is_file() else None


def _best_path(folder: pathlib.Path, phase: str) -> pathlib.Path:
    return folder / f"{phase}-best.json"


def copy_weights(source: keras.Model, target: keras.Model, optimizer: PoseOptimizer | None = None) -> None:
    """Gives a model the weights of another one of the same kind; with an optimizer, the averages of those it trains."""
    averages = {}
    if optimizer is not None:
        averages = {v.path: average for v, average in zip(source.trainable_variables, optimizer.averages, strict=True)}
    for target_variable, variable in zip(target.variables, source.variables, strict=True):
        target_variable.assign(np.asarray(averages.get(variable.path, variable)))


def _norm(variables: Sequence) -> float:
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(v), dtype=np.float64)) for v in variables)))


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
