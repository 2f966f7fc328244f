"""SAIL-VOS and SAIL-VOS 3D (Hu et al., CVPR 2019 and 2021): cut scenes of a video game, whose characters' bones are known.

    RAW_DIR/SEQUENCE/images/NNNNNN.bmp                            1280 x 800 px
    RAW_DIR/SEQUENCE/visible/NNNNNN.npy                           [800, 1280]: which object each pixel shows
    RAW_DIR/SEQUENCE/ID_Ped_NAME/NNNNNN.png                       all pixels of object ID, hidden ones, too: 0 or 255
    RAW_DIR/SEQUENCE/ID_Ped_NAME/NNNNNN_{2d,3d}.txt               bones: x, y, px; X, Y, Z, world, m
    RAW_DIR/SEQUENCE/camera/N.yaml                                K, Rt; in SAIL-VOS 3D only

The bones are not public. There is a train split only, of all sequences, as in the published training mix. Of each person
those frames are kept in which the person has moved by 100 mm, and of these, people who are not too small or too much hidden.
Boxes are those of the visible pixels; masks are of all people, so that no one is taken for background.

Without camera files, the camera is found for each person and frame from the bones in 3D and in the image, its field of view
included. World: z up, mm, its origin the mean position of the sequence's cameras: that of the game is kilometres away.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator

import numpy as np

from datasets.calibration import MIN_PAIRS, camera_from, fit_pose_and_focal_length, read_opencv_yaml, reprojection_error
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.readers.npy import read_npy
from datasets.readers.text import read_numbers
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("sailvos_26")
# The rows of the files, from 0, whose mean is the joint.
BONES = {
    "head_top": (341, 8), "head": (206, 128, 102), "neck": (61,), "spine": (152,), "pelvis": (307, 312),
    "nose": (167, 188, 191, 310), "right_eye": (194, 193, 236, 78), "left_eye": (227, 304, 58, 229),
    "right_ear": (37, 260, 195), "left_ear": (47, 148, 232), "right_shoulder": (216, 234), "left_shoulder": (255, 39),
    "right_elbow": (171,), "left_elbow": (330,), "right_wrist": (164, 309), "left_wrist": (108,), "right_hand": (323,),
    "left_hand": (160,), "right_hip": (45, 294), "left_hip": (144, 315), "right_knee": (215, 131, 253),
    "left_knee": (147, 342, 27), "right_ankle": (295,), "left_ankle": (85,), "right_toe": (130,), "left_toe": (11,)}
MIN_BONES = 1 + max(row for rows in BONES.values() for row in rows)
WIDTH, HEIGHT = 1280, 800  # px
MISSING_2D = (-1280.0, -800.0)  # what x or y is of bones without a place in the image; in 3D all coordinates are 0
MM_PER_METRE = 1000.0
FIELDS_OF_VIEW = (30.0, 100.0)  # horizontal, degrees: those that are searched
MAX_ERROR_PX = 5.0  # of the bones seen by the camera
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
MIN_MOVEMENT_MM = 100.0
MIN_JOINTS = 6
SPREAD_MM = (100.0, 3000.0)  # root mean square distance of a person's joints from their mean
MIN_BOX_SIDE = 50.0  # px, of the shorter side
MAX_OCCLUSION = 0.75  # hidden share of the person's pixels
SITE = "https://sailvos.web.illinois.edu"
HINT = f"Get SAIL-VOS or SAIL-VOS 3D by download_sailvos.sh from {SITE} and unpack it there."
POSE_HINT = (f"The human poses (sailvos_pose_training.tar, sailvos_pose_val.tar) are not public: ask the authors, {SITE}, and "
             "unpack the archives, and those in them, there.")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Person:
    """Someone in a frame that is kept. `folder` is that of the object; `joints3d_world` [26, 3] and `position`, mm, are in
    the world of the game, float64."""

    folder: pathlib.Path
    joints3d_world: np.ndarray
    intrinsics: np.ndarray
    rotation: np.ndarray
    position: np.ndarray


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The sequences with labelled people; see `Adapter.list_units`. The others are left out with a warning."""
    sequences = [path.parent for path in sorted(raw_dir.glob("*/images"))]
    if not sequences:
        raise FileNotFoundError(f"there is no folder {raw_dir / 'SEQUENCE' / 'images'}. {HINT}")
    labelled = [path.name for path in sequences if next(path.glob("*_Ped_*/*_3d.txt"), None)]
    if not labelled:
        raise FileNotFoundError(f"there is no file {raw_dir / 'SEQUENCE' / 'ID_Ped_NAME' / 'NNNNNN_3d.txt'}. {POSE_HINT}")
    if split != "train":
        return []
    if len(labelled) < len(sequences):
        logger.warning("sailvos: %d of %d sequences in %s have no bones of people, %s say, and are left out. %s",
                       len(sequences) - len(labelled), len(sequences), raw_dir,
                       next(path.name for path in sequences if path.name not in labelled), POSE_HINT)
    return labelled


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one sequence, frame by frame; a `ValueError` for a person or frame whose files are missing or wrong."""
    folders = [path for path in sorted((raw_dir / unit).glob("*_Ped_*")) if path.name.split("_")[0].isdecimal()]
    camera_files = {int(path.stem): path for path in (raw_dir / unit / "camera").glob("*.yaml") if path.stem.isdecimal()}
    people: dict[str, list[_Person]] = {}  # by the name of the frame
    for folder in folders:
        sampler = FrameSampler(MIN_MOVEMENT_MM, nan_unchanged=True)
        for path in sorted(folder.glob(6 * "[0-9]" + "_3d.txt")):
            name = path.name.removesuffix("_3d.txt")
            try:
                points3d, points2d = read_bones(folder, name)
                joints3d = mean_joints(points3d)
                is_pair = np.isfinite(points3d).all(axis=1) & np.isfinite(points2d).all(axis=1)
                if np.count_nonzero(is_pair) >= MIN_PAIRS and _is_person(joints3d) and sampler.keep(joints3d):
                    camera = _find_camera(points3d, points2d, camera_files, path, int(name))
                    people.setdefault(name, []).append(_Person(folder, joints3d, *camera))
            except (ValueError, FileNotFoundError) as error:
                yield ValueError(str(error))
    origin = np.mean([person.position for of_frame in people.values() for person in of_frame] or [np.zeros(3)], axis=0)
    object_ids = [_object_id(folder) for folder in folders]
    for name in sorted(people):
        # All people of a frame first: whoever crops them keeps one decoded image, and masks are images, too.
        yield from list(_load_frame(raw_dir, unit, name, people[name], object_ids, origin))


def _load_frame(raw_dir: pathlib.Path, sequence: str, name: str, people: list[_Person], object_ids: list[int],
                origin: np.ndarray) -> Iterator[RawExample | ValueError]:
    """The people of a frame who are to be seen."""
    try:
        visible = _read_visible(raw_dir / sequence / "visible" / f"{name}.npy")
    except (ValueError, FileNotFoundError) as error:
        yield ValueError(str(error))
        return
    foreground = np.isin(visible, object_ids)
    image = raw_dir / sequence / "images" / f"{name}.bmp"
    for person in people:
        is_own = visible == _object_id(person.folder)
        bbox = mask_box(is_own)
        if bbox is None or bbox[2:].min() <= MIN_BOX_SIDE:
            continue
        amodal_path = person.folder / f"{name}.png"
        try:
            num_pixels = np.count_nonzero(load_image(amodal_path)[..., 0] > 127)
            if not num_pixels:
                raise ValueError(f"{amodal_path} is empty, but visible/{name}.npy shows the person")
            camera = camera_from(person.intrinsics, person.rotation, position=person.position - origin, world_up=[0, 0, 1],
                                 where=f"{person.folder}, frame {name}")
        except ValueError as error:
            yield error
            continue
        if 1 - np.count_nonzero(is_own) / num_pixels <= MAX_OCCLUSION:
            yield RawExample(
                image=image, bbox=bbox, camera=camera, joints3d_world=person.joints3d_world - origin, mask=foreground,
                provenance={"source": image.relative_to(raw_dir).as_posix(), "sequence": sequence, "frame": int(name),
                            "person": person.folder.name})


def read_bones(folder: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A person's bones in a frame: [n, 3] world, mm, float64, and [n, 2] px; nan where missing.

    Raises: FileNotFoundError; ValueError naming the file.
    """
    points = []
    for suffix, num_columns in (("3d", 3), ("2d", 2)):
        path = folder / f"{name}_{suffix}.txt"
        rows = read_numbers(path, POSE_HINT)
        if len(rows) < MIN_BONES or {len(row) for row in rows} != {num_columns}:
            raise ValueError(f"{path}: {len(rows)} rows of {sorted({len(row) for row in rows})} numbers; expected "
                             f"{MIN_BONES} or more rows of {num_columns}")
        points.append(np.array(rows, np.float64))
        if not (is_finite := np.isfinite(points[-1]).all(axis=1)).all():
            raise ValueError(f"{path}: row {is_finite.argmin() + 1} has nan or infinite numbers")
    points3d, points2d = points
    if len(points3d) != len(points2d):
        raise ValueError(f"{path} has {len(points2d)} rows, {name}_3d.txt {len(points3d)}; expected the same")
    is_missing2d = (points2d == MISSING_2D).any(axis=1, keepdims=True)
    return (np.where((points3d == 0).all(axis=1, keepdims=True), np.nan, MM_PER_METRE * points3d),
            np.where(is_missing2d, np.nan, points2d))


