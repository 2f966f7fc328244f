"""Comparing predictions whose difference is known by construction."""

import json

import numpy as np
import pytest

from posepile.evaluation import comparison, scoring
from posepile.geometry.skeleton import Skeleton, joint_indices, load_skeleton, merge_skeletons

FORMAT = Skeleton(name="three", family="three", joint_names=("pelvis", "knee", "hand"), mirror=(0, 1, 2), edges=(), root=0)


def truth_and_errors(num_poses, joint_errors):
    """Truth, and predictions whose joints are off along x by `joint_errors`, [num_poses, 3], the root by nothing."""
    true = np.random.default_rng(0).normal(0, 300, (num_poses, 3, 3)) + np.array([0, 0, 4000])
    offset = np.zeros_like(true)
    offset[..., 0] = joint_errors
    return true, true + offset


@pytest.fixture(name="merged")
def _merged():
    return merge_skeletons([load_skeleton(name) for name in ("smpl_24", "h36m_17", "coco_19")])


@pytest.fixture(name="poses")
def _poses(merged):
    """Truth, validity, and three models' predictions."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (60, merged.num_joints, 3)) + np.array([0, 0, 4000])
    models = {name: true + rng.normal(0, sigma, true.shape) for name, sigma in (("a", 60), ("b", 50), ("c", 55))}
    return true, rng.random(true.shape[:2]) < 0.9, models


def test_planted_differences_by_hand():
    before = np.tile([0, 30, 120], (12, 1))
    after = np.tile([0, 10, 60], (12, 1))
    after[:3, 2] = 300  # of activity "run"
    true, pred_before = truth_and_errors(12, before)
    _, pred_after = truth_and_errors(12, after)
    result = comparison.compare_poses({"before": pred_before, "after": pred_after}, true, None, FORMAT,
                                      sequence=np.repeat(["s1", "s2", "s3", "s4"], 3),
                                      activity=np.repeat(["run", "sit"], [3, 9]))
    tables = result["differences"]["after"]
    mpjpe = tables["pooled"]["mpjpe"]
    assert mpjpe["reference"] == pytest.approx(150 / 3) and mpjpe["value"] == pytest.approx((9 * 70 + 3 * 310) / 36)
    assert mpjpe["difference"] == pytest.approx((9 * -80 + 3 * 160) / 36)
    # PCK@100: 2 of 3 joints before; all of them after, but for 3 hands. CPS@200: all poses; all but 3
    assert tables["pooled"]["pck100"]["difference"] == pytest.approx(100 * (33 / 36 - 24 / 36))
    assert tables["pooled"]["cps200"]["difference"] == pytest.approx(-25)
    assert tables["pooled"]["cps_auc200"]["difference"] == pytest.approx(100 * (9 * 140 / 200 / 12 - 80 / 200))
    assert {joint: entry["difference"] for joint, entry in tables["per_joint"]["three"].items()} == pytest.approx(
        {"pelvis": 0, "knee": -20, "hand": (9 * -60 + 3 * 180) / 12}, abs=1e-9)
    assert tables["per_activity"]["run"]["mpjpe"]["difference"] == pytest.approx(160 / 3)
    assert tables["per_activity"]["sit"]["mpjpe"]["difference"] == pytest.approx(-80 / 3)
    # all poses of the other sequences differ alike: no doubt about the activity within them
    assert tables["per_activity"]["sit"]["mpjpe"]["high"] == pytest.approx(-80 / 3)
    assert mpjpe["low"] < -80 / 3 < mpjpe["difference"] < 160 / 3 < mpjpe["high"]
    assert result["stamp"] == {"reference": "before", "resampled": "sequences", "num_groups": 4, "num_resamples": 2000,
                               "seed": 0, "confidence": 0.95}


def test_values_are_those_of_the_scores(merged, poses):
    true, validity, models = poses
    result = comparison.compare_poses(models, true, validity, merged)
    assert list(result["differences"]) == ["b", "c"]
    scores = {name: scoring.score_merged(pred, true, validity, merged) for name, pred in models.items()}
    for model, tables in result["differences"].items():
        for path in (("pooled",), *(("formats", name) for name in scores["a"]["formats"]), ("inconsistency",)):
            table, reference, score = tables, scores["a"], scores[model]
            for key in path:
                table, reference, score = table[key], reference[key], score[key]
            expected = {"total", "depth", "image_plane"} if path == ("inconsistency",) else {
                name for name in score if not name.startswith("num_")}
            assert set(table) == expected
            for name, entry in table.items():
                assert (entry["reference"], entry["value"]) == pytest.approx((reference[name], score[name]), rel=1e-12)
                assert entry["low"] <= entry["difference"] == entry["value"] - entry["reference"] <= entry["high"], name


def test_joints_that_formats_of_a_family_share_count_relative_to_the_root_of_each():
    merged = merge_skeletons([load_skeleton("h36m_17"), load_skeleton("h36m_25")])
    rng = np.random.default_rng(1)
    true = rng.normal(0, 300, (9, merged.num_joints, 3)) + np.array([0, 0, 4000])
    pred = true + rng.normal(0, 50, true.shape)
    result = comparison.compare_poses({"truth": true, "noisy": pred}, true, None, merged)
    per_joint = result["differences"]["noisy"]["per_joint"]
    for fmt in merged.formats:
        joints = joint_indices(merged, fmt)
        root = joints[fmt.root]
        error = np.linalg.norm((pred - pred[:, [root]]) - (true - true[:, [root]]), axis=-1).mean(axis=0)
        assert {name: entry["difference"] for name, entry in per_joint[fmt.name].items()} == pytest.approx(
            {merged.joint_names[j]: error[j] for j in joints})


def test_intervals_of_values_end_where_there_are_none_and_those_of_differences_do_not():
    true, pred = truth_and_errors(4, [[0, 30, 60]] * 2 + [[0, 600, 900]] * 2)
    sequence = np.repeat(["s", "t"], 2)
    intervals = comparison.measure_poses(pred, true, None, FORMAT, sequence=sequence)["intervals"]
    assert intervals["pooled"]["pck100"] == [0, 100]
    low, high = intervals["per_joint"]["three"]["hand"]
    assert low == 0 and high > 480
    difference = comparison.compare_poses({"exact": true, "other": pred}, true, None, FORMAT, sequence=sequence)["differences"]
    assert difference["other"]["pooled"]["mpjpe"]["low"] < 0 and difference["other"]["pooled"]["pck100"]["low"] < -100


def test_the_same_predictions_differ_by_exactly_nothing(merged, poses):
    true, validity, models = poses
    result = comparison.compare_poses({"a": models["a"], "again": models["a"].copy()}, true, validity, merged,
                                      sequence=np.arange(60) // 7)
    entries = [entry for name in ("pooled", "inconsistency") for entry in result["differences"]["again"][name].values()]
    assert [(entry["difference"], entry["low"], entry["high"]) for entry in entries] == [(0, 0, 0)] * len(entries)


@pytest.mark.parametrize("sequence", [None, np.full(60, "the only one")])
def test_without_sequences_poses_are_resampled(merged, poses, sequence):
    true, validity, models = poses
    result = comparison.compare_poses(models, true, validity, merged, sequence=sequence, num_resamples=50)
    assert (result["stamp"]["resampled"], result["stamp"]["num_groups"]) == ("poses", 60)


def test_a_prediction_that_is_not_finite_leaves_the_shares_comparable():
    true, pred = truth_and_errors(20, np.tile([0, 30, 120], (20, 1)))
    broken = pred.copy()
    broken[4, 1] = np.nan
    tables = comparison.compare_poses({"a": pred, "b": broken}, true, None, FORMAT,
                                      activity=np.arange(20) % 2)["differences"]["b"]
    assert np.isnan([tables["pooled"]["mpjpe"][key] for key in ("value", "difference", "low", "high")]).all()
    assert tables["pooled"]["pck150"]["difference"] == pytest.approx(-100 / 60)
    assert np.isnan(tables["per_activity"]["0"]["mpjpe"]["difference"])
    assert tables["per_activity"]["1"]["mpjpe"]["difference"] == 0


def test_bad_arguments(merged, poses):
    true, validity, models = poses
    with pytest.raises(ValueError, match="two models or more; got a"):
        comparison.compare_poses({"a": true}, true, validity, merged)
    with pytest.raises(ValueError, match=r"sequence must be \[60\], one label per pose; got shape \[2\]"):
        comparison.compare_poses(models, true, validity, merged, sequence=["s1", "s2"])
    with pytest.raises(ValueError, match=r"joints3d_pred and joints3d_true must have one shape"):
        comparison.compare_poses({**models, "short": true[:5]}, true, validity, merged)


# ---- Files


@pytest.fixture(name="files")
def _files(tmp_path):
    """Annotations and two predictions of 12 poses of three joints."""
    true, before = truth_and_errors(12, np.tile([0, 30, 120], (12, 1)))
    _, after = truth_and_errors(12, np.tile([0, 10, 60], (12, 1)))
    np.savez(tmp_path / "T.npz", joints3d=true, sequence=np.arange(12) // 3, joint_names=["pelvis", "knee", "hand"], root=-3)
    np.savez(tmp_path / "A.npz", joints3d=before)
    np.savez(tmp_path / "B.npz", joints3d=after)
    return tmp_path


def test_files(files):
    record = comparison.compare_files({"A": files / "A.npz", "B": files / "B.npz"}, files / "T.npz", confidence=0.9)
    assert record["models"]["B"] == scoring.score_files(files / "B.npz", files / "T.npz", confidence=0.9)
    assert record["differences"]["B"]["pooled"]["mpjpe"]["difference"] == pytest.approx(-80 / 3)
    assert record["differences"]["B"]["per_joint"]["all joints"]["knee"]["difference"] == pytest.approx(-20)
    stamp = record["stamp"]
    assert (stamp["resampled"], stamp["num_groups"], stamp["num_poses"], stamp["confidence"]) == ("sequences", 4, 12, 0.9)
    assert json.dumps(scoring.json_ready(record), allow_nan=False)


def test_a_file_that_does_not_fit_is_named(files):
    np.savez(files / "short.npz", joints3d=np.ones((11, 3, 3)))
    with pytest.raises(ValueError, match=r"short\.npz: joints3d is \[11, 3, 3\]"):
        comparison.compare_files({"A": files / "A.npz", "short": files / "short.npz"}, files / "T.npz")


@pytest.mark.parametrize("paths, names", [
    (["a/initial.keras", "a/finetuned.keras"], ["initial", "finetuned"]),
    (["a/finetuned.keras", "b/finetuned.keras"], ["a/finetuned", "b/finetuned"]),
    (["x/a/m.npz", "y/a/m.npz", "y/b/m.npz"], ["x/a/m", "y/a/m", "y/b/m"]),
    (["a/m.npz", "a/m.npz", "a/../a/m.npz", "a/n.npz"], ["m", "m (2)", "m (3)", "n"]),
])
def test_short_names(paths, names):
    assert comparison.distinct_names(paths) == names
