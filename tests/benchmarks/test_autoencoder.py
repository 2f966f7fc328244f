import json

import numpy as np
import pytest

from benchmarks import autoencoder
from benchmarks.generated_formats import (
    CENTRE_POINTS,
    DEPTH_NOISE_MM,
    NUM_POINTS,
    joint_combinations,
    made_up_skeleton,
    true_and_observed,
)

KEYS = ["time_ratio", "seconds", "reconstruction_ratio", "share_nonzero", "negative_weight", "depth_noise_ratio",
        "new_skeleton_error_mm"]


def test_prints_the_figures_in_their_order_as_one_json_line(monkeypatch, capsys):
    for name, value in {"NUM_SIDE": 40, "NUM_CENTRE": 12, "NUM_LATENTS": 24, "NUM_NEW_SIDE": 2, "NUM_NEW_CENTRE": 1,
                        "NUM_NEW_POSES": 40, "NUM_HELD_OUT": 100}.items():
        monkeypatch.setattr(autoencoder, name, value)
    autoencoder.main(["--json", "--poses=400", "--yardstick-steps=12"])
    result = json.loads(capsys.readouterr().out)
    assert list(result)[1:8] == KEYS
    assert result["objective"] < result["yardstick_objective"]  # after so few steps
    assert result["time_ratio"] == pytest.approx(result["seconds"] / result["yardstick_seconds"], rel=0.2)
    assert 1 < result["reconstruction_ratio"] < 3 and 0 < result["depth_noise_ratio"] < 1
    assert 0 < result["new_skeleton_error_mm"] < 40


def test_an_objective_that_is_not_reached_gives_no_ratio(monkeypatch, capsys):
    monkeypatch.setattr(autoencoder, "fit_yardstick", lambda *_: ([np.eye(3)], 1.0))
    objectives = iter([0.02, 0.01])
    monkeypatch.setattr(autoencoder, "mean_objective", lambda *_: next(objectives))
    for name, value in {"NUM_SIDE": 8, "NUM_CENTRE": 4, "NUM_LATENTS": 8, "NUM_NEW_SIDE": 1, "NUM_NEW_CENTRE": 1,
                        "NUM_NEW_POSES": 30, "NUM_HELD_OUT": 20}.items():
        monkeypatch.setattr(autoencoder, name, value)
    result = autoencoder.measure(60, yardstick_steps=1)
    assert result["time_ratio"] is None and result["yardstick_objective"] == 0.01


def test_least_squares_is_exact_where_points_are_enough():
    weights = joint_combinations(np.random.default_rng(0), 30, 10)
    truth, _ = true_and_observed(np.random.default_rng(1), 300, weights)
    matrix = autoencoder.least_squares(truth, 60)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)
    assert autoencoder.image_plane_errors(np.matmul(matrix, truth), truth).mean() < 0.1
    assert autoencoder.image_plane_errors(np.matmul(autoencoder.least_squares(truth, 10), truth), truth).mean() > 5


def test_generated_joints_are_convex_combinations_that_mirror_each_other():
    weights = joint_combinations(np.random.default_rng(0), 50, 20)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights.min() >= 0 and set((weights > 0).sum(axis=1)) <= {1, 2, 3, 4} and weights.shape == (120, NUM_POINTS)
    mirror = np.r_[np.arange(26) + 26, np.arange(26), np.arange(52, 60)]
    np.testing.assert_array_equal(weights[50:100], weights[:50, mirror])
    np.testing.assert_array_equal(weights[100:], weights[100:, mirror])
    assert len(CENTRE_POINTS) == 8 and made_up_skeleton("x", 50, 20).mirror[3] == 53


def test_generated_noise_is_along_the_line_of_sight():
    truth, observed = true_and_observed(np.random.default_rng(2), 2000, joint_combinations(np.random.default_rng(0), 2, 1))
    rays = truth / np.linalg.norm(truth, axis=-1, keepdims=True)
    error = observed - truth
    along = (error * rays).sum(axis=-1)
    across = error - along[..., None] * rays
    assert along.std() == pytest.approx(np.hypot(DEPTH_NOISE_MM, 3), rel=0.03)
    assert np.sqrt(np.square(across).sum(axis=-1).mean()) == pytest.approx(3 * np.sqrt(2), rel=0.03)
