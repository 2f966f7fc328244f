"""The adapters of Fit3D, HumanSC3D and CHI3D on made-up videos of painted people, cameras and labels in the authors' layout."""

import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.prepare import prepare
from datasets.registry import load_adapter
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

SKELETON = load_skeleton("fit3d_25")
# In the order of the files, by the names in the authors' own list.
FILE_NAMES = ["pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "spine", "neck",
              "head", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
              "left_foot", "left_toe", "right_foot", "right_toe", "left_thumb", "left_finger", "right_thumb", "right_finger"]
CAMERAS = "50591643", "65906101"
SIZE = 900
FOCAL, CENTER = (1037.2, 1035.6), (452.3, 446.1)
K1, K2, K3, P1, P2 = -0.19, 0.16, -0.02, 0.0011, -0.0016
SITES = {"fit3d": "https://fit3d.imar.ro", "humansc3d": "https://sc3d.imar.ro", "chi3d": "https://ci3d.imar.ro"}
PLACES = (-0.4, 0.05, 3.7), (0.35, 0.1, 4.0)  # of two people before the first camera, m
# Where people stand, m along the first camera's x axis: the third and the last place are 100 mm and more from all before.
OFFSETS = 0.0, 0.06, 0.12, 0.12, 0.0, 0.3


def extrinsics(camera):
    """R, world to camera, and the position in metres; z up. The second one stands to the left, all look down a little."""
    angle, tilt = 0.3 * camera, 0.12
    right = np.array([np.cos(angle), -np.sin(angle), 0.02])
    forward = np.array([np.sin(angle), np.cos(angle), -tilt])
    forward -= right * (forward @ right) / (right @ right)
    right, forward = right / np.linalg.norm(right), forward / np.linalg.norm(forward)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, np.array([0.3, -0.2, 1.6]) + 3.7 * (extrinsics(0)[0][2] - forward if camera else np.zeros(3))


def truth(offsets=OFFSETS, place=PLACES[0]):
    """[num_frames, 25, 3] metres, world: X_camera = R (X_world - C) solved for X_world."""
    rotation, position = extrinsics(0)
    return np.array([body(SKELETON, np.add(place, (offset, 0, 0))) @ rotation + position for offset in offsets])


def image_points(joints3d, camera):
    """[n, 2] px of the distorted image, by OpenCV."""
    rotation, position = extrinsics(camera)
    matrix = np.array([[FOCAL[0], 0, CENTER[0] + camera], [0, FOCAL[1], CENTER[1]], [0, 0, 1]])
    points, _ = cv2.projectPoints(joints3d, cv2.Rodrigues(rotation)[0], -rotation @ position, matrix,
                                  np.array([K1, K2, P1, P2, K3]))
    return points[:, 0]


def camera_table(camera):
    rotation, position = extrinsics(camera)
    return {"extrinsics": {"R": rotation.tolist(), "T": [position.tolist()]},
            "intrinsics_w_distortion": {"f": [list(FOCAL)], "c": [[CENTER[0] + camera, CENTER[1]]], "k": [[K1, K2, K3]],
                                        "p": [[P1, P2]]},
            "intrinsics_wo_distortion": {"f": [900.0, 901.0], "c": [430.0, 431.0]}}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_painted_video(path, people, camera, num_frames):
    """In frame i person i % 2 of two is painted, as dots of both would have the same colours."""
    images = [gray_image(SIZE, SIZE) for _ in range(num_frames)]
    for frame, image in enumerate(images[:people.shape[1]]):
        paint(image, np.nan_to_num(image_points(people[frame % len(people), frame], camera)))
    write_video(path, images, "mp4v")


def write_sequence(raw_dir, people, sequence="squat", cameras=CAMERAS, subject="s03", num_video_frames=None):
    """people: [num_people, num_frames, 25, 3] metres; without the first axis if there is one person, as the authors do."""
    folder = raw_dir / "train" / subject
    labels = people if len(people) > 1 else people[0]
    write_json(folder / "joints3d_25" / f"{sequence}.json", {"joints3d_25": labels.tolist()})
    for camera_id in cameras:
        camera = CAMERAS.index(camera_id)
        write_json(folder / "camera_parameters" / camera_id / f"{sequence}.json", camera_table(camera))
        write_painted_video(folder / "videos" / camera_id / f"{sequence}.mp4", people, camera,
                            people.shape[1] if num_video_frames is None else num_video_frames)


def load_all(raw_dir, name="fit3d"):
    adapter = load_adapter(name)
    return [item for unit in adapter.list_units(raw_dir, "train") for item in adapter.load_unit(raw_dir, unit)]


def frames(items):
    return [item.provenance["frame"] for item in items]


