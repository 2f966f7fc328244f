"""Bring your own data: a folder of images and one or several JSON files, as docs/custom_dataset.md describes them.

Labels are in 3D, with calibrated cameras, or in 2D; a folder has one kind only, the kind of its first person.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from datasets import custom_format
from datasets.cropping import load_image
from datasets.custom_format import CustomCamera, CustomFile, CustomPerson
from datasets.plausibility import CAMERA_AXES, check_body_size, check_left_right, is_near_image, readings_that_fit
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import joints_box, path_inside
from posepile.geometry.camera import project, transform

IMAGES_PER_UNIT = 200
BOX_SCALE = 1.15  # of the box around the joints, where no box is given
MIN_NEAR_SHARE = 0.5  # of a person's joints: so many must lie in the image or near it
IMAGE_MARGIN = 0.1  # of the image size: a joint this far outside still counts as in the picture
MAX_DISAGREEMENT = 0.25  # of the longer box side: median distance between projected joints and given joints2d


def label_kind(raw_dir: pathlib.Path) -> str:
    """"3d" or "2d", by the first person. Raises: ValueError for a folder without any."""
    for path in custom_format.annotation_files(raw_dir):
        for image in custom_format.read_custom_file(path).images:
            for person in image.get("people", ()):
                if isinstance(person, dict):
                    return "3d" if {"joints3d_world", "joints3d_camera"} & set(person) else "2d"
    raise ValueError(f"the annotation files of {raw_dir} list no people. {custom_format.DOCUMENTATION}")


def skeleton_definition(raw_dir: pathlib.Path) -> dict:
    """The joint format of the folder, the same in all its annotation files."""
    return custom_format.read_custom_file(custom_format.annotation_files(raw_dir)[0]).skeleton.to_dict()


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Runs of images of one annotation file; see `Adapter.list_units`."""
    kind = label_kind(raw_dir)
    units, first = [], None
    for path in custom_format.annotation_files(raw_dir):
        file = custom_format.read_custom_file(path)
        first = first or file
        if file.skeleton != first.skeleton:
            raise ValueError(f"{path}: its skeleton, {file.skeleton.name}, differs from {first.skeleton.name} in "
                             f"{first.path.name}; a folder has one joint format. Put them into folders of their own.")
        if file.images and not any((raw_dir / image["file"]).is_file() for image in file.images):
            raise FileNotFoundError(f"{path}: none of its {len(file.images)} images exists; the first would be "
                                    f"{raw_dir / file.images[0]['file']}. Paths start at the annotation file's folder.")
        indices = [i for i, image_split in enumerate(file.splits) if image_split == split]
        units += [{"file": path.name, "kind": kind, "images": indices[i:i + IMAGES_PER_UNIT]}
                  for i in range(0, len(indices), IMAGES_PER_UNIT)]
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The people of a run of images; a `ValueError` in place of one whose annotation or image is wrong.

    Raises: ValueError for what is wrong with the whole run: a unit mix-up, left and right swapped.
    """
    file = custom_format.read_custom_file(raw_dir / unit["file"])
    people = {i: [_parse_person(file, i, j, unit["kind"]) for j in range(len(file.images[i].get("people", ())))]
              for i in unit["images"]}
    joints3d = [person.joints3d_camera if person.joints3d_world is None else person.joints3d_world
                for persons in people.values() for person in persons if isinstance(person, CustomPerson)]
    if unit["kind"] == "3d" and joints3d:
        where = f"{file.path}: images[{unit['images'][0]}] to images[{unit['images'][-1]}]"
        check_body_size(np.stack(joints3d), file.units, where)
        check_left_right(np.stack(joints3d), file.skeleton, where)
    for i, persons in people.items():
        if persons:
            yield from _image_examples(raw_dir, file, i, persons)


def _parse_person(file: CustomFile, i: int, j: int, kind: str) -> CustomPerson | ValueError:
    """The j-th person of the i-th image, or what is wrong with the annotation."""
    where = f"{file.path}: images[{i}].people[{j}]"
    try:
        person = custom_format.parse_person(file.images[i]["people"][j], file.skeleton, file.units, where)
        has_3d = person.joints3d_world is not None or person.joints3d_camera is not None
        if has_3d != (kind == "3d"):
            raise ValueError(f"{where} is labelled in {'3D' if has_3d else '2D only'}, but the first person of the "
                             f"folder in {kind.upper()}. Put the two kinds into folders of their own.")
        if has_3d and file.images[i].get("camera") is None:
            raise ValueError(f"{where} has 3D joints, but its image has no camera")
    except ValueError as error:
        return error
    return person


def _image_examples(raw_dir: pathlib.Path, file: CustomFile, i: int,
                    people: list[CustomPerson | ValueError]) -> Iterator[RawExample | ValueError]:
    """The people of one image; one error in their place if the image or its camera is unusable."""
    entry, where = file.images[i], f"{file.path}: images[{i}]"
    image_path = raw_dir / entry["file"]
    try:
        camera = file.image_camera(entry, where)
        height, width = load_image(image_path).shape[:2]
        _check_image_size((width, height), camera, f"{where} ({entry['file']})")
    except ValueError as error:
        yield error if str(error).startswith(where) else ValueError(f"{where}: {error}")
        return
    provenance = {"source": entry["file"], "sequence": entry.get("sequence", file.path.stem),
                  "frame": entry.get("frame", i)}
    if isinstance(entry.get("camera"), str):
        provenance["camera"] = entry["camera"]
    for j, person in enumerate(people):
        if isinstance(person, ValueError):
            yield person
            continue
        try:
            labels = _labels(raw_dir, camera, (width, height), person, f"{where}.people[{j}]")
        except ValueError as error:
            yield error
            continue
        subject = {} if person.subject is None else {"subject": person.subject}
        yield RawExample(image=image_path, camera=None if camera is None else camera.camera,
                         provenance={**provenance, **subject}, **labels)


def _labels(raw_dir: pathlib.Path, camera: CustomCamera | None, image_size: tuple[int, int], person: CustomPerson,
            where: str) -> dict[str, np.ndarray | None]:
    """bbox, mask and joints as in `RawExample`. Raises: ValueError naming file and field."""
    mask = None if person.mask is None else _read_mask(raw_dir, person.mask, image_size, f"{where}.mask")
    if person.joints3d_world is None and person.joints3d_camera is None:
        _check_joints2d(person.joints2d, image_size, f"{where}.joints2d")
        bbox = _box(person.bbox, person.joints2d, image_size, where)
        return {"bbox": bbox, "mask": mask, "joints2d": np.float32(person.joints2d)}
    joints3d_world, joints3d_camera = _both_frames(person, camera, where)
    _check_in_image(person, joints3d_camera, camera, image_size, where)
    joints2d = project(joints3d_camera, camera.camera.intrinsics, camera.camera.distortion)
    # A lens model may fold what is far outside of the image back into it.
    is_near = is_near_image(joints3d_camera, camera.camera.intrinsics, image_size)
    bbox = _box(person.bbox, np.where(is_near[:, None], joints2d, np.nan), image_size, where)
    if person.joints2d is not None:
        _check_agreement(joints2d, person.joints2d, max(bbox[2:]), where)
    return {"bbox": bbox, "mask": mask, "joints3d_world": np.float32(joints3d_world)}


def _both_frames(person: CustomPerson, camera: CustomCamera, where: str) -> tuple[np.ndarray, np.ndarray]:
    """[num_joints, 3] mm each, in the world's and in the camera's frame, the latter in OpenCV's axes."""
    world_to_camera = camera.camera.world_to_camera
    if person.joints3d_world is None:
        joints3d_camera = transform(person.joints3d_camera, camera.to_opencv)
        return transform(joints3d_camera, np.linalg.inv(world_to_camera)), joints3d_camera
    if camera.pose is None:
        raise ValueError(f"{where}.joints3d_world: its camera has no pose. Give the camera a world_to_camera or a "
                         "camera_to_world, or call the joints joints3d_camera if they are in the camera's frame.")
    return person.joints3d_world, transform(person.joints3d_world, world_to_camera)


