"""BML-MoVi (Ghorbani et al., PLOS ONE 2021): 90 people performing everyday actions and sports, optical motion capture.

    RAW_DIR/[FOLDER/]{F,S1,S2}_{PG1,PG2}_Subject_{id}_L.avi           videos at 30 Hz
    RAW_DIR/[FOLDER/]F_v3d_Subject_{id}.mat, S_v3d_Subject_{id}.mat   markers at 120 Hz, MATLAB 5; FOLDER: F_Subjects_1_45, say
    RAW_DIR/[Calib/]cameraParams_{PG1,PG2}.npz, Extrinsics_{PG1,PG2}.npz

Of the rounds F has all 87 markers and joints, S1 and S2 have 15 of them, the others are nan; I1 and I2 have none and are not
read, nor are the videos of CP1 and CP2, phones without calibration that are not synchronised. Not everyone has all files:
videos without labels are left out. Everything is for training. World: z up, mm.
"""

import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import clip_to_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import find_nested, joints_box, mat_list, read_mat
from datasets.readers.files import broken_file_errors, require_file
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("bml_movi_87")  # in the order of the files of round F
HINT = ("Get the videos of the cameras PG1 and PG2, the folders F_Subjects_1_45, F_Subjects_46_90 and S, and the camera "
        "parameters from https://www.biomotionlab.ca/movi (doi 10.5683/SP2/JRHDRN) and unpack them there.")
# Which of the 17 points of the files of the rounds S1 and S2 are used, and what they are.
FEW_MARKERS = {
    0: "left_front_head", 1: "left_back_head", 2: "left_wrist_thumb_side", 3: "left_wrist_pinkie_side", 4: "left_ankle_marker",
    6: "right_front_head", 7: "right_back_head", 8: "right_wrist_thumb_side", 9: "right_wrist_pinkie_side",
    10: "right_ankle_marker", 12: "head", 13: "left_ankle", 14: "left_wrist", 15: "right_ankle", 16: "right_wrist"}
NUM_FEW_MARKERS = 17
MOVES = {"F": 0, "S1": 0, "S2": 1}  # where the rounds are in the field `move`
ROWS_PER_FRAME = 4
MIN_MOVEMENT_MM = 100.0
NUM_REMEMBERED = 500  # poses
MAX_ARRAY_BYTES = 10_000  # of a matrix of a camera
BOX_SCALE = 1.05  # of the box around the markers
_VIDEO_NAME = re.compile(r"(F|S1|S2)_(PG[12])_Subject_(\d{1,2})_L\.avi")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The videos and their labels; see `Adapter.list_units`. Videos without labels are left out with a warning."""
    videos = {match.groups(): path.relative_to(raw_dir).as_posix() for path in find_nested(raw_dir, "*.avi")
              if (match := _VIDEO_NAME.fullmatch(path.name))}
    labels = {path.name: path.relative_to(raw_dir).as_posix() for path in find_nested(raw_dir, "*_v3d_Subject_*.mat")}
    units, missing = [], []
    for round_name, camera, subject in sorted(videos, key=lambda key: (int(key[2]), key)):
        video, name = videos[round_name, camera, subject], f"{round_name[0]}_v3d_Subject_{subject}.mat"
        if name in labels:
            units.append({"subject": int(subject), "round": round_name, "camera": camera, "video": video,
                          "labels": labels[name]})
        else:
            missing.append(video)
    if not units:
        raise FileNotFoundError(f"no videos F_PG1_Subject_1_L.avi and so on in {raw_dir} and its folders, with labels "
                                f"F_v3d_Subject_1.mat and so on. {HINT}")
    if missing:
        logger.warning("bml_movi: no labels of %s in %s; they are left out. %s", ", ".join(missing), raw_dir, HINT)
    return units if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample]:
    """The frames of one video in which the person is in view, and somewhere new."""
    video = raw_dir / unit["video"]
    camera = read_camera(raw_dir, unit["camera"])
    poses = read_poses(raw_dir / unit["labels"], unit["subject"], unit["round"])[::ROWS_PER_FRAME]
    sampler = FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED, newly_valid=True, nan_unchanged=True)
    frames = [i for i in range(min(len(poses), num_frames(video, HINT))) if sampler.keep(poses[i])]
    for i, image in read_frames(video, frames):
        bbox = joints_box(image_points(poses[i], camera), BOX_SCALE)
        if bbox is None or clip_to_image(bbox, image.shape[1::-1]) is None:
            continue
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=poses[i], provenance={
            "source": unit["video"], "subject": f"Subject_{unit['subject']}",
            "sequence": f"{unit['round']}_Subject_{unit['subject']}", "camera": unit["camera"], "frame": i})


def read_camera(raw_dir: pathlib.Path, name: str) -> Camera:
    """A camera from MATLAB's matrices, which are transposed. Raises: FileNotFoundError; ValueError naming the file."""
    intrinsics, distortion = _read_npz(raw_dir, f"cameraParams_{name}.npz", "IntrinsicMatrix", "RadialDistortion")
    rotation, translation = _read_npz(raw_dir, f"Extrinsics_{name}.npz", "rotationMatrix", "translationVector")
    intrinsics = np.array(intrinsics.T, np.float64)
    if intrinsics.shape != (3, 3) or np.size(distortion) != 2:
        raise ValueError(f"cameraParams_{name}.npz: IntrinsicMatrix has shape {list(intrinsics.shape)} and RadialDistortion "
                         f"{np.size(distortion)} numbers; expected [3, 3] and 2")
    intrinsics[:2, 2] -= 1  # the first pixel is (1, 1) in MATLAB; the published training mix is off by that
    return camera_from(intrinsics, rotation.T, translation, distortion=[*np.ravel(distortion), 0, 0], world_up=[0, 0, 1],
                       where=f"{name}: cameraParams_{name}.npz and Extrinsics_{name}.npz")


