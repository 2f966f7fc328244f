"""CMU Panoptic (Joo et al., ICCV 2015): people in a dome of 31 HD cameras at 29.97 Hz, markerless 3D labels.

    RAW_DIR/{sequence}/hdVideos/hd_00_{00..30}.mp4                     any of them
    RAW_DIR/{sequence}/calibration_{sequence}.json                     cameras, cm
    RAW_DIR/{sequence}/hdPose3d_stage1_coco19/[hd/]body3DScene_{8 digits}.json     19 joints of each body, world, cm; the digits
                                                                       are the number of the videos' frame, from 0

The 66 sequences of the published training mix are read, all as training data. Of a frame, those people are kept who have moved
and of whom enough joints are in the picture. Boxes are those of the projected joints, enlarged and cut off at the border of the
picture. Some videos have greenish or shifted pictures here and there, which nothing tells apart. World: y down, mm.
"""

import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.optimize

from datasets.calibration import camera_from, check_image_size, image_points
from datasets.person_boxes import is_in_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, read_json
from datasets.readers.video import read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("coco_19")  # in the order of the files
_NAMES_BY_DATE = {
    "160224": "haggling1", "160226": "haggling1", "160422": "haggling1 ultimatum1",
    "160906": "band1 band2 band3 band4 ian1 ian2 ian3 ian5 pizza1",
    "161029": "build1 car1 flute1 piano1 piano2 piano3 piano4 sports1 tools1", "161202": "haggling1",
    "170221": "haggling_b1 haggling_b2 haggling_b3 haggling_m1 haggling_m2 haggling_m3",
    **dict.fromkeys(("170224", "170228", "170404"), "haggling_a1 haggling_a2 haggling_a3 haggling_b1 haggling_b2 haggling_b3"),
    "170407": "haggling_a1 haggling_a2 haggling_a3 haggling_b1 haggling_b2 haggling_b3 office2",
    "170915": "office1 toddler5", "171026": "cello3 pose1 pose2 pose3", "171204": "pose1 pose2 pose3 pose4 pose5 pose6"}
SEQUENCES = tuple(f"{date}_{name}" for date, names in _NAMES_BY_DATE.items() for name in names.split())
BROKEN_VIDEOS = {("171204_pose3", "00_20"), ("171204_pose4", "00_20"), ("171204_pose5", "00_20"),
                 ("160422_haggling1", "00_20"), ("160906_band3", "00_03")}
MM_PER_CM = 10.0
WORLD_UP = (0, -1, 0)
MIN_CONFIDENCE = 0.1  # of a joint, exclusive; absent ones have -1
MAX_COORDINATE_CM = 1e5  # 1 km: no person is there, and distances between poses must be finite
MIN_JOINTS = 6  # of a pose, labelled, and in the picture
MIN_MOVEMENT_MM = 100.0
MIN_MOVED_JOINTS = 3
BOX_SCALE = 1.25
HINT = ("Get HD videos, calibration and hdPose3d_stage1_coco19.tar of the sequences from http://domedb.perception.cs.cmu.edu "
        "(getData.sh of its panoptic-toolbox), and unpack them there.")

logger = logging.getLogger(__name__)


class MultiPersonSampler:
    """Tells frame by frame, in the order of the recording, which people have moved since they were kept; who they are is not
    known.

    A pose is new if `MIN_MOVED_JOINTS` joints or more lie `MIN_MOVEMENT_MM` or more from their places in the remembered pose
    that it is assigned to, if they have fewer joints than that in common, and if there is none left for it. New poses are
    remembered in place of those. Poses are assigned by the least sum of their mean distances over joints.
    """

    def __init__(self):
        self._remembered = np.empty((0, SKELETON.num_joints, 3))

    def find_new(self, poses: np.ndarray) -> np.ndarray:
        """[num_people] bool: which of the next frame's poses [num_people, 19, 3], mm, nan where there is no label, are new."""
        distance = np.linalg.norm(poses[:, None] - self._remembered[None], axis=-1)
        num_common = np.isfinite(distance).sum(axis=-1)
        # Poses without a common joint are assigned to each other last.
        cost = np.where(num_common > 0, np.nansum(distance, axis=-1) / np.maximum(num_common, 1), 1e9)
        people, places = scipy.optimize.linear_sum_assignment(cost)
        num_moved = (distance[people, places] >= MIN_MOVEMENT_MM).sum(axis=-1)
        is_new = np.ones(len(poses), bool)
        is_new[people] = (num_moved >= MIN_MOVED_JOINTS) | (num_common[people, places] < MIN_MOVED_JOINTS)
        is_replaced = is_new[people]
        self._remembered[places[is_replaced]] = poses[people[is_replaced]]
        self._remembered = np.concatenate([self._remembered, np.delete(poses, people, axis=0)])
        return is_new


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The videos; see `Adapter.list_units`. Sequences that are missing are left out with a warning."""
    if split != "train":
        return []
    units = [{"sequence": sequence, "camera": match[1]} for sequence in SEQUENCES
             for path in sorted((raw_dir / sequence / "hdVideos").glob("hd_*.mp4"))
             if (match := re.fullmatch(r"hd_(00_\d\d)\.mp4", path.name)) and (sequence, match[1]) not in BROKEN_VIDEOS]
    if not units:
        raise FileNotFoundError(f"no file {raw_dir / 'SEQUENCE/hdVideos/hd_00_*.mp4'} of {len(SEQUENCES)} sequences, "
                                f"{SEQUENCES[0]}, say. {HINT}")
    if missing := set(SEQUENCES) - {unit["sequence"] for unit in units}:
        logger.warning("panoptic, train: no videos of %d of %d sequences, %s, say; they are left out. %s", len(missing),
                       len(SEQUENCES), min(missing), HINT)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The people of one video who are kept, frame by frame; before them a `ValueError` for each unreadable file of labels."""
    sequence, camera_id = unit["sequence"], unit["camera"]
    camera, image_size = read_camera(raw_dir / sequence / f"calibration_{sequence}.json", camera_id)
    video = raw_dir / sequence / "hdVideos" / f"hd_{camera_id}.mp4"
    poses, errors = _read_poses_with_news(raw_dir / sequence / "hdPose3d_stage1_coco19")
    yield from errors
    boxes = {frame: [_visible_box(pose, camera, image_size) for pose in people] for frame, (people, _) in poses.items()}
    frames = [frame for frame, (_, is_new) in poses.items()
              if any(new and box is not None for new, box in zip(is_new, boxes[frame], strict=True))]
    for frame, image in read_frames(video, frames, HINT):
        check_image_size(image, image_size, str(video))
        people = list(zip(*poses[frame], boxes[frame], strict=True))
        bystanders = np.array([bbox for _, is_new, bbox in people if not is_new and bbox is not None]).reshape(-1, 4)
        for joints3d_world, is_new, bbox in people:
            if is_new and bbox is not None:
                provenance = {"source": video.relative_to(raw_dir).as_posix(), "sequence": sequence, "camera": camera_id,
                              "frame": frame}
                yield RawExample(image, bbox, camera, joints3d_world, provenance=provenance, bystanders=bystanders)


