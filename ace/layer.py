"""Affine combinations as a Keras layer, for models that contain or train the autoencoder."""

import keras
import numpy as np
from keras import ops

from ace.affine_weights import MIN_ROW_SUM
from ace.autoencoder import AffineAutoencoder


def make_layers(autoencoder: AffineAutoencoder, trainable: bool = False) -> tuple["AffineCombination", "AffineCombination"]:
    """Encoder and decoder as layers: [batch, num_joints, d] -> [batch, num_latents, d] and back."""
    mirrors = autoencoder.latent_mirror, autoencoder.skeleton.mirror
    return (AffineCombination(*mirrors, weights=autoencoder.encoder, trainable=trainable, name="encoder"),
            AffineCombination(*mirrors[::-1], weights=autoencoder.decoder, trainable=trainable, name="decoder"))


@keras.saving.register_keras_serializable("ace")
class AffineCombination(keras.layers.Layer):
    """Affine combinations of points: [batch, num_inputs, d] -> [batch, num_outputs, d].

    The rows of its weights sum to 1, and mirror images share them, as in `ace.affine_weights.tie_and_normalize`.

    Args:
        row_mirror: [num_outputs] index of each output point's mirror image.
        column_mirror: [num_inputs] the same for the input points.
        weights: [num_outputs, num_inputs] to start from; default: random and positive, so that no sum is near 0.

    Raises: ValueError if an input or `weights` does not fit the mirrors, or if a mirror is not its own inverse.
    """

    def __init__(self, row_mirror, column_mirror, weights=None, seed: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.row_mirror, self.column_mirror = ([int(i) for i in m] for m in (row_mirror, column_mirror))
        for name, mirror in (("row_mirror", self.row_mirror), ("column_mirror", self.column_mirror)):
            if not all(0 <= j < len(mirror) and mirror[j] == i for i, j in enumerate(mirror)):
                raise ValueError(f"{name} must send every point's mirror image back to the point, got {mirror}")
        shape = (len(self.row_mirror), len(self.column_mirror))
        if weights is not None and np.shape(weights) != shape:
            raise ValueError(f"weights have shape {list(np.shape(weights))}; expected {list(shape)}, as the mirrors")
        self.seed = seed
        initializer = (keras.initializers.RandomUniform(0.0, 2 / shape[1], seed=seed) if weights is None
                       else lambda shape, dtype=None: ops.convert_to_tensor(weights, dtype))
        self.kernel = self.add_weight(shape=shape, initializer=initializer, name="kernel")

    @property
    def affine_weights(self):
        """[num_outputs, num_inputs] the weights in use."""
        mirrored = ops.take(ops.take(self.kernel, self.row_mirror, axis=0), self.column_mirror, axis=1)
        tied = (self.kernel + mirrored) / 2
        sums = ops.sum(tied, axis=1, keepdims=True)
        lifted = tied + ops.maximum(MIN_ROW_SUM - sums, 0) / tied.shape[1]
        return lifted / ops.maximum(sums, MIN_ROW_SUM)

    def call(self, points):
        return ops.matmul(ops.cast(self.affine_weights, points.dtype), points)

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[1] != len(self.column_mirror):
            raise ValueError(f"{self.name}: input shape {tuple(input_shape)}; expected "
                             f"[batch, {len(self.column_mirror)}, 2 or 3]")

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.row_mirror), input_shape[2])

    def get_config(self):
        return {**super().get_config(), "row_mirror": self.row_mirror, "column_mirror": self.column_mirror,
                "seed": self.seed}
