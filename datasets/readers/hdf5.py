"""HDF5 files, and the MATLAB 7.3 files among them.

MATLAB writes its arrays column by column and says the axes the other way round, so that h5py gives an array of MATLAB's
shape [a, b, c] as [c, b, a]. `matlab_array` and `read_cell` give MATLAB's order; indexing a dataset gives h5py's.
"""

import contextlib
import os
import pathlib
import traceback
from collections.abc import Iterator

import h5py
import numpy as np

from datasets.readers.files import require_file

# What gzip reaches at most; a data set that claims more bytes than that of its file is made of fill values.
_MAX_COMPRESSION = 1032
# Cells in cells in cells: a reference can lead back to where it stands.
_MAX_CELL_DEPTH = 8


@contextlib.contextmanager
def open_hdf5(path: pathlib.Path, hint: str = "") -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading. Errors of h5py within the `with` block become ValueErrors that name the file.

    Raises: FileNotFoundError followed by `hint`; ValueError for a broken file, and for a missing data set.
    """
    path = require_file(path, hint)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except Exception as error:
        # h5py raises OSError, KeyError, RuntimeError, ... for broken bytes; those of the caller's own code are left alone.
        if "h5py" not in pathlib.PurePath(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
            raise
        raise ValueError(f"{path} cannot be read as expected: {type(error).__name__}: {error}. Is it a damaged or another "
                         "kind of file than its name says, or another release of the data?") from error


def read_array(dataset: h5py.Dataset) -> np.ndarray:
    """A whole data set, axes as h5py has them: those of a MATLAB array the other way round.

    Raises: ValueError naming file and data set if it is none, claims more bytes than its file can hold, or lies in another
        file.
    """
    where = f"{dataset.file.filename}: {dataset.name}"
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{where} is a group, expected an array")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{where} has its data in other files, which are not read; copy them into one file (h5repack)")
    if dataset.nbytes > _MAX_COMPRESSION * os.path.getsize(dataset.file.filename):
        raise ValueError(f"{where} claims the shape {dataset.shape}, more than its file can hold. Is it damaged?")
    return dataset[()]


def matlab_array(dataset: h5py.Dataset) -> np.ndarray:
    """A MATLAB array of numbers or truth values in MATLAB's order: size(x) = [a, b, c] gives the shape (a, b, c).

    MATLAB's arrays have two axes or more: a list of N numbers is [1, N] or [N, 1].

    Raises: ValueError as `read_array`.
    """
    array = read_array(dataset)
    if dataset.attrs.get("MATLAB_empty"):
        return np.zeros(array.astype(int), array.dtype)  # the file has its size in place of its content
    return (array.astype(bool) if _matlab_class(dataset) == "logical" else array).T


def mat_string(dataset: h5py.Dataset) -> str:
    """The text of a MATLAB array of characters.

    Raises: ValueError as `read_array`, and if it is not of characters.
    """
    if (matlab_class := _matlab_class(dataset)) != "char":
        raise ValueError(f"{dataset.file.filename}: {dataset.name} is of MATLAB's class {matlab_class!r}, expected char")
    return matlab_array(dataset).ravel(order="F").astype(np.uint16).tobytes().decode("utf-16-le")


def read_cell(file: h5py.File, cell: h5py.Dataset | np.ndarray) -> list:
    """The elements of a MATLAB cell array, in the order of MATLAB's linear index: down the first column, then the next.

    Args:
        cell: the data set of the cell, or references that were read from it. A cell of MATLAB's size [N, K] comes from h5py
            as references [K, N], so that cell[0] are those of the first column, and cell[:, i] those of MATLAB's row i + 1.

    Returns: arrays as `matlab_array` gives them, str for text, and such lists again for cells within.
    Raises: ValueError as `read_array`, and for what is not a cell, or has a struct in it.
    """
    return _read_cell(file, cell, _MAX_CELL_DEPTH)


def _read_cell(file, cell, depth):
    if isinstance(cell, h5py.Dataset):
        if cell.attrs.get("MATLAB_empty"):
            return []
        where, cell = cell.name, read_array(cell)
    else:
        where = "references"
    if h5py.check_ref_dtype(cell.dtype) is not h5py.Reference or depth == 0:
        raise ValueError(f"{file.filename}: {where} is of type {cell.dtype}, expected a cell with references, at most "
                         f"{_MAX_CELL_DEPTH} within each other")
    elements = []
    for reference in cell.ravel():
        element = file[reference]
        if _matlab_class(element) == "cell":
            elements.append(_read_cell(file, element, depth - 1))
        else:
            elements.append(mat_string(element) if _matlab_class(element) == "char" else matlab_array(element))
    return elements


def _matlab_class(dataset: h5py.Dataset) -> str:
    name = dataset.attrs.get("MATLAB_class", b"")
    return name.decode("ascii") if isinstance(name, bytes) else str(name)