@pytest.mark.parametrize("name", ["fit3d", "humansc3d"])
def test_prepared_joints_lie_on_their_dots(tmp_path, name):
    raw_dir = tmp_path / "raw"
    write_sequence(raw_dir, truth()[None], num_video_frames=9)
    write_painted_video(raw_dir / "test" / "s02" / "videos" / "squat.mp4", truth()[None], 0, 1)  # no labels
    prepare(load_adapter(name), raw_dir, tmp_path / "data", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / name)
    assert dataset.skeleton.name == "fit3d_25" and dataset.kind == "3d" and list(dataset.splits()) == ["train"]
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in CAMERAS for frame in (0, 2, 5)]
    assert examples[4].provenance == {"source": "train/s03/videos/65906101/squat.mp4", "subject": "s03",
                                      "sequence": "s03/squat", "camera": "65906101", "frame": 2, "person": 0}
    for example in examples:
        check_crop(example, 1000 * truth()[example.provenance["frame"]])


def test_both_people_of_chi3d_are_sampled_each_for_themselves(tmp_path):
    raw_dir = tmp_path / "raw"
    people = np.stack([truth((0, 0.2, 0.4)), truth((0, 0.2, 0.21), PLACES[1])])
    write_sequence(raw_dir, people, "Grab 1", CAMERAS[1:], subject="s04")
    prepare(load_adapter("chi3d"), raw_dir, tmp_path / "data", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "chi3d")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["frame"], e.provenance["person"]) for e in examples] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert examples[0].provenance["sequence"] == "s04/Grab 1"
    painted = [e for e in examples if e.provenance["person"] == e.provenance["frame"] % 2]
    assert len(painted) == 3
    for example in painted:
        check_crop(example, 1000 * people[example.provenance["person"], example.provenance["frame"]])


def test_joints_are_those_of_the_files_and_left_is_left():
    assert list(SKELETON.joint_names) == [name.replace("finger", "fingers") for name in FILE_NAMES]
    assert load_adapter("chi3d").label_skeleton(None) == "fit3d_25"


def test_boxes_and_up(tmp_path):
    write_sequence(tmp_path, truth([0.0])[None], cameras=CAMERAS[1:])
    (example,) = load_all(tmp_path)
    points = image_points(truth([0.0])[0], 1)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.2 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)
    np.testing.assert_array_equal(example.camera.world_up, [0, 0, 1])
    assert example.camera.up[1] < -0.98


def test_older_release_of_chi3d_has_one_person(tmp_path):
    write_sequence(tmp_path, truth([0.0, 0.2])[None], "Hug 2", CAMERAS[:1])
    assert [(e.provenance["frame"], e.provenance["person"]) for e in load_all(tmp_path, "chi3d")] == [(0, 0), (1, 0)]


def test_joints_without_label(tmp_path):
    poses = truth([0, 0, 0, 0, 0, 0.2, 0.2])
    poses[:3, 0] = poses[4:6, 3] = np.nan  # the pelvis appears in frame 3, an ankle goes in frame 4
    poses[6, 3] = poses[0, 3]  # and comes back where it was before
    poses[1] = np.nan
    write_sequence(tmp_path, poses[None], cameras=CAMERAS[:1])
    items = load_all(tmp_path)
    assert frames(items) == [0, 3, 5]
    np.testing.assert_array_equal(np.isnan(items[0].joints3d_world).any(axis=1), np.arange(25) == 0)


def test_who_is_behind_the_camera_is_reported_and_the_rest_goes_on(tmp_path):
    people = np.stack([truth((0, 0.2)), truth((0, 0.2), PLACES[1])])
    people[1, 0] = truth([0.0], (0, 0, -3))[0]
    write_sequence(tmp_path, people, cameras=CAMERAS[:1])
    items = load_all(tmp_path, "chi3d")
    assert [isinstance(item, ValueError) for item in items] == [False, True, False, False]
    assert "joints3d_25/squat.json: frame 0, person 1: " in str(items[1]) and "camera 50591643" in str(items[1])


def test_short_and_unreadable_videos_are_reported(tmp_path):
    adapter = load_adapter("fit3d")
    write_sequence(tmp_path, truth(np.arange(9) / 5)[None], cameras=CAMERAS[:1], num_video_frames=5)
    with pytest.raises(ValueError, match=r"50591643/squat\.mp4 has 5 frames, .*joints3d_25/squat\.json has 9 poses"):
        load_all(tmp_path)
    write_sequence(tmp_path, truth(np.arange(7) / 5)[None], cameras=CAMERAS[:1], num_video_frames=5)
    assert frames(load_all(tmp_path)) == [0, 1, 2, 3, 4]
    write_sequence(tmp_path, truth()[None], "a", CAMERAS[:1])
    (tmp_path / "train" / "s03" / "videos" / CAMERAS[0] / "a.mp4").write_bytes(b"\0" * 999)
    first, second = adapter.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        list(adapter.load_unit(tmp_path, first))
    assert len(list(adapter.load_unit(tmp_path, second))) == 5


