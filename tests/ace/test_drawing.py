import cv2
import numpy as np

from ace.autoencoder import AffineAutoencoder
from ace.drawing import DPI, error_figure, figure_png, format_blocks, objective_figure, weights_figure
from ace.report import measure
from benchmarks.kinematic_poses import merged_skeleton
from posepile.geometry.skeleton import merge_skeletons, skeleton_from_dict


def one_point(skeleton):
    num_joints = skeleton.num_joints
    return AffineAutoencoder(np.full((1, num_joints), 1 / num_joints), np.ones((num_joints, 1)), skeleton, 0, 0, 1)


def many_joints(*counts):
    return merge_skeletons([skeleton_from_dict({"name": f"f{k}", "joints": [f"joint{j}" for j in range(count)]})
                            for k, count in enumerate(counts)])


def picture(figure):
    """[height, width, 3] RGB in 0..1 of the figure as a file."""
    return cv2.imdecode(np.frombuffer(figure_png(figure), np.uint8), cv2.IMREAD_COLOR_RGB) / 255


def pixel(image, axes, x, y):
    """The colour at a place in an axes' coordinates."""
    column, row = axes.transData.transform((x, y))
    return image[round(len(image) - row - 0.5), round(column - 0.5)]


def test_picture_shows_positive_weights_red_negative_ones_blue_and_zero_light():
    skeleton = skeleton_from_dict({"name": "s", "joints": ["a", "b", "c"]})
    weights = np.array([[1.0, 0, 0], [1, 1, -1], [0, 0, 1]])
    blue, green, red = np.moveaxis(255 * picture(weights_figure(AffineAutoencoder(weights, np.eye(3), skeleton, 0, 0, 3))),
                                   -1, 0)[::-1]
    cell = 14 * 19  # px, at 100 px per inch
    deep_red, deep_blue = (red > 80) & (green < 40) & (blue < 60), (blue > 80) & (red < 40) & (green < 80)
    # encoder: 4 cells of +1, decoder 3; the colour bar and the anti-aliased edges add a little
    assert 6.3 * cell < deep_red.sum() < 8.5 * cell
    assert 0.9 * cell < deep_blue.sum() < 2 * cell


def test_weights_of_many_joints_are_folded_into_panels():
    skeleton = many_joints(100, 60, 90)
    encoder, decoder = np.eye(12, 250), np.eye(12)[np.arange(250) % 12]
    decoder[200, [200 % 12, 5, 6]] = 1, -1, 1
    figure = weights_figure(AffineAutoencoder(encoder, decoder, skeleton, 0, 0, 12))
    image = picture(figure)
    *panels, _ = figure.axes  # encoder and decoder of each panel, and the scale
    labels = [label.get_text() for axes in panels[::2] for label in axes.get_yticklabels()]
    assert len(panels) == 4 and labels == list(skeleton.joint_names)
    for latent, is_red, is_blue in ((200 % 12, True, False), (5, False, True), (6, True, False), (7, False, False)):
        red, green, blue = pixel(image, panels[-1], latent, 200)
        assert (red > 3 * blue, blue > 3 * red) == (is_red, is_blue) and (green > 0.9) == (not is_red and not is_blue)
    formats = [[text.get_text() for text in axes.texts if text.get_text() in ("f0", "f1", "f2")] for axes in panels[1::2]]
    assert formats == [["f0", "f1"], ["f1", "f2"]]  # a name again where its format goes on


def test_picture_of_555_joints_is_of_a_size_to_look_at():
    decoder = np.eye(48)[np.arange(555) % 48]
    width, height = weights_figure(AffineAutoencoder(np.eye(48, 555), decoder, many_joints(200, 300, 55), 0, 0, 48)
                                   ).get_size_inches() * DPI
    assert width < 4000 and height < 2600


def test_bars_are_as_long_as_the_errors():
    skeleton = skeleton_from_dict({"name": "s", "joints": ["a", "b", "c"]})
    autoencoder = AffineAutoencoder(np.array([[1.0, 0, 0]]), np.ones((3, 1)), skeleton, 0, 0, 1)  # all joints at a
    poses = np.array([[[0.0, 0, 1000], [0, 30, 1040], [np.nan] * 3]])
    errors = measure(autoencoder, poses)["errors"]
    on_image = 30 * 1020 / 1040
    figure = error_figure(autoencoder, errors)
    image, axes = picture(figure), figure.axes[0]
    dark, light = pixel(image, axes, on_image - 0.7, 1), pixel(image, axes, 50 - 0.7, 1)
    np.testing.assert_allclose(dark * 255, (0x28, 0x52, 0x7a), atol=1)
    np.testing.assert_allclose(light * 255, (0xb9, 0xc4, 0xd6), atol=1)
    np.testing.assert_allclose(pixel(image, axes, on_image + 0.7, 1), light)
    np.testing.assert_allclose(pixel(image, axes, 50 + 0.7, 1), 1)
    assert [text.get_text() for text in axes.texts if text.get_position()[1] == 2] == ["no valid joint"]


def test_objective_is_drawn_where_it_is():
    figure = objective_figure(np.array([[100, 4.0], [200, 2.0], [300, 1.0]]))
    image, axes = picture(figure), figure.axes[0]
    for x, y in ((100, 4), (200, 2), (250, 2 ** 0.5), (300, 1)):  # straight between the points on a logarithmic scale
        assert pixel(image, axes, x, y)[0] < 0.5
    assert pixel(image, axes, 250, 2)[0] > 0.8


def test_format_blocks_split_the_rows_where_formats_begin():
    blocks = format_blocks(one_point(merged_skeleton("smpl_24", "h36m_17", "h36m_25", "coco_19")))
    assert blocks == [("smpl_24", 0, 24), ("h36m_17", 24, 41), ("h36m_25", 41, 49), ("coco_19", 49, 68)]
    # of one family: all joints of the second are in the first
    assert format_blocks(one_point(merged_skeleton("h36m_25", "h36m_17"))) == [("h36m_25", 0, 25)]
    plain = skeleton_from_dict({"name": "own", "joints": ["a", "b"]})
    assert format_blocks(one_point(plain)) == [("own", 0, 2)]
