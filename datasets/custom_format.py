"""Reads and checks the annotation files of a bring-your-own data set, as docs/custom_dataset.md describes them."""

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import cv2
import numpy as np

from datasets.plausibility import CAMERA_AXES, MM_PER_UNIT, rigid
from datasets.raw_files import path_inside, read_json, suggestion
from posepile.data.records import SPLITS
from posepile.geometry.camera import Camera, check_intrinsics, check_rigid
from posepile.geometry.skeleton import Skeleton, list_skeletons, skeleton_from_dict

DEFAULTS_NAME = "dataset.json"  # its entries hold for all annotation files of the folder that lack them
DOCUMENTATION = "docs/custom_dataset.md describes the format."
ADD_UNITS = 'Add "units": "mm", "cm" or "m" to the file.'
MAX_NUMBER = 1e12  # nothing is that far away; a limit also stops overflow in float32
WRITE_NULL = "Write null for a joint without a label."
DEFAULTS_KEYS = ("skeleton", "units", "world_up", "split", "cameras")
FILE_KEYS = (*DEFAULTS_KEYS, "images")
IMAGE_KEYS = ("file", "camera", "split", "sequence", "frame", "people")
PERSON_KEYS = ("joints3d_world", "joints3d_camera", "joints2d", "bbox", "mask", "subject")
CAMERA_KEYS = ("intrinsics", "distortion", "image_size", "world_to_camera", "camera_to_world", "axes", "units")


@dataclasses.dataclass(frozen=True)
class CustomCamera:
    """A camera as an annotation file gives it.

    Attributes:
        camera: the calibration in our units and axes.
        image_size: width, height, px; None where not given.
        to_opencv: [4, 4] from the camera axes of the file to OpenCV's.
        pose: [3, 3] and [3] mm, the numbers of its pose as they stand in the file; None where it has none.
        reading: how they are to be read according to the file, in the words of `readings_that_fit`.
    """

    camera: Camera
    image_size: tuple[int, int] | None
    to_opencv: np.ndarray
    pose: tuple[np.ndarray, np.ndarray] | None
    reading: str


@dataclasses.dataclass(frozen=True)
class CustomPerson:
    """A person as an annotation file gives it; what is missing is None.

    Attributes:
        joints3d_world: [num_joints, 3] mm; nan where there is no label.
        joints3d_camera: [num_joints, 3] mm, in the camera axes of the file; nan where there is no label.
        joints2d: [num_joints, 2] px; nan where there is no label.
        bbox: [4] x, y, width, height, px.
        mask: relative path of the mask image.
    """

    joints3d_world: np.ndarray | None
    joints3d_camera: np.ndarray | None
    joints2d: np.ndarray | None
    bbox: np.ndarray | None
    mask: str | None
    subject: str | None


@dataclasses.dataclass(frozen=True)
class CustomFile:
    """One annotation file, its general part checked; its people are read by `parse_person`.

    Attributes:
        path: the file.
        skeleton: the format of the joints.
        units: "mm", "cm" or "m"; None in a file without 3D labels.
        world_up: [3] unit vector or None.
        cameras: by name.
        images: the entries of `images`, checked but for their people.
        splits: of the images.
    """

    path: pathlib.Path
    skeleton: Skeleton
    units: str | None
    world_up: np.ndarray | None
    cameras: Mapping[str, CustomCamera]
    images: list[dict]
    splits: list[str]

    def image_camera(self, image: dict, where: str) -> CustomCamera | None:
        """The camera of an image: named, defined in place, or None."""
        camera = image.get("camera")
        if isinstance(camera, dict):
            return parse_camera(camera, self.units, self.world_up, f"{where}.camera")
        return None if camera is None else self.cameras[camera]


