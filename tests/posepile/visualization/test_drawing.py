import numpy as np
import pytest

from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict
from posepile.visualization.drawing import (
    CENTER_COLOR,
    LEFT_COLOR,
    RIGHT_COLOR,
    TRUTH_COLOR,
    body_sides,
    draw_box,
    draw_mask_outline,
    draw_pose_3d_views,
    draw_prediction_and_truth,
    draw_skeleton,
)

SKELETON = skeleton_from_dict({"name": "t", "joints": ["neck", "pelvis", "left_hand", "right_hand"],
                               "mirror_pairs": [["right_hand", "left_hand"]],
                               "edges": ["neck-pelvis", "neck-left_hand"]})
JOINTS2D = np.array([[50.0, 20], [50, 80], [90, 20], [10, 20]])


def color_at(image, x, y):
    return tuple(int(c) for c in image[y, x])


def is_close(color, expected):
    """Thin lines are blended a little by antialiasing."""
    return np.abs(np.subtract(color, expected)).max() < 40


def test_sides_come_from_the_mirror_table():
    assert body_sides(SKELETON) == ["center", "center", "left", "right"]
    sides = body_sides(load_skeleton("h36m_17"))
    for name, side in zip(load_skeleton("h36m_17").joint_names, sides, strict=True):
        assert side == ("left" if name.startswith("left_") else "right" if name.startswith("right_") else "center")


def test_bones_have_the_colors_of_their_sides():
    image = np.full((100, 100, 3), 77, np.uint8)
    drawn = draw_skeleton(image, JOINTS2D, SKELETON, thickness=3)
    assert color_at(drawn, 50, 50) == CENTER_COLOR
    assert color_at(drawn, 70, 20) == LEFT_COLOR and color_at(drawn, 90, 20) == LEFT_COLOR
    assert color_at(drawn, 30, 20) == RIGHT_COLOR and color_at(drawn, 10, 20) == RIGHT_COLOR
    assert color_at(drawn, 30, 60) == (77, 77, 77)
    assert (image == 77).all()  # the argument is left alone


@pytest.mark.parametrize("hidden", ["nan", "mask", "far outside"])
def test_missing_joints_are_left_out_with_their_bones(hidden):
    joints2d, mask = JOINTS2D.copy(), None
    if hidden == "nan":
        joints2d[2] = np.nan
    elif hidden == "far outside":
        joints2d[2] = [1e12, 20]
    else:
        mask = np.array([True, True, False, True])
    drawn = draw_skeleton(np.zeros((100, 100, 3), np.uint8), joints2d, SKELETON, mask, thickness=3)
    assert not drawn[:, 62:].any() and color_at(drawn, 30, 20) == RIGHT_COLOR


def test_joints_just_outside_keep_their_bones():
    joints2d = JOINTS2D.copy()
    joints2d[2] = [400, 20]
    drawn = draw_skeleton(np.zeros((100, 100, 3), np.uint8), joints2d, SKELETON, thickness=3)
    assert color_at(drawn, 99, 20) == LEFT_COLOR


def test_prediction_and_truth_are_told_apart():
    image = np.zeros((100, 100, 3), np.uint8)
    true = JOINTS2D + np.array([0, 10])
    drawn = draw_prediction_and_truth(image, JOINTS2D, true, SKELETON, np.array([True, True, True, False]))
    assert is_close(color_at(drawn, 70, 20), LEFT_COLOR) and is_close(color_at(drawn, 70, 30), TRUTH_COLOR)
    assert is_close(color_at(drawn, 10, 20), RIGHT_COLOR)
    assert not drawn[28:33, 5:40].any()  # the masked true joint


def colored_columns(image, color):
    return np.flatnonzero((image == color).all(axis=-1).any(axis=0))


def test_views_show_the_axes_they_promise():
    # The left hand is 600 mm to the right of the picture, the right hand 600 mm further away than the neck.
    pose = np.array([[0.0, 0, 3000], [0, 500, 3000], [600, 0, 3000], [0, 0, 3600]])
    views = draw_pose_3d_views([pose], SKELETON, size=200)
    assert views.shape == (200, 400, 3)
    front, side = views[:, :200], views[:, 200:]
    pixels_per_mm = 0.84 * 200 / 1000  # the picture is at least a metre wide
    # Extent in x and z is 600, so the neck is 300 mm left of the middle in the front view; the hands 600 mm from it.
    left, right = 99.5 - 300 * pixels_per_mm, 99.5 + 300 * pixels_per_mm
    assert colored_columns(front, LEFT_COLOR).max() == pytest.approx(right, abs=3)
    assert colored_columns(front, CENTER_COLOR).mean() == pytest.approx(left, abs=3)
    assert colored_columns(front, RIGHT_COLOR).max() == pytest.approx(left, abs=3)
    assert colored_columns(side, RIGHT_COLOR).max() == pytest.approx(right, abs=3)
    assert colored_columns(side, LEFT_COLOR).max() == pytest.approx(left, abs=3)


def test_views_align_poses_by_their_common_joints():
    pose = np.array([[0.0, 0, 3000], [0, 500, 3000], [600, 0, 3000], [0, 0, 3600]])
    partly = pose + np.array([100, -50, 800])
    partly[3] = np.nan
    np.testing.assert_array_equal(draw_pose_3d_views([pose, partly], SKELETON),
                                  draw_pose_3d_views([pose + 99, partly], SKELETON))
    further = pose + np.array([0, 0, 500])
    shifted = draw_pose_3d_views([pose, further], SKELETON, align=False)
    assert (shifted != draw_pose_3d_views([pose, further], SKELETON)).any()
    mask = np.array([True, True, False, True])
    garbage = pose.copy()
    garbage[2] = 1e9
    np.testing.assert_array_equal(draw_pose_3d_views([pose, garbage], SKELETON, masks=[None, mask]),
                                  draw_pose_3d_views([pose, pose], SKELETON, masks=[None, mask]))


def test_views_of_nothing_are_paper():
    nothing = draw_pose_3d_views([np.full((4, 3), np.nan)], SKELETON, size=64)
    assert nothing.shape == (64, 128, 3) and np.median(nothing) > 200
    with pytest.raises(ValueError, match="one pose or more"):
        draw_pose_3d_views([], SKELETON)


def test_box_and_mask_outline():
    image = np.zeros((50, 60, 3), np.uint8)
    drawn = draw_box(image, np.array([10, 5, 30, 20]), color=(9, 200, 100))
    for x, y in ((10, 15), (40, 15), (25, 5), (25, 25)):
        assert is_close(color_at(drawn, x, y), (9, 200, 100))
    assert not drawn[10:20, 15:35].any()
    mask = np.zeros((50, 60), bool)
    mask[10:30, 20:40] = True
    outline = draw_mask_outline(image, mask, color=(9, 200, 100))
    assert is_close(color_at(outline, 20, 15), (9, 200, 100))
    assert not outline[13:27, 23:37].any() and not outline[:8].any()
