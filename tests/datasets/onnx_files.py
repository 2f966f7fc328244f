"""A tiny ONNX network, written byte by byte, that finds bright squares of 16 x 16 px at multiples of 4 px."""

import pathlib

import numpy as np

SIDE = 64  # px of its input
SQUARE = 16  # px


def write_square_finder(path: pathlib.Path, form: str = "4 + C", side: int | str = SIDE) -> pathlib.Path:
    """Squares that are white all over get score 1, darker ones less, down to 0 for those 1/16 darker.

    Args:
        path: of the file.
        form: of the output, "4 + C", "5 + C" or "6" (see `datasets.onnx_detector`); anything else gives scores alone.
        side: of the input that the file declares; a text leaves it open.
    """
    corners = np.arange(0, SIDE - SQUARE + 1, 4, dtype=np.float32)
    y, x = (values.ravel() for values in np.meshgrid(corners, corners, indexing="ij"))
    sizes, ones = np.full_like(x, SQUARE), np.ones_like(x)
    before, after, axes = {"4 + C": ([x + SQUARE / 2, y + SQUARE / 2, sizes, sizes], [0 * ones], [0, 1, 2]),
                           "5 + C": ([x + SQUARE / 2, y + SQUARE / 2, sizes, sizes, ones], [0 * ones, 0 * ones], [0, 2, 1]),
                           "6": ([x, y, x + SQUARE, y + SQUARE], [0 * ones], [0, 2, 1])}.get(form, ([x], [y], [0, 1, 2]))
    weights = np.full((1, 3, 1, 1), 16 / 3, np.float32)
    tensors = [_tensor("weights", weights), _tensor("bias", np.float32([-15])), _tensor("flat", np.array([1, 1, -1])),
               _tensor("before", np.float32(before)[None]), _tensor("after", np.float32(after)[None])]
    nodes = [_node("AveragePool", ["images"], "means", kernel_shape=[SQUARE] * 2, strides=[4, 4]),
             _node("Conv", ["means", "weights", "bias"], "sums", kernel_shape=[1, 1]), _node("Relu", ["sums"], "scores"),
             _node("Reshape", ["scores", "flat"], "row"), _node("Concat", ["before", "row", "after"], "rows", axis=1),
             _node("Transpose", ["rows"], "output", perm=axes)]
    shape = np.array([len(before) + 1 + len(after), len(x)])[np.array(axes[1:]) - 1]
    graph = (b"".join(_field(1, node) for node in nodes) + _field(2, b"finder") + b"".join(_field(5, t) for t in tensors)
             + _field(11, _value("images", [1, 3, side, side])) + _field(12, _value("output", [1, *shape.tolist()])))
    path.write_bytes(_number(1, 8) + _field(8, _number(2, 13)) + _field(7, graph))
    return path


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = bytearray()
    while value >= 128:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[values.dtype.name]
    dims = b"".join(_number(1, length) for length in values.shape)
    return dims + _number(2, kind) + _field(8, name) + _field(9, values.tobytes())


def _node(kind: str, inputs: list[str], output: str, **attributes) -> bytes:
    content = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(3, output) + _field(4, kind)
    for name, value in attributes.items():
        value = (_number(3, value) + _number(20, 2) if isinstance(value, int)
                 else b"".join(_number(8, item) for item in value) + _number(20, 7))
        content += _field(5, _field(1, name) + value)
    return content


def _value(name: str, shape: list[int | str]) -> bytes:
    dims = b"".join(_field(1, _number(1, length) if isinstance(length, int) else _field(2, length)) for length in shape)
    return _field(1, name) + _field(2, _field(1, _number(1, 1) + _field(2, dims)))
