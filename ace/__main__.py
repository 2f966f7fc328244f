"""Fits and inspects affine-combining autoencoders.

    python -m ace fit --poses=POSES.npz --skeletons=smpl_24,h36m_17,coco_19 --output=autoencoder.npz
    python -m ace report --autoencoder=autoencoder.npz [--poses=POSES.npz] [--prune=1e-3] [--output=FOLDER]
    python -m ace add-skeleton --autoencoder=autoencoder.npz --poses=BOTH.npz [--skeleton=my_skeleton.toml]
        --output=my_skeleton.npz

POSES.npz holds `joints3d` [n, num_joints, 3], camera space, mm, every person in all formats; optionally
`joints3d_mask` [n, num_joints] bool, and `joint_names`, which are then checked. The `pseudo_labels.npz` of a training
run is such a file.

BOTH.npz holds poses both in the autoencoder's joints and labelled in a new format, see `ace/transfer_samples.py`;
`evaluate.py --save-predictions=BOTH.npz` writes one for images labelled in the new format.
"""

import argparse
import pathlib
import sys

from ace.autoencoder import AffineAutoencoder
from ace.files import refuse_existing
from ace.first_guess import CRITERIA
from ace.fitting import L1_WEIGHT, MAX_SWEEPS, fit_autoencoder
from ace.joint_weights import parse_joint_weights
from ace.poses import read_poses
from ace.report import measure
from ace.report_folder import REPORT_FILES, to_json, write_report
from ace.report_text import describe, pruning_text, report_text
from ace.transfer import fit_skeleton
from ace.transfer_samples import read_samples, read_skeleton
from posepile.geometry.skeleton import merge_skeletons


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; exits with an explanation for what a user got wrong."""
    flags = _parser().parse_args(arguments)
    try:
        flags.command(flags)
    except (ValueError, OSError) as error:
        sys.exit(f"ace: {error}")


def fit(flags: argparse.Namespace) -> None:
    """`python -m ace fit`."""
    skeleton = merge_skeletons([read_skeleton(name.strip()) for name in flags.skeletons.split(",")])
    poses, masks = read_poses(flags.poses, skeleton)
    refuse_existing("--output", [flags.output], flags.overwrite)
    if flags.prune is not None and not 0 <= flags.prune < 1:
        raise ValueError(f"--prune={flags.prune:g} is not from 0 to 1; 0.001 is usual")
    joint_weights = parse_joint_weights(flags.joint_weights, skeleton)
    autoencoder = fit_autoencoder(poses, skeleton, flags.latents, masks, l1=flags.l1, joint_weights=joint_weights,
                                  sweeps=flags.sweeps, restarts=flags.restarts, seed=flags.seed)
    if flags.prune is not None:
        pruned = _pruned(autoencoder, flags.prune)
        print(pruning_text(flags.prune, measure(autoencoder, poses, masks), measure(pruned, poses, masks)) + "\n")
        autoencoder = pruned
    text = describe(autoencoder, poses, masks)
    autoencoder.save(flags.output)
    print(text)
    print(f"written: {flags.output}")


def report(flags: argparse.Namespace) -> None:
    """`python -m ace report`."""
    if flags.pruned_output is not None and flags.prune is None:
        raise ValueError("--pruned-output needs --prune=THRESHOLD: which weights to leave out")
    if flags.output is not None:
        if flags.output.exists() and not flags.output.is_dir():
            raise ValueError(f"--output: {flags.output} is a file; name a folder")
        refuse_existing("--output", [flags.output / name for name in REPORT_FILES], flags.overwrite)
    if flags.pruned_output is not None:
        refuse_existing("--pruned-output", [flags.pruned_output], flags.overwrite)
    autoencoder = AffineAutoencoder.load(flags.autoencoder)
    poses, masks = (None, None) if flags.poses is None else read_poses(flags.poses, autoencoder.skeleton)
    figures = measure(autoencoder, poses, masks)
    text = report_text(figures)
    if flags.prune is not None:
        pruned = _pruned(autoencoder, flags.prune)
        after = measure(pruned, poses, masks)
        text += "\n\n" + pruning_text(flags.prune, figures, after)
        figures["pruned"] = {"threshold": flags.prune, **after}
    print(to_json(figures) if flags.json else text)
    written = []
    if flags.pruned_output is not None:
        pruned.save(flags.pruned_output)
        written.append(flags.pruned_output)
    if flags.output is not None:
        written += write_report(flags.output, text, figures, autoencoder, poses, masks)
    for path in written:
        print(f"written: {path}", file=sys.stderr if flags.json else sys.stdout)


def _pruned(autoencoder, threshold):
    largest = min(float(abs(weights).max()) for weights in (autoencoder.encoder, autoencoder.decoder))
    if not 0 <= threshold <= largest:
        raise ValueError(f"--prune={threshold:g} is not from 0 to {largest:.3g}; beyond, no weight of the encoder or the "
                         "decoder would stay. 0.001 is usual")
    return autoencoder.prune(threshold)


def add_skeleton(flags: argparse.Namespace) -> None:
    """`python -m ace add-skeleton`."""
    refuse_existing("--output", [flags.output], flags.overwrite)
    autoencoder = AffineAutoencoder.load(flags.autoencoder)
    skeleton = None if flags.skeleton is None else read_skeleton(flags.skeleton)
    arrays, skeleton = read_samples(flags.poses, autoencoder, skeleton)
    added = fit_skeleton(autoencoder, skeleton, l1=flags.l1, seed=flags.seed, **arrays)
    added.save(flags.output)
    print(added.describe())
    print(f"written: {flags.output}")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m ace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="fit | report | add-skeleton")
    _add_fit_command(commands)
    _add_report_command(commands)
    _add_add_skeleton_command(commands)
    return parser


def _add_fit_command(commands):
    command = commands.add_parser("fit", help="fit an autoencoder to poses")
    command.set_defaults(command=fit)
    command.add_argument("--poses", required=True, type=pathlib.Path, help="the .npz file described above")
    command.add_argument("--skeletons", required=True, help="formats, with commas, as joints3d has them: names or TOML files")
    command.add_argument("--output", required=True, type=pathlib.Path, help="the .npz file to write")
    command.add_argument("--latents", type=int, help="number of latent points; default: 24 for 77 joints, 48 for 555")
    command.add_argument("--l1", type=float, default=L1_WEIGHT, help="factor of the mean |weights| (%(default)s)")
    command.add_argument("--joint-weights", default="", help="weights of joints in the reconstruction error: balanced, so that "
                         "every format counts alike, or FORMAT_OR_JOINT=WEIGHT, with commas; others have 1")
    command.add_argument("--sweeps", type=int, default=MAX_SWEEPS, help="over all weights, at most (%(default)s)")
    command.add_argument("--restarts", type=int, default=len(CRITERIA),
                         help="first guesses, of which the best goes on (%(default)s)")
    command.add_argument("--prune", type=float, help="leave out weights below this, for instance 1e-3")
    command.add_argument("--seed", type=int, default=1, help="of the guesses and the order of the poses (%(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing --output")


def _add_report_command(commands):
    command = commands.add_parser("report", help="describe an autoencoder")
    command.set_defaults(command=report)
    command.add_argument("--autoencoder", required=True, type=pathlib.Path, help="the .npz file of a fit")
    command.add_argument("--poses", type=pathlib.Path, help="poses to measure the reconstruction error on")
    command.add_argument("--prune", type=float, help="show the figures also with weights below this left out")
    command.add_argument("--pruned-output", type=pathlib.Path, help="file to write the pruned autoencoder to")
    command.add_argument("--output", type=pathlib.Path, help="folder for the report with pictures")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    command.add_argument("--overwrite", action="store_true", help="replace existing output files")


def _add_add_skeleton_command(commands):
    command = commands.add_parser("add-skeleton", help="fit an output format of your own to a trained model's joints")
    command.set_defaults(command=add_skeleton)
    command.add_argument("--autoencoder", required=True, type=pathlib.Path, help="the .npz file of a fit")
    command.add_argument("--poses", required=True, type=pathlib.Path, help="BOTH.npz as described above")
    command.add_argument("--skeleton", help="the new format: a .toml file, or the name of a known one; default: the one "
                         "that --poses defines")
    command.add_argument("--output", required=True, type=pathlib.Path, help="the .npz file to write, for prediction")
    command.add_argument("--l1", type=float, help="factor of the mean |weights|; default: the best on held-out poses")
    command.add_argument("--seed", type=int, default=1, help="which poses are held out (%(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing --output")


if __name__ == "__main__":
    main()
