"""Checks a prepared data set from end to end: files, checksums, records, images, cameras and labels.

What is found is of four severities. An *error*: a file is not what the manifest says, or the labels as a whole cannot be
right. A *bad record* cannot be used; it makes the data set wrong unless bad records are to be skipped. A *suspicious
example* may be right, a person cut off by the image for instance; many of them are an error. A *warning* is worth a look.

Images that are mirrored together with their labels look like any others: nothing here can find them.
"""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import tqdm

from datasets.bone_lengths import BoneLengthSums, merge_bone_lengths
from datasets.example_checks import bone_names, suspicions, usable_example
from datasets.plausibility import BODY_EXTENT_MM, are_swapped, body_extents, face_votes, left_right_votes, units_that_fit
from datasets.prepare import STATE_FOLDER
from datasets.worker_pool import run_jobs
from posepile.data import records, tfrecord
from posepile.data.records import MANIFEST_NAME, SPLITS, PreparedDataset
from posepile.data.sampling import evenly_spread
from posepile.data.worker_processes import available_cores
from posepile.geometry.skeleton import Skeleton

MAX_LISTED = 20  # findings of one severity in the report; the others are counted
SUSPECTS_SHOWN = 3  # of each kind and split
# A share of suspicious examples of one kind in a split that is an error, unless they are fewer than so many.
MAX_SUSPICIOUS_SHARE = 0.05
MIN_SUSPICIOUS = 5
MAX_ASYMMETRY = 0.15  # of the mean lengths of a left bone and its right one, as a share of their mean
MEAN_TOLERANCE_MM = 0.01  # of mean bone lengths; the manifest's are rounded to 0.001
MAX_EXAMPLES = 1 << 40  # that a manifest may claim
POSES_PER_SHARD = 100  # for body size, and left and right

ERROR, BAD_RECORD, WARNING, SUSPICIOUS = "error", "bad record", "warning", "suspicious example"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or suspicious.

    Attributes:
        kind: of check: manifest, files, checksums, index, records, bone lengths, body size, left and right, ...
        severity: ERROR, BAD_RECORD, WARNING or SUSPICIOUS.
        where: a file, a file and byte offset, or a split.
        message: what is wrong, and what was expected.
    """

    kind: str
    severity: str
    where: str
    message: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome for one data set.

    Attributes:
        name, folder: of the prepared data set.
        skip_bad: whether bad records are to be skipped, and so do not make it wrong.
        figures: check -> a line of text, in the order of the checks.
        counts: split -> number of `shards`, `records`, `checked` and `bad` ones, `suspicious` ones by kind.
        findings: all errors and warnings, the first bad records of each shard, the first suspicious examples.
        remedies: what to do about it.
    """

    name: str
    folder: pathlib.Path
    skip_bad: bool
    figures: dict[str, str]
    counts: dict[str, dict]
    findings: list[Finding]
    remedies: list[str]

    @property
    def num_bad(self) -> int:
        return sum(counts["bad"] for counts in self.counts.values())

    @property
    def is_right(self) -> bool:
        return not self._of(ERROR) and (self.skip_bad or not self.num_bad)

    def to_dict(self) -> dict:
        """As plain JSON types."""
        return {**dataclasses.asdict(self), "folder": str(self.folder), "is_right": self.is_right}

    def to_text(self) -> str:
        """A line per check, the findings, the verdict, what to do."""
        lines = [f"{self.name} in {self.folder}", *(f"  {check:15} {figure}" for check, figure in self.figures.items())]
        totals = {severity: len(self._of(severity)) for severity in (ERROR, BAD_RECORD, WARNING, SUSPICIOUS)}
        totals[BAD_RECORD] = self.num_bad
        totals[SUSPICIOUS] = sum(sum(counts["suspicious"].values()) for counts in self.counts.values())
        for severity, total in totals.items():
            listed = self._of(severity)[:MAX_LISTED]
            lines += [f"  {severity}: {finding.where}: {finding.message}" for finding in listed]
            if total > len(listed):
                lines.append(f"  and {_count(total - len(listed), f'more {severity}')}")
        remarks = [_count(total, severity) for severity, total in totals.items() if total]
        verdict = "all right" if self.is_right else "WRONG"
        lines.append(f"  verdict: {', '.join([verdict, *remarks])}{' (to be skipped)' * (self.skip_bad and self.num_bad > 0)}")
        return "\n".join(lines + [f"    {remedy}" for remedy in self.remedies])

    def _of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]


