import colorsys
import dataclasses
import itertools

import numpy as np
import pytest

from posepile.data import augmentation, crops
from posepile.data.augmentation import (
    NO_AUGMENTATION,
    AugmentationConfig,
    color_transform,
    random_background,
    random_color_transform,
    random_geometry,
    random_occlusion,
)

STREAM = np.arange(20_000)


def test_geometry_covers_the_configured_ranges_uniformly():
    geometry = random_geometry(AugmentationConfig(), 1, "a", STREAM)
    radius = np.linalg.norm(geometry["shift"], axis=1)
    # Uniform in the disc of radius 0.1: a quarter within half the radius, the mean vector 0.
    assert radius.max() <= 0.1 and radius.max() > 0.0995
    assert abs(np.mean(radius < 0.05) - 0.25) < 0.015
    assert np.abs(geometry["shift"].mean(axis=0)).max() < 0.002
    assert 0.75 <= geometry["zoom"].min() < 0.752 and 1.248 < geometry["zoom"].max() <= 1.25
    assert abs(geometry["zoom"].mean() - 1) < 0.005
    assert np.deg2rad(-20) <= geometry["roll"].min() < np.deg2rad(-19.9)
    assert np.deg2rad(19.9) < geometry["roll"].max() <= np.deg2rad(20)
    assert abs(geometry["flip"].mean() - 0.5) < 0.02
    columns = np.column_stack([geometry["shift"], geometry["zoom"], geometry["roll"], geometry["flip"]])
    assert np.abs(np.corrcoef(columns.T) - np.eye(5)).max() < 5 / np.sqrt(len(STREAM))


def test_no_augmentation_changes_nothing():
    geometry = random_geometry(augmentation.NO_AUGMENTATION, 1, "a", np.arange(50))
    assert not geometry["shift"].any() and not geometry["roll"].any() and not geometry["flip"].any()
    assert (geometry["zoom"] == 1).all()
    linear, mean_gain, offset = random_color_transform(augmentation.NO_AUGMENTATION, 1, "a", np.arange(50))
    np.testing.assert_allclose(linear, np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(mean_gain, 0, atol=1e-12)
    np.testing.assert_allclose(offset, 0, atol=1e-12)


def test_examples_are_independent_of_their_company():
    whole = random_color_transform(AugmentationConfig(), 1, "a", np.arange(10))
    part = random_color_transform(AugmentationConfig(), 1, "a", np.arange(4, 6))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[4:6], b)


def test_a_part_of_the_person_fills_the_crop():
    """With all else at rest, the window that shift and zoom describe lies inside the square of the box."""
    config = dataclasses.replace(NO_AUGMENTATION, partial_visibility_probability=0.4)
    geometry = random_geometry(config, 1, "a", STREAM)
    side, center = 1 / geometry["zoom"], geometry["shift"]
    is_partial = side < 1
    assert abs(is_partial.mean() - 0.4) < 0.015 and not center[~is_partial].any()
    assert side.min() < 0.501 and abs(side[is_partial].mean() - 0.75) < 0.01
    reach = np.abs(center[is_partial]).max(axis=1) + side[is_partial] / 2
    assert reach.max() <= 0.5 + 1e-12 and reach.max() > 0.499
    # The other variations draw the same numbers as without it, in the scale of the part.
    whole, part = (random_geometry(dataclasses.replace(AugmentationConfig(), partial_visibility_probability=p), 1, "a", STREAM)
                   for p in (0, 0.4))
    np.testing.assert_allclose(part["zoom"], whole["zoom"] / side)
    np.testing.assert_allclose(part["shift"], center + side[:, None] * whole["shift"])
    np.testing.assert_array_equal(part["roll"], whole["roll"])


@pytest.mark.parametrize("kind, probability", [("3d", 0.5), ("2d", 0.7)])
def test_occlusions_have_the_published_shares_and_sizes(kind, probability):
    occlusion = random_occlusion(AugmentationConfig(), kind, 1, "a", STREAM)
    is_erased, is_pasted = occlusion.erased[:, 2] > 0, occlusion.num_objects > 0
    assert not (is_erased & is_pasted).any()
    assert abs(is_erased.mean() - probability / 2) < 0.012 and abs(is_pasted.mean() - probability / 2) < 0.012
    x, y, width, height = occlusion.erased[is_erased].T
    assert (x >= 0).all() and (y >= 0).all() and (x + width <= 1 + 1e-9).all() and (y + height <= 1 + 1e-9).all()
    area, aspect = width * height, height / width
    assert 0.02 - 1e-9 <= area[width < 1].min() < 0.021 and area.max() <= 1 / 3 + 1e-9 and area.max() > 0.33
    assert 0.3 <= aspect.min() < 0.31 and 3.2 < aspect.max() <= 1 / 0.3 + 1e-9
    assert abs(np.mean(aspect > 1) - 0.5) < 0.02  # as often tall as wide
    counts = np.bincount(occlusion.num_objects[is_pasted], minlength=7)
    assert counts[0] == 0 and len(counts) == 7 and np.abs(counts[1:] / is_pasted.sum() - 1 / 6).max() < 0.02
    longer_side = occlusion.objects[..., 1]
    assert 0.1 <= longer_side.min() < 0.101 and 0.499 < longer_side.max() <= 0.5
    assert occlusion.objects.shape == (len(STREAM), 6, 5)


