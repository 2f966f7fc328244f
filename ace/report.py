"""What an autoencoder is like: sparsity, negative weights, and how well it reconstructs poses of each format."""

import numpy as np

from ace.autoencoder import AffineAutoencoder
from posepile.geometry.skeleton import joint_indices


def describe(autoencoder: AffineAutoencoder, poses: np.ndarray | None = None, masks: np.ndarray | None = None) -> str:
    """A text report: sizes, shape of the weights and, given poses, how far reconstructions are off per format."""
    lines = [f"joints                   {autoencoder.num_joints} ({autoencoder.skeleton.name})",
             f"latent points            {autoencoder.num_latents} ({autoencoder.num_left} left, "
             f"{autoencoder.num_right} right, {autoencoder.num_centre} centre)",
             f"zero weights             {autoencoder.sparsity:.1%}",
             f"negative weight share    {autoencoder.negative_weight_share:.1%}"]
    if len(autoencoder.history):
        step, objective = autoencoder.history[-1]
        lines.append(f"objective                {objective:.5f} after {step:.0f} steps")
    if poses is None:
        return "\n".join(lines)
    lines.append(f"\n{'reconstruction error, mm':25}{'3D':>8}{'image plane':>14}{'worst joint':>14}")
    error_3d, error_image = reconstruction_errors(autoencoder, poses, masks)
    skeleton, everything = autoencoder.skeleton, np.arange(autoencoder.num_joints)
    rows = [(fmt.name, joint_indices(skeleton, fmt)) for fmt in skeleton.formats]
    for name, joints in [*rows, ("all joints", everything)]:
        joints = joints[np.isfinite(error_3d[:, joints]).any(axis=0)]
        if not len(joints):
            lines.append(f"{name:25}    no valid joint")
            continue
        per_joint = np.nanmean(error_3d[:, joints], axis=0)
        lines.append(f"{name:25}{np.nanmean(error_3d[:, joints]):8.1f}{np.nanmean(error_image[:, joints]):14.1f}"
                     f"{per_joint.max():14.1f}  {autoencoder.joint_names[joints[per_joint.argmax()]]}")
    return "\n".join(lines)


def reconstruction_errors(autoencoder: AffineAutoencoder, poses: np.ndarray,
                          masks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How far reconstructed joints are from the given ones.

    Args: poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool, default: joints that are not nan.
    Returns: distances in 3D, and on the image plane scaled to the person's mean depth; both [n, num_joints] mm, nan
        where a joint is not valid, and on the image plane also where a reconstruction is behind the camera.
    Raises: ValueError if no joint is valid.
    """
    valid = np.isfinite(poses).all(axis=-1)
    if masks is not None:
        valid &= masks
    if not valid.any():
        raise ValueError("the poses have no valid joint")
    poses = np.where(valid[..., None], poses, np.nan).astype(np.float64)
    reconstruction = autoencoder.reconstruct(poses, None if valid.all() else valid)
    depth = np.where(valid, poses[..., 2], 0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)

    def on_image_plane(joints):
        z = np.where(joints[..., 2] > 0, joints[..., 2], np.nan)
        return joints[..., :2] * (depth[:, None] / z)[..., None]

    image_error = np.linalg.norm(on_image_plane(reconstruction) - on_image_plane(poses), axis=-1)
    return np.linalg.norm(reconstruction - poses, axis=-1), image_error
