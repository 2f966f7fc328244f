"""The AIST++ adapter on annotations in the authors' layout and lossless videos of a painted dancer."""

import json
import logging
import pickle
import re

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datasets.adapters import aist
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = aist.ADAPTER
SKELETON = load_skeleton("aist_19")
NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
         "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
         "right_ankle"]  # in the order of the files
SEQUENCE = "gBR_sBM_cAll_d04_mBR0_ch01"
SMALL = (96, 54)
DISTORTION = [-0.11, 0.05, 0.002, -0.003, 0.01]


def rotation(camera):
    """[3, 3] from the world, y up, to the camera, y down: nine cameras on an arc before the dancer, tilted and rolled."""
    return (Rotation.from_euler("ZX", [2 + camera, 8], degrees=True) * Rotation.from_euler("X", 180, degrees=True)
            * Rotation.from_euler("Y", -5 * (camera - 1), degrees=True)).as_matrix()


def translation_cm(camera):
    return np.array([20.0 + 8 * camera, 15, 380]) - rotation(camera) @ [0, 95, 0]


def intrinsics(camera, size=(1920, 1080)):
    width, height = size
    return np.array([[0.75 * width, 0, width / 2 + 9 + camera], [0, 0.751 * width, height / 2 - 12], [0, 0, 1.0]])


def dancer_cm(offset_cm=0.0):
    """[17, 3] world: before camera 1, so much to its right."""
    in_camera = 100 * body(SKELETON, (offset_cm / 100, 0.0, 0.0))[[SKELETON.joint_names.index(name) for name in NAMES]]
    in_camera[NAMES.index("nose"), 1] -= 80  # from where its dot would cover the pelvis'
    return in_camera @ rotation(1) + [0, 95, 0]


def truth_mm(joints_cm):
    """[19, 3] as our skeleton has it."""
    middles = [(joints_cm[NAMES.index(f"left_{name}")] + joints_cm[NAMES.index(f"right_{name}")]) / 2
               for name in ("shoulder", "hip")]
    return 10 * np.array([*joints_cm, *middles])


def pixels(joints_mm, camera):
    points, _ = cv2.projectPoints(np.float64(joints_mm), cv2.Rodrigues(rotation(camera))[0], 10 * translation_cm(camera),
                                  intrinsics(camera), np.array(DISTORTION))
    return points[:, 0]


def video_path(raw_dir, camera, sequence=SEQUENCE):
    return raw_dir / "videos" / f"{sequence.replace('cAll', f'c{camera:02d}')}.mp4"


def write_painted_video(raw_dir, poses_cm, camera, rate=60.0, sequence=SEQUENCE):
    images = [gray_image(1920, 1080) for _ in poses_cm]
    for image, joints in zip(images, poses_cm, strict=True):
        paint(image, pixels(truth_mm(joints), camera), radius=13)
    write_video(video_path(raw_dir, camera, sequence), images, "FFV1", rate)


def write_small_video(raw_dir, count, camera=1, rate=60.0, sequence=SEQUENCE):
    """Frame i has the brightness i % 251."""
    images = [np.full((*SMALL[::-1], 3), i % 251, np.uint8) for i in range(count)]
    write_video(video_path(raw_dir, camera, sequence), images, "FFV1", rate)


