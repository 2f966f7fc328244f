"""The Berkeley MHAD adapter on files in the authors' layout: Bayer mosaics, C3D, OpenCV's YAML, text."""

import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import berkeley_mhad
from datasets.cropping import crop_example, load_image
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint
from tests.datasets.readers.c3d_files import make_c3d

ADAPTER = berkeley_mhad.ADAPTER
SKELETON = load_skeleton("berkeley_mhad_43")
WIDTH, HEIGHT = 640, 480
# Cameras by rig and number: fx, fy, cx, cy; k1, k2, p1, p2; translation, mm, and rotation vector from rig to camera.
INTRINSICS = {
    ("l01", 1): (523.62, 524.78, 351.5, 225.3), ("l01", 2): (530.1, 531.3, 318.2, 251.9), ("k01", 1): (532, 533, 320.9, 240)}
DISTORTION = {
    ("l01", 1): (-0.3073, 0.1196, 0.0002, -0.0018), ("l01", 2): (-0.31, 0.15, -0.001, 0.0009),
    ("k01", 1): (0.19, -0.51, 0.0004, -0.0003)}
RIG_POSE = {("l01", 1): (0, 0, 0, 0, 0, 0), ("l01", 2): (-130, 6, 9, 0.02, -0.09, 0.03), ("k01", 1): (0, 0, 0, 0, 0, 0)}
POSES = [3, 25, 47, 69]  # of images 0 to 3: motion capture is 22 times as fast
NUM_POSES = 80
MM_PER_POSE = 5.0


