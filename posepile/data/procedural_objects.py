"""Drawn everyday objects: furniture, vessels, plants, bars, cushions, signs. They occlude persons and furnish scenes.

Every object is a list of `painting.Shape` in units of about half its own size, y down.
"""

import math
from collections.abc import Sequence

import numpy as np

from posepile.data.painting import (
    GREENS,
    Material,
    Shape,
    band,
    ellipse,
    gradient,
    grained,
    lit,
    on_parallelogram,
    paint,
    patterned,
    pick,
    plain,
    random_color,
    rectangle,
    rotate,
    rounded,
    turn,
    varied,
    wooden,
)

Block = tuple[tuple[float, float, float], tuple[float, float, float], Material]  # center, size (x, y, z), material

_LIGHT = (-0.35, -0.85, -0.4)  # where most of it comes from: the left, above and the viewer


def draw_occluder(index: int, longer_side: int) -> np.ndarray:
    """One of endlessly many objects; those of consecutive indices are of different kinds.

    Args:
        index: which.
        longer_side: of the picture, px.

    Returns: [height, width, 4] uint8 RGBA, premultiplied, cut to the object.
    """
    random = np.random.RandomState(index)
    kind, largest_tilt = OBJECTS[index % len(OBJECTS)]
    shapes, angle = kind(random), random.uniform(-largest_tilt, largest_tilt)
    corners = np.concatenate([rotate(contour, angle) for shape in shapes for contour in shape.contours])
    low, size = corners.min(axis=0), np.ptp(corners, axis=0)
    scale = float(longer_side / size.max())
    width, height = np.maximum(np.rint(size * scale).astype(int), 1).tolist()
    canvas = np.zeros((4, height, width), np.float32)
    paint(canvas, shapes, scale, tuple((-scale * low).tolist()), angle)
    canvas[:3] *= gradient(random, height, width, 0.15)
    canvas[:3] = np.clip(canvas[:3], 0, canvas[3])
    return np.ascontiguousarray(np.moveaxis(np.rint(canvas).astype(np.uint8), 0, -1))


def cuboids(blocks: Sequence[Block], yaw: float, pitch: float) -> list[Shape]:
    """Boxes in parallel projection.

    Args:
        blocks: in a frame with x to the right, y down and z away from the viewer. They may not penetrate each other;
            the farther of two centres is painted first.
        yaw: radians, turns them about the vertical axis.
        pitch: radians, by which they are seen from above.
    """
    axes = [_seen((1, 0, 0), yaw, pitch), _seen((0, 1, 0), yaw, pitch), _seen((0, 0, 1), yaw, pitch)]
    shapes = []
    for center, size, material in sorted(blocks, key=lambda block: -_seen(block[0], yaw, pitch)[2]):
        middle = _seen(center, yaw, pitch)
        for axis, others in ((0, (2, 1)), (1, (0, 2)), (2, (0, 1))):
            normal = -math.copysign(1, axes[axis][2]) * axes[axis]  # the visible one of the two faces
            if abs(normal[2]) < 0.02:
                continue
            others = sorted(others, key=lambda other: -size[other])  # the grain of wood runs along the longer edge
            edge_x, edge_y = (axes[other] * size[other] for other in others)
            corner = middle + normal * (size[axis] / 2) - edge_x / 2 - edge_y / 2
            contour = np.array([corner, corner + edge_x, corner + edge_x + edge_y, corner + edge_y])[:, :2]
            light = 0.6 + 0.5 * max(0.0, float((normal * _LIGHT).sum()))
            face = on_parallelogram(lit(material, light), corner[:2], edge_x[:2], edge_y[:2],
                                    (size[others[0]], size[others[1]]))
            shapes.append(Shape([contour], face))
    return shapes


def _seen(point, yaw, pitch):
    """[3] in the viewer's frame."""
    (cosine, sine), (pitch_cosine, pitch_sine) = turn(yaw), turn(pitch)
    x, z = cosine * point[0] + sine * point[2], cosine * point[2] - sine * point[0]
    return np.array([x, pitch_cosine * point[1] - pitch_sine * z, pitch_cosine * z + pitch_sine * point[1]])


