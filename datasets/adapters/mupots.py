"""MuPoTS-3D (Mehta et al., 3DV 2018): several people, in studios and outdoors; joints from markerless capture. Test only.

    RAW_DIR/TS{1..20}/img_NNNNNN.jpg        numbered from 0, as the rows of the annotation
    RAW_DIR/TS{1..20}/annot.mat             annotations {frames, people}: annot2, annot3, univ_annot3, isValidFrame
    RAW_DIR/TS{1..20}/occlusion.mat         occlusion_labels {frames, people}: 17 flags, 1 for a hidden joint

Every person whose annotation is valid is an example, hidden or not: the benchmark counts those who are not found. The
labels are `annot3`, in millimetres. Boxes are those of the annotated 2D joints, enlarged. Pictures stay as dark as they are
(some evaluations brighten those of TS1 to TS5).

There is no calibration: focal lengths and principal point of a sequence are fitted to its 2D and 3D joints. The world's
frame is the camera's. What the benchmark's own protocols need beside the labels is in the provenance:

    person                  column of the annotation: people are matched in this order
    intrinsics              fx, fy, cx, cy of the image, px: people are matched by their distance there
    joints3d_universal      univ_annot3, [17, 3]: the pose at a body size common to all, mm; the world is that of the record
    occluded                numbers of the hidden joints
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from, fit_intrinsics
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box, read_mat
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("mpi_inf_3dhp_17")
BOX_SCALE = 1.1  # of the box around the joints
HINT = "Get MultiPersonTestSet.zip from http://gvv.mpi-inf.mpg.de/projects/SingleShotMultiPerson and unpack it there."


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The folders of the sequences; see `Adapter.list_units`."""
    names = [path.parent.name for path in raw_dir.glob("TS*/annot.mat") if re.fullmatch(r"TS\d+", path.parent.name)]
    if not names:
        raise FileNotFoundError(f"no file {raw_dir / 'TS*' / 'annot.mat'}. {HINT}")
    return sorted(names, key=lambda name: int(name[2:])) if split == "test" else []


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one sequence, frame by frame; a `ValueError` for one without occlusion flags or extent."""
    path = raw_dir / unit / "annot.mat"
    entries = _read_cells(path, "annotations")
    flags = _read_cells(raw_dir / unit / "occlusion.mat", "occlusion_labels")
    if flags.shape != entries.shape:
        raise ValueError(f"{raw_dir / unit / 'occlusion.mat'} is of {list(flags.shape)} frames and people, annot.mat of "
                         f"{list(entries.shape)}; are they of the same sequence?")
    people = {key: {field: _read_joints(entry, field, f"{path}: frame {key[0] + 1}, person {key[1] + 1}", num_rows)
                    for field, num_rows in (("annot2", 2), ("annot3", 3), ("univ_annot3", 3))}
              for key, entry in np.ndenumerate(entries) if np.any(getattr(entry, "isValidFrame", False))}
    if not people:
        return
    joints2d, joints3d = (np.concatenate([person[field] for person in people.values()]) for field in ("annot2", "annot3"))
    if (joints3d[:, 2] <= 0).any():
        raise ValueError(f"{path}: annot3 has valid joints behind the camera; expected its third row positive, mm")
    intrinsics = fit_intrinsics(joints2d, joints3d)
    camera = camera_from(intrinsics, np.eye(3), np.zeros(3), where=f"{path}: the fit of annot2 to annot3")
    for (frame, person), joints in people.items():
        where = f"frame {frame + 1}, person {person + 1}"
        is_occluded = np.ravel(flags[frame, person])
        if len(is_occluded) != SKELETON.num_joints:
            yield ValueError(f"{path.with_name('occlusion.mat')}: {where} has {len(is_occluded)} flags; expected 17")
            continue
        if (bbox := joints_box(joints["annot2"], BOX_SCALE)) is None:
            yield ValueError(f"{path}: {where}: annot2 spans no area")
            continue
        source = f"{unit}/img_{frame:06d}.jpg"
        yield RawExample(image=raw_dir / source, bbox=bbox, camera=camera, joints3d_world=joints["annot3"], provenance={
            "source": source, "sequence": unit, "frame": frame, "person": person,
            "intrinsics": intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].round(3).tolist(),
            "joints3d_universal": joints["univ_annot3"].round(2).tolist(),
            "occluded": np.flatnonzero(is_occluded).tolist()})


def _read_cells(path: pathlib.Path, variable: str) -> np.ndarray:
    """[frames, people] of MATLAB values; a sequence of one person comes without the second axis."""
    cells = np.atleast_1d(np.asarray(read_mat(path, variable, HINT), object))
    return cells.reshape(len(cells), -1)


def _read_joints(entry: Any, field: str, where: str, num_rows: int) -> np.ndarray:
    """[17, num_rows] float64. Raises: ValueError, beginning with `where`, for another shape or missing numbers."""
    joints = getattr(entry, field, None)
    if np.shape(joints) != (num_rows, SKELETON.num_joints) or not np.isfinite(np.float64(joints)).all():
        raise ValueError(f"{where}: {field} has shape {list(np.shape(joints))}; expected {num_rows} x {SKELETON.num_joints} "
                         "finite numbers")
    return np.float64(joints).T


ADAPTER = Adapter(name="mupots", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.1))
