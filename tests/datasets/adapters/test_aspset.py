"""The ASPset-510 adapter on clips in the authors' layout: C3D poses, Matroska videos of painted people."""

import itertools
import json
import pickle

import numpy as np
import pytest

from datasets.adapters import aspset
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import project, transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video
from tests.datasets.readers.c3d_files import make_c3d

ADAPTER = aspset.ADAPTER
SKELETON = load_skeleton("aspset_17")
NAMES = ["right_ankle", "right_knee", "right_hip", "right_wrist", "right_elbow", "right_shoulder", "left_ankle", "left_knee",
         "left_hip", "left_wrist", "left_elbow", "left_shoulder", "head_top", "head", "neck", "spine", "pelvis"]
WIDTH, HEIGHT = 960, 540  # a quarter of the original
INTRINSICS = {"left": [[975.2, 0, 470.3, 0], [0, 974.9, 268.8, 0], [0, 0, 1, 0]],
              "mid": [[980.1, 0, 484.9, 0], [0, 979.0, 266.1, 0], [0, 0, 1, 0]],
              "right": [[977.05, 0, 476.78, 0], [0, 976.1, 270.66, 0], [0, 0, 1, 0]]}


def turned(angle, tilt, position):
    """[4, 4] world to camera, mm: of a camera that is turned to the right by `angle`, tilted down by `tilt`, radians."""
    around_y = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    matrix = np.eye(4)
    matrix[:3, :3] = around_x @ around_y
    matrix[:3, 3] = -matrix[:3, :3] @ position
    return matrix


EXTRINSICS = {"left": np.eye(4), "mid": turned(-0.15, 0.05, [700, -200, 0]), "right": turned(-0.35, -0.03, [1800, 100, 300])}


def walk(steps_mm, camera="left"):
    """[n, 17, 3] mm, world: a person who faces a camera, moved along its x axis by `steps_mm` in all."""
    to_world = np.linalg.inv(EXTRINSICS[camera])
    return np.array([transform(1000 * body(SKELETON, (0.1 + step / 1000, -0.05, 4.6)), to_world) for step in steps_mm])


