"""Speed and memory of `prepare` with one worker on one thread; with --json as one JSON line. Needs Linux.

    python -m benchmarks.preparation [--json]

Photographs of 1000 x 1000 px, 170 kB as JPEG, with a person each whose box is 300 to 900 px high. Every other camera has a
distorting lens. The pictures are made up in a temporary folder, see `person_crops`; files repeat them.

    crops_per_second      crops of `--person-side=384` per second of CPU time of the process, where other load counts least
    wall_crops_per_second the same by the clock
    milliseconds_per_crop of CPU time: decoding, resampling, encoding, the rest (labels, records, checksums)
    peak_memory_mb        most resident memory of a process that prepares the data set and does nothing else
    larger                the same figures of a data set of several times as many photographs
    memory_growth_mb      what its peak memory is above that of the smaller one
"""

import argparse
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import cv2
import numpy as np

from benchmarks import person_crops
from benchmarks.machine import machine_facts
from datasets import cropping
from datasets.prepare import prepare
from datasets.raw_example import Adapter, RawExample
from posepile.geometry.camera import Camera, undistort_pixels
from posepile.geometry.skeleton import load_skeleton

STAGES = {"load_image": "decoding", "resample": "resampling", "encode_jpeg": "encoding"}  # functions of `cropping`
_SKELETON = load_skeleton("h36m_17")
_UNIT_SIZE = 50  # photographs
_JPEG_QUALITY = 95
_LENS = np.array([-0.2, 0.24, -0.002, -0.001, -0.05])
_DISTANCE_MM = 4000.0


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much is measured.

    Attributes:
        image_side: px.
        num_pictures: different pictures.
        num_photographs: files of the two data sets.
    """

    image_side: int = 1000
    num_pictures: int = 20
    num_photographs: tuple[int, int] = (400, 1600)


def main(arguments: Sequence[str] | None = None, workload: Workload | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    result = {"benchmark": "preparation", **measure(workload or Workload())}
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure(workload: Workload) -> dict:
    """Returns: the figures named in the module's docstring, in that order, then the facts of the machine."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        pictures = _write_pictures(pathlib.Path(folder) / "pictures", workload)
        reports = []
        for num_photographs in workload.num_photographs:
            raw_dir = pathlib.Path(folder) / f"raw_{num_photographs}"
            raw_dir.mkdir()
            for number, picture in enumerate(itertools.islice(itertools.cycle(pictures), num_photographs)):
                os.link(picture, raw_dir / f"{number:06d}.jpg")
            # A process of its own for each, as the peak of a process only rises.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                reports.append(pool.submit(_prepare_report, raw_dir, raw_dir.with_name(f"data_{num_photographs}")).result())
    smaller, larger = reports
    growth = round(larger["peak_memory_mb"] - smaller["peak_memory_mb"], 1)
    return {**smaller, "larger": larger, "memory_growth_mb": growth, "benchmark_seconds": round(time.perf_counter() - start),
            "machine": machine_facts("numpy", "opencv-python-headless")}


def _write_pictures(folder: pathlib.Path, workload: Workload) -> list[pathlib.Path]:
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(workload.num_pictures)]
    for number, path in enumerate(paths):
        side = workload.image_side
        image, _ = person_crops.make_picture(side, side * 6 // 10, np.random.default_rng(number))
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return paths


def _prepare_report(raw_dir: pathlib.Path, data_root: pathlib.Path) -> dict:
    """Prepares a data set on one thread. Returns: its figures."""
    cv2.setNumThreads(1)
    seconds = dict.fromkeys(STAGES.values(), 0.0)

    def timed(function, stage):
        @functools.wraps(function)
        def call(*arguments):
            start = time.process_time()
            result = function(*arguments)
            seconds[stage] += time.process_time() - start
            return result
        return call

    wall, cpu = time.perf_counter(), time.process_time()
    with mock.patch.multiple(cropping, **{name: timed(getattr(cropping, name), stage) for name, stage in STAGES.items()}):
        manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False, strict=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    num_crops = manifest["splits"]["train"]["num_examples"]
    seconds["the rest"] = cpu - sum(seconds.values())
    return {"crops_per_second": round(num_crops / cpu, 1), "wall_crops_per_second": round(num_crops / wall, 1),
            "milliseconds_per_crop": {stage: round(1000 * value / num_crops, 2) for stage, value in seconds.items()},
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1), "crops": num_crops}


# ------------------------------------------------------------------------------------------------------------- data set


def skeleton_name(_raw_dir: pathlib.Path) -> str:
    return _SKELETON.name


def list_units(raw_dir: pathlib.Path, split: str) -> list[list[str]]:
    """Runs of file names."""
    names = sorted(path.name for path in raw_dir.iterdir()) if split == "train" else []
    return [names[start:start + _UNIT_SIZE] for start in range(0, len(names), _UNIT_SIZE)]


def load_unit(raw_dir: pathlib.Path, unit: list[str]) -> Iterator[RawExample]:
    """The person of each photograph; labels lie in the box and mean nothing."""
    for name in unit:
        number = int(name.partition(".")[0])
        rng = np.random.default_rng(number)
        side = cropping.load_image(raw_dir / name).shape[0]
        size = rng.uniform(0.3, 0.9) * side * np.array([rng.uniform(0.3, 0.6), 1])
        bbox = np.concatenate([(side - 1) / 2 + rng.uniform(-0.05, 0.05, 2) * side - size / 2, size])
        intrinsics = np.array([[1.15 * side, 0, 0.51 * side], [0, 1.15 * side, 0.49 * side], [0, 0, 1]])
        camera = Camera(intrinsics, distortion=_LENS if number % 2 else None)
        pixels = bbox[:2] + rng.uniform(0, 1, (_SKELETON.num_joints, 2)) * bbox[2:]
        joints3d = _DISTANCE_MM * np.insert(undistort_pixels(pixels, intrinsics, camera.distortion), 2, 1, axis=1)
        yield RawExample(raw_dir / name, bbox, camera, joints3d, provenance={"source": name})


ADAPTER = Adapter("photographs", "3d", skeleton_name, list_units, load_unit)

if __name__ == "__main__":
    sys.exit(main())
