"""Ghost BatchNorm: BatchNorm with statistics per group of examples instead of per batch."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

DEFAULT_GROUP_SIZE = 16  # examples; WACV 2023 (supplement), of a batch of 128


@keras.saving.register_keras_serializable(package="posepile")
class GhostBatchNormalization(keras.layers.BatchNormalization):
    """Normalises each group of consecutive examples with the group's own statistics (Hoffer et al., NeurIPS 2017).

    Only training differs from keras.layers.BatchNormalization, whose weights and their names it keeps. With
    training=False the stored statistics are used, and gradients flow through that as usual. In training the
    stored statistics become what one call of plain BatchNorm per group, first group first, would make them.
    Statistics are float32 (biased variance, as in Keras) whatever the precision of the features. Where those of
    a batch are not finite, the stored ones stay.

    Args:
        group_sizes: an int: every so many examples are a group, and the batch must be a multiple of it; a tuple:
            the sizes of the parts of the batch, such as (96, 32); None: the whole batch is one group, plain BatchNorm.
        **kwargs: of keras.layers.BatchNormalization, but `renorm` and `synchronized`.

    Attributes:
        use_stored_statistics: True makes training, too, normalise with the stored statistics and leave them alone,
            while scale and offset go on learning (the last steps of a phase, WACV 2023). Not part of the config.
            A compiled step sees a change only when it is traced anew.
        num_replicas: how many devices run this layer side by side, each on groups of its own; they agree on the mean of
            their stored statistics, which is what updating group by group gives if the groups of a round, one on each
            device, count the same. Not part of the config.

    Raises: ValueError for sizes that are not positive, or in training for a batch that they do not divide.
    """

    def __init__(self, group_sizes: int | tuple[int, ...] | None = DEFAULT_GROUP_SIZE, **kwargs):
        super().__init__(**kwargs)
        self.group_sizes = _checked_group_sizes(group_sizes)
        self.use_stored_statistics = False
        self.num_replicas = 1
        if self.renorm or self.synchronized:
            raise ValueError(f"GhostBatchNormalization {self.name!r} got renorm={self.renorm} and synchronized="
                             f"{self.synchronized}; both work on whole batches. Use keras.layers.BatchNormalization for them.")

    def add_weight(self, *args, trainable=True, **kwargs):
        """Several devices agree on the mean of their stored statistics."""
        return super().add_weight(*args, trainable=trainable, **({} if trainable else {"aggregation": "mean"}), **kwargs)

    def call(self, inputs, training=None, mask=None):
        if not training or self.use_stored_statistics or not self.trainable:
            return super().call(inputs, training=False)
        if mask is not None:
            raise ValueError(f"GhostBatchNormalization {self.name!r} got a mask in training, which it does not support.")
        return self._normalize_groups(inputs)

    def _normalize_groups(self, inputs):
        """[batch, ...] -> the same shape; updates the stored statistics."""
        cut = _cut_batch(inputs.shape[0], self.group_sizes, self.name)
        x = ops.reshape(ops.cast(inputs, "float32"), (cut.num_pieces or -1, cut.piece_size or -1, *ops.shape(inputs)[1:]))
        channel_axis = self.axis % len(inputs.shape) + 1
        reduced_axes = [axis for axis in range(1, len(x.shape)) if axis != channel_axis]
        mean, variance = ops.moments(x, axes=reduced_axes)  # [num_pieces, channels]
        if cut.group_of_piece is not None:
            mean, variance = _merge_pieces(mean, variance, cut.group_of_piece)
        self._update_stored_statistics(mean, variance, cut.group_of_piece)

        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * self.gamma
        offset = -mean * scale
        if self.center:
            offset = offset + self.beta
        scale = ops.expand_dims(scale, reduced_axes)
        offset = ops.expand_dims(offset, reduced_axes)
        return ops.cast(ops.reshape(x * scale + offset, ops.shape(inputs)), self.compute_dtype)

    def _update_stored_statistics(self, mean, variance, group_of_piece: np.ndarray | None):
        """Takes in the pieces' statistics, each [num_pieces, channels]; the earlier a group, the less it counts.

        In closed form: group by group, s <- m s + (1 - m) x_g gives m^G s + (1 - m) sum_g m^(G - 1 - g) x_g.
        """
        num_pieces, momentum = ops.shape(mean)[0], self.momentum**self.num_replicas
        if isinstance(num_pieces, int):
            groups = np.arange(num_pieces) if group_of_piece is None else group_of_piece
            num_groups, pieces_per_group = groups[-1] + 1, np.bincount(groups)[groups]
            weights = np.float32((1 - momentum) * momentum ** (num_groups - 1 - groups) / pieces_per_group)
            kept = float(momentum**num_groups)
        else:  # every piece is a group
            weights = (1 - momentum) * momentum ** ops.arange(num_pieces - 1, -1, -1, dtype="float32")
            kept = momentum ** ops.cast(num_pieces, "float32")
        weights = ops.expand_dims(weights, -1)
        for stored, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.convert_to_tensor(stored)
            updated = old * kept + ops.sum(weights * new, axis=0)
            stored.assign(ops.where(ops.isfinite(updated), updated, old))

    def compute_output_spec(self, inputs, training=None, mask=None):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "group_sizes": self.group_sizes}


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How a batch falls into equal pieces, whose moments cost one reduction, and these into groups.

    Attributes:
        piece_size: examples per piece; None: all of them.
        num_pieces: None if the size of the batch is only known when the graph runs.
        group_of_piece: [num_pieces] int32; None if every piece is a group.
    """

    piece_size: int | None
    num_pieces: int | None
    group_of_piece: np.ndarray | None = None


