"""MADS (Zhang et al., Image and Vision Computing 2017): martial arts, dancing and sports before three cameras; markers.

    RAW_DIR/[MADS/]multi_view_data/ACTION/ACTION_SEQUENCE_C{0,1,2}.avi
    RAW_DIR/[MADS/]multi_view_data/ACTION/ACTION_SEQUENCE_GT.mat          GTpose2: a cell per frame, [15 or 19, 3], world, mm
    RAW_DIR/[MADS/]multi_view_data/ACTION/Calib_Cam{0,1,2}.mat            cameras, of Bouguet's calibration toolbox

ACTION is HipHop, Jazz, Kata, Sports or Taichi. There is one split, train; the stereo and depth part is not read, as in the
published training mix. Joints that a file does not have (feet and hands, of 15 joints) are nan, and so are those that the
motion capture has lost; frames without any are left out. World: y up, mm.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, read_mat
from datasets.readers.files import broken_file_errors
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("mads_19")  # in the order of the files
# The rows of SKELETON, by the number of joints of a file; both are in the same order.
ROWS = {19: list(range(19)),
        15: [i for i, name in enumerate(SKELETON.joint_names) if not name.endswith(("_foot", "_hand"))]}
HINT = "Get MADS_multiview from https://visal.cs.cityu.edu.hk/research/mads and unpack it there."
MIN_MOVEMENT_MM = 100.0
BOX_SCALE = 1.2  # of the box around the joints
MAX_SURPLUS_FRAMES = 50  # that video or labels may have more; a larger difference means another frame rate
# Where the principal point lies, in image sizes: pictures are reported of half the size that the paper states.
PRINCIPAL_POINT_RANGE = 0.25, 0.75


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The videos; see `Adapter.list_units`."""
    if split != "train":
        return []
    folders = [raw_dir / "multi_view_data", raw_dir / "MADS" / "multi_view_data"]
    videos = sorted(path for folder in folders for path in folder.glob("*/*_C[012].avi"))
    if not videos:
        raise FileNotFoundError(f"no videos *_C0.avi, *_C1.avi, *_C2.avi in folders of {folders[0]} or {folders[1]}. {HINT}")
    return [path.relative_to(raw_dir).as_posix() for path in videos]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The frames of one video in which the person has moved; a `ValueError` for one in which no box can be made."""
    video = raw_dir / unit
    sequence, _, camera_id = video.stem.rpartition("_C")
    camera = read_camera(video.with_name(f"Calib_Cam{camera_id}.mat"))
    labels = video.with_name(f"{sequence}_GT.mat")
    poses = read_poses(labels)
    count = num_frames(video, HINT)
    if abs(len(poses) - count) > MAX_SURPLUS_FRAMES:
        raise ValueError(f"{video} has {count} frames, {labels.name} {len(poses)} poses; expected the same, up to "
                         f"{MAX_SURPLUS_FRAMES}. Is one of the files cut short, or the video of another rate?")
    sampler = FrameSampler(MIN_MOVEMENT_MM, newly_valid=True)
    for i, image in read_frames(video, [i for i, pose in enumerate(poses[:count]) if sampler.keep(pose)]):
        size = np.array([image.shape[1], image.shape[0]])
        low, high = np.outer(PRINCIPAL_POINT_RANGE, size)
        if not ((low < camera.intrinsics[:2, 2]) & (camera.intrinsics[:2, 2] < high)).all():
            raise ValueError(f"{video} is of {size[0]} x {size[1]} px, but KK of its calibration has the principal point "
                             f"{camera.intrinsics[:2, 2].round(1).tolist()}; has the video been scaled?")
        bbox = joints_box(image_points(poses[i], camera), BOX_SCALE)
        if bbox is None:
            yield ValueError(f"{labels}: GTpose2, frame {i}: fewer than two joints are labelled and in front of the camera")
            continue
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=poses[i], provenance={
            "source": unit, "sequence": sequence, "activity": video.parent.name, "camera": int(camera_id), "frame": i})


def read_camera(path: pathlib.Path) -> Camera:
    """A camera from its .mat file. Raises: FileNotFoundError; ValueError naming file and variable."""
    intrinsics, lens, rotation, translation = (read_mat(path, name, HINT) for name in ("KK", "kc", "om_ext", "T_ext"))
    return camera_from(intrinsics, rotation, translation=translation, distortion=lens, world_up=[0, 1, 0], where=str(path))


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, 19, 3] mm, world; nan where a joint is missing. Raises: FileNotFoundError; ValueError naming the file."""
    cells = np.asarray(read_mat(path, "GTpose2", HINT))
    cells = cells.ravel() if cells.dtype == object else [cells]  # the cell of a single frame comes unwrapped
    poses = np.full((len(cells), SKELETON.num_joints, 3), np.nan)
    with broken_file_errors(path, "a cell array GTpose2 of poses"):
        for i, cell in enumerate(cells):
            pose = np.asarray(cell, np.float64)
            if not np.isfinite(pose).any():
                continue  # lost by the motion capture
            if pose.shape not in ((15, 3), (19, 3)):
                raise ValueError(f"frame {i} has shape {list(pose.shape)}, expected [15, 3] or [19, 3]")
            poses[i, ROWS[len(pose)]] = np.where(np.isfinite(pose).all(axis=1, keepdims=True), pose, np.nan)
        if np.isnan(poses).all():
            raise ValueError("no frame has a joint")
    return poses


ADAPTER = Adapter(name="mads", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.0, min_score=0.2))
