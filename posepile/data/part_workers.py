"""Makes parts of batches in worker processes, which no lock of the interpreter keeps from working side by side.

The crops come back through anonymous shared memory, which needs no room in /dev/shm and vanishes with the processes.
"""

import collections
import functools
import math
import mmap
import os
import pickle
import time
import weakref
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from posepile.data import batches
from posepile.data.batches import BatchPlan, PartPlan
from posepile.data.worker_processes import start_executor

_worker: "_Worker | None" = None  # in a worker process


def processes_can_share_memory() -> bool:
    """Whether this system has the means: Linux with /proc."""
    return hasattr(os, "memfd_create") and os.path.isdir(f"/proc/{os.getpid()}/fd")


class WorkerError(RuntimeError):
    """A worker process ended that nobody told to end, or cannot work on this system."""


def timed_part(plan: BatchPlan, part: PartPlan, seed: int, step: int, num_steps: int,
               images: np.ndarray | None = None) -> tuple[dict[str, np.ndarray], float, float]:
    """`batches.make_part`, the seconds that it took, and of these the seconds in which the thread was at work."""
    start, cpu_start = time.perf_counter(), time.thread_time()
    arrays = batches.make_part(plan, part, seed, step, num_steps, images)
    return arrays, time.perf_counter() - start, time.thread_time() - cpu_start


class PartWorkers:
    """Processes that make parts of batches for any number of threads.

    Args:
        plan: of the batches.
        seed: of the run.
        num_processes: how many.
        max_examples: the most that a call of `make_part` is to make.

    Raises: TypeError or PicklingError for a plan that cannot be sent to another process.
    """

    def __init__(self, plan: BatchPlan, seed: int, num_processes: int, max_examples: int):
        self._plan, self.num_processes = plan, num_processes
        self._part_numbers = {part.dataset.name: number for number, part in enumerate(plan.parts)}
        pickled = pickle.dumps((plan, seed))
        self._sent = _Block(len(pickled))
        self._sent.memory[:] = pickled
        self._executor = start_executor(num_processes, _start_worker, (self._sent.descriptor,), sent=plan.skeleton)
        # All of one size. A deque, as a finalizer may run while this thread is busy with it: no lock would do.
        self._free_blocks: collections.deque[_Block] = collections.deque()
        self._blocks: list[_Block] = []  # all of them, as the workers know them by the numbers of their descriptors
        self._block_bytes = max_examples * 3 * plan.crop_side**2

    def make_part(self, part: PartPlan, step: int, num_steps: int) -> tuple[dict[str, np.ndarray], float, float]:
        """`timed_part` in one of the processes; waits for its result.

        Returns: as `timed_part`; the memory of the images is used again when nothing refers to them any more.
        Raises: what `batches.make_part` raises; WorkerError.
        """
        shape = (num_steps * len(part.rows), self._plan.crop_side, self._plan.crop_side, 3)
        images, descriptor = self._borrow(shape)
        number = self._part_numbers[part.dataset.name]
        try:
            result = self._executor.submit(_make_part, number, step, num_steps, descriptor, shape).result()
        except BrokenProcessPool as error:
            raise WorkerError("a process that makes training crops was killed, perhaps for want of memory; the same command "
                              "goes on from the last checkpoint, with fewer --data-workers if need be") from error
        arrays, seconds, cpu_seconds, skipped = result
        self._plan.skipped_records.update(skipped)
        return {"image": images, **arrays}, seconds, cpu_seconds

    def close(self) -> None:
        """Ends the processes, after the parts that they are making."""
        self._executor.shutdown(cancel_futures=True)

    def __enter__(self) -> "PartWorkers":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _borrow(self, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """An array in shared memory, and the descriptor of that."""
        try:
            block = self._free_blocks.popleft()
        except IndexError:
            block = _Block(self._block_bytes)
            self._blocks.append(block)
        lent = np.frombuffer(block.memory, np.uint8, math.prod(shape))  # all views of it keep it alive
        weakref.finalize(lent, self._free_blocks.append, block).atexit = False
        return lent.reshape(shape), block.descriptor


class _Block:
    """Memory that other processes can open by the number of its descriptor."""

    def __init__(self, num_bytes: int):
        self.descriptor = os.memfd_create("posepile")
        os.ftruncate(self.descriptor, num_bytes)
        self.memory = mmap.mmap(self.descriptor, num_bytes)
        weakref.finalize(self, os.close, self.descriptor)


def _start_worker(descriptor: int) -> None:
    global _worker
    _worker = _Worker(descriptor)


class _Worker:
    """What a worker process knows."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._opened: dict[int, mmap.mmap] = {}

    @functools.cached_property
    def plan_and_seed(self) -> tuple[BatchPlan, int]:
        """Read with the first job, whose caller gets to know what may be wrong."""
        return pickle.loads(self.open(self._descriptor))

    def open(self, descriptor: int) -> mmap.mmap:
        if descriptor not in self._opened:
            path = f"/proc/{os.getppid()}/fd/{descriptor}"
            try:
                file = os.open(path, os.O_RDWR)
            except OSError as error:
                raise WorkerError(f"a process that makes training crops cannot open {path} ({error.strerror}); "
                                  "--data-workers=0 does without such processes") from error
            self._opened[descriptor] = mmap.mmap(file, 0)
            os.close(file)
        return self._opened[descriptor]


def _make_part(part_number, step, num_steps, descriptor, shape):
    plan, seed = _worker.plan_and_seed
    images = np.frombuffer(_worker.open(descriptor), np.uint8, math.prod(shape)).reshape(shape)
    known = set(plan.skipped_records)
    arrays, seconds, cpu_seconds = timed_part(plan, plan.parts[part_number], seed, step, num_steps, images)
    del arrays["image"]
    skipped = {key: reason for key, reason in plan.skipped_records.items() if key not in known}
    return arrays, seconds, cpu_seconds, skipped
