"""The image networks: one crop in, one feature map out, with Ghost BatchNorm and bounded kernels.

Published architectures come from keras.applications with single layers swapped, so that pretrained weights fit.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from posepile.models import constraints, normalization, pretrained

IMAGENET = "imagenet"
_TINY_MOMENTUM = 0.9  # of the stored statistics; keras.applications takes the same for EfficientNetV2


@dataclasses.dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone before it is built.

    Attributes:
        stride: px of the crop per cell of the feature map.
        first_center: px of the crop, whose pixel i has its centre at coordinate i: where the centre of feature cell 0
            looks, in x as in y; that of cell i looks i * stride further on.
        architecture: builds the network: takes the scaled image, a keras tensor [batch, side, side, 3], and returns
            the features, one [batch, side / stride, side / stride, channels].
        input_scale, input_offset: number, or [3] per RGB channel: the network sees pixel (0..255) * scale + offset.
        imagenet_file, imagenet_md5: the pretrained weights that keras.applications publishes, as folder/name, and their
            digest; None if there are none.
        config_changes, inserted_layers: see swap_layers.
    """

    stride: int
    first_center: float
    architecture: Callable[[keras.KerasTensor], keras.KerasTensor]
    input_scale: float | tuple[float, ...] = 1 / 128
    input_offset: float | tuple[float, ...] = -1.0
    imagenet_file: str | None = None
    imagenet_md5: str | None = None
    config_changes: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    inserted_layers: Mapping[str, Callable[..., keras.layers.Layer]] = dataclasses.field(default_factory=dict)


def list_backbones() -> list[str]:
    """The names that `build_backbone` takes."""
    return sorted(BACKBONES)


def backbone_info(name: str) -> BackboneInfo:
    """Raises: ValueError for an unknown name; the message lists the known ones."""
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone {name!r}; expected one of: {', '.join(list_backbones())}.")
    return BACKBONES[name]


def build_backbone(name: str, crop_side: int,
                   group_sizes: int | tuple[int, ...] | None = normalization.DEFAULT_GROUP_SIZE,
                   weights: str | os.PathLike | None = None, seed: int = 0,
                   max_kernel_norm: float | None = constraints.MAX_KERNEL_NORM) -> keras.Model:
    """Builds a network from crops, [batch, crop_side, crop_side, 3], RGB, 0..255 (uint8 or float), to features.

    The features are [batch, crop_side / stride, crop_side / stride, channels], of the global dtype policy. The weights
    of layers are the same for any `group_sizes`, so that files and checkpoints fit whatever it is.

    Args:
        name: one of list_backbones().
        crop_side: px, a multiple of the backbone's stride.
        group_sizes: of normalization.GhostBatchNormalization: 16, (96, 32), or None for plain BatchNorm.
        weights: None or "none": random; "imagenet": pretrained, downloaded on first use; otherwise the path of a file
            (.weights.h5, .keras, or the .h5 of keras.applications).
        seed: of the random initial weights and of dropout.
        max_kernel_norm: bound on the norm of every convolution filter; None for no bound.

    Raises: ValueError for an unknown name, a side that the stride does not divide, or weights that do not fit;
        FileNotFoundError if the file of weights is missing; ConnectionError if it cannot be downloaded.
    """
    info = backbone_info(name)
    if crop_side <= 0 or crop_side % info.stride:
        raise ValueError(f"Backbone {name!r} got crop_side={crop_side} px; expected a positive multiple of its stride, "
                         f"{info.stride} px, e.g. {max(1, round(crop_side / info.stride)) * info.stride}.")
    weights_path = _weights_path(name, info, weights)
    image = keras.Input((crop_side, crop_side, 3), name="image")
    # in float32, for in half precision the constants would be rounded
    scaled = keras.layers.Rescaling(info.input_scale, info.input_offset, dtype="float32", name="input_scaling")(image)
    original = keras.Model(image, info.architecture(scaled), name=name)
    swapped = swap_layers(original, group_sizes, seed, max_kernel_norm, info.config_changes, info.inserted_layers)
    if weights_path is not None:
        pretrained.load_weights(swapped, original, weights_path)
    return swapped