def verify(folder: pathlib.Path | str, *, splits: Sequence[str] | None = None, sample: int | None = None,
           skip_bad: bool = False, workers: int | None = None, progress: bool = True) -> Report:
    """Checks a prepared data set. Whatever its files hold, the outcome is a report.

    Args:
        folder: DATA_ROOT/NAME.
        splits: which ones; None: all.
        sample: look into so many records of each split only, evenly spread; files, checksums of shards and index are
            checked all the same. None: look into all.
        skip_bad: bad records are listed, but do not make the data set wrong.
        workers: processes; 1 works in this process. None: one per available core.
        progress: show a progress bar on stderr.

    Raises: ValueError for a wrong argument, a split that the data set does not have, or if a worker process was killed.
    """
    if unknown := set(splits or ()) - set(SPLITS):
        raise ValueError(f"unknown splits {', '.join(sorted(unknown))}; valid ones: {', '.join(SPLITS)}")
    for name, value in (("sample", sample), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    folder = pathlib.Path(folder)
    try:
        dataset = PreparedDataset(folder)
        _check_manifest(dataset)
    except Exception as error:
        path = folder / MANIFEST_NAME
        finding = Finding("manifest", ERROR, str(path), _reason(error, path))
        return Report(folder.name, folder, skip_bad, {"manifest": "unusable"}, {}, [finding],
                      [_remedy_for_files(folder, [finding])] if path.exists() else [])
    for split in splits or ():
        dataset.num_examples(split)  # raises a ValueError if there is no such split
    splits = [split for split in dataset.splits() if splits is None or split in splits]
    findings = _check_files(dataset, splits)
    indexed = [split for split in splits if _check_index(dataset, split, findings)]
    jobs = [job for split in splits for job in _shard_jobs(dataset, split, split in indexed, sample)]
    tallies = _check_shards(dataset.name, jobs, workers, progress)
    of_splits = {split: _merge([tally for job, tally in zip(jobs, tallies, strict=True) if job.split == split])
                 for split in splits}
    return _report(dataset, of_splits, findings, skip_bad, is_complete=sample is None)


# -------------------------------------------------------------------------------------------- manifest, files and indices


def _check_manifest(dataset: PreparedDataset) -> None:
    """Checks all that the rest relies on. Raises: an exception if it is not so."""
    if dataset.kind not in ("3d", "2d") or not isinstance(dataset.name, str):
        raise ValueError(f"kind and name are {dataset.kind!r} and {dataset.name!r}; expected 3d or 2d, and a string")
    tables = dataset.manifest["splits"]
    if not tables or set(tables) - set(SPLITS):
        raise ValueError(f"the splits are {sorted(tables)}; expected one or more of {', '.join(SPLITS)}")
    for split, table in tables.items():
        for number, shard in enumerate(table["shards"]):
            expected = records.shard_path(dataset.folder, split, number, len(table["shards"])).name
            if shard["file"] != expected or not isinstance(shard["sha256"], str):
                raise ValueError(f"shard {number} of {split} is called {shard['file']!r}, with the checksum "
                                 f"{shard['sha256']!r}; expected {expected} and a string")
        counts = [shard["num_examples"] for shard in table["shards"]]
        are_counts = all(type(count) is int and 0 <= count < MAX_EXAMPLES for count in counts)
        if not are_counts or sum(counts) != table["num_examples"]:
            raise ValueError(f"{split} has {table['num_examples']!r} examples, and its shards have {counts!s:.200}; expected "
                             "whole numbers that add up")
    if not isinstance(dataset.manifest.get("skipped", []), list):
        raise ValueError(f"skipped is {dataset.manifest['skipped']!r:.80}; expected a list")
    _mean_bone_lengths(dataset), _person_side(dataset)


def _mean_bone_lengths(dataset: PreparedDataset) -> np.ndarray:
    """[num_edges] mm; nan where the manifest has none."""
    table = dataset.manifest["bone_lengths_mm"]
    return np.array([table[bone]["mean"] if bone in table else np.nan for bone in bone_names(dataset.skeleton)], np.float64)


def _person_side(dataset: PreparedDataset) -> float:
    """px; infinite where the manifest does not say."""
    return float(dataset.manifest.get("settings", {}).get("person_side", np.inf))


def _check_files(dataset: PreparedDataset, splits: list[str]) -> list[Finding]:
    """Compares the folder with the manifest."""
    folder = dataset.folder
    of_split = {split: [*(folder / shard["file"] for shard in table["shards"]), records.index_path(folder, split)]
                for split, table in dataset.manifest["splits"].items()}
    known = set(itertools.chain.from_iterable(of_split.values()))
    findings = [Finding("files", ERROR, str(path), "is missing") for split in splits for path in of_split[split]
                if not path.is_file()]
    findings += [Finding("files", ERROR, str(path), "does not belong to the data set: the manifest does not list it")
                 for pattern in ("*.tfrecord", records.index_path(folder, "*").name) for path in sorted(folder.glob(pattern))
                 if path not in known]
    findings += [Finding("files", WARNING, str(path), "is left over from a preparation that was killed, unless one is at work")
                 for parent in (folder, folder / STATE_FOLDER) for path in sorted(parent.glob("*.part"))]
    if dataset.name != folder.name:
        findings.append(Finding("manifest", WARNING, str(folder / MANIFEST_NAME), f"calls the data set {dataset.name!r}"))
    return findings


def _check_index(dataset: PreparedDataset, split: str, findings: list[Finding]) -> bool:
    """Whether the index of a split can be compared with its shards; appends what is wrong with it as a whole."""
    path = records.index_path(dataset.folder, split)
    if not path.is_file():
        return False
    try:
        shards = dataset.index(split)[:, 0]
    except Exception as error:
        findings.append(Finding("index", ERROR, str(path), _reason(error, path)))
        return False
    num_shards = len(dataset.manifest["splits"][split]["shards"])
    if num_outside := np.count_nonzero((shards < 0) | (shards >= num_shards)):
        findings.append(Finding("index", ERROR, str(path), f"has {num_outside:,} rows for shards that do not exist"))
    return True


# ------------------------------------------------------------------------------------------------------------------ shards


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to be checked.

    Attributes:
        has_index: the split has an index to compare with.
        chosen: [n] int64 numbers of the records to look into; None: all.
    """

    dataset: PreparedDataset
    split: str
    shard: int
    has_index: bool
    chosen: np.ndarray | None

    @property
    def table(self) -> dict:
        return self.dataset.manifest["splits"][self.split]["shards"][self.shard]

    @property
    def path(self) -> pathlib.Path:
        return self.dataset.folder / self.table["file"]

    @property
    def num_to_check(self) -> int:
        return self.table["num_examples"] if self.chosen is None else len(self.chosen)


@dataclasses.dataclass
class _Tally:
    """What was found in one shard, or in several.

    Attributes:
        problems: with the shard as a whole.
        bad: the first bad records.
        suspects: kind -> the first suspicious examples.
        bones: of each shard, see `BoneLengthSums.to_rows`.
        extents: mm, of a sample of 3D poses.
        votes: for left and right being right and wrong, of the same sample.
        person_sides: px, the smallest and the largest longer side of a box.
    """

    num_shards: int = 1
    num_records: int = 0
    num_checked: int = 0
    num_bad: int = 0
    num_masks: int = 0
    num_suspects: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: list[Finding] = dataclasses.field(default_factory=list)
    bad: list[Finding] = dataclasses.field(default_factory=list)
    suspects: dict[str, list[Finding]] = dataclasses.field(default_factory=dict)
    bones: list[list] = dataclasses.field(default_factory=list)
    extents: list[float] = dataclasses.field(default_factory=list)
    votes: tuple[int, int] = (0, 0)
    person_sides: tuple[float, float] = (np.inf, -np.inf)


def _merge(tallies: list[_Tally]) -> _Tally:
    """The tally of several shards, in their order."""
    merged = _Tally(num_shards=0)
    for tally in tallies:
        for name in ("num_shards", "num_records", "num_checked", "num_bad", "num_masks", "num_suspects", "problems", "bad",
                     "bones", "extents"):
            setattr(merged, name, getattr(merged, name) + getattr(tally, name))
        for kind, suspects in tally.suspects.items():
            merged.suspects[kind] = [*merged.suspects.get(kind, []), *suspects][:SUSPECTS_SHOWN]
        merged.votes = tuple(np.add(merged.votes, tally.votes).tolist())
        merged.person_sides = (min(merged.person_sides[0], tally.person_sides[0]),
                               max(merged.person_sides[1], tally.person_sides[1]))
    return merged


def _shard_jobs(dataset: PreparedDataset, split: str, has_index: bool, sample: int | None) -> list[_Job]:
    """A job for every shard of a split whose file is there."""
    counts = [shard["num_examples"] for shard in dataset.manifest["splits"][split]["shards"]]
    ends = np.cumsum(counts)
    positions = None if sample is None else evenly_spread(sum(counts), sample)
    jobs = []
    for shard, (end, count) in enumerate(zip(ends, counts, strict=True)):
        chosen = None
        if positions is not None:
            chosen = positions[(positions >= end - count) & (positions < end)] - (end - count)
        jobs.append(_Job(dataset, split, shard, has_index, chosen))
    return [job for job in jobs if job.path.is_file()]


def _check_shards(name: str, jobs: list[_Job], workers: int | None, progress: bool) -> list[_Tally]:
    """Checks the shards in worker processes. Returns: the tallies, in the order of the jobs."""
    if not jobs:
        return []
    done = {}
    num_workers = max(1, min(workers or available_cores(), len(jobs)))
    try:
        with tqdm.tqdm(total=sum(job.num_to_check for job in jobs), desc=f"verify {name}", unit="example", smoothing=0.05,
                       disable=not progress, leave=False, file=sys.stderr) as bar:
            results = run_jobs(_check_shard, jobs, num_workers, lambda _, num_examples: bar.update(num_examples - bar.n))
            with contextlib.closing(results):
                for job, tally in results:
                    done[job.split, job.shard] = tally
    except BrokenProcessPool:
        raise ValueError(f"a worker process was killed while it checked {name}, perhaps for want of memory; run the same "
                         "command with --workers=1") from None
    return [done[job.split, job.shard] for job in jobs]


def _check_shard(job: _Job, report) -> _Tally:
    """Checks one shard. Calls `report(shards, examples)` with what is newly done."""
    tally, dataset = _Tally(), job.dataset
    skeleton, mean_lengths, person_side = dataset.skeleton, _mean_bone_lengths(dataset), _person_side(dataset)
    mean_lengths[~(mean_lengths <= BODY_EXTENT_MM[1])] = np.nan  # spoiled by single broken labels: no bone is near it
    entries = _shard_entries(job, tally.problems)
    tally.num_records = len(entries)
    chosen = np.arange(len(entries)) if job.chosen is None else job.chosen[job.chosen < len(entries)]
    sampled = set(chosen[evenly_spread(len(chosen), POSES_PER_SHARD)].tolist())
    bones, poses = BoneLengthSums(skeleton), []
    for number in chosen.tolist():
        offset, num_bytes = entries[number].tolist()
        where = f"{job.path} at byte {offset}"
        tally.num_checked += 1
        try:
            example, image_size = usable_example(_read_bytes(job.path, offset, num_bytes), dataset, where)
        except Exception as error:
            tally.num_bad += 1
            if len(tally.bad) < MAX_LISTED:
                tally.bad.append(Finding("records", BAD_RECORD, where, _reason(error, where)))
        else:
            tally.num_masks += example.mask_rle is not None
            side = float(example.bbox[2:].max())
            tally.person_sides = (min(side, tally.person_sides[0]), max(side, tally.person_sides[1]))
            for kind, message in suspicions(example, image_size, dataset.kind, skeleton, mean_lengths, person_side).items():
                tally.num_suspects[kind] += 1
                if len(shown := tally.suspects.setdefault(kind, [])) < SUSPECTS_SHOWN:
                    shown.append(Finding(kind, SUSPICIOUS, where, message))
            if dataset.kind == "3d":
                bones.add(example.joints3d)
            if number in sampled:
                poses.append(example.joints3d if dataset.kind == "3d" else example.joints2d)
        report(0, 1)
    tally.bones.append(bones.to_rows())
    poses = np.array(poses, np.float64).reshape(len(poses), skeleton.num_joints, 3 if dataset.kind == "3d" else 2)
    with np.errstate(over="ignore", invalid="ignore"):
        if dataset.kind == "3d":  # body by body, as distances between all joints take memory
            tally.extents = [extent for pose in poses for extent in body_extents(pose[None]).tolist() if np.isfinite(extent)]
        tally.votes = left_right_votes(poses, skeleton) if dataset.kind == "3d" else face_votes(poses, skeleton)
    report(1, 0)
    return tally


def _shard_entries(job: _Job, problems: list[Finding]) -> np.ndarray:
    """[num_records, 2] int64 offset and size of the shard's records; appends what is wrong with the file as a whole."""

    def add(kind, path, message):
        problems.append(Finding(kind, ERROR, str(path), message))

    rows = None
    if job.has_index:
        index = job.dataset.index(job.split)
        rows = np.array(index[index[:, 0] == job.shard, 1:])
    try:
        entries, digest = records.scan_shard(job.path)
    except Exception as error:
        add("checksums", job.path, _reason(error, job.path))
        # Behind a broken header only the index knows where records begin.
        return np.zeros((0, 2), np.int64) if rows is None else rows
    if digest != job.table["sha256"]:
        add("checksums", job.path, f"its SHA-256 begins with {digest[:12]}; the manifest's with {job.table['sha256'][:12]}")
    if len(entries) != job.table["num_examples"]:
        add("checksums", job.path, f"has {len(entries):,} records; the manifest counts {job.table['num_examples']:,}")
    if rows is not None and not np.array_equal(rows, entries):
        same = rows[:len(entries)] == entries[:len(rows)]
        first = int(np.append(same.all(axis=1), False).argmin())
        add("index", records.index_path(job.dataset.folder, job.split),
            f"disagrees with {job.path.name} from its record {first:,} on: {_row(rows, first)} in the index, "
            f"{_row(entries, first)} in the shard (byte offset, bytes)")
    return entries


def _row(table: np.ndarray, number: int) -> str:
    return str(table[number].tolist()) if number < len(table) else "nothing"


def _read_bytes(path: pathlib.Path, offset: int, num_bytes: int) -> bytes:
    """A record's bytes. Raises: CorruptRecordError for an offset or size that cannot be."""
    longest = tfrecord.HEADER_BYTES + tfrecord.MAX_RECORD_BYTES + tfrecord.FOOTER_BYTES
    if not 0 <= offset <= offset + num_bytes <= path.stat().st_size or num_bytes > longest:
        raise tfrecord.CorruptRecordError(f"the file ends before the {num_bytes} bytes that the index says are there")
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(num_bytes)


# ------------------------------------------------------------------------------------------------------ the whole data set


def _report(dataset: PreparedDataset, tallies: dict[str, _Tally], findings: list[Finding], skip_bad: bool,
            is_complete: bool) -> Report:
    """Puts the report together. `is_complete`: all records were looked into."""
    merged = _merge(list(tallies.values()))
    findings = findings + merged.problems
    is_whole = is_complete and not merged.num_bad and not any(finding.severity == ERROR for finding in findings)
    findings += _check_mean_bone_lengths(dataset, tallies, is_whole)
    figures = _file_figures(dataset, tallies, merged, findings)
    label_findings = []
    for split, tally in tallies.items():
        for check, (figure, problems) in _judge_labels(dataset, split, tally).items():
            figures[check] = f"{figures[check]}; {split}: {figure}" if check in figures else f"{split}: {figure}"
            label_findings += problems
    counts = {split: {"shards": tally.num_shards, "records": tally.num_records, "checked": tally.num_checked,
                      "bad": tally.num_bad, "suspicious": dict(tally.num_suspects)} for split, tally in tallies.items()}
    suspects = [finding for tally in tallies.values() for listed in tally.suspects.values() for finding in listed]
    return Report(dataset.name, dataset.folder, skip_bad, figures, counts, findings + label_findings + merged.bad + suspects,
                  _remedies(dataset, findings, label_findings, merged.bad, skip_bad))


def _file_figures(dataset: PreparedDataset, tallies: dict[str, _Tally], merged: _Tally,
                  findings: list[Finding]) -> dict[str, str]:
    """The lines about manifest, files and records."""

    def num_wrong(kind):
        return len({finding.where for finding in findings if finding.kind == kind and finding.severity == ERROR})

    index_errors = {finding.where for finding in findings if finding.severity == ERROR}.intersection(
        str(records.index_path(dataset.folder, split)) for split in SPLITS)
    num_shards = sum(len(dataset.manifest["splits"][split]["shards"]) for split in tallies)
    num_left_out = len(dataset.manifest.get("skipped", ()))
    return {
        "manifest": f"labelled in {dataset.kind.upper()}, skeleton {dataset.skeleton.name}; " + ", ".join(
            f"{dataset.num_examples(split):,} {split}" for split in tallies) +
            f"; {num_left_out:,} bad ones left out in preparing" * (num_left_out > 0),
        "files": f"{_count(num_shards, 'shard')}, {_count(len(tallies), 'index file')}: " + (
            f"{num_wrong('files')} missing or superfluous" if num_wrong("files") else "all there, no others"),
        "checksums": f"{_count(merged.num_shards, 'shard')}, {_count(merged.num_records, 'record')}: " + (
            f"{_count(num_wrong('checksums'), 'shard')} damaged" if num_wrong("checksums") else "all match"),
        "index": f"{len(index_errors)} missing, superfluous or wrong" if index_errors else "agrees with the shards",
        "records": f"{merged.num_checked:,} looked into: " + (
            f"{merged.num_bad:,} bad" if merged.num_bad else "all whole, every image decodes") +
            f"; {merged.num_masks:,} with person mask" * (merged.num_masks > 0)}


def _check_mean_bone_lengths(dataset: PreparedDataset, tallies: dict[str, _Tally], is_whole: bool) -> list[Finding]:
    """Checks the manifest's mean bone lengths; if all examples were read, against those of the training split, or of all."""
    splits = ["train"] if "train" in dataset.splits() else dataset.splits()
    statistics = None
    if is_whole and set(splits) <= tallies.keys():
        parts = [rows for split in splits for rows in tallies[split].bones]
        statistics = merge_bone_lengths(dataset.skeleton, parts).statistics()
    findings = []
    for bone, mean in zip(bone_names(dataset.skeleton), _mean_bone_lengths(dataset).tolist(), strict=True):
        actual = mean if statistics is None else statistics.get(bone, {"mean": np.nan})["mean"]
        if bone in dataset.manifest["bone_lengths_mm"] and not abs(actual - mean) <= MEAN_TOLERANCE_MM:  # inf is wrong, too
            findings.append(Finding("bone lengths", ERROR, str(dataset.folder / MANIFEST_NAME),
                                    f"says {bone} is {mean:.3f} mm long on average; in the shards it is {actual:.3f} mm"))
    return findings


def _judge_labels(dataset: PreparedDataset, split: str, tally: _Tally) -> dict[str, tuple[str, list[Finding]]]:
    """Check -> a figure, and what is wrong with the labels of a split as a whole."""
    if tally.num_checked == tally.num_bad:
        return {}
    low, high = tally.person_sides
    judged = {"person size": (f"{low:.0f} to {high:.0f} px", []), "examples": _judge_suspects(split, tally)}
    if dataset.kind == "3d":
        judged["body size"] = _judge_extents(split, tally.extents)
        judged["bone lengths"] = _judge_bones(
            split, dataset.skeleton, merge_bone_lengths(dataset.skeleton, tally.bones).statistics())
    num_right, num_wrong = tally.votes
    what = "bent knees and feet point forward" if dataset.kind == "3d" else "faces have their left at their left"
    figure, findings = f"{num_right:,} of {num_right + num_wrong:,} {what}", []
    if are_swapped(num_right, num_wrong):
        # 2D labels of what is hidden, on people seen from behind, vote wrongly.
        severity, or_else = (ERROR, "their frame is left-handed") if dataset.kind == "3d" else (
            WARNING, "the people turn their backs")
        findings.append(Finding("left and right", severity, split,
                                f"only {figure}: left and right are swapped in the labels, or {or_else}"))
    judged["left and right"] = figure if num_right + num_wrong else "nothing to tell by", findings
    return judged


def _judge_suspects(split: str, tally: _Tally) -> tuple[str, list[Finding]]:
    num_examples = tally.num_checked - tally.num_bad
    findings = []
    for kind, count in tally.num_suspects.items():
        if count >= min(MIN_SUSPICIOUS, num_examples) and count > MAX_SUSPICIOUS_SHARE * num_examples:
            findings.append(Finding(kind, ERROR, split, f"{count:,} of {num_examples:,} examples are suspicious; up to "
                                    f"{MAX_SUSPICIOUS_SHARE:.0%} may be. The first: {tally.suspects[kind][0].message}"))
    suspicious = ", ".join(f"{count:,} ({kind})" for kind, count in tally.num_suspects.items())
    return f"{num_examples:,}, {f'suspicious: {suspicious}' if suspicious else 'none suspicious'}", findings


def _judge_extents(split: str, extents: list[float]) -> tuple[str, list[Finding]]:
    if not extents:
        return "no pose with half of its joints labelled", []
    figure = f"{np.median(extents):.4g} mm from end to end (median of {_count(len(extents), 'pose')})"
    units = units_that_fit(float(np.median(extents)))
    if "mm" in units:
        return figure, []
    return figure, [Finding("body size", ERROR, split, f"{figure}; expected {BODY_EXTENT_MM[0]:.0f} to {BODY_EXTENT_MM[1]:.0f} "
                            "mm" + (f": the labels look like {units[0]}, which the adapter has to convert" if units else ""))]


def _judge_bones(split: str, skeleton: Skeleton, statistics: dict) -> tuple[str, list[Finding]]:
    """Looks for mean bone lengths that cannot be, and compares those of left bones and their right ones."""
    means = {frozenset(edge): statistics[bone]["mean"]
             for edge, bone in zip(skeleton.edges, bone_names(skeleton), strict=True) if bone in statistics}
    findings = [Finding("bone lengths", ERROR, split, f"{bone} is {row['mean']:.4g} mm long on average; expected at most "
                        f"{BODY_EXTENT_MM[1]:.0f} mm") for bone, row in statistics.items() if row["mean"] > BODY_EXTENT_MM[1]]
    pairs = []  # asymmetry, bone, its mean length and its mirror image's, which is shorter
    for (i, j), bone in zip(skeleton.edges, bone_names(skeleton), strict=True):
        length, mirrored = means.get(frozenset((i, j))), means.get(frozenset((skeleton.mirror[i], skeleton.mirror[j])))
        if length and mirrored and length >= mirrored:
            pairs.append((2 * (length - mirrored) / (length + mirrored), bone, length, mirrored))
    figure = _count(len(means), "bone")
    if pairs:
        asymmetry, bone, length, mirrored = max(pairs)
        figure += f", left and right differ by up to {asymmetry:.1%}"
        if asymmetry > MAX_ASYMMETRY:
            findings.append(Finding("bone lengths", WARNING, split, f"{bone} is {length:.4g} mm long on average, its mirror "
                                    f"image {mirrored:.4g} mm; expected a difference of at most {MAX_ASYMMETRY:.0%}"))
    return figure, findings


def _remedies(dataset: PreparedDataset, file_findings: list[Finding], label_findings: list[Finding], bad: list[Finding],
              skip_bad: bool) -> list[str]:
    remedies = []
    if file_errors := [finding for finding in file_findings if finding.severity == ERROR]:
        remedies.append(_remedy_for_files(dataset.folder, file_errors))
    damaged = {finding.where for finding in file_errors}
    if not skip_bad and any(finding.where.rpartition(" at byte ")[0] not in damaged for finding in bad):
        remedies.append("Bad records in a shard that is as it was prepared: correct the raw data or their adapter and prepare "
                        "again with --overwrite, or have them passed over with --skip-bad.")
    if any(finding.severity == ERROR for finding in label_findings):
        remedies.append(f"Look at the labels with `python -m datasets inspect {dataset.folder.name} --data-root="
                        f"{dataset.folder.parent}`, correct the raw data or their adapter, and prepare again with --overwrite.")
    return remedies


def _remedy_for_files(folder: pathlib.Path, errors: list[Finding]) -> str:
    paths = [pathlib.Path(where) for where in dict.fromkeys(finding.where for finding in errors)]
    names = [path.name for path in paths if path.exists()]
    deleting = "" if not names else f"Delete {', '.join(names)} and r" if len(names) <= MAX_LISTED else \
        f"Delete the {len(names)} files named by --json and r"
    return (f"{deleting or 'R'}un `python -m datasets prepare {folder.name} --data-root={folder.parent}` again, with the "
            "options used before: it makes only what is missing.")


def _reason(error: BaseException, where: pathlib.Path | str) -> str:
    """An error's message on one line, without the place it begins with, and the advice it ends with: remedies say it once."""
    text = " ".join(str(error).split()).removeprefix(f"{where}: ").removeprefix(f"{where} ").partition(". Delete ")[0]
    return text if isinstance(error, ValueError) and text else f"cannot be read ({type(error).__name__}: {text})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
