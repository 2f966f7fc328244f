"""The HUMBI adapter on folders in the authors' layout: calibrations as text, pictures of painted people."""

import pickle
import re

import numpy as np
import pytest

from datasets.adapters import humbi
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = humbi.ADAPTER
SKELETON = load_skeleton("body_25")
NAMES = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "pelvis",
         "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear",
         "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"]
INTRINSICS = np.array([[1480.0, 0, 968.5], [0, 1475.0, 529.2], [0, 0, 1]])
CAMERAS = (0, 33)


def rotation(camera):
    """[3, 3] from the world, y down, to the camera: tilted, and turned about the person."""
    tilt, turn = np.radians([-9, 0.5 * camera])
    return (np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
            @ np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]))


def position(camera):
    """[3] metres: the person is 3.4 m before the camera, off its axis."""
    return np.array([0.3, -0.2, 0.1]) - rotation(camera).T @ [0.2 - 0.01 * camera, 0.05, 3.4]


def truth(frame):
    """[25, 3] metres, world, y down."""
    joints = body(SKELETON, (0.0, 0.0, 0.0))
    joints[NAMES.index("nose"), 1] -= 1.1  # from where its dot would cover the pelvis'
    return joints @ rotation(0) + [0.3, -0.2, 0.1 + 0.01 * frame]


def pixels(joints, camera):
    in_camera = (joints - position(camera)) @ rotation(camera).T
    return in_camera[:, :2] / in_camera[:, 2:] * [1480, 1475] + [968.5, 529.2]


def write_calibration(folder, cameras=CAMERAS, intrinsics=INTRINSICS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows_of in (("intrinsic", lambda camera: intrinsics),
                          ("extrinsic", lambda camera: [position(camera), *rotation(camera)])):
        lines = [f"NumCam {len(cameras)}", "NumFrame 2", f"NumP {len(cameras)}"]
        for camera in cameras:
            lines += [f"0 {camera}", *(" ".join(f"{number:.9f}" for number in row) for row in rows_of(camera))]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_frame(folder, frame, cameras=CAMERAS, joints=None):
    """joints: [25, 3] metres as in the file; None: the truth, which is painted anyway."""
    joints = truth(frame) if joints is None else joints
    path = folder / f"{frame:08d}" / "reconstruction" / "keypoints.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{x:.9f} {y:.9f} {z:.9f}\n" for x, y, z in joints))
    for camera in cameras:
        image = gray_image(1920, 1080)
        paint(image, pixels(truth(frame), camera), radius=10)
        write_jpeg(folder / f"{frame:08d}" / "image" / f"image{camera:07d}.jpg", image)


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """The body folder of a person with one frame, which the first camera has a picture of."""
    folder = tmp_path / "subject_4" / "body"
    write_calibration(folder)
    write_frame(folder, 25, CAMERAS[:1])
    return folder


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


@pytest.mark.parametrize("archive", ["", "body_1_80"])
def test_prepared_joints_lie_on_their_dots(tmp_path, archive):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    folder = raw_dir / archive / "subject_4" / "body"
    write_calibration(folder)
    write_frame(folder, 1, (0, 33))
    write_frame(folder, 25, (33, 106))  # the last one is not calibrated
    (folder / "00000026").touch()
    (folder / "project.txt").touch()
    (folder / "smpl").mkdir()
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"] and list(manifest["splits"]) == ["train"]
    dataset = PreparedDataset(data_root / "humbi")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    # Not sampled by motion: in 24 frames the person has moved 0.24 m, but in view of one camera.
    assert [(e.provenance["frame"], e.provenance["camera"]) for e in examples] == [(1, 0), (1, 33), (25, 33)]
    for example in examples:
        check_crop(example, 1000 * truth(example.provenance["frame"]))
        up = example.world_to_camera[:3, :3] @ [0, -1, 0]
        assert abs(up[0]) < 1e-4 and up[1] < -0.9  # crops are upright
    source = folder.relative_to(raw_dir) / "00000025" / "image" / "image0000033.jpg"
    assert examples[2].provenance == {"source": source.as_posix(), "subject": "subject_4", "camera": 33, "frame": 25}


def test_still_people_are_kept_and_boxes_end_at_the_border(folder, tmp_path):
    write_frame(folder, 26, CAMERAS[:1], truth(25))
    joints = truth(25) - [0, 1.2, 0]
    write_frame(folder, 27, CAMERAS[:1], joints)
    write_frame(folder, 28, CAMERAS[:1], truth(25) - [0, 4, 0])  # out of view
    write_frame(folder, 29, CAMERAS[:1], truth(25) - [0, 0, 9])  # behind the camera
    whole, _, cut = load_all(tmp_path)
    assert cut.provenance["frame"] == 27
    low, high = pixels(truth(25), 0).min(axis=0), pixels(truth(25), 0).max(axis=0)
    np.testing.assert_allclose(whole.bbox[2:], 1.05 * (high - low), rtol=1e-6)
    np.testing.assert_allclose(whole.bbox[:2] + whole.bbox[2:] / 2, (low + high) / 2, rtol=1e-6)
    low, high = pixels(joints, 0).min(axis=0), pixels(joints, 0).max(axis=0)
    bottom = (low + high)[1] / 2 + 1.05 * (high - low)[1] / 2
    assert low[1] < -100
    np.testing.assert_allclose([cut.bbox[1], cut.bbox[1] + cut.bbox[3]], [-0.5, bottom], rtol=1e-6)


