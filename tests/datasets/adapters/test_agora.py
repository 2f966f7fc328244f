"""The AGORA adapter on pictures, masks and data frames in the authors' layout: pandas pickles, painted dots."""

import os
import pickle
import struct
import tracemalloc

import cv2
import numpy as np
import pytest

from datasets.adapters import agora
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint
from tests.datasets.adapters.rich_files import FACE_HANDS_FEET, LABELLED
from tests.datasets.readers.pandas_files import write_frame

ADAPTER = agora.ADAPTER
SMPL, SMPLX = load_skeleton("smpl_24"), load_skeleton("smplx_42")
# Of 66 joints in one colour each too many are alike: the ones of each row are painted.
PAINTED = range(24), range(24, 45), range(45, 66)
INDOORS = "ag_trainset_3dpeople_bfh_archviz_5_10"
# Names with their focal length, px, pitch, degrees, and size; and the place of the painted person.
CAM = f"{INDOORS}_cam02_00003.png", 1920.0, 30, (3840, 2160), (0.2, 0.1, 5.0)
HDRI = "ag_trainset_renderpeople_bfh_hdri_50mm_5_10_00017.png", 16000 / 3, 0, (3840, 2160), (-0.4, 0.05, 9.0)
AG2 = "ag2_trainset_3dpeople_bfh_forest_5_15_00100_1280x720.png", 8960 / 9, 15, (1280, 720), (0.1, 0.0, 4.0)
OTHER = f"{INDOORS}_00001_1280x720.png", 8960 / 9, 0, (1280, 720), (0.1, 0.0, 4.0)
COLORS = [(55, 181, 57), (153, 108, 6), (112, 105, 191), (5, 220, 40)]
RED = (255, 0, 0)
# The header of a bitmap of 2^17 x 2^17 px.
HUGE_IMAGE = b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 2**17, 2**17, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(146)


def person(place, seed=0):
    """[66, 3] m, camera axes: SMPL's joints, and at the same place, but beside them, SMPL-X's."""
    other = dict(zip(SMPLX.joint_names, body(SMPLX, (0, 0, 0)), strict=True))
    other |= {name: where * [1, -1, -1] for name, where in FACE_HANDS_FEET.items()}
    return np.concatenate([body(SMPL, place), np.array(list(other.values())) + place + np.array([0.02, 0.01, 0])])


def stored(joints):
    """[45, 3] and [127, 3]: as in the data frames, with points that are not read."""
    smpl, smplx = np.full((45, 3), 99.0), np.full((127, 3), 99.0)
    smpl[:24], smplx[LABELLED] = joints[:24], joints[24:]
    return smpl, smplx.astype(np.float32)


def project(joints, image):
    _, focal, _, (width, _), _ = image
    scale = width / 3840  # the centre at 1920, 1080 of the large image, pixel (0, 0) about its own centre
    return focal * joints[:, :2] / joints[:, 2:] + [scale * 1920.5 - 0.5, scale * 1080.5 - 0.5]


def full_name(image):
    return image[0].replace("_1280x720", "")


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def write_image(folder, image, painted):
    picture = gray_image(*image[3])
    joints = project(person(image[4]), image)
    paint(picture, joints[painted], radius=round(image[3][0] / 240) if image[3][0] > 2000 else 5)
    write_png(folder / image[0], picture)


def write_frames(smpl_folder, smplx_folder, name, rows, version="1.2", **changes):
    """rows: image and its people, as (joints, isValid, occlusion)."""
    for kind, folder in enumerate((smpl_folder, smplx_folder)):
        columns = {
            "imgPath": [full_name(image) for image, _ in rows], "camX": [0.0] * len(rows), "camY": [1.5] * len(rows),
            "camZ": [170.0] * len(rows), "camYaw": [30.0] * len(rows), "gender": [["male"] * len(people) for _, people in rows],
            "kid": [[False] * len(people) for _, people in rows], "isValid": [[p[1] for p in people] for _, people in rows],
            "occlusion": [[p[2] for p in people] for _, people in rows],
            "gt_joints_3d": [[stored(p[0])[kind] for p in people] for _, people in rows],
            "gt_verts": [[np.zeros((6890, 3), np.float32) for _ in people] for _, people in rows], **changes}
        write_frame(folder / f"{name}_withjv.pkl", columns, version)


