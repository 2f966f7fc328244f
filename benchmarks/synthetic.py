"""Speed of the synthetic data's generator on one core; with --json as one JSON line.

    python -m benchmarks.synthetic [--json] [--crops=480]

Times are of the process on its CPU, so that other load on the machine counts less; rendering, labels and JPEG
encoding are included, drawing the looks' textures (once per process) is not. Every data set has an equal share, in
runs of successive examples as in preparation.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence

import cv2
import numpy as np

from datasets.synthetic import generator, scenes

_RUN_LENGTH = 20  # one person


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--crops", type=int, default=480, help="how many to render, at least 120")
    options = parser.parse_args(arguments)
    if options.crops < _RUN_LENGTH * len(generator.DATASETS):
        parser.error(f"--crops={options.crops}: expected {_RUN_LENGTH * len(generator.DATASETS)} or more")
    result = measure(options.crops)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure(num_crops: int) -> dict:
    """Renders about `num_crops` examples on one core.

    Returns: crops per second of CPU time over all runs, in the fastest run, and per wall-clock second; bytes per
        JPEG.
    """
    cv2.setNumThreads(1)
    names = list(generator.DATASETS)
    splits = [next(iter(generator.DATASETS[name].num_examples)) for name in names]
    for look in scenes.LOOKS:
        scenes.load_textures(look)
    num_rounds = num_crops // (_RUN_LENGTH * len(names))
    cpu_seconds, num_bytes, start = [], 0, time.perf_counter()
    for run in range(1, num_rounds + 1):
        for name, split in zip(names, splits, strict=True):
            start_cpu = time.process_time()
            for index in range(run * _RUN_LENGTH, (run + 1) * _RUN_LENGTH):
                num_bytes += len(generator.make_example(name, split, index).image)
            cpu_seconds.append(time.process_time() - start_cpu)
    total = num_rounds * len(names) * _RUN_LENGTH
    return {
        "benchmark": "synthetic",
        "image_side": generator.IMAGE_SIDE,
        "crops": total,
        "crops_per_second": round(total / sum(cpu_seconds), 1),
        "fastest_run_crops_per_second": round(_RUN_LENGTH / float(np.min(cpu_seconds)), 1),
        "wall_crops_per_second": round(total / (time.perf_counter() - start), 1),
        "bytes_per_jpeg": round(num_bytes / total),
    }


if __name__ == "__main__":
    sys.exit(main())
