"""IKEA ASM (Ben-Shabat et al., WACV 2021): people who assemble furniture, three cameras; joints triangulated from detections.

    RAW_DIR/[indexing_files/]{train,test}_cross_env.txt                 the official split: FURNITURE/SCAN, one a line
    RAW_DIR/Calibration/camera_parameters.pkl                           by scene and camera: K, dist_coefs, R, T in cm
    RAW_DIR/FURNITURE/SCAN/dev{1,2,3}/images/scan_video.avi             1920 x 1080 px
    RAW_DIR/FURNITURE/SCAN/dev{1,2,3}/pose3d/NNNNNN.json                of frame NNNNNN: 17 joints of that camera's frame, cm

About one frame in a hundred is annotated. Kept are those with enough joints in the image in which the person has moved, or
shows another joint, since the frame kept before. Scans in neither list (those in special_test) are not read; the published
training mix trains on both lists. Boxes are those of the projected joints, enlarged. World: the frame of dev2, whose -y axis
points about upwards, mm.
"""

import logging
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, check_image_size
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import is_in_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import first_existing, joints_box, path_inside, read_json
from datasets.readers.pickles import read_pickle
from datasets.readers.text import read_text
from datasets.readers.video import read_frames
from posepile.geometry.camera import Camera, project, transform
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("ikea_17")
CAMERAS = ("dev1", "dev2", "dev3")
IMAGE_SIZE = (1920, 1080)
MM_PER_CM = 10.0
MIN_MOVEMENT_MM = 100.0
MIN_VISIBLE_JOINTS = 4
BOX_SCALE = 1.2
HINT = ("Get the RGB videos (multi-view and top view), the pose annotations, the camera parameters and the utility files from "
        "https://ikeaasm.github.io and unpack them there.")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, str]]:
    """The annotated videos; see `Adapter.list_units`. Those that are missing are left out with a warning."""
    if split not in ("train", "test"):
        return []
    path = first_existing(*(folder / f"{split}_cross_env.txt" for folder in (raw_dir / "indexing_files", raw_dir)))
    scans = [line.strip() for line in read_text(path, HINT).splitlines() if line.strip()]
    expected = [(path_inside(raw_dir, scan, str(path)), {"scan": scan, "camera": camera})
                for scan in scans for camera in CAMERAS]
    units = [unit for folder, unit in expected if _video(folder / unit["camera"]).is_file()
             and any((folder / unit["camera"] / "pose3d").glob("*.json"))]
    if not units:
        raise FileNotFoundError(f"no scan of {path} has a video and poses, expected as dev1/images/scan_video.avi and "
                                f"dev1/pose3d/*.json in {raw_dir / 'FURNITURE' / 'SCAN'}. {HINT}")
    if len(units) < len(expected):
        logger.warning("ikea_asm, %s: %d of the %d videos of %s, or their poses, are missing; they are left out. %s", split,
                       len(expected) - len(units), len(expected), path, HINT)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str]) -> Iterator[RawExample | ValueError]:
    """The frames of one video that are kept; a `ValueError` for one whose annotation is wrong."""
    scan = pathlib.PurePosixPath(unit["scan"])
    folder = raw_dir / scan / unit["camera"]
    camera = read_camera(raw_dir / "Calibration" / "camera_parameters.pkl", scan.name, unit["camera"])
    sampler = FrameSampler(MIN_MOVEMENT_MM, newly_valid=True)
    kept = {}
    for path in sorted((folder / "pose3d").glob("*.json")):
        try:
            frame, joints3d_camera = read_pose(path)
        except ValueError as error:
            yield error
            continue
        joints2d = project(joints3d_camera, camera.intrinsics, camera.distortion)
        if np.count_nonzero(is_in_image(joints2d, IMAGE_SIZE)) >= MIN_VISIBLE_JOINTS and sampler.keep(joints3d_camera):
            kept[frame] = joints3d_camera, joints_box(joints2d, BOX_SCALE)
    video = _video(folder)
    camera_to_world = np.linalg.inv(camera.world_to_camera)
    for frame, image in read_frames(video, kept, HINT):
        check_image_size(image, IMAGE_SIZE, str(video))
        joints3d_camera, bbox = kept[frame]
        yield RawExample(
            image=image, bbox=bbox, camera=camera, joints3d_world=transform(joints3d_camera, camera_to_world),
            provenance={"source": video.relative_to(raw_dir).as_posix(), "subject": scan.name.split("_")[0],
                        "sequence": unit["scan"], "camera": unit["camera"], "frame": frame})


def read_camera(path: pathlib.Path, scan: str, camera: str) -> Camera:
    """A camera as it stood when a scan was recorded: its scene is the fourth part of the scan's name.

    Raises: FileNotFoundError; ValueError naming file, scene and camera if it is not there or broken.
    """
    scene = [*scan.split("_"), "", "", "", ""][3]
    where = f"{path}: scene {scene!r} (of scan {scan}), camera {camera}"
    try:
        entry = read_pickle(path, HINT)[scene][camera]
        intrinsics, distortion, rotation, translation = (entry[key] for key in ("K", "dist_coefs", "R", "T"))
    except (LookupError, TypeError) as error:
        raise ValueError(f"{where}: expected K, dist_coefs, R and T; not there: {error!r:.100}") from error
    return camera_from(intrinsics, rotation, translation=translation, distortion=distortion, unit_mm=MM_PER_CM,
                       world_up=[0, -1, 0], where=where)


def read_pose(path: pathlib.Path) -> tuple[int, np.ndarray]:
    """The number of a frame, and its joints [17, 3], mm, in the camera's frame; nan where one was not triangulated.

    Raises: ValueError naming the file if it is not such a pose.
    """
    content = read_json(path)
    try:
        frame = int(re.fullmatch(r"\d{6}", path.stem)[0])
        if content["format"] != "ikea":
            raise ValueError(f"its format is {content['format']!r:.100}")
        joints = np.asarray(content["pose_keypoints_3d"], np.float64).reshape(SKELETON.num_joints, 4)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected the number of a frame for a name, the format ikea, and X, Y, Z and confidence of "
                         f"{SKELETON.num_joints} joints as pose_keypoints_3d; problem: {error!r:.200}") from error
    if not np.isfinite(joints).all():
        raise ValueError(f"{path}: pose_keypoints_3d has nan or infinite numbers; expected 0 for a missing joint")
    is_labelled = (joints[:, 3] > 0) & joints[:, :3].any(axis=1)
    return frame, np.where(is_labelled[:, None], MM_PER_CM * joints[:, :3], np.nan)


def _video(folder: pathlib.Path) -> pathlib.Path:
    return folder / "images" / "scan_video.avi"


ADAPTER = Adapter(name="ikea_asm", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.3, unmatched="drop"))
