import dataclasses
import json

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posepile.data.part_workers import WorkerError
from posepile.data.queue_statistics import QueueStatistics
from posepile.prediction.predictor import Predictor
from posepile.training import backend, phases
from posepile.training.checkpoints import list_checkpoints, restore_checkpoint
from posepile.training.diagnosis import explain_non_finite
from posepile.training.phases import NonFiniteLossError, Phase, PhaseRun, TrainingInterrupted, copy_weights, read_best
from posepile.training.run_log import RunLog, read_log
from posepile.training.step_inputs import dataset_names
from tests.posepile import small_model
from tests.posepile.training.small_training import SCHEDULE, batch_of, make_small_steps, values_of

STEPS, BN_INFERENCE_STEPS, CHECKPOINT_INTERVAL, SEED = 8, 3, 3, 4
PHASE = Phase("initial", STEPS, BN_INFERENCE_STEPS, SCHEDULE, SCHEDULE)


class Crash(Exception):
    """Stands for a power cut."""


@pytest.fixture(autouse=True)
def _short_log_interval(monkeypatch):
    monkeypatch.setattr(phases, "LOG_INTERVAL", 2)


def _train(plan, run_dir, *, stop=None, crash=None, batches=None, phase=PHASE, steps=None, **options):
    """Runs the phase with new steps, as a new process would; stops or crashes after the given step.

    Returns: the steps, and the exception that ended the phase, None if it came to its end.
    """
    backend.configure(SEED, "float32")
    steps = steps or make_small_steps(plan, seed=SEED, average_momentum=0.9)
    log, taken = RunLog(run_dir), []

    def counted(start_step):
        taken[:] = [start_step]
        for batch in (batches or backend.batch_stream(plan, SEED))(start_step):
            taken[0] += 1
            yield batch

    def should_stop():
        if taken[0] == crash:
            raise Crash
        return taken[0] == stop

    ended_by = None
    try:
        PhaseRun(steps, phase, counted, run_dir=run_dir, log=log, checkpoint_interval=CHECKPOINT_INTERVAL,
                 should_stop=should_stop, dataset_names=dataset_names(plan),
                 blame=lambda batch: explain_non_finite(steps.objective.pose_model, batch, plan), **options).run()
    except (Crash, TrainingInterrupted, NonFiniteLossError) as error:
        ended_by = error
    log.close()
    return steps, ended_by


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bitwise repeatable with TensorFlow only")
def test_interrupted_and_resumed_run_ends_bitwise_the_same(batch_plan, tmp_path):
    whole, ended_by = _train(batch_plan, tmp_path / "whole")
    assert ended_by is None
    folder = tmp_path / "resumed"

    _, ended_by = _train(batch_plan, folder, crash=4)  # the checkpoint of step 3 is the last one
    assert isinstance(ended_by, Crash)
    assert [step for step, _ in list_checkpoints(folder / "checkpoints", "initial")] == [3]
    assert [r["step"] for r in read_log(folder / "metrics.jsonl")] == [2, 4]

    _, ended_by = _train(batch_plan, folder, stop=5)  # where BatchNorm goes over to its stored statistics
    assert isinstance(ended_by, TrainingInterrupted)
    assert "stopped after step 5 of 8 of initial" in str(ended_by)
    resumed, ended_by = _train(batch_plan, folder)
    assert ended_by is None

    trainable = whole.objective.trainable_variables
    assert sum(np.size(v) for v in whole.variables) > 4 * sum(np.size(v) for v in trainable)  # two moments and an average
    for ours, theirs in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=theirs.path)
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "resumed")]
    for records in logs:
        assert [r["step"] for r in records] == [2, 4, 6, 8]
        np.testing.assert_allclose([r["learning_rate_head"] for r in records], [SCHEDULE.rate(s) for s in (1, 3, 5, 7)])
        assert records[-1]["memory_mb"] > 100
    for name in ("loss", "loss_2d", "error/arms", "gradient_norm", "weight_norm", "skipped_steps", "loss_scale"):
        assert [r[name] for r in logs[0]] == [r[name] for r in logs[1]], name

    # a phase that is done draws no batch and changes nothing
    again, ended_by = _train(batch_plan, folder, batches=lambda step: pytest.fail("a batch was asked for"))
    assert ended_by is None
    for ours, theirs in zip(again.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("told_to_stop", [True, False])
@pytest.mark.parametrize("num_batches", [0, 2])
def test_workers_that_end_before_the_phase_does(batch_plan, tmp_path, told_to_stop, num_batches):
    """A signal may reach them and the trainer at once: then it stops as it would alone, with a checkpoint."""
    steps, stopped = make_small_steps(batch_plan, seed=SEED), []

    def few_batches(step):
        yield from (batch_of(batch_plan, SEED, step + i) for i in range(num_batches))
        stopped.append(told_to_stop)
        raise WorkerError("killed")

    with pytest.raises(TrainingInterrupted if told_to_stop else WorkerError,
                       match=f"step {num_batches} of 8" if told_to_stop else "killed"):
        PhaseRun(steps, PHASE, few_batches, run_dir=tmp_path, log=RunLog(tmp_path), checkpoint_interval=CHECKPOINT_INTERVAL,
                 should_stop=lambda: any(stopped), dataset_names=dataset_names(batch_plan)).run()
    assert restore_checkpoint(tmp_path / "checkpoints", "initial", steps.variables) == (num_batches if told_to_stop else 0)


def _with_bad_rows(plan, bad_steps):
    def batches(start_step):
        for step in range(start_step, STEPS):
            batch = batch_of(plan, SEED, step)
            if step in bad_steps:
                batch["intrinsics"][9] = np.nan  # one of the four with 2D labels
            yield batch
    return batches


def test_planted_nan_is_blamed_on_its_data_set(batch_plan, tmp_path):
    steps, error = _train(batch_plan, tmp_path, batches=_with_bad_rows(batch_plan, {4}))
    assert isinstance(error, NonFiniteLossError)
    assert "the loss is nan at step 4 of initial. Labels or predictions are not finite for: photos. The last" in str(error)
    assert "--on-nan=skip" in str(error)
    assert all(np.isfinite(np.asarray(v)).all() for v in steps.objective.variables)
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints", "initial")] == [3]


def test_bad_steps_can_be_left_out(batch_plan, tmp_path, caplog):
    steps, error = _train(batch_plan, tmp_path, batches=_with_bad_rows(batch_plan, {1, 4}), on_nan="skip")
    assert error is None
    warnings = [m for m in caplog.messages if "left out" in m]
    assert warnings == [f"the loss is nan at step {step} of initial: left out" for step in (1, 4)]
    assert read_log(tmp_path / "metrics.jsonl")[-1]["skipped_steps"] == 2
    assert int(np.asarray(steps.optimizer.iterations)) == STEPS - 2
    assert all(np.isfinite(np.asarray(v)).all() for v in steps.objective.variables)


def test_nothing_but_bad_steps_is_an_error(batch_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "MAX_SKIPPED_IN_A_ROW", 3)
    _, error = _train(batch_plan, tmp_path, batches=_with_bad_rows(batch_plan, {2, 3, 4, 5}), on_nan="skip")
    assert isinstance(error, NonFiniteLossError)
    assert "at step 4 of" in str(error)


def test_first_bad_layer_is_named(batch_plan):
    model = small_model.make_model(SEED)
    batch = batch_of(batch_plan, SEED, 0)
    assert "a lower --learning-rate" in explain_non_finite(model, batch, batch_plan)
    before = values_of(model.variables)
    next(v for v in model.variables if "stage2_block1_2_conv" in v.path).assign(
        np.full_like(model.get_layer(model.backbone.name).get_layer("stage2_block1_2_conv").kernel, np.inf))
    text = explain_non_finite(model, batch, batch_plan)
    assert "not finite for: arms, legs, photos. The first layer with a value that is not finite is stage2_block1_2_conv" in text
    changed = [v.path for v, value in zip(model.variables, before, strict=True) if not np.array_equal(np.asarray(v), value)]
    assert len(changed) == 1  # looking has changed no statistics


def test_gradients_that_overflow_under_a_dynamic_loss_scale_are_no_error(batch_plan, tmp_path):
    steps = make_small_steps(batch_plan, seed=SEED, loss_scale="dynamic")
    steps.optimizer.loss_scale.assign(3e38)
    phase = Phase("initial", 4, 0, SCHEDULE, SCHEDULE)
    _, error = _train(batch_plan, tmp_path, steps=steps, phase=phase)
    assert error is None
    records = read_log(tmp_path / "metrics.jsonl")
    assert records[-1]["skipped_steps"] > 0
    assert records[-1]["loss_scale"] <= 2.0**24
    _, error = _train(batch_plan, tmp_path / "static", phase=phase,
                      steps=make_small_steps(batch_plan, seed=SEED, loss_scale=3e38))
    assert isinstance(error, NonFiniteLossError)
    assert "the gradient's norm is" in str(error)


def test_stop_at_the_last_step(batch_plan, tmp_path):
    """All steps are done, but what comes after the phase is to wait."""
    _, ended_by = _train(batch_plan, tmp_path, stop=STEPS)
    assert isinstance(ended_by, TrainingInterrupted)
    assert "stopped after step 8 of 8 of initial" in str(ended_by)
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints", "initial")] == [6, 8]


class _Scores:
    """Stands for validation crops: each score that is asked for is the next of a list."""

    def __init__(self, scores):
        self.scores, self.seen = list(scores), []

    def score(self, predict):
        self.seen.append(predict(np.zeros((1, 32, 32, 3), np.uint8), np.eye(3, dtype=np.float32)[None]))
        return {"validation_mpjpe": self.scores.pop(0)}

    def pictures(self, predict):
        return {"predictions/arms": np.full((4, 4, 3), 7, np.uint8)}


def test_the_best_checkpoint_stays(batch_plan, tmp_path):
    steps = make_small_steps(batch_plan, seed=SEED)
    validation = _Scores([np.nan, 90.0, 70.0, 80.0, 75.0, 71.0, 99.0, 98.0])
    _, error = _train(batch_plan, tmp_path, steps=steps, validation=validation, validation_interval=1)
    assert error is None
    best = read_best(tmp_path / "checkpoints", "initial")
    assert (best["step"], best["validation_mpjpe"]) == (3, 70.0)
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints", "initial")] == [3, 6, 8]
    scores = [r["validation_mpjpe"] for r in read_log(tmp_path / "metrics.jsonl") if "validation_mpjpe" in r]
    np.testing.assert_array_equal(scores, [np.nan, 90, 70, 80, 75, 71, 99, 98])
    assert len({prediction.tobytes() for prediction in validation.seen}) == STEPS  # of the weights at each step
    events = EventAccumulator(str(tmp_path / "tensorboard" / "initial")).Reload()
    assert events.Tags()["images"] == ["predictions/arms"]


@pytest.mark.parametrize("note", [None, '{"step": 99, "validation_mpjpe": 1.0}'])
def test_the_best_checkpoint_is_known_after_a_crash(batch_plan, tmp_path, note):
    """Killed between a checkpoint and the note that it is the best; or the steps that the note speaks of were lost."""
    _, error = _train(batch_plan, tmp_path, crash=5, steps=make_small_steps(batch_plan, seed=SEED),
                      validation=_Scores([90.0, 70.0, 80.0, 85.0, 86.0]), validation_interval=1)
    assert isinstance(error, Crash)
    path = tmp_path / "checkpoints" / "initial-best.json"
    path.unlink()
    if note:
        path.write_text(note)
    _, error = _train(batch_plan, tmp_path, steps=make_small_steps(batch_plan, seed=SEED),
                      validation=_Scores([85.0, 75.0, 71.0, 99.0, 98.0]), validation_interval=1)
    assert error is None
    assert read_best(tmp_path / "checkpoints", "initial")["validation_mpjpe"] == 70.0
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints", "initial")] == [2, 6, 8]


def test_averaged_weights_are_validated_beside_the_others(batch_plan, tmp_path):
    steps = make_small_steps(batch_plan, seed=SEED, average_momentum=0.9)
    validation = _Scores(range(20))
    _, error = _train(batch_plan, tmp_path, steps=steps, validation=validation, validation_interval=4)
    assert error is None
    records = [r for r in read_log(tmp_path / "metrics.jsonl") if "validation_mpjpe" in r]
    assert [(r["validation_mpjpe"], r["average/validation_mpjpe"]) for r in records] == [(0, 1), (2, 3)]
    model = small_model.make_model(1)
    copy_weights(steps.objective.pose_model, model, steps.optimizer)
    expected = Predictor(model).predict_crops(np.zeros((1, 32, 32, 3), np.uint8), np.eye(3, dtype=np.float32)[None])
    np.testing.assert_array_equal(validation.seen[-1], expected)
    assert (validation.seen[-2] != expected).any()


def test_full_disk_keeps_the_checkpoint_before(batch_plan, tmp_path, monkeypatch):
    from posepile.training import checkpoints

    def fail_later(file, **arrays):
        if len(list_checkpoints(tmp_path / "checkpoints", "initial")) == 1:
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    savez = np.savez
    monkeypatch.setattr(checkpoints.np, "savez", fail_later)
    with pytest.raises(OSError, match=r"checkpoint of step 6 of initial .*No space left.*initial-00000003.npz is intact"):
        _train(batch_plan, tmp_path)
    assert restore_checkpoint(tmp_path / "checkpoints", "initial", make_small_steps(
        batch_plan, seed=SEED, average_momentum=0.9).variables) == 3


def test_figures_and_warnings_of_the_data_reach_the_log(batch_plan, tmp_path, caplog):
    statistics = QueueStatistics(batch_plan)

    def batches(start_step):
        batch_plan.skipped_records["legs", 5] = "100% broken"
        return backend.batch_stream(batch_plan, SEED, statistics=statistics)(start_step)

    phase = Phase("initial", 4, 0, SCHEDULE, SCHEDULE)
    _, ended_by = _train(batch_plan, tmp_path, batches=batches, phase=phase, statistics=statistics)
    batch_plan.skipped_records.clear()
    assert ended_by is None
    records = read_log(tmp_path / "metrics.jsonl")
    names = {f"data/{figure}/{name}" for figure in ("crops_per_second", "queue_fill", "ms_per_crop", "cpu_ms_per_crop")
             for name in ("arms", "legs", "photos")}
    for record in records:
        assert names <= record.keys() and record["data/skipped_records"] == 1
        assert 0 < record["data/wait_share"] < 1
        assert {"error/arms", "error/legs", "error/photos"} <= record.keys()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "initial")).Reload()
    board = [event.value for event in events.Scalars("data/queue_fill/arms")]
    assert board == pytest.approx([record["data/queue_fill/arms"] for record in records])
    assert [m for m in caplog.messages if "skipped" in m] == ["skipped example 5 of legs: 100% broken"]


def test_description_of_a_phase():
    description = PHASE.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["steps"] == 8
    assert description["bn_inference_steps"] == 3
    assert [step for step, _ in description["learning_rates"]["head"]] == [0, 6, 7, 7]
    constant = dataclasses.replace(SCHEDULE, drop_step=None, decay=1.0)
    corners = Phase("bn_inference", 8, 8, constant, constant).describe()["learning_rates"]["backbone"]
    assert {rate for _, rate in corners} == {SCHEDULE.start_rate}
