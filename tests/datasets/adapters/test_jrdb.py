"""The JRDB adapter on made-up labels and pictures of painted people in the authors' layout."""

import collections
import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import jrdb
from datasets.detector_results import assign_detections
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import check_rigid
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, find_dots, gray_image, paint, write_jpeg

ADAPTER = jrdb.ADAPTER
SKELETON = load_skeleton("jrdb_17")
# In the order of the files, by the authors' names.
FILE_NAMES = ["head", "right eye", "left eye", "right shoulder", "center shoulder", "left shoulder", "right elbow",
              "left elbow", "center hip", "right wrist", "right hip", "left hip", "left wrist", "right knee", "left knee",
              "right foot", "left foot"]
WIDTH, HEIGHT = 752, 480
SCENE = "bytes-cafe-2019-02-07_0"
# fx of the five cameras whose images are distributed, and of the others, px.
FOCAL = {0: 476.71, 1: 477.9, 2: 483.911, 3: 482.7, 4: 485.046, 5: 481.5, 6: 480.459, 7: 479.1, 8: 476.708, 9: 478.4}
DISTORTION = (-0.336591, 0.159742, 0.00012697, -0.00051, -0.0461)  # k1, k2, p1, p2, k3
OFFSETS = 0.0, 0.05, 0.5, 0.5, 0.9  # m


def matrix(number):
    return np.array([[FOCAL[number], 0, 350.738 + number], [0, FOCAL[number] + 2.7, 239.532], [0, 0, 1]])


def rotation(number):
    """World (y down) to camera: around the robot, and a little askew."""
    angle, roll = np.deg2rad(36 * number), 0.03
    around = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]) @ around


def write_calibration(root, all_sensors=True):
    def text(numbers):
        return '"' + " ".join(repr(float(number)) for number in np.ravel(numbers)) + '"'

    numbers = range(10) if all_sensors else (0, 2, 4, 6, 8)
    lines = ["# JackRabbot", "cameras:"]
    for name, number in zip(range(10), numbers, strict=False):
        lines += [f"    sensor_{name}:", f"        width: {WIDTH}", f"        height: {HEIGHT}",
                  f"        D: {text(DISTORTION)}", f"        K: {text(matrix(number))}",
                  f"        R: {text(rotation(number))}", f"        T: {text([0.05, 0.0, -0.06])}"]
    lines += ["stitching:", "    radius: 3360000", "    scale: 3360"]
    (root / "calibration").mkdir(parents=True, exist_ok=True)
    (root / "calibration" / "cameras.yaml").write_text("\n".join(lines))


def image_points(offset, camera=0):
    """[17, 2] px of the distorted image, by OpenCV."""
    points, _ = cv2.projectPoints(body(SKELETON, (-0.5 + offset, 0.1, 3.3)), np.zeros(3), np.zeros(3), matrix(camera),
                                  np.array(DISTORTION))
    return points[:, 0]


def annotation(frame, offset=0.0, track=3, camera=0, flags=2, **changes):
    keypoints = np.column_stack([image_points(offset, camera), np.broadcast_to(flags, 17)])
    return {"id": 100 * track + frame, "image_id": frame + 1, "track_id": track, "keypoints": keypoints.ravel().tolist(),
            "area": 999.0, "bbox": [1.0, 2.0, 30.0, 40.0], **changes}


def write_labels(raw_dir, annotations, camera=0, scene=SCENE, num_frames=5, root="train_dataset"):
    path = raw_dir / root / "labels" / "labels_2d_pose_coco" / f"{scene}_image{camera}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": frame + 1, "file_name": f"image_{camera}/{scene}/{frame:06d}.jpg"} for frame in range(num_frames)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [
        {"id": 1, "name": "person", "keypoints": FILE_NAMES}]}))


def write_image(raw_dir, number, offset=None, camera=0, scene=SCENE, root="train_dataset"):
    image = gray_image(WIDTH, HEIGHT)
    if offset is not None:
        paint(image, image_points(offset, camera), radius=5)
    write_jpeg(raw_dir / root / "images" / f"image_{camera}" / scene / f"{number:06d}.jpg", image)


