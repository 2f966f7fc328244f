"""SURREAL (Varol et al., CVPR 2017): rendered SMPL bodies, moved by motion capture, in front of photos; one person, 320x240 px.

    RAW_DIR/[SURREAL/data/][cmu/]{train,val,test}/run{0,1,2}/SEQUENCE/CLIP.mp4     clips of up to 100 frames
    ...                                                              CLIP_info.mat      labels and camera, MATLAB 5
    ...                                                              CLIP_segm.mat      body parts, one image per frame

The clips are stored mirrored: pictures and segmentation are turned back here, and with them left is left. Joints are the bones'
ends as rendered (`joints3D`); masks and boxes come from the segmentation, and frames that it leaves empty show nobody: they are
left out. All splits are sampled by motion. World: y down, mm.
"""

import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import scipy.io

from datasets.calibration import camera_from
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, RawExample
from datasets.raw_files import read_mat
from datasets.readers.files import broken_file_errors, require_file
from datasets.readers.mat_elements import check_elements
from datasets.readers.video import COUNT_TOLERANCE, num_frames, read_frames
from posepile.geometry.camera import Camera

SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
ROOTS = (".", "cmu", "data/cmu", "SURREAL/data/cmu")  # where the split folders may be: as unpacked, or moved up
HINT = "Get SURREAL_v1.tar.gz from https://www.di.ens.fr/willow/research/surreal/data/ (licence) and unpack it there."
NUM_JOINTS = 24
MM_PER_METRE = 1000.0
IMAGE_SHAPE = 240, 320  # px
# The authors count pixels from the image's corner and have the principal point at 160, 120.
INTRINSICS = np.array([[600.0, 0, 159.5], [0, 600, 119.5], [0, 0, 1]])
ROTATION = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # world to camera, of the pictures that are turned back
WORLD_UP = (0, -1, 0)
MIN_MOVEMENT_MM = 100.0


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The clips; see `Adapter.list_units`."""
    clips = "run*/*/*_c*.mp4"
    root = next((raw_dir / root for root in ROOTS for folder in SPLIT_FOLDERS.values()
                 if next((raw_dir / root / folder).glob(clips), None)), None)
    if root is None:
        raise FileNotFoundError(f"no clips {raw_dir / ROOTS[1] / 'train' / clips}. {HINT}")
    return [path.relative_to(raw_dir).as_posix() for path in sorted((root / SPLIT_FOLDERS[split]).glob(clips))]


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The frames of one clip in which the person is in view and has moved; a `ValueError` for one with broken labels."""
    video = raw_dir / unit
    info, segmentation = (video.with_name(f"{video.stem}_{kind}.mat") for kind in ("info", "segm"))
    camera, joints3d_world = read_labels(info)
    masks = read_masks(segmentation)
    counts = {video: num_frames(video, HINT), info: len(joints3d_world), segmentation: len(masks)}
    if len(masks) != len(joints3d_world) or abs(counts[video] - len(masks)) > COUNT_TOLERANCE:
        stated = ", ".join(f"{path.name} {count}" for path, count in counts.items())
        raise ValueError(f"{video}: numbers of frames: {stated}; expected the same of all. Is one of the files cut short?")
    is_broken = ~np.isfinite(joints3d_world).all(axis=(1, 2))
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    frames = [i for i in range(min(counts.values())) if masks[i].any() and (is_broken[i] or sampler.keep(joints3d_world[i]))]
    for i, image in read_frames(video, frames):
        if is_broken[i]:
            yield ValueError(f"{info}: joints3D of frame {i} has coordinates that are not finite")
            continue
        yield RawExample(image=cv2.flip(image, 1), bbox=mask_box(masks[i]), camera=camera, joints3d_world=joints3d_world[i],
                         mask=masks[i], provenance={"source": unit, "sequence": video.parent.name, "frame": i})


def read_labels(path: pathlib.Path) -> tuple[Camera, np.ndarray]:
    """The camera of the turned pictures, and [num_frames, 24, 3] joints, mm, world.

    Raises: FileNotFoundError; ValueError naming file and variable.
    """
    joints3d = np.asarray(read_mat(path, "joints3D", HINT))
    if joints3d.ndim not in (2, 3) or joints3d.shape[:2] != (3, NUM_JOINTS) or joints3d.dtype.kind != "f":
        raise ValueError(f"{path}: joints3D has shape {list(joints3d.shape)} and type {joints3d.dtype}; expected 3 x "
                         f"{NUM_JOINTS} x frames of floats")
    camera = camera_from(INTRINSICS, ROTATION, position=read_mat(path, "camLoc", HINT), world_up=WORLD_UP, unit_mm=MM_PER_METRE,
                         where=f"{path}: camLoc")
    # A clip of a single frame lacks the last axis.
    return camera, MM_PER_METRE * joints3d.reshape(3, NUM_JOINTS, -1).T.astype(np.float64)


def read_masks(path: pathlib.Path) -> np.ndarray:
    """[num_frames, height, width] bool: where the person is, turned back. Raises: FileNotFoundError; ValueError."""
    with broken_file_errors(require_file(path, HINT), "the segmentation of a clip"):
        check_elements(path)
        content = scipy.io.loadmat(path)
        num_masks = sum(name.startswith("segm_") for name in content)
        masks = np.stack([np.fliplr(content[f"segm_{i + 1}"]) > 0 for i in range(num_masks)])
        if masks.shape[1:] != IMAGE_SHAPE:  # the intrinsics are of no other
            raise ValueError(f"its images have shape {list(masks.shape[1:])}, expected {list(IMAGE_SHAPE)}")
        return masks


ADAPTER = Adapter(name="surreal", kind="3d", skeleton="smpl_24", list_units=list_units, load_unit=load_unit)
