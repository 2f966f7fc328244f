import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posepile.training.run_log import RunLog, read_log


def _steps(log):
    return [(record["phase"], record["step"]) for record in read_log(log.path)]


def _filled(tmp_path):
    log = RunLog(tmp_path)
    for phase, step in (("initial", 50), ("initial", 100), ("finetune", 50), ("finetune", 100)):
        log.write(phase, step, loss=step / 100)
    return log


def test_records_come_back(tmp_path):
    log = _filled(tmp_path)
    log.close()
    assert read_log(log.path)[1] == {"phase": "initial", "step": 100, "loss": 1.0}
    assert _steps(log) == [("initial", 50), ("initial", 100), ("finetune", 50), ("finetune", 100)]


def test_tensorboard_has_the_same_numbers_before_the_log_is_closed(tmp_path):
    log = _filled(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "initial")).Reload()
    values = [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors("loss")]
    assert values == [(50, 0.5), (100, 1.0)]
    log.close()


def test_truncation_forgets_later_steps_of_its_phase(tmp_path):
    log = _filled(tmp_path)
    log.truncate("finetune", 50)
    assert _steps(log) == [("initial", 50), ("initial", 100), ("finetune", 50)]
    log.truncate("initial", 0)
    assert _steps(log) == [("finetune", 50)]
    log.close()


def test_truncation_of_no_log(tmp_path):
    RunLog(tmp_path).truncate("initial", 0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_line_cut_short_by_a_crash_is_left_out_and_spoils_no_later_one(tmp_path):
    log = _filled(tmp_path)
    with open(log.path, "a") as file:
        file.write(json.dumps({"phase": "finetune", "step": 150})[:-7])
    assert len(read_log(log.path)) == 4
    log.truncate("finetune", 100)
    log.write("finetune", 150, loss=2.0)
    assert _steps(log)[-2:] == [("finetune", 100), ("finetune", 150)]
    log.close()
