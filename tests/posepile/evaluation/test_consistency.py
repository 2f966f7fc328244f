"""Inconsistency between formats: zero for the truth, and equal to what is planted."""

import numpy as np
import pytest

from posepile.evaluation.consistency import compute_inconsistency, shared_joint_pairs
from posepile.geometry.skeleton import Skeleton, load_skeleton, merge_skeletons


def small_format(name, family=None):
    return Skeleton(name=name, family=family or name, joint_names=("pelvis", "left_knee", f"only_{name}"),
                    mirror=(0, 1, 2), edges=((0, 1),), root=0)


@pytest.fixture(name="merged")
def _merged():
    return merge_skeletons([small_format("one"), small_format("two"), small_format("three")])


@pytest.fixture(name="true")
def _true(merged):
    rng = np.random.default_rng(0)
    return rng.normal(0, 300, (50, merged.num_joints, 3)) + np.array([0, 0, 4000])


def test_pairs_are_joints_of_one_name_in_different_formats(merged):
    pairs, names = shared_joint_pairs(merged)
    assert names == ["pelvis"] * 3 + ["left_knee"] * 3
    assert [[merged.joint_names[j] for j in pair] for pair in pairs.tolist()][:3] == [
        ["pelvis_one", "pelvis_two"], ["pelvis_one", "pelvis_three"], ["pelvis_two", "pelvis_three"]]


def test_formats_of_one_family_share_their_joints_and_cannot_disagree():
    merged = merge_skeletons([load_skeleton("h36m_17"), load_skeleton("h36m_25")])
    poses = np.random.default_rng(0).normal(0, 300, (2, merged.num_joints, 3))
    result = compute_inconsistency(poses, poses + 1, None, merged)
    assert len(shared_joint_pairs(merged)[0]) == 0
    assert result["num_pairs"] == 0 and np.isnan(result["total"]) and np.isnan(result["image_plane"])


def test_truth_is_consistent_with_itself_although_its_formats_differ(merged, true):
    result = compute_inconsistency(true, true, None, merged)
    assert result["total"] == result["depth"] == result["image_plane"] == 0
    assert result["num_pairs"] == 50 * 6
    moved = true + np.array([200, -100, 50])
    assert compute_inconsistency(moved, true, None, merged)["total"] == pytest.approx(0, abs=1e-9)


def test_planted_depth_deviation(merged, true):
    pred = true.copy()
    pred[:, merged.index("left_knee_two"), 2] += 90
    result = compute_inconsistency(pred, true, None, merged)
    # of the 6 pairs, one-two and two-three of the knee deviate
    assert result["total"] == pytest.approx(2 / 6 * 90)
    assert result["depth"] == pytest.approx(2 / 6 * 90)
    assert result["per_joint"] == pytest.approx({"pelvis": 0, "left_knee": 2 / 3 * 90})


def test_planted_deviation_across_the_image(merged):
    true = np.zeros((1, merged.num_joints, 3)) + np.array([100, 200, 4000])
    pred = true.copy()
    pred[0, merged.index("pelvis_three")] += [30, 40, 0]
    result = compute_inconsistency(pred, true, None, merged)
    assert result["total"] == pytest.approx(2 / 6 * 50)
    assert result["depth"] == 0
    assert result["image_plane"] == pytest.approx(2 / 6 * 50)  # all at one depth: image positions times it are mm


def test_movement_along_the_ray_is_invisible_in_the_image(merged):
    true = np.zeros((1, merged.num_joints, 3)) + np.array([100, 200, 4000])
    pred = true.copy()
    pred[0, merged.index("pelvis_three")] *= 1.05
    result = compute_inconsistency(pred, true, None, merged)
    assert result["depth"] == pytest.approx(2 / 6 * 200)
    assert result["image_plane"] == pytest.approx(0, abs=1e-9)


def test_difference_between_the_annotations_is_no_inconsistency_but_its_absence_is(merged):
    true = np.zeros((1, merged.num_joints, 3)) + np.array([0, 0, 4000])
    true[0, merged.index("left_knee_one"), 2] += 60
    agreeing = np.zeros_like(true) + np.array([0, 0, 4000])
    assert compute_inconsistency(true, true, None, merged)["total"] == 0
    assert compute_inconsistency(agreeing, true, None, merged)["total"] == pytest.approx(2 / 6 * 60)


def test_joints_that_are_not_annotated_have_no_influence(merged, true):
    rng = np.random.default_rng(1)
    pred = true + rng.normal(0, 40, true.shape)
    validity = np.ones(true.shape[:2], bool)
    validity[:, merged.index("pelvis_one")] = validity[:10] = False
    expected = compute_inconsistency(pred, true, validity, merged)
    assert expected["num_pairs"] == 40 * 4
    pred[~validity] = np.nan
    true[~validity] = -1e9
    assert compute_inconsistency(pred, true, validity, merged) == expected


def test_equals_a_loop_over_poses_and_pairs(merged, true):
    pred = true + np.random.default_rng(2).normal(0, 40, true.shape)
    total, depth, image_plane = [], [], []
    for p, g in zip(pred, true, strict=True):
        for i, j in shared_joint_pairs(merged)[0]:
            deviation = (p[i] - p[j]) - (g[i] - g[j])
            total.append(np.linalg.norm(deviation))
            depth.append(abs(deviation[2]))
            image_plane.append(np.linalg.norm((p[i, :2] / p[i, 2] - p[j, :2] / p[j, 2]) * p[:, 2].mean()
                                              - (g[i, :2] / g[i, 2] - g[j, :2] / g[j, 2]) * g[:, 2].mean()))
    result = compute_inconsistency(np.tile(pred, (50, 1, 1)), np.tile(true, (50, 1, 1)), None, merged)  # several chunks
    assert [result[key] for key in ("total", "depth", "image_plane")] == pytest.approx(
        [np.mean(total), np.mean(depth), np.mean(image_plane)])


def test_poses_behind_the_camera_have_no_image_but_count_in_depth(merged, true):
    pred = true.copy()
    pred[0, :, 2] -= 8000
    pred[1:, merged.index("left_knee_two"), 2] += 90
    result = compute_inconsistency(pred, true, None, merged)
    assert result["num_not_imaged"] == 1
    assert result["depth"] == pytest.approx(2 / 6 * 90 * 49 / 50)
    assert np.isfinite(result["image_plane"])


def test_prediction_that_is_not_finite_does_not_drop_out(merged, true):
    pred = true.copy()
    pred[0, merged.index("pelvis_one"), 2] = np.nan
    result = compute_inconsistency(pred, true, None, merged)
    assert np.isnan(result["total"]) and np.isnan(result["depth"]) and np.isnan(result["image_plane"])


def test_wrong_number_of_joints(merged):
    with pytest.raises(ValueError, match=r"4 joints.*has 9"):
        compute_inconsistency(np.zeros((1, 4, 3)), np.zeros((1, 4, 3)), None, merged)
