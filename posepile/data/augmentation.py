"""Random geometry, colour and occlusion of training crops, drawn statelessly and vectorised over examples.

Geometry is folded into the crop camera, hence into a single resampling of the image. All colour changes are affine in
the RGB values, hence folded into a single 3x4 matrix per example, and pixels stay uint8: values are rounded and
clipped to 0..255 once, at the end. Every kind of change draws from its own random stream (`stream_key`'s purpose), so
adding one changes no other's numbers.

What is pasted into the picture, backgrounds and occluders, is decided here and done in `compositing`; it happens
before the colour changes, so that these act on the picture as a whole.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from posepile.data.sampling import stateless_uniform, stream_key

MAX_OCCLUDERS_PER_CROP = 100
_GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_COLOR_STEPS = ("brightness", "contrast", "hue", "saturation")
_STEP_ORDERS = np.array(list(itertools.permutations(range(len(_COLOR_STEPS)))))


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How training crops vary. The defaults are those of MeTRAbs' published model.

    Attributes:
        shift: radius of the disc in which the crop's centre is drawn, as a fraction of the longer box side.
        zoom: range of the factor on the person's size in the crop.
        roll_degrees: the camera rolls by up to this angle to either side.
        flip_probability: of mirroring the crop; left and right joints are then swapped.
        brightness: largest shift of all channels to either side, as a fraction of the full range (255).
        contrast: range of the factor on the deviation from the crop's mean colour.
        hue_degrees: largest rotation of the hue to either side.
        saturation: range of the factor on the deviation from gray.
        partial_visibility_probability: of showing a part of the person only, as of someone who leaves the picture.
        partial_visibility_side: range of that part's side, as a fraction of the longer box side.
        occlusion_probability: of hiding something of a person with 3D labels.
        occlusion_probability_2d: the same for those with 2D labels.
        erasing_share: of the occlusions, those that erase a rectangle; the others paste objects.
        erased_area: range of an erased rectangle's area, as a fraction of the crop's.
        erased_aspect: range of its height over its width.
        num_occluders: range of the number of pasted objects, both ends included.
        occluder_scale: range of a pasted object's longer side; 1 is half of the crop's side.
        background_probability: of another background, where the person's mask is known.
    """

    shift: float = 0.1
    zoom: tuple[float, float] = (0.75, 1.25)
    roll_degrees: float = 20.0
    flip_probability: float = 0.5
    brightness: float = 0.125
    contrast: tuple[float, float] = (0.5, 1.5)
    hue_degrees: float = 72.0
    saturation: tuple[float, float] = (0.5, 1.5)
    partial_visibility_probability: float = 0.0
    partial_visibility_side: tuple[float, float] = (0.5, 1.0)
    occlusion_probability: float = 0.5
    occlusion_probability_2d: float = 0.7
    erasing_share: float = 0.5
    erased_area: tuple[float, float] = (0.02, 1 / 3)
    erased_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    num_occluders: tuple[int, int] = (1, 6)
    occluder_scale: tuple[float, float] = (0.2, 1.0)
    background_probability: float = 0.7

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(field.default, tuple):
                if len(value) != 2 or not 0 < value[0] <= value[1] < float("inf"):
                    raise ValueError(f"augmentation {name} must be a range 0 < low <= high, got {list(value)}")
            elif not 0 <= value < float("inf"):
                raise ValueError(f"augmentation {name} must be 0 or more, got {value}")
            elif name.endswith(("_probability", "_probability_2d", "_share")) and value > 1:
                raise ValueError(f"augmentation {name} must be in 0 .. 1, got {value}")
        for name in ("partial_visibility_side", "erased_area"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"augmentation {name} must end at 1 or less, got {list(getattr(self, name))}")
        if any(count != int(count) or count > MAX_OCCLUDERS_PER_CROP for count in self.num_occluders):
            raise ValueError(f"augmentation num_occluders must be two whole numbers up to {MAX_OCCLUDERS_PER_CROP}, got "
                             f"{list(self.num_occluders)}")


NO_AUGMENTATION = AugmentationConfig(
    shift=0.0, zoom=(1.0, 1.0), roll_degrees=0.0, flip_probability=0.0, brightness=0.0, contrast=(1.0, 1.0),
    hue_degrees=0.0, saturation=(1.0, 1.0), occlusion_probability=0.0, occlusion_probability_2d=0.0,
    background_probability=0.0)


