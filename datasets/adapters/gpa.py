"""GPA, Geometric Pose Affordance (Wang et al., arXiv 1905.07718, 2019): people among boxes and stairs, marker-based labels.

    RAW_DIR/xyz_gpa12_mdp_cntind_crop_cam_c2g.json              images and annotations, in the same order
    RAW_DIR/Gaussian_img_jpg_new/{id}.jpg                       1920 x 1080, id of ten digits; faces are blurred
    RAW_DIR/Sequence_ids/cam_ids_750k.npy                       [number of ids]: which of the 5 cameras took it
    RAW_DIR/img_jpg_new_resnet101deeplabv3humanmask/{id}_mask.jpg      person masks; they can be left out

The training part (`istrains`) is the train split, all the rest the test split. An image is kept if the person has moved since
the last one kept of the same camera. Boxes are those of the projected joints, enlarged.

Labels and intrinsics are those of each annotation: the world's frame is the camera's, mm. How the cameras are tilted is not
used, since sources disagree on what the other annotation file says: up is up in the image.
"""

import collections
import dataclasses
import functools
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.files import require_file
from datasets.readers.json_lists import iterate_lists
from datasets.readers.npy import read_npy
from posepile.geometry.camera import project
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("gpa_34")  # in the order of the file
ANNOTATIONS = "xyz_gpa12_mdp_cntind_crop_cam_c2g.json"
IMAGES = "Gaussian_img_jpg_new"
MASKS = "img_jpg_new_resnet101deeplabv3humanmask"
CAMERA_IDS = "Sequence_ids/cam_ids_750k.npy"
MIN_MOVEMENT_MM = 100.0
BOX_SCALE = 1.15  # of the box around the projected joints
MIN_FOREGROUND = 10  # code value; the masks are JPEGs, whose background is not quite black
IMAGES_PER_UNIT = 1000
HINT = ("Get the annotations, gaussian_fullimg.tar.gz, the masks and Sequence_ids from "
        "https://www.cs.utexas.edu/~liyanc/projects/gpa-dataset/ and unpack them there.")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Annotations:
    """All annotations, in arrays: as Python's numbers they would take gigabytes.

    Attributes:
        image_ids: [n]; 0 where `problems` has an entry.
        joints3d: [n, 34, 3] float32 mm, camera frame.
        intrinsics: [n, 4] fx, fy, cx, cy, px.
        is_train: [n] bool.
        problems: message for each annotation that cannot be read.
    """

    image_ids: np.ndarray
    joints3d: np.ndarray
    intrinsics: np.ndarray
    is_train: np.ndarray
    problems: dict[int, str]


def list_units(raw_dir: pathlib.Path, split: str) -> list[list[int]]:
    """Runs of numbers of the annotations that are kept; see `Adapter.list_units`."""
    if not (raw_dir / IMAGES).is_dir():
        raise FileNotFoundError(f"there is no folder {raw_dir / IMAGES}. {HINT}")
    annotations, camera_ids = _read_annotations(raw_dir), _read_camera_ids(raw_dir)
    if split not in ("train", "test"):
        return []
    if not (raw_dir / MASKS).is_dir():
        logger.warning("gpa, %s: there is no folder %s; examples have no masks. %s", split, raw_dir / MASKS, HINT)
    samplers = collections.defaultdict(lambda: FrameSampler(MIN_MOVEMENT_MM))
    rows = []
    for row, (image_id, joints3d, is_train) in enumerate(
            zip(annotations.image_ids, annotations.joints3d, annotations.is_train, strict=True)):
        # Both parts go through the sampler of their camera: neighbours across the split are left out, too.
        is_kept = row in annotations.problems or samplers[_camera_of(camera_ids, image_id, raw_dir)].keep(joints3d)
        if is_kept and is_train == (split == "train"):
            rows.append(row)
    return [rows[i:i + IMAGES_PER_UNIT] for i in range(0, len(rows), IMAGES_PER_UNIT)]


