"""The 3DPeople adapter on skeletons, pictures and segmentations in the authors' layout."""

import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import threedpeople
from datasets.prepare import prepare
from datasets.registry import load_adapter
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = threedpeople.ADAPTER
SKELETON = load_skeleton("3dpeople_29")
# Rows of the files, from 0, in the order of SKELETON: trunk, head and left arm; right arm; right hand; left leg; right leg.
ROWS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 33, 34, 35, 36, 53, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66]
UNIT = "woman07/02_04_jump/camera02"
# The camera looks along the world's y axis, 8 degrees downwards and rolled by 5; the world is z up, and far from its origin.
PITCH, ROLL = np.deg2rad(-8), np.deg2rad(5)
ROTATION = (np.array([[np.cos(ROLL), np.sin(ROLL), 0], [-np.sin(ROLL), np.cos(ROLL), 0], [0, 0, 1]])
            @ np.array([[1, 0, 0], [0, np.cos(PITCH), np.sin(PITCH)], [0, -np.sin(PITCH), np.cos(PITCH)]])
            @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]))
POSITION_M = np.array([40.0, -25.0, 2.1])
PLACE = (0.3, -0.1, 3.3)  # m, of the pelvis before the camera


def all_points(shift=0.0):
    """[67, 3] m, camera frame: the joints, and fingers about the hands."""
    joints = body(SKELETON, np.add(PLACE, (shift, 0, 0)))
    joints[SKELETON.joint_names.index("spine")] += 0.1, 0.03, 0  # off spine1
    hands = [joints[SKELETON.joint_names.index(f"{side}_hand")] for side in ("left", "right")]
    points = np.array([hands[row >= 33] + 0.02 * np.sin([row, 2 * row, 3 * row]) for row in range(67)])
    points[ROWS] = joints
    return points


