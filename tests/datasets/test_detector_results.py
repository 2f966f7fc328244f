import collections
import dataclasses
import json
import pathlib

import cv2
import numpy as np
import pytest

from datasets.detector_results import (
    add_mask,
    assign_detections,
    image_key,
    index_detections,
    open_detections,
    run_detector,
)
from datasets.raw_example import DetectionRule, RawExample
from tests.datasets.onnx_files import write_square_finder

RAW_DIR = pathlib.Path("/raw")


def person(image, box, **provenance):
    return RawExample(RAW_DIR / image if isinstance(image, str) else image, np.array(box), provenance=provenance)


def assign(tmp_path, items, entries, rule, counts=None):
    """The boxes (or other items) after assigning `entries`, (image, box, score); boxes count from the corner of a pixel."""
    path, database = tmp_path / "detections.json", tmp_path / "database"
    path.write_text(json.dumps([{"image_id": image, "bbox": box, "score": score, "category_id": 1}
                                for image, box, score in entries]))
    index_detections(path, database, rule)
    with open_detections(database, RAW_DIR, rule) as find:
        counts = collections.Counter() if counts is None else counts
        return [item.bbox.tolist() if isinstance(item, RawExample) else item
                for item in assign_detections(items, RAW_DIR, rule, find, counts)]


def test_people_of_an_image_are_matched_together(tmp_path):
    # Detection 0 is the best of person 0 and the only one of person 1; person 0 has another one.
    people = [person("a/1.jpg", [0, 0, 10, 10]), person("a/1.jpg", [4, 0, 10, 10]), person("a/2.jpg", [4, 0, 10, 10])]
    entries = [("a/1.jpg", [1.5, 0.5, 10, 10], 0.9), ("a/1.jpg", [-2.5, 0.5, 10, 10], 0.8), ("b/1.jpg", [0.5, 0.5, 10, 10], 1)]
    counts = collections.Counter()
    boxes = assign(tmp_path, people, entries, DetectionRule(min_iou=0.5), counts)
    assert boxes == [[-3, 0, 10, 10], [1, 0, 10, 10], [4, 0, 10, 10]]
    assert counts == {"images": 2, "images_with_detections": 1, "people": 3, "people_matched": 2}
    # Seen one by one, person 0 would take it; so do they where something else comes between them.
    apart = [people[0], people[2], people[1]]
    assert assign(tmp_path, apart, entries, DetectionRule(min_iou=0.5)) == [[1, 0, 10, 10], [4, 0, 10, 10], [1, 0, 10, 10]]


BOX = [0, 0, 10, 10]


@pytest.mark.parametrize("rule, expected", [
    (DetectionRule(min_iou=0.5), [[2, 0, 10, 10], BOX]),  # IoU 8/12
    (DetectionRule(min_iou=0.7), [BOX, BOX]),
    (DetectionRule(min_iou=0.5, unmatched="drop"), [[2, 0, 10, 10]]),
    (DetectionRule(min_iou=0.5, take="hull"), [[0, 0, 12, 10], BOX]),
    (DetectionRule(min_iou=0.5, min_score=0.6), [BOX, BOX]),
    (DetectionRule(min_iou=0.5, min_score=0.5), [[2, 0, 10, 10], BOX]),
    (DetectionRule(min_iou=0.2), [[2, 0, 10, 10], [0, 0, 20, 20]]),  # IoU 1/4
    (DetectionRule(min_iou=0.2, max_area_ratio=2), [[2, 0, 10, 10], BOX]),
])
def test_rule_of_the_data_set(rule, expected, tmp_path):
    people = [person("1.jpg", BOX), person("2.jpg", BOX)]
    assert assign(tmp_path, people, [("1.jpg", [2.5, 0.5, 10, 10], 0.5), ("2.jpg", [0.5, 0.5, 20, 20], 0.5)], rule) == expected


def test_bystanders_keep_their_detections(tmp_path):
    """The person nearest to a detection is no example; without the box of that one, another would get it."""
    entries = [("1.jpg", [0.5, 0.5, 10, 10], 0.9), ("1.jpg", [20.5, 0.5, 10, 10], 0.9)]
    people = [person("1.jpg", [4, 0, 10, 10]), person("1.jpg", [21, 0, 10, 10])]
    assert assign(tmp_path, people, entries, DetectionRule(min_iou=0.1)) == [[0, 0, 10, 10], [20, 0, 10, 10]]
    among_others = [dataclasses.replace(people[0], bystanders=np.array([[1.0, 0, 10, 10]])), people[1]]
    counts = collections.Counter()
    assert assign(tmp_path, among_others, entries, DetectionRule(min_iou=0.1), counts) == [[4, 0, 10, 10], [20, 0, 10, 10]]
    assert counts == {"images": 1, "images_with_detections": 1, "people": 2, "people_matched": 1}


