import dataclasses
import hashlib
import json
import pickle

import cv2
import numpy as np
import pytest

from posepile.data import records, tfrecord
from posepile.data.records import Example, PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from tests.posepile.data.prepared import dotted_example, encode_jpeg, write_prepared

NUM_JOINTS = 17


def full_example(**changes):
    rng = np.random.default_rng(0)
    joints3d = rng.normal(0, 1000, (NUM_JOINTS, 3)).astype(np.float32)
    joints3d[3] = np.nan
    example = Example(image=encode_jpeg(np.full((20, 30, 3), (10, 100, 200), np.uint8)),
                      intrinsics=np.float32([[500, 0, 14.5], [0, 510, 9.5], [0, 0, 1]]),
                      world_to_camera=np.eye(4, dtype=np.float32), bbox=np.float32([1, 2, 3, 4]), joints3d=joints3d,
                      joints2d=np.float32(rng.uniform(0, 20, (NUM_JOINTS, 2))),
                      mask_rle=records.encode_mask(rng.random((20, 30)) < 0.5),
                      provenance={"subject": "S1", "frame": 7, "source": "ä.jpg"})
    return dataclasses.replace(example, **changes)


def assert_equal_examples(actual, expected):
    for field in dataclasses.fields(Example):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name


@pytest.mark.parametrize("changes", [{}, {"joints3d": None}, {"joints2d": None, "mask_rle": None}, {"provenance": {}}])
def test_example_round_trip(changes):
    example = full_example(**changes)
    payload = records.serialize_example(example)
    assert payload == records.serialize_example(example)
    assert_equal_examples(records.parse_example(payload, NUM_JOINTS, "f"), example)


def test_decoded_image_is_rgb():
    image = full_example().decode_image()
    assert image.shape == (20, 30, 3)
    np.testing.assert_allclose(image[10, 10], [10, 100, 200], atol=3)
    with pytest.raises(CorruptRecordError, match="here: the image cannot be decoded"):
        full_example(image=b"not a picture").decode_image("here")


def test_mask_run_lengths_by_hand():
    mask = np.array([[0, 0, 1], [1, 0, 1]], bool)
    np.testing.assert_array_equal(records.encode_mask(mask), [2, 2, 1, 1])
    np.testing.assert_array_equal(records.encode_mask(~mask), [0, 2, 2, 1, 1])  # the empty first run is background


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.ones((4, 5), bool),
                                  np.random.default_rng(0).random((40, 31)) < 0.3])
def test_mask_round_trip(mask):
    np.testing.assert_array_equal(records.decode_mask(records.encode_mask(mask), *mask.shape), mask)


def test_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask runs sum to 20, not to 4 x 6 px"):
        records.decode_mask(records.encode_mask(np.ones((4, 5), bool)), 4, 6)


@pytest.mark.parametrize("change, message", [
    (lambda f: f.pop("bbox"), "the record lacks bbox"),
    (lambda f: f.update(joints3d=np.zeros(50)), r"field joints3d has 50 numbers, expected shape \[17, 3\]"),
    (lambda f: f.update(intrinsics=np.zeros(8)), r"field intrinsics has 8 numbers, expected shape \[3, 3\]"),
    (lambda f: (f.pop("joints3d"), f.pop("joints2d")), "neither joints3d nor joints2d"),
    (lambda f: f.update(image=np.zeros(3)), "field image"),
    (lambda f: f.update(bbox=b"1234"), "field bbox"),
    (lambda f: f.update(provenance=b"{broken"), "field provenance"),
    (lambda f: f.update(mask_rle=b"1"), "field mask_rle")])
def test_wrong_fields_are_named(change, message):
    example = full_example()
    features = {"image": example.image, "intrinsics": example.intrinsics, "world_to_camera": example.world_to_camera,
                "bbox": example.bbox, "joints3d": example.joints3d, "joints2d": example.joints2d,
                "mask_rle": example.mask_rle, "provenance": b"{}"}
    change(features)
    with pytest.raises(CorruptRecordError, match=f"f at byte 3: .*{message}"):
        records.parse_example(tfrecord.encode_example(features), NUM_JOINTS, "f at byte 3")


