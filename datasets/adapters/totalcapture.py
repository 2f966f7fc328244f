"""TotalCapture (Trumble et al., BMVC 2017): five actors in a studio, eight cameras at 60 Hz, marker-based 3D labels.

    RAW_DIR/calibration.cal
    RAW_DIR/video/s{n}/.../TC_S{n}_{sequence}_cam{1..8}.mp4
    RAW_DIR/mattes/s{n}/.../TC_S{n}_{sequence}_cam{1..8}.mp4      the person is white
    RAW_DIR/vicon/S{n}/{sequence}/gt_skel_gbl_pos.txt             21 joints a line, inches, one line per frame

Files are found by name, as the depth of folders varies between copies: mattes are those below a folder named so. A sequence is
an action and a number. The usual protocol tests on three of them, with all actors, and trains on the others of S1 to S3; what
S4 and S5 did beside is not used. Both splits are sampled by movement. World: y up, mm.

Videos, mattes and labels differ in length: the shortest counts. Some recordings are off in time or place by a bit, as the
authors say; nothing is known to put that right.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import foreground_parts, hull, intersect, is_in_image
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import find_nested, joints_box
from datasets.readers.text import read_numbers, read_text
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("totalcapture_21")
TEST_SEQUENCES = ("walking2", "acting3", "freestyle3")
TRAIN_SUBJECTS = ("S1", "S2", "S3")
HINT = ("Get videos, mattes, Vicon positions and calibration of all subjects from https://cvssp.org/data/totalcapture "
        "(registration) and unpack them there.")
JOINT_NAMES = {
    "Hips": "pelvis", "Spine": "spine", "Spine1": "spine1", "Spine2": "spine2", "Spine3": "spine3", "Neck": "neck",
    "Head": "head",
    **{f"{side.title()}{name}": f"{side}_{joint}" for side in ("right", "left") for name, joint in (
        ("Shoulder", "clavicle"), ("Arm", "shoulder"), ("ForeArm", "elbow"), ("Hand", "wrist"),
        ("UpLeg", "hip"), ("Leg", "knee"), ("Foot", "ankle"))}}
MM_PER_INCH, MM_PER_METRE = 25.4, 1000.0
MIN_MOVEMENT_MM = 100.0
MIN_VISIBLE_JOINTS = 6
BOX_SCALE = 1.25  # of the box around the joints, before it is cut down to the matte
MIN_FOREGROUND = 128  # of a matte's 0..255
MAX_DEPTH = 5  # of folders within the raw folder
_VIDEO_NAME = re.compile(r"TC_(S[1-5])_([a-z]+\d)_cam([1-8])\.mp4")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The videos with the paths of their matte and labels, None if missing; see `Adapter.list_units`."""
    videos, mattes = {}, {}
    for path in find_nested(raw_dir, "TC_S*_cam*.mp4", MAX_DEPTH):
        relative = path.relative_to(raw_dir)
        if match := _VIDEO_NAME.fullmatch(path.name):
            (mattes if "mattes" in relative.parts else videos)[match.groups()] = relative.as_posix()
    if not videos:
        raise FileNotFoundError(f"no videos TC_S*_cam*.mp4 below {raw_dir / 'video'}. {HINT}")
    poses = {(path.parts[-3].upper(), path.parts[-2]): path.relative_to(raw_dir).as_posix()
             for path in find_nested(raw_dir, "gt_skel_gbl_pos.txt", MAX_DEPTH)}
    return [{"subject": subject, "sequence": sequence, "camera": int(camera), "video": videos[subject, sequence, camera],
             "matte": mattes.get((subject, sequence, camera)), "poses": poses.get((subject, sequence))}
            for subject, sequence, camera in sorted(videos) if _split(subject, sequence) == split]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The frames of one video in which the person is in view and has moved; a `ValueError` for one with broken labels."""
    if unit["matte"] is None or unit["poses"] is None:
        raise FileNotFoundError(f"{raw_dir / unit['video']}: there is no matte of the same name below a folder mattes, or no "
                                f"{unit['subject']}/{unit['sequence']}/gt_skel_gbl_pos.txt. {HINT}")
    video, matte, poses_path = (raw_dir / unit[key] for key in ("video", "matte", "poses"))
    camera, image_size = read_camera(raw_dir / "calibration.cal", unit["camera"])
    poses = read_poses(poses_path)[:min(num_frames(video), num_frames(matte))]
    is_broken = ~np.isfinite(poses).all(axis=(1, 2))
    for i in np.flatnonzero(is_broken):
        yield ValueError(f"{poses_path}: frame {i} has nan or infinite coordinates")
    joints2d = image_points(poses, camera)
    is_visible = (np.count_nonzero(is_in_image(joints2d, image_size), axis=1) >= MIN_VISIBLE_JOINTS) & ~is_broken
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    frames = [i for i in range(len(poses)) if is_visible[i] and sampler.keep(poses[i])]
    for (i, image), (_, matte_image) in zip(read_frames(video, frames), read_frames(matte, frames), strict=True):
        mask = matte_image[..., 0] >= MIN_FOREGROUND
        if (bbox := person_box(joints2d[i], mask)) is None:  # the matte failed
            continue
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=poses[i], mask=mask, provenance={
            "source": unit["video"], "subject": unit["subject"], "sequence": f"{unit['subject']}/{unit['sequence']}",
            "camera": unit["camera"], "frame": i})


def read_camera(path: pathlib.Path, camera_id: int) -> tuple[Camera, tuple[int, int]]:
    """A camera, from 1 on, and (width, height) of its images.

    Behind a line with the number of cameras and of lens coefficients each has seven: its first and last row and column; fx, fy,
    cx, cy; k1; the rows of the rotation from world to camera; the translation, metres.

    Raises: FileNotFoundError; ValueError naming file and camera.
    """
    rows = read_numbers(path, HINT)[7 * camera_id - 6:7 * camera_id + 1]
    if [len(row) for row in rows] != [4, 4, 1, 3, 3, 3, 3]:
        raise ValueError(f"{path}: camera {camera_id} has lines of {[len(row) for row in rows]} numbers, expected "
                         "[4, 4, 1, 3, 3, 3, 3]: limits, intrinsics, k1, rotation, translation")
    (top, bottom, left, right), (fx, fy, cx, cy), (k1,), *rotation, translation = rows
    if not (top < bottom < np.inf and left < right < np.inf):  # nor nan
        raise ValueError(f"{path}: camera {camera_id} has the limits {rows[0]}, expected its first and last row and column")
    camera = camera_from([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], rotation, translation, distortion=[k1, 0, 0, 0],
                         world_up=[0, 1, 0], unit_mm=MM_PER_METRE, where=f"{path}: camera {camera_id}")
    return camera, (round(right - left) + 1, round(bottom - top) + 1)


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, 21, 3] mm, world. The first line of the file names the joints.

    Raises: FileNotFoundError; ValueError naming file and line.
    """
    names = read_text(path, HINT).partition("\n")[0].split()
    if sorted(names) != sorted(JOINT_NAMES):
        raise ValueError(f"{path}: the first line names {', '.join(names)}; expected {', '.join(JOINT_NAMES)}")
    rows = read_numbers(path, HINT, skip_lines=1)
    if not rows:
        raise ValueError(f"{path} has no line below its first one. Was it cut short?")
    wrong = next((i for i, row in enumerate(rows) if len(row) != 3 * len(names)), None)
    if wrong is not None:
        raise ValueError(f"{path}: frame {wrong} has {len(rows[wrong])} numbers, expected {3 * len(names)}")
    order = np.argsort([SKELETON.joint_names.index(JOINT_NAMES[name]) for name in names])
    return MM_PER_INCH * np.array(rows).reshape(-1, len(names), 3)[:, order]


def person_box(joints2d: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """[4]: what the enlarged box around the joints [num_joints, 2] and that around the mask [height, width] have in common;
    None if that is nothing."""
    _, parts = foreground_parts(mask)
    joint_box = joints_box(joints2d, BOX_SCALE)
    return intersect(joint_box, hull(*parts)) if len(parts) and joint_box is not None else None


def _split(subject: str, sequence: str) -> str | None:
    if sequence in TEST_SEQUENCES:
        return "test"
    return "train" if subject in TRAIN_SUBJECTS else None


ADAPTER = Adapter(name="totalcapture", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