def make_augmentation(settings: Mapping[str, Any], base: AugmentationConfig) -> AugmentationConfig:
    """`base` with some settings changed.

    Args:
        settings: by name, as a TOML file has them: numbers, and lists of two numbers for ranges.
        base: what the others are.

    Raises: ValueError for a setting that does not exist, or a value of the wrong kind or out of range.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(AugmentationConfig)}
    if unknown := [name for name in settings if name not in defaults]:
        raise ValueError(f"unknown augmentation settings {', '.join(unknown)}; valid ones: {', '.join(defaults)}")
    values = {}
    for name, value in settings.items():
        default = defaults[name]
        is_range = isinstance(default, tuple)
        kind = int if is_range and isinstance(default[0], int) else float
        numbers = value if is_range else [value]
        is_right = isinstance(numbers, (list, tuple)) and len(numbers) == (2 if is_range else 1) and all(
            isinstance(number, (int, kind)) and not isinstance(number, bool) for number in numbers)
        if not is_right:
            number = "whole number" if kind is int else "number"
            raise ValueError(f"augmentation {name} must be "
                             f"{f'a list of two {number}s, [low, high]' if is_range else f'a {number}'}, got {value!r}")
        values[name] = tuple(map(kind, numbers)) if is_range else kind(value)
    return dataclasses.replace(base, **values)


@dataclasses.dataclass(frozen=True)
class BackgroundChoice:
    """Which examples get another background, and which one; `compositing.choose_background` takes it.

    Attributes:
        is_replaced: [n] bool.
        picture: [n, 4] in 0 .. 1: which picture, the window's x and y in it, mirrored from 1/2 on.
    """

    is_replaced: np.ndarray
    picture: np.ndarray


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """What hides parts of the crops; `compositing.occlude` does it.

    Attributes:
        erased: [n, 4] x, y, width, height of an erased rectangle, fractions of the crop's side; 0 for none.
        noise: [n, 2] in 0 .. 1: the window's x and y in the noise that fills the rectangle.
        num_objects: [n] int64, how many of the objects are pasted; 0 for none.
        objects: [n, most, 5]: which one in 0 .. 1, longer side and the centre's x and y as fractions of the crop's side,
            mirrored from 1/2 on.
    """

    erased: np.ndarray
    noise: np.ndarray
    num_objects: np.ndarray
    objects: np.ndarray


def random_variations(config: AugmentationConfig, kind: str, seed: int, dataset_name: str, stream: np.ndarray) -> dict:
    """All that varies in crops: the keyword arguments geometry, color, background and occlusion of
    `crops.crop_examples`.

    Args:
        config: the ranges.
        kind: "3d" or "2d", the labels of the data set.
        seed: of the run.
        dataset_name: of the examples.
        stream: [n] int64 stream positions of the examples.
    """
    return {"geometry": random_geometry(config, seed, dataset_name, stream),
            "color": random_color_transform(config, seed, dataset_name, stream),
            "background": random_background(config, seed, dataset_name, stream),
            "occlusion": random_occlusion(config, kind, seed, dataset_name, stream)}


def random_geometry(config: AugmentationConfig, seed: int, dataset_name: str,
                    stream: np.ndarray) -> dict[str, np.ndarray]:
    """The keyword arguments of `crop_cameras` that vary.

    Args:
        config: the ranges.
        seed: of the run.
        dataset_name: of the examples.
        stream: [n] int64 stream positions of the examples.

    Returns: shift [n, 2] fractions of the box side, zoom [n], roll [n] radians, flip [n] bool.
    """
    u = stateless_uniform(stream_key(seed, dataset_name, "geometry"), stream, 5)
    radius, angle = config.shift * np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1]  # the root makes it uniform over the area
    shift = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    part_center, part_side = _random_part(config, seed, dataset_name, stream)
    return {"shift": part_center + part_side[:, None] * shift,
            "zoom": _in_range(u[:, 2], config.zoom) / part_side,
            "roll": np.deg2rad(config.roll_degrees) * (2 * u[:, 3] - 1),
            "flip": u[:, 4] < config.flip_probability}


def _random_part(config, seed, dataset_name, stream) -> tuple[np.ndarray, np.ndarray]:
    """The square part of the square box that is shown instead of it: its centre [n, 2] relative to the box's, and its
    side [n], fractions of the box side."""
    u = stateless_uniform(stream_key(seed, dataset_name, "partial_visibility"), stream, 4)
    is_partial = u[:, 0] < config.partial_visibility_probability
    side = np.where(is_partial, _in_range(u[:, 1], config.partial_visibility_side), 1.0)
    return (u[:, 2:] - 0.5) * (1 - side)[:, None], side


def random_background(config: AugmentationConfig, seed: int, dataset_name: str, stream: np.ndarray) -> BackgroundChoice:
    """Other backgrounds for some examples; arguments as in `random_geometry`."""
    u = stateless_uniform(stream_key(seed, dataset_name, "background"), stream, 5)
    return BackgroundChoice(u[:, 0] < config.background_probability, u[:, 1:])


def random_occlusion(config: AugmentationConfig, kind: str, seed: int, dataset_name: str,
                     stream: np.ndarray) -> Occlusion:
    """Erased rectangles (Zhong et al., AAAI 2020) and pasted objects (Sarandi et al., 2018) for some examples.

    Args:
        kind: "3d" or "2d", the labels of the data set.
        config, seed, dataset_name, stream: as in `random_geometry`.
    """
    u = stateless_uniform(stream_key(seed, dataset_name, "occlusion"), stream, 9)
    probability = config.occlusion_probability if kind == "3d" else config.occlusion_probability_2d
    is_occluded, is_erased = u[:, 0] < probability, u[:, 1] < config.erasing_share
    area, log_aspect = _in_range(u[:, 2], config.erased_area), _in_range(u[:, 3], np.log(config.erased_aspect))
    size = np.minimum(np.sqrt(area)[:, None] * np.exp(np.stack([-log_aspect, log_aspect], axis=-1) / 2), 1)
    rectangle = np.concatenate([u[:, 4:6] * (1 - size), size], axis=-1)  # anywhere inside of the crop
    fewest, most = config.num_occluders
    num_objects = np.minimum(fewest + (u[:, 8] * (most - fewest + 1)).astype(np.int64), most)
    v = stateless_uniform(stream_key(seed, dataset_name, "occluders"), stream, 5 * most).reshape(-1, most, 5)
    v[..., 1] = _in_range(v[..., 1], config.occluder_scale) / 2
    return Occlusion(np.where((is_occluded & is_erased)[:, None], rectangle, 0), u[:, 6:8],
                     np.where(is_occluded & ~is_erased, num_objects, 0), v)


def random_color_transform(config: AugmentationConfig, seed: int, dataset_name: str,
                           stream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brightness, contrast, hue and saturation in random order, see `color_transform`; arguments as in
    `random_geometry`.
    """
    u = stateless_uniform(stream_key(seed, dataset_name, "color"), stream, 5)
    order = _STEP_ORDERS[(u[:, 4] * len(_STEP_ORDERS)).astype(np.int64)]
    return color_transform(brightness=255 * config.brightness * (2 * u[:, 0] - 1),
                           contrast=_in_range(u[:, 1], config.contrast),
                           hue=np.deg2rad(config.hue_degrees) * (2 * u[:, 2] - 1),
                           saturation=_in_range(u[:, 3], config.saturation), order=order)


