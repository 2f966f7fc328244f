"""Properties of cameras and crop cameras, for cameras, lenses and boxes drawn by hypothesis."""

import cv2
import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posepile.geometry import camera
from posepile.geometry.camera import Camera

CROP_SIDE = 256
MAX_LENS_RADIUS = 1.2  # x/z of points in these tests: 50 degrees off the axis
MIN_SPREAD = 0.15  # a lens is trusted as far as it spreads neighbouring points, radially, by this or more

check = settings(derandomize=True, deadline=None, max_examples=60, print_blob=False)


def numbers(low, high):
    return st.floats(low, high).map(lambda number: round(number, 6))


@st.composite
def intrinsics_matrices(draw, max_skew=0.0):
    """[3, 3] of an image of 1280 x 960 px: principal point up to 30 % off the centre, pixels not quite square."""
    focal = draw(numbers(350, 3000))
    return np.array([[focal, draw(numbers(-max_skew, max_skew)), 639.5 + draw(numbers(-384, 384))],
                     [0, focal * draw(numbers(0.9, 1.1)), 479.5 + draw(numbers(-288, 288))], [0, 0, 1]])


@st.composite
def lenses(draw):
    """4, 5 or 8 coefficients in the range of calibrated action, video and machine vision cameras."""
    k1, k2, k3 = draw(numbers(-0.35, 0.35)), draw(numbers(-0.15, 0.25)), draw(numbers(-0.1, 0.1))
    tangential = [draw(numbers(-0.005, 0.005)), draw(numbers(-0.005, 0.005))]
    below = [k1 + draw(numbers(-0.2, 0.2)), k2 + draw(numbers(-0.1, 0.1)), k3 + draw(numbers(-0.05, 0.05))]
    return np.array([k1, k2, *tangential, k3, *below])[:draw(st.sampled_from([4, 5, 8]))]


@st.composite
def boxes(draw):
    """[4] anywhere in an image of 1280 x 960 px, also across its border."""
    width, height = draw(numbers(40, 500)), draw(numbers(40, 500))
    return np.array([draw(numbers(0, 1280)) - width / 2, draw(numbers(0, 960)) - height / 2, width, height])


def geometries():
    """The augmentation of one crop: within and beyond what training draws."""
    return st.fixed_dictionaries({
        "shift": st.tuples(numbers(-0.3, 0.3), numbers(-0.3, 0.3)), "zoom": numbers(0.5, 2.5),
        "roll": numbers(-1, 1), "flip": st.booleans()})


@st.composite
def rotations(draw):
    return cv2.Rodrigues(np.array([draw(numbers(-3, 3)) for _ in range(3)]))[0]


def usable_radius(distortion):
    """The x/z up to which the radial distortion spreads points by MIN_SPREAD or more: with s the squared radius, the
    derivative of r N(s) / D(s) is ((N + 2 s N') D - 2 s N D') / D^2; the first root of a polynomial then."""
    k1, k2, _, _, k3, k4, k5, k6 = np.pad(distortion, (0, 8 - len(distortion)))
    above, below = np.polynomial.Polynomial([1, k1, k2, k3]), np.polynomial.Polynomial([1, k4, k5, k6])
    s = np.polynomial.Polynomial([0, 1])
    slope = (above + 2 * s * above.deriv()) * below - 2 * s * above * below.deriv()
    roots = np.concatenate([(slope - MIN_SPREAD * below**2).roots(), below.roots()])
    roots = roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    return min(np.sqrt(roots.min()), MAX_LENS_RADIUS) if len(roots) else MAX_LENS_RADIUS


def points_in_lens(distortion, seed, num_points=40):
    """[num_points, 2] ideal normalised image points within `usable_radius`."""
    rng = np.random.default_rng(seed)
    radius, angle = usable_radius(distortion) * np.sqrt(rng.random(num_points)), 2 * np.pi * rng.random(num_points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def opencv_pixels(rays, intrinsics, distortion):
    """[n, 3] points in the camera frame -> [n, 2] px, by OpenCV."""
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), intrinsics, distortion)[0][:, 0]


def apply_homography(homography, points):
    return cv2.perspectiveTransform(np.float64(points)[:, None], homography)[:, 0]


def side_middles(bbox):
    """[4, 2] px: the middles of the left, right, upper and lower side."""
    x, y, width, height = bbox
    return np.array([[x, y + height / 2], [x + width, y + height / 2],
                     [x + width / 2, y], [x + width / 2, y + height]])


