"""Exactly repeatable drawing: polygons filled with colour fields, materials, and noise with the spectrum of photos.

Pixels result from integers and single, exactly rounded float operations on rounded angles, never from matrix products,
Fourier transforms or functions of a maths library; so the same seed draws the same picture on every machine. For the
same reason the random numbers are those of `np.random.RandomState`, which no release of numpy may change (NEP 19).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

# x, y, which broadcast to [height, width] -> what broadcasts to [3, height, width]: RGB, 255 is white.
Material = Callable[[np.ndarray, np.ndarray], np.ndarray]

WOODS = ((181, 134, 86), (122, 78, 46), (214, 180, 132), (92, 58, 38), (160, 100, 60), (226, 205, 170))
GREENS = ((58, 92, 42), (92, 126, 58), (44, 74, 50), (120, 140, 70), (76, 104, 66))

_SUPERSAMPLING = 4  # 16 samples per pixel, for soft edges
_SUBPIXEL_BITS = 4
_GRAIN_SIDE = 512  # entries of the table of noise, a power of two
_NUM_CIRCLE_POINTS = 40


@dataclasses.dataclass(frozen=True)
class Shape:
    """A filled outline.

    Attributes:
        contours: polygons [n, 2], x to the right and y down; a point inside of two of them is a hole.
        material: its colours, by the same x, y.
    """

    contours: Sequence[np.ndarray]
    material: Material


def paint(canvas: np.ndarray, shapes: Sequence[Shape], scale: float = 1.0, offset: tuple[float, float] = (0.0, 0.0),
          angle: float = 0.0) -> None:
    """Paints shapes onto a canvas, each over those before it.

    Args:
        canvas: [3 or 4, height, width] float32 in 0 .. 255, changed in place; a fourth channel is alpha, and the
            colours are premultiplied by it.
        shapes: in their own coordinates.
        scale: px per unit of theirs.
        offset: where their origin comes to lie, px from the outer corner of the first pixel.
        angle: radians, by which they are turned clockwise about it.
    """
    cosine, sine = turn(angle)
    size = canvas.shape[:0:-1]
    for shape in shapes:
        contours = [scale * rotate(contour, angle) + offset for contour in shape.contours]
        corners = np.concatenate(contours)
        low = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)), 0, size).astype(int)
        if (high <= low).any():
            continue
        region = canvas[:, low[1]:high[1], low[0]:high[0]]
        coverage = _coverage([contour - low for contour in contours], high - low)
        x = (np.arange(low[0], high[0], dtype=np.float32) + (0.5 - offset[0]))[None, :] / scale
        y = (np.arange(low[1], high[1], dtype=np.float32) + (0.5 - offset[1]))[:, None] / scale
        if angle:
            x, y = cosine * x + sine * y, cosine * y - sine * x
        change = shape.material(x, y) - region[:3]
        change *= coverage
        region[:3] += change
        region[3:] += coverage * (255 - region[3:])


def _coverage(contours: Sequence[np.ndarray], size: np.ndarray) -> np.ndarray:
    """[height, width] float32: which share of each pixel lies inside, samples on the edge included."""
    mask = np.zeros(_SUPERSAMPLING * size[::-1], np.uint8)
    fixed = [np.rint((_SUPERSAMPLING * contour - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32) for contour in contours]
    cv2.fillPoly(mask, fixed, 255, shift=_SUBPIXEL_BITS)
    return cv2.resize(mask, size.tolist(), interpolation=cv2.INTER_AREA) / np.float32(255)


def turn(angle: float) -> tuple[float, float]:
    """Cosine and sine, rounded so far that the last bit of a maths library does not show."""
    return round(math.cos(angle) * 2**20) / 2**20, round(math.sin(angle) * 2**20) / 2**20


def rotate(points: np.ndarray, angle: float) -> np.ndarray:
    """[n, 2] points, turned clockwise (y is down) about the origin."""
    cosine, sine = turn(angle)
    return np.stack([cosine * points[:, 0] - sine * points[:, 1], sine * points[:, 0] + cosine * points[:, 1]], axis=1)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """[n, 2] polygon, from the rightmost point clockwise."""
    return _circle(_NUM_CIRCLE_POINTS) * (radius_x, radius_y) + (x, y)


@functools.lru_cache
def _circle(num_points: int) -> np.ndarray:
    return np.array([turn(2 * math.pi * k / num_points) for k in range(num_points)])


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """[4, 2] polygon."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def rounded(polygon: np.ndarray, rounds: int = 3) -> np.ndarray:
    """A closed polygon with its corners cut, again and again: a smooth curve (Chaikin, CGIP 1974)."""
    for _ in range(rounds):
        following = np.concatenate([polygon[1:], polygon[:1]])
        polygon = np.concatenate([0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following], axis=1)
        polygon = polygon.reshape(-1, 2)
    return polygon


