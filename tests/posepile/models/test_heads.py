import keras
import numpy as np
import pytest

from posepile.models.backbones import backbone_info, list_backbones
from posepile.models.heads import HeatmapGeometry, HeatmapHead


def _head_of_logits(logits, crop_side, stride, first_center, num_points, depth=8):
    """A head whose convolution passes its input on: the features are the logits."""
    head = HeatmapHead(num_points, crop_side, stride, first_center, depth=depth)
    channels = num_points * (1 + depth)
    head.build((None, *logits.shape[1:]))
    head.set_weights([np.eye(channels, dtype="float32")[None, None], np.zeros(channels, "float32")])
    return [keras.ops.convert_to_numpy(x) for x in head(logits.astype("float32"))]


def _peak(row, column, row3d, column3d, plane, side=8, depth=8):
    """Logits of one point: certain of one cell of the heatmap, and of one of the volume."""
    logits = np.zeros((1, side, side, 1 + depth), "float32")
    logits[0, row, column, 0] = 100
    logits[0, row3d, column3d, 1 + plane] = 100
    return logits


@pytest.mark.parametrize(("cell", "pixel"), [(0, 16), (7, 240), (3, 112)])
def test_peak_at_a_cell_gives_its_centre_in_px(cell, pixel):
    # 256 px at stride 32: 8 cells, 32 px apart, from 16 to 240
    joints2d, _ = _head_of_logits(_peak(cell, 7 - cell, 0, 0, 0), 256, 32, 16, 1)
    np.testing.assert_allclose(joints2d[0, 0], [256 - pixel, pixel], rtol=1e-6)


def test_peak_in_the_volume_in_mm():
    # x and y: 32 px per cell of a crop that is 2200 mm wide: 275 mm; z: 2200 mm over 8 planes, 7 steps
    _, first = _head_of_logits(_peak(0, 0, 0, 0, 0), 256, 32, 16, 1)
    _, second = _head_of_logits(_peak(0, 0, 2, 5, 7), 256, 32, 16, 1)
    np.testing.assert_allclose(second[0, 0] - first[0, 0], [5 * 275, 2 * 275, 2200], rtol=1e-6)


def test_two_equal_peaks_meet_in_the_middle():
    logits = _peak(0, 0, 0, 0, 0) + _peak(4, 2, 4, 2, 6)
    joints2d, joints3d = _head_of_logits(logits, 256, 32, 16, 1)
    np.testing.assert_allclose(joints2d[0, 0], [16 + 32, 16 + 64], rtol=1e-6)
    np.testing.assert_allclose(joints3d[0, 0], [275, 2 * 275, 3 / 7 * 2200], rtol=1e-6)


def test_extent_of_other_sides():
    assert HeatmapGeometry(256, 32, 15).extent == 224
    assert HeatmapGeometry(384, 32, 15).extent == 352
    assert HeatmapGeometry(64, 8, 5.5).extent == 56


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("crop_side", [64, 384])
def test_peak_at_a_cell_gives_the_pixel_that_the_cell_sees(name, crop_side):
    info = backbone_info(name)  # its first_center is measured in test_backbones
    side = crop_side // info.stride
    row, column = side - 1, side // 2
    joints2d, _ = _head_of_logits(_peak(row, column, 0, 0, 0, side), crop_side, info.stride, info.first_center, 1)
    np.testing.assert_allclose(joints2d[0, 0], [info.first_center + column * info.stride,
                                                info.first_center + row * info.stride], rtol=1e-6)


def test_equals_cell_by_cell_sums():
    side, depth, num_points, crop_side, stride, first_center = 4, 3, 2, 32, 8, 5.5
    logits = np.random.default_rng(0).normal(scale=2, size=(3, side, side, num_points * (1 + depth)))
    joints2d, joints3d = _head_of_logits(logits, crop_side, stride, first_center, num_points, depth)
    for example in range(3):
        for point in range(num_points):
            total2d, total3d, sum2d, sum3d = 0.0, 0.0, np.zeros(2), np.zeros(3)
            for row in range(side):
                for column in range(side):
                    weight = np.exp(logits[example, row, column, point])
                    total2d += weight
                    sum2d += weight * (np.array([column, row]) * stride + first_center)
                    for plane in range(depth):
                        weight = np.exp(logits[example, row, column, num_points + plane * num_points + point])
                        total3d += weight
                        sum3d += weight * np.array([column * stride * 2200 / crop_side, row * stride * 2200 / crop_side,
                                                    plane * 2200 / (depth - 1)])
            np.testing.assert_allclose(joints2d[example, point], sum2d / total2d, rtol=1e-5)
            np.testing.assert_allclose(joints3d[example, point], sum3d / total3d, rtol=1e-5, atol=1e-3)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def half_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_float32_read_out_in_half_precision(half_precision):
    features = np.random.default_rng(1).normal(size=(2, 8, 8, 16)).astype("float32")
    head = HeatmapHead(5, 256, 32, first_center=16)
    joints2d, joints3d = head(features)
    assert head.conv.compute_dtype == half_precision.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(joints2d.dtype) == "float32"
    assert keras.backend.standardize_dtype(joints3d.dtype) == "float32"
    # the same convolution result read out in float64 gives the same positions far below half precision's resolution
    logits = np.float64(keras.ops.convert_to_numpy(keras.ops.cast(head.conv(features), "float32")))
    weights = np.exp(logits[..., :5])
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    expected = np.einsum("bhwj,w->bj", weights, np.arange(8) * 32 + 16)
    np.testing.assert_allclose(joints2d[..., 0], expected, rtol=1e-5)


def test_comes_back_from_its_config():
    head = HeatmapHead(3, 64, 8, first_center=5.5, depth=4, kernel_seed=7, name="head")
    again = keras.layers.deserialize(keras.layers.serialize(head))
    features = np.random.default_rng(2).normal(size=(1, 8, 8, 6)).astype("float32")
    for ours, theirs in zip(head(features), again(features), strict=True):  # same seed, same weights
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape[:2] == (1, 3)
    assert again.get_config() == head.get_config()
    assert head.compute_output_shape((None, 8, 8, 6)) == ((None, 3, 2), (None, 3, 3))


def test_learns_a_position():
    features = np.eye(16, dtype="float32").reshape(1, 4, 4, 16)  # every cell has a channel of its own
    image = keras.Input((4, 4, 16))
    model = keras.Model(image, HeatmapHead(2, 32, 8, first_center=5.5)(image)[0])
    model.compile(keras.optimizers.Adam(0.1), "mae")
    target = np.array([[[6.0, 25.0], [20.0, 12.0]]], "float32")
    losses = [model.train_on_batch(features, target) for _ in range(40)]
    assert losses[-1] < 0.2 * losses[0]
