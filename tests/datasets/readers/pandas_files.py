"""Pickles of data frames as several versions of pandas write them, made without pandas.

Names, arguments and states are those found in the files of pandas 1.0, 1.2, 1.3 and 2.2 themselves; 1.1 and 1.4 to 2.1 write
what one of these does.
"""

import dataclasses
import io
import pathlib
import pickle
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

VERSIONS = ("1.0", "1.2", "1.3", "2.2")


@dataclasses.dataclass(frozen=True)
class Name:
    """Pickled as the class or function of this name."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """Pickled as a call of a function, or, without arguments, as a new object of a class; and the state it is given."""

    function: Name
    arguments: tuple | None
    state: Any = None


class _Pickler(pickle._Pickler):
    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self._names = {}

    def save_name(self, name):
        if (first := self._names.setdefault(name, name)) is not name:
            self.write(self.get(self.memo[id(first)][0]))
        elif self.proto >= 4:
            self.save(name.module)
            self.save(name.name)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(name)
        else:
            module = "__builtin__" if name.module == "builtins" and self.proto < 3 else name.module
            self.write(pickle.GLOBAL + f"{module}\n{name.name}\n".encode("ascii"))
            self.memoize(name)

    def save_call(self, call):
        self.save(call.function)
        self.save(() if call.arguments is None else call.arguments)
        self.write(pickle.NEWOBJ if call.arguments is None else pickle.REDUCE)
        self.memoize(call)
        if call.state is not None:
            self.save(call.state)
            self.write(pickle.BUILD)

    def save_global(self, obj, name=None):
        self.save_name(Name(obj.__module__.replace("numpy._core", "numpy.core"), name or obj.__qualname__))  # as in numpy 1

    dispatch[Name], dispatch[Call], dispatch[types.FunctionType] = save_name, save_call, save_global


def dumps(value: Any, protocol: int = 4) -> bytes:
    """Pickles an object that holds `Name` and `Call`."""
    file = io.BytesIO()
    _Pickler(file, protocol).dump(value)
    return file.getvalue()


def data_frame(columns: Mapping[str, Sequence], version: str, index: Sequence[int] | None = None) -> Call:
    """A data frame; columns of floats, integers and bools are kept in arrays of their own type, all others as objects.

    Args:
        index: labels of the rows; None: numbered from 0.
    """
    arrays = {name: _column(values) for name, values in columns.items()}
    names = list(arrays)
    num_rows = len(next(iter(arrays.values())))
    blocks = []  # values and columns
    for kind in "bfiO":
        places = [i for i, name in enumerate(names) if arrays[name].dtype.kind == kind]
        if places:
            blocks.append((np.array([arrays[names[i]] for i in places], arrays[names[places[0]]].dtype), _places(places)))
    labels = _labels("pandas.core.indexes.base.Index", data=_column(names), name=None)
    if index is None:
        rows = _labels("pandas.core.indexes.range.RangeIndex", name=None, start=0, stop=num_rows, step=1)
    else:
        kind = "pandas.core.indexes.base.Index" if version == "2.2" else "pandas.core.indexes.numeric.Int64Index"
        rows = _labels(kind, data=np.array(index), name=None)
    state = {"_data" if version == "1.0" else "_mgr": _manager(version, blocks, [labels, rows]),
             "_typ": "dataframe", "_metadata": [], "attrs": {}}
    if version != "1.0":
        state["_flags"] = {"allows_duplicate_labels": True}
    return Call(Name("pandas.core.frame", "DataFrame"), None, state)


def _manager(version: str, blocks: list, axes: list) -> Call:
    manager = Name("pandas.core.internals.managers", "BlockManager")
    if version in ("1.0", "1.2"):
        items = [_labels("pandas.core.indexes.base.Index", data=_column(["?"] * len(array)), name=None) for array, _ in blocks]
        values = [array for array, _ in blocks]
        return Call(manager, None, (axes, values, items, {"0.14.1": {
            "axes": axes, "blocks": [{"values": array, "mgr_locs": places} for array, places in blocks]}}))
    if version == "1.3":
        new_block = Name("pandas.core.internals.blocks", "new_block")
        calls = [Call(Call(Name("functools", "partial"), (new_block,), (new_block, (), {"ndim": 2}, None)), block)
                 for block in blocks]
    else:
        calls = [Call(Name("pandas._libs.internals", "_unpickle_block"), (*block, 2)) for block in blocks]
    return Call(manager, (tuple(calls), axes))


def _labels(kind: str, **fields: Any) -> Call:
    return Call(Name("pandas.core.indexes.base", "_new_Index"), (Name(*kind.rsplit(".", 1)), fields))


def _places(places: list[int]) -> Any:
    """pandas keeps evenly spaced columns as a slice."""
    steps = set(np.diff(places).tolist())
    if len(steps) > 1:
        return np.array(places)
    step = steps.pop() if steps else 1
    return Call(Name("builtins", "slice"), (places[0], places[-1] + step, step))


def _column(values: Sequence) -> np.ndarray:
    """Numbers as an array of numbers, everything else as objects."""
    kinds = {type(value) for value in values}
    if kinds in ({float}, {int}, {bool}):
        return np.array(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def write_frame(path: pathlib.Path, columns: Mapping[str, Sequence], version: str = "1.2", protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(data_frame(columns, version), protocol))
