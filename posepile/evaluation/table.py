"""Scores as text for a terminal."""

import math
import re
from collections.abc import Mapping, Sequence

from posepile.evaluation import metrics
from posepile.evaluation.scoring import HEADLINE_METRICS

WIDTH = 100
_HEAD_WIDTH = 11  # longer names of models are broken at _ and /

_LABELS = {
    "mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE, mm", "n_mpjpe": "N-MPJPE, mm", "a_mpjpe": "A-MPJPE, mm",
    **{f"pck{t}": f"PCK@{t}, %" for t in metrics.PCK_THRESHOLDS_MM},
    **{f"auc{t}": f"AUC@{t}, %" for t in metrics.AUC_THRESHOLDS_MM}, "auc31": "AUC, 31 steps, %",
    **{f"cps{t}": f"CPS@{t}, %" for t in metrics.CPS_THRESHOLDS_MM},
    **{f"cps_auc{t}": f"CPS-AUC@{t}, %" for t in metrics.CPS_THRESHOLDS_MM},
    **{f"apck{t}": f"APCK@{t}, %" for t in metrics.APCK_THRESHOLDS_MM},
    "total": "inconsistency, mm", "depth": "  in depth, mm", "image_plane": "  in the image plane, mm",
}
_INCONSISTENCY = ("total", "depth", "image_plane")


def format_scores(scores: Mapping[str, Mapping], baseline: Mapping | None = None) -> str:
    """Lays results of `score_merged` side by side.

    Args:
        scores: {model: score}, in the order of the columns.
        baseline: score of the mean pose, from `mean_pose_baseline`, shown before the models.

    Returns: an aligned table, one line per metric: pooled over the formats first, then per format. With two models, the
        change from the first to the second and whether it is for the better; with more, the best of a line has a star. What
        is not defined is a dash.
    """
    columns = list(scores.values()) if baseline is None else [baseline, *scores.values()]
    heads = list(scores) if baseline is None else ["mean pose", *scores]
    if len(scores) == 2:
        heads.append(f"change{'':7}")

    def line(name, values):
        cells = [_number(value) for value in values]
        models = values[-len(scores):]
        if len(scores) == 2:
            cells.append(_change(*models, _direction(name)))
        elif len(scores) > 2:
            cells[-len(scores):] = _starred(models, _direction(name))
        return _LABELS[name], cells

    first = next(iter(scores.values()))
    sections = [("pooled over formats", [
        *(line(name, [score["pooled"].get(name) for score in columns]) for name in HEADLINE_METRICS),
        *(line(name, [score.get("inconsistency", {}).get(name) for score in columns]) for name in _INCONSISTENCY)])]
    sections += [(fmt, [line(name, [score["formats"].get(fmt, {}).get(name) for score in columns])
                        for name in HEADLINE_METRICS]) for fmt in first["formats"]]
    return _layout(sections, heads) + ("\n\n* the best of the models" if len(scores) > 2 else "")


def format_differences(record: Mapping) -> str:
    """Lays out a record with `differences` and `stamp`, see `comparison.compare_poses`.

    Returns: aligned tables: all metrics, the headline metrics per format, MPJPE per joint and per activity; a column for
        each model, and for each but the first its difference to the first with the interval and, where that leaves out 0,
        whether it is for the better. Columns that do not fit beside each other follow below.
    """
    stamp, differences = record["stamp"], record["differences"]
    heads = [stamp["reference"], *differences, *(f"{model} - {stamp['reference']}{'':7}" for model in differences)]

    def line(label, name, *path):
        entries = [_entry(tables, path) for tables in differences.values()]
        values = [entries[0]["reference"], *(entry["value"] for entry in entries)]
        return label, [*(_number(value, 2) for value in values), *(_difference(entry, _direction(name)) for entry in entries)]

    first = next(iter(differences.values()))
    formats = list(first["formats"])
    sections = [("pooled over formats" if len(formats) > 1 else formats[0], [
        *(line(_LABELS[name], name, "pooled", name) for name in first["pooled"]),
        *(line(_LABELS[name], name, "inconsistency", name) for name in first.get("inconsistency", ()))])]
    if len(formats) > 1:
        sections += [(fmt, [line(_LABELS[name], name, "formats", fmt, name) for name in HEADLINE_METRICS])
                     for fmt in formats]
    sections += [(f"MPJPE, mm: {fmt}", [line(joint, "mpjpe", "per_joint", fmt, joint) for joint in joints])
                 for fmt, joints in first["per_joint"].items()]
    if activities := first.get("per_activity"):
        sections.append(("MPJPE, mm: activities", [line(label, "mpjpe", "per_activity", label, "mpjpe")
                                                   for label in activities]))
    legend = (f"Differences to {stamp['reference']}; in brackets the {100 * stamp['confidence']:g} % interval, from "
              f"{stamp['num_resamples']} resamples of {stamp['num_groups']} {stamp['resampled']}, the same for all models. "
              "Better, worse: where the interval leaves out 0.")
    return "\n".join([_layout(sections, heads), "", *map(str.rstrip, _wrapped(legend, WIDTH))])


