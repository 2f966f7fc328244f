import keras
import numpy as np
import pytest
from keras import ops

from posepile.geometry import camera
from posepile.models import absolute_pose as module
from posepile.models.absolute_pose import (
    RIDGE,
    absolute_pose,
    is_inside,
    normalized_image_points,
    project_points,
    reference_point_full_perspective,
    reference_point_weak_perspective,
)

CROP_SIDE, STRIDE = 256, 32
# skew and two focal lengths: more general than any crop camera
INTRINSICS = np.array([[[600, 3, 127.5], [0, 620, 120], [0, 0, 1]], [[800, 0, 127.5], [0, 800, 127.5], [0, 0, 1]]], "float32")


def _planted(num_joints=17, depth=3500.0, seed=0, intrinsics=INTRINSICS):
    """Relative joints [2, num_joints, 3], the reference point [2, 3] and the joints' images, all mm and px."""
    rng = np.random.default_rng(seed)
    relative = rng.uniform(-1, 1, (2, num_joints, 3)) * [350, 400, 300]
    reference = np.array([[40, -60, depth], [-30, 50, 1.2 * depth]])
    joints2d = camera.project(relative + reference[:, None], intrinsics.astype("float64"))
    return relative.astype("float32"), reference, joints2d.astype("float32")


def _numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def test_normalised_points_by_hand():
    # y = (740 - 120) / 620 = 1; x = (730.5 - 127.5 - 3 * 1) / 600 = 1
    points = np.array([[[730.5, 740.0]], [[127.5, 127.5]]], "float32")
    np.testing.assert_allclose(_numpy(normalized_image_points(points, INTRINSICS)), [[[1, 1]], [[0, 0]]], atol=1e-6)


def test_projection_equals_numpy_projection_and_inverts():
    relative, reference, joints2d = _planted()
    joints3d = (relative + reference[:, None]).astype("float32")
    np.testing.assert_allclose(_numpy(project_points(joints3d, INTRINSICS)), joints2d, rtol=1e-5, atol=1e-3)
    normalized = _numpy(normalized_image_points(joints2d, INTRINSICS))
    np.testing.assert_allclose(normalized, joints3d[..., :2] / joints3d[..., 2:], atol=1e-6)


def test_projection_behind_the_camera_is_finite():
    joints2d = _numpy(project_points(np.array([[[1000.0, 1, 0], [0, 0, -5000]]], "float32"), INTRINSICS[:1]))
    assert np.isfinite(joints2d).all()


def test_inside_by_hand():
    points = np.array([[[24, 24], [231, 231], [23.9, 100], [100, 231.1], [-600, 128]]], "float32")
    np.testing.assert_array_equal(_numpy(is_inside(points, 256, 24)), [[True, True, False, False, False]])
    np.testing.assert_array_equal(_numpy(is_inside(points, 256, -640)), [[True] * 5])


@pytest.mark.parametrize("depth", [2000.0, 3500.0, 9000.0])
def test_full_perspective_finds_the_planted_reference_point(depth):
    relative, reference, joints2d = _planted(depth=depth)
    normalized = _numpy(normalized_image_points(joints2d, INTRINSICS))
    found = _numpy(reference_point_full_perspective(normalized, relative, np.ones((2, 17), "float32")))
    # the ridge, 0.01 beside 17 joints of two equations, pulls the depth by well under 1 part in 1000
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=3)
    assert np.abs(found[:, 2] - reference[:, 2]).max() < 1e-3 * 1.2 * depth


def test_full_perspective_is_exact_without_the_ridge(monkeypatch):
    monkeypatch.setattr(module, "RIDGE", 0.0)
    relative, reference, joints2d = _planted()
    normalized = _numpy(normalized_image_points(joints2d, INTRINSICS))
    weights = np.random.default_rng(4).uniform(0.1, 1, (2, 17)).astype("float32")
    np.testing.assert_allclose(_numpy(reference_point_full_perspective(normalized, relative, weights)), reference,
                               atol=0.5)


@pytest.mark.parametrize("ridge", [0.0, RIDGE])
def test_full_perspective_equals_generic_least_squares(ridge, monkeypatch):
    monkeypatch.setattr(module, "RIDGE", ridge)
    relative, _, joints2d = _planted(seed=1)
    rng = np.random.default_rng(2)
    normalized = _numpy(normalized_image_points(joints2d + rng.normal(scale=4, size=joints2d.shape).astype("float32"),
                                                INTRINSICS))
    weights = np.where(rng.uniform(size=(2, 17)) < 0.3, 1e-4, 1.0).astype("float32")
    found = _numpy(reference_point_full_perspective(normalized, relative, weights))
    for i in range(2):
        u, p, w = np.float64(normalized[i]), np.float64(relative[i]), np.float64(weights[i])
        target = u * p[:, 2:] - p[:, :2]
        column_scale, target_scale = np.sqrt(np.mean(u**2)), np.sqrt(np.mean(target**2))
        rows, right = [], []
        for j in range(17):
            for axis in range(2):
                unit = np.eye(2)[axis]
                rows.append(np.sqrt(w[j]) * np.array([*unit, -u[j, axis] / column_scale]))
                right.append(np.sqrt(w[j]) * target[j, axis] / target_scale)
        rows, right = [*rows, *(np.sqrt(ridge) * np.eye(3))], [*right, 0, 0, 0]
        solution = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
        expected = solution * target_scale / [1, 1, column_scale]
        np.testing.assert_allclose(found[i], expected, rtol=2e-4, atol=0.3)


