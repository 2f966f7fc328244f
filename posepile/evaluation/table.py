"""Scores as text for a terminal."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from posepile.evaluation import metrics
from posepile.evaluation.parts import Part, parts_of
from posepile.evaluation.protocols import threedpw
from posepile.evaluation.published import EXPLANATION, SOURCE, PublishedRow, published_rows
from posepile.evaluation.scoring import HEADLINE_METRICS

WIDTH = 100
_MAX_MEMBERS = 24  # of a group; the files have all
_MAX_LABEL = 40  # columns; of longer ones the middle is left out
_HEAD_WIDTH = 11  # longer names of models are broken at _ and /

METRICS = (*(f"{prefix}mpjpe" for prefix in ("", "pa_", "n_", "a_")), *(f"pck{t}" for t in metrics.PCK_THRESHOLDS_MM),
           *(f"auc{t}" for t in metrics.AUC_THRESHOLDS_MM), "auc31", *(f"cps{t}" for t in metrics.CPS_THRESHOLDS_MM),
           *(f"cps_auc{t}" for t in metrics.CPS_THRESHOLDS_MM), *(f"apck{t}" for t in metrics.APCK_THRESHOLDS_MM))
"""Of every flat mean, in the order of the tables."""

LABELS = {
    "mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE, mm", "n_mpjpe": "N-MPJPE, mm", "a_mpjpe": "A-MPJPE, mm",
    **{f"pck{t}": f"PCK@{t}, %" for t in metrics.PCK_THRESHOLDS_MM},
    **{f"auc{t}": f"AUC@{t}, %" for t in metrics.AUC_THRESHOLDS_MM}, "auc31": "AUC, 31 steps, %",
    **{f"cps{t}": f"CPS@{t}, %" for t in metrics.CPS_THRESHOLDS_MM},
    **{f"cps_auc{t}": f"CPS-AUC@{t}, %" for t in metrics.CPS_THRESHOLDS_MM},
    **{f"apck{t}": f"APCK@{t}, %" for t in metrics.APCK_THRESHOLDS_MM},
    # of single benchmarks
    **{f"mpjpe{n}": f"MPJPE, {n} joints, mm" for n in (14, 16, 17)}, "a_mpjpe17": "A-MPJPE, 17 joints, mm",
    "aauc31": "AAUC, 31 steps, %", "auc": "AUC, %", "recall": "recall, %",
    **{f"ncps{t}": f"NCPS@{t}, %" for t in threedpw.NCPS_THRESHOLDS_MM},
    f"ncps_auc{threedpw.NCPS_AUC_MM}": f"NCPS-AUC@{threedpw.NCPS_AUC_MM}, %",
    "total": "inconsistency, mm", "depth": "  in depth, mm", "image_plane": "  in the image plane, mm",
    "inconsistency": "inconsistency, mm", "inconsistency_depth": "  in depth, mm",
    "inconsistency_image_plane": "  in the image plane, mm",
}
_INCONSISTENCY = ("total", "depth", "image_plane")
_STAMP_ORDER = ("data", "split", "boxes", "joints", "root", "annotation", "averaging", "num_poses", "recall")
_UNSAID_STAMP = ("protocol", "dataset", "num_joints", "predictions", "annotations", "num_groups", "num_resamples",
                 "confidence")
_EXCEPTIONS = {"num_nonfinite": "with a prediction that is not finite", "num_without_root": "without an annotated root",
               "num_unaligned": "with fewer than 3 annotated joints"}
_STAMP_WORDS = {"data": "{}", "split": "{} split", "boxes": "boxes {}", "joints": "{}", "annotation": "annotation: {}",
                "averaging": "averaging: {}",
                "num_poses": "{} poses", "recall": "recall {:.2f} %", "resampled": "{} resampled", "pck_joints": "PCK of {}",
                "threshold": "thresholds {}", "num_aug": "{} crop(s) per person", "flip": "flip: {}"}


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
        return LABELS[name], cells

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
        *(line(LABELS[name], name, "pooled", name) for name in first["pooled"]),
        *(line(LABELS[name], name, "inconsistency", name) for name in first.get("inconsistency", ()))])]
    if len(formats) > 1:
        sections += [(fmt, [line(LABELS[name], name, "formats", fmt, name) for name in HEADLINE_METRICS])
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


def format_metrics(record: Mapping, source: str = "this evaluation") -> str:
    """Lays out a record of a protocol or of `benchmark.evaluate_dataset`.

    Args:
        record: see `parts.parts_of`.
        source: what is scored, for its line among the published rows.

    Returns: aligned tables of at most 100 columns, each under its stamp: every part with its intervals, the published rows
        that are comparable, and the members of the groups except for single joints.
    """
    parts = parts_of(record)
    blocks = []
    for _, columns in itertools.groupby(parts, lambda part: part.name.partition("/")[0]):
        columns = list(columns)
        blocks += [_part_block(columns), *_group_blocks(columns[0])]
        if columns[0] is parts[0] and (rows := published_rows(parts[0].stamp.get("protocol", ""))):
            blocks.append(_published_block(parts[0], rows, source))
    return "\n\n".join(blocks)


def format_stamp(stamp: Mapping, common: Mapping | None = None) -> str:
    """A stamp in words: the data first, then joints, root, annotation, averaging, poses, recall, and what else there is.

    Args: common: entries that are said elsewhere are left out; what differs from it is not.
    """
    order = [name for name in (*_STAMP_ORDER, *stamp) if name in stamp and name not in _UNSAID_STAMP]
    said = {name: stamp[name] for name in dict.fromkeys(order) if name not in (common or {}) or common[name] != stamp[name]}
    return "; ".join(_STAMP_WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(_shown(name, value))
                     for name, value in said.items())


def format_exceptions(counts: Mapping) -> str:
    """What follows the number of poses in a stamp: how many of them lack a metric and why, and how many do not count.

    Args: counts: of `metrics.count_poses`, maybe not all of them.
    """
    undefined, empty = counts.get("num_undefined"), counts.get("num_empty")
    reasons = ", ".join(f"{counts[name]} {reason}" for name, reason in _EXCEPTIONS.items() if counts.get(name))
    return ((f"; {undefined} of them with an undefined metric{f': {reasons}' * bool(reasons)}" if undefined else "")
            + (f"; {empty} more without an annotated joint do not count" if empty else ""))


def group_metrics(members: Mapping[str, Part]) -> list[str]:
    """Which metrics of a group to show: the headline ones, or all where it has few, and the recall."""
    known = dict.fromkeys(name for member in members.values() for name in member.metrics)
    shown = (*HEADLINE_METRICS, "recall") if "pa_mpjpe" in known else known
    return [name for name in shown if name in known and name in LABELS]


def _shown(name, value):
    """Long lists of joints as their number: the files have their names."""
    if name in ("joints", "pck_joints") and value.count(", ") > 3:
        return f"{value.count(', ') + 1} joints"
    return value


def _part_block(columns: Sequence[Part]) -> str:
    """Parts beside each other, under the stamp that they share and what each of them has of its own."""
    first = columns[0]
    title = first.name.partition("/")[0].replace("_", " ")
    shared = {name: value for name, value in first.stamp.items() if all(part.stamp.get(name) == value for part in columns)}
    names = [part.name.rpartition("/")[2] for part in columns]
    lines = _wrapped(f"{title}: {format_stamp(shared)}{format_exceptions(first.metrics)}", WIDTH)
    for part, name in zip(columns, names, strict=True):
        if own := format_stamp(part.stamp, shared):
            lines += _wrapped(f"- {name}: {own}", WIDTH)
    heads = names if len(columns) > 1 else ["value"]
    rows = [(LABELS[name], [_with_interval(part, name) for part in columns])
            for name in dict.fromkeys(name for part in columns for name in part.metrics) if name in LABELS]
    return "\n".join([*map(str.rstrip, lines), "", _layout([(f"{100 * shared['confidence']:g} % intervals", rows)], heads)])


def _group_blocks(part: Part) -> list[str]:
    """A table for each group of a part: a line per member, the one with the largest error first where they are many."""
    blocks = []
    for group, members in part.groups.items():
        if group == "joint":
            continue
        names = group_metrics(members)
        shown = list(members.values())
        legend = ""
        if len(shown) > _MAX_MEMBERS:
            shown.sort(key=lambda member: -_sortable(member.metrics.get(names[0])))
            shown = shown[:_MAX_MEMBERS]
            legend = f"\nThe {_MAX_MEMBERS} of {len(members)} with the largest {LABELS[names[0]].partition(',')[0]}."
        rows = [(_shortened(member.name), [*(_number(member.metrics.get(name), 2) for name in names),
                                           str(member.metrics.get("num_poses", "-"))]) for member in shown]
        title = f"{part.name.replace('_', ' ')}: per {group}"
        blocks.append(_layout([(title, rows)], [*map(_head, names), "poses"]) + legend)
    return blocks


def _published_block(part: Part, rows: Sequence[PublishedRow], source: str) -> str:
    def line(label, values):
        return label, [_number(values.get(name)) for name in HEADLINE_METRICS]

    shown = [line(row.label, row.metrics) for row in rows if row.table == "S2"]
    legend = f"{EXPLANATION} S3 and S4 are in the files of --output-dir."
    table = _layout([(f"published, {SOURCE}", [line(_shortened(source), part.metrics), *shown])],
                    list(map(_head, HEADLINE_METRICS)))
    return "\n".join([table, "", *map(str.rstrip, _wrapped(legend, WIDTH))])


def _head(name):
    label, _, unit = LABELS[name].rpartition(", ")
    return f"{label} {unit}"


def _with_interval(part, name):
    value = part.metrics.get(name)
    low, high = part.intervals.get(name, (None, None))
    text = _number(value, 2)
    return f"{text} [{low:6.2f}, {high:6.2f}]" if _is_number(low) else text


def _sortable(value):
    return value if _is_number(value) else math.inf


def _shortened(text):
    half = (_MAX_LABEL - 1) // 2
    return text if len(text) <= _MAX_LABEL else f"{text[:half]}…{text[-half:]}"


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
    return 1 if LABELS[name].endswith("%") else -1


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
