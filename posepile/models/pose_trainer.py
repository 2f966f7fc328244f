"""A pose model with everything a training step needs: losses, their onset, the mix of 2D and 3D results. Any Keras backend."""

import dataclasses

import keras
import numpy as np
from keras import ops

from posepile.models import losses
from posepile.models.normalization import GhostBatchNormalization

LOSS_NAMES = ("loss_mean_relative", "loss_projection", "loss_absolute", "loss_2d", "loss_consistency")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What the loss is made of in one phase.

    Attributes:
        num_3d: examples with 3D labels, the first ones of each batch; the rest has 2D labels.
        averaging_matrix: [num_joints_2d, num_joints] float32, see `posepile.geometry.skeleton.averaging_matrix`.
        absolute_loss_start: step from which the absolute loss counts.
        weak_perspective_steps: first steps in which the reference point comes from weak perspective.
        projection_matrix: [num_joints, num_joints] W_dec W_enc of the autoencoder; None: no consistency loss.
        consistency_factor: of the consistency loss.
    """

    num_3d: int
    averaging_matrix: np.ndarray
    absolute_loss_start: int = 5000
    weak_perspective_steps: int = 500
    projection_matrix: np.ndarray | None = None
    consistency_factor: float = 1.0


class PoseTrainer(keras.Model):
    """Trains a `PoseModel` on batches of the form that `posepile.data.batches` makes.

    `set_use_stored_statistics` switches every BatchNorm of the model to its stored statistics (scale and offset still learn);
    afterwards the train function has to be made anew.
    """

    def __init__(self, pose_model, settings: LossSettings, seed=0):
        super().__init__(name="pose_trainer", dtype="float32")
        self.pose_model = pose_model
        self.settings = settings
        self.mix_seed = keras.random.SeedGenerator(seed, name="mix_seed")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in LOSS_NAMES}
        self.step_count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step_count")
        self.built = True

    def set_use_stored_statistics(self, value: bool) -> None:
        for layer in self.pose_model._flatten_layers():
            if isinstance(layer, GhostBatchNormalization):
                layer.use_stored_statistics = value

    def call(self, batch, training=False):
        if not training:
            return self.pose_model(batch, training=False)
        batch_size = batch["image"].shape[0]
        return self.pose_model(batch, training=True,
                               mix=keras.random.uniform((batch_size, 1, 1), dtype="float32", seed=self.mix_seed),
                               use_weak_perspective=self.step_count < self.settings.weak_perspective_steps)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss of a batch `x` whose predictions [batch, num_joints, 3] are `y_pred`."""
        settings, model = self.settings, self.pose_model
        x = {name: ops.convert_to_tensor(values) for name, values in x.items()}  # with torch they arrive as numpy arrays
        geometry = {"crop_side": model.crop_side, "stride": model.stride}
        y_pred = ops.cast(y_pred, "float32")
        num_3d = settings.num_3d
        predicted, intrinsics = y_pred[:num_3d], x["intrinsics"][:num_3d]
        true, mask = x["joints3d"], x["joints3d_mask"]
        terms = {
            "loss_mean_relative": losses.mean_relative_loss(predicted, true, mask),
            "loss_projection": losses.projection_loss_3d(predicted, true, mask, intrinsics, **geometry),
            "loss_absolute": losses.absolute_loss(predicted, true, mask),
        }
        absolute_factor = ops.where(self.step_count >= settings.absolute_loss_start, losses.ABSOLUTE_LOSS_FACTOR, 0.0)
        total = (terms["loss_mean_relative"] + terms["loss_projection"]
                 + ops.cast(absolute_factor, "float32") * terms["loss_absolute"])
        weak_part = 0.0
        has_2d = y_pred.shape[0] > num_3d
        if has_2d:
            averaged = ops.einsum("kj,bjc->bkc", settings.averaging_matrix, y_pred[num_3d:])
            terms["loss_2d"] = losses.projection_loss_2d(averaged, x["joints2d"], x["joints2d_mask"],
                                                         x["intrinsics"][num_3d:], **geometry)
            weak_part = weak_part + terms["loss_2d"]
        if settings.projection_matrix is not None:
            consistency = losses.consistency_loss(predicted, settings.projection_matrix)
            terms["loss_consistency"] = consistency
            total = total + settings.consistency_factor * consistency
            if has_2d:
                weak_part = weak_part + settings.consistency_factor * losses.consistency_loss(
                    y_pred[num_3d:], settings.projection_matrix)
        if training:
            self.step_count.assign_add(1)
        for name, value in terms.items():
            self.trackers[name].update_state(value)
        # The losses leave out joints predicted out of sight, nan among them, whose gradient would yet spoil the weights unseen.
        return ops.where(ops.all(ops.isfinite(y_pred)), total + losses.WEAK_SUPERVISION_FACTOR * weak_part, np.nan)
