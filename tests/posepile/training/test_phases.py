import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posepile.data.batches import make_batch
from posepile.data.part_workers import WorkerError
from posepile.data.queue_statistics import QueueStatistics
from posepile.training import backend, phases
from posepile.training.checkpoints import list_checkpoints, restore_checkpoint
from posepile.training.phases import NonFiniteLossError, Phase, TrainingInterrupted, blame_datasets, run_phase
from posepile.training.run_log import RunLog, read_log
from posepile.training.schedules import initial_schedule
from tests.posepile import small_model

STEPS, BN_INFERENCE_STEPS, CHECKPOINT_INTERVAL, SEED = 8, 3, 3, 4
SCHEDULE = initial_schedule(2e-3, STEPS)
PHASE = Phase("initial", STEPS, BN_INFERENCE_STEPS, SCHEDULE, SCHEDULE, SCHEDULE.drop_step)


class Crash(Exception):
    """Stands for a power cut."""


@pytest.fixture(autouse=True)
def _short_log_interval_and_policy(monkeypatch):
    monkeypatch.setattr(phases, "LOG_INTERVAL", 2)
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def _train(plan, run_dir, *, stop=None, crash=None, spoil=None, precision="float32", batches=None, phase=PHASE,
           statistics=None):
    """Runs the phase with a new trainer, as a new process would; stops, crashes or spoils a weight after the given step.

    Returns: the trainer, and the exception that ended the phase, None if it came to its end.
    """
    backend.configure(SEED, precision)
    trainer = small_model.make_trainer(plan, seed=SEED)
    log = RunLog(run_dir)

    def should_stop():
        if int(trainer.step_count) == crash:
            raise Crash
        if int(trainer.step_count) == spoil:
            trainer.trainable_variables[0].assign(np.nan * trainer.trainable_variables[0])
        return int(trainer.step_count) == stop

    ended_by = None
    try:
        run_phase(trainer, phase, batches or backend.batch_stream(plan, SEED), run_dir=run_dir, log=log,
                  weight_decay=0.1, checkpoint_interval=CHECKPOINT_INTERVAL, should_stop=should_stop, jit_compile=False,
                  blame=lambda batch: blame_datasets(trainer, batch, plan), statistics=statistics)
    except (Crash, TrainingInterrupted, NonFiniteLossError) as error:
        ended_by = error
    log.close()
    return trainer, ended_by


def _state(trainer):
    return [*trainer.variables, *trainer.optimizer.variables]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bitwise repeatable with TensorFlow only")
