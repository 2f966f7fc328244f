"""Worker processes: fresh interpreters that leave Ctrl-C to their parent, end with it, and start lean."""

import contextlib
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from typing import Any

import cv2

_start_lock = threading.Lock()
_gathering = None  # in a worker process: where the workers of an executor wait for each other


def available_cores() -> int:
    """Cores that this process may use, as far as its affinity and its container's quota say."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(num_cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such quota: "max", or another system
        return num_cores


def spawn_context() -> multiprocessing.context.BaseContext:
    """Of fresh interpreters: forked ones would inherit the threads of TensorFlow and OpenCV in an undefined state."""
    return multiprocessing.get_context("spawn")


def start_executor(num_workers: int, initializer: Callable, arguments: tuple, sent: Any = None) -> ProcessPoolExecutor:
    """An executor whose workers have all been started and call `initializer(*arguments)` first; does not wait for it.

    Workers ignore Ctrl-C from their first moment, end when this process does, and do not import the program's main module.
    Multiprocessing has them import it for the sake of functions defined there; a training program's main module would
    bring TensorFlow along, into every worker.

    Args:
        num_workers: how many processes.
        initializer, arguments: see above; small, as each process is waited for until it has read them.
        sent: the kind of thing that the workers will get; if something in it is defined in the main module, that is
            imported after all.

    Raises: TypeError, AttributeError or PicklingError for what cannot be sent to another process.
    """
    context = spawn_context()
    gathering = context.Barrier(num_workers)
    executor = ProcessPoolExecutor(num_workers, context, _start, (gathering, initializer, arguments))
    try:
        with _quiet_start(keep_main_module=b"__main__" in pickle.dumps(sent)):
            # A process starts when there is work and no other one is idle: so each gets to wait for the others.
            for _ in range(num_workers):
                executor.submit(_gather)
    except BaseException:
        gathering.abort()
        executor.shutdown(cancel_futures=True)
        raise
    return executor


@contextlib.contextmanager
def _quiet_start(keep_main_module: bool) -> Iterator[None]:
    """Processes started in here get no Ctrl-C, and know nothing of a main module that is not kept.

    They inherit that the signal is blocked; one that comes meanwhile reaches this process in the end.
    """
    main = sys.modules["__main__"]
    names = () if keep_main_module else ("__spec__", "__file__")
    resource_tracker.ensure_running()  # its start would unblock the signal
    with _start_lock:
        hidden = {name: getattr(main, name) for name in names if hasattr(main, name)}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if hidden:
                main.__spec__ = None
                main.__dict__.pop("__file__", None)
            yield
        finally:
            for name, value in hidden.items():
                setattr(main, name, value)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(gathering, initializer, arguments) -> None:
    global _gathering
    _gathering = gathering
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    cv2.setNumThreads(1)  # one worker per core
    parent = multiprocessing.parent_process()

    def end_with_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    initializer(*arguments)


def _gather() -> None:
    _gathering.wait()
