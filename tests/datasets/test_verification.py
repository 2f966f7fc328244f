"""Every fault that `verify` looks for is planted in a small data set, and has to be named; what is right has to pass.

Not among them: images mirrored together with their labels, which look like any others.
"""

import dataclasses
import functools
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from datasets.prepare import prepare
from datasets.raw_example import Adapter
from datasets.verification import ERROR, MAX_LISTED, SUSPICIOUS, WARNING, verify
from posepile.data import records, tfrecord
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.posepile.data.prepared import dotted_example

SMPL = load_skeleton("smpl_24")
COCO = load_skeleton("coco_17")
SHARD = "train-00001-of-00003.tfrecord"
check = functools.partial(verify, workers=1, progress=False)


def read_examples(folder):
    dataset = PreparedDataset(folder)
    return [dataset.read("train", i) for i in range(dataset.num_examples("train"))]


@pytest.fixture(name="studio", scope="module")
def read_studio(tiny_data_root):
    """48 rendered examples, labelled in 3D."""
    return read_examples(tiny_data_root / "synthetic_studio")


@pytest.fixture(name="photos", scope="module")
def read_photos(tiny_data_root):
    """48 rendered examples, labelled in 2D."""
    return read_examples(tiny_data_root / "synthetic_photos")


def prepare_examples(data_root, examples, kind="3d", **options):
    """Prepares finished examples in 3 shards, as the adapter of a rendered data set would. Returns: its folder."""
    units = np.array_split(np.arange(len(examples)), 3)
    adapter = Adapter("planted", kind, lambda _: (SMPL if kind == "3d" else COCO).to_dict(),
                      lambda _, split: [unit.tolist() for unit in units] if split == "train" else [],
                      lambda _, unit: (examples[i] for i in unit))
    prepare(adapter, None, data_root, workers=1, progress=False, licence="none", **options)
    return data_root / "planted"


@pytest.fixture(name="folder")
def prepare_studio(studio, tmp_path):
    return prepare_examples(tmp_path, studio[:9])


def change(example, **fields):
    """A copy with other fields; the arrays of a new example are float32, except for the mask."""
    arrays = {name: np.float32(value) for name, value in fields.items() if name not in ("image", "provenance", "mask_rle")}
    return dataclasses.replace(example, **fields | arrays)


def kinds(report, severity):
    return {finding.kind for finding in report.findings if finding.severity == severity}


# -------------------------------------------------------------------------------------------------------- what is right


def test_the_embedded_data_are_right(tiny_data_root):
    reports = [check(folder) for folder in sorted(tiny_data_root.iterdir())]
    assert len(reports) == 6
    for report in reports:
        assert report.is_right and not report.findings and report.to_text().endswith("verdict: all right"), report.to_text()
        for counts in report.counts.values():
            assert counts["records"] == counts["checked"] in (24, 48) and not counts["bad"] and not counts["suspicious"]


def test_report_of_a_right_data_set(folder):
    lines = check(folder).to_text().splitlines()
    assert lines[0] == f"planted in {folder}"
    for line in ("  manifest        labelled in 3D, skeleton smpl_24; 9 train",
                 "  files           3 shards, 1 index file: all there, no others",
                 "  checksums       3 shards, 9 records: all match",
                 "  index           agrees with the shards",
                 "  records         9 looked into: all whole, every image decodes; 9 with person mask",
                 "  examples        train: 9, none suspicious",
                 "  verdict: all right"):
        assert line in lines


def test_worker_processes_find_the_same(folder):
    flip(folder / SHARD, -30)
    alone, together = check(folder), verify(folder, workers=2, progress=False)
    assert alone == together and not alone.is_right


# --------------------------------------------------------------------------------------------------------- broken files


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def edit_manifest(folder, edit):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def edit_index(folder, edit):
    path = folder / "train.index.npy"
    index = np.load(path)
    np.save(path, index if (edited := edit(index)) is None else edited, allow_pickle=True)


def swap_shards(folder):
    first, second = (folder / f"train-0000{i}-of-00003.tfrecord" for i in (0, 1))
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


