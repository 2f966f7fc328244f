"""PoseTrack18 (Andriluka et al., CVPR 2018), or PoseTrack21 in its layout: people tracked in videos, 17 joints in 2D.

    RAW_DIR/images/{train,val}/VIDEO/NNNNNN.jpg
    RAW_DIR/[posetrack_data/]annotations/{train,val}/VIDEO.json

`train` is the training split, `val` the validation split; the labels of `test` are withheld. In training videos a frame
of a track is left out while the person hardly moves, see `select_frames`. The boxes are those of the annotations, or of
detections that overlap with them; a detector's results may number the images as the annotations do.
"""

import itertools
import pathlib
from collections.abc import Iterator

import numpy as np

from datasets.frame_sampling import select_frames
from datasets.raw_example import Adapter, DetectionRule, RawExample
from datasets.raw_files import KeypointAnnotation, has_enough_limb_joints, path_inside, read_coco_keypoints
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("posetrack_17")
LABELLED = 1  # the only flag that means a usable joint
MIN_MOVEMENT = 0.5  # of the diagonal of the head box
FOLDERS = {"train": "train", "validation": "val"}
HINT = "Get the PoseTrack18 images and labels from https://posetrack.net and unpack them there."


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The annotation files, one per video; see `Adapter.list_units`."""
    if split not in FOLDERS:
        return []
    roots = [raw_dir / "posetrack_data" / "annotations", raw_dir / "annotations"]
    existing = [root for root in roots if any((root / folder).is_dir() for folder in FOLDERS.values())]
    if not existing:
        raise FileNotFoundError(f"neither {roots[0]} nor {roots[1]} has a folder train or val. {HINT}")
    return [path.relative_to(raw_dir).as_posix() for path in sorted((existing[0] / FOLDERS[split]).glob("*.json"))]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one video, image by image; a `ValueError` for one whose image is missing."""
    path = raw_dir / unit
    people_of_images = read_coco_keypoints(path, SKELETON, HINT)
    tracks: dict[int | None, list[KeypointAnnotation]] = {}
    for people in people_of_images.values():
        for person in people:
            if person.bbox is not None and (person.bbox[2:] > 0).all():
                tracks.setdefault(person.track_id, []).append(person)
    is_training = path.parent.name == FOLDERS["train"]
    kept: dict[int, list[tuple[KeypointAnnotation, np.ndarray]]] = {image_id: [] for image_id in people_of_images}
    for track_id, people in tracks.items():
        poses = [_joints2d(person) for person in people]
        frames = range(len(people))
        if is_training and track_id is not None:
            frames = select_frames(poses, [_movement_threshold(person) for person in people])
        for i in frames:
            if has_enough_limb_joints(poses[i], SKELETON):
                kept[people[i].image_id].append((people[i], poses[i]))
    for person, joints2d in itertools.chain.from_iterable(kept.values()):
        try:
            image_path = path_inside(raw_dir, person.file_name, f"{path}: file_name")
            if not image_path.is_file():
                raise ValueError(f"{path} lists the image {image_path}, which is missing. {HINT}")
        except ValueError as error:
            yield error
            continue
        yield RawExample(image=image_path, bbox=person.bbox, joints2d=joints2d, provenance={
            "source": person.file_name, "sequence": path.stem, "frame": person.image_id, "subject": person.track_id,
            "annotation": person.annotation_id})


def _movement_threshold(person: KeypointAnnotation) -> float:
    """px that count as movement; 0 for a person without a head box: every frame is kept."""
    return 0.0 if person.bbox_head is None else MIN_MOVEMENT * float(np.hypot(*person.bbox_head[2:]))


def _joints2d(person: KeypointAnnotation) -> np.ndarray:
    return np.where((person.flags == LABELLED)[:, None], person.joints2d, np.float32(np.nan))


ADAPTER = Adapter(name="posetrack", kind="2d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit,
                  detection_rule=DetectionRule(min_iou=0.1, image_id="frame"))
