"""The work of one process in a preparation: units of raw data in, one finished shard and its sidecar out."""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from datasets.bone_lengths import BoneLengthSums
from datasets.cropping import crop_example
from datasets.detector_results import add_mask, assign_detections, open_detections, run_detector
from datasets.folder_lock import STATE_FOLDER, check_mark
from datasets.raw_example import Adapter, RawExample
from posepile.data import records
from posepile.data.atomic_files import write_json
from posepile.data.records import Example
from posepile.geometry.skeleton import Skeleton

MARK_CHECK_SECONDS = 1.0
# What wrong raw data can cause, in adapters, too: they read files of strangers.
_FAULTS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, OSError, cv2.error)


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One shard to be made; the settings are those of `prepare`, `kind` and `skeleton` those of its raw folder."""

    adapter: Adapter
    raw_dir: pathlib.Path | None
    folder: pathlib.Path
    split: str
    shard: int
    num_shards: int
    units: tuple[Any, ...]
    kind: str
    skeleton: Skeleton
    limit: int | None
    skip_bad: bool
    strict: bool
    person_side: int
    masks: pathlib.Path | None
    detections: pathlib.Path | None
    detector: pathlib.Path | None
    mark: str

    @property
    def path(self) -> pathlib.Path:
        return records.shard_path(self.folder, self.split, self.shard, self.num_shards)

    @property
    def sidecar(self) -> pathlib.Path:
        return self.folder / STATE_FOLDER / f"{self.path.name}.json"


def make_shard(job: ShardJob, report: Callable[[int, int], None]) -> dict:
    """Writes one shard and its sidecar. Calls `report(units, examples)` with what is newly done. Returns: the
    sidecar, its `record_bytes` as an array."""
    skipped: list[dict] = []
    counts: collections.Counter[str] = collections.Counter()
    bones = BoneLengthSums(job.skeleton)
    last_check = -math.inf

    def report_while_held(units, examples):
        nonlocal last_check
        if (now := time.monotonic()) > last_check + MARK_CHECK_SECONDS:
            last_check = now
            check_mark(job.folder, job.mark)
        report(units, examples)

    def examples():
        for example in _job_examples(job, skipped, counts, report_while_held):
            if example.joints3d is not None:
                bones.add(example.joints3d)
            yield example
            report_while_held(0, 1)
        check_mark(job.folder, job.mark)  # before the shard takes its name

    try:
        num_examples = records.write_shard(job.path, examples())
        entries, digest = records.scan_shard(job.path)
        sidecar = {"num_examples": num_examples, "num_units": len(job.units), "sha256": digest, "skipped": skipped,
                   "detector_results": dict(counts), "bones": bones.to_rows(), "record_bytes": entries[:, 1]}
        check_mark(job.folder, job.mark)
        write_json(job.sidecar, {**sidecar, "record_bytes": entries[:, 1].tolist()})
    except FileNotFoundError:
        check_mark(job.folder, job.mark)  # the preparation that took over has cleared away what looked unfinished
        raise
    return sidecar


def _job_examples(job: ShardJob, skipped: list[dict], counts: collections.Counter, report) -> Iterator[Example]:
    """The job's examples in order; bad ones are appended to `skipped` or, if `strict`, raise a ValueError that says where."""
    num_examples = 0
    with _open_finder(job) as find:
        for unit in job.units:
            items = _unit_items(job, unit, find, counts)
            for index in itertools.count():
                item = None
                try:
                    item = next(items)
                    if isinstance(item, ValueError):  # one wrong annotation; the next may be right
                        raise item
                    example = _to_example(item, job, counts)
                except StopIteration:
                    break
                except _FAULTS as error:
                    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise  # not of the raw files
                    where, reason = _where(job, unit, index, item), str(error)
                    if not isinstance(error, (ValueError, OSError)):
                        reason = f"{type(error).__name__}: {error}"
                    if job.strict:
                        raise ValueError(f"{where}: {reason}") from error
                    if item is None:  # the adapter itself gave up: it yields nothing more
                        reason += " (and what follows in this unit)"
                    skipped.append({"unit": f"{job.split}, {shorten(unit)}", "where": where, "reason": reason})
                    if item is None:
                        break
                    continue
                num_examples += 1
                yield example
                if num_examples == job.limit:
                    return
            report(1, 0)


def _open_finder(job: ShardJob) -> contextlib.AbstractContextManager:
    """Finds the detections of an image; None where there are none."""
    if job.detections is not None:
        return open_detections(job.detections, job.raw_dir, job.adapter.detection_rule)
    return contextlib.nullcontext(None if job.detector is None else run_detector(job.detector, job.adapter.detection_rule))


def _unit_items(job: ShardJob, unit, find, counts) -> Iterator[RawExample | Example | ValueError]:
    """What the adapter yields, with boxes of detections where there are any."""
    items = job.adapter.load_unit(job.raw_dir, unit)
    if find is not None:
        items = assign_detections(items, job.raw_dir, job.adapter.detection_rule, find, counts)
    yield from items


def _to_example(item: RawExample | Example, job: ShardJob, counts) -> Example:
    if isinstance(item, RawExample):
        if job.masks is not None:
            item = add_mask(item, job.masks, job.raw_dir, counts)
        item = crop_example(item, job.person_side)
    _check_labels(item, job)
    return item


def _where(job: ShardJob, unit, index: int, item) -> str:
    """Data set, split, unit, number and file of an example, for messages."""
    source = item.provenance.get("source") if isinstance(item, (RawExample, Example)) else None
    if source is None and isinstance(item, RawExample) and not isinstance(item.image, np.ndarray):
        source = item.image
    text = f"{job.adapter.name}, {job.split}, unit {shorten(unit)}, example {index}"
    return f"{text} ({source})" if source else text


def _check_labels(example: Example, job: ShardJob) -> None:
    """Raises: ValueError if the labels do not fit the data set's kind and skeleton."""
    field = "joints3d" if job.kind == "3d" else "joints2d"
    if getattr(example, field) is None:
        raise ValueError(f"{field} is missing; the data set is declared as labelled in {job.kind.upper()}")
    num_joints = job.skeleton.num_joints
    for name, num_coordinates in (("joints3d", 3), ("joints2d", 2)):
        joints = getattr(example, name)
        if joints is not None and np.shape(joints) != (num_joints, num_coordinates):
            raise ValueError(f"{name} has shape {list(np.shape(joints))}; expected [{num_joints}, {num_coordinates}], "
                             f"as the skeleton {job.skeleton.name} has {num_joints} joints")


def shorten(value: Any) -> str:
    """A value as JSON, for messages."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:80]}... ({digest_of(value)[:8]})"


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-like value, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
