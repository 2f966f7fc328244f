"""Looks of the synthetic data sets: cameras, backdrops, floors, light and clothes.

Colours are weights of red, green and blue in 0..1. The textures of a look are drawn once per process from fixed seeds
and then cut, mirrored and tinted at random for every image.
"""

import dataclasses
import functools
from collections.abc import Callable

import cv2
import numpy as np

from datasets.synthetic import textures
from datasets.synthetic.surface import SURFACE_INDEX, SURFACES

TEXTURE_U, TEXTURE_V = 8, 32  # cells of a surface's texture: around and along it
_NUM_BACKDROPS, _NUM_FLOORS = 24, 10
_FLOOR_MM = 6000.0  # what a floor texture covers before it is mirrored
_SKIN = np.array(
    [
        [0.96, 0.80, 0.70],
        [0.90, 0.70, 0.58],
        [0.82, 0.60, 0.46],
        [0.68, 0.47, 0.34],
        [0.50, 0.33, 0.23],
        [0.34, 0.22, 0.16],
    ]
)
_HAIR = np.array(
    [
        [0.10, 0.08, 0.07],
        [0.24, 0.15, 0.09],
        [0.42, 0.27, 0.14],
        [0.72, 0.56, 0.32],
        [0.55, 0.54, 0.53],
        [0.40, 0.17, 0.09],
    ]
)


@dataclasses.dataclass(frozen=True)
class Look:
    """What the images of one data set have in common; ranges are (lowest, highest).

    Attributes:
        distance_mm: camera to pelvis; camera_height_mm: above the floor; field_of_view_degrees: horizontal, of the
            whole image.
        tops, bottoms, shoes: [n, 3] colours that clothes are taken from, then varied.
        long_sleeves, long_trousers, patterns: probabilities.
        ambient, sun: ranges of the two lights' strengths; warmth: range of the light's tint, > 0 is reddish.
        backdrop, floor: draw one texture from a random generator, [height, width, 3] float32 in 0..1.
        noise: standard deviation of the pixel noise, of 255; blur: largest sigma of the lens blur, px of the stored
            image.
    """

    distance_mm: tuple[float, float]
    camera_height_mm: tuple[float, float]
    field_of_view_degrees: tuple[float, float]
    tops: np.ndarray
    bottoms: np.ndarray
    shoes: np.ndarray
    long_sleeves: float
    long_trousers: float
    patterns: float
    ambient: tuple[float, float]
    sun: tuple[float, float]
    warmth: tuple[float, float]
    backdrop: Callable[[np.random.Generator], np.ndarray]
    floor: Callable[[np.random.Generator], np.ndarray]
    noise: float
    blur: float


