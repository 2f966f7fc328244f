import math

import numpy as np
import pytest

from posepile.data import painting
from posepile.data.painting import Shape

RED, BLUE = (200.0, 10.0, 0.0), (0.0, 20.0, 150.0)


def rng(seed=0):
    return np.random.RandomState(seed)


def grid(size=200, extent=2.0):
    values = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * extent
    return values[None, :], values[:, None]


def test_a_rectangle_covers_whole_and_half_pixels():
    canvas = np.zeros((4, 6, 8), np.float32)
    canvas[:3] = 100
    painting.paint(canvas, [Shape([painting.rectangle(1, 2, 4.5, 5)], painting.plain(RED))])
    np.testing.assert_allclose(canvas[:, 3, 2], (*RED, 255))
    np.testing.assert_allclose(canvas[:, 3, 6], (100, 100, 100, 0))
    share = canvas[3, 3, 4] / 255
    assert 0.5 <= share <= 0.75  # half of it is covered; samples on the edge count
    np.testing.assert_allclose(canvas[:3, 3, 4], 100 + share * (np.array(RED) - 100), rtol=1e-5)
    assert (canvas[3, :2] == 0).all() and (canvas[3, 5:] == 0).all()


def test_later_shapes_hide_earlier_ones_and_holes_stay_open():
    canvas = np.zeros((3, 20, 20), np.float32)
    ring = Shape([painting.ellipse(10, 10, 9, 9), painting.ellipse(10, 10, 5, 5)], painting.plain(BLUE))
    painting.paint(canvas, [Shape([painting.rectangle(0, 0, 20, 20)], painting.plain(RED)), ring])
    np.testing.assert_allclose(canvas[:, 10, 10], RED)
    np.testing.assert_allclose(canvas[:, 10, 3], BLUE)


def test_the_area_of_a_disc():
    canvas = np.zeros((4, 100, 100), np.float32)
    painting.paint(canvas, [Shape([painting.ellipse(0, 0, 1, 1)], painting.plain(RED))], scale=40, offset=(50, 50))
    assert canvas[3].sum() / 255 == pytest.approx(math.pi * 40**2, rel=0.02)


def test_shapes_turn_with_their_material():
    canvas = np.zeros((3, 40, 40), np.float32)
    bar = Shape([painting.rectangle(0, -0.1, 1, 0.1)], lambda x, y: 100 * np.stack([x, 0 * x + 1, 0 * x]))
    painting.paint(canvas, [bar], scale=16, offset=(20, 20), angle=math.pi / 2)  # x now points downwards
    np.testing.assert_allclose(canvas[:, 20 + 8, 20], (100 * 8.5 / 16, 100, 0), atol=1)
    assert (canvas[:, 20, 28] == 0).all()


def test_what_is_outside_the_canvas_is_left_out():
    canvas = np.zeros((3, 10, 10), np.float32)
    shape = Shape([painting.rectangle(-5, -5, 5, 5)], painting.plain(RED))
    painting.paint(canvas, [shape], offset=(20, 5))
    assert (canvas[0, :, 9] == 0).all()
    painting.paint(canvas, [shape], offset=(0, 0))
    np.testing.assert_allclose(canvas[:, 2, 2], RED)
    assert (canvas[:, 7, 7] == 0).all()


def test_rotation_is_clockwise_and_exact_at_right_angles():
    np.testing.assert_array_equal(painting.rotate(np.array([[1.0, 0.0]]), math.pi / 2), [[0, 1]])  # y is down
    assert painting.turn(math.pi / 3)[0] == 0.5


def test_cut_corners_converge_to_a_quadratic_spline():
    square = painting.rectangle(0, 0, 1, 1)
    once = painting.rounded(square, 1)
    np.testing.assert_allclose(once[:3], [(0.25, 0), (0.75, 0), (1, 0.25)])
    # The closed spline's area about a unit square: 1 less a parabola's sixth of each corner's quarter, four times.
    curve = painting.rounded(square, 8)
    x, y = curve.T
    assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 == pytest.approx(1 - 4 / 24, abs=1e-4)


def test_a_band_has_its_widths():
    polygon = painting.band(np.array([(0, 0), (0, 1), (0, 2)]), np.array([1, 2, 4]))
    np.testing.assert_allclose(polygon, [(-0.5, 0), (-1, 1), (-2, 2), (2, 2), (1, 1), (0.5, 0)])


