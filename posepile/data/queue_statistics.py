"""How fast every data set's examples are made, how long training waits for them, and which data set is to blame.

A stream of batches is given a `QueueStatistics`. The threads that make examples report what they made, the consumer
reads the batches through `watch`, and the training log asks for a `report` at every line.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

from posepile.data.batches import BatchPlan

# A trainer that waits for data for a larger share of the time than this is starving.
STARVING_SHARE = 0.2
# Windows of the log before the first warning: queues fill, and the first steps are compiled.
_WARM_UP_WINDOWS = 2
_WINDOWS_BETWEEN_WARNINGS = 20
# A data set is called slow if crops as cheap as the other data sets' would save this share of the work on a batch.
_SLOW_SHARE = 0.25
_SKIPPED_PER_REPORT, _SKIPPED_IN_ALL = 5, 50  # warnings about records that cannot be used


class QueueStatistics:
    """Counts what is made and consumed of one stream of batches; may be used by any number of threads.

    Args:
        plan: of the batches.
    """

    def __init__(self, plan: BatchPlan):
        self._skipped_records = plan.skipped_records
        self._lock = threading.Lock()
        self._datasets = {part.dataset.name: _DatasetCounts(len(part.rows)) for part in plan.parts}
        self._since, self._wait_seconds = time.perf_counter(), 0.0
        self._num_reports, self._next_warning = 0, _WARM_UP_WINDOWS + 1
        self._num_skipped_reported = len(plan.skipped_records)  # by an earlier stream of the same plan

    def add_made(self, dataset_name: str, num_examples: int, seconds: float, cpu_seconds: float) -> None:
        """Notes that a thread or process has made examples of a data set in so many seconds, in so many of which it was at
        work."""
        with self._lock:
            self._datasets[dataset_name].add_made(num_examples, seconds, cpu_seconds, time.perf_counter())

    def watch(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The same batches; notes how long the consumer waits for each. Closes the iterator in the end."""
        with contextlib.closing(batches):
            with self._lock:  # the first window begins now
                self._since = time.perf_counter()
                for counts in self._datasets.values():
                    counts.since = self._since
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                now = time.perf_counter()
                with self._lock:
                    self._wait_seconds += now - start
                    for counts in self._datasets.values():
                        counts.add_ahead(-counts.examples_per_batch, now)
                yield batch

    def report(self) -> tuple[dict[str, float], list[str]]:
        """What happened since the last report.

        Returns: values for the log, and warnings in words, most often none. The values:
            data/wait_seconds, data/wait_share: how long the consumer waited for batches, and as a share of the time.
            data/skipped_records: how many could not be used, from the start.
            data/crops_per_second/NAME: made of a data set.
            data/ms_per_crop/NAME: time of one thread per crop. data/cpu_ms_per_crop/NAME: the part of it in which the
                thread was at work, instead of waiting for the disk or for a free core. Both of the last crops made;
                missing before the first.
            data/queue_fill/NAME: batches made ahead and not yet consumed, averaged over the time.
        """
        with self._lock:
            now = time.perf_counter()
            seconds, self._since = now - self._since, now
            wait_seconds, self._wait_seconds = self._wait_seconds, 0.0
            figures = {name: counts.flush(seconds, now) for name, counts in self._datasets.items()}
            self._num_reports += 1
        values = {"data/wait_seconds": wait_seconds, "data/wait_share": wait_seconds / seconds,
                  "data/skipped_records": len(self._skipped_records)}
        for name, of_dataset in figures.items():
            values |= {f"data/{figure}/{name}": value for figure, value in of_dataset.items()}
        warnings = self._new_skipped_records()
        if values["data/wait_share"] > STARVING_SHARE and self._num_reports >= self._next_warning:
            self._next_warning = self._num_reports + _WINDOWS_BETWEEN_WARNINGS
            examples_per_batch = {name: counts.examples_per_batch for name, counts in self._datasets.items()}
            warnings.append(f"training waited for data for {values['data/wait_share']:.0%} of the last "
                            f"{seconds:.1f} s: {explain_starvation(figures, examples_per_batch)}")
        return values, warnings

    def _new_skipped_records(self) -> list[str]:
        new = list(self._skipped_records.copy().items())[self._num_skipped_reported:]
        room = max(0, min(_SKIPPED_PER_REPORT, _SKIPPED_IN_ALL - self._num_skipped_reported))
        self._num_skipped_reported += len(new)
        warnings = [f"skipped example {position} of {name}: {message}" for (name, position), message in new[:room]]
        if len(new) > room > 0:
            warnings.append(f"skipped {len(new) - room} more records that cannot be used")
        return warnings


