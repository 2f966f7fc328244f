"""Human3.6M (Ionescu et al., TPAMI 2014): eleven actors in a studio, four cameras at 50 Hz, marker-based 3D labels.

    RAW_DIR/S{n}/Videos/{sequence}.{camera}.mp4
    RAW_DIR/S{n}/MyPoseFeatures/D3_Positions/{sequence}.cdf               [1, frames, 96]: 32 joints, world, mm
    RAW_DIR/S{n}/MySegmentsMat/ground_truth_bb/{sequence}.{camera}.mat    person boxes, one mask per frame, MATLAB 7.3
    RAW_DIR/[Release-v1.2/]metadata.xml                                   cameras

n is 1, 5, 6, 7, 8 in the train split and 9, 11 in the test split; other actors are not distributed with labels. A sequence
is an action and often a number, "Sitting 2", say, which are not the same for all actors. World: z up, mm.
"""

import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from datasets.calibration import camera_from
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import first_existing
from datasets.readers.cdf import read_cdf
from datasets.readers.hdf5 import open_hdf5, read_array, read_cell
from datasets.readers.text import read_text
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera, project, undistort_pixels
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("h36m_25")
SPLIT_SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
CAMERAS = ("54138969", "55011271", "58860488", "60457274")  # in the order of the metadata
HINT = ("Get videos, D3 positions and ground-truth bounding boxes of all subjects, and the code with its metadata.xml, from "
        "http://vision.imar.ro/human3.6m (registration) and unpack them there.")
# Of the 32 joints in the files the others are copies; in the order of SKELETON.
JOINTS = [*range(1, 11), 12, 13, 14, 15, 17, 18, 19, 21, 22, 25, 26, 27, 29, 30, 0]
PELVIS = SKELETON.joint_names.index("pelvis")
# Movement is judged by the joints of the evaluation protocol: thumbs, fingers and toes move all the time.
SAMPLED_JOINTS = [SKELETON.joint_names.index(name) for name in load_skeleton("h36m_17").joint_names]
TRAIN_STEP, TEST_STEP = 5, 64  # frames; every 64th is the usual evaluation protocol
MIN_MOVEMENT_MM = 100.0
MAX_SURPLUS_FRAMES = 50  # that video, poses or boxes may have more than the others; they do differ by a few
# Labels and boxes of these were recorded 200 mm off along the world's x axis.
SHIFTED_SEQUENCES = ((9, "Greeting"), (9, "SittingDown 1"), (9, "Waiting 1"))
SHIFT_MM = np.array([-200.0, 0.0, 0.0])
ACTIVITIES = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}  # what S1 calls them: what all others do
_VIDEO_NAME = re.compile(rf"([A-Za-z]+(?: \d+)?)\.({'|'.join(CAMERAS)})\.mp4")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The sequences, once for each camera; see `Adapter.list_units`. Actors that are missing are left out with a warning."""
    subjects = SPLIT_SUBJECTS.get(split, ())
    units = [{"subject": subject, "sequence": match[1], "camera": match[2]} for subject in subjects
             for path in sorted((raw_dir / f"S{subject}" / "Videos").glob("*.mp4"))
             if (match := _VIDEO_NAME.fullmatch(path.name))]
    missing = [f"S{subject}" for subject in subjects if not any(unit["subject"] == subject for unit in units)]
    if subjects and not units:
        raise FileNotFoundError(f"no videos in {raw_dir}, folders {', '.join(f'{name}/Videos' for name in missing)}. {HINT}")
    if missing:
        logger.warning("h36m, %s: no videos of %s in %s; they are left out. %s", split, ", ".join(missing), raw_dir, HINT)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The frames of one video that are kept; a `ValueError` for one whose box is empty."""
    subject, sequence, camera_id = unit["subject"], unit["sequence"], unit["camera"]
    folder = raw_dir / f"S{subject}"
    camera = read_camera(raw_dir, subject, camera_id)
    poses = read_poses(folder / "MyPoseFeatures" / "D3_Positions" / f"{sequence}.cdf")
    video = folder / "Videos" / f"{sequence}.{camera_id}.mp4"
    boxes_path = folder / "MySegmentsMat" / "ground_truth_bb" / f"{sequence}.{camera_id}.mat"
    with open_hdf5(boxes_path, HINT) as file:
        references = read_array(file["Masks"]).ravel()
        counts = {"video": num_frames(video, HINT), "poses": len(poses), "boxes": len(references)}
        count = min(counts.values())
        if max(counts.values()) > count + MAX_SURPLUS_FRAMES:
            raise ValueError(f"{video}: {', '.join(f'{n} frames of {name}' for name, n in counts.items())}; expected the same, "
                             f"up to {MAX_SURPLUS_FRAMES}. Is one of the files cut short, or of another sequence?")
        frames = _select_frames(poses[:count], subject)
        boxes = [mask_box(*read_cell(file, references[i:i + 1])) for i in frames]
    shift = SHIFT_MM if (subject, sequence) in SHIFTED_SEQUENCES else np.zeros(3)
    activity = sequence.split(" ")[0]
    for (i, image), box in zip(read_frames(video, frames), boxes, strict=True):
        if box is None:
            yield ValueError(f"{boxes_path}: the mask of frame {i} is empty, expected the person's box in it")
            continue
        yield RawExample(
            image=image, bbox=_shift_box(box, poses[i, PELVIS], camera, shift) if shift.any() else box, camera=camera,
            joints3d_world=poses[i] + shift,
            provenance={"source": video.relative_to(raw_dir).as_posix(), "subject": f"S{subject}",
                        "sequence": f"S{subject}/{sequence}", "activity": ACTIVITIES.get(activity, activity),
                        "camera": camera_id, "frame": i})


