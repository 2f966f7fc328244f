"""Stopping cleanly: the first Ctrl-C or SIGTERM lets the current step end and a checkpoint be written."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2  # file descriptor


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM set a flag; the second Ctrl-C interrupts at once.

    Yields: a function that says whether a stop was asked for.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def handle(signum, _):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        # Not by print: the signal may have come in the middle of another write to that stream, which cannot be entered twice.
        os.write(_STDERR, f"\n{signal.Signals(signum).name}: finishing this step and writing a checkpoint "
                          "(again to stop at once) ...\n".encode())

    old = [signal.signal(s, handle) for s in _SIGNALS]
    try:
        yield event.is_set
    finally:
        for s, handler in zip(_SIGNALS, old, strict=True):
            signal.signal(s, handler)
