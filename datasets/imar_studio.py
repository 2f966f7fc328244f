"""Fit3D, HumanSC3D and CHI3D: three data sets of one studio, four cameras at 50 Hz, in the same layout.

    RAW_DIR/train/SUBJECT/videos/CAMERA/SEQUENCE.mp4
    RAW_DIR/train/SUBJECT/camera_parameters/CAMERA/SEQUENCE.json    metres
    RAW_DIR/train/SUBJECT/joints3d_25/SEQUENCE.json                 [frames, 25, 3], or of several people [people, frames, 25,
                                                                    3]: metres, world

The labels of the test subjects are withheld: there is only a train split. A frame is kept if the person has moved since
all frames kept of the same video, so that exercises, which repeat themselves, give each pose once. Boxes are those of the
projected joints, enlarged. World: z up, mm.
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, read_json
from datasets.readers.video import COUNT_TOLERANCE, num_frames, read_frames
from posepile.geometry.camera import Camera

SKELETON_NAME = "fit3d_25"  # the joints are in the order of the files
NUM_JOINTS = 25
MM_PER_METRE = 1000.0
MIN_MOVEMENT_MM = 100.0
BOX_SCALE = 1.2  # of the box around the projected joints


def make_adapter(name: str, url: str) -> Adapter:
    """The adapter of one of the data sets.

    Args:
        name: of the data set, with which the names of its archives begin.
        url: where its authors give it away.
    """
    hint = f"Get {name}_train.tar.gz from {url} (access on request) and unpack it there."
    return Adapter(name=name, kind="3d", skeleton=SKELETON_NAME, list_units=functools.partial(list_units, hint=hint),
                   load_unit=functools.partial(load_unit, hint=hint),
                   detection_rule=DetectionRule(min_iou=0.5, min_score=0.2, unmatched="drop"))


def list_units(raw_dir: pathlib.Path, split: str, hint: str) -> list[dict[str, str]]:
    """The videos; see `Adapter.list_units`."""
    paths = sorted(raw_dir.glob("train/*/videos/*/*.mp4"))
    if not paths:
        raise FileNotFoundError(f"no videos {raw_dir / 'train' / '*' / 'videos' / '*' / '*.mp4'}. {hint}")
    return [{"subject": path.parts[-4], "camera": path.parts[-2], "sequence": path.stem} for path in paths
            if split == "train"]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str], hint: str) -> Iterator[RawExample | ValueError]:
    """The people of one video in the frames that are kept; a `ValueError` for one who is not in front of the camera."""
    subject, camera_id, sequence = unit["subject"], unit["camera"], unit["sequence"]
    folder = raw_dir / "train" / subject
    camera = read_camera(folder / "camera_parameters" / camera_id / f"{sequence}.json", hint)
    poses_path = folder / "joints3d_25" / f"{sequence}.json"
    poses = read_poses(poses_path, hint)
    video = folder / "videos" / camera_id / f"{sequence}.mp4"
    # Videos may go on behind the end of the labels.
    if (count := num_frames(video, hint)) < poses.shape[1] - COUNT_TOLERANCE:
        raise ValueError(f"{video} has {count} frames, {poses_path} has {poses.shape[1]} poses; expected as many or more "
                         "frames. Was the video cut short, or are the files of different sequences?")
    is_kept = np.array([_is_kept(person[:count]) for person in poses])
    for frame, image in read_frames(video, np.flatnonzero(is_kept.any(axis=0)), hint):
        for person in np.flatnonzero(is_kept[:, frame]):
            joints3d_world = poses[person, frame]
            bbox = joints_box(image_points(joints3d_world, camera), BOX_SCALE)
            if bbox is None:
                yield ValueError(f"{poses_path}: frame {frame}, person {person}: fewer than two joints are labelled and in "
                                 f"front of camera {camera_id}")
                continue
            yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=joints3d_world, provenance={
                "source": video.relative_to(raw_dir).as_posix(), "subject": subject, "sequence": f"{subject}/{sequence}",
                "camera": camera_id, "frame": frame, "person": int(person)})


def read_camera(path: pathlib.Path, hint: str = "") -> Camera:
    """The camera of a video. Raises: FileNotFoundError followed by `hint`; ValueError naming file and field."""
    content = read_json(path, hint)
    try:
        extrinsics, lens = content["extrinsics"], content["intrinsics_w_distortion"]  # videos are as the lens makes them
        rotation, position = extrinsics["R"], np.reshape(extrinsics["T"], 3)  # T is no translation: it is the camera's place
        (fx, fy), (cx, cy), (k1, k2, k3), (p1, p2) = (np.ravel(lens[key]) for key in ("f", "c", "k", "p"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected extrinsics with R and T (3 numbers), and intrinsics_w_distortion with f and c (2 "
                         f"numbers each), k (3) and p (2); problem: {error!r}") from error
    return camera_from([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], rotation, position=position, distortion=[k1, k2, p1, p2, k3],
                       world_up=[0, 0, 1], unit_mm=MM_PER_METRE, where=str(path))


def read_poses(path: pathlib.Path, hint: str = "") -> np.ndarray:
    """[num_people, num_frames, 25, 3] mm, world; nan where there is no label.

    Raises: FileNotFoundError followed by `hint`; ValueError naming the file.
    """
    content = read_json(path, hint)
    try:
        poses = np.asarray(content["joints3d_25"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected an array joints3d_25; problem: {error!r:.300}") from error
    if poses.ndim not in (3, 4) or poses.shape[-2:] != (NUM_JOINTS, 3) or not poses.size:
        raise ValueError(f"{path}: joints3d_25 has shape {list(poses.shape)}, expected [frames, 25, 3] or [people, frames, 25, "
                         "3]")
    if not np.isfinite(poses).any():
        raise ValueError(f"{path}: joints3d_25 has no finite number")
    return MM_PER_METRE * poses.reshape(-1, *poses.shape[-3:])


def _is_kept(poses: np.ndarray) -> list[bool]:
    """For each frame of one person, [num_frames, 25, 3] mm, whether it is kept."""
    sampler = FrameSampler(MIN_MOVEMENT_MM, buffer=None, newly_valid=True, nan_unchanged=True)
    return [sampler.keep(pose) for pose in poses]
