"""The SURREAL adapter on clips in the authors' layout: mirrored videos of painted people, MATLAB 5 labels."""

import pickle

import numpy as np
import pytest
import scipy.io

from datasets.adapters import surreal
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = surreal.ADAPTER
SKELETON = load_skeleton("smpl_24")
WIDTH, HEIGHT = 320, 240
CAMERA = np.array([7.3, -1.1, 0.4])  # camLoc, m
MARGIN = 6  # px of the segmentation around the joints
STILL = (0.1, -0.15, 5.4)


def truth(places):
    """[num_frames, 24, 3] metres, world: a person who faces the camera, the pelvis at `places` in the axes of the camera."""
    x, y, z = np.moveaxis(np.array([body(SKELETON, place) for place in places]), -1, 0)
    return np.stack([CAMERA[0] - z, CAMERA[1] + y, CAMERA[2] + x], axis=-1)


def stored_points(joints3d):
    """[..., 2] px of the stored, mirrored picture, by the authors' mapping; they count from the corner of pixel (0, 0)."""
    x, y, z = np.moveaxis(joints3d, -1, 0)
    depth = CAMERA[0] - x
    return np.stack([600 * (CAMERA[2] - z) / depth + 160, 600 * (y - CAMERA[1]) / depth + 120], axis=-1) - 0.5


def stored_box(joints3d):
    """First and last pixel of the stored segmentation: x0, y0, x1, y1."""
    points = stored_points(joints3d)
    return [*(points.min(axis=0).astype(int) - MARGIN).tolist(), *(points.max(axis=0).astype(int) + MARGIN).tolist()]


def painted_joints(frame):
    """Every second one: all would touch each other in pictures as small as these."""
    return list(range(frame % 2, 24, 2))


def write_clip(raw_dir, joints3d, name="01_01/01_01_c0001", folder="cmu/train/run0", *, num_video_frames=None,
               num_masks=None, empty=(), **changes):
    """A clip.

    Args:
        joints3d: [num_frames, 24, 3] metres, world.
        num_video_frames, num_masks: None: as many.
        empty: frames whose segmentation is empty.
        changes: other values of the info file.
    """
    stem = raw_dir / folder / name
    count = len(joints3d)
    images = [gray_image(WIDTH, HEIGHT) for _ in range(count if num_video_frames is None else num_video_frames)]
    for i, image in enumerate(images):
        paint(image, stored_points(joints3d[min(i, count - 1)])[painted_joints(i)], radius=5)
    write_video(stem.with_name(f"{stem.name}.mp4"), images, "FFV1", 30)
    masks = {}
    for i in range(count if num_masks is None else num_masks):
        masks[f"segm_{i + 1}"] = mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        if i not in empty:
            x0, y0, x1, y1 = stored_box(joints3d[min(i, count - 1)])
            mask[y0:y1 + 1, x0:x1 + 1] = 1
            mask[y0:y0 + 20, x0:x0 + 20] = 0  # what a mirrored mask has elsewhere
            mask[y1 - 20:y1, x1 - 20:x1] = 24
    scipy.io.savemat(f"{stem}_segm.mat", masks, do_compression=True)
    info = {"joints3D": np.float32(joints3d.transpose(2, 1, 0)), "camLoc": np.float32(CAMERA[:, None]),
            "joints2D": np.float32(np.round(stored_points(joints3d) + 0.5).transpose(2, 1, 0)), "camDist": np.float32([[5.4]]),
            "clipNo": 1, "gender": np.zeros((count, 1), np.uint8), "pose": np.zeros((72, count), np.float32),
            "shape": np.zeros((10, count), np.float32), "zrot": np.zeros((count, 1), np.float32), "sequence": "01_01",
            "bg": np.array([["a.jpg"] * count], object), "stride": np.uint8(50), **changes}
    if count == 1:
        info["joints3D"] = info["joints3D"][..., 0]
    scipy.io.savemat(f"{stem}_info.mat", {key: value for key, value in info.items() if value is not None}, do_compression=True)


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots_in_pictures_turned_back(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    moving = truth([STILL, np.add(STILL, (0, 0, 0.3))])
    write_clip(raw_dir, moving)
    write_clip(raw_dir, moving[:1], name="ung_104_46/ung_104_46_c0002", folder="cmu/val/run2")
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train", "validation"] and not manifest["skipped"]
    assert manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "surreal")
    examples = [dataset.read("train", i) for i in range(2)]
    for example, joints3d in zip([*examples, dataset.read("validation", 0)], [*moving, moving[0]], strict=True):
        check_crop(example, 1000 * joints3d, painted_joints(example.provenance["frame"]))
        rows, columns = np.nonzero(decode_mask(example.mask_rle, *example.decode_image().shape[:2]))
        x, y, box_width, box_height = example.bbox
        np.testing.assert_allclose([columns.min() - 0.5, rows.min() - 0.5], [x, y], atol=1.5)
        np.testing.assert_allclose([columns.max() + 0.5, rows.max() + 0.5], [x + box_width, y + box_height], atol=1.5)
    assert examples[1].provenance == {"source": "cmu/train/run0/01_01/01_01_c0001.mp4", "sequence": "01_01", "frame": 1}


def test_masks_and_boxes_are_turned_back(tmp_path):
    joints3d = truth([STILL])
    write_clip(tmp_path, joints3d)
    (example,) = load_all(tmp_path)
    x0, y0, x1, y1 = stored_box(joints3d[0])
    np.testing.assert_array_equal(example.bbox, [319 - x1 - 0.5, y0 - 0.5, x1 - x0 + 1, y1 - y0 + 1])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[y0:y1 + 1, 319 - x1:319 - x0 + 1] = True
    expected[y0:y0 + 20, 319 - x0 - 19:319 - x0 + 1] = False
    np.testing.assert_array_equal(example.mask, expected)


