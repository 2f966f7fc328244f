"""BEHAVE (Bhatnagar et al., CVPR 2022): one person and an object in five rooms before four Kinects; SMPL fits, 1 per second.

    RAW_DIR/split.json                                                          names of the sequences of train and test
    RAW_DIR/calibs/Date{01..07}/config/{0..3}/config.json                       cameras to world, m
    RAW_DIR/calibs/intrinsics/{0..3}/calibration.json
    RAW_DIR/sequences/{sequence}/info.json                                      gender, and which of these belong to it
    RAW_DIR/sequences/{sequence}/t{NNNN}.000/k{0..3}.color.jpg, k{0..3}.person_mask.{jpg,png}
    RAW_DIR/sequences/{sequence}/t{NNNN}.000/person/person_J3d.json             BODY_25 joints with scores, world, m
    RAW_DIR/sequences/{sequence}/t{NNNN}.000/person/fit02/person_fit.pkl        SMPL-H parameters, world, m

The user's SMPL models turn the parameters into the 24 joints of SMPL; the 25 triangulated joints follow. A moment is kept, in
all cameras, if the person has moved since the moments kept before. Moments without parameters or joints are left out.

World: the frame of Kinect 1's colour camera, y down, mm.
"""

import logging
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.body_models import BodyModel, find_body_model, load_body_model
from datasets.calibration import camera_from, check_image_size, image_points
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, path_inside, read_json
from datasets.readers.pickles import read_pickle
from posepile.geometry.camera import Camera

SKELETON = {"name": "smpl_24+body_25", "merge": ["smpl_24", "body_25"]}
GENDERS = ("female", "male")
# Of the pose of SMPL-H, the root and 21 joints of the body are those of SMPL. Its two hand joints have no counterpart: the
# numbers that follow are of fingers.
NUM_BODY_ANGLES, NUM_HAND_ANGLES = 66, 6
MM_PER_METRE = 1000.0
WORLD_UP = (0.0, -1.0, 0.0)
MIN_MOVEMENT_MM, NUM_REMEMBERED = 100.0, 100
BOX_SCALE = 1.05  # of the box around the projected joints
MIN_FOREGROUND = 128  # of a mask's 0..255
HINT = "Get sequences, calibs and split.json from https://virtualhumans.mpi-inf.mpg.de/behave and unpack them there."
_MOMENT = re.compile(r"t(\d+)\.\d+")  # seconds

logger = logging.getLogger(__name__)


def list_units(raw_dir: pathlib.Path, split: str, body_models: pathlib.Path | None = None) -> list[str]:
    """The names of the sequences; see `Adapter.list_units`. Sequences that are missing are left out with a warning."""
    found = {path.parent.name for path in (raw_dir / "sequences").glob("*/info.json")}
    if not found:
        raise FileNotFoundError(f"no file {raw_dir / 'sequences' / '*' / 'info.json'}. {HINT}")
    path = raw_dir / "split.json"
    content = read_json(path, HINT)
    splits = {name: content.get(name) for name in ("train", "test")} if isinstance(content, dict) else {"train": None}
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in splits.values()):
        raise ValueError(f"{path} is not the split of BEHAVE: expected lists of sequences train and test")
    names = splits.get(split, [])
    if missing := [name for name in names if name not in found]:
        logger.warning("behave, %s: %d of the %d sequences in %s, %s for one, are not in %s; they are left out. %s", split,
                       len(missing), len(names), path, missing[0], raw_dir / "sequences", HINT)
    for gender in GENDERS:
        find_body_model(body_models, "smpl", gender)
    return sorted(found.intersection(names))