def mean_joints(bones: np.ndarray) -> np.ndarray:
    """[26, 3]: for each joint the mean of those of its bones that are not nan; nan where all are."""
    of_joints = [bones[list(BONES[name])] for name in SKELETON.joint_names]
    known = [points[np.isfinite(points).all(axis=1)] for points in of_joints]
    return np.array([points.mean(axis=0) if len(points) else [np.nan] * 3 for points in known])


def _is_person(joints3d: np.ndarray) -> bool:
    known = joints3d[np.isfinite(joints3d).all(axis=1)]
    return len(known) >= MIN_JOINTS and SPREAD_MM[0] <= np.sqrt(known.var(axis=0).sum()) <= SPREAD_MM[1]


def _find_camera(points3d: np.ndarray, points2d: np.ndarray, files: dict[int, pathlib.Path], path: pathlib.Path,
                 frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intrinsics, rotation and position, mm: of the frame's file, or, where the sequence has none, found from the bones."""
    if not files:
        return fit_pose_and_focal_length(points3d, points2d, (WIDTH, HEIGHT), FIELDS_OF_VIEW, MAX_ERROR_PX, str(path))
    if frame not in files:
        raise ValueError(f"{next(iter(files.values())).parent} has no file of frame {frame}. {HINT}")
    camera = read_camera(files[frame])
    error = reprojection_error(points3d, points2d, *camera)
    if not error <= MAX_ERROR_PX:
        raise ValueError(f"{files[frame]}: this camera sees the bones of {path} {error:.3g} px from where {frame:06d}_2d.txt "
                         f"has them; expected {MAX_ERROR_PX:.3g} or less. Are they of the same release of the data?")
    return camera


def read_camera(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intrinsics, rotation and position, mm, from a camera file: its axes are OpenGL's (y up, looking along -z), and its
    principal point counts from the middle of the image. Raises: ValueError naming the file."""
    content = read_opencv_yaml(path, HINT)
    try:
        intrinsics, extrinsics = (np.array(content[key], np.float64).reshape(3, n) for key, n in (("K", 3), ("Rt", 4)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected K, 3 x 3, and Rt, 3 x 4; problem: {error!r:.200}") from error
    intrinsics[:2, 2] += WIDTH / 2, HEIGHT / 2
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    return intrinsics, OPENGL_TO_OPENCV @ rotation, -MM_PER_METRE * rotation.T @ translation


def _read_visible(path: pathlib.Path) -> np.ndarray:
    """[800, 1280] numbers of objects. Raises: FileNotFoundError; ValueError naming the file."""
    visible = read_npy(path, HINT)
    if visible.shape != (HEIGHT, WIDTH) or visible.dtype.kind not in "iuf":
        raise ValueError(f"{path} has shape {list(visible.shape)} and type {visible.dtype}; expected numbers, "
                         f"[{HEIGHT}, {WIDTH}]")
    return np.array(visible)


def _object_id(folder: pathlib.Path) -> int:
    return int(folder.name.split("_")[0])


ADAPTER = Adapter(name="sailvos", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.2, unmatched="drop", max_area_ratio=2.0))
