"""JRDB-Pose (Vendrow et al., CVPR 2023): people around a robot on a campus, seen by five cameras at 15 Hz, 17 joints in 2D.

    RAW_DIR/{train_dataset,train_dataset_with_activity}/
        images/image_{0,2,4,6,8}/SCENE/NNNNNN.jpg                       752 x 480, as the lens makes them
        labels/labels_2d_pose_coco/SCENE_image{0,2,4,6,8}.json
        calibration/cameras.yaml

The labels of the test scenes are withheld, and all others are the train split. The stitched panoramas are not read: they are
no pictures of a pinhole camera. A frame of a track is left out while the person hardly moves. Boxes are those of the labelled
joints, enlarged. The calibration takes the lens' distortion out and tells which way is up; world: y down.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.calibration import camera_from, read_opencv_yaml
from datasets.frame_sampling import select_frames
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import has_enough_limb_joints, joints_box, read_json
from posepile.geometry.camera import Camera
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("jrdb_17")  # in the order of the files
ROOTS = ("train_dataset", "train_dataset_with_activity")
LABELS = "labels/labels_2d_pose_coco"
# px; by them a camera finds its sensor. Releases differ: there are those of these cameras only, or of all ten.
FOCAL_LENGTHS = {0: 476.71, 2: 483.911, 4: 485.046, 6: 480.459, 8: 476.708}
MAX_FOCAL_DIFFERENCE = 0.5  # px
LABEL_LAG = 2  # frames: what is labelled as image 0 is seen in image 2
MIN_MOVEMENT = 0.1  # of the longer side of the box
BOX_SCALE = 1.15
HINT = "Get the training images, labels and calibration of JRDB from https://jrdb.erc.monash.edu and unpack them there."


@dataclasses.dataclass(frozen=True)
class _Person:
    label_frame: int
    track_id: Any
    annotation_id: Any
    joints2d: np.ndarray  # [17, 2] px; nan where there is no label
    bbox: np.ndarray


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """The label files, one for each scene and camera; see `Adapter.list_units`."""
    for root in ROOTS:
        matches = [re.fullmatch(r"(.+)_image([02468])", path.stem) for path in sorted((raw_dir / root / LABELS).glob("*.json"))]
        units = [{"root": root, "scene": match[1], "camera": int(match[2])} for match in matches if match]
        if units:
            return units if split == "train" else []
    raise FileNotFoundError(f"no label files {raw_dir / ROOTS[0] / LABELS / '*_image0.json'}, nor in {ROOTS[1]}. {HINT}")


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any]) -> Iterator[RawExample | ValueError]:
    """The people of one scene and camera, image by image; a `ValueError` for one whose label is broken or image missing."""
    root, scene, camera_id = raw_dir / unit["root"], unit["scene"], unit["camera"]
    camera = read_camera(root / "calibration" / "cameras.yaml", camera_id)
    folder = root / "images" / f"image_{camera_id}" / scene
    existing = {path.name for path in folder.glob("*.jpg")}
    if not existing:
        raise FileNotFoundError(f"no images in the folder {folder}. {HINT}")
    path = root / LABELS / f"{scene}_image{camera_id}.json"
    people, errors = _read_people(path)
    yield from errors
    tracks: dict[Any, list[_Person]] = {}
    for person in sorted(people, key=lambda person: person.label_frame):
        tracks.setdefault(object() if person.track_id is None else person.track_id, []).append(person)
    kept = [track[i] for track in tracks.values() for i in select_frames(
        [person.joints2d for person in track], [MIN_MOVEMENT * person.bbox[2:].max() for person in track])]
    for person in sorted(kept, key=lambda person: person.label_frame):
        frame = person.label_frame + LABEL_LAG
        image = folder / f"{frame:06d}.jpg"
        if image.name in existing:
            yield RawExample(image=image, bbox=person.bbox, camera=camera, joints2d=person.joints2d, provenance={
                "source": image.relative_to(raw_dir).as_posix(), "sequence": scene, "camera": camera_id, "frame": frame,
                "subject": person.track_id, "annotation": person.annotation_id})
        elif image.name < max(existing):  # the last labels have no images, since they lag behind
            yield ValueError(f"{path}: annotation {person.annotation_id} is of the image {image}, which is missing. {HINT}")


def read_camera(path: pathlib.Path, camera_id: int) -> Camera:
    """The camera of the images image_{camera_id}.

    The file has a table of sensors with K, D, R and T as texts of numbers. Where it lists the five cameras only, they are
    numbered 0 to 4, otherwise as the images are.

    Raises: FileNotFoundError; ValueError naming file and sensor.
    """
    sensors = read_opencv_yaml(path, HINT).get("cameras")
    names = dict.fromkeys(f"sensor_{number}" for number in (camera_id, camera_id // 2))
    for name in names:
        try:
            if name not in sensors:
                continue
            numbers = {key: np.array(sensors[name][key].replace(",", " ").split(), np.float64) for key in "KDRT"}
            focal_length = numbers["K"][0]
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: cameras, {name}: expected K, D, R and T, texts of numbers; problem: "
                             f"{error!r}") from error
        if abs(focal_length - FOCAL_LENGTHS[camera_id]) < MAX_FOCAL_DIFFERENCE:
            return camera_from(numbers["K"], numbers["R"], translation=numbers["T"], distortion=numbers["D"],
                               world_up=[0, -1, 0], unit_mm=1000.0, where=f"{path}: cameras, {name}")
    raise ValueError(f"{path}: cameras has no {' or '.join(names)} with the focal length of image_{camera_id}, "
                     f"{FOCAL_LENGTHS[camera_id]} px. Is it the calibration of another robot?")


def _read_people(path: pathlib.Path) -> tuple[list[_Person], list[ValueError]]:
    """The people with enough limbs, and an error for each annotation that is broken, in the order of the file.

    What the file calls the joints is not looked at: names differ (head, tailbone or center hip, hands, feet), not the order.
    """
    content = read_json(path, HINT)
    try:
        label_frames = {image["id"]: int(pathlib.PurePosixPath(image["file_name"]).stem) for image in content["images"]}
        annotations = list(content["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected images with id and file_name (.../NNNNNN.jpg), and annotations; problem: "
                         f"{error!r:.200}") from error
    people, errors = [], []
    for i, annotation in enumerate(annotations):
        try:
            keypoints = np.array(annotation["keypoints"], np.float64).reshape(SKELETON.num_joints, 3)
            label_frame, track_id = label_frames[annotation["image_id"]], annotation.get("track_id")
            hash(track_id)
            if not np.isfinite(keypoints).all():
                raise ValueError("keypoints that are not finite")
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            errors.append(ValueError(f"{path}: annotations[{i}]: expected keypoints (17 x 3 numbers), image_id of one of the "
                                     f"images and track_id; problem: {error!r:.200}"))
            continue
        joints2d = np.where(keypoints[:, 2:] > 0, keypoints[:, :2], np.nan)
        bbox = joints_box(joints2d, BOX_SCALE)
        if bbox is not None and has_enough_limb_joints(joints2d, SKELETON):
            people.append(_Person(label_frame, track_id, annotation.get("id"), joints2d, bbox))
    return people, errors


ADAPTER = Adapter(name="jrdb", kind="2d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, min_score=0.2))
