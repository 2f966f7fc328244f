"""Scores as text for a terminal."""

import math
from collections.abc import Mapping

_HEADLINE = (("MPJPE, mm", "mpjpe", -1), ("PA-MPJPE, mm", "pa_mpjpe", -1), ("PCK@100, %", "pck100", 1),
             ("CPS@200, %", "cps200", 1))
_INCONSISTENCY = (("inconsistency, mm", "total"), ("  in depth, mm", "depth"),
                  ("  in the image plane, mm", "image_plane"))


def format_comparison(initial: Mapping, finetuned: Mapping | None = None, baseline: Mapping | None = None,
                      first_name: str = "initial") -> str:
    """Lays results of `score_merged` side by side.

    Args:
        initial, finetuned: scores of the model after the initial phase and after fine-tuning; finetuned may be missing.
        baseline: score of the mean pose, from `mean_pose_baseline`.
        first_name: what the column of `initial` is called.

    Returns: an aligned table, one line per metric: pooled over the formats first, then per format, with the change from
        initial to finetuned and whether it is for the better. What is not defined is a dash.
    """
    scores = [score for score in (baseline, initial, finetuned) if score is not None]
    heads = [head for head, score in (("mean pose", baseline), (first_name, initial), ("finetuned", finetuned))
             if score is not None]
    lines = [["pooled over formats", *heads]]
    for label, name, direction in _HEADLINE:
        lines.append(_line(label, [score["pooled"].get(name) for score in scores], direction, finetuned))
    for label, name in _INCONSISTENCY:
        lines.append(_line(label, [score.get("inconsistency", {}).get(name) for score in scores], -1, finetuned))
    for format_name in initial["formats"]:
        lines.append([])
        lines.append([format_name, *heads])
        for label, name, direction in _HEADLINE:
            values = [score["formats"].get(format_name, {}).get(name) for score in scores]
            lines.append(_line(label, values, direction, finetuned))
    if finetuned is not None:
        for line in lines:
            if line and line[1] == heads[0]:
                line.append("change")
    num_columns = max(map(len, lines))
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(num_columns)]
    rows = []
    for line in lines:
        cells = [cell.ljust(width) if i in (0, len(heads) + 2) else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=False))]
        rows.append("  ".join(cells).rstrip())
        if line and line[1] == heads[0]:
            rows.append("-" * (sum(widths) + 2 * (num_columns - 1)))
    return "\n".join(rows)


def _line(label, values, direction, finetuned):
    cells = [label, *("-" if not _is_number(value) else f"{value:.1f}" for value in values)]
    if finetuned is None:
        return cells
    before, after = values[-2:]
    if not (_is_number(before) and _is_number(after)):
        return [*cells, "-"]
    change = round(round(after, 1) - round(before, 1), 1)  # what a reader of the rounded numbers would work out
    return [*cells, f"{change:+.1f}", "" if change == 0 else "better" if change * direction > 0 else "worse"]


def _is_number(value):
    return value is not None and math.isfinite(value)


def format_metrics(record: Mapping) -> str:
    """Lays out the record of a protocol, see `protocols.flat.evaluate`: its stamp, then all metrics, one a line."""
    stamp = "  ".join(f"{name}: {value}" for name, value in record["stamp"].items())
    lines = [f"{name:12}  {value:10.2f}" if _is_number(value) and not float(value).is_integer() else
             f"{name:12}  {value if _is_number(value) else '-':>10}" for name, value in record["metrics"].items()]
    return "\n".join([stamp, *lines])