def color_transform(brightness: np.ndarray, contrast: np.ndarray, hue: np.ndarray, saturation: np.ndarray,
                    order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Folds colour changes, applied one after another, into one affine map of RGB values.

    Every step maps a colour c to G c + (I - G) p + b, where G is linear, p a colour that stays as it is and b a shift:
    contrast scales about the mean colour of the picture as it is by then, saturation about gray, hue turns the chroma
    plane of YIQ. Since all steps are affine, the mean of the changed picture is the changed mean, so that the whole
    depends on the original mean m alone.

    Args:
        brightness: [n] added to all channels, in 0..255 units.
        contrast, saturation: [n] factors.
        hue: [n] radians.
        order: [n, 4] the order of the steps 0 brightness, 1 contrast, 2 hue, 3 saturation.

    Returns: linear [n, 3, 3], mean_gain [n, 3, 3], offset [n, 3]; a colour c becomes linear c + mean_gain m + offset.
    """
    num_examples, identity = len(brightness), np.eye(3)
    chroma_turn = np.zeros((num_examples, 3, 3))
    chroma_turn[:, 0, 0] = 1
    chroma_turn[:, 1, 1] = chroma_turn[:, 2, 2] = np.cos(hue)
    chroma_turn[:, 2, 1] = np.sin(hue)
    chroma_turn[:, 1, 2] = -chroma_turn[:, 2, 1]
    gray = np.broadcast_to(_GRAY_WEIGHTS, (3, 3))
    gains = np.empty((num_examples, 4, 3, 3))
    gains[:, 0] = identity
    gains[:, 1] = contrast[:, None, None] * identity
    gains[:, 2] = _YIQ_TO_RGB @ chroma_turn @ _RGB_TO_YIQ
    gains[:, 3] = gray + saturation[:, None, None] * (identity - gray)
    linear = np.broadcast_to(identity, (num_examples, 3, 3))
    mean_gain, offset = np.zeros((num_examples, 3, 3)), np.zeros((num_examples, 3))
    examples = np.arange(num_examples)
    for step in np.transpose(order):
        gain, is_contrast = gains[examples, step], (step == _COLOR_STEPS.index("contrast"))[:, None, None]
        # Contrast keeps the mean colour of its input, which is (linear + mean_gain) m + offset; the others leave no
        # constant behind.
        mean_gain = np.where(is_contrast, linear + mean_gain - gain @ linear, gain @ mean_gain)
        offset = np.where(is_contrast[..., 0], offset, np.einsum("nij,nj->ni", gain, offset))
        offset = offset + np.where(step == _COLOR_STEPS.index("brightness"), brightness, 0)[:, None]
        linear = gain @ linear
    return linear, mean_gain, offset


def _in_range(uniform: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
