"""The structure of MATLAB 5 files, checked before scipy reads them: on damaged ones, it may crash the process.

Source: MAT-File Format, The MathWorks, chapter 1, Level 5 MAT-File Format.
"""

import math
import mmap
import pathlib
import struct
from typing import NamedTuple

_HEADER_BYTES = 128
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14, 15, 16, 17, 18}
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL, _STRUCT, _SPARSE = 1, 2, 5
_PLAIN = {4, *range(6, 16)}  # text and numbers
_MAX_DEPTH = 50  # of cells in cells


class _Element(NamedTuple):
    """Type, first byte and number of bytes of the content."""

    kind: int
    first: int
    size: int


def check_elements(path: pathlib.Path) -> None:
    """Walks through all elements that are not compressed (those have checksums): their types, sizes and numbers of values.

    Raises: ValueError saying at which byte what is wrong. Files of another version are left to the reader.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[126:] not in (b"IM", b"MI") or 0 in header[:4]:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check(data, _HEADER_BYTES, len(data), "<" if header[126:] == b"IM" else ">", 0)


def _check(data: mmap.mmap, start: int, end: int, order: str, depth: int) -> list[_Element]:
    """The elements between two bytes, after checking them and what is in them."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"byte {start}: cells in cells, {depth} deep; expected {_MAX_DEPTH} at most")
    elements = []
    while start < end:
        element, start = _read_tag(data, start, end, order)
        elements.append(element)
        if element.kind == _MATRIX and element.size:
            _check_matrix(data, element, _check(data, element.first, element.first + element.size, order, depth + 1), order)
    return elements


def _read_tag(data: mmap.mmap, start: int, end: int, order: str) -> tuple[_Element, int]:
    """The element at a byte, and where the next one begins."""
    if start + 8 > end:
        raise ValueError(f"byte {start}: {end - start} bytes are left, too few for an element")
    kind, size = struct.unpack_from(f"{order}2I", data, start)
    first = start + 8
    following = first + size + (0 if kind == _COMPRESSED else -size % 8)
    if kind >> 16:  # up to four bytes in the place of the size
        kind, size, first, following = kind & 0xFFFF, kind >> 16, start + 4, start + 8
    if kind not in _TYPES or first + size > end or (first == start + 4 and size > 4):
        raise ValueError(f"byte {start}: an element of type {kind} and {size} bytes, where {end - first} are left")
    return _Element(kind, first, size), min(following, end)


def _check_matrix(data: mmap.mmap, matrix: _Element, parts: list[_Element], order: str) -> None:
    """Whether a matrix has the parts that its class and dimensions tell."""
    where = f"byte {matrix.first}: a matrix"
    if len(parts) < 3 or parts[0].size < 8 or parts[1].size < 8 or {part.kind for part in parts[:2]} != {_INT32, _UINT32}:
        raise ValueError(f"{where} without flags, dimensions and name")
    flags, = struct.unpack_from(f"{order}I", data, parts[0].first)
    array_class, is_complex = flags & 0xFF, bool(flags & 0x800)
    count = math.prod(struct.unpack_from(f"{order}{parts[1].size // 4}i", data, parts[1].first))
    if not 0 <= count <= matrix.size:
        raise ValueError(f"{where} of {count} values in {matrix.size} bytes")
    if array_class == _CELL:
        num_parts, inner = 3 + count, parts[3:]
    elif array_class == _STRUCT and len(parts) >= 5 and parts[3].size >= 4:
        name_length, = struct.unpack_from(f"{order}i", data, parts[3].first)
        num_parts, inner = 5 + count * (parts[4].size // max(name_length, 1)), parts[5:]
    elif array_class in _PLAIN:
        num_parts, inner = 4 + is_complex, []
    elif array_class == _SPARSE:
        num_parts, inner = 6 + is_complex, []
    else:
        raise ValueError(f"{where} of class {array_class}, which data of poses have no use for")
    if len(parts) != num_parts or any(part.kind != _MATRIX for part in inner):
        raise ValueError(f"{where} of class {array_class} and {count} values, with {len(parts)} parts; expected {num_parts}")
