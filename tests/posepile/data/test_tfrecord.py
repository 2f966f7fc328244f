import functools
import operator
import struct

import numpy as np
import pytest

from posepile.data import tfrecord
from posepile.data.tfrecord import CorruptRecordError


@pytest.mark.parametrize("data, checksum", [
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C), (b"123456789", 0xE3069283), (b"", 0), (b"a", 0xC1D04330)])
def test_crc32c_of_published_vectors(data, checksum):
    assert tfrecord.crc32c(data) == checksum


def crc32c_bit_by_bit(data):
    """The definition: division by the Castagnoli polynomial, bits reversed."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, 3, 4, 5, 31, 32, 33, 255, 256, 257, 1024, 8191, 8192, 8193, 8200, 12_345, 40_001])
def test_crc32c_of_any_length(size):
    data = np.random.default_rng(size).bytes(size)
    assert tfrecord.crc32c(data) == crc32c_bit_by_bit(data)


def test_folding_keeps_the_remainder():
    """x^a = x^e + x^f + ... modulo the polynomial, its bits in plain order: highest power first."""
    powers, remainder = [], 1
    for _ in range(max(tfrecord._FOLDS) + 1):
        powers.append(remainder)
        remainder <<= 1
        if remainder >> 32:
            remainder ^= 0x11EDC6F41
    for distance, exponents in tfrecord._FOLDS.items():
        assert functools.reduce(operator.xor, (powers[e] for e in exponents)) == powers[distance]


def test_crc32c_of_a_long_record_changes_with_every_bit():
    """Longer than any folding distance.

    Flipping one bit changes the CRC by xor with a nonzero value that depends on the place of the bit alone.
    """
    size = 700_000
    rng = np.random.default_rng(0)
    one, other = bytearray(rng.bytes(size)), bytearray(rng.bytes(size))
    for place in (0, 1, 99_999, 262_144, size - 1):
        before = tfrecord.crc32c(bytes(one)), tfrecord.crc32c(bytes(other))
        one[place] ^= 4
        other[place] ^= 4
        after = tfrecord.crc32c(bytes(one)), tfrecord.crc32c(bytes(other))
        assert before[0] ^ after[0] == before[1] ^ after[1] != 0
    short = bytes(one[-20_000:])
    assert tfrecord.crc32c(bytes(600_000) + short) == crc32c_continued(600_000, short)


def crc32c_continued(num_zeros, data):
    """CRC of zeros followed by data; the zeros' share is found by squaring, as x^(8 n) modulo P."""
    def multiply(a, b):  # bit 31 - i is the coefficient of x^i
        product = 0
        for i in range(32):
            if b >> (31 - i) & 1:
                product ^= a
            a = a >> 1 ^ (0x82F63B78 if a & 1 else 0)
        return product

    power, square, exponent = 1 << 31, 1 << 30, 8 * num_zeros
    while exponent:
        if exponent & 1:
            power = multiply(power, square)
        square, exponent = multiply(square, square), exponent >> 1
    register = multiply(0xFFFFFFFF, power)
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 300, 9000])
def test_frame_round_trip(size):
    payload = np.random.default_rng(size).bytes(size)
    record = tfrecord.frame_record(payload)
    assert len(record) == size + tfrecord.HEADER_BYTES + tfrecord.FOOTER_BYTES
    assert tfrecord.unframe_record(record, "file at byte 0") == payload
    assert tfrecord.read_record_length(record[:12], "file at byte 0") == size


def test_record_too_large_to_be_read_is_not_written():
    with pytest.raises(ValueError, match="a record has 8388609 bytes; expected 8388608 or fewer: store a smaller image"):
        tfrecord.frame_record(bytes(tfrecord.MAX_RECORD_BYTES + 1))


