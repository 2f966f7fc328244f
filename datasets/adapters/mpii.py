"""MPII Human Pose (Andriluka et al., CVPR 2014): people in frames of videos, labelled in 2D with 16 joints.

    RAW_DIR/images/*.jpg
    RAW_DIR/[*/]mpii_human_pose_v1_u12_1.mat        the official annotations; only their training part has labels
    RAW_DIR/[annotations/ or annot/]*.json          lists of people, as pose estimation projects pass them around

The MATLAB file is read if it is there; all of it is the training split. Else, a JSON file with `val` in its name is the
validation split and any other the training split, except that one with `trainval` in its name is read only where there
is no other, and one with `test` never: its labels are withheld.

Coordinates are MATLAB's, counted from 1 in both forms: subtracting 1 makes them px counted from 0. There are no person
boxes: they are made from the labelled joints, enlarged by BOX_SCALE, as the joints end at the wrists and ankles. With a
detector's results, people who are not among them are left out, as in the published training mix.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import find_nested, joints_box, mat_list, path_inside, read_json, read_mat
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("mpii_16")
MAT_NAME = "mpii_human_pose_v1_u12_1.mat"
BOX_SCALE = 1.25
MIN_LABELLED_JOINTS = 7  # the published training mix asks for more than 6
PEOPLE_PER_UNIT = 1000
HINT = ("Get mpii_human_pose_v1.tar.gz (images) and mpii_human_pose_v1_u12_2.zip (annotations) from "
        "http://human-pose.mpi-inf.mpg.de and unpack them there.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Runs of people, each with all people of its images; see `Adapter.list_units`."""
    units = []
    for path in _annotation_files(raw_dir, split):
        units += [{"annotations": path.relative_to(raw_dir).as_posix(), "first": first, "last": last}
                  for first, last in _runs([str(image_name) for image_name, _, _ in _read_people(path)])]
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The people of a run with enough labelled joints; a `ValueError` for one whose image is missing."""
    path = raw_dir / unit["annotations"]
    for image_name, joints2d, where in _read_people(path)[unit["first"]:unit["last"]]:
        box = joints_box(joints2d, BOX_SCALE)
        if box is None or np.count_nonzero(np.isfinite(joints2d).all(axis=1)) < MIN_LABELLED_JOINTS:
            continue
        try:
            image_path = path_inside(raw_dir / "images", image_name, f"{path}: {where}: image")
            if not image_path.is_file():
                raise ValueError(f"{path}: {where} is in the image {image_path}, which is missing. {HINT}")
        except ValueError as error:
            yield error
            continue
        yield RawExample(image=image_path, bbox=box, joints2d=joints2d,
                         provenance={"source": f"images/{image_name}", "annotation": where})


def _annotation_files(raw_dir: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Raises: FileNotFoundError if there is no annotation file at all."""
    if mat_files := find_nested(raw_dir, MAT_NAME):
        return mat_files[:1] if split == "train" else []
    folders = (raw_dir, raw_dir / "annotations", raw_dir / "annot")
    paths = [path for folder in folders for path in sorted(folder.glob("*.json")) if "test" not in path.stem]
    if not paths:
        raise FileNotFoundError(f"neither {raw_dir / MAT_NAME} nor a JSON list of people is there. {HINT}")
    paths = [path for path in paths if "trainval" not in path.stem] or paths
    if split == "validation":
        return [path for path in paths if "val" in path.stem and "trainval" not in path.stem]
    return [path for path in paths if "val" not in path.stem or "trainval" in path.stem] if split == "train" else []


def _runs(image_names: list[str]) -> Iterator[tuple[int, int]]:
    """Cuts a list with the image of each person where another image begins, after PEOPLE_PER_UNIT people or a few more."""
    first = 0
    for i in range(1, len(image_names) + 1):
        if i == len(image_names) or (i - first >= PEOPLE_PER_UNIT and image_names[i] != image_names[i - 1]):
            yield first, i
            first = i


def _read_people(path: pathlib.Path) -> list[tuple[str, np.ndarray, str]]:
    """Image name, joints2d [16, 2] float32 px counted from 0, and place in the file, for every annotated person.

    The people of an image follow one another.
    """
    return _read_people_cached(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read_people_cached(path, _mtime):
    people_of_images: dict[str, list] = {}
    for person in _read_mat_people(path) if path.suffix == ".mat" else _read_json_people(path):
        people_of_images.setdefault(str(person[0]), []).append(person)
    return list(itertools.chain.from_iterable(people_of_images.values()))


def _read_json_people(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray, str]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} is not a list of people with the entries image, joints and joints_vis")
    for i, person in enumerate(content):
        try:
            joints = np.asarray(person["joints"], np.float32)
            labelled = np.asarray(person["joints_vis"], np.float32) > 0
            image_name = person["image"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: entry {i} needs image, joints (16 x 2 numbers) and joints_vis (16 numbers); "
                             f"problem: {error!r}") from error
        if joints.shape != (SKELETON.num_joints, 2) or labelled.shape != (SKELETON.num_joints,):
            raise ValueError(f"{path}: entry {i} has joints of shape {list(joints.shape)} and joints_vis of shape "
                             f"{list(labelled.shape)}; expected [16, 2] and [16]")
        labelled &= (joints > 0).any(axis=1)  # unlabelled joints are (-1, -1) or (0, 0), whatever their flag
        yield image_name, np.where(labelled[:, None], joints - 1, np.float32(np.nan)), f"person {i}"


def _read_mat_people(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray, str]]:
    release = read_mat(path, "RELEASE")
    images, is_train = mat_list(release, "annolist"), mat_list(release, "img_train")
    if not images or len(images) != len(is_train):
        raise ValueError(f"{path}: RELEASE has {len(images)} annolist and {len(is_train)} img_train entries; expected "
                         "equal numbers")
    for i, image in enumerate(images):
        if not is_train[i]:
            continue
        for j, person in enumerate(mat_list(image, "annorect")):
            # annopoints is missing or empty for people that nobody labelled
            points = [p for annotation in mat_list(person, "annopoints") for p in mat_list(annotation, "point")]
            if not points:
                continue
            joints2d = np.full((SKELETON.num_joints, 2), np.nan, np.float32)
            where = f"annolist({i + 1}).annorect({j + 1})"
            try:
                for point in points:  # in any order; is_visible tells occluded from visible, both are labels
                    if not 0 <= int(point.id) < SKELETON.num_joints:
                        raise ValueError(f"a point has id {point.id}; expected 0 to 15")
                    joints2d[int(point.id)] = float(point.x) - 1, float(point.y) - 1
                image_name = image.image.name
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{path}: {where} is broken: {error}") from error
            yield image_name, joints2d, where


ADAPTER = Adapter(name="mpii", kind="2d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.5, unmatched="drop"))
