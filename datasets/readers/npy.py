"""Arrays in numpy's own files."""

import pathlib

import numpy as np

from datasets.readers.files import broken_file_errors, require_file


def read_npy(path: pathlib.Path, hint: str = "") -> np.ndarray:
    """The array of a .npy file, read-only. It is mapped into memory, since a header may claim any size.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, also for arrays of objects, which are pickles.
    """
    with broken_file_errors(require_file(path, hint), "a .npy file"):
        return np.lib.format.open_memmap(path, mode="r")
