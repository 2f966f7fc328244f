"""The image networks: one crop in, one feature map out, with Ghost BatchNorm and bounded kernels.

Published architectures come from keras.applications with single layers swapped, so that pretrained weights fit.
"""

import dataclasses
import hashlib
import http.client
import os
import pathlib
import urllib.request
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from posepile.models import constraints, normalization

IMAGENET = "imagenet"
_APPLICATIONS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
_DOWNLOAD_TIMEOUT_S = 20
_TINY_MOMENTUM = 0.9  # of the stored statistics; keras.applications takes the same for EfficientNetV2


@dataclasses.dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone before it is built.

    Attributes:
        stride: px of the crop per cell of the feature map.
        architecture: builds the network: takes the scaled image, a keras tensor [batch, side, side, 3], and returns
            the features, one [batch, side / stride, side / stride, channels].
        input_scale, input_offset: number, or [3] per RGB channel: the network sees pixel (0..255) * scale + offset.
        imagenet_file, imagenet_md5: the pretrained weights that keras.applications publishes; None if there are none.
    """

    stride: int
    architecture: Callable[[keras.KerasTensor], keras.KerasTensor]
    input_scale: float | tuple[float, ...] = 1 / 128
    input_offset: float | tuple[float, ...] = -1.0
    imagenet_file: str | None = None
    imagenet_md5: str | None = None


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
    swapped = swap_layers(original, group_sizes, seed, max_kernel_norm)
    if weights_path is not None:
        _load_weights(swapped, original, weights_path)
    return swapped


def swap_layers(model: keras.Model, group_sizes: int | tuple[int, ...] | None, seed: int = 0,
                max_kernel_norm: float | None = constraints.MAX_KERNEL_NORM) -> keras.Model:
    """A new model of the same layers and names, except that

    * BatchNormalization becomes GhostBatchNormalization with the same settings and weight names,
    * convolution kernels, depthwise ones too, are bounded in norm,
    * everything random, initial weights and dropout, has its own seed derived from `seed`.

    Its weights are fresh; `new.set_weights(model.get_weights())` carries the old ones over.

    Args:
        model: a functional model.
        group_sizes: of GhostBatchNormalization.
        seed: any int >= 0.
        max_kernel_norm: see KernelMaxNorm; None for no bound.
    """
    index_of_layer = {layer.name: index for index, layer in enumerate(model.layers)}

    def swap(layer):
        config = layer.get_config()
        _set_seeds(config, np.random.SeedSequence([seed, index_of_layer[layer.name]]))
        if isinstance(layer, keras.layers.BatchNormalization):
            return normalization.GhostBatchNormalization.from_config({**config, "group_sizes": group_sizes})
        if max_kernel_norm is not None and isinstance(layer, keras.layers.DepthwiseConv2D):
            config["depthwise_constraint"] = constraints.KernelMaxNorm(max_kernel_norm, constraints.DEPTHWISE_AXES)
        elif max_kernel_norm is not None and isinstance(layer, keras.layers.Conv2D):
            config["kernel_constraint"] = constraints.KernelMaxNorm(max_kernel_norm, constraints.CONVOLUTION_AXES)
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=swap)


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
        path = pathlib.Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no file of backbone weights {str(path)!r}. Expected 'none', 'imagenet' "
                                    "or the path of a .weights.h5, .keras or keras.applications .h5 file.")
        return path
    if info.imagenet_file is None:
        pretrained = [other for other in list_backbones() if BACKBONES[other].imagenet_file]
        raise ValueError(f"Backbone {name!r} has no ImageNet weights. Use weights='none' or the path of a file, or one "
                         f"of the pretrained backbones: {', '.join(pretrained)}.")
    cached = pathlib.Path(_keras_home()) / "models" / info.imagenet_file
    return cached if cached.is_file() else _download(info, cached)


def _keras_home() -> str:
    """Where Keras keeps its files: KERAS_HOME or ~/.keras."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


def _download(info: BackboneInfo, path: pathlib.Path) -> pathlib.Path:
    """Fetches pretrained weights; the file appears under its name only when it is complete and its digest is right."""
    url = _APPLICATIONS_URL + info.imagenet_file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as response, partial_path.open("wb") as file:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != info.imagenet_md5:
            raise ConnectionError(f"the MD5 of what came is {digest.hexdigest()}, expected {info.imagenet_md5}")
        partial_path.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"Could not download the ImageNet weights {url} ({error}). Without network access, fetch that file on "
            f"another machine and put it at {path}, or give its path as the weights; weights='none' starts from "
            "random ones.") from error
    finally:
        partial_path.unlink(missing_ok=True)
    return path


def _load_weights(swapped: keras.Model, original: keras.Model, path: pathlib.Path) -> None:
    """Loads a file written either from the architecture of keras.applications or from a swapped model."""
    reasons = []
    for model in (swapped, original):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # all that keras says when it leaves weights out
                model.load_weights(path)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        if model is original:
            swapped.set_weights(original.get_weights())
        return
    raise ValueError(f"The weights in {str(path)!r} do not fit the backbone {original.name!r}. Expected a file saved "
                     "from this very backbone, or from the keras.applications model of that name without its top. "
                     f"Read as the former: {reasons[0]} Read as the latter: {reasons[1]}")


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


def _efficientnet_v2(constructor: Callable[..., keras.Model]) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """The published architecture without its classifier and its own input scaling."""
    def architecture(image):
        return constructor(include_top=False, weights=None, input_tensor=image, include_preprocessing=False).output
    return architecture


_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])  # RGB in 0..1, for EfficientNetV2-B0; S, M and L take -1..1
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])

BACKBONES = {
    "tiny": BackboneInfo(8, _tiny),
    "efficientnetv2-b0": BackboneInfo(
        32, _efficientnet_v2(keras.applications.EfficientNetV2B0), tuple((1 / 255 / _IMAGENET_STD).tolist()),
        tuple((-_IMAGENET_MEAN / _IMAGENET_STD).tolist()), "efficientnetv2-b0_notop.h5",
        "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2-s": BackboneInfo(
        32, _efficientnet_v2(keras.applications.EfficientNetV2S), imagenet_file="efficientnetv2-s_notop.h5",
        imagenet_md5="af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2-m": BackboneInfo(
        32, _efficientnet_v2(keras.applications.EfficientNetV2M), imagenet_file="efficientnetv2-m_notop.h5",
        imagenet_md5="1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2-l": BackboneInfo(
        32, _efficientnet_v2(keras.applications.EfficientNetV2L), imagenet_file="efficientnetv2-l_notop.h5",
        imagenet_md5="b0b66b5c863aef5b46e8608fe1711615"),
}