def world_to_rig(rig):
    """Rotation [3, 3], translation [3] mm. The rigs look down on the person, a bit rolled; the world is y up."""
    position = np.array([900.0, 1500, 3200]) if rig == "l01" else np.array([-500.0, 1300, 3000])
    forward = np.array([0, 950, 0]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.04, 1, 0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ position


def truth(pose):
    """[43, 3] mm, world: the person before camera 1 of l01, turned a bit, in a frame of the motion capture."""
    rotation, translation = world_to_rig("l01")
    person = 1000 * body(SKELETON, (-0.1, 0.0, 3.4))
    return (person - translation) @ rotation + [MM_PER_POSE * pose, 0, 0]


def image_points(joints3d_world, camera):
    rotation, translation = world_to_rig(camera[0])
    fx, fy, cx, cy = INTRINSICS[camera]
    pose = np.float64(RIG_POSE[camera])
    points, _ = cv2.projectPoints(joints3d_world @ rotation.T + translation, pose[3:], pose[:3],
                                  np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array(DISTORTION[camera]))
    return points[:, 0]


def painted(number):
    """43 dots are too many for a small picture: one shows the markers 0, 4, 8, ..., the next 1, 5, 9, ..., and so on."""
    return range(number % 4, 43, 4)


def write_file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_text(path, text):
    write_file(path, text.encode())


def mosaic(image):
    """[height, width] of an RGB image: G R G R ... in even rows, B G B G ... in odd ones."""
    raw = image[..., 1].copy()
    raw[0::2, 1::2] = image[0::2, 1::2, 0]
    raw[1::2, 0::2] = image[1::2, 0::2, 2]
    return raw


def matrix(numbers, rows):
    columns = len(numbers) // rows
    return (f"!!opencv-matrix\n      rows: {rows}\n      cols: {columns}\n      dt: d\n      data: [ "
            + ",\n         ".join(map(repr, map(float, numbers))) + " ]")


def write_calibration(raw_dir, rig):
    rotation, translation = world_to_rig(rig)
    folder = raw_dir / "Calibration"
    write_text(folder / f"RwTw_{rig}.txt", f"Rw={' '.join(repr(float(x)) for x in rotation.ravel())} \n"
               f"Tw={' '.join(repr(float(x)) for x in translation)} \n")
    cameras = [camera for camera in INTRINSICS if camera[0] == rig]
    tables = [f"%YAML:1.0\nNumber of cameras: {len(cameras)}\n"]
    for camera in cameras:
        fx, fy, cx, cy = INTRINSICS[camera]
        tables.append(f"Camera_{camera[1]}:\n   K: {matrix([fx, 0, cx, 0, fy, cy, 0, 0, 1], 3)}\n"
                      f"   Dist: {matrix(DISTORTION[camera], 4)}\n   PosRel: {matrix(RIG_POSE[camera], 6)}\n")
    write_text(folder / f"camcfg_{rig}.yml", "".join(tables))


def write_sequence(raw_dir, cameras=(("l01", 1), ("l01", 2), ("k01", 1)), sequence="s01_a02_r03", poses=POSES, hidden=(),
                   positions=None):
    """poses: of each image. hidden: (pose, marker). positions: [num_poses, 43, 3] mm in the world; None: as of `truth`."""
    positions = np.array([truth(i) for i in range(NUM_POSES)]) if positions is None else positions.copy()
    folder = "/".join(sequence.upper().split("_"))
    for camera in cameras:
        rig, number = camera
        for i, pose in enumerate(poses):
            image = gray_image(WIDTH, HEIGHT)
            if pose < len(positions):
                paint(image, image_points(positions[pose], camera)[painted(i)], radius=6)
                image = cv2.GaussianBlur(image, None, 1)  # lenses do: without, mosaics give sharp edges other colours
            if rig.startswith("k"):
                path = raw_dir / f"Kinect/Kin{rig[1:]}/{folder}/kin_{rig}_{sequence}_color_{i:05d}.ppm"
                write_file(path, cv2.imencode(".ppm", image[..., ::-1])[1].tobytes())
                write_file(path.with_name(f"kin_{rig}_{sequence}_depth_{i:05d}.pgm"), b"")
            else:
                name = f"img_{rig}_c{number:02d}_{sequence}_{i:05d}.pgm"
                path = raw_dir / f"Camera/Cluster{rig[1:]}/Cam{number:02d}/{folder}" / name
                write_file(path, cv2.imencode(".pgm", mosaic(image))[1].tobytes())
        write_calibration(raw_dir, rig)
        name = f"Kinect/Correspondences/corr_moc_kin{rig[1:]}" if rig[0] == "k" else "Camera/Correspondences/corr_moc_img"
        write_text(raw_dir / f"{name}_{sequence}.txt",
                   "".join(f"{i} {1e-9 * pose / 480:.9f} {pose}\n" for i, pose in enumerate(poses)))
    for pose, marker in hidden:
        positions[pose, marker] = np.nan
    x, y, z = np.moveaxis(positions, -1, 0)
    write_file(raw_dir / "Mocap" / "OpticalData" / f"moc_{sequence}.c3d",  # z up: world (x, y, z) = (-x, z, y) of the file
               make_c3d(np.stack([-x, z, y], axis=-1), [f"M{i:03d}" for i in range(positions.shape[1])], rate=480.0))


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_markers_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    write_sequence(raw_dir)
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"] and list(manifest["splits"]) == ["train"]
    dataset = PreparedDataset(data_root / "berkeley_mhad")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in ("l01_c01", "l01_c02", "k01_c01") for frame in range(4)]
    for example in examples:
        number = example.provenance["frame"]
        check_crop(example, truth(POSES[number]), painted(number))
    assert examples[5].provenance == {
        "source": "Camera/Cluster01/Cam02/S01/A02/R03/img_l01_c02_s01_a02_r03_00001.pgm", "subject": "S01",
        "sequence": "S01/A02/R03", "activity": "jumping jacks", "camera": "l01_c02", "frame": 1}
    assert examples[10].provenance["source"] == "Kinect/Kin01/S01/A02/R03/kin_k01_s01_a02_r03_color_00002.ppm"


