"""The network: a person crop and its camera in, joints of all skeleton formats in camera space out."""

import keras
from keras import ops

from posepile.geometry.skeleton import Skeleton, skeleton_from_dict
from posepile.models.absolute_pose import absolute_pose
from posepile.models.backbones import backbone_info, build_backbone
from posepile.models.heads import HeatmapHead

TEST_MIX = 0.5  # share of the 3D-based result for joints inside the field of view, at test


@keras.saving.register_keras_serializable(package="posepile")
class PoseModel(keras.Model):
    """Predicts joints3d [batch, num_joints, 3], camera frame, mm, float32, from a dict of

        image:      [batch, crop_side, crop_side, 3] RGB, 0..255, uint8 or float.
        intrinsics: [batch, 3, 3] float32 of the crop camera, px.

    Args:
        backbone: name, see `posepile.models.backbones`.
        crop_side: px.
        skeleton: the merged skeleton of the outputs, or its `to_dict`.
        ghost_batch_size: group sizes of Ghost BatchNorm: a number, a list of part sizes, or None for plain BatchNorm.
        seed: of the weights' initialisation and of stochastic depth.
        backbone_weights: "imagenet", "none" or a file; only read when the model is made, not when it is loaded.

    The saved `.keras` file holds everything that prediction needs, the skeleton included.
    """

    def __init__(self, backbone, crop_side, skeleton, ghost_batch_size=16, seed=0, backbone_weights="none", **kwargs):
        super().__init__(dtype="float32", **kwargs)  # backbone and head follow the global policy
        self.skeleton = skeleton if isinstance(skeleton, Skeleton) else skeleton_from_dict(skeleton)
        if isinstance(ghost_batch_size, list):
            ghost_batch_size = tuple(ghost_batch_size)
        self.backbone_name, self.crop_side, self.seed = backbone, crop_side, seed
        self.ghost_batch_size = ghost_batch_size
        self.stride = backbone_info(backbone).stride
        self.backbone = build_backbone(backbone, crop_side, group_sizes=ghost_batch_size, weights=backbone_weights,
                                       seed=seed)
        self.head = HeatmapHead(self.skeleton.num_joints, crop_side, self.stride, name="head",
                                kernel_seed=seed)
        self.head.build(self.backbone.output_shape)
        self.built = True

    def predict_heatmap_joints(self, image, training=False):
        """[batch, n, 2] px of the crop and [batch, n, 3] mm with an arbitrary origin: the head's two outputs."""
        return self.head(self.backbone(image, training=training))

    def call(self, inputs, training=False, mix=TEST_MIX, use_weak_perspective=False):
        joints2d, joints3d_relative = self.predict_heatmap_joints(inputs["image"], training=training)
        return absolute_pose(joints2d, joints3d_relative, ops.cast(inputs["intrinsics"], "float32"),
                             crop_side=self.crop_side, stride=self.stride, mix=mix,
                             use_weak_perspective=use_weak_perspective)

    def compute_output_shape(self, input_shape):
        return (input_shape["image"][0], self.skeleton.num_joints, 3)

    def get_config(self):
        return {"name": self.name, "backbone": self.backbone_name, "crop_side": self.crop_side,
                "skeleton": self.skeleton.to_dict(), "ghost_batch_size": self.ghost_batch_size, "seed": self.seed}
