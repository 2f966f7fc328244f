import dataclasses
import gc
import multiprocessing
import os
import signal

import numpy as np
import pytest

from posepile.data import batches, part_workers, prefetch
from posepile.data.batches import BatchPlan
from posepile.data.crops import UnusableExampleError
from posepile.data.part_workers import PartWorkers, WorkerError
from posepile.data.queue_statistics import QueueStatistics
from tests.posepile.data.prepared import dotted_example, write_prepared

pytestmark = pytest.mark.skipif(not part_workers.processes_can_share_memory(), reason="needs Linux with /proc")
SEED = 7


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def prepare(name, skeleton, kind, num_examples, bad=()):
        examples = [dotted_example(rng, skeleton, kind) for _ in range(num_examples)]
        for position in bad:
            examples[position] = dataclasses.replace(examples[position], image=b"nothing")
        return write_prepared(root, name, skeleton, examples, kind)

    return BatchPlan([(prepare("one", "smpl_24", "3d", 31), 5), (prepare("bad", "h36m_17", "3d", 9, bad=[4]), 10)],
                     [(prepare("flat", "coco_17", "2d", 14), 2)], crop_side=32, skip_bad=True)


@pytest.fixture(scope="module")
def workers(plan):
    with prefetch.start_workers(plan, SEED, 2) as workers:
        yield workers


def assert_equal_batches(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def test_processes_make_the_same_batches_and_report_what_they_skipped(plan, workers):
    statistics = QueueStatistics(plan)
    stream = prefetch.prefetched_batches(plan, SEED, 3, statistics=statistics, workers=workers)
    for step in range(3, 23):
        assert_equal_batches(next(stream), batches.make_batch(dataclasses.replace(plan, skipped_records={}), SEED, step))
    stream.close()
    assert plan.skipped_records.keys() == {("bad", 4)} and "cannot be decoded" in plan.skipped_records["bad", 4]
    values, _ = statistics.report()
    assert 0 < values["data/cpu_ms_per_crop/one"] <= values["data/ms_per_crop/one"] < 1000


def test_queues_fed_by_processes_give_the_same_batches(plan, workers):
    pytest.importorskip("tensorflow")
    from posepile.data.input_pipeline import training_dataset

    iterator = training_dataset(plan, SEED, 3, workers=workers).take(70).as_numpy_iterator()
    kept = None
    for step, batch in enumerate(iterator, start=3):
        kept = kept or batch
        if step % 6 == 3:
            assert_equal_batches(batch, batches.make_batch(plan, SEED, step))
    assert_equal_batches(kept, batches.make_batch(plan, SEED, 3))
    assert len(workers._blocks) < 20  # calls were three times as many


def test_memory_is_used_again_only_when_nothing_refers_to_it(plan, workers):
    part = plan.parts[0]
    first, _, _ = workers.make_part(part, 0, 2)
    kept = first["image"][3]
    expected = kept.copy()
    del first
    gc.collect()
    others = [workers.make_part(part, 2 * i, 2)[0]["image"] for i in range(1, 5)]
    np.testing.assert_array_equal(kept, expected)
    assert not any(np.shares_memory(kept, other) for other in others)
    num_free = len(workers._free_blocks)
    del kept, others
    gc.collect()
    assert len(workers._free_blocks) == num_free + 5
    again, _, _ = workers.make_part(part, 0, 2)
    np.testing.assert_array_equal(again["image"], batches.make_part(plan, part, SEED, 0, 2)["image"])


def test_an_error_comes_out_as_what_it_is(plan):
    plan = dataclasses.replace(plan, skip_bad=False, skipped_records={})
    with prefetch.start_workers(plan, SEED, 1) as workers, \
            pytest.raises(UnusableExampleError, match=r"tfrecord at byte \d+: the image cannot be decoded"):
        workers.make_part(plan.parts[1], 0, 1)


def test_a_data_set_that_a_process_cannot_open_is_named(plan, tmp_path):
    dataset = write_prepared(tmp_path, "gone", "smpl_24", [dotted_example(np.random.default_rng(1), "smpl_24", "3d")], "3d")
    plan = BatchPlan([(dataset, 1)], [], 32)
    (tmp_path / "gone" / "manifest.json").unlink()
    with PartWorkers(plan, SEED, 2, 64) as workers, pytest.raises(FileNotFoundError, match="data set gone is not prepared"):
        workers.make_part(plan.parts[0], 0, 1)


def test_processes_that_cannot_be_started_leave_none_waiting(plan, monkeypatch):
    start, num_started = multiprocessing.process.BaseProcess.start, []

    def start_two(process):
        if len(num_started) == 2:
            raise OSError("no more processes")
        num_started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_two)
    with pytest.raises(OSError, match="no more processes"):
        PartWorkers(plan, SEED, 3, 64)
    for process in num_started:
        process.join(20)
        assert process.exitcode is not None


def test_a_killed_process_is_told(plan):
    with PartWorkers(plan, SEED, 1, 64) as workers:
        workers.make_part(plan.parts[0], 0, 1)
        for pid in workers._executor._processes:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="was killed, perhaps for want of memory"):
            for step in range(100):
                workers.make_part(plan.parts[0], step, 1)
