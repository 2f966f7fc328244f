"""3DOH50K (Zhang, Huang and Wang, CVPR 2020): people indoors, hidden in part by objects; SMPL fitted to several views.

    RAW_DIR/{trainset,testset}/annots.json          entries by number, "00000" and so on
    RAW_DIR/{trainset,testset}/images/*.jpg         named by `img_path` of the entries
    RAW_DIR/trainset/masks/*.png                    named by `mask_path`: the visible part of the person, in the first channel

Every entry is an example, with the authors' box. Lengths are metres times the scale of the calibration, about 7.
`lsp_joints_3d` are in the camera's frame; those that do not project to `lsp_joints_2d` are tried as joints in the world.
World: that of `extri`, mm; up is up in the image.
"""

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from
from datasets.cropping import load_image
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import path_inside, read_json
from posepile.geometry.camera import Camera, project, transform
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("3doh_14")
FOLDERS = {"train": "trainset", "test": "testset"}
SHAPES = {"intri": (3, 3), "extri": (4, 4), "bbox": (2, 2), "lsp_joints_2d": (14, 2), "lsp_joints_3d": (14, 3)}
TYPICAL_SCALE = 7.0  # units per metre
MAX_SCALE_DIFFERENCE = 1.0  # of an entry's own scale; what is farther off would not give a person's size
MAX_PROJECTION_ERROR = 5.0  # px, median
MIN_FOREGROUND = 32  # code value of a mask
ENTRIES_PER_UNIT = 1000
HINT = ("Get 3DOH50K (trainset and testset) from https://www.yangangwang.com, project page of Object-Occluded Human Shape and "
        "Pose Estimation, and unpack it there.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Runs of entries; see `Adapter.list_units`."""
    paths = {name: raw_dir / folder / "annots.json" for name, folder in FOLDERS.items()}
    if not any(path.is_file() for path in paths.values()):
        raise FileNotFoundError(f"neither {' nor '.join(map(str, paths.values()))} is there. {HINT}")
    if split not in paths or not paths[split].is_file():
        return []
    count = len(_read_entries(paths[split]))
    return [{"folder": FOLDERS[split], "first": first, "last": min(first + ENTRIES_PER_UNIT, count)}
            for first in range(0, count, ENTRIES_PER_UNIT)]


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The people of a run of entries; a `ValueError` for one whose annotation, camera or files are wrong."""
    path = raw_dir / unit["folder"] / "annots.json"
    for entry_id, entry in itertools.islice(_read_entries(path).items(), unit["first"], unit["last"]):
        try:
            example = _read_person(raw_dir, path.parent, entry_id, entry)
        except ValueError as error:
            yield ValueError(f"{path}: entry {entry_id}: {error}")
            continue
        yield example


def _read_person(raw_dir: pathlib.Path, folder: pathlib.Path, entry_id: str, entry: Any) -> RawExample:
    """Raises: ValueError naming the field, or the file, that is wrong."""
    intrinsics, extrinsics, bbox, joints2d, joints3d = (_numbers(entry, field) for field in SHAPES)
    low, high = bbox
    if not (high > low).all():
        raise ValueError(f"bbox is {bbox.tolist()}; expected [[left, top], [right, bottom]]")
    unit_mm = 1000 / _scale(entry)
    camera = camera_from(intrinsics, extrinsics[:3, :3], translation=extrinsics[:3, 3], unit_mm=unit_mm, where="intri, extri")
    joints3d_world = _to_world(unit_mm * joints3d, joints2d, camera)
    image = path_inside(folder, entry.get("img_path"), "img_path")
    if not image.is_file():
        raise ValueError(f"its image {image} is missing. {HINT}")
    mask = None
    if entry.get("mask_path") is not None:
        mask_path = path_inside(folder, entry["mask_path"], "mask_path")
        if mask_path.is_file():  # there are none for the test set
            mask = load_image(mask_path)[..., 0] >= MIN_FOREGROUND
    return RawExample(
        image=image, bbox=np.concatenate([low, high - low]), camera=camera, joints3d_world=joints3d_world, mask=mask,
        provenance={"source": image.relative_to(raw_dir).as_posix(), "annotation": entry_id})


def _to_world(joints3d: np.ndarray, joints2d: np.ndarray, camera: Camera) -> np.ndarray:
    """[14, 3] mm in the world, of joints [14, 3] mm in the frame of the camera, or already in the world if only as such they
    project to their 2D positions [14, 2]. Raises: ValueError if they do not in either frame."""
    candidates = {"the camera's": joints3d, "the world's": transform(joints3d, camera.world_to_camera)}
    errors = {frame: np.median(np.linalg.norm(project(joints, camera.intrinsics) - joints2d, axis=1))
              for frame, joints in candidates.items()}
    for frame, joints in candidates.items():
        if errors[frame] < MAX_PROJECTION_ERROR:  # not nan
            return transform(joints, np.linalg.inv(camera.world_to_camera))
    raise ValueError("lsp_joints_3d project away from lsp_joints_2d, be they in "
                     + " or ".join(f"{frame} frame ({error:.0f} px)" for frame, error in errors.items())
                     + f"; expected less than {MAX_PROJECTION_ERROR} px (median)")


def _scale(entry: dict[str, Any]) -> float:
    """Units per metre: the entry's own if it is close to the typical one. (The published training mix takes 7 for all.)"""
    try:
        scale = float(np.ravel(entry["scale"])[0])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return TYPICAL_SCALE
    return scale if abs(scale - TYPICAL_SCALE) <= MAX_SCALE_DIFFERENCE else TYPICAL_SCALE


def _numbers(entry: Any, field: str) -> np.ndarray:
    """A field of an entry, float64. Raises: ValueError for another shape, nan and infinities."""
    try:
        numbers = np.asarray(entry[field], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{field}: expected {list(SHAPES[field])} numbers; problem: {error!r:.200}") from error
    if numbers.shape != SHAPES[field] or not np.isfinite(numbers).all():
        raise ValueError(f"{field} has shape {list(numbers.shape)}; expected {list(SHAPES[field])} finite numbers")
    return numbers


def _read_entries(path: pathlib.Path) -> dict[str, Any]:
    """The entries by their number. The last file read is kept in memory: its units are loaded one after the other."""
    return _read_entries_cached(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read_entries_cached(path: pathlib.Path, _mtime_ns: int) -> dict[str, Any]:
    entries = read_json(path, HINT, object_hook=_compact)
    if not isinstance(entries, dict):
        raise ValueError(f"{path} is not an annotation of 3DOH50K: expected a table of entries by their number")
    return entries


def _compact(table: dict[str, Any]) -> dict[str, Any]:
    """Shrinks entries while their file is parsed: 50,000 of them as lists of Python numbers take gigabytes."""
    if "lsp_joints_3d" not in table:
        return table
    compact = {key: table[key] for key in ("img_path", "mask_path", "scale", *SHAPES) if key in table}
    for field in compact.keys() & SHAPES.keys():
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # `_numbers` will say what is wrong
            compact[field] = np.array(table[field], np.float64)
    return compact


ADAPTER = Adapter(name="3doh50k", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
