import cv2
import numpy as np
import pytest

from datasets.synthetic import rendering
from datasets.synthetic.scenes import TEXTURE_U, TEXTURE_V
from datasets.synthetic.surface import PARTS, SURFACE_INDEX, SURFACES
from posepile.geometry.camera import project

_SIDE, _FOCAL = 96, 150.0
_INTRINSICS = np.array([[_FOCAL, 0, (_SIDE - 1) / 2], [0, _FOCAL, (_SIDE - 1) / 2], [0, 0, 1]])


def _sphere(center, radius, rings=24):
    """Vertices and outward faces of a ball."""
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rings), 2 * np.pi * np.arange(2 * rings) / (2 * rings), indexing="ij"
    )
    vertices = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1).reshape(
        -1, 3
    )
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(2 * rings), indexing="ij")
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    c, d = a + 2 * rings, b + 2 * rings
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return np.float32(center + radius * vertices), np.int32(faces)


@pytest.mark.parametrize("center", [(0.0, 0.0, 4000.0), (900.0, -600.0, 3500.0), (-1000.0, 700.0, 5000.0)])
def test_a_small_ball_appears_where_its_centre_is_projected(center):
    vertices, faces = _sphere(np.array(center), 60.0)
    _, depth = rendering.rasterize(vertices, faces, np.zeros_like(vertices), _SIDE, _FOCAL)
    rows, columns = np.nonzero(depth < rendering.FAR_MM)
    expected = project(np.array([center]), _INTRINSICS)[0]
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=0.35)
    # The side towards the camera is drawn, not the far one.
    assert depth.min() == pytest.approx(center[2] - 60, abs=12)


def _ball_picture(surface, u=0.0, v=0.0, texture=None, dense=True, background=0.25):
    vertices, faces = _sphere(np.array([0.0, 0.0, 4000.0]), 600.0)
    ones = np.ones(len(vertices))
    attributes = rendering.pack_attributes(ones, ones * SURFACE_INDEX[surface], u * ones, v * ones)
    if texture is None:
        texture = np.full((len(SURFACES), TEXTURE_U, TEXTURE_V, 3), 0.5, np.float32)
    canvas = np.full((_SIDE, _SIDE, 3), background, np.float32)
    return rendering.render(vertices, faces, attributes, texture, np.ones(3), canvas, _FOCAL, dense)


@pytest.mark.parametrize(
    ("surface", "u", "v"), [("torso", 0.0, 0.0), ("left_hand", 1.0, 1.0), ("right_foot", 0.45, 0.7)]
)
def test_a_pixel_gets_the_colour_of_its_texture_cell(surface, u, v):
    texture = np.zeros((len(SURFACES), TEXTURE_U, TEXTURE_V, 3), np.float32)
    color = np.float32([0.2, 0.4, 0.8])
    texture[
        SURFACE_INDEX[surface], min(int(u * TEXTURE_U), TEXTURE_U - 1), min(int(v * TEXTURE_V), TEXTURE_V - 1)
    ] = color
    picture = _ball_picture(surface, u, v, texture)
    center = picture.image[_SIDE // 2, _SIDE // 2]
    np.testing.assert_allclose(center, color, atol=1e-3)
    np.testing.assert_allclose(picture.image[0, 0], 0.25)  # the background
    assert picture.parts[_SIDE // 2, _SIDE // 2] == PARTS.index(surface)


def test_depth_and_mask_of_a_ball():
    picture = _ball_picture("torso")
    assert picture.depth_mm[_SIDE // 2, _SIDE // 2] == pytest.approx(3400, abs=5)
    # A ball of radius r at distance d is seen under the half angle asin(r / d).
    radius = _FOCAL * np.tan(np.arcsin(600 / 4000))
    assert picture.mask.sum() == pytest.approx(np.pi * radius**2, rel=0.02)
    np.testing.assert_array_equal(picture.mask, picture.parts > 0)
    np.testing.assert_array_equal(picture.mask, np.isfinite(picture.depth_mm))
    edge = cv2.morphologyEx(np.uint8(picture.mask), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    blended = picture.image[edge][:, 0]
    assert ((blended > 0.26) & (blended < 0.49)).any()  # anti-aliased


def test_a_stool_is_drawn_but_is_no_person():
    picture = _ball_picture("stool")
    assert not picture.mask.any() and not picture.parts.any() and np.isinf(picture.depth_mm).all()
    np.testing.assert_allclose(picture.image[_SIDE // 2, _SIDE // 2], 0.5, atol=1e-3)
