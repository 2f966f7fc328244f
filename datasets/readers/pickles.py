"""Pickles of numpy arrays and plain containers, read without running anything that the file names.

A pickle is a program: it names functions and calls them. This unpickler knows a short list of names and gives each a
function of its own that only builds the array or container; every other name is refused before anything is called.
"""

import functools
import math
import pathlib
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse

from datasets.readers.files import broken_file_errors, require_file


class ChumpyArray:
    """Stands for a chumpy.ch.Ch of a body model file, or a selection from one: the array `x`, and nothing that computes.

    `numpy.asarray` takes it for that array.
    """

    def __init__(self):
        self.x = np.empty(0)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype, copy=copy)


class DataFrame(dict):
    """Stands for a pandas.DataFrame: name of a column -> list of its values, row by row."""


def read_pickle(path: pathlib.Path, hint: str = "", encoding: str = "latin1", allow_sparse: bool = False,
                allow_chumpy: bool = False, allow_pandas: bool = False, skip_above: int | None = None) -> Any:
    """Reads a pickle of numpy arrays, numpy scalars and plain containers, of any protocol and of Python 2 too.

    Args:
        encoding: of the 8-bit strings of Python 2; "latin1" keeps the bytes of its numpy arrays.
        allow_sparse: also takes scipy.sparse matrices in csc and csr format, as body model files have them.
        allow_chumpy: also takes chumpy.ch.Ch and chumpy.reordering.Select, as `ChumpyArray`; chumpy itself is not used.
        allow_pandas: also takes a pandas.DataFrame of plain columns, as `DataFrame`; pandas itself is not used. Known are
            the forms that pandas 1.0 to 2.2 write.
        skip_above: arrays whose numbers take more bytes than this come back empty, and are never all in memory; None: none.

    Returns: the object. Ordered and default dictionaries come as dict; keys of dictionaries and members of sets can only
        be text, numbers and tuples of these; arrays cannot have named fields.
    Raises: FileNotFoundError, followed by `hint`; ValueError naming the file, and the class or function where the pickle
        asks for one that is not allowed.
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a pickle of arrays and plain containers"), path.open("rb") as file:
        return _RestrictedUnpickler(_BoundedFile(file, path.stat().st_size), encoding, allow_sparse, allow_chumpy,
                                    allow_pandas, math.inf if skip_above is None else skip_above).load()


class _BoundedFile:
    """Refuses a read beyond the end before memory is set aside for it: lengths in broken files are arbitrary."""

    def __init__(self, file, size: int):
        self._file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        if count > 4096 and count > (left := self.size - self._file.tell()):
            raise EOFError(f"a value of {count} bytes begins {left} bytes before the end")
        return self._file.read(count)


class _InertClass:
    """Stands for a class that a pickle names: not callable, all it does is to create one empty object."""

    def __init__(self, create: Callable[[], Any]):
        self.create = create


_NDARRAY, _OBJECT, _CHUMPY = _InertClass(lambda: np.empty(0, np.int8)), _InertClass(object), _InertClass(ChumpyArray)


class _BlockManager(_InertClass):
    """Stands for the class that holds the columns of a DataFrame, and for its objects.

    Up to pandas 1.2 an object is made and its state set; later it is called with blocks of columns, and with column and row
    labels.
    """

    blocks: Sequence[tuple[np.ndarray, Any]] = ()  # values [columns, rows], and which columns these are
    axes: Sequence[np.ndarray | range] = (range(0), range(0))

    def __init__(self):
        super().__init__(_BlockManager)

    def __call__(self, blocks: Any, axes: Any) -> "_BlockManager":
        manager = _BlockManager()
        manager.blocks, manager.axes = blocks, axes
        return manager

    def columns(self, use: Callable[[int], None]) -> dict[Any, list]:
        """Name -> values. Calls `use` with the number of cells before it makes them.

        Raises: ValueError unless the blocks fill every cell of the table, once.
        """
        names, rows = (labels if isinstance(labels, range) else _checked_array(labels) for labels in self.axes)
        arrays = [_checked_array(values) for values, _ in self.blocks]
        shapes = [array.shape for array in arrays]
        if any(len(shape) != 2 or shape[1] != len(rows) for shape in shapes) or sum(n for n, _ in shapes) != len(names):
            raise ValueError(f"a data frame of {len(names)} columns and {len(rows)} rows has blocks of shapes {shapes!r:.100}")
        use(len(names) * (len(rows) + 1))
        places = [place for _, of_block in self.blocks for place in (
            range(len(names))[of_block] if isinstance(of_block, slice) else _checked_array(of_block).tolist())]
        columns = dict(zip(places, (column for array in arrays for column in array), strict=True))
        names = list(map(_checked_key, names.tolist() if isinstance(names, np.ndarray) else names))
        if columns.keys() != set(range(len(names))) or len(set(names)) < len(names):
            raise ValueError(f"a data frame has columns {names!r:.200} at {places!r:.100}; expected each once")
        return {name: columns[i].tolist() for i, name in enumerate(names)}


_SKIPPED = object()
_NEW_BLOCK, _INDEX = _InertClass(object), _InertClass(object)
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core.multiarray": "numpy.core.multiarray",
                "numpy._core.numeric": "numpy.core.numeric"}


class _RestrictedUnpickler(pickle._Unpickler):
    # The Python version of the unpickler: the C version sets aside memory for any memo index that a file claims, and
    # has no way to look at the state of an object before it is set.

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: _BoundedFile, encoding: str, allow_sparse: bool, allow_chumpy: bool, allow_pandas: bool,
                 skip_above: float):
        super().__init__(file, encoding=encoding)
        self._skip_above = skip_above
        # An honest pickle makes each of its bytes into one byte of a bytes object, one of an array (or an object in it) and a
        # cell of a table at most; without the limit, one remembered string could be made into arrays until memory is full.
        self._bytes_left = 3 * file.size
        self._known = {
            "builtins.object": _OBJECT,
            "builtins.set": lambda items=(): set(map(_checked_key, items)),
            "builtins.frozenset": lambda items=(): frozenset(map(_checked_key, items)),
            "builtins.bytes": lambda: b"",  # how protocols 0 to 2 write it when empty
            "builtins.complex": lambda real, imaginary: complex(float(real), float(imaginary)),
            "builtins.bytearray": lambda data="", encoding="latin1": bytearray(self._bytes(data)),
            "collections.OrderedDict": lambda items=(): {_checked_key(key): value for key, value in items},
            "collections.defaultdict": lambda factory=None: {},
            "builtins.list": None,  # the factory of a defaultdict
            "builtins.dict": None,
            "copyreg._reconstructor": lambda inert, base, state: _create(inert),
            "_codecs.encode": lambda text, encoding="latin1": self._bytes(text),  # bytes, in protocol 2 of Python 3
            "numpy.ndarray": _NDARRAY,
            "numpy.dtype": _dtype,
            "numpy.core.multiarray._reconstruct": lambda inert, shape, typecode: _create(inert),
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._array_of_buffer,
        }
        self._sparse_classes = (scipy.sparse.csc_matrix, scipy.sparse.csr_matrix) if allow_sparse else ()
        for sparse in self._sparse_classes:
            for module in (sparse.__name__[:3], "_" + sparse.__name__[:3]):  # older and newer versions of scipy
                self._known[f"scipy.sparse.{module}.{sparse.__name__}"] = _InertClass(functools.partial(sparse, (0, 0)))
        if allow_chumpy:
            self._known |= {"chumpy.ch.Ch": _CHUMPY, "chumpy.reordering.Select": _CHUMPY}
        if allow_pandas:
            self._known |= {
                "pandas.core.frame.DataFrame": _InertClass(DataFrame),
                "pandas.core.internals.managers.BlockManager": _BlockManager(),
                "pandas._libs.internals._unpickle_block": lambda values, places, num_axes: (values, places),
                "pandas.core.internals.blocks.new_block": _NEW_BLOCK,
                "functools.partial": _new_block_function,
                "builtins.slice": slice,
                "pandas.core.indexes.base._new_Index": _labels,
                "pandas.core.indexes.base.Index": _INDEX,
                "pandas.core.indexes.numeric.Int64Index": _INDEX,
                "pandas.core.indexes.range.RangeIndex": _INDEX,
            }

    def find_class(self, module: str, name: str) -> Any:
        module = _OLD_MODULES.get(module, module)
        if f"{module}.{name}" not in self._known:
            raise ValueError(f"it asks for {module}.{name}, which is refused: only numpy arrays and plain containers are "
                             "read, since a pickle can run any program")
        return self._known[f"{module}.{name}"]

    def load_binbytes(self):
        self._load_bytes(bytes, *struct.unpack("<I", self.read(4)))

    def load_binbytes8(self):
        self._load_bytes(bytes, *struct.unpack("<Q", self.read(8)))

    def load_bytearray8(self):
        self._load_bytes(bytearray, *struct.unpack("<Q", self.read(8)))

    def _load_bytes(self, kind: type, length: int):
        data = self.read(length)  # for a bytearray the library's own sets the memory aside first
        self.append(_SKIPPED if length > self._skip_above else kind(data))

    def load_setitem(self):
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self):
        self._set_items(self.pop_mark())

    def load_additems(self):
        items = self.pop_mark()
        self.stack[-1].update(map(_checked_key, items))

    def load_frozenset(self):
        items = self.pop_mark()  # changes self.append
        self.append(frozenset(map(_checked_key, items)))

    def load_newobj(self):
        self.stack.pop()  # arguments: the classes that are read take none
        self.append(_create(self.stack.pop()))

    def load_build(self):
        state = self.stack.pop()
        value = self.stack[-1]
        if isinstance(value, np.ndarray):
            shape, dtype, is_fortran, data = state[-4:]  # a version may stand before them
            if data is _SKIPPED:
                return
            self._check_array(dtype, shape, data)
            if dtype.hasobject:
                self._use_bytes(len(data))
            value.__setstate__((1, shape, dtype, bool(is_fortran), data if dtype.hasobject else self._bytes(data)))
        elif isinstance(value, np.dtype):
            _set_byte_order(value, state)
        elif isinstance(value, ChumpyArray):
            value.x = _checked_array(state["x"]) if "x" in state else self._selection(**{
                name: state[name] for name in ("a", "idxs", "preferred_shape")})
        elif isinstance(value, DataFrame):
            value.update(state["_mgr" if "_mgr" in state else "_data"].columns(self._use_bytes))  # _data before pandas 1.1
        elif isinstance(value, _BlockManager):
            parts = state[3]["0.14.1"]  # the version of pandas that began to write it so
            value.axes, value.blocks = parts["axes"], [(block["values"], block["mgr_locs"]) for block in parts["blocks"]]
        elif value is _block:
            pass  # its arguments: the number of axes
        elif isinstance(value, self._sparse_classes):
            shape = state["_shape"] if "_shape" in state else state["shape"]
            data, indices, indptr = (_checked_array(state[name]) for name in ("data", "indices", "indptr"))
            matrix = type(value)((data, indices, indptr), shape=shape)
            matrix.check_format(full_check=True)
            vars(value).update(vars(matrix))
        else:
            raise ValueError(f"it sets the state of a {type(value).__name__}")

    for _opcode, _method in ((pickle.BINBYTES, load_binbytes), (pickle.BINBYTES8, load_binbytes8),
                             (pickle.BYTEARRAY8, load_bytearray8), (pickle.SETITEM, load_setitem),
                             (pickle.SETITEMS, load_setitems), (pickle.ADDITEMS, load_additems),
                             (pickle.FROZENSET, load_frozenset), (pickle.NEWOBJ, load_newobj), (pickle.BUILD, load_build)):
        dispatch[_opcode[0]] = _method

    def _set_items(self, items: list):
        if type(self.stack[-1]) is not dict:
            raise ValueError(f"it sets items of a {type(self.stack[-1]).__name__}")
        for i in range(0, len(items), 2):
            self.stack[-1][_checked_key(items[i])] = items[i + 1]

    def _bytes(self, data: Any) -> bytes:
        """Bytes from bytes, or from the text that strings of Python 2 have become."""
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(data, (bytes, bytearray)):
            raise ValueError(f"it makes bytes of a {type(data).__name__}")
        self._use_bytes(len(data))
        return data

    def _use_bytes(self, count: int):
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise ValueError("it makes more bytes of arrays than it has itself")

    def _check_array(self, dtype: Any, shape: Any, data: Any):
        """Raises: ValueError unless the data fill an array of this shape; numpy would set aside memory for any shape."""
        if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
            raise ValueError(f"an array has dtype {dtype!r:.50} and shape {shape!r:.50}")
        if not isinstance(data, list if dtype.hasobject else (bytes, bytearray, str)):
            raise ValueError(f"the content of an array of {dtype} is a {type(data).__name__}")
        size = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
        if dtype.itemsize == 0 or min(shape, default=1) < 0 or size != len(data):
            raise ValueError(f"an array of shape {shape!r:.50} and dtype {dtype} has {len(data)} bytes or objects")

    def _selection(self, a: Any, idxs: Any, preferred_shape: tuple) -> np.ndarray:
        """The entries `idxs` of an array that is counted row by row."""
        source, indices = _checked_array(a.x if isinstance(a, ChumpyArray) else a), _checked_array(idxs)
        self._use_bytes(indices.size * source.itemsize)
        return source.ravel()[indices].reshape(preferred_shape)

    def _array_of_buffer(self, data: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
        if data is _SKIPPED:
            return np.empty(0)
        self._check_array(dtype, shape, data)
        return np.frombuffer(bytearray(self._bytes(data)), dtype).reshape(shape, order=order)

    def _scalar(self, dtype: np.dtype, data: Any) -> np.generic:
        return self._array_of_buffer(data, dtype, (), "C")[()]


def _create(inert: Any) -> Any:
    if not isinstance(inert, _InertClass):
        raise ValueError(f"it makes an object of a {type(inert).__name__}")
    return inert.create()


def _new_block_function(function: Any) -> Callable:
    """What functools.partial makes of the one function that pandas 1.3 uses it for."""
    if function is not _NEW_BLOCK:
        raise ValueError("it asks for functools.partial of another function than pandas' new_block")
    return _block


def _block(values: Any, places: Any) -> tuple:
    return values, places


def _labels(index: Any, fields: dict[str, Any]) -> Any:
    """Labels of columns or rows."""
    if index is not _INDEX:
        raise ValueError(f"it has labels of type {index!r:.50}")
    return fields["data"] if "data" in fields else range(fields["start"], fields["stop"], fields["step"])


def _checked_array(value: Any) -> np.ndarray:
    """Lists in lists would do, but lists that hold another one twice, and so on, make arrays that fill memory."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"it has a {type(value).__name__} where an array belongs")
    return value


