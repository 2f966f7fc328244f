import keras
import numpy as np
import pytest

from posepile.models import absolute_pose
from posepile.models.pose_model import PoseModel
from tests.posepile import small_model


def _inputs(num_examples=3, seed=0):
    rng = np.random.default_rng(seed)
    intrinsics = np.array([[200, 0, 15.5], [0, 200, 15.5], [0, 0, 1]], "float32")
    return {"image": rng.integers(0, 256, (num_examples, 32, 32, 3), np.uint8),
            "intrinsics": np.repeat(intrinsics[None], num_examples, axis=0)}


def _numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def test_joins_the_head_and_the_absolute_pose(pose_model):
    inputs = _inputs()
    joints2d, relative = (_numpy(x) for x in pose_model.predict_heatmap_joints(inputs["image"]))
    assert ((joints2d >= 4) & (joints2d <= 28)).all()  # px between the centres of the outer cells
    for options in ({}, {"mix": 0.0}, {"use_weak_perspective": True}):
        expected = absolute_pose.absolute_pose(joints2d, relative, inputs["intrinsics"], crop_side=32, stride=8,
                                               **{"mix": 0.5, **options})
        np.testing.assert_allclose(_numpy(pose_model(inputs, **options)), _numpy(expected), rtol=1e-4, atol=0.1)


def test_uint8_and_float_images_give_the_same(pose_model):
    inputs = _inputs()
    as_float = {**inputs, "image": inputs["image"].astype("float32")}
    np.testing.assert_array_equal(_numpy(pose_model(inputs)), _numpy(pose_model(as_float)))


def test_examples_do_not_influence_each_other_at_test(pose_model):
    inputs = _inputs(3)
    together = _numpy(pose_model(inputs))
    for i in range(3):
        alone = _numpy(pose_model({name: values[i:i + 1] for name, values in inputs.items()}))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-4, atol=0.05)


def test_initial_weights_follow_the_seed():
    first, same, other = (small_model.make_model(seed=seed).get_weights() for seed in (1, 1, 2))
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim == 4]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in kernels)


@pytest.mark.parametrize("ghost_batch_size", [4, (2, 1), None])
def test_saved_model_is_the_same(tmp_path, ghost_batch_size):
    model = small_model.make_model(ghost_batch_size=ghost_batch_size)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape).astype(w.dtype) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, PoseModel)
    assert loaded.skeleton == small_model.MERGED
    assert (loaded.crop_side, loaded.stride, loaded.ghost_batch_size) == (32, 8, ghost_batch_size)
    assert loaded.backbone.get_layer("stem_bn").group_sizes == ghost_batch_size
    np.testing.assert_array_equal(_numpy(loaded(_inputs())), _numpy(model(_inputs())))


def test_head_has_a_map_for_every_joint(pose_model):
    assert pose_model.head.conv.filters == small_model.MERGED.num_joints * 9
    assert pose_model.compute_output_shape({"image": (5, 32, 32, 3)}) == (5, 7, 3)
