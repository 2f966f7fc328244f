import functools

import keras
import numpy as np
import pytest

from posepile.models import backbones
from posepile.models.backbones import SpaceToDepth, backbone_info, build_backbone, list_backbones, swap_layers
from posepile.models.constraints import CONVOLUTION_AXES, DEPTHWISE_AXES, KernelMaxNorm
from posepile.models.heads import HeatmapGeometry
from posepile.models.normalization import GhostBatchNormalization
from tests.posepile.models import applications
from tests.posepile.models.applications import noise_images, randomize


# Stem, blocks and top. EfficientNetV2-B0: 5 fused blocks (one without expansion), 16 of 3 normalised and 2 more
# convolutions. ResNet50: 16 blocks of 3, shortcuts of 4. MobileNetV3: a block of 2, 10 or 14 of 3, 2 more in 9 or 8.
@pytest.mark.parametrize(("name", "num_norms", "num_convs"), [
    ("efficientnetv2-b0", 1 + 9 + 16 * 3 + 1, 1 + 9 + 16 * 5 + 1), ("resnet50", 1 + 16 * 3 + 4, 1 + 16 * 3 + 4),
    ("mobilenetv3-small", 1 + 2 + 10 * 3 + 1, 1 + 2 + 10 * 3 + 9 * 2 + 1),
    ("mobilenetv3-large", 1 + 2 + 14 * 3 + 1, 1 + 2 + 14 * 3 + 8 * 2 + 1)])
def test_swapped_layers(name, num_norms, num_convs):
    swapped = applications.without_weights(lambda: build_backbone(name, 64, group_sizes=4))
    original = applications.without_weights(lambda: applications.stock(name))
    # files and set_weights go by the order
    assert [weight.path for weight in swapped.weights] == [weight.path for weight in original.weights]
    layers = {layer.name: layer for layer in swapped.layers}
    norms, convs = [], []
    for old in original.layers:
        if isinstance(old, keras.layers.BatchNormalization):
            new = layers[old.name]
            assert (type(new), new.group_sizes) == (GhostBatchNormalization, 4)
            assert (new.momentum, new.epsilon) == (old.momentum, old.epsilon)
            norms.append(old)
        elif old.weights:  # nothing but convolutions, or the table has no axes for it
            axes = {keras.layers.DepthwiseConv2D: DEPTHWISE_AXES, keras.layers.Conv2D: CONVOLUTION_AXES}[type(old)]
            constraint = layers[old.name].kernel.constraint
            assert isinstance(constraint, KernelMaxNorm) and constraint.axes == axes
            convs.append(old)
        elif isinstance(old, keras.layers.Dropout):
            assert (layers[old.name].rate, layers[old.name].noise_shape) == (old.rate, old.noise_shape)
    assert (len(norms), len(convs)) == (num_norms, num_convs)


@functools.cache
def _backbone_without_weights(name, side):
    return applications.without_weights(functools.partial(build_backbone, name, side))