def _checked_key(key: Any) -> Any:
    """Hashing nested tuples overflows the stack or takes for ever, and the key of an honest file is plain."""
    for part in key if isinstance(key, tuple) else (key,):
        if not isinstance(part, (str, bytes, int, float, complex, type(None), np.generic)):
            raise ValueError(f"it has a {type(part).__name__} in a key of a dictionary or in a set")
    return key


def _dtype(name: Any, _align: Any = False, _copy: Any = True) -> np.dtype:
    """A dtype that can be changed by its state: `numpy.dtype` shares one object among all that ask."""
    name = name.decode("ascii") if isinstance(name, bytes) else name
    dtype = np.dtype(name, copy=True) if isinstance(name, str) and re.fullmatch(r"[?biufcOSU]\d*", name) else None
    if dtype is None:
        raise ValueError(f"it has an array of type {name!r:.50}; numbers, text and objects are read")
    return dtype


def _set_byte_order(dtype: np.dtype, state: tuple):
    """Sets of a dtype's state what is left to set, its byte order: numpy believes sizes and offsets unchecked."""
    if state[1] in (">", b">"):
        if dtype.kind not in "biufc":
            raise ValueError(f"it has an array of big-endian {dtype}; only numbers are read in that order")
        dtype.__setstate__((3, ">", None, None, None, -1, -1, 0))
    elif state[1] not in ("<", "|", b"<", b"|"):
        raise ValueError(f"it has an array of byte order {state[1]!r:.50}")