def _any_view(random):
    return random.uniform(-1.2, 1.2), random.uniform(0.1, 0.6)


def _boxes(random):
    """One to three cartons on top of each other, some with adhesive tape."""
    blocks, y = [], 0.0
    for _ in range(random.randint(1, 4)):
        width, height, depth = random.uniform(0.5, 1.3), random.uniform(0.3, 1.1), random.uniform(0.5, 1.1)
        material = patterned(random) if random.uniform() < 0.6 else grained(random, varied(random, (186, 148, 104)), 0.15)
        y -= height / 2
        blocks.append(((random.uniform(-0.1, 0.1), y, 0.0), (width, height, depth), material))
        if random.uniform() < 0.5:
            blocks.append(((blocks[-1][0][0], y, -0.01), (0.12, height * 1.004, depth), plain(random_color(random))))
        y -= height / 2
    return cuboids(blocks, random.uniform(-0.7, 0.7), random.uniform(0.15, 0.6))


def _table(random):
    """A table or bench, sometimes with a shelf between its legs."""
    width, depth, height, leg = random.uniform(1.2, 2), random.uniform(0.5, 1.2), random.uniform(0.6, 1.2), 0.09
    wood, legs = wooden(random), wooden(random) if random.uniform() < 0.6 else plain(random_color(random))
    blocks = [((0, 0, 0), (width, 0.1, depth), wood)]
    blocks += [((x * (width / 2 - 0.1), height / 2 + 0.05, z * (depth / 2 - 0.1)), (leg, height, leg), legs)
               for x in (-1, 1) for z in (-1, 1)]
    if random.uniform() < 0.5:
        blocks.append(((0, 0.6 * height, 0), (width - 0.25, 0.06, depth - 0.25), wood))
    return cuboids(blocks, *_any_view(random))


def _chair(random):
    """A chair with slats, or a closed back."""
    wood = wooden(random) if random.uniform() < 0.6 else grained(random, random_color(random), 0.1)
    seat = wood if random.uniform() < 0.5 else patterned(random)
    leg, back, width = random.uniform(0.07, 0.13), random.uniform(0.7, 1.1), random.uniform(0.8, 1)
    blocks = [((0, 0, 0), (width, random.uniform(0.08, 0.2), 0.9), seat)]
    blocks += [((x * (width - leg) / 2, 0.45, z * (0.45 - leg / 2)), (leg, 0.8, leg), wood)
               for x in (-1, 1) for z in (-1, 1)]
    blocks += [((x * (width - leg) / 2, -back / 2 - 0.05, 0.4), (leg, back, leg), wood) for x in (-1, 1)]
    if random.uniform() < 0.3:
        blocks.append(((0, -0.6 * back, 0.4), (width, 0.7 * back, 0.08), seat))
    elif random.uniform() < 0.5:
        blocks += [((0, y * back, 0.4), (width - leg, 0.13, 0.06), wood) for y in (-0.95, -0.65, -0.35)]
    else:
        blocks += [((x * width, -0.5 * back - 0.03, 0.4), (0.07, 0.8 * back, 0.05), wood) for x in (-0.3, -0.1, 0.1, 0.3)]
        blocks.append(((0, -0.95 * back - 0.05, 0.4), (width, 0.15, leg), wood))
    return cuboids(blocks, random.uniform(-2.5, 2.5), random.uniform(0.1, 0.6))


def _shelf(random):
    """A shelf without a rear wall, in part filled with books and boxes."""
    wood, width, board = wooden(random), random.uniform(0.7, 1.6), 0.06
    num_boards, spacing, depth = random.randint(3, 5), random.uniform(0.4, 0.6), random.uniform(0.25, 0.45)
    height = (num_boards - 1) * spacing
    blocks = [((x * width / 2, height / 2, 0), (board, height + board, depth), wood) for x in (-1, 1)]
    for row in range(num_boards):
        blocks.append(((0, row * spacing, 0), (width - board, board, depth), wood))
        x = random.uniform(-width / 2, 0) + board
        while row and x < random.uniform(0, width / 2) - 0.15:
            book, high = random.uniform(0.05, 0.2), random.uniform(0.5, 0.85) * spacing
            blocks.append(((x + book / 2, row * spacing - board / 2 - high / 2, 0.02), (book, high, 0.6 * depth),
                           plain(random_color(random, 1.0))))
            x += book
    return cuboids(blocks, random.uniform(-0.5, 0.5), random.uniform(0.02, 0.2))


