import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ace.moments import joint_moments

MIRROR = np.array([1, 0, 2, 3])


def poses_around(rng, num_poses, direction=(0.0, 0.0, 1.0)):
    """[n, 4, 3] mm: people 4 m away in a direction, whose extents across it (x, y) and along it (z) differ."""
    extents = rng.normal(size=(num_poses, 4, 3)) * [100, 200, 400]
    extents -= extents.mean(axis=1, keepdims=True)
    rotation = Rotation.align_vectors([np.divide(direction, np.linalg.norm(direction))], [[0, 0, 1.0]])[0].as_matrix()
    return (extents + np.array([0, 0, 4000])) @ rotation.T, extents


def expected_moments(extents):
    """By a loop over poses: what is seen across the line of sight, mirror images counted alike."""
    moments = sum(pose[:, k, None] * pose[None, :, k] for pose in extents for k in range(2)) / (2 * len(extents))
    return (moments + moments[MIRROR][:, MIRROR]) / 2


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.5, -0.3, 1), (-2, 0.4, 0.6)])
def test_moments_are_those_across_the_line_of_sight(direction):
    """The smallest rotation to the line of sight may turn the image about it, which changes x and y, not their sum."""
    poses, extents = poses_around(np.random.default_rng(0), 200, direction)
    np.testing.assert_allclose(joint_moments(poses, None, MIRROR), expected_moments(extents), rtol=1e-3, atol=1)


def test_errors_along_the_line_of_sight_are_not_seen():
    rng = np.random.default_rng(1)
    poses, _ = poses_around(rng, 300)
    stretched = (poses - [0, 0, 4000]) * [1, 1, 3] + [0, 0, 4000]
    np.testing.assert_allclose(joint_moments(stretched, None, MIRROR), joint_moments(poses, None, MIRROR), rtol=1e-5, atol=1e-2)


def test_missing_joints_cost_no_bias():
    rng = np.random.default_rng(2)
    poses, _ = poses_around(rng, 40_000)
    masks = rng.random(poses.shape[:2]) < 0.7
    masks[:, 2] = True
    moments = joint_moments(poses, None, MIRROR)
    incomplete = joint_moments(np.where(masks[..., None], poses, np.nan), masks, MIRROR)
    np.testing.assert_allclose(incomplete, moments, rtol=0.03, atol=0.01 * moments.max())


def test_moments_of_few_incomplete_poses_have_no_negative_variance():
    rng = np.random.default_rng(3)
    poses, _ = poses_around(rng, 5)
    masks = rng.random((5, 4)) < 0.6
    masks[:, 0], masks[0] = True, True
    assert np.linalg.eigvalsh(joint_moments(poses, masks, MIRROR)).min() > -1e-6


def test_pairs_that_are_never_seen_together_get_finite_moments():
    poses, _ = poses_around(np.random.default_rng(4), 50)
    masks = np.tile([[True, True, True, False], [True, True, False, True]], (25, 1))
    assert np.isfinite(joint_moments(poses, masks, MIRROR)).all()
