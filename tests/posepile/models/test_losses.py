import keras
import numpy as np
import pytest
from keras import ops

from posepile.models import losses

CROP_SIDE, STRIDE = 220, 10  # 1 px counts as 2200 / 220 / 1000 = 0.01
GEOMETRY = {"crop_side": CROP_SIDE, "stride": STRIDE}
INTRINSICS = np.array([[[1000, 0, 110], [0, 1000, 110], [0, 0, 1]]], "float32")


def _value(x):
    return float(ops.convert_to_numpy(x))


def _mean(errors_and_mask):
    return _value(losses.masked_mean(*errors_and_mask))


def _pose(*joints):
    return np.array([joints], "float32")


def _mask(*flags):
    return np.array([flags], bool)


def test_masked_mean_by_hand():
    values = np.array([[[1, 2], [3, 6]], [[100, np.nan], [0, 0]]], "float32")
    assert _value(losses.masked_mean(values, np.array([[True, True], [False, True]]))) == 2.0  # 12 / 6
    assert _value(losses.masked_mean(values, np.zeros((2, 2), bool))) == 0.0


def test_shares_of_the_mean_add_up_whatever_the_counts():
    values = np.array([[[1, 2], [3, 6]], [[100, 7], [0, 0]]], "float32")
    mask = np.array([[True, True], [False, True]])  # 4 numbers of one half, 2 of the other
    shares = [_value(losses.masked_mean(values[i:i + 1], mask[i:i + 1], lambda count: 6.0)) for i in range(2)]
    assert shares == [2.0, 0.0]  # 12 / 6 and 0 / 6


def test_example_means_by_hand():
    values = np.array([[[1, 2], [3, 6]], [[100, np.nan], [5, 0]], [[9, 9], [9, 9]]], "float32")
    means, counts = losses.example_means(values, np.array([[True, True], [False, True], [False, False]]))
    assert ops.convert_to_numpy(means).tolist() == [3.0, 2.5, 0.0]
    assert ops.convert_to_numpy(counts).tolist() == [1.0, 1.0, 0.0]


def test_mean_distance_by_hand():
    assert _value(losses.mean_distance(_pose((0, 0, 4000), (200, 0, 4000)), _pose((0, 0, 4000), (100, -50, 4030)))) == (
        pytest.approx((0.1 + 0.05 + 0.03) / 6))


def test_mean_relative_loss_by_hand():
    true = _pose((0, 0, 4000), (0, 200, 4000), (7e5, 0, 0))
    # every joint is moved by (1000, 50, -300), which does not count, and the second one by (60, 0, 0) as well
    predicted = _pose((1000, 50, 3700), (1060, 250, 3700), (0, 0, 0))
    loss = _mean(losses.mean_relative_errors(predicted, true, _mask(True, True, False)))
    # the means differ by 30 mm in x: |30| for both joints in one coordinate of three
    assert loss == pytest.approx(0.030 / 3, rel=1e-4)


def test_mean_relative_loss_centres_each_pose_by_itself():
    true = np.zeros((2, 2, 3), "float32")
    predicted = np.array([[[500, 0, 0]] * 2, [[-9000, 0, 0]] * 2], "float32")
    assert _mean(losses.mean_relative_errors(predicted, true, np.ones((2, 2), bool))) == 0.0


@pytest.mark.parametrize(("true_depth", "z_scale"), [(4000, 1.0), (10_000, 1.0), (20_000, 0.5), (50_000, 0.2)])
def test_absolute_loss_scales_depth_beyond_10_m(true_depth, z_scale):
    true = _pose((0, 0, true_depth))
    predicted = _pose((30, -60, true_depth + 120))
    loss = _mean(losses.absolute_errors(predicted, true, _mask(True)))
    assert loss == pytest.approx((30 + 60 + 120 * z_scale) / 3 / 1000, rel=1e-5)


def test_absolute_loss_leaves_out_joints_nearer_than_300_mm():
    true = _pose((0, 0, 299), (0, 0, 300), (0, 0, 301), (0, 0, -5000))
    predicted = true + np.float32([[[900], [900], [30], [900]]])
    assert _mean(losses.absolute_errors(predicted, true, _mask(True, True, True, True))) == pytest.approx(0.03)


