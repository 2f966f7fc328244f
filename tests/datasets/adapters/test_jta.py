"""The JTA adapter on sequences in the authors' layout: JSON tables of joints, videos of painted people."""

import json
import pickle

import numpy as np
import pytest

from datasets.adapters import jta
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = jta.ADAPTER
SKELETON = load_skeleton("jta_22")
WIDTH, HEIGHT = 1920, 1080
# Joint types in the order of the authors' table; the last of the spine is the pelvis here.
JOINTS = ["head_top", "head", "neck", "right_clavicle", "right_shoulder", "right_elbow", "right_wrist", "left_clavicle",
          "left_shoulder", "left_elbow", "left_wrist", "spine0", "spine1", "spine2", "spine3", "pelvis", "right_hip",
          "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"]
PLACES = (-0.9, 0.2, 4.5), (1.3, -0.2, 5.0)  # of the two people, m
SPINE = {"spine0": -0.36, "spine1": -0.28, "spine2": -0.19, "spine3": -0.1}  # from the neck down: y, m
HIPS_TO_FEET = [JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("hip", "knee", "ankle")]


def tilt(pitch=0.35, roll=0.12):
    """[3, 3]: turns a person from the axes of a level camera to those of one that looks down, and is askew."""
    cos, sin = np.cos(pitch), np.sin(pitch)
    looks_down = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    cos, sin = np.cos(roll), np.sin(roll)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ looks_down


def person(place, rotation=None):
    """[22, 3] metres, camera frame, in the order of the files."""
    joints = body(SKELETON, (0, 0, 0))[[SKELETON.joint_names.index(name) for name in JOINTS]]
    for name, y in SPINE.items():
        joints[JOINTS.index(name)] = 0, y, 0.02
    return joints @ (tilt() if rotation is None else rotation).T + place


def pixels(joints3d, focal=1167.0):
    """[22, 2] px: where the game shows the joints; the authors' focal length, 1158, leaves its lens' distortion out."""
    return focal * joints3d[:, :2] / joints3d[:, 2:] + [960, 540] - 0.5


def rows(frame, person_id, joints3d, hidden=(), hidden_by_self=()):
    """The table's rows of one person in a frame, numbered from 1."""
    points = np.round(pixels(joints3d, 1158.0) + 0.5)
    return [[frame, person_id, joint, *points[joint].tolist(), *joints3d[joint].tolist(), int(joint in hidden),
             int(joint in hidden_by_self)] for joint in range(22)]


def write_annotation(raw_dir, table, name="train/seq_0"):
    path = raw_dir / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


def frame(pose):
    """An image of a pose [22, 3], None: of nobody."""
    image = gray_image(WIDTH, HEIGHT)
    if pose is not None:
        paint(image, pixels(pose))
    return image


def write_painted_video(raw_dir, poses, name="train/seq_0"):
    """One frame for each pose [22, 3]; None: nobody is painted. Without losses if somebody is, as that is slow."""
    codec = "mp4v" if all(pose is None for pose in poses) else "FFV1"
    write_video(raw_dir / "videos" / f"{name}.mp4", map(frame, poses), codec, 30)


def write_sequence(raw_dir, table, num_frames, name="train/seq_0"):
    write_annotation(raw_dir, table, name)
    write_painted_video(raw_dir, [None] * num_frames, name)


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def who(items):
    return [(item.provenance["frame"], item.provenance["person"]) for item in items]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    people = [[person(np.add(place, (0.06 * frame * (1 + i), 0, 0))) for frame in range(3)] for i, place in enumerate(PLACES)]
    table = [row for i in (1, 0) for frame in range(3) for row in rows(frame + 1, 4 + 7 * i, people[i][frame], [3, 9])]
    write_annotation(raw_dir, table)
    # One person each, as dots of both have the same colours.
    write_painted_video(raw_dir, [people[0][0], people[1][1], people[0][2]])
    write_annotation(raw_dir, rows(1, 0, people[1][0]), "val/seq_300")
    write_painted_video(raw_dir, [people[1][0]], "val/seq_300")
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train", "validation"] and not manifest["skipped"]
    assert manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "jta")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    # Person 4 moves by 60 mm a frame, person 11 by 120.
    assert who(examples) == [(0, 4), (0, 11), (1, 11), (2, 4), (2, 11)]
    check_crop(examples[0], 1000 * people[0][0])
    check_crop(examples[2], 1000 * people[1][1])
    check_crop(examples[3], 1000 * people[0][2])
    check_crop(dataset.read("validation", 0), 1000 * people[1][0])
    assert examples[3].provenance == {"source": "videos/train/seq_0.mp4", "sequence": "train/seq_0", "frame": 2, "person": 4}