def test_every_changed_byte_is_noticed():
    record = tfrecord.frame_record(b"some payload of a record, longer than the header")
    for place in range(len(record)):
        broken = bytearray(record)
        broken[place] ^= 0x10
        with pytest.raises(CorruptRecordError, match=r"shard\.tfrecord at byte 77: the record's"):
            tfrecord.unframe_record(bytes(broken), "shard.tfrecord at byte 77")
    for size in range(len(record)):
        with pytest.raises(CorruptRecordError, match=r"shard\.tfrecord at byte 77: "):
            tfrecord.unframe_record(record[:size], "shard.tfrecord at byte 77")


def test_broken_headers_are_noticed():
    header = tfrecord.frame_record(b"abc")[:12]
    with pytest.raises(CorruptRecordError, match="f: the record's length or its checksum is wrong"):
        tfrecord.read_record_length(b"\x04" + header[1:], "f")
    with pytest.raises(CorruptRecordError, match="f: the file ends inside a record header"):
        tfrecord.read_record_length(header[:11], "f")
    huge = struct.pack("<Q", 1 << 40)
    with pytest.raises(CorruptRecordError, match="f: the record's length"):
        tfrecord.read_record_length(huge + struct.pack("<I", tfrecord.masked_crc32c(huge)), "f")


def test_example_round_trip():
    features = {"bytes": b"\x00\xff jpeg", "floats": np.float32([[1.5, np.nan], [-np.inf, 1e-30]]),
                "ints": np.array([0, 1, -1, 127, 128, 2**40, -2**63]), "flags": np.array([True, False])}
    decoded = tfrecord.decode_example(tfrecord.encode_example(features), "f")
    assert decoded.keys() == features.keys()
    assert list(decoded["bytes"]) == [b"\x00\xff jpeg"]
    np.testing.assert_array_equal(np.float32(decoded["floats"]), features["floats"].ravel())
    np.testing.assert_array_equal(decoded["ints"], features["ints"])
    np.testing.assert_array_equal(decoded["flags"], [1, 0])


def test_equal_features_give_equal_bytes():
    one, other = {"a": b"1", "b": np.int64([2])}, {"b": np.int64([2]), "a": b"1"}
    assert tfrecord.encode_example(one) == tfrecord.encode_example(other)


def test_unsupported_feature_is_named():
    with pytest.raises(TypeError, match="feature words: cannot store <U1"):
        tfrecord.encode_example({"words": np.array(["a"])})


def test_tensorflow_reads_our_records_and_we_read_tensorflows(tmp_path):
    tf = pytest.importorskip("tensorflow")
    floats, ints = np.float32([1.5, -2.25, np.nan]), np.array([3, -4, 2**60])
    payloads = [tfrecord.encode_example({"image": bytes([i]) * (i * 5000), "floats": floats, "ints": ints})
                for i in range(4)]
    ours = tmp_path / "ours.tfrecord"
    ours.write_bytes(b"".join(tfrecord.frame_record(payload) for payload in payloads))
    read = list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator())  # checks lengths and checksums
    assert read == payloads
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "floats": tf.io.FixedLenFeature([3], tf.float32),
            "ints": tf.io.FixedLenFeature([3], tf.int64)}
    for i, payload in enumerate(read):
        example = tf.io.parse_single_example(payload, spec)
        assert example["image"].numpy() == bytes([i]) * (i * 5000)
        np.testing.assert_array_equal(example["floats"], floats)
        np.testing.assert_array_equal(example["ints"], ints)

    theirs = tmp_path / "theirs.tfrecord"
    message = tf.train.Example(features=tf.train.Features(feature={
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"jpeg" * 4000])),
        "floats": tf.train.Feature(float_list=tf.train.FloatList(value=floats)),
        "ints": tf.train.Feature(int64_list=tf.train.Int64List(value=ints))}))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        writer.write(message.SerializeToString())
    decoded = tfrecord.decode_example(tfrecord.unframe_record(theirs.read_bytes(), "theirs"), "theirs")
    assert list(decoded["image"]) == [b"jpeg" * 4000]
    np.testing.assert_array_equal(np.float32(decoded["floats"]), floats)
    np.testing.assert_array_equal(decoded["ints"], ints)
