"""What the autoencoder's fit minimises, with its gradient.

    mean |projected difference| / 1000 + l1 (mean |W_enc| + mean |W_dec|)                                    (WACV 2023)

A difference is taken on x/z and y/z, times the person's mean depth, hence mm: pseudo-ground truth is good in the image
and noisy in depth.

The mean over a row of n weights that sums to 1 is (1 + 2 |sum of its negative weights|) / n (supplement, Eq. 10): the
fewer columns, the harder it pushes. With the published l1 of 0.6 and 77 joints instead of 555 it would cost accuracy
(poses that are 17 mm off the truth come out 12.4 mm off instead of 10.8). So n is always taken as the paper's, 555 for
the encoder and 48 for the decoder; with that many joints and latent points the objective is the paper's to the letter.
"""

import dataclasses

import numpy as np

from ace.affine_weights import free_gradient, tie_and_normalize
from ace.poses import center_poses

L1_NUM_JOINTS, L1_NUM_LATENTS = 555, 48  # the paper's joint list; 20 left, 20 right and 8 centre latent points
MIN_DEPTH_SHARE = 0.1  # of a person's mean depth: a joint reconstructed nearer is projected from there


def l1_factors(num_latents: int, num_joints: int, l1: float) -> tuple[float, float]:
    """Of the sums of |W_enc| and |W_dec|: l1 times their means, with rows as long as the paper's."""
    return l1 / (num_latents * L1_NUM_JOINTS), l1 / (num_joints * L1_NUM_LATENTS)


@dataclasses.dataclass(frozen=True)
class FitData:
    """Poses as the objective reads them, in metres; coordinates before joints, so that one matrix product encodes all.

    Attributes:
        centered: [n, 3, num_joints] relative to the mean of each pose's joints.
        center: [n, 3, 1] that mean.
        target: [n, 2, num_joints] x/z and y/z times the mean depth.
        mask: [n, num_joints] 1 or 0, or None where all joints are valid.
        joint_weights: [num_joints] of the joints in the mean; their own mean is 1.
    """

    centered: np.ndarray
    center: np.ndarray
    target: np.ndarray
    mask: np.ndarray | None
    joint_weights: np.ndarray

    def take(self, indices: np.ndarray) -> "FitData":
        return FitData(self.centered[indices], self.center[indices], self.target[indices],
                       None if self.mask is None else self.mask[indices], self.joint_weights)


def make_fit_data(poses: np.ndarray, mask: np.ndarray | None, joint_weights: np.ndarray | None = None,
                  dtype=np.float32) -> FitData:
    """What the objective reads.

    Args:
        poses: [n, num_joints, 3] camera space, mm, missing joints as estimated.
        mask: [n, num_joints] bool, False for missing joints, whose reconstruction is not judged; None: there are none.
        joint_weights: [num_joints]; None: all joints alike.
    """
    joint_weights = np.ones(poses.shape[1]) if joint_weights is None else np.asarray(joint_weights)
    center, centered = center_poses(poses, None)
    points = centered + center
    target = points[..., :2] / np.maximum(points[..., 2:], MIN_DEPTH_SHARE * center[..., 2:]) * center[..., 2:]
    centered, center, target = (np.ascontiguousarray(np.moveaxis(a, -1, -2) / 1000, dtype)
                                for a in (centered, center, target))
    return FitData(centered, center, target, None if mask is None else mask.astype(dtype),
                   (joint_weights / joint_weights.mean()).astype(dtype))


def objective_and_gradients(free, data: FitData, mirrors, l1: float) -> tuple[float, list[np.ndarray]]:
    """The objective and its gradients by the free weights.

    Args:
        free: encoder [L, J] and decoder [J, L], float64, before `tie_and_normalize`.
        mirrors: of the latent points [L] and of the joints [J].
    """
    sides = ((free[0], *mirrors), (free[1], *mirrors[::-1]))
    encoder, decoder = (tie_and_normalize(*side) for side in sides)
    loss, by_encoder, by_decoder = _projected_loss(encoder, decoder, data)
    encoder_l1, decoder_l1 = l1_factors(*encoder.shape, l1)
    loss += encoder_l1 * np.abs(encoder).sum() + decoder_l1 * np.abs(decoder).sum()
    by_weights = (by_encoder + encoder_l1 * np.sign(encoder), by_decoder + decoder_l1 * np.sign(decoder))
    return float(loss), [free_gradient(gradient, *side) for gradient, side in zip(by_weights, sides, strict=True)]


def _projected_loss(encoder, decoder, data):
    """Mean |projected difference| in metres, and its gradients by both matrices."""
    num, _, num_joints = data.centered.shape
    dtype = data.centered.dtype
    encoder, decoder = encoder.astype(dtype), decoder.astype(dtype)
    points = data.centered.reshape(-1, num_joints)
    latents = points @ encoder.T
    joints = (latents @ decoder.T).reshape(num, 3, num_joints) + data.center
    depth = data.center[:, 2:]
    nearest = MIN_DEPTH_SHARE * depth
    z = joints[:, 2:]
    scale = depth / np.maximum(z, nearest)
    projected = joints[:, :2] * scale
    difference = projected - data.target
    weights = np.broadcast_to(data.joint_weights, (num, num_joints)) if data.mask is None else data.mask * data.joint_weights
    weights = weights[:, None] / dtype.type(2 * weights.sum(dtype=np.float64))
    loss = (np.abs(difference) * weights).sum(dtype=np.float64)

    by_projected = np.sign(difference) * weights
    by_joints = np.empty_like(joints)
    np.multiply(by_projected, scale, out=by_joints[:, :2])
    by_z = -(by_projected * projected).sum(axis=1, keepdims=True) * scale / depth
    by_joints[:, 2:] = np.where(z > nearest, by_z, 0)
    by_joints = by_joints.reshape(-1, num_joints)
    return loss, (by_joints @ decoder).T @ points, by_joints.T @ latents
