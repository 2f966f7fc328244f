import json
import os
import sys

import numpy as np
import pytest

from benchmarks import metrics


def test_prints_the_figures_in_their_order_as_one_json_line(monkeypatch, capsys):
    for name, value in {"NUM_POSES": 200, "NUM_PROCRUSTES_POSES": 50, "NUM_SEQUENCES": 4, "NUM_RUNS": 1,
                        "NUM_STARTS": 1}.items():
        monkeypatch.setattr(metrics, name, value)
    cores = os.sched_getaffinity(0)
    metrics.main(["--json"])
    result = json.loads(capsys.readouterr().out)
    assert list(result)[1:5] == ["seconds_100k_poses", "startup_seconds", "seconds_100k_poses_flat_record", "procrustes_ratio"]
    assert result["poses"] == 200 and result["joints"] == 24
    assert 0 <= result["seconds_100k_poses"] <= result["seconds_100k_poses_flat_record"]
    assert result["startup_seconds"] > 0 and result["procrustes_ratio"] > 0
    assert os.sched_getaffinity(0) == cores


def test_poses_are_off_by_what_is_said():
    pred, true = metrics.made_up_poses(500)
    assert pred.shape == true.shape == (500, 24, 3)
    assert np.linalg.norm(pred - true, axis=-1).mean() == pytest.approx(60 * np.sqrt(8 / np.pi), rel=0.02)  # of Maxwell's


def test_time_runs_until_the_first_line():
    code = "import time; time.sleep(0.3); print(1)"
    assert metrics.seconds_until_first_line([sys.executable, "-u", "-c", code]) > 0.3
    with pytest.raises(RuntimeError, match="printed nothing"):
        metrics.seconds_until_first_line([sys.executable, "-c", ""])


def test_work_is_kept_on_one_core():
    with metrics.one_core():
        assert len(os.sched_getaffinity(0)) == 1
