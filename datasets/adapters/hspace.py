"""HSPACE (Bazavan et al., arXiv 2112.12867, 2021): animated GHUM bodies in rendered scenes, several people in a frame.

    RAW_DIR/[2021_01/]train/*.tfrecord      a `tf.train.Example` for each frame, with these features:

    image/rgb                               picture, encoded
    character_masks                         label of each pixel, encoded; 0: background
    camera_intrinsics                       fx, fy, cx, cy, px
    number_of_rigged_characters             how many people; of each, counted from 0:
    RIGGED_{i}/joints_3d                    63 joints, camera frame, m
    RIGGED_{i}/mask_id                      the person's larger label; the smaller one is 1 less

There is one split, train. Of all people in a file those are kept who are wide and tall enough in the picture, and whose pose
differs from the last ones kept, whoever's these were. Masks and boxes are those of the labels; no detector is needed. The world
is the frame of the camera, y down, mm.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np

from datasets.calibration import camera_from
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, RawExample
from datasets.readers.tfrecords import read_examples
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("ghum_35")
_FINGERS = [f"{finger}{bone}" for finger in ("index", "middle", "ring", "pinky", "thumb") for bone in (1, 2, 3)]
_ARM, _LEG = ("clavicle", "shoulder", "elbow", "wrist", *_FINGERS), ("hip", "knee", "ankle", "heel", "foot", "toe")
# All joints of the files; SKELETON leaves out most of brows and fingers.
FILE_JOINTS = ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "head2", "left_brow1", "left_brow2", "right_brow1",
               "right_brow2", "left_brow3", "right_brow3",
               *(f"{side}_{joint}" for limb in (_ARM, _LEG) for side in ("left", "right") for joint in limb))
ROWS = [FILE_JOINTS.index(name) for name in SKELETON.joint_names]
MM_PER_METRE = 1000.0
MIN_MOVEMENT_MM, NUM_REMEMBERED = 100.0, 20
MIN_BOX_SIDE = 100  # px, of the shorter side
BACKGROUND = 0  # label
SQUARE = np.ones((4, 4), np.uint8)
HINT = ("Get the folder 2021_01 of the bucket hspace_public, access to which is asked for by the form in "
        "https://github.com/google-research/google-research/tree/master/hspace, and put it there.")


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The files; see `Adapter.list_units`."""
    paths = sorted(raw_dir.glob("2021_01/train/*.tfrecord")) or sorted(raw_dir.glob("train/*.tfrecord"))
    if not paths:
        raise FileNotFoundError(f"there is no file {raw_dir / '2021_01' / 'train' / '*.tfrecord'}. {HINT}")
    return [path.relative_to(raw_dir).as_posix() for path in paths] if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The people of one file who are kept, frame by frame; a `ValueError` for a frame or person whose features are broken."""
    sampler = FrameSampler(MIN_MOVEMENT_MM, NUM_REMEMBERED, newly_valid=True, nan_unchanged=True)
    for frame, record in enumerate(read_examples(raw_dir / unit, HINT)):
        try:
            if isinstance(record, ValueError):
                raise record
            yield from _load_frame(_Features(record, f"{raw_dir / unit}: record {frame}"), sampler, {
                "source": unit, "sequence": pathlib.PurePosixPath(unit).stem, "frame": frame})
        except ValueError as error:
            yield error


def _load_frame(features: "_Features", sampler: FrameSampler, provenance: dict) -> Iterator[RawExample | ValueError]:
    """The people of one frame. Raises: ValueError if what they have in common is broken."""
    fx, fy, cx, cy = features.numbers("camera_intrinsics", 4)
    camera = camera_from([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.eye(3), np.zeros(3), world_up=[0, -1, 0],
                         where=f"{features.where}: camera_intrinsics")
    labels = features.image("character_masks", cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2:
        raise ValueError(f"{features.where}: character_masks has {labels.shape[2]} channels, expected one, of labels")
    image = None
    for person in range(features.num_people()):
        try:
            joints3d = MM_PER_METRE * features.numbers(f"RIGGED_{person}/joints_3d", 3 * len(FILE_JOINTS)).reshape(-1, 3)[ROWS]
            mask = person_mask(labels, int(*features.numbers(f"RIGGED_{person}/mask_id", 1)))
        except ValueError as error:
            yield error
            continue
        bbox = mask_box(mask)
        if bbox is None or bbox[2:].min() < MIN_BOX_SIDE or not sampler.keep(joints3d):
            continue
        if image is None:  # The pictures were encoded with red and blue interchanged: as BGR they come out as RGB.
            image = features.image("image/rgb", cv2.IMREAD_COLOR_BGR)
        yield RawExample(image=image, bbox=bbox, camera=camera, joints3d_world=joints3d, mask=mask,
                         provenance={**provenance, "person": person})


def person_mask(labels: np.ndarray, mask_id: int) -> np.ndarray:
    """[height, width] bool of the pixels with either label of a person, without specks, and grown by a pixel or two.

    It is eroded by a square once and dilated by it twice. As a square of an even size has no middle, the erosion counts from
    the pixel behind it and the dilation from the one before: otherwise the mask would move.
    """
    mask = np.isin(labels, (mask_id - 1, mask_id)) & (labels != BACKGROUND)
    eroded = cv2.erode(np.uint8(mask), SQUARE, anchor=(2, 2))
    return cv2.dilate(eroded, SQUARE, anchor=(1, 1), iterations=2) > 0


class _Features:
    """The features of a record, checked. All methods raise a ValueError naming file, record and feature."""

    def __init__(self, features: dict, where: str):
        self._features, self.where = features, where

    def numbers(self, name: str, count: int) -> np.ndarray:
        """[count] float64."""
        values = self._features.get(name)
        if not isinstance(values, np.ndarray) or values.size != count or not np.isfinite(values).all():
            raise ValueError(f"{self.where}: {name}: expected {count} finite numbers, got {values!r:.200}")
        return values.astype(np.float64)

    def num_people(self) -> int:
        """How many people there are, all of whom have joints."""
        (count,) = self.numbers("number_of_rigged_characters", 1)
        num_described = next(i for i in itertools.count() if not np.size(self._features.get(f"RIGGED_{i}/joints_3d", ())))
        if not 0 <= count <= num_described:
            raise ValueError(f"{self.where}: number_of_rigged_characters is {count:g}, but there are joints_3d of "
                             f"{num_described} people")
        return int(count)

    def image(self, name: str, flags: int) -> np.ndarray:
        """An encoded image, decoded with OpenCV's `flags`."""
        data, image = self._features.get(name), None
        with contextlib.suppress(cv2.error):  # of more pixels than it is ready to decode
            if isinstance(data, list) and len(data) == 1 and data[0]:
                image = cv2.imdecode(np.frombuffer(data[0], np.uint8), flags)
        if image is None:
            raise ValueError(f"{self.where}: {name}: expected an encoded image, got {data!r:.50}")
        return image


ADAPTER = Adapter(name="hspace", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
