"""The MPI-INF-3DHP adapter on made-up videos and labels in the original's formats, and on real labels."""

import itertools
import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import mpi_inf_3dhp
from datasets.cropping import crop_example
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.camera import project
from tests.datasets.adapters import mpi_inf_3dhp_files as files
from tests.datasets.adapters.h36m_files import find_colors

ADAPTER = mpi_inf_3dhp.ADAPTER
NAMES = mpi_inf_3dhp.SKELETON.joint_names
RAW_ORDER = [files.NAMES.index(name) for name in NAMES]


def corrected(rgb):
    """The correction of colours by its formula in floating point: gamma, then Lab (L 0..100, of 8 bits 0..255)."""
    lab = cv2.cvtColor(np.float32(rgb)[None] ** np.float32(0.67), cv2.COLOR_RGB2LAB)[0]
    lab[:, 1] -= (110 - 128) * lab[:, 0] / 100 * 1.1
    lab[:, 2] -= (145 - 128) * lab[:, 0] / 100 * 1.1
    return 255 * np.clip(cv2.cvtColor(lab[None], cv2.COLOR_LAB2RGB)[0], 0, 1)


def distinct_colors(count):
    """[count, 3] RGB that remain far apart when they are corrected."""
    colors = np.array([c for c in itertools.product(np.linspace(0, 1, 6), repeat=3) if np.ptp(c) >= 0.6])
    seen = corrected(colors)
    colors, seen = colors[np.ptp(seen, axis=1) > 110], seen[np.ptp(seen, axis=1) > 110]
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(np.linalg.norm(seen[:, None] - seen[chosen], axis=-1).min(axis=1).argmax()))
    return np.uint8(np.round(255 * colors[chosen]))


COLORS = distinct_colors(28)
SEEN = corrected(COLORS / 255)
TEST_COLORS = COLORS[:17]


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def check_dots(example, joints3d_world, colors):
    """Asserts that the labels land on the dots of their own joints, and are the truth [n, 3], mm in the world."""
    is_labelled = np.isfinite(example.joints3d[:, 0])
    landed = project(np.float64(example.joints3d), np.float64(example.intrinsics))[is_labelled]
    distance = np.linalg.norm(landed - find_colors(example.decode_image(), colors, max_distance=40, min_chroma=80), axis=1)
    assert (distance < 0.5).all(), distance.round(2)
    to_world = np.linalg.inv(np.float64(example.world_to_camera))
    found = np.float64(example.joints3d) @ to_world[:3, :3].T + to_world[:3, 3]
    np.testing.assert_allclose(found[is_labelled], joints3d_world, atol=0.1)


def test_prepared_joints_lie_on_the_dots(tmp_path, caplog):
    poses = files.poses([0, 99, 101, 101])
    files.write_sequence(tmp_path / "raw", COLORS, poses, subject=3, sequence=2, cameras=(0, 13), num_frames=3)
    manifest = prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", splits=["train"], workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "mpi_inf_3dhp")
    assert dataset.skeleton.name == "mpi_inf_3dhp_28" and dataset.kind == "3d" and manifest["splits"].keys() == {"train"}
    assert "no S1/Seq1, S1/Seq2, S2/Seq1" in caplog.text and "S3/Seq2" not in caplog.text
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [(0, 0), (0, 2), (13, 0), (13, 2)]
    for example in examples:
        check_dots(example, poses[example.provenance["frame"]][[files.NAMES.index(name) for name in NAMES]],
                   SEEN[[files.NAMES.index(name) for name in NAMES]])
    assert examples[3].provenance == {"source": "S3/Seq2/imageSequence/video_13.avi", "subject": "S3", "sequence": "S3/Seq2",
                                      "camera": 13, "frame": 2}


@pytest.mark.parametrize("chair", [None, (900, 1200, 100, 600)])
def test_masks(tmp_path, chair):
    files.write_sequence(tmp_path, COLORS, files.poses([0]), chair=chair)
    (example,) = load_all(tmp_path)
    points = files.pixels(files.to_camera(files.poses([0])[0], 0), files.camera_matrices(0)[0])
    low, high = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    expected = np.zeros((2048, 2048), bool)
    expected[low[1]:high[1], low[0]:high[0]] = True
    if chair is not None:
        expected[1200:1800, 900:1000] = False
    np.testing.assert_array_equal(example.mask, expected)
    size = np.ptp(points, axis=0)  # the box around the joints, 1.05 times as large
    np.testing.assert_allclose(example.bbox, [*(points.min(axis=0) - 0.025 * size), *(1.05 * size)], atol=1e-6)
    crop = crop_example(example)
    assert decode_mask(crop.mask_rle, *crop.decode_image().shape[:2]).mean() > 0.05