def read_poses(path: pathlib.Path, subject: int, round_name: str) -> np.ndarray:
    """[num_rows, 87, 3] mm, world, at 120 Hz; nan where missing. Raises: FileNotFoundError; ValueError naming the field."""
    variable = f"Subject_{subject}_{round_name[0]}"
    moves = mat_list(read_mat(path, variable, HINT), "move")
    where = f"{path}: {variable}.move({MOVES[round_name] + 1}).markerLocation"
    if len(moves) <= MOVES[round_name]:
        raise ValueError(f"{where} is missing, there are {len(moves)} moves")
    points = np.asarray(getattr(moves[MOVES[round_name]], "markerLocation", ()))
    num_points = SKELETON.num_joints if round_name == "F" else NUM_FEW_MARKERS
    if points.ndim != 3 or points.shape[1:] != (num_points, 3) or points.dtype.kind not in "fiu":
        raise ValueError(f"{where} has shape {list(points.shape)} and type {points.dtype}; expected [rows, {num_points}, 3]")
    # Missing points are zero. (Not each small or negative coordinate: the origin is inside of the room.)
    points = np.where((points != 0).any(axis=-1, keepdims=True), points, np.nan)
    if round_name == "F":
        return points
    poses = np.full((len(points), SKELETON.num_joints, 3), np.nan)
    poses[:, [SKELETON.joint_names.index(name) for name in FEW_MARKERS.values()]] = points[:, list(FEW_MARKERS)]
    return poses


def _read_npz(raw_dir: pathlib.Path, name: str, *keys: str) -> list[np.ndarray]:
    path = require_file(next(iter(find_nested(raw_dir, name)), raw_dir / "Calib" / name), HINT)
    with broken_file_errors(path, f"an npz file with {' and '.join(keys)}"), np.load(path, allow_pickle=False) as content:
        for key in keys:
            if (size := content.zip.getinfo(f"{key}.npy").file_size) > MAX_ARRAY_BYTES:
                raise ValueError(f"{key} unpacks to {size} bytes; expected a small matrix")
        return [content[key] for key in keys]


ADAPTER = Adapter(name="bml_movi", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.0))
