import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from datasets.cropping import crop_example
from datasets.prepare import MAX_SHARDS_PER_SPLIT, PrepareError, _group_units, prepare
from datasets.raw_example import DetectionRule
from datasets.registry import load_adapter
from posepile.data import records
from posepile.data.records import PreparedDataset
from tests.datasets.onnx_files import write_square_finder
from tests.datasets.tiny_adapter import ADAPTER, FINISHED_ADAPTER, example_pose, write_raw

REPOSITORY = pathlib.Path(__file__).parents[2]


def prepare_tiny(raw_dir, data_root, adapter=ADAPTER, workers=1, **options):
    return prepare(adapter, raw_dir, data_root, workers=workers, progress=False, person_side=64, **options)


def all_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "lock"}


@pytest.fixture(name="raw_dir")
def make_raw_dir(tmp_path):
    return write_raw(tmp_path / "raw", train=[3, 1, 4, 2], test=[2])


@pytest.fixture(name="expected")
def prepare_expected(raw_dir, tmp_path):
    """The bytes of an undisturbed preparation by one worker."""
    prepare_tiny(raw_dir, tmp_path / "expected")
    return all_bytes(tmp_path / "expected")


def test_prepared_examples_come_back_in_order(raw_dir, tmp_path):
    manifest = prepare_tiny(raw_dir, tmp_path / "data", licence="free")
    dataset = PreparedDataset(tmp_path / "data" / "tiny")
    assert dataset.manifest == manifest and dataset.kind == "3d" and dataset.skeleton.name == "tiny_5"
    assert manifest["licence"] == "free" and manifest["skipped"] == []
    assert dataset.splits() == ["train", "test"]
    assert (dataset.num_examples("train"), dataset.num_examples("test")) == (10, 2)
    assert manifest["splits"]["train"]["num_units"] == 4
    order = [(f"train{unit}", index) for unit, count in enumerate([3, 1, 4, 2]) for index in range(count)]
    for position, (name, index) in enumerate(order):
        example = dataset.read("train", position)
        assert example.provenance == {"source": f"{name}.jpg", "frame": index}
        # The crop camera is the raw one turned: distances from the camera stay, and so do bones.
        pose = example_pose(name, index)
        np.testing.assert_allclose(np.linalg.norm(example.joints3d, axis=1), np.linalg.norm(pose, axis=1), rtol=1e-5)
        np.testing.assert_allclose(pose @ example.world_to_camera[:3, :3].T, example.joints3d, atol=0.01)
    for split in dataset.splits():
        for shard in manifest["splits"][split]["shards"]:
            _, digest = records.scan_shard(dataset.folder / shard["file"])
            assert digest == shard["sha256"]


def test_splits_can_be_joined(tmp_path):
    raw_dir = write_raw(tmp_path / "raw", train=[3, 1], validation=[2], test=[1])
    manifest = prepare_tiny(raw_dir, tmp_path / "data", splits=["test", "train+validation"])
    assert {name: split["num_examples"] for name, split in manifest["splits"].items()} == {"train": 6, "test": 1}
    dataset = PreparedDataset(tmp_path / "data" / "tiny")
    sources = [dataset.read("train", i).provenance["source"] for i in (3, 4, 5)]
    assert sources == ["train1.jpg", "validation0.jpg", "validation0.jpg"]
    assert prepare_tiny(raw_dir, tmp_path / "data", splits=["train+validation", "test"]) == manifest
    with pytest.raises(PrepareError, match="splits"):
        prepare_tiny(raw_dir, tmp_path / "data", splits=["train"])


def test_bone_lengths_are_those_of_the_training_poses(raw_dir, tmp_path):
    manifest = prepare_tiny(raw_dir, tmp_path / "data")
    poses = np.array([example_pose(f"train{unit}", index)
                      for unit, count in enumerate([3, 1, 4, 2]) for index in range(count)])
    assert list(manifest["bone_lengths_mm"]) == ["head-pelvis", "pelvis-foot", "head-left_hand", "head-right_hand"]
    bones = {"head-pelvis": (1, 0), "pelvis-foot": (0, 4), "head-left_hand": (1, 2), "head-right_hand": (1, 3)}
    for name, (i, j) in bones.items():
        lengths = np.linalg.norm(poses[:, i] - poses[:, j], axis=-1)
        expected = {"mean": np.nanmean(lengths), "std": np.nanstd(lengths), "min": np.nanmin(lengths),
                    "max": np.nanmax(lengths)}
        assert manifest["bone_lengths_mm"][name] == pytest.approx(expected, abs=0.01)


