"""The COCO adapter on tiny hand-made folders and on the real sample."""

import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import coco
from datasets.cropping import load_image

ADAPTER = coco.ADAPTER


def person(image_id, annotation_id=1, **changes):
    """A large person with all joints visible: joint i at (100 + 20 i, 50 + 15 i)."""
    keypoints = [number for i in range(17) for number in (100 + 20 * i, 50 + 15 * i, 2)]
    return {"id": annotation_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
            "keypoints": keypoints, "bbox": [80.0, 40.0, 380.0, 280.0], "area": 1.0,
            "segmentation": [[90, 45, 450, 45, 450, 310, 90, 310]], **changes}


def write_annotations(raw_dir, name, people, file_names):
    folder = raw_dir / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": file_name, "width": 640, "height": 360} for i, file_name in file_names.items()]
    content = {"images": images, "annotations": people, "categories": [
        {"id": 1, "name": "person", "keypoints": list(coco.SKELETON.joint_names)}]}
    (folder / f"person_keypoints_{name}.json").write_text(json.dumps(content))


def write_image(path, gray=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((360, 640) if gray else (360, 640, 3), 99, np.uint8)
    cv2.imwrite(str(path), image)


def load_all(raw_dir, split, **options):
    items = [e for unit in ADAPTER.list_units(raw_dir, split) for e in coco.load_unit(raw_dir, unit, **options)]
    for item in items:
        if isinstance(item, ValueError):
            raise item
    return items


def image_names(raw_dir, split):
    return [example.image.relative_to(raw_dir).as_posix() for example in load_all(raw_dir, split)]


def name_2014(part, number):
    return f"COCO_{part}2014_{number:012d}.jpg"


def name_2017(number):
    return f"{number:012d}.jpg"


def test_one_person_by_hand(tmp_path):
    keypoints = person(1)["keypoints"]
    keypoints[:3] = 0, 0, 0  # nose without label
    keypoints[5] = 1  # left eye labelled though hidden
    write_annotations(tmp_path, "train2017", [person(1, keypoints=keypoints)], {1: name_2017(1)})
    write_image(tmp_path / "train2017" / name_2017(1), gray=True)
    (example,) = load_all(tmp_path, "train")
    assert example.image == tmp_path / "train2017" / "000000000001.jpg"
    assert load_image(example.image).shape == (360, 640, 3)  # a grey image comes in three channels
    np.testing.assert_array_equal(example.bbox, [79.5, 39.5, 380, 280])  # corner of pixel (0, 0) -> its centre
    assert np.isnan(example.joints2d[0]).all()
    np.testing.assert_array_equal(example.joints2d[1:3], [[120, 65], [140, 80]])
    assert example.mask.shape == (360, 640) and example.mask[45:309, 90:449].all() and not example.mask[:, 452:].any()
    assert example.provenance == {"source": "train2017/000000000001.jpg", "frame": 1, "annotation": 1}
    assert example.camera is None and example.joints3d_world is None
    assert ADAPTER.label_kind(tmp_path) == "2d" and ADAPTER.label_skeleton(tmp_path) == "coco_17"


def flags_set(num_visible, num_hidden, first=0):
    """Keypoints with so many visible and hidden joints from joint `first` on, the rest unlabelled."""
    flags = [0] * first + [2] * num_visible + [1] * num_hidden
    flags += [0] * (17 - len(flags))
    return [n for i, flag in enumerate(flags) for n in ((100 + 20 * i, 50 + 15 * i, flag) if flag else (0, 0, 0))]


@pytest.mark.parametrize(("changes", "is_kept"), [
    ({}, True),
    ({"keypoints": flags_set(6, 5, first=5)}, True),  # 6 > 17 / 3 visible
    ({"keypoints": flags_set(5, 6, first=5)}, False),
    ({"keypoints": flags_set(9, 0, first=8)}, True),  # 9 > 17 / 2 labelled
    ({"keypoints": flags_set(8, 0, first=9)}, False),
    ({"keypoints": flags_set(11, 0)}, False),  # 6 on limbs
    ({"keypoints": flags_set(12, 0)}, True),  # 7 on limbs
    ({"iscrowd": 1}, False),
    ({"bbox": [80.0, 40.0, 0.0, 280.0]}, False),
    ({"keypoints": [n for i in range(17) for n in (100 + 10 * i, 50, 2)]}, False),  # spans no area
    ({"keypoints": [n for i in range(17) for n in (100 + 10 * i, 50 + i, 2)]}, True),  # 1.25 x 160 = 200 px
    ({"keypoints": [n for i in range(17) for n in (100 + 9.9 * i, 50 + i, 2)]}, False),
])
def test_filters(tmp_path, changes, is_kept):
    write_annotations(tmp_path, "train2017", [person(1, **changes)], {1: name_2017(1)})
    write_image(tmp_path / "train2017" / name_2017(1))
    assert len(load_all(tmp_path, "train")) == is_kept


def test_smaller_people_are_read_on_demand(tmp_path):
    keypoints = [n for i in range(17) for n in (100 + 2 * i, 50 + 4 * i, 2)]  # 1.25 x 64 = 80 px
    write_annotations(tmp_path, "train2017", [person(1, keypoints=keypoints)], {1: name_2017(1)})
    write_image(tmp_path / "train2017" / name_2017(1))
    assert len(load_all(tmp_path, "train", min_person_side=80)) == 1
    assert len(load_all(tmp_path, "train", min_person_side=81)) == 0


def write_edition(raw_dir, edition, number):
    """One annotation file with one image."""
    name = name_2014(edition[:-4], number) if edition.endswith("2014") else name_2017(number)
    write_annotations(raw_dir, edition, [person(number)], {number: name})
    write_image(raw_dir / edition / name)


def test_2014_alone_is_all_for_training(tmp_path):
    write_edition(tmp_path, "train2014", 1)
    write_edition(tmp_path, "val2014", 2)
    assert image_names(tmp_path, "train") == [f"train2014/{name_2014('train', 1)}", f"val2014/{name_2014('val', 2)}"]
    assert load_all(tmp_path, "validation") == [] and load_all(tmp_path, "test") == []


def test_2017_has_a_validation_split(tmp_path):
    write_edition(tmp_path, "train2017", 1)
    write_edition(tmp_path, "val2017", 2)
    assert image_names(tmp_path, "train") == [f"train2017/{name_2017(1)}"]
    assert image_names(tmp_path, "validation") == [f"val2017/{name_2017(2)}"]


def test_2014_validation_never_trains_beside_2017_validation(tmp_path):
    for number, edition in enumerate(("train2014", "val2014", "val2017")):
        write_edition(tmp_path, edition, number)
    assert image_names(tmp_path, "train") == [f"train2014/{name_2014('train', 0)}"]
    assert image_names(tmp_path, "validation") == [f"val2017/{name_2017(2)}"]
    write_edition(tmp_path, "train2017", 3)
    assert image_names(tmp_path, "train") == [f"train2017/{name_2017(3)}"]


def test_images_are_found_under_the_other_editions_name(tmp_path):
    write_annotations(tmp_path, "train2014", [person(7)], {7: name_2014("train", 7)})
    write_image(tmp_path / "images" / "val2017" / name_2017(7))
    assert image_names(tmp_path, "train") == ["images/val2017/000000000007.jpg"]


def test_other_files_follow_their_name_or_the_image_folder(tmp_path):
    write_annotations(tmp_path, "few", [person(1), person(2)], {1: name_2017(1), 2: name_2017(2)})
    write_image(tmp_path / "train2017" / name_2017(1))
    write_image(tmp_path / "val2017" / name_2017(2))
    assert image_names(tmp_path, "train") == ["train2017/000000000001.jpg"]
    assert image_names(tmp_path, "validation") == ["val2017/000000000002.jpg"]
    (tmp_path / "annotations" / "person_keypoints_few.json").rename(
        tmp_path / "annotations" / "person_keypoints_my_val.json")
    assert len(image_names(tmp_path, "validation")) == 2 and image_names(tmp_path, "train") == []
    write_edition(tmp_path, "train2017", 3)  # an official file is there: the others are ignored
    assert image_names(tmp_path, "train") == ["train2017/000000000003.jpg"]
    assert image_names(tmp_path, "validation") == []


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"person_keypoints_\*\.json.*https://cocodataset\.org"):
        ADAPTER.list_units(tmp_path, "train")
    write_annotations(tmp_path, "train2017", [person(1)], {1: name_2017(1)})
    with pytest.raises(ValueError, match=r"000000000001\.jpg, which is in none of the folders train2017"):
        load_all(tmp_path, "train")
    write_annotations(tmp_path, "train2017", [person(1)], {1: "../../secret.jpg"})
    with pytest.raises(ValueError, match=r"\.\./\.\./secret\.jpg' leaves the folder"):
        load_all(tmp_path, "train")


