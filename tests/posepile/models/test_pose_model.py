import json

import keras
import numpy as np
import pytest

from posepile.models import absolute_pose
from posepile.models.pose_model import PoseModel, combine_affinely
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


@pytest.fixture(scope="module", params=["latent", "hybrid"])
def consistent_model(request):
    return small_model.make_consistent_model(request.param)


def test_joints_are_decoded_from_latent_points(consistent_model):
    latents3d = _numpy(consistent_model.predict_points(_inputs()).latents3d)
    joints3d = _numpy(consistent_model(_inputs()))
    assert (latents3d.shape, joints3d.shape) == ((3, 3, 3), (3, 7, 3))
    np.testing.assert_allclose(joints3d, small_model.Autoencoder().decoder.astype(float) @ latents3d, rtol=1e-6, atol=0.01)


@pytest.mark.parametrize("options", [{}, {"mix": 0.0}, {"use_weak_perspective": True}])
def test_every_set_of_points_has_its_own_reference_point(consistent_model, options):
    inputs = _inputs()
    points2d, relative = (_numpy(x) for x in consistent_model.predict_heatmap_joints(inputs["image"]))
    points = consistent_model.predict_points(inputs, **options)
    sets = {"latent": {"latents3d": slice(0, 3)}, "hybrid": {"joints3d": slice(0, 7), "latents3d": slice(7, 10)}}
    for name, rows in sets[consistent_model.variant].items():
        expected = absolute_pose.absolute_pose(points2d[:, rows], relative[:, rows], inputs["intrinsics"], crop_side=32,
                                               stride=8, **{"mix": 0.5, **options})
        np.testing.assert_allclose(_numpy(getattr(points, name)), _numpy(expected), rtol=1e-4, atol=0.1)
    assert (points.joints3d is None) == (consistent_model.variant == "latent")


def test_joints_are_predicted_as_points_too(pose_model):
    points = pose_model.predict_points(_inputs())
    np.testing.assert_array_equal(_numpy(points.joints3d), _numpy(pose_model(_inputs())))
    assert points.latents3d is None


def test_affine_combinations_by_hand():
    points = np.float32([[[0, 0, 4000], [8, 0, 4000], [0, -4, 8000]]])
    weights = np.float32([[0.5, 0.5, 0], [-0.25, 0.75, 0.5]])
    np.testing.assert_allclose(_numpy(combine_affinely(weights, points)), [[[4, 0, 4000], [6, -2, 6000]]], atol=1e-3)


def test_mirrored_latent_points_are_decoded_to_mirrored_joints():
    decoder, latents = small_model.Autoencoder().decoder, np.random.default_rng(0).normal(size=(1, 3, 3)).astype("float32")
    joints, mirrored = (_numpy(combine_affinely(decoder, x)) for x in (latents, latents[:, [1, 0, 2]]))
    np.testing.assert_allclose(mirrored, joints[:, list(small_model.MERGED.mirror)], atol=1e-5)
    assert np.abs(mirrored - joints).max() > 0.1


def _save_and_load(model, path):
    model.save(path)
    return keras.models.load_model(path)


@pytest.mark.parametrize("ghost_batch_size", [4, (2, 1), None])
def test_saved_model_is_the_same(tmp_path, ghost_batch_size):
    model = small_model.make_model(ghost_batch_size=ghost_batch_size)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape).astype(w.dtype) for w in model.get_weights()])
    loaded = _save_and_load(model, tmp_path / "model.keras")
    assert isinstance(loaded, PoseModel)
    assert loaded.skeleton == small_model.MERGED
    assert (loaded.crop_side, loaded.stride, loaded.ghost_batch_size) == (32, 8, ghost_batch_size)
    assert loaded.backbone.get_layer("stem_bn").group_sizes == ghost_batch_size
    np.testing.assert_array_equal(_numpy(loaded(_inputs())), _numpy(model(_inputs())))


def test_saved_model_holds_the_autoencoder(tmp_path, consistent_model):
    loaded = _save_and_load(consistent_model, tmp_path / "model.keras")
    assert (loaded.variant, loaded.num_latents) == (consistent_model.variant, 3)
    np.testing.assert_array_equal(_numpy(loaded(_inputs())), _numpy(consistent_model(_inputs())))
    np.testing.assert_array_equal(_numpy(loaded.encoder), small_model.Autoencoder().encoder)
    assert "0.25" not in json.dumps(loaded.get_config())  # the weights are not in the config


def test_models_of_earlier_versions_are_refused(pose_model):
    config = pose_model.get_config()
    del config["variant"]
    with pytest.raises(ValueError, match="saved by an earlier version of this trainer"):
        PoseModel.from_config(config)


@pytest.mark.parametrize(("variant", "num_latents"), [("joints", 3), ("latent", 0), ("hybrid", 0), ("latents", 3)])
def test_refuses_variants_that_do_not_exist(variant, num_latents):
    with pytest.raises(ValueError, match=f"variant '{variant}' with {num_latents} latent points"):
        PoseModel("tiny", 32, small_model.MERGED, variant=variant, num_latents=num_latents)


def test_head_has_a_map_for_every_joint(pose_model):
    assert pose_model.head.conv.filters == small_model.MERGED.num_joints * 9
    assert pose_model.compute_output_shape({"image": (5, 32, 32, 3)}) == (5, 7, 3)