def test_number_of_workers_does_not_change_a_byte(raw_dir, tmp_path, expected):
    prepare_tiny(raw_dir, tmp_path / "data", workers=2)
    assert all_bytes(tmp_path / "data") == expected


def test_index_is_what_numpy_would_save_of_the_shards(raw_dir, tmp_path):
    prepare_tiny(raw_dir, tmp_path / "data")
    rows = []
    for shard in range(4):
        entries, _ = records.scan_shard(tmp_path / "data" / "tiny" / f"train-0000{shard}-of-00004.tfrecord")
        rows += [(shard, offset, num_bytes) for offset, num_bytes in entries.tolist()]
    assert len(rows) == 10
    np.save(tmp_path / "expected.npy", np.array(rows, np.int64))
    written = (tmp_path / "data" / "tiny" / "train.index.npy").read_bytes()
    assert written == (tmp_path / "expected.npy").read_bytes()


def test_interrupted_preparation_continues_with_the_same_result(raw_dir, tmp_path, expected):
    (raw_dir / "interrupt").write_text("train2")
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        prepare_tiny(raw_dir, tmp_path / "data")
    folder = tmp_path / "data" / "tiny"
    assert not (folder / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert sorted(path.name for path in finished) == [f"train-0000{i}-of-00004.tfrecord" for i in (0, 1)]
    assert not list(folder.rglob("*.part"))
    (raw_dir / "interrupt").unlink()
    prepare_tiny(raw_dir, tmp_path / "data")
    assert all_bytes(tmp_path / "data") == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # not made again


def test_vanished_shard_of_a_complete_data_set_is_made_again_alone(raw_dir, tmp_path, expected):
    prepare_tiny(raw_dir, tmp_path / "data")
    folder = tmp_path / "data" / "tiny"
    (folder / "train-00001-of-00004.tfrecord").unlink()
    others = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    prepare_tiny(raw_dir, tmp_path / "data")
    assert all_bytes(tmp_path / "data") == expected
    assert {path: path.stat().st_mtime_ns for path in others} == others


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"record_bytes": [1e400]}', b'{"record_bytes": "x"}', b"\xff"])
def test_damaged_sidecar_only_costs_its_shard(raw_dir, tmp_path, expected, content):
    prepare_tiny(raw_dir, tmp_path / "data")
    folder = tmp_path / "data" / "tiny"
    (folder / "manifest.json").unlink()
    (folder / ".prepare" / "train-00001-of-00004.tfrecord.json").write_bytes(content)
    prepare_tiny(raw_dir, tmp_path / "data")
    assert all_bytes(tmp_path / "data") == expected


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\x00", b'{"settings": {}, "splits": 3}'])
@pytest.mark.parametrize("name", ["manifest.json", ".prepare/settings.json"])
def test_damaged_manifest_and_settings_are_refused(raw_dir, tmp_path, expected, name, content):
    prepare_tiny(raw_dir, tmp_path / "data")
    (tmp_path / "data" / "tiny" / name).write_bytes(content)
    with pytest.raises(PrepareError, match="with --overwrite"):
        prepare_tiny(raw_dir, tmp_path / "data")
    prepare_tiny(raw_dir, tmp_path / "data", overwrite=True)
    assert all_bytes(tmp_path / "data") == expected


def test_half_written_shards_are_made_again(raw_dir, tmp_path, expected):
    prepare_tiny(raw_dir, tmp_path / "data")
    folder = tmp_path / "data" / "tiny"
    (folder / "manifest.json").unlink()
    shard = folder / "train-00002-of-00004.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-7])
    (folder / ".train-00003-of-00004.tfrecord.xyz.part").write_bytes(b"left by a killed process")
    prepare_tiny(raw_dir, tmp_path / "data")
    assert all_bytes(tmp_path / "data") == expected


SCRIPT = """
import sys
from datasets.prepare import prepare
from tests.datasets.tiny_adapter import ADAPTER
if __name__ == "__main__":
    print("started", flush=True)
    try:
        prepare(ADAPTER, sys.argv[1], sys.argv[2], workers=2, progress=False, person_side=64)
    except KeyboardInterrupt as interrupt:
        print(interrupt)
        sys.exit(3)
"""


def children_of(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


def is_alive(pid):
    try:
        return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="looks up worker processes in Linux's /proc")
