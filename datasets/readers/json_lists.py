"""JSON files that are a table of long lists, element by element: parsed as a whole they would fill the memory."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from datasets.readers.files import broken_file_errors, require_file

_CHUNK = 2**20  # characters read at once
_ENDS = tuple(", \t\r\n:]}")  # what can follow a value
_MAX_VALUE = 2**24  # characters of one element, or of a value that is no list


def iterate_lists(path: pathlib.Path, hint: str = "") -> Iterator[tuple[str, Any]]:
    """The elements of the lists in the file's table, in the order of the file; values that are no lists are left out.

    Yields: name of the list, element.
    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, and the character where it is broken.
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a JSON table of lists"), path.open(encoding="utf-8-sig") as file:
        text = _Text(file)
        text.take("{")
        while not text.take_if("}"):
            name = text.value()
            text.take(":")
            if text.take_if("["):
                while not text.take_if("]"):
                    yield name, text.value()
                    text.take_if(",") or text.expect("]")
            else:
                text.value()
            text.take_if(",") or text.expect("}")


class _Text:
    """What of a file is not read yet."""

    def __init__(self, file):
        self._file = file
        self._buffer, self._at = "", 0
        self._start = 0  # of the buffer in the file
        self._decode = json.JSONDecoder().raw_decode

    def value(self) -> Any:
        """The value that comes next."""
        self._skip_blanks()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
                if self._buffer[end:end + 1] in _ENDS:  # else it may go on: 12 may be the beginning of 123 or 12e-3
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                reason = error.msg
            else:
                reason = "a value without an end"
            if len(self._buffer) - self._at > _MAX_VALUE or not self._read():
                raise ValueError(f"character {self._start + self._at}: {reason}")

    def take_if(self, symbol: str) -> bool:
        """Whether this symbol comes next; if so, it is taken."""
        self._skip_blanks()
        is_next = self._buffer.startswith(symbol, self._at)
        self._at += is_next
        return is_next

    def expect(self, symbol: str) -> None:
        """Raises: ValueError unless this symbol comes next."""
        self._skip_blanks()
        if not self._buffer.startswith(symbol, self._at):
            raise ValueError(f"character {self._start + self._at}: expected {symbol}, got "
                             f"{self._buffer[self._at:self._at + 20]!r}")

    def take(self, symbol: str) -> None:
        """Takes a symbol. Raises: ValueError if another one comes next."""
        self.expect(symbol)
        self._at += 1

    def _skip_blanks(self) -> None:
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._buffer) or not self._read():
                return

    def _read(self) -> bool:
        """Reads on. Returns: whether there was anything left."""
        chunk = self._file.read(_CHUNK)
        self._start += self._at
        self._buffer, self._at = self._buffer[self._at:] + chunk, 0
        return bool(chunk)
