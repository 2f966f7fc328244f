"""MPI-INF-3DHP (Mehta et al., 3DV 2017): 8 actors before 14 cameras and a green screen; a test set indoors and outdoors.

    RAW_DIR/S{1..8}/Seq{1,2}/annot.mat, camera.calibration                     labels and cameras, MATLAB 5 and text
    RAW_DIR/S{1..8}/Seq{1,2}/imageSequence/video_{0..13}.avi                   any of them: the cameras come in groups
    RAW_DIR/S{1..8}/Seq{1,2}/{FGmasks,ChairMasks}/video_{0..13}.avi            where there are some
    RAW_DIR/[mpi_inf_3dhp_test_set/][mpi_inf_3dhp_test_set/]TS{1..6}/annot_data.mat, imageSequence/img_{000001..}.jpg

The validation split is the test set, as in the published training, which has no actor to spare. World: y up, mm. The test
set has 17 of the 28 joints, the others are nan; its universal labels, of bodies scaled to one height, are in the provenance
as `joints3d_universal`: [17, 3], mm, in the order of mpi_inf_3dhp_17, the world that of the record's camera.
"""

import itertools
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from datasets.calibration import camera_from, fit_intrinsics
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import foreground_parts, is_in_image, part_of_person
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import first_existing, joints_box, read_mat
from datasets.readers.hdf5 import open_hdf5, read_array
from datasets.readers.text import read_text
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera, project, transform
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("mpi_inf_3dhp_28")
TEST_SKELETON = load_skeleton("mpi_inf_3dhp_17")
TEST_JOINTS = [SKELETON.joint_names.index(name) for name in TEST_SKELETON.joint_names]
HINT = ("Get the training set (get_dataset.sh) and the test set from https://vcai.mpi-inf.mpg.de/3dhp-dataset and unpack "
        "them there.")
# Where the joints of SKELETON stand among the 28 of annot.mat.
JOINTS = [0, 1, 2, 8, 12, 13, 17, 21, 22, 26, 27, 7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 3, 6, 4]
# Frames of {subject: (Seq1, Seq2)}; labels can go on behind the end.
NUM_FRAMES = {1: (6416, 12430), 2: (6502, 6081), 3: (12488, 12283), 4: (6171, 6675),
              5: (12820, 12312), 6: (6188, 6145), 7: (6239, 6320), 8: (6468, 6054)}
SHORT_VIDEOS = {(6, 2, 2): 3911}  # subject, sequence, camera: frames
MIN_MOVEMENT_MM = 100.0
MIN_VISIBLE_JOINTS = 28 // 3
BOX_SCALE = 1.05
MIN_FOREGROUND = 32  # code value of the masks' red; of the chair masks, whose chairs are dark, the most of a chair
MAX_PROJECTION_ERROR = 5.0  # px, median; hips and spine are labelled up to 2 px away in 2D
TEST_SEQUENCES = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
ACTIVITIES = ("Stand/Walk", "Exercise", "Sit on Chair", "Reach/Crouch", "On Floor", "Sports", "Misc.")
SCENES = dict(zip(TEST_SEQUENCES, ["green screen"] * 2 + ["studio"] * 2 + ["outdoor"] * 2, strict=True))
# Of the test cameras: fx, fy, cx, cy, px, roughly; k1, k2, p1, p2, k3; position, mm, and directions in the world. The lenses
# as published, except that cy is not multiplied by the pixels' aspect: the labels of TS1 and TS3 to TS6 agree with that.
INDOOR_CAMERA = {"intrinsics": (1500.172, 1500.832, 1017.387, 1043.03), "distortion": None,
                 "position": (3427.28, 1387.86, 309.42), "up": (-0.208215, 0.976233, 0.06014),
                 "right": (0.000575281, 0.0616098, -0.9981)}
OUTDOOR_CAMERA = {"intrinsics": (1683.983, 1672.594, 939.858, 560.14),
                  "distortion": (-0.276859611, 0.131125256, -0.000360494, -0.001149441, -0.049318332),
                  "position": (-2104.3074, 1038.6707, -4596.6367), "up": (0.025272345, 0.995038509, 0.096227370),
                  "right": (-0.939647257, -0.009210289, 0.342020929)}
