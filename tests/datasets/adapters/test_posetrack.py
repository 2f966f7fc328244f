"""The PoseTrack adapter on a tiny hand-made folder and on the real sample."""

import collections
import json
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import posetrack
from datasets.cropping import load_image
from datasets.detector_results import assign_detections, index_detections, open_detections

ADAPTER = posetrack.ADAPTER


def keypoints(dx=0.0, flag=1):
    """Joint i at (100 + 10 i + dx, 50 + 10 i); the ears, joints 3 and 4, never labelled."""
    return [n for i in range(17) for n in ((0, 0, 0) if i in (3, 4) else (100 + 10 * i + dx, 50 + 10 * i, flag))]


def annotation(frame, track=0, **changes):
    return {"id": 100 * track + frame, "image_id": frame, "track_id": track, "category_id": 1, "keypoints": keypoints(),
            "bbox": [90, 40, 190, 190], "bbox_head": [100, 50, 30, 40], "scores": [], **changes}  # diagonal 50 px


def write_video(raw_dir, annotations, split="train", num_frames=4, root="posetrack_data/annotations", names=None):
    path = raw_dir / root / split / "000001_mpii.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "frame_id": i, "vid_id": "000001", "file_name": f"images/{split}/000001_mpii/{i:06d}.jpg",
               "is_labeled": True, "ignore_regions_x": [], "ignore_regions_y": []} for i in range(num_frames)]
    category = {"id": 1, "name": "person", "keypoints": names or list(posetrack.SKELETON.joint_names)}
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    for image in images:
        (raw_dir / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(raw_dir / image["file_name"]), np.full((300, 400, 3), 99, np.uint8))


def load_all(raw_dir, split="train"):
    items = [e for unit in ADAPTER.list_units(raw_dir, split) for e in ADAPTER.load_unit(raw_dir, unit)]
    for item in items:
        if isinstance(item, ValueError):
            raise item
    return items


def test_one_person_by_hand(tmp_path):
    marked = keypoints()
    marked[2] = 0  # the nose
    marked[5] = 2  # head_bottom: only flag 1 counts
    write_video(tmp_path, [annotation(0, track=5, keypoints=marked)])
    (example,) = load_all(tmp_path)
    assert example.image == tmp_path / "images" / "train" / "000001_mpii" / "000000.jpg"
    assert np.isnan(example.joints2d[[0, 1, 3, 4]]).all()
    np.testing.assert_array_equal(example.joints2d[[2, 16]], [[120, 70], [260, 210]])
    np.testing.assert_array_equal(example.bbox, [90, 40, 190, 190])
    assert example.provenance == {"source": "images/train/000001_mpii/000000.jpg", "sequence": "000001_mpii",
                                  "frame": 0, "subject": 5, "annotation": 500}
    assert ADAPTER.label_kind(tmp_path) == "2d" and ADAPTER.label_skeleton(tmp_path) == "posetrack_17"


@pytest.mark.parametrize("root", ["posetrack_data/annotations", "annotations"])
def test_both_layouts_and_splits(tmp_path, root):
    write_video(tmp_path, [annotation(0)], root=root)
    write_video(tmp_path, [annotation(1)], split="val", root=root)
    write_video(tmp_path, [annotation(2)], split="test", root=root)
    (tmp_path / root / "preds_val").mkdir()
    assert ADAPTER.list_units(tmp_path, "train") == [f"{root}/train/000001_mpii.json"]
    assert [e.provenance["frame"] for e in load_all(tmp_path, "validation")] == [1]
    assert load_all(tmp_path, "test") == []


def test_training_frames_without_movement_are_left_out(tmp_path):
    moved = keypoints()
    moved[48] += 25  # one ankle by half of the head's diagonal
    write_video(tmp_path, [annotation(0), annotation(1, keypoints=keypoints(24.9)), annotation(2, keypoints=moved),
                           annotation(3, keypoints=moved), annotation(1, track=1)])
    assert [(e.provenance["subject"], e.provenance["frame"]) for e in load_all(tmp_path)] == [(0, 0), (1, 1), (0, 2)]


