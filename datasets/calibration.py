"""From the calibrations that data sets come with, in their conventions and units, to `Camera`; checked."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from datasets.readers.text import read_text
from posepile.geometry.camera import Camera

_NUM_USED_COEFFICIENTS = 8  # of OpenCV's 12 or 14: the others are of thin prisms and tilted sensors


def camera_from(intrinsics: np.ndarray, rotation: np.ndarray, translation: np.ndarray | None = None,
                position: np.ndarray | None = None, distortion: np.ndarray | Sequence[float] | None = None,
                world_up: np.ndarray | Sequence[float] | None = None, unit_mm: float = 1.0, where: str = "camera") -> Camera:
    """A camera from its calibration, with either `translation` or `position`.

    Args:
        intrinsics: [3, 3], px, last row 0, 0, 1.
        rotation: [3, 3] world to camera, or its rotation vector [3] (Rodrigues, radians).
        translation: [3] t of X_camera = R X_world + t.
        position: [3] of the optical centre in the world, C of X_camera = R (X_world - C).
        distortion: 4, 5, 8, 12 or 14 coefficients in OpenCV's order k1, k2, p1, p2, k3, k4, k5, k6, ...; None or zeros:
            an ideal lens.
        world_up: [3] the world's up direction, of any length.
        unit_mm: length of the unit of `translation` and `position`: 1000 for metres.
        where: file and field, for messages.

    Raises: ValueError beginning with `where`: for a matrix that is no rotation or mirrors, nan and infinities, wrong
        shapes, lens coefficients that `Camera` has no model for.
    """
    if (translation is None) == (position is None):
        raise TypeError(f"{where}: camera_from needs translation or position, and not both")
    intrinsics = _numbers(intrinsics, 9, f"{where}: intrinsics").reshape(3, 3)
    if np.size(rotation) == 3:
        rotation = rotation_from_vector(rotation, f"{where}: rotation")
    rotation = _numbers(rotation, 9, f"{where}: rotation").reshape(3, 3)
    if translation is not None:
        translation = _numbers(translation, 3, f"{where}: translation")
    else:
        translation = -rotation @ _numbers(position, 3, f"{where}: position")
    if world_up is not None:
        world_up = _numbers(world_up, 3, f"{where}: world_up")
        if not (length := np.linalg.norm(world_up)) > 0:
            raise ValueError(f"{where}: world_up is the zero vector; expected a direction")
        world_up = world_up / length
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, unit_mm * translation
    distortion = _checked_distortion(distortion, f"{where}: distortion")
    try:
        return Camera(intrinsics, world_to_camera, distortion, world_up)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def fit_intrinsics(joints2d: np.ndarray, joints3d_camera: np.ndarray) -> np.ndarray:
    """The intrinsics [3, 3], without skew, that project points best, by linear least squares.

    Args:
        joints2d: [n, 2] px.
        joints3d_camera: [n, 3] mm, in front of the camera.
    """
    intrinsics = np.eye(3)
    for axis in range(2):
        rows = np.stack([joints3d_camera[:, axis] / joints3d_camera[:, 2], np.ones(len(joints2d))], axis=1)
        intrinsics[axis, [axis, 2]] = np.linalg.lstsq(rows, joints2d[:, axis])[0]
    return intrinsics


def rotation_from_vector(vector: np.ndarray | Sequence[float], where: str = "rotation vector") -> np.ndarray:
    """[3, 3] rotation about the direction of a vector [3] by its length in radians (Rodrigues).

    Raises: ValueError, beginning with `where`, unless these are three finite numbers.
    """
    return cv2.Rodrigues(_numbers(vector, 3, where))[0]


def read_opencv_yaml(path: pathlib.Path, hint: str = "") -> dict[str, Any]:
    """The content of a YAML file as OpenCV's FileStorage writes it, or of an ordinary one: matrices as float64 arrays.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file, and the line of a matrix, if it is broken or no
        table; ImportError where the package PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{path}: reading YAML needs the package PyYAML; install it with pip install "
                          "'posepile-trainer[datasets]'") from error

    class Loader(yaml.SafeLoader):
        """Knows OpenCV's matrices besides plain values; everything else that would make objects is refused."""

    def matrix(loader, node):
        fields = loader.construct_mapping(node, deep=True)
        where = f"{path}: matrix in line {node.start_mark.line + 1}"
        try:
            rows, columns, data = int(fields["rows"]), int(fields["cols"]), fields["data"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected rows, cols and data; problem: {error!r}") from error
        if rows < 1 or columns < 1:
            raise ValueError(f"{where}: expected rows and cols of 1 or more, got {rows} x {columns}")
        return _numbers(data, rows * columns, where).reshape(rows, columns)

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix)
    text = re.sub("^%YAML:", "#", read_text(path, hint))  # the colon is OpenCV's own; without that line it is YAML
    try:
        content = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error!s:.300}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a table of names and values; is it the right file, or was it cut short?")
    return content


def _checked_distortion(distortion, where: str) -> np.ndarray | None:
    if distortion is None or not np.size(distortion):
        return None
    distortion = _numbers(distortion, np.size(distortion), where)
    if not distortion.any():
        return None
    if distortion.size in (12, 14) and not distortion[_NUM_USED_COEFFICIENTS:].any():
        distortion = distortion[:_NUM_USED_COEFFICIENTS]
    return distortion


def _numbers(values: Any, count: int, where: str) -> np.ndarray:
    """[count] float64. Raises: ValueError, beginning with `where`, unless these are so many finite numbers."""
    try:
        numbers = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected {count} numbers, got {values!r:.200}") from error
    if numbers.size != count or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: expected {count} finite numbers, got {numbers.tolist()!r:.200}")
    return numbers
