import numpy as np
import pytest

from posepile.geometry.skeleton import skeleton_from_dict
from posepile.visualization.drawing import LEFT_COLOR, RIGHT_COLOR
from posepile.visualization.prediction_sheet import VIEW_SIDE, prediction_sheet

HANDS = skeleton_from_dict({"name": "hands", "joints": ["pelvis", "left_hand", "right_hand"], "root": "pelvis",
                            "mirror_pairs": [["left_hand", "right_hand"]], "edges": []})
TRUE = np.array([[[0, 0, 1000], [300, 0, 1000], [-300, 0, 1000]]], np.float32)
BACKGROUND = (90, 40, 160)


def _sheet(pred, crop_side=64, mask=None, num_examples=1):
    # 600 mm at 1 m distance fill 60 % of the crop's width
    intrinsics = np.float32([[crop_side, 0, (crop_side - 1) / 2], [0, crop_side, (crop_side - 1) / 2], [0, 0, 1]])
    image = np.full((1, crop_side, crop_side, 3), BACKGROUND, np.uint8)
    mask = np.ones((1, 3), bool) if mask is None else mask
    arrays = (np.repeat(array, num_examples, axis=0) for array in (image, intrinsics[None], pred, TRUE, mask))
    return prediction_sheet(*arrays, HANDS, ["caption"] * num_examples, "title")


def _crop_view(sheet):
    """The view of the crop, of a sheet with one row."""
    top, left = np.argwhere((sheet == BACKGROUND).all(axis=-1)).min(axis=0)
    return sheet[top:top + VIEW_SIDE, left:left + VIEW_SIDE]


def _center(view, color):
    pixels = np.argwhere((view == color).all(axis=-1))
    return pixels.mean(axis=0)[::-1] if len(pixels) else None


@pytest.mark.parametrize("crop_side", [64, 256, 384])
def test_joints_lie_where_they_project_to_on_the_enlarged_or_shrunk_crop(crop_side):
    pred = TRUE + np.float32([0, 200, 0])  # below the truth, which would cover it
    view = _crop_view(_sheet(pred, crop_side))
    middle = (VIEW_SIDE - 1) / 2
    np.testing.assert_allclose(_center(view, LEFT_COLOR), [middle + 0.3 * VIEW_SIDE, middle + 0.2 * VIEW_SIDE], atol=0.6)
    np.testing.assert_allclose(_center(view, RIGHT_COLOR), [middle - 0.3 * VIEW_SIDE, middle + 0.2 * VIEW_SIDE], atol=0.6)
    whites = np.argwhere((view > 250).all(axis=-1))
    assert np.abs(whites[:, 0] - middle).max() < 4 and np.ptp(whites[:, 1]) == pytest.approx(0.6 * VIEW_SIDE, abs=6)


def test_unlabelled_joints_are_not_drawn():
    mask = np.array([[True, True, False]])
    whites = np.argwhere((_crop_view(_sheet(TRUE + np.float32([0, 200, 0]), mask=mask)) > 250).all(axis=-1))
    assert whites[:, 1].min() > VIEW_SIDE / 2 - 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e6])
def test_predictions_out_of_bounds_are_not_drawn(value):
    pred = TRUE + np.float32([0, 200, 0])
    pred[0, 1, 2] = value
    sheet = _sheet(pred)
    assert _center(sheet[40:], LEFT_COLOR) is None and _center(_crop_view(sheet), RIGHT_COLOR) is not None


def test_sheet_has_a_row_per_example():
    assert _sheet(TRUE, num_examples=3).shape[0] - _sheet(TRUE, num_examples=2).shape[0] > VIEW_SIDE
    assert _sheet(TRUE).shape[1] >= 3 * VIEW_SIDE
