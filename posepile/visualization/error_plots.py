"""Plots of errors for the report of an evaluation, each a PNG as bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from posepile.visualization.plots import MODEL_COLORS, png, style_axes

LARGEST_THRESHOLD_MM = 300
_MAX_POINTS = 600  # of a curve


def share_curves(curves: Mapping[str, np.ndarray], emphasized: int = 1) -> bytes:
    """Shares of distances below a threshold, over the threshold: PCK of joints, CPS of poses.

    Args:
        curves: {name: [n] distances, mm, inf for what is never near}; n > 0.
        emphasized: how many of the first ones are drawn bold.
    """
    figure = Figure(figsize=(6.4, 4.3), layout="constrained")
    ax = figure.add_subplot()
    thresholds = np.linspace(0, LARGEST_THRESHOLD_MM, _MAX_POINTS + 1)
    for i, (name, distances) in enumerate(curves.items()):
        shares = 100 * np.searchsorted(np.sort(distances), thresholds, side="left") / len(distances)  # strictly below
        ax.plot(thresholds, shares, label=name, color="#1b1b1b" if i == 0 else MODEL_COLORS[(i - 1) % len(MODEL_COLORS)],
                linewidth=2.4 if i < emphasized else 1.3)
    ax.set(xlim=(0, LARGEST_THRESHOLD_MM), ylim=(0, 100))
    style_axes(ax, "threshold, mm", "share below it, %")
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)  # it would hide curves inside
    return png(figure, dpi=150)


def error_boxes(groups: Sequence[tuple[str, np.ndarray]], x_label: str) -> bytes:
    """The errors of groups of poses: boxes of the middle half with the median, whiskers of the middle 90 %, dots for means.

    Args: groups: label and [n] mm each; what is not finite is left out.
    """
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    ax = figure.add_subplot()
    values = [errors[np.isfinite(errors)] for _, errors in groups]
    ax.boxplot(values, whis=(5, 95), showfliers=False, showmeans=True, widths=0.6, patch_artist=True,
               boxprops={"facecolor": "#cfe3f2", "edgecolor": "#0072B2"}, medianprops={"color": "#0072B2", "linewidth": 1.6},
               whiskerprops={"color": "#0072B2"}, capprops={"color": "#0072B2"},
               meanprops={"marker": "o", "markerfacecolor": "#D55E00", "markeredgecolor": "white", "markersize": 6})
    ax.set_xticks(range(1, len(groups) + 1), [f"{label}\n{len(errors)}" for (label, _), errors in
                                                  zip(groups, values, strict=True)])
    ax.set_ylim(bottom=0)
    style_axes(ax, f"{x_label}; below it the number of poses", "MPJPE of a pose, mm")
    return png(figure, dpi=150)
