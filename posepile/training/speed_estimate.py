"""How long a training will take, judged by earlier runs of the same network."""

import json
import pathlib
import statistics
from collections.abc import Sequence

from posepile.training.config import TrainConfig
from posepile.training.phases import Phase
from posepile.training.run_directory import CONFIG_NAME
from posepile.training.run_log import LOG_NAME, read_log

_SAME = ("backbone", "crop_side", "precision", "micro_batches")  # settings that make two runs equally fast, about


def estimate_duration(runs_dir: pathlib.Path, config: TrainConfig, batch_size: int, phases: Sequence[Phase]) -> dict:
    """{"steps_per_second", "hours" of the training steps, "from" which run}; where no run tells, nulls and the reason.

    Args: runs_dir: folder of earlier runs; batch_size: examples per step; phases: to be run.
    """
    speeds = {}
    for log_path in sorted(runs_dir.glob(f"*/{LOG_NAME}")):
        try:
            settings = json.loads((log_path.parent / CONFIG_NAME).read_text())["settings"]
        except (OSError, ValueError, KeyError):
            continue
        values = [record["crops_per_second"] for record in read_log(log_path) if "crops_per_second" in record]
        if values and all(settings.get(name) == getattr(config, name) for name in _SAME):
            speeds[log_path.parent] = statistics.median(values)
    if not speeds:
        return {"steps_per_second": None, "hours": None,
                "from": f"no run in {runs_dir} has trained this network; python -m benchmarks.train_step measures it"}
    run_dir, crops_per_second = next(reversed(speeds.items()))
    steps_per_second = crops_per_second / batch_size
    return {"steps_per_second": round(steps_per_second, 3),
            "hours": round(sum(phase.steps for phase in phases) / steps_per_second / 3600, 2), "from": str(run_dir)}
