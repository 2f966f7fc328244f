"""Pictures of an autoencoder's numbers: its weights, the course of the objective, and the error of every joint.

All joints stand below each other, in their formats; a long list is folded into panels side by side.
"""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ace.autoencoder import AffineAutoencoder
from ace.report import latent_labels
from posepile.geometry.skeleton import joint_indices

DPI = 100
MAX_PANEL_ROWS = 210
# Of a list that fits into one panel, and of a longer one: row and column inches, font points, inches of a letter.
SINGLE_PANEL, MANY_PANELS = (0.14, 0.19, 7.5, 0.062), (0.11, 0.095, 6.2, 0.052)
BAR_INCHES = 2.2  # of the largest error
ERROR_3D_COLOR, ERROR_IMAGE_COLOR = "#b9c4d6", "#28527a"
_SIDE_INCHES, _BOTTOM_INCHES, _GAP_INCHES, _SCALE_INCHES = 0.2, 0.5, 0.25, 0.9


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def weights_figure(autoencoder: AffineAutoencoder) -> Figure:
    """Encoder (transposed) and decoder side by side: a row per joint, a column per latent point, formats and sides marked.

    A latent point is labelled with its name and the joint that has the largest weight in it.
    """
    labels = latent_labels(autoencoder)
    row_inches, column_inches, font_size, letter = _sizes(autoencoder)
    columns = autoencoder.num_latents * column_inches
    panels = _Panels(autoencoder, 2 * columns + _GAP_INCHES, top_inches=0.6 + letter * max(map(len, labels)),
                     scale_inches=_SCALE_INCHES)
    limit = max(float(np.abs(autoencoder.encoder).max()), float(np.abs(autoencoder.decoder).max()))
    for rows, left in panels:
        for title, weights in (("encoder, transposed", autoencoder.encoder.T), ("decoder", autoencoder.decoder)):
            axes = panels.add_axes(left, columns, rows)
            image = axes.imshow(_shade(weights[rows] / limit), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto",
                                interpolation="none", extent=(-0.5, len(labels) - 0.5, rows.stop - 0.5, rows.start - 0.5))
            axes.set_xticks(np.arange(len(labels)), labels, rotation=90, fontsize=font_size)
            axes.xaxis.tick_top()
            panels.label_rows(axes, rows, with_joints=title != "decoder", with_formats=title == "decoder")
            axes.set_xlabel(title, fontsize=font_size + 2)
            _mark_sides(axes, autoencoder, 1 + (panels.top_inches - 0.3) / (row_inches * (rows.stop - rows.start)),
                        font_size)
            left += columns + _GAP_INCHES
    shades = panels.add_scale()
    ticks = np.array([-1, -0.5, -0.1, 0, 0.1, 0.5, 1])
    panels.figure.colorbar(image, cax=shades, ticks=_shade(ticks))
    shades.set_yticklabels([f"{limit * t:.2g}" for t in ticks], fontsize=SINGLE_PANEL[2])
    return panels.figure