class _DatasetCounts:
    """What is made and consumed of one data set; the caller holds the lock."""

    def __init__(self, examples_per_batch):
        self.examples_per_batch = examples_per_batch
        self.since = time.perf_counter()  # when the number of examples ahead last changed
        self._num_ahead = self._ahead_seconds = 0  # examples made and not yet consumed, and the sum of that over time
        self._num_made = self._seconds = self._cpu_seconds = 0
        self._times = {}

    def add_ahead(self, num_examples, now):
        self._ahead_seconds += self._num_ahead * (now - self.since)
        self._num_ahead += num_examples
        self.since = now

    def add_made(self, num_examples, seconds, cpu_seconds, now):
        self.add_ahead(num_examples, now)
        self._num_made += num_examples
        self._seconds += seconds
        self._cpu_seconds += cpu_seconds

    def flush(self, window_seconds, now) -> dict[str, float]:
        self.add_ahead(0, now)
        if self._num_made:
            self._times = {"ms_per_crop": 1000 * self._seconds / self._num_made,
                           "cpu_ms_per_crop": 1000 * self._cpu_seconds / self._num_made}
        figures = {"crops_per_second": self._num_made / window_seconds,
                   "queue_fill": self._ahead_seconds / window_seconds / self.examples_per_batch, **self._times}
        self._num_made = self._seconds = self._cpu_seconds = self._ahead_seconds = 0
        return figures


def explain_starvation(figures: dict[str, dict[str, float]], examples_per_batch: dict[str, int]) -> str:
    """Says in words why batches come too slowly.

    Args:
        figures: per data set ms_per_crop, cpu_ms_per_crop and queue_fill as in `QueueStatistics.report`.
        examples_per_batch: of the data sets.

    Returns: sentences that name the data set whose slow crops cost most beyond what the same number of the others'
        would, or the machine if there is none.
    """
    known = {name: of_dataset for name, of_dataset in figures.items() if "ms_per_crop" in of_dataset}
    if not known:
        return "no crop was made in that time. The disk or network drive that holds the data sets may have stopped."
    costs = {name: of_dataset["ms_per_crop"] for name, of_dataset in known.items()}
    usual = {name: statistics.median([cost for other, cost in costs.items() if other != name
                                      for _ in range(examples_per_batch[other])] or [costs[name]]) for name in costs}
    excess = {name: (costs[name] - usual[name]) * examples_per_batch[name] for name in costs}
    slow, work = max(excess, key=excess.get), sum(costs[name] * examples_per_batch[name] for name in costs)
    if excess[slow] > _SLOW_SHARE * work:
        cause = (f"the data set {slow} is slow, {costs[slow]:.2f} ms per crop against {usual[slow]:.2f} ms of the other "
                 f"crops of a batch, with {examples_per_batch[slow]} of its own and {known[slow]['queue_fill']:.1f} batches "
                 "ahead")
        affected = [slow]
    else:
        cause = f"no data set stands out, with {min(costs.values()):.2f} to {max(costs.values()):.2f} ms per crop"
        affected = list(known)
    share_at_work = (sum(known[name]["cpu_ms_per_crop"] * examples_per_batch[name] for name in affected)
                     / sum(costs[name] * examples_per_batch[name] for name in affected))
    if share_at_work < 0.5:
        return (f"{cause}; {1 - share_at_work:.0%} of that is waiting, for the disk, a free core or Python's lock. A faster "
                "disk or smaller stored crops help if the disk is busy, more CPU cores if these are.")
    return f"{cause}; the CPU is the limit. More CPU cores or smaller stored crops help."
