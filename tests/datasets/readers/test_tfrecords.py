"""The reader of others' TFRecord files, on files in the format's specification, whole and damaged."""

import struct

import numpy as np
import pytest

from datasets.readers.tfrecords import read_examples
from posepile.data import tfrecord

# Written by hand after the messages' definition: the feature "a", an int64 list of 7.
SHORT_PAYLOAD = bytes.fromhex("0a0c0a0a0a016112051a030a0107")


def write_records(path, payloads):
    """Returns: where the records begin."""
    records = [tfrecord.frame_record(payload) for payload in payloads]
    path.write_bytes(b"".join(records))
    return np.cumsum([0, *map(len, records)]).tolist()


def payload(number):
    return tfrecord.encode_example({"number": np.array([number, -number]), "floats": np.array([0.5, number]),
                                    "bytes": b"\0\xff"})


def test_reads_features_of_all_kinds(tmp_path):
    write_records(tmp_path / "a.tfrecord", [payload(5), SHORT_PAYLOAD])
    first, second = read_examples(tmp_path / "a.tfrecord")
    assert set(first) == {"number", "floats", "bytes"} and first["bytes"] == [b"\0\xff"]
    assert first["number"].tolist() == [5, -5] and first["floats"].tolist() == [0.5, 5]
    assert set(second) == {"a"} and second["a"].tolist() == [7]


def test_an_empty_file_is_an_error(tmp_path):
    write_records(tmp_path / "a.tfrecord", [])
    with pytest.raises(ValueError, match=r"a\.tfrecord is empty\. Fetch"):
        list(read_examples(tmp_path / "a.tfrecord"))


def test_records_with_damaged_content_are_named_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.tfrecord"
    offsets = write_records(path, [payload(1), payload(2), b"\x0a\x7fno message", payload(4)])
    data = bytearray(path.read_bytes())
    data[offsets[1] + 20] ^= 1
    path.write_bytes(data)
    first, second, third, last = read_examples(path)
    assert first["number"][0] == 1 and last["number"][0] == 4
    assert f"a.tfrecord: record 1 at byte {offsets[1]}: its content does not fit its checksum" in str(second)
    assert f"a.tfrecord: record 2 at byte {offsets[2]}: not a tf.train.Example" in str(third)


@pytest.mark.parametrize("num_bytes_lost", [1, 5, 70])
def test_a_file_cut_short_is_named_after_the_records_it_has(tmp_path, num_bytes_lost):
    path = tmp_path / "a.tfrecord"
    offsets = write_records(path, [payload(1), payload(2)])
    path.write_bytes(path.read_bytes()[:-num_bytes_lost])
    examples = read_examples(path)
    assert next(examples)["number"][0] == 1
    with pytest.raises(ValueError, match=rf"a\.tfrecord: record 1 at byte {offsets[1]}: the file ends inside of it"):
        next(examples)


def test_damaged_lengths_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [payload(1)])
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] - 1]) + data[1:])  # still inside of the file
    with pytest.raises(ValueError, match=r"record 0 at byte 0: .*its length is damaged"):
        list(read_examples(path))
    length = struct.pack("<Q", 2**40)
    path.write_bytes(length + struct.pack("<I", tfrecord.masked_crc32c(length)) + data[12:])
    with pytest.raises(ValueError, match="record 0 at byte 0: the file ends inside of it"):
        list(read_examples(path))


def test_records_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.readers.tfrecords.MAX_RECORD_BYTES", 50)
    write_records(tmp_path / "a.tfrecord", [SHORT_PAYLOAD, payload(1)])
    examples = read_examples(tmp_path / "a.tfrecord")
    assert next(examples)["a"].tolist() == [7]
    with pytest.raises(ValueError, match=r"record 1 at byte 30 has .* bytes; expected 50 or fewer"):
        next(examples)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.tfrecord is missing\. Get it there\."):
        list(read_examples(tmp_path / "a.tfrecord", "Get it there."))
