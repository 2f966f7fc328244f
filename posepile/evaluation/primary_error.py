"""The mean primary error: one number of each benchmark, averaged over the benchmarks."""

from collections.abc import Mapping, Sequence

from posepile.evaluation.parts import parts_of
from posepile.evaluation.table import LABELS, METRICS

DEFAULT_METRIC = "mpjpe"


def parse_primaries(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Reads choices such as "h36m:pa_mpjpe".

    Args:
        texts: NAME:METRIC each.
        names: of the data sets that are evaluated.

    Returns: {data set: its primary metric}; mpjpe where none is chosen.
    Raises: ValueError naming what is unknown and what there is, or if the metrics have different units.
    """
    chosen = dict.fromkeys(names, DEFAULT_METRIC)
    for text in texts:
        name, separator, metric = text.partition(":")
        if not separator:
            raise ValueError(f"--primary={text} is not NAME:METRIC, such as {names[0]}:pa_mpjpe")
        if name not in chosen:
            raise ValueError(f"--primary={text}: {name} is not evaluated; what is: {', '.join(names)}")
        if metric not in METRICS:
            raise ValueError(f"--primary={text}: unknown metric {metric}; known ones: {', '.join(METRICS)}")
        chosen[name] = metric
    if len({_unit(metric) for metric in chosen.values()}) > 1:
        shown = ", ".join(f"{name}:{metric} in {_unit(metric)}" for name, metric in chosen.items())
        raise ValueError(f"--primary: numbers of different units have no mean: {shown}; choose metrics of one unit")
    return chosen


def mean_primary_error(scores: Mapping[str, Mapping], primaries: Mapping[str, str]) -> dict:
    """Averages the primary metrics of records, each of its part with the headline numbers: the flat means.

    Args:
        scores: {data set: record}, see `parts.parts_of`.
        primaries: {data set: metric}.

    Returns: `value`, `unit`, and `of`: {data set: {`metric`, `value`}}.
    """
    of = {name: {"metric": metric, "value": parts_of(scores[name])[0].metrics[metric]} for name, metric in primaries.items()}
    return {"value": sum(entry["value"] for entry in of.values()) / len(of), "unit": _unit(next(iter(primaries.values()))),
            "of": of}


def format_mean_primary_error(mean: Mapping) -> str:
    """One line."""
    parts = ", ".join(f"{name} {LABELS[entry['metric']].partition(',')[0]} {entry['value']:.1f}"
                      for name, entry in mean["of"].items())
    return f"Mean primary error: {mean['value']:.1f} {mean['unit']} ({parts})"


def _unit(metric):
    return LABELS[metric].rpartition(", ")[2]
