"""HUMAN4D (Chatzitofis et al., IEEE Access 2020): everyday activities of one or two people before four cameras; markers.

    RAW_DIR/S{n}/RECORDING/Dump/color/GROUP_CAMERA_color_NUMBER.png    1280 x 720 px; frames of one group are of one moment
    RAW_DIR/S{n}/RECORDING/Dump/gposes3d/NUMBER.npy                    [people, 33, 3], world, mm
    RAW_DIR/S{n}/offsets.txt                                           per recording: name, the group of pose 0, another number
    RAW_DIR/S{n}/pose/CAMERA.extrinsics                                of the depth sensor: rotation to the world, position
    RAW_DIR/[S{n}/]device_repository.json                              intrinsics, and where a camera's two sensors lie

There is one split, train. The cameras lie on their side, people's heads point to the left in the pictures; these stay as they
are, and so have a detector's boxes to be. Crops are upright by the world's up direction, see `find_up`. World: mm.
"""

import contextlib
import logging
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import clip_to_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import first_existing, joints_box, read_json
from datasets.readers.npy import read_npy
from datasets.readers.text import read_numbers, read_text
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("human4d_32")
ROWS = [*range(15), *range(16, 33)]  # in the order of SKELETON; row 15 is no joint
HEAD_TOP, *ANKLES = (SKELETON.joint_names.index(name) for name in ("head_top", "left_ankle", "right_ankle"))
IMAGE_SIZE = 1280, 720
MM_PER_METRE = 1000.0
MIN_MOVEMENT_MM, NUM_REMEMBERED_POSES = 100.0, 100
BOX_SCALE = 1.2  # of the box around the joints
MIN_PERSON_SIDE = 30.0  # px
UP_STEP = 20  # poses; so many suffice to find the up direction
HINT = ("Get the data of the subjects from https://tofis.github.io/human4d_dataset (on Zenodo) and unpack them there, each "
        "into its folder S1, S2, ...")
_IMAGE_NAME = re.compile(r"(\d+)_([^_]+)_color_\d+\.png")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, str]]:
    """The recordings, once for each camera; see `Adapter.list_units`. Cameras without a pose are left out with a warning."""
    if split != "train":
        return []
    units, missing = [], set()
    for folder in sorted(raw_dir.glob("S*/*/Dump/color")):
        subject, recording = folder.parts[-4:-2]
        for camera in sorted({match[2] for path in folder.iterdir() if (match := _IMAGE_NAME.fullmatch(path.name))}):
            if (raw_dir / subject / "pose" / f"{camera}.extrinsics").is_file():
                units.append({"subject": subject, "recording": recording, "camera": camera})
            else:
                missing.add(f"{subject}/pose/{camera}.extrinsics")
    if not units:
        raise FileNotFoundError(f"no pictures {raw_dir / 'S*' / '*' / 'Dump' / 'color' / '*.png'} of cameras with a file "
                                f"{raw_dir / 'S*' / 'pose' / '*.extrinsics'}. {HINT}")
    if missing:
        logger.warning("human4d: no %s in %s; their pictures are left out", ", ".join(sorted(missing)), raw_dir)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str]) -> Iterator[RawExample | ValueError]:
    """The people of one recording, as one camera saw them, where they have moved; a `ValueError` for a broken pose file."""
    subject, recording, camera_id = unit["subject"], unit["recording"], unit["camera"]
    camera = read_camera(raw_dir, subject, camera_id)
    offset = read_offset(raw_dir / subject / "offsets.txt", recording)
    folder = raw_dir / subject / recording / "Dump"
    images = {int(match[1]): path for path in (folder / "color").iterdir()
              if (match := _IMAGE_NAME.fullmatch(path.name)) and match[2] == camera_id}
    samplers: dict[int, FrameSampler] = {}
    has_poses = False
    for group, image in sorted(images.items()):
        # As the authors' tools count; the published training mix takes the pose after this one.
        poses_path = folder / "gposes3d" / f"{group - offset}.npy"
        if not poses_path.is_file():
            continue  # before the first pose or behind the last one
        has_poses = True
        try:
            poses = read_poses(poses_path)
        except ValueError as error:
            yield error
            continue
        for person, pose in enumerate(poses):
            bbox = joints_box(image_points(pose, camera), BOX_SCALE)
            if bbox is None or bbox[2:].max() < MIN_PERSON_SIDE or clip_to_image(bbox, IMAGE_SIZE) is None:
                continue
            sampler = samplers.setdefault(
                person, FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED_POSES, newly_valid=True, nan_unchanged=True))
            if sampler.keep(pose):
                yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=pose, provenance={
                    "source": image.relative_to(raw_dir).as_posix(), "subject": subject, "sequence": f"{subject}/{recording}",
                    "camera": camera_id, "frame": group, "person": person})
    if not has_poses:
        raise ValueError(f"{folder}: none of the pictures of {camera_id} is of the moment of a pose in gposes3d; are the "
                         f"groups numbered otherwise than {raw_dir / subject / 'offsets.txt'} says ({offset})?")