def band(line: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """The polygon [2 n, 2] about a polyline [n, 2], `widths` wide at its points ([n] or one for all)."""
    direction = np.gradient(np.asarray(line, np.float64), axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.sqrt((direction**2).sum(axis=1, keepdims=True))
    side = normal * (np.broadcast_to(widths, len(line))[:, None] / 2)
    return np.concatenate([line + side, (line - side)[::-1]])


def natural_noise(random: np.random.RandomState, side: int, persistence: float = 1.0, num_channels: int = 1) -> np.ndarray:
    """Noise made of octaves; with as much of each it has the 1/f amplitude spectrum of photos (Field, JOSA A 1987).

    Args:
        random: the numbers.
        side: px.
        persistence: an octave's amplitude over that of the next coarser one; below 1 gives clouds.
        num_channels: independent ones.

    Returns: [num_channels, side, side] float32 of zero mean, nearly all within -1 .. 1.
    """
    num_octaves = max(1, math.ceil(math.log2(side)) - 1)
    field = np.zeros((2, 2, num_channels), np.int16)
    amplitude, power = 24.0, 0.0  # 127 times 24 times the 10 octaves of 1024 px still fit into an int16
    for _ in range(num_octaves):
        # Upsampling of int16 is in integers.
        field = cv2.pyrUp(field).reshape(2 * len(field), -1, num_channels)
        if round(amplitude):
            octave = np.frombuffer(random.bytes(field.size), np.int8).reshape(field.shape)
            field += octave * np.int16(round(amplitude))
        power += amplitude * amplitude
        amplitude *= persistence
    return np.moveaxis(field[:side, :side], -1, 0) * np.float32(1 / (127 * math.sqrt(power)))


def gradient(random: np.random.RandomState, height: int, width: int, steepness: float) -> np.ndarray:
    """[height, width] float32 factors that change linearly over a picture, like uneven light."""
    across, down = (np.linspace(-1, 1, length, dtype=np.float32) for length in (width, height))
    slope_x, slope_y = random.uniform(-steepness, steepness, 2).tolist()
    return random.uniform(0.75, 1.1) + slope_x * across[None, :] + slope_y * down[:, None]


def random_color(random: np.random.RandomState, max_saturation: float = 0.8,
                 value: tuple[float, float] = (0.15, 0.95)) -> np.ndarray:
    """[3] RGB; dull colours are more frequent than vivid ones, as they are on everyday things."""
    hue = np.clip(np.abs((random.uniform(0, 6) + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    saturation = max_saturation * random.uniform() ** 2
    return 255 * random.uniform(*value) * (1 - saturation * (1 - hue))


def varied(random: np.random.RandomState, color: Sequence[float], amount: float = 0.2) -> np.ndarray:
    """[3] RGB near a colour: of another brightness, and a little of another tint."""
    return np.asarray(color) * random.uniform(1 - amount, 1 + amount) * random.uniform(1 - amount / 3, 1 + amount / 3, 3)


def pick(random: np.random.RandomState, choices: Sequence):
    """One of them."""
    return choices[random.randint(len(choices))]


def plain(color: Sequence[float]) -> Material:
    """The same colour everywhere."""
    values = _channels(color)
    return lambda x, y: values


def grained(random: np.random.RandomState, color: Sequence[float], amount: float = 0.25, stretch: float = 1.0,
            density: float = 64.0) -> Material:
    """A colour with natural noise.

    Args:
        random: the numbers.
        color: its mean.
        amount: of noise, as a fraction of the colour.
        stretch: > 1 draws the noise out along x, as in wood.
        density: independent values per unit of x and y.
    """
    grain, values = _grain(), _channels(color)
    x0, y0 = random.uniform(0, _GRAIN_SIDE, 2).tolist()

    def material(x, y):
        column, row = (density / stretch) * x + x0, density * y + y0
        return values * (1 + np.float32(amount) * grain[_mirrored(row), _mirrored(column)])
    return material


@functools.lru_cache
def _grain() -> np.ndarray:
    return natural_noise(np.random.RandomState(0), _GRAIN_SIDE)[0]


def wooden(random: np.random.RandomState) -> Material:
    """Wood with its grain along x."""
    return grained(random, varied(random, pick(random, WOODS)), amount=random.uniform(0.1, 0.4), stretch=8.0)


def patterned(random: np.random.RandomState, frequency: tuple[float, float] = (2.0, 7.0)) -> Material:
    """Stripes, checks, dots, plaid, lines of print or nothing but grain, in random colours.

    Args:
        random: the numbers.
        frequency: range of the periods per unit of x and y.
    """
    frequency, duty = random.uniform(*frequency), random.uniform(0.25, 0.75)
    pattern = pick(random, (_stripes, _checks, _dots, _plaid, _print, _nothing, _nothing))
    ground = grained(random, random_color(random), amount=random.uniform(0.05, 0.35))
    color = _channels(random_color(random))

    def material(x, y):
        share = pattern(frequency * x, frequency * y, duty)
        background = ground(x, y)
        return background + share * (color - background)
    return material


def laid(random: np.random.RandomState, material: Material, joint: Material, size: tuple[float, float], gap: float,
         shift: float = 0.5, variation: float = 0.25) -> Material:
    """Bricks, tiles, planks or panes, each of another brightness.

    Args:
        random: the numbers.
        material: of the bricks.
        joint: the material between them.
        size: width and height of a brick with its joint.
        gap: width of the joint.
        shift: of every other row, as a fraction of a brick.
        variation: of the brightness.
    """
    tones = random.uniform(1 - variation, 1 + variation, 64).astype(np.float32)

    def result(x, y):
        y = y / size[1]
        row = np.floor(y)
        x = x / size[0] + shift * (row % 2)
        column = np.floor(x)
        distance = np.minimum((0.5 - np.abs(x - column - 0.5)) * size[0], (0.5 - np.abs(y - row - 0.5)) * size[1])
        share = np.clip(distance * (2 / gap) - 0.5, 0, 1)
        tone = tones[(5 * column + 23 * row).astype(np.int32) % 64]
        color = joint(x * size[0], y * size[1])
        return color + share * (material(x * size[0], y * size[1]) * tone - color)
    return result


def on_plane(material: Material, vanishing_point: tuple[float, float], distance: float, is_level: bool) -> Material:
    """A material on a plane that runs away from the viewer: x and y become those on the plane, y the depth.

    Args:
        material: of the plane.
        vanishing_point: where its lines meet.
        distance: of the plane from the eye; depth is measured in the same unit, and is 1 where the picture is to scale.
        is_level: a floor or a ceiling; otherwise a wall at the left or right.
    """
    def result(x, y):
        x, y = x - vanishing_point[0], y - vanishing_point[1]
        across, towards = (x, y) if is_level else (y, x)
        depth = distance / np.maximum(np.abs(towards), 0.02)
        return material(across * depth, depth + 0 * across)
    return result


def _stripes(x, y, duty):
    return _edge(_wave(x) - duty)


def _checks(x, y, _):
    return _edge((_wave(x) - 0.5) * (_wave(y) - 0.5))


def _dots(x, y, duty):
    return _edge((0.4 * duty + 0.1) ** 2 - (_fraction(x) - 0.5) ** 2 - (_fraction(y) - 0.5) ** 2)


def _plaid(x, y, duty):
    return 0.5 * (_edge(_wave(x) - duty) + _edge(_wave(y) - duty))


def _print(x, y, duty):
    row = np.floor(2 * y)
    words = _wave(1.7 * x + 0.618 * row * row) * _wave(0.31 * x + 0.23 * row)
    return _edge(_wave(2 * y) - 0.5) * _edge(words - 0.4 * duty)


def _nothing(x, y, _):
    return np.float32(0)


def lit(material: Material, light: float | Callable[[np.ndarray, np.ndarray], np.ndarray], gloss: float = 0.0) -> Material:
    """A material under light: a factor on its colour, or a function of x, y that gives it. Where that nears its
    maximum, `gloss` adds white."""
    def result(x, y):
        brightness = np.asarray(light(x, y) if callable(light) else light, np.float32)
        color = material(x, y) * brightness
        if not gloss:
            return color
        highlight = np.clip(brightness - 0.6, 0, 0.5) / 0.5
        for _ in range(4):
            highlight = highlight * highlight
        return color + 255 * gloss * highlight
    return result


def on_parallelogram(material: Material, corner: np.ndarray, edge_x: np.ndarray, edge_y: np.ndarray,
                     size: tuple[float, float]) -> Material:
    """A material on the parallelogram that is spanned by two edges [2] at a corner [2], each `size` units long in the
    material's own coordinates."""
    (x0, y0), (ax, ay), (bx, by) = (map(float, vector) for vector in (corner, edge_x, edge_y))
    determinant = ax * by - ay * bx

    def result(x, y):
        return material(((x - x0) * by - (y - y0) * bx) * (size[0] / determinant),
                        ((y - y0) * ax - (x - x0) * ay) * (size[1] / determinant))
    return result


def _wave(x):
    """A triangle wave of period 1 in 0 .. 1."""
    return np.abs(2 * _fraction(x) - 1)


def _fraction(x):
    return x - np.floor(x)


def _edge(x):
    """A step at 0, soft enough for frequencies of some px."""
    return np.clip(0.5 + 8 * x, 0, 1)


def _mirrored(position):
    """Indices into the table of noise, to and fro: without a seam."""
    index = np.floor(position).astype(np.int32) & (2 * _GRAIN_SIDE - 1)
    return np.minimum(index, 2 * _GRAIN_SIDE - 1 - index)


def _channels(color):
    return np.asarray(color, np.float32)[:, None, None]
