"""Berkeley MHAD (Ofli et al., WACV 2013): twelve people doing eleven actions five times, before 12 cameras and two Kinects.

    RAW_DIR/Camera/Cluster{01..04}/Cam{cc}/S{ss}/A{aa}/R{rr}/img_l{ll}_c{cc}_s{ss}_a{aa}_r{rr}_NNNNN.pgm      raw Bayer mosaics
    RAW_DIR/Kinect/Kin{01,02}/S{ss}/A{aa}/R{rr}/kin_k{kk}_s{ss}_a{aa}_r{rr}_color_NNNNN.ppm
    RAW_DIR/Camera/Correspondences/corr_moc_img_s{ss}_a{aa}_r{rr}.txt           number of the image, time, that of the pose
    RAW_DIR/Kinect/Correspondences/corr_moc_kin{kk}_s{ss}_a{aa}_r{rr}.txt       the same
    RAW_DIR/Mocap/OpticalData/moc_s{ss}_a{aa}_r{rr}.c3d                         43 markers at 480 Hz
    RAW_DIR/Calibration/{RwTw_*.txt,camcfg_*.yml}                               of l01, l02, l03, l04, k01 and k02

Any of the cameras; the actions A01 to A11 only, not the T-poses and the empty studio. Everything is for training: the usual
split by subjects is for recognising actions. An image is kept if a marker has moved away from all of its places in the images
of that video kept before. World: y up, mm.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

import cv2
import numpy as np

from datasets.calibration import camera_from, image_points, read_opencv_yaml, rotation_from_vector
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import joints_box
from datasets.readers.c3d import read_c3d
from datasets.readers.text import read_numbers, read_text
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("berkeley_mhad_43")  # in the order of the files
HINT = ("Get the images of the cameras (or Kinects), the optical motion capture data and the calibration from "
        "https://tele-immersion.citris-uc.org/berkeley_mhad and unpack them there.")
ACTIVITIES = ("jumping in place", "jumping jacks", "bending", "punching", "waving two hands", "waving one hand", "clapping",
              "throwing", "sitting down and standing up", "sitting down", "standing up")
IMAGE_SIZE = (640, 480)
MIN_MOVEMENT_MM = 100.0
BOX_SCALE = 1.05  # of the box around the markers
_DIGITS = "[0-9]" * 5
_FOLDER = re.compile(r"(?:Camera/Cluster(\d\d)/Cam(?!00)(\d\d)|Kinect/Kin(\d\d))/(S\d\d)/(A(?:0[1-9]|1[01]))/(R\d\d)")


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The folders with the images of a sequence from one camera, see `Adapter.list_units`."""
    folders = sorted(path.relative_to(raw_dir).as_posix() for parent in ("Camera/Cluster*/Cam*", "Kinect/Kin*")
                     for path in raw_dir.glob(f"{parent}/S*/A*/R*") if path.is_dir())
    units = [folder for folder in folders if _FOLDER.fullmatch(folder)]
    if not units:
        raise FileNotFoundError(f"no folders Camera/Cluster*/Cam*/S*/A*/R* or Kinect/Kin*/S*/A*/R* in {raw_dir}. {HINT}")
    return units if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The images of one folder in which the person has moved; a `ValueError` for an unreadable one."""
    cluster, camera_number, kinect, subject, action, repetition = _FOLDER.fullmatch(unit).groups()
    sequence = f"{subject}_{action}_{repetition}".lower()
    if kinect:
        rig, camera_number, pattern = f"k{kinect}", "01", f"kin_k{kinect}_{sequence}_color_{_DIGITS}.ppm"
        correspondences = raw_dir / "Kinect" / "Correspondences" / f"corr_moc_kin{kinect}_{sequence}.txt"
    else:
        rig, pattern = f"l{cluster}", f"img_l{cluster}_c{camera_number}_{sequence}_{_DIGITS}.pgm"
        correspondences = raw_dir / "Camera" / "Correspondences" / f"corr_moc_img_{sequence}.txt"
    images = {int(path.stem[-5:]): path for path in (raw_dir / unit).glob(pattern)}
    poses_path = raw_dir / "Mocap" / "OpticalData" / f"moc_{sequence}.c3d"
    poses, pairs = read_poses(poses_path), read_correspondences(correspondences)
    if missing := dict.fromkeys(pair for pair in pairs if pair[0] not in images or not 0 <= pair[1] < len(poses)):
        yield ValueError(f"{correspondences}: {len(missing)} of {len(pairs)} rows, first (image, pose) = "
                         f"{next(iter(missing))}, name an image that is not in {unit} or a pose beyond the {len(poses)} of "
                         f"{poses_path}")
    camera = read_camera(raw_dir / "Calibration", rig, int(camera_number))
    sampler = FrameSampler(MIN_MOVEMENT_MM, buffer=None, newly_valid=True, nan_unchanged=True)
    for number, pose_index in pairs:
        if (number, pose_index) in missing or not sampler.keep(poses[pose_index]):
            continue
        joints3d_world, path = poses[pose_index], images[number]
        bbox = joints_box(image_points(joints3d_world, camera), BOX_SCALE)
        try:
            if bbox is None:
                raise ValueError(f"{poses_path}: frame {pose_index}: fewer than two markers are in front of the camera {rig}")
            image = path if kinect else read_bayer(path)
            height, width = load_image(image).shape[:2]
            if (width, height) != IMAGE_SIZE:
                raise ValueError(f"image {path} has {width} x {height} px, its camera is calibrated for {IMAGE_SIZE[0]} x "
                                 f"{IMAGE_SIZE[1]}")
        except ValueError as error:
            yield error
            continue
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=joints3d_world, provenance={
            "source": path.relative_to(raw_dir).as_posix(), "subject": subject, "sequence": f"{subject}/{action}/{repetition}",
            "activity": ACTIVITIES[int(action[1:]) - 1], "camera": f"{rig}_c{camera_number}", "frame": number})


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_frames, 43, 3] mm, world of the calibration; nan for hidden markers. Raises: FileNotFoundError; ValueError."""
    points = read_c3d(path, HINT).points
    if points.shape[1] != SKELETON.num_joints:
        raise ValueError(f"{path} has {points.shape[1]} markers, expected {SKELETON.num_joints}")
    return points[..., [0, 2, 1]] * [-1, 1, 1]  # the files are z up


