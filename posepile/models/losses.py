"""The losses on absolute joints (METHOD section 4; WACV 2023, supplement S2). Lengths come in mm and are divided by 1000."""

from collections.abc import Callable

from keras import ops

from posepile.models.absolute_pose import is_inside, project_points
from posepile.models.heads import BOX_SIZE_MM

ABSOLUTE_LOSS_FACTOR = 0.1
WEAK_SUPERVISION_FACTOR = 0.2
HYBRID_2D_FACTOR = 0.5  # of consistency and teacher loss of a hybrid model on examples with 2D labels; METHOD section 6
MAX_EFFECTIVE_DEPTH_MM = 10_000.0  # further away the z error is scaled down to this depth
MIN_TRUE_DEPTH_MM = 300.0
NEAR_FIELD_OF_VIEW_STRIDES = 20.0
_MM_PER_UNIT = 1000.0


def alone(total):
    """The sum over the devices of a training on one device."""
    return total


def masked_mean(errors, mask, sum_over_devices: Callable = alone):
    """Mean of errors [batch, n, c] over the joints where mask [batch, n] is True; 0 where there is none.

    Masked errors take no part, even if they are not finite: callers guard their gradients by masking the labels first, since
    0 * nan is nan in a gradient, too. With several devices this is one device's share of the mean over the batches of all: the
    shares, and so their gradients, add up to it.

    Args: sum_over_devices: adds up a number over all devices.
    """
    mask = mask[..., None]
    total = ops.sum(ops.where(mask, errors, 0.0))
    count = ops.sum(ops.cast(mask, errors.dtype)) * errors.shape[-1]
    return total / ops.maximum(sum_over_devices(count), 1.0)


def example_means(errors, mask):
    """The means of each example's errors [batch, n, c]: [batch], 0 where it has none, and whether it has any: [batch] float."""
    mask = mask[..., None]
    count = ops.sum(ops.cast(mask, errors.dtype), axis=(1, 2)) * errors.shape[-1]
    return ops.sum(ops.where(mask, errors, 0.0), axis=(1, 2)) / ops.maximum(count, 1.0), ops.cast(count > 0, errors.dtype)


def mean_relative_errors(joints3d_pred, joints3d_true, mask):
    """|difference| after subtracting each pose's own mean over its valid joints.

    Args: joints3d_pred, joints3d_true: [batch, n, 3] mm, camera frame; mask: [batch, n] bool.
    Returns: [batch, n, 3] in m, and the mask of those that count.
    """
    return ops.abs(_center(joints3d_pred, mask) - _center(joints3d_true, mask)) / _MM_PER_UNIT, mask


def absolute_errors(joints3d_pred, joints3d_true, mask):
    """|difference| in camera space; far away the z part is scaled by 10 m / true z. Arguments and results as above."""
    joints3d_true = ops.where(mask[..., None], joints3d_true, 0.0)
    true_depth = joints3d_true[..., 2]
    mask = ops.logical_and(mask, true_depth > MIN_TRUE_DEPTH_MM)
    z_scale = ops.minimum(1.0, MAX_EFFECTIVE_DEPTH_MM / ops.maximum(true_depth, 1.0))[..., None]
    difference = ops.abs(joints3d_pred - joints3d_true)
    difference = ops.concatenate([difference[..., :2], difference[..., 2:] * z_scale], axis=-1)
    return difference / _MM_PER_UNIT, mask


def projection_errors_3d(joints3d_pred, joints3d_true, mask, intrinsics, *, crop_side, stride):
    """|difference| of the projections, with px counted as mm at the scale of the metric box.

    Only joints predicted inside the crop and truly near it count, both in front of the camera, the true one beyond 300 mm.

    Args:
        joints3d_pred, joints3d_true: [batch, n, 3] mm, camera frame; mask: [batch, n] bool; intrinsics: [batch, 3, 3].
        crop_side, stride: px.

    Returns: [batch, n, 2] in m, and the mask of those that count.
    """
    mask = ops.logical_and(mask, joints3d_true[..., 2] > MIN_TRUE_DEPTH_MM)
    return projection_errors_2d(joints3d_pred, project_points(joints3d_true, intrinsics), mask, intrinsics,
                                crop_side=crop_side, stride=stride)


def projection_errors_2d(joints3d_pred, joints2d_true, mask, intrinsics, *, crop_side, stride):
    """The same for labels in the image: joints2d_true [batch, n, 2] px."""
    joints2d_pred = project_points(joints3d_pred, intrinsics)
    in_front = joints3d_pred[..., 2] > 0
    near = is_inside(joints2d_true, crop_side, -NEAR_FIELD_OF_VIEW_STRIDES * stride)
    mask = ops.all(ops.stack([mask, in_front, near, is_inside(joints2d_pred, crop_side, 0.0)], axis=-1), axis=-1)
    difference = ops.abs(joints2d_pred - ops.where(mask[..., None], joints2d_true, 0.0))
    return difference * (BOX_SIZE_MM / crop_side / _MM_PER_UNIT), mask


def mean_distance(points3d_a, points3d_b, sum_over_devices: Callable = alone):
    """Mean |difference| of points [batch, n, 3] in mm, in m; all of them count."""
    return masked_mean(ops.abs(points3d_a - points3d_b) / _MM_PER_UNIT, ops.ones(ops.shape(points3d_a)[:2], "bool"),
                       sum_over_devices)


def _center(joints3d, mask):
    weights = ops.cast(mask, joints3d.dtype)[..., None]
    joints3d = ops.where(mask[..., None], joints3d, 0.0)
    mean = ops.sum(joints3d, axis=1, keepdims=True) / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
    return joints3d - mean
