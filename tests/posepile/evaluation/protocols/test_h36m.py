"""Human3.6M: flat means, the mean of the activities, and joints in the file's own order."""

import numpy as np
import pytest

from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import h36m
from posepile.geometry.skeleton import load_skeleton

JOINTS = h36m.JOINTS


def poses_off_by(distances):
    """All joints but the pelvis off by the pose's distance, mm."""
    true = np.random.default_rng(0).normal(0, 300, (len(distances), 17, 3)) + np.array([0, 0, 4000])
    pred = true.copy()
    pred[:, 1:, 2] += np.array(distances, float)[:, None]
    return pred, true


def test_joints_are_those_of_the_format():
    assert load_skeleton("h36m_17").joint_names == JOINTS


def test_uneven_activities_by_hand():
    pred, true = poses_off_by([17, 17, 17, 170])
    activity = np.array(["Walking", "Walking", "Walking", "Sitting"])
    record = h36m.score(Poses("P", pred), Poses("A", true, activity=activity))
    assert record["metrics"]["mpjpe"] == pytest.approx(16 * (3 * 17 + 170) / (4 * 17))  # pooled: 52
    assert record["per_activity"]["Walking"]["mpjpe"] == pytest.approx(16)
    assert record["per_activity"]["Sitting"]["mpjpe"] == pytest.approx(160)
    assert record["mean_of_activities"]["metrics"]["mpjpe"] == pytest.approx(88)
    assert record["mean_of_activities"]["metrics"]["pck150"] == pytest.approx((100 + 100 / 17) / 2)
    assert record["mean_of_activities"]["stamp"]["averaging"].endswith("then the mean of the activities")
    assert "mean_of_activities" not in h36m.score(Poses("P", pred), Poses("A", true))
    assert record["stamp"]["root"] == "pelvis" and record["stamp"]["num_joints"] == 17


def test_an_activity_in_which_nothing_counts_has_no_part_in_the_mean():
    pred, true = poses_off_by([17, 34, 170])
    validity = np.repeat([[True], [True], [False]], 17, axis=1)
    record = h36m.score(Poses("P", pred), Poses("A", true, validity=validity, activity=np.array(["a", "b", "c"])))
    assert record["mean_of_activities"]["metrics"] == {**record["mean_of_activities"]["metrics"],
                                                       "mpjpe": pytest.approx(24), "num_poses": 2}


def test_joints_in_another_order_and_more_of_them():
    pred, true = poses_off_by([10, 20])
    pred[:, 5] += 100
    expected = h36m.score(Poses("P", pred), Poses("A", true))
    order = np.random.default_rng(1).permutation(17)
    names = tuple(JOINTS[j] for j in order)
    extra = np.full((2, 1, 3), 7.0)
    shuffled = Poses("P", np.concatenate([pred[:, order], extra], axis=1), joint_names=(*names, "left_thumb"))
    for true_poses in (Poses("A", true, joint_names=JOINTS), Poses("A", true[:, order], joint_names=names),
                       Poses("A", true[:, order], joint_names=names, root=names.index("pelvis"))):
        record = h36m.score(shuffled, true_poses)
        assert record["metrics"] == pytest.approx(expected["metrics"])
        assert record["per_joint"]["left_knee"]["mpjpe"] == pytest.approx(expected["per_joint"]["left_knee"]["mpjpe"])


def test_pelvis_last_without_names():
    pred, true = poses_off_by([10, 20])
    last = [*range(1, 17), 0]
    record = h36m.score(Poses("P", pred[:, last]), Poses("A", true[:, last], root=16))
    assert record["metrics"] == pytest.approx(h36m.score(Poses("P", pred), Poses("A", true))["metrics"])
    assert record["stamp"]["root"] == "16"  # which joint that is, is not known
    wrong = h36m.score(Poses("P", pred[:, last]), Poses("A", true[:, last]))
    assert wrong["metrics"]["mpjpe"] != pytest.approx(record["metrics"]["mpjpe"])


def test_bad_pairs():
    pred, true = poses_off_by([10, 20])
    mirror = [JOINTS.index(name.replace("left", "x").replace("right", "left").replace("x", "right")) for name in JOINTS]
    with pytest.raises(ValueError, match=r"P: left and right seem to be swapped: the mean error is \d+ mm"):
        h36m.score(Poses("P", pred[:, mirror]), Poses("A", true))
    with pytest.raises(ValueError, match=r"P: joints3d has 16 joints; the protocol takes 17, in the order pelvis"):
        h36m.score(Poses("P", pred[:, :16]), Poses("A", true))
    with pytest.raises(ValueError, match="P: joint_names lacks pelvis"):
        h36m.score(Poses("P", pred, joint_names=("hip", *JOINTS[1:])), Poses("A", true, joint_names=JOINTS))
    with pytest.raises(ValueError, match="A: root is 17, left_thumb, which the protocol does not score"):
        h36m.score(Poses("P", pred), Poses("A", np.pad(true, ((0, 0), (0, 1), (0, 0))), joint_names=(*JOINTS, "left_thumb"),
                                           root=17))
