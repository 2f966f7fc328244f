"""Puts other backgrounds behind people and occluders before them: pixels of single crops, uint8 throughout.

What goes where is drawn by `augmentation`, whose records are the arguments here; pictures come from `pictures`.
"""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from posepile.data.sampling import stateless_uniform

_NOISE_SIDE = 512  # px of the noise tile, at least
_MAX_ALPHA = 255


def choose_background(backgrounds: np.ndarray, choice: np.ndarray, side: int) -> np.ndarray:
    """A window of one of the pictures.

    Args:
        backgrounds: [n, larger, larger, 3] uint8 RGB, at least as large as the crop.
        choice: [4] in 0 .. 1, a row of `BackgroundChoice.picture`.
        side: of the crop, px.

    Returns: [side, side, 3] uint8 RGB, to be written to.
    """
    which, x, y, mirrored = choice.tolist()
    picture = backgrounds[int(which * len(backgrounds))]
    free = len(picture) - side + 1
    left, top = int(x * free), int(y * free)
    window = picture[top:top + side, left:left + side]
    return cv2.flip(window, 1) if mirrored >= 0.5 else window.copy()


def put_before(background: np.ndarray, person: np.ndarray, left: int, top: int) -> None:
    """Puts a person before a background, in place.

    Args:
        background: [side, side, 3] uint8 RGB.
        person: [h, w, 4] uint8 RGBA, premultiplied.
        left, top: of the person in the background, px.
    """
    if person.size:
        _lay_over(background[top:top + len(person), left:left + person.shape[1]], person)


def occlude(crop: np.ndarray, erased: np.ndarray, noise: np.ndarray, objects: np.ndarray,
            occluders: Sequence[Sequence[np.ndarray]]) -> None:
    """Hides parts of a crop, in place.

    Args:
        crop: [side, side, 3] uint8 RGB.
        erased, noise: [4] and [2], rows of `Occlusion`.
        objects: [num_objects, 5], those of a row of `Occlusion.objects` that are to be pasted, in their order.
        occluders: of each the levels of a pyramid, [h, w, 4] uint8 RGBA, premultiplied, each half as large as the one
            before.
    """
    if erased[2] > 0:
        _erase(crop, erased, noise)
    for which, longer_side, x, y, mirrored in objects.tolist():
        occluder = occluders[int(which * len(occluders))]
        _paste(crop, occluder, mirrored >= 0.5, longer_side * len(crop), x * len(crop), y * len(crop))


def _erase(crop: np.ndarray, rectangle: np.ndarray, noise: np.ndarray) -> None:
    side = len(crop)
    left, top, width, height = np.rint(side * rectangle).astype(int).tolist()
    tile = _noise_tile(max(side, _NOISE_SIDE))
    x, y = (int(u * (len(tile) - side + 1)) for u in noise.tolist())
    crop[top:top + height, left:left + width] = tile[y:, x:][:height, :width][:side - top, :side - left]


def _paste(crop: np.ndarray, levels: Sequence[np.ndarray], mirrored: bool, longer_side: float, x: float, y: float) -> None:
    """Pastes an object, its longer side resized, centred at a place of the crop; all in px."""
    factor = longer_side / max(levels[0].shape[:2])
    width, height = (max(1, round(factor * length)) for length in levels[0].shape[1::-1])
    left, top = round(x - width / 2), round(y - height / 2)
    below = crop[max(top, 0):top + height, max(left, 0):left + width]
    if not below.size:
        return
    # From the next larger level on, bilinear resampling averages enough.
    level = levels[min(max(0, math.floor(-math.log2(factor))), len(levels) - 1)]
    occluder = cv2.resize(level, (width, height))
    if mirrored:
        occluder = cv2.flip(occluder, 1)
    occluder = occluder[max(-top, 0):, max(-left, 0):][:below.shape[0], :below.shape[1]]
    _lay_over(below, occluder)


def _lay_over(below: np.ndarray, picture: np.ndarray) -> None:
    """Puts a premultiplied picture [height, width, 4] over another one [height, width, 3], in place; uint8."""
    uncovered = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(picture, 3)), cv2.COLOR_GRAY2RGB)
    cv2.multiply(below, uncovered, dst=below, scale=1 / _MAX_ALPHA)
    cv2.add(below, cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB), dst=below)


@functools.cache
def _noise_tile(side: int) -> np.ndarray:
    """[side, side, 3] uint8, every value equally probable."""
    uniform = stateless_uniform(0, np.arange(side * side), 3)  # unlike numpy's generators the same in every version
    return (256 * uniform).astype(np.uint8).reshape(side, side, 3)
