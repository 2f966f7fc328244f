"""The MeTRAbs prediction head: 2D heatmaps and volumetric heatmaps per joint, read out by soft-argmax."""

import dataclasses

import keras
import numpy as np
from keras import ops

BOX_SIZE_MM = 2200.0  # side and depth of the metric volume around a person (MeTRAbs)
VOLUME_DEPTH = 8  # heatmap cells along the depth axis


@dataclasses.dataclass(frozen=True)
class HeatmapGeometry:
    """How heatmap coordinates map to pixels and millimetres.

    Attributes:
        crop_side: side of the input crop, px.
        stride: of the backbone, px per feature cell.
        first_center: px, where the centre of feature cell 0 looks; see BackboneInfo.
    """

    crop_side: int
    stride: int
    first_center: float

    @property
    def extent(self) -> int:
        """Pixels between the centres of the first and the last cell: L of METHOD section 3."""
        return (self.crop_side - 1) - (self.crop_side - 1) % self.stride

    def to_pixels(self, coordinates):
        """0..1 across the heatmap -> px of the crop, whose pixel i has its centre at coordinate i."""
        return coordinates * self.extent + self.first_center

    def to_mm(self, coordinates):
        """[..., 3] x, y, z in 0..1 across the volume -> mm, up to a constant (the pose is relative)."""
        scale = np.array([self.extent / self.crop_side * BOX_SIZE_MM] * 2 + [BOX_SIZE_MM], "float32")
        return ops.multiply(coordinates, scale)


@keras.saving.register_keras_serializable(package="posepile")
class HeatmapHead(keras.layers.Layer):
    """[batch, h, w, channels] features -> 2D and relative 3D joints, by one 1x1 convolution to points * (1 + depth) maps.

    Output: a pair of float32, whatever the compute type: [batch, num_points, 2] px of the crop, and [batch, num_points, 3]
    mm with an arbitrary origin. Source: MeTRAbs (T-BIOM 2021), section III.
    """

    def __init__(self, num_points, crop_side, stride, first_center, depth=VOLUME_DEPTH, kernel_seed=0, **kwargs):
        super().__init__(**kwargs)
        self.num_points, self.crop_side, self.stride, self.depth = num_points, crop_side, stride, depth
        self.first_center, self.kernel_seed = first_center, kernel_seed
        self.geometry = HeatmapGeometry(crop_side, stride, first_center)
        self.conv = keras.layers.Conv2D(num_points * (1 + depth), 1, dtype=self.dtype_policy, name="conv",
                                        kernel_initializer=keras.initializers.GlorotUniform(seed=kernel_seed))

    def build(self, input_shape):
        self.conv.build(input_shape)

    def call(self, features):
        logits = ops.cast(self.conv(features), "float32")
        height, width = logits.shape[1:3]
        flat = ops.reshape(logits, (-1, height * width, logits.shape[-1]))
        heatmap = ops.softmax(flat[:, :, :self.num_points], axis=1)
        heatmap = ops.reshape(heatmap, (-1, height, width, self.num_points))
        volume = ops.reshape(flat[:, :, self.num_points:], (-1, height * width * self.depth, self.num_points))
        volume = ops.softmax(volume, axis=1)
        volume = ops.reshape(volume, (-1, height, width, self.depth, self.num_points))
        in_plane = ops.sum(volume, axis=3)
        depth_marginal = ops.sum(volume, axis=(1, 2))
        joints2d = _expected_position(heatmap)
        z = ops.einsum("bdj,d->bj", depth_marginal, _grid(self.depth))
        joints3d = ops.concatenate([_expected_position(in_plane), z[..., None]], axis=-1)
        return self.geometry.to_pixels(joints2d), self.geometry.to_mm(joints3d)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_points, 2), (input_shape[0], self.num_points, 3)

    def get_config(self):
        return {**super().get_config(), "num_points": self.num_points, "crop_side": self.crop_side,
                "stride": self.stride, "first_center": self.first_center, "depth": self.depth,
                "kernel_seed": self.kernel_seed}


def _grid(size):
    """[size] cell positions across 0..1; a single cell lies in the middle."""
    return np.linspace(0, 1, size, dtype="float32") if size > 1 else np.float32([0.5])


def _expected_position(probability):
    """[batch, h, w, points] -> [batch, points, 2]: the mean x and y in 0..1."""
    x = ops.einsum("bwj,w->bj", ops.sum(probability, axis=1), _grid(probability.shape[2]))
    y = ops.einsum("bhj,h->bj", ops.sum(probability, axis=2), _grid(probability.shape[1]))
    return ops.stack([x, y], axis=-1)