def swap_layers(model: keras.Model, group_sizes: int | tuple[int, ...] | None, seed: int = 0,
                max_kernel_norm: float | None = constraints.MAX_KERNEL_NORM,
                config_changes: Mapping[str, Mapping] | None = None,
                inserted_layers: Mapping[str, Callable[..., keras.layers.Layer]] | None = None) -> keras.Model:
    """A new model of the same layers and names, except that

    * BatchNormalization becomes GhostBatchNormalization with the same settings and weight names,
    * convolution kernels, depthwise ones too, are bounded in norm,
    * everything random, initial weights and dropout, has its own seed derived from `seed`,
    * `config_changes` and `inserted_layers` hold, which may move strides and paddings.

    Its weights are fresh; `new.set_weights(model.get_weights())` carries the old ones over.

    Args:
        model: a functional model.
        group_sizes: of GhostBatchNormalization.
        seed: any int >= 0.
        max_kernel_norm: see KernelMaxNorm; None for no bound.
        config_changes: name of a layer -> the items of its config that are different.
        inserted_layers: name of a layer -> what makes, given a name, the layer without weights that goes before it.
    """
    config_changes, inserted_layers = config_changes or {}, inserted_layers or {}
    index_of_operation = {operation.name: index for index, operation in enumerate(model.operations)}
    assert {*config_changes, *inserted_layers} <= index_of_operation.keys()

    def swap(layer):
        config = {**layer.get_config(), **config_changes.get(layer.name, {})}
        _set_seeds(config, np.random.SeedSequence([seed, index_of_operation[layer.name]]))
        if isinstance(layer, keras.layers.BatchNormalization):
            return normalization.GhostBatchNormalization.from_config({**config, "group_sizes": group_sizes})
        if max_kernel_norm is not None and isinstance(layer, keras.layers.DepthwiseConv2D):
            config["depthwise_constraint"] = constraints.KernelMaxNorm(max_kernel_norm, constraints.DEPTHWISE_AXES)
        elif max_kernel_norm is not None and isinstance(layer, keras.layers.Conv2D):
            config["kernel_constraint"] = constraints.KernelMaxNorm(max_kernel_norm, constraints.CONVOLUTION_AXES)
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        if layer.name in inserted_layers:
            args = (inserted_layers[layer.name](name=f"before_{layer.name}")(args[0]), *args[1:])
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=swap, call_function=call)


def _set_seeds(config: dict, seeds: np.random.SeedSequence) -> None:
    """Seeds a layer's config in place: its own seed, and those of its initializers, each a different one."""
    owners = [config] + [value["config"] for value in config.values()
                         if isinstance(value, dict) and isinstance(value.get("config"), dict)]
    for owner, seed in zip(owners, seeds.generate_state(len(owners)), strict=True):
        if "seed" in owner:
            owner["seed"] = int(seed >> 1)  # keras takes int32


def _weights_path(name: str, info: BackboneInfo, weights: str | os.PathLike | None) -> pathlib.Path | None:
    """The file of weights to load, downloaded if need be; None for random weights."""
    if weights is None or weights == "none":
        return None
    if weights != IMAGENET:
        return pretrained.existing_file(weights)
    if info.imagenet_file is None:
        others = [other for other in list_backbones() if BACKBONES[other].imagenet_file]
        raise ValueError(f"Backbone {name!r} has no ImageNet weights. Use weights='none' or the path of a file, or one "
                         f"of the pretrained backbones: {', '.join(others)}.")
    return pretrained.imagenet_file(info.imagenet_file, info.imagenet_md5)


