"""What all readers of raw files say of a missing and of a broken file."""

import contextlib
import pathlib
from collections.abc import Iterator


def require_file(path: pathlib.Path, hint: str = "") -> pathlib.Path:
    """The path as a pathlib.Path. Raises: FileNotFoundError saying that it is missing, followed by `hint`."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {hint}".rstrip())
    return path


@contextlib.contextmanager
def broken_file_errors(path: pathlib.Path, file_format: str) -> Iterator[None]:
    """Turns whatever a parser raises inside the `with` block into a ValueError that names file and format.

    Parsers raise anything from struct.error to AssertionError on broken bytes; the first error stays the cause.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}".rstrip(": ")
        raise ValueError(f"{path} cannot be read as {file_format}: {reason.rstrip('.')}. Is it damaged, or another kind of "
                         "file than its name says?") from error
