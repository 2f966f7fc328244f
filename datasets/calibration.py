"""From the calibrations that data sets come with, in their conventions and units, to `Camera`; checked. Where there is none,
from points that are known in 3D and in the image."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import scipy.optimize

from datasets.readers.text import read_text
from posepile.geometry.camera import Camera, lens_radius, project, transform

MIN_PAIRS = 6  # of 3D and 2D points, for the pose of a camera: 4 determine it, and leave nothing to check it by
_NUM_USED_COEFFICIENTS = 8  # of OpenCV's 12 or 14: the others are of thin prisms and tilted sensors
_COLLINEAR = 1e-3  # width of a set of points, relative to its length, below which it counts as a line
_REFINEMENT = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-14)
_NUM_FIELDS_OF_VIEW = 15  # that are tried before the best one is refined


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


def check_image_size(image: np.ndarray, image_size: tuple[int, int], where: str) -> None:
    """Raises: ValueError, beginning with `where`, unless an image [height, width, ...] has the (width, height) px for which its
    camera is calibrated."""
    height, width = image.shape[:2]
    if (width, height) != tuple(image_size):
        raise ValueError(f"{where} has {width} x {height} px, its camera is calibrated for {image_size[0]} x {image_size[1]}. "
                         "Has it been scaled, or is it of another release?")


def image_points(joints3d_world: np.ndarray, camera: Camera) -> np.ndarray:
    """Where a camera sees points.

    Args:
        joints3d_world: [..., n, 3] mm; nan where there is no label.

    Returns: [..., n, 2] px; nan also for points behind the camera and those so far aside that its lens model, which holds
        for what is in the image, would fold them back towards it.
    """
    joints3d_camera = transform(joints3d_world, camera.world_to_camera)
    points = project(joints3d_camera, camera.intrinsics, camera.distortion)
    if camera.distortion is not None and np.isfinite(limit := lens_radius(camera.distortion)):
        points[np.linalg.norm(joints3d_camera[..., :2], axis=-1) >= limit * joints3d_camera[..., 2]] = np.nan
    return points


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


def fit_pose(points3d: np.ndarray, points2d: np.ndarray, intrinsics: np.ndarray, max_error_px: float,
             where: str = "camera pose") -> tuple[np.ndarray, np.ndarray]:
    """The pose of an ideal camera that projects 3D points to where they are in the image (PnP).

    The solution has all points in front of the camera and the least squared distance in the image.

    Args:
        points3d: [n, 3] float64, world, any unit and origin.
        points2d: [n, 2] px. Pairs in which either is nan are left out.
        intrinsics: [3, 3], px.
        max_error_px: root mean square distance in the image up to which points and camera agree.
        where: file and field, for messages.

    Returns: rotation [3, 3] and position [3] of X_camera = R (X_world - C), in the unit of `points3d`.
    Raises: ValueError, beginning with `where`: for fewer than `MIN_PAIRS` pairs, points on a line, and if no camera agrees.
    Source: Terzakis and Lourakis, A Consistently Fast and Globally Optimal Solution to the Perspective-n-Point Problem (SQPnP),
        ECCV 2020, for the first guess; Levenberg-Marquardt from there.
    """
    points3d, points2d = _checked_pairs(points3d, points2d, where)
    rotation, position, error = _solve_pose(points3d, points2d, np.asarray(intrinsics, np.float64))
    _check_error(error, max_error_px, len(points3d), where)
    return rotation, position


def fit_pose_and_focal_length(points3d: np.ndarray, points2d: np.ndarray, image_size: tuple[int, int],
                              fields_of_view: tuple[float, float], max_error_px: float, where: str = "camera pose"
                              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `fit_pose`, of a camera with square pixels and the principal point at half the image's size.

    Args:
        image_size: width, height, px.
        fields_of_view: least and largest horizontal one that are searched, degrees.

    Returns: intrinsics [3, 3], rotation [3, 3], position [3].
    Raises: as `fit_pose`.
    """
    points3d, points2d = _checked_pairs(points3d, points2d, where)
    width, height = image_size

    def intrinsics(degrees):
        focal_length = width / 2 / np.tan(np.deg2rad(degrees) / 2)
        return np.array([[focal_length, 0, width / 2], [0, focal_length, height / 2], [0, 0, 1]])

    def error(degrees):
        return _solve_pose(points3d, points2d, intrinsics(degrees))[2]

    guesses = np.linspace(*fields_of_view, _NUM_FIELDS_OF_VIEW)
    best = int(np.argmin([error(degrees) for degrees in guesses]))
    bounds = guesses[max(best - 1, 0)], guesses[min(best + 1, len(guesses) - 1)]
    found = scipy.optimize.minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    _check_error(found.fun, max_error_px, len(points3d), where)
    return intrinsics(found.x), *_solve_pose(points3d, points2d, intrinsics(found.x))[:2]


