"""JTA (Joint Track Auto, Fabbri et al., ECCV 2018): crowds in the streets of a computer game, 30 s a sequence; many people.

    RAW_DIR/videos/{train,val,test}/seq_N.mp4           1920x1080 px, 30 Hz
    RAW_DIR/annotations/{train,val,test}/seq_N.json     rows of 10 numbers, one for each joint of a person in a frame

An example is a person of whom at least 5 joints are visible, in 100 px or more of the image, and who has moved; all joints are
labelled, hidden ones too. Boxes hold the visible joints. The labels are in the frame of the camera, which is the world here, in
metres; cameras may move, and which way is up in a frame is what most people in it agree on.

The game's lens distorts a little. The annotated 2D joints leave that out, and are not used: with a focal length of 1167 px
instead of the authors' 1158, the 3D labels fit the pictures better than these.
"""

import itertools
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datasets.calibration import camera_from
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import is_in_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.files import broken_file_errors, require_file
from datasets.readers.video import read_frames
from posepile.geometry.camera import project
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("jta_22")  # in the order of the files, which call the pelvis spine4
NECK, LEFT_ANKLE, RIGHT_ANKLE = map(SKELETON.index, ("neck", "left_ankle", "right_ankle"))
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
HINT = "Get annotations and videos by the script in https://github.com/fabbrimatteo/JTA-Dataset."
IMAGE_SIZE = (1920, 1080)
INTRINSICS = np.array([[1167.0, 0, 959.5], [0, 1167, 539.5], [0, 0, 1]])  # the middle of the image
MM_PER_METRE = 1000.0
MIN_MOVEMENT_MM = 100.0
MIN_VISIBLE_JOINTS = 5
MIN_BOX_SIDE = 100.0  # px, the longer side of the box around the visible joints
BOX_SCALE = 1.15  # of that box
NUM_COLUMNS = 10  # frame from 1, person, joint, x, y px, x, y, z m, occluded, occluded by the person's own body
NUM_MEDIAN_STEPS = 30


class People(NamedTuple):
    """The people of all frames of a sequence, by frame and person.

    Attributes:
        frame: [n] from 0, as in the video.
        person: [n] the same number for the same person.
        joints3d: [n, 22, 3] camera, mm; nan where a joint is not annotated.
        is_hidden: [n, 22] whether something is in front of a joint.
        is_broken: [n] whether a coordinate is not finite.
    """

    frame: np.ndarray
    person: np.ndarray
    joints3d: np.ndarray
    is_hidden: np.ndarray
    is_broken: np.ndarray


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The videos; see `Adapter.list_units`."""
    for folder in ("annotations", "videos"):
        if next((raw_dir / folder).glob("*/seq_*"), None) is None:
            raise FileNotFoundError(f"no sequences in {raw_dir / folder / SPLIT_FOLDERS[split]}. {HINT}")
    videos = [path for path in (raw_dir / "videos" / SPLIT_FOLDERS[split]).glob("seq_*.mp4")
              if re.fullmatch(r"seq_\d+", path.stem)]
    return [path.relative_to(raw_dir).as_posix() for path in sorted(videos, key=lambda path: int(path.stem[4:]))]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one video, frame by frame; a `ValueError` for one with coordinates that are not finite."""
    video = raw_dir / unit
    sequence = f"{video.parent.name}/{video.stem}"
    path = raw_dir / "annotations" / f"{sequence}.json"
    people = read_people(path)
    boxes = _select(people)
    frames = {frame: list(group) for frame, group in itertools.groupby(boxes, lambda i: int(people.frame[i]))}
    for frame, image in read_frames(video, frames, HINT):
        first, end = np.searchsorted(people.frame, [frame, frame + 1])
        camera = camera_from(INTRINSICS, np.eye(3), np.zeros(3), world_up=find_up(people.joints3d[first:end]),
                             where=f"{path}: frame {frame + 1}")
        for i in frames[frame]:
            if people.is_broken[i]:
                yield ValueError(f"{path}: frame {frame + 1}, person {people.person[i]} has coordinates that are not finite")
                continue
            yield RawExample(image=image, bbox=boxes[i], camera=camera, joints3d_world=people.joints3d[i], provenance={
                "source": unit, "sequence": sequence, "frame": frame, "person": int(people.person[i])})


