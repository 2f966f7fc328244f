import dataclasses
import errno
import hashlib
import json
import os
import pickle
import struct

import cv2
import numpy as np
import pytest

from posepile.data import records, tfrecord
from posepile.data.atomic_files import atomic_file, write_json
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
        if not field.compare:
            continue
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


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_decoding_averages(reduction):
    shade = np.add.outer(np.arange(48), 2 * np.arange(64)).astype(np.uint8)  # linear: averages are exact
    image = np.stack([shade, shade + 20, 90 - shade // 2], axis=-1)
    reduced = full_example(image=encode_jpeg(image)).decode_image(reduction=reduction)
    blocks = image.reshape(48 // reduction, reduction, 64 // reduction, reduction, 3).mean(axis=(1, 3))
    assert reduced.dtype == np.uint8
    assert np.abs(reduced - blocks).mean() < 1  # neighbours differ by `reduction` and more


def frame_header(data):
    """Where the frame header of a JPEG begins; height and width follow 5 bytes later."""
    return data.index(b"\xff\xc0")


@pytest.mark.parametrize("shape", [(20, 30), (1, 300), (200, 1)])
def test_jpeg_size(shape):
    assert records.jpeg_size(encode_jpeg(np.zeros((*shape, 3), np.uint8))) == shape
    assert records.jpeg_size(cv2.imencode(".jpg", np.zeros(shape, np.uint8))[1].tobytes()) == shape


def claim(data, height, width):
    offset = frame_header(data) + 5
    return data[:offset] + struct.pack(">HH", height, width) + data[offset + 4:]


def encode_progressive(image):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def claim_fewer_components_per_scan(data):
    offset = data.index(b"\xff\xda") + 4
    return data[:offset] + b"\x01" + data[offset + 1:]


@pytest.mark.parametrize("change, message", [
    (lambda data: b"not a picture", "it is not a JPEG"),
    (lambda data: b"", "it is not a JPEG"),
    (lambda data: cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes(), "it is not a JPEG"),
    (lambda data: claim(data, 60_000, 60_000), "it claims 60000 x 60000 px; expected 1 to 4096 a side"),
    (lambda data: claim(data, 0, 30), "it claims 30 x 0 px"),
    (lambda data: claim(data, 4096, 4096), "it claims 4096 x 4096 px, which .* bytes cannot hold"),
    (lambda data: encode_progressive(np.zeros((20, 30, 3), np.uint8)), "unexpected bytes ffc2 .* expected a baseline JPEG"),
    (claim_fewer_components_per_scan, "it has several scans"),
    (lambda data: data[:2] + 64 * b"\xff\xfe\x00\x02" + data[2:], "its header has more than 64 segments"),
    (lambda data: data[:frame_header(data) + 6], "it ends inside its header"),
    (lambda data: data[:frame_header(data)], "it ends inside its header"),
    (lambda data: data[:-2], "it is cut short"),
    (lambda data: data[:2] + data[frame_header(data):], "it is broken")])  # has no quantisation tables
def test_images_that_cannot_be_decoded(change, message):
    data = full_example().image
    with pytest.raises(CorruptRecordError, match=f"^f at byte 3: the image cannot be decoded: {message}"):
        full_example(image=change(data), where="f at byte 3").decode_image()


def test_mask_run_lengths_by_hand():
    mask = np.array([[0, 0, 1], [1, 0, 1]], bool)
    np.testing.assert_array_equal(records.encode_mask(mask), [2, 2, 1, 1])
    np.testing.assert_array_equal(records.encode_mask(~mask), [0, 2, 2, 1, 1])  # the empty first run is background


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.ones((4, 5), bool),
                                  np.random.default_rng(0).random((40, 31)) < 0.3])
def test_mask_round_trip(mask):
    decoded = records.decode_mask(records.encode_mask(mask), *mask.shape)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    shades = records.decode_mask(records.encode_mask(mask), *mask.shape, value=255)
    assert shades.dtype == np.uint8
    np.testing.assert_array_equal(shades, 255 * mask)


@pytest.mark.parametrize("runs, total", [
    ([0, 20], "20"), ([], "0"), ([10**15], "1000000000000000"), ([25, -1], "24"),
    ([2**62, 2**62, 2**62, 2**62, 24], "18446744073709551616"),  # 24 as int64
    ([2**63 - 1, 2**63 - 1, 26], "18446744073709551616")])
def test_mask_of_another_size_is_refused(runs, total):
    with pytest.raises(ValueError, match=f"mask runs sum to {total}, not to 4 x 6 px"):
        records.decode_mask(np.array(runs, np.int64), 4, 6)


@pytest.mark.parametrize("change, message", [
    (lambda f: f.pop("bbox"), "the record lacks bbox"),
    (lambda f: f.update(joints3d=np.zeros(50)), r"field joints3d has 50 float32 numbers, expected float32 of shape \[17, 3\]"),
    (lambda f: f.update(intrinsics=np.zeros(8)), r"field intrinsics has 8 float32 numbers, expected .* shape \[3, 3\]"),
    (lambda f: (f.pop("joints3d"), f.pop("joints2d")), "neither joints3d nor joints2d"),
    (lambda f: f.update(image=np.zeros(3)), "field image has 3 float32 numbers, expected one byte string"),
    (lambda f: f.update(bbox=b"1234"), "field bbox has 1 byte strings"),
    (lambda f: f.update(bbox=np.arange(4)), r"field bbox has 4 int64 numbers, expected float32 of shape \[4\]"),
    (lambda f: f.update(mask_rle=b"1"), "field mask_rle"),
    (lambda f: f.update(mask_rle=np.float32([600])), "field mask_rle has 1 float32 numbers, expected int64"),
    (lambda f: f.update(provenance=b"{broken"), "field provenance is not a JSON object"),
    (lambda f: f.update(provenance=b"[" * 60_000), "field provenance is not a JSON object"),
    (lambda f: f.update(provenance=b"[1]"), r"field provenance is not a JSON object \(got list\)"),
    (lambda f: f.update(provenance=b'"' + b"a" * 70_000 + b'"'), "field provenance has 70002 bytes, expected at most 65536"),
    (lambda f: f.update(joints3d=np.full((17, 3), 1e8)),
     "field joints3d goes up to 100000000.0; expected at most 10000000"),
    (lambda f: f.update(joints2d=np.where(np.eye(17, 2) > 0, -np.inf, np.nan)), "field joints2d goes up to inf"),
    (lambda f: f.update(bbox=np.float32([1, 2, 0, 4])), "field bbox is .*; expected a box of positive size"),
    (lambda f: f.update(bbox=np.float32([1, np.nan, 3, 4])), "field bbox is .*; expected"),
    (lambda f: f.update(bbox=np.float32([1, 2, 3e38, 4])), "field bbox is .*; expected"),
    (lambda f: f.update(intrinsics=np.diag([500, -500, 1.0])), "field intrinsics is .*; expected positive focal lengths"),
    (lambda f: f.update(intrinsics=np.diag([500, 500, 2.0])), "field intrinsics is"),
    (lambda f: f.update(intrinsics=np.float32([[500, 0, np.inf], [0, 500, 9], [0, 0, 1]])), "field intrinsics is"),
    (lambda f: f.update(intrinsics=np.float32([[1, 1, 0], [1, 1, 0], [0, 0, 1]])), "field intrinsics is"),  # singular
    (lambda f: f.update(world_to_camera=np.full((4, 4), np.nan)), "field world_to_camera is not finite")])
def test_wrong_fields_are_named(change, message):
    example = full_example()
    features = {"image": example.image, "intrinsics": example.intrinsics, "world_to_camera": example.world_to_camera,
                "bbox": example.bbox, "joints3d": example.joints3d, "joints2d": example.joints2d,
                "mask_rle": example.mask_rle, "provenance": b"{}"}
    records.parse_example(tfrecord.encode_example(features), NUM_JOINTS, "f at byte 3")
    change(features)
    with pytest.raises(CorruptRecordError, match=f"^f at byte 3: .*{message}"):
        records.parse_example(tfrecord.encode_example(features), NUM_JOINTS, "f at byte 3")


def test_too_long_provenance_is_not_written():
    with pytest.raises(ValueError, match="the provenance takes 70014 bytes as JSON; expected 65536 or fewer"):
        records.serialize_example(full_example(provenance={"source": "a" * 70_000}))


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
        assert_equal_examples(dataset.read("train", np.int64(position)), expected[position])
    for position in (-1, 7):
        with pytest.raises(IndexError, match=f"data set street has no train example {position}; it has 7"):
            dataset.read("train", position)
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
    with pytest.raises(CorruptRecordError, match=rf"at byte {offset}: the file ends after 40 of the record's {num_bytes} "
                                                 "bytes. Delete the shard and run `python -m datasets prepare`"):
        PreparedDataset(dataset.folder).read("train", 4)


def test_entries_are_the_rows_of_the_index(dataset):
    rows = np.load(dataset.folder / "train.index.npy")
    np.testing.assert_array_equal(dataset.index("train"), rows)
    np.testing.assert_array_equal(dataset.entries("train", np.array([5, 0, 5])), rows[[5, 0, 5]])
    assert dataset.entries("train", []).shape == (0, 3)
    assert dataset.where("train", 5) == f"{dataset.folder}/train-00002-of-00003.tfrecord at byte {rows[5, 1]}"


@pytest.mark.parametrize("change", [
    lambda rows: rows[:-1], lambda rows: rows.astype(np.int32), lambda rows: rows.astype(">i8"), np.asfortranarray, np.ravel,
    lambda rows: rows.astype(float)])
def test_index_of_another_shape_is_refused(dataset, change):
    np.save(dataset.folder / "train.index.npy", change(np.load(dataset.folder / "train.index.npy")))
    for call in (dataset.check_files, lambda: dataset.read("train", 0), lambda: dataset.index("train")):
        with pytest.raises(CorruptRecordError, match=r"/train\.index\.npy: it has .* the manifest says 7 examples, so expected "
                                                     r"an int64 array of shape \[7, 3\] .* Delete it and run `python -m "
                                                     rf"datasets prepare street --data-root={dataset.folder.parent}`"):
            call()


@pytest.mark.parametrize("change", [
    lambda content: b"", lambda content: content[:50], lambda content: content[:-1], lambda content: content + b"\0",
    lambda content: content[:10] + 500 * b"(" + b"\n", lambda content: content[:6] + b"\x03" + content[7:],
    lambda content: content.replace(b"'<i8'", b"'|O8'"), lambda content: content.replace(b"(7, ", b"(" + 400 * b"7" + b", ")])
def test_broken_index_is_refused(dataset, change):
    path = dataset.folder / "train.index.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptRecordError, match=r"train\.index\.npy: it has .* Delete it and run"):
        dataset.check_files()


@pytest.mark.parametrize("row", [(3, 0, 100), (-1, 0, 100), (0, -1, 100), (0, 0, 15), (0, 0, -1), (0, 0, 1 << 50),
                                 (1 << 60, 0, 100), (0, (1 << 63) - 1, 100)])
def test_impossible_rows_of_the_index_are_refused(dataset, row):
    rows = np.load(dataset.folder / "train.index.npy")
    rows[2] = row
    np.save(dataset.folder / "train.index.npy", rows)
    for call in (dataset.read, dataset.where):
        with pytest.raises(CorruptRecordError, match=rf"train\.index\.npy: row 2 says shard {row[0]}, byte {row[1]}, {row[2]} "
                                                     "bytes; expected one of 3 shards and 16 to"):
            call("train", 2)
    dataset.read("train", 1)


def test_missing_files_are_named_at_once(dataset):
    dataset.check_files()
    for name in ("train-00001-of-00003.tfrecord", "train.index.npy"):
        (dataset.folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"data set street: 2 of 4 files are missing in .*: train\.index\.npy, "
                                                r"train-00001-of-00003\.tfrecord\. `python -m datasets prepare street"):
        dataset.check_files(["train"])
    with pytest.raises(ValueError, match="has no test split"):
        dataset.check_files(["test"])


def test_files_that_vanish_later_are_named(dataset):
    dataset.read("train", 0)
    (dataset.folder / "train-00001-of-00003.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001-of-00003\.tfrecord is missing\. `python -m datasets prepare"):
        dataset.read("train", 4)
    (dataset.folder / "train-00002-of-00003.tfrecord").unlink()
    (dataset.folder / "train-00002-of-00003.tfrecord").mkdir()
    with pytest.raises(OSError, match=r"train-00002-of-00003\.tfrecord"):
        dataset.read("train", 6)
    (dataset.folder / "train.index.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.index\.npy is missing\. `python -m datasets prepare"):
        PreparedDataset(dataset.folder).read("train", 0)


def test_missing_dataset_and_split_say_what_to_do(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m datasets prepare nowhere --data-root"):
        PreparedDataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"street in .* has no test split; it has: train"):
        dataset.num_examples("test")


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"name": "a"}', "{}", '"text"', 100_000 * "["])
def test_broken_manifest_is_named(dataset, content):
    (dataset.folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        PreparedDataset(dataset.folder)


@pytest.mark.parametrize("table", [{"num_examples": "many", "shards": []}, {"num_examples": 1, "shards": None}, [], None])
def test_broken_table_of_splits_is_named(dataset, table):
    write_json(dataset.folder / "manifest.json", {**dataset.manifest, "splits": {"train": table}})
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        PreparedDataset(dataset.folder)


def test_atomic_file_leaves_nothing_behind_when_it_fails(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="stop"), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    with pytest.raises(OSError, match=r"No space left on device: '.*file\.json'"), atomic_file(path) as file:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
