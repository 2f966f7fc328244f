"""Thousands of broken and hostile records on the way of a training read: index, record, image, mask.

`python -m tests.posepile.data.test_hostile_records FOLDER NUM_RECORDS SEED` tries any number of them and prints what
became of them as JSON.
"""

import collections
import json
import pathlib
import re
import resource
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from posepile.data import records, tfrecord
from posepile.data.atomic_files import write_json
from posepile.data.records import Example, PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from tests.posepile.data.prepared import encode_jpeg, write_prepared

NUM_RECORDS = 3000
NUM_JOINTS = 17
RECORDS_PER_SHARD = 100
IMAGE_SHAPE = (48, 64)
MEMORY_MB = 700  # that the process may allocate on top of what it has at the start


def make_features(rng):
    """The fields of a sound record, for `tfrecord.encode_example`."""
    noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
    joints3d = rng.normal((0, 0, 3000), 500, (NUM_JOINTS, 3))
    joints3d[3] = np.nan
    return {"image": encode_jpeg(cv2.resize(noise, IMAGE_SHAPE[::-1])), "bbox": np.float32([5, 6, 30, 40]),
            "intrinsics": np.float32([[100, 0, 32], [0, 100, 24], [0, 0, 1]]), "joints3d": np.float32(joints3d),
            "joints2d": np.float32(rng.uniform(0, 60, (NUM_JOINTS, 2))), "world_to_camera": np.eye(4, dtype=np.float32),
            "mask_rle": records.encode_mask(cv2.resize(noise[..., 0], IMAGE_SHAPE[::-1]) > 128),
            "provenance": b'{"subject": "S1", "frame": 7}'}


# Mutations of bytes, whatever they mean.


def flip_bits(rng, data):
    changed = bytearray(data)
    for place in rng.integers(0, len(changed), rng.integers(1, 9)):
        changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def set_bytes(rng, data):
    changed = bytearray(data)
    start = rng.integers(len(changed))
    for place in range(start, min(start + rng.integers(1, 12), len(changed))):
        changed[place] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.integers(256)])
    return bytes(changed)


def truncate(rng, data):
    return data[:rng.integers(len(data))]


def cut_out(rng, data):
    start, end = np.sort(rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def repeat_piece(rng, data):
    start, end = np.sort(rng.integers(0, len(data), 2))
    return data[:end] + data[start:]


def insert_varint(rng, data):
    """A number of up to ten bytes or, wrongly, more, at the beginning, where the lengths are, or anywhere."""
    place = rng.integers(len(data) if rng.random() < 0.5 else min(40, len(data)))
    varint = b"\xff" * rng.integers(1, 30) + bytes([rng.integers(128)])
    return data[:place] + varint + data[place + rng.integers(0, 3):]


def noise(rng, data):
    return rng.bytes(len(data))


BYTE_MUTATIONS = (flip_bits, flip_bits, set_bytes, truncate, cut_out, repeat_piece, insert_varint, noise)


def mutate_bytes(rng, data):
    """(name of the mutation, changed bytes); never none or the same."""
    while True:
        mutation = BYTE_MUTATIONS[rng.integers(len(BYTE_MUTATIONS))]
        changed = mutation(rng, data)
        if changed and changed != data:
            return mutation.__name__, changed


# Mutations of fields and of what is in them.


def drop_field(rng, features):
    del features[rng.choice(list(features))]


def swap_fields(rng, features):
    one, other = rng.choice(list(features), 2)
    features[one], features[other] = features[other], features[one]


def change_type(rng, features):
    name = rng.choice(list(features))
    features[name] = (b"", b"text", np.zeros(9), np.zeros(4, np.int64), np.zeros(0), np.zeros(0, np.int64))[rng.integers(6)]


def change_length(rng, features):
    name = rng.choice([name for name, value in features.items() if not isinstance(value, bytes)])
    features[name] = np.resize(features[name], rng.integers(0, 200))


def hostile_numbers(rng, features):
    name = rng.choice(["intrinsics", "bbox", "world_to_camera", "joints3d", "joints2d"])
    value = features[name] = features[name].copy()
    for place in rng.integers(0, value.size, rng.integers(1, 4)):
        value.flat[place] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-40, 0, -1])


def huge_field(rng, features):
    """Millions of numbers, each of one byte if they are integers."""
    name = rng.choice(["intrinsics", "joints3d", "mask_rle", "another"])
    count = rng.integers(1_000_000, 2_000_000)
    features[name] = np.zeros(count, np.int64 if rng.random() < 0.5 else np.float32)


