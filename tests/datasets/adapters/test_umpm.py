"""The UMPM adapter on sequences in the authors' layout: painted people before four distorting cameras, joints in C3D files."""

import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import umpm
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video
from tests.datasets.readers.c3d_files import make_c3d

ADAPTER = umpm.ADAPTER
SKELETON = load_skeleton("umpm_15")
# In the order of the files: from the hips down right and left alternate.
NAMES = ["pelvis", "neck", "head", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
         "right_hip", "left_hip", "right_knee", "left_knee", "right_ankle", "left_ankle"]
WIDTH, HEIGHT = 644, 484
LENS = np.array([-0.21, 0.09, 0.002, -0.001])  # k1, k2, p1, p2
POSITIONS = {"f": (200, -4300, 1500), "s": (-1000, -4200, 1900), "r": (1500, -4100, 700), "l": (900, -4400, 2300)}  # mm
PLACES = (-500.0, 0.0, 900.0), (450.0, 250.0, 900.0)  # of the two people's pelvises


def intrinsics(camera):
    return np.array([[601.5 + 3 * "fsrl".index(camera), 0, 318.2], [0, 604.25, 251.4], [0, 0, 1]])


def rotation(camera):
    """World (z up) to camera; it looks at a point between the people, a little rolled."""
    z = np.array([0, 0, 950.0]) - POSITIONS[camera]
    z /= np.linalg.norm(z)
    x = np.cross(z, [0.08, 0, 1])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def translation(camera):
    return -rotation(camera) @ POSITIONS[camera]


def image_points(joints3d, camera, lens=LENS):
    points, _ = cv2.projectPoints(np.float64(joints3d), rotation(camera), translation(camera), intrinsics(camera), lens)
    return points[:, 0]


def people(angles, num_people=2):
    """[num_frames, num_people, 15, 3] mm, world: they face the first camera and turn by so many degrees."""
    upright = 1000 * body(SKELETON, (0, 0, 0))[[SKELETON.joint_names.index(name) for name in NAMES]]
    x, y, z = upright[:, 0], upright[:, 2], -upright[:, 1]
    frames = []
    for angle in np.radians(angles):
        turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z], axis=-1)
        frames.append([turned + place for place in PLACES[:num_people]])
    return np.array(frames)


def write_sequence(raw_dir, poses, name="p2_chair_1", cameras="f", calibration="calib_l06", num_video_frames=None, lens=LENS):
    """Of two people person i % 2 is painted in picture i, as dots of both would have the same colours."""
    for folder in ("Video", "Groundtruth", "Calib"):
        (raw_dir / folder).mkdir(parents=True, exist_ok=True)
    (raw_dir / f"{name}.json").write_text(
        f'{{\n\t"id": "{name}",\n\t"bg": "backgr_l06_7",\n\t"calib": "{calibration}",\n\t"video_dir": "Video",\n'
        '\t"gt_dir": "Groundtruth",\n\t"bg_dir": "Background",\n\t"calib_dir": "Calib",\n}\n')
    # Twice the videos' rate; whoever takes the frames between gets somebody else's place.
    points = np.repeat(poses.reshape(len(poses), -1, 3), 2, axis=0)
    points[1::2] += 700
    labels = [f"person{i}:{joint}" for i in range(poses.shape[1]) for joint in NAMES]
    (raw_dir / "Groundtruth" / f"{name}_vm.c3d").write_bytes(make_c3d(points, labels))
    for camera in cameras:
        rows = [*intrinsics(camera), lens, cv2.Rodrigues(rotation(camera))[0].ravel(), translation(camera)]
        (raw_dir / "Calib" / f"{calibration}_{camera}.ini").write_text(
            "".join("   ".join(f"{number:.9f}" for number in row) + "  \r\n" for row in rows))
        images = [gray_image(WIDTH, HEIGHT) for _ in range(len(poses) if num_video_frames is None else num_video_frames)]
        for i, image in enumerate(images):
            pose = poses[min(i, len(poses) - 1), i % poses.shape[1]]
            if np.isfinite(pose).all():
                paint(image, image_points(pose, camera, lens), radius=5)
        write_video(raw_dir / "Video" / f"{name}_{camera}.avi", images, "FFV1")


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def kept_frames(raw_dir, poses, **options):
    write_sequence(raw_dir, poses, **options)
    return [(e.provenance["frame"], e.provenance["person"]) for e in load_all(raw_dir)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    poses = people([0, 14, 0])  # of frame 2 nothing is kept: the pose is that of frame 0
    write_sequence(tmp_path / "raw", poses, cameras="fsrl")
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    assert list(SKELETON.joint_names) == NAMES
    dataset = PreparedDataset(tmp_path / "data" / "umpm")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"], e.provenance["person"]) for e in examples] == [
        (camera, frame, person) for camera in "flrs" for frame in (0, 1) for person in (0, 1)]
    assert examples[3].provenance == {"source": "Video/p2_chair_1_f.avi", "sequence": "p2_chair_1", "camera": "f", "frame": 1,
                                      "person": 1}
    for example in examples:
        if example.provenance["frame"] % 2 == example.provenance["person"]:
            check_crop(example, poses[example.provenance["frame"], example.provenance["person"]])
            up_in_crop = np.float64(example.world_to_camera[:3, 2])
            assert abs(up_in_crop[0]) < 1e-6 and up_in_crop[1] < -0.8


