"""The network: a person crop and its camera in, joints of all skeleton formats in camera space out."""

from typing import Any, NamedTuple

import keras
from keras import ops

from posepile.geometry.skeleton import Skeleton, skeleton_from_dict
from posepile.models.absolute_pose import absolute_pose
from posepile.models.backbones import backbone_info, build_backbone
from posepile.models.heads import HeatmapHead

TEST_MIX = 0.5  # share of the 3D-based result for joints inside the field of view, at test
JOINTS, LATENT, HYBRID = VARIANTS = ("joints", "latent", "hybrid")


class PredictedPoints(NamedTuple):
    """What the head of a model predicts, in camera space, mm; None for the kind of points that it does not predict.

    Attributes:
        joints3d: [batch, num_joints, 3].
        latents3d: [batch, num_latents, 3] latent points of the affine-combining autoencoder.
    """

    joints3d: Any
    latents3d: Any


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
        variant: what the head predicts (WACV 2023; METHOD section 6): "joints": every joint; "latent": the latent points of
            an affine-combining autoencoder, of which the joints are affine combinations; "hybrid": both. The joints
            of a hybrid model are decoded from its latent points, the student, so that the formats agree as in "latent";
            `predict_points` gives the others, too.
        num_latents: latent points, 0 for the variant "joints".

    Attributes:
        encoder: [num_latents, num_joints], decoder: [num_joints, num_latents]: fixed weights of the autoencoder, whose rows sum
            to 1; all zero until they are set, see `posepile.models.consistency.make_finetune_model`.

    The saved `.keras` file holds everything that prediction needs, the skeleton and the decoder included.
    """

    def __init__(self, backbone, crop_side, skeleton, ghost_batch_size=16, seed=0, backbone_weights="none", variant=JOINTS,
                 num_latents=0, **kwargs):
        super().__init__(dtype="float32", **kwargs)  # the backbone follows the global policy
        if variant not in VARIANTS or (variant == JOINTS) != (num_latents == 0):
            raise ValueError(f"got variant {variant!r} with {num_latents} latent points; expected {JOINTS!r} without any, or "
                             f"{LATENT!r} or {HYBRID!r} with the latent points of an autoencoder")
        self.skeleton = skeleton if isinstance(skeleton, Skeleton) else skeleton_from_dict(skeleton)
        if isinstance(ghost_batch_size, list):
            ghost_batch_size = tuple(ghost_batch_size)
        self.backbone_name, self.crop_side, self.seed = backbone, crop_side, seed
        self.ghost_batch_size = ghost_batch_size
        self.variant, self.num_latents = variant, num_latents
        info, num_joints = backbone_info(backbone), self.skeleton.num_joints
        self.stride = info.stride
        self.backbone = build_backbone(backbone, crop_side, group_sizes=ghost_batch_size, weights=backbone_weights,
                                       seed=seed)
        self.head = HeatmapHead(num_latents + (0 if variant == LATENT else num_joints), crop_side, info.stride,
                                info.first_center, name="head", dtype="float32", kernel_seed=seed)
        self.head.build(self.backbone.output_shape)
        if num_latents:
            self.encoder, self.decoder = (
                self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
                for name, shape in (("encoder", (num_latents, num_joints)), ("decoder", (num_joints, num_latents))))
        self.built = True

    def predict_heatmap_joints(self, image, training=False):
        """[batch, n, 2] px of the crop and [batch, n, 3] mm with an arbitrary origin: the head's two outputs.

        The n points are the joints, the latent points, or the joints and then the latent points, see `variant`.
        """
        return self.head(self.backbone(image, training=training))

    def predict_points(self, inputs, training=False, mix=TEST_MIX, use_weak_perspective=False) -> PredictedPoints:
        """All points that the head predicts; arguments as for `absolute_pose`.

        Joints and latent points of a hybrid model are two predictions of their own, each with its own reference point:
        neither then needs the other, and labels of the one do not move the maps of the other.
        """
        points2d, points3d_relative = self.predict_heatmap_joints(inputs["image"], training=training)
        intrinsics = ops.cast(inputs["intrinsics"], "float32")

        def place(points):
            return absolute_pose(points2d[:, points], points3d_relative[:, points], intrinsics, crop_side=self.crop_side,
                                 stride=self.stride, mix=mix, use_weak_perspective=use_weak_perspective)

        if self.variant == JOINTS:
            return PredictedPoints(place(slice(None)), None)
        if self.variant == LATENT:
            return PredictedPoints(None, place(slice(None)))
        num_joints = self.skeleton.num_joints
        return PredictedPoints(place(slice(num_joints)), place(slice(num_joints, None)))

    def to_joints(self, points: PredictedPoints):
        """[batch, num_joints, 3] mm: the joints that the model stands for, decoded from latent points if there are any."""
        return points.joints3d if points.latents3d is None else combine_affinely(self.decoder, points.latents3d)

    def call(self, inputs, training=False, mix=TEST_MIX, use_weak_perspective=False):
        return self.to_joints(self.predict_points(inputs, training, mix, use_weak_perspective))

    def compute_output_shape(self, input_shape):
        return (input_shape["image"][0], self.skeleton.num_joints, 3)

    def get_config(self):
        return {"name": self.name, "backbone": self.backbone_name, "crop_side": self.crop_side,
                "skeleton": self.skeleton.to_dict(), "ghost_batch_size": self.ghost_batch_size, "seed": self.seed,
                "variant": self.variant, "num_latents": self.num_latents}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Raises: ValueError for the config of a model whose weights mean something else in today's network."""
        if "variant" not in config:
            raise ValueError("the model was saved by an earlier version of this trainer, in which the cells of the heatmaps "
                             "stood for other pixels; train it again, or use that version")
        return super().from_config(config, custom_objects)


def combine_affinely(weights, points3d):
    """Affine combinations of points: [m, n] weights, whose rows sum to 1, of [batch, n, 3] mm -> [batch, m, 3] mm.

    Taken about the mean of the points: an accelerator may round the factors of a matrix product to 10 bits, which is
    millimetres for positions metres away from the camera, and tenths of them within a person.
    """
    center = ops.mean(points3d, axis=1, keepdims=True)
    return ops.einsum("mn,bnc->bmc", weights, points3d - center) + center
