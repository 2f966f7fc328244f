"""The HUMAN4D adapter on recordings in the authors' layout: painted people before cameras that lie on their side."""

import json
import logging
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import human4d
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, find_dots, gray_image, paint

ADAPTER = human4d.ADAPTER
SKELETON = load_skeleton("human4d_32")
NAMES = ["pelvis", "spine0", "spine1", "spine2", "spine3", "neck", "neck2", "head", "head_top", "neck3", "right_shoulder",
         "right_elbow", "right_wrist", "right_pinky", "right_thumb", "not a joint", "left_shoulder", "left_elbow", "left_wrist",
         "left_pinky", "left_thumb", "right_hip", "right_knee", "right_ankle", "right_foot", "right_toe", "right_toe2",
         "left_hip", "left_knee", "left_ankle", "left_foot", "left_toe", "left_toe2"]
JOINTS = [i for i in range(33) if i != 15]
# Joints that the painted person is made up without: mm to the left (right: to the right), down, and back from the pelvis.
FURTHER_JOINTS = {"spine0": (90, -20, 20), "neck2": (70, -575, 0), "neck3": (-60, -450, 20), "pinky": (520, -580, -150),
                  "thumb": (420, -600, -150), "toe2": (330, 940, -90)}
WIDTH, HEIGHT = 1280, 720
RECORDING = "19-07-12-09-09-06"
POSITIONS = {"M72e": (-600, -3100, 1400), "M72h": (150, -3000, 1900), "M72i": (450, -3100, 800), "M72j": (0, -3300, 1200)}  # mm
Z_UP, Y_UP = np.eye(3), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # from axes with z up to those of the files
# From the colour to the depth sensor: a turn about x, y, z in degrees, and metres.
COLOR_TO_DEPTH_DEGREES, COLOR_TO_DEPTH_M = np.array([0.6, -0.9, 0.4]), np.array([0.0149, 0.0004, -0.0021])


def intrinsics(camera):
    return np.array([[925.5 + ord(camera[-1]) - ord("e"), 0, 646.2], [0, 923.25, 371.4], [0, 0, 1]])


def color_pose(camera):
    """R, t from the world (z up, mm) to a colour sensor: upright, looking at the people, then turned so that up is left."""
    z = np.array([0, 0, 950.0]) - POSITIONS[camera]
    z /= np.linalg.norm(z)
    x = np.cross(z, [0.05, 0, 1])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    on_its_side = np.stack([y, -x, z])  # what is down goes to the right of the picture, what is on the right to the top
    return on_its_side, -on_its_side @ POSITIONS[camera]


def image_points(joints3d, camera):
    rotation, translation = color_pose(camera)
    points = (joints3d @ rotation.T + translation) @ intrinsics(camera).T
    return points[:, :2] / points[:, 2:]


def people(offsets, places=((0, 0),)):
    """[num_frames, num_people, 33, 3] mm, world: they face the cameras, and are at so many mm along x from their places."""
    joints = 1000 * body(SKELETON, (0, 0, 0))
    for i, name in enumerate(SKELETON.joint_names):
        if (joint := name.removeprefix("left_").removeprefix("right_")) in FURTHER_JOINTS:
            left, down, back = FURTHER_JOINTS[joint]
            joints[i] = -left if name.startswith("right") else left, down, back
    x, y, z = joints.T
    person = np.full((33, 3), 9000.0)  # the row that is no joint is far off
    person[JOINTS] = np.stack([x, z, 950 - y], axis=-1)
    return np.array([[person + np.array([x + offset, y, 0]) for x, y in places] for offset in offsets])


def write_subject(raw_dir, offset=0, recordings=(RECORDING,), cameras=tuple(POSITIONS), subject="S1", has_color_to_depth=True,
                  repository="S1/device_repository.json", world=Z_UP):
    """Calibrations and offsets."""
    (raw_dir / subject / "pose").mkdir(parents=True, exist_ok=True)
    (raw_dir / subject / "offsets.txt").write_text("19-07-12-00-00-00\t77\t78\r\n" + "".join(
        f"{recording}\t{offset}\t{offset + 40}\r\n" for recording in recordings))
    to_depth = cv2.Rodrigues(np.radians(COLOR_TO_DEPTH_DEGREES))[0]
    devices = []
    for camera in cameras:
        rotation, translation = color_pose(camera)
        if has_color_to_depth:  # X_depth = R X_colour + t
            rotation, translation = to_depth @ rotation, to_depth @ translation + 1000 * COLOR_TO_DEPTH_M
        rotation = rotation @ world.T
        rows = [*rotation.T, -rotation.T @ translation]
        (raw_dir / subject / "pose" / f"{camera}.extrinsics").write_text(
            "".join(" ".join(f"{number:.12e}" for number in row) + "\n" for row in rows))
        device = {"Device": camera, "Color Intrinsics": [{"1280x720": intrinsics(camera).ravel().tolist()}],
                  "Depth Intrinsics": [{"1280x720": (1.3 * intrinsics(camera)).ravel().tolist()}]}
        if has_color_to_depth:
            device |= {"Color Depth Rotation": to_depth.ravel().tolist(), "Color Depth Translation": COLOR_TO_DEPTH_M.tolist()}
        devices.append(device)
    (raw_dir / repository).write_text(json.dumps(devices))


