"""Drawn backgrounds: rooms, streets, landscapes, walls, shelves, foliage, things out of focus.

Scenes are laid out on the unit square, y down, and drawn by `painting`.
"""

import itertools
import math

import cv2
import numpy as np

from posepile.data.painting import (
    GREENS,
    Material,
    Shape,
    band,
    ellipse,
    gradient,
    grained,
    laid,
    lit,
    natural_noise,
    on_plane,
    paint,
    patterned,
    pick,
    plain,
    random_color,
    rectangle,
    rounded,
    varied,
    wooden,
)
from posepile.data.procedural_objects import INDOOR_OBJECTS, OUTDOOR_OBJECTS, bush

_EVERYWHERE = rectangle(-0.01, -0.01, 1.01, 1.01)
_HORIZON_MARGIN = 0.01
_BLURS = (0.0, 0.5, 0.8, 1.2, 2.0, 3.5)  # px of a picture with _NOMINAL_SIDE
_NOMINAL_SIDE = 320
_LARGEST_NOISE = 8.0  # of 255


def draw_background(index: int, side: int) -> np.ndarray:
    """One of endlessly many scenes; those of consecutive indices are of different kinds.

    Args:
        index: which.
        side: px.

    Returns: [side, side, 3] uint8 RGB.
    """
    random = np.random.RandomState(index)
    canvas = np.zeros((3, side, side), np.float32)
    SCENES[index % len(SCENES)](random, canvas)
    return _photographed(random, canvas)


def _photographed(random, canvas):
    """Adds what tells photos from drawings: uneven light, a colour cast, blur and noise. Returns uint8."""
    side = canvas.shape[1]
    canvas *= gradient(random, side, side, 0.25) + 0.12 * natural_noise(random, side, persistence=0.35)
    canvas *= random.uniform(0.92, 1.08, (3, 1, 1)).astype(np.float32)
    picture = cv2.merge(list(np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)))
    sigma = pick(random, _BLURS) * side / _NOMINAL_SIDE
    if sigma:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)  # in integers, for uint8
    noise = np.frombuffer(random.bytes(picture.size), np.int8).reshape(picture.shape).astype(np.int16)
    amplitude = np.int16(round(random.uniform(0, _LARGEST_NOISE) * math.sqrt(3)))  # of uniform noise
    return cv2.add(picture, noise * amplitude >> 7, dtype=cv2.CV_8U)


def _cover(canvas, contour, material):
    paint(canvas, [Shape([contour], material)], canvas.shape[1])


def _shadow(canvas, x, y, radius_x, radius_y, strength=0.55):
    """Darkens softly about a point."""
    side = canvas.shape[1]
    low = np.clip([y - radius_y, x - radius_x], 0, 1)
    high = np.clip([y + radius_y, x + radius_x], 0, 1)
    (top, left), (bottom, right) = (low * side).astype(int), (high * side).astype(int)
    dx = ((np.arange(left, right, dtype=np.float32) / side - x) / radius_x)[None, :]
    dy = ((np.arange(top, bottom, dtype=np.float32) / side - y) / radius_y)[:, None]
    canvas[:, top:bottom, left:right] *= 1 - strength * np.clip(1 - dx * dx - dy * dy, 0, 1)


def _place_objects(random, canvas, number, horizon, kinds, size):
    """Objects that stand on a level ground, from the farthest to the nearest, each in its shadow."""
    for y in np.sort(random.uniform(horizon + 0.08, 1.05, number)).tolist():
        shapes = pick(random, kinds)(random)
        corners = np.concatenate([contour for shape in shapes for contour in shape.contours])
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        scale = size * (y - horizon + 0.15) * random.uniform(0.6, 1.0) / max(right - left, bottom - top)
        x, half_width = random.uniform(0, 1), scale * (right - left) / 2
        _shadow(canvas, x, y - 0.01, 1.3 * half_width, 0.3 * half_width + 0.01)
        side = canvas.shape[1]
        paint(canvas, shapes, scale * side, ((x - scale * (left + right) / 2) * side, (y - scale * bottom) * side))


