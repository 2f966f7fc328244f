import numpy as np
import pytest

from ace.missing_joints import fill_missing, relative_precision

DECODER = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])  # the fourth joint: half way between two of them
COVARIANCE = np.array([[90_000.0, 0, 0], [0, 90_000, 80_000], [0, 80_000, 90_000]])  # the last two go with one another
PRECISION = relative_precision(COVARIANCE)


def posed(rng, num_poses):
    points = np.linalg.cholesky(COVARIANCE) @ rng.normal(size=(num_poses, 3, 3))
    return DECODER @ points + np.array([0, 0, 4000])


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_joint_is_where_the_others_say(missing):
    """Even the joint that alone makes a latent point: the fourth joint tells of it."""
    poses = posed(np.random.default_rng(0), 20)
    mask = np.ones(poses.shape[:2], bool)
    mask[::2, missing] = False
    filled = fill_missing(np.where(mask[..., None], poses, np.nan), mask, DECODER, PRECISION)
    np.testing.assert_array_equal(filled[mask], poses[mask])
    assert np.linalg.norm(filled - poses, axis=-1).max() < 10  # mm; people of 300 mm


def test_expectation_is_that_of_a_normal_distribution():
    """The conditional mean by the joint covariance, with a place of all that may be anywhere."""
    rng = np.random.default_rng(1)
    poses, mask = posed(rng, 8), rng.random((8, 4)) < 0.6
    mask[:, 1] = True
    covariance = DECODER @ (COVARIANCE + 1e10) @ DECODER.T
    for pose, visible, filled in zip(poses, mask, fill_missing(poses, mask, DECODER, PRECISION), strict=True):
        center = pose[visible].mean(axis=0)
        seen = covariance[np.ix_(visible, visible)] + 100 * np.eye(visible.sum())
        expected = covariance[~visible][:, visible] @ np.linalg.solve(seen, pose[visible] - center) + center
        np.testing.assert_allclose(filled[~visible], expected, atol=0.5)  # mm


def test_a_joint_that_no_visible_joint_is_made_of_follows_the_one_it_goes_with():
    poses = posed(np.random.default_rng(2), 4000)
    mask = np.ones(poses.shape[:2], bool)
    mask[:, 2] = False
    errors = [np.linalg.norm(fill_missing(poses, mask, DECODER, precision) - poses, axis=-1)[:, 2].mean()
              for precision in (PRECISION, relative_precision(np.diag(np.diag(COVARIANCE))))]
    assert errors[0] < 0.7 * errors[1]


def test_moves_with_the_pose():
    rng = np.random.default_rng(2)
    poses, mask = posed(rng, 6), rng.random((6, 4)) < 0.7
    mask[:, 0] = True
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = 1.7 * poses @ rotation.T + [100, -50, 900]
    np.testing.assert_allclose(fill_missing(moved, mask, DECODER, PRECISION),
                               1.7 * fill_missing(poses, mask, DECODER, PRECISION) @ rotation.T + [100, -50, 900], atol=1e-3)


def test_pose_without_joints_is_zero():
    np.testing.assert_array_equal(fill_missing(np.full((1, 4, 3), np.nan), np.zeros((1, 4), bool), DECODER, PRECISION), 0)


def test_relative_precision_of_points_that_coincide_is_finite():
    precision = relative_precision(np.zeros((3, 3)))
    assert np.isfinite(precision).all()
    np.testing.assert_allclose(precision.sum(axis=1), 0, atol=1e-3)
