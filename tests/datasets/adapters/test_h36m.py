"""The Human3.6M adapter on made-up videos and labels in the original's formats, and on real pictures and cameras."""

import json
import logging
import pickle
import re

import cv2
import numpy as np
import pytest

from datasets.adapters import h36m
from datasets.cropping import crop_example
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import project
from tests.datasets.adapters import h36m_files as files
from tests.datasets.adapters.painted_people import write_video

ADAPTER = h36m.ADAPTER
CAMERA = files.CAMERAS[1]


@pytest.fixture
def raw_dir(tmp_path):
    files.write_metadata(tmp_path / "raw" / "Release-v1.2" / "metadata.xml")
    return tmp_path / "raw"


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def check_dots(example, joints3d):
    """Asserts that the labels land on the dots of their own joints, and are the truth [32, 3], mm in the world."""
    landed = project(np.float64(example.joints3d), np.float64(example.intrinsics))
    distance = np.linalg.norm(landed - files.find_colors(example.decode_image(), files.dot_colors(25)), axis=1)
    assert (distance < 0.5).all(), dict(zip(files.SKELETON.joint_names, distance.round(2), strict=True))
    to_world = np.linalg.inv(np.float64(example.world_to_camera))
    joints3d_world = np.float64(example.joints3d) @ to_world[:3, :3].T + to_world[:3, 3]
    np.testing.assert_allclose(joints3d_world, joints3d[files.PAINTED], atol=0.1)


