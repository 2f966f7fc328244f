"""The MADS adapter on videos and MATLAB files in the authors' layout: a painted dancer before three distorting cameras."""

import pickle

import cv2
import numpy as np
import pytest
import scipy.io

from datasets.adapters import mads
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = mads.ADAPTER
SKELETON = load_skeleton("mads_19")
NAMES_19 = ["neck", "pelvis", "left_hip", "left_knee", "left_ankle", "left_foot", "right_hip", "right_knee", "right_ankle",
            "right_foot", "left_shoulder", "left_elbow", "left_wrist", "left_hand", "right_shoulder", "right_elbow",
            "right_wrist", "right_hand", "head"]
NAMES_15 = ["neck", "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "left_shoulder",
            "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist", "head"]
IN_19 = [NAMES_19.index(name) for name in NAMES_15]
WIDTH, HEIGHT = 512, 384
LENS = np.array([-0.24, 0.11, 0.003, -0.002, 0.01])  # k1, k2, p1, p2, k3
POSITIONS = ((-900, 1500, 4100), (150, 1900, 4300), (1000, 700, 4000))  # mm, y up; the dancer faces z
SEQUENCE = "multi_view_data/Kata/Kata_F2"


def intrinsics(camera):
    return np.array([[573.5 + camera, 0, 262.3], [0, 571.2, 187.9], [0, 0, 1]])


def rotation(camera):
    """World (y up) to camera; it looks at the dancer's belly, a little rolled."""
    z = np.array([0, 950.0, 0]) - POSITIONS[camera]
    z /= np.linalg.norm(z)
    x = np.cross(z, [0.07, 1, 0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def image_points(joints3d, camera):
    points, _ = cv2.projectPoints(np.ascontiguousarray(joints3d), rotation(camera), -rotation(camera) @ POSITIONS[camera],
                                  intrinsics(camera), LENS)
    return points[:, 0]


def dancer(offsets):
    """[num_frames, 19, 3] mm, world: a person at so many mm along x. Facing z, left is on the side of x."""
    x, y, z = (1000 * body(SKELETON, (0, 0, 0))[[SKELETON.joint_names.index(name) for name in NAMES_19]]).T
    return np.stack([x, 950 - y, -z], axis=-1) + np.array([[[offset, 0, 0]] for offset in offsets], np.float64)


def write_truth(raw_dir, poses, sequence=SEQUENCE):
    """poses: one per cell."""
    cells = np.empty((1, len(poses)), object)
    for i, pose in enumerate(poses):
        cells[0, i] = pose
    scipy.io.savemat(raw_dir / f"{sequence}_GT.mat", {"GTpose2": cells})


def write_sequence(raw_dir, poses, sequence=SEQUENCE, cameras=(0, 1, 2), num_video_frames=None, size=(WIDTH, HEIGHT)):
    """poses: [num_frames, 15 or 19, 3]; nan is not painted."""
    folder = (raw_dir / sequence).parent
    folder.mkdir(parents=True, exist_ok=True)
    write_truth(raw_dir, poses, sequence)
    for camera in cameras:
        k = intrinsics(camera)
        scipy.io.savemat(folder / f"Calib_Cam{camera}.mat", {
            "KK": k, "kc": LENS[:, None], "om_ext": cv2.Rodrigues(rotation(camera))[0],
            "T_ext": -rotation(camera) @ np.array(POSITIONS[camera])[:, None], "fc": k[[0, 1], [0, 1]][:, None],
            "cc": k[:2, 2:], "alpha_c": 0.0, "Rc_ext": rotation(camera)})
        images = [gray_image(*size) for _ in range(len(poses) if num_video_frames is None else num_video_frames)]
        for i, image in enumerate(images):
            pose = poses[min(i, len(poses) - 1)]
            if len(pose) > 1 and np.isfinite(pose).all():
                paint(image, image_points(pose, camera), radius=5)
        write_video(raw_dir / f"{sequence}_C{camera}.avi", images, "FFV1", 30)


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def kept_frames(raw_dir, poses, **options):
    write_sequence(raw_dir, poses, cameras=[1], **options)
    return [e.provenance["frame"] for e in load_all(raw_dir)]


@pytest.mark.parametrize(("names", "nesting"), [(NAMES_15, "MADS/"), (NAMES_19, "")])
def test_prepared_joints_lie_on_their_dots(tmp_path, names, nesting):
    assert list(SKELETON.joint_names) == NAMES_19
    rows = [NAMES_19.index(name) for name in names]
    poses = dancer([0, 60, 120])
    write_sequence(tmp_path / "raw", poses[:, rows], nesting + SEQUENCE)
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "mads")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in (0, 1, 2) for frame in (0, 2)]
    assert examples[1].provenance == {"source": f"{nesting}{SEQUENCE}_C0.avi", "sequence": "Kata_F2", "activity": "Kata",
                                      "camera": 0, "frame": 2}
    for example in examples:
        truth = np.full((19, 3), np.nan)
        truth[rows] = poses[example.provenance["frame"], rows]
        check_crop(example, truth, rows)
        up_in_crop = np.float64(example.world_to_camera[:3, 1])
        assert abs(up_in_crop[0]) < 1e-6 and up_in_crop[1] < -0.8


