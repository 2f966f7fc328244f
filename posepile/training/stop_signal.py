"""Stopping cleanly: the first Ctrl-C or SIGTERM lets the current step end and a checkpoint be written."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2  # file descriptor


class Preempted(KeyboardInterrupt):
    """SIGTERM has come, as from a cluster that needs the machine: what is done is saved, the same command goes on later."""


class StopRequest:
    """Called, it says whether a stop was asked for.

    Attributes:
        signum: the first signal that came; None: none has.
    """

    signum: int | None = None

    def __call__(self) -> bool:
        return self.signum is not None

    @property
    def is_preemption(self) -> bool:
        return self.signum == signal.SIGTERM


@contextlib.contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Within the block Ctrl-C and SIGTERM are noted; the second one interrupts at once.

    Raises: Preempted or KeyboardInterrupt at the end of a block that has come to its end in spite of a request.
    """
    request = StopRequest()

    def handle(signum, _):
        if request():
            raise _interrupt(signum)
        request.signum = signum
        # Not by print: the signal may have come in the middle of another write to that stream, which cannot be entered twice.
        os.write(_STDERR, f"\n{signal.Signals(signum).name}: finishing this step and writing a checkpoint "
                          "(again to stop at once) ...\n".encode())

    with _handling(handle, _SIGNALS):
        yield request
    if request():
        raise _interrupt(request.signum)


@contextlib.contextmanager
def preemption_raised() -> Iterator[None]:
    """Within the block SIGTERM raises Preempted, as Ctrl-C raises KeyboardInterrupt, so that files are cleaned up."""
    def handle(signum, _):
        raise Preempted

    with _handling(handle, (signal.SIGTERM,)):
        yield


def _interrupt(signum: int) -> KeyboardInterrupt:
    return Preempted() if signum == signal.SIGTERM else KeyboardInterrupt()


@contextlib.contextmanager
def _handling(handler, signals: tuple[int, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = [signal.signal(s, handler) for s in signals]
    try:
        yield
    finally:
        for s, previous in zip(signals, old, strict=True):
            signal.signal(s, previous)
