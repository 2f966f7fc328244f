"""Plots: the picture shows what it was given, at the right place, and nothing is cut off."""

import cv2
import numpy as np
import pytest

from posepile.geometry.skeleton import Skeleton, load_skeleton, merge_skeletons
from posepile.visualization import plots


def decode(png):
    """[height, width, 3] RGB."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def rgb(color):
    return np.array([int(color[i:i + 2], 16) for i in (1, 3, 5)])


def near(image, color, tolerance=40):
    return np.abs(image.astype(int) - color).max(axis=-1) <= tolerance


def assert_not_clipped(image):
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (border == 255).all(), "something reaches the border of the picture"
    assert (image < 128).any()


@pytest.fixture(name="merged")
def _merged():
    formats = [Skeleton(name=name, family=name, joint_names=("pelvis", "hand"), mirror=(0, 1), edges=((0, 1),), root=0)
               for name in ("one", "two")]
    return merge_skeletons(formats)


@pytest.fixture(name="camera")
def _camera():
    return np.array([[200.0, 0, 49.5], [0, 200, 49.5], [0, 0, 1]])


def panels(png):
    """Image, front and side panel of a pose picture, without the titles."""
    picture = decode(png)[28:-3]
    return [picture[:, 8:-8] for picture in np.array_split(picture, 3, axis=1)]


def center_of(mask):
    return np.argwhere(mask).mean(axis=0)[::-1] / mask.shape[::-1]


def test_formats_have_different_colors(merged):
    colors = plots.format_colors(merged)
    assert list(colors) == ["one", "two"] and len(set(colors.values())) == 2
    many = merge_skeletons([Skeleton(name=f"f{i}", family=f"f{i}", joint_names=("pelvis",), mirror=(0,), edges=())
                            for i in range(28)])
    assert len(set(plots.format_colors(many).values())) == 28


def test_skeletons_are_drawn_where_the_camera_sees_them(merged, camera):
    # format one from the centre of the image to the right, format two from the centre down
    pose = np.array([[0, 0, 4000], [800, 0, 4000], [0, 0, 4000], [0, 800, 4000]], float)
    pictures = plots.pose_comparison(np.zeros((100, 100, 3), np.uint8), camera, pose, np.ones(4, bool), {}, merged)
    image, front, _ = panels(pictures["truth"])
    colors = plots.format_colors(merged)
    for panel in (image, front):
        one, two = (near(panel, rgb(colors[name])) for name in ("one", "two"))
        assert np.ptp(np.argwhere(one)[:, 0]) < 12 < 30 < np.ptp(np.argwhere(one)[:, 1])  # a level line
        assert np.ptp(np.argwhere(two)[:, 1]) < 12 < 30 < np.ptp(np.argwhere(two)[:, 0])
    np.testing.assert_allclose(center_of(near(image, rgb(colors["one"]))), [0.7, 0.5], atol=0.03)  # pixels 49.5 to 89.5
    np.testing.assert_allclose(center_of(near(image, rgb(colors["two"]))), [0.5, 0.7], atol=0.03)


def test_side_view_has_depth_to_the_right_and_shows_what_parts_the_formats(merged, camera):
    true = np.array([[0, 0, 4000], [0, -500, 4000], [0, 0, 4000], [0, 500, 4000]], float)
    pred = true + np.array([[0, 0, 700], [0, 0, 700], [0, 0, 1100], [0, 0, 1100]])  # two lies 400 mm behind one
    pictures = plots.pose_comparison(np.zeros((100, 100, 3), np.uint8), camera, true, np.ones(4, bool),
                                     {"initial": pred}, merged)
    colors = plots.format_colors(merged)
    _, front, side = panels(pictures["initial"])
    x_one, x_two = (center_of(near(side, rgb(colors[name])))[0] for name in ("one", "two"))
    half_range = 550  # 500 mm and some room, in steps of 50
    assert x_two - x_one == pytest.approx(400 / (2 * half_range), abs=0.03)
    assert (x_one + x_two) / 2 == pytest.approx(0.5, abs=0.03)  # the common error of 900 mm is not shown
    x_one, x_two = (center_of(near(front, rgb(colors[name])))[0] for name in ("one", "two"))
    assert x_one == pytest.approx(x_two, abs=0.03)
    gray = rgb("#b5b5b5")
    assert near(side, gray, 20).sum() > 100 > 20 > near(panels(pictures["truth"])[2], gray, 20).sum()


def test_joints_that_are_not_there_are_not_drawn(merged, camera):
    pose = np.array([[0, 0, 4000], [800, 0, 4000], [0, 0, 4000], [0, 800, 4000]], float)
    colors = plots.format_colors(merged)
    validity = np.array([True, True, False, False])
    pred = pose.copy()
    pred[2], pred[3, 0] = np.nan, np.inf
    pictures = plots.pose_comparison(np.zeros((100, 100, 3), np.uint8), camera, pose, validity,
                                     {"initial": pred, "behind": -pose, "nothing": np.full_like(pose, np.nan)}, merged)
    for name in ("truth", "initial"):
        for panel in panels(pictures[name]):
            assert near(panel, rgb(colors["one"])).any() and not near(panel, rgb(colors["two"])).any()
    assert not near(panels(pictures["behind"])[0], rgb(colors["one"])).any()  # behind the camera: not in the image
    nothing = plots.pose_comparison(np.zeros((100, 100, 3), np.uint8), camera, pose, validity & False, {}, merged)
    assert not any(near(panel, rgb(colors["one"])).any() for panel in panels(nothing["truth"]))


def log_records(**changes):
    records = [{"phase": phase, "step": step, "loss": 1 / step, "loss_2d": 0.3 / step, "learning_rate_head": 1e-4,
                "learning_rate_backbone": 1e-5}
               for phase, num_steps in (("initial", 400), ("finetune", 20)) for step in range(10, num_steps + 1, 10)]
    records[3].update(changes)
    return records


@pytest.mark.parametrize("value", [0.5, 0.0, -1.0, None, float("nan"), float("inf")])
def test_curves_are_whole_and_survive_values_without_logarithm(value):
    records = log_records(loss=value, loss_2d=value)
    assert_not_clipped(decode(plots.loss_curves(records, ["loss"], "loss")))
    assert_not_clipped(decode(plots.loss_curves(records, ["loss", "loss_2d", "loss_absent"], "loss term, m")))
    assert_not_clipped(decode(plots.learning_rate_curves(records, ["learning_rate_head", "learning_rate_backbone"])))


def test_curve_of_a_single_record_or_of_nothing_to_draw():
    records = log_records()[:1]
    assert_not_clipped(decode(plots.loss_curves(records, ["loss"], "loss")))
    assert_not_clipped(decode(plots.loss_curves([{"phase": "initial", "step": 1, "loss": None}], ["loss"], "loss")))


def test_bars_are_as_long_as_their_values():
    picture = decode(plots.inconsistency_bars({"initial": {"left_knee": 100.0, "pelvis": 50.0},
                                               "finetuned": {"left_knee": 25.0, "pelvis": None}}))
    assert_not_clipped(picture)
    plot = picture[80:]  # below the legend
    initial = near(plot, rgb(plots.MODEL_COLORS[0]), 4).sum(axis=1)
    finetuned = near(plot, rgb(plots.MODEL_COLORS[1]), 4).sum(axis=1)
    lengths = sorted(set(initial[initial > 10]) | set(finetuned[finetuned > 10]))
    longest = max(lengths)
    assert {round(4 * length / longest) for length in lengths if length > 0.2 * longest} == {1, 2, 4}


def test_autoencoder_picture_shows_sign_and_place():
    merged = merge_skeletons([load_skeleton("smpl_24"), load_skeleton("h36m_17")])
    encoder = np.zeros((4, merged.num_joints))
    encoder[0, 0], encoder[3, -1] = 1, -1
    picture = decode(plots.autoencoder_weights(encoder, np.zeros((merged.num_joints, 4)), merged))
    assert_not_clipped(picture)
    plot = picture[:picture.shape[0] // 2, :int(0.88 * picture.shape[1])]  # the encoder, without its colour bar
    blue, red = center_of(near(plot, [5, 48, 97], 6)), center_of(near(plot, [103, 0, 31], 6))
    assert blue[0] < 0.2 < 0.8 < red[0] and blue[1] < red[1]


def test_autoencoder_of_many_joints():
    names = tuple(f"joint{i}" for i in range(150))
    skeleton = Skeleton(name="big", family="big", joint_names=names, mirror=tuple(range(150)), edges=())
    assert_not_clipped(decode(plots.autoencoder_weights(np.eye(48, 150), np.eye(150, 48), skeleton)))