def test_prepared_joints_lie_on_the_dots(raw_dir, tmp_path, caplog):
    poses = files.poses([0, 150])
    files.write_sequence(raw_dir, 1, "TakingPhoto 2", np.repeat(poses, 5, axis=0))
    files.write_sequence(raw_dir, 11, "WalkDog", poses, [CAMERA])
    (raw_dir / "S1" / "Videos" / f"_ALL 1.{CAMERA}.mp4").touch()
    (raw_dir / "S1" / "Videos" / f"_ALL_1.{CAMERA}.mp4").touch()
    (raw_dir / "S2" / "Videos").mkdir(parents=True)
    prepare(ADAPTER, raw_dir, tmp_path / "data", splits=["train", "test"], workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "h36m")
    assert dataset.skeleton.name == "h36m_25" and dataset.kind == "3d"
    assert "train: no videos of S5, S6, S7, S8" in caplog.text and "test: no videos of S9" in caplog.text
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in files.CAMERAS for frame in (0, 5)]
    for example in examples:
        check_dots(example, poses[example.provenance["frame"] // 5])
    assert examples[3].provenance == {
        "source": f"S1/Videos/TakingPhoto 2.{CAMERA}.mp4", "subject": "S1", "sequence": "S1/TakingPhoto 2",
        "activity": "Photo", "camera": CAMERA, "frame": 5}
    (example,) = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    check_dots(example, poses[0])
    assert (example.provenance["subject"], example.provenance["activity"]) == ("S11", "WalkDog")


def test_boxes_are_those_of_the_mask_files(raw_dir):
    files.write_sequence(raw_dir, 5, "Posing", files.poses([0]), [CAMERA])
    (example,) = load_all(raw_dir)
    x, y, width, height = files.whole_box(files.image_points(files.poses([0])[0], 5, 1))
    np.testing.assert_array_equal(example.bbox, [x - 0.5, y - 0.5, width, height])  # pixel x begins at x - 0.5
    assert height > 1.5 * width  # a standing person: the masks are stored with their axes swapped
    assert example.mask is None


def test_training_frames_are_every_fifth_that_has_moved(raw_dir):
    poses = files.poses([0] * 5 + [99.9] * 5 + [100.1] * 5 + [150] * 5 + [150] * 5 + [150] * 4)
    poses[15:, files.NAMES.index("left_knee")] += [0, 0, 60]
    poses[20:, files.NAMES.index("left_toe")] += [0, 0, 300]  # toes do not count
    poses[1] += 1000  # not looked at
    files.write_sequence(raw_dir, 6, "Eating", poses, [CAMERA])
    assert [e.provenance["frame"] for e in load_all(raw_dir)] == [0, 10]
    poses[15:, files.NAMES.index("left_knee")] += [0, 0, 30]  # now 50 mm along y and 90 mm upwards: 103 mm
    files.write_sequence(raw_dir, 6, "Eating", poses, [CAMERA])
    assert [e.provenance["frame"] for e in load_all(raw_dir)] == [0, 10, 15]


def test_test_frames_are_every_64th(raw_dir):
    files.write_sequence(raw_dir, 11, "Sitting 2", files.poses([0] * 66), [CAMERA], num_video_frames=65)
    assert [e.provenance["frame"] for e in load_all(raw_dir, "test")] == [0, 64]


@pytest.mark.parametrize(("sequence", "is_shifted"), [
    ("Greeting", True), ("SittingDown 1", True), ("Waiting 1", True), ("Greeting 1", False), ("Waiting", False)])
def test_shifted_sequences_of_s9(raw_dir, sequence, is_shifted):
    poses = files.poses([0])
    shift = 200.0 if is_shifted else 0.0
    files.write_sequence(raw_dir, 9, sequence, poses, label_shift=shift)
    examples = load_all(raw_dir, "test")
    assert len(examples) == 4
    for camera, example in enumerate(examples):
        check_dots(crop_example(example), poses[0])
        # What the box was before it was shifted, but for the depth of the joints around it, 0.2 m in 5 m.
        true_box = np.float64(files.whole_box(files.image_points(poses[0], 9, camera))) - [0.5, 0.5, 0, 0]
        np.testing.assert_allclose(example.bbox, true_box, atol=5)
        labelled_box = files.whole_box(files.image_points(poses[0] + np.array([shift, 0, 0]), 9, camera))
        assert (np.abs(labelled_box - true_box).max() > 10) == is_shifted  # else the test would show nothing


def test_other_subjects_are_not_shifted(raw_dir):
    files.write_sequence(raw_dir, 11, "Greeting", files.poses([0]), [CAMERA])
    check_dots(crop_example(load_all(raw_dir, "test")[0]), files.poses([0])[0])


@pytest.mark.parametrize(("poses", "video", "boxes", "expected"), [
    (6, 11, 11, [0, 5]), (11, 6, 11, [0, 5]), (11, 11, 6, [0, 5]), (11, 11, 11, [0, 5, 10])])
def test_counts_that_differ_by_a_few_frames(raw_dir, poses, video, boxes, expected):
    joints3d = files.poses(200 * np.arange(poses))
    files.write_sequence(raw_dir, 7, "Smoking", np.repeat(joints3d[:1], poses, axis=0), [CAMERA], num_video_frames=video,
                         num_boxes=boxes)
    files.write_cdf(raw_dir / "S7" / "MyPoseFeatures" / "D3_Positions" / "Smoking.cdf", "Pose", joints3d.reshape(poses, 96))
    units = ADAPTER.list_units(raw_dir, "train")
    assert [e.provenance["frame"] for e in ADAPTER.load_unit(raw_dir, units[0])] == expected


def test_counts_that_differ_a_lot_are_an_error(raw_dir):
    files.write_sequence(raw_dir, 7, "Smoking", files.poses([0]), [CAMERA], num_video_frames=52, num_boxes=1)
    with pytest.raises(ValueError, match=r"Smoking.*mp4: 52 frames of video, 1 frames of poses, 1 frames of boxes"):
        load_all(raw_dir)


def test_unreadable_video_is_reported_and_the_rest_goes_on(raw_dir):
    files.write_sequence(raw_dir, 11, "Directions", files.poses([0]), files.CAMERAS[:2])
    (raw_dir / "S11" / "Videos" / "Directions.54138969.mp4").write_bytes(b"\0" * 999)
    first, second = ADAPTER.list_units(raw_dir, "test")
    with pytest.raises(ValueError, match=r"Directions\.54138969\.mp4 cannot be read as a video"):
        list(ADAPTER.load_unit(raw_dir, first))
    assert len(list(ADAPTER.load_unit(raw_dir, second))) == 1


def test_empty_box_is_reported_and_the_rest_goes_on(raw_dir):
    files.write_sequence(raw_dir, 8, "Posing", np.repeat(files.poses([0, 200]), 5, axis=0), [CAMERA], empty_boxes=[0])
    error, example = load_all(raw_dir)
    assert re.search(r"Posing\.55011271\.mat: the mask of frame 0 is empty", str(error))
    assert example.provenance["frame"] == 5


def test_nan_and_other_shapes_of_poses_are_errors(raw_dir):
    files.write_sequence(raw_dir, 8, "Posing", files.poses([0, 200]), [CAMERA])
    path = raw_dir / "S8" / "MyPoseFeatures" / "D3_Positions" / "Posing.cdf"
    poses = files.poses([0, 200]).reshape(2, 96)
    poses[1, 7] = np.nan
    files.write_cdf(path, "Pose", poses)
    with pytest.raises(ValueError, match=r"Posing\.cdf: Pose has nan or infinite coordinates, first in frame 1"):
        load_all(raw_dir)
    files.write_cdf(path, "Pose", poses[:, :64])
    with pytest.raises(ValueError, match=r"Posing\.cdf: Pose has shape \[1, 2, 64\], expected \[1, frames, 96\]"):
        load_all(raw_dir)


def test_missing_files_are_named_with_their_source(raw_dir, caplog):
    with pytest.raises(FileNotFoundError, match=r"no videos in .*raw.*S9/Videos, S11/Videos\. .*vision\.imar\.ro/human3\.6m"):
        ADAPTER.list_units(raw_dir, "test")
    with caplog.at_level(logging.WARNING):
        assert ADAPTER.list_units(raw_dir, "validation") == []
    assert not caplog.records
    files.write_sequence(raw_dir, 8, "Posing", files.poses([0]), [CAMERA])
    for path in (raw_dir / "S8" / "MySegmentsMat" / "ground_truth_bb" / f"Posing.{CAMERA}.mat",
                 raw_dir / "S8" / "MyPoseFeatures" / "D3_Positions" / "Posing.cdf",
                 raw_dir / "Release-v1.2" / "metadata.xml"):
        path.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{path.name}(.|\n)*vision\.imar\.ro"):
            load_all(raw_dir)


@pytest.mark.parametrize(("w0", "message"), [
    ("[1 2 3]", "w0 has 3 numbers"), ("[" + "x " * 300 + "]", "w0: could not convert"), ("nothing", "w0 has 0 numbers")])
def test_broken_metadata_is_explained(raw_dir, w0, message):
    path = raw_dir / "Release-v1.2" / "metadata.xml"
    path.write_text(re.sub(r"<w0>.*</w0>", f"<w0>{w0}</w0>", path.read_text()))
    with pytest.raises(ValueError, match=rf"metadata\.xml: element {message}"):
        h36m.read_camera(raw_dir, 1, CAMERA)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "h36m_25"


# The joints of the real sample, by their names in the 17-joint protocol.
SAMPLE_NAMES = ["pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "neck",
                "head", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist"]


def test_real_pictures_cameras_and_poses(real_samples, tmp_path):
    """The sample has pictures, 2D and 3D labels, and cameras in another form; put into the original's files."""
    sample = real_samples / "h36m"
    cameras = json.loads((sample / "cameras.json").read_text())
    numbers = []
    for camera_id in files.CAMERAS:
        for subject in range(1, 12):
            camera = cameras[f"S{subject}/{camera_id}"]
            r = np.array(camera["R"]).T  # the sample's rotations are from the camera to the world
            angles = np.arctan2(-r[1, 2], r[2, 2]), np.arcsin(r[0, 2]), np.arctan2(-r[0, 1], r[0, 0])
            np.testing.assert_allclose(files.rotation(*angles), r, atol=1e-9)
            numbers += [*angles, *(1000 * np.ravel(camera["T"]))]
    for camera_id in files.CAMERAS:
        numbers += [*np.ravel([cameras[f"S1/{camera_id}"][key] for key in "fc"]),
                    *np.ravel(cameras[f"S1/{camera_id}"]["k"]), *np.ravel(cameras[f"S1/{camera_id}"]["p"])]
    (tmp_path / "metadata.xml").write_text(f"<metadata><w0>[{' '.join(map(repr, map(float, numbers)))}]</w0></metadata>")

    labels = json.loads((sample / "h36m_coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in labels["images"]}
    truth = {}
    for annotation in labels["annotations"]:
        subject, action, camera_id = re.fullmatch(r"(S\d+)_(\w+?)\.(\d+)_\d+\.jpg", names[annotation["image_id"]]).groups()
        sequence = action.replace("_", " ")
        (image_path,) = sample.glob(f"S*/*/{names[annotation['image_id']]}")
        image = cv2.imread(str(image_path))
        joints3d = 1000 * np.array(annotation["keypoints_3d"]).reshape(17, 4)[:, :3]
        raw = np.array([joints3d[SAMPLE_NAMES.index(name)] if name in SAMPLE_NAMES else joints3d[0] for name in files.NAMES])
        folder = tmp_path / subject
        files.write_cdf(folder / "MyPoseFeatures" / "D3_Positions" / f"{sequence}.cdf", "Pose", raw.reshape(1, 96))
        points = np.array(annotation["keypoints"]).reshape(17, 3)[:, :2]
        files.write_boxes(folder / "MySegmentsMat" / "ground_truth_bb" / f"{sequence}.{camera_id}.mat",
                          [files.whole_box(points, 40)], image.shape[1::-1])
        write_video(folder / "Videos" / f"{sequence}.{camera_id}.mp4", [image[..., ::-1]], "mp4v")
        truth[f"{subject}/{sequence}"] = points
    examples = load_all(tmp_path)
    assert [e.provenance["sequence"] for e in examples] == ["S1/Directions 1", "S5/SittingDown", "S7/Greeting"]
    for example in examples:
        crop = crop_example(example)
        assert 200 < crop.bbox[2:].max() <= 384.5
        matrix = np.float64(example.camera.world_to_camera)
        points_camera = np.float64(example.joints3d_world) @ matrix[:3, :3].T + matrix[:3, 3]
        points = project(points_camera, example.camera.intrinsics, example.camera.distortion)
        order = [files.SKELETON.joint_names.index(name) for name in SAMPLE_NAMES]
        # Its lens model has the tangential terms xy and x^2 but once, OpenCV's has them twice.
        np.testing.assert_allclose(points[order], truth[example.provenance["sequence"]], atol=0.2)
