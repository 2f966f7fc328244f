"""Files: read without pickles, written complete or not at all, and never over another one unasked."""

import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np


def refuse_existing(flag: str, paths: Sequence[pathlib.Path], overwrite: bool) -> None:
    """Raises: ValueError naming the first of the files that exists, unless `overwrite`, or that is a folder."""
    if folders := [path for path in paths if path.is_dir()]:
        raise ValueError(f"{folders[0]} is a folder; name a file as {flag}")
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


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, without pickles. Raises: FileNotFoundError; ValueError if it is not such a file."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except (EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"the .npz file is damaged: {error}") from error
