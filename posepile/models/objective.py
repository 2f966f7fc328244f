"""What training minimises: the losses of one batch, their onset, the mix of 2D and 3D results. Any Keras backend."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from posepile.models import losses
from posepile.models.normalization import ghost_layers
from posepile.models.pose_model import HYBRID, PoseModel, PredictedPoints, combine_affinely

# "loss" is the total. The next four compare the model's joints with labels; so do, in one figure each, "loss_joints" the
# directly predicted joints of a hybrid model, and "loss_reconstructed" what the autoencoder makes of these.
LOSS_NAMES = ("loss", "loss_mean_relative", "loss_projection", "loss_absolute", "loss_2d", "loss_joints", "loss_reconstructed",
              "loss_consistency", "loss_teacher")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What the loss is made of in one phase.

    Attributes:
        averaging_matrix: [num_joints_2d, num_joints] float32, see `posepile.geometry.skeleton.averaging_matrix`.
        absolute_loss_start: step from which the absolute loss counts.
        weak_perspective_steps: first steps in which the reference point comes from weak perspective.
        projection_matrix: [num_joints, num_joints] W_dec W_enc of the autoencoder; None: no consistency loss. A hybrid model
            has one of its own.
        consistency_factor: of the consistency loss.
        teacher_loss_start: step from which the teacher loss of a hybrid model counts.
        num_datasets: data sets whose errors are told apart.
    """

    averaging_matrix: np.ndarray
    absolute_loss_start: int = 5000
    weak_perspective_steps: int = 500
    projection_matrix: np.ndarray | None = None
    consistency_factor: float = 1.0
    teacher_loss_start: int = 5000
    num_datasets: int = 0


