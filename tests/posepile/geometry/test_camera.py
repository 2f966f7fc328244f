import cv2
import numpy as np
import pytest

from posepile.geometry import camera
from posepile.geometry.camera import Camera

INTRINSICS = np.array([[1145.0, 0.5, 512.5], [0, 1143.8, 515.4], [0, 0, 1]])
DISTORTIONS = {"4": [-0.2, 0.24, -0.0009, -0.0016], "5": [-0.2, 0.24, -0.0009, -0.0016, -0.002],
               "8": [0.1, -0.05, 0.001, -0.002, 0.01, 0.12, -0.03, 0.02]}


def random_points(rng, num_points=50):
    z = rng.uniform(2000, 6000, num_points)
    return np.stack([rng.uniform(-0.35, 0.35, num_points) * z, rng.uniform(-0.35, 0.35, num_points) * z, z], axis=-1)


def random_rotation(rng):
    return cv2.Rodrigues(rng.normal(0, 1, 3))[0]


def random_boxes(rng, num_boxes):
    size = rng.uniform(60, 300, (num_boxes, 2))
    return np.concatenate([rng.uniform(0, 700, (num_boxes, 2)), size], axis=1)


@pytest.mark.parametrize("distortion", [None, *DISTORTIONS.values()], ids=["none", *DISTORTIONS])
def test_projection_equals_opencvs(distortion):
    points = random_points(np.random.default_rng(0))
    intrinsics = INTRINSICS * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]  # OpenCV knows no skew
    coefficients = None if distortion is None else np.array(distortion)
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), intrinsics, coefficients)
    np.testing.assert_allclose(camera.project(points, intrinsics, coefficients), expected[:, 0], atol=1e-6)


def test_projection_by_hand_with_skew():
    # x/z = 0.1, y/z = -0.2: u = 1145 * 0.1 + 0.5 * -0.2 + 512.5, v = 1143.8 * -0.2 + 515.4
    projected = camera.project(np.array([[200.0, -400.0, 2000.0]]), INTRINSICS)
    np.testing.assert_allclose(projected, [[626.9, 286.64]], atol=1e-9)


def test_projection_is_nan_behind_the_camera_and_where_the_input_is():
    points = np.array([[0, 0, -1000.0], [0, 0, 0], [np.nan] * 3, [0, 0, 1000.0]])
    projected = camera.project(points, INTRINSICS)
    np.testing.assert_array_equal(np.isnan(projected), [[True] * 2] * 3 + [[False] * 2])


def test_projection_of_a_batch_of_cameras():
    rng = np.random.default_rng(1)
    points = np.stack([random_points(rng), random_points(rng)])
    intrinsics = np.stack([INTRINSICS, INTRINSICS * [[0.5], [0.5], [1]]])
    projected = camera.project(points, intrinsics)
    for i in range(2):
        np.testing.assert_allclose(projected[i], camera.project(points[i], intrinsics[i]), atol=1e-9)


@pytest.mark.parametrize("distortion", [None, *DISTORTIONS.values()], ids=["none", *DISTORTIONS])
def test_undistortion_inverts_distortion(distortion):
    points = random_points(np.random.default_rng(2))
    coefficients = None if distortion is None else np.array(distortion)
    intrinsics = INTRINSICS * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    pixels = camera.project(points, intrinsics, coefficients)
    normalized = camera.undistort_pixels(pixels, intrinsics, coefficients)
    np.testing.assert_allclose(normalized, points[:, :2] / points[:, 2:], atol=1e-6)


def test_undistortion_without_lens_inverts_a_skewed_camera():
    points = random_points(np.random.default_rng(3))
    normalized = camera.undistort_pixels(camera.project(points, INTRINSICS), INTRINSICS, None)
    np.testing.assert_allclose(normalized, points[:, :2] / points[:, 2:], atol=1e-12)


def test_transform_applies_rotation_then_translation():
    rng = np.random.default_rng(4)
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = random_rotation(rng), [10, 20, 30]
    points = random_points(rng, 3)
    expected = [rigid[:3, :3] @ point + [10, 20, 30] for point in points]
    np.testing.assert_allclose(camera.transform(points, rigid), expected)
    np.testing.assert_allclose(camera.transform(points[None], rigid[None]), [expected])