def test_camera_has_the_authors_position_and_up(tmp_path):
    write_clip(tmp_path, truth([STILL]))
    camera = load_all(tmp_path)[0].camera
    np.testing.assert_allclose(np.linalg.inv(camera.world_to_camera)[:3, 3], 1000 * CAMERA, atol=1e-3)
    np.testing.assert_array_equal(camera.up, [0, -1, 0])


def test_frames_are_those_that_show_a_person_who_has_moved(tmp_path):
    steps = [0, 0.06, 0.12, 0.21, 0.22, 0.325]  # 60 and 90 mm from the last one kept are too little, 120, 100 and 105 are not
    joints3d = truth([np.add(STILL, (step + 1e-4 * i, 0, 0)) for i, step in enumerate(steps)])
    write_clip(tmp_path, joints3d, empty=[4])
    assert [example.provenance["frame"] for example in load_all(tmp_path)] == [0, 2, 5]
    write_clip(tmp_path, joints3d)
    assert [example.provenance["frame"] for example in load_all(tmp_path)] == [0, 2, 4, 5]


@pytest.mark.parametrize("nesting", [".", "cmu", "SURREAL/data/cmu"])
def test_splits_are_the_folders(tmp_path, nesting):
    for folder, name in (("train/run1", "b/b_c0001"), ("train/run0", "c/c_c0002"), ("val/run0", "d/d_c0001")):
        path = tmp_path / nesting / folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    prefix = "" if nesting == "." else f"{nesting}/"
    assert ADAPTER.list_units(tmp_path, "train") == [f"{prefix}train/run0/c/c_c0002.mp4", f"{prefix}train/run1/b/b_c0001.mp4"]
    assert ADAPTER.list_units(tmp_path, "validation") == [f"{prefix}val/run0/d/d_c0001.mp4"]
    assert ADAPTER.list_units(tmp_path, "test") == []


def test_a_pose_with_nan_does_not_stop_the_others(tmp_path):
    joints3d = truth([np.add(STILL, (0.15 * i, 0, 0)) for i in range(3)])
    joints3d[1] = np.nan
    broken = np.nan_to_num(joints3d)
    write_clip(tmp_path, broken, joints3D=np.float32(joints3d.transpose(2, 1, 0)))
    first, error, last = load_all(tmp_path)
    assert (first.provenance["frame"], last.provenance["frame"]) == (0, 2)
    assert "01_01_c0001_info.mat: joints3D of frame 1 has coordinates that are not finite" in str(error)


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_masks": 2}, r"c0001\.mp4: numbers of frames: 01_01_c0001\.mp4 3, 01_01_c0001_info\.mat 3, 01_01_c0001_segm\.mat 2"),
    ({"num_video_frames": 7}, r"c0001\.mp4: numbers of frames: 01_01_c0001\.mp4 7, 01_01_c0001_info\.mat 3"),
    ({"joints3D": None}, r"c0001_info\.mat has no variable joints3D"),
    ({"camLoc": None}, r"c0001_info\.mat has no variable camLoc"),
    ({"camLoc": np.float32([1, np.nan, 2])}, r"c0001_info\.mat: camLoc: position: expected 3 finite numbers"),
    ({"joints3D": np.zeros((2, 24, 3))}, r"c0001_info\.mat: joints3D has shape \[2, 24, 3\]"),
])
def test_broken_clips_are_named(tmp_path, changes, message):
    write_clip(tmp_path, truth([STILL] * 3), **changes)
    with pytest.raises(ValueError, match=message):
        load_all(tmp_path)


def test_a_clip_of_another_size_is_an_error(tmp_path):
    write_clip(tmp_path, truth([STILL]))
    scipy.io.savemat(next(tmp_path.rglob("*_segm.mat")), {"segm_1": np.ones((480, 640), np.uint8)})
    with pytest.raises(ValueError, match=r"_segm\.mat cannot be read .*shape \[480, 640\], expected \[240, 320\]"):
        load_all(tmp_path)


def test_frames_that_the_video_alone_lacks_are_left_out(tmp_path):
    write_clip(tmp_path, truth([np.add(STILL, (0.15 * i, 0, 0)) for i in range(3)]), num_video_frames=2)
    assert [example.provenance["frame"] for example in load_all(tmp_path)] == [0, 1]


def test_an_unreadable_video_or_segmentation_is_reported_and_the_rest_goes_on(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    for name in ("a/a_c0001", "b/b_c0001", "c/c_c0001"):
        write_clip(raw_dir, truth([STILL]), name)
    folder = raw_dir / "cmu" / "train" / "run0"
    (folder / "a" / "a_c0001.mp4").write_bytes(b"\0" * 999)
    (folder / "b" / "b_c0001_segm.mat").write_bytes((folder / "b" / "b_c0001_segm.mat").read_bytes()[:300])
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, skip_bad=True, progress=False)
    assert manifest["splits"]["train"]["num_examples"] == 1
    reasons = [entry["reason"] for entry in manifest["skipped"]]
    assert len(reasons) == 2 and "a_c0001.mp4 cannot be read as a video" in reasons[0]
    assert "b_c0001_segm.mat cannot be read as the segmentation of a clip" in reasons[1]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no clips .*cmu/train/run.*\.mp4\. Get SURREAL_v1\.tar\.gz from https://www\.di"):
        ADAPTER.list_units(tmp_path, "train")
    write_clip(tmp_path, truth([STILL]))
    for kind in ("segm", "info"):
        next(tmp_path.rglob(f"*_{kind}.mat")).unlink()
        with pytest.raises(FileNotFoundError, match=rf"01_01_c0001_{kind}\.mat is missing\. Get SURREAL"):
            load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "surreal"