def write_masks(folder, image, rectangles):
    """Rectangles x, y, width, height of whole pixels; each person stands before the ones that come earlier."""
    width, height = image[3]
    scene = "_".join(image[0].split("_")[:5])
    base, resolution = full_name(image).removesuffix(".png"), "_1280x720" if width == 1280 else ""
    start, number = base.rsplit("_", 1)
    start, camera = (start[:-6], start[-6:]) if start[-6:-2] == "_cam" else (start, "")
    stem = f"{start}_mask{camera}_0{number}"
    everyone = np.full((height, width, 3), RED, np.uint8)
    for k, (x, y, w, h) in enumerate(rectangles):
        everyone[y:y + h, x:x + w] = np.add(COLORS[k], -5)
        alone = np.zeros((height, width), np.uint8)
        alone[y:y + h, x:x + w] = 255
        write_png(folder / scene / f"{stem}_{k + 1:05d}{resolution}.png", alone)
    write_png(folder / scene / f"{stem}_00000{resolution}.png", everyone)
    return folder / scene / f"{stem}_00000{resolution}.png"


def write_colors(raw_dir):
    (raw_dir / "seg_rgbs.txt").write_text("".join(f"{i}\t[{r}, {g}, {b}]\n" for i, (r, g, b) in enumerate(COLORS)))


@pytest.fixture
def raw_dir(tmp_path):
    """Two rows of small images, without masks."""
    rows = [(OTHER, [(person(OTHER[4]), True, 0.0)]), (AG2, [(person(AG2[4]), True, 20.0)])]
    write_frames(tmp_path / "SMPL", tmp_path / "SMPLX", "train_3", rows)
    for image in (OTHER, AG2):
        write_image(tmp_path / "train_3", image, PAINTED[0])
    return tmp_path


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_the_dots(tmp_path):
    raw_dir, images = tmp_path / "raw", (CAM, HDRI, AG2)
    rows = [(image, [(person(image[4]), True, 10.0)]) for image in images]
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_0", rows, "2.2")
    write_frames(raw_dir / "validation_SMPL" / "SMPL", raw_dir / "validation_SMPLX" / "SMPLX", "validation_0",
                 [(OTHER, [(person(OTHER[4]), True, 10.0)])], "1.0")
    for image, painted in zip(images, PAINTED, strict=True):
        write_image(raw_dir / "train_4", image, painted)  # not the number of the data frame
    write_image(raw_dir / "validation", OTHER, PAINTED[1])
    points = project(person(CAM[4]), CAM)
    low, high = np.int64(points.min(axis=0)), np.int64(points.max(axis=0))
    write_masks(raw_dir / "train", CAM, [[*low, *(high - low)]])
    write_colors(raw_dir)
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False)
    assert not manifest["skipped"]
    dataset = PreparedDataset(tmp_path / "data" / "agora")
    assert list(dataset.splits()) == ["train", "validation"]
    assert dataset.skeleton.joint_names == (*(f"{name}_smpl" for name in SMPL.joint_names),
                                            *(f"{name}_smplx" for name in SMPLX.joint_names))
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [example.provenance["frame"] for example in examples] == [3, 17, 100]
    for image, painted, example in zip(images, PAINTED, examples, strict=True):
        check_crop(example, in_world(person(image[4]), image), painted)
    height, width = examples[0].decode_image().shape[:2]
    assert 0.8 < np.count_nonzero(decode_mask(examples[0].mask_rle, height, width)) / examples[0].bbox[2:].prod() < 1.02
    assert examples[0].provenance == {"source": f"train_4/{CAM[0]}", "sequence": "ag_trainset_3dpeople_bfh_archviz", "frame": 3,
                                      "person": 0}
    assert dataset.num_examples("validation") == 1
    check_crop(dataset.read("validation", 0), in_world(person(OTHER[4]), OTHER), PAINTED[1])


def in_world(joints, image):
    """[66, 3] mm: camera axes turned upwards by the pitch."""
    cos, sin = np.cos(np.radians(image[2])), np.sin(np.radians(image[2]))
    return 1000 * joints @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


@pytest.mark.parametrize("image", [CAM, HDRI, AG2, OTHER])
def test_cameras_are_told_by_the_names(image):
    camera, size = agora.read_camera(image[0])
    assert size == image[3]
    points = person(image[4])
    matrix = camera.intrinsics
    np.testing.assert_allclose(points @ matrix[:2].T / points[:, 2:], project(points, image))
    pitch = np.radians(image[2])
    np.testing.assert_allclose(camera.up, [0, -np.cos(pitch), -np.sin(pitch)], atol=1e-12)  # who looks down has up behind
    assert camera.distortion is None


