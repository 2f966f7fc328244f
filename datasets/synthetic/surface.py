"""The surface of the procedural human: tubes lofted through cross sections, with texture coordinates and bone weights.

All coordinates are those of the reference person in rest pose, see `bones`.
"""

import dataclasses
import functools

import numpy as np

from datasets.synthetic.bones import BONE_INDEX, MIRROR_BONES, SIDES

# What the part labels tell apart, by label value.
PARTS = (
    "background",
    "head",
    "neck",
    "torso",
    *(f"{side}_{part}" for side in SIDES for part in ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")),
)
# Pieces of surface with a texture of their own, and the part each belongs to; "stool" is no part of the person.
_CENTER_SURFACES = {
    "torso": "torso",
    "neck": "neck",
    "head": "head",
    "nose": "head",
    "eyes": "head",
    "mouth": "head",
    "hair": "head",
    "long_hair": "head",
}
SURFACES = (*_CENTER_SURFACES, *PARTS[4:], "stool")
SURFACE_INDEX = {surface: i for i, surface in enumerate(SURFACES)}
SURFACE_PARTS = np.array([PARTS.index(_CENTER_SURFACES.get(s, s)) if s != "stool" else 0 for s in SURFACES], np.uint8)

# Which rule moves a point to where it is on a person of other proportions, see `body.warp_to_shape`.
TRUNK, ARM, LEG, HEAD = range(4)

# Cross sections: position along the tube, centre across (x, z), half width in x, extent to the front and to the back,
# mm.
_TORSO = (
    (828, 0, 0, 20, 20, 20),
    (838, 0, -2, 70, 45, 50),
    (862, 0, -4, 128, 72, 88),
    (905, 0, -5, 158, 90, 112),
    (950, 0, -5, 163, 94, 114),
    (1000, 0, -4, 152, 96, 98),
    (1055, 0, -2, 137, 95, 84),
    (1110, 0, -2, 131, 93, 82),
    (1170, 0, -4, 139, 98, 88),
    (1230, 0, -7, 151, 108, 97),
    (1290, 0, -9, 161, 112, 103),
    (1345, 0, -11, 165, 104, 102),
    (1390, 0, -13, 160, 88, 94),
    (1425, 0, -15, 138, 70, 82),
    (1450, 0, -17, 100, 60, 70),
    (1472, 0, -19, 68, 56, 58),
    (1482, 0, -20, 40, 36, 36),
)
_NECK = (
    (1430, 0, -18, 60, 52, 56),
    (1480, 0, -16, 57, 52, 55),
    (1520, 0, -10, 54, 52, 53),
    (1575, 0, -4, 52, 50, 52),
)
_HEAD_SECTIONS = (
    (1522, 0, 62, 12, 12, 12),
    (1530, 0, 52, 34, 30, 40),
    (1550, 0, 38, 50, 50, 62),
    (1578, 0, 20, 62, 70, 82),
    (1608, 0, 6, 70, 88, 94),
    (1640, 0, 0, 75, 94, 100),
    (1675, 0, -4, 76, 92, 100),
    (1705, 0, -6, 69, 80, 90),
    (1730, 0, -8, 52, 58, 66),
    (1745, 0, -8, 28, 32, 36),
    (1750, 0, -8, 3, 3, 3),
)
_HAIR = (
    (1560, 0, -30, 46, 8, 60),
    (1580, 0, -16, 66, 10, 88),
    (1608, 0, -8, 77, 12, 102),
    (1642, 0, -8, 82, 16, 108),
    (1672, 0, -8, 83, 52, 108),
    (1690, 0, -8, 82, 96, 106),
    (1715, 0, -8, 72, 86, 98),
    (1740, 0, -8, 52, 60, 72),
    (1758, 0, -8, 26, 30, 36),
    (1765, 0, -8, 3, 3, 3),
)
_LONG_HAIR = (
    (1395, 0, -82, 40, 10, 12),
    (1430, 0, -84, 66, 20, 26),
    (1490, 0, -80, 76, 28, 36),
    (1560, 0, -72, 82, 40, 44),
    (1630, 0, -56, 84, 40, 60),
    (1680, 0, -50, 60, 20, 40),
)
_NOSE = ((1576, 0, 92, 6, 10, 4), (1582, 0, 94, 19, 26, 4), (1600, 0, 94, 13, 16, 4), (1628, 0, 92, 5, 5, 4))
_MOUTH = ((1549, 0, 84, 8, 6, 4), (1555, 0, 84, 27, 10, 4), (1561, 0, 86, 8, 7, 4))
_EYE = ((1604, 33, 84, 4, 3, 3), (1610, 33, 84, 14, 13, 3), (1620, 33, 85, 14, 12, 3), (1626, 33, 86, 4, 3, 3))
_UPPER_ARM = (
    (1076, 178, -15, 10, 10, 10),
    (1086, 178, -15, 30, 30, 30),
    (1105, 178, -15, 39, 39, 40),
    (1150, 178, -15, 40, 42, 42),
    (1230, 178, -14, 44, 50, 46),
    (1310, 178, -14, 48, 54, 52),
    (1370, 176, -14, 53, 56, 56),
    (1410, 174, -15, 55, 54, 56),
    (1440, 168, -16, 42, 42, 44),
    (1456, 160, -17, 12, 14, 14),
)
_FOREARM = (
    (840, 178, -15, 12, 14, 14),
    (850, 178, -15, 24, 26, 26),
    (880, 178, -15, 25, 28, 28),
    (950, 178, -15, 31, 33, 33),
    (1030, 178, -15, 39, 40, 40),
    (1085, 178, -15, 40, 40, 41),
    (1125, 178, -15, 37, 37, 38),
    (1146, 178, -15, 24, 24, 24),
    (1154, 178, -15, 6, 6, 6),
)
_HAND = (
    (672, 178, -8, 4, 8, 8),
    (684, 178, -8, 10, 26, 24),
    (722, 178, -10, 12, 35, 32),
    (768, 178, -12, 15, 41, 38),
    (812, 178, -13, 18, 39, 36),
    (845, 178, -15, 20, 27, 27),
    (865, 178, -15, 20, 23, 23),
)
_THUMB = ((740, 175, 50, 5, 6, 6), (754, 175, 47, 10, 12, 12), (790, 176, 31, 12, 14, 14), (830, 177, 5, 12, 14, 14))
_THIGH = (
    (440, 90, 0, 12, 12, 12),
    (452, 90, 0, 38, 40, 36),
    (480, 90, 0, 52, 56, 50),
    (540, 90, 0, 57, 60, 58),
    (640, 90, 0, 66, 70, 70),
    (750, 90, 0, 77, 82, 82),
    (840, 90, 0, 83, 88, 90),
    (905, 90, 0, 80, 86, 90),
    (950, 90, 0, 62, 68, 72),
    (972, 90, 0, 16, 20, 20),
)
_SHIN = (
    (62, 90, -15, 14, 16, 16),
    (76, 90, -15, 33, 38, 38),
    (110, 90, -15, 35, 38, 40),
    (180, 90, -14, 41, 42, 50),
    (280, 90, -8, 50, 46, 64),
    (370, 90, -4, 56, 50, 68),
    (440, 90, -2, 54, 52, 56),
    (490, 90, 0, 53, 54, 52),
    (522, 90, 0, 40, 42, 40),
    (534, 90, 0, 10, 10, 10),
)
# Along z; the centre is (x, y), the extents are up and down.
_FOOT = (
    (-72, 90, 40, 10, 14, 14),
    (-66, 90, 40, 26, 32, 32),
    (-40, 90, 46, 34, 50, 44),
    (0, 90, 44, 37, 58, 43),
    (45, 91, 38, 40, 48, 37),
    (95, 93, 28, 46, 30, 27),
    (135, 94, 24, 46, 22, 23),
    (168, 94, 20, 36, 16, 18),
    (184, 93, 18, 16, 8, 10),
)


@dataclasses.dataclass(frozen=True)
class Template:
    """The reference person's surface and topology; vertices [V], faces [F].

    Attributes:
        vertices: [V, 3] rest position, mm.
        chain: [V] which warp it follows (trunk, arm, leg, head).
        bones: [V, 2] int64 bone indices; weights: [V] float32 weight of the first, the second has the rest.
        surface: [V] index into SURFACES; u: [V] 0 in front (top of a foot) .. 1 behind; v: [V] 0 at the upper end
            (heel) .. 1.
        faces: [F, 3] int32, counter-clockwise seen from outside.
    """

    vertices: np.ndarray
    chain: np.ndarray
    bones: np.ndarray
    weights: np.ndarray
    surface: np.ndarray
    u: np.ndarray
    v: np.ndarray
    faces: np.ndarray


@functools.cache
def load_template() -> Template:
    """Builds the reference person, once."""
    tubes = [
        _tube("torso", _TORSO, 16, TRUNK, _torso_weights),
        _tube("neck", _NECK, 10, HEAD, _neck_weights),
        _tube("head", _HEAD_SECTIONS, 14, HEAD, "head"),
        _tube("hair", _HAIR, 14, HEAD, "head"),
        _tube("long_hair", _LONG_HAIR, 12, HEAD, "head"),
        _tube("nose", _NOSE, 6, HEAD, "head"),
        _tube("mouth", _MOUTH, 6, HEAD, "head"),
    ]
    left = [
        _tube("left_upper_arm", _UPPER_ARM, 10, ARM, "left_upper_arm"),
        _tube("left_forearm", _FOREARM, 9, ARM, "left_forearm"),
        _tube("left_hand", _HAND, 8, ARM, "left_hand"),
        _tube("left_hand", _THUMB, 6, ARM, "left_hand"),
        _tube("left_thigh", _THIGH, 11, LEG, "left_thigh"),
        _tube("left_shin", _SHIN, 10, LEG, "left_shin"),
        _tube("left_foot", _FOOT, 10, LEG, _foot_weights, along="z"),
        _tube("eyes", _EYE, 6, HEAD, "head"),
    ]
    tubes += left + [_mirrored(tube) for tube in left]
    offsets = np.cumsum([0] + [len(tube["vertices"]) for tube in tubes])
    joined = {key: np.concatenate([tube[key] for tube in tubes]) for key in tubes[0] if key != "faces"}
    faces = np.concatenate([tube["faces"] + offset for tube, offset in zip(tubes, offsets[:-1], strict=True)])
    return Template(faces=np.int32(faces), **joined)


def _tube(surface, sections, num_around, chain, weights, along="y"):
    """Lofts a closed tube through elliptical cross sections; a dict of Template's fields."""
    t, center_x, center_z, half_width, front, back = np.array(sections, np.float64).T
    angle = 2 * np.pi * np.arange(num_around) / num_around
    cos, sin = np.cos(angle), np.sin(angle)
    x = center_x[:, None] + half_width[:, None] * sin
    across = center_z[:, None] + np.where(cos > 0, front[:, None], back[:, None]) * cos
    t_all = np.repeat(t[:, None], num_around, axis=1)
    vertices = np.stack([x, t_all, across] if along == "y" else [x, across, t_all], axis=-1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(len(t) - 1), np.arange(num_around), indexing="ij")
    a, b = i * num_around + j, i * num_around + (j + 1) % num_around
    c, d = a + num_around, b + num_around
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    if _signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    if callable(weights):
        bones, first_weights = weights(vertices)
    else:
        bones, first_weights = np.full((len(vertices), 2), BONE_INDEX[weights]), np.ones(len(vertices))
    fraction = (t_all - t[0]) / (t[-1] - t[0])
    return {
        "vertices": vertices,
        "chain": np.full(len(vertices), chain),
        "bones": bones,
        "weights": np.float32(first_weights),
        "surface": np.full(len(vertices), SURFACE_INDEX[surface]),
        "u": np.float32(np.tile((1 - cos) / 2, len(t))),
        "v": np.float32((fraction if along == "z" else 1 - fraction).ravel()),
        "faces": faces,
    }


def _mirrored(tube):
    """The right-hand counterpart of a tube on the left."""
    name = SURFACES[tube["surface"][0]]
    return {
        **tube,
        "vertices": tube["vertices"] * [-1, 1, 1],
        "bones": MIRROR_BONES[tube["bones"]],
        "faces": tube["faces"][:, ::-1],
        "surface": np.full_like(tube["surface"], SURFACE_INDEX[name.replace("left_", "right_")]),
    }


def _blend(y, knots, names):
    """Weights along a chain of bones: between knots[i] and knots[i + 1] names[i] fades into names[i + 1]."""
    bones, weights = np.zeros((len(y), 2), np.int64), np.ones(len(y))
    bones[:] = BONE_INDEX[names[0]]
    for i, (low, high) in enumerate(knots):
        part = y > low
        bones[part] = [BONE_INDEX[names[i]], BONE_INDEX[names[i + 1]]]
        weights[part] = 1 - np.clip((y[part] - low) / (high - low), 0, 1)
    return bones, weights


def _torso_weights(vertices):
    x, y, _ = vertices.T
    bones, weights = _blend(y, [(990, 1110), (1120, 1240)], ["pelvis", "spine", "chest"])
    for side, sign in zip(SIDES, (1, -1), strict=True):
        near_shoulder = (y > 1335) & (sign * x > 60)
        bones[near_shoulder] = [BONE_INDEX[f"{side}_collar"], BONE_INDEX["chest"]]
        weights[near_shoulder] = np.clip((sign * x[near_shoulder] - 60) / 80, 0, 1)
    return bones, weights


def _neck_weights(vertices):
    return _blend(vertices[:, 1], [(1440, 1490), (1520, 1576)], ["chest", "neck", "head"])


def _foot_weights(vertices):
    return _blend(vertices[:, 2], [(90, 130)], ["left_foot", "left_toes"])


def _signed_volume(vertices, faces):
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return (
        np.einsum(
            "fi,fi->", a - vertices.mean(axis=0), np.cross(b - vertices.mean(axis=0), c - vertices.mean(axis=0))
        )
        / 6
    )
