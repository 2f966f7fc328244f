"""Files that appear under their final name only when they are complete."""

import contextlib
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # these errors come without a name


@contextlib.contextmanager
def atomic_file(path: pathlib.Path, mode: str = "wb") -> Iterator:
    """Opens a temporary file beside `path` that takes its name on success and vanishes on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: pathlib.Path, content) -> None:
    """Writes JSON atomically."""
    with atomic_file(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
