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
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import scipy.sparse

from datasets.readers.files import broken_file_errors, require_file


class ChumpyArray:
    """Stands for a chumpy.ch.Ch of a body model file: the array `x`, and nothing that computes.

    `numpy.asarray` takes it for that array.
    """

    def __init__(self):
        self.x = np.empty(0)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype, copy=copy)


def read_pickle(path: pathlib.Path, hint: str = "", encoding: str = "latin1", allow_sparse: bool = False,
                allow_chumpy: bool = False) -> Any:
    """Reads a pickle of numpy arrays, numpy scalars and plain containers, of any protocol and of Python 2 too.

    Args:
        encoding: of the 8-bit strings of Python 2; "latin1" keeps the bytes of its numpy arrays.
        allow_sparse: also takes scipy.sparse matrices in csc and csr format, as body model files have them.
        allow_chumpy: also takes chumpy.ch.Ch, as `ChumpyArray`; chumpy itself is not used.

    Returns: the object. Ordered and default dictionaries come as dict; keys of dictionaries and members of sets can only
        be text, numbers and tuples of these; arrays cannot have named fields.
    Raises: FileNotFoundError, followed by `hint`; ValueError naming the file, and the class or function where the pickle
        asks for one that is not allowed.
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a pickle of arrays and plain containers"), path.open("rb") as file:
        return _RestrictedUnpickler(_BoundedFile(file, path.stat().st_size), encoding, allow_sparse, allow_chumpy).load()


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
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core.multiarray": "numpy.core.multiarray",
                "numpy._core.numeric": "numpy.core.numeric"}


class _RestrictedUnpickler(pickle._Unpickler):
    # The Python version of the unpickler: the C version sets aside memory for any memo index that a file claims, and
    # has no way to look at the state of an object before it is set.

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: _BoundedFile, encoding: str, allow_sparse: bool, allow_chumpy: bool):
        super().__init__(file, encoding=encoding)
        # An honest pickle makes each of its bytes into one byte of a bytes object and one of an array at most; without the
        # limit, one remembered string could be made into arrays until memory is full.
        self._bytes_left = 2 * file.size
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
            self._known["chumpy.ch.Ch"] = _CHUMPY

    def find_class(self, module: str, name: str) -> Any:
        module = _OLD_MODULES.get(module, module)
        if f"{module}.{name}" not in self._known:
            raise ValueError(f"it asks for {module}.{name}, which is refused: only numpy arrays and plain containers are "
                             "read, since a pickle can run any program")
        return self._known[f"{module}.{name}"]

    def load_bytearray8(self):
        length, = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # the library's own sets the memory aside first

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
            self._check_array(dtype, shape, data)
            value.__setstate__((1, shape, dtype, bool(is_fortran), data if dtype.hasobject else self._bytes(data)))
        elif isinstance(value, np.dtype):
            _set_byte_order(value, state)
        elif isinstance(value, ChumpyArray):
            value.x = _checked_array(state["x"])
        elif isinstance(value, self._sparse_classes):
            shape = state["_shape"] if "_shape" in state else state["shape"]
            data, indices, indptr = (_checked_array(state[name]) for name in ("data", "indices", "indptr"))
            matrix = type(value)((data, indices, indptr), shape=shape)
            matrix.check_format(full_check=True)
            vars(value).update(vars(matrix))
        else:
            raise ValueError(f"it sets the state of a {type(value).__name__}")

    for _opcode, _method in ((pickle.BYTEARRAY8, load_bytearray8), (pickle.SETITEM, load_setitem),
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
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ValueError("it makes more bytes of arrays than it has itself")
        return data

    def _check_array(self, dtype: Any, shape: Any, data: Any):
        """Raises: ValueError unless the data fill an array of this shape; numpy would set aside memory for any shape."""
        if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
            raise ValueError(f"an array has dtype {dtype!r:.50} and shape {shape!r:.50}")
        if not isinstance(data, list if dtype.hasobject else (bytes, bytearray, str)):
            raise ValueError(f"the content of an array of {dtype} is a {type(data).__name__}")
        size = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
        if dtype.itemsize == 0 or min(shape, default=1) < 0 or size != len(data):
            raise ValueError(f"an array of shape {shape!r:.50} and dtype {dtype} has {len(data)} bytes or objects")

    def _array_of_buffer(self, data: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
        self._check_array(dtype, shape, data)
        return np.frombuffer(bytearray(self._bytes(data)), dtype).reshape(shape, order=order)

    def _scalar(self, dtype: np.dtype, data: Any) -> np.generic:
        return self._array_of_buffer(data, dtype, (), "C")[()]


def _create(inert: Any) -> Any:
    if not isinstance(inert, _InertClass):
        raise ValueError(f"it makes an object of a {type(inert).__name__}")
    return inert.create()


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
