"""Text files of numbers."""

import pathlib

from datasets.readers.files import broken_file_errors, require_file


def read_text(path: pathlib.Path, hint: str = "") -> str:
    """A text file; a byte order mark is dropped, and all ends of lines become a newline.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file if it is not UTF-8.
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a text file"):
        return path.read_text(encoding="utf-8-sig")


def read_numbers(path: pathlib.Path, hint: str = "", skip_lines: int = 0) -> list[list[float]]:
    """The numbers of each line, apart by blanks, tabs, commas or semicolons; lines without any are left out. nan is a number.

    Args:
        skip_lines: number of lines at the beginning, a header, that are not looked at.

    Raises: FileNotFoundError followed by `hint`; ValueError naming file and line of a word that is not a number.
    """
    rows = []
    for number, line in enumerate(read_text(path, hint).splitlines()[skip_lines:], skip_lines + 1):
        try:
            row = [float(word) for word in line.replace(",", " ").replace(";", " ").split()]
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}; expected numbers, got {line!r:.200}") from error
        if row:
            rows.append(row)
    return rows
