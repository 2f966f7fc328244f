import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from datasets.person_boxes import (
    clip_to_image,
    foreground_parts,
    hull,
    intersect,
    iou,
    is_in_image,
    mask_box,
    match_detections,
    part_of_person,
    scale_box,
)


@pytest.mark.parametrize("a, b, expected", [
    ([0, 0, 4, 2], [0, 0, 4, 2], 1),
    ([0, 0, 4, 2], [2, 0, 4, 2], 4 / 12),
    ([0, 0, 4, 4], [1, 1, 2, 1], 2 / 16),
    ([0, 0, 4, 4], [4, 0, 4, 4], 0),  # they touch
    ([0, 0, 4, 4], [9, 9, 1, 1], 0),
    ([0, 0, 0, 4], [0, 0, 0, 4], 0),
    ([0, 0, np.nan, 4], [0, 0, 4, 4], 0),
])
def test_iou_of_hand_worked_boxes(a, b, expected):
    assert iou(a, b) == pytest.approx(expected) == iou(b, a)


def test_iou_counts_the_cells_of_a_grid():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 8, (20, 2)), rng.integers(1, 8, (20, 2))], axis=1)
    cells = [{(x, y) for x in range(b[0], b[0] + b[2]) for y in range(b[1], b[1] + b[3])} for b in boxes.tolist()]
    expected = [[len(a & b) / len(a | b) for b in cells] for a in cells]
    np.testing.assert_allclose(iou(boxes[:, None], boxes[None]), expected)


def test_matching_is_optimal_rather_than_greedy():
    # The first person overlaps both detections, the second only detection 0, on which the first sits best.
    boxes = np.array([[0, 0, 10, 10], [4, 0, 10, 10]])
    detections = np.array([[1, 0, 10, 10], [-3, 0, 10, 10]])  # IoU 9/11, 7/13; 7/13, 3/17
    assert match_detections(boxes, detections, 0.5).tolist() == [1, 0]
    # Without that second pair the forbidden one must not keep the first person from its best detection.
    assert match_detections(boxes, detections, 0.6).tolist() == [0, -1]
    assert match_detections(boxes, np.zeros((0, 4)), 0.1).tolist() == [-1, -1]
    assert match_detections(np.zeros((0, 4)), detections, 0.1).tolist() == []
    assert match_detections([[0, 0, 1, 1]], [[5, 5, 1, 1]], 0.0).tolist() == [-1]


BOXES = strategies.lists(strategies.tuples(*[strategies.integers(0, 5)] * 2, *[strategies.integers(1, 5)] * 2), max_size=4)


@hypothesis.given(BOXES, BOXES, strategies.sampled_from([0.0, 0.2, 0.5]))
@hypothesis.settings(deadline=None)
def test_no_other_assignment_has_more_overlap(boxes, detections, min_iou):
    boxes, detections = np.reshape(boxes, (-1, 4)), np.reshape(detections, (-1, 4))
    matches = match_detections(boxes, detections, min_iou)
    used = matches[matches >= 0]
    assert len(set(used)) == len(used)

    def total(assignment):
        pairs = [iou(boxes[i], detections[j]) for i, j in enumerate(assignment) if j >= 0]
        return sum(pairs) if all(overlap > 0 and overlap >= min_iou for overlap in pairs) else -1

    candidates = [*range(len(detections)), *[-1] * len(boxes)]
    best = max((total(a) for a in set(itertools.permutations(candidates, len(boxes)))), default=0)
    assert total(matches) == pytest.approx(best)


def test_boxes_are_scaled_joined_and_cut():
    np.testing.assert_allclose(scale_box([10, 20, 4, 8], 1.5), [9, 18, 6, 12])
    np.testing.assert_allclose(hull([0, 0, 2, 2], [5, -1, 1, 2], [1, 1, 1, 4]), [0, -1, 6, 6])
    np.testing.assert_allclose(intersect([0, 0, 4, 4], [1, -2, 9, 5]), [1, 0, 3, 3])
    assert intersect([0, 0, 4, 4], [4, 0, 4, 4]) is None
    # Pixel (0, 0) reaches from -0.5 to 0.5.
    np.testing.assert_allclose(clip_to_image([-10, 5, 20, 100], (640, 48)), [-0.5, 5, 10.5, 42.5])
    np.testing.assert_allclose(clip_to_image([630, -9, 20, 100], (640, 48)), [630, -0.5, 9.5, 48])
    assert clip_to_image([640, 0, 5, 5], (640, 48)) is None


def test_an_image_reaches_to_the_edges_of_its_outermost_pixels():
    x, y = np.meshgrid([-0.51, -0.5, 0, 638.9, 639.49, 639.5], [-0.51, -0.5, 0, 478.9, 479.49, 479.5, np.nan])
    expected = np.outer([0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(is_in_image(np.stack([x, y], axis=-1), (640, 480)), expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, np.int32])
def test_box_of_a_mask_goes_to_the_edges_of_its_outermost_pixels(dtype):
    mask = np.zeros((6, 9), dtype)
    assert mask_box(mask) is None
    mask[4, 2] = 1
    np.testing.assert_array_equal(mask_box(mask), [1.5, 3.5, 1, 1])
    mask[1, 7] = 1
    np.testing.assert_array_equal(mask_box(mask), [1.5, 0.5, 6, 4])
    np.testing.assert_array_equal(mask_box(np.ones((6, 9), dtype)), [-0.5, -0.5, 9, 6])


@pytest.mark.parametrize("value", [256, 0.25, -1])
def test_whatever_is_not_0_belongs_to_a_mask(value):
    np.testing.assert_array_equal(mask_box(np.array([[0, value, 0]])), [0.5, -0.5, 1, 1])


def test_parts_are_connected_by_edges_and_the_most_overlapping_one_is_the_persons():
    foreground = np.array([[1, 1, 0, 0, 0],
                           [1, 1, 0, 0, 0],
                           [0, 0, 1, 1, 1]], bool)  # they touch at a corner only
    labels, boxes = foreground_parts(foreground)
    np.testing.assert_array_equal(boxes, [[-0.5, -0.5, 2, 2], [1.5, 1.5, 3, 1]])
    np.testing.assert_array_equal(part_of_person(labels, boxes, np.array([1.0, 1, 4, 2])), labels == labels[2, 2])
    assert part_of_person(labels, boxes, np.array([2.5, -0.5, 2, 1])) is None
    assert part_of_person(*foreground_parts(np.zeros((3, 5), bool)), np.array([0.0, 0, 5, 3])) is None
