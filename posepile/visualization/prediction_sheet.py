"""One picture of a few predictions: on the crop, from the front and from the side, each with the truth."""

from collections.abc import Sequence

import cv2
import numpy as np

from posepile.geometry.camera import project
from posepile.geometry.skeleton import Skeleton
from posepile.visualization.contact_sheet import SIDE_LEGEND, contact_sheet
from posepile.visualization.drawing import TRUTH_COLOR, draw_pose_3d_views, draw_prediction_and_truth

VIEW_SIDE = 256  # px
MAX_DRAWN_MM = 1e5  # a prediction beyond is not drawn: beside it a person would be smaller than a pixel


def prediction_sheet(image: np.ndarray, intrinsics: np.ndarray, joints3d_pred: np.ndarray, joints3d_true: np.ndarray,
                     mask: np.ndarray, skeleton: Skeleton, captions: Sequence[str], title: str = "") -> np.ndarray:
    """Draws one row per example: the crop with both poses, then both from the front and from the side.

    Args: as `prediction_views`; captions: one per example.

    Returns: [height, width, 3] uint8 RGB.
    """
    rows = prediction_views(image, intrinsics, joints3d_pred, joints3d_true, mask, skeleton)
    return contact_sheet(rows, columns=1, captions=captions, title=title, legend=[*SIDE_LEGEND, ("truth", TRUTH_COLOR)])


def prediction_views(image: np.ndarray, intrinsics: np.ndarray, joints3d_pred: np.ndarray, joints3d_true: np.ndarray,
                     mask: np.ndarray, skeleton: Skeleton) -> list[np.ndarray]:
    """Draws each example: the crop with both poses, then both from the front and from the side.

    Args:
        image: [n, crop_side, crop_side, 3] uint8 RGB crops.
        intrinsics: [n, 3, 3] of the crops, px.
        joints3d_pred: [n, num_joints, 3] crop camera frame, mm; what is not finite is not drawn.
        joints3d_true: like joints3d_pred.
        mask: [n, num_joints] bool: which true joints are labelled.
        skeleton: of both.

    Returns: n pictures, [VIEW_SIDE, 3 VIEW_SIDE, 3] uint8 RGB.
    """
    with np.errstate(invalid="ignore"):
        pred = np.where((np.abs(joints3d_pred) < MAX_DRAWN_MM).all(axis=-1, keepdims=True), joints3d_pred, np.nan)
    true = np.where(mask[..., None], joints3d_true, np.nan)
    scale = VIEW_SIDE / image.shape[1]
    pred2d, true2d = ((project(joints, intrinsics) + 0.5) * scale - 0.5 for joints in (pred, true))
    rows = []
    for i, crop in enumerate(image):
        crop = cv2.resize(crop, (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        rows.append(np.concatenate([draw_prediction_and_truth(crop, pred2d[i], true2d[i], skeleton),
                                    draw_pose_3d_views([pred[i], true[i]], skeleton, VIEW_SIDE)], axis=1))
    return rows