def _crate(random):
    """Planks with gaps between them: a crate, a fence or a ladder."""
    wood, num_planks, gap = wooden(random), random.randint(3, 7), random.uniform(0.3, 0.7)
    spacing, length = 2.0 / num_planks, random.uniform(0.7, 2.0)
    thickness = random.uniform(0.03, 0.15)
    blocks = [((0, (row + 0.5) * spacing - 1, 0), (length, spacing * (1 - gap), thickness), wood)
              for row in range(num_planks)]
    post = random.uniform(0.08, 0.2)
    blocks += [((x * (length - post) / 2, 0, -thickness), (post, 2, thickness), wood) for x in (-1, 1)]
    return cuboids(blocks, random.uniform(-0.6, 0.6), random.uniform(-0.3, 0.3))


def _ball(random):
    """A ball with stripes, or with a pattern."""
    light_x, light_y, light_z = random.uniform(-0.6, 0.6), -0.5, 0.6
    material = patterned(random, (1.0, 4.0))

    def depth(x, y):
        return np.sqrt(np.clip(1 - x * x - y * y, 0, 1))

    def on_sphere(x, y):
        return material(x / (0.4 + depth(x, y)), y / (0.4 + depth(x, y)))

    def light(x, y):
        return 0.35 + 0.75 * np.clip(light_x * x + light_y * y + light_z * depth(x, y), 0, 1)
    return [Shape([ellipse(0, 0, 1, 1)], lit(on_sphere, light, gloss=random.uniform(0, 0.6)))]