class PoseObjective(keras.layers.Layer):
    """The loss of a pose model on a batch, float32, whatever the precision of the model.

    A batch is what `posepile.data.batches` makes, and with it

        step     [] int32, 0-based, of the phase.
        mix      [batch] float32 in 0..1: share of the 3D-based result for joints inside the field of view.
        dataset  [batch] int32: from which of the num_datasets data sets a row comes.

    `call` returns the loss to be minimised. Losses and errors by data set are added up in `sums`, see `read_sums`.

    Args:
        pose_model: the model that is trained.
        settings: of the losses.
        num_blocks: the batch is made of so many equal blocks, each of rows with 3D labels and then rows with 2D labels.
        sum_over_devices: adds up a tensor over the devices that train together, each with a batch of its own; the returned
            losses are then shares that add up to the loss of the batch of all.

    Attributes:
        sums: [2, n] float32 variable, what has been added up since it was last set to zero: of the losses in LOSS_NAMES and the
            errors by data set the sums, and of how many values each is the sum.

    Raises: ValueError for a projection matrix with a model that predicts latent points.
    """

    def __init__(self, pose_model: PoseModel, settings: LossSettings, num_blocks: int = 1,
                 sum_over_devices: Callable = losses.alone):
        super().__init__(name="objective", dtype="float32")
        if settings.projection_matrix is not None and pose_model.num_latents:
            raise ValueError(f"a projection matrix is for models that predict joints; this is of the variant "
                             f"{pose_model.variant!r}")
        self.pose_model, self.settings, self.num_blocks = pose_model, settings, num_blocks
        self.sum_over_devices = sum_over_devices
        self.sums = self.add_weight(shape=(2, len(LOSS_NAMES) + settings.num_datasets), initializer="zeros", trainable=False,
                                    name="sums", aggregation="only_first_replica")
        self.built = True

    def set_use_stored_statistics(self, value: bool) -> None:
        """Switches every BatchNorm to its stored statistics, or back; compiled steps have to be made anew afterwards."""
        for layer in ghost_layers(self.pose_model):
            layer.use_stored_statistics = value

    def call(self, batch, training=True):
        return self.loss(batch, self.predict(batch, training))

    def predict(self, batch, training=True) -> PredictedPoints:
        """All points that the model predicts, as they enter the loss."""
        return self.pose_model.predict_points(batch, training=training, mix=ops.reshape(batch["mix"], (-1, 1, 1)),
                                              use_weak_perspective=batch["step"] < self.settings.weak_perspective_steps)

    def loss(self, batch, points: PredictedPoints):
        """The loss of the predictions; adds to `sums`."""
        settings, model = self.settings, self.pose_model
        batch = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
        step, num_3d = batch["step"], batch["joints3d"].shape[0]
        joints3d = model.to_joints(points)
        terms, example_errors = self._supervised_terms(batch, joints3d)
        total = _weighted(terms, step, settings)
        if model.variant == HYBRID:
            latents3d = combine_affinely(model.encoder, points.joints3d)
            reconstructed = combine_affinely(model.decoder, latents3d)
            for name, joints in (("loss_joints", points.joints3d), ("loss_reconstructed", reconstructed)):
                terms[name] = _weighted(self._supervised_terms(batch, joints)[0], step, settings)
                total = total + terms[name]
            terms["loss_consistency"], consistency = self._distances(points.joints3d, reconstructed, num_3d)
            terms["loss_teacher"], teacher = self._distances(points.latents3d, ops.stop_gradient(latents3d), num_3d)
            total = total + settings.consistency_factor * consistency + _from(step, settings.teacher_loss_start) * teacher
        elif settings.projection_matrix is not None:
            reconstructed = combine_affinely(settings.projection_matrix, joints3d)
            terms["loss_consistency"], consistency = self._distances(joints3d, reconstructed, num_3d)
            total = total + settings.consistency_factor * consistency
        # The losses leave out joints predicted out of sight, nan among them, whose gradient would yet spoil the weights unseen.
        for predicted in points:
            if predicted is not None:
                total = ops.where(ops.all(ops.isfinite(predicted)), total, np.nan)
        self._add_to_sums({"loss": total, **terms}, batch["dataset"], example_errors)
        return total

    def _supervised_terms(self, batch, joints3d):
        """The losses against labels, and each example's error against its own: ([batch], [batch] whether it has one)."""
        geometry = {"crop_side": self.pose_model.crop_side, "stride": self.pose_model.stride}
        true, mask = batch["joints3d"], batch["joints3d_mask"]
        predicted, predicted_2d = self.split(joints3d, true.shape[0])
        intrinsics, intrinsics_2d = self.split(batch["intrinsics"], true.shape[0])
        relative = losses.mean_relative_errors(predicted, true, mask)
        errors = {"loss_mean_relative": relative, "loss_absolute": losses.absolute_errors(predicted, true, mask),
                  "loss_projection": losses.projection_errors_3d(predicted, true, mask, intrinsics, **geometry)}
        example_errors = [losses.example_means(*relative)]
        if predicted_2d is not None:
            averaging_matrix = self.settings.averaging_matrix
            is_predicted = averaging_matrix.any(axis=1)  # labels of a joint that no format has give no supervision
            errors["loss_2d"] = losses.projection_errors_2d(
                combine_affinely(averaging_matrix, predicted_2d), batch["joints2d"],
                ops.logical_and(batch["joints2d_mask"], is_predicted), intrinsics_2d, **geometry)
            example_errors.append(losses.example_means(*errors["loss_2d"]))
        terms = {name: losses.masked_mean(*values, self.sum_over_devices) for name, values in errors.items()}
        return terms, [self.join(parts) for parts in zip(*example_errors, strict=True)]

    def _distances(self, points, others, num_3d: int):
        """Mean |difference| of points [batch, n, 3] mm, in m: on the rows with 3D labels, and as it counts on all rows."""
        on_3d, on_2d = (0.0 if a is None else losses.mean_distance(a, b, self.sum_over_devices)
                        for a, b in zip(self.split(points, num_3d), self.split(others, num_3d), strict=True))
        factor_2d = losses.WEAK_SUPERVISION_FACTOR * (losses.HYBRID_2D_FACTOR if self.pose_model.variant == HYBRID else 1.0)
        return on_3d, on_3d + factor_2d * on_2d

    def split(self, values, num_3d: int):
        """[batch, ...] -> those of the rows with 3D labels, [num_3d, ...], and the rest, None if there is none."""
        if self.num_blocks == 1:
            return values[:num_3d], values[num_3d:] if values.shape[0] > num_3d else None
        blocks = ops.reshape(values, (self.num_blocks, -1, *values.shape[1:]))
        in_block = num_3d // self.num_blocks
        parts = (ops.reshape(part, (-1, *values.shape[1:])) for part in (blocks[:, :in_block], blocks[:, in_block:]))
        return [part if part.shape[0] else None for part in parts]

    def join(self, parts):
        """The inverse of `split`, for one or both parts."""
        if len(parts) == 1 or self.num_blocks == 1:
            return ops.concatenate(parts)
        blocks = [ops.reshape(part, (self.num_blocks, -1, *part.shape[1:])) for part in parts]
        return ops.reshape(ops.concatenate(blocks, axis=1), (-1, *parts[0].shape[1:]))

    def _add_to_sums(self, terms, dataset, example_errors):
        """Adds the terms, and the errors of each data set with the number of examples that have one; not if not finite."""
        error, has_error = example_errors
        is_from = ops.cast(ops.equal(dataset[:, None], ops.arange(self.settings.num_datasets)), "float32")
        values = ops.concatenate([
            ops.stack([ops.cast(terms.get(name, 0.0), "float32") for name in LOSS_NAMES]),
            ops.sum(is_from * (error * has_error)[:, None], axis=0), ops.sum(is_from * has_error[:, None], axis=0)])
        values = self.sum_over_devices(ops.stop_gradient(values))
        num_sums = self.sums.shape[1]
        is_there = np.float32([name in terms for name in LOSS_NAMES])
        sums = ops.stack([values[:num_sums], ops.concatenate([is_there, values[num_sums:]])])
        self.sums.assign_add(ops.where(ops.all(ops.isfinite(sums)), sums, 0.0))


def _weighted(terms, step, settings: LossSettings):
    """The sum of the losses against labels, each with its factor."""
    absolute_factor = losses.ABSOLUTE_LOSS_FACTOR * _from(step, settings.absolute_loss_start)
    return (terms["loss_mean_relative"] + terms["loss_projection"] + absolute_factor * terms["loss_absolute"]
            + losses.WEAK_SUPERVISION_FACTOR * terms.get("loss_2d", 0.0))


def _from(step, start: int):
    """1 from step `start` on, 0 before."""
    return ops.cast(step >= start, "float32")


def read_sums(sums: np.ndarray, dataset_names: list[str]) -> dict[str, float]:
    """Means of what `PoseObjective.sums` holds: the losses there are, and "error/NAME" of each data set seen; {} if empty.

    The error of a data set with 3D labels is its part of loss_mean_relative, with 2D labels of loss_2d.
    """
    names = [*LOSS_NAMES, *(f"error/{name}" for name in dataset_names)]
    return {name: float(total / count) for name, total, count in zip(names, *sums, strict=True) if count}
