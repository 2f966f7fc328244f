import json

import keras
import numpy as np
import pytest

from posepile.models.normalization import GhostBatchNormalization

GROUPINGS = [(3, (3, 3, 3, 3)), ((6, 6), (6, 6)), ((9, 3), (9, 3)), ((7, 5), (7, 5)), ((12,), (12,))]


def _features(num_examples=12, seed=0):
    """[num_examples, 2, 3, 4]; every example and channel has a mean of its own."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_examples, 2, 3, 4)) * rng.uniform(0.5, 2, size=(1, 1, 1, 4))
            + rng.normal(scale=3, size=(num_examples, 1, 1, 4))).astype("float32")


def _with_random_weights(layer, num_channels=4, seed=1):
    layer.build((None, 2, 3, num_channels))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 2, size=weight.shape) for weight in layer.get_weights()])
    return layer


def test_worked_example():
    layer = GhostBatchNormalization(2, momentum=0.5, epsilon=0.0)
    x = np.array([0, 2, 10, 14], "float32").reshape(4, 1, 1, 1)
    y = keras.ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(y.ravel(), [-1, 1, -1, 1], atol=1e-6)
    # means 1 and 12: 0 -> 0.5 -> 6.25; variances 1 and 4: 1 -> 1 -> 2.5
    np.testing.assert_allclose(layer.get_weights()[2:], [[6.25], [2.5]], rtol=1e-6)


@pytest.mark.parametrize(("group_sizes", "sizes"), GROUPINGS)
def test_equals_plain_layer_called_group_after_group(group_sizes, sizes):
    ghost = _with_random_weights(GhostBatchNormalization(group_sizes, momentum=0.9))
    plain = _with_random_weights(keras.layers.BatchNormalization(momentum=0.9))
    for seed in range(3):
        x = _features(seed=seed)
        groups = np.split(x, np.cumsum(sizes)[:-1])
        expected = np.concatenate([keras.ops.convert_to_numpy(plain(group, training=True)) for group in groups])
        np.testing.assert_allclose(ghost(x, training=True), expected, rtol=1e-5, atol=1e-5)
        for actual, wanted in zip(ghost.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("group_sizes", "sizes"), GROUPINGS)
def test_gradients_equal_those_of_plain_layer_per_group(group_sizes, sizes):
    def conv():
        return keras.layers.Conv2D(4, 2, padding="same", kernel_initializer=keras.initializers.GlorotNormal(seed=3))

    image = keras.Input(batch_shape=(12, 2, 3, 4))
    ghost = keras.Model(image, GhostBatchNormalization(group_sizes)(conv()(image)))
    features, plain_norm = conv()(image), keras.layers.BatchNormalization()
    groups = keras.ops.split(features, np.cumsum(sizes)[:-1].tolist()) if len(sizes) > 1 else [features]
    plain = keras.Model(image, keras.ops.concatenate([plain_norm(group) for group in groups]))

    target = _features(seed=5)
    trained = []
    for model in (ghost, plain):
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=keras.backend.backend() != "jax")
        model.train_on_batch(_features(), target)
        assert any(np.abs(new - old).max() > 1e-3 for new, old in zip(model.get_weights(), before, strict=True))
        trained.append(model.get_weights())
    for actual, wanted in zip(*trained, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=2e-6)


def test_channels_first():
    last = _with_random_weights(GhostBatchNormalization((9, 3)))
    first = GhostBatchNormalization((9, 3), axis=1)
    first.build((None, 4, 2, 3))
    first.set_weights(last.get_weights())
    y = first(_features().transpose(0, 3, 1, 2), training=True)
    np.testing.assert_allclose(np.transpose(y, (0, 2, 3, 1)), last(_features(), training=True), atol=1e-5)


def test_statistics_are_float32_in_half_precision():
    x = (300 + _features(32, seed=2)).astype("float16")  # the squares exceed float16's range
    layer = GhostBatchNormalization(16, momentum=0.0, dtype="mixed_float16")
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    last_group = x[16:].astype("float64").reshape(-1, 4)
    np.testing.assert_allclose(layer.moving_mean, last_group.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, last_group.var(axis=0), rtol=1e-4)
    expected = (last_group - last_group.mean(axis=0)) / np.sqrt(last_group.var(axis=0) + 1e-3)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y)[16:].reshape(-1, 4), expected, atol=2e-3)


@pytest.mark.parametrize("freeze", ["inference", "use_stored_statistics", "trainable"])
def test_stored_statistics_when_frozen(freeze):
    layer = _with_random_weights(GhostBatchNormalization(5))  # does not divide 12, which only training minds
    gamma, beta, mean, variance = weights = layer.get_weights()
    if freeze != "inference":
        setattr(layer, freeze, freeze == "use_stored_statistics")
    y = layer(_features(), training=freeze != "inference")
    expected = (_features() - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for now, before in zip(layer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


def test_scale_and_offset_learn_from_stored_statistics():
    layer = GhostBatchNormalization(4)
    layer.use_stored_statistics = True
    model = keras.Sequential([keras.Input((2, 3, 4)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = _features()
    model.train_on_batch(x, np.zeros_like(x))
    gamma, beta, mean, variance = layer.get_weights()
    # y = gamma x / s + beta with s^2 = 1 + epsilon; the loss is the mean over 12 * 2 * 3 * 4 values
    np.testing.assert_allclose(beta, -2 * (x / np.sqrt(1.001)).mean(axis=(0, 1, 2)) / 4, rtol=1e-4)
    np.testing.assert_allclose(gamma, 1 - 2 * (x**2 / 1.001).mean(axis=(0, 1, 2)) / 4, rtol=1e-4)
    np.testing.assert_array_equal([mean, variance], [np.zeros(4), np.ones(4)])


def test_without_groups_equals_plain_layer():
    ghost = _with_random_weights(GhostBatchNormalization(None))
    plain = _with_random_weights(keras.layers.BatchNormalization())
    np.testing.assert_array_equal(ghost(_features(), training=True), plain(_features(), training=True))
    for actual, wanted in zip(ghost.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow traces with unknown sizes")
@pytest.mark.parametrize("group_sizes", [3, (9, 3)])
def test_batch_of_unknown_size(group_sizes):
    tf = pytest.importorskip("tensorflow")
    static = _with_random_weights(GhostBatchNormalization(group_sizes))
    dynamic = _with_random_weights(GhostBatchNormalization(group_sizes))
    call = tf.function(lambda x: dynamic(x, training=True), input_signature=[tf.TensorSpec([None, None, 3, 4])])
    np.testing.assert_allclose(call(_features()), static(_features(), training=True), atol=1e-5)
    for actual, wanted in zip(dynamic.get_weights(), static.get_weights(), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize("group_sizes", [16, (96, 32), None])
def test_config_round_trip(group_sizes):
    layer = GhostBatchNormalization(group_sizes, momentum=0.9, epsilon=1e-4, axis=1, name="norm")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is GhostBatchNormalization
    assert (copy.group_sizes, copy.momentum, copy.epsilon, copy.axis, copy.name) == (
        group_sizes, 0.9, 1e-4, 1, "norm")


@pytest.mark.parametrize("group_sizes", [0, -16, 2.5, (96, 0), (), "16", True])
def test_refuses_bad_group_sizes(group_sizes):
    with pytest.raises(ValueError, match=r"group_sizes is .* expected the number of examples per group"):
        GhostBatchNormalization(group_sizes)


def test_refuses_batch_that_groups_do_not_make_up():
    with pytest.raises(ValueError, match=r"'bn1'.* 12 examples, which groups of 5 do not divide"):
        GhostBatchNormalization(5, name="bn1")(_features(), training=True)
    with pytest.raises(ValueError, match=r"'bn1'.* 12 examples.* \(9, 4\) make up 13"):
        GhostBatchNormalization((9, 4), name="bn1")(_features(), training=True)


def test_refuses_what_needs_whole_batches():
    with pytest.raises(ValueError, match=r"renorm=True.*Use keras\.layers\.BatchNormalization"):
        GhostBatchNormalization(4, renorm=True)
    with pytest.raises(ValueError, match="got a mask"):
        GhostBatchNormalization(4)(_features(), training=True, mask=np.ones((12, 2, 3), bool))
