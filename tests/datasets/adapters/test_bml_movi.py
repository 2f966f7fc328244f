"""The BML-MoVi adapter on files in the authors' layout: videos of painted people, MATLAB structs of markers, npz cameras."""

import logging
import pickle

import numpy as np
import pytest
import scipy.io

from datasets.adapters import bml_movi
from datasets.cropping import crop_example
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import check_crop, gray_image, paint, write_video

ADAPTER = bml_movi.ADAPTER
SKELETON = load_skeleton("bml_movi_87")
WIDTH, HEIGHT = 800, 600
# fx, fy, cx, cy as MATLAB counts pixels, from 1; k1, k2; position, mm, and a point that the camera looks at; z up.
CAMERAS = {"PG1": ((979.18, 978.10, 408.03, 291.17), (-0.1824, 0.1839), (4927, 7, 1345), (0, 100, 950)),
           "PG2": ((980.04, 980.70, 392.28, 309.91), (-0.2293, 0.3546), (438, -3850, 1379), (0, 0, 900))}
MM_PER_ROW = 30.0
SEED = 19413  # with which dots of one picture are 14 px apart
# Places in the whole format of the 17 points of the rounds S1 and S2; None: not used.
FEW = [5, 6, 12, 13, 20, None, 36, 37, 43, 44, 51, None, 67, 71, 77, 79, 85]