@pytest.mark.parametrize("stop_signal", [signal.SIGKILL, signal.SIGINT])
def test_stopped_process_takes_its_workers_along_and_can_be_resumed(raw_dir, tmp_path, expected, stop_signal):
    (raw_dir / "slow").touch()
    folder = tmp_path / "data" / "tiny"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, raw_dir, tmp_path / "data"], cwd=REPOSITORY, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.tfrecord")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = children_of(process.pid)
    if stop_signal == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.kill()
    output, _ = process.communicate(timeout=60)
    if stop_signal == signal.SIGINT:
        assert process.returncode == 3 and "the same command continues" in output
        assert not list(folder.rglob("*.part"))
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(workers) >= 2 and not any(map(is_alive, workers))
    assert not (folder / "manifest.json").exists()
    (raw_dir / "slow").unlink()
    prepare_tiny(raw_dir, tmp_path / "data")
    assert all_bytes(tmp_path / "data") == expected


@pytest.fixture(name="custom_raw_dir")
def write_custom(tmp_path):
    """Own data in 6 files of 4 photographs with 2 persons each."""
    folder = tmp_path / "own"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for unit in range(6):
        images = []
        for index in range(4):
            name = f"{unit}_{index}.png"
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (48, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1))
            people = [{"bbox": [x, 100, 120, 300], "joints2d": rng.uniform([x, 100], [x + 120, 400], (17, 2)).tolist()}
                      for x in (100, 400)]
            images.append({"file": name, "people": people})
        (folder / f"{unit}.json").write_text(json.dumps({"skeleton": "coco_17", "images": images}))
    return folder


def test_program_killed_at_random_moments_ends_with_the_same_bytes(custom_raw_dir, tmp_path):
    command = [sys.executable, "-m", "datasets", "prepare", "custom", f"--raw-dir={custom_raw_dir}", "--name=own",
               f"--data-root={tmp_path / 'data'}", "--workers=1"]
    prepare(load_adapter("custom"), custom_raw_dir, tmp_path / "expected", name="own", workers=1, progress=False)
    folder = tmp_path / "data" / "own"
    rng = np.random.default_rng(0)
    for num_finished in (0, 2, 4):  # so many shards, and then a random while
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(folder.glob("*.tfrecord"))) < num_finished or not folder.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.04))
        process.kill()
        assert process.wait() == -signal.SIGKILL and not (folder / "manifest.json").exists()
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, timeout=60)
    assert len(all_bytes(folder)) == 6 + 6 + 3
    assert all_bytes(tmp_path / "data") == all_bytes(tmp_path / "expected")


