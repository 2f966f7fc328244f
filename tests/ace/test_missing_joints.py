import numpy as np
import pytest

from ace.missing_joints import fill_missing

ENCODER = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])  # each latent point is one joint
DECODER = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])  # the fourth joint: half way between two of them


def posed(rng, num_poses):
    return DECODER @ rng.normal(0, 300, (num_poses, 3, 3)) + np.array([0, 0, 4000])


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_joint_is_where_the_others_say(missing):
    """Even the joint that alone makes a latent point: the fourth joint tells of it."""
    poses = posed(np.random.default_rng(0), 20)
    mask = np.ones(poses.shape[:2], bool)
    mask[::2, missing] = False
    filled = fill_missing(np.where(mask[..., None], poses, np.nan), mask, ENCODER, DECODER)
    np.testing.assert_array_equal(filled[mask], poses[mask])
    assert np.linalg.norm(filled - poses, axis=-1).max() < 40  # mm; people of 300 mm, drawn to the middle by a percent


def test_a_joint_that_nothing_tells_of_is_drawn_to_the_middle():
    poses = posed(np.random.default_rng(1), 5)
    mask = np.ones((5, 4), bool)
    mask[:, 2] = False
    filled = fill_missing(poses, mask, ENCODER, DECODER)
    np.testing.assert_allclose(filled[:, 2], poses[:, [0, 1, 3]].mean(axis=1), atol=1e-6)


def test_moves_with_the_pose():
    rng = np.random.default_rng(2)
    poses, mask = posed(rng, 6), rng.random((6, 4)) < 0.7
    mask[:, 0] = True
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = 1.7 * poses @ rotation.T + [100, -50, 900]
    np.testing.assert_allclose(fill_missing(moved, mask, ENCODER, DECODER),
                               1.7 * fill_missing(poses, mask, ENCODER, DECODER) @ rotation.T + [100, -50, 900], atol=1e-6)


def test_pose_without_joints_is_zero():
    np.testing.assert_array_equal(fill_missing(np.full((1, 4, 3), np.nan), np.zeros((1, 4), bool), ENCODER, DECODER), 0)
