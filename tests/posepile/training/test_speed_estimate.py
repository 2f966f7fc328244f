import dataclasses
import json

from posepile.training.config import TrainConfig
from posepile.training.phases import Phase
from posepile.training.schedules import initial_schedule
from posepile.training.speed_estimate import estimate_duration

SCHEDULE = initial_schedule(1e-3, 1000)
PHASES = [Phase("initial", 1000, 0, SCHEDULE, SCHEDULE), Phase("finetune", 800, 0, SCHEDULE, SCHEDULE)]


def _write_run(folder, config, speeds):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"settings": dataclasses.asdict(config)}))
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps({"phase": "initial", "step": i, **({"crops_per_second": speed} if speed else {})}) + "\n"
        for i, speed in enumerate(speeds)))


def test_hours_from_the_newest_run_of_the_same_network(tmp_path):
    """1800 steps of 128 crops at 64 crops/s: 0.5 steps/s, 1 hour."""
    config = TrainConfig()
    _write_run(tmp_path / "a", config, [10, 11])
    _write_run(tmp_path / "b", config, [64, None, 64, 5000])
    _write_run(tmp_path / "c", dataclasses.replace(config, crop_side=384), [9])
    _write_run(tmp_path / "d", config, [])
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "metrics.jsonl").write_text('{"phase": "initial", "step": 1, "crops_per_second": 9}')
    estimate = estimate_duration(tmp_path, config, 128, PHASES)
    assert estimate == {"steps_per_second": 0.5, "hours": 1.0, "from": str(tmp_path / "b")}


def test_no_run_to_judge_by(tmp_path):
    estimate = estimate_duration(tmp_path / "runs", TrainConfig(), 128, PHASES)
    assert estimate["hours"] is None and "benchmarks.train_step" in estimate["from"]