def _sky(random, canvas, horizon):
    """A sky that pales towards the horizon, mostly with clouds."""
    high = varied(random, pick(random, ((90, 140, 215), (130, 165, 215), (175, 185, 195), (60, 100, 180), (210, 170, 140))))
    low = varied(random, pick(random, ((205, 220, 235), (235, 225, 210), (190, 200, 205))), 0.08)
    side = canvas.shape[1]
    rows = round((horizon + _HORIZON_MARGIN) * side)
    sky = _blend(high, low, np.linspace(0, 1, rows, dtype=np.float32)[:, None])
    cloudiness, cover = random.uniform(0, 1), random.uniform(0.0, 0.6)
    clouds = cloudiness * np.clip(2 * natural_noise(random, side, persistence=0.6)[0, :rows] + cover, 0, 1)
    canvas[:, :rows] = sky + clouds * (plain(varied(random, (238, 238, 242), 0.08))(0, 0) - sky)


def _blend(first, second, share):
    """[3, height, width] colours between two, `share` [height, width] of the second."""
    return np.float32(first)[:, None, None] + share * np.float32(second - first)[:, None, None]


def _brick_wall(random) -> Material:
    """Bricks, tiles, boards or panelling."""
    width = random.uniform(0.06, 0.3)
    height = width * random.uniform(0.3, 1.0)
    joint = plain(random_color(random, 0.3, (0.3, 0.9)))
    color = varied(random, (165, 88, 66)) if random.uniform() < 0.4 else random_color(random)
    return laid(random, grained(random, color, random.uniform(0.1, 0.4)), joint, (width, height),
                random.uniform(0.04, 0.15) * height, shift=pick(random, (0.0, 0.5, 0.5)), variation=random.uniform(0, 0.3))


def _boards(random) -> Material:
    """Planks along x, or parquet."""
    width = random.uniform(0.06, 0.2)
    return laid(random, wooden(random), plain((60, 44, 32)), (width * random.uniform(3, 12), width), 0.06 * width,
                shift=random.uniform(0.2, 0.8), variation=0.15)


def _wall(random) -> Material:
    """Plaster, wallpaper, bricks or wood."""
    kind = random.uniform()
    if kind < 0.45:
        return grained(random, random_color(random, 0.3, (0.45, 0.95)), random.uniform(0.02, 0.15), density=250)
    return patterned(random, (4.0, 20.0)) if kind < 0.6 else _brick_wall(random) if kind < 0.8 else _boards(random)


def _floor(random) -> Material:
    """Boards, tiles, carpet or bare ground."""
    kind = random.uniform()
    if kind < 0.4:
        return _boards(random)
    return _brick_wall(random) if kind < 0.65 else patterned(random, (2.0, 9.0)) if kind < 0.8 else \
        grained(random, random_color(random, 0.4), random.uniform(0.1, 0.4))