def objective_figure(history: np.ndarray) -> Figure:
    """The objective over the sweeps of a fit: [n, 2], n > 0."""
    figure = Figure((7, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    sweeps, objective = np.asarray(history, np.float64).T
    axes.plot(sweeps, objective, color=ERROR_IMAGE_COLOR, marker="o", markersize=3)
    axes.set_yscale("log" if (objective > 0).all() else "linear")
    axes.yaxis.set_minor_formatter("{x:.4g}")
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.set_xlabel("iteration: sweeps, then refinements")
    axes.set_ylabel("objective")
    axes.set_title(f"{objective[-1]:.5f} after {sweeps[-1]:.0f} iterations")
    axes.grid(alpha=0.3, which="both")
    return figure


def error_figure(autoencoder: AffineAutoencoder, errors: dict) -> Figure:
    """A bar per joint: mean reconstruction error in 3D and, before it, on the image plane.

    Args: errors: the `errors` of `ace.report.measure`.
    """
    means = np.array([[joint[key]["mean"] if joint[key] else np.nan for key in ("error_3d", "error_image")]
                      for joint in errors["joints"]])
    font_size = _sizes(autoencoder)[2]
    panels = _Panels(autoencoder, BAR_INCHES, top_inches=0.7, scale_inches=0)
    limit = 1.05 * np.nanmax(means)
    for rows, left in panels:
        axes = panels.add_axes(left, BAR_INCHES, rows)
        y = np.arange(rows.start, rows.stop)
        for values, height, color, label in zip(means[rows].T, (0.8, 0.5), (ERROR_3D_COLOR, ERROR_IMAGE_COLOR),
                                                ("3D", "image plane"), strict=True):
            axes.barh(y, np.nan_to_num(values), height, color=color, label=label)
        for row in y[np.isnan(means[rows, 0])]:
            axes.text(0.01 * limit, row, "no valid joint", va="center", fontsize=font_size, color="0.4")
        axes.set_xlim(0, limit)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=font_size, labeltop=True)
        panels.label_rows(axes, rows, with_joints=True, with_formats=True)
        axes.set_xlabel("mean error, mm", fontsize=font_size + 2)
        if rows.start == 0:
            handles, labels = axes.get_legend_handles_labels()
            panels.figure.legend(handles, labels, loc="upper left", ncols=2, fontsize=9, frameon=False)
    return panels.figure


def format_blocks(autoencoder: AffineAutoencoder) -> list[tuple[str, int, int]]:
    """Name, first row and end of the joints that each format adds to the joint list."""
    skeleton = autoencoder.skeleton
    if not skeleton.formats:
        return [(skeleton.name, 0, skeleton.num_joints)]
    blocks, start = [], 0
    for fmt in skeleton.formats:
        end = max(start, 1 + int(joint_indices(skeleton, fmt).max()))
        if end > start:
            blocks.append((fmt.name, start, end))
        start = end
    return blocks


class _Panels:
    """A figure with the joint list folded into panels; iterates over (rows as a slice, left edge in inches).

    Args:
        content_inches: width of a panel between joint and format names.
        scale_inches: width kept free at the right end of the figure.
    """

    def __init__(self, autoencoder, content_inches, top_inches, scale_inches):
        self.row_inches, _, self.font_size, letter = _sizes(autoencoder)
        self.joint_names, self.blocks = autoencoder.joint_names, format_blocks(autoencoder)
        self.content_inches, self.top_inches = content_inches, top_inches
        self.label_inches = _SIDE_INCHES + letter * max(map(len, self.joint_names))
        self.panel_inches = self.label_inches + content_inches + _SIDE_INCHES + letter * max(
            len(name) for name, _, _ in self.blocks)
        self.num_panels = _num_panels(autoencoder)
        self.rows = -(-autoencoder.num_joints // self.num_panels)
        self.width = self.num_panels * self.panel_inches + scale_inches
        self.height = top_inches + self.rows * self.row_inches + _BOTTOM_INCHES
        self.figure = Figure((self.width, self.height), dpi=DPI, facecolor="white")

    def __iter__(self):
        for panel in range(self.num_panels):
            rows = slice(panel * self.rows, min((panel + 1) * self.rows, len(self.joint_names)))
            yield rows, panel * self.panel_inches + self.label_inches

    def add_axes(self, left, width, rows):
        height = (rows.stop - rows.start) * self.row_inches
        bottom = self.height - self.top_inches - height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.set_ylim(rows.stop - 0.5, rows.start - 0.5)
        axes.tick_params(length=0)
        return axes

    def add_scale(self):
        height = min(self.rows * self.row_inches, 3.0)
        return self.figure.add_axes((1 - 0.7 / self.width, 1 - (self.top_inches + height) / self.height,
                                     0.15 / self.width, height / self.height))

    def label_rows(self, axes, rows, with_joints, with_formats):
        names = self.joint_names[rows] if with_joints else [""] * (rows.stop - rows.start)
        axes.set_yticks(np.arange(rows.start, rows.stop), names, fontsize=self.font_size)
        axes.set_ylim(rows.stop - 0.5, rows.start - 0.5)
        for name, start, end in self.blocks:
            first = max(start, rows.start)
            if first >= min(end, rows.stop):
                continue
            if start > rows.start:
                axes.axhline(start - 0.5, color="0.35", linewidth=0.8)
            if with_formats:
                axes.annotate(name, (1, first), xytext=(4, 0), xycoords=axes.get_yaxis_transform(),
                              textcoords="offset points", va="center", fontsize=self.font_size, color="0.25",
                              weight="bold", annotation_clip=False)


def _num_panels(autoencoder):
    return -(-autoencoder.num_joints // MAX_PANEL_ROWS)


def _sizes(autoencoder):
    return SINGLE_PANEL if _num_panels(autoencoder) == 1 else MANY_PANELS


def _mark_sides(axes, autoencoder, top, font_size):
    left, centre = autoencoder.num_left, autoencoder.num_left + autoencoder.num_right
    for border in {left, centre} - {0, autoencoder.num_latents}:
        axes.axvline(border - 0.5, color="0.35", linewidth=0.8)
    for name, start, end in (("left", 0, left), ("right", left, centre), ("centre", centre, autoencoder.num_latents)):
        if end > start:
            axes.text((start + end - 1) / 2, top, name, transform=axes.get_xaxis_transform(), ha="center",
                      fontsize=font_size + 1.5)


def _shade(share):
    """Signed square root: small weights stay visible."""
    return np.sign(share) * np.sqrt(np.abs(share))
