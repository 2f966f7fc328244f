"""Fits and inspects affine-combining autoencoders.

    python -m ace fit --poses=POSES.npz --skeletons=smpl_24,h36m_17,coco_19 --output=autoencoder.npz
    python -m ace report --autoencoder=autoencoder.npz [--poses=POSES.npz] [--picture=weights.png]

POSES.npz holds `joints3d` [n, num_joints, 3], camera space, mm, every person in all formats; optionally `joints3d_mask`
[n, num_joints] bool and `joint_names`, which are then checked. The `pseudo_labels.npz` of a training run is such a file.
"""

import argparse
import os
import pathlib
import sys
import zipfile
import zlib

import numpy as np

from ace.autoencoder import AffineAutoencoder
from ace.drawing import draw_weights
from ace.fitting import L1_WEIGHT, default_num_latents, fit_autoencoder
from posepile.geometry.skeleton import Skeleton, joint_indices, load_skeleton, merge_skeletons


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; exits with an explanation for what a user got wrong."""
    flags = _parser().parse_args(arguments)
    try:
        flags.command(flags)
    except (ValueError, OSError) as error:
        sys.exit(f"ace: {error}")


def fit(flags: argparse.Namespace) -> None:
    """`python -m ace fit`."""
    skeleton = merge_skeletons([load_skeleton(name.strip()) for name in flags.skeletons.split(",")])
    poses, masks = read_poses(flags.poses, skeleton)
    num_latents = default_num_latents(skeleton) if flags.latents is None else flags.latents
    if flags.output.exists() and not flags.overwrite:
        raise ValueError(f"{flags.output} exists; name another --output or give --overwrite")
    autoencoder = fit_autoencoder(poses, skeleton, num_latents, masks, l1=flags.l1, steps=flags.steps, seed=flags.seed)
    autoencoder.save(flags.output)
    print(describe(autoencoder, poses, masks))
    print(f"written: {flags.output}")


def report(flags: argparse.Namespace) -> None:
    """`python -m ace report`."""
    autoencoder = AffineAutoencoder.load(flags.autoencoder)
    if flags.prune:
        autoencoder = autoencoder.prune(flags.prune)
    poses, masks = (None, None) if flags.poses is None else read_poses(flags.poses, autoencoder.skeleton)
    print(describe(autoencoder, poses, masks))
    if flags.picture is not None:
        draw_weights(autoencoder, flags.picture)
        print(f"written: {flags.picture}")


def read_poses(path: str | os.PathLike, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray | None]:
    """`joints3d` [n, num_joints, 3] and, if the file has it, `joints3d_mask` [n, num_joints].

    Raises: ValueError if the file is no such .npz or belongs to another joint list.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "joints3d" not in file:
                raise ValueError(f"it has no array joints3d, only: {', '.join(file.files)}")
            poses = file["joints3d"]
            masks = file["joints3d_mask"] if "joints3d_mask" in file else None
            names = file["joint_names"].tolist() if "joint_names" in file else list(skeleton.joint_names)
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"--poses: cannot read {os.fspath(path)} as an .npz file of poses: {error}") from error
    if poses.ndim != 3 or poses.shape[1:] != (skeleton.num_joints, 3):
        raise ValueError(f"--poses: joints3d in {os.fspath(path)} has shape {list(poses.shape)}; expected "
                         f"[n, {skeleton.num_joints}, 3] for {skeleton.name}")
    if masks is not None and (masks.shape != poses.shape[:2] or masks.dtype != bool):
        raise ValueError(f"--poses: joints3d_mask in {os.fspath(path)} has shape {list(masks.shape)} and dtype "
                         f"{masks.dtype}; expected bool {list(poses.shape[:2])}")
    if names != list(skeleton.joint_names):
        differing = [f"{a} instead of {b}" for a, b in zip(names, skeleton.joint_names, strict=False) if a != b]
        raise ValueError(f"--poses: the joint_names in {os.fspath(path)} are not those of {skeleton.name}: "
                         + (f"{differing[0]}" if differing else f"{len(names)} names"))
    return poses, masks


