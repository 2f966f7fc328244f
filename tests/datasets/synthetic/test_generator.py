import dataclasses
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters.synthetic import ADAPTERS
from datasets.prepare import prepare
from datasets.synthetic import generator
from datasets.synthetic.__main__ import main
from posepile.data.records import PreparedDataset, decode_mask, parse_example, serialize_example
from posepile.geometry.camera import project
from posepile.geometry.skeleton import skeleton_from_dict


def _payload(arguments):
    return serialize_example(generator.make_example(*arguments))


def test_examples_do_not_depend_on_order_or_process():
    keys = [("synthetic_gym", "train", 41), ("synthetic_photos", "train", 3), ("synthetic_gym", "train", 40)]
    forward = [_payload(key) for key in keys]
    generator.load_subject.cache_clear()
    backward = [_payload(key) for key in reversed(keys)][::-1]
    assert forward == backward and forward[0] != forward[2]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_payload, keys) == forward


def test_units_cover_each_split_once_and_yield_what_the_index_says():
    for name, adapter in ADAPTERS.items():
        for split, total in {"train": 0, "validation": 0, "test": 0, **generator.DATASETS[name].num_examples}.items():
            units = adapter.list_units(None, split)
            indices = [i for unit in units for i in range(unit["start"], unit["start"] + unit["count"])]
            assert indices == list(range(total))
    adapter = pickle.loads(pickle.dumps(ADAPTERS["synthetic_street"]))
    examples = list(adapter.load_unit(None, {"split": "train", "start": 5, "count": 3}))
    assert [serialize_example(e) for e in examples] == [_payload(("synthetic_street", "train", i)) for i in (5, 6, 7)]


def test_folder_prepared_before_there_was_a_validation_split_stays_as_it_is(tmp_path):
    adapter = ADAPTERS["synthetic_street"]
    former = dataclasses.replace(
        adapter, list_units=lambda raw_dir, split: adapter.list_units(raw_dir, split) if split == "train" else []
    )
    before = prepare(former, None, tmp_path, limit=2, workers=1, progress=False)
    assert prepare(adapter, None, tmp_path, limit=2, workers=1, progress=False) == before
    assert PreparedDataset(tmp_path / adapter.name).splits() == ["train"]
    after = prepare(adapter, None, tmp_path, limit=2, workers=1, progress=False, overwrite=True)
    assert list(after["splits"]) == ["train", "validation"]
    del after["splits"]["validation"]
    assert after == before  # bone lengths are those of the training poses


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_records_are_complete_and_consistent(name):
    adapter = ADAPTERS[name]
    split = "test" if name == "synthetic_test" else "train"
    skeleton = skeleton_from_dict(adapter.label_skeleton(None))
    example = parse_example(_payload((name, split, 27)), skeleton.num_joints, name)
    image = example.decode_image()
    assert image.shape == (generator.IMAGE_SIDE, generator.IMAGE_SIDE, 3)
    mask = decode_mask(example.mask_rle, *image.shape[:2])
    assert mask.sum() > 200
    joints2d = example.joints2d if adapter.kind == "2d" else project(example.joints3d, example.intrinsics)
    assert (example.joints3d is None) == (adapter.kind == "2d") and (example.joints2d is None) == (
        adapter.kind == "3d"
    )
    pixels = np.round(joints2d).astype(int)
    assert cv2.dilate(np.uint8(mask), np.ones((3, 3)))[pixels[:, 1], pixels[:, 0]].mean() > 0.9
    # JPEG keeps the picture: as rendered, up to compression.
    rendered = generator.render_example(name, split, 27).image
    assert np.abs(image.astype(int) - rendered).mean() < 4
    assert example.provenance["frame"] == 7 and example.provenance["subject"] == f"{split}001"


def test_bone_lengths_are_constant_over_the_frames_of_a_subject_and_differ_between_subjects():
    skeleton = skeleton_from_dict("smpl_24")
    rigid = [
        (skeleton.index(a), skeleton.index(b))
        for a, b in (
            ("left_elbow", "left_wrist"),
            ("right_hip", "left_hip"),
            ("spine2", "neck"),
            ("right_collar", "right_shoulder"),
        )
    ]

    def lengths(index):
        joints = generator.render_example("synthetic_studio", "train", index).joints3d(skeleton)
        return [np.linalg.norm(joints[a] - joints[b]) for a, b in rigid]

    first, second = (
        np.array([lengths(subject * generator.FRAMES_PER_SUBJECT + i) for i in range(4)]) for subject in (2, 3)
    )
    assert np.ptp(first, axis=0).max() < 0.1 and np.ptp(second, axis=0).max() < 0.1
    assert np.abs(first[0] - second[0]).max() > 3


def test_data_sets_and_splits_share_no_subject():
    shapes = {
        (name, split): generator.load_subject(name, split, 0).shape.height_mm
        for name in generator.DATASETS
        for split in ("train", "validation", "test")
    }
    assert len(set(shapes.values())) == len(shapes)


def test_mean_pose_is_a_bad_prediction():
    """The mean training pose must be off by 200 mm or more on the test split, else the demo would be too easy."""
    skeleton = skeleton_from_dict("h36m_17")

    def poses(name, split, count):
        joints = np.stack(
            [generator.render_example(name, split, i * 7 % 600, 32).joints3d(skeleton) for i in range(count)]
        )
        return joints - joints[:, skeleton.root : skeleton.root + 1]

    mean = poses("synthetic_street", "train", 120).mean(axis=0)
    assert np.linalg.norm(poses("synthetic_test", "test", 120) - mean, axis=-1).mean() > 200


def test_contact_sheet_command(tmp_path, capsys):
    assert main([str(tmp_path / "sheet.png"), "--columns=2", "--picture-side=64"]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 6 * 50 and sheet.std() > 20
    with pytest.raises(SystemExit):
        main([str(tmp_path / "sheet.png"), "--columns=0"])
    assert "whole number from 1 to 25" in capsys.readouterr().err