@keras.saving.register_keras_serializable(package="posepile")
class SpaceToDepth(keras.layers.Layer):
    """[batch, height, width, channels] -> [batch, height / n, width / n, n n channels]: each block of n x n px a cell.

    Args:
        block_side: n, px; height and width must be multiples of it.
    """

    def __init__(self, block_side: int, **kwargs):
        super().__init__(**kwargs)
        self.block_side = int(block_side)

    def call(self, images):
        n = self.block_side
        _, height, width, channels = images.shape
        blocks = ops.reshape(images, (-1, height // n, n, width // n, n, channels))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (-1, height // n, width // n, n * n * channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height // self.block_side, width // self.block_side, self.block_side**2 * channels

    def get_config(self):
        return {**super().get_config(), "block_side": self.block_side}


def _tiny(image: keras.KerasTensor) -> keras.KerasTensor:
    """A small plain-convolution net of stride 8 for the demo and tests, made for speed on a CPU (0.9 M parameters).

    The stem goes to stride 4 in one step, on blocks of 4x4 px as channels, and the blocks are at stride 8, since layers at
    finer resolution are bound by memory. Activations are ReLU: SiLU costs a third of the training speed there.
    """
    x = _conv_bn_relu(SpaceToDepth(4, name="stem_blocks")(image), 64, name="stem")
    x = _conv_bn_relu(x, 128, strides=2, name="stage2_down")
    x = _residual_block(x, name="stage2_block1")
    x = _residual_block(x, name="stage2_block2")
    return _conv_bn_relu(x, 192, name="top")


def _residual_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Two 3x3 convolutions around a shortcut (He et al., CVPR 2016), same shape out as in."""
    channels = x.shape[-1]
    y = _conv_bn_relu(x, channels, name=f"{name}_1")
    y = _conv_bn(y, channels, name=f"{name}_2")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.add([x, y], name=f"{name}_add"))


def _conv_bn_relu(x: keras.KerasTensor, channels: int, name: str, strides: int = 1) -> keras.KerasTensor:
    return keras.layers.ReLU(name=f"{name}_relu")(_conv_bn(x, channels, name, strides))


def _conv_bn(x: keras.KerasTensor, channels: int, name: str, strides: int = 1) -> keras.KerasTensor:
    x = keras.layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False,
                            kernel_initializer="he_normal", name=f"{name}_conv")(x)
    return keras.layers.BatchNormalization(momentum=_TINY_MOMENTUM, name=f"{name}_bn")(x)


def _without_top(constructor: Callable[..., keras.Model], **kwargs) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """The published architecture without its classifier."""
    def architecture(image):
        return constructor(include_top=False, weights=None, input_tensor=image, **kwargs).output
    return architecture


def _resnet50(image: keras.KerasTensor) -> keras.KerasTensor:
    """The published architecture without its classifier, which expects the channels in the order BGR."""
    return _without_top(keras.applications.ResNet50)(ops.flip(image, axis=-1))


# Which pixels a feature cell sees. With stride 2, 3x3 kernels and an even side, 'same' pads one row below and one column
# right: cell i has its centre at input 2i + 1; padded above and left instead, at 2i. Five of the former put feature cell i
# on pixel 32i + 31, five of the latter on 32i: half a cell off the centre of the crop. With the last one of the other kind
# it is 32i + 15 or 32i + 16, and the grid is centred to half a pixel.
_ONE_BEFORE = ((1, 0), (1, 0))  # rows (above, below) and columns (left, right)
_pad_one_before = functools.partial(keras.layers.ZeroPadding2D, _ONE_BEFORE)
_crop_one_before = functools.partial(keras.layers.Cropping2D, _ONE_BEFORE)

_EFFICIENTNET_V2_CENTERED = {"config_changes": {"block6a_dwconv2": {"padding": "valid"}},
                             "inserted_layers": {"block6a_dwconv2": _pad_one_before}}

# V1.5 (fb.resnet.torch) has the stride of a stage in its first 3x3 convolution; V1, whose weights are published, in the 1x1
# before. The 1x1 convolution of the shortcut sees 2i, or behind a crop 2i + 1, and the main path must see the same.
_RESNET50_V1_5_CENTERED = {
    "config_changes": {
        **{f"conv{stage}_block1_1_conv": {"strides": (1, 1)} for stage in (3, 4, 5)},
        **{f"conv{stage}_block1_2_conv": {"strides": (2, 2), "padding": "valid"} for stage in (3, 4)},
        "conv5_block1_2_conv": {"strides": (2, 2)}},
    "inserted_layers": {"conv3_block1_2_conv": _pad_one_before, "conv4_block1_2_conv": _pad_one_before,
                        "conv5_block1_0_conv": _crop_one_before}}

_MOBILENET_V3_PADDING = {"padding": ((2, 1), (2, 1))}  # before a 5x5 kernel of stride 2; published: ((1, 2), (1, 2))

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])  # RGB in 0..1, for EfficientNetV2-B0; S, M and L take -1..1
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])
_CAFFE_MEAN = (123.68, 116.779, 103.939)  # RGB in 0..255, for ResNet50

BACKBONES = {
    "tiny": BackboneInfo(8, 5.5, _tiny),
    "efficientnetv2-b0": BackboneInfo(
        32, 15.0, _without_top(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        tuple((1 / 255 / _IMAGENET_STD).tolist()), tuple((-_IMAGENET_MEAN / _IMAGENET_STD).tolist()),
        "efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff", **_EFFICIENTNET_V2_CENTERED),
    "efficientnetv2-s": BackboneInfo(
        32, 15.0, _without_top(keras.applications.EfficientNetV2S, include_preprocessing=False),
        imagenet_file="efficientnet_v2/efficientnetv2-s_notop.h5", imagenet_md5="af0682fb74e8c54910f2d4393339c070",
        **_EFFICIENTNET_V2_CENTERED),
    "efficientnetv2-m": BackboneInfo(
        32, 15.0, _without_top(keras.applications.EfficientNetV2M, include_preprocessing=False),
        imagenet_file="efficientnet_v2/efficientnetv2-m_notop.h5", imagenet_md5="1b8dc055df72dde80d614482840fe342",
        **_EFFICIENTNET_V2_CENTERED),
    "efficientnetv2-l": BackboneInfo(
        32, 15.0, _without_top(keras.applications.EfficientNetV2L, include_preprocessing=False),
        imagenet_file="efficientnet_v2/efficientnetv2-l_notop.h5", imagenet_md5="b0b66b5c863aef5b46e8608fe1711615",
        **_EFFICIENTNET_V2_CENTERED),
    "resnet50": BackboneInfo(
        32, 16.0, _resnet50, 1.0, tuple(-mean for mean in _CAFFE_MEAN),
        "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626",
        **_RESNET50_V1_5_CENTERED),
    "mobilenetv3-small": BackboneInfo(
        32, 15.0, _without_top(keras.applications.MobileNetV3Small, include_preprocessing=False), 1 / 127.5,
        imagenet_file="mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        imagenet_md5="d3e8ec802a04aa4fc771ee12a9a9b836",
        config_changes={"expanded_conv_8_depthwise_pad": _MOBILENET_V3_PADDING}),
    "mobilenetv3-large": BackboneInfo(
        32, 15.0, _without_top(keras.applications.MobileNetV3Large, include_preprocessing=False), 1 / 127.5,
        imagenet_file="mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        imagenet_md5="07fb09a5933dd0c8eaafa16978110389",
        config_changes={"expanded_conv_12_depthwise_pad": _MOBILENET_V3_PADDING}),
}
