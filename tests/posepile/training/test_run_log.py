import json
import math

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posepile.training.run_log import RunLog, read_log


def _steps(log):
    return [(record["phase"], record["step"]) for record in read_log(log.path)]


def _events(run_dir, phase):
    return EventAccumulator(str(run_dir / "tensorboard" / phase)).Reload()


def _scalars(run_dir, phase, name):
    return [(event.step, event.value) for event in _events(run_dir, phase).Scalars(name)]


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
    assert _scalars(tmp_path, "initial", "loss") == [(50, 0.5), (100, 1.0)]
    log.close()


def test_tensorboard_gets_the_very_pictures(tmp_path):
    pictures = {f"predictions/{name}": np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)
                for i, name in enumerate(("studio", "street"))}
    log = RunLog(tmp_path)
    log.write_pictures("initial", 70, pictures)
    events = _events(tmp_path, "initial")
    assert events.Tags()["images"] == list(pictures)
    for name, picture in pictures.items():
        (image,) = events.Images(name)
        assert (image.step, image.height, image.width) == (70, *picture.shape[:2])
        decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(decoded, picture)
    log.close()


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    log = RunLog(tmp_path)
    log.write("initial", 50, loss=math.nan, norm=np.float32(np.inf), **{"loss/h36m": np.float32(0.5)})
    for _ in range(2):  # as written, and as rewritten
        assert json.loads(log.path.read_text(), parse_constant=pytest.fail) == {
            "phase": "initial", "step": 50, "loss": None, "norm": None, "loss/h36m": 0.5}
        (record,) = read_log(log.path)
        assert math.isnan(record["loss"]) and math.isnan(record["norm"]) and record["loss/h36m"] == 0.5
        log.truncate("initial", 50)
    assert _scalars(tmp_path, "initial", "norm") == [(50, math.inf)]
    log.close()


def test_truncation_forgets_later_steps_of_its_phase(tmp_path):
    log = _filled(tmp_path)
    log.truncate("finetune", 50)
    assert _steps(log) == [("initial", 50), ("initial", 100), ("finetune", 50)]
    log.truncate("initial", 0)
    assert _steps(log) == [("finetune", 50)]
    log.close()


@pytest.mark.parametrize("is_new_process", [False, True])
def test_tensorboard_forgets_later_steps_of_the_phase(tmp_path, is_new_process):
    log = _filled(tmp_path)
    log.write_pictures("finetune", 100, {"a": np.zeros((4, 4, 3), np.uint8)})
    log.write("finetune", 150, loss=9.0, never_again=1.0)
    if is_new_process:
        log.close()
        log = RunLog(tmp_path)
    log.truncate("finetune", 50)
    assert _scalars(tmp_path, "finetune", "loss") == [(50, 0.5)]
    log.write("finetune", 100, loss=3.0)
    assert _scalars(tmp_path, "finetune", "loss") == [(50, 0.5), (100, 3.0)]
    events = _events(tmp_path, "finetune")
    assert not events.Images("a") and not events.Scalars("never_again")
    assert _scalars(tmp_path, "initial", "loss") == [(50, 0.5), (100, 1.0)]
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
