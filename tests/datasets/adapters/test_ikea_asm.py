"""The IKEA ASM adapter on scans in the authors' layout: videos of painted people, poses in the frame of each camera."""

import json
import pickle

import numpy as np
import pytest

from datasets.adapters import ikea_asm
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = ikea_asm.ADAPTER
SKELETON = load_skeleton("ikea_17")
NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
         "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
         "right_ankle"]
WIDTH, HEIGHT = 1920, 1080
SCAN = "Lack_Side_Table/0001_black_table_02_01_2019_08_16_14_00"
ANKLE, HEAD = NAMES.index("left_ankle"), [0, 1, 2, 3, 4]
HEAD_POSITIONS = [[0, -0.6, -0.08], [0.08, -0.72, -0.06], [-0.08, -0.73, -0.06], [0.16, -0.65, 0], [-0.15, -0.66, 0]]


def rotation(angle, tilt):
    """[3, 3]: turned to the right by `angle`, tilted down by `tilt`, radians."""
    around_y = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return around_x @ around_y


# By camera: fx, fy, cx, cy; R and T, cm: X_camera = R X_dev2 + T.
CAMERAS = {"dev1": ((1079.3, 1077.5, 967.1, 544.2), rotation(0.3, 0.1), np.array([-60.0, 5, 12])),
           "dev2": ((1074.8, 1076.0, 951.6, 533.7), np.eye(3), np.zeros(3)),
           "dev3": ((1081.4, 1080.9, 959.5, 539.5), rotation(-0.2, 0.25), np.array([45.0, 60, 20]))}


def truth(right_cm=0.0):
    """[17, 3] cm, in the frame of dev2: a person who faces it, moved to the right in it."""
    joints = body(SKELETON, (0, 0, 0))[[SKELETON.joint_names.index(name) for name in NAMES]]
    joints[HEAD] = HEAD_POSITIONS
    return 100 * joints + np.array([right_cm - 10, 10, 280])


def in_camera(joints, camera):
    _, turn, shift = CAMERAS[camera]
    return joints @ turn.T + shift


def image_points(joints, camera):
    (fx, fy, cx, cy), _, _ = CAMERAS[camera]
    x, y, z = in_camera(joints, camera).T
    return np.stack([fx * x / z + cx, fy * y / z + cy], axis=1)


def write_calibration(raw_dir, scenes=("02", "04")):
    cameras = {}
    for name, ((fx, fy, cx, cy), turn, shift) in CAMERAS.items():
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        cameras[name] = {"K": intrinsics, "dist_coefs": np.zeros((1, 5)), "R": turn, "T": shift[:, None],
                         "P": intrinsics @ np.c_[turn, shift]}
    (raw_dir / "Calibration").mkdir(parents=True, exist_ok=True)
    (raw_dir / "Calibration" / "camera_parameters.pkl").write_bytes(pickle.dumps(dict.fromkeys(scenes, cameras)))


def write_list(raw_dir, split="train", scans=(SCAN,), folder=""):
    (raw_dir / folder).mkdir(parents=True, exist_ok=True)
    (raw_dir / folder / f"{split}_cross_env.txt").write_text("\n".join(scans) + "\n")


def write_pose(folder, frame, joints, confidences=0.9):
    """`joints`: [17, 3] cm in the frame of the camera; those without confidence are written as zeros."""
    numbers = np.c_[joints, np.broadcast_to(confidences, 17)]
    numbers[numbers[:, 3] == 0] = 0
    (folder / "pose3d").mkdir(parents=True, exist_ok=True)
    content = {"format": "ikea", "pose_keypoints_3d": numbers.ravel().tolist()}
    (folder / "pose3d" / f"{frame:06d}.json").write_text(json.dumps(content))


