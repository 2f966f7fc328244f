"""Scoring of merged predictions and of the mean pose."""

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


def test_scoring_needs_neither_tensorflow_nor_keras():
    code = ("import sys; import posepile.evaluation.scoring, posepile.evaluation.table; "
            "print(sorted({'tensorflow', 'keras', 'matplotlib', 'cv2'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
