"""Makes parts of batches in worker processes, which no lock of the interpreter keeps from working side by side.

The crops come back through anonymous shared memory, which needs no room in /dev/shm and vanishes with the processes.
"""

import collections
import math
import mmap
import os
import time
import weakref

import numpy as np

from posepile.data import batches
from posepile.data.batches import BatchPlan
from posepile.data.worker_processes import start_executor

_worker = None  # in a worker process: its plan, the seed, and the shared memory it has opened, by descriptor


def processes_can_share_memory() -> bool:
    """Whether this system has the means: Linux with /proc."""
    return hasattr(os, "memfd_create") and os.path.isdir(f"/proc/{os.getpid()}/fd")


class PartWorkers:
    """Processes that make parts of batches for any number of threads.

    Args:
        plan: of the batches.
        seed: of the run.
        num_processes: how many.
        max_examples: the most that a call of `make_part` is to make.
    """

    def __init__(self, plan: BatchPlan, seed: int, num_processes: int, max_examples: int):
        self._plan = plan
        self._executor = start_executor(num_processes, _start_worker, (plan, seed))
        # All of one size. A deque, as a finalizer may run while this thread is busy with it: no lock would do.
        self._free_blocks: collections.deque[_Block] = collections.deque()
        self._block_bytes = max_examples * 3 * plan.crop_side**2

    def make_part(self, part_index: int, step: int, num_steps: int) -> tuple[dict[str, np.ndarray], float, float]:
        """`batches.make_part` in one of the processes; waits for its result.

        Returns: the arrays, whose images lie in memory that is used again when nothing refers to them any more; the
            seconds that making them took, and of these the seconds of CPU time.
        Raises: what `batches.make_part` raises; BrokenProcessPool if a process was killed.
        """
        part, side = self._plan.parts[part_index], self._plan.crop_side
        shape = (num_steps * len(part.rows), side, side, 3)
        images, descriptor = self._borrow(shape)
        result = self._executor.submit(_make_part, part_index, step, num_steps, descriptor, shape).result()
        arrays, skipped, seconds, cpu_seconds = result
        self._plan.skipped_records.update(skipped)
        return {"image": images, **arrays}, seconds, cpu_seconds

    def close(self) -> None:
        """Ends the processes, after the parts that they are making."""
        self._executor.shutdown(cancel_futures=True)

    def _borrow(self, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """An array in shared memory, and the descriptor of that."""
        try:
            block = self._free_blocks.popleft()
        except IndexError:
            block = _Block(self._block_bytes)
        view = memoryview(block.memory)  # what every array made of it refers to
        weakref.finalize(view, self._free_blocks.append, block).atexit = False
        return np.frombuffer(view, np.uint8, math.prod(shape)).reshape(shape), block.descriptor


class _Block:
    """Shared memory, which lives as long as the workers: they know it by the number of its descriptor."""

    def __init__(self, num_bytes: int):
        self.descriptor = os.memfd_create("posepile")
        os.ftruncate(self.descriptor, num_bytes)
        self.memory = mmap.mmap(self.descriptor, num_bytes)
        weakref.finalize(self, os.close, self.descriptor)


def _start_worker(plan: BatchPlan, seed: int) -> None:
    global _worker
    _worker = plan, seed, {}


def _make_part(part_index, step, num_steps, descriptor, shape):
    plan, seed, opened = _worker
    if descriptor not in opened:
        file = os.open(f"/proc/{os.getppid()}/fd/{descriptor}", os.O_RDWR)
        opened[descriptor] = mmap.mmap(file, 0)
        os.close(file)
    images = np.frombuffer(opened[descriptor], np.uint8, math.prod(shape)).reshape(shape)
    start, cpu_start, known = time.perf_counter(), time.process_time(), set(plan.skipped_records)
    arrays = batches.make_part(plan, plan.parts[part_index], seed, step, num_steps, images=images)
    del arrays["image"]
    skipped = {key: reason for key, reason in plan.skipped_records.items() if key not in known}
    return arrays, skipped, time.perf_counter() - start, time.process_time() - cpu_start