def test_projection_losses_by_hand():
    # 1000 mm away 1 mm is 1 px: (3, 4) px off, mean 3.5 px of 0.01; 2000 mm away half of it
    true = _pose((0, 0, 1000), (0, 0, 2000))
    predicted = _pose((3, 4, 1000), (3, 4, 2000))
    for depth_error in (0, 500):  # both joints of the prediction lie on their rays at any depth
        moved = predicted * (1 + depth_error / 1000)
        loss = _mean(losses.projection_errors_3d(moved, true, _mask(True, True), INTRINSICS, **GEOMETRY))
        assert loss == pytest.approx((3.5 + 1.75) / 2 * 0.01, rel=1e-4)
    joints2d = np.array([[[110, 110], [110, 110]]], "float32")
    loss = _mean(losses.projection_errors_2d(predicted, joints2d, _mask(True, False), INTRINSICS, **GEOMETRY))
    assert loss == pytest.approx(0.035, rel=1e-4)


@pytest.mark.parametrize(("predicted", "true", "counts"), [
    ((10, 0, 1000), (0, 0, 1000), True),
    ((-110, 0, 1000), (0, 0, 1000), True),  # at px 0
    ((-111, 0, 1000), (0, 0, 1000), False),  # predicted at px -1
    ((109, 0, 1000), (0, 0, 1000), True),  # at px 219
    ((110, 0, 1000), (0, 0, 1000), False),  # at px 220
    ((0, 0, 1000), (308, 0, 1000), True),  # truly at px 418, 199 px = 19.9 strides outside
    ((0, 0, 1000), (310, 0, 1000), False),  # truly 20.1 strides outside
    ((0, 0, 1000), (0, -311, 1000), False),
    ((0, 0, -1000), (0, 10, 1000), False),  # predicted behind the camera
    ((10, 0, 1000), (0, 0, -1000), False),  # truly behind it
    ((1, 0, 200), (0, 0, 250), False),  # truly too near
    ((1, 0, 200), (0, 0, 350), True),  # predicted that near
])
def test_which_joints_the_projection_loss_counts(predicted, true, counts):
    loss = _mean(losses.projection_errors_3d(_pose(predicted), _pose(true), _mask(True), INTRINSICS, **GEOMETRY))
    assert (loss > 0) == counts


LOSSES = {
    "mean_relative": lambda p, true, mask: losses.mean_relative_errors(p, true, mask),
    "absolute": lambda p, true, mask: losses.absolute_errors(p, true, mask),
    "projection_3d": lambda p, true, mask: losses.projection_errors_3d(p, true, mask, INTRINSICS, **GEOMETRY),
    "projection_2d": lambda p, true, mask: losses.projection_errors_2d(p, true[..., :2] / 10 + 110, mask, INTRINSICS,
                                                                     **GEOMETRY),
}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients are taken by TensorFlow's tape")
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30, 0.0])
@pytest.mark.parametrize("name", LOSSES)
def test_garbage_under_a_false_mask_changes_neither_loss_nor_gradient(name, garbage):
    import tensorflow as tf
    rng = np.random.default_rng(0)
    true = (rng.uniform(-80, 80, (1, 4, 3)) + np.array([0, 0, 1000])).astype("float32")
    predicted = tf.Variable((true + rng.normal(scale=20, size=true.shape)).astype("float32"))
    mask = _mask(True, False, True, True)
    results = []
    for value in (true[0, 1], garbage):
        spoiled = true.copy()
        spoiled[0, 1] = value
        with tf.GradientTape() as tape:
            loss = losses.masked_mean(*LOSSES[name](predicted, spoiled, mask))
        results.append((loss.numpy(), tape.gradient(loss, predicted).numpy()))
    assert results[0][0] > 0
    assert np.abs(results[0][1]).max() > 0
    np.testing.assert_array_equal(results[1][0], results[0][0])
    np.testing.assert_array_equal(results[1][1], results[0][1])
    assert (results[1][1][0, 1] == 0).all()