def read_camera(raw_dir: pathlib.Path, subject: str, camera_id: str) -> Camera:
    """The colour sensor of a camera. Raises: FileNotFoundError; ValueError naming file and camera."""
    path = first_existing(*(folder / "device_repository.json" for folder in (raw_dir / subject, raw_dir)))
    where = f"{path}: {camera_id}"
    try:
        device = next(device for device in read_json(path, HINT) if device["Device"] == camera_id)
        intrinsics = device["Color Intrinsics"][0]["1280x720"]
    except (StopIteration, LookupError, TypeError) as error:
        raise ValueError(f"{where}: expected a list with this Device and its Color Intrinsics, 1280x720 ({error!r})") from error
    extrinsics_path = raw_dir / subject / "pose" / f"{camera_id}.extrinsics"
    rows = read_numbers(extrinsics_path, HINT)
    if [len(row) for row in rows] != [3, 3, 3, 3]:
        raise ValueError(f"{extrinsics_path} has lines of {[len(row) for row in rows]} numbers; expected 4 of 3")
    # Two cameras without a lens: `camera_from` checks their numbers and converts the unit.
    depth = camera_from(np.eye(3), np.transpose(rows[:3]), position=rows[3], where=str(extrinsics_path))
    color_to_depth = camera_from(np.eye(3), device.get("Color Depth Rotation", np.eye(3)), unit_mm=MM_PER_METRE,
                                 translation=device.get("Color Depth Translation", np.zeros(3)), where=where)
    world_to_color = np.linalg.inv(color_to_depth.world_to_camera) @ depth.world_to_camera
    return camera_from(intrinsics, world_to_color[:3, :3], translation=world_to_color[:3, 3],
                       world_up=find_up(raw_dir / subject), where=where)


def read_offset(path: pathlib.Path, recording: str) -> int:
    """The group of pictures that pose 0 of a recording belongs to. Raises: FileNotFoundError; ValueError naming the file."""
    for line in read_text(path, HINT).splitlines():
        name, *numbers = line.split() or [""]
        if name == recording and numbers and re.fullmatch(r"-?\d{1,9}", numbers[0]):
            return int(numbers[0])
    raise ValueError(f"{path}: expected a line of the name {recording} and two whole numbers")


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_people, 32, 3] mm, world. Raises: FileNotFoundError; ValueError naming the file."""
    poses = read_npy(path, HINT)
    if poses.ndim not in (2, 3) or poses.shape[-2:] != (33, 3) or poses.dtype.kind not in "fiu":
        raise ValueError(f"{path} has shape {list(poses.shape)} and type {poses.dtype}, expected numbers, [people, 33, 3]")
    poses = poses.reshape(-1, 33, 3)[:, ROWS].astype(np.float64)
    return np.where(np.isfinite(poses).all(axis=-1, keepdims=True), poses, np.nan)


def find_up(folder: pathlib.Path) -> np.ndarray:
    """[3] the axis of the world along which most people of a subject's recordings stand, feet to head; it is not documented.

    Raises: FileNotFoundError if there are no poses.
    """
    up = np.zeros(3)
    paths = sorted(folder.glob("*/Dump/gposes3d/*.npy"))
    for path in paths[::UP_STEP]:
        with contextlib.suppress(ValueError), np.errstate(all="ignore"):  # reported where it is read for its picture
            poses = read_poses(path)
            direction = poses[:, HEAD_TOP] - poses[:, ANKLES].mean(axis=1)
            # Of length 1, so that broken coordinates are one voice among many.
            up += np.nansum(direction / np.linalg.norm(direction, axis=1, keepdims=True), axis=0)
    if not paths:
        raise FileNotFoundError(f"no files {folder / '*' / 'Dump' / 'gposes3d' / '*.npy'}. {HINT}")
    axis = np.abs(up).argmax()
    return np.sign(up[axis]) * np.eye(3)[axis]


ADAPTER = Adapter(name="human4d", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5, min_score=0.2))
