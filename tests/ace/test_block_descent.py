import numpy as np
import pytest
from scipy.optimize import minimize

from ace import block_descent
from ace.affine_weights import latent_mirror
from ace.block_descent import BlockDescent
from ace.first_guess import guess_weights

MIRRORS = (latent_mirror(2, 1), np.array([1, 0, 3, 2, 5, 4, 6, 7]))  # 5 latent points, 8 joints


def moments_with_noise(rng, noise_mm=3.0):
    """Of 8 joints in a 4-dimensional space, mirror images alike, plus noise."""
    points = rng.normal(0, 100, (8, 4))
    points = (points + points[MIRRORS[1]] * [-1, 1, 1, 1]) / 2
    points -= points.mean(axis=0)
    return points @ points.T + noise_mm**2 * (np.eye(8) - 1 / 8)


def descent_of(moments, l1=0.6, joint_weights=None, start=None):
    start = guess_weights(moments, MIRRORS[1], 2, 1) if start is None else start
    return BlockDescent(*start, moments, np.ones(8) if joint_weights is None else joint_weights, MIRRORS, l1)


def surrogate(encoder, decoder, moments, l1):
    """The formula of the module and its class, written out; rows as long as the paper's."""
    combined = decoder @ encoder
    residual = np.eye(8) - combined
    deviations = np.sqrt(np.diag(residual @ moments @ residual.T) + 100 * np.square(combined).sum(axis=1))
    penalty = np.abs(encoder).sum() / (5 * 555) + (
        np.abs(decoder) + 0.003 * np.log(1 + np.abs(decoder) / 0.02)).sum() / (8 * 48)
    return np.sqrt(2 / np.pi) * deviations.mean() / 1000 + l1 * penalty


def run(descent, num_sweeps=150):
    while len(descent.objectives) < num_sweeps and not descent.is_flat:
        descent.sweep()
    return descent


@pytest.mark.parametrize("l1", [0.6, 0.02])
def test_objective_is_the_formula_and_no_nearby_weights_are_better(l1):
    rng = np.random.default_rng(0)
    moments = moments_with_noise(rng)
    descent = run(descent_of(moments, l1))
    ours = surrogate(descent.encoder, descent.decoder, moments, l1)
    assert descent.objectives[-1] == pytest.approx(ours, rel=1e-6)
    assert ours < 0.995 * descent.objectives[0]
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(200):
            changes = []
            for weights, mirrors in ((descent.encoder, MIRRORS), (descent.decoder, MIRRORS[::-1])):
                change = rng.normal(0, size, weights.shape) * (rng.random(weights.shape) < 0.2)
                change = change + change[mirrors[0]][:, mirrors[1]]
                changes.append(weights + change - change.mean(axis=1, keepdims=True))
            assert surrogate(*changes, moments, l1) > ours * (1 - 1e-3)


def test_as_good_as_a_general_optimizer():
    """Against L-BFGS on the free weights from the same start, with the absolute values smoothed a little."""
    moments = moments_with_noise(np.random.default_rng(1))
    start = guess_weights(moments, MIRRORS[1], 2, 1)

    def unpack(free):
        encoder, decoder = free[:40].reshape(5, 8), free[40:].reshape(8, 5)
        encoder = (encoder + encoder[MIRRORS[0]][:, MIRRORS[1]]) / 2
        decoder = (decoder + decoder[MIRRORS[1]][:, MIRRORS[0]]) / 2
        return [w + (1 - w.sum(axis=1, keepdims=True)) / w.shape[1] for w in (encoder, decoder)]

    result = minimize(lambda free: surrogate(*unpack(free), moments, 0.6), np.concatenate([w.ravel() for w in start]),
                      method="L-BFGS-B", options={"maxiter": 500, "maxfun": 50_000})
    descent = run(descent_of(moments))
    assert surrogate(descent.encoder, descent.decoder, moments, 0.6) < result.fun * 1.001