def write_scan(raw_dir, poses, num_pictures=5, scan=SCAN, cameras=("dev1", "dev2", "dev3")):
    """`poses`: by frame, [17, 3] cm in the frame of dev2; the person is in the pictures of these frames only."""
    for camera in cameras:
        folder = raw_dir / scan / camera
        pictures = [gray_image(WIDTH, HEIGHT) if i == 0 or i in poses else None for i in range(num_pictures)]
        for frame, joints in poses.items():
            write_pose(folder, frame, in_camera(joints, camera))
            if frame < num_pictures:
                paint(pictures[frame], image_points(joints, camera), radius=13)
        write_video(folder / "images" / "scan_video.avi", [pictures[0] if p is None else p for p in pictures], "MJPG", 30)
    # What else is there, and is not read.
    (raw_dir / scan / "dev3" / "pose2d").mkdir(parents=True, exist_ok=True)
    (raw_dir / scan / "dev3" / "pose2d" / "000000.json").write_text("{}")


@pytest.fixture(name="raw_dir")
def make_raw_dir(tmp_path):
    """Without a scan."""
    write_calibration(tmp_path / "raw")
    write_list(tmp_path / "raw")
    return tmp_path / "raw"


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def frames(items):
    return [item.provenance["frame"] for item in items]


def test_prepared_joints_lie_on_their_dots(raw_dir, tmp_path):
    poses = {1: truth(), 2: truth(5), 3: truth(11)}
    write_scan(raw_dir, poses, 4)
    test_scan = "Lack_TV_Bench/0007_white_floor_04_04_2019_08_28_10_47"
    write_scan(raw_dir, {0: truth()}, 1, test_scan, ["dev1"])
    write_scan(raw_dir, {0: truth()}, 1, "special_test/0050_white_floor_04_04_2019_08_28_10_47", ["dev1"])
    write_list(raw_dir, "test", [test_scan])
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "ikea_asm")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in CAMERAS for frame in (1, 3)]
    for example in examples:
        joints = poses[example.provenance["frame"]]
        check_crop(example, 10 * joints[[NAMES.index(name) for name in SKELETON.joint_names]])
    assert examples[1].provenance == {"source": f"{SCAN}/dev1/images/scan_video.avi", "subject": "0001", "sequence": SCAN,
                                      "camera": "dev1", "frame": 3}
    assert list(dataset.splits()) == ["train", "test"] and dataset.num_examples("test") == 1
    assert dataset.read("test", 0).provenance["sequence"] == test_scan


def test_boxes_hold_the_projected_joints(raw_dir):
    write_scan(raw_dir, {0: truth()}, 1, cameras=["dev3"])
    points = image_points(truth(), "dev3")
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(load_all(raw_dir)[0].bbox, [*(low - 0.1 * (high - low)), *(1.2 * (high - low))])


def test_up_is_minus_y_of_dev2(raw_dir):
    write_scan(raw_dir, {0: truth()}, 1, cameras=["dev1"])
    np.testing.assert_allclose(load_all(raw_dir)[0].camera.up, CAMERAS["dev1"][1] @ [0, -1, 0])


def test_joints_without_confidence_are_missing_and_new_ones_are_kept(raw_dir):
    """A joint at a coordinate of 0 that has a confidence is none that is missing."""
    joints = truth()
    joints[ANKLE, 0] = 0.0
    write_scan(raw_dir, {0: joints}, cameras=["dev2"])
    folder = raw_dir / SCAN / "dev2"
    is_ankle, is_head = np.arange(17) == ANKLE, np.isin(np.arange(17), HEAD)
    for frame, confidences in enumerate([~is_ankle, ~is_ankle & ~is_head, np.ones(17), ~is_head, np.ones(17)]):
        write_pose(folder, frame, joints, 0.5 * confidences)
    items = load_all(raw_dir)
    assert frames(items) == [0, 2]  # the head that is seen again in frame 4 has not moved since 2
    np.testing.assert_array_equal(np.isnan(items[0].joints3d_world).all(axis=1), is_ankle)
    assert np.isfinite(items[1].joints3d_world).all()
    np.testing.assert_allclose(items[1].joints3d_world[SKELETON.joint_names.index("left_ankle"), 0], 0, atol=1e-9)


