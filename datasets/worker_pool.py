"""Runs long jobs in worker processes that show their progress, stop on demand, and end when their parent does."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

import cv2

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
    pickle.dumps(jobs[0])  # raises here, rather than in the thread that feeds the workers
    # Fresh interpreters: forked ones would inherit the threads of TensorFlow and OpenCV in an undefined state.
    context = multiprocessing.get_context("spawn")
    counts, stop = context.Array("q", 2), context.Event()
    with ProcessPoolExecutor(num_workers, context, _start_worker, (function, counts, stop)) as executor:
        try:
            with _quiet_start(keep_main_module=b"__main__" in pickle.dumps(jobs[0])):
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


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_here(function, jobs, show):
    counts = [0, 0]

    def report(units, examples):
        counts[0] += units
        counts[1] += examples
        show(*counts)

    for job in jobs:
        yield job, function(job, report)


@contextlib.contextmanager
def _quiet_start(keep_main_module: bool) -> Iterator[None]:
    """Workers started in here ignore Ctrl-C from their first moment, and do not import the program's main module.

    Multiprocessing has them import it for the sake of functions defined there; a training program's main module would
    bring TensorFlow along, into every worker.
    """
    main = sys.modules["__main__"]
    names = () if keep_main_module else ("__spec__", "__file__")
    hidden = {name: getattr(main, name) for name in names if hasattr(main, name)}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        if hidden:
            main.__spec__ = None
            main.__dict__.pop("__file__", None)
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def _start_worker(function, counts, stop) -> None:
    global _shared
    _shared = function, counts, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    cv2.setNumThreads(1)  # one worker per core
    parent = multiprocessing.parent_process()

    def end_with_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_in_worker(job):
    function, counts, stop = _shared

    def report(units, examples):
        with counts.get_lock():
            counts[0] += units
            counts[1] += examples
        if stop.is_set():
            raise StoppedError

    return function(job, report)