def _cut_batch(batch_size: int | None, group_sizes: int | tuple[int, ...] | None, layer_name: str) -> _Cut:
    """Raises: ValueError if the groups do not make up the batch."""
    if group_sizes is None:
        return _Cut(None, 1)
    if isinstance(group_sizes, int):
        if batch_size is not None and batch_size % group_sizes:
            raise ValueError(f"GhostBatchNormalization {layer_name!r} got a training batch of {batch_size} examples, "
                             f"which groups of {group_sizes} do not divide. Choose a batch size that is a multiple of "
                             f"{group_sizes} (per device), another ghost batch size, or none (group_sizes=None).")
        return _Cut(group_sizes, None if batch_size is None else batch_size // group_sizes)
    if batch_size is not None and batch_size != sum(group_sizes):
        raise ValueError(f"GhostBatchNormalization {layer_name!r} got a training batch of {batch_size} examples, but "
                         f"its parts {group_sizes} make up {sum(group_sizes)}. The part sizes must be those of the "
                         "batch on each device.")
    piece_size = math.gcd(*group_sizes)
    pieces_per_group = np.array(group_sizes) // piece_size
    if (pieces_per_group == 1).all():
        return _Cut(piece_size, len(group_sizes))
    group_of_piece = np.repeat(np.arange(len(group_sizes), dtype="int32"), pieces_per_group)
    return _Cut(piece_size, len(group_of_piece), group_of_piece)


def _merge_pieces(mean, variance, group_of_piece: np.ndarray):
    """Moments of equal pieces -> of the group that each belongs to; all are [num_pieces, channels].

    The variance of a group is the mean of its pieces' plus that of the pieces' means (law of total variance).
    """
    membership = np.float32(group_of_piece[:, None] == np.arange(group_of_piece[-1] + 1))  # [num_pieces, num_groups]
    shares = membership / membership.sum(axis=0)

    def average(values):  # by sums of products, as an accelerator may do a matrix product in less than float32
        per_group = ops.sum(ops.multiply(shares[..., None], ops.expand_dims(values, 1)), axis=0)
        return ops.sum(ops.multiply(membership[..., None], per_group), axis=1)

    group_mean = average(mean)
    return group_mean, average(variance + ops.square(mean - group_mean))


def _checked_group_sizes(group_sizes) -> int | tuple[int, ...] | None:
    """Raises: ValueError unless this is None, a positive int or a sequence of such."""
    if group_sizes is None:
        return None
    sizes = tuple(group_sizes) if isinstance(group_sizes, (tuple, list)) else (group_sizes,)
    if len(sizes) == 0 or any(isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size <= 0
                              for size in sizes):
        raise ValueError(f"group_sizes is {group_sizes!r}; expected the number of examples per group as a positive "
                         "int, a tuple of such for the parts of the batch, e.g. (96, 32), or None for plain BatchNorm.")
    return tuple(map(int, sizes)) if isinstance(group_sizes, (tuple, list)) else int(group_sizes)


def ghost_layers(model: keras.Model) -> list[GhostBatchNormalization]:
    """The Ghost BatchNorm layers of a model, nested ones too."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, GhostBatchNormalization)]