def read_people(path: pathlib.Path) -> People:
    """Reads the annotation of a sequence. Raises: FileNotFoundError; ValueError naming the file."""
    with broken_file_errors(require_file(path, HINT), f"rows of {NUM_COLUMNS} numbers"):
        # As nested lists, the ten million numbers of a file would take a gigabyte.
        text = path.read_bytes()
        num_rows = text.count(b"]") - 1
        table = np.fromstring(text.translate(None, b"[] \t\r\n"), sep=",")
        if num_rows < 1 or table.size != num_rows * NUM_COLUMNS:
            raise ValueError(f"it has {max(num_rows, 0)} rows and {table.size} numbers")
        table = table.reshape(num_rows, NUM_COLUMNS)
        with np.errstate(invalid="ignore"):
            ids = table[:, :3].astype(np.int64)
        is_valid = (ids == table[:, :3]) & (ids >= [1, 0, 0]) & (ids < [2**31, 2**31, SKELETON.num_joints])
        if not (is_valid := is_valid.all(axis=1)).all():
            row = int(is_valid.argmin())
            raise ValueError(f"row {row} is of frame, person and joint {table[row, :3].tolist()}; expected whole numbers from "
                             f"1, 0 and 0, joints below {SKELETON.num_joints}")
    frame, person, joint = ids.T
    keys, place = np.unique(frame << 31 | person, return_inverse=True)
    joints3d, is_hidden = np.full((len(keys), SKELETON.num_joints, 3), np.nan), np.zeros((len(keys), SKELETON.num_joints), bool)
    joints3d[place, joint] = MM_PER_METRE * table[:, 5:8]
    is_hidden[place, joint] = table[:, 8] != 0
    is_broken = np.bincount(place, ~np.isfinite(table[:, 5:8]).all(axis=1)) > 0
    return People((keys >> 31) - 1, keys & (2**31 - 1), joints3d, is_hidden, is_broken)


def _select(people: People) -> dict[int, np.ndarray | None]:
    """The box of each person that is kept, in order; None for a broken one."""
    joints2d = project(people.joints3d, INTRINSICS)
    is_visible = is_in_image(joints2d, IMAGE_SIZE) & ~people.is_hidden
    joints2d[~is_visible] = np.nan
    samplers: dict[int, FrameSampler] = defaultdict(lambda: FrameSampler(MIN_MOVEMENT_MM))
    boxes: dict[int, np.ndarray | None] = {}
    for i in np.flatnonzero(people.is_broken | (np.count_nonzero(is_visible, axis=1) >= MIN_VISIBLE_JOINTS)).tolist():
        if people.is_broken[i]:
            boxes[i] = None
        elif ((box := joints_box(joints2d[i], BOX_SCALE)) is not None and box[2:].max() > BOX_SCALE * MIN_BOX_SIDE
              and samplers[int(people.person[i])].keep(people.joints3d[i])):
            boxes[i] = box
    return boxes


def find_up(joints3d: np.ndarray) -> np.ndarray | None:
    """[3]: the geometric median of the directions from people's ankles to their necks; None where nobody has them.

    Args:
        joints3d: [num_people, 22, 3] of one frame.
    """
    directions = joints3d[:, NECK] - (joints3d[:, LEFT_ANKLE] + joints3d[:, RIGHT_ANKLE]) / 2
    directions = directions[np.isfinite(directions).all(axis=1) & directions.any(axis=1)]
    if not len(directions):
        return None
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    median = directions.mean(axis=0)
    for _ in range(NUM_MEDIAN_STEPS):  # Weiszfeld's algorithm
        weights = 1 / np.maximum(np.linalg.norm(directions - median, axis=1), 1e-6)
        median = weights @ directions / weights.sum()
    return median


# The detection is to be less than twice the box around the visible joints.
ADAPTER = Adapter(name="jta", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.2, unmatched="drop", max_area_ratio=2 / BOX_SCALE**2))
