"""COCO keypoints, 2014 and 2017 (Lin et al., ECCV 2014): people in photographs, labelled in 2D with 17 joints.

    RAW_DIR/annotations/person_keypoints_{train,val}{2014,2017}.json
    RAW_DIR/{train,val}{2014,2017}/*.jpg            or beneath RAW_DIR/images

The two editions hold the same images, train2014 + val2014 = train2017 + val2017, and val2017 is a part of val2014. So:

    validation   val2017
    train        train2017; without it train2014, and also val2014 unless val2017 serves as validation

Any other person_keypoints_*.json, a subset say, is read if none of these four is there. It belongs to the split that
its name tells (`train`, `val`), else each of its images belongs to the split of the folder that holds it.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import KeypointAnnotation, has_enough_limb_joints, joints_box, path_inside, read_coco_keypoints
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("coco_17")
# A person is kept if large enough, with enough joints visible (flag 2) and labelled (1 or 2), enough of them on limbs.
MIN_VISIBLE_JOINTS = 17 / 3
MIN_LABELLED_JOINTS = 17 / 2
JOINTS_BOX_SCALE = 1.25
MIN_PERSON_SIDE = 200  # px, the longer side of the enlarged box around the joints
IMAGES_PER_UNIT = 500
VISIBLE = 2

HINT = ("Get the annotations (annotations_trainval2017.zip) and images (train2017.zip, val2017.zip) from "
        "https://cocodataset.org and unpack them there.")
_FOLDER_SPLITS = {"train2017": "train", "train2014": "train", "val2014": "train", "val2017": "validation"}
_FILE_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")


def list_units(raw_dir: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Runs of images with labelled people; see `Adapter.list_units`."""
    units = []
    for path in _annotation_files(raw_dir, split):
        image_ids = [image_id for image_id, people in read_coco_keypoints(path, SKELETON).items()
                     if _split_of(raw_dir, path, people[0]) == split]
        units += [{"annotations": path.relative_to(raw_dir).as_posix(), "image_ids": image_ids[i:i + IMAGES_PER_UNIT]}
                  for i in range(0, len(image_ids), IMAGES_PER_UNIT)]
    return units


def load_unit(raw_dir: pathlib.Path, unit: dict[str, Any],
              min_person_side: float = MIN_PERSON_SIDE) -> Iterator[RawExample | ValueError]:
    """The people of a run of images that pass the filters; a `ValueError` for one without image or with a broken mask.

    Args:
        min_person_side: px; smaller people are left out. They would be blurred: crops enlarge an image by 1.2 at most.
    """
    path = raw_dir / unit["annotations"]
    people = read_coco_keypoints(path, SKELETON, HINT)
    for image_id in unit["image_ids"]:
        for person in people[image_id]:
            if not _is_usable(person, min_person_side):
                continue
            try:
                image_path, mask = find_image(raw_dir, path, person.file_name), person.mask()
            except (FileNotFoundError, ValueError) as error:
                yield ValueError(f"{path}: {error}")
                continue
            # COCO's boxes count from the corner of pixel (0, 0), its joints from the centre, as we do.
            bbox = person.bbox - np.float32([0.5, 0.5, 0, 0])
            yield RawExample(image=image_path, bbox=bbox, joints2d=person.joints2d, mask=mask, provenance={
                "source": image_path.relative_to(raw_dir).as_posix(), "frame": image_id,
                "annotation": person.annotation_id})


def find_image(raw_dir: pathlib.Path, annotations: pathlib.Path, file_name: str) -> pathlib.Path:
    """The file of an image, under its 2014 or its 2017 name, in the folder of its annotation file first.

    Raises: FileNotFoundError naming the folders; ValueError for a file name that leaves the folder.
    """
    path_inside(raw_dir, file_name, f"{annotations.name}: file_name")
    match = _FILE_NAME.fullmatch(pathlib.PurePosixPath(file_name).name)
    own_folder = annotations.stem.removeprefix("person_keypoints_")
    folders = sorted(_FOLDER_SPLITS, key=lambda folder: folder != own_folder)
    for root in (raw_dir, raw_dir / "images"):
        for folder in folders:
            names = [file_name]
            if match:
                names.append(f"COCO_{folder}_{match[1]}.jpg" if folder.endswith("2014") else f"{match[1]}.jpg")
            for name in names:
                if (path := root / folder / name).is_file():
                    return path
        if (path := root / file_name).is_file():
            return path
    raise FileNotFoundError(f"{annotations.name} lists the image {file_name}, which is in none of the folders "
                            f"{', '.join(folders)} of {raw_dir}. {HINT}")


def _annotation_files(raw_dir: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Raises: FileNotFoundError if there is no annotation file at all."""
    paths = {path.stem.removeprefix("person_keypoints_"): path
             for path in sorted((raw_dir / "annotations").glob("person_keypoints_*.json"))}
    if not paths:
        raise FileNotFoundError(f"no file {raw_dir / 'annotations' / 'person_keypoints_*.json'}. {HINT}")
    if not paths.keys() & _FOLDER_SPLITS.keys():
        return list(paths.values())
    if split == "validation":
        names = ["val2017"]
    elif split == "train":
        names = ["train2017"] if "train2017" in paths else ["train2014"] + ["val2014"] * ("val2017" not in paths)
    else:
        names = []
    return [paths[name] for name in names if name in paths]


def _split_of(raw_dir: pathlib.Path, path: pathlib.Path, person: KeypointAnnotation) -> str:
    edition = path.stem.removeprefix("person_keypoints_")
    if edition in _FOLDER_SPLITS:
        return _FOLDER_SPLITS[edition]
    if "train" in edition:
        return "train"
    if "val" in edition:
        return "validation"
    return _FOLDER_SPLITS.get(find_image(raw_dir, path, person.file_name).parent.name, "train")


def _is_usable(person: KeypointAnnotation, min_person_side: float) -> bool:
    box = joints_box(person.joints2d, JOINTS_BOX_SCALE)
    return (np.count_nonzero(person.flags == VISIBLE) >= MIN_VISIBLE_JOINTS
            and np.count_nonzero(person.flags) >= MIN_LABELLED_JOINTS
            and box is not None and box[2:].max() >= min_person_side
            and has_enough_limb_joints(person.joints2d, SKELETON)
            and person.bbox is not None and (person.bbox[2:] > 0).all())


ADAPTER = Adapter(name="coco", kind="2d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