def _check_in_image(person: CustomPerson, joints3d_camera: np.ndarray, camera: CustomCamera,
                    image_size: tuple[int, int], where: str) -> None:
    """Raises: ValueError if the person is not in the picture, with the readings of the camera's pose that would fit."""
    intrinsics = camera.camera.intrinsics
    num_labelled = np.count_nonzero(np.isfinite(joints3d_camera).all(axis=1))
    is_near = is_near_image(joints3d_camera, intrinsics, image_size)
    is_inside = is_near_image(joints3d_camera, intrinsics, image_size, margin=IMAGE_MARGIN)
    if np.count_nonzero(is_near) >= MIN_NEAR_SHARE * num_labelled and is_inside.any():
        return
    num_behind = np.count_nonzero(joints3d_camera[:, 2] <= 0)
    in_world = person.joints3d_world is not None
    message = (f"{where}.{'joints3d_world' if in_world else 'joints3d_camera'}: {np.count_nonzero(is_inside)} of "
               f"{num_labelled} joints are in the picture of {image_size[0]} x {image_size[1]} px, {num_behind} are "
               "behind the camera.")
    if in_world:
        message += f" Is the camera convention right? Its pose was read as {camera.reading}."
        fits = readings_that_fit(person.joints3d_world, *camera.pose, intrinsics, image_size)
    else:
        labelled = person.joints3d_camera[np.isfinite(person.joints3d_camera).all(axis=1)]
        fits = [f"axes {axes}" for axes, to_opencv in CAMERA_AXES.items()
                if is_near_image(transform(labelled, to_opencv), intrinsics, image_size, margin=0.0).all()]
    advice = f" It would fit as: {'; '.join(fits[:3])}." if fits else \
        " No other convention fits: check intrinsics, units and image, and leave out people who are not in the picture."
    raise ValueError(message + advice)


