"""AIST++ (Li et al., ICCV 2021): 30 dancers before nine cameras at 60 Hz (Tsuchida et al., ISMIR 2019), markerless 3D labels.

    RAW_DIR/videos/gBR_sBM_c01_d04_mBR0_ch01.mp4            the refined videos of 10 Mbit/s; cNN is the camera
    RAW_DIR/{annotations,aist_plusplus_final}/keypoints3d/gBR_sBM_cAll_d04_mBR0_ch01.pkl     17 joints, world, cm
    RAW_DIR/{annotations,aist_plusplus_final}/cameras/mapping.txt, {setting}.json            cameras, cm
    RAW_DIR/{annotations,aist_plusplus_final}/splits/pose_{train,val,test}.txt, ignore_list.txt

Frames are kept in which some joint has moved by 100 mm; boxes are those of the projected joints, enlarged. Left out are the
sequences that the authors ignore, and two views that they ignore: one is out of step, one is another video. Camera 10 moves
and has no calibration. World: y up, mm.
"""

import logging
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, check_image_size, image_points
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import first_existing, joints_box, path_inside, read_json
from datasets.readers.pickles import read_pickle
from datasets.readers.text import read_text
from datasets.readers.video import frame_rate, num_frames, read_frames
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("aist_19")  # the file's 17 joints, the midpoint of the shoulders, and that of the hips
MIDPOINTS = [[SKELETON.joint_names.index(f"{side}_{joint}") for side in ("left", "right")] for joint in ("shoulder", "hip")]
SPLIT_FILES = {"train": "pose_train.txt", "validation": "pose_val.txt", "test": "pose_test.txt"}
ANNOTATION_FOLDERS = ("annotations", "aist_plusplus_final")  # the latter is what the archive calls it
SKIPPED_VIEWS = {("gBR_sBM_cAll_d04_mBR0_ch01", 5), ("gJB_sBM_cAll_d07_mJB3_ch05", 7)}
ROWS_PER_SECOND = 60
MM_PER_CM = 10.0
MIN_MOVEMENT_MM = 100.0
MAX_SURPLUS_FRAMES = 60  # that video or labels may have more than the other
BOX_SCALE = 1.15
HINT = ("Get the annotations from https://google.github.io/aistplusplus_dataset and the refined videos from "
        "https://aistdancedb.ongaaccel.jp and unpack them there.")
_VIDEO_NAME = re.compile(r"(\w+)_c0([1-9])_(d\d+)_(\w+)\.mp4")

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The videos; see `Adapter.list_units`. Sequences of which there are none are left out with a warning."""
    if split not in SPLIT_FILES:
        return []
    folder = _annotation_folder(raw_dir)
    sequences = set(read_text(folder / "splits" / SPLIT_FILES[split], HINT).split())
    sequences -= set(read_text(folder / "ignore_list.txt", HINT).split())
    names = sorted(path.name for path in (raw_dir / "videos").glob("*.mp4"))
    views = {name: _view(name) for name in names if _VIDEO_NAME.fullmatch(name)}
    if not views:
        raise FileNotFoundError(f"no videos of cameras c01 to c09 in {raw_dir / 'videos'}. {HINT}")
    if missing := sequences - {sequence for sequence, _ in views.values()}:
        logger.warning("aist, %s: no videos of %d of %d sequences, %s, say; they are left out. %s", split, len(missing),
                       len(sequences), min(missing), HINT)
    return [f"videos/{name}" for name, view in views.items() if view[0] in sequences and view not in SKIPPED_VIEWS]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The frames of one video that are kept; a `ValueError` for one in which too few joints are labelled for a box."""
    video, folder = raw_dir / unit, _annotation_folder(raw_dir)
    sequence, camera_number = _view(video.name)
    camera, image_size = read_camera(folder, sequence, camera_number)
    labels_path = folder / "keypoints3d" / f"{sequence}.pkl"
    poses = read_poses(labels_path)
    count = num_frames(video, HINT)
    frames = frame_of_rows(len(poses), frame_rate(video, HINT))
    if abs(count - 1 - frames[-1]) > MAX_SURPLUS_FRAMES:
        raise ValueError(f"{video} has {count} frames, the {len(poses)} rows of {labels_path} belong to {frames[-1] + 1}; "
                         f"expected the same, up to {MAX_SURPLUS_FRAMES}. Is one of the files cut short, or of another "
                         "sequence?")
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    kept_rows = {}  # by their frames
    for row in range(len(poses)):
        if sampler.keep(poses[row]) and frames[row] < count:
            kept_rows.setdefault(int(frames[row]), row)
    for (frame, image), row in zip(read_frames(video, kept_rows), kept_rows.values(), strict=True):
        check_image_size(image, image_size, str(video))
        if (bbox := joints_box(image_points(poses[row], camera), BOX_SCALE)) is None:
            yield ValueError(f"{labels_path}: row {row}: fewer than two joints of keypoints3d_optim are in view of camera "
                             f"{camera_number}")
            continue
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=poses[row], provenance={
            "source": unit, "subject": sequence.split("_")[3], "sequence": sequence, "camera": f"c{camera_number:02d}",
            "frame": frame, "row": row})


