"""From 2D joints and relative 3D joints to joints in camera space (MeTRAbs, T-BIOM 2021, section III-C).

Axes are the crop camera's, x right, y down, z forward, lengths mm, all arrays float32.
"""

from keras import ops

FIELD_OF_VIEW_MARGIN_STRIDES = 0.75
OUTSIDE_WEIGHT = 1e-4
RIDGE = 1e-2
MIN_DEPTH_MM = 1.0
_EPSILON = 1e-9


def normalized_image_points(joints2d, intrinsics):
    """[batch, n, 2] px -> [batch, n, 2] x/z, y/z, for intrinsics [batch, 3, 3]; skew is honoured."""
    y = (joints2d[..., 1] - intrinsics[:, None, 1, 2]) / intrinsics[:, None, 1, 1]
    x = (joints2d[..., 0] - intrinsics[:, None, 0, 2] - intrinsics[:, None, 0, 1] * y) / intrinsics[:, None, 0, 0]
    return ops.stack([x, y], axis=-1)


def project_points(joints3d, intrinsics):
    """[batch, n, 3] mm -> [batch, n, 2] px. Depths below MIN_DEPTH_MM are taken as MIN_DEPTH_MM: mask such joints."""
    normalized = joints3d[..., :2] / ops.maximum(joints3d[..., 2:], MIN_DEPTH_MM)
    x = (normalized[..., 0] * intrinsics[:, None, 0, 0] + normalized[..., 1] * intrinsics[:, None, 0, 1]
         + intrinsics[:, None, 0, 2])
    return ops.stack([x, normalized[..., 1] * intrinsics[:, None, 1, 1] + intrinsics[:, None, 1, 2]], axis=-1)


def is_inside(joints2d, crop_side, margin):
    """[batch, n, 2] px -> [batch, n] bool: inside the crop shrunk by `margin` px on every side (negative: grown)."""
    return ops.all(ops.logical_and(joints2d >= margin, joints2d <= crop_side - 1 - margin), axis=-1)


def reference_point_full_perspective(normalized, joints3d_relative, weights):
    """The translation r that best makes x + r_x = u (z + r_z), y + r_y = v (z + r_z), in weighted least squares.

    The column of the unknown depth and the right-hand side are scaled to unit RMS, then RIDGE is added to the diagonal of
    the normal equations; their arrow shape allows eliminating r_x and r_y by hand.

    Args:
        normalized: [batch, n, 2] u, v: normalised image points.
        joints3d_relative: [batch, n, 3] mm.
        weights: [batch, n], of the squared residuals.

    Returns: [batch, 3] mm.
    """
    target = normalized * joints3d_relative[..., 2:] - joints3d_relative[..., :2]
    column_scale = _rms(normalized)
    target_scale = _rms(target)
    column = -normalized / column_scale[:, None, None]
    target = target / target_scale[:, None, None]
    w = weights[..., None]
    total = ops.sum(weights, axis=1) + RIDGE
    sum_column = ops.sum(w * column, axis=1)
    sum_target = ops.sum(w * target, axis=1)
    schur = ops.sum(w * column * column, axis=(1, 2)) + RIDGE - ops.sum(sum_column * sum_column, axis=1) / total
    right = ops.sum(w * column * target, axis=(1, 2)) - ops.sum(sum_column * sum_target, axis=1) / total
    depth = right / ops.maximum(schur, _EPSILON)
    lateral = (sum_target - sum_column * depth[:, None]) / total[:, None]
    return ops.concatenate([lateral * target_scale[:, None], (depth * target_scale / column_scale)[:, None]], axis=1)


def reference_point_weak_perspective(normalized, joints3d_relative, weights):
    """The translation under weak perspective: the ratio of standard deviations in mm and in the image gives the depth.

    Arguments and result as for `reference_point_full_perspective`; more robust while 2D and 3D predictions disagree wildly.
    """
    w = (weights / ops.sum(weights, axis=1, keepdims=True))[..., None]
    mean2d = ops.sum(w * normalized, axis=1, keepdims=True)
    mean3d = ops.sum(w * joints3d_relative, axis=1, keepdims=True)
    variance2d = ops.sum(w * ops.square(normalized - mean2d), axis=(1, 2))
    variance3d = ops.sum(w * ops.square((joints3d_relative - mean3d)[..., :2]), axis=(1, 2))
    depth = ops.sqrt((variance3d + _EPSILON) / (variance2d + _EPSILON))
    center = ops.concatenate([mean2d[:, 0] * depth[:, None], depth[:, None]], axis=1)
    return center - mean3d[:, 0]


def absolute_pose(joints2d, joints3d_relative, intrinsics, *, crop_side, stride, mix=0.5, use_weak_perspective=False):
    """Joints in camera space from the two outputs of the head.

    Args:
        joints2d: [batch, n, 2] px of the crop.
        joints3d_relative: [batch, n, 3] mm, origin arbitrary.
        intrinsics: [batch, 3, 3] of the crop camera.
        crop_side, stride: px; they set the field of view inside which 2D predictions are trusted.
        mix: [batch, 1, 1] or a number in 0..1: share of the 3D-based result for joints inside the field of view; the rest comes
            from back-projecting the 2D joints. Outside, the result is 3D-based.
        use_weak_perspective: bool, may be a tensor: which closed form finds the reference point.

    Returns: [batch, n, 3] mm, camera frame.
    """
    normalized = normalized_image_points(joints2d, intrinsics)
    inside = is_inside(joints2d, crop_side, FIELD_OF_VIEW_MARGIN_STRIDES * stride)
    weights = ops.stop_gradient(ops.where(inside, 1.0, OUTSIDE_WEIGHT))
    if use_weak_perspective is True:
        reference = reference_point_weak_perspective(normalized, joints3d_relative, weights)
    elif use_weak_perspective is False:
        reference = reference_point_full_perspective(normalized, joints3d_relative, weights)
    else:
        reference = ops.where(use_weak_perspective,
                              reference_point_weak_perspective(normalized, joints3d_relative, weights),
                              reference_point_full_perspective(normalized, joints3d_relative, weights))
    from_3d = joints3d_relative + reference[:, None]
    from_2d = ops.concatenate([normalized, ops.ones_like(normalized[..., :1])], axis=-1) * from_3d[..., 2:]
    return ops.where(inside[..., None], mix * from_3d + (1 - mix) * from_2d, from_3d)


def _rms(x):
    """[batch, n, 2] -> [batch] root mean square; differentiable at 0."""
    return ops.sqrt(ops.mean(ops.square(x), axis=(1, 2)) + _EPSILON)
