import dataclasses

import keras
import numpy as np
import pytest

from posepile.models.consistency import by_point, check_same_joints, fold_head, make_finetune_model
from posepile.models.heads import HeatmapHead
from posepile.models.normalization import ghost_layers
from tests.posepile import small_model

AUTOENCODER = small_model.Autoencoder()
INPUTS = {"image": np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8),
          "intrinsics": np.repeat(np.float32([[[200, 0, 15.5], [0, 200, 15.5], [0, 0, 1]]]), 5, axis=0)}


@pytest.fixture(scope="module")
def initial():
    """Every weight and statistic differs from that of a new model."""
    model, rng = small_model.make_model(seed=3), np.random.default_rng(1)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def _make(model, consistency, ghost_batch_size=None):
    return make_finetune_model(model, consistency, AUTOENCODER, ghost_batch_size=ghost_batch_size, seed=8)


def _numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


@pytest.mark.parametrize("consistency", ["none", "regularize", "latent", "hybrid"])
def test_backbone_is_carried_over_with_its_statistics_but_not_its_groups(initial, consistency):
    weights = initial.get_weights()
    model = _make(initial, consistency, ghost_batch_size=(2, 3))
    assert (model.ghost_batch_size, model.seed, model.skeleton) == ((2, 3), 8, initial.skeleton)
    assert [layer.group_sizes for layer in ghost_layers(model)] == [(2, 3)] * 7
    for new, old in zip(model.backbone.get_weights(), initial.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    for now, before in zip(initial.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("consistency", ["none", "regularize"])
def test_ways_that_keep_the_head_predict_the_same(initial, consistency):
    model = _make(initial, consistency)
    assert model.variant == "joints"
    np.testing.assert_array_equal(_numpy(model(INPUTS)), _numpy(initial(INPUTS)))


def test_hybrid_keeps_the_joints_and_adds_the_points_of_the_latent_model(initial):
    hybrid, latent = _make(initial, "hybrid"), _make(initial, "latent")
    points = hybrid.predict_points(INPUTS)
    np.testing.assert_allclose(_numpy(points.joints3d), _numpy(initial(INPUTS)), rtol=1e-5, atol=0.02)
    np.testing.assert_allclose(_numpy(points.latents3d), _numpy(latent.predict_points(INPUTS).latents3d), rtol=1e-5, atol=0.02)
    for model in (hybrid, latent):
        np.testing.assert_array_equal(_numpy(model.encoder), AUTOENCODER.encoder)
        np.testing.assert_array_equal(_numpy(model.decoder), AUTOENCODER.decoder)


def test_folded_logits_are_the_combination_of_the_joints(initial):
    folded, original = _make(initial, "latent").head.get_weights(), initial.head.get_weights()
    for new, old in zip(folded, original, strict=True):
        for latent in range(3):
            expected = sum(w * by_point(old, 7)[..., joint] for joint, w in enumerate(AUTOENCODER.encoder[latent]))
            np.testing.assert_allclose(by_point(new, 3)[..., latent], expected, rtol=1e-4, atol=1e-6)


def test_folding_is_exact_for_gaussian_heatmaps_of_equal_width():
    # features are x, y and x^2 + y^2 of each cell, from which a 1x1 convolution makes Gaussians around planted positions
    side, num_points, inverse_variance, rng = 32, 4, 1.0, np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype("float32")
    features = np.stack([x, y, x * x + y * y], axis=-1)[None]
    positions2d, positions3d = rng.uniform(10, 21, (num_points, 2)), rng.uniform(10, 21, (num_points, 3))
    z = np.arange(side)
    kernel, bias = np.zeros((3, 1 + side, num_points)), np.zeros((1 + side, num_points))
    kernel[:2, 0], kernel[:2, 1:] = positions2d.T, positions3d.T[:2, None]
    kernel[2] = -0.5
    bias[1:] = -0.5 * (z[:, None] - positions3d[:, 2]) ** 2
    encoder = np.array([[0.5, 0.5, 0, 0], [0.6, 0.3, 0.3, -0.2], [0, 0, 1, 0]])

    def read_out(weights, num_points):
        head = HeatmapHead(num_points, crop_side=side, stride=1, first_center=0, depth=side)
        head.build((None, side, side, 3))
        head.set_weights(weights)
        return [_numpy(points)[0] for points in head(features)]

    weights = [inverse_variance * kernel.reshape(1, 1, 3, -1), inverse_variance * bias.ravel()]
    joints2d, joints3d = read_out(weights, num_points)
    np.testing.assert_allclose(joints2d, positions2d, atol=1e-3)
    latents2d, latents3d = read_out(fold_head(weights, encoder), 3)
    np.testing.assert_allclose(latents2d, encoder @ joints2d, atol=2e-3)  # px, of which the first is 10 px from others
    np.testing.assert_allclose(latents3d, encoder @ joints3d, atol=0.2)  # mm


def test_mirrored_maps_are_folded_to_mirrored_latent_points(initial):
    kernel, bias = initial.head.get_weights()
    mirror, latent_mirror = list(small_model.MERGED.mirror), [1, 0, 2]
    mirrored = [by_point(w, 7)[..., mirror].reshape(w.shape) for w in (kernel, bias)]
    for folded, folded_mirrored in zip(fold_head([kernel, bias], AUTOENCODER.encoder), fold_head(mirrored, AUTOENCODER.encoder),
                                       strict=True):
        np.testing.assert_allclose(by_point(folded_mirrored, 3), by_point(folded, 3)[..., latent_mirror], atol=1e-6)
        assert np.abs(by_point(folded, 3) - by_point(folded, 3)[..., latent_mirror]).max() > 0.01


@pytest.mark.parametrize("consistency", ["latent", "hybrid"])
def test_models_of_latent_points_go_on_as_they_are(initial, consistency):
    model = _make(initial, consistency)
    model.decoder.assign(np.roll(AUTOENCODER.decoder, 1, axis=0))
    again = make_finetune_model(model, "none", ghost_batch_size=4, seed=1)
    assert (again.variant, again.ghost_batch_size) == (consistency, 4)
    np.testing.assert_array_equal(_numpy(again(INPUTS)), _numpy(model(INPUTS)))
    for other in ("regularize", "latent", "hybrid"):
        with pytest.raises(ValueError, match=f"starts from a model that predicts every joint.*variant '{consistency}'"):
            _make(model, other)


def test_weights_of_another_joint_list_are_refused(initial):
    names = list(small_model.MERGED.joint_names)
    other = dataclasses.replace(AUTOENCODER, joint_names=("head_top", *names[:2], *names[3:]))
    with pytest.raises(ValueError, match=r"7 joints, not the 7 of the autoencoder; only the model has: right_wrist_arms; only "
                                         r"the autoencoder has: head_top\."):
        make_finetune_model(initial, "latent", other, ghost_batch_size=4, seed=0)
    with pytest.raises(ValueError, match=r"7 joints, not the 6 of the training data; only the model has: neck_legs\."):
        check_same_joints(names, names[:-1], "the training data")
    with pytest.raises(ValueError, match="in another order: joint 5 is right_ankle_legs and neck_legs"):
        check_same_joints(names, [*names[:5], names[6], names[5]], "the training data")
    with pytest.raises(ValueError, match="only the training data has: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 490 more"):
        check_same_joints(names, [*names, *map(str, range(500))], "the training data")
    check_same_joints(names, tuple(names), "the training data")


def test_says_what_is_wrong(initial):
    with pytest.raises(ValueError, match="'teacher'; valid ones: regularize, latent, hybrid, none"):
        _make(initial, "teacher")
    with pytest.raises(ValueError, match="'latent' needs an autoencoder"):
        make_finetune_model(initial, "latent", ghost_batch_size=4, seed=0)
