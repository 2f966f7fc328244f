import sys

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datasets.calibration import camera_from, read_opencv_yaml, rotation_from_vector
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
