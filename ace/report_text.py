"""The numbers of `ace.report.measure` as a text for terminals."""

import textwrap

from ace.autoencoder import AffineAutoencoder
from ace.report import DUPLICATE_MM, measure

_STATISTICS = ("mean", "median", "percentile_95")
_COLUMNS = 120


def describe(autoencoder: AffineAutoencoder, poses=None, masks=None) -> str:
    """The text report of an autoencoder; arguments as for `measure`."""
    return report_text(measure(autoencoder, poses, masks))


def report_text(figures: dict) -> str:
    """The text for what `measure` returned."""
    blocks = [_sizes(figures), _weights(figures), _latents(figures), *_warnings(figures)]
    if figures["errors"] is not None:
        blocks[2:2] = [_errors(figures["errors"]), _worst_joints(figures["errors"])]
    return "\n\n".join(blocks)


def pruning_text(threshold: float, before: dict, after: dict) -> str:
    """What `measure` returned before and after pruning, side by side."""
    rows = [("weights > 0.001 in magnitude, %", 100 * before["share_nonzero"], 100 * after["share_nonzero"], 1),
            ("weights exactly zero, %", 100 * before["share_exact_zero"], 100 * after["share_exact_zero"], 1)]
    rows += [(f"negative weight per row, {matrix}", before[matrix]["negative_weight"]["mean"],
              after[matrix]["negative_weight"]["mean"], 3) for matrix in ("encoder", "decoder")]
    if before["errors"] is not None:
        rows += [(f"{where} error, mm: {old['name']}", old[key]["mean"], new[key]["mean"], 2)
                 for key, where in (("error_3d", "3D"), ("error_image", "image plane"))
                 for old, new in zip(_all_formats(before["errors"]), _all_formats(after["errors"]), strict=True)
                 if old[key] and new[key]]
    lines = [f"{f'pruning at {threshold:g}':46}{'before':>10}{'after':>10}{'change':>11}"]
    return "\n".join(lines + [f"{name:46}{old:10.{digits}f}{new:10.{digits}f}{round(new - old, digits) + 0:+11.{digits}f}"
                              for name, old, new, digits in rows])


def _sizes(figures):
    objective = figures["objective"]
    formats = textwrap.fill(", ".join(figures["formats"]), _COLUMNS, initial_indent=" " * 18, subsequent_indent=" " * 18)
    lines = [f"joints            {figures['num_joints']}, of", formats,
             f"latent points     {figures['num_latents']} ({figures['num_left']} left, {figures['num_right']} right, "
             f"{figures['num_centre']} centre)"]
    if objective is not None:
        lines.append(f"objective         {objective['value']:.5f} after {objective['iteration']} iterations, from "
                     f"{objective['history'][0][1]:.5f} after {objective['history'][0][0]:.0f}")
    return "\n".join(lines)


def _weights(figures):
    lines = [f"{'weights':26}{'encoder':>12}{'decoder':>12}"]
    both = figures["encoder"], figures["decoder"]
    for title, key in (("> 0.001 in magnitude", "share_nonzero"), ("exactly zero", "share_exact_zero")):
        lines.append(f"{title:26}" + "".join(f"{matrix[key]:12.1%}" for matrix in both))
    for title, key in (("latents per joint", "latents_per_joint"), ("joints per latent", "joints_per_latent")):
        for statistic in ("median", "largest"):
            lines.append(f"{f'{title}, {statistic}':26}" + "".join(f"{matrix[key][statistic]:12g}" for matrix in both))
    for statistic in ("mean", "worst"):
        lines.append(f"{f'negative per row, {statistic}':26}"
                     + "".join(f"{matrix['negative_weight'][statistic]:12.3f}" for matrix in both))
    return "\n".join(lines) + f"   ({both[0]['negative_weight']['worst_row']}; {both[1]['negative_weight']['worst_row']})"


def _errors(errors):
    lines = [f"{'reconstruction error, mm':26}{'3D: mean':>10}{'median':>9}{'95 %':>9}"
             f"{'image plane: mean':>20}{'median':>9}{'95 %':>9}"]
    for fmt in _all_formats(errors):
        if fmt["error_3d"] is None:
            lines.append(f"{fmt['name']:26}    no valid joint")
            continue
        cells = [f"{fmt[key][statistic]:.1f}" if fmt[key] else "-" for key in ("error_3d", "error_image")
                 for statistic in _STATISTICS]
        lines.append(f"{fmt['name']:26}" + "".join(cell.rjust(width) for cell, width in
                                                   zip(cells, (10, 9, 9, 20, 9, 9), strict=True)))
    lines.append(f"over {errors['num_poses']} poses")
    if errors["num_behind_camera"]:
        lines.append(f"{errors['num_behind_camera']} joints that are, or are reconstructed, behind the camera are left "
                     "out of the image plane")
    return "\n".join(lines)


def _worst_joints(errors):
    joints = {joint["name"]: joint for joint in errors["joints"]}
    lines = ["worst joints by their mean error in 3D / on the image plane, mm"]
    for fmt in errors["formats"]:
        cells = (f"{name} {_mean(joints[name]['error_3d'])} / {_mean(joints[name]['error_image'])}"
                 for name in fmt["worst_joints"])
        lines.append(f"{fmt['name']:18}" + "".join(f"{cell:<38}" for cell in cells).rstrip())
    return "\n".join(lines)


def _latents(figures):
    lines = [f"{'latent point':18}{'used by':>9}   encoder's largest weights"]
    for latent in figures["latents"]:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in latent["largest_weights"].items()
                            if abs(weight) >= 0.005)
        lines.append(f"{latent['name']:8}{latent['side']:10}{latent['num_joints_using']:>9}   {weights}")
    return "\n".join(lines)


def _warnings(figures):
    dead = [latent["name"] for latent in figures["latents"] if latent["is_dead"]]
    warnings = [f"warning: dead latent points, which no joint uses: {', '.join(dead)}"] if dead else []
    for pair in figures["duplicates"]:
        apart = "" if pair["mean_distance"] is None else f", {pair['mean_distance']:.1f} mm apart on average"
        warnings.append(f"warning: duplicate latent points: {' and '.join(pair['latents'])} (weights differ by "
                        f"{pair['largest_weight_difference']:.1g} at most{apart}; duplicates: the same weights, or less "
                        f"than {DUPLICATE_MM:g} mm)")
    return warnings


def _all_formats(errors):
    return [*errors["formats"], errors["all"]]


def _mean(distribution):
    return "-" if distribution is None else f"{distribution['mean']:.1f}"
