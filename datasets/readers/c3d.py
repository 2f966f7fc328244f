"""Marker positions from C3D motion capture files.

Source: The C3D File Format, A Technical User Guide (Motion Lab Systems). Read here, since a broken file makes ezc3d crash
the process, and c3d refuses files whose header and parameters differ in a rounded rate.
"""

import dataclasses
import math
import pathlib
import struct
from typing import Any

import numpy as np

from datasets.readers.files import broken_file_errors, require_file

_BLOCK = 512  # bytes; positions in the file are counted in blocks, from 1
_INTEL, _DEC, _MIPS = 84, 85, 86  # processor types: little-endian, the VAX's own floats, big-endian
_UNIT_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}


@dataclasses.dataclass(frozen=True)
class C3dPoints:
    """The points of a C3D file.

    Attributes:
        labels: one for each point, as in the file without the blanks at the end; "" where it names fewer.
        points: [num_frames, num_points, 3] float64, mm, in the file's world frame; nan where a point is missing.
        rate: frames per second.
    """

    labels: tuple[str, ...]
    points: np.ndarray
    rate: float


def read_c3d(path: pathlib.Path, hint: str = "") -> C3dPoints:
    """Reads the points of a C3D file in integers or floats, of Intel, DEC or MIPS processors; analog data are left out.

    A point is missing in a frame where its residual is negative. Lengths are converted to mm by POINT:UNITS, and are mm
    where the file does not say.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, for a broken one and for one with fewer frames
        than it states.
    """
    path = require_file(path, hint)
    with broken_file_errors(path, "a C3D file"):
        return _parse(path.read_bytes())


def _parse(content: bytes) -> C3dPoints:
    if len(content) < _BLOCK or content[1] != 0x50:
        raise ValueError("it does not begin with the header of one")
    start = _BLOCK * (content[0] - 1)
    _, _, num_blocks, processor = struct.unpack_from("4B", content, start)
    if processor not in (_INTEL, _DEC, _MIPS):
        raise ValueError(f"it states processor type {processor}, expected {_INTEL}, {_DEC} or {_MIPS}")
    numbers = _Numbers(processor)
    parameters = _parse_parameters(content[start:start + _BLOCK * num_blocks], numbers)

    num_points, num_analog, first_frame, last_frame = map(int, numbers.integers(content[2:10]))
    num_points = int(_first(parameters, "POINT:USED", num_points)) & 0xFFFF
    scale = float(_first(parameters, "POINT:SCALE", numbers.floats(content[12:16])[0]))
    rate = float(_first(parameters, "POINT:RATE", numbers.floats(content[20:24])[0]))
    data_block = int(_first(parameters, "POINT:DATA_START", numbers.integers(content[16:18])[0])) & 0xFFFF
    num_frames = _num_frames(parameters, last_frame - first_frame + 1)
    unit = "".join(_texts(parameters, "POINT:UNITS")[:1]).lower() or "mm"
    if not (0 < rate < math.inf and math.isfinite(scale) and unit in _UNIT_MM and num_points and data_block > 1):
        raise ValueError(f"it states {num_points} points, {rate} Hz, scale {scale}, unit {unit!r:.50} and data from block "
                         f"{data_block}; expected positive numbers and one of {', '.join(_UNIT_MM)}")

    is_float = scale < 0
    num_words = 4 * num_points + num_analog
    data = content[_BLOCK * (data_block - 1):][:num_frames * num_words * (4 if is_float else 2)]
    if num_frames < 1 or len(data) < num_frames * num_words * (4 if is_float else 2):
        raise ValueError(f"it states {num_frames} frames of {num_points} points and {num_analog} analog values, and has "
                         f"{len(data)} bytes for them")
    words = numbers.floats(data) if is_float else numbers.integers(data).view(np.int16)
    words = words.reshape(num_frames, num_words)[:, :4 * num_points].reshape(num_frames, num_points, 4).astype(np.float64)
    points = words[..., :3] * _UNIT_MM[unit] * (1.0 if is_float else scale)
    points[~(words[..., 3] >= 0) | ~np.isfinite(points).all(axis=-1)] = np.nan
    labels = [label for suffix in ("", *range(2, 257)) for label in _texts(parameters, f"POINT:LABELS{suffix}")]
    return C3dPoints(tuple((labels + [""] * num_points)[:num_points]), points, rate)


class _Numbers:
    """Numbers as a processor stores them."""

    def __init__(self, processor: int):
        self._processor = processor
        self.order = ">" if processor == _MIPS else "<"

    def integers(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.order + "u2").astype(np.uint16)

    def floats(self, data: bytes) -> np.ndarray:
        if self._processor == _DEC:  # the upper half first, and an exponent larger by 2
            return np.frombuffer(data, "<u2").reshape(-1, 2)[:, ::-1].copy().view("<f4")[:, 0] / 4
        return np.frombuffer(data, self.order + "f4")


def _parse_parameters(section: bytes, numbers: _Numbers) -> dict[str, Any]:
    """"GROUP:NAME" -> array of numbers, or list of texts."""
    groups, found = {}, []
    position = 4
    while position + 2 <= len(section):
        name_length, group = struct.unpack_from("2b", section, position)
        if name_length == 0 or group == 0:
            break
        next_at = position + 2 + abs(name_length)  # a negative length: locked
        name = section[position + 2:next_at].decode("latin1").upper()
        step, = struct.unpack_from(numbers.order + "h", section, next_at)
        if group < 0:
            groups[-group] = name
        else:
            found.append((group, name, _parse_value(section[next_at + 2:], numbers)))
        if step <= 0:
            break
        position = next_at + step
    return {f"{groups.get(group)}:{name}": value for group, name, value in found}


def _parse_value(data: bytes, numbers: _Numbers) -> Any:
    element_type, num_dimensions = struct.unpack_from("2b", data)
    shape = list(data[2:2 + num_dimensions])
    values = data[2 + num_dimensions:][:abs(element_type) * math.prod(shape)]
    if len(values) < abs(element_type) * math.prod(shape):
        raise ValueError(f"a parameter of {shape} values is cut off")
    if element_type == -1:  # characters: the first dimension is the length of each text
        width = shape[0] if shape else 1
        return [values[i:i + width].decode("latin1").strip(" \0") for i in range(0, len(values), width)] if width else []
    return {1: lambda: np.frombuffer(values, np.uint8), 2: lambda: numbers.integers(values),
            4: lambda: numbers.floats(values)}.get(element_type, lambda: np.empty(0))()


def _first(parameters: dict[str, Any], name: str, default: Any) -> Any:
    values = parameters.get(name, ())
    return values[0] if len(values) else default


def _texts(parameters: dict[str, Any], name: str) -> list[str]:
    values = parameters.get(name)
    return values if isinstance(values, list) else []


def _num_frames(parameters: dict[str, Any], header_frames: int) -> int:
    """The largest of the numbers of frames that a file states: those of 16 bits stop short in long recordings."""
    first, last = (parameters.get(f"TRIAL:ACTUAL_{end}_FIELD", ()) for end in ("START", "END"))
    trial_frames = 0
    if len(first) == len(last) == 2:  # 16 bits each, the lower half first
        trial_frames = int(last[0]) - int(first[0]) + 65536 * (int(last[1]) - int(first[1])) + 1
    stated = (_first(parameters, f"POINT:{name}", 0) for name in ("FRAMES", "LONG_FRAMES"))
    return max(header_frames, trial_frames, *map(int, stated))