def read_camera(path: pathlib.Path, camera_id: str) -> tuple[Camera, tuple[int, int]]:
    """A camera, and (width, height) of its images. Raises: FileNotFoundError; ValueError naming file and camera."""
    where = f"{path}: camera {camera_id}"
    content = read_json(path, HINT)
    try:
        (table,) = (table for table in content["cameras"] if table["name"] == camera_id)
        width, height = (int(number) for number in table["resolution"])
        intrinsics, rotation, translation, distortion = (table[key] for key in ("K", "R", "t", "distCoef"))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: expected one table of that name in the list cameras, with resolution, K, R, t and "
                         f"distCoef; problem: {error!r}") from error
    return camera_from(intrinsics, rotation, translation, distortion=distortion, world_up=WORLD_UP, unit_mm=MM_PER_CM,
                       where=where), (width, height)


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_people, 19, 3] mm, world; nan where there is no label. People with fewer than `MIN_JOINTS` labels are left out.

    Raises: ValueError naming the file.
    """
    content = read_json(path)
    try:
        joints = np.array([body["joints19"] for body in content["bodies"]], np.float64)
        joints = joints.reshape(len(content["bodies"]), SKELETON.num_joints, 4)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected a list bodies of tables with 76 numbers joints19; problem: {error!r}") from error
    if (np.abs(joints[np.isfinite(joints)]) > MAX_COORDINATE_CM).any():
        raise ValueError(f"{path}: joints19 has a number beyond {MAX_COORDINATE_CM:g}; expected cm, within a dome of 5.5 m")
    is_labelled = (joints[..., 3] > MIN_CONFIDENCE) & np.isfinite(joints).all(axis=-1)
    poses = np.where(is_labelled[..., None], MM_PER_CM * joints[..., :3], np.nan)
    return poses[np.count_nonzero(is_labelled, axis=1) >= MIN_JOINTS]


def _read_poses_with_news(folder: pathlib.Path) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], list[ValueError]]:
    """[num_people, 19, 3] mm, world, and [num_people] bool, who of them has moved, of the frames of a sequence in which
    somebody has; and what cannot be read.

    It is the same for all cameras, and costs little against decoding one of their videos.
    """
    name = f"body3DScene_{8 * '[0-9]'}.json"
    paths = sorted(folder.glob(name)) or sorted((folder / "hd").glob(name))
    if not paths:
        raise FileNotFoundError(f"no files body3DScene_(8 digits).json in {folder}, nor in a folder hd there. {HINT}")
    sampler = MultiPersonSampler()
    moving, errors = {}, []
    for path in paths:
        try:
            poses = read_poses(path)
        except ValueError as error:
            errors.append(error)
            continue
        if (is_new := sampler.find_new(poses)).any():
            moving[int(path.stem[-8:])] = poses, is_new
    return moving, errors


def _visible_box(joints3d_world: np.ndarray, camera: Camera, image_size: tuple[int, int]) -> np.ndarray | None:
    """[4] px around the projected joints, in the image; None if fewer than `MIN_JOINTS` of them are in the image."""
    joints2d = image_points(joints3d_world, camera)
    num_inside = np.count_nonzero(is_in_image(joints2d, image_size))
    return joints_box(joints2d, BOX_SCALE, image_size) if num_inside >= MIN_JOINTS else None


ADAPTER = Adapter(name="panoptic", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, unmatched="drop", max_area_ratio=2.0))