def test_detector_runs_once_per_image(tmp_path):
    """Images are told apart by their names, and where they have none, as objects."""
    frames = [np.full((2, 2, 3), value, np.uint8) for value in range(2)]
    people = [person("1.jpg", BOX), person("1.jpg", BOX), person("2.jpg", BOX),
              person(frames[0], BOX), person(frames[0], BOX), person(frames[1], BOX),
              person(frames[1], BOX, source="a.mp4", frame=0), person(frames[1], BOX, source="a.mp4", frame=1)]
    seen = []

    def find(example):
        seen.append(example)
        return np.array([[1.0, 0, 10, 10, 1]])

    assigned = list(assign_detections(people, RAW_DIR, DetectionRule(min_iou=0.5), find, collections.Counter()))
    assert [any(example is person for example in seen) for person in people] == [True, False, True, True, False] + 3 * [True]
    assert [example.bbox[0] for example in assigned] == [1, 0, 1, 1, 0, 1, 1, 1]


def test_people_of_an_image_that_the_detector_cannot_read_are_left_to_the_crop(tmp_path):
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((64, 64, 3), np.uint8))
    people = [RawExample(tmp_path / f"{number}.png", np.array(BOX)) for number in (1, 2)]
    rule = DetectionRule(min_iou=0.5, unmatched="drop")
    find = run_detector(write_square_finder(tmp_path / "finder.onnx"), rule)
    counts = collections.Counter()
    assert list(assign_detections(people, tmp_path, rule, find, counts)) == people[:1]
    assert counts == {"images": 1, "images_with_detections": 0, "people": 1, "people_dropped": 1}


def test_images_are_named_by_path_frame_or_number(tmp_path):
    frame = np.zeros((2, 2, 3), np.uint8)
    examples = [person("S1/im 1.jpg", BOX), person(frame, BOX, source="S1/cam.mp4", frame=0),
                person(frame, BOX, source="S1/cam.mp4", frame=25), person("val/000139.jpg", BOX, source="x", frame=139),
                person(frame, BOX, frame=3)]
    assert [image_key(example, RAW_DIR) for example in examples] == [
        "S1/im 1.jpg", "S1/cam.mp4#0", "S1/cam.mp4#25", "val/000139.jpg", None]
    entries = [("S1\\im 1.jpg", [1.5, 0.5, 10, 10], 1), ("./S1/cam.mp4#25", [2.5, 0.5, 10, 10], 1),
               (139, [3.5, 0.5, 10, 10], 1)]
    rule = DetectionRule(min_iou=0.1, image_id="frame")
    assert assign(tmp_path, examples, entries, rule) == [[1, 0, 10, 10], BOX, [2, 0, 10, 10], [3, 0, 10, 10], BOX]


def test_file_name_comes_before_the_number_and_other_categories_are_not_people(tmp_path):
    path = tmp_path / "detections.json"
    entries = [{"file_name": "a.jpg", "image_id": 1, "bbox": BOX, "score": 1, "segmentation": {"counts": "01", "size": [1, 1]}},
               {"file_name": "a.jpg", "bbox": [5, 5, 5, 5], "score": 1, "category_id": 2}]
    path.write_text(json.dumps(entries))
    index_detections(path, tmp_path / "database", DetectionRule(min_iou=0.5))
    with open_detections(tmp_path / "database", RAW_DIR, DetectionRule(min_iou=0.5)) as find:
        np.testing.assert_array_equal(find(person("a.jpg", BOX)), [[-0.5, -0.5, 10, 10, 1]])
        assert find(person("1", BOX)).shape == find(person(np.zeros((2, 2, 3), np.uint8), BOX)).shape == (0, 5)


def test_errors_pass_and_people_read_before_a_crash_are_kept(tmp_path):
    error = ValueError("one wrong annotation")

    def items():
        yield person("1.jpg", BOX)
        yield error
        yield person("1.jpg", [20, 0, 10, 10])
        raise KeyError("calibration")

    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{"file_name": "1.jpg", "bbox": [21.5, 0.5, 10, 10], "score": 1}]))
    index_detections(path, tmp_path / "database", DetectionRule(min_iou=0.5))
    with open_detections(tmp_path / "database", RAW_DIR, DetectionRule(min_iou=0.5)) as find:
        assigned = assign_detections(items(), RAW_DIR, DetectionRule(min_iou=0.5), find, collections.Counter())
        assert next(assigned) is error
        assert [next(assigned).bbox.tolist(), next(assigned).bbox.tolist()] == [BOX, [21, 0, 10, 10]]
        with pytest.raises(KeyError, match="calibration"):
            next(assigned)


def test_box_of_a_wrong_form_is_left_to_the_check_of_boxes(tmp_path):
    people = [person("1.jpg", [1, 2]), person("1.jpg", BOX)]
    assert assign(tmp_path, people, [("1.jpg", [1.5, 0.5, 10, 10], 1)], DetectionRule(min_iou=0.5)) == [[1, 2], [1, 0, 10, 10]]


