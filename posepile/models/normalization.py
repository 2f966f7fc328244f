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
        shape = ops.shape(inputs)
        pieces = ops.reshape(inputs, (cut.num_pieces or -1, cut.piece_size or shape[0], *shape[1:]))
        channel_axis, rank = self.axis % len(shape) + 1, len(shape) + 1
        axes = tuple(axis for axis in range(1, rank) if axis != channel_axis)
        mean, variance = ops.moments(ops.cast(ops.stop_gradient(pieces), "float32"), axes, keepdims=True)
        if cut.group_of_piece is not None:
            mean, variance = _merge_pieces(mean, variance, cut)
        self._update_stored_statistics(mean, variance, cut.group_of_piece, axes)
        gamma = ops.cast(self.gamma, "float32") if self.scale else ops.ones(shape[self.axis])
        beta = ops.cast(self.beta, "float32") if self.center else ops.zeros(shape[self.axis])
        outputs = _normalize(pieces, mean, variance, gamma, beta, cut, channel_axis, self.epsilon)
        return ops.cast(ops.reshape(outputs, shape), self.compute_dtype)

    def _update_stored_statistics(self, mean, variance, group_of_piece: np.ndarray | None, axes: tuple[int, ...]):
        """Takes in the pieces' statistics, [num_pieces, ...], size 1 along the axes; the earlier a group, the less it counts.

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
        weights = weights[(..., *[None] * (len(mean.shape) - 1))]
        old = [ops.cast(stored, "float32") for stored in (self.moving_mean, self.moving_variance)]
        new_mean, new_variance = (kept * before + ops.sum(ops.multiply(weights, now), axis=(0, *axes))
                                  for before, now in zip(old, (mean, variance), strict=True))
        is_finite = ops.isfinite(new_variance)  # and then the mean is, too
        self.moving_mean.assign(ops.where(is_finite, new_mean, old[0]))
        self.moving_variance.assign(ops.where(is_finite, new_variance, old[1]))

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

    def group_averages(self, values):
        """Values of the pieces, [num_pieces, ...] -> their means over the group that each belongs to, of the same shape."""
        if self.group_of_piece is None:
            return values
        in_same_group = self.group_of_piece[:, None] == self.group_of_piece
        shares = np.float32(in_same_group / in_same_group.sum(axis=0))
        # by sums of products, as an accelerator may do a matrix product in less than float32
        return ops.sum(ops.multiply(shares.reshape(*shares.shape, *[1] * (len(values.shape) - 1)), values), axis=1)


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


def _merge_pieces(mean, variance, cut: _Cut):
    """Moments of equal pieces -> of the group that each belongs to; all are [num_pieces, ...].

    The variance of a group is the mean of its pieces' plus that of the pieces' means (law of total variance).
    """
    group_mean = cut.group_averages(mean)
    return group_mean, cut.group_averages(variance + ops.square(mean - group_mean))


def _normalize(pieces, mean, variance, gamma, beta, cut: _Cut, channel_axis: int, epsilon: float):
    """(pieces - mean) / sqrt(variance + epsilon) * gamma + beta, float32, with the gradient of BatchNorm in closed form.

    It takes half the passes over the features that automatic differentiation does, and remembers nothing but them.

    Args:
        pieces: [num_pieces, ...].
        mean, variance: of the group of each piece, [num_pieces, ...], size 1 along all other axes but the channels'. The
            gradient of the pieces takes into account that these are made of them.
        gamma, beta: [channels].
        cut: of the batch.
        channel_axis: of the pieces.
        epsilon: added to the variance.
    """
    axes = tuple(axis for axis in range(1, len(pieces.shape)) if axis != channel_axis)

    @ops.custom_gradient
    def normalize(pieces, mean, variance, gamma, beta):
        gamma, beta = (ops.expand_dims(values, tuple(range(1, len(pieces.shape) - channel_axis))) for values in (gamma, beta))
        inverse_deviation = ops.rsqrt(variance + epsilon)
        scale = inverse_deviation * gamma

        def gradients(*args, upstream=None):  # PyTorch passes the arguments of the function first
            gradient = args[0] if upstream is None else upstream
            x = ops.cast(pieces, "float32")
            mean_gradient = cut.group_averages(ops.mean(gradient, axes, keepdims=True))
            gamma_gradient = cut.group_averages(ops.mean(gradient * x, axes, keepdims=True)) - mean * mean_gradient
            gamma_gradient = gamma_gradient * inverse_deviation
            slope = gamma_gradient * inverse_deviation
            pieces_gradient = scale * (gradient - x * slope + (mean * slope - mean_gradient))
            shape = ops.shape(pieces)
            num_values = math.prod(shape[axis] for axis in axes)
            return (ops.cast(pieces_gradient, pieces.dtype), ops.zeros_like(mean), ops.zeros_like(variance),
                    *(ops.multiply(num_values, ops.sum(values, axis=(0, *axes))) for values in (gamma_gradient, mean_gradient)))

        return ops.cast(pieces, "float32") * scale + (beta - mean * scale), gradients

    return normalize(pieces, mean, variance, gamma, beta)


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
