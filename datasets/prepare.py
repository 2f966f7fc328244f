"""Prepares a data set: raw files in, TFRecord shards, index and manifest out; parallel, resumable, the same bytes every
time. docs/preparing_data.md tells its users.

The work units of a split are cut into fixed contiguous groups, one shard each, whatever the number of workers. A
finished shard gets a sidecar in DATA_ROOT/NAME/.prepare with its counts, skips and bone-length sums, so that a
preparation that was killed goes on where it stopped. The manifest is put together from the sidecars and written last.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import pathlib
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
import numpy as np
import tqdm

from datasets import cluster, worker_pool
from datasets.bone_lengths import BoneLengthSums, merge_bone_lengths
from datasets.catalogue import load_catalogue
from datasets.cropping import PERSON_SIDE, crop_example
from datasets.folder_lock import STATE_FOLDER, PrepareError, check_mark, explain_full_disk, hold_folder, read_mark
from datasets.raw_example import Adapter, RawExample
from posepile.data import records
from posepile.data.records import SPLITS, Example
from posepile.data.worker_processes import available_cores
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

MAX_SHARDS_PER_SPLIT = 128  # the grain of resuming, too; more keep more files open in training
MARK_CHECK_SECONDS = 1.0
# What wrong raw data can cause, in adapters, too: they read files of strangers.
_BAD_EXAMPLE_ERRORS = (ValueError, LookupError, TypeError, FileNotFoundError)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to be made."""

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
    person_side: int
    mark: str

    @property
    def path(self) -> pathlib.Path:
        return records.shard_path(self.folder, self.split, self.shard, self.num_shards)

    @property
    def sidecar(self) -> pathlib.Path:
        return self.folder / STATE_FOLDER / f"{self.path.name}.json"


def prepare(adapter: Adapter, raw_dir: pathlib.Path | str | None, data_root: pathlib.Path | str, *,
            name: str | None = None, splits: Sequence[str] | None = None, limit: int | None = None,
            skip_bad: bool = False, workers: int | None = None, scheduler: str | None = None,
            person_side: int = PERSON_SIDE, licence: str | None = None, overwrite: bool = False,
            progress: bool = True) -> dict:
    """Prepares a data set into DATA_ROOT/NAME. Called again, it continues, or returns at once if all is done.

    Args:
        adapter: reads the data set; for more than one worker its functions must be defined at the top level of a
            module.
        raw_dir: the folder of the raw files; None where the data are generated.
        data_root: the folder of all prepared data sets.
        name: what to call the prepared data set; None: as its adapter.
        splits: which of train, validation and test; None: all that the data set has.
        limit: the most examples of a split, the first ones in the data set's order; they go into a single shard. None:
            all.
        skip_bad: leave out examples that cannot be read, and list them in the manifest, instead of stopping at the
            first.
        workers: processes; 1 works in this process. None: one per available core.
        scheduler: address of a dask scheduler, HOST:PORT, whose workers are to do the work. They need the same software,
            and the same paths `raw_dir` and `data_root`. None: this machine works.
        person_side: px, see `crop_example`.
        licence: goes into the manifest; None: as in the catalogue.
        overwrite: begin anew, whatever is there.
        progress: show a progress bar on stderr.

    Returns: the manifest.
    Raises:
        ValueError: a bad example (naming unit, file and field), or a wrong argument.
        FileNotFoundError: raw files are missing.
        PrepareError: other settings than before, a full or read-only disk, another preparation at work, a worker that
            was killed, a cluster that cannot be used.
        KeyboardInterrupt: stopped by Ctrl-C; its message says how to go on. Finished shards stay.
    """
    _check_arguments(splits, limit, workers, scheduler, person_side)
    # Absolute, as workers on other machines have working directories of their own.
    raw_dir = None if raw_dir is None else pathlib.Path(raw_dir).absolute()
    if licence is None:
        info = load_catalogue().get(adapter.name)
        licence = "" if info is None else info.licence
    adapter = dataclasses.replace(adapter, name=name or adapter.name)
    folder = pathlib.Path(data_root).absolute() / adapter.name
    settings = {"name": adapter.name, "raw_dir": None if raw_dir is None else str(raw_dir.resolve()),
                "splits": None if splits is None else sorted(set(splits), key=SPLITS.index), "limit": limit,
                "person_side": person_side}
    manifest = None if overwrite else _complete_manifest(folder, settings)
    if manifest is not None:
        logger.info("data set %s is already complete in %s; its raw files are not looked at again "
                    "(--overwrite prepares it anew)", adapter.name, folder)
        return manifest
    with (cluster.connect(scheduler) if scheduler else contextlib.nullcontext() as client,
          explain_full_disk(folder), hold_folder(folder) as mark):
        if client is not None:
            cluster.check_workers(client, _find_worker_problem, adapter, raw_dir, _digest_of_names(raw_dir), folder,
                                  mark, _versions())
        settings, jobs = _plan(adapter, raw_dir, folder, settings, skip_bad, mark)
        _begin(folder, settings, overwrite)
        shards = _make_shards(adapter.name, jobs, settings, workers, client, overwrite, progress)
        check_mark(folder, mark)
        _clear_unfinished(folder)
        manifest = _assemble(folder, settings, licence, jobs, shards)
        records.write_json(folder / records.MANIFEST_NAME, manifest)
        return manifest


