import json

import keras
import numpy as np
import pytest

from posepile.models.constraints import DEPTHWISE_AXES, KernelMaxNorm


def _apply(constraint, kernel):
    return keras.ops.convert_to_numpy(constraint(keras.ops.convert_to_tensor(np.asarray(kernel, "float32"))))


def test_convolution_filters_worked_example():
    kernel = np.zeros((1, 2, 1, 3), "float32")
    kernel[0, :, 0, 0] = [30, 40]  # norm 50
    kernel[0, :, 0, 1] = [3, 4]  # norm 5; the third filter is all zeros
    bounded = _apply(KernelMaxNorm(20.0), kernel)
    np.testing.assert_allclose(bounded[0, :, 0, 0], [12, 16], rtol=1e-6)
    np.testing.assert_array_equal(bounded[..., 1:], kernel[..., 1:])


def test_depthwise_filters_have_a_norm_per_channel_and_multiplier():
    kernel = np.array([[[[30, 3], [0, 60]]], [[[40, 4], [1, 80]]]], "float32")  # [2, 1, channels 2, multiplier 2]
    bounded = _apply(KernelMaxNorm(20.0, DEPTHWISE_AXES), kernel)
    np.testing.assert_allclose(bounded, [[[[12, 3], [0, 12]]], [[[16, 4], [1, 16]]]], rtol=1e-6)


def test_short_filters_stay_bitwise_the_same_under_repetition():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 32, 64)).astype("float32")  # norms 17 +- 0.7
    assert np.sqrt(np.square(kernel).sum(axis=(0, 1, 2))).max() < 20
    repeated = kernel
    for _ in range(10):
        repeated = _apply(KernelMaxNorm(20.0), repeated)
    np.testing.assert_array_equal(repeated, kernel)


@pytest.mark.parametrize("is_depthwise", [False, True])
def test_optimizer_applies_it(is_depthwise):
    if is_depthwise:
        layer = keras.layers.DepthwiseConv2D(3, depthwise_constraint=KernelMaxNorm(2.0, DEPTHWISE_AXES))
    else:
        layer = keras.layers.Conv2D(4, 3, kernel_constraint=KernelMaxNorm(2.0))
    model = keras.Sequential([keras.Input((5, 5, 4)), layer])
    model.compile(keras.optimizers.SGD(1e3), "mse")
    rng = np.random.default_rng(0)
    model.train_on_batch(rng.normal(size=(8, 5, 5, 4)), rng.normal(size=(8, 3, 3, 4)))
    squared = np.square(layer.get_weights()[0])
    norms = np.sqrt(squared.sum(axis=(0, 1) if is_depthwise else (0, 1, 2)))
    np.testing.assert_allclose(norms, 2.0, rtol=1e-5)


def test_config_round_trip():
    constraint = KernelMaxNorm(7.5, DEPTHWISE_AXES)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(constraint)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is KernelMaxNorm
    assert (copy.max_norm, copy.axes) == (7.5, DEPTHWISE_AXES)


def test_refuses_bad_arguments():
    with pytest.raises(ValueError, match="max_norm=0; expected a positive number"):
        KernelMaxNorm(0)
    with pytest.raises(ValueError, match="got no axes"):
        KernelMaxNorm(20.0, ())