def test_turned_camera_looks_along_the_direction_and_stays_upright():
    rng = np.random.default_rng(5)
    direction, up = rng.normal(0, 1, (40, 3)), rng.normal(0, 1, (40, 3))
    rotation = camera.turned_camera_rotation(direction, up)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(3), (40, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    turned_direction, turned_up = (np.einsum("nij,nj->ni", rotation, v) for v in (direction, up))
    np.testing.assert_allclose(turned_direction[:, :2], 0, atol=1e-9)
    assert (turned_direction[:, 2] > 0).all()
    np.testing.assert_allclose(turned_up[:, 0], 0, atol=1e-9)  # up has no sideways component ...
    assert (turned_up[:, 1] < 0).all()  # ... and points up in the image


def test_camera_looking_straight_up_keeps_its_x_axis_level():
    rotation = camera.turned_camera_rotation(np.array([0.0, -1.0, 0.0]), np.array([0.0, -1.0, 0.0]))
    np.testing.assert_allclose(rotation[0], [1, 0, 0])
    np.testing.assert_allclose(rotation[2], [0, -1, 0])
    np.testing.assert_allclose(np.linalg.det(rotation), 1)


def test_roll_by_hand():
    # A quarter turn moves what is to the right (x) down (y): clockwise.
    np.testing.assert_allclose(camera.roll_rotation(np.array(np.pi / 2)) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def crop_with_everything(rng, num_boxes=20):
    bbox = random_boxes(rng, num_boxes)
    intrinsics = np.broadcast_to(INTRINSICS, (num_boxes, 3, 3))
    geometry = {"roll": rng.uniform(-0.35, 0.35, num_boxes), "zoom": rng.uniform(0.75, 1.25, num_boxes),
                "shift": rng.uniform(-0.1, 0.1, (num_boxes, 2)), "flip": rng.random(num_boxes) < 0.5}
    return bbox, intrinsics, geometry, camera.crop_cameras(intrinsics, bbox, 256, **geometry)


def apply_homography(homography, points):
    return cv2.perspectiveTransform(np.float64(points)[:, None], homography)[:, 0]


def test_box_centre_maps_to_crop_centre():
    rng = np.random.default_rng(6)
    bbox, intrinsics, geometry, (crop_intrinsics, rotation) = crop_with_everything(rng)
    homography = camera.crop_homography(intrinsics, crop_intrinsics, rotation)
    for i in range(len(bbox)):
        center = bbox[i, :2] + bbox[i, 2:] / 2 + geometry["shift"][i] * bbox[i, 2:].max()
        np.testing.assert_allclose(apply_homography(homography[i], [center]), [[127.5, 127.5]], atol=1e-6)


@pytest.mark.parametrize("zoom", [1.0, 0.8])
def test_longer_side_of_the_box_fills_the_crop(zoom):
    """Measured independently, by the homography: from the middle of one side of the box to that of the opposite one."""
    bbox = random_boxes(np.random.default_rng(7), 20)
    intrinsics = np.broadcast_to(INTRINSICS, (20, 3, 3))
    homography = camera.crop_homography(intrinsics, *camera.crop_cameras(intrinsics, bbox, 256, zoom=zoom))
    for (x, y, width, height), matrix in zip(bbox, homography, strict=True):
        left, right, top, bottom = apply_homography(matrix, [[x, y + height / 2], [x + width, y + height / 2],
                                                             [x + width / 2, y], [x + width / 2, y + height]])
        extent = max(np.linalg.norm(right - left), np.linalg.norm(bottom - top))
        np.testing.assert_allclose(extent, 256 * zoom, rtol=1e-9)


def test_crop_camera_is_square_centred_and_turned_only():
    _, _, geometry, (crop_intrinsics, rotation) = crop_with_everything(np.random.default_rng(8))
    np.testing.assert_array_equal(crop_intrinsics[:, 0, 0], crop_intrinsics[:, 1, 1])
    np.testing.assert_array_equal(crop_intrinsics[:, :2, 2], 127.5)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), np.where(geometry["flip"], -1, 1))


def test_homography_agrees_with_rotating_3d_points():
    rng = np.random.default_rng(9)
    bbox, intrinsics, _, (crop_intrinsics, rotation) = crop_with_everything(rng)
    homography = camera.crop_homography(intrinsics, crop_intrinsics, rotation)
    for i in range(len(bbox)):
        points = random_points(rng)
        by_image = apply_homography(homography[i], camera.project(points, INTRINSICS))
        by_space = camera.project(points @ rotation[i].T, crop_intrinsics[i])
        np.testing.assert_allclose(by_space, by_image, atol=1e-6)


