"""3DPW: the challenge's inclusive thresholds and areas, the normalised correct pose score, and the test split."""

import numpy as np
import pytest

from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import threedpw

MAJOR = [name for name in threedpw.JOINTS if name.partition("_")[2] in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")]


def truth(num_poses):
    """Whole millimetres, so that distances of whole ones are exact."""
    return np.random.default_rng(0).normal(0, 300, (num_poses, 24, 3)).round() + np.array([0, 0, 4000])


def off_by(true, **distances):
    pred = true.copy()
    for joint, distance in distances.items():
        pred[:, threedpw.JOINTS.index(joint), 1] += distance
    return pred


def test_joint_sets():
    assert [threedpw.JOINTS[j] for j in threedpw.MAJOR_JOINTS] == MAJOR and len(MAJOR) == 12
    assert set(threedpw.JOINTS_14) == {*threedpw.MAJOR_JOINTS, threedpw.JOINTS.index("neck"), threedpw.JOINTS.index("head")}


def test_challenge_by_hand():
    """50 mm are inside, 51 are not; hands and feet do not count for PCK."""
    true = truth(2)
    record = threedpw.score(Poses("P", off_by(true, left_knee=50, right_wrist=51, left_hand=300)), Poses("A", true))
    challenge = record["challenge"]["metrics"]
    assert challenge["pck50"] == pytest.approx(100 * 11 / 12) and challenge["mpjpe"] == pytest.approx(401 / 24)
    assert challenge["pa_mpjpe"] == record["metrics"]["pa_mpjpe"]
    assert record["metrics"]["pck50"] == pytest.approx(100 * 21 / 24)  # strict, of all 24
    assert record["challenge"]["stamp"]["threshold"] == "inclusive"
    assert record["joints14"]["metrics"]["pck50"] == pytest.approx(100 * 12 / 14)
    assert record["joints14"]["metrics"]["mpjpe"] == pytest.approx(101 / 14)


@pytest.mark.parametrize("distance", [0, 0.3, 1, 1.5, 50, 198, 198.5, 199, 199.01, 5000])
def test_area_is_that_under_the_joined_curve(distance):
    true = truth(2)
    pred = off_by(true, left_knee=distance)
    curve = [100 * np.mean([True] * 11 + [distance <= t]) for t in range(200)]
    area = threedpw.score(Poses("P", pred), Poses("A", true))["challenge"]["metrics"]["auc"]
    assert area == pytest.approx(np.trapezoid(curve) / 199)


def test_area_of_many_distances_and_nan():
    true = truth(30)
    pred = true + np.random.default_rng(1).normal(0, 60, true.shape)
    pred[3, 4] = np.nan
    distances = np.linalg.norm(pred - pred[:, :1] - (true - true[:, :1]), axis=-1)[:, list(threedpw.MAJOR_JOINTS)]
    curve = [100 * np.mean(distances <= t) for t in range(200)]  # nan is not
    challenge = threedpw.score(Poses("P", pred), Poses("A", true))["challenge"]["metrics"]
    assert challenge["auc"] == pytest.approx(np.trapezoid(curve) / 199)
    assert challenge["pck50"] == pytest.approx(curve[50]) and np.isnan(challenge["mpjpe"]) and np.isnan(challenge["pa_mpjpe"])


def test_worst_major_joint_after_alignment():
    true = truth(20)
    pred = 1.2 * true + np.random.default_rng(2).normal(0, 40, true.shape)
    pred[0, 22:] += 4000  # hands do not count, but the alignment is fitted on all
    pred[1, 7] = np.inf
    worst = []
    for p, g in zip(pred, true, strict=True):
        distance = np.linalg.norm(metrics.procrustes_align(p, g) - g, axis=-1)
        worst.append(max((distance[j] for j in threedpw.MAJOR_JOINTS), key=lambda d: np.inf if np.isnan(d) else d))
    worst = np.nan_to_num(worst, nan=np.inf)
    ncps = threedpw.score(Poses("P", pred), Poses("A", true))["ncps"]["metrics"]
    assert ncps == pytest.approx({**{f"ncps{t}": 100 * np.mean(worst <= t) for t in (50, 75, 100, 125, 150)},
                                  "ncps_auc300": 100 * np.mean(np.maximum(0, 1 - worst / 300)), "num_poses": 20})
    assert 0 < ncps["ncps100"] < 95


def test_poses_without_a_major_joint_have_no_part_in_what_is_of_these():
    true = truth(2)
    validity = np.ones((2, 24), bool)
    validity[1, list(threedpw.MAJOR_JOINTS)] = False
    rootless = validity.copy()
    rootless[0, threedpw.ROOT] = False  # of no importance for what is aligned
    record = threedpw.score(Poses("P", true), Poses("A", true, validity=rootless))
    assert record["ncps"]["metrics"]["num_poses"] == 1 and np.isnan(record["challenge"]["metrics"]["pck50"])
    record = threedpw.score(Poses("P", off_by(true, left_knee=100, neck=300)), Poses("A", true, validity=validity))
    assert record["ncps"]["metrics"]["num_poses"] == 1 and record["challenge"]["metrics"]["num_poses"] == 2
    assert record["challenge"]["metrics"]["pck50"] == pytest.approx(100 * 11 / 12)
    assert record["challenge"]["metrics"]["mpjpe"] == pytest.approx((100 + 2 * 300) / 36)


def test_split_of_the_poses():
    true = truth(4)
    pred = off_by(true, left_knee=24)
    pred[2:, 5, 0] += 240
    record = threedpw.score(Poses("P", pred), Poses("A", true, split=np.array(["train", "validation", "test", "test"])))
    assert record["metrics"]["mpjpe"] == pytest.approx((1 + 1 + 11 + 11) / 4)
    assert record["test_split"]["metrics"]["mpjpe"] == pytest.approx(11) and record["test_split"]["metrics"]["num_poses"] == 2
    assert record["test_split"]["stamp"]["data"] == "test split"
    assert "test_split" not in threedpw.score(Poses("P", pred), Poses("A", true, split=np.array(["train"] * 4)))


def test_bad_pairs():
    true = truth(4)
    mirrored = [threedpw.JOINTS.index(name.replace("left", "x").replace("right", "left").replace("x", "right"))
                for name in threedpw.JOINTS]
    with pytest.raises(ValueError, match=r"P: left and right seem to be swapped"):
        threedpw.score(Poses("P", true[:, mirrored]), Poses("A", true))
    with pytest.raises(ValueError, match=r"A: joints3d has 17 joints; the protocol takes 24"):
        threedpw.score(Poses("P", true), Poses("A", true[:, :17]))