def format_metrics(record: Mapping) -> str:
    """Lays out the record of a protocol, see `protocols.flat.evaluate`: its stamp, then all metrics, one a line."""
    stamp = "  ".join(f"{name}: {value}" for name, value in record["stamp"].items())
    lines = [f"{name:12}  {value:10.2f}" if _is_number(value) and not float(value).is_integer() else
             f"{name:12}  {value if _is_number(value) else '-':>10}" for name, value in record["metrics"].items()]
    return "\n".join([stamp, *lines])


def _layout(sections: Sequence[tuple[str, Sequence[tuple[str, Sequence[str]]]]], heads: Sequence[str]) -> str:
    """Aligned tables of at most WIDTH columns, one per section (its title, and lines of a label and cells)."""
    label_width = max(len(text) for title, lines in sections for text in (title, *(label for label, _ in lines)))
    cell_widths = [max(len(cells[i]) for _, lines in sections for _, cells in lines) for i in range(len(heads))]
    heads = [_wrapped(head, max(width, _HEAD_WIDTH)) for head, width in zip(heads, cell_widths, strict=True)]
    widths = [max(width, *map(len, head)) for head, width in zip(heads, cell_widths, strict=True)]
    blocks = [[]]
    for i, width in enumerate(widths):
        if blocks[-1] and label_width + sum(widths[j] + 2 for j in blocks[-1]) + 2 + width > WIDTH:
            blocks.append([])
        blocks[-1].append(i)
    tables = []
    for title, lines in sections:
        for block in blocks:
            num_lines = max(len(heads[i]) for i in block)
            # Heads stand on the line of the title, those of several lines go on below.
            rows = [[title if n == 0 else "", *(heads[i][n] if n < len(heads[i]) else "" for i in block)]
                    for n in range(num_lines)]
            rows += [[label, *(cells[i] for i in block)] for label, cells in lines]
            texts = ["  ".join([row[0].ljust(label_width), *(cell.rjust(widths[i]) for cell, i in
                                                             zip(row[1:], block, strict=True))]).rstrip() for row in rows]
            texts.insert(num_lines, "-" * (label_width + sum(widths[i] + 2 for i in block)))
            tables.append("\n".join(texts))
    return "\n\n".join(tables)


def _wrapped(text, width):
    """Lines of at most `width`, broken at spaces and after _ and /; a longer piece stays whole."""
    lines = [""]
    for piece in re.findall(r"[^\s_/]+[_/]*\s*", text):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _direction(name):
    return 1 if _LABELS[name].endswith("%") else -1


def _verdict(gain):
    return f" {'better' if gain > 0 else 'worse' if gain < 0 else '':6}"


def _change(before, after, direction):
    if not (_is_number(before) and _is_number(after)):
        return f"-{_verdict(0)}"
    change = round(round(after, 1) - round(before, 1), 1)  # what a reader of the rounded numbers would work out
    return f"{change:+.1f}{_verdict(change * direction)}"


def _difference(entry, direction):
    difference, low, high = entry["difference"], entry["low"], entry["high"]
    if not _is_number(difference):
        return f"-{_verdict(0)}"
    if not _is_number(low):
        return f"{difference:+.2f}{_verdict(0)}"
    gain = difference * direction if low > 0 or high < 0 else 0
    return f"{difference:+.2f} [{low:+6.2f}, {high:+6.2f}]{_verdict(gain)}"


def _starred(values, direction):
    rounded = [round(value, 1) if _is_number(value) else None for value in values]
    best = max((value * direction for value in rounded if value is not None), default=None)
    is_best = [value is not None and value * direction == best for value in rounded]
    return [_number(value) + ("*" if star and not all(is_best) else " ") for value, star in zip(values, is_best, strict=True)]


def _entry(table, path):
    for key in path:
        table = table[key]
    return table


def _number(value, decimals=1):
    return f"{value:.{decimals}f}" if _is_number(value) else "-"


def _is_number(value):
    return value is not None and math.isfinite(value)