def write_annotations(raw_dir, poses_cm, size=(1920, 1080), folder="annotations", splits=None, ignored=(), sequence=SEQUENCE):
    """Of one sequence, and the split files. splits: names of sequences by the authors' names of the splits."""
    folder = raw_dir / folder
    for name in ("keypoints3d", "cameras", "splits"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    poses_cm = np.float64(poses_cm)
    (folder / "keypoints3d" / f"{sequence}.pkl").write_bytes(pickle.dumps(
        {"keypoints3d": poses_cm + 7, "keypoints3d_optim": poses_cm}, protocol=2))
    (folder / "cameras" / "mapping.txt").write_text(f"gXX_sBM_cAll_d01_mXX0_ch01 setting1\n{sequence} setting2\n")
    (folder / "cameras" / "setting2.json").write_text(json.dumps([
        {"name": f"c{camera:02d}", "size": size, "matrix": intrinsics(camera, size).tolist(),
         "rotation": Rotation.from_matrix(rotation(camera)).as_rotvec().tolist(),
         "translation": translation_cm(camera).tolist(), "distortions": DISTORTION} for camera in range(1, 10)]))
    for split in ("train", "val", "test"):
        names = {"train": [sequence], **(splits or {})}.get(split, [])
        (folder / "splits" / f"pose_{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "ignore_list.txt").write_text("".join(f"{name}\n" for name in ignored))


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    poses = [dancer_cm(0), dancer_cm(6), dancer_cm(12)]
    write_annotations(raw_dir, poses)
    for camera in (1, 6):
        write_painted_video(raw_dir, poses, camera)
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"] and list(manifest["splits"]) == ["train"]
    dataset = PreparedDataset(data_root / "aist")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    # Still people are kept once: 60 mm are not enough, 60 mm and 60 mm are.
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        ("c01", 0), ("c01", 2), ("c06", 0), ("c06", 2)]
    for example in examples:
        check_crop(example, truth_mm(poses[example.provenance["frame"]]))
        up = example.world_to_camera[:3, :3] @ [0, 1, 0]
        assert abs(up[0]) < 1e-4 and up[1] < -0.9  # crops are upright
    assert examples[3].provenance == {"source": "videos/gBR_sBM_c06_d04_mBR0_ch01.mp4", "subject": "d04", "sequence": SEQUENCE,
                                      "camera": "c06", "frame": 2, "row": 2}


def test_annotations_in_the_folder_of_their_archive(tmp_path):
    write_annotations(tmp_path, [dancer_cm()], SMALL, folder="aist_plusplus_final")
    write_small_video(tmp_path, 1)
    assert len(load_all(tmp_path)) == 1


def test_boxes_hold_the_projected_joints(tmp_path):
    write_annotations(tmp_path, [dancer_cm()])
    write_painted_video(tmp_path, [dancer_cm()], 9)
    (example,) = load_all(tmp_path)
    points = pixels(truth_mm(dancer_cm()), 9)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)
    assert example.mask is None


@pytest.mark.parametrize(("rate", "rows", "frames"), [
    (60, [0, 1, 2, 700], [0, 1, 2, 700]),
    (60000 / 1001, [0, 1, 2, 499, 502, 1001, 1400, 1502, 1503], [0, 1, 2, 499, 501, 1000, 1399, 1500, 1501]),
    (30, [0, 2, 4, 700], [0, 1, 2, 350])])
def test_row_and_frame_are_at_the_same_time(rate, rows, frames):
    """Row i is at i / 60 s, and frame j at j / rate: of the frames, none is nearer."""
    found = aist.frame_of_rows(1504, rate)
    assert found[rows].tolist() == frames
    times = np.arange(1504) / 60
    distance = np.abs(found / rate - times)
    for other in (found - 1, found + 1):
        assert (distance <= np.abs(other / rate - times) + 1e-9).all()


def test_labels_at_60_hz_of_a_video_at_59_94(tmp_path):
    poses = np.array([dancer_cm(20 * (row >= 1) + 20 * (row >= 560)) for row in range(601)])
    write_annotations(tmp_path, poses, SMALL)
    write_small_video(tmp_path, 600, rate=59.94)
    examples = load_all(tmp_path)
    assert [(e.provenance["row"], e.provenance["frame"]) for e in examples] == [(0, 0), (1, 1), (560, 559)]
    assert [e.image.mean() for e in examples] == [0, 1, 559 % 251]
    np.testing.assert_allclose(examples[2].joints3d_world[:17], 10 * poses[560])