def test_truncated_jpeg_is_reported_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "raw" / "subject_12" / "body"
    write_calibration(folder)
    write_frame(folder, 3)
    path = folder / "00000003" / "image" / "image0000000.jpg"
    path.write_bytes(path.read_bytes()[:-5000])
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", workers=1, progress=False)
    (skipped,) = manifest["skipped"]
    assert "image0000000.jpg" in skipped["reason"] and manifest["splits"]["train"]["num_examples"] == 1


def test_image_of_another_size_is_reported_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "subject_12" / "body"
    write_calibration(folder)
    write_frame(folder, 3)
    write_jpeg(folder / "00000003" / "image" / "image0000000.jpg", gray_image(960, 540))
    error, example = load_all(tmp_path)
    assert isinstance(error, ValueError) and "image0000000.jpg has 960 x 540 px, its camera is calibrated for 19" in str(error)
    assert example.provenance["camera"] == 33


@pytest.mark.parametrize("word", ["nan", "-nan(ind)", "#QNAN", "none"])
def test_joints_without_numbers_are_missing(folder, tmp_path, word):
    path = folder / "00000025" / "reconstruction" / "keypoints.txt"
    lines = path.read_text().splitlines()
    lines[4] = f"{word} {word} {word}"
    lines[7] = f"0.1 {word} 0.2"
    path.write_text("\n".join(lines))
    (example,) = load_all(tmp_path)
    assert np.flatnonzero(np.isnan(example.joints3d_world).all(axis=1)).tolist() == [4, 7]
    assert np.isfinite(example.joints3d_world).all(axis=1).sum() == 23


@pytest.mark.parametrize(("content", "message"), [
    ("1 2 3\n" * 24, r"it has numbers of shape \[24, 3\], expected \[25, 3\]"),
    ("1 2 3\n" * 24 + "1 2\n", "cannot be read as a file of joints"),
    ("1\n" * 75, r"shape \[75, 1\]"), ("1 " * 75, r"shape \[1, 75\]"), ("", r"shape \[0\]"),
    ("1 2 3\n" + "nan nan nan\n" * 24, "1 of its rows are of numbers, too few"),
    (None, r"is missing\. Get the body archives from https://humbi-data\.net")])
def test_frames_without_usable_joints_are_reported_and_the_rest_goes_on(folder, tmp_path, content, message):
    write_frame(folder, 26)
    path = folder / "00000025" / "reconstruction" / "keypoints.txt"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    error, *examples = load_all(tmp_path)
    assert isinstance(error, ValueError) and re.search(rf"00000025/reconstruction/keypoints\.txt.*{message}", str(error))
    assert [example.provenance["camera"] for example in examples] == [0, 33]


def test_cameras_with_unusable_numbers_are_reported_and_the_rest_goes_on(folder, tmp_path):
    write_frame(folder, 26)
    path = folder / "intrinsic.txt"
    lines = path.read_text().splitlines()
    assert lines[3] == "0 0" and lines[7] == "0 33"
    lines[4] = "0 0 0"
    path.write_text("\n".join(lines))
    error, example = load_all(tmp_path)
    assert isinstance(error, ValueError) and re.search(r"subject_4/body/.*trinsic\.txt: camera 0: ", str(error))
    assert example.provenance["camera"] == 33


@pytest.mark.parametrize(("name", "num_lines"), [
    ("intrinsic.txt", 10), ("extrinsic.txt", 12), ("intrinsic.txt", 3), ("extrinsic.txt", 0)])
def test_calibrations_that_are_cut_short_are_errors(folder, tmp_path, name, num_lines):
    path = folder / name
    path.write_text("\n".join(path.read_text().splitlines()[:num_lines]))
    with pytest.raises(ValueError, match=rf"subject_4/body/{name}: expected, behind 3 lines, blocks"):
        load_all(tmp_path)


@pytest.mark.parametrize("name", ["intrinsic.txt", "extrinsic.txt"])
def test_missing_calibrations_are_named_with_their_source(folder, tmp_path, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing\. Get the body archives from https://humbi-data\.net"):
        load_all(tmp_path)


def test_units(folder, tmp_path):
    write_calibration(tmp_path / "body_81_140" / "subject_81" / "body")
    (tmp_path / "subject_9" / "face").mkdir(parents=True)
    assert ADAPTER.list_units(tmp_path, "train") == ["body_81_140/subject_81/body", "subject_4/body"]
    assert ADAPTER.list_units(tmp_path, "validation") == ADAPTER.list_units(tmp_path, "test") == []


def test_missing_folders_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*subject_\*/body\. .*https://humbi-data\.net"):
        ADAPTER.list_units(tmp_path, "train")


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "body_25"
