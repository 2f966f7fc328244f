import numpy as np
import pytest

from ace.affine_weights import free_gradient, latent_mirror, prune_weights, tie_and_normalize

ROWS = latent_mirror(num_left=2, num_centre=1)  # left, left, right, right, centre
COLUMNS = np.array([1, 0, 2])  # left, right, centre


def test_latent_mirror_swaps_left_and_right_and_keeps_the_centre():
    np.testing.assert_array_equal(ROWS, [2, 3, 0, 1, 4])
    np.testing.assert_array_equal(latent_mirror(0, 3), [0, 1, 2])


def test_tie_and_normalize_by_hand():
    free = np.array([[6.0, 2, 1], [1, 1, 1], [0, 2, 3], [1, 1, 1], [1, 2, 1]])
    weights = tie_and_normalize(free, ROWS, COLUMNS)
    # row 0 with row 2 mirrored (2, 0, 3): mean (4, 1, 2), sum 7; centre row (1, 2, 1) with (2, 1, 1): (1.5, 1.5, 1)
    np.testing.assert_allclose(weights[0], np.array([4, 1, 2]) / 7)
    np.testing.assert_allclose(weights[2], np.array([1, 4, 2]) / 7)
    np.testing.assert_allclose(weights[4], np.array([1.5, 1.5, 1]) / 4)


def test_mirror_images_are_equal_to_the_last_bit_and_rows_sum_to_one():
    rng = np.random.default_rng(0)
    rows, columns = latent_mirror(20, 8), latent_mirror(250, 55)
    weights = tie_and_normalize(rng.normal(0.01, 1, (48, 555)), rows, columns)  # sums near and below zero, too
    np.testing.assert_array_equal(weights, weights[rows][:, columns])
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)


def test_a_row_whose_free_weights_cancel_is_lifted_evenly():
    weights = tie_and_normalize(np.array([[1.0, -1.0]]), np.array([0]), np.array([0, 1]))
    # sum 0 lacks 0.25: each weight gains 0.125, then / 0.25
    np.testing.assert_allclose(weights, [[4.5, -3.5]])


@pytest.mark.parametrize("mean", [0.5, -0.5])  # row sums above and below the smallest that is divided by
def test_free_gradient_against_finite_differences(mean):
    rng = np.random.default_rng(1)
    free, factors = rng.normal(mean, 0.1, (5, 3)), rng.normal(size=(5, 3))

    def value(f):
        return (np.sin(tie_and_normalize(f, ROWS, COLUMNS)) * factors).sum()

    gradient = free_gradient(np.cos(tie_and_normalize(free, ROWS, COLUMNS)) * factors, free, ROWS, COLUMNS)
    for i, j in np.ndindex(free.shape):
        step = np.zeros_like(free)
        step[i, j] = 1e-6
        assert gradient[i, j] == pytest.approx((value(free + step) - value(free - step)) / 2e-6, rel=1e-6, abs=1e-8)


def test_prune_by_hand():
    pruned = prune_weights(np.array([[0.7, 0.25, 0.05], [0.5, 0.6, -0.1]]), 0.1)
    np.testing.assert_allclose(pruned, [[0.7 / 0.95, 0.25 / 0.95, 0], [0.5, 0.6, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(prune_weights(np.array([[0.3, 0.4, 0.3]]), 0.9), [[0, 1, 0]])  # the largest stays


def test_prune_refuses_rows_without_positive_weight():
    with pytest.raises(ValueError, match=r"pruning at 0\.7 leaves no positive weight in row 1; use a lower"):
        prune_weights(np.array([[1.0, 0, 0, 0], [-0.8, 0.6, 0.6, 0.6]]), 0.7)
