"""What an adapter yields: one labelled person in one image as distributed by the authors, in our units and axes."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from posepile.data.records import Example
from posepile.geometry.camera import Camera


@dataclasses.dataclass(frozen=True)
class RawExample:
    """One person in one image, before cropping.

    Attributes:
        image: file of the image, or the image itself as [height, width, 3] uint8 RGB.
        bbox: [4] x, y, width, height of the person, px of the (distorted) image.
        camera: its calibration; None where there is none, only with `joints2d`.
        joints3d_world: [num_joints, 3] world frame, mm; nan where there is no label. None: labelled in 2D only.
        joints2d: [num_joints, 2] px of the image; nan where there is no label. None: labelled in 3D.
        mask: [height, width] bool of the person; None where there is none.
        provenance: where it comes from: `subject`, `sequence`, `frame`, `camera`, `source` (file) as far as known. Of an
            image that is not a file itself, `source` is the path of its video or archive relative to the raw folder and
            `frame` its number there, of a video's frames from 0: results of a detector are found by them.
        bystanders: [n, 4] boxes of labelled people in the same image who are no examples. They take part in the matching with
            detections, so that nobody gets theirs; those of the image's first example count.
    """

    image: pathlib.Path | np.ndarray
    bbox: np.ndarray
    camera: Camera | None = None
    joints3d_world: np.ndarray | None = None
    joints2d: np.ndarray | None = None
    mask: np.ndarray | None = None
    provenance: dict = dataclasses.field(default_factory=dict)
    bystanders: np.ndarray = dataclasses.field(default_factory=functools.partial(np.empty, (0, 4)))


@dataclasses.dataclass(frozen=True)
class DetectionRule:
    """How the boxes of a data set, made from its joints, say, are replaced by those of a detector.

    All people of an image are matched together, see `person_boxes.match_detections`; the people of an image have to follow
    one another.

    Attributes:
        min_iou: overlap of box and detection that makes them a pair.
        min_score: detections that are less sure are not looked at.
        unmatched: what becomes of people without a detection: "keep" them with their box, or "drop" them.
        take: the box of matched people: the "detection", or the "hull" of it and their own box.
        max_area_ratio: detections of a larger multiple of the box's area do not match: they hold several people.
        image_id: the field of `provenance` by which result files number the images; None: they name them.
    """

    min_iou: float
    min_score: float = 0.0
    unmatched: Literal["keep", "drop"] = "keep"
    take: Literal["detection", "hull"] = "detection"
    max_area_ratio: float = math.inf
    image_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
    """How one data set is read. Every module in `datasets/adapters` has one, named ADAPTER.

    Attributes:
        name: of the data set.
        kind: "3d" or "2d": what its labels are; a function of the raw folder if it depends on it; see `label_kind`.
        skeleton: name of a format or an inline definition, see `skeleton_from_dict`; a function of the raw folder if it
            depends on it; see `label_skeleton`.
        list_units: called with (raw_dir, split); the work units of a split in a fixed order (sequences, say, or
            annotation files). A unit is a picklable, JSON-like value. Raises FileNotFoundError naming the missing file
            and where to get it. A split that the data set does not have gives an empty list.
        load_unit: called with (raw_dir, unit); yields the unit's examples in a fixed order. A `RawExample` gets
            cropped; an `Example` (from a renderer, say) is stored as it is. A person whose annotation is wrong may be
            yielded as a `ValueError` that names file and field, so that the caller can raise it or skip that person.
        detection_rule: how a detector's results replace its boxes; None: it has boxes of its own, they stay.
        uses_body_models: its labels are parameters of a body model. `list_units` and `load_unit` then get a keyword argument
            `body_models`, the folder of the user's licensed model files or None, and `list_units` raises what
            `body_models.find_body_model` raises for a file that is needed and not there.
    """

    name: str
    kind: str | Callable[[pathlib.Path | None], str]
    skeleton: str | dict | Callable[[pathlib.Path | None], str | dict]
    list_units: Callable[..., list[Any]]
    load_unit: Callable[..., Iterator[RawExample | Example | ValueError]]
    detection_rule: DetectionRule | None = None
    uses_body_models: bool = False

    def label_kind(self, raw_dir: pathlib.Path | None) -> str:
        """"3d" or "2d" for this raw folder."""
        return self.kind(raw_dir) if callable(self.kind) else self.kind

    def label_skeleton(self, raw_dir: pathlib.Path | None) -> str | dict:
        """Name or definition of the joint format for this raw folder."""
        return self.skeleton(raw_dir) if callable(self.skeleton) else self.skeleton