def read_camera(raw_dir: pathlib.Path, subject: int, camera_id: str) -> Camera:
    """One camera as it stood when an actor was recorded, from metadata.xml.

    Its element w0 has the numbers [4 cameras, 11 actors, 6]: Euler angles a, b, c of the rotation Rx(a) Ry(b) Rz(c) from
    world to camera, and the position, mm; then [4 cameras, 9]: fx, fy, cx, cy, k1, k2, k3, p1, p2.

    Raises: FileNotFoundError; ValueError naming the file if it has no such numbers.
    """
    path = first_existing(raw_dir / "metadata.xml", raw_dir / "Release-v1.2" / "metadata.xml")
    found = re.search(r"<w0>\s*\[([^\]<]*)\]\s*</w0>", read_text(path, HINT))
    try:
        numbers = np.array(found[1].replace(",", " ").split() if found else [], np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: element w0: {error}") from error
    if numbers.size != 300:
        raise ValueError(f"{path}: element w0 has {numbers.size} numbers in brackets, expected the 300 of the cameras")
    index = CAMERAS.index(camera_id)
    extrinsics = numbers[:264].reshape(4, 11, 6)[index, subject - 1]
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = numbers[264:].reshape(4, 9)[index]
    return camera_from([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], Rotation.from_euler("XYZ", extrinsics[:3]).as_matrix(),
                       position=extrinsics[3:], distortion=[k1, k2, p1, p2, k3], world_up=[0, 0, 1],
                       where=f"{path}: w0, camera {camera_id}, S{subject}")


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, 25, 3] mm, world. Raises: FileNotFoundError; ValueError naming file and frame."""
    poses = read_cdf(path, "Pose", HINT)
    if poses.ndim != 3 or poses.shape[0] != 1 or poses.shape[2] != 96:
        raise ValueError(f"{path}: Pose has shape {list(poses.shape)}, expected [1, frames, 96]")
    poses = poses.reshape(-1, 32, 3)[:, JOINTS].astype(np.float64)
    if not (is_finite := np.isfinite(poses).all(axis=(1, 2))).all():
        raise ValueError(f"{path}: Pose has nan or infinite coordinates, first in frame {is_finite.argmin()}")
    return poses


def _select_frames(poses: np.ndarray, subject: int) -> list[int]:
    if subject in SPLIT_SUBJECTS["test"]:
        return list(range(0, len(poses), TEST_STEP))
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    return [i for i in range(0, len(poses), TRAIN_STEP) if sampler.keep(poses[i, SAMPLED_JOINTS])]


def _shift_box(box: np.ndarray, pelvis_world: np.ndarray, camera: Camera, shift: np.ndarray) -> np.ndarray:
    """[4]: where a box goes that is moved by `shift` [3], mm, in the world, at the depth of the pelvis."""
    rotation = camera.world_to_camera[:3, :3]
    depth = (rotation @ pelvis_world + camera.world_to_camera[:3, 3])[2]
    corners = undistort_pixels(np.stack([box[:2], box[:2] + box[2:]]), camera.intrinsics, camera.distortion)
    moved = depth * np.column_stack([corners, np.ones(2)]) + rotation @ shift
    low, high = project(moved, camera.intrinsics, camera.distortion)
    return np.concatenate([low, high - low])


ADAPTER = Adapter(name="h36m", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
