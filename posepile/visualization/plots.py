"""Plots for the report, each a PNG as bytes: poses from two views, training curves, autoencoder weights.

Made with matplotlib's object interface and its Agg canvas: no window, no global state.
"""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import TwoSlopeNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from posepile.geometry.camera import project
from posepile.geometry.skeleton import Skeleton, joint_indices

MODEL_COLORS = ("#E69F00", "#0072B2", "#009E73", "#CC3377", "#56B4E9", "#D55E00", "#8A6FD1", "#7A7A2E")
"""Of the models of a run, in their order."""
GRID_MM = 500
"""Spacing of the grid behind a pose."""

_FORMAT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC3377", "#56B4E9", "#D55E00", "#8A6FD1", "#7A7A2E")
_TRUTH_GRAY = "#b5b5b5"
_HALF_RANGES_MM = 500.0, 1500.0  # of front and side views; what a wild prediction has outside is cut off
_MAX_NAMED_JOINTS = 130  # more names than that beside each other cannot be read
_SMOOTHING_SHARE = 0.04  # of a phase's records: standard deviation of the Gaussian that smooths a curve


def format_colors(skeleton: Skeleton) -> dict[str, str]:
    """{format name: colour as #rrggbb} for the formats of a merged skeleton."""
    names = [fmt.name for fmt in skeleton.formats or (skeleton,)]
    if len(names) <= len(_FORMAT_COLORS):
        return dict(zip(names, _FORMAT_COLORS, strict=False))
    colormap = matplotlib.colormaps["turbo"]
    return {name: to_hex(colormap((i + 0.5) / len(names))) for i, name in enumerate(names)}


def pose_comparison(image: np.ndarray, intrinsics: np.ndarray, joints3d_true: np.ndarray, validity: np.ndarray,
                    joints3d_pred: Mapping[str, np.ndarray], skeleton: Skeleton) -> dict[str, bytes]:
    """A pose over the person's crop, from the front and from the side: the true one, and that of each model.

    All formats are drawn at once. Front and side views are orthographic, along the camera's axes, at one scale for all
    the pictures, and with the mean of the annotated root joints in one place: what separates the formats stays visible,
    a common error of position does not. Behind a prediction the truth is drawn in gray.

    Args:
        image: [height, width, 3] uint8 RGB.
        intrinsics: [3, 3] of the image, px.
        joints3d_true: [skeleton.num_joints, 3] camera space, mm.
        validity: [skeleton.num_joints] bool; joints that are not annotated are not drawn for the truth.
        joints3d_pred: {model: [skeleton.num_joints, 3]} camera space, mm; all finite joints are drawn.
        skeleton: a merged skeleton or a plain format.

    Returns: {"truth" and the models: PNG}.
    """
    poses = {"truth": np.where(validity[:, None], joints3d_true, np.nan), **joints3d_pred}
    poses = {name: np.where(np.isfinite(pose).all(axis=-1, keepdims=True), pose, np.nan).astype(np.float64)
             for name, pose in poses.items()}
    roots = _annotated_roots(poses["truth"], skeleton)
    centered = {name: pose - _mean_point(pose[roots]) for name, pose in poses.items()}
    center, half_range = _window(list(centered.values()))
    return {name: _pose_views(image, project(pose, intrinsics), centered[name] - center,
                              None if name == "truth" else centered["truth"] - center, half_range, skeleton)
            for name, pose in poses.items()}


