"""Scoring of merged predictions, of the mean pose, and of files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from posepile.evaluation import metrics, scoring
from posepile.geometry.skeleton import Skeleton, joint_indices, load_skeleton, merge_skeletons


@pytest.fixture(name="merged")
def _merged():
    return merge_skeletons([load_skeleton(name) for name in ("smpl_24", "h36m_17", "coco_19")])


@pytest.fixture(name="poses")
def _poses(merged):
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (30, merged.num_joints, 3)) + np.array([0, 0, 4000])
    return true + rng.normal(0, 60, true.shape), true, rng.random(true.shape[:2]) < 0.9


def test_each_format_is_scored_with_its_own_joints_and_root(merged, poses):
    score = scoring.score_merged(*poses, merged)
    assert list(score["formats"]) == ["smpl_24", "h36m_17", "coco_19"]
    for fmt in merged.formats:
        joints = joint_indices(merged, fmt)
        assert score["formats"][fmt.name] == metrics.compute_metrics(*(a[:, joints] for a in poses), fmt.root)


def test_pooled_metrics_run_over_the_joints_and_poses_of_all_formats(merged, poses):
    pred, true, _ = poses
    score = scoring.score_merged(pred, true, None, merged)
    weights = {"smpl_24": 24, "h36m_17": 17, "coco_19": 19}
    for name in ("mpjpe", "pa_mpjpe", "n_mpjpe", "a_mpjpe", "pck100", "auc150", "auc31", "apck150"):
        expected = sum(w * score["formats"][f][name] for f, w in weights.items()) / 60
        assert score["pooled"][name] == pytest.approx(expected), name
    for name in ("cps150", "cps200", "cps_auc200"):
        assert score["pooled"][name] == pytest.approx(np.mean([f[name] for f in score["formats"].values()])), name
    assert score["pooled"]["num_poses"] == 3 * 30


def test_a_format_without_annotations_does_not_count(merged, poses):
    pred, true, validity = poses
    validity[:, joint_indices(merged, merged.formats[1])] = False
    score = scoring.score_merged(pred, true, validity, merged)
    assert score["formats"]["h36m_17"]["num_poses"] == 0 and np.isnan(score["formats"]["h36m_17"]["mpjpe"])
    others = merge_skeletons([merged.formats[0], merged.formats[2]])
    joints = joint_indices(merged, others)
    alone = scoring.score_merged(pred[:, joints], true[:, joints], validity[:, joints], others)
    assert score["pooled"] == pytest.approx(alone["pooled"], rel=1e-12)


def test_plain_format_and_format_without_root():
    rng = np.random.default_rng(1)
    coco = load_skeleton("coco_17")
    true = rng.normal(0, 300, (10, 17, 3)) + np.array([0, 0, 4000])
    pred = true + rng.normal(0, 60, true.shape)
    score = scoring.score_merged(pred, true, None, coco)
    assert score["pooled"] == score["formats"]["coco_17"]
    centered = [pose - pose.mean(axis=1, keepdims=True) for pose in (pred, true)]
    assert score["pooled"]["mpjpe"] == pytest.approx(np.linalg.norm(centered[0] - centered[1], axis=-1).mean())


def test_headline(merged, poses):
    score = scoring.score_merged(*poses, merged)
    assert scoring.headline(score) == {
        **{name: score["pooled"][name] for name in ("mpjpe", "pa_mpjpe", "pck100", "cps200")},
        "inconsistency": score["inconsistency"]["total"]}


def test_mean_pose_by_hand():
    formats = [Skeleton(name=name, family=name, joint_names=("pelvis", "knee"), mirror=(0, 1), edges=(), root=root)
               for name, root in (("one", 0), ("two", 1))]
    merged = merge_skeletons(formats)
    joints3d = np.array([[[0, 0, 1000], [10, 0, 1000], [0, 0, 0], [0, 0, 0]],
                         [[0, 0, 2000], [0, 30, 2000], [0, 0, 0], [0, 0, 0]],
                         [[0, 0, 0], [0, 0, 0], [5, 5, 3000], [5, 5, 3400]],
                         [[0, 0, 0], [7e5, 0, 0], [0, 0, 0], [0, 0, 0]]], float)
    validity = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]], bool)  # the last without its root
    mean_pose = scoring.mean_relative_pose(joints3d, validity, merged)
    np.testing.assert_allclose(mean_pose, [[0, 0, 0], [5, 15, 0], [0, 0, -400], [0, 0, 0]])
    true = joints3d[:1] + np.array([[[0, 0, 0], [0, 0, 0], [0, 0, 1000], [0, 0, 1300]]])
    score = scoring.mean_pose_baseline(mean_pose, true, None, merged)
    assert score["formats"]["one"]["mpjpe"] == pytest.approx(np.hypot(5, 15) / 2)
    assert score["formats"]["two"]["mpjpe"] == pytest.approx(100 / 2)
    assert score["pooled"]["mpjpe"] == pytest.approx((np.hypot(5, 15) + 100) / 4)
    assert "a_mpjpe" not in score["pooled"] and scoring.headline(score)["mpjpe"] == score["pooled"]["mpjpe"]


def test_mean_pose_baseline_does_not_hide_joints_that_training_never_labelled(merged, poses):
    pred, true, validity = poses
    validity[:, merged.index("head_smpl")] = False
    mean_pose = scoring.mean_relative_pose(pred, validity, merged)
    assert np.isnan(mean_pose[merged.index("head_smpl")]).all()
    score = scoring.mean_pose_baseline(mean_pose, true, None, merged)
    assert np.isnan(score["formats"]["smpl_24"]["mpjpe"]) and np.isfinite(score["formats"]["h36m_17"]["mpjpe"])


# ---- Files


@pytest.fixture(name="files")
def _files(tmp_path):
    rng = np.random.default_rng(2)
    true = rng.normal(0, 300, (20, 17, 3)) + np.array([0, 0, 4000])
    predictions, annotations = tmp_path / "P.npz", tmp_path / "A.npz"
    arrays = {"joints3d": true, "joint_validity_mask": rng.random((20, 17)) < 0.9, "root": 14,
              "sequence": np.repeat(["TS1", "TS2"], 10), "activity": np.arange(20) % 3}
    np.savez(predictions, joints3d=np.float32(true + rng.normal(0, 60, true.shape)))
    np.savez(annotations, **arrays)
    return predictions, annotations, arrays


def test_scores_files(files):
    predictions, annotations, arrays = files
    record = scoring.score_files(predictions, annotations)
    pred = np.load(predictions)["joints3d"]
    true, mask = arrays["joints3d"], arrays["joint_validity_mask"]
    assert record["metrics"] == metrics.compute_metrics(pred, true, mask, 14)
    assert record["per_sequence"]["TS2"] == metrics.compute_metrics(pred[10:], true[10:], mask[10:], 14)
    assert record["per_activity"]["1"] == metrics.compute_metrics(pred[1::3], true[1::3], mask[1::3], 14)
    assert record["per_joint"]["14"]["mpjpe"] == 0 and record["per_joint"]["14"]["auc31"] == pytest.approx(3000 / 31)
    relative = np.linalg.norm((pred - pred[:, 14:15]) - (true - true[:, 14:15]), axis=-1)[:, 3]
    assert record["per_joint"]["3"]["mpjpe"] == pytest.approx(relative[mask[:, 3] & mask[:, 14]].mean())
    assert record["stamp"]["root"] == "14" and record["stamp"]["predictions"] == str(predictions)
    assert json.loads(json.dumps(scoring.json_ready(record), allow_nan=False))["poses"]["num_poses"] == 20


def rewrite(path, drop=(), **changes):
    with np.load(path, allow_pickle=True) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if name not in drop})


@pytest.mark.parametrize("which, changes, message", [
    (0, {"drop": ("joints3d",)}, r"P\.npz lacks joints3d; it holds: nothing"),
    (0, {"joints3d": np.zeros((20, 17, 2))}, r"P\.npz: joints3d must be .*got shape \[20, 17, 2\]"),
    (0, {"joints3d": np.zeros((20, 16, 3))}, r"P\.npz: joints3d is \[20, 16, 3\], but .*A\.npz is \[20, 17, 3\]"),
    (1, {"joints3d": np.zeros((0, 17, 3))}, r"A\.npz: joints3d holds no pose"),
    (1, {"joints3d": np.full((20, 17, 3), "x")}, r"A\.npz: joints3d must hold numbers"),
    (1, {"joints3d": np.array([None, 1])}, r"A\.npz cannot be read as .* plain numeric and text arrays.*numpy\.savez"),
    (1, {"root": 17}, "root is 17"),
    (1, {"root": [0, 1]}, r"A\.npz: root must be one joint index"),
    (1, {"joint_validity_mask": np.ones((20, 16), bool)}, r"A\.npz: joint_validity_mask must be \[20, 17\]"),
    (1, {"sequence": ["TS1"]}, r"A\.npz: sequence must be \[20\]"),
    (1, {"joint_names": ["a"]}, r"A\.npz: joint_names has 1 names for 17"),
])
def test_files_that_do_not_fit_are_refused(files, which, changes, message):
    rewrite(files[which], **changes)
    with pytest.raises(ValueError, match=message):
        scoring.score_files(*files[:2])


@pytest.mark.parametrize("which, name", [(0, "P.npz"), (1, "A.npz")])
def test_metres_are_refused(files, which, name):
    rewrite(files[which], joints3d=np.load(files[which])["joints3d"] / 1000)
    with pytest.raises(ValueError, match=f"{name}: the median pose is .* metres.*multiply by 1000"):
        scoring.score_files(*files[:2])


def test_joint_orders_are_compared_where_both_files_name_them(files):
    names = load_skeleton("mpi_inf_3dhp_17").joint_names
    rewrite(files[1], joint_names=names)
    assert list(scoring.score_files(*files[:2])["per_joint"]) == list(names)
    rewrite(files[0], joint_names=load_skeleton("h36m_17").joint_names)
    with pytest.raises(ValueError, match=r"P\.npz: joint 0 is called 'pelvis', but 'head_top' in .*A\.npz"):
        scoring.score_files(*files[:2])


def test_annotation_that_is_not_finite_is_refused_by_file(files):
    joints3d = files[2]["joints3d"].copy()
    joints3d[4, 2] = np.nan
    rewrite(files[1], joints3d=joints3d, joint_validity_mask=np.ones((20, 17), bool))
    with pytest.raises(ValueError, match=r"A\.npz: joints3d_true is not finite at pose 4, joint 2"):
        scoring.score_files(*files[:2])


def test_files_that_are_no_archives(files, tmp_path):
    predictions, annotations, _ = files
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        scoring.score_files(tmp_path / "nowhere.npz", annotations)
    for content in (b"", b"no archive at all", predictions.read_bytes()[:-50]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.npz"):
            scoring.score_files(tmp_path / "broken.npz", annotations)
    np.save(tmp_path / "plain.npy", np.zeros((20, 17, 3)))
    with pytest.raises(ValueError, match=r"plain\.npy cannot be read .* a single array"):
        scoring.score_files(tmp_path / "plain.npy", annotations)
    with pytest.raises(ValueError, match="unknown protocol 'median'; known ones: flat"):
        scoring.score_files(predictions, annotations, "median")


def test_scoring_needs_neither_tensorflow_nor_keras():
    code = ("import sys; import posepile.evaluation.scoring, posepile.evaluation.table; "
            "print(sorted({'tensorflow', 'keras', 'matplotlib', 'cv2'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