def hostile_runs(rng, features):
    runs = features["mask_rle"].copy()
    choice = rng.integers(6)
    if choice == 0:
        runs = np.array([10**15])
    elif choice == 1:
        runs = np.array([2**62, 2**62, 2**62, 2**62, IMAGE_SHAPE[0] * IMAGE_SHAPE[1]])
    elif choice == 2:
        runs = np.array([IMAGE_SHAPE[0] * IMAGE_SHAPE[1] + 1, -1])
    elif choice == 3:
        runs[rng.integers(len(runs))] += rng.choice([-1, 1, 1000, -2**63])
    elif choice == 4:
        runs = np.append(runs, np.zeros(rng.integers(1, 10_000), np.int64))  # harmless
    else:
        runs = rng.permutation(runs)
    features["mask_rle"] = runs.astype(np.int64)


def hostile_provenance(rng, features):
    features["provenance"] = (b"[" * 60_000, b'{"a":' * 10_000, b'{"a": ' + b"9" * 60_000 + b"}", b"\xff\xfe", b"[]", b"1e999",
                              b'{"a": "' + b"x" * 100_000 + b'"}', b"{}" * 1000)[rng.integers(8)]


def hostile_image_size(rng, features):
    image = features["image"]
    place = image.index(b"\xff\xc0") + 5
    size = struct.pack(">HH", *rng.choice([0, 1, 7, 640, 4096, 4097, 60_000, 65_535], 2))
    padding = bytes(int(rng.choice([0, 0, 0, 70_000])))  # so that larger sizes become credible
    features["image"] = image[:place] + size + image[place + 4:-2] + padding + image[-2:]
    del features["mask_rle"]  # which would not fit


def other_image_format(rng, features):
    picture = rng.integers(0, 256, (*IMAGE_SHAPE, 3), np.uint8)
    suffix, options = ((".png", []), (".bmp", []), (".webp", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]))[rng.integers(4)]
    features["image"] = cv2.imencode(suffix, picture, options)[1].tobytes()


def many_scans(rng, features):
    """Scans without data, each of which would cost as much as an image."""
    image = features["image"]
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    place = image.index(b"\xff\xda") if rng.random() < 0.5 else len(image) - 2
    features["image"] = image[:place] + scan * rng.integers(1, 20_000) + image[place:]


def mutate_image(rng, features):
    _, image = mutate_bytes(rng, features["image"])
    if rng.random() < 0.5 and len(image) > 4:  # keep both ends, so that the middle is looked at
        image = features["image"][:2] + image[2:-2] + features["image"][-2:]
    features["image"] = image


def mutate_image_header(rng, features):
    image = features["image"]
    place = image.index(b"\xff\xda") + 14
    features["image"] = image[:2] + mutate_bytes(rng, image[2:place])[1] + image[place:]


FIELD_MUTATIONS = (drop_field, swap_fields, change_type, change_length, hostile_numbers, hostile_numbers, hostile_runs,
                   hostile_provenance, hostile_image_size, other_image_format, many_scans, mutate_image, mutate_image,
                   mutate_image_header)
HUGE_FIELD_SHARE = 0.01  # they take the time of a hundred others


def hostile_record(rng, features):
    """(name of the mutation, bytes of the record, framed)."""
    stage = rng.random()
    if stage < 0.2:
        name, data = mutate_bytes(rng, tfrecord.frame_record(tfrecord.encode_example(features)))
        return f"frame: {name}", data
    if stage < 0.25:  # the header's own checksum is right, its length is not
        length = struct.pack("<Q", (0, 1, 2**20, 2**30, 2**40, 2**63)[rng.integers(6)])
        header = length + struct.pack("<I", tfrecord.masked_crc32c(length))
        return "frame: length", header + tfrecord.frame_record(tfrecord.encode_example(features))[tfrecord.HEADER_BYTES:]
    if stage < 0.5:
        name, payload = mutate_bytes(rng, tfrecord.encode_example(features))
        return f"payload: {name}", tfrecord.frame_record(payload)
    mutation = FIELD_MUTATIONS[rng.integers(len(FIELD_MUTATIONS))]
    if rng.random() < HUGE_FIELD_SHARE:
        mutation = huge_field
    mutation(rng, features)
    return f"field: {mutation.__name__}", tfrecord.frame_record(tfrecord.encode_example(features))


def read_everything(dataset, position, reduction):
    """What training reads of an example. Returns: the example, its image and its mask."""
    where = dataset.where("train", position)
    example = dataset.read("train", position)
    image, mask = example.decode_image(reduction), None
    if example.mask_rle is not None:
        height, width = records.jpeg_size(example.image)
        try:
            mask = records.decode_mask(example.mask_rle, height, width, value=255)
        except ValueError as error:  # is not told where the mask comes from
            raise CorruptRecordError(f"{where}: {error}") from error
        assert mask.shape == (height, width) and mask.dtype == np.uint8
    return example, image


