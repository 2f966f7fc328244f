"""What adapters share in reading raw files: JSON and MATLAB files, COCO-style keypoints, masks, boxes, safe paths."""

import dataclasses
import difflib
import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import scipy.io

from datasets.person_boxes import clip_to_image
from datasets.readers.mat_elements import check_elements
from posepile.geometry.skeleton import Skeleton

# The 12 joints that the published 2D training mix counts: it keeps a person with more than 6 of them labelled.
LIMB_JOINTS = tuple(f"{side}_{joint}" for side in ("left", "right")
                    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))
MIN_LIMB_JOINTS = 7

# What scipy raises for truncated and corrupt files.
_MAT_ERRORS = (scipy.io.matlab.MatReadError, zlib.error, OSError, ValueError, TypeError, IndexError, KeyError,
               NotImplementedError, OverflowError, UnboundLocalError, ZeroDivisionError)


def read_json(path: pathlib.Path, hint: str = "", object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Parses a JSON file; `object_hook` as in `json.loads`.

    Raises: FileNotFoundError saying that it is missing, followed by `hint`; ValueError naming file, line and column.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {hint}".rstrip())
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Was it cut short while it was made?") from error


def read_mat(path: pathlib.Path, variable: str, hint: str = "") -> Any:
    """Reads one variable of a MATLAB 5 file: structs as objects with attributes, single elements unwrapped.

    Fields that may hold one element or many, or that may be missing, are to be read by `mat_list`.

    Raises: FileNotFoundError followed by `hint`; ValueError for a broken file or one without that variable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {hint}".rstrip())
    try:
        check_elements(path)
        content = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True, variable_names=[variable])
    except _MAT_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a MATLAB 5 file: {error}. Was it cut short?") from error
    if variable not in content:
        raise ValueError(f"{path} has no variable {variable}; is it the right file?")
    return content[variable]


def mat_list(struct: Any, field: str) -> list:
    """A field of a MATLAB struct as a list: MATLAB drops empty fields, and the reader unwraps arrays of one element."""
    value = getattr(struct, field, None)
    if value is None:
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def path_inside(folder: pathlib.Path, relative: Any, where: str) -> pathlib.Path:
    """The path of a file that an annotation file names. It must lie inside `folder`; a link there may lead elsewhere.

    Raises: ValueError, beginning with `where`, for an absolute path, one with `..`, or no path at all.
    """
    if not isinstance(relative, str) or not relative or "\0" in relative:
        raise ValueError(f"{where}: expected a file path relative to {folder}, got {relative!r}")
    path = pathlib.PurePosixPath(relative.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or pathlib.PureWindowsPath(relative).drive:
        raise ValueError(f"{where}: the path {relative!r} leaves the folder {folder}; give it relative to that folder, "
                         "without `..`")
    return folder / path


def first_existing(*paths: pathlib.Path) -> pathlib.Path:
    """The first of these paths where there is a file or a folder; if there is none, the first, for the message."""
    return next((path for path in paths if path.exists()), paths[0])


def find_nested(folder: pathlib.Path, pattern: str, max_depth: int = 1) -> list[pathlib.Path]:
    """Files and folders of a pattern in a folder, and then those in the folders in it, up to so many in each other.

    Links to folders are followed, which `rglob` does not.
    """
    return [path for depth in range(max_depth + 1) for path in sorted(folder.glob("*/" * depth + pattern))]


def suggestion(word: str, known: Iterable[str]) -> str:
    """The question whether a known word close to a mistyped one is meant; empty where none is close."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def joints_box(joints2d: np.ndarray, scale: float = 1.0, image_size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The box around the labelled joints, enlarged about its centre.

    Args:
        joints2d: [num_joints, 2] px; nan where there is no label.
        image_size: width, height, px, of the image at whose border the box is cut off; None: it is not.

    Returns: [4] x, y, width, height, px; None where fewer than two joints are labelled, they span no area, or the box lies
        outside the image.
    """
    labelled = joints2d[np.isfinite(joints2d).all(axis=1)]
    if len(labelled) < 2:
        return None
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    size = scale * (high - low)
    if not (size > 0).all():
        return None
    box = np.concatenate([(low + high - size) / 2, size])
    return box if image_size is None else clip_to_image(box, image_size)


def has_enough_limb_joints(joints2d: np.ndarray, skeleton: Skeleton) -> bool:
    """Whether more than 6 of the 12 limb joints are labelled, as the 2D part of the published training mix asks."""
    limbs = [i for i, name in enumerate(skeleton.joint_names) if name in LIMB_JOINTS]
    return np.count_nonzero(np.isfinite(joints2d[limbs]).all(axis=1)) >= MIN_LIMB_JOINTS


def polygons_to_mask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """[height, width] bool: the union of polygons [n, 2], px. Pixels that the outline touches belong to it."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:  # one at a time: together, fillPoly would leave out where they overlap
        vertices = np.round(np.asarray(polygon, np.float64).reshape(-1, 1, 2) * 16)
        cv2.fillPoly(mask, [vertices.astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def rle_to_mask(counts: str | Sequence[int], height: int, width: int) -> np.ndarray:
    """[height, width] bool from COCO's run lengths: column by column, background first, as numbers or compressed text.

    Raises: ValueError if the runs do not fill the image.
    """
    if isinstance(counts, str):
        counts = _decompress_counts(counts)
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"mask runs sum to {sum(counts)}, not to {height} x {width} px")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _decompress_counts(text: str) -> list[int]:
    """COCO's text code: 5 bits a character (offset 48), bit 5 continues; signed, from the 4th on relative to 2 back."""
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


_ANNOTATION_KEYS = ("id", "image_id", "track_id", "bbox", "bbox_head", "segmentation")


@dataclasses.dataclass(frozen=True)
class KeypointAnnotation:
    """One labelled person of a COCO-style file.

    Attributes:
        annotation_id, image_id, track_id: as in the file; track_id None where it has none.
        file_name: of the image, as in the file.
        image_size: width, height, px; None where the file does not say.
        joints2d: [num_joints, 2] float32, px as in the file; nan where the flag is 0.
        flags: [num_joints] uint8: 0 not labelled; 1, 2 as the data set says.
        bbox, bbox_head: [4] x, y, width, height as in the file; None where missing.
        segmentation: polygons as [n, 2] float32 px, or a run length table; None where there is none.
    """

    annotation_id: int
    image_id: int
    track_id: int | None
    file_name: str
    image_size: tuple[int, int] | None
    joints2d: np.ndarray
    flags: np.ndarray
    bbox: np.ndarray | None
    bbox_head: np.ndarray | None
    segmentation: list[np.ndarray] | dict | None

    def mask(self) -> np.ndarray | None:
        """[height, width] bool from the segmentation; COCO's polygons count from the corner of pixel (0, 0).

        Raises: ValueError naming the annotation if its run lengths are broken.
        """
        if self.segmentation is None or self.image_size is None:
            return None
        width, height = self.image_size
        if isinstance(self.segmentation, dict):
            try:
                return rle_to_mask(self.segmentation["counts"], *self.segmentation["size"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"annotation {self.annotation_id} of {self.file_name}: its segmentation has no valid "
                                 f"run lengths (counts and size): {error!r}") from error
        return polygons_to_mask([polygon - 0.5 for polygon in self.segmentation], height, width)


def read_coco_keypoints(path: pathlib.Path, skeleton: Skeleton, hint: str = "") -> dict[int, list[KeypointAnnotation]]:
    """The labelled people of a COCO-style keypoint file, without crowds and people without a labelled joint.

    The last file read is kept in memory: its work units are loaded one after the other.

    Returns: image id -> people, both in the order of the file's images and annotations.
    Raises: FileNotFoundError, followed by `hint`; ValueError naming file and annotation.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {hint}".rstrip())
    return _read_coco_keypoints(path, path.stat().st_mtime_ns, skeleton)


@functools.lru_cache(maxsize=1)
def _read_coco_keypoints(path, _mtime, skeleton):
    content = read_json(path, object_hook=_compact)
    lists = ("images", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise ValueError(f"{path} is not a COCO-style keypoint file: it needs the lists images and annotations")
    order = _joint_order(content.get("categories", []), skeleton, path)
    people = {}
    images = {}
    for i, image in enumerate(content["images"]):
        try:
            width, height = image.get("width"), image.get("height")
            images[image["id"]] = image["file_name"], (int(width), int(height)) if width and height else None
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: images[{i}] needs an id and a file_name, width and height must be numbers; got "
                             f"{image!r:.200}") from error
        people[image["id"]] = []
    for i, annotation in enumerate(content["annotations"]):
        if annotation is None:
            continue
        where = f"{path}: annotations[{i}]"
        try:
            where += f" (id {annotation.get('id')})"
            if annotation.get("image_id") not in images:
                raise ValueError(f"{where} has image_id {annotation.get('image_id')!r}, which none of its images has")
            people[annotation["image_id"]].append(
                _keypoint_annotation(annotation, images[annotation["image_id"]], order, where))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{where} is not an annotation: {annotation!r:.200}") from error
    return {image_id: annotations for image_id, annotations in people.items() if annotations}


def _compact(table: dict) -> dict | None:
    """Shrinks annotations while their file is parsed: 250,000 of them as lists of Python numbers take gigabytes.

    Returns: None for a crowd or a person without a labelled joint; otherwise the table, numbers as arrays.
    """
    if "image_id" not in table or "category_id" not in table:
        return table  # an image, a licence, run lengths, ...
    keypoints = table.get("keypoints")
    if table.get("iscrowd") or not isinstance(keypoints, list) or not any(keypoints[2::3]):
        return None
    segmentation = table.get("segmentation")
    try:
        compact = {"keypoints": np.asarray(keypoints, np.float32)}
        if isinstance(segmentation, list):
            compact["segmentation"] = [np.asarray(polygon, np.float32) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        return table  # `_numbers` will say what is wrong
    return {**{key: table[key] for key in _ANNOTATION_KEYS if key in table}, **compact}


def _joint_order(categories: list, skeleton: Skeleton, path: pathlib.Path) -> list[int]:
    """Where each joint of the skeleton stands in the file. Raises: ValueError if the file names other joints."""
    try:
        names = next((c["keypoints"] for c in categories if c.get("keypoints")), list(skeleton.joint_names))
        names = [str(name) for name in names]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: categories must be a list of tables with a list of keypoints; got "
                         f"{categories!r:.200}") from error
    if sorted(names) != sorted(skeleton.joint_names):
        raise ValueError(f"{path}: its category lists the keypoints {', '.join(names)}; expected those of "
                         f"{skeleton.name}: {', '.join(skeleton.joint_names)}")
    return [names.index(name) for name in skeleton.joint_names]


def _keypoint_annotation(annotation: dict, image: tuple, order: list[int], where: str) -> KeypointAnnotation:
    keypoints = _numbers(annotation["keypoints"], 3 * len(order), f"{where}: keypoints").reshape(-1, 3)[order]
    labelled = keypoints[:, 2:] > 0
    segmentation = annotation.get("segmentation") or None
    if isinstance(segmentation, list):
        segmentation = [_numbers(polygon, len(polygon) // 2 * 2, f"{where}: segmentation").reshape(-1, 2)
                        for polygon in segmentation if len(polygon) >= 6]
    elif not isinstance(segmentation, (dict, type(None))):
        raise ValueError(f"{where}: segmentation: expected polygons or run lengths, got {segmentation!r:.200}")
    if not isinstance(annotation.get("track_id"), (int, str, type(None))):
        raise ValueError(f"{where}: track_id: expected a number, got {annotation['track_id']!r:.200}")
    bbox, bbox_head = (_numbers(annotation[key], 4, f"{where}: {key}") if annotation.get(key) else None
                       for key in ("bbox", "bbox_head"))
    file_name, image_size = image
    return KeypointAnnotation(
        annotation_id=annotation.get("id"), image_id=annotation["image_id"], track_id=annotation.get("track_id"),
        file_name=file_name, image_size=image_size,
        joints2d=np.where(labelled, keypoints[:, :2], np.nan), flags=keypoints[:, 2].astype(np.uint8),
        bbox=bbox, bbox_head=bbox_head, segmentation=segmentation)


def _numbers(values: Any, count: int, where: str) -> np.ndarray:
    """[count] float32. Raises: ValueError unless these are so many finite numbers."""
    try:
        numbers = np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: expected {count} numbers, got {values!r:.200}") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: expected {count} finite numbers, got {values!r:.200}")
    return numbers