def test_complete_preparation_returns_at_once_even_without_the_raw_files(raw_dir, tmp_path, caplog):
    manifest = prepare_tiny(raw_dir, tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.tfrecord")}
    for path in raw_dir.iterdir():
        path.unlink()
    with caplog.at_level("INFO"):
        assert prepare_tiny(raw_dir, tmp_path / "data") == manifest
    assert "already complete" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("options, differing", [
    ({"limit": 2}, "limit: null then, 2 now"), ({"splits": ["train"]}, r'splits: null then, \["train"\] now')])
def test_other_settings_are_refused_unless_overwritten(raw_dir, tmp_path, options, differing):
    prepare_tiny(raw_dir, tmp_path / "data")
    with pytest.raises(PrepareError, match=differing):
        prepare_tiny(raw_dir, tmp_path / "data", **options)
    prepare_tiny(raw_dir, tmp_path / "data", **options, overwrite=True)
    prepare_tiny(raw_dir, tmp_path / "fresh", **options)
    assert all_bytes(tmp_path / "data") == all_bytes(tmp_path / "fresh")


def test_partial_preparation_refuses_changed_raw_files(raw_dir, tmp_path):
    (raw_dir / "interrupt").write_text("train2")
    with pytest.raises(KeyboardInterrupt):
        prepare_tiny(raw_dir, tmp_path / "data")
    write_raw(raw_dir, train=[3, 1, 5])
    with pytest.raises(PrepareError, match=r"units: .* then, .* now"):
        prepare_tiny(raw_dir, tmp_path / "data")


@pytest.mark.parametrize("limit, num_train", [(5, 5), (3, 3), (99, 10)])
def test_limit_takes_the_first_examples(raw_dir, tmp_path, limit, num_train):
    prepare_tiny(raw_dir, tmp_path / "data", limit=limit, workers=2)
    prepare_tiny(raw_dir, tmp_path / "whole")
    limited, whole = PreparedDataset(tmp_path / "data" / "tiny"), PreparedDataset(tmp_path / "whole" / "tiny")
    assert limited.num_examples("train") == num_train
    for position in range(num_train):
        assert limited.read("train", position).image == whole.read("train", position).image


@pytest.fixture(name="bad_raw_dir")
def make_bad_raw_dir(tmp_path):
    bad = {"1": "box", "3": "annotation", "4": "metres", "5": "missing"}
    return write_raw(tmp_path / "raw", train=[2, {"name": "broken", "examples": 7, "bad": bad},
                                              {"name": "crashing", "examples": 4, "bad": {"2": "crash"}}])


def test_strict_stops_at_a_bad_example_and_names_its_place(bad_raw_dir, tmp_path):
    for workers, place in ((1, r'tiny, train, unit .*"broken".* example 1 \(broken.jpg\): bbox is'), (2, "tiny, train, unit")):
        with pytest.raises(ValueError, match=place):
            prepare_tiny(bad_raw_dir, tmp_path / "data", strict=True, workers=workers)
        assert not list((tmp_path / "data").rglob("*.part"))
    with pytest.raises(ValueError, match="skip_bad and strict"):
        prepare_tiny(bad_raw_dir, tmp_path / "data", strict=True, skip_bad=True)


def test_bad_examples_are_listed_by_unit_and_the_rest_goes_on(bad_raw_dir, tmp_path):
    with pytest.raises(ValueError):
        prepare_tiny(bad_raw_dir, tmp_path / "data", strict=True)
    manifest = prepare_tiny(bad_raw_dir, tmp_path / "data")  # continues
    assert manifest["splits"]["train"]["num_examples"] == 2 + 3 + 2
    assert PreparedDataset(tmp_path / "data" / "tiny").num_examples("train") == 7
    parts = ["bbox is", "annotations.json", "looks like metres", "gone.jpg cannot be read", "KeyError: 'keypoints'"]
    for entry, part in zip(manifest["skipped"], parts, strict=True):
        assert part in entry["reason"]
    assert ["broken" in entry["unit"] for entry in manifest["skipped"]] == [True] * 4 + [False]
    assert "example 4 (broken.jpg)" in manifest["skipped"][2]["where"]
    assert "what follows" in manifest["skipped"][-1]["reason"]
    prepare_tiny(bad_raw_dir, tmp_path / "two", workers=2)
    assert all_bytes(tmp_path / "two") == all_bytes(tmp_path / "data")


def test_mended_faults_cost_only_their_shards(bad_raw_dir, tmp_path):
    units = json.loads((bad_raw_dir / "train.json").read_text())
    rendered = cv2.imencode(".png", np.full((120, 160, 3), 99, np.uint8))[1].tobytes()
    (bad_raw_dir / "gone.jpg").write_bytes(rendered)
    expected = prepare_tiny(bad_raw_dir, tmp_path / "expected")
    (bad_raw_dir / "gone.jpg").unlink()
    folder = tmp_path / "data" / "tiny"
    assert len(prepare_tiny(bad_raw_dir, tmp_path / "data")["skipped"]) == len(expected["skipped"]) + 1
    times = [path.stat().st_mtime_ns for path in sorted(folder.glob("*.tfrecord"))]
    # Content with it: nothing is made, nothing changes.
    before = all_bytes(folder)
    assert len(prepare_tiny(bad_raw_dir, tmp_path / "data", skip_bad=True)["skipped"]) == 5
    assert all_bytes(folder) == before
    (bad_raw_dir / "gone.jpg").write_bytes(rendered)
    assert prepare_tiny(bad_raw_dir, tmp_path / "data") == expected
    assert all_bytes(folder) == all_bytes(tmp_path / "expected" / "tiny")
    is_same = [path.stat().st_mtime_ns == time for path, time in zip(sorted(folder.glob("*.tfrecord")), times, strict=True)]
    assert is_same == [True, False, False] and len(units) == 3


def test_nothing_half_mended_looks_complete(bad_raw_dir, tmp_path):
    """The manifest of the first run does not describe shards that the second, interrupted one has replaced."""
    prepare_tiny(bad_raw_dir, tmp_path / "data")
    (bad_raw_dir / "interrupt").write_text("crashing")
    with pytest.raises(KeyboardInterrupt):
        prepare_tiny(bad_raw_dir, tmp_path / "data")
    assert not (tmp_path / "data" / "tiny" / "manifest.json").exists()
    (bad_raw_dir / "interrupt").unlink()
    assert len(prepare_tiny(bad_raw_dir, tmp_path / "data", skip_bad=True)["skipped"]) == 5


def test_a_full_disk_is_no_fault_of_the_raw_files(raw_dir, tmp_path):
    def load_unit(raw_dir, unit):
        yield from ADAPTER.load_unit(raw_dir, unit)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PrepareError, match="is full"):
        prepare_tiny(raw_dir, tmp_path / "data", dataclasses.replace(ADAPTER, load_unit=load_unit))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), AttributeError("no field x"), EOFError(),
                                   ZeroDivisionError(), cv2.error("bad video"), FileNotFoundError("S1/calib.txt is missing")])
