import re
import sys

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datasets.calibration import (
    camera_from,
    check_image_size,
    fit_pose,
    fit_pose_and_focal_length,
    image_points,
    read_opencv_yaml,
    reprojection_error,
    rotation_from_vector,
)
from posepile.geometry.camera import project, transform

K = np.array([[1000.0, 0, 500], [0, 1100, 400], [0, 0, 1]])
# The camera stands at (0, -4, 1.5) m in a world with z up and looks along +y: x right = x, y down = -z, z forward = y.
ROTATION = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
POSITION = np.array([0.0, -4, 1.5])
WHERE = "calib.json: cameras[3]"


def test_position_and_translation_are_two_ways_to_say_the_same():
    # t = -R C = -(0, -1.5, -4)
    by_position = camera_from(K, ROTATION, position=POSITION, unit_mm=1000)
    by_translation = camera_from(K, ROTATION, translation=[0, 1.5, 4], unit_mm=1000)
    for camera in (by_position, by_translation):
        np.testing.assert_allclose(camera.world_to_camera[:3, 3], [0, 1500, 4000])
        # 1 m to the right of the origin and 0.5 m up: 4 m ahead, 1 m below the camera.
        joint = transform(np.array([[1000.0, 0, 500]]), camera.world_to_camera)
        np.testing.assert_allclose(joint, [[1000, 1000, 4000]])
        np.testing.assert_allclose(project(joint, camera.intrinsics), [[750, 675]])


def test_image_of_another_size_than_that_of_the_calibration_is_refused():
    check_image_size(np.zeros((480, 640, 3)), (640, 480), WHERE)
    check_image_size(np.zeros((480, 640)), (640, 480), WHERE)
    with pytest.raises(ValueError, match=r"^a\.mp4 has 640 x 480 px, its camera is calibrated for 480 x 640"):
        check_image_size(np.zeros((480, 640, 3)), (480, 640), "a.mp4")


def test_points_of_the_image_agree_with_opencv_up_to_the_limit_of_the_lens():
    # 1 + k1 r^2 with k1 = -1/3: r (1 - r^2 / 3) rises up to r = 1, where x/z is 1, and falls from there.
    camera = camera_from(K, ROTATION, position=POSITION, unit_mm=1000, distortion=[-1 / 3, 0, 0.001, 0])
    # x, y, z of the camera: 0.5 and 0.99 aside, beyond 1, far beyond, where OpenCV has it in the image again, and behind.
    points = np.array([[500, 0, 1000], [0, -990, 1000], [710, 710, 1000], [1700, 0, 1000], [100, 0, -1000]]) \
        @ ROTATION + 1000 * POSITION
    expected, _ = cv2.projectPoints(points, cv2.Rodrigues(ROTATION)[0], -1000 * ROTATION @ POSITION, K, camera.distortion)
    assert 0 < expected[3, 0, 0] < 1000 and 0 < expected[3, 0, 1] < 800
    expected[2:] = np.nan
    np.testing.assert_allclose(image_points(points, camera), expected[:, 0])
    np.testing.assert_allclose(image_points(np.stack([points] * 2), camera)[1], expected[:, 0])
    points[0, 1] = np.nan
    assert np.isnan(image_points(points, camera)[0]).all()
    # Without a lens there is no limit but the camera's plane.
    ideal = camera_from(K, ROTATION, position=POSITION, unit_mm=1000)
    assert np.isfinite(image_points(points, ideal)).all(axis=1).tolist() == [False, True, True, True, False]


def test_agrees_with_opencv_on_random_cameras():
    rng = np.random.default_rng(0)
    for _ in range(10):
        vector, position = rng.normal(0, 1, 3), rng.normal(0, 100, 3)
        distortion = rng.normal(0, 0.01, 5)
        rotation = Rotation.from_rotvec(vector).as_matrix()
        points = position + rng.uniform([-100, -100, 300], [100, 100, 500], (8, 3)) @ rotation
        expected, _ = cv2.projectPoints(points, vector, -rotation @ position, K, distortion)
        for rotation_form in (rotation, vector, vector[:, None]):  # centimetres
            camera = camera_from(K, rotation_form, position=position[:, None], distortion=distortion[None], unit_mm=10)
            seen = project(transform(10 * points, camera.world_to_camera), camera.intrinsics, camera.distortion)
            np.testing.assert_allclose(seen, expected[:, 0], atol=1e-6)


