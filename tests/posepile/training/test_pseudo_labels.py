import dataclasses

import numpy as np
import pytest

from posepile.data.crops import crop_examples
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import merge_skeletons
from posepile.training.pseudo_labels import make_pseudo_labels, plausible_poses, predict_poses
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared

# neck_arms, left_wrist_arms, right_wrist_arms, pelvis_legs, left_ankle_legs, right_ankle_legs, neck_legs
POSE = np.array([[0, -500, 3000], [-500, -500, 3000], [500, -500, 3000], [0, 0, 3000], [-100, 800, 3000],
                 [100, 800, 3000], [0, -500, 3000]], np.float32)


class _Dataset:
    """As much of a prepared data set as bone lengths need."""

    def __init__(self, skeleton, bone_lengths):
        self.skeleton = skeleton
        self.manifest = {"bone_lengths_mm": {bone: {"mean": mean} for bone, mean in bone_lengths.items()}}


ARMS = _Dataset(small_model.ARMS, {"neck-left_wrist": 500.0, "neck-right_wrist": 500.0})
LEGS = _Dataset(small_model.LEGS, {"neck-pelvis": 500.0})  # nothing is known of the other bones


def _changed(joint, position):
    pose = POSE.copy()
    pose[joint] = position
    return pose


@pytest.mark.parametrize(("pose", "plausible"), [
    (POSE, True),
    (_changed(1, [-1400, -500, 3000]), True),  # 1400 mm: 2.8 times the mean
    (_changed(1, [-1520, -500, 3000]), False),  # 3.04 times
    (_changed(2, [-1520, -500, 3000]), False),
    (_changed(1, [-60, -500, 3000]), True),  # 60 mm: 0.12 times
    (_changed(1, [-40, -500, 3000]), False),  # 0.08 times, off by 460 mm
    (_changed(3, [0, 1100, 3000]), False),  # the spine, 1600 mm
    (_changed(4, [-9000, 800, 3000]), True),  # a bone of unknown length
    (_changed(4, [-100, 800, 299]), False),  # too near to the camera
    (_changed(4, [-100, 800, 301]), True),
    (_changed(0, [np.nan, 0, 3000]), False),
])
def test_plausible_poses_by_hand(pose, plausible):
    result = plausible_poses(np.stack([POSE, pose]), small_model.MERGED, [ARMS, LEGS])
    np.testing.assert_array_equal(result, [True, plausible])


def test_short_bones_may_vary_by_150_mm():
    short = _Dataset(small_model.ARMS, {"neck-left_wrist": 40.0})
    poses = np.stack([_changed(1, [-x, -500, 3000]) for x in (189, 191)])
    np.testing.assert_array_equal(plausible_poses(poses, small_model.MERGED, [short]), [True, False])


def test_formats_of_a_merged_data_set_are_looked_up_one_by_one():
    merged = _Dataset(merge_skeletons([small_model.ARMS, small_model.LEGS]), {"neck-pelvis": 500.0})
    poses = np.stack([POSE, _changed(3, [0, 1100, 3000])])
    np.testing.assert_array_equal(plausible_poses(poses, small_model.MERGED, [merged]), [True, False])


class _Predictor:
    """Predicts POSE moved back by 10 mm per unit of the crop's mean colour, and remembers the intrinsics."""

    skeleton = small_model.MERGED

    class model:
        crop_side = 32

    def predict_crops(self, image, intrinsics):
        self.intrinsics = intrinsics
        return np.float32(POSE + np.array([0, 0, 10]) * image.mean(axis=(1, 2, 3))[:, None, None])


def test_predicts_the_evaluation_crops(batch_plan):
    dataset = batch_plan.datasets_3d[0][0]
    poses = predict_poses(predictor := _Predictor(), dataset, "train", np.array([3, 8]))
    expected = crop_examples(dataset, "train", [3, 8], 32)
    np.testing.assert_array_equal(predictor.intrinsics, expected["intrinsics"])
    np.testing.assert_allclose(poses[:, 0, 2], 3000 + 10 * expected["image"].mean(axis=(1, 2, 3)), rtol=1e-6)


def test_records_that_cannot_be_used_may_be_left_out(batch_plan, tmp_path):
    rng = np.random.default_rng(0)
    examples = [dotted_example(rng, small_model.ARMS, "3d") for _ in range(5)]
    for position in (1, 3):
        examples[position] = dataclasses.replace(examples[position], image=b"nothing")
    dataset = write_prepared(tmp_path, "broken", small_model.ARMS, examples, "3d")
    with pytest.raises(CorruptRecordError, match=r"at byte .*cannot be decoded"):
        predict_poses(_Predictor(), dataset, "train", np.arange(5))
    poses = predict_poses(_Predictor(), dataset, "train", np.arange(5), skip_bad=True)
    np.testing.assert_array_equal(poses[[0, 2, 4]], predict_poses(_Predictor(), dataset, "train", np.array([0, 2, 4])))
    assert np.isnan(poses[[1, 3]]).all()
    assert np.isnan(predict_poses(_Predictor(), dataset, "train", np.array([1, 3]), skip_bad=True)).all()
    assert len(make_pseudo_labels(_Predictor(), [dataset], [dataset], 5, tmp_path / "labels.npz", skip_bad=True)) == 3


def test_implausible_pseudo_labels_are_left_out(batch_plan, tmp_path, monkeypatch):
    datasets = [dataset for dataset, _ in batch_plan.datasets_3d]
    original = _Predictor.predict_crops

    def spoil_every_third(self, image, intrinsics):
        poses = original(self, image, intrinsics)
        poses[::3, 0, 2] = 100
        return poses

    monkeypatch.setattr(_Predictor, "predict_crops", spoil_every_third)
    poses = make_pseudo_labels(_Predictor(), datasets, datasets, 6, tmp_path / "labels.npz")
    assert poses.shape == (8, 7, 3)  # 6 evenly spread images of either data set, less 2 each
    with np.load(tmp_path / "labels.npz") as file:
        np.testing.assert_array_equal(file["joints3d"], poses)
        assert file["joint_names"].tolist() == list(small_model.MERGED.joint_names)
        assert file["num_left_out"] == 4
    monkeypatch.setattr(_Predictor, "predict_crops", lambda *args: original(*args) - 1e5)
    with pytest.raises(ValueError, match="none of the 12 predicted poses has plausible bone lengths"):
        make_pseudo_labels(_Predictor(), datasets, datasets, 6, tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()
