import numpy as np
import pytest

from ace.autoencoder import AffineAutoencoder
from ace.body_drawing import SIDE_COLORS, facing_rotation, latents_figure, typical_pose
from posepile.geometry.skeleton import skeleton_from_dict
from posepile.visualization import drawing
from tests.ace.test_drawing import picture, pixel

BODY = skeleton_from_dict({"name": "body", "joints": ["left_hand", "right_hand", "neck", "pelvis"],
                           "mirror_pairs": [["left_hand", "right_hand"]], "edges": ["left_hand-neck-pelvis"]})
# latent points are the hands and the neck; the pelvis is none
HANDS_AND_NECK = AffineAutoencoder(np.eye(3, 4), np.eye(3)[[0, 1, 2, 2]], BODY, 1, 1, 1)
# facing the camera, hands forward; the middle of the joints is (0, 0, 3000)
FACING = np.array([[300.0, -50, 2700], [-300, -50, 2700], [0, -400, 3300], [0, 500, 3300]])
MIDDLE = np.array([0, 0, 3000])
FROM_BEHIND = (FACING - MIDDLE) * [-1, 1, -1] + MIDDLE


def dots(pose, axes_index, places):
    """The colours at places of an axes."""
    figure = latents_figure(HANDS_AND_NECK, pose[None])
    image = picture(figure)
    return np.array([pixel(image, figure.axes[axes_index], *place) for place in places])


def test_colours_are_those_of_the_other_drawings():
    for side, color in (("left", drawing.LEFT_COLOR), ("right", drawing.RIGHT_COLOR), ("centre", drawing.CENTER_COLOR)):
        np.testing.assert_allclose(np.array(SIDE_COLORS[side]) * 255, color)


@pytest.mark.parametrize("pose", [FACING, FROM_BEHIND])
def test_typical_pose_is_turned_to_the_viewer(pose):
    colors = [SIDE_COLORS[side] for side in ("left", "right", "centre")]
    # from the front, the person's left is on the right, and y points down
    np.testing.assert_allclose(dots(pose, 0, [(300, -50), (-300, -50), (0, -400)]), colors, atol=0.01)
    # from the person's left, hands are before the body, on the left; the left hand hides the right one
    np.testing.assert_allclose(dots(pose, 1, [(-300, -50), (300, -400)]), [colors[0], colors[2]], atol=0.01)


def test_poses_of_the_file_are_shown_as_the_camera_sees_them():
    left, right = SIDE_COLORS["left"], SIDE_COLORS["right"]
    np.testing.assert_allclose(dots(FACING, 2, [(300, -50), (-300, -50)]), [left, right], atol=0.01)
    np.testing.assert_allclose(dots(FROM_BEHIND, 2, [(-300, -50), (300, -50)]), [left, right], atol=0.01)
    # from the side with the camera on the left: who is seen from behind has the right hand before the left
    np.testing.assert_allclose(dots(FROM_BEHIND, 3, [(300, -50)]), [right], atol=0.01)


def test_nearer_latent_points_hide_farther_ones():
    pose = FACING.copy()
    for depth, side in ((2000, "centre"), (3000, "right")):  # the neck before the right hand, and behind it
        pose[2] = [-300, -50, depth]
        x, y, _ = pose[2] - pose.mean(axis=0)
        np.testing.assert_allclose(dots(pose, 2, [(x, y)]), [SIDE_COLORS[side]], atol=0.01)


def test_x_grows_to_the_right_and_y_downwards_to_one_scale():
    figure = latents_figure(HANDS_AND_NECK, FACING[None])
    for axes in figure.axes:
        (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (100, 100)])
        assert x1 > x0 and y1 < y0 and x1 - x0 == pytest.approx(y0 - y1)


def test_bones_are_grey_and_missing_joints_have_none():
    def darkest(pose, *places):
        """The darkest colours within 2 px of places in the front view."""
        figure = latents_figure(HANDS_AND_NECK, pose[None])
        image = picture(figure)
        mm = 1 / np.diff(figure.axes[0].transData.transform([(0, 0), (1, 0)])[:, 0])[0]
        around = [(dx * mm, dy * mm) for dx in range(-2, 3) for dy in range(-2, 3)]
        return np.array([min((tuple(pixel(image, figure.axes[0], x + dx, y + dy)) for dx, dy in around), key=sum)
                         for x, y in places])

    grey = darkest(FACING, (150, -225), (0, 50))  # the middle of the left arm and of the trunk
    assert (np.ptp(grey, axis=1) < 0.02).all() and (grey < 0.93).all() and (grey > 0.7).all()
    pose = np.where(np.arange(4)[:, None] == 3, np.nan, FACING)
    down = 500 / 3  # the middle of the other joints is (0, -500/3)
    arm, trunk = darkest(pose, (150, -225 + down), (0, 50 + down))
    assert (arm < 0.93).all() and (trunk == 1).all()


def test_names_stand_apart_and_within_the_picture():
    two_places = np.array([[0.0, 0, 3000], [0, 500, 3000]])
    num_latents = 24
    skeleton = skeleton_from_dict({"name": "crowd", "joints": [f"j{k}" for k in range(num_latents)]})
    autoencoder = AffineAutoencoder(np.eye(num_latents), np.eye(num_latents), skeleton, 0, 0, num_latents)
    figure = latents_figure(autoencoder, np.resize(two_places, (1, num_latents, 3)))
    picture(figure)
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(f"C{k + 1} j{k}" for k in range(num_latents))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 > 0 and box.x1 < width and box.y0 > 0 and box.y1 < height for box in boxes)


def test_facing_rotation():
    to_camera = np.array([[0.0, 0, -1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]) * 100  # the left hand points to the camera
    rotation = facing_rotation(to_camera, BODY)
    np.testing.assert_allclose(rotation @ [0, 0, -1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [0, 1, 0], [0, 1, 0], atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    without_a_hand = np.where(np.arange(4)[:, None] == 0, np.nan, to_camera)
    np.testing.assert_array_equal(facing_rotation(without_a_hand, BODY), np.eye(3))


def test_typical_pose_is_near_the_mean_and_complete():
    arms_up, arms_down = FACING.copy(), FACING.copy()
    arms_up[:2, 1], arms_down[:2, 1] = -600, 500
    poses = np.stack([arms_up, FACING, FROM_BEHIND + 5, arms_down])
    valid = np.ones((4, 4), bool)
    assert typical_pose(poses, valid, BODY) in (1, 2)
    valid[1:3, 3] = False
    assert typical_pose(poses, valid, BODY) in (0, 3)
