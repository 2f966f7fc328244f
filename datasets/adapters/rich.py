"""RICH (Huang et al., CVPR 2022): one or two people in real rooms and outdoors, six to eight static cameras, SMPL-X fits.

    RAW_DIR/[images/]{train,val,test}/{sequence}/cam_{NN}/{frame}_{NN}.{png,bmp,jpg}
    RAW_DIR/{train,val,test}_body/{sequence}/{frame}/{subject}.pkl      or bodies/{train,val,test}/...; SMPL-X parameters, m
    RAW_DIR/scan_calibration/{scene}/calibration/{NNN}.xml              cameras; sequences are called SCENE_SUBJECT..._ACTION

Each of these may also lie in a folder rich_release, in up to three other ones, as the archives unpack. The user's SMPL-X
models turn the parameters into joints. A frame is kept, in all cameras, for those people who have moved since the frames
kept before; a moving camera (number 10) has no calibration and is left out, and so is who is small in the picture.

World: the frame of the first camera, y roughly down, mm. It is tilted like that camera: up is up in each image.
"""

import collections
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Iterator

import numpy as np

from datasets.body_models import SMPLX_42_POINTS, BodyModel, find_body_model, load_body_model
from datasets.calibration import camera_from, image_points
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.files import broken_file_errors
from datasets.readers.pickles import read_pickle
from datasets.readers.text import read_text
from posepile.geometry.camera import Camera

SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
NUM_POINTS = 127
GENDERS = {subject: "male" if subject in (*range(9), 11, 14, 15, 20) else "female" for subject in range(22)}
MOVING_CAMERA = 10
MM_PER_METRE = 1000.0
MIN_MOVEMENT_MM, NUM_REMEMBERED = 100.0, 100
BOX_SCALE = 1.05  # of the box around the projected points
MIN_BOX_SIDE = 100  # px
HINT = ("Get images and bodies of a split, and scan_calibration, from https://rich.is.tue.mpg.de (registration) and unpack "
        "them there.")


def list_units(raw_dir: pathlib.Path, split: str, body_models: pathlib.Path | None = None) -> list[dict[str, str]]:
    """The sequences: their folders of images, bodies and cameras; see `Adapter.list_units`."""
    folders = {name: _find_folder(raw_dir, f"images/{folder}", folder) for name, folder in SPLIT_FOLDERS.items()}
    if not any(folders.values()):
        raise FileNotFoundError(f"no folder train, val or test in {raw_dir}, in images or rich_release there. {HINT}")
    if (images := folders.get(split)) is None:
        return []
    names = f"{images.name}_body", f"bodies/{images.name}", "scan_calibration"
    bodies, calibration = _find_folder(raw_dir, *names[:2]), _find_folder(raw_dir, names[2])
    if bodies is None or calibration is None:
        missing = " or ".join(names[:2]) if bodies is None else names[2]
        raise FileNotFoundError(f"no folder {missing} in {raw_dir} or a folder rich_release. {HINT}")
    for gender in sorted(set(GENDERS.values())):
        find_body_model(body_models, "smplx", gender)
    sequences = sorted({path.parent.name for path in images.glob("*/cam_*")})
    return [{"images": (images / name).relative_to(raw_dir).as_posix(),
             "bodies": (bodies / name).relative_to(raw_dir).as_posix(),
             "cameras": (calibration / name.split("_")[0] / "calibration").relative_to(raw_dir).as_posix()}
            for name in sequences]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str],
              body_models: pathlib.Path | None = None) -> Iterator[RawExample | ValueError]:
    """The people of one sequence, frame by frame and camera by camera; a `ValueError` for a camera, fit or image that cannot
    be read."""
    images, bodies = raw_dir / unit["images"], raw_dir / unit["bodies"]
    fits = _numbered_files(bodies, "*/*.pkl", r"(\d+)/(\d+)\.pkl")
    if not fits:
        raise FileNotFoundError(f"no body parameters {bodies}/FRAME/SUBJECT.pkl for the images in {images}. {HINT}")
    subjects = sorted({subject for people in fits.values() for subject in people})
    if unknown := set(subjects) - GENDERS.keys():
        raise ValueError(f"{bodies} has fits of subjects {sorted(unknown)}, whose gender is not known; expected 0 to "
                         f"{max(GENDERS)}")
    models = {subject: load_body_model(find_body_model(body_models, "smplx", GENDERS[subject])) for subject in subjects}
    samplers = {subject: FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED, newly_valid=True, nan_unchanged=True)
                for subject in subjects}
    calibrations = {int(path.stem): path for path in (raw_dir / unit["cameras"]).glob("*.xml") if path.stem.isdecimal()}
    pictures: dict[int, dict[int, pathlib.Path]] = collections.defaultdict(dict)
    cameras = {}
    for number, paths in _numbered_files(images, "cam_*/*", r"cam_(\d+)/(\d+)_\d+\.(?:bmp|png|jpe?g)").items():
        if number == MOVING_CAMERA and number not in calibrations:
            continue
        try:
            if number not in calibrations:
                raise ValueError(f"{raw_dir / unit['cameras']} has no calibration {number:03d}.xml of the camera of "
                                 f"{images / f'cam_{number:02d}'}. {HINT}")
            cameras[number] = read_camera(calibrations[number])
        except ValueError as error:
            yield error
            continue
        for frame, path in paths.items():
            pictures[frame][number] = path
    for frame in sorted(fits.keys() & pictures.keys()):
        moved = {}
        for subject, path in fits[frame].items():
            try:
                points = read_points(path, models[subject])
            except ValueError as error:
                yield error
                continue
            if samplers[subject].keep(points[SMPLX_42_POINTS]):
                moved[subject] = points
        for number, path in sorted(pictures[frame].items()) if moved else ():
            try:
                height, width = load_image(path).shape[:2]
            except ValueError as error:
                yield error
                continue
            for subject, points in moved.items():
                bbox = joints_box(image_points(points, cameras[number]), BOX_SCALE, (width, height))
                if bbox is not None and bbox[2:].min() >= MIN_BOX_SIDE:
                    yield RawExample(
                        image=path, bbox=bbox, camera=cameras[number], joints3d_world=points[SMPLX_42_POINTS],
                        provenance={"source": path.relative_to(raw_dir).as_posix(), "sequence": images.name,
                                    "subject": f"{subject:03d}", "camera": f"{number:02d}", "frame": frame})