def test_boxes_hold_the_joints_that_are_not_hidden_by_others(tmp_path):
    joints3d = person(PLACES[0])
    write_sequence(tmp_path, rows(1, 0, joints3d, HIPS_TO_FEET, hidden_by_self=[0, 6]), 1)
    (example,) = load_all(tmp_path)
    visible = np.delete(pixels(joints3d), HIPS_TO_FEET, axis=0)
    low, high = visible.min(axis=0), visible.max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)
    assert np.isfinite(example.joints3d_world).all()  # hidden joints are labelled


def test_boxes_end_where_the_joints_leave_the_image(tmp_path):
    joints3d = person((-3.6, 0.2, 4.5))
    write_sequence(tmp_path, rows(1, 0, joints3d), 1)
    (example,) = load_all(tmp_path)
    inside = pixels(joints3d)[pixels(joints3d)[:, 0] >= -0.5]
    assert 5 <= len(inside) < 22
    np.testing.assert_allclose(example.bbox[2:], 1.15 * np.ptp(inside, axis=0))


def test_people_need_5_visible_joints_on_100_pixels(tmp_path):
    joints3d = person(PLACES[0])
    small = person((0, 0, 30))
    large = person((1, 0, 10))
    sides = [np.ptp(pixels(pose), axis=0).max() for pose in (small, large)]
    assert sides[0] < 1.15 * sides[0] < 100 < sides[1]
    almost = person((0, 0, 30 * sides[0] / 95))  # 95 px, and 109 with the margin of the box
    behind = person((0, 0, -5))
    table = [row for i, (pose, num_visible) in enumerate(
        [(joints3d, 4), (joints3d, 5), (small, 22), (large, 22), (almost, 22), (behind, 22)])
        for row in rows(1, i, pose, hidden=range(22 - num_visible))]
    write_sequence(tmp_path, table, 1)
    assert who(load_all(tmp_path)) == [(0, 1), (0, 3)]