def test_whatever_raw_files_cause_costs_one_unit(raw_dir, tmp_path, error):
    def load_unit(raw_dir, unit):
        if unit["name"] == "train2":
            raise error
        return ADAPTER.load_unit(raw_dir, unit)  # no generator itself: it raises when it is called

    manifest = prepare_tiny(raw_dir, tmp_path / "data", dataclasses.replace(ADAPTER, load_unit=load_unit))
    assert manifest["splits"]["train"]["num_examples"] == 3 + 1 + 2 and len(manifest["skipped"]) == 1
    assert str(error) in manifest["skipped"][0]["reason"] and "train2" in manifest["skipped"][0]["unit"]


# ----------------------------------------------------------------------------------------------- results of a detector

MATCHING = dataclasses.replace(ADAPTER, detection_rule=DetectionRule(min_iou=0.5, unmatched="drop"))


def write_detections(path, names_and_boxes, **fields):
    path.write_text(json.dumps([{"file_name": name, "bbox": box, "score": 0.9, "category_id": 1, **fields}
                                for name, box in names_and_boxes]))
    return path


def test_detections_replace_boxes(raw_dir, tmp_path):
    # The boxes of the data set are 50, 20, 60, 90. Detections count from the corner of pixel (0, 0).
    path = write_detections(tmp_path / "boxes.json", [
        ("train0.jpg#1", [45.5, 15.5, 70, 95]), ("train2.jpg#0", [54, 20, 60, 90]), ("train2.jpg#1", [0, 0, 20, 20]),
        ("test0.jpg#0", [50, 20, 60, 80])])
    manifest = prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=path)
    assert manifest["detector_results"] == {"images": 12, "images_with_detections": 4, "people": 12, "people_matched": 3,
                                            "people_dropped": 9}
    dataset = PreparedDataset(tmp_path / "data" / "tiny")
    assert dataset.num_examples("train") == 2 and dataset.num_examples("test") == 1
    unit = json.loads((raw_dir / "train.json").read_text())[0]
    raw = list(ADAPTER.load_unit(raw_dir, unit))[1]
    expected = crop_example(dataclasses.replace(raw, bbox=np.array([45.0, 15, 70, 95])), 64)
    read = dataset.read("train", 0)
    assert read.provenance == {"source": "train0.jpg", "frame": 1} and read.image == expected.image
    np.testing.assert_array_equal(read.bbox, expected.bbox)
    assert {path.name for path in (dataset.folder / ".prepare").iterdir() if not path.name.endswith(".json")} == {"lock"}
    prepare_tiny(raw_dir, tmp_path / "two", MATCHING, detections=path, workers=2)
    assert all_bytes(tmp_path / "two") == all_bytes(tmp_path / "data")


def test_other_detections_and_masks_are_other_settings(raw_dir, tmp_path):
    path = write_detections(tmp_path / "boxes.json", [(f"{split}0.jpg#0", [50, 20, 60, 90]) for split in ("train", "test")])
    prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=path)
    before = all_bytes(tmp_path / "data")
    prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=path.rename(tmp_path / "elsewhere.json"))
    assert all_bytes(tmp_path / "data") == before
    with pytest.raises(PrepareError, match=r"detections: .* now\).*--overwrite"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING)
    other = write_detections(tmp_path / "other.json", [(f"{split}0.jpg#0", [52, 20, 60, 90]) for split in ("train", "test")])
    with pytest.raises(PrepareError, match=r"detections: .* now\).*--overwrite"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=other)
    with pytest.raises(PrepareError, match="masks: null then"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=tmp_path / "elsewhere.json", masks=tmp_path)
    prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detections=other, overwrite=True)
    changed = {name for name, content in all_bytes(tmp_path / "data").items() if content != before[name]}
    assert {"tiny/train-00000-of-00004.tfrecord", "tiny/test-00000-of-00001.tfrecord", "tiny/manifest.json"} <= changed


