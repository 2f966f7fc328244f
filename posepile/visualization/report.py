"""The report of a training run: one HTML file with everything in it, tables, curves and pictures."""

import dataclasses
import html
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posepile.data.atomic_files import atomic_file
from posepile.geometry.skeleton import Skeleton
from posepile.visualization import page, plots

# label, unit, key in a metrics record, +1 where more is better and -1 where less is
_HEADLINE = (
    ("MPJPE", "mm", "mpjpe", -1), ("PA-MPJPE", "mm", "pa_mpjpe", -1),
    ("PCK@100", "%", "pck100", 1), ("CPS@200", "%", "cps200", 1),
)
_INCONSISTENCY = (
    ("Inconsistency", "mm", "total", -1), ("· in depth", "mm", "depth", -1),
    ("· in the image plane", "mm", "image_plane", -1),
)
_ALL_METRICS = (
    ("MPJPE", "mm", "mpjpe"), ("PA-MPJPE", "mm", "pa_mpjpe"), ("N-MPJPE", "mm", "n_mpjpe"),
    ("A-MPJPE", "mm", "a_mpjpe"),
    *((f"PCK@{t}", "%", f"pck{t}") for t in (50, 100, 150)), *((f"AUC@{t}", "%", f"auc{t}") for t in (50, 100, 150)),
    ("AUC, 31 steps", "%", "auc31"),
    *((f"CPS@{t}", "%", f"cps{t}") for t in (100, 150, 200)),
    *((f"CPS-AUC@{t}", "%", f"cps_auc{t}") for t in (100, 150, 200)),
    *((f"APCK@{t}", "%", f"apck{t}") for t in (150, 300)),
    ("poses scored", "", "num_poses"), ("of them with an undefined metric", "", "num_undefined"),
)


@dataclasses.dataclass(frozen=True)
class ReportSamples:
    """Test images with poses to draw; n images.

    Attributes:
        images: [n, height, width, 3] uint8 RGB crops.
        intrinsics: [n, 3, 3] of the crops, px.
        joints3d_true: [n, num_joints, 3] of the merged skeleton, camera space, mm.
        validity: [n, num_joints] bool: which annotations there are.
        joints3d_pred: {model: [n, num_joints, 3]}, camera space, mm; in the order of the pictures.
        labels: a line of text for each image, e.g. where it is from; or empty.
    """

    images: np.ndarray
    intrinsics: np.ndarray
    joints3d_true: np.ndarray
    validity: np.ndarray
    joints3d_pred: Mapping[str, np.ndarray]
    labels: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ReportContent:
    """What a report shows. What is missing (None, empty) is left out.

    Attributes:
        settings: of the run, as in config.json; nested tables are flattened for display.
        metrics: {model: score}, in the order of the columns, each with `pooled` and `formats` ({format name: metrics
            record}) and `inconsistency` (`total`, `depth`, `image_plane`, `per_joint`). Of two models the change from the
            first to the second is shown.
        skeleton: of the test set.
        baseline: `pooled` and `formats` of the mean training pose as prediction.
        training_log: records with `phase`, `step`, `loss`, further `loss_...` terms, and `learning_rate...`.
        samples: test images to show.
        encoder, decoder: the autoencoder's weights, [num_latents, num_joints] and [num_joints, num_latents].
        autoencoder_skeleton: of its joints; None: `skeleton`.
        measurements: further numbers about the run, e.g. seconds per phase: {label: value}.
        title: heading of the page.
    """

    settings: Mapping[str, Any]
    metrics: Mapping[str, Mapping]
    skeleton: Skeleton
    baseline: Mapping | None = None
    training_log: Sequence[Mapping] = ()
    samples: ReportSamples | None = None
    encoder: np.ndarray | None = None
    decoder: np.ndarray | None = None
    autoencoder_skeleton: Skeleton | None = None
    measurements: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    title: str = "Training report"


def write_report(path: str | pathlib.Path, content: ReportContent) -> None:
    """Writes the report: one HTML file that needs no other file and no network. Raises: OSError."""
    page = render_report(content).encode()
    with atomic_file(pathlib.Path(path)) as file:
        file.write(page)


def render_report(content: ReportContent) -> str:
    """The report as the text of an HTML page."""
    sections = [
        f'<div class="pair"{_table_width(content)}>{_headline_section(content)}{_inconsistency_section(content)}</div>',
        _formats_section(content), _samples_section(content), _training_section(content), _autoencoder_section(content),
        _metrics_section(content), _settings_section(content),
    ]
    return page.render_page(content.title, "".join(section for section in sections if section))


