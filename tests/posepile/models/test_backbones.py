import dataclasses
import hashlib

import keras
import numpy as np
import pytest

from posepile.models import backbones
from posepile.models.backbones import SpaceToDepth, build_backbone, swap_layers
from posepile.models.constraints import CONVOLUTION_AXES, DEPTHWISE_AXES, KernelMaxNorm
from posepile.models.normalization import GhostBatchNormalization

B0 = "efficientnetv2-b0"


def _images(num_images, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)


def _randomize(model, seed=0):
    """Gives every weight, stored statistics included, a value that shows when it lands in the wrong place."""
    rng = np.random.default_rng(seed)
    model.set_weights([weight + rng.uniform(0, 0.1, weight.shape) if weight.ndim == 1
                       else weight * rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def _application(constructor, side=64):
    """The untouched network of keras.applications with its own input scaling."""
    return constructor(include_top=False, weights=None, input_shape=(side, side, 3), include_preprocessing=True)


@pytest.fixture(scope="module")
def original_b0():
    return _randomize(_application(keras.applications.EfficientNetV2B0))


@pytest.fixture(scope="module")
def swapped_b0():
    return build_backbone(B0, 64, group_sizes=4)


def test_swapped_model_equals_original_at_inference(original_b0, swapped_b0):
    swapped_b0.set_weights(original_b0.get_weights())
    expected = keras.ops.convert_to_numpy(original_b0(_images(2, 64), training=False))
    assert expected.shape == (2, 2, 2, 1280) and np.abs(expected).max() > 0.1
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(swapped_b0(_images(2, 64), training=False), expected, rtol=1e-5, atol=tolerance)


def test_swapped_layers(original_b0, swapped_b0):
    layers = {layer.name: layer for layer in swapped_b0.layers}
    num_norms, num_convs = 0, 0
    for old in original_b0.layers:
        if isinstance(old, keras.layers.BatchNormalization):
            new = layers[old.name]
            assert (type(new), new.group_sizes) == (GhostBatchNormalization, 4)
            assert (new.momentum, new.epsilon) == (old.momentum, old.epsilon) == (0.9, 1e-3)
            assert [w.name for w in new.weights] == [w.name for w in old.weights]
            num_norms += 1
        elif isinstance(old, keras.layers.DepthwiseConv2D):
            constraint = layers[old.name].kernel.constraint
            assert isinstance(constraint, KernelMaxNorm) and constraint.axes == DEPTHWISE_AXES
            num_convs += 1
        elif isinstance(old, keras.layers.Conv2D):
            constraint = layers[old.name].kernel.constraint
            assert isinstance(constraint, KernelMaxNorm) and constraint.axes == CONVOLUTION_AXES
            num_convs += 1
        elif isinstance(old, keras.layers.Dropout):
            assert (layers[old.name].rate, layers[old.name].noise_shape) == (old.rate, old.noise_shape)
    # 1 stem, 5 fused blocks (one without expansion), 16 MBConv blocks with 4 convolutions besides the depthwise, 1 top
    assert (num_norms, num_convs) == (1 + 9 + 16 * 3 + 1, 1 + 9 + 16 * 5 + 1)


def test_input_scaling_of_the_larger_networks():
    image = keras.Input((64, 64, 3))
    scaled = keras.layers.Rescaling(backbones.BACKBONES["efficientnetv2-s"].input_scale,
                                    backbones.BACKBONES["efficientnetv2-s"].input_offset)(image)
    published = [layer for layer in _application(keras.applications.EfficientNetV2S).layers
                 if isinstance(layer, keras.layers.Rescaling)]
    assert len(published) == 1
    x = _images(1, 64)
    np.testing.assert_allclose(keras.Model(image, scaled)(x), published[0](x), atol=1e-6)


@pytest.mark.parametrize("side", [64, 128])
def test_tiny_features(side):
    model = build_backbone("tiny", side)
    assert 0.8e6 < model.count_params() < 1.5e6
    from_bytes = keras.ops.convert_to_numpy(model(_images(2, side)))
    assert from_bytes.shape[:3] == (2, side // 8, side // 8)
    np.testing.assert_array_equal(from_bytes, model(_images(2, side).astype("float32")))


def test_tiny_features_lie_where_the_pixels_are():
    model = build_backbone("tiny", 128)
    image = np.full((1, 128, 128, 3), 128, np.uint8)
    marked = image.copy()
    marked[0, 40:48, 88:96] = 255  # the cell of row 5, column 11
    change = np.abs(np.subtract(model(marked), model(image))).sum(axis=(0, 3))
    centroid = (np.indices(change.shape) * change).sum(axis=(1, 2)) / change.sum()
    np.testing.assert_allclose(centroid, (5, 11), atol=0.75)  # random weights do not weigh the neighbours alike


def test_tiny_learns():
    model = build_backbone("tiny", 64, group_sizes=4)
    trained = keras.Sequential([model, keras.layers.GlobalAveragePooling2D(),
                                keras.layers.Dense(1, kernel_initializer="zeros")])
    trained.compile(keras.optimizers.Adam(3e-4), "mse")
    images = _images(8, 64)
    images[::2] //= 2
    is_dark = np.float32(np.arange(8) % 2 == 0)[:, None]
    losses = []
    for _ in range(20):
        trained.reset_metrics()  # train_on_batch returns the mean since the last reset
        losses.append(float(trained.train_on_batch(images, is_dark)))
    assert losses[0] == 0.5  # of predicting 0 for as many zeros as ones; no constant gets below 0.25
    assert min(losses[-10:]) < 0.05


def _small_model():
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 3, name="conv", bias_initializer="random_normal")(image)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Dropout(0.5, name="drop1")(x)
    return keras.Model(image, keras.layers.Dropout(0.5, name="drop2")(x))


def _run(seed):
    model = swap_layers(_small_model(), 4, seed)
    outputs = [keras.ops.convert_to_numpy(model(np.ones((8, 4, 4, 3)), training=True)) for _ in range(2)]
    return [*model.get_weights(), *outputs]


def test_seed_repeats_weights_and_dropout():
    keras.utils.set_random_seed(1)
    first = _run(seed=7)
    keras.utils.set_random_seed(2)
    for value, again in zip(first, _run(seed=7), strict=True):
        np.testing.assert_array_equal(value, again)
    other = _run(seed=8)
    assert np.abs(first[0] - other[0]).max() > 0.01  # the kernel
    assert ((first[-1] == 0) != (other[-1] == 0)).any()  # what is dropped
    assert ((first[-1] == 0) != (first[-2] == 0)).any()  # next call, next draw


def test_layers_have_different_seeds():
    layers = {layer.name: layer for layer in swap_layers(_small_model(), 4, seed=7).layers}
    conv = layers["conv"].get_config()
    seeds = [layers["drop1"].get_config()["seed"], layers["drop2"].get_config()["seed"],
             conv["kernel_initializer"]["config"]["seed"], conv["bias_initializer"]["config"]["seed"]]
    assert len(set(seeds)) == 4


def test_saved_model_comes_back(tmp_path):
    model = _randomize(build_backbone("tiny", 64, group_sizes=(6, 2)))
    model.save(tmp_path / "tiny.keras")
    loaded = keras.models.load_model(tmp_path / "tiny.keras")
    for is_training in (False, True):
        np.testing.assert_allclose(loaded(_images(8, 64), training=is_training),
                                   model(_images(8, 64), training=is_training), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="make up 8"):
        loaded(_images(4, 64), training=True)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_from_file(tmp_path, suffix):
    model = _randomize(build_backbone("tiny", 64))
    path = tmp_path / f"tiny{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    loaded = build_backbone("tiny", 128, group_sizes=None, weights=path, seed=3)
    for weight, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_from_file_of_keras_applications(tmp_path, original_b0, suffix):
    path = tmp_path / f"b0{suffix}"
    original_b0.save_weights(path) if suffix == ".weights.h5" else original_b0.save(path)
    loaded = build_backbone(B0, 96, weights=path)
    for weight, wanted in zip(loaded.get_weights(), original_b0.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, wanted)


def test_imagenet_weights_are_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbones, "_APPLICATIONS_URL", f"{tmp_path.as_uri()}/")
    model = _randomize(build_backbone("tiny", 64))
    model.save_weights(tmp_path / "tiny.weights.h5")
    content = (tmp_path / "tiny.weights.h5").read_bytes()
    published = dataclasses.replace(backbones.BACKBONES["tiny"], imagenet_file="tiny.weights.h5",
                                    imagenet_md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(backbones.BACKBONES, "tiny", published)
    cached = tmp_path / "home" / "models" / "tiny.weights.h5"

    (tmp_path / "tiny.weights.h5").write_bytes(content[:-1])
    with pytest.raises(ConnectionError, match=r"Could not download .*MD5 .* put it at .*home/models/tiny\.weights\.h5"):
        build_backbone("tiny", 64, weights="imagenet")
    assert list(cached.parent.iterdir()) == []

    (tmp_path / "tiny.weights.h5").write_bytes(content)
    build_backbone("tiny", 64, weights="imagenet")
    (tmp_path / "tiny.weights.h5").unlink()
    again = build_backbone("tiny", 64, weights="imagenet")  # from the cache
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])

    cached.unlink()
    with pytest.raises(ConnectionError, match=r"Could not download .*tiny\.weights\.h5 .*weights='none'"):
        build_backbone("tiny", 64, weights="imagenet")