def read_camera(path: pathlib.Path) -> Camera:
    """A camera from OpenCV's XML. Raises: ValueError naming file and element."""
    text = read_text(path, HINT)
    with broken_file_errors(path, "XML"):
        root = xml.etree.ElementTree.fromstring(text)
    numbers = {}
    for name, count in (("CameraMatrix", 12), ("Intrinsics", 9), ("Distortion", None)):
        words = (root.findtext(f"{name}/data") or "").split()
        try:
            numbers[name] = np.array(words, np.float64)
        except ValueError as error:
            raise ValueError(f"{path}: {name}/data: {error}") from error
        if count not in (None, len(words)):
            raise ValueError(f"{path}: {name}/data has {len(words)} numbers, expected {count}")
    extrinsics = numbers["CameraMatrix"].reshape(3, 4)
    return camera_from(numbers["Intrinsics"].reshape(3, 3), extrinsics[:, :3], extrinsics[:, 3],
                       distortion=numbers["Distortion"], unit_mm=MM_PER_METRE, where=str(path))


def read_points(path: pathlib.Path, model: BodyModel) -> np.ndarray:
    """[127, 3] mm, world: the points of SMPL-X for the fit in a file. Raises: ValueError naming the file."""
    fit = read_pickle(path, HINT)
    try:
        points = model.joints_and_landmarks(model.smplx_pose(fit), fit["betas"], fit["transl"], fit["expression"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold parameters of SMPL-X for one person: {error!s:.300}") from error
    if points.shape != (1, NUM_POINTS, 3):
        raise ValueError(f"{path} and {model.path} give {len(points)} people of {points.shape[1]} points; expected one of "
                         f"{NUM_POINTS}. Is the model file of SMPL-X v1.1?")
    return points[0]


def _find_folder(raw_dir: pathlib.Path, *names: str) -> pathlib.Path | None:
    """The first folder of these names in the raw folder or a folder rich_release there."""
    roots = [raw_dir, *(path for depth in range(4) for path in sorted(raw_dir.glob(depth * "*/" + "rich_release")))]
    return next((root / name for root in roots for name in names if (root / name).is_dir()), None)


def _numbered_files(folder: pathlib.Path, pattern: str, expression: str) -> dict[int, dict[int, pathlib.Path]]:
    """Files by the two numbers in their paths, both rising."""
    paths: dict[int, dict[int, pathlib.Path]] = collections.defaultdict(dict)
    for path in sorted(folder.glob(pattern)):
        if match := re.fullmatch(expression, path.relative_to(folder).as_posix()):
            paths[int(match[1])][int(match[2])] = path
    return paths


ADAPTER = Adapter(name="rich", kind="3d", skeleton="smplx_42", list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5), uses_body_models=True)