def reference_homography(intrinsics, bbox, crop_side, shift=(0, 0), zoom=1.0, roll=0.0, flip=False):
    """[3, 3] from px of an image to px of the crop, built anew: the camera pans, then tilts until it looks at the shifted
    centre of the box; the picture is scaled, rotated and mirrored about its centre."""
    offset = np.array(shift) * max(bbox[2:])
    to_ray = np.linalg.inv(intrinsics)
    x, y, _ = to_ray @ np.append(bbox[:2] + bbox[2:] / 2 + offset, 1)
    pan, tilt = np.arctan(x), np.arctan(y / np.hypot(x, 1))
    turned = (np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
              @ np.array([[np.cos(pan), 0, -np.sin(pan)], [0, 1, 0], [np.sin(pan), 0, np.cos(pan)]]))
    left, right, top, bottom = apply_homography(turned @ to_ray, side_middles(bbox) + offset)
    scale = zoom * crop_side / max(np.hypot(*(right - left)), np.hypot(*(bottom - top)))
    rolled = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    center = (crop_side - 1) / 2
    to_pixels = np.array([[1, 0, center], [0, 1, center], [0, 0, 1]])
    return to_pixels @ np.diag([-1 if flip else 1, 1, 1]) @ rolled @ np.diag([scale, scale, 1]) @ turned @ to_ray


@check
@given(intrinsics_matrices(), lenses(), rotations(), st.integers(0, 999))
def test_projection_equals_opencvs(intrinsics, distortion, rotation, seed):
    rays = np.insert(points_in_lens(distortion, seed), 2, 1, axis=1) * np.random.default_rng(seed).uniform(500, 8000)
    translation = np.array([100.0, -200, 300])
    world = (rays - translation) @ rotation
    expected = cv2.projectPoints(world, rotation, translation, intrinsics, distortion)[0][:, 0]
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = rotation, translation
    np.testing.assert_allclose(camera.project(camera.transform(world, rigid), intrinsics, distortion), expected,
                               atol=1e-6)


@check
@given(intrinsics_matrices(max_skew=30), lenses(), st.integers(0, 999))
def test_undistortion_inverts_distortion(intrinsics, distortion, seed):
    points = points_in_lens(distortion, seed)
    np.testing.assert_allclose(camera.undistort(camera.distort(points, distortion), distortion), points, atol=1e-9)
    pixels = camera.project(np.insert(1000 * points, 2, 1000, axis=1), intrinsics, distortion)
    np.testing.assert_allclose(camera.undistort_pixels(pixels, intrinsics, distortion), points, atol=1e-9)


@check
@given(lenses(), st.integers(0, 999))
def test_undistortion_finds_a_point_that_the_lens_images_there_or_none(distortion, seed):
    distorted = np.random.default_rng(seed).uniform(-3, 3, (200, 2))
    points = camera.undistort(distorted, distortion)
    is_found = np.isfinite(points).all(axis=1)
    np.testing.assert_allclose(camera.distort(points[is_found], distortion), distorted[is_found], atol=1e-8)
    assert (np.linalg.norm(points[is_found], axis=1) <= camera.lens_radius(distortion)).all()
    assert np.isnan(points[~is_found]).all()


def test_lens_radius_by_hand():
    # r (1 - 0.4 r^2) rises until 1 - 1.2 r^2 = 0, r = 0.9129; its value is 0.6086 there, and no pixel beyond has a ray.
    barrel = np.array([-0.4, 0, 0, 0])
    assert camera.lens_radius(barrel) == pytest.approx(0.9129, abs=0.003)
    assert camera.lens_radius(-barrel) == np.inf
    inner, outer = camera.undistort(np.array([[0, 0.6], [0, 0.62]]), barrel)
    assert inner[1] - 0.4 * inner[1] ** 3 == pytest.approx(0.6) and np.isnan(outer).all()


@check
@given(intrinsics_matrices(), boxes(), geometries())
def test_crop_homography_equals_a_camera_built_anew(intrinsics, bbox, geometry):
    crop_intrinsics, rotation = camera.crop_cameras(
        intrinsics[None], bbox[None], CROP_SIDE, **{name: np.array([value]) for name, value in geometry.items()})
    homography = camera.crop_homography(intrinsics, crop_intrinsics[0], rotation[0])
    expected = reference_homography(intrinsics, bbox, CROP_SIDE, **geometry)
    corners = np.array([[0, 0], [CROP_SIDE, 0], [0, CROP_SIDE], [CROP_SIDE, CROP_SIDE]])
    there = apply_homography(np.linalg.inv(expected), corners)
    np.testing.assert_allclose(apply_homography(homography, there), corners, atol=1e-6)
    np.testing.assert_allclose(rotation[0] @ rotation[0].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation[0]) == pytest.approx(-1 if geometry["flip"] else 1)