def describe(autoencoder: AffineAutoencoder, poses: np.ndarray | None = None, masks: np.ndarray | None = None) -> str:
    """A text report: sizes, shape of the weights and, given poses, how far reconstructions are off per format."""
    lines = [f"joints                   {autoencoder.num_joints} ({autoencoder.skeleton.name})",
             f"latent points            {autoencoder.num_latents} ({autoencoder.num_left} left, {autoencoder.num_right} "
             f"right, {autoencoder.num_centre} centre)",
             f"zero weights             {autoencoder.sparsity:.1%}",
             f"negative weight share    {autoencoder.negative_weight_share:.1%}"]
    if len(autoencoder.history):
        step, objective = autoencoder.history[-1]
        lines.append(f"objective                {objective:.5f} after {step:.0f} steps")
    if poses is None:
        return "\n".join(lines)
    lines.append(f"\n{'reconstruction error, mm':25}{'3D':>8}{'image plane':>14}{'worst joint':>14}")
    error_3d, error_image, valid = reconstruction_errors(autoencoder, poses, masks)
    formats = autoencoder.skeleton.formats or (autoencoder.skeleton,)
    rows = [(fmt.name, joint_indices(autoencoder.skeleton, fmt) if autoencoder.skeleton.formats else slice(None))
            for fmt in formats]
    for name, joints in [*rows, ("all joints", slice(None))]:
        per_joint = _mean(error_3d[:, joints], valid[:, joints], axis=0)
        worst = int(np.nanargmax(per_joint))
        worst_name = np.array(autoencoder.joint_names)[joints][worst]
        lines.append(f"{name:25}{_mean(error_3d[:, joints], valid[:, joints]):8.1f}"
                     f"{_mean(error_image[:, joints], valid[:, joints]):14.1f}"
                     f"{per_joint[worst]:14.1f}  {worst_name}")
    return "\n".join(lines)


def reconstruction_errors(autoencoder: AffineAutoencoder, poses: np.ndarray, masks: np.ndarray | None = None):
    """How far reconstructed joints are from the given ones.

    Args: poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool, default: joints that are not nan.
    Returns: distances in 3D, and on the image plane scaled to the person's mean depth, both [n, num_joints] mm; and
        where they are valid, [n, num_joints] bool.
    Raises: ValueError if no joint is valid.
    """
    valid = np.isfinite(poses).all(axis=-1) if masks is None else masks & np.isfinite(poses).all(axis=-1)
    if not valid.any():
        raise ValueError("the poses have no valid joint")
    poses = np.where(valid[..., None], poses, 0).astype(np.float64)
    reconstruction = autoencoder.reconstruct(poses, None if valid.all() else valid)
    depth = (poses[..., 2] * valid).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)

    def on_image_plane(joints):
        z = np.where(valid & (joints[..., 2] > 0), joints[..., 2], np.nan)
        return joints[..., :2] / z[..., None] * depth[:, None, None]

    image_error = np.linalg.norm(on_image_plane(reconstruction) - on_image_plane(poses), axis=-1)
    return np.linalg.norm(reconstruction - poses, axis=-1), np.nan_to_num(image_error), valid


def _mean(values, valid, axis=None):
    with np.errstate(invalid="ignore"):
        return np.sum(values * valid, axis=axis) / np.sum(valid, axis=axis)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m ace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="fit | report")
    command = commands.add_parser("fit", help="fit an autoencoder to poses")
    command.set_defaults(command=fit)
    command.add_argument("--poses", required=True, type=pathlib.Path, help="the .npz file described above")
    command.add_argument("--skeletons", required=True, help="names of the formats, with commas, in the order of joints3d")
    command.add_argument("--output", required=True, type=pathlib.Path, help="the .npz file to write")
    command.add_argument("--latents", type=int, help="number of latent points; default: 24 for 77 joints, 48 for 555")
    command.add_argument("--l1", type=float, default=L1_WEIGHT, help="factor of the mean absolute weights (%(default)s)")
    command.add_argument("--steps", type=int, default=9000, help="optimisation steps at most (%(default)s)")
    command.add_argument("--seed", type=int, default=1, help="order of the poses (%(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    command = commands.add_parser("report", help="describe an autoencoder")
    command.set_defaults(command=report)
    command.add_argument("--autoencoder", required=True, type=pathlib.Path, help="the .npz file of a fit")
    command.add_argument("--poses", type=pathlib.Path, help="poses to measure the reconstruction error on")
    command.add_argument("--picture", type=pathlib.Path, help="PNG file to draw the weights to")
    command.add_argument("--prune", type=float, default=0.0, help="zero weights below this before reporting")
    return parser


if __name__ == "__main__":
    main()