MAX_CALIBRATION_ERROR = 15.0  # px, of fx, fy, cx, cy fitted to the labels; TS2 has 4.4
WORLD_UP = (0, 1, 0)

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The videos, or the sequences of the test set; see `Adapter.list_units`. What is missing is left out with a warning."""
    if split == "train":
        expected = {f"S{subject}/Seq{sequence}": (subject, sequence) for subject in NUM_FRAMES for sequence in (1, 2)}
        units = [{"subject": subject, "sequence": sequence, "camera": camera}
                 for folder, (subject, sequence) in expected.items() for camera in range(14)
                 if (raw_dir / folder / "imageSequence" / f"video_{camera}.avi").is_file()]
        found = {f"S{unit['subject']}/Seq{unit['sequence']}" for unit in units}
    else:
        expected = TEST_SEQUENCES
        units = [{"test_sequence": name} for name in expected if _test_folder(raw_dir, name).is_dir()]
        found = {unit["test_sequence"] for unit in units}
    missing = [name for name in expected if name not in found]
    if not units:
        raise FileNotFoundError(f"no {split} sequences in {raw_dir}, folders {', '.join(missing)}. {HINT}")
    if missing:
        logger.warning("mpi_inf_3dhp, %s: no %s in %s; they are left out. %s", split, ", ".join(missing), raw_dir, HINT)
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample]:
    """The frames of a video in which the person is in view and has moved; the valid frames of a test sequence."""
    return _load_test_sequence(raw_dir, **unit) if "test_sequence" in unit else _load_video(raw_dir, **unit)


def _load_video(raw_dir, subject, sequence, camera):
    folder = raw_dir / f"S{subject}" / f"Seq{sequence}"
    calibration, image_size = read_calibration(folder / "camera.calibration", camera)
    joints3d_camera = read_labels(folder / "annot.mat", camera, calibration)
    videos = {kind: folder / kind / f"video_{camera}.avi" for kind in ("imageSequence", "FGmasks", "ChairMasks")}
    videos = {kind: path for kind, path in videos.items() if kind == "imageSequence" or path.is_file()}
    count = min(SHORT_VIDEOS.get((subject, sequence, camera), NUM_FRAMES[subject][sequence - 1]), len(joints3d_camera),
                *(num_frames(path, HINT) for path in videos.values()))
    joints2d = project(joints3d_camera, calibration.intrinsics)
    is_visible = np.count_nonzero(is_in_image(joints2d, image_size), axis=1) >= MIN_VISIBLE_JOINTS
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    frames = [i for i in range(count) if is_visible[i] and sampler.keep(joints3d_camera[i])]
    images, foregrounds, chairs = (read_frames(videos[kind], frames) if kind in videos else itertools.repeat((None, None))
                                   for kind in ("imageSequence", "FGmasks", "ChairMasks"))
    camera_to_world = np.linalg.inv(calibration.world_to_camera)
    for (i, image), (_, foreground), (_, chair) in zip(images, foregrounds, chairs, strict=False):  # what is missing never ends
        bbox = joints_box(joints2d[i], BOX_SCALE)
        yield RawExample(
            image=correct_colours(image), bbox=bbox, camera=calibration,
            joints3d_world=transform(joints3d_camera[i], camera_to_world),
            mask=None if foreground is None else person_mask(foreground, chair, bbox),
            provenance={"source": videos["imageSequence"].relative_to(raw_dir).as_posix(), "subject": f"S{subject}",
                        "sequence": f"S{subject}/Seq{sequence}", "camera": camera, "frame": i})


def _load_test_sequence(raw_dir, test_sequence):
    folder = _test_folder(raw_dir, test_sequence)
    path = folder / "annot_data.mat"
    with open_hdf5(path, HINT) as file:
        joints3d_camera, univ_joints3d_camera = (
            read_array(file[name]).reshape(-1, 17, 3).astype(np.float64) for name in ("annot3", "univ_annot3"))
        joints2d = read_array(file["annot2"]).reshape(-1, 17, 2).astype(np.float64)
        is_valid, activities = (read_array(file[name]).ravel().astype(int) for name in ("valid_frame", "activity_annotation"))
    if len({len(array) for array in (joints3d_camera, univ_joints3d_camera, joints2d, is_valid, activities)}) > 1:
        raise ValueError(f"{path}: its arrays are of {len(joints3d_camera)}, {len(univ_joints3d_camera)}, {len(joints2d)}, "
                         f"{len(is_valid)} and {len(activities)} frames, expected the same of all")
    rows = np.flatnonzero(is_valid)
    if not ((activities[rows] >= 1) & (activities[rows] <= len(ACTIVITIES))).all():
        raise ValueError(f"{path}: activity_annotation has {np.unique(activities[rows]).tolist()} in valid frames, "
                         f"expected 1 to {len(ACTIVITIES)}")
    camera = _test_camera(str(path), INDOOR_CAMERA if test_sequence in TEST_SEQUENCES[:4] else OUTDOOR_CAMERA,
                          joints3d_camera[rows], joints2d[rows])
    camera_to_world = np.linalg.inv(camera.world_to_camera)
    for i in rows:
        image = folder / "imageSequence" / f"img_{i + 1:06d}.jpg"
        joints3d_world = np.full((SKELETON.num_joints, 3), np.nan)
        joints3d_world[TEST_JOINTS] = transform(joints3d_camera[i], camera_to_world)
        yield RawExample(
            image=image, bbox=joints_box(project(joints3d_camera[i], camera.intrinsics, camera.distortion), BOX_SCALE),
            camera=camera, joints3d_world=joints3d_world,
            provenance={"source": image.relative_to(raw_dir).as_posix(), "subject": test_sequence, "sequence": test_sequence,
                        "activity": ACTIVITIES[activities[i] - 1], "scene": SCENES[test_sequence], "camera": test_sequence,
                        "frame": int(i),
                        "joints3d_universal": transform(univ_joints3d_camera[i], camera_to_world).round(2).tolist()})


def read_calibration(path: pathlib.Path, camera_id: int) -> tuple[Camera, tuple[int, int]]:
    """A camera, and (width, height) of its images. The file has lines of a keyword and numbers, `name` the first of a camera.

    Raises: FileNotFoundError; ValueError naming file and camera.
    """
    tables = {}
    for block in re.split(r"^\s*name\b", read_text(path, HINT), flags=re.MULTILINE)[1:]:
        name, *lines = block.splitlines()
        tables[name.strip()] = {words[0]: words[1:] for line in lines if (words := line.split())}
    try:
        table = tables[str(camera_id)]
        width, height = (int(number) for number in table["size"])
        intrinsic, extrinsic = (np.array(table[key], np.float64).reshape(4, 4) for key in ("intrinsic", "extrinsic"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: camera {camera_id}: expected its name, and after it size with 2 numbers, intrinsic and "
                         f"extrinsic with 16 each ({error!r})") from error
    return camera_from(intrinsic[:3, :3], extrinsic[:3, :3], translation=extrinsic[:3, 3], world_up=WORLD_UP,
                       where=f"{path}: camera {camera_id}"), (width, height)


def read_labels(path: pathlib.Path, camera_id: int, camera: Camera) -> np.ndarray:
    """[num_frames, 28, 3] mm, in the frame of a camera, from annot.mat.

    Raises: FileNotFoundError; ValueError naming file and camera, also if its 3D labels do not project to its 2D ones.
    """
    where = f"{path}: camera {camera_id}"
    ids = np.ravel(read_mat(path, "cameras", HINT)).tolist()
    if camera_id not in ids:
        raise ValueError(f"{where} is not among its cameras: {ids}")
    joints3d, joints2d = (np.atleast_2d(np.asarray(read_mat(path, name)[ids.index(camera_id)], np.float64))
                          for name in ("annot3", "annot2"))
    if joints3d.shape != (len(joints2d), 84) or joints2d.shape[1] != 56:
        raise ValueError(f"{where}: annot3 has shape {list(joints3d.shape)} and annot2 {list(joints2d.shape)}; expected "
                         "[frames, 84] and [frames, 56]")
    joints3d, joints2d = joints3d.reshape(-1, 28, 3)[:, JOINTS], joints2d.reshape(-1, 28, 2)[:, JOINTS]
    _check_projection(joints3d, joints2d, camera.intrinsics, where)
    return joints3d


def person_mask(foreground: np.ndarray, chair: np.ndarray | None, bbox: np.ndarray) -> np.ndarray | None:
    """[height, width] bool: the connected part of the foreground whose box is most like the person's, without the chair.

    Args:
        foreground, chair: [height, width, 3] frames of the mask videos. Only their red is used: bright foreground, dark chair.
        bbox: [4] of the person.

    Returns: None if no foreground overlaps the box.
    """
    mask = part_of_person(*foreground_parts(foreground[..., 0] > MIN_FOREGROUND), bbox)
    return mask if mask is None or chair is None else mask & (chair[..., 0] >= MIN_FOREGROUND)


def correct_colours(image: np.ndarray) -> np.ndarray:
    """Brightens [height, width, 3] uint8 RGB by a gamma of 0.67, and takes the green cast of the studio out, in 8-bit Lab.

    Source: the published training on this data set.
    """
    values = np.arange(256) / 255
    lightness, a, b = cv2.split(cv2.cvtColor(cv2.LUT(image, np.uint8(np.round(255 * values ** 0.67))), cv2.COLOR_RGB2LAB))
    a = cv2.add(a, cv2.LUT(lightness, np.uint8(np.round((128 - 110) * 1.1 * values))))
    b = cv2.subtract(b, cv2.LUT(lightness, np.uint8(np.round((145 - 128) * 1.1 * values))))
    return cv2.cvtColor(cv2.merge([lightness, a, b]), cv2.COLOR_LAB2RGB)


def _test_camera(where: str, camera: dict[str, Any], joints3d_camera: np.ndarray, joints2d: np.ndarray) -> Camera:
    """Intrinsics are fitted to the labels, since those of TS2 are of another calibration than the published one."""
    intrinsics = fit_intrinsics(joints2d.reshape(-1, 2), joints3d_camera.reshape(-1, 3))
    fitted = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    if not (np.abs(fitted - camera["intrinsics"]) < MAX_CALIBRATION_ERROR).all():
        raise ValueError(f"{where}: annot2 and annot3 belong to a camera with fx, fy, cx, cy = {fitted.round(1).tolist()}, "
                         f"expected about {list(camera['intrinsics'])}")
    _check_projection(joints3d_camera, joints2d, intrinsics, where)
    up, right = np.array(camera["up"]), np.array(camera["right"])
    return camera_from(intrinsics, np.stack([right, -up, np.cross(up, right)]), position=camera["position"],
                       distortion=camera["distortion"], world_up=WORLD_UP, where=where)


def _check_projection(joints3d_camera: np.ndarray, joints2d: np.ndarray, intrinsics: np.ndarray, where: str) -> None:
    """Raises: ValueError if 3D labels do not project to the 2D labels, which are without the lens' distortion."""
    error = np.median(np.linalg.norm(project(joints3d_camera, intrinsics) - joints2d, axis=-1))
    if not error < MAX_PROJECTION_ERROR:  # nan, too
        raise ValueError(f"{where}: annot3 projects {error:.1f} px (median) away from annot2; expected less than "
                         f"{MAX_PROJECTION_ERROR}. Are labels and calibration of the same sequence?")


def _test_folder(raw_dir: pathlib.Path, name: str) -> pathlib.Path:
    nested = "mpi_inf_3dhp_test_set"
    return first_existing(raw_dir / name, raw_dir / nested / name, raw_dir / nested / nested / name)


# Nearly as published, which takes the surest detection, and asks for its hull with the box to be less than twice the box.
ADAPTER = Adapter(name="mpi_inf_3dhp", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5, take="hull"))
