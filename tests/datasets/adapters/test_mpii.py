"""The MPII adapter on hand-made MATLAB and JSON files with their quirks, and on the real sample."""

import collections
import json
import pickle

import cv2
import numpy as np
import pytest
import scipy.io

from datasets.adapters import mpii
from datasets.cropping import load_image
from datasets.detector_results import assign_detections

ADAPTER = mpii.ADAPTER


def points(ids, **more):
    """Joint id at (10 id + 11, 20 id + 21), 1-based."""
    return [{"x": 10.0 * i + 11, "y": 20.0 * i + 21, "id": i, **more} for i in ids]


def expected_joints(ids):
    joints2d = np.full((16, 2), np.nan)
    for i in ids:
        joints2d[i] = 10 * i + 10, 20 * i + 20  # 0-based
    return joints2d


def structs(tables):
    """A MATLAB struct array; fields that a table lacks are empty, as MATLAB makes them."""
    fields = list(dict.fromkeys(key for table in tables for key in table))
    array = np.empty((1, len(tables)), [(field, object) for field in fields])
    for i, table in enumerate(tables):
        array[0, i] = tuple(table.get(field, np.zeros((0, 0))) for field in fields)
    return array


def write_mat(path, images, img_train):
    annolist = structs([{"image": {"name": name}, **({} if people is None else {"annorect": structs(people)})}
                        for name, people in images])
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"RELEASE": {"annolist": annolist, "img_train": np.array([img_train], np.float64)}})


def labelled_person(ids, **more):
    return {"x1": 1.0, "scale": 2.0, "annopoints": {"point": structs(points(ids, **more))}}


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((400, 300, 3), 99, np.uint8))


def load_all(raw_dir, split="train"):
    items = [e for unit in ADAPTER.list_units(raw_dir, split) for e in ADAPTER.load_unit(raw_dir, unit)]
    for item in items:
        if isinstance(item, ValueError):
            raise item
    return items


@pytest.mark.parametrize("folder", ["", "mpii_human_pose_v1_u12_2"])
def test_mat_file_with_its_quirks(tmp_path, folder):
    shuffled = [7, 3, 15, 0, 1, 2, 9, 4]
    write_mat(tmp_path / folder / mpii.MAT_NAME, [
        ("one.jpg", [labelled_person(shuffled)]),  # a single struct
        ("two.jpg", [labelled_person(range(16), is_visible="1"), {"x1": 5.0}, labelled_person(range(8))]),
        ("none.jpg", None),  # annorect empty
        ("test.jpg", [labelled_person(range(16))]),
        ("few.jpg", [labelled_person(range(6)), labelled_person([3])]),  # 6 joints; a point that is a single struct
    ], [1, 1, 1, 0, 1])
    for name in ("one", "two", "test", "few"):
        write_image(tmp_path / "images" / f"{name}.jpg")
    examples = load_all(tmp_path)
    assert [e.image.name for e in examples] == ["one.jpg", "two.jpg", "two.jpg"]
    assert [e.provenance["annotation"] for e in examples] == [
        "annolist(1).annorect(1)", "annolist(2).annorect(1)", "annolist(2).annorect(3)"]
    for example, ids in zip(examples, (shuffled, range(16), range(8)), strict=True):
        np.testing.assert_array_equal(example.joints2d, expected_joints(ids))
    # joints 0..15 span x 10..160, y 20..320; 1.25 times as large about (85, 170)
    np.testing.assert_allclose(examples[1].bbox, [-8.75, -17.5, 187.5, 375])
    assert examples[1].mask is None and examples[1].camera is None
    assert load_all(tmp_path, "validation") == [] and load_all(tmp_path, "test") == []


def test_mat_file_with_one_image(tmp_path):
    write_mat(tmp_path / mpii.MAT_NAME, [("one.jpg", [labelled_person(range(16))])], [1])
    write_image(tmp_path / "images" / "one.jpg")
    assert len(load_all(tmp_path)) == 1


def test_broken_mat_files_are_explained(tmp_path):
    write_mat(tmp_path / mpii.MAT_NAME, [("one.jpg", [labelled_person([3, 16])])], [1])
    with pytest.raises(ValueError, match=r"annorect\(1\) is broken: a point has id 16; expected 0 to 15"):
        load_all(tmp_path)
    without_y = {"annopoints": {"point": structs([{"id": 3, "x": 1.0}])}}
    write_mat(tmp_path / mpii.MAT_NAME, [("one.jpg", [without_y])], [1])
    with pytest.raises(ValueError, match=r"annolist\(1\)\.annorect\(1\) is broken: .*'y'"):
        load_all(tmp_path)
    write_mat(tmp_path / mpii.MAT_NAME, [("one.jpg", [labelled_person([3])])], [1, 0])
    with pytest.raises(ValueError, match="RELEASE has 1 annolist and 2 img_train entries"):
        load_all(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mpii_human_pose_v1_u12_1\.mat.*http://human-pose\.mpi-inf\.mpg\.de"):
        load_all(tmp_path / "elsewhere")


def json_person(image="one.jpg", **changes):
    joints = [[10.0 * i + 11, 20.0 * i + 21] for i in range(16)]
    return {"image": image, "center": [100.0, 100.0], "scale": 1.0, "joints": joints, "joints_vis": [1] * 16, **changes}


def write_json(path, people):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(people))