def test_natural_noise_has_the_spectrum_of_photos():
    noise = np.mean([np.abs(np.fft.fft2(painting.natural_noise(rng(seed), 128)[0])) ** 2 for seed in range(8)], axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    energy = [noise[(frequency >= low) & (frequency < 2 * low)].sum() for low in (1 / 32, 1 / 16, 1 / 8)]
    assert max(energy) < 2 * min(energy)  # the power falls as 1 / f^2, so octaves hold the same energy


def test_noise_with_less_detail_is_smoother():
    rough, smooth = (painting.natural_noise(rng(), 64, persistence)[0] for persistence in (1.0, 0.4))
    assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(rough)).mean()
    assert painting.natural_noise(rng(), 50, num_channels=3).shape == (3, 50, 50)
    assert 0.1 < smooth.std() < 1 and np.abs(rough).max() < 2


def test_noise_of_materials_has_no_seam():
    material = painting.grained(rng(), (100, 100, 100), amount=0.3, density=64)
    row = material(np.arange(4000, dtype=np.float32)[None, :] / 64, np.zeros((1, 1), np.float32))[0, 0]
    steps = np.abs(np.diff(row))
    assert row.std() > 3 and steps.max() < 8 * steps.mean()


def test_stripes_have_their_frequency(monkeypatch):
    monkeypatch.setattr(painting, "pick", lambda random, choices: choices[0])
    x, y = grid()
    stripes = painting.patterned(rng(), (5.0, 5.0))(x, y)[0].mean(axis=0)
    spectrum = np.abs(np.fft.rfft(stripes - stripes.mean()))
    assert spectrum.argmax() == 10  # periods over 2 units


def test_bricks_lie_between_joints():
    material = painting.laid(rng(), painting.plain(RED), painting.plain(BLUE), (0.5, 0.25), gap=0.02, variation=0.0)
    x, y = np.float32([[0.25, 0.0, 0.5, 0.25]]), np.float32([[0.125, 0.125, 0.375, 0.25]])
    np.testing.assert_allclose(material(x, y)[:, 0].T, [RED, BLUE, RED, BLUE], atol=1e-3)  # the second row is shifted


def test_a_plane_recedes_to_its_vanishing_point():
    floor = painting.on_plane(lambda x, y: np.stack([x + 0 * y, 0 * x + y, 0 * x + 0 * y]), (0.5, 0.25), 0.5, is_level=True)
    x, y = np.float32([[1.0]]), np.float32([[0.75]])
    np.testing.assert_allclose(floor(x, y)[:, 0, 0], (0.5, 1, 0))
    np.testing.assert_allclose(floor(x, np.float32([[0.5]]))[:, 0, 0], (1, 2, 0))  # half as far below: twice as deep


def test_a_material_fills_a_parallelogram():
    material = painting.on_parallelogram(lambda x, y: np.stack([x, y, 0 * x]), np.array([1.0, 1.0]), np.array([2.0, 1.0]),
                                         np.array([0.0, 3.0]), (10.0, 30.0))
    corner = np.array([1.0, 1.0]) + 0.5 * np.array([2.0, 1.0]) + 0.25 * np.array([0.0, 3.0])
    np.testing.assert_allclose(material(np.float32([[corner[0]]]), np.float32([[corner[1]]]))[:, 0, 0], (5, 7.5, 0))


def test_light_scales_and_gloss_whitens():
    dim = painting.lit(painting.plain(RED), 0.5)(0, 0)
    np.testing.assert_allclose(dim[:, 0, 0], np.multiply(RED, 0.5))
    bright = painting.lit(painting.plain(RED), lambda x, y: 1.1 + 0 * x, gloss=0.5)(np.zeros((1, 1), np.float32), 0)
    np.testing.assert_allclose(bright[:, 0, 0], np.multiply(RED, 1.1) + 127.5, rtol=1e-4)


def test_colors_are_in_range_and_respect_their_limits():
    random = rng()
    colors = np.array([painting.random_color(random, 0.5, (0.2, 0.8)) for _ in range(500)]) / 255
    brightest, darkest = colors.max(axis=1), colors.min(axis=1)
    assert brightest.max() <= 0.8 + 1e-9 and brightest.min() >= 0.2 - 1e-9
    assert (1 - darkest / brightest).max() <= 0.5 + 1e-9
    assert {0, 1, 2} == set(colors.argmax(axis=1).tolist())
