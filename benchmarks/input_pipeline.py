"""Speed and memory of the input pipeline on this machine; with --json as one JSON line.

    python -m benchmarks.input_pipeline [--json]

The data is made up in a temporary folder (0.7 GB), see `person_crops`. The variants of every ratio take turns in short
rounds, on the same crops where there are crops, and the ratio is the median over the rounds, so that other load on the
machine hits all alike. What runs on one thread is timed by the CPU time of the process, where other load counts least;
`wall_*` are the same ratios by the clock. "Per core" means: per second of CPU time of that single thread. Needs Linux.

    ratio_to_yardstick    crops per second with full training augmentation, `batches.make_part` as the queues call it,
                          against `per_example_loader`; both read, decode and augment
    share_of_decode       the same against JPEG decoding alone, of bytes in memory
    scaling_1_to_2_cores  crops per second (wall clock) of tf.data on 2 cores with two worker processes, against 1 core with
                          one; null where there is only one core. threads_scaling_1_to_2_cores: threads instead
    random_vs_sequential  records read per second, in random against stored order, page cache warm
    late_start_ratio      seconds to the first batch of tf.data from step 1,000,000 on, against step 0
    memory_growth_mb      resident memory of a process that reads from 10^7 examples, less one that reads from 10^4
    large_*               crops as `prepare` stores them of people in the middle of a large picture: 640 px, person 384 px
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from benchmarks import per_example_loader, person_crops
from benchmarks.machine import machine_facts
from posepile.data import batches, prefetch, sampling
from posepile.data.augmentation import NO_AUGMENTATION
from posepile.data.batches import BatchPlan
from posepile.data.pictures import load_pictures
from posepile.data.records import PreparedDataset

SEED = 1
PACKAGES = ("numpy", "opencv-python-headless", "tensorflow", "tfrecord-lite")
LATE_STEP = 1_000_000


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much is measured.

    Attributes:
        crop_side: px.
        image_side, person_side, large_image_side, large_person_side: px, see `person_crops.write_datasets`.
        num_pictures, num_examples: per data set of usual crops; a quarter of it of large ones.
        crop_rounds, large_crop_rounds: a batch per round and variant.
        read_rounds: all records of a data set per round and order.
        queue_rounds: `queue_batches` of tf.data per round and number of cores, after `queue_warm_up` batches.
        start_rounds: starts of tf.data per first step.
        settling_seconds: after each use of tf.data, in which the threads of the dropped queue end the calls they are in.
        index_sizes: examples of the data sets whose memory is compared.
        memory_batches: batches' worth of records read from these.
    """

    crop_side: int = 256
    image_side: int = 384
    person_side: int = 250
    large_image_side: int = 640
    large_person_side: int = 384
    num_pictures: int = 32
    num_examples: int = 1024
    crop_rounds: int = 16
    large_crop_rounds: int = 6
    read_rounds: int = 12
    queue_rounds: int = 4
    queue_warm_up: int = 10
    queue_batches: int = 20
    start_rounds: int = 7
    settling_seconds: float = 0.5
    index_sizes: tuple[int, int] = (10_000, 10_000_000)
    memory_batches: int = 500


