"""Paints the textures behind and below people: backdrops and floors of different kinds, drawn at random.

Every painter takes a random generator and returns [height, width, 3] float32, about 0..1.
"""

import cv2
import numpy as np

BACKDROP_SIZE = (192, 288)  # height, width
FLOOR_SIDE = 256


def _noise(rng, height, width, finest=4, coarsest=64):
    """Smooth noise, [height, width, 1], about -1..1, amplitude proportional to the grain."""
    total, weights, grain = np.zeros((height, width), np.float32), 0.0, coarsest
    while grain >= finest:
        cells = rng.uniform(-1, 1, (height // grain + 2, width // grain + 2)).astype(np.float32)
        weight = (grain / coarsest) ** 0.6
        total += weight * cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
        weights += weight
        grain //= 2
    return total[..., None] / weights * 1.6


def _gradient(rng, height, width, top, bottom):
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** rng.uniform(0.6, 1.6)
    return np.float32(top) * (1 - t) + np.float32(bottom) * t + np.zeros((height, width, 3), np.float32)


def _color(rng, low=0.1, high=0.9, gray=0.5):
    """A random colour; `gray` of 1 has no hue."""
    value, hue = rng.uniform(low, high), rng.uniform(low, high, 3)
    return gray * value + (1 - gray) * hue


def _green(rng):
    """The colour of leaves and grass."""
    mix = rng.random()
    return rng.uniform(0.3, 0.8) * (mix * np.array([0.75, 0.8, 0.4]) + (1 - mix) * np.array([0.45, 0.65, 0.35]))


def _boxes(rng, image, count, sizes, standing, gray):
    """Draws filled boxes with lighter edges; standing ones reach the lower edge."""
    height, width = image.shape[:2]
    for _ in range(count):
        w, h = (int(rng.uniform(*sizes) * s) for s in (width, height))
        x = int(rng.uniform(-0.1, 1.0) * width)
        y = height - h if standing else int(rng.uniform(-0.1, 0.8) * height)
        color = _color(rng, gray=gray)
        cv2.rectangle(image, (x, y), (x + w, y + h), color.tolist(), -1)
        if rng.random() < 0.5:
            cv2.rectangle(
                image,
                (x, y),
                (x + w, y + h),
                np.clip(color * rng.uniform(0.5, 1.5), 0, 1).tolist(),
                int(rng.integers(1, 4)),
            )
    return image


def paint_studio_backdrop(rng):
    height, width = BACKDROP_SIZE
    color = _color(rng, 0.25, 0.85, gray=0.8)
    image = _gradient(rng, height, width, color * rng.uniform(0.6, 1.1), color * rng.uniform(0.8, 1.2))
    image += 0.03 * _noise(rng, height, width, 16)
    for _ in range(int(rng.integers(0, 4))):  # folds or seams of the backdrop
        x = int(rng.uniform(0, width))
        cv2.line(image, (x, 0), (x, height), (color * rng.uniform(0.7, 1.2)).tolist(), int(rng.integers(1, 5)))
    return _boxes(rng, image, int(rng.integers(0, 4)), (0.04, 0.3), bool(rng.random() < 0.7), 0.8)


def paint_street_backdrop(rng):
    height, width = BACKDROP_SIZE
    image = _gradient(
        rng, height, width, rng.uniform([0.4, 0.5, 0.65], [0.75, 0.82, 0.95]), rng.uniform(0.65, 0.95, 3)
    )
    x = 0
    while x < width:  # a row of houses with windows
        w, h = int(rng.uniform(0.12, 0.35) * width), int(rng.uniform(0.35, 1.0) * height)
        color = _color(rng, 0.15, 0.75, gray=0.75)
        cv2.rectangle(image, (x, height - h), (x + w, height), color.tolist(), -1)
        pane, step_x, step_y = color * rng.uniform(0.3, 1.6), int(rng.integers(12, 26)), int(rng.integers(16, 30))
        for wx in range(x + 5, x + w - 8, step_x):
            for wy in range(height - h + 6, height - 16, step_y):
                cv2.rectangle(image, (wx, wy), (wx + step_x // 2, wy + step_y // 2), np.clip(pane, 0, 1).tolist(), -1)
        x += w + int(rng.integers(0, 12))
    _boxes(rng, image, int(rng.integers(1, 4)), (0.08, 0.25), True, 0.3)  # cars, kiosks
    return image + 0.04 * _noise(rng, height, width, 4, 16)


def paint_gym_backdrop(rng):
    height, width = BACKDROP_SIZE
    color = _color(rng, 0.3, 0.8, gray=0.3)
    image = _gradient(rng, height, width, color * 1.1, color * 0.9)
    band = int(rng.uniform(0.4, 0.8) * height)
    image[band:] = _color(rng, 0.2, 0.8, gray=0.3)
    if rng.random() < 0.6:  # wall bars
        x, step = int(rng.uniform(0, 0.6) * width), int(rng.integers(7, 14))
        bar = _color(rng, 0.3, 0.8, gray=0.5).tolist()
        for y in range(0, height, step):
            cv2.line(image, (x, y), (x + width // 4, y), bar, 2)
        for dx in (0, width // 8, width // 4):
            cv2.line(image, (x + dx, 0), (x + dx, height), bar, 3)
    _boxes(rng, image, int(rng.integers(2, 7)), (0.06, 0.3), True, 0.1)
    return image + 0.03 * _noise(rng, height, width, 8)


def paint_garden_backdrop(rng):
    height, width = BACKDROP_SIZE
    image = _gradient(
        rng, height, width, rng.uniform([0.35, 0.55, 0.75], [0.7, 0.85, 1.0]), rng.uniform([0.7, 0.8, 0.8], 1.0)
    )
    leaves = _green(rng)
    texture = 1 + 0.3 * _noise(rng, height, width, 2, 32)
    outline = height * (1 - rng.uniform(0.4, 0.95)) + 40 * _noise(rng, 64, width, 16)[0, :, 0]
    hedge = np.arange(height)[:, None] > outline
    image[hedge] = (leaves * texture)[hedge]
    for _ in range(int(rng.integers(0, 4))):  # tree trunks
        x, w = int(rng.uniform(0, width)), int(rng.integers(4, 22))
        cv2.rectangle(image, (x, 0), (x + w, height), rng.uniform([0.2, 0.15, 0.08], [0.45, 0.35, 0.25]).tolist(), -1)
    if rng.random() < 0.5:  # a fence
        top, color = int(rng.uniform(0.6, 0.85) * height), _color(rng, 0.3, 0.9, 0.8).tolist()
        for x in range(0, width, int(rng.integers(8, 20))):
            cv2.rectangle(image, (x, top), (x + 4, height), color, -1)
    return image


def paint_photo_backdrop(rng):
    kind = rng.integers(5)
    if kind < 4:
        return (paint_studio_backdrop, paint_street_backdrop, paint_gym_backdrop, paint_garden_backdrop)[kind](rng)
    height, width = BACKDROP_SIZE
    image = _gradient(rng, height, width, _color(rng), _color(rng)) + 0.3 * _noise(rng, height, width) * _color(
        rng, gray=0.3
    )
    return np.float32(
        _boxes(rng, np.ascontiguousarray(image, np.float32), int(rng.integers(4, 14)), (0.03, 0.4), False, 0.2)
    )


def _plain_floor(rng, low=0.2, high=0.8, gray=0.8, roughness=0.05):
    return _color(rng, low, high, gray) * (1 + roughness * _noise(rng, FLOOR_SIDE, FLOOR_SIDE, 2, 64))


def _tiled_floor(rng, gray=0.8):
    image = np.ascontiguousarray(_plain_floor(rng, 0.3, 0.8, gray), np.float32)
    step, line = int(rng.integers(14, 48)), (image.mean(axis=(0, 1)) * rng.uniform(0.5, 1.3)).tolist()
    second, is_checkered = _color(rng, 0.2, 0.9, gray), rng.random() < 0.35
    for i, x in enumerate(range(0, FLOOR_SIDE, step)):
        for j, y in enumerate(range(0, FLOOR_SIDE, step)):
            if is_checkered and (i + j) % 2:
                cv2.rectangle(image, (x, y), (x + step, y + step), second.tolist(), -1)
        cv2.line(image, (x, 0), (x, FLOOR_SIDE), line, 1)
        cv2.line(image, (0, x), (FLOOR_SIDE, x), line, 1)
    return image


def _wooden_floor(rng):
    wood = rng.uniform([0.45, 0.28, 0.15], [0.8, 0.6, 0.4])
    image = np.empty((FLOOR_SIDE, FLOOR_SIDE, 3), np.float32)
    step = int(rng.integers(5, 12))
    for x in range(0, FLOOR_SIDE, step):
        image[:, x : x + step] = wood * rng.uniform(0.85, 1.12)
    image *= 1 + 0.06 * _noise(rng, FLOOR_SIDE, FLOOR_SIDE, 2, 16)
    for _ in range(int(rng.integers(0, 5))):  # court lines
        x = int(rng.uniform(0, FLOOR_SIDE))
        cv2.line(image, (x, 0), (x, FLOOR_SIDE), _color(rng, 0.2, 1.0, 0.2).tolist(), 2)
    return image


def paint_street_floor(rng):
    return _tiled_floor(rng, 0.95) if rng.random() < 0.6 else _plain_floor(rng, 0.2, 0.6, 0.95, 0.12)


def paint_garden_floor(rng):
    ground = (
        _green(rng) if rng.random() < 0.75 else rng.uniform(0.4, 0.75) * np.array([1.0, 0.85, 0.65])
    )  # grass or sand
    return ground * (1 + 0.25 * _noise(rng, FLOOR_SIDE, FLOOR_SIDE, 2, 32))


def paint_gym_floor(rng):
    return _wooden_floor(rng) if rng.random() < 0.7 else _plain_floor(rng, 0.2, 0.7, 0.2)


def paint_studio_floor(rng):
    return _plain_floor(rng, 0.25, 0.75, 0.85, 0.04) if rng.random() < 0.7 else _tiled_floor(rng)


def paint_photo_floor(rng):
    return (paint_studio_floor, paint_street_floor, paint_gym_floor, paint_garden_floor)[rng.integers(4)](rng)