FILE_FAULTS = {
    "payload bit": (lambda f: flip(f / SHARD, 500), "checksums", SHARD, "its SHA-256 begins with"),
    "header bit": (lambda f: flip(f / SHARD, 2), "checksums", SHARD, "at byte 0: the record's length or its checksum is wrong"),
    "truncated": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-9]), "checksums", SHARD, "ends inside a record"),
    "appended": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes() + b"rubbish"), "checksums", SHARD, "at byte"),
    "emptied": (lambda f: (f / SHARD).write_bytes(b""), "checksums", SHARD, "has 0 records; the manifest counts 3"),
    "a record more": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes() + tfrecord.frame_record(b"")), "checksums",
                      SHARD, "has 4 records; the manifest counts 3"),
    "missing shard": (lambda f: (f / SHARD).unlink(), "files", SHARD, "is missing"),
    "swapped shards": (swap_shards, "checksums", SHARD, "its SHA-256"),
    "superfluous shard": (lambda f: shutil.copy(f / SHARD, f / "train-00003-of-00004.tfrecord"), "files",
                          "train-00003-of-00004.tfrecord", "does not belong"),
    "superfluous index": (lambda f: shutil.copy(f / "train.index.npy", f / "test.index.npy"), "files", "test.index.npy",
                          "does not belong"),
    "missing index": (lambda f: (f / "train.index.npy").unlink(), "files", "train.index.npy", "is missing"),
    "index row": (lambda f: edit_index(f, lambda x: x.__setitem__((4, 1), 7)), "index", "train.index.npy",
                  r"disagrees with train-00001.* from its record 1 on: \[7, "),
    "index too short": (lambda f: edit_index(f, lambda x: x[:-1]), "index", "train.index.npy", "manifest says 9"),
    "index of other shards": (lambda f: edit_index(f, lambda x: x + np.array([3, 0, 0])), "index", "train.index.npy",
                              "has 9 rows for shards that do not exist"),
    "index of floats": (lambda f: edit_index(f, np.float64), "index", "train.index.npy", "manifest says 9"),
    "index of objects": (lambda f: edit_index(f, lambda x: x.astype(object)), "index", "train.index.npy", "manifest says 9"),
    "index is text": (lambda f: (f / "train.index.npy").write_text("0 0 1"), "index", "train.index.npy", "manifest says 9"),
    "manifest checksum": (lambda f: edit_manifest(f, lambda m: m["splits"]["train"]["shards"][1].update(sha256="ab")),
                          "checksums", SHARD, "the manifest's with ab"),
    "manifest count": (lambda f: edit_manifest(f, lambda m: m["splits"]["train"].update(num_examples=8)), "manifest",
                       "manifest.json", r"8 examples, and its shards have \[3, 3, 3\]"),
    "manifest shards": (lambda f: edit_manifest(f, lambda m: m["splits"]["train"]["shards"].pop()), "manifest",
                        "manifest.json", "expected train-00000-of-00002.tfrecord"),
    "manifest kind": (lambda f: edit_manifest(f, lambda m: m.update(kind="4d")), "manifest", "manifest.json", "'4d'"),
    "manifest splits": (lambda f: edit_manifest(f, lambda m: m.update(splits={})), "manifest", "manifest.json", "expected one"),
    "manifest list": (lambda f: (f / "manifest.json").write_text("[]"), "manifest", "manifest.json", "not a manifest"),
    "manifest cut": (lambda f: (f / "manifest.json").write_text("{"), "manifest", "manifest.json", "not a manifest"),
    "infinite bone": (lambda f: edit_manifest(f, lambda m: m["bone_lengths_mm"]["pelvis-left_hip"].update(mean=np.inf)),
                      "bone lengths", "manifest.json", "says pelvis-left_hip is inf mm long"),
    "manifest bones": (lambda f: edit_manifest(f, lambda m: m["bone_lengths_mm"]["pelvis-left_hip"].update(mean=1.5)),
                       "bone lengths", "manifest.json", "says pelvis-left_hip is 1.500 mm long"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_broken_files_are_named_and_the_remedy_repairs_them(fault, studio, folder):
    pristine = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    damage, kind, file, message = FILE_FAULTS[fault]
    damage(folder)
    report = check(folder, skip_bad=True)
    errors = [finding for finding in report.findings if finding.severity == ERROR]
    found = [finding for finding in errors if finding.kind == kind and finding.where == str(folder / file)]
    assert not report.is_right
    assert any(re.search(message, finding.message) for finding in found), report.to_text()
    remedy, = report.remedies
    to_delete = [name for name in {finding.where for finding in errors} if (folder / name).exists()]
    assert all((folder / path).name in remedy for path in to_delete)
    for path in to_delete:
        (folder / path).unlink()
    prepare_examples(folder.parent, studio[:9])
    assert check(folder).is_right
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == pristine


def test_not_prepared(tmp_path):
    report = check(tmp_path / "coco")
    assert not report.is_right and "python -m datasets prepare coco" in report.to_text() and not report.remedies


def test_leftovers_and_another_name_are_warnings(folder):
    (folder / f".{SHARD}.x.part").write_bytes(b"half")
    (folder / ".prepare" / ".x.part").write_bytes(b"half")
    report = check(folder)
    assert report.is_right and "verdict: all right, 2 warnings" in report.to_text()
    report = check(folder.rename(folder.with_name("renamed")))
    assert report.is_right and "calls the data set 'planted'" in report.to_text()


def test_a_split_on_its_own(folder, studio):
    shutil.rmtree(folder)
    both = Adapter("planted", "3d", lambda _: SMPL.to_dict(), lambda _, split: [split] if split != "validation" else [],
                   lambda _, split: studio[:4] if split == "train" else studio[4:6])
    prepare(both, None, folder.parent, workers=1, progress=False, licence="none")
    (folder / "train-00000-of-00001.tfrecord").unlink()  # only the test split was copied
    assert not check(folder).is_right
    report = check(folder, splits=["test"])
    assert report.is_right and report.counts["test"]["checked"] == 2 and "train" not in report.counts
    with pytest.raises(ValueError, match="has no validation split; it has: train, test"):
        check(folder, splits=["validation"])
    with pytest.raises(ValueError, match="unknown splits tset"):
        check(folder, splits=["tset"])


# ---------------------------------------------------------------------------------------------------------- bad records


def cut_image(example):
    return change(example, image=example.image[:len(example.image) // 2])


def with_joint(example, joint):
    joints3d = example.joints3d.copy()
    joints3d[3] = joint
    return change(example, joints3d=joints3d)


BAD_EXAMPLES = {
    "truncated image": (cut_image, "decoded"),
    "no image": (lambda e: change(e, image=b"text"), "decoded"),
    "short mask": (lambda e: change(e, mask_rle=e.mask_rle[:-1]), "mask runs"),
    "negative run": (lambda e: change(e, mask_rle=np.array([-1, 128 * 128 + 1])), "mask runs"),
    "overflowing runs": (lambda e: change(e, mask_rle=np.array([2**62] * 3 + [2**62 + 128 * 128])), "mask runs"),
    "negative focal length": (lambda e: change(e, intrinsics=e.intrinsics * [[-1], [1], [1]]), "positive focal"),
    "nan in the intrinsics": (lambda e: change(e, intrinsics=e.intrinsics * np.nan), "intrinsics"),
    "mirroring camera": (lambda e: change(e, world_to_camera=np.diag([-1, 1, 1, 1])), "mirrors the world"),
    "scaled rotation": (lambda e: change(e, world_to_camera=np.diag([2, 2, 2, 1])), "not orthonormal"),
    "empty box": (lambda e: change(e, bbox=[10, 10, 0, 50]), "bbox is .* positive size"),
    "nan in the box": (lambda e: change(e, bbox=[10, np.nan, 20, 50]), "bbox is .* positive size"),
    "box outside": (lambda e: change(e, bbox=[200, 10, 20, 50]), "outside of the image of 128 x 128 px"),
    "half a joint": (lambda e: with_joint(e, [1, np.nan, 1]), "joints3d must be nan in all"),
    "no joint": (lambda e: change(e, joints3d=e.joints3d * np.nan), "joints3d must be nan in all"),
    "provenance is a list": (lambda e: change(e, provenance=[1]), "provenance"),
}


@pytest.mark.parametrize("fault", BAD_EXAMPLES)
def test_bad_records_are_named(fault, studio, tmp_path):
    spoil, message = BAD_EXAMPLES[fault]
    examples = [*studio[:4], spoil(studio[4]), *studio[5:9]]
    folder = prepare_examples(tmp_path, examples)
    offset = PreparedDataset(folder).index("train")[4, 1]
    report = check(folder)
    finding, = [finding for finding in report.findings if finding.severity == "bad record"]
    assert finding.where == f"{folder / SHARD} at byte {offset}"
    assert re.search(message, finding.message)
    assert not report.is_right and report.num_bad == report.counts["train"]["bad"] == 1
    assert "verdict: WRONG, 1 bad record" in report.to_text() and "--skip-bad" in report.remedies[0]
    lenient = check(folder, skip_bad=True)
    assert lenient.is_right and lenient.num_bad == 1 and finding in lenient.findings and not lenient.remedies
    assert "all right, 1 bad record" in lenient.to_text() and "(to be skipped)" in lenient.to_text()


def test_labels_of_the_other_kind_are_bad_records(studio, folder):
    edit_manifest(folder, lambda manifest: manifest.update(kind="2d"))
    report = check(folder)
    assert report.num_bad == 9 and "joints2d is missing; the data set is labelled in 2D" in report.to_text()


def test_a_broken_shard_is_wrong_in_spite_of_skip_bad(folder):
    flip(folder / SHARD, 500)
    report = check(folder, skip_bad=True)
    assert report.num_bad == 1 and not report.is_right
    assert "checksum does not match" in next(f.message for f in report.findings if f.severity == "bad record")


def test_behind_a_broken_header_records_are_found_by_the_index(folder):
    index = PreparedDataset(folder).index("train")
    flip(folder / SHARD, int(index[4, 1]) + 3)
    report = check(folder)
    assert report.counts["train"] == {"shards": 3, "records": 9, "checked": 9, "bad": 1, "suspicious": {}}
    edit_index(folder, lambda x: x.__setitem__((slice(3, 6), 2), [2**62, -5, 2**40]))  # hostile sizes
    assert check(folder).counts["train"]["bad"] == 3
    (folder / "train.index.npy").unlink()
    report = check(folder)
    assert report.counts["train"]["checked"] == 6 and not report.is_right


def test_long_lists_are_cut_and_counted(studio, tmp_path):
    folder = prepare_examples(tmp_path, [cut_image(example) for example in studio])
    report = check(folder)
    text = report.to_text()
    assert report.num_bad == 48 and text.count("  bad record: ") == MAX_LISTED
    assert "and 28 more bad records" in text and "verdict: WRONG, 48 bad records" in text


def test_a_sample_looks_into_few_records_but_checks_all_files(studio, tmp_path):
    folder = prepare_examples(tmp_path, [*studio[:4], cut_image(studio[4]), *studio[5:9]])
    report = check(folder, sample=3)  # records 0, 4 and 8
    assert report.counts["train"] == {"shards": 3, "records": 9, "checked": 3, "bad": 1, "suspicious": {}}
    report = check(folder, sample=2)  # records 0 and 8
    assert report.is_right and report.counts["train"]["checked"] == 2
    flip(folder / SHARD, 500)
    assert not check(folder, sample=2).is_right
    with pytest.raises(ValueError, match="sample is 0"):
        check(folder, sample=0)


# --------------------------------------------------------------------------------------------------------------- labels


def swap_sides(example):
    field = "joints3d" if example.joints3d is not None else "joints2d"
    mirror = (SMPL if field == "joints3d" else COCO).mirror
    return change(example, **{field: getattr(example, field)[list(mirror)]})


def move_wrist(example):
    joints3d = example.joints3d.copy()
    joints3d[SMPL.index("left_wrist"), 0] += 3000
    return change(example, joints3d=joints3d)


def move_principal_point(example, offset):
    return change(example, intrinsics=example.intrinsics + np.array([[0, 0, offset], [0, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("spoil, kind, message", [
    (lambda e: change(e, joints3d=e.joints3d / 1000), "body size", "the labels look like m, which"),
    (lambda e: change(e, joints3d=e.joints3d / 10), "body size", "the labels look like cm"),
    (swap_sides, "left and right", "swapped"),
    (lambda e: change(e, joints3d=e.joints3d * [-1, 1, 1]), "left and right", "left-handed"),
    (lambda e: change(e, joints3d=e.joints3d * [1, 1, -1]), "depth", "24 joints are behind the camera"),
    (lambda e: move_principal_point(e, 200), "view", "0 of 24 labelled joints are in the image; expected 4"),
    (lambda e: move_principal_point(e, 1000), "camera", "principal point"),
    (lambda e: change(e, bbox=[0, 0, 40, 10]), "box", "of 24 joints in the image are in or near the box"),
    (lambda e: change(e, intrinsics=e.intrinsics * [[0.1, 1, 1], [1, 0.1, 1], [1, 1, 1]]), "box", "the joints span"),
    (lambda e: change(e, bbox=[50, 50, 20, 30]), "person size", "longer side is 30 px; expected 32 or more"),
    (lambda e: change(e, provenance={}), "provenance", "where it comes from"),
])
def test_labels_wrong_throughout_are_an_error(spoil, kind, message, studio, tmp_path):
    report = check(prepare_examples(tmp_path, [spoil(example) for example in studio]), skip_bad=True)
    assert not report.is_right and not report.num_bad
    finding = next(f for f in report.findings if f.severity == ERROR and f.kind == kind)
    assert finding.where == "train" and message in finding.message
    assert "python -m datasets inspect planted" in report.remedies[0]


@pytest.mark.parametrize("num_wrong", [2, 8])
def test_few_suspicious_examples_are_listed_and_many_are_an_error(num_wrong, studio, tmp_path):
    examples = [move_wrist(example) if i < num_wrong else example for i, example in enumerate(studio)]
    report = check(prepare_examples(tmp_path, examples))
    assert report.counts["train"]["suspicious"] == {"bones": num_wrong}
    suspects = [finding for finding in report.findings if finding.severity == SUSPICIOUS]
    assert len(suspects) == min(num_wrong, 3) and suspects[0].where.endswith("at byte 0")
    assert suspects[0].message.startswith("left_elbow-left_wrist is ")
    assert report.is_right == (num_wrong == 2)
    text = report.to_text()
    assert f"48, suspicious: {num_wrong} (bones)" in text
    assert ("8 of 48 examples are suspicious; up to 5% may be" in text) == (num_wrong == 8)


def test_a_broken_label_that_spoils_the_mean_bone_lengths_is_found(studio, tmp_path):
    report = check(prepare_examples(tmp_path, [*studio[:4], with_joint(studio[4], 1e6), *studio[5:9]]))
    assert kinds(report, ERROR) == {"bone lengths"} and "expected at most 3500 mm" in report.to_text()
    assert report.counts["train"]["suspicious"] == {"bones": 1}


def test_persons_larger_than_prepared(studio, tmp_path):
    report = check(prepare_examples(tmp_path, studio, person_side=60))
    assert kinds(report, ERROR) == {"person size"} and "no more than the preparation's person side, 60" in report.to_text()


def test_unequal_sides_are_a_warning(studio, tmp_path):
    def lengthen(example):
        joints3d = example.joints3d.copy()
        elbow, wrist, hand = (SMPL.index(f"left_{joint}") for joint in ("elbow", "wrist", "hand"))
        joints3d[[wrist, hand]] += 0.3 * (joints3d[wrist] - joints3d[elbow])
        return change(example, joints3d=joints3d)

    report = check(prepare_examples(tmp_path, [lengthen(example) for example in studio]))
    assert report.is_right and kinds(report, WARNING) == {"bone lengths"}
    # 1.3 against 1, of their mean 1.15
    assert "left and right differ by up to 26.1%" in report.figures["bone lengths"]


def test_labels_in_2d(photos, tmp_path):
    right = check(prepare_examples(tmp_path / "right", photos, "2d"))
    assert right.is_right and not right.findings
    relative = check(prepare_examples(tmp_path / "relative", [change(e, joints2d=e.joints2d / 128) for e in photos], "2d"))
    assert kinds(relative, ERROR) == {"box"}
    outside = check(prepare_examples(tmp_path / "outside", [change(e, joints2d=e.joints2d + 200) for e in photos], "2d"))
    assert "view" in kinds(outside, ERROR)
    # Of people seen from behind, labels of the hidden face vote wrongly: swapped sides are a warning only.
    swapped = check(prepare_examples(tmp_path / "swapped", [swap_sides(example) for example in photos], "2d"))
    assert swapped.is_right and kinds(swapped, WARNING) == {"left and right"}
    num_right, num_wrong = ([int(word) for word in report.figures["left and right"].split() if word.isdigit()]
                            for report in (right, swapped))
    assert num_right[0] + num_wrong[0] == num_right[1]


# ---------------------------------------------------------------------------------------------------------------- fuzz


def mutate(data, rng):
    """A few bit flips, truncations, insertions and overwritten words."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        position, operation = int(rng.integers(len(data) + 1)), rng.integers(5)
        if operation == 0 and position < len(data):
            data[position] ^= 1 << int(rng.integers(8))
        elif operation == 1:
            del data[position:]
        elif operation == 2:
            data += rng.bytes(int(rng.integers(1, 300)))
        elif operation == 3:
            data[position:position] = rng.bytes(int(rng.integers(1, 20)))
        else:
            data[position:position + 8] = bytes([rng.choice([0, 127, 128, 255])]) * 8
    return bytes(data)


@pytest.fixture(name="small")
def prepare_small(tmp_path):
    """Six examples with small images."""
    rng = np.random.default_rng(0)
    image = cv2.imencode(".jpg", rng.integers(0, 256, (24, 32, 3), np.uint8))[1].tobytes()
    mask = records.encode_mask(rng.random((24, 32)) > 0.5)
    examples = [change(dotted_example(rng, SMPL, "3d"), image=image, mask_rle=mask, bbox=[1, 2, 20, 20]) for _ in range(6)]
    return prepare_examples(tmp_path, examples)


def test_mutated_shards_are_always_found(small):
    rng, path = np.random.default_rng(1), small / SHARD
    pristine = path.read_bytes()
    for _ in range(200):
        path.write_bytes(mutate(pristine, rng))
        report = check(small, skip_bad=True)
        if path.read_bytes() != pristine:
            assert not report.is_right and SHARD in report.remedies[0]
        json.dumps(report.to_dict())


def mutate_field(features, rng):
    """Another shape, type or content of one field."""
    name = str(rng.choice(sorted(features)))
    value, operation = features[name], rng.integers(6)
    if isinstance(value, bytes):
        hostile = [mutate(value, rng), b"", b"[" * 100_000, b"1" * 5000, b"[]", np.zeros(3, np.float32)]
        features[name] = hostile[operation]
    else:
        changed = value.copy()
        if value.dtype.kind == "f":
            changed[rng.integers(len(value))] = rng.choice([np.nan, np.inf, -3e38, 3e38, 0])
        else:
            changed[rng.integers(len(value))] += rng.choice([-2**40, 2**62, 1])
        features[name] = [changed, value[:-1], np.tile(value, 2), value[:0], value * -1, b"bytes"][operation]


def test_hostile_records_with_right_checksums_never_crash(small):
    rng, path = np.random.default_rng(2), small / SHARD
    entries, _ = records.scan_shard(path)
    data = path.read_bytes()
    payloads = [tfrecord.unframe_record(data[offset:offset + size], "") for offset, size in entries]
    num_bad = 0
    for _ in range(150):
        hostile = []
        for payload in payloads:
            features = {name: value if isinstance(value, np.ndarray) else value[0]
                        for name, value in tfrecord.decode_example(payload, "").items()}
            mutate_field(features, rng)
            encoded = tfrecord.encode_example(features)
            hostile.append(tfrecord.frame_record(mutate(encoded, rng) if rng.random() < 0.2 else encoded))
        path.write_bytes(b"".join(hostile))
        report = check(small, skip_bad=True)
        assert not report.is_right and report.counts["train"]["checked"] == 6
        num_bad += report.num_bad
    assert 150 < num_bad < 300  # most fields do not bear a change, pixels and joints do