def read_correspondences(path: pathlib.Path) -> list[tuple[int, int]]:
    """The numbers of images and of their poses, both from 0. Raises: FileNotFoundError; ValueError naming file and line."""
    rows = read_numbers(path, HINT)
    if not rows or any(len(row) != 3 or not np.isfinite(row).all() for row in rows):
        raise ValueError(f"{path}: expected three numbers in each line: image, time, pose")
    return [(int(image), int(pose)) for image, _, pose in rows]


def read_camera(folder: pathlib.Path, rig: str, number: int) -> Camera:
    """A camera of a cluster, counted from 1, whose pose is that of the cluster in the world and then its own in the cluster.

    Raises: FileNotFoundError; ValueError naming file and field.
    """
    cluster_rotation, cluster_translation = _read_cluster_pose(folder / f"RwTw_{rig}.txt")
    path = folder / f"camcfg_{rig}.yml"
    tables = {name: table for name, table in read_opencv_yaml(path, HINT).items() if re.fullmatch(r"Camera_\d+", name)}
    where = f"{path}: camera {number} of {len(tables)}"
    try:
        table = tables[sorted(tables, key=lambda name: int(name[7:]))[number - 1]]
        intrinsics, distortion, pose = (np.ravel(table[key]) for key in ("K", "Dist", "PosRel"))
    except (LookupError, TypeError) as error:
        raise ValueError(f"{where}: expected tables Camera_* with K, Dist and PosRel; problem: {error!r}") from error
    if pose.size != 6:
        raise ValueError(f"{where}: PosRel has {pose.size} numbers, expected 3 of a translation and 3 of a rotation")
    rotation = rotation_from_vector(pose[3:], f"{where}: PosRel")
    return camera_from(intrinsics, rotation @ cluster_rotation, rotation @ cluster_translation + pose[:3],
                       distortion=distortion, world_up=[0, 1, 0], where=where)


def _read_cluster_pose(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3], mm, from world to cluster."""
    found = re.fullmatch(r"\s*Rw\s*=([^=]*)Tw\s*=([^=]*)", read_text(path, HINT))
    try:
        rotation, translation = (np.array(numbers.split(), np.float64) for numbers in (found.groups() if found else ("", "")))
        return rotation.reshape(3, 3), translation.reshape(3)
    except ValueError as error:
        raise ValueError(f"{path}: expected Rw= with 9 numbers and Tw= with 3; problem: {error}") from error


def read_bayer(path: pathlib.Path) -> np.ndarray:
    """[height, width, 3] uint8 RGB of an image whose pixels are green and red in even rows, blue and green in odd ones.

    Raises: ValueError naming the file.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    mosaic = None
    with contextlib.suppress(cv2.error):
        mosaic = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if mosaic is None or mosaic.ndim != 2 or mosaic.dtype != np.uint8:
        raise ValueError(f"image {path} ({data.size} bytes) is truncated, damaged or not of 8-bit grey values")
    return cv2.cvtColor(mosaic, cv2.COLOR_BayerGRBG2RGB)


ADAPTER = Adapter(name="berkeley_mhad", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
