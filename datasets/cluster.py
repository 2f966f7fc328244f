"""Runs long jobs on an existing dask.distributed cluster, as `worker_pool` runs them in processes of this machine."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import cv2

from datasets.folder_lock import PrepareError
from datasets.worker_pool import PROGRESS_INTERVAL_SECONDS

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 5.0
FIRST_WORKER_SECONDS = 10.0


@contextlib.contextmanager
def connect(address: str) -> Iterator["Client"]:
    """A connection to the scheduler at HOST:PORT. Raises: PrepareError if none answers within seconds."""
    try:
        import distributed
    except ImportError as error:
        raise PrepareError("a cluster needs the package distributed; install it with pip install "
                           "'posepile-trainer[cluster]'") from error
    async def ask_who_it_is():
        async with distributed.rpc(address, timeout=CONNECT_SECONDS) as server:
            await server.identity()

    # First a question that may be given up: a client waits without limit for the greeting of a server of another kind.
    try:
        asyncio.run(asyncio.wait_for(ask_who_it_is(), 2 * CONNECT_SECONDS))
    except Exception as error:  # the types differ with what is wrong: name, port, protocol
        reason = str(error).partition("\n")[0] or "it accepts the connection, but stays silent"
        raise PrepareError(f"no dask scheduler answers at {address} ({reason}); expected HOST:PORT as `dask scheduler` "
                           "prints it") from error
    client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    logger = logging.getLogger("distributed.utils")  # prints tracebacks of what is reported here in one line
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield client
    finally:
        client.close()
        logger.setLevel(level)


def check_workers(client: "Client", find_problem: Callable[..., str | None], *arguments) -> None:
    """Calls `find_problem(*arguments)` on every worker.

    Raises: PrepareError if there are no workers, or naming a worker that returned a problem, or failed to import what
        the call is made of.
    """
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
    except TimeoutError as error:
        raise PrepareError(f"the scheduler at {client.scheduler.address} has no workers; start some, with `dask worker "
                           f"{client.scheduler.address}`") from error
    for worker, problem in client.run(find_problem, *arguments, on_error="return").items():
        if isinstance(problem, Exception):
            problem = f"fails the check: {problem}. Is the same software installed there?"
        if problem:
            raise PrepareError(f"worker {worker}: {problem}")


def run_jobs(function: Callable, jobs: Sequence[Any], client: "Client",
             show: Callable[[int, int], None]) -> Iterator[tuple[Any, Any]]:
    """Runs `function(job, report)` for every job on the workers; yields (job, result) in the order in which they end.

    The arguments are those of `worker_pool.run_jobs`, except that `report` stops nothing: jobs that run when this ends
    early have to notice it by themselves. A job whose worker died is run again elsewhere, as often as the scheduler's
    settings allow.

    Raises: the first exception of a job; PrepareError if a job's workers died repeatedly, or the scheduler.
    """
    import distributed

    reported: dict[int, tuple[int, int]] = {}  # job number -> units, examples
    topic = f"progress-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: reported.update({event[1][0]: tuple(event[1][1:])}))
    futures = {client.submit(_run_on_worker, function, job, topic, number, pure=False): number
               for number, job in enumerate(jobs)}
    pending, done = set(futures), {}
    try:
        while pending:
            with contextlib.suppress(TimeoutError), client.as_current():
                distributed.wait(pending, PROGRESS_INTERVAL_SECONDS, "FIRST_COMPLETED")
            finished = {future for future in pending if future.done()}
            pending -= finished
            results = {}
            for future in finished:
                results[futures[future]], done[futures[future]] = future.result()
            counts = {**reported, **done}.values()
            show(sum(units for units, _ in counts), sum(examples for _, examples in counts))
            for number, result in results.items():
                yield jobs[number], result
    except distributed.KilledWorker as error:
        raise PrepareError(f"the workers that ran a job died ({error.allowed_failures + 1} times, the last one was "
                           f"{error.last_worker.address}), perhaps for want of memory; finished shards stay, the same command "
                           "continues") from error
    except CancelledError as error:
        raise PrepareError("the connection to the scheduler was lost, or somebody cancelled the jobs; finished shards "
                           "stay, the same command continues") from error
    finally:
        client.cancel(list(futures), force=True)
        client.unsubscribe_topic(topic)


def _run_on_worker(function, job, topic, number):
    """Returns: the job's result, and its units and examples."""
    from distributed import get_worker

    cv2.setNumThreads(1)  # one worker per core
    worker, counts, last_message = get_worker(), [0, 0], time.monotonic()

    def report(units, examples):
        nonlocal last_message
        counts[0] += units
        counts[1] += examples
        if (now := time.monotonic()) > last_message + PROGRESS_INTERVAL_SECONDS:
            last_message = now
            worker.log_event(topic, [number, *counts])

    return function(job, report), tuple(counts)