def test_a_joint_of_zeros_only_is_missing_whatever_its_confidence(raw_dir):
    joints = truth()
    write_scan(raw_dir, {0: joints}, 1, cameras=["dev2"])
    joints[ANKLE] = 0
    write_pose(raw_dir / SCAN / "dev2", 0, joints)
    (item,) = load_all(raw_dir)
    np.testing.assert_array_equal(np.isnan(item.joints3d_world).all(axis=1), np.arange(17) == ANKLE)


def test_four_joints_must_be_in_the_image(raw_dir):
    """Frame by frame the person comes in from the right, from 3 to 4 joints; frames that are left out count for nothing."""
    (fx, _, cx, _), _, _ = CAMERAS["dev2"]
    flat = truth()
    flat[:, 2] = 280  # moving by 1 cm moves all joints by the same number of px
    x = np.sort(fx * flat[:, 0] / 280 + cx)
    three, four = (280 / fx * (WIDTH - 0.5 - (x[i] + x[i + 1]) / 2) for i in (2, 3))
    assert four < three < four + 10  # less than the movement that counts
    write_scan(raw_dir, {}, 2, cameras=["dev2"])
    for frame, right_cm in enumerate((three, four)):
        write_pose(raw_dir / SCAN / "dev2", frame, flat + np.array([right_cm, 0, 0]))
    assert frames(load_all(raw_dir)) == [1]


def test_lists_may_lie_in_their_own_folder(raw_dir):
    write_scan(raw_dir, {0: truth()}, 1, cameras=["dev2"])
    (raw_dir / "train_cross_env.txt").unlink()
    write_list(raw_dir, scans=["", SCAN], folder="indexing_files")
    assert ADAPTER.list_units(raw_dir, "train") == [{"scan": SCAN, "camera": "dev2"}]
    assert ADAPTER.list_units(raw_dir, "validation") == []


def test_wrong_poses_are_reported_and_the_rest_read(raw_dir):
    poses = {frame: truth(20 * frame) for frame in range(5)}
    write_scan(raw_dir, poses, cameras=["dev2"])
    folder = raw_dir / SCAN / "dev2" / "pose3d"
    (folder / "000000.json").write_text(json.dumps({"format": "body25", "pose_keypoints_3d": [0.0] * 100}))
    (folder / "000001.json").write_text(json.dumps({"format": "ikea", "pose_keypoints_3d": [1.0] * 67}))
    (folder / "000002.json").write_text(json.dumps({"format": "ikea", "pose_keypoints_3d": [float("nan")] * 68}))
    (folder / "000003.json").write_text(json.dumps({"format": "ikea", "pose_keypoints_3d": [10**400] * 68}))
    (folder / "000003.json").with_name("first.json").write_text("{}")
    items = load_all(raw_dir)
    messages = [str(item) for item in items if isinstance(item, ValueError)]
    assert [message.split("pose3d/")[1][:12].rstrip(": i") for message in messages] == [
        "000000.json", "000001.json", "000002.json", "000003.json", "first.json"]
    assert "its format is 'body25'" in messages[0] and "pose_keypoints_3d" in messages[1] and "nan" in messages[2]
    assert "OverflowError" in messages[3] and "expected the number of a frame" in messages[4]
    assert frames(items[5:]) == [4]


