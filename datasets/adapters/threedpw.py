"""3DPW (von Marcard et al., ECCV 2018): people outdoors, filmed by a moving phone; SMPL joints from IMUs. For evaluation.

    RAW_DIR/sequenceFiles/{train,validation,test}/SEQUENCE.pkl      pickles of Python 2
    RAW_DIR/imageFiles/SEQUENCE/image_NNNNN.jpg                     numbered from 0, as the rows of the annotation

Every annotated person of every frame is an example, in all splits, unless the camera's pose is marked as wrong
(`campose_valid`) or no 2D joints were found for that person (`poses2d` all 0): these do not count in the benchmark. There
is no motion sampling, since all 60 sequences serve for evaluation. Boxes are those of the projected joints, enlarged.

The camera moves, so each frame has its own pose. The world's axes do not follow gravity reliably: up is up in the image.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from, image_points
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.pickles import read_pickle
from posepile.geometry.camera import Camera

SPLITS = ("train", "validation", "test")
NUM_JOINTS = 24
MM_PER_METRE = 1000.0
BOX_SCALE = 1.15  # of the box around the projected joints
HINT = ("Get sequenceFiles.zip and imageFiles.zip from https://virtualhumans.mpi-inf.mpg.de/3DPW/ and unpack them there.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The annotation files, one per sequence; see `Adapter.list_units`."""
    for folder in (raw_dir / "sequenceFiles", raw_dir / "imageFiles"):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}. {HINT}")
    if split not in SPLITS:
        return []
    return [path.relative_to(raw_dir).as_posix() for path in sorted((raw_dir / "sequenceFiles" / split).glob("*.pkl"))]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one sequence, frame by frame; a `ValueError` for one whose camera is broken or who is not in view."""
    path = raw_dir / unit
    annotation = read_pickle(path, HINT)
    if not isinstance(annotation, dict) or not isinstance(annotation.get("jointPositions"), list):
        raise ValueError(f"{path} is not an annotation of 3DPW: expected a dictionary with a list jointPositions")
    world_to_camera = _read_array(annotation, "cam_poses", path, (-1, 4, 4))
    num_frames = len(world_to_camera)
    people = [(_read_array(annotation, "jointPositions", path, (num_frames, NUM_JOINTS, 3), person),
               _read_array(annotation, "campose_valid", path, (num_frames,), person).astype(bool)
               & _read_array(annotation, "poses2d", path, (num_frames, 3 * 18), person).any(axis=1))
              for person in range(len(annotation["jointPositions"]))]
    for frame in range(num_frames):
        source = f"imageFiles/{path.stem}/image_{frame:05d}.jpg"
        for person, (joints3d, is_counted) in enumerate(people):
            if not is_counted[frame]:
                continue
            joints3d_world = MM_PER_METRE * joints3d[frame]
            try:
                camera = camera_from(
                    annotation.get("cam_intrinsics"), world_to_camera[frame, :3, :3], world_to_camera[frame, :3, 3],
                    unit_mm=MM_PER_METRE, where=f"{path}: frame {frame}")
                bbox = _projected_box(joints3d_world, camera, f"{path}: frame {frame}, person {person}")
            except ValueError as error:
                yield error
                continue
            yield RawExample(image=raw_dir / source, bbox=bbox, camera=camera, joints3d_world=joints3d_world, provenance={
                "source": source, "sequence": path.stem, "frame": frame, "person": person})


def _projected_box(joints3d_world: np.ndarray, camera: Camera, where: str) -> np.ndarray:
    """[4] px. Raises: ValueError, beginning with `where`, if fewer than two joints are in front of the camera."""
    box = joints_box(image_points(joints3d_world, camera), BOX_SCALE)
    if box is None:
        raise ValueError(f"{where}: jointPositions and cam_poses put the person behind the camera")
    return box


def _read_array(annotation: dict[str, Any], key: str, path: pathlib.Path, shape: tuple[int, ...],
                person: int | None = None) -> np.ndarray:
    """An entry in another shape, float64; of one person unless that is None. Raises: ValueError naming file and entry."""
    where = f"{path}: {key}" + (f" of person {person}" if person is not None else "")
    try:
        return np.asarray(annotation[key] if person is None else annotation[key][person], np.float64).reshape(shape)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected an array that can be shaped {list(shape)}, one row per frame of cam_poses; "
                         f"got {error!r}") from error


ADAPTER = Adapter(name="3dpw", kind="3d", skeleton="smpl_24", list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.2))