def test_flip_mirrors_the_crop():
    rng = np.random.default_rng(10)
    bbox, points = random_boxes(rng, 10), random_points(rng)
    intrinsics = np.broadcast_to(INTRINSICS, (10, 3, 3))
    plain_intrinsics, plain = camera.crop_cameras(intrinsics, bbox, 256, roll=0.2)
    flipped_intrinsics, flipped = camera.crop_cameras(intrinsics, bbox, 256, roll=0.2, flip=True)
    np.testing.assert_array_equal(plain_intrinsics, flipped_intrinsics)
    for i in range(10):
        seen, mirrored = (camera.project(points @ r[i].T, plain_intrinsics[i]) for r in (plain, flipped))
        np.testing.assert_allclose(mirrored, np.stack([255 - seen[:, 0], seen[:, 1]], axis=-1), atol=1e-6)


def test_crop_is_upright_for_a_tilted_camera():
    """A camera rolled by 30 degrees and told where up is: a vertical stick at the box is vertical in the crop."""
    roll = cv2.Rodrigues(np.array([0, 0, np.deg2rad(30)]))[0]
    up = roll @ [0, -1, 0]
    foot = np.array([300.0, 200.0, 4000.0])
    stick = np.stack([foot, foot + 900 * up])
    projected = camera.project(stick, INTRINSICS)
    bbox = np.array([*projected.mean(axis=0) - 100, 200, 200])
    crop_intrinsics, rotation = camera.crop_cameras(INTRINSICS[None], bbox[None], 256, up=up)
    low, high = camera.project(stick @ rotation[0].T, crop_intrinsics[0])
    assert abs(low[0] - high[0]) < 1e-6 and high[1] < low[1]


def test_box_in_a_distorted_image_is_centred_all_the_same():
    distortion = np.array(DISTORTIONS["5"])
    intrinsics = INTRINSICS * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    bbox = np.array([[100.0, 700, 80, 200]])
    crop_intrinsics, rotation = camera.crop_cameras(intrinsics[None], bbox, 256, distortion=distortion)
    ray = np.append(camera.undistort_pixels(np.array([[140.0, 800.0]]), intrinsics, distortion)[0], 1)
    np.testing.assert_allclose(camera.project((rotation[0] @ ray)[None] * 3000, crop_intrinsics[0]), [[127.5, 127.5]],
                               atol=1e-6)
    ignored, _ = camera.crop_cameras(intrinsics[None], bbox, 256)
    assert abs(ignored[0, 0, 0] - crop_intrinsics[0, 0, 0]) > 1  # the lens matters here


def test_box_without_extent_is_refused():
    for bbox in ([[10, 10, 0, 20]], [[10, np.nan, 10, 20]]):
        with pytest.raises(ValueError, match="boxes need finite numbers and a positive width and height"):
            camera.crop_cameras(INTRINSICS[None], np.array(bbox), 256)


def test_weak_camera_sees_the_person_under_eight_degrees():
    intrinsics = camera.weak_crop_intrinsics(200.0, (640, 480))
    np.testing.assert_array_equal(intrinsics[:2, 2], [319.5, 239.5])
    half_angle = np.arctan(100 / intrinsics[0, 0])
    np.testing.assert_allclose(np.rad2deg(2 * half_angle), 8)


@pytest.mark.parametrize("intrinsics, message", [
    (INTRINSICS.T, "transposed"), (-INTRINSICS, "fx, fy > 0"), (np.eye(4), r"finite \[3, 3\] matrix"),
    (np.full((3, 3), np.nan), "finite"), (np.array([[500, 0, 10], [3, 500, 10], [0, 0, 1]]), "transposed")])
def test_wrong_intrinsics_are_refused(intrinsics, message):
    with pytest.raises(ValueError, match=message):
        Camera(intrinsics)


def test_wrong_extrinsics_are_refused():
    mirrored, scaled = np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([1.1, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="determinant -1"):
        Camera(INTRINSICS, mirrored)
    with pytest.raises(ValueError, match="not orthonormal"):
        Camera(INTRINSICS, scaled)
    with pytest.raises(ValueError, match="last row 0, 0, 0, 1"):
        Camera(INTRINSICS, np.eye(4).T + np.eye(4)[[3, 0, 1, 2]])
    with pytest.raises(ValueError, match="distortion has 3 coefficients"):
        Camera(INTRINSICS, distortion=np.zeros(3))


def test_up_is_given_in_the_camera_frame():
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # a level camera in a world whose z axis points up
    up = Camera(INTRINSICS, world_to_camera, world_up=np.array([0, 0, 1.0])).up
    np.testing.assert_allclose(up, [0, -1, 0])
    np.testing.assert_allclose(Camera(INTRINSICS).up, [0, -1, 0])
