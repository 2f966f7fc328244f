import itertools
import re
import time
import types

import numpy as np
import pytest

from posepile.data import queue_statistics
from posepile.data.batches import BatchPlan
from posepile.data.prefetch import prefetched_batches
from posepile.data.queue_statistics import QueueStatistics, explain_starvation
from tests.posepile.data.prepared import dotted_example, write_prepared

SEED, SLOW_READ_SECONDS = 3, 0.004


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def prepare(name, kind):
        return write_prepared(root, name, "h36m_17", [dotted_example(rng, "h36m_17", kind) for _ in range(9)], kind)

    return BatchPlan([(prepare("lab", "3d"), 4), (prepare("field", "3d"), 2)], [(prepare("web", "2d"), 2)], crop_side=32)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only by hand: seconds by the clock on the wall."""
    now = types.SimpleNamespace(wall=1000.0)
    monkeypatch.setattr(queue_statistics, "time", types.SimpleNamespace(perf_counter=lambda: now.wall))
    return now


def _make(statistics, clock, name, num_examples, seconds, cpu_seconds=0.0):
    clock.wall += seconds
    statistics.add_made(name, num_examples, seconds, cpu_seconds)


def _consume(statistics, clock, num_batches, wait_seconds, train_seconds):
    """Takes batches that take `wait_seconds` each to come, and trains on them."""
    def stream():
        for _ in range(num_batches):
            clock.wall += wait_seconds
            yield {}

    for _ in statistics.watch(stream()):
        clock.wall += train_seconds


def test_figures_of_a_window(plan, clock):
    statistics = QueueStatistics(plan)
    clock.wall += 100  # before the first batch is asked for

    def stream():
        _make(statistics, clock, "lab", 40, 0.5, 0.25)
        _make(statistics, clock, "lab", 40, 0.3, 0.15)
        _make(statistics, clock, "web", 10, 0.2, 0.2)
        yield {}
        clock.wall += 0.25
        yield {}

    for _ in statistics.watch(stream()):
        clock.wall += 1.0
    values, warnings = statistics.report()
    assert values == pytest.approx({
        "data/wait_seconds": 1.25, "data/wait_share": 1.25 / 3.25, "data/skipped_records": 0,
        "data/crops_per_second/lab": 80 / 3.25, "data/ms_per_crop/lab": 10, "data/cpu_ms_per_crop/lab": 5,
        "data/crops_per_second/web": 10 / 3.25, "data/ms_per_crop/web": 20, "data/cpu_ms_per_crop/web": 20,
        "data/crops_per_second/field": 0,
        # batches ahead while 0.5, 0.3, 0.2, 1.25 and 1 s went by
        "data/queue_fill/lab": (0 * 0.5 + 10 * 0.3 + 20 * 0.2 + 19 * 1.25 + 18 * 1) / 3.25,
        "data/queue_fill/web": (4 * 1.25 + 3 * 1) / 3.25,
        "data/queue_fill/field": (-1 * 1.25 - 2 * 1) / 3.25})
    assert warnings == []

    _make(statistics, clock, "field", 8, 1.0, 1.0)
    values, _ = statistics.report()
    assert values["data/wait_seconds"] == 0 and values["data/crops_per_second/lab"] == 0
    assert values["data/ms_per_crop/lab"] == pytest.approx(10)  # of the last crops made
    assert values["data/queue_fill/lab"] == 18
    assert values["data/crops_per_second/field"] == pytest.approx(8)


def test_watching_closes_the_stream(plan):
    closed = []

    def stream():
        try:
            yield {}
            yield {}
        finally:
            closed.append(True)

    watched = QueueStatistics(plan).watch(stream())
    next(watched)
    watched.close()
    assert closed == [True]


def test_warnings_come_after_the_first_windows_and_seldom(plan, clock):
    statistics = QueueStatistics(plan)
    warned = []
    for window in range(1, 60):
        _consume(statistics, clock, 10, 0.3, 0.7)
        warned += [window] * len(statistics.report()[1])
    assert warned == [3, 23, 43]


def test_no_warning_up_to_the_tolerated_share(plan, clock):
    statistics = QueueStatistics(plan)
    for _ in range(10):
        _consume(statistics, clock, 10, 0.19, 0.81)
        assert statistics.report()[1] == []


# -------------------------------------------------------------------------------------------------- what is to blame


def _figures(ms_per_crop, cpu_ms_per_crop, queue_fill=0.0):
    return {"crops_per_second": 1.0, "queue_fill": queue_fill, "ms_per_crop": ms_per_crop, "cpu_ms_per_crop": cpu_ms_per_crop}


def test_slow_disk_is_told_from_slow_work():
    figures = {"lab": _figures(1, 1), "tape": _figures(8, 0.8, 0.25), "web": _figures(1.5, 1.5)}
    message = explain_starvation(figures, {"lab": 32, "tape": 16, "web": 32})
    assert message.startswith("the data set tape is slow, 8.00 ms per crop against 1.25 ms of the other crops of a batch, with "
                              "16 of its own and 0.2 batches ahead; 90% of that is waiting, for the disk")
    figures["tape"]["cpu_ms_per_crop"] = 7
    message = explain_starvation(figures, {"lab": 32, "tape": 16, "web": 32})
    assert "tape is slow" in message and message.endswith("the CPU is the limit. More CPU cores or smaller stored crops help.")


@pytest.mark.parametrize("ms_per_crop, examples_per_batch, slow", [
    ({"lab": 1, "tape": 8}, {"lab": 32, "tape": 16}, "tape"),
    ({"lab": 1, "tape": 8, "web": 1}, {"lab": 100, "tape": 1, "web": 100}, None),  # 7 of 208 ms could be saved
    ({"lab": 1, "web": 1.2}, {"lab": 10, "web": 90}, None),  # most of the work, but no dearer than the other's
    ({"lab": 1, "tape": 20, "web": 3}, {"lab": 50, "tape": 1, "web": 50}, "web"),  # 100 ms of 220, against 18 ms
    ({"lab": 5}, {"lab": 8}, None)])
def test_blame_is_for_what_costs_a_batch_most(ms_per_crop, examples_per_batch, slow):
    message = explain_starvation({name: _figures(ms, ms) for name, ms in ms_per_crop.items()}, examples_per_batch)
    found = re.match("the data set (.*) is slow", message)
    assert (found and found[1]) == slow
    assert message.startswith("no data set stands out") == (slow is None) and "the CPU is the limit" in message


def test_starvation_without_a_single_crop():
    assert "no crop was made" in explain_starvation({"lab": {"crops_per_second": 0.0, "queue_fill": 0.0}}, {"lab": 4})


# ------------------------------------------------------------------------------------------------------ in real streams


def _reports(plan, feeder, num_windows, steps_per_window, train_seconds):
    statistics = QueueStatistics(plan)
    stream = statistics.watch(feeder(plan, statistics))
    reports = []
    for _ in range(num_windows):
        for _ in itertools.islice(stream, steps_per_window):
            time.sleep(train_seconds)
        reports.append(statistics.report())
    stream.close()
    return reports


def _from_threads(plan, statistics):
    return prefetched_batches(plan, SEED, 0, 2, statistics)


def _from_queues(plan, statistics):
    pytest.importorskip("tensorflow")
    from posepile.data.input_pipeline import training_dataset
    yield from training_dataset(plan, SEED, 0, 2, statistics=statistics)


both_feeders = pytest.mark.parametrize("feeder", [_from_threads, _from_queues])


@both_feeders
def test_planted_slow_data_set_is_named(plan, feeder, monkeypatch):
    field = plan.datasets_3d[1][0]
    read = field.read

    def read_from_slow_disk(*arguments):
        time.sleep(SLOW_READ_SECONDS)
        return read(*arguments)

    monkeypatch.setattr(field, "read", read_from_slow_disk)
    reports = _reports(plan, feeder, num_windows=4, steps_per_window=32, train_seconds=0)
    warnings = [warning for _, of_window in reports for warning in of_window]
    assert len(warnings) == 1
    assert "the data set field is slow" in warnings[0] and "2 of its own" in warnings[0] and "disk" in warnings[0]
    values = reports[-1][0]
    assert values["data/wait_share"] > queue_statistics.STARVING_SHARE
    assert values["data/ms_per_crop/field"] > 1000 * SLOW_READ_SECONDS > values["data/ms_per_crop/lab"]
    assert values["data/cpu_ms_per_crop/field"] < 1000 * SLOW_READ_SECONDS
    assert values["data/queue_fill/field"] < values["data/queue_fill/lab"]


@both_feeders
def test_slow_training_is_not_warned_about(plan, feeder):
    reports = _reports(plan, feeder, num_windows=5, steps_per_window=4, train_seconds=0.02)
    assert [warnings for _, warnings in reports] == 5 * [[]]
    assert all(values["data/queue_fill/web"] > 1 for values, _ in reports)


# ------------------------------------------------------------------------------------------------- records passed over


def test_new_skipped_records_are_reported_once(plan):
    plan.skipped_records["lab", 1] = "reported by an earlier stream"
    statistics = QueueStatistics(plan)
    plan.skipped_records["field", 7] = "shard 0 at byte 99: checksum"
    values, warnings = statistics.report()
    assert values["data/skipped_records"] == 2
    assert warnings == ["skipped example 7 of field: shard 0 at byte 99: checksum"]
    assert statistics.report()[1] == []

    plan.skipped_records.update({("web", position): "gone" for position in range(60)})
    values, warnings = statistics.report()
    assert values["data/skipped_records"] == 62
    assert len(warnings) == 6 and warnings[-1] == "skipped 55 more records that cannot be used"
    plan.skipped_records["web", 60] = "gone"
    assert statistics.report()[1] == []  # enough of them
    plan.skipped_records.clear()