def write_recording(raw_dir, poses, groups=None, cameras=("M72e",), recording=RECORDING, subject="S1", world=Z_UP,
                    is_painted=False):
    """Poses 0, 1, ... and pictures of some groups; the i-th picture shows pose i, of two people person i % 2."""
    folder = raw_dir / subject / recording / "Dump"
    for name in ("color", "gposes3d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, pose in enumerate(poses):
        np.save(folder / "gposes3d" / f"{i}.npy", pose @ world.T)
    for i, group in enumerate(range(len(poses)) if groups is None else groups):
        for camera in cameras:
            path = folder / "color" / f"{group}_{camera}_color_{13500 + i}.png"
            path.touch()
            if is_painted:
                image = gray_image(WIDTH, HEIGHT)
                paint(image, image_points(poses[i][i % len(poses[i])][JOINTS], camera), radius=7)
                assert cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def kept_groups(raw_dir, poses, **options):
    write_subject(raw_dir)
    write_recording(raw_dir, poses, **options)
    return [(e.provenance["frame"], e.provenance["person"]) for e in load_all(raw_dir)]


@pytest.mark.parametrize("world", [Z_UP, Y_UP], ids=["z up", "y up"])
def test_prepared_joints_lie_on_their_dots_and_people_stand_upright(tmp_path, world):
    assert [NAMES[i] for i in JOINTS] == list(SKELETON.joint_names)
    poses = people([0, 120])
    cameras = ("M72e", "M72i") if world is Z_UP else ("M72h",)
    write_subject(tmp_path / "raw", offset=7, world=world)
    write_recording(tmp_path / "raw", poses, groups=[7, 8], cameras=cameras, world=world, is_painted=True)
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "human4d")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, group) for camera in cameras for group in (7, 8)]
    assert examples[1].provenance == {
        "source": f"S1/{RECORDING}/Dump/color/8_{cameras[0]}_color_13501.png", "subject": "S1", "sequence": f"S1/{RECORDING}",
        "camera": cameras[0], "frame": 8, "person": 0}
    for example in examples:
        check_crop(example, poses[example.provenance["frame"] - 7, 0, JOINTS] @ world.T)
        dots = find_dots(example.decode_image(), 32)
        (left, head), (_, feet) = dots[SKELETON.joint_names.index("head_top")], dots[SKELETON.joint_names.index("left_ankle")]
        assert feet - head > 200 and abs(left - dots[0, 0]) < 40
        assert dots[SKELETON.joint_names.index("left_wrist"), 0] - dots[SKELETON.joint_names.index("right_wrist"), 0] > 100
        assert example.bbox[3] > 1.5 * example.bbox[2]


def test_two_people_follow_one_another_each_with_a_sampler(tmp_path):
    poses = people([0, 0, 0, 0], places=((-400, 0), (400, 0)))
    poses[1, 0, :, 0] += 50
    poses[2, 0, :, 0] += 110
    poses[3, 0, NAMES.index("left_toe")] = np.nan  # a joint that goes is no movement
    poses[1:, 1, NAMES.index("left_hip"), 2] += 120
    poses[1, 1, NAMES.index("head")] = np.nan  # and nor is one that comes back to its place
    poses[3, 1] = poses[0, 0]  # where the other one stood
    write_subject(tmp_path)
    write_recording(tmp_path, poses)
    assert [(e.provenance["frame"], e.provenance["person"]) for e in load_all(tmp_path)] == [
        (0, 0), (0, 1), (1, 1), (2, 0), (3, 1)]


def test_a_joint_that_is_there_anew_is_worth_a_frame(tmp_path):
    poses = people([0, 0, 0])
    poses[0, 0, NAMES.index("head"), 1] = np.nan  # one coordinate: the joint is missing
    assert kept_groups(tmp_path, poses) == [(0, 0), (1, 0)]
    first, _ = load_all(tmp_path)
    assert np.flatnonzero(np.isnan(first.joints3d_world).all(axis=1)).tolist() == [SKELETON.joint_names.index("head")]


