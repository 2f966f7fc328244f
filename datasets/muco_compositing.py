"""Pictures of four people, made of the videos of MPI-INF-3DHP by the recipe of MuCo-3DHP (Mehta et al., 3DV 2018).

Four frames of one camera, of any sequences, are drawn at random. That of the person furthest from the camera is the
background, the others are cut out with their chairs and pasted from far to near, and the picture is brightened at random.
All it takes is drawn from a seed of the camera and the part.

Reading frames at random from videos would take years. So each of a camera's videos is cut into parts: a part is read once,
some frames of it are kept in memory, compressed, and all its pictures are made of those.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from datasets.adapters.mpi_inf_3dhp import (
    BOX_SCALE,
    MIN_VISIBLE_JOINTS,
    NUM_FRAMES,
    SHORT_VIDEOS,
    SKELETON,
    person_mask,
    read_calibration,
    read_labels,
)
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import intersect, iou, is_in_image, mask_box, scale_box
from datasets.raw_example import RawExample
from datasets.raw_files import joints_box
from datasets.readers.video import num_frames, read_frames
from posepile.geometry.camera import Camera, project, transform

NUM_CAMERAS = 11  # the first ones; the others hang from the ceiling
NUM_PARTS = 8  # of each video
COMPOSITES_PER_PART = 200_000 // (NUM_CAMERAS * NUM_PARTS)  # so many are in the published training mix
PEOPLE_PER_COMPOSITE = 4
FRAMES_PER_VIDEO = 24  # of one part, at most; of all 16 sequences they take some 500 MB
FIRST_FRAME = 180
MIN_MOVEMENT_MM = 175.0
MAX_FRAME_SHIFT = 25  # of the frames of a camera against those of others
MIN_FOREGROUND = 100  # code value of the foreground masks' red; what is dimmer has green of the studio in it
MAX_CHAIR = 32  # of the chair masks' red: chairs are dark there
MASK_BOX_SCALE = 1.3  # of the joints' box, beyond which there is no person
GAMMA = 0.7, 0.8  # between these; below 1 brightens
MIN_VISIBLE_IOU = 0.1  # of the box of what is visible and that of the joints
PELVIS = SKELETON.joint_names.index("pelvis")
_PERSON, _CHAIR = 128, 255  # in the masks of actors


@dataclasses.dataclass(frozen=True)
class Actor:
    """A person in a frame of a video.

    Attributes:
        joints3d_camera: [num_joints, 3] mm.
        image: JPEG bytes of the whole frame.
        mask: PNG bytes: 0, 128 where the person is, 255 where the chair is.
        provenance: as of a `RawExample`, without `source`: results of a detector for the video are not for the picture.
    """

    camera: Camera
    joints3d_camera: np.ndarray
    image: bytes
    mask: bytes
    provenance: dict


def load_composites(raw_dir: pathlib.Path, camera: int, part: int) -> Iterator[RawExample]:
    """The people of pictures from one part of a camera's videos, picture by picture, from near to far.

    Left out are those of whom hardly anything shows. Raises: ValueError, if there are too few usable frames.
    """
    rng = np.random.default_rng([camera, part])
    actors = [actor for subject, sequence in sequences_with_masks(raw_dir, camera)
              for actor in _read_actors(raw_dir, subject, sequence, camera, part, rng)]
    if len(actors) < PEOPLE_PER_COMPOSITE:
        raise ValueError(f"camera {camera}, part {part} of its videos in {raw_dir} has {len(actors)} usable frames; expected "
                         f"{PEOPLE_PER_COMPOSITE} or more")
    first = (camera * NUM_PARTS + part) * COMPOSITES_PER_PART
    for number in range(first, first + COMPOSITES_PER_PART):
        chosen = rng.choice(len(actors), PEOPLE_PER_COMPOSITE, replace=False)
        yield from composite([actors[i] for i in chosen], rng.uniform(*GAMMA), number)


def composite(actors: Sequence[Actor], gamma: float, number: int) -> Iterator[RawExample]:
    """One picture's people from near to far; see the module. The mask is that of all people and chairs together.

    Args:
        gamma: exponent of the picture's values in 0..1.
        number: of the picture; goes into the provenance.
    """
    actors = sorted(actors, key=lambda actor: -actor.joints3d_camera[PELVIS, 2])
    masks = [cv2.imdecode(np.frombuffer(actor.mask, np.uint8), cv2.IMREAD_GRAYSCALE) for actor in actors]
    image = _decode(actors[0].image)
    for actor, mask in zip(actors[1:], masks[1:], strict=True):
        cv2.copyTo(_decode(actor.image), mask, image)
    image = cv2.LUT(image, np.uint8(np.round(255 * (np.arange(256) / 255) ** gamma)))
    foreground = np.any([mask > 0 for mask in masks], axis=0)
    is_covered = np.zeros(image.shape[:2], bool)
    for actor, mask in zip(reversed(actors), reversed(masks), strict=True):
        bbox = _visible_box(actor, (mask == _PERSON) & ~is_covered)
        is_covered |= mask > 0
        if bbox is not None:
            yield RawExample(image=image, bbox=bbox, camera=actor.camera, mask=foreground, joints3d_world=transform(
                actor.joints3d_camera, np.linalg.inv(actor.camera.world_to_camera)),
                provenance={**actor.provenance, "composite": number})


def _visible_box(actor: Actor, visible: np.ndarray) -> np.ndarray | None:
    """[4] of the visible pixels [height, width] bool, no higher and lower than the joints; None if it is too small a part."""
    own = joints_box(project(actor.joints3d_camera, actor.camera.intrinsics), BOX_SCALE, visible.shape[::-1])
    if (seen := mask_box(visible)) is None:
        return None
    box = intersect(seen, [seen[0], own[1], seen[2], own[3]])
    return box if box is not None and iou(box, own) >= MIN_VISIBLE_IOU else None


def sequences_with_masks(raw_dir: pathlib.Path, camera: int) -> list[tuple[int, int]]:
    """(subject, sequence) of those that have pictures and masks of a camera."""
    return [(subject, sequence) for subject in NUM_FRAMES for sequence in (1, 2)
            if all(_video(raw_dir, subject, sequence, kind, camera).is_file() for kind in ("imageSequence", "FGmasks"))]


def _video(raw_dir: pathlib.Path, subject: int, sequence: int, kind: str, camera: int) -> pathlib.Path:
    return raw_dir / f"S{subject}" / f"Seq{sequence}" / kind / f"video_{camera}.avi"


def _read_actors(raw_dir, subject, sequence, camera, part, rng) -> Iterator[Actor]:
    folder = raw_dir / f"S{subject}" / f"Seq{sequence}"
    calibration, image_size = read_calibration(folder / "camera.calibration", camera)
    joints3d_camera = read_labels(folder / "annot.mat", camera, calibration)
    videos = [_video(raw_dir, subject, sequence, kind, camera) for kind in ("imageSequence", "FGmasks", "ChairMasks")]
    videos = [path for path in videos if path.is_file()]
    count = min(SHORT_VIDEOS.get((subject, sequence, camera), NUM_FRAMES[subject][sequence - 1]), len(joints3d_camera),
                *map(num_frames, videos))
    frames = _choose_frames(joints3d_camera[:count], part, rng)
    joints2d = project(joints3d_camera, calibration.intrinsics)
    frames = [i for i in frames if np.count_nonzero(is_in_image(joints2d[i], image_size)) >= MIN_VISIBLE_JOINTS]
    pictures = [read_frames(path, frames) for path in videos] + [[(i, None) for i in frames]] * (3 - len(videos))
    for (i, image), (_, foreground), (_, chair) in zip(*pictures, strict=True):
        bbox = joints_box(joints2d[i])
        is_person = person_mask(np.uint8(255) * (foreground > MIN_FOREGROUND), chair, bbox)
        if is_person is None:
            continue
        mask = np.zeros(is_person.shape, np.uint8)
        x, y, width, height = scale_box(bbox, MASK_BOX_SCALE)
        here = slice(max(round(y), 0), max(round(y + height), 0)), slice(max(round(x), 0), max(round(x + width), 0))
        mask[here][is_person[here]] = _PERSON
        if chair is not None:
            mask[chair[..., 0] < MAX_CHAIR] = _CHAIR
        yield Actor(calibration, joints3d_camera[i], cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1],
                    cv2.imencode(".png", mask)[1], {
                        "subject": f"S{subject}", "sequence": f"S{subject}/Seq{sequence}", "camera": camera, "frame": i})


def _choose_frames(joints3d: np.ndarray, part: int, rng: np.random.Generator) -> list[int]:
    """Frames of a part of a sequence [num_frames, num_joints, 3] mm in which the person has moved, shifted together."""
    bounds = np.linspace(FIRST_FRAME, len(joints3d), NUM_PARTS + 1).astype(int)
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    moved = [i for i in range(bounds[part], bounds[part + 1]) if sampler.keep(joints3d[i])]
    chosen = rng.choice(moved, min(FRAMES_PER_VIDEO, len(moved)), replace=False)
    shift = rng.integers(-MAX_FRAME_SHIFT, MAX_FRAME_SHIFT, endpoint=True)
    return np.unique(np.clip(chosen + shift, 0, len(joints3d) - 1)).tolist()


def _decode(image: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)

