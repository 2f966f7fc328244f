"""Rasterises a textured, lit triangle mesh over a background, with ground truth per pixel.

One pass of cv2.triangleRasterize at twice the resolution interpolates, instead of colours, what a pixel needs to find
its colour: the light it receives, its surface with the position around it, and the position along it.
"""

import dataclasses
import functools

import cv2
import numpy as np

from datasets.synthetic.scenes import TEXTURE_U, TEXTURE_V
from datasets.synthetic.surface import SURFACE_INDEX, SURFACE_PARTS, SURFACES

SUPERSAMPLING = 2
FAR_MM = 1e5
_NEAR_MM = 100.0
_SHADE_SCALE = 2.0  # light up to this strength fits into the rasteriser's range 0..1
_MIN_COVERAGE = 0.5  # of a pixel, for the person mask


@dataclasses.dataclass(frozen=True)
class Render:
    """A rendered image with its ground truth, all [side, side].

    Attributes:
        image: [side, side, 3] float32, 0..1.
        mask: bool, where the person covers at least half of the pixel.
        parts: uint8 index into surface.PARTS, or None; depth_mm: float32, distance along the optical axis, inf outside
            the mask, or None.
    """

    image: np.ndarray
    mask: np.ndarray
    parts: np.ndarray | None
    depth_mm: np.ndarray | None


def rasterize(
    vertices: np.ndarray, faces: np.ndarray, attributes: np.ndarray, side: int, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a mesh as a pinhole camera with a centred principal point ((side - 1) / 2) sees it.

    Args:
        vertices: [V, 3] float32, camera frame (OpenCV axes), mm.
        faces: [F, 3] int32, counter-clockwise seen from outside; those seen from behind are left out.
        attributes: [V, 3] float32 in 0..1, interpolated.
        side: px of the square image; focal: px.

    Returns: attributes [side, side, 3] float32 (0 where nothing was drawn); depth [side, side] float32, mm, FAR_MM
        there.
    """
    flipped = vertices * np.array([1, -1, -1], np.float32)  # the rasteriser's axes are OpenGL's
    values, depth = np.zeros((side, side, 3), np.float32), np.full((side, side), FAR_MM, np.float32)
    field_of_view = 2 * np.arctan(side / 2 / focal)
    return cv2.triangleRasterize(
        flipped,
        faces,
        attributes,
        values,
        depth,
        np.eye(4, dtype=np.float32),
        field_of_view,
        _NEAR_MM,
        FAR_MM,
        _rasterizer_settings(),
    )


def pack_attributes(shade: np.ndarray, surface: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[V] light, surface index and texture coordinates -> [V, 3] float32 in 0..1; the surface is constant within a
    triangle."""
    return np.stack(
        [np.clip(shade / _SHADE_SCALE, 0, 1), (surface + 0.1 + 0.8 * u) / len(SURFACES), v], axis=-1, dtype=np.float32
    )


def render(
    vertices: np.ndarray,
    faces: np.ndarray,
    attributes: np.ndarray,
    texture: np.ndarray,
    tint: np.ndarray,
    background: np.ndarray,
    focal: float,
    dense: bool,
) -> Render:
    """Draws a person over a background.

    Args:
        vertices: [V, 3] float32, camera frame, mm; faces: [F, 3]; attributes: from `pack_attributes`.
        texture: [num_surfaces, TEXTURE_U, TEXTURE_V, 3] float32; tint: [3] colour of the light.
        background: [side, side, 3] float32, 0..1.
        focal: of the image, px; its principal point is (side - 1) / 2.
        dense: whether to compute parts and depth.
    """
    side = len(background)
    part_side = _drawn_side(vertices, focal, side)
    start = (side - part_side) // 2
    window = slice(start, start + part_side)
    fine = SUPERSAMPLING * part_side
    values, depth = rasterize(vertices, faces, attributes, fine, SUPERSAMPLING * focal)
    drawn = np.flatnonzero(depth.ravel() < FAR_MM)
    shade, packed, along = np.ascontiguousarray(values.reshape(-1, 3)[drawn].T)
    packed *= len(SURFACES)
    surface = packed.astype(np.int32)
    around = np.clip(((packed - surface - 0.1) * (TEXTURE_U / 0.8)).astype(np.int32), 0, TEXTURE_U - 1)
    cell = (surface * TEXTURE_U + around) * TEXTURE_V + np.minimum(
        (along * TEXTURE_V).astype(np.int32), TEXTURE_V - 1
    )
    layers = np.zeros((fine * fine, 4), np.float32)  # premultiplied colour, coverage
    color = (np.float32(tint) * texture).reshape(-1, 3)[cell] * (_SHADE_SCALE * shade)[:, None]
    layers[drawn, :3] = np.minimum(color, 1, out=color)
    layers[drawn, 3] = 1
    layers = cv2.resize(layers.reshape(fine, fine, 4), (part_side, part_side), interpolation=cv2.INTER_AREA)
    image = background.copy()
    image[window, window] = image[window, window] * (1 - layers[..., 3:]) + layers[..., :3]

    person = np.zeros(fine * fine, np.float32)
    person[drawn[surface != SURFACE_INDEX["stool"]]] = 1
    coverage = cv2.resize(person.reshape(fine, fine), (part_side, part_side), interpolation=cv2.INTER_AREA)
    mask = np.zeros((side, side), bool)
    mask[window, window] = coverage >= _MIN_COVERAGE
    if not dense:
        return Render(image, mask, None, None)
    fine_parts = np.zeros(fine * fine, np.uint8)
    fine_parts[drawn] = SURFACE_PARTS[surface]
    fine_depth = _subpixels(np.where(fine_parts > 0, depth.ravel(), np.inf), part_side)
    nearest = fine_depth.argmin(axis=-1)[..., None]  # a pixel shows what is nearest in it
    parts, depth_mm = np.zeros((side, side), np.uint8), np.full((side, side), np.inf, np.float32)
    parts[window, window] = np.take_along_axis(_subpixels(fine_parts, part_side), nearest, axis=-1)[..., 0]
    depth_mm[window, window] = np.take_along_axis(fine_depth, nearest, axis=-1)[..., 0]
    return Render(image, mask, np.where(mask, parts, 0), np.where(mask, depth_mm, np.inf))


def _drawn_side(vertices, focal, side):
    """The side of the centred square that holds the whole mesh, px: only that part of the image gets rasterised."""
    extent = focal * np.abs(vertices[:, :2].T / np.maximum(vertices[:, 2], _NEAR_MM)).max()
    return min(side, side - 2 * int(np.floor(side / 2 - extent - 1)))


def _subpixels(fine_image, side):
    """[(2 side)^2] -> [side, side, 4]."""
    s = SUPERSAMPLING
    return fine_image.reshape(side, s, side, s).transpose(0, 2, 1, 3).reshape(side, side, s * s)


@functools.cache
def _rasterizer_settings():
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    return settings