def test_one_missing_image_or_broken_mask_does_not_stop_the_others(tmp_path):
    broken = person(2, segmentation={"counts": [5], "size": [360, 640]})
    write_annotations(tmp_path, "train2017", [person(1), broken, person(3)], {n: name_2017(n) for n in (1, 2, 3)})
    for number in (2, 3):
        write_image(tmp_path / "train2017" / name_2017(number))
    (unit,) = ADAPTER.list_units(tmp_path, "train")
    missing, broken, good = ADAPTER.load_unit(tmp_path, unit)
    assert "000000000001.jpg, which is in none of the folders" in str(missing)
    assert "train2017.json: annotation 1 of 000000000002.jpg: " in str(broken) and "sum to 5" in str(broken)
    assert good.image.name == "000000000003.jpg"


def test_units_are_runs_of_images_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "IMAGES_PER_UNIT", 2)
    numbers = [5, 3, 9]
    write_annotations(tmp_path, "val2017", [person(n, annotation_id=n) for n in (3, 9, 5, 3)],
                      {n: name_2017(n) for n in numbers})
    for number in numbers:
        write_image(tmp_path / "val2017" / name_2017(number))
    units = ADAPTER.list_units(tmp_path, "validation")
    assert [unit["image_ids"] for unit in units] == [[5, 3], [9]]
    assert json.loads(json.dumps(units)) == units
    assert [e.provenance["frame"] for e in load_all(tmp_path, "validation")] == [5, 3, 3, 9]


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "coco"


def test_real_sample(real_samples):
    examples = load_all(real_samples / "coco", "validation")
    assert load_all(real_samples / "coco", "train") == []
    assert [e.provenance["annotation"] for e in examples] == [442619, 460541, 1717641, 437295, 531914, 533949, 543117]
    for example in examples:
        height, width = load_image(example.image).shape[:2]
        labelled = example.joints2d[np.isfinite(example.joints2d).all(axis=1)]
        assert len(labelled) >= 12
        assert (labelled >= 0).all() and (labelled <= [width - 1, height - 1]).all()
        x, y, box_width, box_height = example.bbox
        assert ((labelled >= [x - 1, y - 1]) & (labelled <= [x + box_width, y + box_height])).all()
        rows, columns = np.nonzero(example.mask)  # the box is the segmentation's
        np.testing.assert_allclose([columns.min(), rows.min(), columns.max(), rows.max()],
                                   [x, y, x + box_width, y + box_height], atol=1.5)
    np.testing.assert_array_equal(examples[0].joints2d[0], [367, 81])  # the nose in the file