def test_frames_of_two_rows_are_read_once(tmp_path):
    write_annotations(tmp_path, [dancer_cm(20 * row) for row in range(6)], SMALL)
    write_small_video(tmp_path, 3, rate=30)
    assert [(e.provenance["row"], e.provenance["frame"]) for e in load_all(tmp_path)] == [(0, 0), (1, 1), (3, 2)]


def test_nan_joints_count_as_changed_and_have_no_midpoint(tmp_path):
    poses = np.array([dancer_cm()] * 4)
    poses[1, NAMES.index("left_hip")] = np.nan
    poses[2] = np.nan  # nobody
    poses[3, NAMES.index("left_ear"), 0] = np.nan
    write_annotations(tmp_path, poses, SMALL)
    write_small_video(tmp_path, 4)
    examples = load_all(tmp_path)
    assert [e.provenance["frame"] for e in examples] == [0, 1, 3]
    missing = [[SKELETON.joint_names[i] for i in np.flatnonzero(np.isnan(e.joints3d_world).all(axis=1))] for e in examples]
    assert missing == [[], ["left_hip", "pelvis"], ["left_ear"]]


def test_frame_without_a_box_is_reported_and_the_rest_goes_on(tmp_path):
    poses = np.array([dancer_cm()] * 2)
    poses[0, 1:] = np.nan
    write_annotations(tmp_path, poses, SMALL)
    write_small_video(tmp_path, 2)
    error, example = load_all(tmp_path)
    assert re.search(rf"{SEQUENCE}\.pkl: row 0: fewer than two joints of keypoints3d_optim", str(error))
    assert isinstance(error, ValueError) and example.provenance["frame"] == 1


def test_splits_views_and_ignored_sequences(tmp_path, caplog):
    other, ignored, absent = (f"gJB_sBM_cAll_d07_mJB3_ch0{i}" for i in (5, 6, 7))
    write_annotations(tmp_path, [dancer_cm()], splits={"train": [SEQUENCE, ignored, absent], "val": [other], "test": []},
                      ignored=[ignored])
    for sequence in (SEQUENCE, other, ignored):
        for camera in range(1, 11):
            video_path(tmp_path, camera, sequence).parent.mkdir(exist_ok=True)
            video_path(tmp_path, camera, sequence).touch()
    video_path(tmp_path, 3, other).unlink()
    (tmp_path / "videos" / "readme.mp4").touch()
    units = {split: ADAPTER.list_units(tmp_path, split) for split in ("train", "validation", "test", "other")}
    assert units == {"train": [f"videos/gBR_sBM_c0{i}_d04_mBR0_ch01.mp4" for i in (1, 2, 3, 4, 6, 7, 8, 9)],
                     "validation": [f"videos/gJB_sBM_c0{i}_d07_mJB3_ch05.mp4" for i in (1, 2, 4, 5, 6, 8, 9)],
                     "test": [], "other": []}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"aist, train: no videos of 1 of 2 sequences, {absent}, say" in record.getMessage()


@pytest.mark.parametrize("name", ["splits/pose_train.txt", "ignore_list.txt", "cameras/mapping.txt", "cameras/setting2.json",
                                  f"keypoints3d/{SEQUENCE}.pkl"])
def test_missing_annotations_are_named_with_their_source(tmp_path, name):
    write_annotations(tmp_path, [dancer_cm()], SMALL)
    write_small_video(tmp_path, 1)
    (tmp_path / "annotations" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"annotations/{name} is missing\. Get .*https://google\.github\.io/aistplusplus"):
        load_all(tmp_path)


def test_missing_videos_are_named_with_their_source(tmp_path):
    write_annotations(tmp_path, [dancer_cm()])
    with pytest.raises(FileNotFoundError, match=r"no videos of cameras c01 to c09 in .*videos\. .*aistdancedb\.ongaaccel\.jp"):
        ADAPTER.list_units(tmp_path, "train")


