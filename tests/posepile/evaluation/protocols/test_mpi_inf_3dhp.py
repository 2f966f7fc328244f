"""MPI-INF-3DHP: which joints count for what, thresholds, scenes, and the two kinds of annotations."""

import numpy as np
import pytest

from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import mpi_inf_3dhp
from posepile.evaluation.table import format_metrics
from posepile.geometry.skeleton import load_skeleton

ROOT, WRIST, ANKLE, SPINE = 14, 4, 13, 15


def truth(num_poses):
    """Whole millimetres, so that distances of whole ones are exact."""
    return np.random.default_rng(0).normal(0, 300, (num_poses, 17, 3)).round() + np.array([0, 0, 4000])


def off_by(true, **distances):
    pred = true.copy()
    for joint, distance in distances.items():
        pred[:, mpi_inf_3dhp.JOINTS.index(joint), 1] += distance
    return pred


def literal_official(pred, true, joints=range(14)):
    """PCK@150 and AUC by loops over poses, joints and thresholds; MPJPE of all 17."""
    distances = [[np.linalg.norm((p[j] - p[ROOT]) - (g[j] - g[ROOT])) for j in range(17)]
                 for p, g in zip(pred, true, strict=True)]
    pck = [100 * np.mean([d[j] < t for d in distances for j in joints]) for t in range(0, 151, 5)]
    return {"pck150": pck[-1], "auc31": np.mean(pck), "mpjpe": np.mean(distances)}


def test_joints_are_those_of_the_format():
    assert load_skeleton("mpi_inf_3dhp_17").joint_names == mpi_inf_3dhp.JOINTS
    assert mpi_inf_3dhp.JOINTS[ROOT] == "pelvis" and mpi_inf_3dhp.JOINTS[14:] == ("pelvis", "spine", "head")


def test_official_numbers_by_hand():
    """A wrist is off by 150 mm, which is not below 150; a knee by 149; the spine, which is not among the 14, by 400."""
    true = truth(3)
    record = mpi_inf_3dhp.score(Poses("P", off_by(true, left_wrist=150, right_knee=149, spine=400)), Poses("A", true))
    official = record["official_metric"]
    assert official["metrics"] == pytest.approx({
        "pck150": 100 * 13 / 14, "auc31": 100 * (12 * 30 + 1) / (14 * 31), "mpjpe": (150 + 149 + 400) / 17, "num_poses": 3})
    assert record["metrics"]["pck150"] == pytest.approx(100 * 15 / 17)  # flat: of all 17
    assert official["stamp"]["pck_joints"].startswith("head_top, neck, right_shoulder") and len(
        official["stamp"]["pck_joints"].split(", ")) == 14
    assert official["stamp"]["annotation"] == "metric (annot3)" and official["stamp"]["root"] == "pelvis"
    assert "official_universal" not in record and "outdoor" not in record and "per_scene" not in official


@pytest.mark.parametrize("distance", [0, 4, 5, 6, 75, 145, 146, 150, 151, 1000])
def test_area_at_its_thresholds(distance):
    true = truth(2)
    pred = off_by(true, left_wrist=distance)
    official = mpi_inf_3dhp.score(Poses("P", pred), Poses("A", true))["official_metric"]["metrics"]
    assert official["auc31"] == pytest.approx(100 * (13 * 30 + sum(distance < t for t in range(0, 151, 5))) / (14 * 31))
    assert official["auc31"] == pytest.approx(literal_official(pred, true)["auc31"])
    # the closed form of the benchmark's description
    assert official["auc31"] == pytest.approx(100 * (13 * 30 / 31 + max(0, 1 - (distance // 5 + 1) / 31)) / 14)


def test_scenes_and_activities_pool_their_poses():
    true = truth(40)
    rng = np.random.default_rng(1)
    pred = true + rng.normal(0, 90, true.shape)
    sequence, activity = np.array([f"TS{i}" for i in rng.integers(1, 7, 40)]), rng.integers(1, 8, 40)
    universal = true * 1.15
    record = mpi_inf_3dhp.score(Poses("P", pred), Poses("A", true, sequence=sequence, activity=activity,
                                                        joints3d_universal=universal))
    for name, target in (("official_metric", true), ("official_universal", universal)):
        part = record[name]
        assert part["metrics"] == pytest.approx({**literal_official(pred, target), "num_poses": 40})
        for scene, names in {"green screen": ("TS1", "TS2"), "no green screen": ("TS3", "TS4"),
                             "outdoor": ("TS5", "TS6")}.items():
            poses = np.isin(sequence, names)
            assert part["per_scene"][scene] == pytest.approx({**literal_official(pred[poses], target[poses]),
                                                              "num_poses": poses.sum()})
        for label in range(1, 8):
            poses = activity == label
            assert part["per_activity"][str(label)] == pytest.approx({**literal_official(pred[poses], target[poses]),
                                                                      "num_poses": poses.sum()})
        assert part["stamp"]["averaging"] == "all joints of all poses"
    assert record["official_universal"]["stamp"]["annotation"].startswith("universal")
    outdoor = np.isin(sequence, ("TS5", "TS6"))
    expected = metrics.compute_metrics(pred[outdoor], true[outdoor], root=ROOT)
    assert record["outdoor"]["metrics"] == pytest.approx({name: expected[name] for name in record["outdoor"]["metrics"]})
    assert record["outdoor"]["stamp"]["data"] == "TS5 and TS6"


def test_sequences_of_other_names_have_no_scenes():
    true = truth(6)
    record = mpi_inf_3dhp.score(Poses("P", true), Poses("A", true, sequence=np.repeat([1, 2, 5], 2)))
    assert "per_scene" not in record["official_metric"] and "outdoor" not in record
    assert "per scene" not in format_metrics(record) and "per sequence" in format_metrics(record)


def test_the_aligned_variant_is_fitted_on_all_17_joints_and_scores_14():
    true = truth(5)
    pred = 1.3 * true + np.random.default_rng(2).normal(0, 60, true.shape)
    pred[:, SPINE] += 500
    part = mpi_inf_3dhp.score(Poses("P", pred), Poses("A", true))["official_aligned"]
    aligned = metrics.procrustes_align(pred, true)
    distances = np.linalg.norm(aligned - true, axis=-1)
    assert part["metrics"] == pytest.approx({
        "pck150": 100 * (distances[:, :14] < 150).mean(), "mpjpe": distances.mean(), "num_poses": 5,
        "auc31": 100 * np.mean([distances[:, :14] < t for t in range(0, 151, 5)])})
    assert part["stamp"]["alignment"] == "similarity, fitted on all 17 joints"


def test_bad_pairs():
    true = truth(4)
    right = mpi_inf_3dhp.JOINTS
    mirrored = [right.index(name.replace("left", "x").replace("right", "left").replace("x", "right")) for name in right]
    with pytest.raises(ValueError, match=r"P: left and right seem to be swapped.*the order head_top, neck, right_shoulder"):
        mpi_inf_3dhp.score(Poses("P", true[:, mirrored]), Poses("A", true))
    with pytest.raises(ValueError, match=r"P: joints3d has 28 joints; the protocol takes 17, in the order head_top"):
        mpi_inf_3dhp.score(Poses("P", np.zeros((4, 28, 3))), Poses("A", true))
    universal = true.copy()
    universal[2, 3] = np.nan
    with pytest.raises(ValueError, match="P against A: joints3d_universal: joints3d_true is not finite at pose 2, joint 3"):
        mpi_inf_3dhp.score(Poses("P", true), Poses("A", true, joints3d_universal=universal))
