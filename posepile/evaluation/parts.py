"""The records of evaluations in one shape for tables, files and reports: parts, each some numbers that share a stamp."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

_GROUP_PREFIX = "per_"


@dataclasses.dataclass(frozen=True)
class Part:
    """Numbers with one stamp.

    Attributes:
        name: of the part, such as "flat" or "matched/universal"; of a member of a group its label.
        metrics: {metric: value}, with `num_poses` and the other counts of `metrics.count_poses`.
        intervals: {metric: (low, high)}, of some or all metrics.
        stamp: data part, joints, root, annotation, averaging, number of poses and so on.
        groups: {"joint", "sequence", "activity", "scene" or "format": {label: its part}}.
    """

    name: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    stamp: Mapping
    groups: Mapping[str, Mapping[str, "Part"]] = dataclasses.field(default_factory=dict)


def parts_of(record: Mapping) -> list[Part]:
    """The parts of a record, the one with the headline numbers first.

    Args: record: of a protocol, see `scoring.score_files`, or of `benchmark.evaluate_dataset`: then those of its benchmark's
        protocol, if it has one, and of the data set's own joint formats.
    """
    if "pooled" not in record:
        return _protocol_parts(record, {})
    stamp = {"data": "all poses", **record["stamp"]}
    outer = {name: value for name, value in stamp.items() if name != "num_groups"}  # not that of every part
    of_protocol = _protocol_parts(record["benchmark"], outer) if "benchmark" in record else []
    return [*of_protocol, _formats_part(record, stamp)]


def _protocol_parts(record, outer) -> list[Part]:
    """outer: what the stamps say unless a part says otherwise."""
    outer = {**outer, "confidence": record["stamp"]["confidence"]}
    return [_part("flat", record, outer), *(_part(name, content, outer) for name, content in _further_parts(record))]


def _further_parts(record, prefix="") -> Iterator[tuple[str, Mapping]]:
    for name, content in record.items():
        if isinstance(content, Mapping) and "stamp" in content:
            yield prefix + name, content
        elif isinstance(content, Mapping) and not prefix and not name.startswith(_GROUP_PREFIX):
            yield from _further_parts(content, f"{name}/")


def _part(name, content, outer) -> Part:
    metrics, intervals = {**content["metrics"], **content.get("poses", {})}, content["intervals"]
    stamp = {**outer, **content["stamp"]}
    groups = {group.removeprefix(_GROUP_PREFIX): {label: Part(label, values, intervals.get(group, {}).get(label, {}),
                                                              _counted(stamp, values))
                                                  for label, values in members.items()}
              for group, members in content.items() if group.startswith(_GROUP_PREFIX)}
    for label, recall in content.get("recall_per_sequence", {}).items():
        found = groups["sequence"].get(label, Part(label, {"num_poses": 0}, {}, {**stamp, "num_poses": 0}))
        groups["sequence"][label] = dataclasses.replace(found, metrics={**found.metrics, "recall": recall})
    return Part(name, metrics, intervals.get("metrics", intervals), _counted(stamp, metrics), groups)


def _formats_part(record, stamp) -> Part:
    """What `benchmark.evaluate_dataset` measures in the formats of the data set."""
    intervals, formats = record["intervals"], record["formats"]
    several = len(formats) > 1
    metrics, metric_intervals = dict(record["pooled"]), dict(intervals["pooled"])
    groups = {"joint": {}}
    if several:
        inconsistency = record["inconsistency"]
        metrics |= {_inconsistency(name): inconsistency[name] for name in intervals["inconsistency"]}
        metric_intervals |= {_inconsistency(name): value for name, value in intervals["inconsistency"].items()}
        groups["format"] = {name: Part(name, values, intervals["formats"][name], _counted(stamp, values))
                            for name, values in formats.items()}
    for fmt, joints in record["per_joint"].items():
        for joint, value in joints.items():
            label = f"{fmt}/{joint}" if several else joint
            groups["joint"][label] = Part(label, {"mpjpe": value}, {"mpjpe": intervals["per_joint"][fmt][joint]}, stamp)
    if "per_activity" in record:
        groups["activity"] = {label: Part(label, values, intervals["per_activity"][label], stamp)
                              for label, values in record["per_activity"].items()}
    return Part("all formats" if several else next(iter(formats)), metrics, metric_intervals, stamp, groups)


def _inconsistency(name):
    return "inconsistency" if name == "total" else f"inconsistency_{name}"


def _counted(stamp, metrics):
    """The stamp with the number of poses of these metrics."""
    return {**stamp, "num_poses": metrics.get("num_poses", stamp["num_poses"])}