def test_counts_that_differ_are_errors(tmp_path):
    poses = np.array([dancer_cm()] * 62)
    poses[60] += 20
    for num_rows, expected in ((62, None), (61, [0]), (1, [0])):
        write_annotations(tmp_path, poses[:num_rows], SMALL)
        write_small_video(tmp_path, 1)
        if expected is None:
            with pytest.raises(ValueError, match=r"ch01\.mp4 has 1 frames, the 62 rows of .*ch01\.pkl belong to 62; expected"):
                load_all(tmp_path)
        else:  # the row without a frame is left out
            assert [e.provenance["frame"] for e in load_all(tmp_path)] == expected
    write_small_video(tmp_path, 62)
    with pytest.raises(ValueError, match=r"ch01\.mp4 has 62 frames, the 1 rows"):
        load_all(tmp_path)


def test_unreadable_video_is_reported_and_the_rest_goes_on(tmp_path):
    write_annotations(tmp_path, [dancer_cm()], SMALL)
    write_small_video(tmp_path, 1, camera=2)
    video_path(tmp_path, 1).write_bytes(b"\0" * 999)
    first, second = ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match=r"c01.*mp4 cannot be read as a video"):
        list(ADAPTER.load_unit(tmp_path, first))
    assert len(list(ADAPTER.load_unit(tmp_path, second))) == 1


def test_frames_of_another_size_than_calibrated_are_an_error(tmp_path):
    write_annotations(tmp_path, [dancer_cm()], (1920, 1080))
    write_small_video(tmp_path, 1)
    with pytest.raises(ValueError, match=r"ch01\.mp4 has 96 x 54 px, its camera is calibrated for 1920 x 1080"):
        load_all(tmp_path)


@pytest.mark.parametrize(("mapping", "message"), [
    ("gXX setting2\n", rf"mapping\.txt has no line for {SEQUENCE}"),
    (f"{SEQUENCE} ../../x\n", rf"mapping\.txt: {SEQUENCE}: the path '\.\./\.\./x\.json' leaves the folder")])
def test_settings_must_be_known(tmp_path, mapping, message):
    write_annotations(tmp_path, [dancer_cm()], SMALL)
    write_small_video(tmp_path, 1)
    (tmp_path / "annotations" / "cameras" / "mapping.txt").write_text(mapping)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda cameras: cameras[:8], r"camera 9: expected a list of nine tables .*IndexError"),
    (lambda cameras: {"cameras": cameras}, r"camera 9: expected a list of nine tables .*KeyError"),
    (lambda cameras: [{**camera, "size": ["wide", "high"]} for camera in cameras], r"camera 9: expected .*'wide'"),
    (lambda cameras: [{**camera, "size": [float("inf"), 54]} for camera in cameras], r"camera 9: expected .*OverflowError"),
    (lambda cameras: [{**camera, "translation": [1, 2]} for camera in cameras], r"camera 9: translation: expected 3")])
def test_calibrations_must_be_whole(tmp_path, change, message):
    write_annotations(tmp_path, [dancer_cm()], SMALL)
    write_small_video(tmp_path, 1, camera=9)
    path = tmp_path / "annotations" / "cameras" / "setting2.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"setting2\.json: {message}"):
        load_all(tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    ({"keypoints3d_optim": np.zeros((0, 17, 3))}, r"keypoints3d_optim has shape \[0, 17, 3\], expected \[rows, 17, 3\]"),
    ({"keypoints3d_optim": np.zeros((5, 51))}, r"keypoints3d_optim has shape \[5, 51\]"),
    ({"keypoints3d": np.zeros((5, 17, 3))}, r"KeyError\('keypoints3d_optim'\)"),
    (["keypoints3d_optim"], r"expected a dictionary with an array keypoints3d_optim")])
def test_labels_must_have_the_right_form(tmp_path, content, message):
    write_annotations(tmp_path, [dancer_cm()], SMALL)
    write_small_video(tmp_path, 1)
    (tmp_path / "annotations" / "keypoints3d" / f"{SEQUENCE}.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"{SEQUENCE}\.pkl.*{message}"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "aist_19"