@check
@given(intrinsics_matrices(), boxes(), geometries(), rotations(), st.integers(0, 999))
def test_moving_points_with_the_camera_equals_warping_their_projections(intrinsics, bbox, geometry, turn, seed):
    crop_intrinsics, rotation = camera.crop_cameras(
        intrinsics[None], bbox[None], CROP_SIDE, up=turn[1],
        **{name: np.array([value]) for name, value in geometry.items()})
    homography = camera.crop_homography(intrinsics, crop_intrinsics[0], rotation[0])
    rng = np.random.default_rng(seed)
    pixels = bbox[:2] + bbox[2:] * rng.uniform(-0.2, 1.2, (20, 2))
    rays = np.insert(camera.undistort_pixels(pixels, intrinsics, None), 2, 1, axis=1)
    points = rays * rng.uniform(1000, 9000, (20, 1))
    seen = camera.project(points @ rotation[0].T, crop_intrinsics[0])
    in_front = np.isfinite(seen[:, 0])
    np.testing.assert_allclose(seen[in_front], apply_homography(homography, pixels)[in_front], rtol=1e-7, atol=1e-6)


@check
@given(intrinsics_matrices(), boxes(), lenses())
def test_box_in_a_distorted_image_is_centred_and_fills_the_crop(intrinsics, bbox, distortion):
    """The crop's centre is imaged, by OpenCV's lens, at the centre of the box; and the middles of the sides of the box,
    found through OpenCV's lens by a general solver, are a crop's side apart in the crop."""
    radius = usable_radius(distortion)
    to_normalized = np.linalg.inv(intrinsics)

    def ideal_point(pixel):
        start = (to_normalized @ np.append(pixel, 1))[:2]
        solution = scipy.optimize.root(
            lambda point: opencv_pixels(np.append(point, 1)[None], intrinsics, distortion)[0] - pixel, start, tol=1e-12)
        assume(solution.success and np.hypot(*solution.x) < radius)
        return np.append(solution.x, 1)

    rays = np.array([ideal_point(pixel) for pixel in [bbox[:2] + bbox[2:] / 2, *side_middles(bbox)]])
    crop_intrinsics, rotation = camera.crop_cameras(intrinsics[None], bbox[None], CROP_SIDE, distortion=distortion)
    center, left, right, top, bottom = camera.project(1000 * rays @ rotation[0].T, crop_intrinsics[0])
    np.testing.assert_allclose(center, 127.5, atol=1e-4)
    extent = max(np.linalg.norm(right - left), np.linalg.norm(bottom - top))
    np.testing.assert_allclose(extent, CROP_SIDE, rtol=1e-6)


def test_box_beyond_the_lens_is_refused():
    intrinsics = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])  # the lens below reaches 304 px from the centre
    with pytest.raises(ValueError, match="beyond the lens model's field of view"):
        camera.crop_cameras(intrinsics[None], np.array([[560.0, 200, 100, 80]]), 256, distortion=np.array([-0.4, 0, 0, 0]))


@check
@given(intrinsics_matrices(), boxes(), rotations(), numbers(300, 2000))
def test_world_up_stays_up(intrinsics, bbox, rotation, height):
    """A stick that stands in the middle of the box, along the world's z axis, stands upright in the crop."""
    rigid = np.eye(4)
    rigid[:3, :3] = rotation
    view = Camera(intrinsics, rigid, world_up=np.array([0, 0, 1.0]))
    foot = 4000 * np.append(camera.undistort_pixels(bbox[:2] + bbox[2:] / 2, intrinsics, None), 1)
    head = foot + height * rotation[:, 2]
    along = abs(foot @ rotation[:, 2]) / np.linalg.norm(foot)
    assume(along < 0.99 and head[2] > 100)  # seen from above or below it is a point
    crop_intrinsics, crop_rotation = camera.crop_cameras(intrinsics[None], bbox[None], CROP_SIDE, up=view.up)
    points = np.stack([foot, head]) @ crop_rotation[0].T
    assume((points[:, 2] > 100).all())
    low, high = camera.project(points, crop_intrinsics[0])
    assert high[1] < low[1] and abs(high[0] - low[0]) < 1e-6 * np.hypot(*(high - low))


@check
@given(intrinsics_matrices(), boxes(), geometries())
def test_mirroring_a_mirrored_crop_gives_the_plain_one(intrinsics, bbox, geometry):
    """The second crop is taken from the first; its box is the whole picture."""
    plain, mirrored = (camera.crop_cameras(intrinsics[None], bbox[None], CROP_SIDE, **{**geometry, "flip": flip})
                       for flip in (False, True))
    whole = np.array([[-0.5, -0.5, CROP_SIDE, CROP_SIDE]])
    again = camera.crop_cameras(mirrored[0], whole, CROP_SIDE, flip=True)
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-12)
    np.testing.assert_allclose(again[1] @ mirrored[1], plain[1], atol=1e-12)
    to_crop, to_mirrored = (camera.crop_homography(intrinsics, *(matrix[0] for matrix in crop)) for crop in (plain, mirrored))
    corners = np.array([[0, 0], [CROP_SIDE, 0], [0, CROP_SIDE], [CROP_SIDE, CROP_SIDE]])
    there = apply_homography(np.linalg.inv(to_crop), corners)
    np.testing.assert_allclose(apply_homography(to_mirrored, there), corners * [-1, 1] + [CROP_SIDE - 1, 0], atol=1e-6)