def test_the_mask_is_what_is_visible_and_the_box_is_around_it(raw_dir):
    people = [(person(OTHER[4]), True, 40.0), (person((0.5, 0, 3.5)), True, 0.0)]
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_3", [(OTHER, people), (AG2, people)])
    write_masks(raw_dir / "train", OTHER, [(500, 100, 200, 400), (620, 150, 300, 500)])
    write_colors(raw_dir)
    first, second, *others = load_all(raw_dir)
    np.testing.assert_array_equal(first.bbox, [499.5, 99.5, 200, 400])
    expected = np.zeros((720, 1280), bool)
    expected[100:500, 500:700] = True
    expected[150:, 620:] = False
    np.testing.assert_array_equal(first.mask, expected)
    np.testing.assert_array_equal(second.bbox, [619.5, 149.5, 300, 500])
    assert np.count_nonzero(second.mask) == 300 * 500
    assert len(others) == 2 and others[0].mask is None  # the other image has no masks
    points = project(person(OTHER[4]), OTHER)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(others[0].bbox[2:], 1.05 * (high - low), rtol=1e-6)
    np.testing.assert_allclose(others[0].bbox[:2] + others[0].bbox[2:] / 2, (low + high) / 2, rtol=1e-6)


def test_colours_may_differ_by_ten(raw_dir):
    path = write_masks(raw_dir / "train", OTHER, [(500, 100, 200, 400)])
    write_colors(raw_dir)
    everyone = cv2.imread(str(path))[..., ::-1].copy()
    for row, difference in ((100, 10), (200, -10), (300, 11), (400, -11)):
        everyone[row:row + 100, 500:700] = np.add(COLORS[0], [0, difference, 0])
    write_png(path, everyone)
    mask = load_all(raw_dir)[0].mask
    assert mask[100:300, 500:700].all() and np.count_nonzero(mask) == 200 * 200


def test_invalid_hidden_and_small_people_are_left_out(raw_dir):
    joints = person(OTHER[4])
    people = [(joints, False, 0.0), (joints, True, 75.0), (joints, True, 75.1), (person((1, 0, 12.0)), True, 0.0),
              (person((0, 0, -4.0)), True, 0.0), (person((9.0, 0, 4.0)), True, 0.0), (joints, True, 0.0)]
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_3", [(OTHER, people)])
    assert [example.provenance["person"] for example in load_all(raw_dir)] == [1, 6]


def test_large_images_are_preferred_to_small_ones(raw_dir):
    write_png(raw_dir / "train_7" / full_name(OTHER), gray_image(3840, 2160))
    first, second = load_all(raw_dir)
    assert first.image.name == full_name(OTHER) and second.image.name == AG2[0]
    np.testing.assert_allclose(first.camera.intrinsics, [[8960 / 3, 0, 1920], [0, 8960 / 3, 1080], [0, 0, 1]])


@pytest.mark.parametrize(("changes", "message"), [
    ({"isValid": [[True, True], [True]]}, r"row 0, .*zip"), ({"occlusion": [None, [0.0]]}, "row 0"),
    ({"gt_joints_3d": [[np.zeros((24, 3))], [np.zeros((24, 3))]]}, r"person 0: .*\[24, 3\]"),
    ({"gt_joints_3d": [[np.full((45, 3), np.nan)], [None]]}, "person 0: gt_joints_3d"),
    ({"occlusion": [["much"], [0.0]]}, "person 0: .*not supported"),
    ({"imgPath": ["other.png", "../../x.png"]}, r"row 0, 'other\.png': there is no such image, nor 'other_1280x720\.png'")])
def test_wrong_rows_are_reported_and_the_rest_goes_on(raw_dir, changes, message):
    rows = [(OTHER, [(person(OTHER[4]), True, 0.0)]), (AG2, [(person(AG2[4]), True, 0.0)])]
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_3", rows, **changes)
    items = load_all(raw_dir)
    assert len(items) == 2 and isinstance(items[0], ValueError)
    with pytest.raises(ValueError, match=rf"train_3_withjv\.pkl.*{message}"):
        raise items[0]


def test_data_frames_of_other_images_or_columns_are_errors(raw_dir):
    rows = [(AG2, [(person(AG2[4]), True, 0.0)]), (OTHER, [(person(OTHER[4]), True, 0.0)])]
    write_frames(raw_dir / "SMPL", raw_dir / "elsewhere", "train_3", rows)
    with pytest.raises(ValueError, match=r"SMPL/train_3_withjv\.pkl and .*SMPLX/train_3_withjv\.pkl list other images"):
        load_all(raw_dir)
    write_frame(raw_dir / "SMPL" / "train_3_withjv.pkl", {"imgPath": ["a.png"], "isValid": [[True]]})
    with pytest.raises(ValueError, match=r"SMPL/train_3_withjv\.pkl has no column occlusion, gt_joints_3d; is it"):
        load_all(raw_dir)
    (raw_dir / "SMPL" / "train_3_withjv.pkl").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(ValueError, match=r"SMPL/train_3_withjv\.pkl .*posix\.getcwd, which is refused"):
        load_all(raw_dir)