def test_boxes_hold_the_projected_joints(tmp_path):
    poses = people([0], num_people=1)
    write_sequence(tmp_path, poses, cameras="s")
    (example,) = load_all(tmp_path)
    low, high = image_points(poses[0, 0], "s").min(axis=0), image_points(poses[0, 0], "s").max(axis=0)
    np.testing.assert_allclose(example.bbox, [*((low + high) / 2 - 1.15 / 2 * (high - low)), *(1.15 * (high - low))], atol=0.01)


def test_walking_is_no_new_pose_and_a_joint_that_comes_back_is(tmp_path):
    poses = people([0] * 7, num_people=1)
    poses[1] += [600, 0, 0]
    poses[2, 0, NAMES.index("left_wrist")] = np.nan  # leaves, is not looked at, comes back to its place
    poses[3, 0, NAMES.index("right_wrist")] = np.nan
    poses[5, 0, NAMES.index("head")] += [0, 0, 105]  # 98 mm from its place as seen from the mean of the 15 joints
    poses[6, 0, NAMES.index("head")] += [0, 0, 110]  # 102.7 mm
    assert kept_frames(tmp_path / "a", poses) == [(0, 0), (6, 0)]
    poses[0, 0, NAMES.index("left_wrist")] = np.nan
    assert kept_frames(tmp_path / "b", poses) == [(0, 0), (1, 0)]


@pytest.mark.parametrize(("num_poses", "num_frames"), [(3, 5), (5, 3), (3, 3)])
def test_the_shorter_of_video_and_labels_counts(tmp_path, num_poses, num_frames):
    assert kept_frames(tmp_path, people(15 * np.arange(num_poses), 1), num_video_frames=num_frames) == [(0, 0), (1, 0), (2, 0)]


def test_bones_of_odd_length_lose_both_ends():
    poses = np.zeros((20, 1, 15, 3))  # the mean of the 20 is what it takes below
    neck, head = NAMES.index("neck"), NAMES.index("head")
    shoulder, elbow, wrist = (NAMES.index(f"left_{joint}") for joint in ("shoulder", "elbow", "wrist"))
    poses[:, 0, head, 2] = 200.0
    poses[:, 0, shoulder, 0] = poses[:, 0, elbow, 0] = 300.0
    poses[:, 0, wrist, 0] = 600.0
    poses[:2, 0, head, 2] = 285.0, 115.0  # 85 mm off the mean of 200: 1.425 times, but not below 0.5 times
    poses[2:4, 0, wrist, 0] = 595.0 + 80.0, 605.0 - 80.0  # near the mean of 300: more than 1.25 times, but not 80 mm
    poses[4:6, 0, wrist, 0] = 686.0, 514.0
    poses[6:8, 0, wrist, 0] = 600.0 - 160.0, 600.0 + 160.0  # 0.47 and 1.53 times
    poses[8, 0, wrist] = np.nan
    is_left = np.isfinite(umpm.drop_noisy_joints(poses)).all(axis=-1)[:, 0]
    expected = np.ones((20, 15), bool)
    expected[0, [neck, head]] = False
    expected[[4, 6, 7], elbow] = expected[[4, 6, 7, 8], wrist] = False
    np.testing.assert_array_equal(is_left, expected)
    assert np.isfinite(poses[0]).all()  # not changed in place


def test_noisy_joints_are_left_out_before_the_box_is_made(tmp_path):
    poses = people([0] * 10, num_people=1)
    poses[0, 0, NAMES.index("right_wrist")] += [-900, 0, 0]
    write_sequence(tmp_path, poses)
    first, second = load_all(tmp_path)
    assert [NAMES[i] for i in np.flatnonzero(np.isnan(first.joints3d_world[:, 0]))] == ["right_elbow", "right_wrist"]
    assert first.bbox[2] < second.bbox[2] and second.provenance["frame"] == 1  # where they are back


def test_people_out_of_view_are_left_out_even_where_the_lens_would_fold_them_back(tmp_path):
    lens = np.array([-0.21, 0, 0, 0])
    right, _, forward = rotation("f")
    poses = people([0, 90])
    poses[:, 1] += POSITIONS["f"] + 3000 * right + 1500 * forward - PLACES[1]
    points = image_points(poses[0, 1], "f", lens)
    assert ((points > 0) & (points < [WIDTH, HEIGHT])).all(axis=1).sum() >= 4  # so it would seem
    assert kept_frames(tmp_path, poses, lens=lens) == [(0, 0), (1, 0)]