def check_accepted(example, image, reduction):
    """What later stages rely on."""
    height, width = records.jpeg_size(example.image)
    assert image.dtype == np.uint8 and image.shape == (-(-height // reduction), -(-width // reduction), 3)
    assert max(height, width) <= records.MAX_IMAGE_SIDE
    assert np.isfinite(np.linalg.inv(example.intrinsics)).all() and example.intrinsics.shape == (3, 3)
    assert np.abs(example.bbox).max() <= records.MAX_PX and (example.bbox[2:] > 0).all() and example.bbox.shape == (4,)
    assert np.isfinite(example.world_to_camera).all() and example.world_to_camera.shape == (4, 4)
    for joints, num_coordinates in ((example.joints3d, 3), (example.joints2d, 2)):
        if joints is not None:
            assert joints.shape == (NUM_JOINTS, num_coordinates) and joints.dtype == np.float32
            assert not (np.abs(joints) > records.MAX_MM).any()
    assert isinstance(example.provenance, dict)


def read_hostile_records(folder, num_records, seed):
    """Makes and reads so many. Returns: counts and extremes, for JSON."""
    limit = (int(read_status("VmSize")) + MEMORY_MB * 1024) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    features = make_features(rng)
    dataset = write_prepared(folder, "hostile", "h36m_17", [Example(**{**features, "provenance": {}})], "3d")
    shard = records.shard_path(dataset.folder, "train", 0, 1)
    counts, reasons = collections.defaultdict(lambda: [0, 0]), collections.Counter()
    slowest, memory_before, peak_mb = (0, ""), int(read_status("VmRSS")), 0
    for start in range(0, num_records, RECORDS_PER_SHARD):
        hostile = [hostile_record(rng, dict(features)) for _ in range(min(RECORDS_PER_SHARD, num_records - start))]
        sizes = np.array([len(data) for _, data in hostile])
        offsets = np.cumsum(sizes) - sizes
        shard.write_bytes(b"".join(data for _, data in hostile))
        np.save(records.index_path(dataset.folder, "train"), np.stack([np.zeros_like(sizes), offsets, sizes], axis=1))
        manifest = dataset.manifest
        manifest["splits"]["train"]["num_examples"] = len(hostile)
        write_json(dataset.folder / records.MANIFEST_NAME, manifest)
        dataset = PreparedDataset(dataset.folder)
        for position, (mutation, _) in enumerate(hostile):
            reset_peak_memory()
            before = int(read_status("VmRSS"))
            reduction = int(2**rng.integers(4))
            began = time.perf_counter()
            try:
                example, image = read_everything(dataset, position, reduction)
                milliseconds = 1000 * (time.perf_counter() - began)
                check_accepted(example, image, reduction)
                counts[mutation][0] += 1
            except CorruptRecordError as error:
                milliseconds = 1000 * (time.perf_counter() - began)
                place = f"{shard} at byte {offsets[position]}: " if sizes[position] >= 16 else str(dataset.folder)
                assert str(error).startswith(place), (mutation, str(error))
                counts[mutation][1] += 1
                reasons[reason_kind(str(error))] += 1
            slowest = max(slowest, (round(milliseconds, 1), mutation))
            peak_mb = max(peak_mb, (int(read_status("VmHWM")) - before) / 1024)
    return {"accepted": sum(accepted for accepted, _ in counts.values()), "rejected": sum(reasons.values()),
            "reasons": dict(reasons.most_common()), "mutations": counts, "slowest_ms": slowest,
            "peak_mb_of_one_record": round(peak_mb), "growth_mb": round((int(read_status("VmRSS")) - memory_before) / 1024)}


def reason_kind(message):
    """The reason without names of files and numbers."""
    reason = re.sub(r"^.*? at byte \d+: |^\S*?index\.npy: ", "", message)
    return re.sub(r"(unexpected bytes|\[|\(|;).*|\. .*", "", re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", reason)).strip()


def read_status(name):
    """A figure of this process, KiB."""
    return re.search(rf"{name}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]


def reset_peak_memory():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux shows it")
def test_hostile_records_are_refused_or_sound(tmp_path):
    """In a process of its own, whose memory and time are limited, and whose crash would be seen."""
    result = subprocess.run([sys.executable, "-m", __name__, str(tmp_path), str(NUM_RECORDS), "1"], capture_output=True,
                            text=True, check=False, timeout=300)
    assert result.returncode == 0, f"exit code {result.returncode}: {result.stderr[-3000:]}"
    report = json.loads(result.stdout)
    assert report["accepted"] + report["rejected"] == NUM_RECORDS
    assert report["accepted"] > 0.05 * NUM_RECORDS
    assert report["growth_mb"] < 100
    for mutation, (accepted, rejected) in report["mutations"].items():
        assert rejected > 0, mutation
        if mutation.startswith("frame: "):
            assert accepted == 0, mutation
    # Every stage is reached.
    for reason in ("the record's checksum", "not a tf.train.Example", "field intrinsics is", "mask runs sum to",
                   "the image cannot be decoded: it claims", "the image cannot be decoded: it is broken"):
        assert any(kind.startswith(reason) for kind in report["reasons"]), reason


if __name__ == "__main__":
    print(json.dumps(read_hostile_records(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), indent=2))