def annotation_files(raw_dir: pathlib.Path) -> list[pathlib.Path]:
    """The annotation files of a folder. Raises: FileNotFoundError if there is none."""
    paths = sorted(raw_dir.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{raw_dir} has no annotation file (*.json). {DOCUMENTATION}")
    others = [path for path in paths if path.name != DEFAULTS_NAME]
    # dataset.json is an annotation file, too, if it has images
    return [path for path in paths if path in others or "images" in _read_table(path)]


def read_custom_file(path: pathlib.Path) -> CustomFile:
    """Reads one annotation file, completed from dataset.json; the last one read is kept in memory.

    Raises: FileNotFoundError; ValueError naming file and field.
    """
    defaults = path.with_name(DEFAULTS_NAME)
    stamps = tuple(p.stat().st_mtime_ns if p.is_file() else None for p in (path, defaults))
    return _read_custom_file(path, defaults if defaults.is_file() and defaults != path else None, stamps)


@functools.lru_cache(maxsize=1)
def _read_custom_file(path, defaults_path, _stamps):
    content = _read_table(path)
    check_keys(content, FILE_KEYS, str(path))
    if defaults_path is not None:
        defaults = _read_table(defaults_path)
        check_keys(defaults, FILE_KEYS, str(defaults_path))
        cameras = {**_table(defaults.get("cameras", {}), f"{defaults_path}: cameras"),
                   **_table(content.get("cameras", {}), f"{path}: cameras")}
        content = {**{k: v for k, v in defaults.items() if k in DEFAULTS_KEYS}, **content, "cameras": cameras}
    if "images" not in content or "skeleton" not in content:
        missing = " and ".join(f'"{key}"' for key in ("skeleton", "images") if key not in content)
        raise ValueError(f"{path}: the entry {missing} is missing. {DOCUMENTATION}")
    units = content.get("units")
    if units is not None:
        check_choice(units, MM_PER_UNIT, f"{path}: units")
    world_up = None if content.get("world_up") is None else _direction(content["world_up"], f"{path}: world_up")
    cameras = {name: parse_camera(camera, units, world_up, f"{path}: cameras.{name}")
               for name, camera in _table(content.get("cameras", {}), f"{path}: cameras").items()}
    default_split = check_choice(content.get("split", "train"), SPLITS, f"{path}: split")
    if not isinstance(content["images"], list):
        raise ValueError(f"{path}: images must be a list, got {_short(content['images'])}")
    splits = [_check_image(image, cameras, default_split, f"{path}: images[{i}]")
              for i, image in enumerate(content["images"])]
    skeleton = _skeleton(content["skeleton"], f"{path}: skeleton")
    return CustomFile(path, skeleton, units, world_up, cameras, content["images"], splits)


def parse_camera(table: Any, units: str | None, world_up: np.ndarray | None, where: str) -> CustomCamera:
    """Reads one camera. Raises: ValueError beginning with `where` and naming the field."""
    check_keys(_table(table, where), CAMERA_KEYS, where)
    if "intrinsics" not in table:
        raise ValueError(f"{where}: intrinsics are missing: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] or [fx, fy, cx, cy]")
    intrinsics = numbers(table["intrinsics"], ((3, 3), (4,)), f"{where}.intrinsics")
    if intrinsics.shape == (4,):
        fx, fy, cx, cy = intrinsics
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    _check(check_intrinsics, intrinsics, f"{where}.intrinsics")
    distortion = table.get("distortion")
    if distortion is not None:
        distortion = numbers(distortion, ((4,), (5,), (8,)), f"{where}.distortion")
        distortion = distortion if distortion.any() else None
    image_size = table.get("image_size")
    if image_size is not None:
        width, height = numbers(image_size, ((2,),), f"{where}.image_size")
        image_size = int(width), int(height)
    axes = check_choice(table.get("axes", "opencv"), CAMERA_AXES, f"{where}.axes")
    given = [key for key in ("world_to_camera", "camera_to_world") if table.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{where} has both world_to_camera and camera_to_world; give the one that you have")
    world_to_camera, pose, reading = np.eye(4), None, ""
    if given:
        unit = table.get("units", units)
        if unit is None:
            raise ValueError(f"{where}: the unit of its position is missing. {ADD_UNITS}")
        check_choice(unit, MM_PER_UNIT, f"{where}.units")
        reading = given[0]
        rotation, vector, is_center = _pose(table[reading], f"{where}.{reading}")
        vector = vector * MM_PER_UNIT[unit]
        pose = rotation, vector
        if reading == "camera_to_world":
            world_to_camera = rigid(rotation.T, -rotation.T @ vector)
        else:
            world_to_camera = rigid(rotation, -rotation @ vector if is_center else vector)
            reading += " with rotation and " + ("center" if is_center else "translation")
    to_opencv = CAMERA_AXES[axes]
    # Without a pose the world is the camera's frame.
    camera = Camera(intrinsics, to_opencv @ world_to_camera if given else np.eye(4), distortion, world_up)
    return CustomCamera(camera, image_size, to_opencv, pose, f"{reading}, axes {axes}")


def parse_person(table: Any, skeleton: Skeleton, units: str | None, where: str) -> CustomPerson:
    """Reads one person. Raises: ValueError beginning with `where` and naming the field."""
    check_keys(_table(table, where), PERSON_KEYS, where)
    given = [key for key in ("joints3d_world", "joints3d_camera", "joints2d") if table.get(key) is not None]
    if not given:
        raise ValueError(f"{where} has no joints; give joints3d_world, joints3d_camera or joints2d")
    if "joints3d_world" in given and "joints3d_camera" in given:
        raise ValueError(f"{where} has both joints3d_world and joints3d_camera; give the one that you have")
    if given[0] != "joints2d" and units is None:
        raise ValueError(f"{where}.{given[0]}: the unit is missing. {ADD_UNITS}")
    joints = {key: _joints(table[key], skeleton, 2 if key == "joints2d" else 3, f"{where}.{key}") for key in given}
    for key in set(joints) - {"joints2d"}:
        joints[key] = joints[key] * MM_PER_UNIT[units]
    bbox = table.get("bbox")
    if bbox is not None:
        bbox = numbers(bbox, ((4,),), f"{where}.bbox")
        if (bbox[2:] <= 0).any():
            raise ValueError(f"{where}.bbox: expected x, y, width, height, both sizes positive; got {bbox.tolist()}")
    subject = table.get("subject")
    return CustomPerson(joints.get("joints3d_world"), joints.get("joints3d_camera"), joints.get("joints2d"), bbox,
                        table.get("mask"), None if subject is None else str(subject))


def check_keys(table: Mapping, known: Collection[str], where: str) -> None:
    """Raises: ValueError naming an unknown key, the one that may be meant, and all valid ones."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown entry {key!r}.{suggestion(key, known)} Valid ones: {', '.join(known)}.")


def check_choice(value: Any, choices: Collection[str], where: str) -> str:
    """Returns: the value. Raises: ValueError listing the choices unless it is one of them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{where}: expected one of {', '.join(choices)}; got {_short(value)}."
                         f"{suggestion(value, choices)}")
    return value


def numbers(values: Any, shapes: tuple[tuple[int, ...], ...], where: str) -> np.ndarray:
    """Nested lists of numbers as a float64 array of one of the shapes.

    Raises: ValueError for another shape, for strings and for anything that is not finite.
    """
    expected = " or ".join(" x ".join(map(str, shape)) for shape in shapes)
    if not _all_numbers(values):
        raise ValueError(f"{where}: expected {expected} finite numbers, got {_short(values)}")
    try:
        array = np.array(values, np.float64)
    except ValueError as error:
        raise ValueError(f"{where}: expected {expected} numbers, got lists of unequal lengths: {_short(values)}") \
            from error
    if array.shape not in shapes:
        shape = " x ".join(map(str, array.shape)) or "1"
        raise ValueError(f"{where}: expected {expected} numbers, got {shape}: {_short(values)}")
    return array


def _all_numbers(values: Any) -> bool:
    if isinstance(values, list):
        return all(map(_all_numbers, values))
    return isinstance(values, (int, float)) and not isinstance(values, bool) and abs(values) < MAX_NUMBER


def _joints(values: Any, skeleton: Skeleton, num_axes: int, where: str) -> np.ndarray:
    """[num_joints, num_axes] float64 from a list in the skeleton's order or a table by name; null becomes nan."""
    if isinstance(values, dict):
        check_keys(values, skeleton.joint_names, where)
        values = [values.get(name) for name in skeleton.joint_names]
    if not isinstance(values, list):
        raise ValueError(f"{where}: expected a list of joints or a table from joint name to coordinates, got "
                         f"{_short(values)}")
    if len(values) != skeleton.num_joints:
        raise ValueError(f"{where}: got {len(values)} joints, but {skeleton.name} has {skeleton.num_joints}: "
                         f"{', '.join(skeleton.joint_names)}. {WRITE_NULL}")
    joints = np.full((skeleton.num_joints, num_axes), np.nan)
    for i, (joint, name) in enumerate(zip(values, skeleton.joint_names, strict=True)):
        if joint is not None:
            try:
                joints[i] = numbers(joint, ((num_axes,),), f"{where}[{i}] ({name})")
            except ValueError as error:
                raise ValueError(f"{error}. {WRITE_NULL}") from error
    if not np.isfinite(joints).any():
        raise ValueError(f"{where}: no joint has a label; leave this person out")
    # A whole joint at the origin is how some tools write "no label". In 3D one joint may be the origin of the world.
    num_at_origin = np.count_nonzero((joints == 0).all(axis=1))
    if num_at_origin > (1 if num_axes == 3 else 0):
        raise ValueError(f"{where}: {num_at_origin} joints are exactly at the origin. {WRITE_NULL}")
    return joints


def _pose(value: Any, where: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rotation [3, 3], translation or centre [3], and whether it is the centre."""
    if isinstance(value, list):
        matrix = numbers(value, ((4, 4), (3, 4)), where)
        if len(matrix) == 4 and not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise ValueError(f"{where}: the last row must be 0, 0, 0, 1; got {matrix[3].tolist()}. Is it transposed?")
        rotation, vector, is_center = matrix[:3, :3], matrix[:3, 3], False
    else:
        check_keys(_table(value, where), ("rotation", "translation", "center"), where)
        if "rotation" not in value or ("translation" in value) == ("center" in value):
            raise ValueError(f"{where}: needs a rotation and either a translation or the camera's center; got "
                             f"{', '.join(value) or 'nothing'}")
        is_center = "center" in value
        rotation = numbers(value["rotation"], ((3, 3), (3,)), f"{where}.rotation")
        name = "center" if is_center else "translation"
        vector = numbers(value[name], ((3,), (3, 1)), f"{where}.{name}").reshape(3)
        if rotation.shape == (3,):
            rotation = cv2.Rodrigues(rotation)[0]
    _check(check_rigid, rigid(rotation, vector), where)
    # Files carry few digits: the nearest rotation keeps projections consistent with their inverse.
    u, _, vt = np.linalg.svd(rotation)
    return u @ vt, vector, is_center


def _check_image(image: Any, cameras: Mapping[str, CustomCamera], default_split: str, where: str) -> str:
    """Checks everything but the people of one entry of `images`. Returns: its split."""
    check_keys(_table(image, where), IMAGE_KEYS, where)
    path_inside(pathlib.Path("."), image.get("file"), f"{where}.file")
    camera = image.get("camera")
    if camera is not None and not isinstance(camera, dict) and camera not in list(cameras):
        raise ValueError(f"{where}.camera: no camera is called {camera!r}.{suggestion(camera, cameras)} "
                         f"Those of the file: {', '.join(cameras) or 'none'}.")
    if not isinstance(image.get("people", []), list):
        raise ValueError(f"{where}.people must be a list, got {_short(image['people'])}")
    return check_choice(image.get("split", default_split), SPLITS, f"{where}.split")


def _skeleton(definition: Any, where: str) -> Skeleton:
    if isinstance(definition, str):
        check_choice(definition, list_skeletons(), where)
    elif not isinstance(definition, dict):
        raise ValueError(f"{where}: expected the name of a format or a table with name, joints, mirror_pairs and "
                         f"edges; got {_short(definition)}")
    return _check(skeleton_from_dict, definition, where)


def _direction(value: Any, where: str) -> np.ndarray:
    """[3] unit vector from three numbers or from "x", "-y" and the like."""
    if isinstance(value, str) and value.lstrip("+-") in ("x", "y", "z"):
        return np.eye(3)["xyz".index(value[-1])] * (-1 if value.startswith("-") else 1)
    direction = numbers(value, ((3,),), where)
    if not (length := np.linalg.norm(direction)):
        raise ValueError(f"{where}: (0, 0, 0) is no direction; give one such as \"z\", \"-y\" or [0, 0, 1]")
    return direction / length


def _check(function, value, where):
    """function(value), with the place in the file before the message of a ValueError."""
    try:
        return function(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_table(path: pathlib.Path) -> dict:
    return _table(read_json(path), str(path))


def _table(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a table {{...}}, got {_short(value)}. {DOCUMENTATION}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
