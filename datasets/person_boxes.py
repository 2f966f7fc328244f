"""Boxes of people, [..., 4] x, y, width, height, px of the image, and what lies in them; pixel (0, 0) covers -0.5 .. 0.5."""

import cv2
import numpy as np
import scipy.optimize


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [..., 4], which are broadcast; 0 where a box has no area or nan."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.maximum(high - low, 0).prod(axis=-1)
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - intersection
    return np.divide(intersection, union, out=np.zeros(intersection.shape), where=(intersection > 0) & (union > 0))


def match_detections(boxes: np.ndarray, detections: np.ndarray, min_iou: float) -> np.ndarray:
    """Assigns detections to the people of one image, each to one at most, with the highest sum of overlaps.

    Args:
        boxes: [num_people, 4].
        detections: [num_detections, 4].
        min_iou: pairs that overlap less are not matched, nor are those that do not overlap.

    Returns: [num_people] int64: the index of the detection, -1 for none.
    """
    matches = np.full(len(boxes), -1, np.int64)
    if len(boxes) and len(detections):
        overlap = iou(np.asarray(boxes)[:, None], np.asarray(detections)[None])
        overlap[overlap < min_iou] = 0  # before the assignment: a forbidden pair must not keep others apart
        rows, columns = scipy.optimize.linear_sum_assignment(overlap, maximize=True)
        is_match = overlap[rows, columns] > 0
        matches[rows[is_match]] = columns[is_match]
    return matches


def scale_box(box: np.ndarray, factor: float) -> np.ndarray:
    """[4]: the box with its sides `factor` times as long, about its centre."""
    box = np.asarray(box, np.float64)
    return np.concatenate([box[:2] + (1 - factor) / 2 * box[2:], factor * box[2:]])


def hull(*boxes: np.ndarray) -> np.ndarray:
    """[4]: the smallest box around boxes [4]."""
    boxes = np.asarray(boxes, np.float64)
    low = boxes[:, :2].min(axis=0)
    return np.concatenate([low, (boxes[:, :2] + boxes[:, 2:]).max(axis=0) - low])


def intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """[4]: what two boxes [4] have in common; None if that has no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:2], b[:2])
    size = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - low
    return np.concatenate([low, size]) if (size > 0).all() else None


def clip_to_image(box: np.ndarray, image_size: tuple[int, int]) -> np.ndarray | None:
    """[4]: the part of a box [4] in an image of (width, height) px; None if it lies outside."""
    return intersect(box, [-0.5, -0.5, *image_size])


def is_in_image(points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """[...] bool: which of points [..., 2] px lie in an image of (width, height) px; nan do not."""
    with np.errstate(invalid="ignore"):
        return ((points >= -0.5) & (points < np.array(image_size) - 0.5)).all(axis=-1)


def mask_box(mask: np.ndarray) -> np.ndarray | None:
    """[4] around the pixels of a mask [height, width] that are set; None if none is."""
    x, y, width, height = cv2.boundingRect(np.uint8(mask != 0))
    return np.array([x - 0.5, y - 0.5, width, height]) if width else None


def foreground_parts(foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a foreground [height, width] bool whose pixels are connected by edges.

    Returns: [height, width] int32, for each pixel the number of its part from 1 on, 0 for the background; and the boxes of the
        parts, [n, 4].
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(np.uint8(foreground), connectivity=4)
    return labels, statistics[1:, :4] - [0.5, 0.5, 0, 0]


def part_of_person(labels: np.ndarray, boxes: np.ndarray, bbox: np.ndarray) -> np.ndarray | None:
    """[height, width] bool: of `foreground_parts`, the one whose box overlaps most with the person's; None if none does."""
    overlap = iou(boxes, bbox)
    return labels == 1 + overlap.argmax() if overlap.any() else None