def test_colours(tmp_path):
    write_sequence(tmp_path, [("l01", 1)], poses=[0])
    (path,) = tmp_path.rglob("*.pgm")
    image = np.full((HEIGHT, WIDTH, 3), (210, 120, 30), np.uint8)
    image[:, WIDTH // 2:] = 20, 60, 180
    write_file(path, cv2.imencode(".pgm", mosaic(image))[1].tobytes())
    (example,) = load_all(tmp_path)
    np.testing.assert_array_equal(example.image[:, :WIDTH // 2 - 2], image[:, :WIDTH // 2 - 2])
    np.testing.assert_array_equal(example.image[:, WIDTH // 2 + 2:], image[:, WIDTH // 2 + 2:])


def test_cameras_are_turned_within_their_cluster(tmp_path):
    write_calibration(tmp_path, "l01")
    rotation, translation = world_to_rig("l01")
    first, second = (berkeley_mhad.read_camera(tmp_path / "Calibration", "l01", number) for number in (1, 2))
    np.testing.assert_allclose(first.world_to_camera[:3], np.column_stack([rotation, translation]))
    points = np.array([[0.0, 900, 0], [300, 0, 100]])
    own = cv2.Rodrigues(np.array([0.02, -0.09, 0.03]))[0]
    np.testing.assert_allclose(transform(points, second.world_to_camera),
                               (points @ rotation.T + translation) @ own.T + [-130, 6, 9])
    np.testing.assert_allclose(first.up, rotation[:, 1])  # the world is y up


def test_boxes_hold_the_markers(tmp_path):
    write_sequence(tmp_path, [("l01", 2)], poses=[10])
    (example,) = load_all(tmp_path)
    points = image_points(truth(10), ("l01", 2))
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(example.bbox, [*(low - 0.025 * (high - low)), *(1.05 * (high - low))], rtol=1e-5)
    assert example.mask is None


def test_images_are_kept_in_which_the_person_is_somewhere_new(tmp_path):
    # mm: 15, 110 (95 from the first), 120 (105), 15 again, 215 (95 from 120), 220 (100).
    write_sequence(tmp_path, [("l01", 1)], poses=[3, 22, 24, 3, 43, 44])
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 2, 5]


def test_hidden_markers_are_nan_and_no_movement_but_news_when_they_first_appear(tmp_path):
    hidden = [(3, 20), (4, 20), (5, 7), (6, 7)]
    write_sequence(tmp_path, [("k01", 1)], poses=[3, 4, 5, 6, 7], hidden=hidden)
    examples = load_all(tmp_path)
    assert [e.provenance["frame"] for e in examples] == [0, 2]
    assert [np.flatnonzero(np.isnan(e.joints3d_world).any(axis=1)).tolist() for e in examples] == [[20], [7]]
    crop = crop_example(examples[0])
    assert np.isnan(crop.joints3d[20]).all() and np.isfinite(np.delete(crop.joints3d, 20, axis=0)).all()


def test_units_are_the_folders_of_actions(tmp_path):
    for folder in ("Camera/Cluster01/Cam01/S01/A01/R05", "Camera/Cluster04/Cam02/S12/A11/R01", "Kinect/Kin02/S04/A08/R04",
                   "Camera/Cluster01/Cam01/S01/A12/R01", "Camera/Cluster01/Cam01/S01/A00/R01",
                   "Camera/Cluster01/Cam00/S01/A01/R01",
                   "Camera/Cluster01/Cam01/S01/Tpose/R01", "Camera/Background/Cam01/S01/A01/R01", "Camera/Correspondences"):
        (tmp_path / folder).mkdir(parents=True)
    assert ADAPTER.list_units(tmp_path, "train") == [
        "Camera/Cluster01/Cam01/S01/A01/R05", "Camera/Cluster04/Cam02/S12/A11/R01", "Kinect/Kin02/S04/A08/R04"]
    assert ADAPTER.list_units(tmp_path, "test") == ADAPTER.list_units(tmp_path, "validation") == []


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folders Camera/Cluster.* or Kinect/Kin.* in .*tele-immersion\.citris-uc"):
        ADAPTER.list_units(tmp_path, "train")
    write_sequence(tmp_path, [("k01", 1)], poses=[0])
    for name in ("Calibration/camcfg_k01.yml", "Calibration/RwTw_k01.txt", "Mocap/OpticalData/moc_s01_a02_r03.c3d",
                 "Kinect/Correspondences/corr_moc_kin01_s01_a02_r03.txt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing\. .*tele-immersion\.citris-uc"):
            load_all(tmp_path)
        (tmp_path / name).write_bytes(content)


def test_missing_images_and_poses_are_reported_and_the_rest_goes_on(tmp_path):
    write_sequence(tmp_path, [("l01", 1)], poses=[3, 25, 47, 80])
    next(tmp_path.rglob("*_00001.pgm")).unlink()
    error, *examples = load_all(tmp_path)
    assert "corr_moc_img_s01_a02_r03.txt: 2 of 4 rows, first (image, pose) = (1, 25), name an image that is not" in str(error)
    assert "Cam01/S01/A02/R03 or a pose beyond the 80 of " in str(error)
    assert [e.provenance["frame"] for e in examples] == [0, 2]


@pytest.mark.parametrize("content", [
    b"P5\n640 480\n255\n" + bytes(99), b"", cv2.imencode(".ppm", gray_image(8, 8))[1].tobytes(),
    cv2.imencode(".pgm", np.zeros((8, 8), np.uint16))[1].tobytes()])
def test_unreadable_images_are_reported_and_the_rest_goes_on(tmp_path, content):
    write_sequence(tmp_path, [("l01", 1)])
    next(tmp_path.rglob("*_00001.pgm")).write_bytes(content)
    items = load_all(tmp_path)
    assert [isinstance(item, ValueError) for item in items] == [False, True, False, False]
    assert f"s01_a02_r03_00001.pgm ({len(content)} bytes) is truncated, damaged" in str(items[1])


@pytest.mark.parametrize(("camera", "name", "small"), [
    (("l01", 1), "img_*_00001.pgm", np.zeros((240, 320), np.uint8)), (("k01", 1), "*_color_00001.ppm", gray_image(320, 240))])
def test_images_of_another_size_are_reported_and_the_rest_goes_on(tmp_path, camera, name, small):
    write_sequence(tmp_path, [camera])
    (path,) = tmp_path.rglob(name)
    write_file(path, cv2.imencode(path.suffix, small)[1].tobytes())
    items = load_all(tmp_path)
    assert [isinstance(item, ValueError) for item in items] == [False, True, False, False]
    assert f"{path.name} has 320 x 240 px, its camera is calibrated for 640 x 480" in str(items[1])


def test_a_person_behind_the_camera_is_reported(tmp_path):
    positions = np.array([truth(i) for i in range(3)])
    positions[1] += 5000 * np.array([0, 0, 1])
    write_sequence(tmp_path, [("l01", 1)], poses=[0, 1], positions=positions)
    example, error = load_all(tmp_path)
    assert example.provenance["frame"] == 0 and "moc_s01_a02_r03.c3d: frame 1: fewer than two markers" in str(error)


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("RwTw_l01.txt", "Tw=", "T=", r"RwTw_l01\.txt: expected Rw= with 9 numbers and Tw= with 3"),
    ("RwTw_l01.txt", " \nTw", " 1\nTw", r"RwTw_l01\.txt: expected Rw= with 9 numbers"),
    ("RwTw_l01.txt", "Rw=", "Rw=3", r"camcfg_l01\.yml: camera 2 of 2: .*not orthonormal"),
    ("camcfg_l01.yml", "Camera_2", "Camera_B", r"camcfg_l01\.yml: camera 2 of 1: expected tables Camera_"),
    ("camcfg_l01.yml", "Dist:", "Dust:", r"camcfg_l01\.yml: camera 2 of 2: .*'Dist'"),
    ("camcfg_l01.yml", "PosRel:", "PosRel: 1\n   Pos:", r"camcfg_l01\.yml: camera 2 of 2: PosRel has 1 numbers"),
])
def test_broken_calibrations_are_named(tmp_path, name, old, new, message):
    write_calibration(tmp_path, "l01")
    path = tmp_path / "Calibration" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        berkeley_mhad.read_camera(tmp_path / "Calibration", "l01", 2)


def test_cameras_of_a_file_may_be_counted_from_0(tmp_path):
    write_calibration(tmp_path, "l01")
    path = tmp_path / "Calibration" / "camcfg_l01.yml"
    expected = berkeley_mhad.read_camera(tmp_path / "Calibration", "l01", 2).intrinsics
    path.write_text(path.read_text().replace("Camera_1", "Camera_0").replace("Camera_2", "Camera_1"))
    np.testing.assert_array_equal(berkeley_mhad.read_camera(tmp_path / "Calibration", "l01", 2).intrinsics, expected)


def test_other_numbers_of_markers_and_broken_rows_are_named(tmp_path):
    write_sequence(tmp_path, [("l01", 1)], poses=[0])
    write_file(tmp_path / "Mocap" / "OpticalData" / "moc_s01_a02_r03.c3d", make_c3d(np.ones((1, 42, 3)), ["M"] * 42))
    with pytest.raises(ValueError, match=r"moc_s01_a02_r03\.c3d has 42 markers, expected 43"):
        load_all(tmp_path)
    write_sequence(tmp_path, [("l01", 1)], poses=[0])
    for text in ("0 1.5\n", "", "0 1.5 nan\n"):
        write_text(tmp_path / "Camera/Correspondences/corr_moc_img_s01_a02_r03.txt", text)
        with pytest.raises(ValueError, match=r"corr_moc_img_s01_a02_r03\.txt: expected three numbers in each line"):
            load_all(tmp_path)


def test_pictures_of_a_kinect_are_read_when_they_are_cropped(tmp_path):
    write_sequence(tmp_path, [("k01", 1)], poses=[0])
    (example,) = load_all(tmp_path)
    assert example.image == tmp_path / example.provenance["source"] and load_image(example.image).shape == (HEIGHT, WIDTH, 3)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "berkeley_mhad_43"