def test_interrupted_and_resumed_run_ends_bitwise_the_same(batch_plan, tmp_path):
    whole, ended_by = _train(batch_plan, tmp_path / "whole")
    assert ended_by is None
    folder = tmp_path / "resumed"

    _, ended_by = _train(batch_plan, folder, crash=4)  # the checkpoint of step 3 is the last one
    assert isinstance(ended_by, Crash)
    assert [step for step, _ in list_checkpoints(folder / "checkpoints", "initial")] == [0, 3]
    assert [r["step"] for r in read_log(folder / "metrics.jsonl")] == [2, 4]

    _, ended_by = _train(batch_plan, folder, stop=5)  # where BatchNorm goes over to its stored statistics
    assert isinstance(ended_by, TrainingInterrupted)
    assert "stopped after step 5 of 8 of initial" in str(ended_by)
    resumed, ended_by = _train(batch_plan, folder)
    assert ended_by is None

    assert sum(np.size(v) for v in _state(whole)) > 3 * sum(np.size(v) for v in whole.trainable_variables)  # two moments each
    for ours, theirs in zip(_state(resumed), _state(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=theirs.path)
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "resumed")]
    for records in logs:
        assert [r["step"] for r in records] == [2, 4, 6, 8]
        np.testing.assert_allclose([r["learning_rate_head"] for r in records], [SCHEDULE.rate(s) for s in (1, 3, 5, 7)])
    assert logs[0][0]["loss"] == logs[1][0]["loss"]
    assert logs[0][3]["loss"] == logs[1][3]["loss"]

    # a phase that is done draws no batch and changes nothing
    again, ended_by = _train(batch_plan, folder, batches=lambda step: pytest.fail("a batch was asked for"))
    assert ended_by is None
    for ours, theirs in zip(again.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("told_to_stop", [True, False])
def test_workers_that_end_before_the_phase_does(batch_plan, tmp_path, told_to_stop):
    """A signal may reach them and the trainer at once: then it stops as it would alone, with a checkpoint."""
    trainer, stopped = small_model.make_trainer(batch_plan, seed=SEED), []

    def two_batches(step):
        yield from (make_batch(batch_plan, SEED, step + i) for i in range(2))
        stopped.append(told_to_stop)
        raise WorkerError("killed")

    with pytest.raises(TrainingInterrupted if told_to_stop else WorkerError, match="step 2 of 8" if told_to_stop else "killed"):
        run_phase(trainer, PHASE, two_batches, run_dir=tmp_path, log=RunLog(tmp_path), weight_decay=0.1,
                  checkpoint_interval=CHECKPOINT_INTERVAL, should_stop=lambda: any(stopped), jit_compile=False)
    assert restore_checkpoint(tmp_path / "checkpoints", "initial", _state(trainer)) == (2 if told_to_stop else 0)


def test_planted_nan_is_blamed_on_its_data_set(batch_plan, tmp_path):
    def batches(start_step):
        for step in range(start_step, STEPS):
            batch = make_batch(batch_plan, SEED, step)
            if step == 1:
                batch["intrinsics"][9] = np.nan  # one of the four with 2D labels
            yield batch

    trainer, error = _train(batch_plan, tmp_path, batches=batches)
    assert isinstance(error, NonFiniteLossError)
    assert "the loss is nan at step 1 of initial. Labels or predictions are not finite for: photos. The last" in str(error)
    assert all(np.isfinite(np.asarray(v)).all() for v in trainer.variables)
    assert restore_checkpoint(tmp_path / "checkpoints", "initial", _state(trainer)) == 0


def test_spoiled_weights_are_not_saved(batch_plan, tmp_path):
    """As when a gradient overflows: the loss of that step was still finite."""
    _, error = _train(batch_plan, tmp_path, spoil=CHECKPOINT_INTERVAL)
    assert isinstance(error, NonFiniteLossError)
    assert "weights are not finite after step 2 of initial" in str(error)
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints", "initial")] == [0]


def test_blame_without_a_culprit(batch_plan):
    trainer = small_model.make_trainer(batch_plan)
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    assert "a lower --learning-rate" in blame_datasets(trainer, make_batch(batch_plan, SEED, 0), batch_plan)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(batch_plan, tmp_path, precision):
    phase = Phase("initial", 2, 0, SCHEDULE, SCHEDULE, SCHEDULE.drop_step)
    trainer, ended_by = _train(batch_plan, tmp_path, precision=precision, phase=phase)
    assert ended_by is None
    start = small_model.make_trainer(batch_plan, seed=SEED)
    moved = [np.abs(a - b).max() for a, b in zip(trainer.get_weights(), start.get_weights(), strict=True)]
    assert np.isfinite(moved).all()
    assert np.mean(np.array(moved) > 0) > 0.9
    assert all(v.dtype == "float32" for v in trainer.trainable_variables)
    has_scale = any("dynamic_scale" in v.path for v in trainer.optimizer.variables)
    assert has_scale == (precision == "mixed_float16")


def test_figures_and_warnings_of_the_data_reach_the_log(batch_plan, tmp_path, caplog):
    statistics = QueueStatistics(batch_plan)

    def batches(start_step):
        batch_plan.skipped_records["legs", 5] = "100% broken"
        return backend.batch_stream(batch_plan, SEED, statistics)(start_step)

    phase = Phase("initial", 4, 0, SCHEDULE, SCHEDULE, SCHEDULE.drop_step)
    _, ended_by = _train(batch_plan, tmp_path, batches=batches, phase=phase, statistics=statistics)
    batch_plan.skipped_records.clear()
    assert ended_by is None
    records = read_log(tmp_path / "metrics.jsonl")
    names = {f"data/{figure}/{name}" for figure in ("crops_per_second", "queue_fill", "ms_per_crop", "cpu_ms_per_crop")
             for name in ("arms", "legs", "photos")}
    for record in records:
        assert names <= record.keys() and record["data/skipped_records"] == 1
        assert 0 < record["data/wait_share"] < 1
    events = EventAccumulator(str(tmp_path / "tensorboard" / "initial")).Reload()
    board = [float(event.tensor_proto.float_val[0]) for event in events.Tensors("data/queue_fill/arms")]
    assert board == pytest.approx([record["data/queue_fill/arms"] for record in records])
    assert [m for m in caplog.messages if "skipped" in m] == ["skipped example 5 of legs: 100% broken"]


def test_description_of_a_phase():
    description = PHASE.describe()
    assert description["steps"] == 8
    assert description["bn_inference_steps"] == 3
    assert [step for step, _ in description["learning_rates"]["head"]] == [0, 6, 7, 7]