@pytest.mark.parametrize("name", SITES)
def test_missing_files_are_named_with_their_source(tmp_path, name):
    adapter = load_adapter(name)
    with pytest.raises(FileNotFoundError, match=rf"no videos .*train.*{name}_train\.tar\.gz from {SITES[name]} "):
        adapter.list_units(tmp_path, "test")
    write_sequence(tmp_path, truth([0.0])[None], cameras=CAMERAS[:1])
    assert adapter.list_units(tmp_path, "test") == adapter.list_units(tmp_path, "validation") == []
    for path in (f"joints3d_25/{'squat'}.json", "camera_parameters/50591643/squat.json"):
        (tmp_path / "train" / "s03" / path).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{path} is missing\. Get {name}_train"):
            load_all(tmp_path, name)


@pytest.mark.parametrize(("table", "field", "value", "message"), [
    ("extrinsics", "T", [[0, 1]], "expected extrinsics with R and T"),
    ("extrinsics", "R", np.ones((3, 3)).tolist(), "orthonormal"),
    ("intrinsics_w_distortion", "k", [[0, 0, 0, 0]], "expected extrinsics with R and T"),
    ("intrinsics_w_distortion", "f", [["a", "b"]], "intrinsics: expected 9 numbers"),
])
def test_broken_cameras_are_named(tmp_path, table, field, value, message):
    write_sequence(tmp_path, truth([0.0])[None], cameras=CAMERAS[:1])
    content = camera_table(0)
    content[table][field] = value
    path = tmp_path / "train" / "s03" / "camera_parameters" / CAMERAS[0] / "squat.json"
    write_json(path, content)
    with pytest.raises(ValueError, match=rf"50591643/squat\.json: .*{message}"):
        load_all(tmp_path)
    del content[table]
    write_json(path, content)
    with pytest.raises(ValueError, match=rf"50591643/squat\.json: .*KeyError\('{table}'\)"):
        load_all(tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    ({"joints": []}, "expected an array joints3d_25; problem: KeyError"),
    ({"joints3d_25": [[[1, 2, 3]], [[1, 2]]]}, "expected an array joints3d_25"),
    ({"joints3d_25": np.zeros((4, 17, 3)).tolist()}, r"joints3d_25 has shape \[4, 17, 3\], expected \[frames, 25, 3\]"),
    ({"joints3d_25": []}, r"joints3d_25 has shape \[0\]"),
    ({"joints3d_25": np.full((4, 25, 3), np.nan).tolist()}, r"joints3d_25 has no finite number"),
])
def test_broken_labels_are_named(tmp_path, content, message):
    write_sequence(tmp_path, truth([0.0])[None], cameras=CAMERAS[:1])
    write_json(tmp_path / "train" / "s03" / "joints3d_25" / "squat.json", content)
    with pytest.raises(ValueError, match=rf"joints3d_25/squat\.json: {message}"):
        load_all(tmp_path)


def test_frames_without_detection_are_dropped(tmp_path):
    raw_dir = tmp_path / "raw"
    write_sequence(raw_dir, truth((0, 0.2, 0.4))[None], cameras=CAMERAS[:1])
    boxes = [item.bbox for item in load_all(raw_dir)]
    smaller = [boxes[0][0], boxes[0][1], 0.8 * boxes[0][2], 0.8 * boxes[0][3]]  # overlap 0.64
    too_small = [boxes[1][0], boxes[1][1], 0.7 * boxes[1][2], 0.7 * boxes[1][3]]  # 0.49
    detections = [(0, smaller, 0.21), (1, too_small, 0.9), (2, boxes[2].tolist(), 0.19)]
    write_json(tmp_path / "detections.json", [
        {"file_name": f"train/s03/videos/50591643/squat.mp4#{frame}", "category_id": 1, "bbox": box, "score": score}
        for frame, box, score in detections])
    prepare(load_adapter("fit3d"), raw_dir, tmp_path / "data", workers=1, progress=False,
            detections=tmp_path / "detections.json")
    dataset = PreparedDataset(tmp_path / "data" / "fit3d")
    assert [dataset.read("train", i).provenance["frame"] for i in range(dataset.num_examples("train"))] == [0]


def test_adapters_can_be_sent_to_a_worker():
    assert [pickle.loads(pickle.dumps(load_adapter(name))).name for name in SITES] == list(SITES)
