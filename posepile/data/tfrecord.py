"""The TFRecord container and `tf.train.Example` messages, written and checked without TensorFlow.

A record in the file is: length (uint64), masked CRC of the length (uint32), payload, masked CRC of the payload
(uint32), all little-endian; the CRC is CRC-32C. Payloads are parsed by tfrecord-lite, only after their checksum has
been found right.
"""

import bisect
import functools
import itertools
import struct
from collections.abc import Mapping

import numpy as np
import tfrecord_lite

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_RECORD_BYTES = 1 << 30
_CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bit-reversed
_CRC_BLOCK = 256  # bytes
_BLOCK_ROWS = 256 * np.arange(_CRC_BLOCK)  # of the table that `_crc_tables` flattens
_BYTEWISE_BELOW = 32  # bytes; the vectorised way has a constant cost of about 15 us
_FOLD_TO = 1024  # words of 8 bytes; shorter messages are faster looked up than folded
_MAX_FOLD_DISTANCE = 1 << 15  # words


class CorruptRecordError(ValueError):
    """A record's checksum, length or content is wrong; the message names file and offset."""


def frame_record(payload: bytes) -> bytes:
    """The bytes of one record of a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload,
                     struct.pack("<I", masked_crc32c(payload))])


def unframe_record(data: bytes, where: str) -> bytes:
    """The payload of one record, after checking both checksums.

    Args:
        data: the record's bytes: header, payload, footer.
        where: file and offset, for the error message.

    Raises: CorruptRecordError.
    """
    advice = "Delete the shard and run `python -m datasets prepare` again to make it anew."
    if len(data) < HEADER_BYTES + FOOTER_BYTES:
        raise CorruptRecordError(f"{where}: the file ends inside a record. {advice}")
    length, length_crc = struct.unpack_from("<QI", data)
    if masked_crc32c(data[:8]) != length_crc or length != len(data) - HEADER_BYTES - FOOTER_BYTES:
        raise CorruptRecordError(f"{where}: the record's length or its checksum is wrong. {advice}")
    payload = data[HEADER_BYTES:-FOOTER_BYTES]
    if masked_crc32c(payload) != struct.unpack("<I", data[-FOOTER_BYTES:])[0]:
        raise CorruptRecordError(f"{where}: the record's checksum does not match its content. {advice}")
    return payload


def read_record_length(header: bytes, where: str) -> int:
    """The payload length that a 12-byte record header states. Raises: CorruptRecordError."""
    if len(header) < HEADER_BYTES:
        raise CorruptRecordError(f"{where}: the file ends inside a record header")
    length, crc = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != crc or length > MAX_RECORD_BYTES:
        raise CorruptRecordError(f"{where}: the record's length or its checksum is wrong")
    return length


def encode_example(features: Mapping[str, bytes | np.ndarray]) -> bytes:
    """Serialises a `tf.train.Example`.

    Args:
        features: per name bytes (a bytes list of one), or an array of integers (int64 list) or floats (float32 list);
            arrays are flattened. Names come out sorted, so equal features give equal bytes.
    """
    entries = []
    for name in sorted(features):
        value = features[name]
        if isinstance(value, bytes):
            kind, packed = 1, _field(1, value)
        else:
            array = np.ravel(value)
            if array.dtype.kind == "f":
                kind, packed = 2, _field(1, array.astype("<f4").tobytes())
            elif array.dtype.kind in "iub":
                kind, packed = 3, _field(1, _varints(array.astype(np.int64)))
            else:
                raise TypeError(f"feature {name}: cannot store {array.dtype} in a tf.train.Example")
        entries.append(_field(1, _field(1, name.encode()) + _field(2, _field(kind, packed))))
    return _field(1, b"".join(entries))


def decode_example(payload: bytes, where: str) -> dict:
    """Parses a checked payload with tfrecord-lite: name -> bytes or array. Raises: CorruptRecordError."""
    try:
        return tfrecord_lite.decode_example(payload)
    except (RuntimeError, ValueError, IndexError, KeyError, struct.error, OverflowError) as error:
        raise CorruptRecordError(f"{where}: not a tf.train.Example ({error})") from error


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, rotated and offset so that a CRC of a CRC is harmless."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes, vectorised.

    The CRC is linear. So a long message is folded onto an equivalent short one by xor, see `_fold`, and then every
    byte's share is looked up by its place and combined by xor.
    """
    if len(data) < _BYTEWISE_BELOW:
        return _crc32c_bytewise(data)
    # The initial value 0xFFFFFFFF acts as an xor on the first four bytes; leading zero bytes then change nothing.
    words = np.zeros(-(-len(data) // 8), np.uint64)
    padded = words.view(np.uint8)
    padded[-len(data):] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data):][:4] ^= 0xFF
    folded = _fold(words).view(np.uint8)
    num_blocks = -(-len(folded) // _CRC_BLOCK)
    blocks = np.zeros(num_blocks * _CRC_BLOCK, np.uint8)
    blocks[-len(folded):] = folded
    in_block, between = _crc_tables(_round_up(num_blocks))
    shares = in_block.take(blocks.reshape(num_blocks, _CRC_BLOCK) + _BLOCK_ROWS)
    parts = np.bitwise_xor.reduce(shares, axis=1).view(np.uint8).reshape(num_blocks, 4)
    shifted = between[np.arange(num_blocks)[::-1, None], np.arange(4), parts]
    return int(np.bitwise_xor.reduce(shifted, axis=None)) ^ 0xFFFFFFFF


def _fold(words: np.ndarray) -> np.ndarray:
    """Shortens a message to at most _FOLD_TO words with the same CRC (without initial and final xor).

    The bits of a message are the coefficients of a polynomial over GF(2), highest powers first, and the CRC is its
    remainder modulo P. If x^a = x^e + x^f + ... modulo P, then squaring six times gives x^(64 a) = x^(64 e) + x^(64 f)
    + ...: a leading word of 64 bits can be xored onto the words a - e, a - f, ... places further on instead.

    Args:
        words: [n] uint64, little-endian; gets overwritten.

    Returns: a view of the end of `words`.
    """
    distances, exponents_of = _fold_distances()
    while (size := len(words)) > _FOLD_TO:
        distance = distances[min(bisect.bisect_left(distances, (size + 31) // 2), len(distances) - 1)]
        head = words[:min(size - distance, distance - 31)]  # no longer, so that no target lies in the head itself
        for exponent in exponents_of[distance]:
            target = words[distance - exponent:][:len(head)]
            np.bitwise_xor(target, head, out=target)
        words = words[len(head):]
    return words


@functools.cache
def _fold_distances() -> tuple[list[int], dict[int, list[int]]]:
    """Distances a for `_fold`, ascending, with the exponents e, f, ... of x^a modulo P; few of them each."""
    registers = [1 << 31]  # x^0; bit 31 - i is the coefficient of x^i
    while len(registers) < _MAX_FOLD_DISTANCE:
        registers.append(registers[-1] >> 1 ^ (_CRC_POLYNOMIAL if registers[-1] & 1 else 0))
    bounds = np.geomspace(_FOLD_TO // 2, _MAX_FOLD_DISTANCE, 20).astype(int).tolist()
    distances = [min(range(low, high), key=lambda a: registers[a].bit_count())
                 for low, high in itertools.pairwise(bounds)]
    return distances, {a: [i for i in range(32) if registers[a] >> (31 - i) & 1] for a in distances}


def _round_up(n: int) -> int:
    return 1 << (n - 1).bit_length()


@functools.cache
def _byte_table() -> np.ndarray:
    """[256] uint32: the CRC register after one byte, from zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_CRC_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


def _crc32c_bytewise(data: bytes) -> int:
    crc, table = 0xFFFFFFFF, _byte_table()
    for byte in data:
        crc = crc >> 8 ^ int(table[(crc ^ byte) & 0xFF])
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc_tables(num_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of single bytes in the CRC.

    Returns: [_CRC_BLOCK, 256] uint32 by place in a block, and [num_blocks, 4, 256] uint32 by block, for the bytes of
        its CRC.
    """

    def append_zero_bytes(registers, count):
        for _ in range(count):
            registers = registers >> np.uint32(8) ^ _byte_table()[registers & np.uint32(0xFF)]
        return registers

    in_block = np.empty((_CRC_BLOCK, 256), np.uint32)
    registers = _byte_table()
    for place in reversed(range(_CRC_BLOCK)):
        in_block[place] = registers
        registers = append_zero_bytes(registers, 1)
    between = np.empty((num_blocks, 4, 256), np.uint32)
    registers = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
    over_block = append_zero_bytes(registers, _CRC_BLOCK)  # what a whole block of zeros does to each byte of a register
    for block in range(num_blocks):
        between[block] = registers
        registers = np.bitwise_xor.reduce([over_block[i, registers >> np.uint32(8 * i) & np.uint32(0xFF)]
                                           for i in range(4)])
    return in_block, between


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol buffer field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(values: np.ndarray) -> bytes:
    return b"".join(_varint(int(v) & 0xFFFFFFFFFFFFFFFF) for v in values)