def test_share_of_other_backgrounds():
    choice = random_background(AugmentationConfig(), 1, "a", STREAM)
    assert abs(choice.is_replaced.mean() - 0.7) < 0.012
    assert choice.picture.shape == (len(STREAM), 4) and choice.picture.min() >= 0 and choice.picture.max() < 1


def test_what_is_pasted_is_independent_of_geometry_and_colour():
    """Settings of one kind of variation change nothing of another's."""
    usual, other = AugmentationConfig(), AugmentationConfig(occlusion_probability=1.0, background_probability=0.1, zoom=(1, 1))
    rolls = [random_geometry(config, 1, "a", STREAM)["roll"] for config in (usual, other)]
    np.testing.assert_array_equal(*rolls)
    for a, b in zip(random_color_transform(usual, 1, "a", STREAM[:9]), random_color_transform(other, 1, "a", STREAM[:9]),
                    strict=True):
        np.testing.assert_array_equal(a, b)
    uniform = np.column_stack([
        random_geometry(usual, 1, "a", STREAM)["zoom"], random_background(usual, 1, "a", STREAM).picture,
        random_occlusion(usual, "3d", 1, "a", STREAM).objects[:, :2].reshape(len(STREAM), -1)])
    assert np.abs(np.corrcoef(uniform.T) - np.eye(uniform.shape[1])).max() < 5 / np.sqrt(len(STREAM))


@pytest.mark.parametrize("name, value, message", [
    ("num_occluders", (1.5, 3), "num_occluders must be two whole numbers"), ("num_occluders", (1, 10**9), "up to 100"),
    ("erased_area", (0.1, 1.5), "erased_area must end at 1 or less"), ("occlusion_probability_2d", 2, "in 0 .. 1"),
    ("zoom", (1.2, 0.8), "zoom must be a range"), ("contrast", (0.0, 1.0), "contrast must be a range"),
    ("shift", -0.1, "shift must be 0 or more"), ("flip_probability", 1.5, "flip_probability must be in 0 .. 1")])
def test_impossible_settings_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**{name: value})


def apply_step_by_step(image, brightness, contrast, hue, saturation, order):
    """The definition of the colour changes, one float image after another."""
    for step in order:
        red, green, blue = np.moveaxis(image, -1, 0)
        gray = (0.299 * red + 0.587 * green + 0.114 * blue)[..., None]
        if step == 0:
            image = image + brightness
        elif step == 1:
            mean = image.mean(axis=(0, 1))
            image = mean + contrast * (image - mean)
        elif step == 2:
            i = 0.595716 * red - 0.274453 * green - 0.321263 * blue
            q = 0.211456 * red - 0.522591 * green + 0.311135 * blue
            i, q = i * np.cos(hue) - q * np.sin(hue), i * np.sin(hue) + q * np.cos(hue)
            image = gray + np.stack([0.9563 * i + 0.6210 * q, -0.2721 * i - 0.6474 * q, -1.1070 * i + 1.7046 * q], -1)
        else:
            image = gray + saturation * (image - gray)
    return image


@pytest.mark.parametrize("order", [*itertools.permutations(range(4)), (1, 0, 1, 3), (0, 1, 2, 1)])
def test_folded_color_transform_equals_the_steps(order):
    rng = np.random.default_rng(order)
    image = rng.integers(60, 200, (9, 11, 3), np.uint8)
    brightness, contrast, hue, saturation = rng.uniform(-30, 30), rng.uniform(0.5, 1.5), rng.uniform(-1.2, 1.2), 1.3
    expected = apply_step_by_step(image.astype(np.float64), brightness, contrast, hue, saturation, order)
    folded = [array[0] for array in color_transform(np.array([brightness]), np.array([contrast]), np.array([hue]),
                                                     np.array([saturation]), np.array([order]))]
    in_float = image @ folded[0].T + folded[1] @ image.mean(axis=(0, 1)) + folded[2]
    np.testing.assert_allclose(in_float, expected, atol=0.05)  # the published YIQ matrices are rounded to 4 digits
    # In uint8, rounded and clipped; OpenCV's fixed-point arithmetic may be off by one.
    result = crops.transform_colors(image, *folded)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, np.clip(expected, 0, 255), atol=1.1)


def test_hue_turns_colors_and_keeps_grays():
    folded = color_transform(np.zeros(1), np.ones(1), np.deg2rad([60.0]), np.ones(1), np.array([[0, 1, 2, 3]]))
    turned = crops.transform_colors(np.uint8([[[180, 90, 90], [128, 128, 128]]]), *(a[0] for a in folded))
    assert np.abs(turned[0, 1].astype(int) - 128).max() <= 1
    hue_degrees = 360 * colorsys.rgb_to_hsv(*turned[0, 0] / 255)[0]
    # Red turns by about 60 degrees; YIQ and HSV measure hue differently.
    assert 30 < min(hue_degrees, 360 - hue_degrees) < 90


def test_extreme_colors_saturate_instead_of_wrapping():
    image = np.uint8([[[250, 5, 128]]])
    folded = color_transform(np.array([100.0]), np.ones(1), np.zeros(1), np.ones(1), np.array([[0, 1, 2, 3]]))
    np.testing.assert_array_equal(crops.transform_colors(image, *(a[0] for a in folded)), [[[255, 105, 228]]])
