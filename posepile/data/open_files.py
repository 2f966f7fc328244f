"""Reading at any place of many files, from many threads, within the process's limit of open files."""

import contextlib
import functools
import os
import resource
import weakref

# Nobody needs more, and some programs walk through all the descriptors that they might have inherited.
_MAX_OPEN_FILES = 1 << 16


class OpenFiles:
    """Reads anywhere in any number of files, and keeps them open as long as the process has few open files.

    No descriptor that is kept is ever closed while the object lives, so that threads need no lock.
    """

    def __init__(self):
        self._descriptors: dict[str, int] = {}
        weakref.finalize(self, _close, self._descriptors).atexit = False  # threads may be reading then

    def read(self, path: str, num_bytes: int, offset: int) -> bytes:
        """Fewer bytes where the file ends. Raises: OSError."""
        descriptor = self._descriptors.get(path)
        if descriptor is not None:
            return os.pread(descriptor, num_bytes, offset)
        descriptor = os.open(path, os.O_RDONLY)
        # Of threads that open the same file at the same time one keeps its descriptor: setdefault is atomic.
        if (len(_kept_descriptors) < _max_kept_descriptors()
                and self._descriptors.setdefault(path, descriptor) == descriptor):
            _kept_descriptors.add(descriptor)
            return os.pread(descriptor, num_bytes, offset)
        try:
            return os.pread(descriptor, num_bytes, offset)
        finally:
            os.close(descriptor)


_kept_descriptors: set[int] = set()  # of all data sets of the process


@functools.cache
def _max_kept_descriptors() -> int:
    """Half of the files that the process may open; raises its soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (limit if soft == resource.RLIM_INFINITY else soft) // 2


def _close(descriptors: dict[str, int]) -> None:
    while descriptors:
        _, descriptor = descriptors.popitem()
        _kept_descriptors.discard(descriptor)
        os.close(descriptor)