def test_validation_frames_and_unknown_tracks_all_stay(tmp_path):
    write_video(tmp_path, [annotation(i) for i in range(4)], split="val")
    assert len(load_all(tmp_path, "validation")) == 4
    write_video(tmp_path, [annotation(i, track_id=None) for i in range(4)])
    assert len(load_all(tmp_path)) == 4


def test_people_without_box_or_with_few_limb_joints_are_skipped(tmp_path):
    few = keypoints()
    for i in range(5, 11):
        few[3 * i + 2] = 0  # leaves the six joints of the legs
    without_box = annotation(0, track=1)
    del without_box["bbox"]
    write_video(tmp_path, [without_box, annotation(0, track=2, bbox=[]), annotation(0, track=3, keypoints=few),
                           annotation(0, track=4)])
    assert [e.provenance["subject"] for e in load_all(tmp_path)] == [4]


def test_people_of_an_image_follow_one_another_for_a_detector(tmp_path):
    beside = keypoints(150)
    write_video(tmp_path, [annotation(1, track=7), annotation(0, track=7, keypoints=keypoints(40)),
                           annotation(0, track=8, keypoints=beside, bbox=[240, 40, 150, 190]),
                           annotation(1, track=9, keypoints=beside)])
    items = load_all(tmp_path)
    assert [(e.provenance["frame"], e.provenance["subject"]) for e in items] == [(0, 7), (0, 8), (1, 7), (1, 9)]
    # In the numbered image both people overlap with both detections.
    (tmp_path / "boxes.json").write_text(json.dumps([
        {"image_id": 0, "bbox": [230.5, 40.5, 150, 190], "score": 0.4},
        {"image_id": 0, "bbox": [80.5, 40.5, 190, 190], "score": 0.01}]))
    index_detections(tmp_path / "boxes.json", tmp_path / "database", ADAPTER.detection_rule)
    counts = collections.Counter()
    with open_detections(tmp_path / "database", tmp_path, ADAPTER.detection_rule) as find:
        matched = list(assign_detections(items, tmp_path, ADAPTER.detection_rule, find, counts))
    assert [e.bbox[0] for e in matched] == [80, 230, 90, 90]  # without detection people keep their boxes
    assert counts["images"] == 2


def test_joints_in_another_order(tmp_path):
    write_video(tmp_path, [annotation(0)], names=list(reversed(posetrack.SKELETON.joint_names)))
    (example,) = load_all(tmp_path)
    np.testing.assert_array_equal(example.joints2d[0], [260, 210])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has a folder train or val.*https://posetrack\.net"):
        load_all(tmp_path)
    write_video(tmp_path, [annotation(0)])
    (tmp_path / "images" / "train" / "000001_mpii" / "000000.jpg").unlink()
    with pytest.raises(ValueError, match=r"000001_mpii\.json lists the image .*000000\.jpg, which is missing"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "posetrack"


def test_real_sample(real_samples):
    examples = load_all(real_samples / "posetrack18", "validation")
    assert [(e.provenance["sequence"], e.provenance["subject"]) for e in examples] == [
        ("003418_mpii_test", 0), ("009473_mpii_test", 0), ("009473_mpii_test", 1)]
    for example in examples:
        height, width = load_image(example.image).shape[:2]
        labelled = example.joints2d[np.isfinite(example.joints2d).all(axis=1)]
        assert len(labelled) >= 11
        assert (labelled >= 0).all() and (labelled <= [width - 1, height - 1]).all()
        x, y, box_width, box_height = example.bbox
        assert ((labelled >= [x, y]) & (labelled <= [x + box_width, y + box_height])).all()
        assert np.isnan(example.joints2d[3:5]).all()  # ears