def _room(random, canvas):
    """A room seen along its axis: rear wall, floor, ceiling and side walls, windows or pictures, furniture."""
    point = random.uniform(0.2, 0.8), random.uniform(0.3, 0.55)
    left, right = point[0] - random.uniform(0.2, 0.7), point[0] + random.uniform(0.2, 0.7)
    top, bottom = point[1] - random.uniform(0.3, 0.6), point[1] + random.uniform(0.15, 0.35)
    wall = _wall(random)
    _cover(canvas, _EVERYWHERE, wall)

    def beyond(x, y, factor=8.0):  # from the eye's axis through an edge of the rear wall, out of the picture
        return point[0] + factor * (x - point[0]), point[1] + factor * (y - point[1])
    corners = {"left": ((left, top), (left, bottom)), "right": ((right, bottom), (right, top)),
               "top": ((right, top), (left, top)), "bottom": ((left, bottom), (right, bottom))}
    ceiling = grained(random, random_color(random, 0.2, (0.7, 0.95)), 0.05)
    for name, material, distance in (("left", lit(wall, random.uniform(0.6, 1)), point[0] - left),
                                     ("right", lit(wall, random.uniform(0.6, 1)), right - point[0]),
                                     ("top", ceiling, point[1] - top), ("bottom", _floor(random), bottom - point[1])):
        start, end = corners[name]
        contour = np.array([start, end, beyond(*end), beyond(*start)])
        _cover(canvas, contour, on_plane(material, point, distance, is_level=name in ("top", "bottom")))
    skirting = random.uniform(0.008, 0.02)
    _cover(canvas, rectangle(left, bottom - skirting, right, bottom), plain(random_color(random, 0.4)))
    for _ in range(random.randint(0, 4)):
        _hang(random, canvas, random.uniform(left, right - 0.1), random.uniform(top, bottom - 0.25))
    _place_objects(random, canvas, random.randint(0, 6), bottom - 0.06, INDOOR_OBJECTS, size=0.7)


def _hang(random, canvas, x, y):
    """A window, a door or a picture, on a wall that faces the viewer."""
    width, height = random.uniform(0.1, 0.35), random.uniform(0.12, 0.4)
    border, frame = random.uniform(0.008, 0.03), random_color(random, 0.5, (0.2, 0.95))
    _cover(canvas, rectangle(x, y, x + width, y + height), plain(frame))
    inner = rectangle(x + border, y + border, x + width - border, y + height - border)
    if random.uniform() < 0.5:
        _cover(canvas, inner, patterned(random, (3.0, 12.0)))
        return
    light = np.float32(varied(random, (205, 222, 240)))
    _cover(canvas, inner, lit(plain(light), lambda _, row: 1.15 - 0.9 * (row - y)))
    skyline = np.sort(random.uniform(0, 1, 6)) * width + x
    for start, end in itertools.pairwise(skyline):
        low = y + height - border
        _cover(canvas, rectangle(max(start, x + border), low - random.uniform(0.05, 0.6) * height,
                                 min(end, x + width - border), low), plain(varied(random, pick(random, GREENS), 0.4)))
    for k in range(1, random.randint(2, 4)):
        middle = x + width * k / 2
        _cover(canvas, rectangle(middle - border / 3, y, middle + border / 3, y + height), plain(frame))


def _landscape(random, canvas):
    """Sky, ranges of hills, a meadow or a path, trees and bushes."""
    horizon, green = random.uniform(0.3, 0.65), pick(random, GREENS)
    _sky(random, canvas, horizon)
    num_ranges = random.randint(1, 5)
    for k in range(num_ranges):
        share = (k + 1) / num_ranges
        color = (1 - share) * np.array((160, 175, 190)) + share * varied(random, green)
        x = np.linspace(-0.01, 1.01, 41)
        ridge = horizon - (1 - share) * random.uniform(0.05, 0.25) + 0.08 * natural_noise(random, 41, 0.6)[0, 0]
        ridge = np.append(np.stack([x, ridge], axis=1), [(1.01, 1.01), (-0.01, 1.01)], axis=0)
        _cover(canvas, ridge, grained(random, color, 0.3 * share, density=200))
    ground = horizon + 0.05
    meadow = grained(random, varied(random, pick(random, (*GREENS, (190, 170, 130), (150, 140, 125))), 0.3), 0.5, density=200)
    point = random.uniform(0.2, 0.8), horizon - 0.02
    _cover(canvas, rectangle(-0.01, ground, 1.01, 1.01), on_plane(meadow, point, 0.5, is_level=True))
    if random.uniform() < 0.5:
        start, width = random.uniform(-0.3, 1.0), random.uniform(0.2, 0.8)
        path = grained(random, random_color(random, 0.3, (0.3, 0.8)), 0.3)
        _cover(canvas, np.array([(point[0] - 0.01, ground), (point[0] + 0.01, ground), (start + width, 1.01), (start, 1.01)]),
               on_plane(path, point, 0.5, is_level=True))
    _plant_trees(random, canvas, random.randint(1, 7), ground)
    _place_objects(random, canvas, random.randint(0, 3), ground, OUTDOOR_OBJECTS, size=0.4)