def sample_outfit(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Dresses a person. Returns: [num_surfaces, TEXTURE_U, TEXTURE_V, 3] float32 albedo in 0..1."""
    texture = np.zeros((len(SURFACES), TEXTURE_U, TEXTURE_V, 3), np.float32)
    skin = _vary(rng, _SKIN, 0.03)
    hair = _vary(rng, _HAIR, 0.03)
    top, bottom, shoe = (_vary(rng, colors, 0.06) for colors in (look.tops, look.bottoms, look.shoes))
    if np.abs(top - bottom).sum() < 0.25:  # tell the clothes apart
        top = np.clip(top + rng.choice([-0.3, 0.3]), 0.03, 0.97)
    second = _vary(rng, look.tops, 0.1)
    texture[:] = skin
    for surface in ("hair", "long_hair"):
        texture[SURFACE_INDEX[surface]] = hair
    scalp = texture[SURFACE_INDEX["head"]]  # below the hair; of bald people the same or a shaved head
    if rng.random() < 0.7:
        scalp[4:, :20], scalp[:, :5] = hair, hair
    texture[SURFACE_INDEX["nose"]] = skin * [1.0, 0.9, 0.88]
    texture[SURFACE_INDEX["eyes"]] = rng.uniform(0.03, 0.2, 3)
    texture[SURFACE_INDEX["mouth"]] = skin * [0.8, 0.45, 0.45]
    if rng.random() < 0.15:  # a beard
        texture[SURFACE_INDEX["head"], :5, 24:] = hair
    hem = int(rng.integers(23, 28))  # where the top ends on the torso, waist to hip
    torso = texture[SURFACE_INDEX["torso"]]
    torso[:, :hem], torso[:, hem:] = top, bottom
    sleeve = 1.0 if rng.random() < look.long_sleeves else rng.uniform(0.0, 0.6)
    sleeve_bins = round(2 * TEXTURE_V * (0.92 if sleeve == 1 else 0.55 * sleeve + 0.15))
    trouser = 1.0 if rng.random() < look.long_trousers else rng.uniform(0.2, 0.5)
    trouser_bins = round(2 * TEXTURE_V * (0.95 if trouser == 1 else trouser))
    sock = int(rng.integers(20, 30)) if rng.random() < 0.5 else TEXTURE_V
    sock_color = _vary(rng, np.array([[0.9, 0.9, 0.9], [0.1, 0.1, 0.12]]), 0.05)
    pattern = rng.random()
    if pattern < look.patterns / 3:  # stripes
        width = int(rng.integers(1, 4))
        torso[:, :hem][:, np.arange(hem) // width % 2 == 1] = second
    elif pattern < look.patterns * 2 / 3:  # another colour in front or on the back
        torso[: 3 if rng.random() < 0.6 else 5, int(rng.integers(5, 12)) : int(rng.integers(13, 20))] = second
    elif pattern < look.patterns:  # yoke or sash
        torso[:, : int(rng.integers(8, 15))] = second
    sleeve_color = second if rng.random() < look.patterns * 0.4 else top
    for side in ("left", "right"):
        upper, fore = texture[SURFACE_INDEX[f"{side}_upper_arm"]], texture[SURFACE_INDEX[f"{side}_forearm"]]
        upper[:, : min(sleeve_bins, TEXTURE_V)] = sleeve_color
        fore[:, : max(sleeve_bins - TEXTURE_V, 0)] = sleeve_color
        thigh, shin = texture[SURFACE_INDEX[f"{side}_thigh"]], texture[SURFACE_INDEX[f"{side}_shin"]]
        shin[:, sock:] = sock_color
        thigh[:, : min(trouser_bins, TEXTURE_V)] = bottom
        shin[:, : max(trouser_bins - TEXTURE_V, 0)] = bottom
        foot = texture[SURFACE_INDEX[f"{side}_foot"]]
        foot[:] = shoe
        foot[6:] = 0.6 * shoe + 0.3
    texture[SURFACE_INDEX["stool"]] = rng.uniform(0.15, 0.7) * np.array([1.0, 0.9, 0.8])
    return texture


def paint_background(
    rng: np.random.Generator,
    look_name: str,
    image_side: int,
    intrinsics: np.ndarray,
    world_to_camera: np.ndarray,
    person: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Paints backdrop and floor as the (upright) crop camera sees them.

    Args:
        look_name: which look's textures.
        intrinsics: [3, 3] of the crop; world_to_camera: [4, 4], the floor being the world's plane y = 0.
        person: [3] where the person is, world, mm; the backdrop is behind them.

    Returns: [image_side, image_side, 3] float32 in 0..1; the first image row of the floor.
    """
    backdrops, floors = load_textures(look_name)
    offset, size, distance, gain = (
        rng.random(3),
        rng.uniform(0.35, 1.0),
        rng.uniform(500, 6000),
        rng.uniform(0.75, 1.15, (2, 3)),
    )
    gain = 0.8 * gain.mean(axis=1, keepdims=True) + 0.2 * gain
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    camera = -rotation.T @ translation
    # The backdrop meets the floor on a level line, `distance` behind the person.
    forward = rotation[2] * [1, 0, 1]
    forward /= np.linalg.norm(forward)
    foot = rotation @ (forward * (forward @ (person - camera) + distance) - [0, camera[1], 0])
    base_row = (intrinsics[1, 1] * foot[1] / foot[2] + intrinsics[1, 2]) if foot[2] > 1 else image_side
    base = int(np.clip(np.ceil(base_row), 0, image_side))
    image = np.empty((image_side, image_side, 3), np.float32)
    if base > 0:
        picture = backdrops[rng.integers(len(backdrops))]
        height, width = textures.BACKDROP_SIZE
        scale = size * width / (1.5 * image_side)
        cut_width = image_side * scale
        left = offset[0] * (width - cut_width)
        # The picture's lower edge stands on the base line; above its upper edge it is mirrored.
        affine = np.array([[scale, 0, left], [0, scale, height - 1 - scale * base]])
        if offset[1] < 0.5:
            affine[0] = [-scale, 0, left + cut_width]
        wall = cv2.warpAffine(
            picture,
            affine,
            (image_side, base),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        np.multiply(wall, np.float32(gain[0]), out=image[:base])
    else:
        rng.integers(len(backdrops))
    picture = floors[rng.integers(len(floors))]
    if base < image_side:
        to_pixel = intrinsics @ np.stack([rotation[:, 0], rotation[:, 2], translation], axis=1)
        cells = textures.FLOOR_SIDE / _FLOOR_MM
        to_texture = np.array(
            [[cells, 0, offset[1] * textures.FLOOR_SIDE], [0, cells, offset[2] * textures.FLOOR_SIDE], [0, 0, 1]]
        )
        inverse = to_texture @ np.linalg.inv(np.array([[1, 0, 0], [0, 1, -base], [0, 0, 1]]) @ to_pixel)
        ground = cv2.warpPerspective(
            picture,
            inverse,
            (image_side, image_side - base),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        np.multiply(ground, np.float32(gain[1]), out=image[base:])
    return image, base


def _vary(rng, colors, amount):
    """One of the colours, changed a little."""
    return np.clip(colors[rng.integers(len(colors))] + rng.normal(0, amount, 3), 0.02, 0.98)


@functools.cache
def load_textures(look_name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draws the backdrops and the floors of a look, once; each [height, width, 3] float32 in 0..1."""
    look = LOOKS[look_name]
    rng = np.random.default_rng([sum(look_name.encode()), 2023])
    backdrops = [np.float32(np.clip(look.backdrop(rng), 0, 1)) for _ in range(_NUM_BACKDROPS)]
    return backdrops, [np.float32(np.clip(look.floor(rng), 0, 1)) for _ in range(_NUM_FLOORS)]


_DARK = np.array([[0.08, 0.08, 0.10], [0.15, 0.16, 0.20], [0.25, 0.25, 0.27], [0.10, 0.13, 0.25]])
_DENIM = np.array(
    [[0.15, 0.22, 0.40], [0.28, 0.36, 0.52], [0.12, 0.14, 0.20], [0.45, 0.42, 0.36], [0.30, 0.26, 0.22]]
)
_BRIGHT = np.array(
    [
        [0.85, 0.15, 0.15],
        [0.15, 0.35, 0.80],
        [0.95, 0.80, 0.15],
        [0.15, 0.65, 0.35],
        [0.95, 0.50, 0.10],
        [0.60, 0.20, 0.65],
        [0.92, 0.92, 0.92],
    ]
)
_PASTEL = np.array(
    [
        [0.90, 0.70, 0.70],
        [0.70, 0.80, 0.92],
        [0.92, 0.90, 0.72],
        [0.75, 0.88, 0.75],
        [0.95, 0.95, 0.92],
        [0.80, 0.72, 0.88],
    ]
)
_COATS = np.array(
    [
        [0.45, 0.35, 0.25],
        [0.25, 0.28, 0.22],
        [0.55, 0.18, 0.15],
        [0.20, 0.25, 0.38],
        [0.50, 0.50, 0.48],
        [0.70, 0.62, 0.50],
    ]
)
_SHOES = np.array([[0.08, 0.07, 0.07], [0.85, 0.85, 0.85], [0.35, 0.22, 0.14], [0.75, 0.20, 0.20]])
_EVERYTHING = np.concatenate([_DARK, _DENIM, _BRIGHT, _PASTEL, _COATS])

LOOKS = {
    "studio": Look(
        distance_mm=(3200, 5600),
        camera_height_mm=(900, 1900),
        field_of_view_degrees=(38, 55),
        tops=np.concatenate([_DARK, _BRIGHT[:3]]),
        bottoms=_DARK,
        shoes=_SHOES,
        long_sleeves=0.3,
        long_trousers=0.6,
        patterns=0.2,
        ambient=(0.6, 0.85),
        sun=(0.35, 0.6),
        warmth=(-0.03, 0.05),
        backdrop=textures.paint_studio_backdrop,
        floor=textures.paint_studio_floor,
        noise=2.0,
        blur=0.4,
    ),
    "street": Look(
        distance_mm=(3000, 5900),
        camera_height_mm=(1200, 2600),
        field_of_view_degrees=(45, 75),
        tops=_COATS,
        bottoms=_DENIM,
        shoes=_SHOES,
        long_sleeves=0.85,
        long_trousers=0.95,
        patterns=0.35,
        ambient=(0.55, 0.8),
        sun=(0.5, 0.9),
        warmth=(-0.06, 0.06),
        backdrop=textures.paint_street_backdrop,
        floor=textures.paint_street_floor,
        noise=3.5,
        blur=0.6,
    ),
    "gym": Look(
        distance_mm=(2600, 4800),
        camera_height_mm=(500, 2900),
        field_of_view_degrees=(55, 85),
        tops=_BRIGHT,
        bottoms=np.concatenate([_DARK, _BRIGHT]),
        shoes=_SHOES,
        long_sleeves=0.1,
        long_trousers=0.25,
        patterns=0.45,
        ambient=(0.65, 0.9),
        sun=(0.2, 0.5),
        warmth=(-0.02, 0.1),
        backdrop=textures.paint_gym_backdrop,
        floor=textures.paint_gym_floor,
        noise=3.0,
        blur=0.5,
    ),
    "garden": Look(
        distance_mm=(2800, 5900),
        camera_height_mm=(400, 2400),
        field_of_view_degrees=(40, 70),
        tops=_PASTEL,
        bottoms=np.concatenate([_DENIM, _PASTEL]),
        shoes=_SHOES,
        long_sleeves=0.35,
        long_trousers=0.5,
        patterns=0.5,
        ambient=(0.55, 0.8),
        sun=(0.6, 1.0),
        warmth=(0.0, 0.12),
        backdrop=textures.paint_garden_backdrop,
        floor=textures.paint_garden_floor,
        noise=2.5,
        blur=0.4,
    ),
    "photos": Look(
        distance_mm=(2600, 5900),
        camera_height_mm=(500, 2700),
        field_of_view_degrees=(35, 80),
        tops=_EVERYTHING,
        bottoms=np.concatenate([_DARK, _DENIM, _PASTEL]),
        shoes=_SHOES,
        long_sleeves=0.5,
        long_trousers=0.6,
        patterns=0.5,
        ambient=(0.5, 0.95),
        sun=(0.2, 1.0),
        warmth=(-0.12, 0.15),
        backdrop=textures.paint_photo_backdrop,
        floor=textures.paint_photo_floor,
        noise=4.0,
        blur=0.8,
    ),
}