def world_to_camera(camera):
    """Rotation [3, 3], translation [3] mm: looking down on the person, a bit rolled."""
    _, _, position, target = CAMERAS[camera]
    forward = np.subtract(target, position, dtype=float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.03, 0.03, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ position


def truth(row):
    """[87, 3] mm, world: points scattered over a person who faces PG1 beside the origin; in one row of the labels."""
    joints = np.random.default_rng(SEED).uniform([-250, -20, 50], [250, 400, 1750], (87, 3))
    joints[[name.startswith("right") for name in SKELETON.joint_names], 1] *= -1
    joints[:, 1] += MM_PER_ROW * (row - 14)
    return joints


def image_points(joints3d_world, camera):
    (fx, fy, cx, cy), (k1, k2), _, _ = CAMERAS[camera]
    rotation, translation = world_to_camera(camera)
    points = joints3d_world @ rotation.T + translation
    x, y = (points[:, :2] / points[:, 2:]).T
    factor = 1 + k1 * (x**2 + y**2) + k2 * (x**2 + y**2)**2
    return np.stack([fx * x * factor + cx - 1, fy * y * factor + cy - 1], axis=1)


def painted(frame):
    return range(frame % 8, 87, 8)


def write_cameras(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for camera, ((fx, fy, cx, cy), radial, _, _) in CAMERAS.items():
        rotation, translation = world_to_camera(camera)
        np.savez(folder / f"cameraParams_{camera}.npz", IntrinsicMatrix=np.array([[fx, 0, 0], [0, fy, 0], [cx, cy, 1]]),
                 RadialDistortion=np.array(radial))
        np.savez(folder / f"Extrinsics_{camera}.npz", rotationMatrix=rotation.T, translationVector=translation)


def write_labels(path, subject, poses_of_moves):
    """One move: round F, two: S1 and S2."""
    is_few = path.name.startswith("S")
    fields = ("markerLocation", "virtualMarkerLocation", "motions_list", "flags30", "flags120")
    moves = np.empty((1, len(poses_of_moves)), [(field, object) for field in fields])
    for i, poses in enumerate(poses_of_moves):
        poses = np.array(poses)
        virtual = poses[:, 67:]
        if is_few:
            points, virtual = [poses[:, 0] + 5 if full is None else poses[:, full] for full in FEW], virtual[:, :5]
            poses = np.stack(points, axis=1)
        moves[0, i] = (poses, virtual, np.array(["walking", "jumping"], object), np.array([[1, 30], [31, 60]]),
                       np.array([[1, 120], [121, 240]]))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {f"Subject_{subject}_{path.name[0]}": {"id": subject, "move": moves, "sex": "f"}}
    scipy.io.savemat(path, content, do_compression=True)


def write_painted_video(path, camera, poses):
    """poses: [num_frames] of [87, 3]."""
    images = [gray_image(WIDTH, HEIGHT) for _ in poses]
    for i, (image, pose) in enumerate(zip(images, poses, strict=True)):
        paint(image, image_points(pose, camera)[painted(i)], radius=6)
    write_video(path, images, "HFYU", 30)


def write_round_f(raw_dir, poses, cameras=("PG1",), subject=1, num_frames=None):
    """poses: rows of the labels."""
    write_cameras(raw_dir / "Calib")
    write_labels(raw_dir / "F_Subjects_1_45" / f"F_v3d_Subject_{subject}.mat", subject, [poses])
    for camera in cameras:
        write_painted_video(raw_dir / f"F_{camera}_Subject_{subject}_L.avi", camera, poses[::4][:num_frames])


def rows(frames):
    """The labels around video frames: four rows each, one moved a bit from the other."""
    return [truth(row) for frame in frames for row in (4 * frame, 4 * frame + 1, 4 * frame + 2, 4 * frame + 3)]


def still(places):
    """Four equal rows for each place, mm."""
    return [truth(place / MM_PER_ROW) for place in places for _ in range(4)]


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_markers_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    write_round_f(raw_dir, rows(range(8)), ("PG1", "PG2"))
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"] and list(manifest["splits"]) == ["train"]
    dataset = PreparedDataset(data_root / "bml_movi")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in ("PG1", "PG2") for frame in range(8)]
    for example in examples:
        frame = example.provenance["frame"]
        check_crop(example, truth(4 * frame), painted(frame))
    assert examples[9].provenance == {"source": "F_PG2_Subject_1_L.avi", "subject": "Subject_1", "sequence": "F_Subject_1",
                                      "camera": "PG2", "frame": 1}


def test_rounds_with_few_markers(tmp_path):
    write_cameras(tmp_path / "Calib")
    second = [truth(row + 0.5) for row in range(8)]
    write_labels(tmp_path / "S" / "S_v3d_Subject_7.mat", 7, [rows([0, 1]), second])
    write_painted_video(tmp_path / "S1_PG2_Subject_7_L.avi", "PG2", [truth(0), truth(4)])
    write_painted_video(tmp_path / "S2_PG2_Subject_7_L.avi", "PG2", second[::4])
    examples = load_all(tmp_path)
    assert [(e.provenance["sequence"], e.provenance["frame"]) for e in examples] == [
        ("S1_Subject_7", 0), ("S1_Subject_7", 1), ("S2_Subject_7", 0), ("S2_Subject_7", 1)]
    known = [full for full in FEW if full is not None]
    names = ["left_front_head", "left_back_head", "left_wrist_thumb_side", "left_wrist_pinkie_side", "left_ankle_marker",
             "right_front_head", "right_back_head", "right_wrist_thumb_side", "right_wrist_pinkie_side", "right_ankle_marker",
             "head", "left_ankle", "left_wrist", "right_ankle", "right_wrist"]
    assert [SKELETON.joint_names[full] for full in known] == names
    for example, expected in zip(examples, [truth(0), truth(4), second[0], second[4]], strict=True):
        np.testing.assert_allclose(example.joints3d_world[known], expected[known])
        assert np.isnan(np.delete(example.joints3d_world, known, axis=0)).all()
    assert np.isfinite(crop_example(examples[1]).joints3d[known]).all()


def test_cameras(tmp_path):
    write_cameras(tmp_path / "Calib")
    camera = bml_movi.read_camera(tmp_path, "PG2")
    rotation, translation = world_to_camera("PG2")
    np.testing.assert_allclose(camera.world_to_camera[:3], np.column_stack([rotation, translation]))
    np.testing.assert_allclose(camera.intrinsics, [[980.04, 0, 391.28], [0, 980.70, 308.91], [0, 0, 1]])
    np.testing.assert_allclose(camera.distortion, [-0.2293, 0.3546, 0, 0])
    np.testing.assert_allclose(camera.up, rotation[:, 2])


def test_missing_markers_are_all_zero(tmp_path):
    poses = rows([0])
    poses[0][11] = 0
    poses[0][12] = [0, -300.0, -2]  # the origin is in the room
    write_round_f(tmp_path, poses)
    (example,) = load_all(tmp_path)
    assert np.flatnonzero(np.isnan(example.joints3d_world).any(axis=1)).tolist() == [11]
    np.testing.assert_array_equal(example.joints3d_world[12], [0, -300, -2])


def test_boxes_hold_the_markers(tmp_path):
    write_round_f(tmp_path, rows([0]))
    (example,) = load_all(tmp_path)
    points = image_points(truth(0), "PG1")
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(example.bbox, [*(low - 0.025 * (high - low)), *(1.05 * (high - low))])


def test_frames_are_kept_in_which_the_person_is_somewhere_new(tmp_path, monkeypatch):
    write_round_f(tmp_path, still([0, 99, 101, 0, 195, 205]))
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 2, 5]
    assert bml_movi.NUM_REMEMBERED == 500
    monkeypatch.setattr(bml_movi, "NUM_REMEMBERED", 1)
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 2, 3, 4]


