"""HUMBI (Yu et al., CVPR 2020): 772 people in the middle of some 100 cameras, triangulated 3D labels; its part of whole bodies.

    RAW_DIR/[ARCHIVE/]subject_{id}/body/intrinsic.txt, extrinsic.txt                     cameras, metres
    RAW_DIR/[ARCHIVE/]subject_{id}/body/{8 digits}/image/image{7 digits}.jpg             frame, and camera; 1920 x 1080
    RAW_DIR/[ARCHIVE/]subject_{id}/body/{8 digits}/reconstruction/keypoints.txt          25 joints, world, metres

All are training data. They are snapshots: every picture that the person is in is an example, without motion sampling. Boxes
are those of the projected joints, enlarged and cut off at the border of the picture. World: y down, mm.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, check_image_size, image_points
from datasets.cropping import load_image
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.files import broken_file_errors
from datasets.readers.text import read_numbers, read_text
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("body_25")  # in the order of the files
IMAGE_SIZE = (1920, 1080)
NUM_HEADER_LINES = 3
MM_PER_METRE = 1000.0
WORLD_UP = (0, -1, 0)
BOX_SCALE = 1.05
HINT = "Get the body archives from https://humbi-data.net and unpack them there."


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The folders of the people; see `Adapter.list_units`."""
    folders = {path for pattern in ("subject_*/body", "*/subject_*/body") for path in raw_dir.glob(pattern) if path.is_dir()}
    if not folders:
        raise FileNotFoundError(f"no folder {raw_dir / 'subject_*' / 'body'}. {HINT}")
    return sorted(path.relative_to(raw_dir).as_posix() for path in folders) if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The pictures of one person, frame by frame; a `ValueError` for a camera or a frame whose numbers are unusable."""
    folder = raw_dir / unit
    intrinsics, extrinsics = read_blocks(folder / "intrinsic.txt", 3), read_blocks(folder / "extrinsic.txt", 4)
    cameras = {}
    for number in sorted(intrinsics.keys() & extrinsics.keys()):
        position, *rotation = extrinsics[number]  # from world to camera: the projection is K R [I | -C]
        try:
            cameras[number] = camera_from(intrinsics[number], rotation, position=position, world_up=WORLD_UP,
                                          unit_mm=MM_PER_METRE, where=f"{folder}/{{in,ex}}trinsic.txt: camera {number:g}")
        except ValueError as error:
            yield error
    for frame_folder in sorted(path for path in folder.iterdir() if re.fullmatch(r"\d{8}", path.name) and path.is_dir()):
        try:
            joints3d_world = read_joints(frame_folder / "reconstruction" / "keypoints.txt")
        except (FileNotFoundError, ValueError) as error:
            yield ValueError(str(error))
            continue
        for image in sorted((frame_folder / "image").glob("image*.jpg")):
            match = re.fullmatch(r"image(\d{7})\.jpg", image.name)
            if match is None or (camera := cameras.get(int(match[1]))) is None:  # some cameras are not calibrated
                continue
            if (bbox := joints_box(image_points(joints3d_world, camera), BOX_SCALE, IMAGE_SIZE)) is None:
                continue
            try:
                check_image_size(load_image(image), IMAGE_SIZE, f"image {image}")
            except ValueError as error:
                yield error
                continue
            yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=joints3d_world, provenance={
                "source": image.relative_to(raw_dir).as_posix(), "subject": folder.parent.name, "camera": int(match[1]),
                "frame": int(frame_folder.name)})


def read_joints(path: pathlib.Path) -> np.ndarray:
    """[25, 3] mm, world; nan where a coordinate is no number. Raises: FileNotFoundError; ValueError naming the file."""
    lines = read_text(path, HINT).splitlines()
    with broken_file_errors(path, "a file of joints"):
        joints = MM_PER_METRE * np.array([[_number_or_nan(word) for word in line.split()] for line in lines if line.strip()])
        if joints.shape != (SKELETON.num_joints, 3):
            raise ValueError(f"it has numbers of shape {list(joints.shape)}, expected [{SKELETON.num_joints}, 3]")
        is_labelled = np.isfinite(joints).all(axis=1)
        if np.count_nonzero(is_labelled) < 2:
            raise ValueError(f"{np.count_nonzero(is_labelled)} of its rows are of numbers, too few for a box")
    joints[~is_labelled] = np.nan
    return joints


def _number_or_nan(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def read_blocks(path: pathlib.Path, num_rows: int) -> dict[float, np.ndarray]:
    """The blocks of a calibration file, [num_rows, 3] by the camera's number, which stands behind a zero in the line before.

    Raises: FileNotFoundError; ValueError naming the file.
    """
    rows = read_numbers(path, HINT, skip_lines=NUM_HEADER_LINES)
    if not rows or [len(row) for row in rows] != ([2] + [3] * num_rows) * (len(rows) // (1 + num_rows)):
        raise ValueError(f"{path}: expected, behind {NUM_HEADER_LINES} lines, blocks of a line with 0 and the camera's number "
                         f"and {num_rows} lines with 3 numbers; is it cut short?")
    return {rows[i][1]: np.array(rows[i + 1:i + 1 + num_rows]) for i in range(0, len(rows), 1 + num_rows)}


ADAPTER = Adapter(name="humbi", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.5, take="hull"))