def _headline_section(content):
    scores = _scores(content)
    rows = [_metric_row(label, unit, [score["pooled"].get(key) for _, score in scores], content, direction)
            for label, unit, key, direction in _HEADLINE]
    rows += [_metric_row(label, unit, [(score.get("inconsistency") or {}).get(key) for _, score in scores], content,
                         direction) for label, unit, key, direction in _INCONSISTENCY]
    formats = ", ".join(fmt.name for fmt in content.skeleton.formats or (content.skeleton,))
    caption = (
        f"Test set, pooled over all joints of the formats {html.escape(formats)}; root-relative to each format's own "
        "root, which counts as a joint. MPJPE: mean distance between predicted and true joints, PA-MPJPE: after the "
        "best rotation, translation and scale of each pose (mm, less is better). PCK@100: joints off by less than "
        "100 mm; CPS@200: poses with every joint off by less than 200 mm (%, more is better). Inconsistency: by how "
        "much the formats' predictions of equally named joints deviate from each other, beyond what their annotations "
        "do (mm, less is better).")
    if content.baseline:
        caption += " Mean pose: the average training pose, whatever the image shows."
    if len(content.metrics) > 1:
        caption += " The best of the models is bold."
    return page.section("Results", page.table(["", *_heads(content)], rows) + page.paragraph(caption))


def _formats_section(content):
    scores = _scores(content)
    names = list(dict.fromkeys(name for _, score in scores for name in score["formats"]))
    if len(names) < 2:
        return ""
    colors = plots.format_colors(content.skeleton)
    blocks = []
    for name in names:
        rows = [_metric_row(label, unit, [score["formats"].get(name, {}).get(key) for _, score in scores], content,
                            direction) for label, unit, key, direction in _HEADLINE]
        blocks.append(f'<div><h3>{_swatch(colors.get(name))}{html.escape(name)}</h3>'
                      f'{page.table(["", *_heads(content)], rows)}</div>')
    caption = "Each joint format scored for itself, in its own joints and relative to its own root; units as above."
    cards = f'<div class="cards"{_table_width(content)}>{"".join(blocks)}</div>'
    return page.section("Per format", cards + page.paragraph(caption))


def _inconsistency_section(content):
    per_joint = {model: score["inconsistency"]["per_joint"] for model, score in content.metrics.items()
                 if (score.get("inconsistency") or {}).get("per_joint")}
    if not per_joint:
        return ""
    caption = ("Mean distance in mm between two formats' predictions of a joint that both name alike, after "
               "subtracting the offset between their annotations of it. 0 would mean that the formats agree as they "
               "should.")
    return page.section("Inconsistency per joint", page.figure([plots.inconsistency_bars(per_joint)], caption,
                                                       "Bars: inconsistency in mm per joint name",
                                                       "small"))


def _samples_section(content):
    samples = content.samples
    if samples is None or not len(samples.images):
        return ""
    rows = []
    for i, image in enumerate(samples.images):
        pictures = plots.pose_comparison(
            image, samples.intrinsics[i], samples.joints3d_true[i], samples.validity[i],
            {model: poses[i] for model, poses in samples.joints3d_pred.items()}, content.skeleton)
        figures = [f'<figure><figcaption class="head">{html.escape(name)}</figcaption>'
                   f'{page.image(png, f"Test image {i + 1}, {name}: overlay, front and side view")}</figure>'
                   for name, png in pictures.items()]
        label = html.escape(samples.labels[i]) if i < len(samples.labels) else ""
        head = f"Image {i + 1}" + (f": {label}" if label else "")
        rows.append(f'<h3>{head}</h3><div class="views">{"".join(figures)}</div>')
    legend = "".join(f"<span>{_swatch(color)}{html.escape(name)}</span>"
                     for name, color in plots.format_colors(content.skeleton).items())
    caption = (
        "Test images with the skeletons of all formats, one colour per format: drawn over the image, seen from the "
        "front (as the camera does) and from the side (depth to the right). Gray: the truth, moved so that the root "
        f"joints coincide; grid lines are {plots.GRID_MM} mm apart. Where the colours come apart more than they do in "
        "the truth, the formats are inconsistent.")
    return page.section("Test images", f'<p class="legend">{legend}</p>{page.paragraph(caption)}{"".join(rows)}')


def _training_section(content):
    log = [record for record in content.training_log if "phase" in record and "step" in record]
    if not log:
        return ""
    keys = list(dict.fromkeys(key for record in log for key in record))
    terms = [key for key in keys if key.startswith("loss_")]
    rates = [key for key in keys if key.startswith("learning_rate")]
    figures = []
    phases = "The background shows the phases. "
    if "loss" in keys:
        caption = ("Training loss (sum of the weighted terms; lengths in metres), logarithmic, over the training step. "
                   "Bold: smoothed, faint: as logged. " + phases)
        figures.append(page.figure([plots.loss_curves(log, ["loss"], "loss")], caption, "Curve of the training loss"))
    if terms:
        caption = ("The terms of the loss before weighting (mean absolute error in metres), logarithmic, smoothed. "
                   + phases)
        figures.append(page.figure([plots.loss_curves(log, terms, "loss term, m")], caption, "Curves of the loss terms"))
    if rates:
        caption = "Learning rate of the optimiser (no unit), logarithmic, over the training step. " + phases
        figures.append(page.figure([plots.learning_rate_curves(log, rates)], caption, "Curves of the learning rates"))
    return page.section("Training", f'<div class="cards wide">{"".join(figures)}</div>') if figures else ""


