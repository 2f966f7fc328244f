"""Fits and inspects affine-combining autoencoders.

    python -m ace fit --poses=POSES.npz --skeletons=smpl_24,h36m_17,coco_19 --output=autoencoder.npz
    python -m ace report --autoencoder=autoencoder.npz [--poses=POSES.npz] [--picture=weights.png]

POSES.npz holds `joints3d` [n, num_joints, 3], camera space, mm, every person in all formats; optionally
`joints3d_mask` [n, num_joints] bool, and `joint_names`, which are then checked. The `pseudo_labels.npz` of a training
run is such a file.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

from ace.autoencoder import AffineAutoencoder, read_npz
from ace.drawing import draw_weights
from ace.fitting import L1_WEIGHT, default_num_latents, fit_autoencoder
from ace.report import describe
from posepile.geometry.skeleton import Skeleton, load_skeleton, merge_skeletons


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
        arrays = read_npz(path)
        if "joints3d" not in arrays:
            raise ValueError(f"it has no array joints3d, only: {', '.join(arrays)}")
    except ValueError as error:
        raise ValueError(f"--poses: cannot read poses from {os.fspath(path)}: {error}") from error
    poses, masks = arrays["joints3d"], arrays.get("joints3d_mask")
    names = arrays.get("joint_names", np.array(skeleton.joint_names)).tolist()
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


def _parser():
    parser = argparse.ArgumentParser(prog="python -m ace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="fit | report")
    command = commands.add_parser("fit", help="fit an autoencoder to poses")
    command.set_defaults(command=fit)
    command.add_argument("--poses", required=True, type=pathlib.Path, help="the .npz file described above")
    command.add_argument("--skeletons", required=True, help="names of the formats, with commas, as joints3d has them")
    command.add_argument("--output", required=True, type=pathlib.Path, help="the .npz file to write")
    command.add_argument("--latents", type=int, help="number of latent points; default: 24 for 77 joints, 48 for 555")
    command.add_argument("--l1", type=float, default=L1_WEIGHT, help="factor of the mean |weights| (%(default)s)")
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
