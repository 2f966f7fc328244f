import numpy as np
import pytest

from ace.first_guess import CRITERIA, guess_weights

# A square in the plane (left and right corners in pairs), its centre, a point inside and one on an edge, with mirror images.
PLANE = np.array([[100, 80], [-100, 80], [90, -70], [-90, -70], [0, 0], [20, 10], [-20, 10], [0, 80.0]])
MIRROR = np.array([1, 0, 3, 2, 4, 6, 5, 7])


def moments_of(points):
    centered = points - points.mean(axis=0)
    return centered @ centered.T / 2


@pytest.mark.parametrize("criterion", CRITERIA)
def test_corners_of_the_hull_are_found_and_the_rest_is_combined_of_them(criterion):
    encoder, decoder = guess_weights(moments_of(PLANE), MIRROR, num_side=2, num_centre=0, criterion=criterion)
    assert {frozenset(np.flatnonzero(row)) for row in encoder} == {frozenset([j]) for j in range(4)}
    np.testing.assert_array_equal(encoder[2:], encoder[:2][:, MIRROR])
    assert decoder.min() >= 0
    np.testing.assert_allclose(decoder.sum(axis=1), 1)
    np.testing.assert_allclose(decoder @ encoder @ PLANE, PLANE, atol=0.1)  # mm


def test_centre_points_come_from_centre_joints():
    encoder, _ = guess_weights(moments_of(PLANE), MIRROR, num_side=1, num_centre=2)
    assert set(encoder[2:].argmax(axis=1)) == {4, 7} and (encoder.max(axis=1) == 1).all()


def test_midpoints_of_pairs_stand_in_for_centre_joints():
    encoder, _ = guess_weights(moments_of(PLANE[:4]), MIRROR[:4], num_side=0, num_centre=2)
    np.testing.assert_array_equal(encoder, encoder[:, MIRROR[:4]])
    np.testing.assert_array_equal(np.sort(encoder, axis=1), [[0, 0, 0.5, 0.5]] * 2)
    assert not np.array_equal(*encoder)


def test_corners_repeat_where_joints_are_too_few():
    encoder, decoder = guess_weights(np.array([[0.0]]), np.array([0]), num_side=0, num_centre=2)
    np.testing.assert_array_equal(encoder, [[1], [1]])
    np.testing.assert_allclose(decoder.sum(axis=1), 1)


def test_other_guesses_take_other_corners():
    points = np.random.default_rng(0).normal(size=(30, 3))
    mirror = np.arange(30)
    first, again = (guess_weights(moments_of(points), mirror, 0, 6)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [guess_weights(moments_of(points), mirror, 0, 6, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(others[0], others[1])
    assert not np.array_equal(others[0], others[2])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale):
    expected = guess_weights(moments_of(PLANE), MIRROR, 2, 0)
    for ours, theirs in zip(guess_weights(moments_of(PLANE * scale), MIRROR, 2, 0), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_lone_extreme_is_farthest_but_gains_less_than_a_crowd():
    points = np.array([[0, 0], [0, 10], [300, 0.0], *[[0, sign * (200 + i)] for i in range(10) for sign in (1, -1)]])
    moments, mirror = moments_of(points), np.arange(len(points))
    farthest, gaining = (guess_weights(moments, mirror, 0, 2, criterion)[0].argmax(axis=1) for criterion in CRITERIA)
    assert farthest[0] == 2 and gaining[0] != 2