def test_rotation_vector_by_hand():
    np.testing.assert_allclose(rotation_from_vector([np.pi / 2, 0, 0]), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(rotation_from_vector([0, 0, 0]), np.eye(3))


def test_lens_and_up_direction_are_brought_into_form():
    def camera(**options):
        return camera_from(K, ROTATION, position=POSITION, **options)

    assert camera().distortion is None and camera(distortion=np.zeros(5)).distortion is None
    assert camera(distortion=[]).distortion is None
    np.testing.assert_array_equal(camera(distortion=[0.1, 0.2, 0, 0]).distortion, [0.1, 0.2, 0, 0])
    np.testing.assert_array_equal(camera(distortion=[*range(1, 9), 0, 0, 0, 0]).distortion, range(1, 9))
    np.testing.assert_allclose(camera(world_up=[0, 0, 2]).up, [0, -1, 0], atol=1e-12)


MIRRORED = np.diag([1.0, 1, -1])
NAN_ROTATION = np.where(np.eye(3) == 1, np.nan, 0)


@pytest.mark.parametrize("changes, message", [
    ({"rotation": MIRRORED}, "determinant -1"),
    ({"rotation": 1.1 * np.eye(3)}, "not orthonormal"),
    ({"rotation": np.ones((3, 3))}, "not orthonormal"),
    ({"rotation": NAN_ROTATION}, "rotation: expected 9 finite numbers"),
    ({"rotation": np.eye(4)}, "rotation: expected 9 finite numbers"),
    ({"rotation": [0, np.inf, 0]}, "rotation: expected 3 finite numbers"),
    ({"rotation": "none"}, "rotation: expected 9 numbers, got 'none'"),
    ({"position": [0, 0]}, "position: expected 3 finite numbers"),
    ({"position": None, "translation": [0, 0, np.nan]}, "translation: expected 3 finite numbers"),
    ({"intrinsics": np.eye(4)}, "intrinsics: expected 9 finite numbers"),
    ({"intrinsics": K.T}, "Is the matrix transposed"),
    ({"intrinsics": -K}, "fx, fy > 0"),
    ({"distortion": [0.1, 0.2, 0.3]}, "distortion has 3 coefficients"),
    ({"distortion": [0.1] * 12}, "distortion has 12 coefficients"),
    ({"distortion": [0.1, None, 0, 0]}, "distortion: expected 4 finite numbers"),
    ({"world_up": [0, 0, 0]}, "world_up is the zero vector"),
])
def test_wrong_calibration_is_named(changes, message):
    good = {"intrinsics": K, "rotation": ROTATION, "position": POSITION, "where": WHERE}
    camera_from(**good)
    with pytest.raises(ValueError) as caught:
        camera_from(**{**good, **changes})
    assert str(caught.value).startswith(WHERE) and message in str(caught.value)


@pytest.mark.parametrize("both", [{}, {"translation": POSITION, "position": POSITION}])
def test_translation_or_position_is_needed(both):
    with pytest.raises(TypeError, match="translation or position"):
        camera_from(K, ROTATION, **both)


def random_view(rng, num_points=20, thickness=0.3, far_origin=(0, 0, 0)):
    """Points of a person's size in metres, 3 to 8 m away, as K sees them: points3d, points2d, rotation, position."""
    rotation = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    turn = Rotation.from_rotvec(rng.normal(0, 1, 3)).as_matrix()
    points_camera = rng.normal(0, [0.3, 0.8, thickness], (num_points, 3)) @ turn + rng.uniform([-1, -1, 4], [1, 1, 8])
    points_camera = points_camera[points_camera[:, 2] > 0.5]
    position = np.asarray(far_origin) + rng.normal(0, 3, 3)
    points2d = points_camera[:, :2] / points_camera[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
    return points_camera @ rotation + position, points2d, rotation, position


@pytest.mark.parametrize("thickness", [0.3, 0.0])  # 0: all points in one plane
@pytest.mark.parametrize("num_points", [8, 60])
def test_pose_from_exact_pairs_is_exact(num_points, thickness):
    rng = np.random.default_rng(num_points)
    for _ in range(20):
        points3d, points2d, rotation, position = random_view(rng, num_points, thickness, far_origin=(1e5, -2e5, 30))
        found = fit_pose(points3d, points2d, K, max_error_px=1e-3)
        np.testing.assert_allclose(found[0], rotation, atol=1e-6)
        np.testing.assert_allclose(found[1], position, atol=1e-5)


def test_pose_from_pairs_half_a_pixel_off_is_close_and_the_best():
    rng = np.random.default_rng(1)
    for _ in range(30):
        points3d, points2d, rotation, position = random_view(rng)
        points2d += rng.normal(0, 0.5, points2d.shape)
        found = fit_pose(points3d, points2d, K, max_error_px=2)
        assert np.linalg.det(found[0]) == pytest.approx(1)
        assert (((points3d - found[1]) @ found[0].T)[:, 2] > 0).all()
        assert np.rad2deg(Rotation.from_matrix(found[0] @ rotation.T).magnitude()) < 2
        assert np.linalg.norm(found[1] - position) < 0.25
        error = reprojection_error(points3d, points2d, K, *found)
        assert error < reprojection_error(points3d, points2d, K, rotation, position) < 2
        for axis in np.eye(3):
            for step in (-2e-5, 2e-5):
                assert error < reprojection_error(points3d, points2d, K, found[0], found[1] + step * axis)
                turned = rotation_from_vector(step * axis) @ found[0]
                assert error < reprojection_error(points3d, points2d, K, turned, found[1])


def test_pairs_without_a_label_are_left_out():
    points3d, points2d, rotation, position = random_view(np.random.default_rng(2))
    points3d[3], points2d[5:8] = np.nan, np.nan
    found = fit_pose(points3d, points2d, K, max_error_px=1e-3)
    np.testing.assert_allclose(found[0], rotation, atol=1e-6)
    np.testing.assert_allclose(found[1], position, atol=1e-6)


def test_reprojection_error_by_hand():
    points3d = np.array([[0, 0, 2], [1, 0, 2], [0, 0, -1], [np.nan, 0, 1]]) + POSITION
    points2d = np.array([[500, 400], [1003, 404], [500, 400], [0, 0]])  # the second is seen at (1000, 400)
    assert reprojection_error(points3d[[0, 1, 3]], points2d[[0, 1, 3]], K, np.eye(3), POSITION) == pytest.approx(12.5**0.5)
    assert reprojection_error(points3d, points2d, K, np.eye(3), POSITION) == np.inf
    assert reprojection_error(points3d[3:], points2d[3:], K, np.eye(3), POSITION) == np.inf


def far_view():
    points3d, points2d, _, _ = random_view(np.random.default_rng(4))
    return points3d, points2d


@pytest.mark.parametrize(("points3d", "points2d", "message"), [
    (far_view()[0][:5], far_view()[1][:5], "5 points are known .* needs 6 or more"),
    (np.where(np.arange(20)[:, None] < 15, np.nan, far_view()[0]), far_view()[1], "5 points are known"),
    (np.outer(np.arange(20), [1, 2, 3]) + 5.0, far_view()[1], "20 3D points lie on a line"),
    (np.zeros((20, 3)), far_view()[1], "20 3D points lie on a line"),
    (far_view()[0], np.outer(np.arange(20), [1, 2.0]), "20 points in the image lie on a line"),
    (far_view()[0], far_view()[1][::-1], "no camera sees the 20 3D points"),
    (far_view()[0][[1, 0, *range(2, 20)]], far_view()[1], r"lie \d+(\.\d+)? px from it .* expected 3 px or less"),
    (far_view()[0] * [1, 1, -1], far_view()[1], "no camera sees the 20 3D points"),  # mirrored
    (far_view()[0], far_view()[1] * [-1, 1] + [1000, 0], "no camera sees the 20 3D points"),
])
def test_pairs_that_give_no_pose_are_named(points3d, points2d, message):
    for fit, arguments in ((fit_pose, [K]), (fit_pose_and_focal_length, [(1000, 800), (30, 100)])):
        with pytest.raises(ValueError, match=rf"^{re.escape(WHERE)}: .*{message}"):
            fit(points3d, points2d, *arguments, max_error_px=3, where=WHERE)


def test_points_behind_the_camera_are_no_solution():
    points3d, points2d, rotation, position = random_view(np.random.default_rng(4))
    behind = position - (points3d - position)
    points_camera = (behind - position) @ rotation.T
    assert (points_camera[:, 2] < 0).all()  # and yet on the same lines through the centre
    np.testing.assert_allclose(points_camera[:, :2] / points_camera[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2], points2d)
    with pytest.raises(ValueError, match="no camera sees"):
        fit_pose(behind, points2d, K, max_error_px=3)


@pytest.mark.parametrize("degrees", [30.5, 47.3, 60.0, 99.0])
def test_focal_length_is_found(degrees):
    rng = np.random.default_rng(5)
    focal_length = 640 / np.tan(np.deg2rad(degrees) / 2)
    for noise, tolerance in ((0.0, 1e-5), (0.5, 0.05)):
        points3d, points2d, rotation, position = random_view(rng, 200, far_origin=(-2000, 300, 0))
        points2d = (points2d - K[:2, 2]) / [K[0, 0], K[1, 1]] * focal_length + [640, 400] + rng.normal(0, noise, points2d.shape)
        found = fit_pose_and_focal_length(points3d, points2d, (1280, 800), (30, 100), max_error_px=2)
        np.testing.assert_allclose(found[0], [[found[0][0, 0], 0, 640], [0, found[0][0, 0], 400], [0, 0, 1]])
        assert found[0][0, 0] == pytest.approx(focal_length, rel=tolerance)
        np.testing.assert_allclose(found[1], rotation, atol=max(1e-6, noise / 30))
        np.testing.assert_allclose(found[2], position, atol=10 * tolerance)


yaml = pytest.importorskip("yaml")
OPENCV_YAML = """%YAML:1.0
---
Number of cameras: 2
Camera_1:
   K: !!opencv-matrix
      rows: 3
      cols: 3
      dt: d
      data: [ 532.795, 0., 320., 0., 532.719, 240.,
          0., 0., 1. ]
   Dist: !!opencv-matrix
      rows: 1
      cols: 4
      dt: f
      data: [ -2.8e-01, 1.7e-01, 1e-05, 0. ]
"""


def test_opencv_yaml_by_hand_and_as_opencv_writes_it(tmp_path):
    path = tmp_path / "camera.yml"
    path.write_text(OPENCV_YAML)
    content = read_opencv_yaml(path)
    assert content["Number of cameras"] == 2
    np.testing.assert_array_equal(content["Camera_1"]["K"], [[532.795, 0, 320], [0, 532.719, 240], [0, 0, 1]])
    np.testing.assert_array_equal(content["Camera_1"]["Dist"], [[-0.28, 0.17, 1e-5, 0]])
    matrix = np.random.default_rng(0).normal(0, 1e-6, (4, 5)) * [1, 1e3, 1e9, 1e20, 0]
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("matrix", matrix)
    storage.write("integers", np.array([[1, -2]], np.int32))
    storage.write("name", "cam 1")
    storage.release()
    content = read_opencv_yaml(path)
    np.testing.assert_array_equal(content["matrix"], matrix)
    np.testing.assert_array_equal(content["integers"], [[1, -2]])
    assert content["name"] == "cam 1"


@pytest.mark.parametrize("text, message", [
    (OPENCV_YAML[:150], "line 9"),  # cut short inside of the numbers
    (OPENCV_YAML.replace("rows: 3", "rows: 4"), "matrix in line 5: expected 12 finite numbers"),
    (OPENCV_YAML.replace("rows: 3", "rows: 999999999"), "matrix in line 5: expected 2999999997 finite numbers"),
    (OPENCV_YAML.replace("rows: 1", "rows: -1"), "matrix in line 11: expected rows and cols of 1 or more, got -1 x 4"),
    (OPENCV_YAML.replace("dt: f\n      data", "dt: f\n      date"), "matrix in line 11: expected rows, cols and data"),
    (OPENCV_YAML.replace("320.", ".Nan"), "matrix in line 5"),
    ("%YAML:1.0\n---\n- 1\n", "not a table"),
    ("", "not a table"),
    ("a: [1, 2", "cannot be read as YAML"),
    ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ("a: " + "[" * 400, "cannot be read as YAML"),
    ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "an alias in line 2 is refused"),
    ("a: 2001-99-99", "month must be in 1..12"),
    (OPENCV_YAML.replace("rows: 3", "rows: .inf"), "cannot convert float infinity"),
    (OPENCV_YAML.replace("320.", 400 * "9"), "matrix in line 5: expected 9 numbers"),
])
def test_broken_yaml_is_named(text, message, tmp_path):
    path = tmp_path / "camera.yml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_opencv_yaml(path)
    assert "camera.yml" in str(caught.value) and message in str(caught.value)


def test_missing_file_and_package_say_where_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"Get it from X\."):
        read_opencv_yaml(tmp_path / "none.yml", "Get it from X.")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install 'posepile-trainer\[datasets\]'"):
        read_opencv_yaml(tmp_path / "none.yml")
