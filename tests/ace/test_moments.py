import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ace.moments import complete_poses, joint_moments
from benchmarks.kinematic_poses import joint_landmarks, kinematic_poses, merged_skeleton

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


def kinematic(rng, num_poses):
    """Poses in which few dimensions tell of all joints, their skeleton's mirror table, and the joints of its formats."""
    skeleton = merged_skeleton("h36m_17", "coco_19")
    return kinematic_poses(rng, num_poses, joint_landmarks(skeleton, rng, offset_mm=40)), np.array(skeleton.mirror)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_missing_joints_leave_the_moments_as_they_are(share):
    rng = np.random.default_rng(2)
    poses, mirror = kinematic(rng, 1500)
    masks = rng.random(poses.shape[:2]) > share
    expected = joint_moments(poses, None, mirror)
    moments = joint_moments(np.where(masks[..., None], poses, np.nan), masks, mirror)
    np.testing.assert_allclose(moments, expected, atol=0.02 * expected.max())
    variances, wanted = (np.linalg.eigvalsh(m)[::-1] for m in (moments, expected))
    np.testing.assert_allclose(variances[:6], wanted[:6], rtol=0.1)
    assert variances[20:].max() < 60  # mm^2; by pairwise distances alone more than 500


def test_completed_poses_have_the_missing_joints_near_their_place():
    rng = np.random.default_rng(3)
    poses, mirror = kinematic(rng, 1500)
    masks = np.ones(poses.shape[:2], bool)
    masks[::2, :17] = False  # half of the poses lack a whole format, the others the other one
    masks[1::4, 17:] = False
    completed = complete_poses(poses, masks, joint_moments(np.where(masks[..., None], poses, np.nan), masks, mirror))
    np.testing.assert_array_equal(completed[masks], poses[masks])
    assert np.linalg.norm(completed - poses, axis=-1)[~masks].mean() < 30  # mm


def test_moments_of_few_incomplete_poses_have_no_negative_variance():
    rng = np.random.default_rng(3)
    poses, _ = poses_around(rng, 5)
    masks = rng.random((5, 4)) < 0.6
    masks[:, 0], masks[0] = True, True
    assert np.linalg.eigvalsh(joint_moments(poses, masks, MIRROR)).min() > -1e-6