def test_without_masks(tmp_path):
    files.write_sequence(tmp_path, COLORS, files.poses([0]), with_masks=False)
    (example,) = load_all(tmp_path)
    assert example.mask is None


def test_mask_parts_that_touch_at_corners_only_are_two():
    foreground = np.zeros((40, 40, 3), np.uint8)
    foreground[10:20, 10:20] = foreground[20:30, 20:30] = 33, 0, 0
    foreground[0:5] = 32, 0, 0
    mask = mpi_inf_3dhp.person_mask(foreground, None, np.array([9.0, 9, 12, 12]))
    assert mask[10:20, 10:20].all() and mask.sum() == 100
    assert mpi_inf_3dhp.person_mask(foreground, None, np.array([31.0, 0, 5, 5])) is None


def test_people_out_of_view_are_left_out(tmp_path):
    poses = files.poses([0, 0, 0])
    _, extrinsic = files.camera_matrices(0)
    right = extrinsic[0, :3]
    # 4 m away, the edge of the image is 2.7 m off the axis.
    order = np.argsort(poses[0] @ right)
    edge = 2.735
    for frame, num_inside in ((1, 8), (2, 9)):
        middle = (poses[0][order[num_inside - 1]] + poses[0][order[num_inside]]) @ right / 2
        shifted = poses[0] + right * (1000 * edge - middle)
        for _ in range(20):  # the depth of joints differs: until exactly so many are inside
            x = np.sort(files.pixels(files.to_camera(shifted, 0), files.camera_matrices(0)[0])[:, 0])
            shifted = shifted + right * (2047.5 - (x[num_inside - 1] + x[num_inside]) / 2) * 2.67
        assert np.count_nonzero(x < 2047.5) == num_inside
        poses[frame] = shifted
    files.write_sequence(tmp_path, COLORS, poses[1:], with_masks=False)
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [1]


def test_known_numbers_of_frames(tmp_path, monkeypatch):
    """The labels go on behind the end of the recording; one video is short, whatever its header says."""
    monkeypatch.setitem(mpi_inf_3dhp.NUM_FRAMES, 6, (3, 2))
    monkeypatch.setitem(mpi_inf_3dhp.SHORT_VIDEOS, (6, 2, 13), 1)
    for sequence, cameras in ((1, (0,)), (2, (0, 13))):
        files.write_sequence(tmp_path, COLORS, files.poses([0, 200, 400, 600]), 6, sequence, cameras, with_masks=False)
    assert [(e.provenance["sequence"], e.provenance["camera"], e.provenance["frame"]) for e in load_all(tmp_path)] == [
        *(("S6/Seq1", 0, i) for i in range(3)), *(("S6/Seq2", 0, i) for i in range(2)), ("S6/Seq2", 13, 0)]


def test_table_of_frame_numbers():
    assert sum(map(sum, mpi_inf_3dhp.NUM_FRAMES.values())) == 131_592  # the number of time steps in all
    assert mpi_inf_3dhp.SHORT_VIDEOS == {(6, 2, 2): 3911}


def test_colours_by_the_formula_in_floating_point():
    colors = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.uint8)
    difference = mpi_inf_3dhp.correct_colours(colors[None])[0] - corrected(colors / 255)
    assert np.quantile(np.abs(difference), 0.95) < 5 and np.abs(difference.mean(axis=0)).max() < 0.5  # 8-bit Lab is coarse
    green, grey = mpi_inf_3dhp.correct_colours(np.uint8([[[40, 120, 60], [90, 90, 90]]]))[0].astype(int)
    assert green[1] - green[0] < 70 and grey[0] > grey[1] < grey[2]