def test_broken_videos_are_named(raw_dir):
    write_scan(raw_dir, {0: truth(), 3: truth(50)}, 2, cameras=["dev2"])
    video = raw_dir / SCAN / "dev2" / "images" / "scan_video.avi"
    (unit,) = ADAPTER.list_units(raw_dir, "train")
    items = ADAPTER.load_unit(raw_dir, unit)
    assert next(items).provenance["frame"] == 0
    with pytest.raises(ValueError, match=r"scan_video\.avi: frame 3 cannot be decoded: the video ends after 2 frames"):
        next(items)
    write_video(video, [gray_image(960, 540)] * 4, "MJPG", 30)
    with pytest.raises(ValueError, match=r"scan_video\.avi has 960 x 540 px, its camera is calibrated for 1920 x 1080"):
        load_all(raw_dir)
    video.write_bytes(b"\0" * 999)
    with pytest.raises(ValueError, match=r"scan_video\.avi cannot be read as a video"):
        load_all(raw_dir)


def test_missing_calibration_is_named(raw_dir):
    scan = "Lack_Side_Table/0001_black_table_03_01_2019_08_16_14_00"
    write_scan(raw_dir, {0: truth()}, 1, scan, ["dev2"])
    write_list(raw_dir, scans=[scan])
    with pytest.raises(ValueError, match=r"camera_parameters\.pkl: scene '03' \(of scan 0001_.*\), camera dev2: expected K"):
        load_all(raw_dir)
    path = raw_dir / "Calibration" / "camera_parameters.pkl"
    for content in ({"03": {"dev2": {"K": np.eye(3)}}}, {"03": None}, [1, 2]):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"camera_parameters\.pkl: scene '03'.*camera dev2: expected K"):
            load_all(raw_dir)
    with pytest.raises(ValueError, match=r"scene '' \(of scan short\)"):
        ikea_asm.read_camera(path, "short", "dev1")


def test_missing_files_are_named_with_their_source(raw_dir, caplog):
    site = r"https://ikeaasm\.github\.io"
    with pytest.raises(FileNotFoundError, match=rf"test_cross_env\.txt is missing.*{site}"):
        ADAPTER.list_units(raw_dir, "test")
    with pytest.raises(FileNotFoundError, match=rf"no scan of .*train_cross_env\.txt has a video and poses.*{site}"):
        ADAPTER.list_units(raw_dir, "train")
    write_scan(raw_dir, {0: truth()}, 1, cameras=["dev2", "dev3"])
    (raw_dir / SCAN / "dev3" / "pose3d" / "000000.json").unlink()
    assert ADAPTER.list_units(raw_dir, "train") == [{"scan": SCAN, "camera": "dev2"}]
    assert "2 of the 3 videos of" in caplog.text
    (raw_dir / "Calibration" / "camera_parameters.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=rf"camera_parameters\.pkl is missing.*{site}"):
        load_all(raw_dir)


def test_lists_cannot_lead_out_of_the_folder(raw_dir):
    write_list(raw_dir, scans=["../elsewhere/scan"])
    with pytest.raises(ValueError, match=r"train_cross_env\.txt: the path '\.\./elsewhere/scan' leaves the folder"):
        ADAPTER.list_units(raw_dir, "train")


def test_detections_replace_boxes_and_those_who_overlap_none_are_dropped(raw_dir, tmp_path):
    write_scan(raw_dir, {0: truth(), 1: truth(20)}, 2, cameras=["dev2"])
    x, y, width, height = load_all(raw_dir)[0].bbox
    results = [{"file_name": f"{SCAN}/dev2/images/scan_video.avi#{frame}", "bbox": bbox, "score": 0.9}
               for frame, bbox in ((0, [x + 0.5, y + 0.5, width, 0.4 * height]), (1, [x + 200, y, width, 0.2 * height]))]
    detections = tmp_path / "found.json"
    detections.write_text(json.dumps(results))
    prepare(ADAPTER, raw_dir, tmp_path / "data", splits=["train"], workers=1, progress=False, detections=detections)
    dataset = PreparedDataset(tmp_path / "data" / "ikea_asm")
    assert dataset.num_examples("train") == 1
    example = dataset.read("train", 0)
    assert example.provenance["frame"] == 0
    np.testing.assert_allclose(example.bbox[2] / example.bbox[3], width / (0.4 * height), rtol=0.02)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "ikea_asm"