def load_unit(raw_dir: pathlib.Path, unit: str,
              body_models: pathlib.Path | None = None) -> Iterator[RawExample | ValueError]:
    """The person of one sequence, moment by moment and camera by camera; a `ValueError` for parameters, joints or a mask that
    cannot be read."""
    folder = raw_dir / "sequences" / unit
    info = read_json(folder / "info.json", HINT)
    fields = {"gender": str, "kinects": list, "config": str, "intrinsic": str}
    if not isinstance(info, dict) or not all(isinstance(info.get(name), kind) for name, kind in fields.items()) \
            or info["gender"] not in GENDERS or not all(isinstance(kinect, int) for kinect in info["kinects"]):
        raise ValueError(f"{folder / 'info.json'}: expected gender ({' or '.join(GENDERS)}), a list kinects of numbers, and "
                         f"the paths config and intrinsic; got {info!r:.200}")
    cameras = {kinect: read_camera(raw_dir, unit, info, kinect) for kinect in info["kinects"]}
    model = load_body_model(find_body_model(body_models, "smpl", info["gender"]))
    sampler = FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED, newly_valid=True, nan_unchanged=True)
    for moment in sorted(path for path in folder.iterdir() if _MOMENT.fullmatch(path.name)):
        try:
            joints = read_joints(moment, model)
        except FileNotFoundError:
            continue
        except ValueError as error:
            yield error
            continue
        if not sampler.keep(joints):
            continue
        for path in sorted(moment.glob("k*.color.jpg")):
            kinect = int(match[1]) if (match := re.fullmatch(r"k(\d+)\.color\.jpg", path.name)) else None
            if kinect not in cameras:
                continue
            camera, image_size = cameras[kinect]
            if (bbox := joints_box(image_points(joints, camera), BOX_SCALE, image_size)) is None:
                continue
            try:
                mask = read_mask(moment, kinect, image_size)
            except ValueError as error:
                yield error
                continue
            yield RawExample(
                image=path, bbox=bbox, camera=camera, joints3d_world=joints, mask=mask,
                provenance={"source": path.relative_to(raw_dir).as_posix(), "sequence": unit,
                            "subject": "".join(re.findall(r"Sub\d+", unit)[:1]), "camera": f"k{kinect}",
                            "frame": int(_MOMENT.fullmatch(moment.name)[1])})


def read_camera(raw_dir: pathlib.Path, sequence: str, info: dict[str, Any], kinect: Any) -> tuple[Camera, tuple[int, int]]:
    """The colour camera of a Kinect, and its image's width and height, px.

    Raises: FileNotFoundError; ValueError naming file and field.
    """
    contents = []
    for key, name in (("intrinsic", "calibration.json"), ("config", "config.json")):
        where = f"{raw_dir / 'sequences' / sequence / 'info.json'}: {key}"
        from_raw_dir = posixpath.normpath(f"sequences/{sequence}/{info[key]}/{kinect}/{name}")
        path = path_inside(raw_dir, from_raw_dir, where)
        contents.append((path, read_json(path, HINT)))
    (path, intrinsics), (config_path, config) = contents
    try:
        color = intrinsics["color"]
        matrix = [[color["fx"], 0, color["cx"]], [0, color["fy"], color["cy"]], [0, 0, 1]]
        image_size = int(color["width"]), int(color["height"])
        distortion = np.reshape(color["opencv"], 12)[4:]
        path = config_path
        # The file has the pose of the camera in the world.
        rotation, position = np.array(config["rotation"], np.float64).reshape(3, 3).T, config["translation"]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a calibration of BEHAVE: {error!r:.200}") from error
    camera = camera_from(matrix, rotation, position=position, distortion=distortion, world_up=WORLD_UP,
                         unit_mm=MM_PER_METRE, where=f"{contents[0][0]} and {config_path}")
    return camera, image_size


def read_joints(moment: pathlib.Path, model: BodyModel) -> np.ndarray:
    """[49, 3] mm, world: those of SMPL, then those of BODY_25, nan where they were not found.

    Raises: FileNotFoundError; ValueError naming the file.
    """
    fit_path, joints_path = moment / "person" / "fit02" / "person_fit.pkl", moment / "person" / "person_J3d.json"
    fit, content = read_pickle(fit_path, HINT), read_json(joints_path, HINT)
    try:
        pose = np.concatenate([np.ravel(fit["pose"])[:NUM_BODY_ANGLES], np.zeros(NUM_HAND_ANGLES)])
        joints = model.joints(pose[None], np.ravel(fit["betas"]), np.ravel(fit["trans"]))[0]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{fit_path} does not hold parameters of SMPL-H for one person: {error!s:.300}") from error
    try:
        triangulated = np.array(content["body_joints3d"], np.float64).reshape(25, 4)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{joints_path}: expected body_joints3d, 25 x (x, y, z, score): {error!s:.300}") from error
    is_found = (triangulated[:, 3] > 0) & triangulated[:, :3].any(axis=1) & np.isfinite(triangulated).all(axis=1)
    return np.concatenate([joints, np.where(is_found[:, None], MM_PER_METRE * triangulated[:, :3], np.nan)])


def read_mask(moment: pathlib.Path, kinect: int, image_size: tuple[int, int]) -> np.ndarray | None:
    """[height, width] bool of the person; None where there is none. Raises: ValueError naming a file that is unreadable, or not
    of the size of the images."""
    paths = [path for path in moment.glob(f"k{kinect}.person_mask.*") if path.suffix in (".jpg", ".png")]
    if not paths:
        return None
    mask = load_image(min(paths))[..., 0] >= MIN_FOREGROUND
    check_image_size(mask, image_size, f"mask {min(paths)}")
    return mask


ADAPTER = Adapter(name="behave", kind="3d", skeleton=SKELETON, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5), uses_body_models=True)
