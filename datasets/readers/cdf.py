"""Variables of NASA's Common Data Format (CDF).

Source: CDF Internal Format Description, versions 3.9 and 2.7 (NASA Goddard Space Flight Center). Read here, since cdflib
follows the counts of a broken file until memory is full.
"""

import math
import pathlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from datasets.readers.files import broken_file_errors, require_file

_TYPES = {1: "i1", 2: "i2", 4: "i4", 8: "i8", 11: "u1", 12: "u2", 14: "u4", 21: "f4", 22: "f8", 41: "i1", 44: "f4", 45: "f8"}
_BIG_ENDIAN, _LITTLE_ENDIAN = (1, 2, 5, 7, 9, 11, 12, 18), (4, 6, 13, 16, 17, 19)  # encodings, each named for a machine
_CDR, _GDR, _RVDR, _VXR, _VVR, _ZVDR, _CCR, _CVVR = 1, 2, 3, 6, 7, 8, 10, 13  # types of records
_MAX_COMPRESSION = 1032  # gzip's; a file that claims to hold more is broken


def read_cdf(path: pathlib.Path, variable: str, hint: str = "") -> np.ndarray:
    """One variable of numbers of a CDF file of version 2.6 to 3, plain or compressed by gzip.

    Returns: [num_records, ...], in the byte order of this machine, axes in the order in which the file names them.
    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, for a broken one, for one without that variable,
        and for one with records left out (sparse).
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a CDF file"):
        return _CdfFile(path.read_bytes()).read(variable)


class _CdfFile:
    """Records of a CDF file: size, type, then the fields of the type. Offsets in the file are 8 bytes, 4 in version 2."""

    def __init__(self, content: bytes):
        magic = content[:4].hex()
        if magic not in ("cdf30001", "cdf26002"):
            raise ValueError(f"it begins with {magic}, expected cdf30001 or cdf26002")
        self._offset, self._name_length = ("q", 256) if magic == "cdf30001" else ("i", 64)
        self._content = content
        if content[4:8].hex() == "cccc0001":
            _, size, _, data = self._record(8, _CCR, "ooi")
            self._content = content[:8] + _decompress(data, size, len(content))
        gdr, _, _, encoding, flags, _ = self._record(8, _CDR, "oiiii")
        if encoding not in _BIG_ENDIAN + _LITTLE_ENDIAN:
            raise ValueError(f"its numbers are in encoding {encoding}, which is not read")
        self._byte_order = "<" if encoding in _LITTLE_ENDIAN else ">"
        self._is_row_major = bool(flags & 1)
        r_head, z_head, _, _, _, _, _, num_dims, _, _, _, _, _, sizes = self._record(gdr, _GDR, "ooooiiiiioiii")
        self._r_sizes = struct.unpack_from(f">{num_dims}i", sizes) if 0 < num_dims <= 10 else ()
        self._variables = {name: record for head, record_type in ((r_head, _RVDR), (z_head, _ZVDR))
                           for name, record in self._chain(head, record_type)}

    def read(self, variable: str) -> np.ndarray:
        if variable not in self._variables:
            raise ValueError(f"it has no variable {variable}, only {', '.join(self._variables) or 'none'}")
        fields, sizes, varies = self._variables[variable]
        data_type, last_record, vxr, _, flags, sparse, _, _, _, num_elements, _, _, _ = fields
        shape = tuple(size for size, vary in zip(sizes, varies, strict=True) if vary)
        if data_type not in _TYPES or num_elements != 1 or sparse:
            raise ValueError(f"{variable} has data type {data_type}, {num_elements} elements and sparse records {sparse}; "
                             "numbers without sparse records are read")
        num_records = last_record + 1 if flags & 1 else 1
        dtype = np.dtype(self._byte_order + _TYPES[data_type])
        record_bytes = math.prod(shape) * dtype.itemsize
        if num_records < 1 or min(shape, default=1) < 1 or num_records * record_bytes > _MAX_COMPRESSION * len(self._content):
            raise ValueError(f"{variable} has {num_records} records of shape {shape}, more or less than the file can hold")
        data = bytearray()
        for first, last, block in self._blocks(vxr):
            if first * record_bytes != len(data) or last < first:
                raise ValueError(f"record {len(data) // record_bytes} of {variable} is missing")
            data += self._block_data(block, (last - first + 1) * record_bytes)
        if len(data) < num_records * record_bytes:
            raise ValueError(f"record {len(data) // record_bytes} of {variable} is missing")
        values = np.frombuffer(data, dtype, num_records * math.prod(shape)).astype(dtype.newbyteorder("="))
        if self._is_row_major:
            return values.reshape(num_records, *shape)
        return np.moveaxis(values.reshape(num_records, *shape[::-1]).T, -1, 0)

    def _record(self, at: int, record_type: int, fields: str) -> tuple:
        """The fields ("o": an offset, "i": 4 bytes) of the record that begins at byte `at`, and the bytes after them."""
        layout = struct.Struct(">" + "oi".replace("o", self._offset) + fields.replace("o", self._offset))
        if at < 8:
            raise ValueError(f"it points to a record at byte {at}")
        size, found_type, *values = layout.unpack_from(self._content, at)
        if found_type != record_type or not layout.size <= size <= len(self._content) - at:
            raise ValueError(f"the record at byte {at} has type {found_type} and {size} bytes, expected type {record_type}")
        return *values, self._content[at + layout.size:at + size]

    def _chain(self, at: int, record_type: int) -> Iterator[tuple[str, tuple]]:
        """Name -> fields, sizes of the axes, and which of them vary, of the variables in one chain of records."""
        seen = set()
        while at > 0:
            if at in seen:
                raise ValueError(f"the variable at byte {at} comes twice")
            seen.add(at)
            at, *fields, rest = self._record(at, record_type, "oiiooiiiiiiioi")
            name = rest[:self._name_length].rstrip(b"\0 ").decode("ascii")
            axes = rest[self._name_length:]
            sizes = self._r_sizes
            if record_type == _ZVDR:
                num_dims, = struct.unpack_from(">i", axes)
                sizes, axes = struct.unpack_from(f">{num_dims}i", axes, 4), axes[4 + 4 * num_dims:]
            yield name, (tuple(fields), sizes, struct.unpack_from(f">{len(sizes)}i", axes))

    def _blocks(self, index: int) -> Iterator[tuple[int, int, int]]:
        """First record, last record and place of the blocks of values that an index and those in it list."""
        seen = set()

        def blocks(at):
            while at > 0:
                if at in seen:
                    raise ValueError(f"the index at byte {at} comes twice")
                seen.add(at)
                at, num_entries, num_used, rest = self._record(at, _VXR, "oii")
                entries = struct.unpack_from(f">{2 * num_entries}i{num_entries}{self._offset}", rest)
                first, last, places = (entries[i * num_entries:][:min(num_used, num_entries)] for i in range(3))
                for first_record, last_record, block in zip(first, last, places, strict=True):
                    if self._type(block) == _VXR:
                        yield from blocks(block)
                    else:
                        yield first_record, last_record, block

        return blocks(index)

    def _type(self, at: int) -> int:
        return struct.unpack_from(">i", self._content, at + struct.calcsize(self._offset))[0]

    def _block_data(self, at: int, size: int) -> bytes:
        """The values of a block of records, `size` bytes."""
        if self._type(at) == _CVVR:
            _, _, data = self._record(at, _CVVR, "io")
            return _decompress(data, size, len(self._content))
        data = self._record(at, _VVR, "")[0][:size]
        if len(data) < size:
            raise ValueError(f"the records at byte {at} have {len(data)} bytes, expected {size}")
        return data


def _decompress(data: bytes, size: int, file_size: int) -> bytes:
    if not 0 < size <= _MAX_COMPRESSION * file_size:
        raise ValueError(f"it states {size} bytes of compressed data")
    content = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, size)
    if len(content) < size:
        raise ValueError(f"its compressed data have {len(content)} bytes, expected {size}")
    return content