@pytest.fixture(name="white_raw_dir")
def write_people_in_white(tmp_path):
    """Three photographs of 160 x 80 px; a detector of 64 px sees them at 0.4 of their size, 16 px from the top. In each but the
    last, a white square of 40 px, and two people, one of whom stands there."""
    folder = tmp_path / "white"
    folder.mkdir()
    images, rng = [], np.random.default_rng(0)
    for number, left in enumerate([50, 90, None]):
        image = np.full((80, 160, 3), 60, np.uint8)
        if left is not None:
            image[20:60, left:left + 40] = 255
        cv2.imwrite(str(folder / f"{number}.png"), image)
        people = [{"bbox": [x, 18, 36, 40], "joints2d": rng.uniform([x, 20], [x + 30, 50], (17, 2)).tolist()}
                  for x in ([53, 20], [93, 120], [20, 50])[number]]
        images.append({"file": f"{number}.png", "people": people})
    (folder / "people.json").write_text(json.dumps({"skeleton": "coco_17", "images": images}))
    return folder


FINDING = dataclasses.replace(load_adapter("custom"), detection_rule=DetectionRule(min_iou=0.5))


def test_detector_replaces_boxes(white_raw_dir, tmp_path):
    detector = write_square_finder(tmp_path / "finder.onnx")
    options = {"progress": False, "detector": detector}
    manifest = prepare(FINDING, white_raw_dir, tmp_path / "data", workers=1, **options)
    assert manifest["detector_results"] == {"images": 3, "images_with_detections": 2, "people": 6, "people_matched": 2}
    dataset = PreparedDataset(tmp_path / "data" / "custom")
    (unit,) = FINDING.list_units(white_raw_dir, "train")
    raw = list(FINDING.load_unit(white_raw_dir, unit))
    boxes = [[49.5, 19.5, 40, 40], raw[1].bbox, [89.5, 19.5, 40, 40], *(person.bbox for person in raw[3:])]
    for position, box in enumerate(boxes):
        expected = crop_example(dataclasses.replace(raw[position], bbox=np.array(box)))
        np.testing.assert_allclose(dataset.read("train", position).bbox, expected.bbox, atol=1e-3)
        np.testing.assert_allclose(dataset.read("train", position).joints2d, expected.joints2d, atol=1e-3)
    prepare(FINDING, white_raw_dir, tmp_path / "two", workers=2, **options)
    assert all_bytes(tmp_path / "two") == all_bytes(tmp_path / "data")
    before = all_bytes(tmp_path / "data")
    options["detector"] = detector.rename(tmp_path / "moved.onnx")
    prepare(FINDING, white_raw_dir, tmp_path / "data", workers=1, **options)
    assert all_bytes(tmp_path / "data") == before
    with pytest.raises(PrepareError, match=r"detector: .* then, null now"):
        prepare(FINDING, white_raw_dir, tmp_path / "data", progress=False)
    (tmp_path / "data" / "custom" / ".prepare" / "settings.json").unlink()
    with pytest.raises(PrepareError, match=r"detector: .* now\).*--overwrite"):
        prepare(FINDING, white_raw_dir, tmp_path / "data", progress=False,
                detector=write_square_finder(tmp_path / "other.onnx", "6"))


def test_useless_detectors_are_refused(raw_dir, tmp_path):
    detector = write_square_finder(tmp_path / "finder.onnx")
    with pytest.raises(ValueError, match="detector: it has found nobody in any of 12 images"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detector=detector)
    with pytest.raises(ValueError, match="detector given, but data set tiny has boxes of its own"):
        prepare_tiny(raw_dir, tmp_path / "data", detector=detector)
    with pytest.raises(FileNotFoundError, match=r"detector: there is no file .*none\.onnx"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detector=tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="detections and a detector are both given"):
        prepare_tiny(raw_dir, tmp_path / "data", MATCHING, detector=detector, detections=detector)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"detector .*broken\.onnx cannot be used"):
        prepare_tiny(raw_dir, tmp_path / "fresh", MATCHING, detector=tmp_path / "broken.onnx")
    assert not (tmp_path / "fresh").exists()


