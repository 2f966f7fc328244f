"""Stopping cleanly: the first Ctrl-C or SIGTERM lets the current step end and a checkpoint be written."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        print(f"\n{signal.Signals(signum).name}: finishing this step and writing a checkpoint "
              "(again to stop at once) ...", file=sys.stderr, flush=True)

    old = [signal.signal(s, handle) for s in _SIGNALS]
    try:
        yield event.is_set
    finally:
        for s, handler in zip(_SIGNALS, old, strict=True):
            signal.signal(s, handler)
