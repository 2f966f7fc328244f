"""3DPeople (Pumarola et al., ICCV 2019): rendered people in various clothes, each action seen by four cameras.

    RAW_DIR/rgb/SUBJECT/ACTION/camera0{1..4}/FOLDER/NNNN.jpg                640 x 480 px
    RAW_DIR/skeleton/SUBJECT/ACTION/camera0{1..4}/NNNN.txt                  67 joints: x, y, px; ...; X, Y, Z, world, dm
    RAW_DIR/segmentation_clothes/SUBJECT/ACTION/camera0{1..4}/NNNN.png      grey where nobody is

SUBJECT is man01 to man40 and woman01 to woman40. All are in the train split, as in the published training mix; the authors'
own split (up to number 33 for training) can be told from the subject in the provenance. Of each camera's frames those are
kept in which the person has moved by 100 mm. Boxes and masks are those of the pixels that are not grey.

There is no calibration: all cameras have the same lens, and where one stood is found from the 67 joints in 3D and in the
image, frame by frame. World: z up, mm.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from datasets.calibration import camera_from, fit_pose
from datasets.cropping import load_image
from datasets.frame_sampling import FrameSampler
from datasets.person_boxes import mask_box
from datasets.raw_example import Adapter, RawExample
from datasets.readers.text import read_numbers
from posepile.geometry.skeleton import load_skeleton

SKELETON = load_skeleton("3dpeople_29")
NUM_ROWS = 67
# In the order of SKELETON; the other rows are fingers. The order that the authors list their joints in names other rows as
# eyes and top of the head, and the right leg before the left; this one is that of the published training mix.
ROWS = [*range(14), *range(33, 37), 53, *range(57, 67)]
MM_PER_DECIMETRE = 100.0
INTRINSICS = np.array([[700.0, 0, 320], [0, 700, 240], [0, 0, 1]])
MAX_ERROR_PX = 3.0  # of the joints seen by the camera that was found
BACKGROUND, BACKGROUND_TOLERANCE = 153, 10  # of the red, green and blue of segmentation_clothes
MIN_MOVEMENT_MM = 100.0
FOLDERS = ("rgb", "skeleton", "segmentation_clothes")
HINT = f"Get the parts {', '.join(FOLDERS)} of 3DPeople from https://cv.iri.upc-csic.es/ and unpack them there."


def list_units(raw_dir: pathlib.Path, split: str) -> list[str]:
    """The cameras of all actions; see `Adapter.list_units`."""
    for folder in FOLDERS:
        if not (raw_dir / folder).is_dir():
            raise FileNotFoundError(f"there is no folder {raw_dir / folder}. {HINT}")
    cameras = [path.relative_to(raw_dir / "rgb").as_posix() for path in sorted((raw_dir / "rgb").glob("*/*/camera*"))]
    if not cameras:
        raise FileNotFoundError(f"there is no folder {raw_dir / 'rgb' / 'SUBJECT' / 'ACTION' / 'camera01'}. {HINT}")
    return cameras if split == "train" else []


def load_unit(raw_dir: pathlib.Path, unit: str) -> Iterator[RawExample | ValueError]:
    """The frames of one camera that are kept; a `ValueError` for one that lacks a file or whose labels are wrong."""
    subject, action, camera_name = unit.split("/")
    skeletons, images = (
        {int(path.stem): path for path in (raw_dir / folder / unit).glob(pattern) if path.stem.isdecimal()}
        for folder, pattern in (("skeleton", "*.txt"), ("rgb", "*/*.jpg")))
    for files, folder in ((images, "rgb"), (skeletons, "skeleton")):
        if not files:
            raise FileNotFoundError(f"{raw_dir / folder / unit} has no frames. {HINT}")
    sampler = FrameSampler(MIN_MOVEMENT_MM)
    for frame in sorted({*skeletons, *images}):
        if frame == 0 and frame not in images:
            continue  # a pose that was not rendered
        try:
            for files, folder in ((images, "rgb"), (skeletons, "skeleton")):
                if frame not in files:
                    raise ValueError(f"{raw_dir / folder / unit} has no file of frame {frame:04d}. {HINT}")
            points2d, points3d_world = read_skeleton(skeletons[frame])
            if not sampler.keep(points3d_world[ROWS]):
                continue
            rotation, position = fit_pose(points3d_world, points2d, INTRINSICS, MAX_ERROR_PX, str(skeletons[frame]))
            mask = read_mask(raw_dir / "segmentation_clothes" / unit / f"{skeletons[frame].stem}.png")
        except ValueError as error:
            yield error
            continue
        yield RawExample(
            image=images[frame], bbox=mask_box(mask), joints3d_world=points3d_world[ROWS], mask=mask,
            camera=camera_from(INTRINSICS, rotation, position=position, world_up=[0, 0, 1], where=str(skeletons[frame])),
            provenance={"source": images[frame].relative_to(raw_dir).as_posix(), "subject": subject,
                        "sequence": f"{subject}/{action}", "camera": camera_name, "frame": frame})


def read_skeleton(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """All joints of a frame: [67, 2] px and [67, 3] world, mm. Raises: ValueError naming the file."""
    rows = read_numbers(path, HINT)
    if len(rows) != NUM_ROWS or {len(row) for row in rows} != {len(rows[0])} or len(rows[0]) < 5:
        raise ValueError(f"{path}: {len(rows)} rows of {sorted({len(row) for row in rows})} numbers; expected {NUM_ROWS} rows "
                         "of the same number, 5 or more: x, y first, X, Y, Z last")
    numbers = np.array(rows)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: row {np.isfinite(numbers).all(axis=1).argmin() + 1} has nan or infinite numbers")
    return numbers[:, :2], MM_PER_DECIMETRE * numbers[:, -3:]


def read_mask(path: pathlib.Path) -> np.ndarray:
    """[height, width] bool of the person. Raises: ValueError naming the file if it is unreadable or nobody is in it."""
    mask = (np.abs(load_image(path).astype(np.int16) - BACKGROUND) > BACKGROUND_TOLERANCE).any(axis=-1)
    if not mask.any():
        raise ValueError(f"{path}: all pixels are the grey of the background, expected a person")
    return mask


ADAPTER = Adapter(name="3dpeople", kind="3d", skeleton=SKELETON.name, list_units=list_units, load_unit=load_unit)