def _check_arguments(splits, limit, workers, scheduler, person_side) -> None:
    if unknown := set(splits or ()) - set(SPLITS):
        raise ValueError(f"unknown splits {', '.join(sorted(unknown))}; valid ones: {', '.join(SPLITS)}")
    if splits is not None and not splits:
        raise ValueError(f"splits is empty; name one or more of {', '.join(SPLITS)}")
    for name, value in (("limit", limit), ("workers", workers), ("person_side", person_side)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if workers is not None and scheduler is not None:
        raise ValueError("workers and scheduler are both given; on a cluster, its own workers do the work")


# ------------------------------------------------------------------------------------------------ planning and working


def _plan(adapter, raw_dir, folder, settings, skip_bad, mark) -> tuple[dict, list[_Job]]:
    """Reads what there is to do: the settings, completed by what the raw folder says, and one job per shard."""
    kind, skeleton = adapter.label_kind(raw_dir), skeleton_from_dict(adapter.skeleton(raw_dir))
    if kind not in ("3d", "2d"):
        raise ValueError(f"adapter {adapter.name}: kind is {kind!r}; expected 3d or 2d")
    units = {split: list(adapter.list_units(raw_dir, split)) for split in settings["splits"] or SPLITS}
    if settings["splits"] is None:
        units = {split: of_split for split, of_split in units.items() if of_split}
    if empty := [split for split, of_split in units.items() if not of_split] or ([] if units else list(SPLITS)):
        source = "" if raw_dir is None else f" in {raw_dir}"
        raise ValueError(f"data set {adapter.name} has nothing for the splits {', '.join(empty)}{source}")
    settings = {**settings, "kind": kind, "skeleton": skeleton.to_dict(), "version": _tool_version(),
                "units": {split: _digest(of_split) for split, of_split in units.items()}}
    jobs = [_Job(adapter, raw_dir, folder, split, shard, len(groups), group, kind, skeleton, settings["limit"],
                 skip_bad, settings["person_side"], mark)
            for split, of_split in units.items()
            for groups in [_group_units(of_split, settings["limit"])]
            for shard, group in enumerate(groups)]
    return settings, jobs


def _group_units(units: list, limit: int | None) -> list[tuple]:
    """Cuts units into contiguous groups of nearly equal size.

    With a limit all are one group: which examples are the first N shows only one after the other.
    """
    num_groups = 1 if limit is not None else min(len(units), MAX_SHARDS_PER_SPLIT)
    bounds = [len(units) * i // num_groups for i in range(num_groups + 1)]
    return [tuple(units[low:high]) for low, high in itertools.pairwise(bounds)]


def _make_shards(name, jobs: list[_Job], settings, workers, client, overwrite, progress) -> list[dict]:
    """Makes the shards that are missing. Returns: the sidecar of every job, in their order."""
    done = {job.path: sidecar for job in jobs if (sidecar := _read_sidecar(job)) is not None}
    to_do = [job for job in jobs if job.path not in done]
    num_workers = max(1, min(workers or available_cores(), len(to_do)))
    num_before = sum(sidecar["num_examples"] for sidecar in done.values())
    if settings["limit"] is None:  # how many examples the units hold is not known beforehand
        unit, total = "unit", sum(len(job.units) for job in jobs)
        initial = sum(len(job.units) for job in jobs if job.path in done)
    else:
        unit, total, initial = "example", settings["limit"] * len(jobs), num_before
    try:
        with tqdm.tqdm(total=total, initial=initial, desc=f"prepare {name}", unit=unit, smoothing=0.05,
                       disable=not progress, file=sys.stderr) as bar:
            show = functools.partial(_show, bar, unit, initial, num_before)
            results = (worker_pool.run_jobs(_make_shard, to_do, num_workers, show) if client is None
                       else cluster.run_jobs(_make_shard, to_do, client, show))
            with contextlib.closing(results):
                for job, sidecar in results:
                    done[job.path] = sidecar
    except KeyboardInterrupt as interrupt:  # or what the caller makes of another signal
        same = "the same command without --overwrite" if overwrite else "the same command"
        raise type(interrupt)(f"preparation of {name} interrupted; finished shards stay in {jobs[0].folder}, {same} "
                              "continues") from None
    except BrokenProcessPool:
        raise PrepareError(f"a worker process was killed while it prepared {name}, perhaps for want of memory; "
                           "run the same command with fewer --workers: it continues") from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(f"adapter {name} cannot be sent to worker processes ({error}): define its functions at the "
                         "top level of a module, or use one worker") from error
    return [done[job.path] for job in jobs]


def _show(bar, unit: str, initial: int, num_before: int, num_units: int, num_examples: int) -> None:
    """Moves the progress bar to what has been done now, on top of what was done before."""
    bar.set_postfix_str(f"{num_before + num_examples} examples", refresh=False)
    bar.update(initial + (num_units if unit == "unit" else num_examples) - bar.n)


def _make_shard(job: _Job, report) -> dict:
    """Writes one shard and its sidecar. Calls `report(units, examples)` with what is newly done. Returns: the
    sidecar, its `record_bytes` as an array."""
    skipped: list[dict] = []
    bones = BoneLengthSums(job.skeleton)
    last_check = -math.inf

    def report_while_held(units, examples):
        nonlocal last_check
        if (now := time.monotonic()) > last_check + MARK_CHECK_SECONDS:
            last_check = now
            check_mark(job.folder, job.mark)
        report(units, examples)

    def examples():
        for example in _job_examples(job, skipped, report_while_held):
            if example.joints3d is not None:
                bones.add(example.joints3d)
            yield example
            report_while_held(0, 1)
        check_mark(job.folder, job.mark)  # before the shard takes its name

    try:
        num_examples = records.write_shard(job.path, examples())
        entries, digest = records.scan_shard(job.path)
        sidecar = {"num_examples": num_examples, "num_units": len(job.units), "sha256": digest, "skipped": skipped,
                   "bones": bones.to_rows(), "record_bytes": entries[:, 1]}
        check_mark(job.folder, job.mark)
        records.write_json(job.sidecar, {**sidecar, "record_bytes": entries[:, 1].tolist()})
    except FileNotFoundError:
        check_mark(job.folder, job.mark)  # the preparation that took over has cleared away what looked unfinished
        raise
    return sidecar


def _job_examples(job: _Job, skipped: list[dict], report) -> Iterator[Example]:
    """The job's examples in order; bad ones raise a ValueError that says where, or are appended to `skipped`."""
    num_examples = 0
    for unit in job.units:
        items = iter(job.adapter.load_unit(job.raw_dir, unit))
        for index in itertools.count():
            item = None
            try:
                item = next(items)
                if isinstance(item, ValueError):  # one wrong annotation; the next may be right
                    raise item
                example = crop_example(item, job.person_side) if isinstance(item, RawExample) else item
                _check_labels(example, job)
            except StopIteration:
                break
            except _BAD_EXAMPLE_ERRORS as error:
                where, reason = _where(job, unit, index, item), str(error)
                if not isinstance(error, (ValueError, FileNotFoundError)):
                    reason = f"{type(error).__name__}: {error}"
                if not job.skip_bad:
                    raise ValueError(f"{where}: {reason}") from error
                if item is None:  # the adapter itself gave up: it yields nothing more
                    skipped.append({"where": where, "reason": f"{reason} (and what follows in this unit)"})
                    break
                skipped.append({"where": where, "reason": reason})
                continue
            num_examples += 1
            yield example
            if num_examples == job.limit:
                return
        report(1, 0)


def _where(job: _Job, unit, index: int, item) -> str:
    """Data set, split, unit, number and file of an example, for messages."""
    source = item.provenance.get("source") if isinstance(item, (RawExample, Example)) else None
    if source is None and isinstance(item, RawExample) and not isinstance(item.image, np.ndarray):
        source = item.image
    text = f"{job.adapter.name}, {job.split}, unit {_shorten(unit)}, example {index}"
    return f"{text} ({source})" if source else text


def _check_labels(example: Example, job: _Job) -> None:
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


# ------------------------------------------------------------------------------------------------- state of the folder


def _complete_manifest(folder: pathlib.Path, settings: dict) -> dict | None:
    """The manifest if the folder is complete and was made with these settings; needs no raw files."""
    manifest_path, settings_path = folder / records.MANIFEST_NAME, folder / STATE_FOLDER / "settings.json"
    if not manifest_path.is_file():
        return None
    manifest = _read_json(manifest_path)
    try:
        if settings_path.is_file():
            before = _read_json(settings_path)
        else:  # a copied data set may lack the hidden folder
            before = {**settings, **manifest["settings"]}
        files = [folder / shard["file"] for split in manifest["splits"].values() for shard in split["shards"]]
        files += [records.index_path(folder, split) for split in manifest["splits"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise PrepareError(f"{manifest_path} is not a manifest ({error!r}); make the data set anew with --overwrite"
                           ) from error
    _refuse_differences(folder, before, settings)
    return manifest if all(file.is_file() for file in files) else None


def _begin(folder: pathlib.Path, settings: dict, overwrite: bool) -> None:
    """Checks a partial preparation against the settings, clears what it left unfinished, and notes the settings."""
    path = folder / STATE_FOLDER / "settings.json"
    if overwrite:
        # The manifest first, so that nothing half removed looks complete.
        for pattern in (records.MANIFEST_NAME, f"{STATE_FOLDER}/*.json", "*.index.npy", "*.tfrecord"):
            for former in folder.glob(pattern):
                former.unlink()
    elif path.is_file():
        _refuse_differences(folder, _read_json(path), settings)
    elif any(folder.glob("*.tfrecord")):
        raise PrepareError(f"{folder} holds shards of unknown settings; make the data set anew with --overwrite")
    _clear_unfinished(folder)
    records.write_json(path, settings)


def _read_json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise PrepareError(f"{path} is broken ({error}); make the data set anew with --overwrite") from error
    if not isinstance(content, dict):
        raise PrepareError(f"{path} is broken (not a table); make the data set anew with --overwrite")
    return content


def _clear_unfinished(folder: pathlib.Path) -> None:
    """Removes what killed processes left half written."""
    for leftover in [*folder.glob(".*.part"), *(folder / STATE_FOLDER).glob(".*.part")]:
        leftover.unlink(missing_ok=True)


def _refuse_differences(folder: pathlib.Path, before: dict, now: dict) -> None:
    """Raises: PrepareError naming the settings that differ."""
    differing = [f"{key}: {_shorten(before.get(key))} then, {_shorten(now[key])} now" for key in now
                 if before.get(key) != now[key]]
    if differing:
        raise PrepareError(f"{folder} was prepared with other settings ({'; '.join(differing)}). Repeat those, or "
                           "begin anew with --overwrite.")


def _shorten(value) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:80]}... ({_digest(value)[:8]})"


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _read_sidecar(job: _Job) -> dict | None:
    """The sidecar of a finished shard; None if the shard is missing, of another size, or has skips that are not wanted
    now."""
    try:
        sidecar = json.loads(job.sidecar.read_text())
        sidecar["record_bytes"] = np.array(sidecar["record_bytes"], np.int64)
        is_whole = job.path.stat().st_size == sidecar["record_bytes"].sum()
        return sidecar if is_whole and (job.skip_bad or not sidecar["skipped"]) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError):  # missing or damaged
        return None


def _assemble(folder: pathlib.Path, settings: dict, licence: str, jobs: list[_Job], shards: list[dict]) -> dict:
    """Writes the indices and returns the manifest."""
    splits = {}
    for split in dict.fromkeys(job.split for job in jobs):
        of_split = [(job, shard) for job, shard in zip(jobs, shards, strict=True) if job.split == split]
        num_examples = sum(shard["num_examples"] for _, shard in of_split)
        if num_examples == 0:
            skipped = [entry for _, shard in of_split for entry in shard["skipped"]]
            why = f"; the first one skipped: {skipped[0]['where']}: {skipped[0]['reason']}" if skipped else ""
            raise ValueError(f"data set {settings['name']}: the {split} split came out empty, {len(skipped)} examples "
                             f"were skipped{why}")
        with records.atomic_file(records.index_path(folder, split)) as file:  # row by row: it may have 10^7 of them
            header = {"descr": "<i8", "fortran_order": False, "shape": (num_examples, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for job, shard in of_split:
                sizes = shard["record_bytes"]
                rows = np.stack([np.full_like(sizes, job.shard), np.cumsum(sizes) - sizes, sizes], axis=1)
                file.write(rows.astype("<i8").tobytes())
        splits[split] = {
            "num_examples": num_examples, "num_units": sum(shard["num_units"] for _, shard in of_split),
            "shards": [{"file": job.path.name, "num_examples": shard["num_examples"], "sha256": shard["sha256"]}
                       for job, shard in of_split]}
    bone_lengths = {}
    if settings["kind"] == "3d":  # of the training poses, by which training examples are filtered; without them, of all
        counted = [shard["bones"] for job, shard in zip(jobs, shards, strict=True)
                   if job.split == "train" or "train" not in splits]
        bone_lengths = merge_bone_lengths(jobs[0].skeleton, counted).statistics()
    return {"name": settings["name"], "kind": settings["kind"], "skeleton": settings["skeleton"], "splits": splits,
            "bone_lengths_mm": bone_lengths, "licence": licence, "version": settings["version"],
            "settings": {key: settings[key] for key in ("name", "splits", "limit", "person_side")},
            "skipped": [entry for shard in shards for entry in shard["skipped"]]}


def _find_worker_problem(_adapter, raw_dir: pathlib.Path | None, raw_names: str | None, folder: pathlib.Path, mark: str,
                         versions: dict[str, str]) -> str | None:
    """Runs on a cluster's worker: what keeps it from making the same shards as this machine. Receiving the adapter
    shows that its functions can be imported."""
    if differing := [f"{name} {own} instead of {versions[name]}" for name, own in _versions().items()
                     if own != versions[name]]:
        return f"has {', '.join(differing)}; every machine needs the same versions, or the crops would differ"
    if read_mark(folder) != mark:
        return (f"does not see the folder {folder} of this machine; --data-root must be on a file system that all "
                "machines share, under the same path")
    if not os.access(folder / STATE_FOLDER, os.W_OK):
        return f"cannot write to {folder}"
    if _digest_of_names(raw_dir) != raw_names:
        return (f"does not see the same files in {raw_dir}; --raw-dir must be on a file system that all machines share, "
                "under the same path")
    return None


def _digest_of_names(folder: pathlib.Path | None) -> str | None:
    """Tells whether two machines see the same folder, in which a mount may be missing; None if it does not exist."""
    return _digest(sorted(os.listdir(folder))) if folder is not None and folder.is_dir() else None


def _versions() -> dict[str, str]:
    """Of what the bytes of a crop depend on."""
    return {"posepile-trainer": _tool_version(), "Python": ".".join(map(str, sys.version_info[:2])),
            "numpy": np.__version__, "OpenCV": cv2.__version__}


def _tool_version() -> str:
    try:
        return importlib.metadata.version("posepile-trainer")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