def test_boxes_hold_the_projected_joints(tmp_path):
    poses = dancer([0])
    poses[0, NAMES_19.index("left_hand")] = np.nan, 900, 100  # a joint is missing as a whole
    write_sequence(tmp_path, poses, cameras=[2])
    (example,) = load_all(tmp_path)  # a single cell, which MATLAB's readers unwrap
    points = np.delete(image_points(poses[0], 2), NAMES_19.index("left_hand"), axis=0)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(example.bbox, [*((low + high) / 2 - 0.6 * (high - low)), *(1.2 * (high - low))], atol=0.01)
    assert np.isnan(example.joints3d_world).all(axis=1).nonzero()[0].tolist() == [NAMES_19.index("left_hand")]


def test_frames_are_kept_where_somebody_moved_or_a_joint_came_back(tmp_path):
    poses = dancer([0, 0, 99, 101, 101, 101])[:, IN_19]
    poses[0, NAMES_15.index("head")] = np.nan
    poses[4, NAMES_15.index("head")] = np.nan  # goes, and comes back: it was there in the frame kept before
    assert kept_frames(tmp_path, poses) == [0, 1, 3]


def test_frames_lost_by_the_motion_capture_are_left_out(tmp_path):
    poses = list(dancer([0, 200, 400, 600, 800])[:, IN_19])
    poses[0], poses[1], poses[3] = np.full((15, 3), np.nan), np.zeros((0, 0)), np.array([[np.nan]])
    assert kept_frames(tmp_path, poses) == [2, 4]


@pytest.mark.parametrize(("num_poses", "num_frames"), [(4, 6), (6, 4)])
def test_the_shorter_of_video_and_labels_counts(tmp_path, num_poses, num_frames):
    poses = dancer(150 * np.arange(num_poses))[:, IN_19]
    assert kept_frames(tmp_path, poses, num_video_frames=num_frames) == [0, 1, 2, 3]


def test_a_file_without_any_joint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"Kata_F2_GT\.mat cannot be read .*no frame has a joint"):
        kept_frames(tmp_path, np.full((3, 15, 3), np.nan))


def test_counts_that_differ_a_lot_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"Kata_F2_C1\.avi has 1 frames, Kata_F2_GT\.mat 52 poses"):
        kept_frames(tmp_path, dancer([0] * 52)[:, IN_19], num_video_frames=1)


def test_videos_of_another_size_than_the_calibration_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"C1\.avi is of 1100 x 800 px, but KK .* the principal point \[262\.3, 187\.9\]"):
        kept_frames(tmp_path, dancer([0]), size=(1100, 800))


def test_a_person_behind_the_camera_does_not_stop_the_others(tmp_path):
    poses = dancer([0, 0, 0])
    poses[1] += [0, 0, 9000]
    write_sequence(tmp_path, poses, cameras=[0])
    first, error, last = load_all(tmp_path)
    assert "Kata_F2_GT.mat: GTpose2, frame 1: fewer than two joints" in str(error)
    assert (first.provenance["frame"], last.provenance["frame"]) == (0, 2)


def test_all_actions_are_in_one_split(tmp_path):
    for sequence in ("multi_view_data/Taichi/Taichi_S1", "multi_view_data/HipHop/HipHop_HipHop1"):
        write_sequence(tmp_path, dancer([0]), sequence, cameras=[1, 0])
    (tmp_path / "depth_data" / "HipHop").mkdir(parents=True)
    (tmp_path / "depth_data" / "HipHop" / "HipHop_HipHop1_Left.avi").touch()
    assert ADAPTER.list_units(tmp_path, "train") == [
        f"multi_view_data/{name}.avi" for name in ("HipHop/HipHop_HipHop1_C0", "HipHop/HipHop_HipHop1_C1",
                                                   "Taichi/Taichi_S1_C0", "Taichi/Taichi_S1_C1")]
    assert ADAPTER.list_units(tmp_path, "test") == []


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no videos .*MADS/multi_view_data\. .*visal\.cs\.cityu\.edu\.hk"):
        ADAPTER.list_units(tmp_path, "train")
    write_sequence(tmp_path, dancer([0]), cameras=[0])
    for name in ("Kata_F2_GT.mat", "Calib_Cam0.mat"):
        (tmp_path / "multi_view_data" / "Kata" / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing.*visal\.cs\.cityu\.edu\.hk"):
            load_all(tmp_path)


@pytest.mark.parametrize("broken", ["calibration", "shape", "text", "video"])
def test_broken_files_are_reported_and_the_rest_goes_on(tmp_path, broken):
    write_sequence(tmp_path, dancer([0]), cameras=[0, 1])
    write_sequence(tmp_path, dancer([0]), "multi_view_data/Taichi/Taichi_S1", cameras=[0])
    if broken == "calibration":
        scipy.io.savemat(tmp_path / "multi_view_data/Kata/Calib_Cam0.mat", {"KK": np.eye(3), "kc": LENS, "om": np.zeros(3)})
        message = r"Calib_Cam0\.mat has no variable om_ext"
    elif broken == "video":
        (tmp_path / f"{SEQUENCE}_C0.avi").write_bytes(b"\0" * 99)
        message = r"Kata_F2_C0\.avi cannot be read as a video"
    else:
        write_truth(tmp_path, [dancer([0])[0], dancer([0])[0, :17] if broken == "shape" else "lost"])
        message = r"Kata_F2_GT\.mat cannot be read .*: " + ("frame 1 has shape \\[17, 3\\]" if broken == "shape" else ".*lost")
    first, *_, last = ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match=message):
        list(ADAPTER.load_unit(tmp_path, first))
    assert len(list(ADAPTER.load_unit(tmp_path, last))) == 1


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "mads_19"