def _plant_trees(random, canvas, number, ground):
    side = canvas.shape[1]
    for y in np.sort(random.uniform(ground, ground + 0.25, number)).tolist():
        x, size = random.uniform(0, 1), (y - ground + 0.08) * random.uniform(0.4, 1.2)
        height = size * random.uniform(0.9, 2.2)
        _shadow(canvas, x, y, size, 0.2 * size)
        bark = grained(random, varied(random, (98, 78, 58)), 0.4)
        _cover(canvas, band(np.array([(x, y - height), (x, y)]), [0.12 * size, 0.2 * size]), bark)
        foliage = bush(random, varied(random, pick(random, GREENS), 0.3), random.randint(10, 20))
        paint(canvas, foliage, size * side, (x * side, (y - height) * side))


def _street(random, canvas):
    """Fronts of houses with their windows, a road and a pavement."""
    ground, x = random.uniform(0.6, 0.85), -random.uniform(0, 0.3)
    _sky(random, canvas, ground)
    while x < 1:
        width, top = random.uniform(0.25, 0.7), random.uniform(-0.4, 0.35)
        front = grained(random, random_color(random, 0.6, (0.3, 0.9)), 0.15)
        glass = lit(grained(random, random_color(random, 0.5, (0.15, 0.6)), 0.5), lambda x, y: 1.1 - 0.4 * y)
        pane = random.uniform(0.05, 0.2), random.uniform(0.08, 0.25)
        wall = laid(random, glass, front, pane, random.uniform(0.4, 0.8) * min(pane), shift=0, variation=0.5)
        _cover(canvas, rectangle(x, top, x + width, ground), wall)
        _cover(canvas, rectangle(x - 0.01, top - 0.02, x + width + 0.01, top), plain(random_color(random, 0.5)))
        if random.uniform() < 0.6:
            _cover(canvas, rectangle(x, ground - 0.12, x + width, ground), patterned(random, (3, 9)))
        x += width
    point = random.uniform(0.2, 0.8), ground - random.uniform(0.1, 0.3)
    road = grained(random, random_color(random, 0.2, (0.25, 0.6)), 0.3)
    _cover(canvas, rectangle(-0.01, ground, 1.01, 1.01), on_plane(_brick_wall(random), point, 0.3, is_level=True))
    _cover(canvas, rectangle(-0.01, ground + random.uniform(0.02, 0.1), 1.01, 1.01), on_plane(road, point, 0.3, is_level=True))
    _plant_trees(random, canvas, random.randint(0, 3), ground)
    _place_objects(random, canvas, random.randint(0, 5), ground - 0.05, OUTDOOR_OBJECTS, size=0.6)


def _close_wall(random, canvas):
    """A wall close by, obliquely or from the front, with things on it."""
    wall = _brick_wall(random) if random.uniform() < 0.5 else _wall(random)
    if random.uniform() < 0.5:
        wall = on_plane(wall, (pick(random, (-0.6, 1.6)), random.uniform(0.2, 0.8)), 0.8, is_level=False)
    _cover(canvas, _EVERYWHERE, wall)
    for _ in range(random.randint(0, 4)):
        _hang(random, canvas, *random.uniform(-0.1, 0.8, 2).tolist())