def test_weights_that_do_not_fit_or_do_not_exist(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5' do not fit the backbone 'tiny'"):
        build_backbone("tiny", 64, weights=tmp_path / "other.weights.h5")
    (tmp_path / "broken.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match=r"broken\.weights\.h5' do not fit"):
        build_backbone("tiny", 64, weights=tmp_path / "broken.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"no file of backbone weights '/nowhere/x\.keras'"):
        build_backbone("tiny", 64, weights="/nowhere/x.keras")
    with pytest.raises(ValueError, match=r"'tiny' has no ImageNet weights.*efficientnetv2-b0"):
        build_backbone("tiny", 64, weights="imagenet")


def test_refuses_unknown_names_and_sides():
    with pytest.raises(ValueError, match=r"Unknown backbone 'resnet'; expected one of: .*efficientnetv2-s, tiny"):
        build_backbone("resnet", 256)
    with pytest.raises(ValueError, match=r"crop_side=250 px; expected a positive multiple of its stride, 32 px.* 256"):
        build_backbone("efficientnetv2-l", 250)


def test_space_to_depth_worked_example():
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    blocks = keras.ops.convert_to_numpy(SpaceToDepth(2)(image))
    assert blocks.shape == (1, 2, 2, 4) == SpaceToDepth(2).compute_output_shape((1, 4, 4, 1))
    np.testing.assert_array_equal(blocks[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(blocks[0, 1, 0], [8, 9, 12, 13])
