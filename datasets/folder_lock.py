"""Holds the folder of a data set for one preparation at a time, on one machine or on several.

A preparation holds the folder by a lock, and by its mark in the lock file. Its jobs look at the mark from time to time:
not every network file system passes locks on to other machines, and jobs on a cluster outlive a preparation that was
killed.
"""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator
from typing import TextIO

STATE_FOLDER = ".prepare"
LOCK_NAME = "lock"
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
_LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

logger = logging.getLogger(__name__)


class PrepareError(RuntimeError):
    """A preparation that cannot go on for a reason outside of the data: settings, a full disk, a killed worker, a
    cluster."""


@contextlib.contextmanager
def hold_folder(folder: pathlib.Path) -> Iterator[str]:
    """Holds the folder against a second preparation, and creates it.

    Where the file system does not pass the lock on to the machine of a second preparation, that one's mark replaces this
    one's, which ends the jobs of this one. So does emptying the lock file in the end, should some be at work on a cluster.

    Yields: the mark, which `check_mark` looks for.
    Raises: PrepareError if another preparation holds the folder, or it cannot be written to.
    """
    mark = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}"
    with _open_lock(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = ", ".join(lock.read().split(", ")[:2])
            raise PrepareError(f"another preparation is at work in {folder} ({holder}); wait for it to end, or stop "
                               "it") from None
        except OSError as error:
            if error.errno not in _LOCKS_UNSUPPORTED:
                raise
            logger.warning("the file system of %s has no locks; do not prepare it twice at the same time", folder)
        lock.truncate(0)
        lock.write(mark)
        lock.flush()
        os.fsync(lock.fileno())
        try:
            yield mark
        finally:
            if read_mark(folder) == mark:
                lock.truncate(0)


def _open_lock(folder: pathlib.Path) -> TextIO:
    path = folder / STATE_FOLDER / LOCK_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise PrepareError(f"{folder} cannot be written to ({error.strerror}: {error.filename}); make it writable, or "
                           "prepare into another data root") from error


def read_mark(folder: pathlib.Path) -> str:
    """The mark of the preparation that holds the folder; empty if none does."""
    try:
        return (folder / STATE_FOLDER / LOCK_NAME).read_text()
    except FileNotFoundError:
        return ""


def check_mark(folder: pathlib.Path, mark: str) -> None:
    """Raises: PrepareError if the preparation of this mark does not hold the folder any more."""
    if read_mark(folder) != mark:
        raise PrepareError(f"{folder} is not held by this preparation any more: another one has taken it over, or "
                           f"{STATE_FOLDER}/{LOCK_NAME} was removed. Finished shards stay; run one preparation at a "
                           "time.")


@contextlib.contextmanager
def explain_full_disk(folder: pathlib.Path) -> Iterator[None]:
    """Turns the error of a full disk, or of a used-up quota, into a PrepareError that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PrepareError(f"the disk of {folder} is full ({error.strerror}); free some space and run the same "
                           "command: it continues, finished shards stay") from error
