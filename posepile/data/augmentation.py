"""Random geometry and colour of training crops, drawn statelessly and vectorised over examples.

Geometry is folded into the crop camera, hence into a single resampling of the image. All colour changes are affine in
the RGB values, hence folded into a single 3x4 matrix per example, and pixels stay uint8: values are rounded and
clipped to 0..255 once, at the end. Every kind of change draws from its own random stream (`stream_key`'s purpose), so
adding one changes no other's numbers.
"""

import dataclasses
import itertools

import numpy as np

from posepile.data.sampling import stateless_uniform, stream_key

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
    """

    shift: float = 0.1
    zoom: tuple[float, float] = (0.75, 1.25)
    roll_degrees: float = 20.0
    flip_probability: float = 0.5
    brightness: float = 0.125
    contrast: tuple[float, float] = (0.5, 1.5)
    hue_degrees: float = 72.0
    saturation: tuple[float, float] = (0.5, 1.5)

    def __post_init__(self):
        for name in ("zoom", "contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"augmentation {name} must be a range 0 < low <= high, got {low}, {high}")
        for name in ("shift", "roll_degrees", "brightness", "hue_degrees"):
            if getattr(self, name) < 0:
                raise ValueError(f"augmentation {name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"augmentation flip_probability must be in 0 .. 1, got {self.flip_probability}")


NO_AUGMENTATION = AugmentationConfig(
    shift=0.0, zoom=(1.0, 1.0), roll_degrees=0.0, flip_probability=0.0, brightness=0.0, contrast=(1.0, 1.0),
    hue_degrees=0.0, saturation=(1.0, 1.0))


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
    return {"shift": np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1),
            "zoom": _in_range(u[:, 2], config.zoom),
            "roll": np.deg2rad(config.roll_degrees) * (2 * u[:, 3] - 1),
            "flip": u[:, 4] < config.flip_probability}


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
