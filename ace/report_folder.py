"""The folder of a report: its text, its numbers as JSON, and pictures."""

import json
import pathlib

import numpy as np

from ace.autoencoder import AffineAutoencoder
from ace.body_drawing import latents_figure
from ace.drawing import error_figure, figure_png, objective_figure, weights_figure
from ace.files import write_whole

REPORT_FILES = ("report.txt", "report.json", "weights.png", "objective.png", "latents.png", "error_per_joint.png")


def to_json(figures: dict) -> str:
    """The figures of `ace.report.measure` as JSON text."""
    return json.dumps(figures, indent=2, allow_nan=False)


def write_report(folder: pathlib.Path, text: str, figures: dict, autoencoder: AffineAutoencoder,
                 poses: np.ndarray | None, masks: np.ndarray | None) -> list[pathlib.Path]:
    """Writes those of REPORT_FILES there is something for, and removes the others, left from another report.

    Without a history there is no objective.png, without poses no latents.png and no error_per_joint.png.

    Returns: the paths written.
    """
    pictures = {"weights.png": weights_figure(autoencoder)}
    if len(autoencoder.history):
        pictures["objective.png"] = objective_figure(autoencoder.history)
    if poses is not None:
        pictures["latents.png"] = latents_figure(autoencoder, poses, masks)
        pictures["error_per_joint.png"] = error_figure(autoencoder, figures["errors"])
    contents = {"report.txt": f"{text}\n".encode(), "report.json": f"{to_json(figures)}\n".encode(),
                **{name: figure_png(picture) for name, picture in pictures.items()}}
    for name, content in contents.items():
        write_whole(folder / name, content)
    for name in set(REPORT_FILES) - set(contents):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in contents]