def test_wrong_masks_are_reported_and_the_rest_goes_on(raw_dir):
    people = [(person(OTHER[4]), True, 0.0)] * 4
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_3", [(OTHER, people)])
    path = write_masks(raw_dir / "train", OTHER, [(500, 100, 200, 400), (700, 100, 200, 400), (900, 100, 200, 400)])
    write_colors(raw_dir)
    path.with_name(path.name.replace("_00000_", "_00001_")).write_bytes(b"nothing")
    write_png(path.with_name(path.name.replace("_00000_", "_00002_")), np.zeros((720, 1280), np.uint8))
    damaged, hidden, example, missing = load_all(raw_dir)
    assert "person 0: mask " in str(damaged) and "_mask_000001_00001_1280x720.png is missing, damaged" in str(damaged)
    assert "person 1: " in str(hidden) and "no pixel of the colour [153.0, 108.0, 6.0]" in str(hidden)
    assert example.provenance["person"] == 2
    assert "_00004_1280x720.png is missing" in str(missing)
    write_png(path.with_name(path.name.replace("_00000_", "_00001_")), np.zeros((72, 128), np.uint8))
    assert "has (128, 72) px" in str(load_all(raw_dir)[0])
    for content in (b"nothing", HUGE_IMAGE):
        path.write_bytes(content)
        (error,) = load_all(raw_dir)
        assert f"{path} is missing, damaged or not an image" in str(error)


def test_vertices_are_not_kept_in_memory(raw_dir):
    rows = [(OTHER, [(person(OTHER[4]), True, 0.0)] * 40)] * 2
    write_frames(raw_dir / "SMPL", raw_dir / "SMPLX", "train_3", rows)
    assert (raw_dir / "SMPL" / "train_3_withjv.pkl").stat().st_size > 6e6
    tracemalloc.start()
    try:
        agora._read_frame(raw_dir / "SMPL" / "train_3_withjv.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5e6


def test_splits_are_those_of_the_file_names(raw_dir):
    for file in ("SMPL/train_1", "SMPLX/train_1", "val/SMPL/validation_2", "val/SMPLX/validation_2"):
        write_frame(raw_dir / f"{file}_withjv.pkl", {"imgPath": []})
    write_png(raw_dir / "validation" / OTHER[0], gray_image(9, 9))
    assert ADAPTER.list_units(raw_dir, "train") == [
        {"split": "train", "smpl": f"SMPL/train_{i}_withjv.pkl", "smplx": f"SMPLX/train_{i}_withjv.pkl"} for i in (1, 3)]
    assert ADAPTER.list_units(raw_dir, "validation") == [
        {"split": "validation", "smpl": "val/SMPL/validation_2_withjv.pkl", "smplx": "val/SMPLX/validation_2_withjv.pkl"}]
    assert ADAPTER.list_units(raw_dir, "test") == []


def test_missing_files_are_named(raw_dir):
    (raw_dir / "train" / "ag_trainset_3dpeople_bfh_archviz").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"seg_rgbs\.txt is missing\. Get .*AirSim"):
        ADAPTER.list_units(raw_dir, "train")
    (raw_dir / "seg_rgbs.txt").write_text("0\t[1, 2, 3]\nred\n")
    with pytest.raises(ValueError, match=r"seg_rgbs\.txt: line 2: expected a number and \[red, green, blue\], got 'red'"):
        ADAPTER.list_units(raw_dir, "train")
    (raw_dir / "train_3").rename(raw_dir / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no images .*train_\[0-9\]/\*\.png\. Get .*agora\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(raw_dir, "train")
    (raw_dir / "SMPLX").rename(raw_dir / "others")
    with pytest.raises(FileNotFoundError, match=r"no file .*SMPLX/train_3_withjv\.pkl beside that of SMPL\. .*agora\.is\.tue"):
        ADAPTER.list_units(raw_dir, "train")
    with pytest.raises(FileNotFoundError, match=r"no file .*SMPL/\*_withjv\.pkl\. Get .*agora\.is\.tue\.mpg\.de"):
        ADAPTER.list_units(raw_dir / "elsewhere", "train")


def test_adapter_can_be_sent_to_a_worker():
    adapter = pickle.loads(pickle.dumps(ADAPTER))
    assert skeleton_from_dict(adapter.label_skeleton(None)).num_joints == 66 and adapter.detection_rule.min_iou == 0.5
