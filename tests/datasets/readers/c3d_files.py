"""C3D files put together byte by byte from the format's user guide (Motion Lab Systems), in all its number formats."""

import struct

import numpy as np

INTEL, DEC, MIPS = 84, 85, 86  # processor types


def to_dec(number):
    """VAX F_floating: sign, exponent with a bias of 128 for 0.1mmm, mantissa; the half with the sign stands first."""
    if number == 0:
        return bytes(4)
    mantissa, exponent = np.frexp(abs(number))
    bits = (number < 0) << 31 | (int(exponent) + 128) << 23 | round((mantissa * 2 - 1) * 2**23)
    return struct.pack("<HH", bits >> 16, bits & 0xFFFF)


def make_c3d(points, labels, processor=INTEL, scale=-1.0, unit="mm", rate=100.0, num_analog=0, parameters=(), **header):
    """The bytes of a C3D file: header block, parameter blocks, data.

    Args:
        points: [num_frames, num_points, 3] in the unit; nan: missing, with a residual of -1.
        scale: positive: integers that it multiplies; negative: floats.
        parameters: more of them, in the group TRIAL: name, type, dimensions, bytes.
        header: numbers of the header that are to differ: points, analog, first, last.
    """
    order = ">" if processor == MIPS else "<"

    def integer(number):
        return struct.pack(order + "H", number & 0xFFFF)

    def real(number):
        return to_dec(number) if processor == DEC else struct.pack(order + "f", number)

    def record(name, group, body):
        return struct.pack("bb", len(name), group) + name.encode() + integer(len(body) + 2) + body

    def parameter(name, element_type, dimensions, data, group=1):
        description = b"described"
        return record(name, group, struct.pack("bB", element_type, len(dimensions)) + bytes(dimensions) + data
                      + bytes([len(description)]) + description)

    num_frames, num_points = points.shape[:2]
    num_blocks = 2 + num_points * 30 // 512
    data_block = 2 + num_blocks
    width = max(map(len, labels), default=0) + 2
    records = [record("POINT", -1, b"\0"), record("TRIAL", -2, b"\0"), parameter("USED", 2, [], integer(num_points)),
               parameter("SCALE", 4, [], real(scale)), parameter("RATE", 4, [1], real(rate)),
               parameter("DATA_START", 2, [], integer(data_block)), parameter("FRAMES", 2, [], integer(num_frames)),
               parameter("LABELS", -1, [width, len(labels)], b"".join(label.ljust(width).encode() for label in labels))]
    if unit is not None:
        records.append(parameter("UNITS", -1, [4], unit.ljust(4).encode()))
    records += [parameter(*arguments, group=2) for arguments in parameters]
    section = bytes([1, 0x50, num_blocks, processor]) + b"".join(records)
    assert len(section) < num_blocks * 512
    words = {"points": num_points, "analog": num_analog, "first": 1, "last": num_frames, **header}
    head = (bytes([2, 0x50]) + b"".join(integer(words[name]) for name in ("points", "analog", "first", "last")) + integer(10)
            + real(scale) + integer(data_block) + integer(1) + real(rate))
    number = (lambda value: integer(round(value / scale))) if scale > 0 else real
    residual = integer if scale > 0 else real
    data = b"".join(
        b"".join(b"".join(map(number, np.nan_to_num(point))) + residual(-1 if np.isnan(point).any() else 5) for point in frame)
        + b"".join(map(residual, range(num_analog))) for frame in points)
    return head.ljust(512, b"\0") + section.ljust(num_blocks * 512, b"\0") + data
