"""MuCo-3DHP (Mehta et al., 3DV 2018): people of MPI-INF-3DHP put together, four to a picture. For training.

    RAW_DIR/S{1..8}/Seq{1,2}/annot.mat, camera.calibration          as of MPI-INF-3DHP
    RAW_DIR/unaugmented_set_001/{000001..}.jpg                      made by the authors' MATLAB scripts,
    RAW_DIR/sampled_dataset_info.mat                                with what they are made of
    RAW_DIR/S{1..8}/Seq{1,2}/{imageSequence,FGmasks,ChairMasks}/video_{0..10}.avi

Its authors give away the recipe, not the pictures. Where their scripts have been run, the pictures are read, the first
ones as in the published training mix. They do not say who is hidden behind others: a detector's results do, by which
people without a detection are left out. Where there are none, pictures are made of the videos, see `muco_compositing`;
their boxes and masks are those of what is visible.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from datasets import muco_compositing
from datasets.adapters.mpi_inf_3dhp import BOX_SCALE, SKELETON, read_calibration, read_labels
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import joints_box
from datasets.readers.hdf5 import open_hdf5, read_cell
from posepile.geometry.camera import project, transform

PICTURES = "unaugmented_set_001"
MAX_NUMBER = 200_000  # of the pictures in the published training mix
PICTURES_PER_UNIT = 20_000  # a unit reads the labels of all sequences
HINT = ("MuCo-3DHP is made of the training set of MPI-INF-3DHP: get it, with its foreground masks, from "
        "https://vcai.mpi-inf.mpg.de/3dhp-dataset and unpack it there.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, int]]:
    """Runs of the authors' pictures, or parts of the videos of a camera; see `Adapter.list_units`."""
    if (raw_dir / PICTURES).is_dir():
        with open_hdf5(raw_dir / "sampled_dataset_info.mat", f"It is made with {PICTURES}.") as file:
            last = min(file["composite_info"].shape[1], MAX_NUMBER - 1)
        units = [{"first": first, "last": min(first + PICTURES_PER_UNIT - 1, last)}
                 for first in range(1, last + 1, PICTURES_PER_UNIT)]
    else:
        cameras = [camera for camera in range(muco_compositing.NUM_CAMERAS)
                   if muco_compositing.sequences_with_masks(raw_dir, camera)]
        units = [{"camera": camera, "part": part} for camera in cameras for part in range(muco_compositing.NUM_PARTS)]
    if not units:
        raise FileNotFoundError(f"{raw_dir} has neither {PICTURES} nor a folder S*/Seq* with both "
                                f"imageSequence/video_*.avi and FGmasks/video_*.avi. {HINT}")
    return units if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: dict[str, int]) -> Iterator[RawExample]:
    """The people of the unit's pictures, picture by picture."""
    return _load_pictures(raw_dir, **unit) if "first" in unit else muco_compositing.load_composites(raw_dir, **unit)


def _load_pictures(raw_dir, first, last):
    path = raw_dir / "sampled_dataset_info.mat"
    # The scripts leave out pictures whose source frames they could not read.
    numbers = [number for number in range(first, last + 1) if _picture(raw_dir, number).is_file()]
    with open_hdf5(path) as file:
        people = np.array([[number, *_read_source(file, reference, f"{path}: row {number} of composite_info")]
                           for number in numbers for reference in file["composite_info"][:, number - 1]]).reshape(-1, 5)
    labels: list[Any] = [None] * len(people)
    for video in np.unique(people[:, 1:4], axis=0):  # all people of a video at once: annot.mat takes seconds to read
        subject, sequence, camera = video.tolist()
        folder = raw_dir / f"S{subject}" / f"Seq{sequence}"
        calibration, image_size = read_calibration(folder / "camera.calibration", camera)
        joints3d_camera = read_labels(folder / "annot.mat", camera, calibration)
        for i in np.flatnonzero((people[:, 1:4] == video).all(axis=1)):
            if not 0 <= people[i, 4] < len(joints3d_camera):
                raise ValueError(f"{path}: row {people[i, 0]} of composite_info has frame {people[i, 4]} of {video.tolist()} "
                                 f"(subject, sequence, camera); annot.mat has {len(joints3d_camera)} frames, from 0")
            labels[i] = calibration, image_size, joints3d_camera[people[i, 4]]
    for person, (calibration, image_size, joints3d) in zip(people.tolist(), labels, strict=True):
        number, subject, sequence, camera, frame = person
        bbox = joints_box(project(joints3d, calibration.intrinsics), BOX_SCALE, image_size)
        if bbox is not None:
            yield RawExample(
                image=_picture(raw_dir, number), bbox=bbox, camera=calibration,
                joints3d_world=transform(joints3d, np.linalg.inv(calibration.world_to_camera)),
                provenance={"source": f"{PICTURES}/{number:06d}.jpg", "subject": f"S{subject}", "camera": camera,
                            "sequence": f"S{subject}/Seq{sequence}", "frame": frame, "composite": number})


def _picture(raw_dir: pathlib.Path, number: int) -> pathlib.Path:
    return raw_dir / PICTURES / f"{number:06d}.jpg"


def _read_source(file: h5py.File, reference: h5py.Reference, where: str) -> list[int]:
    """Subject, sequence, camera and frame of a person: the first thing in that person's cell."""
    source = read_cell(file, file[reference])[0]
    if np.size(source) != 4:
        raise ValueError(f"{where}: expected cells that begin with subject, sequence, camera and frame, got {source!r:.100}")
    return np.int64(source).ravel().tolist()


# People that are hidden behind others have no detection, or only one of several people.
ADAPTER = Adapter(name="muco_3dhp", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.1, unmatched="drop", max_area_ratio=2.0))
