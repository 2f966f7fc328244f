"""Pictures of people whose joints are coloured dots, and where the dots are: for tests of adapters against planted truth."""

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from posepile.data.records import Example
from posepile.geometry.camera import check_rigid, project, transform
from posepile.geometry.skeleton import Skeleton

GRAY = 60
_SHIFT = 4  # binary places of the dots' positions
_MIN_CHROMA = 90
# A standing person who faces the camera with bent elbows and knees: m, x right and y down in the image, z away from it.
_MIDDLE = {"pelvis": (0, 0, 0), "spine1": (0.01, -0.11, 0.02), "spine": (0.01, -0.11, 0.02), "spine2": (0, -0.23, 0.03),
           "spine3": (0.01, -0.34, 0.03), "spine4": (0, -0.43, 0.02), "neck": (0, -0.52, 0), "head": (0.01, -0.63, -0.05),
           "head_top": (0, -0.76, -0.02)}
_LEFT = {"hip": (0.1, 0.07, 0), "knee": (0.16, 0.43, -0.15), "ankle": (0.18, 0.85, 0.05), "foot": (0.22, 0.92, -0.06),
         "toe": (0.25, 0.98, -0.12), "collar": (0.07, -0.46, 0.01), "clavicle": (0.07, -0.46, 0.01),
         "shoulder": (0.19, -0.49, 0.02), "elbow": (0.36, -0.3, 0.05), "wrist": (0.45, -0.5, -0.15), "hand": (0.48, -0.6, -0.2)}
_LEANING = 0.06  # of x by height, so that no side is the other's mirror image


def body(skeleton: Skeleton, place: tuple[float, float, float]) -> np.ndarray:
    """[num_joints, 3] metres: a person whose pelvis is at `place`, in the axes of the camera that the person faces."""
    positions, left = dict(_MIDDLE), dict(_LEFT)
    others = (name for name in skeleton.joint_names if name not in positions and name[name.find("_") + 1:] not in left)
    for i, name in enumerate(others):  # markers, faces, fingers: somewhere beside the body, each on its side
        side, _, joint = name.partition("_")
        if side in ("left", "right"):
            left.setdefault(joint, (0.13 + 0.11 * (i % 4), -0.85 + 0.12 * (i // 4), 0.02 * (i % 3)))
        else:
            positions[name] = (-0.055 + 0.11 * (i % 2), 0.1 + 0.1 * (i // 2), -0.02)
    for joint, (x, y, z) in left.items():
        positions[f"left_{joint}"], positions[f"right_{joint}"] = (x, y, z), (-0.9 * x, y + 0.02, z - 0.03)
    joints = np.array([positions[name] for name in skeleton.joint_names])
    joints[:, 0] -= _LEANING * joints[:, 1]
    return joints + place


def hues(num_joints: int) -> np.ndarray:
    """[num_joints] OpenCV's hue (0..179) of each joint's dot, well apart; joints of a mirror pair differ, as all do."""
    return np.arange(num_joints) * 179 // num_joints


def paint(image: np.ndarray, joints2d: np.ndarray, radius: int = 7) -> None:
    """Paints the joints [num_joints, 2] px into an image [h, w, 3] uint8 RGB. Of more than 45 joints the colours are too close
    to be told apart: paint some into one picture and others into the next."""
    for hue, center in zip(hues(len(joints2d)), joints2d, strict=True):
        color = cv2.cvtColor(np.uint8([[[hue, 255, 255]]]), cv2.COLOR_HSV2RGB)[0, 0].tolist()
        cv2.circle(image, np.round(center * 2**_SHIFT).astype(int).tolist(), radius << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)


def gray_image(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, np.uint8)


def write_jpeg(path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                                                     cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])


def write_video(path, images: Iterable[np.ndarray], codec: str, rate: float = 50.0) -> None:
    """Writes one image [h, w, 3] uint8 RGB or more as a video; the codecs FFV1 and HFYU change no pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = iter(images)
    first = next(images)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), rate, first.shape[1::-1])
    assert writer.isOpened()
    for image in itertools.chain([first], images):
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()


def find_dots(image: np.ndarray, num_joints: int) -> np.ndarray:
    """[num_joints, 2] px: the centre of each joint's dot, found by its colour alone; nan where there is none."""
    chroma = np.ptp(image.astype(float), axis=-1)
    hue = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0].astype(int)
    centers = np.full((num_joints, 2), np.nan)
    for joint, own in enumerate(hues(num_joints)):
        difference = np.abs((hue - own + 90) % 180 - 90)
        rows, columns = np.nonzero((difference <= 2) & (chroma > _MIN_CHROMA))
        if len(rows) >= 4:
            weights = chroma[rows, columns]
            centers[joint] = np.average(columns, weights=weights), np.average(rows, weights=weights)
    return centers


def check_crop(example: Example, joints3d_world: np.ndarray, painted: Sequence[int] | None = None) -> None:
    """Asserts that the labels land on their own joints' dots, and are the truth [num_joints, 3] in the world's frame, mm.

    Args:
        painted: the joints that were painted, in the order of the painting; None: all.
    """
    painted = range(len(joints3d_world)) if painted is None else painted
    dots = find_dots(example.decode_image(), len(painted))
    landed = project(example.joints3d.astype(float), example.intrinsics.astype(float))[painted]
    distance = np.linalg.norm(landed - dots, axis=-1)
    assert (distance < 0.5).all(), distance.round(2)
    check_rigid(example.world_to_camera)  # no mirroring
    np.testing.assert_allclose(example.joints3d, transform(joints3d_world, example.world_to_camera.astype(float)), atol=0.05)
