import keras
import numpy as np
import pytest

from ace.affine_weights import latent_mirror, tie_and_normalize
from ace.layer import AffineCombination, make_layers
from benchmarks.kinematic_poses import mirrored

ROWS, COLUMNS = latent_mirror(2, 1), np.array([1, 0, 3, 2, 4, 5])


def test_layers_with_an_autoencoders_weights_equal_its_matrices(autoencoder, poses):
    joints = np.array(autoencoder.skeleton.mirror)
    encoder = AffineCombination(autoencoder.latent_mirror, joints, autoencoder.encoder)
    decoder = AffineCombination(joints, autoencoder.latent_mirror, autoencoder.decoder)
    points = np.float32(poses[:8])
    latents = keras.ops.convert_to_numpy(encoder(points))
    np.testing.assert_allclose(latents, autoencoder.encode(points), atol=5e-3)  # of up to 6000 mm, float32
    np.testing.assert_allclose(decoder(latents), autoencoder.decode(latents), atol=5e-3)


def test_random_layer_is_affine_mirrored_and_equals_the_numpy_weights():
    layer = AffineCombination(ROWS, COLUMNS, seed=3)
    weights = keras.ops.convert_to_numpy(layer.affine_weights)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)
    np.testing.assert_allclose(weights, tie_and_normalize(kernel, ROWS, COLUMNS), rtol=1e-5)
    points = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(mirrored(points, COLUMNS)), mirrored(np.array(layer(points)), ROWS), atol=1e-5)


def test_cancelling_weights_are_lifted_as_in_numpy():
    free = np.array([[1.0, -1.0]])
    layer = AffineCombination([0], [0, 1], free)
    np.testing.assert_allclose(layer.affine_weights, tie_and_normalize(free, np.array([0]), np.array([0, 1])))


def test_layer_comes_back_from_its_config():
    layer = AffineCombination(ROWS, COLUMNS, seed=5, name="encoder")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    again.set_weights(layer.get_weights())
    points = np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(points), layer(points))
    assert again.compute_output_shape((4, 6, 3)) == (4, 5, 3)


def test_training_reduces_the_error_and_keeps_the_rows_affine():
    points = np.random.default_rng(2).normal(size=(64, 6, 3)).astype(np.float32)
    model = keras.Sequential([AffineCombination(ROWS, COLUMNS), AffineCombination(COLUMNS, ROWS)])
    model.compile(keras.optimizers.Adam(1e-2), "mae")
    losses = model.fit(points, points, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for layer in model.layers:
        np.testing.assert_allclose(np.array(layer.affine_weights).sum(axis=1), 1, atol=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"weights have shape \[2, 2\]; expected \[5, 6\]"):
        AffineCombination(ROWS, COLUMNS, np.eye(2))
    with pytest.raises(ValueError, match=r"column_mirror must send every point's mirror image back"):
        AffineCombination(ROWS, [1, 2, 0])
    with pytest.raises(ValueError, match=r"input shape \(2, 7, 3\); expected \[batch, 6, 2 or 3\]"):
        AffineCombination(ROWS, COLUMNS)(np.zeros((2, 7, 3), np.float32))


def test_layers_of_an_autoencoder_do_what_its_matrices_do(autoencoder, poses):
    encoder, decoder = make_layers(autoencoder)
    assert not encoder.trainable_weights and not decoder.trainable_weights
    points = np.float32(poses[:3])
    latents = np.asarray(encoder(points))
    np.testing.assert_allclose(latents, autoencoder.encode(points), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(np.asarray(decoder(latents)), autoencoder.reconstruct(points), rtol=1e-5, atol=1e-2)