def _centre_tap(shape, dtype):
    kernel = np.zeros(shape, dtype)
    kernel[shape[0] // 2, shape[1] // 2] = 1
    return kernel


def _mean(shape, dtype):
    return np.full(shape, 1 / np.prod(shape), dtype)


def _linear_probe(model, kernel_initializer, side):
    """A copy of one channel, made of the convolutions, pooling included, paddings, shortcuts and sums of `model`.

    Activations, normalisations, gates and input scaling pass on what they get. Returns: a function from an image,
    [side, side], the same in all channels, to the response of every feature cell, [side / stride, side / stride].
    """
    def linear(layer):
        if isinstance(layer, (keras.layers.Add, keras.layers.ZeroPadding2D, keras.layers.Cropping2D, SpaceToDepth)):
            return type(layer).from_config(layer.get_config())
        window = getattr(layer, "kernel_size", getattr(layer, "pool_size", None))
        if window is None or isinstance(layer, keras.layers.GlobalAveragePooling2D):
            return keras.layers.Identity()
        return keras.layers.Conv2D(1, window, layer.strides, layer.padding, use_bias=False,
                                   kernel_initializer=kernel_initializer)

    def call(layer, *args, **_):
        return keras.tree.flatten(args)[0] if isinstance(layer, keras.layers.Identity) else layer(*args)

    probe = keras.models.clone_model(model, keras.Input((side, side, 3)), linear, call)
    return lambda image: keras.ops.convert_to_numpy(probe(np.tile(np.float32(image)[None, ..., None], 3)))[0, ..., 0]


@pytest.mark.parametrize(("name", "side"), [
    (name, side) for name in list_backbones() for side in (64, 128, 256, 384)
    if side == 64 or name not in {"efficientnetv2-m", "efficientnetv2-l"}])  # their strides are those of S; see below
def test_centre_of_every_cell_is_where_the_geometry_says(name, side):
    info = backbone_info(name)
    probe = _linear_probe(_backbone_without_weights(name, side), _centre_tap, side)
    image = np.random.default_rng(0).permutation(side * side).reshape(side, side)  # its values tell the pixels apart
    centers = HeatmapGeometry(side, info.stride, info.first_center).to_pixels(np.linspace(0, 1, side // info.stride))
    block_side = 4 if name == "tiny" else 1  # px, of SpaceToDepth
    first = np.rint(centers - (block_side - 1) / 2).astype(int)
    np.testing.assert_allclose(first + (block_side - 1) / 2, centers, atol=1e-9)
    blocks = np.lib.stride_tricks.sliding_window_view(image, (block_side, block_side))[np.ix_(first, first)]
    np.testing.assert_array_equal(probe(image) / probe(np.ones_like(image)), blocks.mean(axis=(2, 3)))


@pytest.mark.parametrize("name", list_backbones())
def test_centroid_of_what_a_cell_sees(name):
    # a crop so large that the cells in its middle see nothing of its borders
    side, info = 1536, backbone_info(name)
    probe = _linear_probe(_backbone_without_weights(name, 64), _mean, side)
    inner = slice(side // info.stride // 2 - 2, side // info.stride // 2 + 2)
    pixel = np.tile(np.arange(side), (side, 1))
    total = probe(np.ones((side, side)))
    centers = HeatmapGeometry(side, info.stride, info.first_center).to_pixels(np.linspace(0, 1, len(total)))[inner]
    np.testing.assert_allclose((probe(pixel) / total)[inner, inner], np.tile(centers, (4, 1)), atol=0.1)
    np.testing.assert_allclose((probe(pixel.T) / total)[inner, inner], np.tile(centers, (4, 1)).T, atol=0.1)


@pytest.mark.parametrize("name", list_backbones())
def test_the_grid_of_cells_is_centred(name):
    info = backbone_info(name)
    middle = HeatmapGeometry(256, info.stride, info.first_center).to_pixels(0.5)
    assert abs(middle - 255 / 2) <= (2 if name == "tiny" else 0.5)  # px; a quarter of a cell of tiny


def _strided_layers(name):
    """What decides on which pixels the cells of a backbone lie: whatever is not a plain 'same' convolution."""
    layers = [layer for layer in _backbone_without_weights(name, 64).layers
              if isinstance(layer, (keras.layers.ZeroPadding2D, keras.layers.Cropping2D))
              or (set(getattr(layer, "strides", (1, 1))) != {1} or getattr(layer, "padding", "same") != "same")]
    return [(layer.name, getattr(layer, "kernel_size", None), getattr(layer, "strides", None), layer.padding)
            for layer in layers]


@pytest.mark.parametrize("name", ["efficientnetv2-m", "efficientnetv2-l"])
def test_strided_layers_are_those_of_efficientnetv2_s(name):
    layers = _strided_layers(name)
    assert layers == _strided_layers("efficientnetv2-s")
    assert [layer[1:] for layer in layers] == [
        ((3, 3), (2, 2), "same")] * 4 + [(None, None, ((1, 0), (1, 0))), ((3, 3), (2, 2), "valid")]


@pytest.fixture(scope="module")
def resnet50():
    return randomize(build_backbone("resnet50", 64))


def _part(model, first, last):
    """From the input of one layer to the output of another, and noise to feed it with."""
    part = keras.Model(model.get_layer(first).input, model.get_layer(last).output)
    return part, np.random.default_rng(0).normal(size=(2, *part.input_shape[1:])).astype("float32")


@pytest.mark.parametrize(("stage", "phase"), [(3, 0), (4, 0), (5, 1)])
def test_resnet50_has_its_strides_in_the_3x3_convolutions(resnet50, stage, phase):
    def normalized_conv(x, index):
        conv = resnet50.get_layer(f"conv{stage}_block1_{index}_conv")
        norm = resnet50.get_layer(f"conv{stage}_block1_{index}_bn")
        return norm(keras.ops.conv(x, conv.kernel, padding="same") + conv.bias)

    strided, features = _part(resnet50, f"conv{stage}_block1_1_conv", f"conv{stage}_block1_out")
    x = keras.ops.relu(normalized_conv(features, 1))
    x = normalized_conv(keras.ops.relu(normalized_conv(x, 2)), 3)
    without_strides = keras.ops.convert_to_numpy(keras.ops.relu(x + normalized_conv(features, 0)))
    tolerance = 1e-5 * np.abs(without_strides).max()
    np.testing.assert_allclose(strided(features), without_strides[:, phase::2, phase::2], rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(("name", "padding", "convolution"), [
    ("efficientnetv2-b0", "before_block6a_dwconv2", "block6a_dwconv2"),
    ("mobilenetv3-small", "expanded_conv_8_depthwise_pad", "expanded_conv_8_depthwise"),
    ("mobilenetv3-large", "expanded_conv_12_depthwise_pad", "expanded_conv_12_depthwise")])
def test_last_strided_layer_keeps_the_cells_of_even_index(name, padding, convolution):
    model = build_backbone(name, 128)
    strided, features = _part(model, padding, convolution)
    dense = keras.ops.depthwise_conv(features, model.get_layer(convolution).kernel, padding="same")
    np.testing.assert_allclose(strided(features), dense[:, ::2, ::2], atol=1e-6)


def test_input_scaling_of_the_larger_networks():
    image = keras.Input((64, 64, 3))
    scaled = keras.layers.Rescaling(backbones.BACKBONES["efficientnetv2-s"].input_scale,
                                    backbones.BACKBONES["efficientnetv2-s"].input_offset)(image)
    original = applications.without_weights(lambda: applications.stock("efficientnetv2-s"))
    published = [layer for layer in original.layers if isinstance(layer, keras.layers.Rescaling)]
    assert len(published) == 1
    x = noise_images(1, 64)
    np.testing.assert_allclose(keras.Model(image, scaled)(x), published[0](x), atol=1e-6)


@pytest.mark.parametrize("side", [64, 128])
def test_tiny_features(side):
    model = build_backbone("tiny", side)
    assert 0.8e6 < model.count_params() < 1.5e6
    from_bytes = keras.ops.convert_to_numpy(model(noise_images(2, side)))
    assert from_bytes.shape[:3] == (2, side // 8, side // 8)
    np.testing.assert_array_equal(from_bytes, model(noise_images(2, side).astype("float32")))


def test_tiny_learns():
    model = build_backbone("tiny", 64, group_sizes=4)
    trained = keras.Sequential([model, keras.layers.GlobalAveragePooling2D(),
                                keras.layers.Dense(1, kernel_initializer="zeros")])
    trained.compile(keras.optimizers.Adam(3e-4), "mse")
    images = noise_images(8, 64)
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


def test_saved_tiny_network_comes_back(tmp_path):
    model = randomize(build_backbone("tiny", 64, group_sizes=(6, 2)))
    model.save(tmp_path / "tiny.keras")
    loaded = keras.models.load_model(tmp_path / "tiny.keras")
    for is_training in (False, True):
        np.testing.assert_allclose(loaded(noise_images(8, 64), training=is_training),
                                   model(noise_images(8, 64), training=is_training), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="make up 8"):
        loaded(noise_images(4, 64), training=True)


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv3-small"])
def test_saved_published_network_comes_back(name, tmp_path):
    model = randomize(build_backbone(name, 64))
    model.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    expected = keras.ops.convert_to_numpy(model(noise_images(2, 64)))
    np.testing.assert_allclose(loaded(noise_images(2, 64)), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_refuses_unknown_names_and_sides():
    with pytest.raises(ValueError, match=r"Unknown backbone 'resnet'; expected one of: .*efficientnetv2-s, .*tiny"):
        build_backbone("resnet", 256)
    with pytest.raises(ValueError, match=r"crop_side=250 px; expected a positive multiple of its stride, 32 px.* 256"):
        build_backbone("efficientnetv2-l", 250)


def test_space_to_depth_worked_example():
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    blocks = keras.ops.convert_to_numpy(SpaceToDepth(2)(image))
    assert blocks.shape == (1, 2, 2, 4) == SpaceToDepth(2).compute_output_shape((1, 4, 4, 1))
    np.testing.assert_array_equal(blocks[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(blocks[0, 1, 0], [8, 9, 12, 13])
