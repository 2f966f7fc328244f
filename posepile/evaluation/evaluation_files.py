"""Scores as files: all of them as JSON, and as CSV with one number in a line."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping

from posepile.data.atomic_files import atomic_file, write_json
from posepile.evaluation.parts import Part, parts_of
from posepile.evaluation.published import METRICS, SOURCE, published_rows
from posepile.evaluation.scoring import json_ready

SCORES_JSON, SCORES_CSV = "scores.json", "scores.csv"
# Then the entries of the stamps.
_COLUMNS = ("data_set", "part", "group", "label", "metric", "value", "low", "high")
_STAMP_COLUMNS = ("data", "split", "joints", "root", "annotation", "averaging", "num_poses", "recall")


def write_scores(folder: pathlib.Path, content: Mapping, records: Mapping[str, Mapping]) -> None:
    """Writes scores.json and scores.csv.

    Args:
        folder: is made if need be.
        content: of the JSON file; what is not finite becomes null.
        records: for the CSV file, {data set: record}, see `parts.parts_of`.
    """
    write_json(folder / SCORES_JSON, json_ready(content))
    rows = [row for name, record in records.items() for row in score_rows(name, record)]
    stamp_columns = dict.fromkeys([*_STAMP_COLUMNS, *(column for row in rows for column in row if column not in _COLUMNS)])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *stamp_columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(folder / SCORES_CSV) as file:
        file.write(text.getvalue().encode())


def score_rows(name: str, record: Mapping) -> Iterator[dict]:
    """Every number of a record, and the published ones of its benchmark.

    Yields: {`data_set`, `part`, `group` ("joint", "activity" and so on; "" for the part itself), `label` (of the member of the
        group), `metric`, `value`, `low`, `high` (the interval), and the stamp}; what is not defined is None.
    """
    parts = parts_of(record)
    for part in parts:
        yield from _rows(name, part.name, "", "", part)
        for group, members in part.groups.items():
            for label, member in members.items():
                yield from _rows(name, part.name, group, label, member)
    for row in published_rows(parts[0].stamp.get("protocol", "")):
        for metric in METRICS:
            yield {"data_set": name, "part": SOURCE, "group": "published", "label": row.label, "metric": metric,
                   "value": row.metrics[metric]}


def _rows(name, part_name, group, label, part: Part):
    for metric, value in part.metrics.items():
        low, high = part.intervals.get(metric, (None, None))
        numbers = json_ready({"value": value, "low": low, "high": high})
        stamp = {key: value for key, value in part.stamp.items() if key != "dataset"}
        yield {"data_set": name, "part": part_name, "group": group, "label": label, "metric": metric, **numbers, **stamp}