def test_json_list_by_hand(tmp_path):
    write_image(tmp_path / "images" / "one.jpg")
    joints = json_person()["joints"]
    joints[0] = [-1.0, -1.0]
    joints[5] = [0.0, 0.0]  # flagged as visible all the same
    write_json(tmp_path / "annot" / "train.json", [json_person(joints=joints, joints_vis=[0] + 14 * [1] + [0])])
    (example,) = load_all(tmp_path)
    np.testing.assert_array_equal(example.joints2d, expected_joints([1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14]))
    assert example.provenance == {"source": "images/one.jpg", "annotation": "person 0"}


@pytest.mark.parametrize(("names", "train", "validation"), [
    (["train", "valid", "test", "trainval"], ["train"], ["valid"]),
    (["mpii_trainval", "mpii_test"], ["mpii_trainval"], []),
    (["trainval", "valid"], [], ["valid"]),  # trainval holds the validation people, too
    (["mpii_subset"], ["mpii_subset"], []),
])
def test_splits_of_json_lists(tmp_path, names, train, validation):
    for name in names:
        write_json(tmp_path / "annotations" / f"{name}.json", [json_person(image=f"{name}.jpg")])
        write_image(tmp_path / "images" / f"{name}.jpg")
    assert [e.image.stem for e in load_all(tmp_path, "train")] == train
    assert [e.image.stem for e in load_all(tmp_path, "validation")] == validation
    assert load_all(tmp_path, "test") == []


@pytest.mark.parametrize(("person", "message"), [
    (json_person(joints=[[1, 2]]), r"entry 0 has joints of shape \[1, 2\].*expected \[16, 2\]"),
    (json_person(joints=[["x", 2]] * 16), "entry 0 needs image, joints"),
    ({"image": "one.jpg"}, "entry 0 needs image, joints.*KeyError"),
    (json_person(image="../one.jpg"), "leaves the folder"),
    (json_person(image=["one.jpg"]), r"person 0: image: expected a file path"),
    (json_person(image="two.jpg"), r"person 0 is in the image .*two\.jpg, which is missing"),
])
def test_broken_json_lists_are_explained(tmp_path, person, message):
    write_json(tmp_path / "train.json", [person])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_all(tmp_path)


def test_runs_end_where_images_end(tmp_path, monkeypatch):
    names = ["one.jpg", "two.jpg", "one.jpg", "three.jpg", "one.jpg", "three.jpg"]
    for name in names:
        write_image(tmp_path / "images" / name)
    write_json(tmp_path / "train.json", [json_person(image=name) for name in names])
    monkeypatch.setattr(mpii, "PEOPLE_PER_UNIT", 2)
    assert [(unit["first"], unit["last"]) for unit in ADAPTER.list_units(tmp_path, "train")] == [(0, 3), (3, 6)]
    assert [(e.image.stem, e.provenance["annotation"]) for e in load_all(tmp_path)] == [
        ("one", "person 0"), ("one", "person 2"), ("one", "person 4"), ("two", "person 1"), ("three", "person 3"),
        ("three", "person 5")]
    monkeypatch.setattr(mpii, "PEOPLE_PER_UNIT", 3)
    assert [(unit["first"], unit["last"]) for unit in ADAPTER.list_units(tmp_path, "train")] == [(0, 3), (3, 6)]
    write_json(tmp_path / "train.json", [])
    assert ADAPTER.list_units(tmp_path, "train") == []


def test_only_people_who_were_detected_are_kept_with_detections(tmp_path):
    for name in ("one.jpg", "two.jpg"):
        write_image(tmp_path / "images" / name)
    beside = [[x + 100, y] for x, y in json_person()["joints"]]
    write_json(tmp_path / "train.json", [json_person(), json_person("two.jpg"), json_person(joints=beside)])
    items = load_all(tmp_path)
    x, y, width, height = items[0].bbox
    # One overlaps by 0.11, one by 0.09, and what is right is not sure enough.
    found = np.array([[x, y, width, 0.11 * height, 0.5], [x + 100, y, width, 0.09 * height, 0.9], [*items[1].bbox, 0.49]])
    matched = list(assign_detections(items, tmp_path, ADAPTER.detection_rule, lambda person: found, collections.Counter()))
    # The second image has the first detection, too, which is of its only person.
    assert [(e.image.stem, e.provenance["annotation"]) for e in matched] == [("one", "person 0"), ("two", "person 1")]
    np.testing.assert_allclose(matched[0].bbox, found[0, :4])


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "mpii_16"


def test_real_sample(real_samples):
    examples = load_all(real_samples / "mpii")
    assert [e.image.name for e in examples] == ["051423444.jpg", "004645041.jpg", "060754485.jpg"]
    for example in examples:
        height, width = load_image(example.image).shape[:2]
        labelled = example.joints2d[np.isfinite(example.joints2d).all(axis=1)]
        assert len(labelled) >= 12
        assert (labelled >= 0).all() and (labelled <= [width - 1, height - 1]).all()
        names = mpii.SKELETON.joint_names
        assert example.joints2d[names.index("head_top"), 1] < example.joints2d[names.index("pelvis"), 1]  # all stand
    assert np.isnan(examples[0].joints2d[0]).all()
    np.testing.assert_array_equal(examples[0].joints2d[1], [1032, 648])  # (1033, 649) in the file