def test_weak_perspective_by_hand():
    # a flat pose, 200 mm wide, seen 0.05 wide: 4000 mm away; its centre at (0.1, 0) is 400 mm to the right
    relative = np.array([[[-100, 0, 7], [100, 0, 7]]], "float32")
    normalized = np.array([[[0.075, 0], [0.125, 0]]], "float32")
    found = _numpy(reference_point_weak_perspective(normalized, relative, np.ones((1, 2), "float32")))
    np.testing.assert_allclose(found, [[400, 0, 4000 - 7]], rtol=1e-4)


def test_weak_perspective_is_right_for_a_distant_person():
    intrinsics = INTRINSICS * np.float32([[20, 20, 1], [20, 20, 1], [1, 1, 1]])
    relative, reference, joints2d = _planted(depth=80_000.0, intrinsics=intrinsics)
    normalized = _numpy(normalized_image_points(joints2d, intrinsics))
    found = _numpy(reference_point_weak_perspective(normalized, relative, np.ones((2, 17), "float32")))
    np.testing.assert_allclose(found, reference, rtol=0.01, atol=3)


def test_weak_perspective_leaves_out_joints_of_no_weight():
    relative, _, joints2d = _planted()
    normalized = _numpy(normalized_image_points(joints2d, INTRINSICS))
    weights = np.ones((2, 17), "float32")
    weights[:, 12:] = 0
    spoiled2d, spoiled3d = normalized.copy(), relative.copy()
    spoiled2d[:, 12:], spoiled3d[:, 12:] = 9, 1e5
    np.testing.assert_allclose(_numpy(reference_point_weak_perspective(spoiled2d, spoiled3d, weights)),
                               _numpy(reference_point_weak_perspective(normalized[:, :12], relative[:, :12],
                                                                       weights[:, :12])), rtol=1e-4)


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_mix_by_hand(mix, monkeypatch):
    """Two joints on the optical axis and beside it; the 2D prediction of the second one disagrees with the 3D one."""
    monkeypatch.setattr(module, "reference_point_full_perspective",
                        lambda *_: ops.convert_to_tensor(np.array([[0, 0, 4000]], "float32")))
    intrinsics = INTRINSICS[1:]
    relative = np.array([[[0, 0, 0], [100, 0, 0], [300, 0, -500]]], "float32")
    joints2d = np.array([[[127.5, 127.5], [167.5, 127.5], [250, 127.5]]], "float32")  # x / z of the second: 40 / 800
    result = _numpy(absolute_pose(joints2d, relative, intrinsics, crop_side=CROP_SIDE, stride=STRIDE, mix=mix))
    np.testing.assert_allclose(result[0, 0], [0, 0, 4000], atol=1e-3)
    np.testing.assert_allclose(result[0, 1], [mix * 100 + (1 - mix) * 0.05 * 4000, 0, 4000], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(result[0, 2], [300, 0, 3500], rtol=1e-5)  # within 24 px of the border: 3D-based


def test_agreeing_predictions_give_the_true_pose_whatever_the_mix():
    relative, reference, joints2d = _planted()
    joints2d[:, :3] = [250, 20]  # wrong, at the border: hardly counts, and these joints come from the 3D side
    for mix in (0.0, 0.5, np.full((2, 1, 1), 0.3, "float32")):
        result = _numpy(absolute_pose(joints2d, relative, INTRINSICS, crop_side=CROP_SIDE, stride=STRIDE, mix=mix))
        assert np.linalg.norm(result - (relative + reference[:, None]), axis=-1).max() < 6


def test_either_closed_form_by_a_tensor_switch():
    relative, _, joints2d = _planted(seed=3)
    joints2d += np.random.default_rng(0).normal(scale=5, size=joints2d.shape).astype("float32")
    results = {}
    for switch in (True, False):
        for form in (bool, ops.convert_to_tensor):
            results[switch, form] = _numpy(absolute_pose(joints2d, relative, INTRINSICS, crop_side=CROP_SIDE, stride=STRIDE,
                                                         use_weak_perspective=form(switch)))
        np.testing.assert_array_equal(results[switch, bool], results[switch, ops.convert_to_tensor])
    assert np.abs(results[True, bool] - results[False, bool]).max() > 10


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients are taken by TensorFlow's tape")
@pytest.mark.parametrize("weak", [True, False])
def test_gradients_are_finite_where_all_joints_coincide(weak):
    import tensorflow as tf
    for pixel, position in ((127.5, 0.0), (60.0, 0.0), (127.5, 300.0), (-900.0, 300.0)):
        points, volume = (tf.Variable(np.full((1, 5, n), x, np.float32)) for n, x in ((2, pixel), (3, position)))
        with tf.GradientTape() as tape:
            result = absolute_pose(points, volume, INTRINSICS[1:], crop_side=CROP_SIDE, stride=STRIDE, mix=0.5,
                                   use_weak_perspective=weak)
            loss = ops.sum(ops.abs(result))
        assert np.isfinite(result.numpy()).all()
        for gradient in tape.gradient(loss, [points, volume]):
            assert np.isfinite(gradient.numpy()).all()
