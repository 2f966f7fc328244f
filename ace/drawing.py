"""The autoencoder's weights as a picture: one row per joint, one column per latent point."""

import os
import pathlib
import tempfile

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ace.autoencoder import AffineAutoencoder
from posepile.geometry.skeleton import joint_indices, plain_joint_names

ROW_INCHES, COLUMN_INCHES, LETTER_INCHES = 0.14, 0.19, 0.062
RIGHT_INCHES, BOTTOM_INCHES, GAP_INCHES = 0.9, 0.45, 0.35
DPI = 100
FONT_SIZE = 7.5


def draw_weights(autoencoder: AffineAutoencoder, path: str | os.PathLike) -> None:
    """Writes a PNG: encoder (transposed) and decoder side by side, formats and sides of the body marked.

    A latent point is labelled with the joint that has the largest weight in it.
    """
    names = plain_joint_names(autoencoder.skeleton)
    latent_labels = [names[j] for j in autoencoder.encoder.argmax(axis=1)]
    rows, columns = autoencoder.num_joints * ROW_INCHES, autoencoder.num_latents * COLUMN_INCHES
    label_inches = LETTER_INCHES * max(map(len, latent_labels))
    left = 0.2 + LETTER_INCHES * max(map(len, autoencoder.joint_names))
    width, height = left + 2 * columns + GAP_INCHES + RIGHT_INCHES, label_inches + 0.5 + rows + BOTTOM_INCHES
    figure = Figure((width, height), dpi=DPI)
    limit = max(float(np.abs(autoencoder.encoder).max()), float(np.abs(autoencoder.decoder).max()))
    for title, weights in (("encoder, transposed", autoencoder.encoder.T), ("decoder", autoencoder.decoder)):
        axes = figure.add_axes((left / width, BOTTOM_INCHES / height, columns / width, rows / height))
        image = axes.imshow(_shade(weights / limit), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto",
                            interpolation="none")
        axes.set_xticks(np.arange(len(latent_labels)), latent_labels, rotation=90, fontsize=FONT_SIZE)
        axes.xaxis.tick_top()
        joint_labels = autoencoder.joint_names if title != "decoder" else [""] * autoencoder.num_joints
        axes.set_yticks(np.arange(autoencoder.num_joints), joint_labels, fontsize=FONT_SIZE)
        axes.tick_params(length=0)
        axes.set_xlabel(title, fontsize=FONT_SIZE + 2)
        _mark_blocks(axes, autoencoder, 1 + (label_inches + 0.2) / rows)
        left += columns + GAP_INCHES
    shades = figure.add_axes((1 - (RIGHT_INCHES - 0.2) / width, BOTTOM_INCHES / height, 0.15 / width,
                              min(rows, 3.0) / height))
    ticks = np.array([-1, -0.5, -0.1, 0, 0.1, 0.5, 1])
    figure.colorbar(image, cax=shades, ticks=_shade(ticks))
    shades.set_yticklabels([f"{limit * t:.2g}" for t in ticks], fontsize=FONT_SIZE)
    _save(figure, pathlib.Path(path))


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


def _mark_blocks(axes, autoencoder, top):
    style = {"color": "0.35", "linewidth": 0.8}
    for _, start, _ in format_blocks(autoencoder)[1:]:
        axes.axhline(start - 0.5, **style)
    left, centre = autoencoder.num_left, autoencoder.num_left + autoencoder.num_right
    for border in {left, centre} - {0, autoencoder.num_latents}:
        axes.axvline(border - 0.5, **style)
    for name, start, end in (("left", 0, left), ("right", left, centre), ("centre", centre, autoencoder.num_latents)):
        if end > start:
            axes.text((start + end - 1) / 2, top, name, transform=axes.get_xaxis_transform(), ha="center",
                      fontsize=FONT_SIZE + 1.5)


def _shade(share):
    """Signed square root: small weights stay visible."""
    return np.sign(share) * np.sqrt(np.abs(share))


def _save(figure, path):
    """Under its final name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            FigureCanvasAgg(figure).print_png(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
