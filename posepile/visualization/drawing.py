"""Draws skeletons on images, and 3D poses from two sides; RGB uint8, OpenCV.

Left, right and centre have one colour each, everywhere. Predictions are drawn in these colours, ground truth as a thin
white line with a dark rim, which shows on photographs and on white paper alike.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from posepile.geometry.skeleton import Skeleton

# Tell apart with any colour vision, and on skin, grass and sky.
LEFT_COLOR = (0, 140, 255)
RIGHT_COLOR = (255, 120, 0)
CENTER_COLOR = (90, 210, 60)
TRUTH_COLOR = (255, 255, 255)
RIM_COLOR = (25, 25, 25)
MASK_COLOR = (255, 0, 200)
BOX_COLOR = (255, 230, 0)

FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER_COLOR, _GRID_COLOR, _INK_COLOR = (252, 252, 252), (222, 222, 222), (70, 70, 70)
_GRID_MM = 500.0
_SHIFT = 4  # OpenCV draws at 1/16 px
_FAR_OUTSIDE = 10  # image sizes; a joint beyond is not drawn, neither are its bones


@dataclasses.dataclass(frozen=True)
class PoseStyle:
    """How one pose is drawn.

    Attributes:
        color: of all bones and joints; None: by side of the body.
        width: of the lines, relative to the default for the picture's size.
        rim: a dark edge around lines and joints.
    """

    color: tuple[int, int, int] | None = None
    width: float = 1.0
    rim: bool = True


PREDICTION_STYLE = PoseStyle()
TRUTH_STYLE = PoseStyle(color=TRUTH_COLOR, width=0.5)


def body_sides(skeleton: Skeleton) -> list[str]:
    """"left", "right" or "center" for every joint, from the mirror table; of two mirrored joints the one that says so
    is left."""
    sides = ["center"] * skeleton.num_joints
    for i, j in enumerate(skeleton.mirror):
        if i < j:
            i_is_left = _says_left(skeleton.joint_names[i]) or not _says_left(skeleton.joint_names[j])
            sides[i], sides[j] = ("left", "right") if i_is_left else ("right", "left")
    return sides


def draw_skeleton(image: np.ndarray, joints2d: np.ndarray, skeleton: Skeleton, mask: np.ndarray | None = None, *,
                  style: PoseStyle = PREDICTION_STYLE, thickness: float | None = None) -> np.ndarray:
    """Draws a pose on a copy of an image.

    Args:
        image: [height, width, 3] uint8 RGB.
        joints2d: [num_joints, 2] px; joints with nan are left out, with their bones.
        mask: [num_joints] bool; False joints are left out, too.
        thickness: px of the lines; default by image size.

    Returns: [height, width, 3] uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    joints2d = np.asarray(joints2d, np.float64)
    size = max(image.shape[:2])
    thickness = style.width * (max(1.0, size / 160) if thickness is None else thickness)
    with np.errstate(invalid="ignore"):
        is_drawn = (np.abs(joints2d) < _FAR_OUTSIDE * size).all(axis=1)
    if mask is not None:
        is_drawn &= np.asarray(mask, bool)
    colors = {"left": LEFT_COLOR, "right": RIGHT_COLOR, "center": CENTER_COLOR}
    sides = body_sides(skeleton)
    joint_colors = [style.color or colors[side] for side in sides]
    scaled = np.round(np.where(is_drawn[:, None], joints2d, 0) * (1 << _SHIFT)).astype(int)
    points = [tuple(point) for point in scaled.tolist()]
    edges = [(i, j) for i, j in skeleton.edges if is_drawn[i] and is_drawn[j]]
    # All rims first: the rim of one bone must not cut through another.
    for extra in (2, 0) if style.rim else (0,):
        for i, j in edges:
            side_joint = i if sides[j] == "center" else j  # from the spine to a shoulder: the shoulder's colour
            color = RIM_COLOR if extra else joint_colors[side_joint]
            cv2.line(canvas, points[i], points[j], color, max(1, round(thickness)) + extra, cv2.LINE_AA, _SHIFT)
        for i in np.flatnonzero(is_drawn):
            radius = round((1.2 * thickness + extra / 2) * (1 << _SHIFT))
            cv2.circle(canvas, points[i], radius, RIM_COLOR if extra else joint_colors[i], -1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_prediction_and_truth(image: np.ndarray, joints2d_pred: np.ndarray, joints2d_true: np.ndarray,
                              skeleton: Skeleton, mask: np.ndarray | None = None) -> np.ndarray:
    """Draws a predicted pose in the colours of its sides, and the true one over it as a thin white line.

    Args:
        image: [height, width, 3] uint8 RGB.
        joints2d_pred, joints2d_true: [num_joints, 2] px; nan: not drawn.
        mask: [num_joints] bool: which joints of the true pose are labelled; None: all that are not nan.
    """
    canvas = draw_skeleton(image, joints2d_pred, skeleton, style=PREDICTION_STYLE)
    return draw_skeleton(canvas, joints2d_true, skeleton, mask, style=TRUTH_STYLE)


def draw_pose_3d_views(poses: Sequence[np.ndarray], skeleton: Skeleton, size: int = 256, *,
                       masks: Sequence[np.ndarray | None] | None = None, styles: Sequence[PoseStyle] | None = None,
                       align: bool = True) -> np.ndarray:
    """Draws poses from the front and from the side, orthographically, to one scale.

    Args:
        poses: each [num_joints, 3], camera frame, mm; nan: not drawn.
        size: px, width and height of one view.
        masks: per pose [num_joints] bool, or None.
        styles: per pose; default: the first in the colours of its sides, the others (ground truth, say) in white.
        align: move every pose so that the mean of the joints that all of them have is the same.

    Returns: [size, 2 size, 3] uint8 RGB. Left: as the camera sees it. Right: from the side, the camera being on the
        left.
    Raises: ValueError if `poses` is empty.
    """
    if not len(poses):
        raise ValueError("draw_pose_3d_views needs one pose or more")
    styles = styles or [PREDICTION_STYLE] + [TRUTH_STYLE] * (len(poses) - 1)
    masks = masks or [None] * len(poses)
    poses = [np.where(_labelled(pose, mask)[:, None], pose, np.nan) for pose, mask in zip(poses, masks, strict=True)]
    if align:
        common = np.all([np.isfinite(pose).all(axis=1) for pose in poses], axis=0)
        poses = [pose - (pose[common].mean(axis=0) if common.any() else _center(pose)) for pose in poses]
    everything = np.concatenate(poses)
    everything = everything[np.isfinite(everything).all(axis=1)]
    low, high = (everything.min(axis=0), everything.max(axis=0)) if len(everything) else (np.zeros(3), np.zeros(3))
    middle, extent = (low + high) / 2, max(2 * _GRID_MM, (high - low).max())
    pixels_per_mm = 0.84 * size / extent
    views = []
    for name, axis in (("front", 0), ("side", 2)):
        view = _paper(size, pixels_per_mm)
        for pose, style in zip(poses, styles, strict=True):
            points = (pose[:, [axis, 1]] - middle[[axis, 1]]) * pixels_per_mm + (size - 1) / 2
            view = draw_skeleton(view, points, skeleton, style=style)
        cv2.putText(view, name, (6, size - 8), FONT, 0.4, _INK_COLOR, 1, cv2.LINE_AA)
        views.append(view)
    views[1][:, 0] = _GRID_COLOR
    return np.concatenate(views, axis=1)


def draw_box(image: np.ndarray, bbox: np.ndarray, color: tuple[int, int, int] = BOX_COLOR) -> np.ndarray:
    """Draws a box x, y, width, height, px, on a copy of an image."""
    canvas = np.ascontiguousarray(image).copy()
    x, y, width, height = (float(c) for c in bbox)
    corners = [tuple(round(c * (1 << _SHIFT)) for c in corner) for corner in ((x, y), (x + width, y + height))]
    cv2.rectangle(canvas, *corners, color, 1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_mask_outline(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = MASK_COLOR) -> np.ndarray:
    """Draws the outline of a mask [height, width] bool on a copy of an image."""
    canvas = np.ascontiguousarray(image).copy()
    contours, _ = cv2.findContours(np.uint8(mask), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, 1, cv2.LINE_AA)
    return canvas


def _says_left(joint_name: str) -> bool:
    return "left" in joint_name.split("_")


def _labelled(pose: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    labelled = np.isfinite(pose).all(axis=1)
    return labelled if mask is None else labelled & np.asarray(mask, bool)


def _center(pose: np.ndarray) -> np.ndarray:
    labelled = pose[np.isfinite(pose).all(axis=1)]
    return labelled.mean(axis=0) if len(labelled) else np.zeros(3)


def _paper(size: int, pixels_per_mm: float) -> np.ndarray:
    """Paper with a grid of half metres, the middle of the picture being on a line."""
    paper = np.full((size, size, 3), _PAPER_COLOR, np.uint8)
    num_lines = int(size / 2 / (_GRID_MM * pixels_per_mm))
    for k in range(-num_lines, num_lines + 1):
        position = round((size - 1) / 2 + k * _GRID_MM * pixels_per_mm)
        paper[:, position] = paper[position] = _GRID_COLOR
    return paper