def loss_curves(records: Sequence[Mapping], names: Sequence[str], title: str) -> bytes:
    """Curves of a training log over the steps of all phases, logarithmic, smoothed, over the raw values.

    Args:
        records: dicts with `phase`, `step` (starts anew in every phase) and the curves' values.
        names: which of the values to draw.
        title: what is drawn, with its unit.
    """
    figure, ax, phases = _curve_axes(records, title)
    colors = ["#1b1b1b"] if len(names) == 1 else list(_FORMAT_COLORS)
    for i, name in enumerate(names):
        label = name.removeprefix("loss_").replace("_", " ")
        for _, start, part in phases:
            steps, values = _curve(part, name, start)
            if not len(values):
                continue
            color = colors[i % len(colors)]
            ax.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            ax.plot(steps, _smooth(values), color=color, linewidth=1.7, label=label)
            label = None
    if len(names) > 1 and ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=True, framealpha=0.9, loc="best", ncols=2 if len(names) > 4 else 1)
    return png(figure, dpi=150)


def learning_rate_curves(records: Sequence[Mapping], names: Sequence[str]) -> bytes:
    """The learning rates of a training log over the steps of all phases, logarithmic; args as `loss_curves`."""
    figure, ax, phases = _curve_axes(records, "learning rate")
    for i, name in enumerate(names):
        label = name.removeprefix("learning_rate").strip("_").replace("_", " ") or "all layers"
        for _, start, part in phases:
            steps, values = _curve(part, name, start)
            if len(values):
                # The first lies wide below the second: where they coincide both are seen.
                ax.plot(steps, values, color=_FORMAT_COLORS[i % len(_FORMAT_COLORS)], linewidth=1.6 if i % 2 else 4.5,
                        label=label)
                label = None
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="best")
    return png(figure, dpi=150)


def inconsistency_bars(per_joint: Mapping[str, Mapping[str, float]]) -> bytes:
    """Inconsistency between the formats for each joint name, one bar per model.

    Args:
        per_joint: {model: {joint name: mm}}.
    """
    joints = list(dict.fromkeys(joint for values in per_joint.values() for joint in values))
    figure = Figure(figsize=(6.4, 0.9 + max(0.3, 0.1 * len(per_joint)) * max(len(joints), 3)), layout="constrained")
    ax = figure.add_subplot()
    thickness = 0.8 / len(per_joint)
    for i, (model, values) in enumerate(per_joint.items()):
        lengths = [values.get(joint) for joint in joints]
        lengths = [np.nan if length is None else length for length in lengths]
        ax.barh(np.arange(len(joints)) + (i - (len(per_joint) - 1) / 2) * thickness, lengths, thickness * 0.92,
                color=MODEL_COLORS[i % len(MODEL_COLORS)], label=model)
    ax.set_yticks(range(len(joints)), [joint.replace("_", " ") for joint in joints], fontsize=9)
    ax.set_ylim(len(joints) - 0.5, -0.5)
    ax.set_xlabel("inconsistency between the formats, mm", fontsize=9)
    ax.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="x", labelsize=9)
    _hide_frame(ax)
    if len(per_joint) > 1:
        figure.legend(*ax.get_legend_handles_labels(), fontsize=9, frameon=False, loc="outside upper right", ncols=3)
    return png(figure, dpi=150)


