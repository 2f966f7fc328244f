"""The untouched networks of keras.applications beside our backbones, for tests."""

import dataclasses

import keras
import numpy as np

from posepile.models import backbones

CONSTRUCTORS = {
    "efficientnetv2-b0": keras.applications.EfficientNetV2B0,
    "efficientnetv2-s": keras.applications.EfficientNetV2S,
    "efficientnetv2-m": keras.applications.EfficientNetV2M,
    "efficientnetv2-l": keras.applications.EfficientNetV2L,
    "resnet50": keras.applications.ResNet50,
    "mobilenetv3-small": keras.applications.MobileNetV3Small,
    "mobilenetv3-large": keras.applications.MobileNetV3Large,
}
SMALLER = ["efficientnetv2-b0", "resnet50", "mobilenetv3-small", "mobilenetv3-large"]


def noise_images(num_images, side, seed=0):
    """[num_images, side, side, 3] uint8, noise."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)


def randomize(model, seed=0):
    """Gives every weight, stored statistics included, a value that shows when it lands in the wrong place."""
    rng = np.random.default_rng(seed)
    model.set_weights([weight + rng.uniform(0, 0.1, weight.shape) if weight.ndim == 1
                       else weight * rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def stock(name, side=64):
    """The network of keras.applications, of pixels as that library takes them."""
    return CONSTRUCTORS[name](include_top=False, weights=None, input_shape=(side, side, 3))


def stock_input(name, pixels):
    """uint8 RGB -> what `stock` expects."""
    if name == "resnet50":
        return keras.applications.resnet.preprocess_input(pixels.astype("float32"))
    return pixels.astype("float32")


def change(monkeypatch, name, **changes):
    """Replaces fields of what is known of a backbone, for one test."""
    monkeypatch.setitem(backbones.BACKBONES, name, dataclasses.replace(backbones.BACKBONES[name], **changes))


def without_weights(build):
    """The model that `build()` returns, of variables without values: in a fraction of the time and memory."""
    with keras.StatelessScope(initialize_variables=False):
        model = build()
    keras.utils.clear_session(free_memory=False)  # keras forgets the variables, which it would else fill when it can
    return model
