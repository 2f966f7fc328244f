"""Files that the command line writes: complete or not at all, and never over another one unasked."""

import os
import pathlib
import tempfile
from collections.abc import Iterable


def refuse_existing(flag: str, paths: Iterable[pathlib.Path], overwrite: bool) -> None:
    """Raises: ValueError naming the first of the files that exists, unless `overwrite`."""
    if not overwrite and (existing := [path for path in paths if path.exists()]):
        raise ValueError(f"{existing[0]} exists; name another {flag} or give --overwrite")


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, which appears under its name only when complete. Raises: OSError naming it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