GOOD = {"file_name": "1.jpg", "bbox": BOX, "score": 1}


@pytest.mark.parametrize("content, message", [
    ([GOOD, {**GOOD, "bbox": [1, 2, 3]}], "entry 1: expected bbox"),
    ([GOOD, {**GOOD, "bbox": "none"}], "entry 1: expected bbox"),
    ([{**GOOD, "bbox": [0, 0, -1, 3]}], "entry 0: bbox is [0, 0, -1, 3], score 1"),
    ([{**GOOD, "score": float("nan")}], "score nan"),
    ([{"file_name": "1.jpg", "bbox": BOX}], "KeyError('score')"),
    ([{"bbox": BOX, "score": 1}], "expected a file_name or an image_id, got None"),
    ([{"image_id": 7, "bbox": BOX, "score": 1}], "image_id is the number 7, but the images of this data set have no numbers"),
    ([{"file_name": 7, "bbox": BOX, "score": 1}], "have no numbers"),
    ([{"image_id": True, "bbox": BOX, "score": 1}], "got True"),
    ([{"image_id": 1, "keypoints": []}], "is not a COCO result file"),
    ({"annotations": [GOOD]}, "is not a COCO result file"),
    ([], "has no detection of a person"),
    ([{**GOOD, "category_id": 3}], "has no detection of a person"),
])
def test_wrong_detection_files_are_named(content, message, tmp_path):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        index_detections(path, tmp_path / "database", DetectionRule(min_iou=0.5))
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_database_that_cannot_be_written_is_an_os_error(tmp_path):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([GOOD]))
    with pytest.raises(OSError, match="nowhere/database cannot be written"):
        index_detections(path, tmp_path / "nowhere" / "database", DetectionRule(min_iou=0.5))


@pytest.fixture(name="masked")
def write_masks(tmp_path):
    """An image of 60 x 40 px with two people, 10..19 and 30..44 px across, a speck, and grey that is no foreground."""
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 10:20] = 255
    mask[35, 20] = 255  # touches the first person by a corner only
    mask[5:35, 30:45] = 128
    mask[5:35, 45:60] = 127
    (tmp_path / "masks" / "S1").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks" / "S1" / "1.jpg.png"), mask)
    cv2.imwrite(str(tmp_path / "masks" / "cam.mp4#7.png"), mask)
    (tmp_path / "raw" / "S1").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "raw" / "S1" / "1.jpg"), np.zeros((40, 60, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize("box, columns", [([8, 4, 14, 32], range(10, 20)), ([25, 0, 20, 40], range(30, 45)),
                                          ([45, 0, 15, 40], None), ([19.5, 34.5, 1, 1], [20]),
                                          ([19.6, 5, 9.8, 29], None)])  # between them: 19 ends at 19.5, 30 begins at 29.5
def test_mask_is_the_part_that_fits_the_box(masked, box, columns):
    expected = np.zeros((40, 60), bool)
    if columns is not None:
        rows = slice(35, 36) if columns == [20] else slice(5, 35)
        expected[rows, columns[0]:columns[-1] + 1] = True
    for image, provenance in ((masked / "raw" / "S1" / "1.jpg", {}),
                              (np.zeros((40, 60, 3), np.uint8), {"source": "cam.mp4", "frame": 7})):
        counts = collections.Counter()
        raw = RawExample(image, np.array(box), provenance=provenance)
        mask = add_mask(raw, masked / "masks", masked / "raw", counts).mask
        if columns is None:
            assert mask is None and counts == {"people_without_mask": 1}
        else:
            np.testing.assert_array_equal(mask, expected)
            assert counts == {"people_without_mask": 1, "masks_added": 1}


def test_masks_that_exist_or_are_missing_or_wrong(masked):
    image = np.zeros((40, 60, 3), np.uint8)

    def add(image=image, mask=None, **provenance):
        example = RawExample(image, np.array([10, 5, 10, 30]), mask=mask, provenance=provenance)
        return add_mask(example, masked / "masks", masked / "raw", collections.Counter()).mask

    own = np.ones((40, 60), bool)
    assert add(mask=own, source="cam.mp4", frame=7) is own
    assert add(source="cam.mp4", frame=8) is None and add(frame=7) is None
    with pytest.raises(ValueError, match=r"cam\.mp4#7\.png has 60 x 40 px, its image 60 x 41 px"):
        add(np.zeros((41, 60, 3), np.uint8), source="cam.mp4", frame=7)
    (masked / "masks" / "cam.mp4#9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cam\.mp4#9\.png cannot be decoded"):
        add(source="cam.mp4", frame=9)
    with pytest.raises(ValueError, match="leaves the folder"):
        add(source="../masks/cam.mp4", frame=7)
