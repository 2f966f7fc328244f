"""ASPset-510 (Nibali et al., IVC 2021): 17 amateurs at 30 sports exercises each, outdoors, three cameras, 50 Hz; markerless.

    RAW_DIR/[ASPset-510/]splits.csv                                        subject, clip, split, camera or "all"; no header
    RAW_DIR/[ASPset-510/]{trainval,test}/videos/SUBJECT/SUBJECT-CLIP-{left,mid,right}.mkv
    RAW_DIR/[ASPset-510/]{trainval,test}/boxes/SUBJECT/SUBJECT-CLIP-{left,mid,right}.csv    header; then a row per frame
    RAW_DIR/[ASPset-510/]{trainval,test}/cameras/SUBJECT/SUBJECT-{left,mid,right}.json
    RAW_DIR/[ASPset-510/]{trainval,test}/joints_3d/SUBJECT/SUBJECT-CLIP.c3d                 17 points, mm, a row per frame

Kept are the frames of a video in which the person has moved since the frame kept before, in all splits. A test clip counts
in one camera only. The boxes are the authors', enlarged. World: the frame of the left camera, y down, mm.
"""

import csv
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import scale_box
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import first_existing, read_json
from datasets.readers.c3d import read_c3d
from datasets.readers.files import broken_file_errors
from datasets.readers.text import read_numbers, read_text
from datasets.readers.video import COUNT_TOLERANCE, num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("aspset_17")
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # what the authors call them: what all data sets do
CAMERAS = ("left", "mid", "right")
FILES = {"videos": "{subject}-{clip}-{camera}.mkv", "boxes": "{subject}-{clip}-{camera}.csv",
         "cameras": "{subject}-{camera}.json", "joints_3d": "{subject}-{clip}.c3d"}
MIN_MOVEMENT_MM = 100.0
BOX_SCALE = 1.1
HINT = ("Get splits, and videos, cameras, boxes and joints_3d of trainval and test, from https://archive.org/details/aspset510 "
        "and unpack them there; the joints of the test clips were added later.")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The videos; see `Adapter.list_units`. Those that are missing are left out with a warning."""
    expected = [unit for unit_split, unit in _read_splits(_root(raw_dir) / "splits.csv") if unit_split == split]
    units = [unit for unit in expected if _path(raw_dir, unit, "videos").is_file()]
    if expected and not units:
        raise FileNotFoundError(f"none of the {len(expected)} {split} videos of splits.csv is there, such as "
                                f"{_path(raw_dir, expected[0], 'videos')}. {HINT}")
    if len(units) < len(expected):
        logger.warning("aspset, %s: %d of the %d videos of splits.csv are not in %s; they are left out. %s", split,
                       len(expected) - len(units), len(expected), raw_dir, HINT)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The frames of one video that are kept; a `ValueError` for one whose box is wrong."""
    video, boxes_path, camera_path, poses_path = (_path(raw_dir, unit, kind) for kind in FILES)
    camera, poses = read_camera(camera_path), read_poses(poses_path)
    boxes = read_numbers(boxes_path, HINT, skip_lines=1)
    num_images = num_frames(video, HINT)
    if len(boxes) != len(poses) or abs(num_images - len(poses)) > COUNT_TOLERANCE:
        raise ValueError(f"{video} has {num_images} frames, {poses_path.name} {len(poses)} and {boxes_path.name} {len(boxes)}; "
                         "expected the same. Is one of the files cut short, or of another clip?")
    count = min(num_images, len(poses))
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    for i, image in read_frames(video, [i for i in range(count) if sampler.keep(poses[i])]):
        box = np.array(boxes[i])
        if box.shape != (4,) or not (box[2:] > box[:2]).all():  # nor nan
            yield ValueError(f"{boxes_path}: row {i + 1} below the header is {boxes[i]}; expected left, top, right, bottom")
            continue
        yield RawExample(
            image=image, bbox=scale_box([*box[:2], *(box[2:] - box[:2])], BOX_SCALE), camera=camera, joints3d_world=poses[i],
            provenance={"source": video.relative_to(raw_dir).as_posix(), "subject": unit["subject"],
                        "sequence": f"{unit['subject']}-{unit['clip']}", "camera": unit["camera"], "frame": i})


def read_camera(path: pathlib.Path) -> Camera:
    """A camera: intrinsics as 3 x 4 numbers, world to camera as 4 x 4, mm; an ideal lens.

    Raises: FileNotFoundError; ValueError naming the file if it has no such numbers.
    """
    content = read_json(path, HINT)
    try:
        intrinsics = np.reshape(np.asarray(content["intrinsic_matrix"], np.float64), (3, 4))
        extrinsics = np.reshape(np.asarray(content["extrinsic_matrix"], np.float64), (4, 4))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected intrinsic_matrix with 12 numbers and extrinsic_matrix with 16 ({error!r:.200})"
                         ) from error
    return camera_from(intrinsics[:, :3], extrinsics[:3, :3], translation=extrinsics[:3, 3], world_up=[0, -1, 0],
                       where=str(path))


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, 17, 3] mm, world. Points that do not have the names of the joints are in their order.

    Raises: FileNotFoundError; ValueError naming the file if there are more or fewer.
    """
    recording = read_c3d(path, HINT)
    if len(recording.labels) != SKELETON.num_joints:
        raise ValueError(f"{path} has {len(recording.labels)} points, {', '.join(recording.labels):.500}; expected the "
                         f"{SKELETON.num_joints} joints {', '.join(SKELETON.joint_names)}")
    names = recording.labels if set(recording.labels) == set(SKELETON.joint_names) else SKELETON.joint_names
    return recording.points[:, [names.index(name) for name in SKELETON.joint_names]]


def _read_splits(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The split and the unit of each video that counts. Raises: ValueError naming file and line."""
    lines = read_text(path, HINT).splitlines()
    with broken_file_errors(path, "a CSV file"):
        rows = list(csv.reader(lines))
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        subject, clip, split, camera, *_ = [word.strip() for word in row] + ["all"] * 4  # early copies have no camera
        cameras = CAMERAS if camera == "all" else (camera,)
        if split not in SPLITS or not set(cameras) <= set(CAMERAS) or not (subject + clip).isalnum():
            raise ValueError(f"{path}: line {number}: expected subject, clip, one of {', '.join(SPLITS)}, and all or one of "
                             f"{', '.join(CAMERAS)}; got {row!r:.200}")
        for camera in cameras:
            yield SPLITS[split], {"part": "test" if split == "test" else "trainval", "subject": subject, "clip": clip,
                                  "camera": camera}


def _root(raw_dir: pathlib.Path) -> pathlib.Path:
    return first_existing(raw_dir / "ASPset-510", raw_dir)


def _path(raw_dir: pathlib.Path, unit: dict[str, Any], kind: str) -> pathlib.Path:
    return _root(raw_dir) / unit["part"] / kind / unit["subject"] / FILES[kind].format(**unit)


ADAPTER = Adapter(name="aspset", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