def test_boxes_hold_the_projected_joints(tmp_path):
    assert kept_groups(tmp_path, people([0]), cameras=["M72i"]) == [(0, 0)]
    (example,) = load_all(tmp_path)
    points = image_points(people([0])[0, 0, JOINTS], "M72i")
    low, high = points.min(axis=0), points.max(axis=0)
    assert (high - low)[0] > 1.5 * (high - low)[1]  # the picture lies on its side
    np.testing.assert_allclose(example.bbox, [*((low + high) / 2 - 0.6 * (high - low)), *(1.2 * (high - low))], atol=0.01)


def test_pictures_are_read_in_the_order_of_their_groups_as_far_as_there_are_poses(tmp_path):
    write_subject(tmp_path, offset=8)
    write_recording(tmp_path, people([0, 0, 200, 0]), groups=[7, 8, 9, 10, 11, 12, 100])
    (tmp_path / "S1" / RECORDING / "Dump" / "gposes3d" / "0.npy").unlink()
    assert [(e.provenance["frame"], e.joints3d_world[0, 0]) for e in load_all(tmp_path)] == [(9, 0), (10, 200)]


@pytest.mark.parametrize("offset", [-5, 3])
def test_pictures_that_are_of_no_pose_are_an_error(tmp_path, offset):
    write_subject(tmp_path, offset=offset)
    write_recording(tmp_path, people([0, 200]))
    with pytest.raises(ValueError, match=r"Dump: none of the pictures of M72e is of the moment of a pose .*offsets\.txt says"):
        load_all(tmp_path)


def test_without_the_transform_between_its_sensors_a_camera_has_the_pose_of_the_file(tmp_path):
    cameras = []
    for name, has_color_to_depth in (("a", False), ("b", True)):
        write_subject(tmp_path / name, has_color_to_depth=has_color_to_depth)
        write_recording(tmp_path / name, people([0]))
        cameras.append(load_all(tmp_path / name)[0].camera.world_to_camera)
        np.testing.assert_allclose(cameras[-1][:3, :3], color_pose("M72e")[0], atol=1e-9)
        np.testing.assert_allclose(cameras[-1][:3, 3], color_pose("M72e")[1], atol=1e-6)
    files = [(tmp_path / name / "S1" / "pose" / "M72e.extrinsics").read_text() for name in "ab"]
    assert files[0] != files[1]


def test_up_is_where_most_heads_are(tmp_path):
    lying = people([0] * 30)[..., [0, 2, 1]]
    write_subject(tmp_path, recordings=["19-07-12-09-00-00", RECORDING])
    write_recording(tmp_path, people([0] * 70))
    write_recording(tmp_path, lying, recording="19-07-12-09-00-00")
    (tmp_path / "S1" / "19-07-12-09-00-00" / "Dump" / "gposes3d" / "0.npy").write_bytes(b"broken")
    np.testing.assert_array_equal(human4d.find_up(tmp_path / "S1"), [0, 0, 1])
    broken = people([0])
    broken[0, 0, NAMES.index("head_top"), 0] = 1e9
    np.save(sorted((tmp_path / "S1").glob("*/Dump/gposes3d/*.npy"))[2 * human4d.UP_STEP], broken[0])
    np.testing.assert_array_equal(human4d.find_up(tmp_path / "S1"), [0, 0, 1])
    write_recording(tmp_path / "b", people([0]) * [1.0, 1.0, -1.0])
    np.testing.assert_array_equal(human4d.find_up(tmp_path / "b" / "S1"), [0, 0, -1])


def test_people_who_are_small_or_out_of_view_are_left_out(tmp_path):
    rotation, translation = color_pose("M72e")
    center = people([0])[0, 0, JOINTS].mean(axis=0)
    poses = people([0] * 5)
    depth = (rotation @ center + translation)[2]
    side = 1.2 * np.ptp(image_points(poses[0, 0, JOINTS], "M72e"), axis=0).max()  # px
    for i, factor in enumerate((side / 33, side / 27)):  # so many times as far
        poses[i] += (factor - 1) * depth * rotation[2]
    poses[2] += 3000 * rotation[1]  # beside the picture
    poses[3] -= 9000 * rotation[2]
    assert kept_groups(tmp_path, poses) == [(0, 0), (4, 0)]