def load_unit(raw_dir: pathlib.Path, unit: list[int]) -> Iterator[RawExample | ValueError]:
    """The people of a run; a `ValueError` for one whose annotation or mask is broken."""
    annotations, camera_ids = _read_annotations(raw_dir), _read_camera_ids(raw_dir)
    has_masks = (raw_dir / MASKS).is_dir()
    for row in unit:
        where = f"{raw_dir / ANNOTATIONS}: annotations[{row}]"
        if row in annotations.problems:
            yield ValueError(f"{where}{annotations.problems[row]}")
            continue
        image_id, joints3d = int(annotations.image_ids[row]), annotations.joints3d[row].astype(np.float64)
        fx, fy, cx, cy = annotations.intrinsics[row]
        try:
            camera = camera_from([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.eye(3), np.zeros(3), where=f"{where}, f and c")
            if (bbox := joints_box(project(joints3d, camera.intrinsics), BOX_SCALE)) is None:
                raise ValueError(f"{where}: joint_cams has fewer than two joints in front of the camera")
            mask = (load_image(raw_dir / MASKS / f"{image_id:010d}_mask.jpg")[..., 0] > MIN_FOREGROUND) if has_masks else None
        except ValueError as error:
            yield error
            continue
        source = f"{IMAGES}/{image_id:010d}.jpg"
        yield RawExample(image=raw_dir / source, bbox=bbox, camera=camera, joints3d_world=joints3d, mask=mask, provenance={
            "source": source, "frame": image_id, "camera": int(camera_ids[image_id])})


def _read_annotations(raw_dir: pathlib.Path) -> _Annotations:
    path = require_file(raw_dir / ANNOTATIONS, HINT)
    return _read_annotations_cached(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)  # the units of a run of `prepare` are loaded one after the other
def _read_annotations_cached(path: pathlib.Path, _mtime: int) -> _Annotations:
    image_ids, people, problems = [], [], {}
    for name, element in iterate_lists(path):
        if name == "images":
            found = re.search(r"(\d{10})\.\w{3}$", str(element.get("file_name")) if isinstance(element, dict) else "")
            if not found:
                problems[len(image_ids)] = f": images has {element!r:.200}, expected a file_name that ends with ten digits"
            image_ids.append(int(found[1]) if found else 0)
        elif name == "annotations":
            try:
                people.append(_parse_person(element))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                problems[len(people)] = (" needs joint_cams (3 x 34 numbers), f, c (2 each) and istrains; problem: "
                                         f"{error!r:.200}")
                people.append((np.full((SKELETON.num_joints, 3), np.nan, np.float32), (np.nan,) * 4, True))
    if len(image_ids) != len(people) or not people:
        raise ValueError(f"{path} has {len(image_ids)} images and {len(people)} annotations; expected equal numbers")
    joints3d, intrinsics, is_train = zip(*people, strict=True)
    return _Annotations(np.array(image_ids), np.array(joints3d), np.array(intrinsics), np.array(is_train), problems)


def _parse_person(annotation: dict[str, Any]) -> tuple[np.ndarray, tuple[float, ...], bool]:
    with np.errstate(over="ignore"):  # of what is too large becomes infinite
        joints3d = np.asarray(annotation["joint_cams"], np.float64).astype(np.float32)
    if joints3d.shape != (3, SKELETON.num_joints):
        raise ValueError(f"joint_cams has shape {list(joints3d.shape)}")
    if not np.isfinite(joints3d).all():
        raise ValueError("joint_cams has nan or infinite numbers")
    (fx, fy), (cx, cy) = annotation["f"], annotation["c"]
    return joints3d.T, (float(fx), float(fy), float(cx), float(cy)), bool(annotation["istrains"])


def _read_camera_ids(raw_dir: pathlib.Path) -> np.ndarray:
    path = raw_dir / CAMERA_IDS
    stored = read_npy(path, HINT).reshape(-1)
    with np.errstate(invalid="ignore"):
        camera_ids = stored.astype(np.int64) if stored.dtype.kind in "iuf" else None
    if camera_ids is None or not (camera_ids == stored).all():
        raise ValueError(f"{path} has entries of type {stored.dtype} that are no whole numbers; expected the number of a "
                         "camera for each image")
    return camera_ids


def _camera_of(camera_ids: np.ndarray, image_id: int, raw_dir: pathlib.Path) -> int:
    if image_id >= len(camera_ids):
        raise ValueError(f"{raw_dir / CAMERA_IDS} has {len(camera_ids)} entries, {ANNOTATIONS} the image {image_id:010d}; "
                         "expected an entry for each image number from 0. Are both of the same release?")
    return int(camera_ids[image_id])


ADAPTER = Adapter(name="gpa", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.3, min_score=0.2, unmatched="drop"))
