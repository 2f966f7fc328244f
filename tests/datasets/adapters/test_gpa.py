"""The GPA adapter on made-up annotations, pictures of painted people and masks in the authors' layout."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from datasets.adapters import gpa
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg

ADAPTER = gpa.ADAPTER
SKELETON = load_skeleton("gpa_34")
WIDTH, HEIGHT = 1920, 1080
NUM_IDS = 300
# Numbers of the images, their cameras, focal lengths and the middles, px; whether they are training images; offset, m.
IDS = 7, 42, 123, 124, 250
CAMERA_OF = {7: 2, 42: 2, 123: 4, 124: 2, 250: 2}
LENSES = {2: ((1151.2, 1149.8), (948.7, 543.1)), 4: ((1183.6, 1180.9), (971.4, 532.8))}
OFFSETS = {7: 0.0, 42: 0.06, 123: 0.06, 124: 0.12, 250: 0.3}
TRAIN = {7: True, 42: True, 123: True, 124: False, 250: True}


def truth(image_id):
    """[34, 3] mm, camera frame."""
    return 1000 * body(SKELETON, (-0.3 + OFFSETS[image_id], 0.1, 3.6))


def painted(image_id):
    """Every other joint, as the dots of 34 would touch: one half in some pictures, the other half in the others."""
    return list(range(int(image_id in (123, 250)), 34, 2))


def image_points(image_id):
    (fx, fy), (cx, cy) = LENSES[CAMERA_OF[image_id]]
    x, y, z = truth(image_id).T
    return np.stack([fx * x / z + cx, fy * y / z + cy], axis=1)


def annotation(image_id, **changes):
    focal, center = LENSES[CAMERA_OF[image_id]]
    points = image_points(image_id)
    return {"joint_cams": truth(image_id).T.tolist(), "joint_imgs_uncrop": points.tolist(),
            "joint_imgs": (points / 4).tolist(), "f": list(focal), "c": list(center), "c_f": [256.0, 256.0],
            "c_c": [128.0, 128.0], "bboxes": [700.0, 200.0, 500.0, 800.0], "istrains": TRAIN[image_id],
            "istests": not TRAIN[image_id], **changes}


def write_annotations(raw_dir, changes=None):
    content = {"images": [{"file_name": f"/data/img_jpg_new/{image_id:010d}.jpg", "id": i} for i, image_id in enumerate(IDS)],
               "annotations": [annotation(image_id, **(changes or {}).get(image_id, {})) for image_id in IDS]}
    (raw_dir / gpa.ANNOTATIONS).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    raw_dir = tmp_path_factory.mktemp("original")
    masks = raw_dir / "img_jpg_new_resnet101deeplabv3humanmask"
    masks.mkdir()
    for image_id in IDS:
        image = gray_image(WIDTH, HEIGHT)
        paint(image, image_points(image_id)[painted(image_id)])
        write_jpeg(raw_dir / "Gaussian_img_jpg_new" / f"{image_id:010d}.jpg", image)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        x, y = image_points(image_id)[0].astype(int)
        mask[y - 200:y + 200, x - 100:x + 101] = 255
        mask[:40, :40] = 8
        cv2.imwrite(str(masks / f"{image_id:010d}_mask.jpg"), mask)
    camera_ids = np.zeros(NUM_IDS, np.int64)
    camera_ids[list(CAMERA_OF)] = list(CAMERA_OF.values())
    (raw_dir / "Sequence_ids").mkdir()
    np.save(raw_dir / "Sequence_ids" / "cam_ids_750k.npy", camera_ids)
    write_annotations(raw_dir)
    return raw_dir


@pytest.fixture
def raw_dir(original, tmp_path):
    return shutil.copytree(original, tmp_path / "raw")


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def frames(items):
    return [item.provenance["frame"] for item in items]


def test_prepared_joints_lie_on_their_dots(raw_dir, tmp_path):
    prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "gpa")
    assert dataset.skeleton.name == "gpa_34" and dataset.kind == "3d" and list(dataset.splits()) == ["train", "test"]
    for split, ids in (("train", [7, 123, 250]), ("test", [124])):
        examples = [dataset.read(split, i) for i in range(dataset.num_examples(split))]
        assert frames(examples) == ids
        for example in examples:
            image_id = example.provenance["frame"]
            check_crop(example, truth(image_id), painted(image_id))
    assert examples[0].provenance == {"source": "Gaussian_img_jpg_new/0000000124.jpg", "frame": 124, "camera": 2}


def test_one_sampler_for_each_camera_through_both_parts(raw_dir):
    # 42 has moved by 60 mm since 7 on camera 2; 124, a test image, by 120; 250 by 180 since 124. 123 is of another camera.
    assert frames(load_all(raw_dir)) == [7, 123, 250] and frames(load_all(raw_dir, "test")) == [124]
    write_annotations(raw_dir, {250: {"joint_cams": (truth(124) + np.array([99, 0, 0])).T.tolist()}})
    assert frames(load_all(raw_dir)) == [7, 123]
    assert ADAPTER.list_units(raw_dir, "validation") == []


def test_boxes_masks_and_up(raw_dir):
    example = load_all(raw_dir)[1]
    low, high = image_points(123).min(axis=0), image_points(123).max(axis=0)
    np.testing.assert_allclose(example.bbox[2:], 1.15 * (high - low), atol=1e-3)
    np.testing.assert_allclose(example.bbox[:2] + example.bbox[2:] / 2, (low + high) / 2, atol=1e-3)
    x, y = image_points(123)[0].astype(int)
    assert example.mask.shape == (HEIGHT, WIDTH) and example.mask.dtype == bool and not example.mask[:40, :40].any()
    rows, columns = np.nonzero(example.mask)
    assert abs(rows.min() - (y - 200)) <= 2 and abs(columns.max() - (x + 100)) <= 2
    np.testing.assert_array_equal(example.camera.up, [0, -1, 0])
    np.testing.assert_array_equal(example.camera.intrinsics, [[1183.6, 0, 971.4], [0, 1180.9, 532.8], [0, 0, 1]])


def test_long_lists_are_cut_into_runs(raw_dir, monkeypatch):
    monkeypatch.setattr(gpa, "IMAGES_PER_UNIT", 2)
    assert ADAPTER.list_units(raw_dir, "train") == [[0, 2], [4]]
    assert frames(load_all(raw_dir)) == [7, 123, 250]


def test_without_masks_there_is_a_warning(raw_dir, caplog):
    (raw_dir / gpa.MASKS).rename(raw_dir / "elsewhere")
    assert [item.mask for item in load_all(raw_dir)] == [None] * 3
    assert "there is no folder" in caplog.text and gpa.MASKS in caplog.text


@pytest.mark.parametrize(("image_id", "changes", "message"), [
    (123, {"joint_cams": truth(123).tolist()}, r"annotations\[2\] needs joint_cams \(3 x 34 numbers\).*shape \[34, 3\]"),
    (123, {"joint_cams": (truth(123) * [1, 1, -1]).T.tolist()}, r"annotations\[2\]: joint_cams .*in front of the camera"),
    (7, {"f": [1000.0]}, r"annotations\[0\] needs .*, f, c \(2 each\)"),
    (250, {"c": [900.0, float("nan")]}, r"annotations\[4\], f and c: intrinsics"),
    (123, {"joint_cams": [[float("nan")] * 34] * 3}, r"annotations\[2\] needs .*joint_cams has nan or infinite numbers"),
    (250, {"joint_cams": [[1e300] * 34] * 3}, r"annotations\[4\] needs .*joint_cams has nan or infinite numbers"),
])
def test_broken_annotations_are_reported_and_the_rest_goes_on(raw_dir, image_id, changes, message):
    write_annotations(raw_dir, {image_id: changes})
    items = load_all(raw_dir)
    errors = [item for item in items if isinstance(item, ValueError)]
    assert len(errors) == 1 and len(items) >= 3
    with pytest.raises(ValueError, match=rf"c2g\.json: {message}"):
        raise errors[0]


def test_a_missing_mask_and_a_wrong_file_name_are_reported(raw_dir):
    (raw_dir / gpa.MASKS / "0000000123_mask.jpg").unlink()
    path = raw_dir / gpa.ANNOTATIONS
    path.write_text(path.read_text().replace("/data/img_jpg_new/0000000250.jpg", "../../secret.jpg"))
    items = load_all(raw_dir)
    assert [isinstance(item, ValueError) for item in items] == [False, True, True]
    assert "0000000123_mask.jpg cannot be read" in str(items[1])
    assert "annotations[4]: images has {'file_name': '../../secret.jpg'" in str(items[2])


def test_files_that_do_not_fit_are_named(raw_dir):
    np.save(raw_dir / gpa.CAMERA_IDS, np.zeros(200, int))
    with pytest.raises(ValueError, match=r"cam_ids_750k\.npy has 200 entries, .* the image 0000000250"):
        load_all(raw_dir)
    for wrong in (np.nan, np.inf, 0.5, "a", np.datetime64("2026-01-01")):
        np.save(raw_dir / gpa.CAMERA_IDS, np.full(300, wrong))
        with pytest.raises(ValueError, match=r"cam_ids_750k\.npy has entries of type .* that are no whole numbers"):
            load_all(raw_dir)
    np.save(raw_dir / gpa.CAMERA_IDS, np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match=r"cam_ids_750k\.npy cannot be read as a \.npy file"):
        load_all(raw_dir)
    (raw_dir / gpa.ANNOTATIONS).write_text('{"images": [{"file_name": "0000000001.jpg"}], "annotations": []}')
    with pytest.raises(ValueError, match=r"c2g\.json has 1 images and 0 annotations; expected equal numbers"):
        load_all(raw_dir)


@pytest.mark.parametrize("name", [gpa.ANNOTATIONS, gpa.IMAGES, gpa.CAMERA_IDS])
def test_missing_files_are_named_with_their_source(raw_dir, name):
    (raw_dir / name).rename(raw_dir / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{name}.*https://www\.cs\.utexas\.edu/~liyanc/projects/gpa-dataset/"):
        ADAPTER.list_units(raw_dir, "train")


def test_images_without_detection_are_dropped(raw_dir, tmp_path):
    boxes = {item.provenance["frame"]: item.bbox for item in load_all(raw_dir)}
    parts = {7: 0.31, 123: 0.29, 250: 1.0}  # of the box's height: the overlap
    (tmp_path / "detections.json").write_text(json.dumps([
        {"file_name": f"Gaussian_img_jpg_new/{image_id:010d}.jpg", "category_id": 1, "score": 0.15 if image_id == 250 else 0.9,
         "bbox": [*boxes[image_id][:3], part * boxes[image_id][3]]} for image_id, part in parts.items()]))
    prepare(ADAPTER, raw_dir, tmp_path / "data", splits=["train"], workers=1, progress=False,
            detections=tmp_path / "detections.json")
    dataset = PreparedDataset(tmp_path / "data" / "gpa")
    assert frames([dataset.read("train", i) for i in range(dataset.num_examples("train"))]) == [7]


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "gpa"