def main(arguments: Sequence[str] | None = None, workload: Workload | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args(arguments)
    result = measure(workload or Workload())
    width = max(map(len, result))
    print(json.dumps(result) if options.json else "\n".join(f"{key:{width}}  {value}" for key, value in result.items()))
    return 0


def measure(workload: Workload) -> dict:
    """Returns: the figures named in the module's docstring, in that order, then the rates behind them."""
    start = time.perf_counter()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        data_root, large_root = pathlib.Path(folder) / "usual", pathlib.Path(folder) / "large"
        person_crops.write_datasets(data_root, workload.image_side, workload.person_side, workload.num_pictures,
                                    workload.num_examples)
        person_crops.write_datasets(large_root, workload.large_image_side, workload.large_person_side,
                                    max(1, workload.num_pictures // 4), max(1, workload.num_examples // 4))
        crops = measure_crops(data_root, workload.crop_side, workload.crop_rounds)
        large = measure_crops(large_root, workload.crop_side, workload.large_crop_rounds)
        result = crops | measure_reads(data_root, workload.read_rounds) | measure_queues(data_root, workload) \
            | measure_memory(data_root, workload) | {f"large_{name}": value for name, value in large.items()}
    first = ("ratio_to_yardstick", "share_of_decode", "scaling_1_to_2_cores", "random_vs_sequential", "late_start_ratio",
             "memory_growth_mb")
    result = {name: result[name] for name in first} | result
    return result | {"benchmark_seconds": round(time.perf_counter() - start), "machine": machine_facts(*PACKAGES)}


def measure_crops(data_root: pathlib.Path, crop_side: int, num_rounds: int) -> dict:
    """Compares on one thread decoding, reading and decoding, the yardstick, and ours with and without augmentation.

    Every variant makes the same examples per round: of every data set those of as many steps as the queues ask for at
    once. The order of the variants is reversed every other round.

    Returns: the ratios by CPU time and by wall clock, and the crops per second of every variant.
    """
    plan, plain_plan = (person_crops.open_plan(data_root, crop_side, config) for config in (None, NO_AUGMENTATION))
    pictures, rng = load_pictures(crop_side), np.random.default_rng(SEED)
    num_examples = [prefetch.steps_per_call(plan, part) * len(part.rows) for part in plan.parts]
    memory = np.empty((max(num_examples), crop_side, crop_side, 3), np.uint8)  # used again, as by the worker processes

    def decode_all(number):
        for image in jpegs:
            cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)

    def read_and_decode(number):
        for dataset, position in _examples_of_round(plan, number):
            dataset.read(plan.split, position).decode_image()

    def load_one_by_one(number):
        return [per_example_loader.load_example(dataset, plan.split, position, crop_side, plan.augmentation, pictures, rng)
                for dataset, position in _examples_of_round(plan, number)]

    def make_parts(plan, number):
        for part, size in zip(plan.parts, num_examples, strict=True):
            num_steps = prefetch.steps_per_call(plan, part)
            batches.scatter_joints(part, batches.make_part(plan, part, SEED, number * num_steps, num_steps, memory[:size]))

    variants = {"decode": decode_all, "read_and_decode": read_and_decode, "yardstick": load_one_by_one,
                "parts": functools.partial(make_parts, plan),
                "parts_without_augmentation": functools.partial(make_parts, plain_plan)}
    seconds = []
    for number in range(num_rounds + 1):
        jpegs = [dataset.read(plan.split, position).image for dataset, position in _examples_of_round(plan, number)]
        order = list(variants) if number % 2 else list(variants)[::-1]
        timings = {name: _seconds(functools.partial(variants[name], number)) for name in order}
        seconds.append([timings[name] for name in variants])
    cpu, wall = (dict(zip(variants, times, strict=True)) for times in np.transpose(seconds[1:]))  # the first warms up
    ratios = {"ratio_to_yardstick": ("yardstick", "parts"), "share_of_decode": ("decode", "parts"),
              "share_of_read_and_decode": ("read_and_decode", "parts")}
    return {
        **{name: _median_ratio(cpu[above], cpu[below]) for name, (above, below) in ratios.items()},
        **{f"wall_{name}": _median_ratio(wall[above], wall[below]) for name, (above, below) in ratios.items()},
        **{f"{name}_crops_per_second_per_core": _rate(sum(num_examples), cpu[name]) for name in variants},
        "bytes_per_jpeg": round(np.mean([len(image) for image in jpegs])),
    }


def measure_reads(data_root: pathlib.Path, num_rounds: int) -> dict:
    """Compares reading (and parsing) all records of a data set in the order of training with reading them as stored."""
    datasets = [PreparedDataset(data_root / name) for name in person_crops.EXAMPLES_PER_BATCH]
    num_records = datasets[0].num_examples("train")
    in_order, random = _time_reads(datasets, num_rounds, num_records)
    return {"random_vs_sequential": _median_ratio(in_order[0], random[0]),
            "wall_random_vs_sequential": _median_ratio(in_order[1], random[1]),
            "sequential_reads_per_second": _rate(num_records, in_order[0]),
            "random_reads_per_second": _rate(num_records, random[0])}


def measure_queues(data_root: pathlib.Path, workload: Workload) -> dict:
    """Compares tf.data on one and on two cores, and its start at a late step with that at the first one.

    A process per number of cores is confined to these, its workers too; while one works, the other is idle. On one core
    there is one thread or one worker process that makes crops, on two there are two.

    Returns: the scaling is by the wall clock, which other load on the machine lowers: see the cores that were busy in all.
    """
    available = sorted(os.sched_getaffinity(0))
    pools = {number: _process_on(available[:number]) for number in (1, 2) if number <= len(available)}
    modes = ("processes", "threads")
    try:
        for future in [pool.submit(_queue_round, data_root, workload, number, 0, "threads") for number, pool in pools.items()]:
            future.result()  # tensorflow is imported, every kind of operation has run once
        timings = np.array([[[pool.submit(_queue_round, data_root, workload, number, step, mode).result()
                              for number, pool in pools.items()] for mode in modes]
                            for step in range(workload.queue_rounds)])
        starts = np.array([[pools[max(pools)].submit(_start_seconds, data_root, workload, step).result()
                            for step in (0, LATE_STEP)] for _ in range(workload.start_rounds)])
    finally:
        for pool in pools.values():
            pool.shutdown()
    num_crops = workload.queue_batches * sum(person_crops.EXAMPLES_PER_BATCH.values())
    scaling = [_median_ratio(timings[:, i, 0, 0], timings[:, i, 1, 0]) if 2 in pools else None for i in range(len(modes))]
    result = {"scaling_1_to_2_cores": scaling[0], "threads_scaling_1_to_2_cores": scaling[1],
              "late_start_ratio": _median_ratio(starts[:, 1], starts[:, 0]),
              "start_seconds_at_step_0": _median(starts[:, 0]), f"start_seconds_at_step_{LATE_STEP}": _median(starts[:, 1])}
    for i, mode in enumerate(modes):
        for j, number in enumerate(pools):
            wall, busy = timings[:, i, j].T
            result |= {f"tf_data_crops_per_second_{number}_{mode}": _rate(num_crops, wall),
                       f"busy_cores_meanwhile_{number}_{mode}": _median_ratio(busy, wall)}
    return result


def measure_memory(data_root: pathlib.Path, workload: Workload) -> dict:
    """Compares processes that read from data sets of different size; their records are the same, only the index grows.

    Returns: resident memory after reading, and before the data set is opened; the seconds from then to the first batch;
        reads per second in random against stored order.
    """
    source = PreparedDataset(data_root / next(iter(person_crops.EXAMPLES_PER_BATCH)))
    reports = []
    for num_examples in workload.index_sizes:
        folder = data_root / f"{num_examples}_examples"
        person_crops.write_repeated(source, folder, num_examples)
        with _process_on(os.sched_getaffinity(0)) as pool:
            reports.append(pool.submit(_memory_report, folder, workload.crop_side, workload.memory_batches).result())
    result = {"memory_growth_mb": round(reports[1]["resident_mb"] - reports[0]["resident_mb"], 1)}
    for num_examples, report in zip(workload.index_sizes, reports, strict=True):
        result |= {f"{name}_{num_examples}_examples": value for name, value in report.items()}
    return result


def _examples_of_round(plan: BatchPlan, number: int) -> list[tuple[PreparedDataset, int]]:
    """Those that one call for every data set makes."""
    examples = []
    for part in plan.parts:
        num_steps = prefetch.steps_per_call(plan, part)
        stream = sampling.stream_positions(number * num_steps, part.examples_per_batch, num_steps)
        positions = sampling.example_positions(SEED, part.dataset.name, part.dataset.num_examples(plan.split), stream)
        examples += [(part.dataset, position) for position in positions.tolist()]
    return examples


def _time_reads(datasets: Sequence[PreparedDataset], num_rounds: int, num_records: int) -> np.ndarray:
    """[2 orders, 2 clocks, num_rounds] seconds of reading records as they are stored, and in the order of training.

    The data sets take turns; the first round of each, in which its records come into the page cache, does not count.
    """
    timings = []
    for number in range(len(datasets) + num_rounds):
        dataset = datasets[number % len(datasets)]
        num_examples = dataset.num_examples("train")
        stored = (sampling.stream_positions(number, num_records) % num_examples).tolist()
        random = sampling.sample_positions(SEED, dataset.name, num_examples, number, num_records).tolist()
        timings.append([_seconds(functools.partial(_read_all, dataset, order)) for order in (stored, random)])
    return np.transpose(timings[len(datasets):], (1, 2, 0))


def _read_all(dataset: PreparedDataset, positions: Sequence[int]) -> None:
    for position in positions:
        dataset.read("train", position)


def _process_on(cores: Sequence[int]) -> ProcessPoolExecutor:
    """A fresh process that is confined to some CPU cores."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), os.sched_setaffinity, (0, cores))


def _queue_round(data_root: pathlib.Path, workload: Workload, number: int, step: int, mode: str) -> tuple[float, float]:
    """Wall-clock seconds of `workload.queue_batches` batches from tf.data, and CPU seconds of the whole machine."""
    with _training_queue(data_root, workload, step, number, number if mode == "processes" else 0) as queue:
        _take(queue, workload.queue_warm_up)
        busy = _busy_core_seconds()
        _, wall = _seconds(functools.partial(_take, queue, workload.queue_batches))
        return wall, _busy_core_seconds() - busy


def _start_seconds(data_root: pathlib.Path, workload: Workload, step: int) -> float:
    start = time.perf_counter()
    with _training_queue(data_root, workload, step, len(os.sched_getaffinity(0)), 0) as queue:
        _take(queue, 1)
        return time.perf_counter() - start


@contextlib.contextmanager
def _training_queue(data_root: pathlib.Path, workload: Workload, start_step: int, num_threads: int, num_workers: int):
    """An iterator over batches of tf.data, made by threads, or by worker processes if there are any."""
    from posepile.data import input_pipeline  # the processes that time numpy stay without tensorflow

    plan = person_crops.open_plan(data_root, workload.crop_side)
    with prefetch.start_workers(plan, SEED, num_workers) if num_workers else contextlib.nullcontext() as workers:
        queue = iter(input_pipeline.training_dataset(plan, SEED, start_step, num_threads, workers=workers))
        try:
            yield queue
        finally:
            del queue
            time.sleep(workload.settling_seconds)


def _take(queue, num_batches: int) -> None:
    for _ in range(num_batches):
        next(queue)


def _memory_report(folder: pathlib.Path, crop_side: int, num_batches: int) -> dict:
    cv2.setNumThreads(1)
    load_pictures(crop_side)
    before, start = _resident_mb(), time.perf_counter()
    dataset, batch_size = PreparedDataset(folder), 96
    plan = BatchPlan([(dataset, batch_size)], [], crop_side)
    batches.make_batch(plan, SEED, 0)
    start_seconds = time.perf_counter() - start
    num_examples = dataset.num_examples("train")
    for step in range(num_batches):
        _read_all(dataset, sampling.sample_positions(SEED, dataset.name, num_examples, step, batch_size).tolist())
    for step in range(1, 1 + num_batches // 25):
        batches.make_batch(plan, SEED, step)
    report = {"resident_mb": _resident_mb(), "resident_mb_before": before, "start_seconds": round(start_seconds, 4)}
    in_order, random = _time_reads([dataset], 5, max(1, num_batches // 50) * batch_size)
    return report | {"random_vs_sequential": _median_ratio(in_order[0], random[0])}


def _resident_mb() -> float:
    status = pathlib.Path("/proc/self/status").read_text()
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


def _busy_core_seconds() -> float:
    """CPU seconds that all cores of the machine together have been busy, or kept busy by its host, since it started."""
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(
        int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _seconds(function: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall-clock seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def _median(values) -> float:
    return round(float(np.median(values)), 4)


def _median_ratio(above, below) -> float:
    return _median(np.asarray(above) / below)


def _rate(count: int, seconds) -> float:
    return round(count / float(np.median(seconds)), 1)


if __name__ == "__main__":
    sys.exit(main())
