"""Runs long jobs in worker processes that show their progress, stop on demand, and end when their parent does."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

from posepile.data.worker_processes import spawn_context, start_executor

PROGRESS_INTERVAL_SECONDS = 0.5

_shared = None  # in a worker process: (function, counts, stop event)


class StoppedError(Exception):
    """A job ended early, because another one failed or the user pressed Ctrl-C."""


def run_jobs(function: Callable, jobs: Sequence[Any], num_workers: int,
             show: Callable[[int, int], None]) -> Iterator[tuple[Any, Any]]:
    """Runs `function(job, report)` for every job; yields (job, result) in the order in which they end.

    Args:
        function: a function of a module. It is to call `report(units, examples)` often, with what it has done since the
            last call; that raises StoppedError if the job is to end.
        jobs: picklable for more than one worker.
        num_workers: 1 works in this process.
        show: called with the units and examples done by all jobs up to now.

    Raises: the first exception of a job, after the others have stopped; BrokenProcessPool if a worker was killed;
        TypeError or PicklingError for jobs that cannot be sent to another process.
    """
    if num_workers == 1:
        yield from _run_here(function, jobs, show)
        return
    context = spawn_context()
    counts, stop = context.Array("q", 2), context.Event()
    # One job shows here, rather than in the thread that feeds the workers, whether jobs can be sent.
    with start_executor(num_workers, _start_worker, (function, counts, stop), sent=jobs[0]) as executor:
        try:
            futures = {executor.submit(_run_in_worker, job): job for job in jobs}
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, PROGRESS_INTERVAL_SECONDS, FIRST_COMPLETED)
                show(*counts[:])
                for future in finished:
                    yield futures[future], future.result()
        finally:  # also after an error or Ctrl-C
            stop.set()
            executor.shutdown(cancel_futures=True)


def _run_here(function, jobs, show):
    counts = [0, 0]

    def report(units, examples):
        counts[0] += units
        counts[1] += examples
        show(*counts)

    for job in jobs:
        yield job, function(job, report)


def _start_worker(function, counts, stop) -> None:
    global _shared
    _shared = function, counts, stop


def _run_in_worker(job):
    function, counts, stop = _shared

    def report(units, examples):
        with counts.get_lock():
            counts[0] += units
            counts[1] += examples
        if stop.is_set():
            raise StoppedError

    return function(job, report)
