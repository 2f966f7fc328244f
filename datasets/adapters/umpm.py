"""UMPM (van der Aa et al., ICCV workshops 2011): one to four people in a room, four cameras; two of them at most have labels.

    RAW_DIR/SEQUENCE.json                                    names the calibration
    RAW_DIR/Video/SEQUENCE_{f,s,r,l}.avi                     50 frames per second; distributed as .avi.xz
    RAW_DIR/Groundtruth/SEQUENCE_vm.c3d                      virtual markers at 100 Hz: 15 joints, then 15 of a second person
    RAW_DIR/Calib/CALIBRATION_{f,s,r,l}.ini                  numbers: intrinsics, lens, rotation vector, translation

There is one split, train. A frame of a person is kept if the pose, wherever in the room, differs from all of the last kept.
Joints at the ends of bones of an odd length are left out, see `drop_noisy_joints`. World: z up, mm.
"""

import json
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import is_in_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, path_inside
from datasets.readers.c3d import read_c3d
from datasets.readers.text import read_numbers, read_text
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("umpm_15")  # in the order of the files
HINT = ("Get videos, ground truth, calibrations and the JSON files of the sequences from "
        "https://www2.projects.science.uu.nl/umpm/ (registration) and unpack them there.")
DISCARDED = ("p2_free_2",)  # its JSON file is broken and its calibration not known
CALIBRATIONS = {"p2_free_1": "calib_n27", "p3_circle_2": "calib_l06"}  # of the sequences whose JSON files are broken
C3D_RATE, C3D_STEP = 100.0, 2  # Hz; C3D frames per frame of the video
MIN_MOVEMENT_MM, NUM_REMEMBERED_POSES = 100.0, 300
MIN_JOINTS = 4  # in the image
BOX_SCALE = 1.15  # of the box around the joints
BONE_LENGTH_RATIO, MAX_BONE_DIFFERENCE_MM = (0.5, 1.25), 80.0
_VIDEO_NAME = re.compile(r"(.+)_([fsrl])\.avi(?:\.xz)?")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, str]]:
    """The videos, unpacked or not; see `Adapter.list_units`."""
    if split != "train":
        return []
    videos = {match.groups() for path in (raw_dir / "Video").glob("*.avi*") if (match := _VIDEO_NAME.fullmatch(path.name))}
    if not videos:
        raise FileNotFoundError(f"no videos in {raw_dir / 'Video'}. {HINT}")
    return [{"sequence": sequence, "camera": camera} for sequence, camera in sorted(videos) if sequence not in DISCARDED]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str]) -> Iterator[RawExample]:
    """The people of one video in the frames in which they are in view and have moved."""
    sequence, camera_id = unit["sequence"], unit["camera"]
    video = raw_dir / "Video" / f"{sequence}_{camera_id}.avi"
    packed = video.with_name(f"{video.name}.xz")
    if packed.is_file() and not video.is_file():
        raise FileNotFoundError(f"{packed} is still packed: frames are read from a file that can be searched. Unpack it by: "
                                f"xz -dk '{packed}'")
    camera = read_camera(path_inside(raw_dir / "Calib", f"{_calibration_name(raw_dir, sequence)}_{camera_id}.ini",
                                     f"{raw_dir / sequence}.json: calib"))
    poses = drop_noisy_joints(read_poses(raw_dir / "Groundtruth" / f"{sequence}_vm.c3d"))
    poses = poses[:num_frames(video, HINT)]  # either can be the longer one
    _, image = next(read_frames(video, [0]))
    joints2d = image_points(poses, camera)
    num_visible = np.count_nonzero(is_in_image(joints2d, image.shape[1::-1]), axis=2)
    if not num_visible.any():
        raise ValueError(f"{video}: nobody is ever in view; is the calibration of {sequence} another one, or the ground truth?")
    kept: dict[int, list[int]] = {}  # people by frame
    for person in range(poses.shape[1]):
        sampler = FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED_POSES, newly_valid=True, nan_unchanged=True)
        for frame in np.flatnonzero(num_visible[:, person] >= MIN_JOINTS).tolist():
            pose = poses[frame, person]
            if sampler.keep(pose - np.nanmean(pose, axis=0)):
                kept.setdefault(frame, []).append(person)
    for frame, image in read_frames(video, sorted(kept)):
        for person in kept[frame]:
            yield RawExample(
                image=image, bbox=joints_box(joints2d[frame, person], BOX_SCALE), camera=camera,
                joints3d_world=poses[frame, person],
                provenance={"source": video.relative_to(raw_dir).as_posix(), "sequence": sequence, "camera": camera_id,
                            "frame": frame, "person": person})


def read_camera(path: pathlib.Path) -> Camera:
    """A camera from its .ini file. Raises: FileNotFoundError; ValueError naming the file."""
    rows = read_numbers(path, HINT)[:6]
    if [len(row) for row in rows] != [3, 3, 3, 4, 3, 3]:
        raise ValueError(f"{path}: its lines have {[len(row) for row in rows]} numbers; expected 3, 3, 3 of the intrinsics, 4 "
                         "of the lens, 3 of the rotation and 3 of the translation")
    return camera_from(rows[:3], rows[4], translation=rows[5], distortion=rows[3], world_up=[0, 0, 1], where=str(path))


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, num_people, 15, 3] mm, world; nan where a joint is missing. The frames are those of the videos.

    Raises: FileNotFoundError; ValueError naming file and what is wrong.
    """
    c3d = read_c3d(path, HINT)
    if c3d.points.shape[1] not in (15, 30) or abs(c3d.rate - C3D_RATE) > 1:
        raise ValueError(f"{path} has {c3d.points.shape[1]} points at {c3d.rate:g} Hz; expected 15 for each of one or two "
                         f"people at {C3D_RATE:g} Hz")
    return c3d.points[::C3D_STEP].reshape(-1, c3d.points.shape[1] // 15, 15, 3)


def drop_noisy_joints(poses: np.ndarray) -> np.ndarray:
    """Sets both ends of a bone to nan where its length is out of range of its mean over all poses, and far from it.

    Args:
        poses: [..., 15, 3] mm; nan where a joint is missing.

    Returns: the same shape.
    """
    first, second = np.array(SKELETON.edges).T
    length = np.linalg.norm(poses[..., first, :] - poses[..., second, :], axis=-1)
    flat = length.reshape(-1, len(first))
    mean = np.nansum(flat, axis=0) / np.maximum(np.count_nonzero(np.isfinite(flat), axis=0), 1)
    low, high = BONE_LENGTH_RATIO
    is_noisy = ((length < low * mean) | (length > high * mean)) & (np.abs(length - mean) > MAX_BONE_DIFFERENCE_MM)
    *pose, bone = np.nonzero(is_noisy)
    poses = poses.copy()
    poses[*pose, first[bone]] = poses[*pose, second[bone]] = np.nan
    return poses


def _calibration_name(raw_dir: pathlib.Path, sequence: str) -> str:
    """Raises: FileNotFoundError; ValueError naming the file if it has none."""
    if sequence in CALIBRATIONS:
        return CALIBRATIONS[sequence]
    path = raw_dir / f"{sequence}.json"
    text = re.sub(r",\s*}\s*$", "}", read_text(path, HINT))  # the authors put a comma behind the last entry
    try:
        return json.loads(text)["calib"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON table with an entry calib ({error!r})") from error


ADAPTER = Adapter(name="umpm", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5, min_score=0.2, unmatched="drop"))
