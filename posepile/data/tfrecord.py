"""The TFRecord container and `tf.train.Example` messages, written and checked without TensorFlow.

A record in the file is: length (uint64), masked CRC of the length (uint32), payload, masked CRC of the payload
(uint32), all little-endian; the CRC is CRC-32C. Payloads are parsed by tfrecord-lite, only after their checksum has
been found right.
"""

import bisect
import functools
import struct
from collections.abc import Mapping

import numpy as np
import tfrecord_lite

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_RECORD_BYTES = 1 << 23  # of payload; most take below 100 KB. A reader must not allocate whatever a header claims
REPAIR_ADVICE = "Delete the shard and run `python -m datasets prepare` again to make it anew."
_CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bit-reversed
_BYTEWISE_BELOW = 32  # bytes; the vectorised way has a constant cost of about 5 us
_FOLD_TO = 1024  # bytes; shorter messages are faster looked up than folded
# x^(8 a) = the sum of x^(8 e) modulo the polynomial, as a: (e, ...); exponents are bytes, a about doubles in two steps.
# Found by matching sums of two powers; 3 terms are the fewest there are, and none of degree below 5000 has them.
_FOLDS = {
    680: (122, 80, 19, 3, 0), 979: (238, 232, 72, 65, 0), 1386: (128, 103, 63, 32, 0), 1910: (214, 200, 177, 106, 0),
    2873: (109, 106, 89, 3, 0), 4003: (57, 46, 30, 4, 0), 5685: (1362, 426, 0), 6777: (484, 100, 0),
    10269: (1304, 837, 0), 13554: (968, 200, 0), 17201: (316, 304, 0), 24016: (637, 581, 0), 34402: (632, 608, 0),
    45112: (333, 247, 0), 69521: (349, 132, 0)}
_FOLD_DISTANCES = sorted(_FOLDS)


class CorruptRecordError(ValueError):
    """A record's checksum, length or content is wrong; the message names file and offset."""


def frame_record(payload: bytes) -> bytes:
    """The bytes of one record of a TFRecord file. Raises: ValueError if it is larger than any reader here accepts."""
    if len(payload) > MAX_RECORD_BYTES:
        raise ValueError(f"a record has {len(payload)} bytes; expected {MAX_RECORD_BYTES} or fewer: store a smaller image")
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
    if len(data) < HEADER_BYTES + FOOTER_BYTES:
        raise CorruptRecordError(f"{where}: the file ends inside a record. {REPAIR_ADVICE}")
    length, length_crc = struct.unpack_from("<QI", data)
    if masked_crc32c(data[:8]) != length_crc or length != len(data) - HEADER_BYTES - FOOTER_BYTES:
        raise CorruptRecordError(f"{where}: the record's length or its checksum is wrong. {REPAIR_ADVICE}")
    payload = data[HEADER_BYTES:-FOOTER_BYTES]
    if masked_crc32c(payload) != struct.unpack("<I", data[-FOOTER_BYTES:])[0]:
        raise CorruptRecordError(f"{where}: the record's checksum does not match its content. {REPAIR_ADVICE}")
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
    # The initial value 0xFFFFFFFF acts as an xor on the first four bytes.
    message = bytearray(data)
    for place in range(4):
        message[place] ^= 0xFF
    folded = _fold(np.frombuffer(message, np.uint8))
    shares, rows = _byte_shares()
    return int(np.bitwise_xor.reduce(shares.take(rows[-len(folded):] + folded))) ^ 0xFFFFFFFF


def _fold(message: np.ndarray) -> np.ndarray:
    """Shortens a message to at most _FOLD_TO bytes with the same CRC (without initial and final xor).

    The bits of a message are the coefficients of a polynomial over GF(2), highest powers first, and the CRC is its
    remainder modulo P. If x^a = x^e + x^f + ... modulo P, then squaring three times gives x^(8 a) = x^(8 e) + x^(8 f)
    + ...: a leading byte can be xored onto the bytes a - e, a - f, ... places further on instead.

    Args:
        message: [n] uint8; gets overwritten.

    Returns: a view of the end of `message`.
    """
    while (size := len(message)) > _FOLD_TO:
        distance = _FOLD_DISTANCES[min(bisect.bisect_left(_FOLD_DISTANCES, size // 2), len(_FOLD_DISTANCES) - 1)]
        exponents = _FOLDS[distance]
        num_folded = min(size, 2 * distance - exponents[0]) - distance  # no target lies in what is folded itself
        head = message[:num_folded]
        for exponent in exponents:
            target = message[distance - exponent:distance - exponent + num_folded]
            np.bitwise_xor(target, head, target)
        message = message[num_folded:]
    return message


@functools.cache
def _byte_table() -> list[int]:
    """The CRC register after one byte, from zero; 256 values."""
    table = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (_CRC_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return table


def _crc32c_bytewise(data: bytes) -> int:
    crc, table = 0xFFFFFFFF, _byte_table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _byte_shares() -> tuple[np.ndarray, np.ndarray]:
    """[_FOLD_TO * 256] uint32: what each value of each byte adds to the CRC of _FOLD_TO bytes; [_FOLD_TO] int64: where
    the values of a byte begin.
    """
    after_byte = np.array(_byte_table(), np.uint32)
    shares = np.empty((_FOLD_TO, 256), np.uint32)
    shares[-1] = after_byte
    for place in reversed(range(_FOLD_TO - 1)):  # one more zero byte follows
        shares[place] = shares[place + 1] >> 8 ^ after_byte[shares[place + 1] & 0xFF]
    return shares.ravel(), 256 * np.arange(_FOLD_TO)


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
    """Each number in groups of 7 bits, lowest first; all but the last one have the top bit set."""
    values = values.astype(np.int64).view(np.uint64)
    num_groups = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    rest = values[:, np.newaxis] >> np.arange(0, 7 * num_groups, 7, dtype=np.uint64)
    is_used = rest > 0
    is_used[:, 0] = True
    groups = (rest & 0x7F).astype(np.uint8) | (rest > 0x7F).astype(np.uint8) << 7
    return groups[is_used].tobytes()