def test_every_person_is_sampled_by_their_own_movement(tmp_path):
    steps = {0: [0, 60, 120, 180, 220], 1: [0, 95, 105, 199, 206]}
    table = [row for frame in range(5) for i in (0, 1)
             for row in rows(frame + 1, i, person(np.add(PLACES[i], (steps[i][frame] / 1000, 0, 0))))]
    write_sequence(tmp_path, table, 5)
    assert who(load_all(tmp_path)) == [(0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (4, 1)]


def test_up_is_what_most_people_of_the_frame_agree_on(tmp_path):
    level = person((0, 0, 0), np.eye(3))
    neck_to_ankles = level[JOINTS.index("neck")] - (level[JOINTS.index("left_ankle")] + level[JOINTS.index("right_ankle")]) / 2
    up = neck_to_ankles / np.linalg.norm(neck_to_ankles)
    lying = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    crowd = [tilt(), tilt(), lying]
    table = [row for i, rotation in enumerate(crowd) for row in rows(1, i, person((1.2 * i - 1, 0, 6), rotation))]
    table += rows(2, 2, person((1, 0, 6.5), lying))  # another frame, another camera
    write_sequence(tmp_path, table, 2)
    examples = load_all(tmp_path)
    assert who(examples) == [(0, 0), (0, 1), (0, 2), (1, 2)]
    for example in examples[:3]:
        np.testing.assert_allclose(example.camera.up, tilt() @ up, atol=1e-3)
    np.testing.assert_allclose(examples[3].camera.up, lying @ up, atol=1e-9)


def test_joints_that_are_not_annotated_are_nan_and_up_is_then_up_in_the_image(tmp_path):
    missing = [JOINTS.index("neck"), JOINTS.index("left_elbow")]
    write_sequence(tmp_path, [row for row in rows(1, 0, person(PLACES[0])) if row[2] not in missing], 1)
    (example,) = load_all(tmp_path)
    assert np.flatnonzero(np.isnan(example.joints3d_world).any(axis=1)).tolist() == missing
    np.testing.assert_array_equal(example.camera.up, [0, -1, 0])


def test_people_without_a_detection_are_dropped_and_large_detections_are_of_others(tmp_path):
    raw_dir = tmp_path / "raw"
    poses = [person(place) for place in (*PLACES, (0.2, 0, 6))]
    write_sequence(raw_dir, [row for i, pose in enumerate(poses) for row in rows(1, i, pose)], 1)
    boxes = []
    for pose, factor in zip(poses[:2], (1.95, 2.05), strict=True):  # of the area of the joints' box
        low, high = pixels(pose).min(axis=0), pixels(pose).max(axis=0)
        width, height = (high - low) * [factor, 1]
        boxes.append([low[0] - (width - (high - low)[0]) / 2 + 0.5, low[1] + 0.5, width, height])
    (tmp_path / "found.json").write_text(json.dumps([
        {"file_name": "videos/train/seq_0.mp4#0", "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]))
    prepare(ADAPTER, raw_dir, tmp_path / "data", detections=tmp_path / "found.json", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "jta")
    (example,) = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert example.provenance["person"] == 0
    assert example.bbox[2] / example.bbox[3] == pytest.approx(boxes[0][2] / boxes[0][3], rel=0.05)


def test_splits_are_the_folders_in_the_order_of_numbers(tmp_path):
    for name in ("train/seq_10", "train/seq_9", "val/seq_300", "test/seq_400", "train/seq_x"):
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        write_annotation(tmp_path, [], name)
    assert ADAPTER.list_units(tmp_path, "train") == ["videos/train/seq_9.mp4", "videos/train/seq_10.mp4"]
    assert ADAPTER.list_units(tmp_path, "validation") == ["videos/val/seq_300.mp4"]
    assert ADAPTER.list_units(tmp_path, "test") == ["videos/test/seq_400.mp4"]


def test_a_person_with_nan_does_not_stop_the_others(tmp_path):
    table = [row for frame in (1, 2) for i in (0, 1)
             for row in rows(frame, i, person(np.add(PLACES[i], (0.2 * frame, 0, 0))))]
    for row in table[:22]:
        row[6] = float("nan")
    write_sequence(tmp_path, table, 2)
    error, *examples = load_all(tmp_path)
    assert who(examples) == [(0, 1), (1, 0), (1, 1)]
    assert "train/seq_0.json: frame 1, person 0 has coordinates that are not finite" in str(error)


def test_frames_that_the_video_lacks_are_reported_after_those_it_has(tmp_path):
    table = [row for frame in range(4) for row in rows(frame + 1, 0, person(np.add(PLACES[0], (0.2 * frame, 0, 0))))]
    write_sequence(tmp_path, table, 3)
    items = ADAPTER.load_unit(tmp_path, "videos/train/seq_0.mp4")
    assert [next(items).provenance["frame"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"seq_0\.mp4: frame 3 cannot be decoded: the video ends after 3 frames"):
        next(items)


@pytest.mark.parametrize(("text", "message"), [
    ("[[1, 0, 0, 9, 9, 0.1, 0.1, 5.0, 0, 0], [1, 0, 1, 9, 9,", "seq_0.json cannot be read as rows of 10 numbers"),
    ("[[1, 0, 0, 9, 9, 0.1, 0.1, 5.0, 0]]", "it has 1 rows and 9 numbers"),
    ("[[1, 0, 0, 9, null, 0.1, 0.1, 5.0, 0, 0]]", "seq_0.json cannot be read as rows of 10 numbers"),
    ("[]", "it has 0 rows and"),
    ("", "it has 0 rows and"),
    ("[[1, 0, 22, 9, 9, 0.1, 0.1, 5.0, 0, 0]]", "row 0 is of frame, person and joint .1.0, 0.0, 22.0.; expected whole"),
    ("[[0, 0, 2, 9, 9, 0.1, 0.1, 5.0, 0, 0]]", "row 0 is of frame, person and joint .0.0"),
    ("[[1.5, 0, 2, 9, 9, 0.1, 0.1, 5.0, 0, 0]]", "row 0 is of frame, person and joint .1.5"),
    ("[[NaN, 1e300, 2, 9, 9, 0.1, 0.1, 5.0, 0, 0]]", "row 0 is of frame, person and joint .nan"),
])
def test_broken_annotations_are_named(tmp_path, text, message):
    write_sequence(tmp_path, [], 1)
    (tmp_path / "annotations" / "train" / "seq_0.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_an_unreadable_video_is_reported_and_the_rest_goes_on(tmp_path):
    raw_dir = tmp_path / "raw"
    for name in ("train/seq_0", "train/seq_1"):
        write_sequence(raw_dir, rows(1, 0, person(PLACES[0])), 1, name)
    (raw_dir / "videos" / "train" / "seq_0.mp4").write_bytes(b"\0" * 999)
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, skip_bad=True, progress=False)
    assert manifest["splits"]["train"]["num_examples"] == 1
    assert "seq_0.mp4 cannot be read as a video" in manifest["skipped"][0]["reason"]


def test_missing_files_are_named(tmp_path):
    for folder in ("annotations", "videos"):
        with pytest.raises(FileNotFoundError, match=rf"no sequences in .*{folder}/train\. Get .*https://github\.com/fabbrimatteo"):
            ADAPTER.list_units(tmp_path, "train")
        write_annotation(tmp_path, [], "train/seq_0")
    write_painted_video(tmp_path, [None], "train/seq_1")
    with pytest.raises(FileNotFoundError, match=r"annotations/train/seq_1\.json is missing\. Get annotations"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "jta"