def write_frame(raw_dir, frame, shift=0.0, unit=UNIT, middle=1, points=None):
    """`middle`: number of columns between x, y and X, Y, Z."""
    points = all_points(shift) if points is None else points
    points2d = 700 * points[:, :2] / points[:, 2:] + [320, 240]
    world_dm = 10 * (points @ ROTATION + POSITION_M)
    path = raw_dir / "skeleton" / unit / f"{frame:04d}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.column_stack([points2d, np.tile(points[:, 2:], middle), world_dm]), fmt="%.7g")
    image, clothes = gray_image(640, 480), np.full((480, 640, 3), 153, np.uint8)
    paint(image, points2d[ROWS], radius=6)
    write_jpeg(raw_dir / "rgb" / unit / "0001" / f"{frame:04d}.jpg", image)
    low, high = np.round(points2d[ROWS].min(axis=0) - 8).astype(int), np.round(points2d[ROWS].max(axis=0) + 8).astype(int)
    clothes[low[1]:high[1] + 1, low[0]:high[0] + 1] = 153, 153, 164  # differs in one channel only
    clothes[:20, :20] = 143, 163, 153  # the grey of the background, or nearly
    write_image(raw_dir / "segmentation_clothes" / unit / f"{frame:04d}.png", clothes)
    return low, high


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def frames_of(items):
    return [item.provenance["frame"] for item in items]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    shifts = {1: 0.0, 2: 0.15, 3: -0.2}
    for frame, shift in shifts.items():
        write_frame(raw_dir, frame, shift)
    manifest = prepare(load_adapter("3dpeople"), raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train"] and not manifest["skipped"] and manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "3dpeople")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert frames_of(examples) == [1, 2, 3]
    for example in examples:
        joints3d = all_points(shifts[example.provenance["frame"]])[ROWS]
        check_crop(example, 1000 * (joints3d @ ROTATION + POSITION_M))
        height, width = example.decode_image().shape[:2]
        mask = decode_mask(example.mask_rle, height, width)
        x, y, box_width, box_height = example.bbox
        center = mask[int(y + 0.1 * box_height):int(y + 0.9 * box_height), int(x + 0.1 * box_width):int(x + 0.9 * box_width)]
        assert center.mean() > 0.95 and mask.mean() < 0.7
    assert examples[1].provenance == {"source": f"rgb/{UNIT}/0001/0002.jpg", "subject": "woman07", "camera": "camera02",
                                      "sequence": "woman07/02_04_jump", "frame": 2}


def test_camera_and_box(tmp_path):
    low, high = write_frame(tmp_path, 1)
    (example,) = load_all(tmp_path)
    np.testing.assert_allclose(example.camera.world_to_camera[:3, :3], ROTATION, atol=1e-4)
    np.testing.assert_allclose(-ROTATION.T @ example.camera.world_to_camera[:3, 3], 1000 * POSITION_M, atol=5)
    np.testing.assert_array_equal(example.camera.intrinsics, [[700, 0, 320], [0, 700, 240], [0, 0, 1]])
    np.testing.assert_allclose(example.camera.up, ROTATION[:, 2], atol=1e-4)
    np.testing.assert_array_equal(example.bbox, [*(low - 0.5), *(high - low + 1)])  # pixel x begins at x - 0.5
    assert example.camera.distortion is None


@pytest.mark.parametrize("middle", [0, 3])
def test_columns_in_the_middle_do_not_matter(tmp_path, middle):
    write_frame(tmp_path, 1, middle=middle)
    np.testing.assert_allclose(load_all(tmp_path)[0].joints3d_world, 1000 * (all_points()[ROWS] @ ROTATION + POSITION_M),
                               atol=0.02)


def test_frames_that_have_moved_are_kept_of_each_camera(tmp_path):
    other = "man40/01_01_walk/camera01"
    for frame, shift in enumerate([0.0, 0.06, 0.12, 0.12, 0.25], 1):
        write_frame(tmp_path, frame, shift)
        write_frame(tmp_path, frame, unit=other)
    assert ADAPTER.list_units(tmp_path, "train") == [other, UNIT]
    assert ADAPTER.list_units(tmp_path, "validation") == ADAPTER.list_units(tmp_path, "test") == []
    assert frames_of(load_all(tmp_path)) == [1, 1, 3, 5]


def test_fingers_do_not_count_as_movement(tmp_path):
    write_frame(tmp_path, 1)
    points = all_points()
    points[[20, 40]] += 0.2
    write_frame(tmp_path, 2, points=points)
    assert frames_of(load_all(tmp_path)) == [1]


def test_faults_of_a_frame_are_reported_and_the_rest_is_read(tmp_path):
    for frame in range(8):
        write_frame(tmp_path, frame, 0.15 * frame)
    image, skeleton, mask = (tmp_path / folder / UNIT for folder in ("rgb", "skeleton", "segmentation_clothes"))
    (image / "0001" / "0000.jpg").unlink()  # known to be missing
    (image / "0001" / "0001.jpg").unlink()
    (skeleton / "0002.txt").unlink()
    (mask / "0003.png").unlink()
    write_image(mask / "0004.png", np.full((480, 640, 3), 153, np.uint8))
    text = (skeleton / "0005.txt").read_text()
    (skeleton / "0005.txt").write_text(text[:text.rindex("\n", 0, -1)])
    broken = np.loadtxt(skeleton / "0006.txt")
    np.savetxt(skeleton / "0006.txt", np.column_stack([broken[::-1, :2], broken[:, 2:]]))
    items = load_all(tmp_path)
    assert [isinstance(item, ValueError) for item in items] == 6 * [True] + [False]
    for item, message in zip(items, ["rgb/.*has no file of frame 0001", "skeleton/.*has no file of frame 0002",
                                     r"segmentation_clothes/.*0003\.png cannot be read", r"0004\.png: all pixels are the grey",
                                     r"0005\.txt: 66 rows of \[6\] numbers; expected 67 rows",
                                     r"0006\.txt: no camera sees the 67 3D points"], strict=False):
        with pytest.raises(ValueError, match=message):
            raise item


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text.replace(text.split()[9], "nan"), r"0001\.txt: row 2 has nan or infinite numbers"),
    (lambda text: "1 2 3\n" + text[text.index("\n"):], r"0001\.txt: 67 rows of \[3, 6\] numbers"),
    (lambda text: "pelvis" + text[text.index(" "):], r"0001\.txt: line 1: could not convert"),
    (lambda text: "", r"0001\.txt: 0 rows of \[\] numbers"),
])
def test_broken_skeletons_are_named(tmp_path, change, message):
    write_frame(tmp_path, 1)
    path = tmp_path / "skeleton" / UNIT / "0001.txt"
    path.write_text(change(path.read_text()))
    (item,) = load_all(tmp_path)
    with pytest.raises(ValueError, match=message):
        raise item


@pytest.mark.parametrize("folder", ["rgb", "skeleton", "segmentation_clothes"])
def test_missing_folders_are_named(tmp_path, folder):
    write_frame(tmp_path, 1)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no folder .*/{folder}\. Get .*https://cv\.iri\.upc-csic\.es"):
        ADAPTER.list_units(tmp_path, "train")
    (tmp_path / folder).mkdir()
    if folder == "rgb":
        with pytest.raises(FileNotFoundError, match=r"rgb/SUBJECT/ACTION/camera01\. Get"):
            ADAPTER.list_units(tmp_path, "train")


@pytest.mark.parametrize("folder", ["rgb", "skeleton"])
def test_a_camera_without_frames_is_named(tmp_path, folder):
    write_frame(tmp_path, 1)
    for path in (tmp_path / folder / UNIT).rglob("0001.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder}/{UNIT} has no frames\. Get"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "3dpeople"