def test_hidden_markers_are_no_movement_but_news_when_they_first_appear(tmp_path):
    poses = still([0, 5, 10, 15, 20])
    for row in (0, 4, 8):
        poses[row][33] = 0
    for row in (0, 12):
        poses[row][50] = 0
    poses[12][34] = 0
    write_round_f(tmp_path, poses)
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 1, 3]


def test_frames_without_markers_or_out_of_view_are_left_out(tmp_path):
    poses = still([0, 150, 3500, 300])
    poses[4][:] = 0
    write_round_f(tmp_path, poses)
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 3]


@pytest.mark.parametrize(("num_rows", "num_frames", "expected"), [(12, 2, 2), (8, 3, 2), (9, 3, 3), (12, 3, 3)])
def test_the_shorter_of_video_and_labels_counts(tmp_path, num_rows, num_frames, expected):
    write_round_f(tmp_path, rows(range(3)), num_frames=num_frames)
    write_labels(tmp_path / "F_Subjects_1_45" / "F_v3d_Subject_1.mat", 1, [rows(range(3))[:num_rows]])
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == list(range(expected))


def test_units_are_the_videos_with_labels(tmp_path, caplog):
    for name in ("F_PG1_Subject_10_L.avi", "F_PG1_Subject_2_L.avi", "videos/F_PG2_Subject_2_L.avi", "S2_PG1_Subject_2_L.avi",
                 "F_PG1_Subject_3_L.avi", "I1_PG1_Subject_2_L.avi", "F_CP1_Subject_2.mp4", "F_CP1_Subject_2_L.avi",
                 "F_Subjects_1_45/F_v3d_Subject_2.mat", "F_v3d_Subject_10.mat", "S/S_v3d_Subject_2.mat",
                 "S/S_v3d_Subject_3.mat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        units = ADAPTER.list_units(tmp_path, "train")
    assert [(unit["video"], unit["labels"]) for unit in units] == [
        ("F_PG1_Subject_2_L.avi", "F_Subjects_1_45/F_v3d_Subject_2.mat"),
        ("videos/F_PG2_Subject_2_L.avi", "F_Subjects_1_45/F_v3d_Subject_2.mat"),
        ("S2_PG1_Subject_2_L.avi", "S/S_v3d_Subject_2.mat"), ("F_PG1_Subject_10_L.avi", "F_v3d_Subject_10.mat")]
    assert "no labels of F_PG1_Subject_3_L.avi in" in caplog.text
    assert ADAPTER.list_units(tmp_path, "test") == ADAPTER.list_units(tmp_path, "validation") == []


def test_missing_files_are_named_with_their_source(tmp_path):
    (tmp_path / "F_PG1_Subject_1_L.avi").touch()
    with pytest.raises(FileNotFoundError, match=r"no videos F_PG1_Subject_1_L\.avi .* with labels .*biomotionlab\.ca/movi"):
        ADAPTER.list_units(tmp_path, "train")
    write_round_f(tmp_path, rows([0]))
    for name in ("cameraParams_PG1", "Extrinsics_PG1"):
        (tmp_path / "Calib" / f"{name}.npz").rename(tmp_path / f"{name}.npz")  # beside the videos, they are found as well
        assert len(load_all(tmp_path)) == 1
        (tmp_path / f"{name}.npz").unlink()
        with pytest.raises(FileNotFoundError, match=rf"Calib/{name}\.npz is missing\. .*biomotionlab\.ca"):
            load_all(tmp_path)
        write_cameras(tmp_path / "Calib")


@pytest.mark.parametrize(("subject", "moves", "message"), [
    (2, [rows([0])], r"F_v3d_Subject_1\.mat has no variable Subject_1_F"),
    (1, [[pose[:86] for pose in rows([0])]], r"Subject_1_F\.move\(1\)\.markerLocation has shape \[4, 86, 3\] .*\[rows, 87"),
    (1, [], r"Subject_1_F\.move\(1\)\.markerLocation is missing, there are 0 moves"),
])
def test_broken_labels_are_named(tmp_path, subject, moves, message):
    write_round_f(tmp_path, rows([0]))
    write_labels(tmp_path / "F_Subjects_1_45" / "F_v3d_Subject_1.mat", subject, moves)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_broken_cameras_are_named(tmp_path):
    write_cameras(tmp_path / "Calib")
    path = tmp_path / "Calib" / "cameraParams_PG1.npz"
    np.savez(path, IntrinsicMatrix=np.eye(3), RadialDistortion=np.zeros(3))
    with pytest.raises(ValueError, match=r"cameraParams_PG1\.npz: .*RadialDistortion 3 numbers; expected \[3, 3\] and 2"):
        bml_movi.read_camera(tmp_path, "PG1")
    np.savez(path, IntrinsicMatrix=np.eye(3))
    with pytest.raises(ValueError, match=r"cameraParams_PG1\.npz cannot be read .*RadialDistortion"):
        bml_movi.read_camera(tmp_path, "PG1")
    np.savez(path, IntrinsicMatrix=np.array([{}, {}], object), RadialDistortion=np.zeros(2))  # would be unpickled
    with pytest.raises(ValueError, match=r"cameraParams_PG1\.npz cannot be read .*allow_pickle"):
        bml_movi.read_camera(tmp_path, "PG1")
    np.savez_compressed(path, IntrinsicMatrix=np.zeros((3000, 3000)), RadialDistortion=np.zeros(2))
    with pytest.raises(ValueError, match=r"cameraParams_PG1\.npz cannot be read .*IntrinsicMatrix unpacks to 72000128 bytes"):
        bml_movi.read_camera(tmp_path, "PG1")
    path.write_bytes(b"PK" + bytes(50))
    with pytest.raises(ValueError, match=r"cameraParams_PG1\.npz cannot be read as an npz file with IntrinsicMatrix"):
        bml_movi.read_camera(tmp_path, "PG1")


def test_unreadable_video_is_reported_and_the_rest_goes_on(tmp_path):
    write_round_f(tmp_path, rows([0]), ("PG1", "PG2"))
    (tmp_path / "F_PG1_Subject_1_L.avi").write_bytes(b"\0" * 999)
    first, second = ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match=r"F_PG1_Subject_1_L\.avi cannot be read as a video"):
        list(ADAPTER.load_unit(tmp_path, first))
    assert len(list(ADAPTER.load_unit(tmp_path, second))) == 1


def test_any_detection_that_overlaps_replaces_the_box():
    assert ADAPTER.detection_rule.min_iou == 0 and ADAPTER.detection_rule.unmatched == "keep"


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "bml_movi_87"