def image_points(joints, camera):
    """[n, 17, 2] px, by the formula: K [I | 0] times the extrinsic matrix times the point."""
    rays = np.c_[joints.reshape(-1, 3), np.ones(joints.size // 3)] @ (np.array(INTRINSICS[camera]) @ EXTRINSICS[camera]).T
    return (rays[:, :2] / rays[:, 2:]).reshape(*joints.shape[:2], 2)


def write_clip(folder, poses, subject="04ac", clip="0026", cameras=("left", "mid", "right"), boxes=None, labels=NAMES):
    """One clip; `folder` is trainval or test. Boxes: one below the header for each frame, by default the same for all."""
    order = [NAMES.index(name) for name in labels]
    path = folder / "joints_3d" / subject / f"{subject}-{clip}.c3d"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_c3d(poses[:, order], labels, rate=50.0))
    for camera in cameras:
        calibration = {"intrinsic_matrix": np.ravel(INTRINSICS[camera]).tolist(),
                       "extrinsic_matrix": EXTRINSICS[camera].ravel().tolist()}
        path = folder / "cameras" / subject / f"{subject}-{camera}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(calibration))
        path = folder / "boxes" / subject / f"{subject}-{clip}-{camera}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ["400,80,620,500"] * len(poses) if boxes is None else boxes
        path.write_text("\n".join(["left,top,right,bottom", *rows]) + "\n")
        pictures = [gray_image(WIDTH, HEIGHT) for _ in poses]
        for picture, points in zip(pictures, image_points(poses, camera), strict=True):
            if np.isfinite(points).all():
                paint(picture, points)
        write_video(folder / "videos" / subject / f"{subject}-{clip}-{camera}.mkv", pictures, "FFV1")


def write_splits(root, *rows):
    root.mkdir(parents=True, exist_ok=True)
    (root / "splits.csv").write_text("".join(f"{row}\n" for row in rows))


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    root = tmp_path / "raw"
    write_splits(root, "04ac,0026,train,all", "04ac,0027,val,all", "1e28,0001,test,mid")
    clips = {"04ac-0026": walk([0, 60, 120]), "04ac-0027": walk([40]), "1e28-0001": walk([0, 30, 130], "mid")}
    write_clip(root / "trainval", clips["04ac-0026"])
    write_clip(root / "trainval", clips["04ac-0027"], clip="0027", labels=NAMES[::-1])
    write_clip(root / "test", clips["1e28-0001"], "1e28", "0001")
    manifest = prepare(ADAPTER, root, tmp_path / "data", workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "aspset")
    examples = {split: [dataset.read(split, i) for i in range(dataset.num_examples(split))] for split in dataset.splits()}
    kept = {split: [tuple(e.provenance[key] for key in ("sequence", "camera", "frame")) for e in of_split]
            for split, of_split in examples.items()}
    assert kept == {
        "train": [("04ac-0026", camera, frame) for camera in ("left", "mid", "right") for frame in (0, 2)],
        "validation": [("04ac-0027", camera, 0) for camera in ("left", "mid", "right")],
        "test": [("1e28-0001", "mid", 0), ("1e28-0001", "mid", 2)]}
    for example in itertools.chain(*examples.values()):
        check_crop(example, clips[example.provenance["sequence"]][example.provenance["frame"]])
    assert examples["train"][3].provenance == {
        "source": "trainval/videos/04ac/04ac-0026-mid.mkv", "subject": "04ac", "sequence": "04ac-0026",
        "camera": "mid", "frame": 2}


def test_boxes_are_left_top_right_bottom_enlarged(tmp_path):
    write_splits(tmp_path, "04ac,0026,train,left")
    write_clip(tmp_path / "trainval", walk([0]), boxes=["400.5,80.25,600.5,480.25"])
    np.testing.assert_allclose(load_all(tmp_path)[0].bbox, [390.5, 60.25, 220, 440])


def test_up_is_minus_y_of_the_left_camera(tmp_path):
    write_splits(tmp_path, "04ac,0026,train,right")
    write_clip(tmp_path / "trainval", walk([0]))
    camera = load_all(tmp_path)[0].camera
    np.testing.assert_allclose(camera.up, EXTRINSICS["right"][:3, :3] @ [0, -1, 0])
    assert camera.distortion is None


def test_published_projection(tmp_path):
    """Right ankle, left wrist, top of the head and pelvis of 04ac-0026 in its right view, as the authors' own tests have it."""
    path = tmp_path / "04ac-right.json"
    path.write_text(json.dumps({
        "intrinsic_matrix": [3908.201416, 0, 1907.136108, 0, 0, 3904.395020, 1082.651855, 0, 0, 0, 1, 0],
        "extrinsic_matrix": [0.355310, -0.037651, 0.933990, -16513.444863, 0.010982, 0.999288, 0.036106, -694.394037,
                             -0.934684, -0.002572, 0.355470, 12560.579233, 0, 0, 0, 1]}))
    camera = aspset.read_camera(path)
    joints3d = np.array([[-518.131775, 1121.47400, 18538.8398], [-201.497665, 96.0998917, 18692.3438],
                         [-412.053192, -511.558380, 18571.8145], [-472.049225, 243.091171, 18629.4688]])
    expected = [[2021.66769504, 1299.42125245], [2082.42262712, 1097.61661095], [2048.13982880, 974.88781273],
                [2048.42372027, 1125.62374581]]
    np.testing.assert_allclose(project(transform(joints3d, camera.world_to_camera), camera.intrinsics), expected, atol=0.02)


def test_a_person_who_stands_still_is_kept_once_and_one_without_joints_never(tmp_path):
    write_splits(tmp_path, "04ac,0026,train,left")
    poses = walk([0, 0, 99, 0, 101, 101])
    poses[0] = np.nan
    write_clip(tmp_path / "trainval", poses, cameras=["left"])
    assert [example.provenance["frame"] for example in load_all(tmp_path)] == [1, 4]


def test_the_folder_of_the_archives_may_be_kept(tmp_path):
    root = tmp_path / "ASPset-510"
    write_splits(root, "04ac,0026,train,mid")
    write_clip(root / "trainval", walk([0]))
    (example,) = load_all(tmp_path)
    assert example.provenance["source"] == "ASPset-510/trainval/videos/04ac/04ac-0026-mid.mkv"


def test_a_clip_without_a_camera_in_the_splits_counts_in_all_views(tmp_path):
    write_splits(tmp_path, "04ac,0026,train", "", "04ac,0027,test,right")
    write_clip(tmp_path / "trainval", walk([0]))
    assert [unit["camera"] for unit in ADAPTER.list_units(tmp_path, "train")] == ["left", "mid", "right"]
    assert ADAPTER.list_units(tmp_path, "validation") == []


@pytest.mark.parametrize(("row", "reason"), [
    ("nan,nan,nan,nan", "[nan, nan, nan, nan]"), ("500,80,400,490", "[500.0, 80.0, 400.0, 490.0]"),
    ("1,2,3", "[1.0, 2.0, 3.0]")])
def test_a_wrong_box_is_reported_and_the_rest_read(tmp_path, row, reason):
    write_splits(tmp_path, "04ac,0026,train,left")
    write_clip(tmp_path / "trainval", walk([0, 200]), cameras=["left"], boxes=[row, "400,80,620,500"])
    error, example = load_all(tmp_path)
    assert f"04ac-0026-left.csv: row 1 below the header is {reason}" in str(error)
    assert example.provenance["frame"] == 1


@pytest.mark.parametrize(("num_boxes", "num_pictures", "is_wrong"), [(8, 8, False), (8, 6, False), (7, 8, True), (8, 4, True)])
def test_counts_must_agree(tmp_path, num_boxes, num_pictures, is_wrong):
    write_splits(tmp_path, "04ac,0026,train,left")
    write_clip(tmp_path / "trainval", walk(200 * np.arange(8)), cameras=["left"], boxes=["400,80,620,500"] * num_boxes)
    write_video(tmp_path / "trainval" / "videos" / "04ac" / "04ac-0026-left.mkv",
                [gray_image(WIDTH, HEIGHT)] * num_pictures, "FFV1")
    if is_wrong:
        with pytest.raises(ValueError, match=rf"left\.mkv has {num_pictures} frames, .*\.c3d 8 and .*\.csv {num_boxes};"):
            load_all(tmp_path)
    else:
        assert len(load_all(tmp_path)) == num_pictures


def test_broken_files_of_a_unit_are_named(tmp_path):
    write_splits(tmp_path, "04ac,0026,train,left")
    write_clip(tmp_path / "trainval", walk([0]), cameras=["left"])
    folder = tmp_path / "trainval"
    (folder / "videos" / "04ac" / "04ac-0026-left.mkv").write_bytes(b"\0" * 999)
    with pytest.raises(ValueError, match=r"04ac-0026-left\.mkv cannot be read as a video"):
        load_all(tmp_path)
    (folder / "joints_3d" / "04ac" / "04ac-0026.c3d").write_bytes(make_c3d(walk([0])[:, 1:], NAMES[1:]))
    with pytest.raises(ValueError, match=r"04ac-0026\.c3d has 16 points, right_knee.*; expected the 17 joints right_ankle"):
        load_all(tmp_path)
    camera = folder / "cameras" / "04ac" / "04ac-left.json"
    for content, message in (({"intrinsic_matrix": [1.0] * 12}, "extrinsic_matrix"), ([1, 2], "intrinsic_matrix"),
                             ({"intrinsic_matrix": [1.0] * 9, "extrinsic_matrix": [1.0] * 16}, "12 numbers"),
                             ({"intrinsic_matrix": [10**400] * 12}, "OverflowError")):
        camera.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"04ac-left\.json: expected .*{message}"):
            load_all(tmp_path)