def _bookcase(random, canvas):
    """Shelves full of books and boxes."""
    wood, back = wooden(random), plain(random_color(random, 0.3, (0.1, 0.4)))
    _cover(canvas, _EVERYWHERE, back)
    spacing, y, is_vivid = random.uniform(0.15, 0.35), random.uniform(0.05, 0.3), random.uniform(0.2, 1)
    while y < 1.3:
        x = random.uniform(-0.1, 0.05)
        while x < 1:
            width, height = random.uniform(0.015, 0.06), random.uniform(0.55, 0.9) * spacing
            if random.uniform() < 0.12:
                x += random.uniform(0.02, 0.2)
            color = random_color(random, is_vivid)
            round_back = lit(plain(color), lambda u, _, x=x, width=width: 1.1 - 0.6 * np.abs((u - x) / width - 0.4))
            _cover(canvas, rectangle(x, y - height, x + width, y), round_back)
            title = random.uniform(0.3, 0.8) * height
            _cover(canvas, rectangle(x + 0.003, y - title, x + width - 0.003, y - title + 0.02), plain(random_color(random)))
            x += width + 0.002
        _cover(canvas, rectangle(-0.01, y, 1.01, y + 0.025), wood)
        y += spacing
    x = random.uniform(0, 1)
    _cover(canvas, rectangle(x, -0.01, x + 0.03, 1.01), wood)


def _foliage(random, canvas):
    """A hedge or the edge of a wood."""
    green = pick(random, GREENS)
    _cover(canvas, _EVERYWHERE, grained(random, np.multiply(green, 0.4), 0.6))
    side, spacing = canvas.shape[1], random.uniform(0.15, 0.4)
    for _ in range(round(3.5 / spacing)):
        x, y = random.uniform(0, 1, 2).tolist()
        paint(canvas, bush(random, varied(random, green, 0.3), 8), spacing * side, (x * side, y * side))


def _clutter(random, canvas):
    """Objects upon objects, in any position."""
    _cover(canvas, _EVERYWHERE, patterned(random, (2.0, 12.0)))
    side = canvas.shape[1]
    for _ in range(random.randint(6, 15)):
        place = tuple(random.uniform(0, side, 2).tolist())
        shapes = pick(random, INDOOR_OBJECTS)(random)
        paint(canvas, shapes, random.uniform(0.08, 0.3) * side, place, random.uniform(-math.pi, math.pi))


def _out_of_focus(random, canvas):
    """Soft patches and discs of light, as behind a person in a portrait."""
    first, second = random_color(random), random_color(random)
    side = canvas.shape[1]
    canvas[:] = _blend(first, second, np.clip(0.5 + 0.8 * natural_noise(random, side, persistence=0.4), 0, 1))
    for _ in range(random.randint(3, 20)):
        x, y = random.uniform(0, 1, 2).tolist()
        radius = random.uniform(0.02, 0.12)
        if random.uniform() < 0.5:
            outline = ellipse(x, y, radius, radius)
        else:
            outline = rounded(rectangle(x, y, x + random.uniform(0.05, 0.4), y + random.uniform(0.1, 0.8)), 2)
        _cover(canvas, outline, plain(random_color(random, 1.0)))
    sigma = random.uniform(3, 9) * side / _NOMINAL_SIDE
    for channel in canvas:
        channel[:] = cv2.GaussianBlur(np.rint(channel).astype(np.uint8), (0, 0), sigma)


def _texture(random, canvas):
    """Noise with the spectrum of photos, in two colours and their tints."""
    side, first, second = canvas.shape[1], random_color(random), random_color(random)
    canvas[:] = _blend(first, second, 0.5 + natural_noise(random, side, persistence=random.uniform(0.8, 1.0)))
    canvas += random.uniform(0, 40) * natural_noise(random, side, persistence=0.8, num_channels=3)


# How scenes are painted on a canvas [3, side, side] from random numbers; the more usual ones more often.
SCENES = (_room, _landscape, _street, _room, _close_wall, _clutter, _landscape, _room, _out_of_focus, _street, _bookcase,
          _foliage, _room, _texture)
