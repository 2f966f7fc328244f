"""SPEC-SYN (Kocabas et al., ICCV 2021): rendered people in panoramas, seen by cameras of all pitches and focal lengths.

    RAW_DIR/spec-syn/annotations/{train,test}.npz       one row per person
    RAW_DIR/spec-syn/IMGNAME                            as the rows name them

Labels are the 24 joints of the neutral SMPL model, whose file the user has to have (--body-models), by `pose` and `shape`.
Where a person stands before the camera is not stored: it is found from the joints of the model and their places in the
image, `openpose_gt`. The person is then scaled about the camera, which changes nothing in the image, until arms and legs are
of the size that `S` gives. People who are small in the image are left out; frames are not sampled. There are no masks.

Boxes are those of the projected joints, enlarged; as people are often cut off, they reach beyond the image. The world has the
camera at its origin, its y axis points down; mm.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.body_models import BodyModel, find_body_model, load_body_model
from datasets.calibration import camera_from, fit_pose
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import LIMB_JOINTS, joints_box, path_inside
from datasets.readers.files import broken_file_errors
from posepile.geometry.camera import project
from posepile.geometry.skeleton import load_skeleton

SKELETON, OPENPOSE = load_skeleton("smpl_24"), load_skeleton("body_25")
# By these a person's place is found. Surface and skeleton joints of the same name are up to some centimetres apart.
FITTED_JOINTS = ("neck", "pelvis", *LIMB_JOINTS)
FITTED_IN_SMPL, FITTED_IN_OPENPOSE = ([skeleton.joint_names.index(name) for name in FITTED_JOINTS]
                                      for skeleton in (SKELETON, OPENPOSE))
MAX_ERROR = 0.1  # of the longer side of the box around them in the image
# The first rows of S, in the order of the data set LSP. The size of a person is judged by these alone: the other rows are of
# the head, and some are of no joint.
LIMBS_OF_S = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
              "right_shoulder", "left_shoulder", "left_elbow", "left_wrist")
LIMBS = [SKELETON.joint_names.index(name) for name in LIMBS_OF_S]
# Key -> shape of a row.
COLUMNS = {"pose": (72,), "shape": (10,), "openpose_gt": (25, 3), "S": (24, 4), "cam_int": (3, 3), "cam_rotmat": (3, 3)}
MM_PER_METRE = 1000.0
BOX_SCALE = 1.15
MIN_BOX_SIDE = 100.0  # px, of the shorter side
IMAGES_PER_UNIT = 1000
SPLITS = ("train", "test")
HINT = "Get spec-syn.zip from https://spec.is.tue.mpg.de (registration) and unpack it there."


def list_units(raw_dir: pathlib.Path, split: str, body_models: pathlib.Path | None = None) -> list[dict[str, Any]]:
    """Runs of a split's images, in the order of their names; see `Adapter.list_units`."""
    paths = {name: _annotation_path(raw_dir, name) for name in SPLITS}
    if not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(f"neither {' nor '.join(map(str, paths.values()))} is there. {HINT}")
    find_body_model(body_models, "smpl", "neutral")
    if split not in SPLITS or not paths[split].is_file():
        return []
    num_images = len(np.unique(_read_column(paths[split], "imgname", ())))
    return [{"split": split, "first": first} for first in range(0, num_images, IMAGES_PER_UNIT)]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any],
              body_models: pathlib.Path | None = None) -> Iterator[RawExample | ValueError]:
    """The people of the unit's images, image by image; a `ValueError` for one whose labels do not fit together."""
    model = load_body_model(find_body_model(body_models, "smpl", "neutral"))
    if model.num_joints != SKELETON.num_joints:
        raise ValueError(f"{model.path} has {model.num_joints} joints, expected the {SKELETON.num_joints} of SMPL")
    path = _annotation_path(raw_dir, unit["split"])
    names = _read_column(path, "imgname", ()).astype(str)
    _, image_of_row = np.unique(names, return_inverse=True)
    rows = np.argsort(image_of_row, kind="stable")
    rows = rows[(unit["first"] <= image_of_row[rows]) & (image_of_row[rows] < unit["first"] + IMAGES_PER_UNIT)]
    columns = {key: _read_column(path, key, shape, len(names))[rows] for key, shape in COLUMNS.items()}
    for i, row in enumerate(rows.tolist()):
        where = f"{path}: row {row}"
        try:
            image = path_inside(raw_dir / "spec-syn", str(names[row]), f"{where}: imgname")
            person = {key: column[i] for key, column in columns.items()}
            camera = camera_from(person["cam_int"], person["cam_rotmat"], position=np.zeros(3), world_up=[0, -1, 0],
                                 where=where)
            joints3d_camera = locate_person(model, person, where)
        except ValueError as error:
            yield error
            continue
        bbox = joints_box(project(joints3d_camera, camera.intrinsics), BOX_SCALE)
        if bbox is not None and bbox[2:].min() >= MIN_BOX_SIDE:
            yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=joints3d_camera @ person["cam_rotmat"],
                             provenance={"source": image.relative_to(raw_dir).as_posix(), "person": row})


def locate_person(model: BodyModel, person: dict[str, np.ndarray], where: str) -> np.ndarray:
    """The joints [24, 3] of a person in the camera's frame, mm; see the module.

    Args:
        model: the neutral SMPL model.
        person: `pose`, `shape`, `openpose_gt`, `S` and `cam_int` of a row.
        where: file and row, for messages.

    Raises: ValueError, beginning with `where`.
    """
    try:
        joints = model.joints(person["pose"][None], person["shape"], np.zeros(3))[0]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    openpose = person["openpose_gt"][FITTED_IN_OPENPOSE]
    is_known = np.isfinite(openpose).all(axis=1) & (openpose[:, 2] > 0)
    points2d = np.where(is_known[:, None], openpose[:, :2], np.nan)
    extent = np.ptp(points2d[is_known], axis=0).max() if is_known.any() else 0
    rotation, position = fit_pose(joints[FITTED_IN_SMPL], points2d, person["cam_int"], MAX_ERROR * extent,
                                  f"{where}: pose and openpose_gt")
    size_mm = MM_PER_METRE * _size(person["S"][:len(LIMBS), :3])
    if not 0 < size_mm < np.inf:
        raise ValueError(f"{where}: S has no {len(LIMBS)} joints apart from each other in its first rows")
    return size_mm / _size(joints[LIMBS]) * (joints - position) @ rotation.T


def _size(points: np.ndarray) -> float:
    """Root mean square distance of points [n, 3] from their mean."""
    return float(np.sqrt(points.var(axis=0).sum()))


def _annotation_path(raw_dir: pathlib.Path, split: str) -> pathlib.Path:
    return raw_dir / "spec-syn" / "annotations" / f"{split}.npz"


def _read_column(path: pathlib.Path, key: str, shape: tuple[int, ...], num_rows: int | None = None) -> np.ndarray:
    """[num_rows, *shape], any number of rows for None; numbers as float64. Raises: ValueError naming file and key."""
    with broken_file_errors(path, f"a .npz file with the array {key}"), np.load(path, allow_pickle=False) as archive:
        column = archive[key]
        if column.shape[1:] != shape or num_rows not in (None, len(column)):
            rows = "people" if num_rows is None else num_rows
            raise ValueError(f"it has shape {list(column.shape)}; expected [{', '.join(map(str, (rows, *shape)))}]")
        return column.astype(np.float64) if shape else column


ADAPTER = Adapter(name="spec", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.3, min_score=0.2, unmatched="drop"), uses_body_models=True)
