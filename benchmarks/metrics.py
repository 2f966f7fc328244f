"""How long scoring takes, on one core; with --json as one JSON line.

    python -m benchmarks.metrics [--json]

    seconds_100k_poses              all metrics of 100,000 poses of 24 joints in memory, `metrics.compute_metrics`
    startup_seconds                 from the start of `evaluate.py --predictions=P.npz --annotations=A.npz` until it has scored
                                    100 poses, intervals included, and prints the first line
    seconds_100k_poses_flat_record  the record of the flat protocol: all metrics per joint, per sequence (100 of them) and per
                                    activity (10), with intervals
    procrustes_ratio                seconds of `metrics.procrustes_align` of 20,000 poses to those of `scipy.spatial.procrustes`
                                    called in a loop, pose by pose

Every figure is the median of a few runs.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.spatial

from benchmarks.machine import machine_facts
from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import flat, threedpw

NUM_POSES, NUM_JOINTS, NUM_PROCRUSTES_POSES, NUM_STARTUP_POSES = 100_000, 24, 20_000, 100
NUM_SEQUENCES, NUM_ACTIVITIES = 100, 10
NUM_RUNS, NUM_STARTS = 3, 7
_EVALUATE = pathlib.Path(__file__).resolve().parents[1] / "evaluate.py"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    result = measure()
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure() -> dict:
    """Returns: the figures named in the module's docstring."""
    pred, true = made_up_poses(NUM_POSES)
    annotations = Poses("annotations", true, sequence=np.arange(NUM_POSES) * NUM_SEQUENCES // NUM_POSES,
                        activity=np.arange(NUM_POSES) % NUM_ACTIVITIES, joint_names=threedpw.JOINTS)
    few = slice(0, NUM_PROCRUSTES_POSES)
    with one_core():
        all_metrics = median_seconds(lambda: metrics.compute_metrics(pred, true))
        record = median_seconds(lambda: flat.score(Poses("predictions", pred), annotations))
        ours = median_seconds(lambda: metrics.procrustes_align(pred[few], true[few]))
        loop = median_seconds(lambda: [scipy.spatial.procrustes(*pair) for pair in zip(true[few], pred[few], strict=True)])
        startup = startup_seconds(pred[:NUM_STARTUP_POSES], true[:NUM_STARTUP_POSES])
    return {
        "benchmark": "metrics",
        "seconds_100k_poses": round(all_metrics, 3),
        "startup_seconds": round(startup, 3),
        "seconds_100k_poses_flat_record": round(record, 3),
        "procrustes_ratio": round(ours / loop, 4),
        "poses": NUM_POSES,
        "joints": NUM_JOINTS,
        **machine_facts("numpy", "scipy"),
    }


def made_up_poses(num_poses: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and annotations, [num_poses, 24, 3] mm float64, camera space; the predictions are off by some 100 mm."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (num_poses, NUM_JOINTS, 3)) + np.array([0, 0, 4000])
    return true + rng.normal(0, 60, true.shape), true


def startup_seconds(pred: np.ndarray, true: np.ndarray) -> float:
    """From the start of the program until its first line; median."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"predictions": pred, "annotations": true}
        for name, joints3d in files.items():
            np.savez(f"{folder}/{name}.npz", joints3d=joints3d)
        command = [sys.executable, "-u", str(_EVALUATE), *(f"--{name}={folder}/{name}.npz" for name in files)]
        return statistics.median(seconds_until_first_line(command) for _ in range(NUM_STARTS))


def seconds_until_first_line(command: Sequence[str]) -> float:
    """Raises: RuntimeError if a program prints nothing."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.stdout.read()
    if not line:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return seconds


def median_seconds(run: Callable) -> float:
    """Seconds of a run, after one that is not counted."""
    seconds = []
    for _ in range(NUM_RUNS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keeps the process, its threads of linear algebra and its children on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    raise SystemExit(main())
