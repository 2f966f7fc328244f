"""The same batches as `batches.make_batch`, made ahead of time by threads or processes; numpy and OpenCV only.

What one data set contributes to several consecutive steps is made in one call, as the vectorised geometry costs about
the same for 1 example and for 64. The calls are in the order in which they are needed, data set by data set. Calls and
their results are functions of their step, so the batches are bitwise the same for any number of threads or processes.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from posepile.data import batches
from posepile.data.batches import BatchPlan, PartPlan
from posepile.data.part_workers import PartWorkers, timed_part
from posepile.data.queue_statistics import QueueStatistics
from posepile.data.worker_processes import available_cores

_MAX_EXAMPLES_PER_CALL = 64
_EXAMPLES_IN_CALLS = 1024  # of all data sets, if each is called once: their crops take memory


def prefetched_batches(plan: BatchPlan, seed: int, start_step: int = 0, num_threads: int | None = None,
                       statistics: QueueStatistics | None = None,
                       workers: PartWorkers | None = None) -> Iterator[dict[str, np.ndarray]]:
    """An endless stream of training batches, from any step on. Closing it stops the threads.

    Args:
        plan: what every batch is made of. A worker of a distributed run passes `plan.share(worker, num_workers)`.
        seed: of the run.
        start_step: the step of the first batch.
        num_threads: that make examples; None: one per CPU core.
        statistics: is told what is made.
        workers: processes that make the examples instead; the threads wait for them.

    Yields: `batches.make_batch(plan, seed, step)` for step = start_step, start_step + 1, ...
    Raises: what making a batch raises, where it is the batch's turn or up to `steps_per_call` batches earlier.
    """
    num_threads = prepare_threads(num_threads, workers)

    def calls_at(step):
        return [part for part in plan.parts if (step - start_step) % steps_per_call(plan, part) == 0]

    calls = ((part, step) for step in itertools.count(start_step) for part in calls_at(step))
    # All data sets may be due at the same step, so that many calls are needed at once.
    results = ordered_map(lambda call: load_part(plan, call[0], seed, call[1], statistics, workers), calls, num_threads,
                          num_ahead=2 * len(plan.parts) + num_threads)
    with contextlib.closing(results):
        made = {}
        for step in itertools.count(start_step):
            batch = {name: np.empty(shape, dtype) for name, (shape, dtype) in plan.array_specs().items()}
            for part in calls_at(step):
                made[part.dataset.name] = next(results)
            for part in plan.parts:
                for name, values in made[part.dataset.name].items():
                    own_step = (step - start_step) % steps_per_call(plan, part)
                    batch[name][batches.batch_rows(plan, part, name)] = values[own_step]
            yield batch


def ordered_map(function: Callable, arguments: Iterable, num_threads: int, num_ahead: int) -> Iterator:
    """Calls a function on several threads and yields its results in the order of the arguments.

    Args:
        function: of one argument.
        arguments: taken one by one, in the thread of the consumer.
        num_threads: that call the function.
        num_ahead: calls that may be started, or done, before the consumer asks for their results.

    Raises: what a call raises, where its result would have been yielded. Closing the iterator, or an error, cancels the
        calls that have not begun, and waits for the others.
    """
    executor, pending = ThreadPoolExecutor(num_threads, "prefetch"), collections.deque()
    try:
        for argument in arguments:
            pending.append(executor.submit(function, argument))
            if len(pending) > num_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def steps_per_call(plan: BatchPlan, part: PartPlan) -> int:
    """For how many steps the examples of a data set are made at once."""
    return max(1, min(_MAX_EXAMPLES_PER_CALL, _EXAMPLES_IN_CALLS // len(plan.parts)) // len(part.rows))


def start_workers(plan: BatchPlan, seed: int, num_processes: int) -> PartWorkers:
    """Processes that make what `load_part` asks for."""
    return PartWorkers(plan, seed, num_processes, max(steps_per_call(plan, part) * len(part.rows) for part in plan.parts))


def load_part(plan: BatchPlan, part: PartPlan, seed: int, step: int, statistics: QueueStatistics | None = None,
              workers: PartWorkers | None = None) -> dict[str, np.ndarray]:
    """What a data set contributes to the batches of `steps_per_call` steps, the first of which is `step`.

    Returns: arrays as `batches.scatter_joints`, but [steps, len(part.rows), ...].
    """
    num_steps, num_examples = steps_per_call(plan, part), len(part.rows)
    if workers:
        arrays, seconds, cpu_seconds = workers.make_part(part, step, num_steps)
    else:
        arrays, seconds, cpu_seconds = timed_part(plan, part, seed, step, num_steps)
    if statistics:
        statistics.add_made(part.dataset.name, num_steps * num_examples, seconds, cpu_seconds)
    arrays = batches.scatter_joints(part, arrays)
    return {name: values.reshape(num_steps, num_examples, *values.shape[1:]) for name, values in arrays.items()}


def prepare_threads(num_threads: int | None = None, workers: PartWorkers | None = None) -> int:
    """Tells OpenCV to use no threads of its own, as examples are shared out among threads already.

    Returns: how many of these there are to be: as many as asked for, or one per CPU core that this process may use; with
        workers so many that all of them have work.
    """
    cv2.setNumThreads(1)
    return workers.num_processes + 2 if workers else num_threads or available_cores()