@pytest.mark.parametrize("repository", ["S1/device_repository.json", "device_repository.json"])
def test_subjects_and_cameras_are_found(tmp_path, repository, caplog):
    write_subject(tmp_path, recordings=["r2", "r1"], repository=repository)
    for recording in ("r1", "r2"):
        write_recording(tmp_path, people([0]), cameras=["M72j", "M72h", "M72i"], recording=recording)
    (tmp_path / "S1" / "pose" / "M72i.extrinsics").unlink()
    (tmp_path / "S1" / "r1" / "Dump" / "color" / "Thumbs.db").touch()
    with caplog.at_level(logging.WARNING):
        units = ADAPTER.list_units(tmp_path, "train")
    assert units == [{"subject": "S1", "recording": recording, "camera": camera}
                     for recording in ("r1", "r2") for camera in ("M72h", "M72j")]
    assert "no S1/pose/M72i.extrinsics in" in caplog.text
    assert len(load_all(tmp_path)) == 4
    assert ADAPTER.list_units(tmp_path, "validation") == []


def test_missing_files_are_named_with_their_source(tmp_path):
    message = r"no pictures .*S\*/\*/Dump/color/\*\.png of cameras with a file .*\.extrinsics. .*tofis\.github\.io"
    with pytest.raises(FileNotFoundError, match=message):
        ADAPTER.list_units(tmp_path, "train")
    write_subject(tmp_path)
    write_recording(tmp_path, people([0]))
    (tmp_path / "S1" / RECORDING / "Dump" / "gposes3d" / "0.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no files .*gposes3d.*tofis"):
        load_all(tmp_path)
    for path in ("S1/offsets.txt", "S1/device_repository.json"):
        write_recording(tmp_path, people([0]))
        (tmp_path / path).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{path.split('/')[1]} is missing.*tofis"):
            load_all(tmp_path)
    (tmp_path / "S1" / "pose" / "M72e.extrinsics").unlink()
    with pytest.raises(FileNotFoundError, match=message):
        ADAPTER.list_units(tmp_path, "train")


@pytest.mark.parametrize(("path", "content", "message"), [
    ("S1/offsets.txt", "r1\t0\t0\n19-07-12-09-09-06\tnone\n\n", r"offsets\.txt: expected a line of the name 19-07-12-09-09-06"),
    ("S1/offsets.txt", f"{RECORDING}\t{300 * '9'}\t0\n", r"offsets\.txt: expected a line of the name 19-07-12-09-09-06"),
    ("S1/pose/M72e.extrinsics", "1 0 0\n0 1 0\n0 0 1\n", r"M72e\.extrinsics has lines of \[3, 3, 3\] numbers; expected 4 of 3"),
    ("S1/pose/M72e.extrinsics", "1 0 0\n0 2 0\n0 0 1\n0 0 0\n", r"M72e\.extrinsics: .*not orthonormal"),
    ("S1/device_repository.json", '[{"Device": "M72h"}]', r"device_repository\.json: M72e: expected a list with this Device"),
    ("S1/device_repository.json", '[{"Device": "M72e"}]', r"device_repository\.json: M72e: .*Color Intrinsics"),
    ("S1/device_repository.json", '{"M72e": 1}', r"device_repository\.json: M72e: expected a list"),
    ("S1/device_repository.json", '[{"Device": "M72e", "Color Intrinsics": [{"1280x720": [1]}]}]', "M72e: intrinsics: .* 9"),
    ("S1/device_repository.json", "[", r"device_repository\.json is not valid JSON"),
])
def test_broken_calibrations_are_named(tmp_path, path, content, message):
    write_subject(tmp_path)
    write_recording(tmp_path, people([0]))
    (tmp_path / path).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_broken_poses_are_reported_and_the_rest_goes_on(tmp_path):
    write_subject(tmp_path)
    write_recording(tmp_path, people([0, 200, 400, 600, 800]))
    folder = tmp_path / "S1" / RECORDING / "Dump" / "gposes3d"
    np.save(folder / "1.npy", np.zeros((1, 32, 3)))
    (folder / "2.npy").write_bytes((folder / "2.npy").read_bytes()[:300])
    np.save(folder / "3.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "4.npy", people([800])[0, 0])  # of one person, without an axis for people
    first, *errors, last = load_all(tmp_path)
    assert (first.provenance["frame"], last.provenance["frame"]) == (0, 4)
    for error, message in zip(errors, ("1.npy has shape [1, 32, 3] and type float64, expected numbers, [people, 33, 3]",
                                       "2.npy cannot be read as a .npy file", "3.npy cannot be read as a .npy file"),
                              strict=True):
        assert message in str(error)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "human4d_32"