def _check_joints2d(joints2d: np.ndarray, image_size: tuple[int, int], where: str) -> None:
    """Raises: ValueError for joints far outside of the image, and for fractions of the image size."""
    labelled = joints2d[np.isfinite(joints2d).all(axis=1)]
    if len(labelled) > 1 and labelled.min() >= 0 and labelled.max() <= 1.5:
        raise ValueError(f"{where}: all joints lie between 0 and 1.5; expected px, not fractions of the image size")
    size = np.array(image_size)
    is_far = ((labelled < -size / 2) | (labelled > 1.5 * size)).any(axis=1)
    if is_far.any():
        raise ValueError(f"{where}: {np.count_nonzero(is_far)} of {len(labelled)} joints lie far outside of the image "
                         f"of {image_size[0]} x {image_size[1]} px, e.g. at {labelled[is_far][0].round(1).tolist()}. "
                         "Was the image resized?")


def _box(bbox: np.ndarray | None, joints2d: np.ndarray, image_size: tuple[int, int], where: str) -> np.ndarray:
    """[4] float32: the given box, checked; else the one around the joints enlarged by BOX_SCALE, its part in the image.
    """
    if bbox is not None:
        _check_box(bbox, joints2d, f"{where}.bbox")
        return np.float32(bbox)
    box = joints_box(joints2d, BOX_SCALE)
    if box is None:
        raise ValueError(f"{where} has too few joints in or near the image to make a box from; add a bbox "
                         "[x, y, width, height]")
    low = np.maximum(box[:2], -0.5)
    high = np.minimum(box[:2] + box[2:], np.array(image_size) - 0.5)
    if (high - low < 1).any():
        raise ValueError(f"{where}: the box around its joints, {box.round(1).tolist()}, lies outside of the image; "
                         "leave this person out")
    return np.float32(np.concatenate([low, high - low]))


def _check_box(bbox: np.ndarray, joints2d: np.ndarray, where: str) -> None:
    """Raises: ValueError for a box without any of the joints, and for one that makes sense only as two corners."""
    labelled = joints2d[np.isfinite(joints2d).all(axis=1)]
    if len(labelled) < 3 or (np.ptp(labelled, axis=0) == 0).any():
        return
    low, high = labelled.min(axis=0), labelled.max(axis=0)
    if (bbox[:2] > high).any() or (bbox[:2] + bbox[2:] < low).any():
        raise ValueError(f"{where}: the person's joints, {low.round(1).tolist()} to {high.round(1).tolist()}, are not "
                         f"in the box {bbox.round(1).tolist()}; expected x, y, width, height, px of the image")
    # Read as x, y, width, height, a box given by its corners reaches far beyond the joints to the right and below.
    margin = 0.25 * (high - low)
    if (np.abs(bbox[:2] - low) < margin).all() and (np.abs(bbox[2:] - high) < margin).all() \
            and (bbox[:2] + bbox[2:] > high + 2 * margin).any():
        raise ValueError(f"{where}: {bbox.round(1).tolist()} looks like two corners, x1, y1, x2, y2, around the "
                         "joints; expected x, y, width, height")


def _check_agreement(projected: np.ndarray, joints2d: np.ndarray, box_side: float, where: str) -> None:
    """Raises: ValueError if given 2D joints are not where the 3D ones project."""
    distance = np.linalg.norm(projected - joints2d, axis=1)
    distance = distance[np.isfinite(distance)]
    if distance.size and np.median(distance) > MAX_DISAGREEMENT * box_side:
        raise ValueError(f"{where}: its 3D joints project {np.median(distance):.0f} px (median) away from its joints2d;"
                         " check the camera (convention, units, intrinsics of another resolution) and the joint order")


def _check_image_size(size: tuple[int, int], camera: CustomCamera | None, where: str) -> None:
    """Raises: ValueError if the camera was calibrated for images of another size."""
    if camera is None or camera.image_size in (None, size):
        return
    advice = "Is its EXIF orientation wrong? Images are turned as it says." if camera.image_size == size[::-1] else \
        "Intrinsics hold for one image size only."
    raise ValueError(f"{where}: the image is {size[0]} x {size[1]} px, but image_size of its camera is "
                     f"{camera.image_size[0]} x {camera.image_size[1]}. {advice}")


def _read_mask(raw_dir: pathlib.Path, relative: Any, image_size: tuple[int, int], where: str) -> np.ndarray:
    """[height, width] bool: brighter than half of the brightest pixel, so that 0/1 and 0/255 both work."""
    path = path_inside(raw_dir, relative, where)
    if not path.is_file():
        raise ValueError(f"{where}: {path} is missing")
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"{where}: {path} cannot be decoded; it is truncated or not an image")
    if mask.shape[::-1] != image_size:
        raise ValueError(f"{where}: {path} is {mask.shape[1]} x {mask.shape[0]} px, its image {image_size[0]} x "
                         f"{image_size[1]}")
    if not mask.any():
        raise ValueError(f"{where}: {path} is black; expected the person in white")
    return mask > mask.max() / 2


ADAPTER = Adapter(name="custom", kind=label_kind, skeleton=skeleton_definition, list_units=list_units,
                  load_unit=load_unit)