def reprojection_error(points3d: np.ndarray, points2d: np.ndarray, intrinsics: np.ndarray, rotation: np.ndarray,
                       position: np.ndarray) -> float:
    """Root mean square distance, px, of points [n, 3] seen by an ideal camera from their places [n, 2] in its image.

    Pairs with nan are left out. Infinite if one of the points is behind the camera, or if there are no pairs.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        points = (points3d - position) @ np.transpose(rotation) @ np.transpose(intrinsics)
        squared = ((points[:, :2] / points[:, 2:] - points2d)**2).sum(axis=1)
    is_pair = np.isfinite(squared)
    is_seen = is_pair.any() and (points[is_pair, 2] > 0).all()
    return float(np.sqrt(squared[is_pair].mean())) if is_seen else np.inf


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
        """Knows OpenCV's matrices besides plain values; everything else that would make objects is refused, and so are
        aliases: lists that hold another one ten times, and so on, become arrays that fill the memory."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"an alias in line {self.peek_event().start_mark.line + 1} is refused")
            return super().compose_node(parent, index)

    def matrix(loader, node):
        fields = loader.construct_mapping(node, deep=True)
        where = f"matrix in line {node.start_mark.line + 1}"
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
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # dates and numbers out of range, too
        raise ValueError(f"{path} cannot be read as YAML: {error!s:.300}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a table of names and values; is it the right file, or was it cut short?")
    return content


def _checked_pairs(points3d: np.ndarray, points2d: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The pairs without nan. Raises: ValueError, beginning with `where`, if they do not determine a pose."""
    points3d, points2d = np.asarray(points3d, np.float64), np.asarray(points2d, np.float64)
    is_pair = np.isfinite(points3d).all(axis=1) & np.isfinite(points2d).all(axis=1)
    if (num_pairs := np.count_nonzero(is_pair)) < MIN_PAIRS:
        raise ValueError(f"{where}: {num_pairs} points are known both in 3D and in the image; the camera's pose needs "
                         f"{MIN_PAIRS} or more")
    points3d, points2d = points3d[is_pair], points2d[is_pair]
    for name, points in (("3D points", points3d), ("points in the image", points2d)):
        length, width = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[:2]
        if width <= _COLLINEAR * length:
            raise ValueError(f"{where}: the {num_pairs} {name} lie on a line, which leaves the camera's pose open")
    return points3d, points2d


def _solve_pose(points3d: np.ndarray, points2d: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation, position and reprojection error, which is infinite where there is no solution."""
    # About their mean and of size 1: worlds have their origin kilometres away, which would cost the solver its precision.
    mean, size = points3d.mean(axis=0), np.sqrt(points3d.var(axis=0).sum())
    points = (points3d - mean) / size
    best = np.eye(3), mean, np.inf
    try:
        _, vectors, translations, _ = cv2.solvePnPGeneric(points, points2d, intrinsics, None, flags=cv2.SOLVEPNP_SQPNP)
        for vector, translation in zip(vectors, translations, strict=True):
            vector, translation = cv2.solvePnPRefineLM(points, points2d, intrinsics, None, vector, translation, _REFINEMENT)
            rotation = cv2.Rodrigues(vector)[0]
            position = -rotation.T @ translation.ravel()
            error = reprojection_error(points, points2d, intrinsics, rotation, position)
            if error < best[2]:
                best = rotation, mean + size * position, error
    except cv2.error:  # of points without any solution
        pass
    return best


def _check_error(error: float, max_error_px: float, num_pairs: int, where: str) -> None:
    if not error <= max_error_px:
        found = f"lie {error:.3g} px from it (root mean square)" if np.isfinite(error) else "would not all be in front of it"
        raise ValueError(f"{where}: no camera sees the {num_pairs} 3D points where they are in the image: they {found}; "
                         f"expected {max_error_px:.3g} px or less. Are the 2D and 3D points of the same person and frame, and "
                         "in the same order?")


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
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: expected {count} numbers, got {values!r:.200}") from error
    if numbers.size != count or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: expected {count} finite numbers, got {numbers.tolist()!r:.200}")
    return numbers