def test_units_are_the_videos_there_are(tmp_path):
    for path in ("S1/Seq1/imageSequence/video_0.avi", "S1/Seq1/imageSequence/video_13.avi", "S8/Seq2/imageSequence/video_8.avi",
                 "S1/Seq1/imageSequence/video_14.avi", "S1/Seq1/FGmasks/video_3.avi", "S9/Seq1/imageSequence/video_0.avi"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [tuple(unit.values()) for unit in ADAPTER.list_units(tmp_path, "train")] == [(1, 1, 0), (1, 1, 13), (8, 2, 8)]


# ------------------------------------------------------------------------------------------------------------ the test set


def poses_in_test_camera(num_frames):
    """[num_frames, 17, 3] mm: an actor off the middle, where the lens bends most, upright in the camera's frame."""
    joints = files.poses([0])[0][[files.NAMES.index(name) for name in files.TEST_NAMES]]
    joints = (joints - [0, 900, 0]) * [1, -1, -1]
    return np.stack([joints + np.array([1500 - 200 * i, 50, 4200]) for i in range(num_frames)])




@pytest.mark.parametrize("nesting", ["", "mpi_inf_3dhp_test_set", "mpi_inf_3dhp_test_set/mpi_inf_3dhp_test_set"])
@pytest.mark.parametrize("name", ["TS1", "TS6"])
def test_test_sequences(tmp_path, name, nesting):
    joints3d = poses_in_test_camera(4)
    files.write_test_sequence(tmp_path / "raw" / nesting, name, TEST_COLORS, joints3d, [0, 1, 0, 1], [7, 1, 2, 3])
    prepare(ADAPTER, tmp_path / "raw", tmp_path / "data", splits=["test", "validation"], workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "mpi_inf_3dhp")
    assert dataset.num_examples("validation") == 2  # the same as the test split
    examples = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    assert [e.provenance["frame"] for e in examples] == [1, 3]
    assert [e.provenance["activity"] for e in examples] == ["Stand/Walk", "Sit on Chair"]
    center = np.array(files.TEST_CAMERAS[name][4])
    for example in examples:
        frame = example.provenance["frame"]
        joints3d_world = joints3d[frame] @ files.rotation_of_test_camera(name) + center
        present = [NAMES.index(joint) for joint in files.TEST_NAMES]
        in_our_order = np.argsort(present)
        check_dots(example, joints3d_world[in_our_order], TEST_COLORS[in_our_order])
        assert np.count_nonzero(np.isfinite(example.joints3d[:, 0])) == 17 and example.mask_rle is None
        assert example.provenance["source"].endswith(f"{name}/imageSequence/img_{frame + 1:06d}.jpg")
        assert example.provenance["sequence"] == example.provenance["subject"] == name
        assert example.provenance["scene"] == {"TS1": "green screen", "TS6": "outdoor"}[name]
        # In the frame of the record's camera, the universal pose, seen from the image's camera, is 0.9 times as large.
        universal_world = np.array(example.provenance["joints3d_universal"])
        np.testing.assert_allclose((universal_world - center) @ files.rotation_of_test_camera(name).T, 0.9 * joints3d[frame],
                                   atol=0.02)


def test_labels_of_another_camera_are_an_error(tmp_path):
    files.write_test_sequence(tmp_path, "TS1", TEST_COLORS, poses_in_test_camera(1), [1], [1])
    (tmp_path / "TS1").rename(tmp_path / "TS6")
    with pytest.raises(ValueError, match=r"annot_data\.mat: annot2 and annot3 belong to a camera with .* = \[1500\.2"):
        load_all(tmp_path, "test")


def test_unknown_activities_are_an_error(tmp_path):
    files.write_test_sequence(tmp_path, "TS1", TEST_COLORS, poses_in_test_camera(2), [1, 1], [0, 7])
    with pytest.raises(ValueError, match=r"activity_annotation has \[0, 7\] in valid frames, expected 1 to 7"):
        load_all(tmp_path, "test")


# ------------------------------------------------------------------------------------------------------------ broken files


def test_missing_files_are_named_with_their_source(tmp_path):
    for split, folders in (("train", "S1/Seq1, S1/Seq2, "), ("test", "TS1, TS2, "), ("validation", "TS1, TS2, ")):
        with pytest.raises(FileNotFoundError, match=f"no {split} sequences in .*, folders {folders}.*vcai"):
            ADAPTER.list_units(tmp_path, split)
    files.write_sequence(tmp_path, COLORS, files.poses([0]), with_masks=False)
    for name in ("annot.mat", "camera.calibration"):
        (tmp_path / "S1" / "Seq1" / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing\. Get the training set"):
            load_all(tmp_path)


def test_calibration_of_another_sequence_is_an_error(tmp_path):
    files.write_sequence(tmp_path, COLORS, files.poses([0]), with_masks=False)
    path = tmp_path / "S1" / "Seq1" / "camera.calibration"
    path.write_text(path.read_text().replace("1497.7", "1900.0"))
    with pytest.raises(ValueError, match=r"annot\.mat: camera 0: annot3 projects .* px \(median\) away from annot2"):
        load_all(tmp_path)
    files.write_calibration(path, cameras=[1, 2])
    with pytest.raises(ValueError, match=r"camera\.calibration: camera 0: expected its name.*KeyError\('0'\)"):
        load_all(tmp_path)


def test_nan_labels_are_an_error(tmp_path):
    poses = files.poses([0, 0, 0])
    poses[1:] = np.nan
    files.write_sequence(tmp_path, COLORS, poses[:1], with_masks=False)
    files.write_labels(tmp_path / "S1" / "Seq1" / "annot.mat", poses)
    with pytest.raises(ValueError, match=r"annot\.mat: camera 0: annot3 .* nan"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "mpi_inf_3dhp_28"


# --------------------------------------------------------------------------------------------------------- the real sample


def test_real_training_labels(real_samples, tmp_path):
    """Real cameras and labels in the original's files: 3D labels project to the 2D ones, and y is up."""
    sample = real_samples / "mpi_inf_3dhp"
    cameras, labels = json.loads((sample / "cameras_train.json").read_text()), np.load(sample / "3dhp_train.npz")
    for image_name, joints3d, joints2d in zip(labels["imgname"], labels["S"], labels["part"], strict=True):
        subject, sequence, camera = image_name.split("_")[:3]
        calibration = cameras[f"{subject}_{sequence}_Cam{camera[3:]}"]
        extrinsic, intrinsic = np.eye(4), np.eye(4)
        extrinsic[:3, :3], extrinsic[:3, 3] = calibration["R"], 1000 * np.ravel(calibration["T"])
        intrinsic[[0, 1], [0, 1]], intrinsic[:2, 2] = np.ravel(calibration["f"]), np.ravel(calibration["c"])
        path = tmp_path / image_name / "camera.calibration"
        path.parent.mkdir()
        path.write_text("\n".join([
            "Skeletool Camera Calibration File V1.0", f"name {camera[3:]}", "  sensor 10 10", "  size 2048 2048",
            *(f"  {key} {' '.join(map(str, matrix.ravel()))} " for key, matrix in
              (("intrinsic", intrinsic), ("extrinsic", extrinsic))), "  radial 0"]))
        read, image_size = mpi_inf_3dhp.read_calibration(path, int(camera[3:]))
        assert image_size == (2048, 2048)
        joints3d_camera = 1000 * joints3d[:, :3]
        error = np.linalg.norm(project(joints3d_camera, read.intrinsics) - joints2d[:, :2], axis=1)
        assert np.median(error) < 0.02 and error.max() < 2.5
        world = (joints3d_camera - read.world_to_camera[:3, 3]) @ read.world_to_camera[:3, :3]
        assert -100 < world[:, 1].min() < 200  # feet or hands are on the floor, which is at 0


def test_real_test_picture(real_samples, tmp_path, monkeypatch):
    monkeypatch.setitem(files.TEST_CAMERAS, "TS2", files.TEST_CAMERAS["TS1"])
    sample, labels = real_samples / "mpi_inf_3dhp", np.load(real_samples / "mpi_inf_3dhp" / "3dhp_test.npz")
    joints3d = 1000 * labels["S"][:1, :, :3]
    files.write_test_sequence(tmp_path, "TS2", TEST_COLORS, joints3d, [1], [4])
    (tmp_path / "TS2" / "imageSequence" / "img_000001.jpg").write_bytes((sample / str(labels["imgname"][0])).read_bytes())
    (example,) = load_all(tmp_path, "test")
    crop = crop_example(example)
    landed = project(np.float64(crop.joints3d), np.float64(crop.intrinsics))[mpi_inf_3dhp.TEST_JOINTS]
    assert crop.bbox[2:].max() <= 384.5 and np.isfinite(landed).all()
    distance = project(joints3d[0], example.camera.intrinsics) - labels["part"][0, :, :2]
    assert np.median(np.linalg.norm(distance, axis=1)) < 10  # of TS1's camera; TS2 was calibrated again
