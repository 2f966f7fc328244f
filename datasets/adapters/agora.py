"""AGORA (Patel et al., CVPR 2021): scans of clothed people, 5 to 15 in a rendered picture, with SMPL and SMPL-X fits.

    RAW_DIR/{train_0..train_9,validation}/{image}.png               3840 x 2160, or {image}_1280x720.png
    RAW_DIR/{SMPL,SMPLX}/{train,validation}_{0..9}_withjv.pkl       pandas data frames, a row per image, joints in m
    RAW_DIR/{train,validation}/{scene}/...png, RAW_DIR/seg_rgbs.txt  masks, and the table of their colours; optional

Each of these folders may also lie inside another one, as the archives unpack. The test split has no labels. Joints are those
of SMPL, then those of SMPL-X: the two data frames go row by row. People who are marked as invalid are left out, and so are
those hidden by more than three quarters, or small. The mask is what is visible of the person, and the box is around it; where
there are no masks, around the joints.

World: at the camera and turned as it is, but for its pitch: y is down, mm. Pitch and focal length are told by the file's name.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from datasets.body_models import SMPLX_42_POINTS
from datasets.calibration import camera_from
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import find_nested, joints_box
from datasets.readers.pickles import read_pickle
from datasets.readers.text import read_text
from posepile.geometry.camera import Camera, project, transform

SKELETON = {"name": "smpl_24+smplx_42", "merge": ["smpl_24", "smplx_42"]}
IMAGE_FOLDERS = {"train": "train_[0-9]", "validation": "validation"}
WIDTH, HEIGHT = 3840, 2160  # px
LOW_RESOLUTION, LOW_RESOLUTION_SCALE = "_1280x720", 1 / 3
# What names of images have in them, in the order in which to look -> focal length, mm, and pitch, degrees downwards.
CAMERAS = {"hdri": (50, 0), "cam00": (18, 30), "cam01": (18, 30), "cam02": (18, 30), "cam03": (18, 30), "ag2": (28, 15),
           "": (28, 0)}
SENSOR_WIDTH_MM = 36.0
IMAGE_NAME = re.compile(rf"(.+?)(_cam\d\d)?_(\d+)({LOW_RESOLUTION})?\.png")
NUM_SMPL_JOINTS = 24
MM_PER_METRE = 1000.0
MAX_OCCLUSION = 75  # percent
MIN_BOX_SIDE = 100  # px
BOX_SCALE = 1.05  # of the box around the joints
COLOR_TOLERANCE, MIN_FOREGROUND = 10, 128  # of the 0..255 of the masks: per channel, and in the masks of one person
MAX_ARRAY_BYTES = 80_000  # The frames hold all vertices, too: 83 kB and more per person, too much for the memory.
COLUMNS = ("imgPath", "isValid", "occlusion", "gt_joints_3d")
HINT = ("Get images, masks and the data frames of SMPL and SMPL-X with joints and vertices (withjv) from "
        "https://agora.is.tue.mpg.de (registration) and unpack them there.")
COLOR_HINT = ("Get seg_rgbs.txt from the documentation of https://github.com/microsoft/AirSim and put it there; or move the "
              "masks elsewhere to do without.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, str]]:
    """The data frames, SMPL's and SMPL-X's; see `Adapter.list_units`."""
    frames = {name: find_nested(raw_dir, f"SMPL/{name}_*_withjv.pkl") for name in IMAGE_FOLDERS}
    if not any(frames.values()):
        raise FileNotFoundError(f"no file {raw_dir / 'SMPL' / '*_withjv.pkl'}. {HINT}")
    units = []
    for path in frames.get(split, ()):
        others = find_nested(raw_dir, f"SMPLX/{path.name}")
        if not others:
            raise FileNotFoundError(f"no file {raw_dir / 'SMPLX' / path.name} beside that of SMPL. {HINT}")
        units.append({"split": split, "smpl": path.relative_to(raw_dir).as_posix(),
                      "smplx": others[0].relative_to(raw_dir).as_posix()})
    if units and not _image_files(raw_dir, split):
        raise FileNotFoundError(f"no images {raw_dir / IMAGE_FOLDERS[split] / '*.png'}. {HINT}")
    if units and _mask_folders(raw_dir, split):
        read_colors(raw_dir / "seg_rgbs.txt")
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, str]) -> Iterator[RawExample | ValueError]:
    """The people in the images of a pair of data frames; a `ValueError` for images and people whose entries are wrong."""
    paths = raw_dir / unit["smpl"], raw_dir / unit["smplx"]
    smpl, smplx = (_read_frame(path) for path in paths)
    if smpl["imgPath"] != smplx["imgPath"]:
        raise ValueError(f"{paths[0]} and {paths[1]} list other images, or in another order; are they of the same release?")
    images = _image_files(raw_dir, unit["split"])
    mask_folders = _mask_folders(raw_dir, unit["split"])
    colors = read_colors(raw_dir / "seg_rgbs.txt") if mask_folders else None
    for row, name in enumerate(smpl["imgPath"]):
        where = f"{paths[0]} and {paths[1].name}: row {row}, {name!r:.100}"
        try:
            image_path = _image_path(images, name)
            camera, image_size = read_camera(image_path.name)
            visible = _mask_reader(mask_folders, image_path.name, colors)
            people = list(zip(smpl["isValid"][row], smpl["occlusion"][row], smpl["gt_joints_3d"][row],
                              smplx["gt_joints_3d"][row], strict=True))
        except (TypeError, ValueError) as error:
            yield ValueError(f"{where}: {error}")
            continue
        for person, (is_valid, occlusion, *joints) in enumerate(people):
            try:
                if not is_valid or occlusion > MAX_OCCLUSION:
                    continue
                joints3d_camera = _select_joints(*joints)
                mask = visible(person) if visible else None
            except (TypeError, ValueError) as error:
                yield ValueError(f"{where}, person {person}: {error}")
                continue
            if mask is None:
                bbox = joints_box(project(joints3d_camera, camera.intrinsics), BOX_SCALE, image_size)
            else:
                bbox = mask_box(mask)
            if bbox is not None and bbox[2:].min() >= MIN_BOX_SIDE:
                yield RawExample(
                    image=image_path, bbox=bbox, camera=camera, mask=mask,
                    joints3d_world=transform(joints3d_camera, np.linalg.inv(camera.world_to_camera)),
                    provenance={"source": image_path.relative_to(raw_dir).as_posix(), "sequence": _scene(image_path.name),
                                "frame": int(IMAGE_NAME.fullmatch(image_path.name)[3]), "person": person})


def read_camera(image_name: str) -> tuple[Camera, tuple[int, int]]:
    """The camera that an image's name tells, and the width and height of the image, px."""
    focal_mm, pitch = next(camera for part, camera in CAMERAS.items() if part in image_name)
    scale = LOW_RESOLUTION_SCALE if LOW_RESOLUTION in image_name else 1
    focal = scale * WIDTH * focal_mm / SENSOR_WIDTH_MM
    center_x, center_y = (scale * (side / 2 + 0.5) - 0.5 for side in (WIDTH, HEIGHT))
    camera = camera_from([[focal, 0, center_x], [0, focal, center_y], [0, 0, 1]], [np.radians(pitch), 0, 0],
                         translation=[0, 0, 0], world_up=[0, -1, 0])
    return camera, (round(scale * WIDTH), round(scale * HEIGHT))


