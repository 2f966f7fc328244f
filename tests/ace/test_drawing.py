import cv2
import numpy as np

from ace.autoencoder import AffineAutoencoder
from ace.drawing import draw_weights, format_blocks
from posepile.geometry.skeleton import skeleton_from_dict
from tests.ace.kinematic_poses import merged_skeleton


def one_point(skeleton):
    num_joints = skeleton.num_joints
    return AffineAutoencoder(np.full((1, num_joints), 1 / num_joints), np.ones((num_joints, 1)), skeleton, 0, 0, 1)


def test_picture_shows_positive_weights_red_negative_ones_blue_and_zero_light(tmp_path):
    skeleton = skeleton_from_dict({"name": "s", "joints": ["a", "b", "c"]})
    weights = np.array([[1.0, 0, 0], [1, 1, -1], [0, 0, 1]])
    draw_weights(AffineAutoencoder(weights, np.eye(3), skeleton, 0, 0, 3), tmp_path / "new" / "weights.png")
    picture = cv2.imread(str(tmp_path / "new" / "weights.png")).astype(int)
    blue, green, red = np.moveaxis(picture, -1, 0)
    cell = 14 * 19  # px, at 100 px per inch
    deep_red, deep_blue = (red > 80) & (green < 40) & (blue < 60), (blue > 80) & (red < 40) & (green < 80)
    # encoder: 4 cells of +1, decoder 3; the colour bar and the anti-aliased edges add a little
    assert 6.3 * cell < deep_red.sum() < 8.5 * cell
    assert 0.9 * cell < deep_blue.sum() < 2 * cell


def test_format_blocks_split_the_rows_where_formats_begin():
    blocks = format_blocks(one_point(merged_skeleton("smpl_24", "h36m_17", "h36m_25", "coco_19")))
    assert blocks == [("smpl_24", 0, 24), ("h36m_17", 24, 41), ("h36m_25", 41, 49), ("coco_19", 49, 68)]
    # of one family: all joints of the second are in the first
    assert format_blocks(one_point(merged_skeleton("h36m_25", "h36m_17"))) == [("h36m_25", 0, 25)]
    plain = skeleton_from_dict({"name": "own", "joints": ["a", "b"]})
    assert format_blocks(one_point(plain)) == [("own", 0, 2)]
