import numpy as np
import pytest

from posepile.data import compositing

SIDE = 64
NOTHING = np.zeros(4)


def disc(size, radius, color):
    """[size, size, 4] uint8: a soft-edged disc, premultiplied."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)[..., None]
    return np.rint(alpha * [*color, 255]).astype(np.uint8)


def pyramid(picture):
    return [picture, picture[::2, ::2], picture[::4, ::4]]


def test_a_person_is_blended_into_the_chosen_window_of_a_picture():
    rng = np.random.default_rng(0)
    person = rng.integers(0, 256, (30, 20, 4), np.uint8)
    person[..., :3] = np.minimum(person[..., :3], person[..., 3:])  # premultiplied
    backgrounds = rng.integers(0, 256, (3, SIDE + 4, SIDE + 4, 3), np.uint8)
    untouched = backgrounds.copy()
    # Picture 1 of 3; 5 windows a direction: x from 2, y from 4; not mirrored and mirrored.
    for mirrored, turned in ((0.2, lambda picture: picture), (0.8, lambda picture: picture[:, ::-1])):
        crop = compositing.choose_background(backgrounds, np.array([0.5, 0.5, 0.99, mirrored]), SIDE)
        expected = turned(backgrounds[1, 4:4 + SIDE, 2:2 + SIDE]).astype(float)
        np.testing.assert_array_equal(crop, expected)
        compositing.put_before(crop, person, 7, 11)
        weight, below = person[..., 3:] / 255, expected[11:41, 7:27]
        below[:] = person[..., :3] + (1 - weight) * below
        assert np.abs(crop - expected).max() <= 1
    np.testing.assert_array_equal(backgrounds, untouched)
    compositing.put_before(crop, np.zeros((0, 0, 4), np.uint8), 0, 0)
    assert np.abs(crop - expected).max() <= 1


def test_an_erased_rectangle_is_noise_and_the_rest_stays():
    crop = np.full((SIDE, SIDE, 3), 7, np.uint8)
    compositing.occlude(crop, np.array([0.25, 0.5, 0.5, 0.375]), np.array([0.3, 0.6]), np.zeros((0, 5)), ())
    is_erased = np.zeros((SIDE, SIDE), bool)
    is_erased[32:56, 16:48] = True
    np.testing.assert_array_equal(crop[~is_erased], 7)
    noise = crop[is_erased].astype(float)
    assert abs(noise.mean() - 127.5) < 6 and abs(noise.std() - 255 / 12**0.5) < 3
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.1
    again, elsewhere = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
    compositing.occlude(again, np.array([0.25, 0.5, 0.5, 0.375]), np.array([0.3, 0.6]), np.zeros((0, 5)), ())
    compositing.occlude(elsewhere, np.array([0.25, 0.5, 0.5, 0.375]), np.array([0.4, 0.6]), np.zeros((0, 5)), ())
    np.testing.assert_array_equal(again, crop)
    assert (elsewhere[is_erased] != crop[is_erased]).mean() > 0.9


@pytest.mark.parametrize("longer_side", [0.5, 0.3, 0.12])  # from all levels of the pyramid
@pytest.mark.parametrize("center", [(0.5, 0.5), (0.3, 0.6), (0.02, 0.9), (0.99, 0.01)])
def test_a_pasted_disc_is_where_it_should_be(longer_side, center):
    crop = np.full((256, 256, 3), 50, np.uint8)
    objects = np.array([[0.9, longer_side, *center, 0.1]])
    small, large = pyramid(disc(128, 10, (0, 0, 0))), pyramid(disc(128, 62, (250, 150, 0)))
    compositing.occlude(crop, NOTHING, NOTHING, objects, [small, large])
    weight = (crop[..., 0] - 50.0) / 200
    y, x = np.mgrid[:256, :256]
    radius = longer_side * 256 * 62 / 128
    expected = np.clip(radius - np.hypot(x + 0.5 - 256 * center[0], y + 0.5 - 256 * center[1]) + 0.5, 0, 1)
    # Whole pixels: the centre may be off by half of one; the levels of this test's pyramid by another half of theirs.
    assert np.abs(weight - expected).mean() < 0.02
    assert abs(weight.sum() / expected.sum() - 1) < (0.1 if min(center) > 0.1 else 0.35)
    np.testing.assert_allclose(crop[weight > 0.99], np.broadcast_to((250, 150, 0), crop[weight > 0.99].shape), atol=1)


def test_objects_may_be_mirrored_and_cover_those_before():
    left_half = np.zeros((32, 32, 4), np.uint8)
    left_half[:, :16] = (200, 0, 0, 255)
    crop = np.zeros((SIDE, SIDE, 3), np.uint8)
    objects = np.array([[0, 0.5, 0.5, 0.5, 0.4], [0, 0.5, 0.5, 0.5, 0.6]])
    compositing.occlude(crop, NOTHING, NOTHING, objects[:1], [[left_half]])
    np.testing.assert_array_equal(np.flatnonzero(crop[32, :, 0]), np.arange(16, 32))
    compositing.occlude(crop, NOTHING, NOTHING, objects[1:], [[left_half]])
    np.testing.assert_array_equal(np.flatnonzero(crop[32, :, 0]), np.arange(16, 48))
    blue = np.full((8, 8, 4), (0, 0, 255, 255), np.uint8)
    both = [[left_half], [blue]]
    compositing.occlude(crop, NOTHING, NOTHING, np.array([[0.1, 0.5, 0.5, 0.5, 0.1], [0.9, 0.125, 0.4, 0.5, 0.1]]), both)
    np.testing.assert_array_equal(crop[32, 25], (0, 0, 255))


def test_an_object_outside_changes_nothing():
    crop = np.full((SIDE, SIDE, 3), 9, np.uint8)
    compositing.occlude(crop, NOTHING, NOTHING, np.array([[0, 0.2, 1.5, 0.5, 0]]), [[disc(32, 15, (255, 0, 0))]])
    np.testing.assert_array_equal(crop, 9)