def read_colors(path: pathlib.Path) -> np.ndarray:
    """[n, 3] RGB from lines of a number, a tab and [r, g, b]. Raises: FileNotFoundError; ValueError naming file and line."""
    colors = []
    for number, line in enumerate(read_text(path, COLOR_HINT).splitlines(), 1):
        if not (match := re.fullmatch(r"\d+\s+\[(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})\]\s*", line)):
            raise ValueError(f"{path}: line {number}: expected a number and [red, green, blue], got {line!r:.100}")
        colors.append([int(value) for value in match.groups()])
    return np.array(colors, np.float64)


def _mask_reader(folders: dict[str, pathlib.Path], image_name: str,
                 colors: np.ndarray) -> Callable[[int], np.ndarray] | None:
    """A function from the number of a person in an image to the mask of what is visible, [height, width] bool, that raises a
    ValueError naming the file; None where there are no masks of this image.

    There is a picture of all people, each in a colour, and one of each person alone, as if nothing was in front.
    """
    base, camera, number, resolution = IMAGE_NAME.fullmatch(image_name).groups("")
    stem = f"{base}_mask{camera}_{int(number):06d}"
    path_of_all = folders.get(_scene(image_name), pathlib.Path()) / f"{stem}_00000{resolution}.png"
    if not path_of_all.is_file():
        return None
    everyone = _read_mask(path_of_all, cv2.IMREAD_COLOR_RGB)

    def visible(person):
        path = path_of_all.with_name(f"{stem}_{person + 1:05d}{resolution}.png")
        alone = _read_mask(path, cv2.IMREAD_GRAYSCALE)
        if alone.shape != everyone.shape[:2] or person >= len(colors):
            raise ValueError(f"{path} has {alone.shape[::-1]} px, {path_of_all} {everyone.shape[1::-1]} px, and there are "
                             f"{len(colors)} colours")
        has_color = cv2.inRange(everyone, colors[person] - COLOR_TOLERANCE, colors[person] + COLOR_TOLERANCE)
        mask = (has_color > 0) & (alone >= MIN_FOREGROUND)
        if not mask.any():
            raise ValueError(f"{path_of_all} has no pixel of the colour {colors[person].tolist()} where the person is in "
                             f"{path}. Is seg_rgbs.txt the table of AirSim?")
        return mask

    return visible