@pytest.fixture
def raw_dir(tmp_path):
    """One person in five frames; what is labelled as frame i is seen in image i + 2."""
    write_calibration(tmp_path / "raw" / "train_dataset")
    write_labels(tmp_path / "raw", [annotation(frame, offset) for frame, offset in enumerate(OFFSETS)])
    for number in range(2):
        write_image(tmp_path / "raw", number)
    for frame, offset in enumerate(OFFSETS[:4]):  # the last label has no image
        write_image(tmp_path / "raw", frame + 2, offset)
    return tmp_path / "raw"


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def places(items):
    return [(item.provenance["frame"], item.provenance["subject"]) for item in items]


def test_prepared_joints_lie_on_their_dots(raw_dir, tmp_path):
    write_calibration(raw_dir / "train_dataset", all_sensors=False)
    for camera in (2, 4, 6, 8):
        write_labels(raw_dir, [annotation(0, 0.3, camera=camera)], camera)
        write_image(raw_dir, 2, 0.3, camera)
    prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "jrdb")
    assert dataset.skeleton.name == "jrdb_17" and dataset.kind == "2d" and list(dataset.splits()) == ["train"]
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (0, 2), (0, 4), (2, 2), (4, 2), (6, 2), (8, 2)]
    for example in examples:
        assert example.joints3d is None
        distance = np.linalg.norm(example.joints2d - find_dots(example.decode_image(), 17), axis=1)
        assert (distance < 0.5).all(), distance.round(2)
        check_rigid(example.world_to_camera)
        # Crops are upright: the world's up is up in them, as far as the camera looks straight ahead.
        up = example.world_to_camera[:3, :3] @ [0, -1, 0]
        assert abs(up[0]) < 0.02 and up[1] < -0.9
    assert examples[1].provenance == {
        "source": f"train_dataset/images/image_0/{SCENE}/000004.jpg", "sequence": SCENE, "camera": 0, "frame": 4, "subject": 3,
        "annotation": 302}


def test_joints_are_those_of_the_files_and_left_is_left():
    names = {"head": "head_top", "center_shoulder": "neck", "center_hip": "pelvis", "right_foot": "right_ankle",
             "left_foot": "left_ankle"}
    file_names = [name.replace(" ", "_") for name in FILE_NAMES]
    assert list(SKELETON.joint_names) == [names.get(name, name) for name in file_names]


@pytest.mark.parametrize("all_sensors", [False, True])
@pytest.mark.parametrize("camera", [0, 2, 4, 6, 8])
def test_cameras_of_both_forms_of_the_calibration(tmp_path, camera, all_sensors):
    write_calibration(tmp_path, all_sensors)
    found = jrdb.read_camera(tmp_path / "calibration" / "cameras.yaml", camera)
    np.testing.assert_allclose(found.intrinsics, matrix(camera))
    np.testing.assert_allclose(found.distortion, DISTORTION)
    np.testing.assert_allclose(found.world_to_camera[:3], np.column_stack([rotation(camera), [50, 0, -60]]), atol=1e-9)
    np.testing.assert_allclose(found.up, [np.sin(0.03), -np.cos(0.03), 0], atol=1e-9)


def test_boxes_and_flags(raw_dir):
    flags = np.full(17, 1)
    flags[[1, 16]] = 0  # an eye and a foot
    write_labels(raw_dir, [annotation(0, flags=flags)])
    (example,) = load_all(raw_dir)
    np.testing.assert_array_equal(np.isnan(example.joints2d).all(axis=1), flags == 0)
    labelled = image_points(0.0)[flags > 0]
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low))
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2)


def test_frames_of_a_track_without_movement_are_left_out(raw_dir):
    points = image_points(0.0)
    side = 1.15 * np.ptp(points, axis=0).max()
    moved = [points.copy() for _ in range(3)]
    for foot, part in zip(moved, (0.099, 0.101, 0.101), strict=True):
        foot[9] += [0, part * side]  # a wrist within the box of the others
    keypoints = [np.column_stack([foot, np.full(17, 2)]).ravel().tolist() for foot in moved]
    few = np.where(np.arange(17) < 8, 0, 2)  # without shoulders and elbows: 8 limb joints of 12
    write_labels(raw_dir, [annotation(3, 0.0, track=5, flags=few), annotation(0), annotation(1, keypoints=keypoints[0]),
                           annotation(2, keypoints=keypoints[1]), annotation(3, keypoints=keypoints[2]),
                           annotation(1, track=5, flags=few), annotation(2, track=5)])
    # Track 3 moves in image 4; track 5 gets new joints there. Images follow one another.
    assert places(load_all(raw_dir)) == [(2, 3), (3, 5), (4, 3), (4, 5)]
    write_labels(raw_dir, [annotation(frame, track=3, track_id=None) for frame in range(3)])
    assert places(load_all(raw_dir)) == [(2, None), (3, None), (4, None)]