def test_every_sweep_keeps_sums_and_mirror_images_and_never_rises():
    descent = descent_of(moments_with_noise(np.random.default_rng(2)))
    smoothed = []
    for _ in range(40):
        descent.sweep()
        for weights, mirrors in ((descent.encoder, MIRRORS), (descent.decoder, MIRRORS[::-1])):
            np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
            np.testing.assert_array_equal(weights, weights[mirrors[0]][:, mirrors[1]])
        smoothed.append(descent.objectives[-1])
    assert np.diff(smoothed).max() < 1e-5 * smoothed[0]  # what of the smoothing is left


def test_joint_of_no_weight_is_ignored():
    moments = moments_with_noise(np.random.default_rng(3))
    weights = np.array([1, 1, 1, 1, 1, 1, 1, 0.0])
    descent = run(descent_of(moments, 0.02, weights), 60)
    residual = np.eye(8) - descent.decoder @ descent.encoder
    errors = np.sqrt(np.diag(residual @ moments @ residual.T))
    equal = run(descent_of(moments, 0.02), 60)
    residual = np.eye(8) - equal.decoder @ equal.encoder
    assert errors[:7].mean() < np.sqrt(np.diag(residual @ moments @ residual.T))[:7].mean() + 1e-6


def test_dead_and_duplicate_latent_points_are_found():
    moments = moments_with_noise(np.random.default_rng(4))
    descent = run(descent_of(moments), 30)
    encoder, decoder = descent.encoder, descent.decoder
    assert descent._useless_latents(encoder, decoder) == []
    twins = encoder.copy()
    twins[1], twins[3] = twins[0], twins[2]
    assert descent._useless_latents(twins, decoder) == [1]
    assert descent._useless_latents(encoder, decoder * np.array([1, 1, 1, 1, 1e-4])) == [4]
    assert descent._useless_latents(encoder, decoder * np.array([1, 1e-4, 1, 1e-4, 1])) == [1]


def test_useless_latent_points_start_anew_at_the_worst_joints():
    moments = moments_with_noise(np.random.default_rng(4))
    descent = descent_of(moments)
    encoder, decoder = (w.copy() for w in guess_weights(moments, MIRRORS[1], 2, 1))
    decoder[:, [1, 3]] = 0  # the second latent point of each side is dead
    decoder[:, 4] += 1e-3
    decoder /= decoder.sum(axis=1, keepdims=True)
    deviations = np.sqrt(np.diag((np.eye(8) - decoder @ encoder) @ moments @ (np.eye(8) - decoder @ encoder).T))
    worst = int(np.where(MIRRORS[1] == np.arange(8), 0, deviations).argmax())
    new_encoder, new_decoder = descent._seed([1], encoder, decoder)
    assert {int(row.argmax()) for row in new_encoder[[1, 3]]} == {worst, int(MIRRORS[1][worst])}
    np.testing.assert_array_equal(new_encoder[[0, 2, 4]], encoder[[0, 2, 4]])
    assert descent._objective(new_encoder, new_decoder, 0.0) < descent._objective(encoder, decoder, 0.0)
    for weights, mirrors in ((new_encoder, MIRRORS), (new_decoder, MIRRORS[::-1])):
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        np.testing.assert_array_equal(weights, weights[mirrors[0]][:, mirrors[1]])


def test_dead_latent_points_come_back_to_life(monkeypatch):
    """From a start where one latent point of each side is of no use and stays so unless it is moved."""
    moments = moments_with_noise(np.random.default_rng(4))
    encoder, decoder = (w.copy() for w in guess_weights(moments, MIRRORS[1], 2, 1))
    monkeypatch.setattr(block_descent, "SEED_SWEEP", 0)
    descent = descent_of(moments, start=(encoder, decoder))
    monkeypatch.setattr(descent, "_useless_latents", lambda *_: [1])
    run(descent, 60)
    assert np.abs(descent.decoder[:, 1]).max() > 0.1