@pytest.mark.parametrize("labels", [[""] * 17, [f"P{i}" for i in range(17)]])
def test_points_without_the_names_of_joints_are_in_their_order(tmp_path, labels):
    path = tmp_path / "04ac-0026.c3d"
    path.write_bytes(make_c3d(walk([0, 50]), labels))
    np.testing.assert_allclose(aspset.read_poses(path), walk([0, 50]), atol=0.01)


@pytest.mark.parametrize("row", ["04ac,0026", "04ac,0026,training,all", "04ac,0026,train,middle", "../04ac,0026,train,all"])
def test_broken_splits_are_named(tmp_path, row):
    write_splits(tmp_path, "04ac,0025,train,all", row)
    with pytest.raises(ValueError, match=r"splits\.csv: line 2: expected subject, clip, one of train, val, test"):
        ADAPTER.list_units(tmp_path, "train")
    write_splits(tmp_path, "x" * 200_000)  # more than the library reads as one field
    with pytest.raises(ValueError, match=r"splits\.csv cannot be read as a CSV file: .*field"):
        ADAPTER.list_units(tmp_path, "train")


def test_missing_files_are_named_with_their_source(tmp_path, caplog):
    site = r"https://archive\.org/details/aspset510"
    with pytest.raises(FileNotFoundError, match=rf"splits\.csv is missing.*{site}"):
        ADAPTER.list_units(tmp_path, "train")
    write_splits(tmp_path, "04ac,0026,train,all", "1e28,0001,test,mid")
    with pytest.raises(FileNotFoundError, match=rf"none of the 3 train videos .*trainval/videos/04ac/.*-left.mkv.*{site}"):
        ADAPTER.list_units(tmp_path, "train")
    write_clip(tmp_path / "trainval", walk([0]), cameras=["mid"])
    assert [unit["camera"] for unit in ADAPTER.list_units(tmp_path, "train")] == ["mid"]
    assert "aspset, train: 2 of the 3 videos of splits.csv are not in" in caplog.text
    for name in ("joints_3d/04ac/04ac-0026.c3d", "boxes/04ac/04ac-0026-mid.csv", "cameras/04ac/04ac-mid.json"):
        path = tmp_path / "trainval" / name
        path.rename(tmp_path / path.name)
        with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing.*{site}"):
            load_all(tmp_path)
        (tmp_path / path.name).rename(path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "aspset"