def test_masks_are_found_beside_their_images(raw_dir, tmp_path):
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 60:100] = 255
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "train0.jpg#1.png"), mask)
    cv2.imwrite(str(tmp_path / "masks" / "train0.jpg#2.png"), mask[:60])
    manifest = prepare_tiny(raw_dir, tmp_path / "data", masks=tmp_path / "masks")
    assert manifest["detector_results"] == {"people_without_mask": 12, "masks_added": 1}
    assert [entry["reason"] for entry in manifest["skipped"]] == [
        f"mask {tmp_path / 'masks' / 'train0.jpg#2.png'} has 160 x 60 px, its image 160 x 120 px"]
    dataset = PreparedDataset(tmp_path / "data" / "tiny")
    unit = json.loads((raw_dir / "train.json").read_text())[0]
    expected = crop_example(dataclasses.replace(list(ADAPTER.load_unit(raw_dir, unit))[1], mask=mask > 0), 64)
    np.testing.assert_array_equal(dataset.read("train", 1).mask_rle, expected.mask_rle)
    assert dataset.read("train", 0).mask_rle is None


def test_useless_detections_and_masks_are_refused(raw_dir, tmp_path):
    path = write_detections(tmp_path / "boxes.json", [("raw/train0.jpg#0", [50, 20, 60, 90])])
    keeping = dataclasses.replace(ADAPTER, detection_rule=DetectionRule(min_iou=0.5))
    for adapter in (keeping, MATCHING):
        with pytest.raises(ValueError, match="detections: none of the 12 images is in the file"):
            prepare_tiny(raw_dir, tmp_path / adapter.detection_rule.unmatched, adapter, detections=path)
    with pytest.raises(ValueError, match="data set tiny has boxes of its own"):
        prepare_tiny(raw_dir, tmp_path / "data", detections=path)
    with pytest.raises(FileNotFoundError, match=r"detections: there is no file .*none\.json"):
        prepare_tiny(raw_dir, tmp_path / "data", keeping, detections=tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"masks: there is no folder .*none"):
        prepare_tiny(raw_dir, tmp_path / "data", keeping, masks=tmp_path / "none")
    with pytest.raises(ValueError, match="masks: none of 12 people has one"):
        prepare_tiny(raw_dir, tmp_path / "masked", masks=tmp_path)


def test_split_without_good_examples_is_an_error(tmp_path):
    raw_dir = write_raw(tmp_path / "raw", test=[{"name": "broken", "examples": 1, "bad": {"0": "box"}}])
    with pytest.raises(ValueError, match=r"test split came out empty, 1 examples were skipped; .*bbox"):
        prepare_tiny(raw_dir, tmp_path / "data", skip_bad=True)


def test_finished_examples_are_stored_as_they_are(tmp_path):
    raw_dir = write_raw(tmp_path / "raw", validation=[2, 1])
    manifest = prepare_tiny(raw_dir, tmp_path / "data", FINISHED_ADAPTER)
    assert manifest["kind"] == "2d" and manifest["bone_lengths_mm"] == {}
    example = PreparedDataset(tmp_path / "data" / "tiny_2d").read("validation", 1)
    assert example.image == b"\xff\xd8\x01" and example.provenance == {"frame": 1}
    np.testing.assert_array_equal(example.joints2d, np.ones((5, 2)))


def test_labels_must_fit_kind_and_skeleton(raw_dir, tmp_path):
    with pytest.raises(ValueError, match="joints2d is missing"):
        prepare_tiny(raw_dir, tmp_path / "data", dataclasses.replace(ADAPTER, kind=lambda raw_dir: "2d"))
    with pytest.raises(ValueError, match=r"joints3d has shape \[5, 3\]; expected \[17, 3\]"):
        prepare_tiny(raw_dir, tmp_path / "other", dataclasses.replace(ADAPTER, skeleton=lambda raw_dir: "h36m_17"))


def test_other_name_for_the_prepared_data_set(raw_dir, tmp_path):
    assert prepare_tiny(raw_dir, tmp_path, name="my_rig")["name"] == "my_rig"
    assert PreparedDataset(tmp_path / "my_rig").name == "my_rig"


def test_full_disk_is_explained(raw_dir, tmp_path, monkeypatch):
    def write_shard(path, examples):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_shard", write_shard)
    with pytest.raises(PrepareError, match=r"disk .* is full .*the same command"):
        prepare_tiny(raw_dir, tmp_path / "data")