def test_people_with_few_limb_joints_are_left_out(raw_dir):
    seven, six = np.ones((2, 17))
    seven[[3, 5, 6, 7, 9]] = six[[3, 5, 6, 7, 9, 10]] = 0
    write_labels(raw_dir, [annotation(0, track=1, flags=seven), annotation(0, track=2, flags=six)])
    assert places(load_all(raw_dir)) == [(2, 1)]


def test_other_folder_names_and_other_files(raw_dir):
    root = raw_dir / "train_dataset"
    (root / "labels" / "labels_2d_pose_coco" / "notes.json").write_text("[]")
    (root / "labels" / "labels_2d_pose_stitched_coco").mkdir()
    (root / "labels" / "labels_2d_pose_stitched_coco" / f"{SCENE}.json").write_text("{}")
    assert ADAPTER.list_units(raw_dir, "train") == [{"root": "train_dataset", "scene": SCENE, "camera": 0}]
    assert ADAPTER.list_units(raw_dir, "test") == ADAPTER.list_units(raw_dir, "validation") == []
    root.rename(raw_dir / "train_dataset_with_activity")
    assert places(load_all(raw_dir)) == [(2, 3), (4, 3)]


def test_broken_annotations_and_missing_images_are_reported_and_the_rest_goes_on(raw_dir):
    (raw_dir / "train_dataset" / "images" / "image_0" / SCENE / "000003.jpg").unlink()
    broken = [annotation(0, keypoints=[1.0] * 50), annotation(0, image_id=99), annotation(0, keypoints=[float("inf")] * 51),
              annotation(0, track_id=[1]), 5]
    write_labels(raw_dir, [*broken, annotation(0), annotation(1, 0.6, track=4)])
    *errors, example, missing = load_all(raw_dir)
    assert len(errors) == 5 and places([example]) == [(2, 3)]
    for i, error in enumerate(errors):
        assert f"{SCENE}_image0.json: annotations[{i}]: expected keypoints (17 x 3 numbers)" in str(error)
    assert "annotation 401 is of the image" in str(missing) and "000003.jpg, which is missing" in str(missing)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("sensor_0", "sensor_11", "cameras has no sensor_0 with the focal length of image_0"),
    ("476.71 ", "576.71 ", r"cameras has no sensor_0 with the focal length of image_0, 476\.71 px"),
    ("K:", "k:", r"cameras, sensor_0: expected K, D, R and T, texts of numbers; problem: KeyError\('K'\)"),
    ("cameras:", "sensors:", "cameras, sensor_0: expected"),
])
def test_broken_calibrations_are_named(raw_dir, old, new, message):
    path = raw_dir / "train_dataset" / "calibration" / "cameras.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"cameras\.yaml: {message}"):
        load_all(raw_dir)


def test_missing_files_are_named_with_their_source(raw_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no label files .*labels_2d_pose_coco.*https://jrdb\.erc\.monash\.edu"):
        ADAPTER.list_units(tmp_path, "train")
    (raw_dir / "train_dataset" / "images" / "image_0" / SCENE).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no images in the folder .*image_0/{SCENE}\. .*jrdb\.erc"):
        load_all(raw_dir)
    (raw_dir / "train_dataset" / "calibration" / "cameras.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"cameras\.yaml is missing\. .*jrdb\.erc"):
        load_all(raw_dir)


def test_detections_are_matched_to_all_people_of_an_image(raw_dir):
    write_labels(raw_dir, [annotation(0, 0.0, track=1), annotation(1, 0.9, track=1), annotation(0, 0.1, track=2)])
    items = load_all(raw_dir)
    assert places(items) == [(2, 1), (2, 2), (3, 1)]
    # Half of the second person's box: it overlaps with both people, and the first one has a better one.
    half = [*items[1].bbox[:3], 0.5 * items[1].bbox[3]]
    found = np.array([[*half, 0.2], [*items[0].bbox, 0.9], [*(items[2].bbox + 3), 0.19]])
    counts = collections.Counter()
    matched = list(assign_detections(items, raw_dir, ADAPTER.detection_rule, lambda person: found, counts))
    np.testing.assert_allclose([item.bbox for item in matched], [items[0].bbox, half, items[2].bbox])
    assert counts["images"] == 2


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "jrdb"