def _autoencoder_section(content):
    if content.encoder is None or content.decoder is None:
        return ""
    encoder, decoder = np.asarray(content.encoder, np.float64), np.asarray(content.decoder, np.float64)
    num_latents, num_joints = encoder.shape
    small = 100 * np.mean(np.abs(np.concatenate([encoder.ravel(), decoder.ravel()])) < 0.01)
    negative = [weights.clip(max=0).sum(axis=1).mean() for weights in (encoder, decoder)]
    caption = (
        f"Weights (no unit) of the affine-combining autoencoder: {num_joints} joints, {num_latents} latent points. "
        "Each latent point is a weighted mean of the joints (encoder), each joint a weighted mean of the latent points "
        f"(decoder). Blue: positive, red: negative, white: zero. {small:.0f} % of the weights are smaller than 0.01; "
        f"the negative ones of a latent point add up to {negative[0]:.2f} on average, those of a joint to "
        f"{negative[1]:.2f}.")
    png = plots.autoencoder_weights(encoder, decoder, content.autoencoder_skeleton or content.skeleton)
    return page.section("Autoencoder", page.figure([png], caption, "Autoencoder weights as two coloured matrices", "scroll"))


def _metrics_section(content):
    blocks = []
    for model, score in _scores(content):
        columns = dict(score["formats"])
        if len(columns) > 1:
            columns = {"all formats": score["pooled"], **columns}
        rows = [f"<tr><th>{html.escape(label)}{page.unit(unit)}</th>"
                + "".join(f"<td>{page.number(record.get(key), 0 if key.startswith('num_') else 1)}</td>"
                          for record in columns.values()) + "</tr>"
                for label, unit, key in _ALL_METRICS if any(key in record for record in columns.values())]
        blocks.append(f"<h3>{html.escape(model)}</h3>{page.table(['', *columns], rows)}")
    caption = (
        "N-MPJPE: after scaling each pose, A-MPJPE and APCK: in camera space, nothing subtracted. AUC, CPS-AUC: area "
        "under the PCK or CPS curve from 0 to the threshold; AUC, 31 steps: mean PCK over 0, 5, ..., 150 mm. "
        "Thresholds are in mm and strict. All formats: joints pooled, every (pose, format) pair one pose.")
    return page.section("All metrics", f"<details><summary>Show the tables</summary>{page.paragraph(caption)}{''.join(blocks)}"
                                   "</details>")


def _settings_section(content):
    blocks = []
    for title, table in (("Measured", content.measurements), ("Settings", content.settings)):
        rows = [f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in _flatten(table)]
        if rows:
            blocks.append(page.section(title, f'<div class="scroll"><table class="text">{"".join(rows)}</table></div>'))
    return "".join(blocks)


def _scores(content):
    """(heading, score) of what there is, the models last."""
    baseline = [("mean pose", content.baseline)] if content.baseline else []
    return [*baseline, *content.metrics.items()]


def _heads(content):
    return [name for name, _ in _scores(content)] + (["change"] if len(content.metrics) == 2 else [])


def _table_width(content):
    """How much room a table with a column for each model takes, for the style sheet."""
    return f' style="--table-width: {260 + 100 * len(_heads(content))}px"'


def _metric_row(label, unit, values, content, direction):
    cells = [page.number(value) for value in values]
    models = values[-len(content.metrics):]
    gains = [round(value, 1) * direction if page.is_number(value) else -math.inf for value in models]
    if min(gains) < max(gains):
        for i, gain in enumerate(gains, len(cells) - len(gains)):
            cells[i] = f"<b>{cells[i]}</b>" if gain == max(gains) else cells[i]
    last = ""
    if len(models) == 2:
        if all(map(page.is_number, models)):
            change = round(round(models[1], 1) - round(models[0], 1), 1)  # what a reader of the rounded numbers would work out
            kind = "good" if change * direction > 0 else "bad" if change else "same"
            last = f'<td class="{kind}">{_signed(change)}</td>'
        else:
            last = "<td>&ndash;</td>"
    sub = ' class="sub"' if label.startswith("·") else ""
    return (f"<tr{sub}><th>{html.escape(label)}{page.unit(unit)}</th>"
            f'{"".join(f"<td>{cell}</td>" for cell in cells)}{last}</tr>')


def _signed(value):
    return f"{value:+.1f}".replace("-", "&minus;")


def _swatch(color):
    return f'<i style="background:{color}"></i>' if color else ""


def _flatten(table, prefix=""):
    """Nested tables as (dotted key, text) pairs."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(_text, value))
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