def _revolved(material, profile, gloss=0.0):
    """A body of revolution about x = 0, seen a little from above: profile [n, 2] of y, downwards, and radius."""
    heights, radii = np.asarray(profile, np.float64).T
    bottom = ellipse(0, float(heights[-1]), float(radii[-1]), 0.2 * float(radii[-1]))
    outline = np.concatenate([np.stack([radii, heights], axis=1), bottom[:len(bottom) // 2 + 1],
                              np.stack([-radii, heights], axis=1)[::-1]])

    def light(x, y):
        across = x / np.interp(y, heights, np.maximum(radii, 0.01)).astype(np.float32) + 0.3
        return 1.1 - 0.45 * across * across
    return Shape([outline], lit(material, light, gloss))


def _bottle(random):
    """A bottle with a cap and mostly a label, or a can."""
    radius, neck, shoulder = random.uniform(0.22, 0.4), random.uniform(0.06, 0.13), random.uniform(-0.6, -0.2)
    profile = [(-1, neck), (shoulder - 0.15, neck), (shoulder + 0.15, radius), (0.9, radius), (1, 0.85 * radius)]
    if random.uniform() < 0.3:
        profile = [(-1, 0.88 * radius), (-0.93, radius), (0.93, radius), (1, 0.88 * radius)]
    gloss = random.uniform(0.1, 0.6)
    parts = [_revolved(grained(random, random_color(random, 1.0), 0.1), profile, gloss)]
    if profile[0][1] == neck:
        parts.append(_revolved(plain(random_color(random, 1.0)), [(-1.1, neck), (-0.85, 1.1 * neck)], gloss))
    if random.uniform() < 0.75:
        low, high = random.uniform(0.0, 0.2), random.uniform(0.5, 0.8)
        parts.append(_revolved(patterned(random), [(low, radius), (high, radius)]))
    return parts


def _vase(random):
    """A vase, a bowl or a pot of smooth outline, often with a handle."""
    y = np.linspace(-0.8, 0.8, 33)
    radius = np.interp(y, y[::8], random.uniform(0.15, 0.85, 5))
    for _ in range(12):
        radius[1:-1] = (radius[:-2] + 2 * radius[1:-1] + radius[2:]) / 4
    parts = []
    if random.uniform() < 0.5:
        x = float(radius[16])
        parts.append(Shape([ellipse(x, 0, 0.4, 0.5), ellipse(x, 0, 0.27, 0.36)], plain(random_color(random))))
    parts.append(_revolved(patterned(random), np.stack([y, radius], axis=1), random.uniform(0, 0.5)))
    rim = float(radius[0])
    return [*parts, Shape([ellipse(0, -0.8, rim, 0.2 * rim)], plain(varied(random, (50, 45, 40)))),
            Shape([ellipse(0, -0.8, rim, 0.2 * rim), ellipse(0, -0.79, 0.93 * rim, 0.17 * rim)],
                  plain(random_color(random, value=(0.5, 0.95))))]


def leaf(random: np.random.RandomState, base: Sequence[float], angle: float, length: float, width: float,
         color: Sequence[float]) -> Shape:
    """A leaf that grows from `base` in the direction `angle` (radians from x, clockwise); one of its halves is darker."""
    cosine, sine = turn(angle)
    bend = random.uniform(-0.2, 0.2) * length
    along = np.array([(0, 0), (0.3, 0.5), (0.7, 0.4), (1, 0), (0.7, -0.4), (0.3, -0.5)]) * (length, width)
    along[:, 1] += bend * (along[:, 0] / length) ** 2
    points = rotate(rounded(along, 2), angle) + base
    x0, y0, shades = float(base[0]), float(base[1]), random.uniform(0.6, 1.1, 2).tolist()

    def light(x, y):
        forward, across = cosine * (x - x0) + sine * (y - y0), cosine * (y - y0) - sine * (x - x0)
        return np.where(across > forward * forward * (bend / length**2), *np.float32(shades))
    return Shape([points], lit(plain(varied(random, color)), light))


def _potted_plant(random):
    """Leaves, few and large or many and small, that rise from a pot."""
    green, num_leaves = pick(random, GREENS), random.randint(8, 30)
    length = 3.2 / math.sqrt(num_leaves)
    radius = random.uniform(0.25, 0.45)
    parts = []
    for _ in range(num_leaves):
        angle = -math.pi / 2 + random.uniform(-1.2, 1.2)
        base = np.array(turn(angle)) * random.uniform(0, 0.7) + (0, 0.1)
        parts.append(Shape([band(np.array([(0, 0.4), base]), 0.04)], plain(varied(random, green))))
        parts.append(leaf(random, base, angle + random.uniform(-0.5, 0.5), length * random.uniform(0.6, 1),
                          length * random.uniform(0.2, 0.45), green))
    pot = grained(random, (176, 96, 62), 0.15) if random.uniform() < 0.5 else patterned(random)
    return [*parts, _revolved(pot, [(0.3, radius), (0.4, radius), (0.401, 0.92 * radius), (1, 0.65 * radius)], 0.2)]


def _branch(random):
    """A twig with leaves on both sides, or a palm leaf."""
    green, num_leaves, bend = pick(random, GREENS), random.randint(5, 14), random.uniform(-0.5, 0.5)
    y = np.linspace(1, -1, 12)
    stem = np.stack([bend * y * y, y], axis=1)
    parts = [Shape([band(stem, np.linspace(0.09, 0.03, 12))], plain(varied(random, (92, 74, 48))))]
    width, spread = random.uniform(0.2, 0.5), random.uniform(0.5, 1.1)
    for k in range(num_leaves):
        y = 0.7 - 1.6 * k / num_leaves
        for side in (-1, 1):
            length = random.uniform(0.6, 1.0) * (1.1 - 0.5 * k / num_leaves)
            parts.append(leaf(random, (bend * y * y, y), -math.pi / 2 + side * spread, length, width * length, green))
    return [*parts, leaf(random, (bend, -0.9), -math.pi / 2, 0.6, width, green)]


def bush(random: np.random.RandomState, color: Sequence[float], num_tufts: int) -> list[Shape]:
    """Foliage from afar, about the origin, of radius 1: tufts that are brighter towards the upper left."""
    shapes, foliage = [], grained(random, color, 0.5)
    for k in range(num_tufts):
        x, y = random.uniform(-0.75, 0.75, 2).tolist()
        size = random.uniform(0.25, 0.5)
        outline = ellipse(x, y, size, size)[::3]
        outline = outline + random.uniform(-0.3, 0.3, outline.shape) * size
        light = random.uniform(0.45, 0.65) + 0.5 * k / num_tufts - 0.12 * (x + 2 * y)
        shapes.append(Shape([rounded(outline, 1)], lit(foliage, light)))
    return shapes


def _bush(random):
    """A bush, or a small tree with its trunk."""
    foliage = bush(random, pick(random, GREENS), random.randint(15, 30))
    if random.uniform() < 0.5:
        return foliage
    bark = grained(random, varied(random, (98, 78, 58)), 0.4)
    return [Shape([band(np.array([(0, 0), (random.uniform(-0.1, 0.1), 2)]), [0.2, 0.3])], bark), *foliage]


def _frame(random):
    """A picture with its frame, or the frame alone."""
    width, height, border = random.uniform(0.5, 1), random.uniform(0.6, 1), random.uniform(0.08, 0.2)
    outer, inner = rectangle(-width, -height, width, height), rectangle(border - width, border - height, width - border,
                                                                       height - border)
    if random.uniform() < 0.3:
        outer, inner = ellipse(0, 0, width, height), ellipse(0, 0, width - border, height - border)
    frame = Shape([outer, inner], wooden(random))
    return [frame] if random.uniform() < 0.5 else [Shape([outer], patterned(random, (0.7, 3.0))), frame]


def _wheel(random):
    """A wheel with its spokes, or a steering wheel."""
    tyre, hub, num_spokes = random.uniform(0.06, 0.3), random.uniform(0.08, 0.4), random.randint(3, 13)
    metal = grained(random, random_color(random, 1.0, (0.3, 0.9)), 0.15)
    spokes = [Shape([band(np.array([(0.0, 0.0), turn(2 * math.pi * k / num_spokes)]), random.uniform(0.03, 0.15))], metal)
              for k in range(num_spokes)]
    rim = lit(grained(random, random_color(random, 0.5, (0.1, 0.4)), 0.3), lambda x, y: 1 - 0.3 * y - 0.15 * x)
    return [*spokes, Shape([ellipse(0, 0, 1, 1), ellipse(0, 0, 1 - tyre, 1 - tyre)], rim),
            Shape([ellipse(0, 0, hub, hub)], lit(metal, lambda x, y: 1 - 0.3 / hub * y))]


def _bag(random):
    """A bag or suitcase with a handle."""
    width, height, bulge = random.uniform(0.5, 0.9), random.uniform(0.5, 0.8), random.uniform(-0.15, 0.15)
    body = rounded(np.array([(-width, -height), (0, -height - 0.02), (width, -height), (width + bulge, 0),
                             (width, height), (0, height + 0.04), (-width, height), (-width - bulge, 0)]), 2)
    grip, handle = random.uniform(0.2, 0.6) * width, random.uniform(0.2, 0.6)
    leather = plain(random_color(random, value=(0.1, 0.5)))
    parts = [Shape([ellipse(0, -height, grip, handle), ellipse(0, -height, grip - 0.09, handle - 0.09)], leather),
             Shape([body], lit(patterned(random), lambda x, y: 1 - 0.25 * x * x - 0.3 * y))]
    if random.uniform() < 0.6:
        y = random.uniform(-0.4, 0.2) * height
        parts.append(Shape([rounded(rectangle(-0.6 * width, y, 0.6 * width, height * 0.8), 1)],
                           lit(patterned(random), 0.85)))
        parts.append(Shape([rectangle(-0.6 * width, y + 0.06, 0.6 * width, y + 0.1)], leather))
    return parts


def _cushion(random):
    """A smooth lump: a cushion, a stone, a heap of cloth, with folds."""
    num_corners = random.randint(5, 11)
    outline = np.array([turn(2 * math.pi * k / num_corners) for k in range(num_corners)]) \
        * random.uniform(0.45, 1.25, (num_corners, 1)) * (1, random.uniform(0.5, 1))
    material, fold = patterned(random), random.uniform(-1.2, 1.2)

    def light(x, y):
        wave = x + fold * y + 0.5 * y * y
        return 0.95 - 0.3 * y - 0.12 * x + 0.15 * np.abs(2 * (1.3 * wave - np.floor(1.3 * wave)) - 1)
    return [Shape([rounded(outline)], lit(material, light))]


def _sign(random):
    """Letters, cut out or on a board."""
    board, ink = Shape([rectangle(-1.0, -0.62, 1.0, 0.62)], patterned(random)), grained(random, random_color(random, 1.0), 0.1)
    places = [(x, y) for y in (-0.4, 0.0, 0.4) for x in (-0.22, 0.22)]
    letters = []
    for x in (-0.66, 0.0, 0.66):
        stroke = np.array([places[k] for k in random.permutation(6)[:random.randint(3, 6)]])
        letters += [Shape([band(np.add(line, (x, 0)), 0.16)], ink) for line in np.stack([stroke[:-1], stroke[1:]], axis=1)]
    return letters if random.uniform() < 0.4 else [board, *letters]


def _bars(random):
    """A railing, a grid or a bent tube: round bars of metal or painted."""
    width, color = random.uniform(0.1, 0.22), random_color(random, 1.0)
    if random.uniform() < 0.4:
        x = np.linspace(-1, 1, 24)
        slope, bend = random.uniform(-0.3, 0.3), random.uniform(-0.5, 0.5)
        center = np.stack([x, slope * x + bend * x * x], axis=1)

        def light(x, y):
            across = (y - slope * x - bend * x * x) * (2 / width) + 0.3
            return 1.1 - 0.35 * across * across
        return [Shape([band(center, width)], lit(plain(color), light, gloss=0.5))]
    bar, num_bars = _revolved(plain(color), [(-1, width / 2), (1, width / 2)], 0.4), random.randint(2, 6)
    spacing = 2 * random.uniform(1.3, 3) * width
    bars = [Shape([np.add(contour, (x, 0)) for contour in bar.contours],
                  lambda x, y, shift=x: bar.material(x - shift, y)) for x in (k * spacing for k in range(num_bars))]
    end = (num_bars - 1) * spacing + width
    rails = [Shape([rectangle(-width, y, end, y + width)],
                   lit(plain(color), lambda x, y, top=y: 1.2 - 0.5 / width * (y - top))) for y in (-1.0, 0.75)]
    return bars + rails[:random.randint(1, 3)]


def _lamp(random):
    """A lamp on its stand, or an umbrella."""
    shade = patterned(random, (1.0, 4.0))
    metal = plain(random_color(random, 0.3, (0.15, 0.7)))
    stand = Shape([band(np.array([(0.0, -0.5), (0.0, 1.0)]), random.uniform(0.06, 0.12))], metal)
    if random.uniform() < 0.4:
        edge = np.linspace(-1, 1, 9)
        dome = ellipse(0, -0.2, 1, 0.8)
        scallops = np.stack([edge, -0.2 + 0.1 * (np.arange(9) % 2)], axis=1)
        return [stand, Shape([np.concatenate([dome[20:], scallops[::-1]])], lit(shade, lambda x, y: 0.9 - 0.3 * x - 0.3 * y))]
    top, bottom = random.uniform(0.2, 0.4), random.uniform(0.4, 0.7)
    foot = Shape([ellipse(0, 1, random.uniform(0.25, 0.45), 0.08)], metal)
    return [stand, foot, _revolved(shade, [(-1, top), (-0.3, bottom)])]


_STANDING, _ANYHOW = 0.25, math.pi  # radians: how far objects are tilted
# How objects are made from random numbers, and how far they are tilted.
OBJECTS = ((_chair, _STANDING), (_boxes, _ANYHOW), (_potted_plant, _STANDING), (_ball, _ANYHOW), (_table, _STANDING),
           (_bottle, _ANYHOW), (_cushion, _ANYHOW), (_shelf, _STANDING), (_branch, _ANYHOW), (_bag, _STANDING),
           (_bars, _ANYHOW), (_vase, _ANYHOW), (_sign, _ANYHOW), (_bush, _STANDING), (_frame, _ANYHOW),
           (_crate, _ANYHOW), (_lamp, _ANYHOW), (_wheel, _ANYHOW))
INDOOR_OBJECTS = tuple(draw for draw, _ in OBJECTS)
OUTDOOR_OBJECTS = (_boxes, _crate, _bars, _table, _wheel, _bush, _cushion)
