"""The synthetic data sets: which there are, and their examples as records.

Every example is a pure function of (data set, split, index). Each data set has its own joint format with its own
placement of the landmarks, its own cameras and its own look; `synthetic_test` mixes the looks and is labelled in all
formats at once.
"""

import dataclasses
import functools
from collections.abc import Iterator

import cv2
import numpy as np

from datasets.synthetic import landmarks, scenes
from datasets.synthetic.pictures import IMAGE_SIDE, RenderedExample, Subject, render_subject, sample_subject
from posepile.data.records import Example, encode_mask
from posepile.geometry.camera import project
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

JPEG_QUALITY = 93
FRAMES_PER_SUBJECT = 20
UNIT_EXAMPLES = 250
ALL_FORMATS = {"name": "synthetic_all", "merge": ["smpl_24", "h36m_17", "mpi_inf_3dhp_17", "coco_19"]}

_SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}


@dataclasses.dataclass(frozen=True)
class SyntheticDataset:
    """One of the synthetic data sets.

    Attributes:
        name: of the data set; key: its seed, never to be changed.
        kind: "3d" or "2d"; skeleton: of its labels, see `skeleton_from_dict`.
        family: whose landmark placement the labels have; None: each format's own.
        looks: of its images, see `scenes.LOOKS`.
        num_examples: by split.
    """

    name: str
    key: int
    kind: str
    skeleton: str | dict
    looks: tuple[str, ...]
    num_examples: dict[str, int]
    family: str | None = None


_ALL_LOOKS = tuple(scenes.LOOKS)
_EXAMPLES_3D = {"train": 10000, "validation": 100}
DATASETS = {
    dataset.name: dataset
    for dataset in (
        SyntheticDataset("synthetic_studio", 101, "3d", "smpl_24", ("studio",), _EXAMPLES_3D),
        SyntheticDataset("synthetic_street", 102, "3d", "h36m_17", ("street",), _EXAMPLES_3D),
        SyntheticDataset("synthetic_gym", 103, "3d", "mpi_inf_3dhp_17", ("gym",), _EXAMPLES_3D),
        SyntheticDataset("synthetic_garden", 104, "3d", "coco_19", ("garden",), _EXAMPLES_3D),
        SyntheticDataset(
            "synthetic_photos", 105, "2d", "coco_17", _ALL_LOOKS, {"train": 4000}, family=landmarks.PHOTOS_FAMILY
        ),
        SyntheticDataset("synthetic_test", 106, "3d", ALL_FORMATS, _ALL_LOOKS, {"test": 600}),
    )
}


def list_units(name: str, split: str) -> list[dict]:
    """The work units of a split: runs of examples, `{"split", "start", "count"}`."""
    total = DATASETS[name].num_examples.get(split, 0)
    return [
        {"split": split, "start": start, "count": min(UNIT_EXAMPLES, total - start)}
        for start in range(0, total, UNIT_EXAMPLES)
    ]


def load_unit(name: str, unit: dict) -> Iterator[Example]:
    """Renders the examples of a unit, in order."""
    for index in range(unit["start"], unit["start"] + unit["count"]):
        yield make_example(name, unit["split"], index)


def make_example(name: str, split: str, index: int, image_side: int = IMAGE_SIDE) -> Example:
    """The record of one example, a pure function of its arguments."""
    dataset = DATASETS[name]
    skeleton = load_skeleton_of(name)
    rendered = render_example(name, split, index, image_side)
    is_encoded, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(rendered.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert is_encoded, "OpenCV was built without JPEG support"
    joints3d = rendered.joints3d(skeleton, dataset.family)
    subject, frame = divmod(index, FRAMES_PER_SUBJECT)
    return Example(
        image=jpeg.tobytes(),
        intrinsics=np.float32(rendered.intrinsics),
        world_to_camera=np.float32(rendered.world_to_camera),
        bbox=rendered.bbox,
        joints3d=joints3d if dataset.kind == "3d" else None,
        joints2d=np.float32(project(joints3d, rendered.intrinsics)) if dataset.kind == "2d" else None,
        mask_rle=encode_mask(rendered.mask),
        provenance={
            "subject": f"{split}{subject:03d}",
            "sequence": f"{name}_{split}{subject:03d}",
            "frame": frame,
            "camera": str(index),
            "source": "rendered",
        },
    )


def render_example(
    name: str, split: str, index: int, image_side: int = IMAGE_SIDE, dense: bool = False
) -> RenderedExample:
    """Renders one example of a data set; `dense` adds part labels and depth."""
    seed = np.random.SeedSequence([DATASETS[name].key, _SPLIT_KEYS[split], 1, index])
    return render_subject(
        np.random.default_rng(seed), load_subject(name, split, index // FRAMES_PER_SUBJECT), image_side, dense
    )


@functools.lru_cache(maxsize=8)
def load_subject(name: str, split: str, subject: int) -> Subject:
    """The person of a data set's split with this number."""
    rng = np.random.default_rng(np.random.SeedSequence([DATASETS[name].key, _SPLIT_KEYS[split], 0, subject]))
    looks = DATASETS[name].looks
    return sample_subject(rng, looks[int(rng.integers(len(looks)))])


@functools.cache
def load_skeleton_of(name: str) -> Skeleton:
    """The joint format(s) that a synthetic data set is labelled in."""
    return skeleton_from_dict(DATASETS[name].skeleton)