def frame_of_rows(num_rows: int, video_rate: float) -> np.ndarray:
    """[num_rows] int64: the frame of a video that is nearest in time to each row of the labels.

    Rows are at 60 Hz exactly, videos are not: 59.94 is frequent. To round all frames' times up to those of the rows would
    show each row the frame before its own.
    """
    return np.floor(np.arange(num_rows) * video_rate / ROWS_PER_SECOND + 0.5).astype(np.int64)


def read_camera(folder: pathlib.Path, sequence: str, camera_number: int) -> tuple[Camera, tuple[int, int]]:
    """A camera by its number, from 1, and (width, height) of its images. Raises: as `read_poses`."""
    mapping = folder / "cameras" / "mapping.txt"
    settings = dict(words for line in read_text(mapping, HINT).splitlines() if len(words := line.split()) == 2)
    if sequence not in settings:
        raise ValueError(f"{mapping} has no line for {sequence}, expected its name and that of a camera setting")
    path = path_inside(folder / "cameras", f"{settings[sequence]}.json", f"{mapping}: {sequence}")
    where = f"{path}: camera {camera_number}"
    tables = read_json(path, HINT)
    try:
        table = tables[camera_number - 1]
        width, height = (int(number) for number in table["size"])
        intrinsics, rotation, translation, distortion = (
            table[key] for key in ("matrix", "rotation", "translation", "distortions"))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: expected a list of nine tables with size, matrix, rotation, translation and distortions; "
                         f"problem: {error!r}") from error
    return camera_from(intrinsics, rotation, translation, distortion=distortion, world_up=[0, 1, 0], unit_mm=MM_PER_CM,
                       where=where), (width, height)


def read_poses(path: pathlib.Path) -> np.ndarray:
    """[num_rows, 19, 3] mm, world; nan where there is no label. Raises: FileNotFoundError; ValueError naming the file."""
    content = read_pickle(path, HINT)
    try:
        poses = MM_PER_CM * np.asarray(content["keypoints3d_optim"], np.float64)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a dictionary with an array keypoints3d_optim; problem: {error!r}") from error
    if poses.ndim != 3 or poses.shape[1:] != (17, 3) or not len(poses):
        raise ValueError(f"{path}: keypoints3d_optim has shape {list(poses.shape)}, expected [rows, 17, 3]")
    poses = np.where(np.isfinite(poses).all(axis=-1, keepdims=True), poses, np.nan)
    return np.concatenate([poses, *(poses[:, pair].mean(axis=1, keepdims=True) for pair in MIDPOINTS)], axis=1)


def _view(video_name: str) -> tuple[str, int]:
    """Sequence, as the annotations name it, and number of the camera."""
    group, camera, dancer, rest = _VIDEO_NAME.fullmatch(video_name).groups()
    return f"{group}_cAll_{dancer}_{rest}", int(camera)


def _annotation_folder(raw_dir: pathlib.Path) -> pathlib.Path:
    return first_existing(*(raw_dir / name for name in ANNOTATION_FOLDERS))


ADAPTER = Adapter(name="aist", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
