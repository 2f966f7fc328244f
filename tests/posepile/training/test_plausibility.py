import numpy as np
import pytest

from posepile.geometry.skeleton import merge_skeletons
from posepile.training.plausibility import BONE_LENGTH, NOT_FINITE, PLAUSIBLE, TOO_NEAR, judge_poses, known_bones
from tests.posepile import small_model

# neck_arms, left_wrist_arms, right_wrist_arms, pelvis_legs, left_ankle_legs, right_ankle_legs, neck_legs
POSE = np.array([[0, -500, 3000], [-500, -500, 3000], [500, -500, 3000], [0, 0, 3000], [-100, 800, 3000],
                 [100, 800, 3000], [0, -500, 3000]], np.float32)


class Dataset:
    """As much of a prepared data set as bone lengths need."""

    def __init__(self, name, skeleton, bone_lengths):
        self.name, self.skeleton = name, skeleton
        self.manifest = {"bone_lengths_mm": {bone: {"mean": mean} for bone, mean in bone_lengths.items()}}


ARMS = Dataset("indoors", small_model.ARMS, {"neck-left_wrist": 500.0, "neck-right_wrist": 500.0})
LEGS = Dataset("outdoors", small_model.LEGS, {"neck-pelvis": 500.0})  # nothing is known of the other bones


def changed(joint, position):
    pose = POSE.copy()
    pose[joint] = position
    return pose


@pytest.mark.parametrize(("pose", "expected"), [
    (POSE, PLAUSIBLE),
    (changed(1, [-1400, -500, 3000]), PLAUSIBLE),  # 1400 mm: 2.8 times the mean
    (changed(1, [-1520, -500, 3000]), BONE_LENGTH),  # 3.04 times
    (changed(2, [-1520, -500, 3000]), BONE_LENGTH),
    (changed(1, [-60, -500, 3000]), PLAUSIBLE),  # 60 mm: 0.12 times
    (changed(1, [-40, -500, 3000]), BONE_LENGTH),  # 0.08 times, off by 460 mm
    (changed(3, [0, 1100, 3000]), BONE_LENGTH),  # the spine, 1600 mm
    (changed(4, [-9000, 800, 3000]), PLAUSIBLE),  # a bone of unknown length
    (changed(4, [-100, 800, 299]), TOO_NEAR),
    (changed(4, [-100, 800, 301]), PLAUSIBLE),
    (changed(1, [-9000, -500, 299]), TOO_NEAR),  # the arm is too long, too
    (changed(0, [np.nan, 0, 3000]), NOT_FINITE),
])
def test_judged_by_hand(pose, expected):
    outcome, _ = judge_poses(np.stack([POSE, pose]), known_bones(small_model.MERGED, [ARMS, LEGS]))
    np.testing.assert_array_equal(outcome, [PLAUSIBLE, expected])


def test_bones_are_told_apart():
    bones = known_bones(small_model.MERGED, [ARMS, LEGS])
    assert len(bones.names) == 3
    assert [name.split()[0] for name in bones.names] == ["neck-left_wrist", "neck-right_wrist", "neck-pelvis"]
    assert bones.names[2] == "neck-pelvis of legs, 500 mm on average in outdoors"
    _, implausible = judge_poses(np.stack([POSE, changed(3, [0, 1100, 3000]), changed(0, [3000, -500, 3000])]), bones)
    np.testing.assert_array_equal(implausible, [[False] * 3, [False, False, True], [True, True, False]])


def test_short_bones_may_vary_by_150_mm():
    short = Dataset("hands", small_model.ARMS, {"neck-left_wrist": 40.0})
    poses = np.stack([changed(1, [-x, -500, 3000]) for x in (189, 191)])
    outcome, _ = judge_poses(poses, known_bones(small_model.MERGED, [short]))
    np.testing.assert_array_equal(outcome, [PLAUSIBLE, BONE_LENGTH])


def test_formats_of_a_merged_data_set_are_looked_up_one_by_one():
    merged = Dataset("both", merge_skeletons([small_model.ARMS, small_model.LEGS]), {"neck-pelvis": 500.0})
    outcome, _ = judge_poses(np.stack([POSE, changed(3, [0, 1100, 3000])]), known_bones(small_model.MERGED, [merged]))
    np.testing.assert_array_equal(outcome, [PLAUSIBLE, BONE_LENGTH])


def test_without_known_bones_only_the_depth_counts():
    outcome, implausible = judge_poses(np.stack([POSE, changed(1, [-9000, 0, 100])]), known_bones(small_model.MERGED, []))
    np.testing.assert_array_equal(outcome, [PLAUSIBLE, TOO_NEAR])
    assert implausible.shape == (2, 0)