def _read_mask(path: pathlib.Path, flags: int) -> np.ndarray:
    mask = None
    with contextlib.suppress(cv2.error):  # of more pixels than it is ready to decode
        mask = cv2.imread(str(path), flags)
    if mask is None:
        raise ValueError(f"mask {path} is missing, damaged or not an image")
    return mask


def _read_frame(path: pathlib.Path) -> dict[str, list]:
    frame = read_pickle(path, HINT, allow_pandas=True, skip_above=MAX_ARRAY_BYTES)
    if missing := [name for name in COLUMNS if not isinstance(frame, dict) or name not in frame]:
        raise ValueError(f"{path} has no column {', '.join(missing)}; is it a data frame of AGORA with joints (withjv)?")
    return {name: frame[name] for name in COLUMNS}


def _select_joints(smpl: Any, smplx: Any) -> np.ndarray:
    """[66, 3] mm, camera axes. Raises: ValueError for other shapes and missing numbers."""
    smpl, smplx = np.asarray(smpl, np.float64), np.asarray(smplx, np.float64)
    if smpl.shape != (45, 3) or smplx.shape != (127, 3):
        raise ValueError(f"gt_joints_3d have shapes {list(smpl.shape)} and {list(smplx.shape)}; expected [45, 3] and [127, 3]")
    joints = MM_PER_METRE * np.concatenate([smpl[:NUM_SMPL_JOINTS], smplx[SMPLX_42_POINTS]])
    if not np.isfinite(joints).all():
        raise ValueError("gt_joints_3d have nan or infinite coordinates")
    return joints


def _scene(image_name: str) -> str:
    return "_".join(image_name.split("_")[:5])


def _image_files(raw_dir: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    paths = find_nested(raw_dir, f"{IMAGE_FOLDERS[split]}/*.png")
    return {path.name: path for path in paths if IMAGE_NAME.fullmatch(path.name)}


def _mask_folders(raw_dir: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    return {path.name: path for path in find_nested(raw_dir, f"{split}/*") if path.is_dir()}


def _image_path(images: dict[str, pathlib.Path], name: Any) -> pathlib.Path:
    """The image, or else the one of low resolution. Raises: ValueError if there is none."""
    names = name, f"{str(name).removesuffix('.png')}{LOW_RESOLUTION}.png"
    found = next((images[candidate] for candidate in names if candidate in images), None)
    if found is None:
        raise ValueError(f"there is no such image, nor {names[1]!r:.120}. {HINT}")
    return found


# As published, but for people whom the detector misses: those more than half hidden are dropped there.
ADAPTER = Adapter(name="agora", kind="3d", skeleton=SKELETON, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5, min_score=0.2))
