"""CDF files put together record by record from NASA's CDF Internal Format Description."""

import gzip
import math
import struct

import numpy as np

SUN, IBM_PC = 2, 6  # encodings: big-endian and little-endian
_DATA_TYPES = {"float32": 44, "float64": 45, "int32": 4}


def make_cdf(variables, version=3, encoding=IBM_PC, row_major=True, compressed=False, block_records=None, record_type=8):
    """The bytes of a CDF file.

    Args:
        variables: name -> [num_records, ...] of float32, float64 or int32. Human3.6M: {"Pose": [1, num_frames, 96] float32}.
        version: 3, or 2 for version 2.6, which has offsets of 4 bytes.
        compressed: the values, by gzip.
        block_records: number of records in each block of values; in blocks of two or more, an index of indices lists them.
        record_type: 8: variables with axes of their own (z); 3: with the axes of the file (r), those of the first one.
    """
    offset, name_length = ("q", 256) if version == 3 else ("i", 64)
    file = bytearray(bytes.fromhex("cdf30001" if version == 3 else "cdf26002") + bytes.fromhex("0000ffff"))

    def record(kind, fields, *values, rest=b""):
        """Appends a record ("o" in fields: an offset). Returns: where it begins."""
        body = struct.pack(">i" + fields.replace("o", offset), kind, *values) + rest
        start = len(file)
        file.extend(struct.pack(">" + offset, len(body) + struct.calcsize(">" + offset)) + body)
        return start

    def set_offset(at, index, value):
        """The offset after the record's type, or after as many of them as `index`."""
        size = struct.calcsize(">" + offset)
        struct.pack_into(">" + offset, file, at + size + 4 + index * size, value)

    cdr = record(1, "oiiiiiiiii", 0, version, 6, encoding, 2 + row_major, 0, 0, 0, 1, 0, rest=bytes(256))
    sizes = next(iter(variables.values())).shape[1:] if record_type == 3 else ()
    counts = (len(variables), 0) if record_type == 3 else (0, len(variables))
    gdr = record(2, "ooooiiiiioiii", 0, 0, 0, 0, counts[0], 0, 0, len(sizes), counts[1], 0, 0, 0, 0,
                 rest=struct.pack(f">{len(sizes)}i", *sizes))
    set_offset(cdr, 0, gdr)
    previous, link = gdr, 0 if record_type == 3 else 1
    for number, (name, array) in enumerate(variables.items()):
        shape = array.shape[1:]
        axes = struct.pack(f">{len(shape)}i", *[-1] * len(shape))
        if record_type == 8:
            axes = struct.pack(f">i{len(shape)}i", len(shape), *shape) + axes
        vdr = record(record_type, "oiiooiiiiiiioi", 0, _DATA_TYPES[array.dtype.name], len(array) - 1, 0, 0,
                     1 | compressed << 2, 0, 0, 0, 0, 1, number, 0, 1, rest=name.encode().ljust(name_length, b"\0") + axes)
        set_offset(previous, link, vdr)
        previous, link = vdr, 0

        entries = []
        step = block_records or len(array)
        for first in range(0, len(array), step):
            block = array[first:first + step]
            values = block if row_major else np.stack([value.T for value in block])
            data = values.astype(values.dtype.newbyteorder("<" if encoding == IBM_PC else ">")).tobytes()
            assert len(data) == len(block) * math.prod(shape) * array.dtype.itemsize
            zipped = gzip.compress(data)
            at = record(13, "io", 0, len(zipped), rest=zipped) if compressed else record(7, "", rest=data)
            entries.append((first, first + len(block) - 1, at))

        def index(listed):
            firsts, lasts, places = zip(*listed, (-1, -1, -1), strict=True)  # one entry that is not used
            return record(6, "oii", 0, len(firsts), len(listed),
                          rest=struct.pack(f">{2 * len(firsts)}i{len(firsts)}{offset}", *firsts, *lasts, *places))

        if len(entries) > 1:  # two indices in a third one
            half = len(entries) // 2
            entries = [(part[0][0], part[-1][1], index(part)) for part in (entries[:half], entries[half:])]
        head = index(entries)
        size = struct.calcsize(">" + offset)
        struct.pack_into(">" + offset, file, vdr + 2 * size + 12, head)
    return bytes(file)