@pytest.fixture(name="small_disk")
def mount_small_disk(tmp_path):
    """A disk with room for some of the tiny shards. Yields: its folder, and a function that mounts it anew."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)

    if shutil.which("mount") is None or mount("size=80k").returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


def test_full_disk_loses_nothing(raw_dir, tmp_path, expected, small_disk):
    folder, remount = small_disk
    with pytest.raises(PrepareError, match=r"disk .* is full .*the same command"):
        prepare_tiny(raw_dir, folder)
    finished = [path.name for path in sorted((folder / "tiny").glob("*.tfrecord"))]
    assert 0 < len(finished) < 5 and not list(folder.rglob("*.part"))
    assert {name: (folder / "tiny" / name).read_bytes() for name in finished}.items() <= {
        pathlib.Path(name).name: content for name, content in expected.items()}.items()
    remount("size=9m")
    prepare_tiny(raw_dir, folder)
    assert all_bytes(folder) == expected


def test_read_only_folder(raw_dir, small_disk):
    folder, remount = small_disk
    remount("size=9m")
    manifest = prepare_tiny(raw_dir, folder, splits=["test"])
    remount("ro")
    assert prepare_tiny(raw_dir, folder, splits=["test"]) == manifest  # complete: nothing to be written
    with pytest.raises(PrepareError, match=r"disk/other cannot be written to \(Read-only file system"):
        prepare_tiny(raw_dir, folder, name="other")


def test_preparation_whose_folder_is_taken_over_ends(raw_dir, tmp_path, expected, monkeypatch):
    """As by another machine, where the network file system does not pass locks on."""
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)

    def load_unit(raw, unit):
        for index, example in enumerate(ADAPTER.load_unit(raw, unit)):
            if unit["name"] == "train2" and index == 1:
                prepare_tiny(raw_dir, tmp_path / "data")  # the other one, from beginning to end
            yield example

    with pytest.raises(PrepareError, match="not held by this preparation any more"):
        prepare_tiny(raw_dir, tmp_path / "data", dataclasses.replace(ADAPTER, load_unit=load_unit))
    assert all_bytes(tmp_path / "data") == expected


@pytest.mark.parametrize("options, message", [
    ({"splits": ["training"]}, "unknown splits training"),
    ({"splits": ["train+val"]}, "unknown splits val"),
    ({"splits": ["train+test", "test"]}, r"splits is train\+test, test; name one or more .* each once"),
    ({"splits": ["validation"]}, "nothing for the splits validation"),
    ({"splits": []}, "splits is empty"), ({"limit": 0}, "limit is 0"), ({"workers": -1}, "workers is -1"),
    ({"workers": 2, "scheduler": "127.0.0.1:8786"}, "workers and scheduler")])
def test_wrong_arguments(raw_dir, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_tiny(raw_dir, tmp_path / "data", **options)


def test_adapter_that_cannot_be_sent_to_workers(raw_dir, tmp_path):
    adapter = dataclasses.replace(ADAPTER, skeleton=lambda raw_dir: ADAPTER.label_skeleton(raw_dir))
    with pytest.raises(ValueError, match="top level of a module"):
        prepare_tiny(raw_dir, tmp_path / "data", adapter, workers=2)


def test_second_preparation_of_the_same_folder_is_refused(raw_dir, tmp_path):
    def list_units(raw, split):
        with pytest.raises(PrepareError, match="another preparation is at work"):
            prepare_tiny(raw_dir, tmp_path / "data")
        return ADAPTER.list_units(raw, split)

    prepare_tiny(raw_dir, tmp_path / "data", dataclasses.replace(ADAPTER, list_units=list_units))


def test_units_are_grouped_evenly_and_in_order():
    groups = _group_units(list(range(1000)), None)
    assert len(groups) == MAX_SHARDS_PER_SPLIT and {len(group) for group in groups} == {7, 8}
    assert [unit for group in groups for unit in group] == list(range(1000))
    assert _group_units([1, 2, 3], None) == [(1,), (2,), (3,)] and _group_units([1, 2, 3], 5) == [(1, 2, 3)]


def test_manifest_copied_without_the_hidden_folder_is_complete(raw_dir, tmp_path):
    manifest = prepare_tiny(raw_dir, tmp_path / "data")
    folder = tmp_path / "data" / "tiny"
    for path in (folder / ".prepare").iterdir():
        path.unlink()
    assert prepare_tiny(raw_dir, tmp_path / "data") == manifest == json.loads((folder / "manifest.json").read_text())
