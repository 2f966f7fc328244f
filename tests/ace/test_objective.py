import numpy as np
import pytest

from ace.affine_weights import latent_mirror, tie_and_normalize
from ace.autoencoder import AffineAutoencoder
from ace.objective import make_fit_data, objective_and_gradients
from posepile.geometry.skeleton import skeleton_from_dict

MIRRORS = (latent_mirror(2, 1), np.array([1, 0, 3, 2, 4, 5]))  # 5 latent points, 6 joints


def affine(free):
    return tie_and_normalize(free[0], *MIRRORS), tie_and_normalize(free[1], *MIRRORS[::-1])


def random_problem(rng, masked):
    poses = rng.normal(0, 400, (4, 6, 3)) + np.array([100, -200, 3000])
    mask = rng.random((4, 6)) < 0.7 if masked else None
    if masked:
        mask[:, 4] = True
    free = [rng.normal(0.3, 0.2, (5, 6)), rng.normal(0.3, 0.2, (6, 5))]
    return poses, mask, free


def independent_objective(poses, mask, free, l1):
    """The formula, pose by pose and joint by joint, in mm, through the record's own encoding; all joints are in the input."""
    names = ["left_a", "right_a", "left_b", "right_b", "c", "d"]
    skeleton = skeleton_from_dict({"name": "six", "joints": names, "mirror_pairs": [names[:2], names[2:4]]})
    encoder, decoder = affine(free)
    record = AffineAutoencoder(encoder, decoder, skeleton, 2, 2, 1)
    differences = []
    for i, pose in enumerate(poses):
        valid = np.ones(len(pose), bool) if mask is None else mask[i]
        depth = pose[:, 2].mean()
        restored = record.reconstruct(pose)
        differences += [abs(restored[j, k] / restored[j, 2] - pose[j, k] / pose[j, 2]) * depth
                        for j in np.flatnonzero(valid) for k in range(2)]
    return np.mean(differences) / 1000 + l1 * (np.abs(encoder).sum() / 5 / 555 + np.abs(decoder).sum() / 6 / 48)


@pytest.mark.parametrize("masked", [False, True])
def test_objective_against_an_independent_one(masked):
    poses, mask, free = random_problem(np.random.default_rng(0), masked)
    value, _ = objective_and_gradients(free, make_fit_data(poses, mask, dtype=np.float64), MIRRORS, l1=0.6)
    assert value == pytest.approx(independent_objective(poses, mask, free, 0.6), rel=1e-5)


def test_at_full_size_the_penalty_is_the_mean_absolute_weight():
    rng = np.random.default_rng(1)
    mirrors = (latent_mirror(20, 8), latent_mirror(250, 55))
    free = [rng.uniform(size=(48, 555)) + rng.normal(size=(48, 555)), rng.normal(0.5, 1, (555, 48))]
    data = make_fit_data(rng.normal(0, 100, (2, 555, 3)) + np.array([0, 0, 4000]), None, dtype=np.float64)
    encoder, decoder = tie_and_normalize(free[0], *mirrors), tie_and_normalize(free[1], *mirrors[::-1])
    penalty = objective_and_gradients(free, data, mirrors, 0.6)[0] - objective_and_gradients(free, data, mirrors, 0)[0]
    assert penalty == pytest.approx(0.6 * (np.abs(encoder).mean() + np.abs(decoder).mean()))


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_against_finite_differences(masked):
    """Where missing joints stand in the input is not part of it."""
    poses, mask, free = random_problem(np.random.default_rng(2), masked)
    data = make_fit_data(poses, mask, dtype=np.float64)
    _, gradients = objective_and_gradients(free, data, MIRRORS, l1=0.6)
    for k, gradient in enumerate(gradients):
        assert np.abs(gradient).max() > 1e-3
        for index in np.ndindex(gradient.shape):
            values = []
            for step in (1e-7, -1e-7):
                moved = [w.copy() for w in free]
                moved[k][index] += step
                values.append(objective_and_gradients(moved, data, MIRRORS, l1=0.6)[0])
            assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-4, abs=1e-7)


def test_depth_errors_cost_nothing_at_the_optical_axis():
    """Joints on the axis project to (0, 0) wherever they are: only the image plane counts."""
    poses = np.zeros((1, 6, 3))
    poses[0, :, 2] = np.linspace(2000, 4000, 6)
    free = [np.full((5, 6), 1 / 6), np.full((6, 5), 1 / 5)]
    assert objective_and_gradients(free, make_fit_data(poses, None), MIRRORS, l1=0)[0] == 0


def test_a_joint_reconstructed_behind_the_camera_gives_finite_gradients():
    poses = np.random.default_rng(4).normal(0, 300, (3, 6, 3)) + np.array([0, 0, 1000])
    free = [np.eye(5, 6) * 9 - 1, np.eye(6, 5) * 9 - 1]  # far from convex
    value, gradients = objective_and_gradients(free, make_fit_data(poses, None), MIRRORS, 0.6)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_joint_weights_are_those_of_the_mean():
    """A joint that counts double is like one that is there twice; a joint of weight 0 is like one that is not valid."""
    poses, _, free = random_problem(np.random.default_rng(5), masked=False)
    errors = [objective_and_gradients(free, make_fit_data(poses, None, np.eye(6)[j], dtype=np.float64), MIRRORS, 0)[0]
              for j in range(6)]
    joint_weights = np.array([2, 2, 1, 1, 0, 3.0])
    weighted = objective_and_gradients(free, make_fit_data(poses, None, joint_weights, dtype=np.float64), MIRRORS, 0)[0]
    assert weighted == pytest.approx(np.average(errors, weights=joint_weights), rel=1e-6)