def test_people_of_fewer_than_four_joints_in_the_image_are_left_out(tmp_path):
    poses = people([0, 90])
    poses[0, 1, 3:] = np.nan  # three joints are left
    assert kept_frames(tmp_path / "a", poses) == [(0, 0), (1, 0), (1, 1)]
    moved = [people([0], 1) + shift * rotation("f")[0] for shift in range(2500, 4000, 5)]
    for num_inside, expected in ((3, []), (4, [(0, 0)])):
        pose = next(pose for pose in moved if (image_points(pose[0, 0], "f")[:, 0] < WIDTH - 0.5).sum() == num_inside)
        assert kept_frames(tmp_path / str(num_inside), pose) == expected


def test_broken_json_files_are_replaced(tmp_path):
    for name, calibration in (("p2_free_1", "calib_n27"), ("p3_circle_2", "calib_l06"), ("p2_free_2", "calib_x01")):
        write_sequence(tmp_path, people([0]), name, calibration=calibration)
        (tmp_path / f"{name}.json").write_text("{ broken")
    assert {e.provenance["sequence"] for e in load_all(tmp_path)} == {"p2_free_1", "p3_circle_2"}


def test_packed_videos_are_named_with_the_command(tmp_path):
    write_sequence(tmp_path, people([0]), cameras="fs")
    (tmp_path / "Video" / "p2_chair_1_s.avi.xz").touch()  # beside the unpacked one
    (tmp_path / "Video" / "p2_chair_1_f.avi").rename(tmp_path / "Video" / "p2_chair_1_f.avi.xz")
    packed, unpacked = ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"xz -dk '.*Video/p2_chair_1_f\.avi\.xz'"):
        list(ADAPTER.load_unit(tmp_path, packed))
    assert len(list(ADAPTER.load_unit(tmp_path, unpacked))) == 2


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no videos in .*Video\. .*science\.uu\.nl/umpm"):
        ADAPTER.list_units(tmp_path, "train")
    assert ADAPTER.list_units(tmp_path, "test") == []
    write_sequence(tmp_path, people([0]))
    for path in ("Groundtruth/p2_chair_1_vm.c3d", "Calib/calib_l06_f.ini", "p2_chair_1.json"):
        (tmp_path / path).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{path} is missing.*science\.uu\.nl/umpm"):
            load_all(tmp_path)


@pytest.mark.parametrize(("path", "content", "message"), [
    ("p2_chair_1.json", b'{"id": "p2_chair_1",}', r"p2_chair_1\.json: expected a JSON table with an entry calib"),
    ("p2_chair_1.json", 100_000 * b"[", r"p2_chair_1\.json: expected a JSON table with an entry calib"),
    ("p2_chair_1.json", b'["calib"]', r"p2_chair_1\.json: expected a JSON table with an entry calib"),
    ("p2_chair_1.json", b'{"calib": "../Calib/calib_l06"}', r"p2_chair_1\.json: calib: the path .* leaves the folder"),
    ("Calib/calib_l06_f.ini", b"1 0 0\n0 1 0\n0 0 1\n0 0 0\n", r"l06_f\.ini: its lines have \[3, 3, 3, 3\] numbers"),
    ("Calib/calib_l06_f.ini", b"[camera]\n", r"l06_f\.ini: line 1: .*\[camera\]"),
    ("Groundtruth/p2_chair_1_vm.c3d", make_c3d(np.zeros((4, 16, 3)), []), r"vm\.c3d has 16 points at 100 Hz; expected 15"),
    ("Groundtruth/p2_chair_1_vm.c3d", make_c3d(np.zeros((4, 15, 3)), [], rate=50.0), r"vm\.c3d has 15 points at 50 Hz"),
    ("Video/p2_chair_1_f.avi", b"\0" * 99, r"p2_chair_1_f\.avi cannot be read as a video"),
])
def test_broken_files_are_reported_and_the_rest_goes_on(tmp_path, path, content, message):
    write_sequence(tmp_path, people([0]))
    write_sequence(tmp_path, people([0]), "p2_chair_2", calibration="calib_l07")
    (tmp_path / path).write_bytes(content)
    first, second = ADAPTER.list_units(tmp_path, "train")
    with pytest.raises(ValueError, match=message):
        list(ADAPTER.load_unit(tmp_path, first))
    assert len(list(ADAPTER.load_unit(tmp_path, second))) == 2


def test_a_calibration_by_which_nobody_is_ever_in_view_is_an_error(tmp_path):
    write_sequence(tmp_path, people([0, 14]))
    path = tmp_path / "Calib" / "calib_l06_f.ini"
    *rows, _ = path.read_text().splitlines()
    path.write_text("\n".join([*rows, "9e9 0 1000"]))
    with pytest.raises(ValueError, match=r"p2_chair_1_f\.avi: nobody is ever in view; is the calibration of p2_chair_1"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert json.dumps(pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None)) == '"umpm_15"'