def autoencoder_weights(encoder: np.ndarray, decoder: np.ndarray, skeleton: Skeleton) -> bytes:
    """The weights of an affine-combining autoencoder: blue positive, red negative, white zero.

    Args:
        encoder: [num_latents, skeleton.num_joints].
        decoder: [skeleton.num_joints, num_latents]; drawn transposed, so that both share the joint axis.
        skeleton: names the joints.
    """
    num_latents, num_joints = encoder.shape
    width = float(np.clip(2.2 + 0.155 * num_joints, 8, 24))
    panel_height = float(np.clip(0.105 * num_latents, 1.6, 6))
    figure = Figure(figsize=(width, 2 * panel_height + 2.4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, weights, name, described in ((axes[0], encoder, "encoder", "weights of a row sum to 1"),
                                         (axes[1], decoder.T, "decoder, transposed", "weights of a column sum to 1")):
        limit = max(float(np.abs(weights).max()), 1e-6)
        mesh = ax.imshow(weights, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto",
                         interpolation="nearest")
        ax.set_title(f"{name}: {described}", fontsize=10, loc="left")
        ax.set_ylabel("latent point", fontsize=9)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.tick_params(labelsize=8)
        bar = figure.colorbar(mesh, ax=ax, pad=0.008, fraction=0.03, aspect=12)
        bar.ax.tick_params(labelsize=8)
        for boundary in _family_boundaries(skeleton):
            ax.axvline(boundary - 0.5, color="#333333", linewidth=0.8)
    axes[0].tick_params(axis="x", bottom=False)
    if num_joints <= _MAX_NAMED_JOINTS:
        axes[1].set_xticks(range(num_joints), skeleton.joint_names, rotation=90, fontsize=7.5)
    else:
        axes[1].set_xlabel("joint of the merged list; lines part the formats", fontsize=9)
    return png(figure, dpi=130)


def style_axes(ax: Axes, x_label: str, y_label: str) -> None:
    """Labels, a grid behind the data, and no frame at the top and on the right."""
    ax.set_xlabel(x_label, fontsize=9)
    ax.set_ylabel(y_label, fontsize=9)
    ax.tick_params(labelsize=9)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    _hide_frame(ax)


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as PNG."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _pose_views(image, joints2d, centered, centered_true, half_range, skeleton):
    figure = Figure(figsize=(6.0, 2.15), facecolor="white")
    axes = [figure.add_axes((i / 3 + 0.004, 0.004, 1 / 3 - 0.008, 0.9)) for i in range(3)]
    for ax, title in zip(axes, ("image", "front", "side, camera at left"), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=9, pad=2, color="#333333")
        for spine in ax.spines.values():
            spine.set_color("#cccccc")
    height, width = image.shape[:2]
    axes[0].imshow(image)
    _draw_formats(axes[0], joints2d, skeleton, linewidth=1.6)
    axes[0].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for ax, dimensions in ((axes[1], (0, 1)), (axes[2], (2, 1))):
        for line in np.arange(-half_range // GRID_MM, half_range // GRID_MM + 1) * GRID_MM:
            ax.axhline(line, color="#ececec", linewidth=0.8, zorder=0)
            ax.axvline(line, color="#ececec", linewidth=0.8, zorder=0)
        if centered_true is not None:
            _draw_formats(ax, centered_true[:, dimensions], skeleton, linewidth=1.0, color=_TRUTH_GRAY)
        _draw_formats(ax, centered[:, dimensions], skeleton, linewidth=1.3)
        ax.set(xlim=(-half_range, half_range), ylim=(half_range, -half_range), aspect="equal")
    return png(figure, dpi=130)


def _draw_formats(ax, points, skeleton, *, linewidth, color=None):
    """Draws the finite joints of each format and their bones; points: [num_joints, 2] in the units of the axes."""
    is_finite = np.isfinite(points).all(axis=-1)
    colors = format_colors(skeleton)
    for fmt in skeleton.formats or (skeleton,):
        joints = _merged_indices(skeleton, fmt)
        bones = [(points[joints[i]], points[joints[j]]) for i, j in fmt.edges
                 if is_finite[joints[i]] and is_finite[joints[j]]]
        ax.add_collection(LineCollection(bones, colors=color or colors[fmt.name], linewidths=linewidth,
                                         capstyle="round", alpha=0.9), autolim=False)
        shown = joints[is_finite[joints]]
        ax.scatter(points[shown, 0], points[shown, 1], s=2.2 * linewidth ** 2, color=color or colors[fmt.name],
                   linewidths=0, zorder=2)


def _merged_indices(skeleton, fmt):
    return joint_indices(skeleton, fmt) if skeleton.formats else np.arange(skeleton.num_joints)


def _annotated_roots(true, skeleton):
    """Indices of the annotated root joints of the formats; without any of all annotated joints, or of all joints."""
    is_annotated = np.isfinite(true).all(axis=-1)
    roots = {int(_merged_indices(skeleton, fmt)[fmt.root])
             for fmt in skeleton.formats or (skeleton,) if fmt.root is not None}
    chosen = [root for root in sorted(roots) if is_annotated[root]] or list(np.flatnonzero(is_annotated))
    return chosen or list(range(skeleton.num_joints))


def _mean_point(points):
    """Mean of the finite ones of [n, 3] points; 0 without any."""
    finite = points[np.isfinite(points).all(axis=-1)]
    return finite.mean(axis=0) if len(finite) else np.zeros(3)


def _window(poses):
    """Centre [3] and half side length, mm, of a cube around the first pose that is large enough for all, in reason."""
    shown = [pose[np.isfinite(pose).all(axis=-1)] for pose in poses]
    shown = [points for points in shown if len(points)]
    if not shown:
        return np.zeros(3), _HALF_RANGES_MM[0]
    center = (shown[0].min(axis=0) + shown[0].max(axis=0)) / 2
    reach = max(np.abs(points - center).max() for points in shown)
    return center, float(np.clip(math.ceil(reach * 1.06 / 50) * 50, *_HALF_RANGES_MM))


def _curve_axes(records, title):
    """A figure for curves over the steps of all phases, and the phases: (name, first step, records)."""
    figure = Figure(figsize=(6.4, 3.7), layout="constrained")
    ax = figure.add_subplot()
    phases, start = [], 0
    for phase in dict.fromkeys(record["phase"] for record in records):
        part = [record for record in records if record["phase"] == phase]
        phases.append((phase, start, part))
        start += max(record["step"] for record in part)
    for i, (phase, first, part) in enumerate(phases):
        last = first + max(record["step"] for record in part)
        ax.axvspan(first, last, color="#f3f5f9" if i % 2 == 0 else "#fdf6ea", zorder=0, linewidth=0)
        # A short last phase has its name end where it ends, not run out of the picture.
        is_short = i == len(phases) - 1 and last - first < 0.15 * last
        ax.annotate(phase, (last if is_short else (first + last) / 2, 1.0), xycoords=("data", "axes fraction"),
                    xytext=(0, 3), textcoords="offset points", ha="right" if is_short else "center", va="bottom",
                    fontsize=9, color="#444444")
        if i:
            ax.axvline(first, color="#888888", linewidth=0.9)
    ax.set(yscale="log", xlim=(0, max(start, 1)))
    style_axes(ax, "training step", title)
    ax.tick_params(labelsize=9, which="both")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(lambda value, _: _minor_label(value, *ax.get_ylim()))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure, ax, phases


def _minor_label(value, lower, upper):
    """Labels 2 and 5 between the powers of ten where an axis has few of those."""
    leading_digit = f"{value:e}"[0]
    return f"{value:g}" if upper < 30 * lower and leading_digit in "25" else ""


def _curve(records, name, start):
    """Steps and values of one curve, without what is missing, not finite or not positive."""
    points = [(start + r["step"], r[name]) for r in records
              if isinstance(r.get(name), int | float) and math.isfinite(r[name]) and r[name] > 0]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _smooth(values):
    """Gaussian smoothing of the logarithms; near the ends over what is there."""
    sigma = _SMOOTHING_SHARE * len(values)
    if sigma < 0.5:
        return values
    offsets = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    weighted = np.convolve(np.log(values), kernel, mode="full")
    weights = np.convolve(np.ones(len(values)), kernel, mode="full")
    middle = slice(len(offsets) // 2, len(offsets) // 2 + len(values))
    return np.exp(weighted[middle] / weights[middle])


def _family_boundaries(skeleton):
    """Where in a merged joint list the joints of a format begin that were not there before."""
    known, boundaries = 0, []
    for fmt in skeleton.formats:
        joints = _merged_indices(skeleton, fmt)
        if known and joints.max() >= known:
            boundaries.append(known)
        known = max(known, int(joints.max()) + 1)
    return boundaries


def _hide_frame(ax):
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