def test_mutated_payloads_raise_nothing_but_corrupt_record_error():
    """Payloads whose checksum is right but whose content is not, as from a faulty or hostile writer."""
    rng = np.random.default_rng(1)
    payload = records.serialize_example(full_example())
    num_refused = 0
    for _ in range(1500):
        broken = bytearray(payload)
        for place in rng.integers(0, len(broken), rng.integers(1, 6)):
            broken[place] = rng.integers(256)
        if rng.random() < 0.3:
            del broken[rng.integers(len(broken)):]
        try:
            records.parse_example(bytes(broken), NUM_JOINTS, "f")
        except CorruptRecordError:
            num_refused += 1
    assert num_refused > 300


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(2)
    return write_prepared(tmp_path, "street", "h36m_17", [dotted_example(rng, "h36m_17", "3d") for _ in range(7)], "3d",
                          num_shards=3)


def test_prepared_dataset_reads_every_position(dataset):
    rng = np.random.default_rng(2)
    expected = [dotted_example(rng, "h36m_17", "3d") for _ in range(7)]
    assert dataset.splits() == ["train"] and dataset.num_examples("train") == 7
    for position in (6, 0, 3, 1, 2, 5, 4):
        assert_equal_examples(dataset.read("train", position), expected[position])
    assert_equal_examples(pickle.loads(pickle.dumps(dataset)).read("train", 5), expected[5])


def test_scan_shard_finds_offsets_and_digest(dataset):
    path = dataset.folder / "train-00001-of-00003.tfrecord"
    entries, digest = records.scan_shard(path)
    content = path.read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    assert entries[0, 0] == 0 and entries[:, 1].sum() == len(content)
    np.testing.assert_array_equal(entries[1:, 0], entries[:-1].sum(axis=1))


def test_scan_of_a_truncated_shard_names_file_and_offset(dataset):
    path = dataset.folder / "train-00000-of-00003.tfrecord"
    entries, _ = records.scan_shard(path)
    path.write_bytes(path.read_bytes()[:-3])
    last = entries[-1, 0]
    with pytest.raises(CorruptRecordError, match=rf"train-00000-of-00003\.tfrecord at byte {last}: the file ends"):
        records.scan_shard(path)


def test_corrupt_bytes_are_named_by_file_and_offset(dataset):
    shard, offset, num_bytes = dataset.index("train")[4].tolist()
    assert shard == 1 and offset > 0
    path = dataset.folder / "train-00001-of-00003.tfrecord"
    content = path.read_bytes()
    for place in (offset, offset + 9, offset + 100, offset + num_bytes - 1):
        broken = bytearray(content)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(CorruptRecordError, match=rf"train-00001-of-00003\.tfrecord at byte {offset}: .*prepare"):
            PreparedDataset(dataset.folder).read("train", 4)
        PreparedDataset(dataset.folder).read("train", 3)
    path.write_bytes(content[:offset + 40])
    with pytest.raises(CorruptRecordError, match=rf"at byte {offset}: the record's length"):
        PreparedDataset(dataset.folder).read("train", 4)


def test_missing_dataset_and_split_say_what_to_do(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m datasets prepare nowhere --data-root"):
        PreparedDataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"street in .* has no test split; it has: train"):
        dataset.num_examples("test")
    (dataset.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        PreparedDataset(dataset.folder)


def test_atomic_file_leaves_nothing_behind_when_it_fails(tmp_path):
    path = tmp_path / "file.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="stop"), records.atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensorflow_reads_prepared_shards(dataset):
    tf = pytest.importorskip("tensorflow")
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "joints3d": tf.io.FixedLenFeature([17, 3], tf.float32),
            "intrinsics": tf.io.FixedLenFeature([3, 3], tf.float32), "bbox": tf.io.FixedLenFeature([4], tf.float32)}
    paths = sorted(str(path) for path in dataset.folder.glob("train-*.tfrecord"))
    count = 0
    for payload in tf.data.TFRecordDataset(paths):
        parsed, ours = tf.io.parse_single_example(payload, spec), dataset.read("train", count)
        for name in ("joints3d", "intrinsics", "bbox"):
            np.testing.assert_array_equal(parsed[name], getattr(ours, name))
        decoded = cv2.imdecode(np.frombuffer(parsed["image"].numpy(), np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(decoded, ours.decode_image())
        count += 1
    assert count == 7
