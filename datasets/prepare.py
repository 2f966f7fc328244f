"""Prepares a data set: raw files in, TFRecord shards, index and manifest out; parallel, resumable, the same bytes every
time. docs/preparing_data.md tells its users.

The work units of a split are cut into fixed contiguous groups, one shard each, whatever the number of workers. A
finished shard gets a sidecar in DATA_ROOT/NAME/.prepare with its counts, skips and bone-length sums, so that a
preparation that was killed goes on where it stopped, and one that left out what could not be read makes those shards anew.
The manifest is put together from the sidecars and written last.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import pathlib
import pickle
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

import cv2
import numpy as np
import tqdm

from datasets import cluster, worker_pool
from datasets.bone_lengths import merge_bone_lengths
from datasets.catalogue import load_catalogue
from datasets.cropping import PERSON_SIDE
from datasets.detector_results import index_detections, run_detector
from datasets.folder_lock import STATE_FOLDER, PrepareError, check_mark, explain_full_disk, hold_folder, read_mark
from datasets.raw_example import Adapter
from datasets.shard_job import ShardJob, digest_of, make_shard, shorten
from posepile.data import records
from posepile.data.atomic_files import atomic_file, write_json
from posepile.data.records import SPLITS
from posepile.data.worker_processes import available_cores
from posepile.geometry.skeleton import skeleton_from_dict

MAX_SHARDS_PER_SPLIT = 128  # the grain of resuming, too; more keep more files open in training
DETECTIONS_NAME = ".detections.part"  # removed with all that is unfinished

logger = logging.getLogger(__name__)


def prepare(adapter: Adapter, raw_dir: pathlib.Path | str | None, data_root: pathlib.Path | str, *,
            name: str | None = None, splits: Sequence[str] | None = None, limit: int | None = None,
            skip_bad: bool = False, strict: bool = False, detections: pathlib.Path | str | None = None,
            detector: pathlib.Path | str | None = None, masks: pathlib.Path | str | None = None,
            body_models: pathlib.Path | str | None = None,
            workers: int | None = None, scheduler: str | None = None, person_side: int = PERSON_SIDE,
            licence: str | None = None, overwrite: bool = False, progress: bool = True) -> dict:
    """Prepares a data set into DATA_ROOT/NAME. Called again, it continues, or returns at once if all is done.

    Args:
        adapter: reads the data set; for more than one worker its functions must be defined at the top level of a
            module.
        raw_dir: the folder of the raw files; None where the data are generated.
        data_root: the folder of all prepared data sets.
        name: what to call the prepared data set; None: as its adapter.
        splits: which of train, validation and test; None: all that the data set has. "train+validation" puts what belongs to
            the second into the first.
        limit: the most examples of a split, the first ones in the data set's order; they go into a single shard. None:
            all.
        skip_bad: be content with what can be read. What cannot is left out and listed in the manifest under `skipped`, a
            unit from where its adapter gives up on; without `skip_bad`, another call makes the shards in which something
            was left out anew.
        strict: stop at the first thing that cannot be read instead.
        detections: a COCO result file whose boxes replace the data set's, by its `Adapter.detection_rule`.
        detector: an ONNX file of a person detector, see `onnx_detector`, whose boxes do the same.
        masks: a folder of masks, see `detector_results.add_mask`.
        body_models: the folder of the user's licensed body model files, for adapters that use them.
        workers: processes; 1 works in this process. None: one per available core.
        scheduler: address of a dask scheduler, HOST:PORT, whose workers are to do the work. They need the same software,
            and the same paths `raw_dir` and `data_root`. None: this machine works.
        person_side: px, see `crop_example`.
        licence: goes into the manifest; None: as in the catalogue.
        overwrite: begin anew, whatever is there.
        progress: show a progress bar on stderr.

    Returns: the manifest.
    Raises:
        ValueError: a wrong argument, a split of which nothing can be read, detections or masks of other images, a detector
            that cannot be used; if `strict`, a bad example (naming unit, file and field).
        FileNotFoundError: raw files are missing.
        PrepareError: other settings than before, a full or read-only disk, another preparation at work, a worker that
            was killed, a cluster that cannot be used.
        KeyboardInterrupt: stopped by Ctrl-C; its message says how to go on. Finished shards stay.
    """
    _check_arguments(splits, limit, workers, scheduler, person_side)
    _check_options(adapter, skip_bad, strict, detections, detector, masks, body_models)
    # Absolute, as workers on other machines have working directories of their own.
    raw_dir = None if raw_dir is None else pathlib.Path(raw_dir).absolute()
    detector = None if detector is None else pathlib.Path(detector).absolute()
    if licence is None:
        info = load_catalogue().get(adapter.name)
        licence = "" if info is None else info.licence
    adapter = dataclasses.replace(_with_body_models(adapter, body_models), name=name or adapter.name)
    folder = pathlib.Path(data_root).absolute() / adapter.name
    settings = {"name": adapter.name, "raw_dir": None if raw_dir is None else str(raw_dir.resolve()),
                "splits": None if splits is None else sorted(splits, key=lambda split: SPLITS.index(split.split("+")[0])),
                "limit": limit,
                "person_side": person_side, "detections": None if detections is None else _file_digest(detections),
                "detector": None if detector is None else _file_digest(detector),
                "masks": None if masks is None else str(pathlib.Path(masks).resolve())}
    manifest = None if overwrite else _complete_manifest(folder, settings, skip_bad)
    if manifest is not None:
        logger.info("data set %s is already complete in %s; its raw files are not looked at again "
                    "(--overwrite prepares it anew)", adapter.name, folder)
        return manifest
    if detector is not None:
        run_detector(detector, adapter.detection_rule)  # says what is wrong with it before the work begins
    with (cluster.connect(scheduler) if scheduler else contextlib.nullcontext() as client,
          explain_full_disk(folder), hold_folder(folder) as mark):
        if client is not None:
            cluster.check_workers(client, _find_worker_problem, adapter, raw_dir, _digest_of_names(raw_dir), folder,
                                  mark, _versions(), detector, settings["detector"])
        settings, jobs = _plan(adapter, raw_dir, folder, settings, detector, skip_bad, strict, mark)
        _begin(folder, settings, overwrite)
        if detections is not None:
            index_detections(pathlib.Path(detections), jobs[0].detections, adapter.detection_rule)
        shards = _make_shards(adapter.name, jobs, settings, workers, client, overwrite, progress)
        check_mark(folder, mark)
        _clear_unfinished(folder)
        manifest = _assemble(folder, settings, licence, jobs, shards)
        write_json(folder / records.MANIFEST_NAME, manifest)
        return manifest


def _check_arguments(splits, limit, workers, scheduler, person_side) -> None:
    names = [name for split in splits or () for name in split.split("+")]
    if unknown := set(names) - set(SPLITS):
        raise ValueError(f"unknown splits {', '.join(sorted(unknown))}; valid ones: {', '.join(SPLITS)}")
    if splits is not None and (not splits or len(set(names)) < len(names)):
        raise ValueError(f"splits is {', '.join(splits) or 'empty'}; name one or more of {', '.join(SPLITS)}, each once")
    for name, value in (("limit", limit), ("workers", workers), ("person_side", person_side)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if workers is not None and scheduler is not None:
        raise ValueError("workers and scheduler are both given; on a cluster, its own workers do the work")


def _check_options(adapter, skip_bad, strict, detections, detector, masks, body_models) -> None:
    if skip_bad and strict:
        raise ValueError("skip_bad and strict are both given; bad examples are either left out or stop the work")
    if detections is not None and detector is not None:
        raise ValueError("detections and a detector are both given; boxes come from one of them")
    for name, path in (("detections", detections), ("detector", detector)):
        if path is not None and adapter.detection_rule is None:
            raise ValueError(f"{name} given, but data set {adapter.name} has boxes of its own, which stay; leave it out")
        if path is not None and not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"{name}: there is no file {path}")
    if masks is not None and not pathlib.Path(masks).is_dir():
        raise FileNotFoundError(f"masks: there is no folder {masks}")
    if body_models is not None and not adapter.uses_body_models:
        raise ValueError(f"body models are given, but data set {adapter.name} is labelled with joints; leave them out")
    if body_models is not None and not pathlib.Path(body_models).is_dir():
        raise FileNotFoundError(f"body models: there is no folder {body_models}")


def _with_body_models(adapter: Adapter, body_models: pathlib.Path | str | None) -> Adapter:
    if not adapter.uses_body_models:
        return adapter
    folder = None if body_models is None else pathlib.Path(body_models).absolute()
    return dataclasses.replace(adapter, list_units=functools.partial(adapter.list_units, body_models=folder),
                               load_unit=functools.partial(adapter.load_unit, body_models=folder))


# ------------------------------------------------------------------------------------------------ planning and working


def _plan(adapter, raw_dir, folder, settings, detector, skip_bad, strict, mark) -> tuple[dict, list[ShardJob]]:
    """Reads what there is to do: the settings, completed by what the raw folder says, and one job per shard."""
    kind, skeleton = adapter.label_kind(raw_dir), skeleton_from_dict(adapter.label_skeleton(raw_dir))
    if kind not in ("3d", "2d"):
        raise ValueError(f"adapter {adapter.name}: kind is {kind!r}; expected 3d or 2d")
    units = {split.split("+")[0]: [unit for part in split.split("+") for unit in adapter.list_units(raw_dir, part)]
             for split in settings["splits"] or SPLITS}
    if settings["splits"] is None:
        units = {split: of_split for split, of_split in units.items() if of_split}
    if empty := [split for split, of_split in units.items() if not of_split] or ([] if units else list(SPLITS)):
        source = "" if raw_dir is None else f" in {raw_dir}"
        raise ValueError(f"data set {adapter.name} has nothing for the splits {', '.join(empty)}{source}")
    settings = {**settings, "kind": kind, "skeleton": skeleton.to_dict(), "version": _tool_version(),
                "units": {split: digest_of(of_split) for split, of_split in units.items()}}
    masks = settings["masks"] and pathlib.Path(settings["masks"])
    detections = settings["detections"] and folder / STATE_FOLDER / DETECTIONS_NAME
    jobs = [ShardJob(adapter, raw_dir, folder, split, shard, len(groups), group, kind, skeleton, settings["limit"],
                 skip_bad, strict, settings["person_side"], masks, detections, detector, mark)
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


def _make_shards(name, jobs: list[ShardJob], settings, workers, client, overwrite, progress) -> list[dict]:
    """Makes the shards that are missing. Returns: the sidecar of every job, in their order."""
    done = {job.path: sidecar for job in jobs if (sidecar := _read_sidecar(job)) is not None}
    to_do = [job for job in jobs if job.path not in done]
    if to_do:  # a shard that is made anew may come out with other examples than the manifest says
        (jobs[0].folder / records.MANIFEST_NAME).unlink(missing_ok=True)
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
            results = (worker_pool.run_jobs(make_shard, to_do, num_workers, show) if client is None
                       else cluster.run_jobs(make_shard, to_do, client, show))
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


# ------------------------------------------------------------------------------------------------- state of the folder


def _complete_manifest(folder: pathlib.Path, settings: dict, skip_bad: bool) -> dict | None:
    """The manifest if the folder is complete, with `skip_bad` apart from what could not be read, and was made with these
    settings; needs no raw files."""
    manifest_path, settings_path = folder / records.MANIFEST_NAME, folder / STATE_FOLDER / "settings.json"
    if not manifest_path.is_file():
        return None
    manifest = _read_json(manifest_path)
    try:
        if settings_path.is_file():
            before = _read_json(settings_path)
        else:  # a copied data set may lack the hidden folder
            before = {**settings, "detector": None, **manifest["settings"]}  # unknown to former versions
        files = [folder / shard["file"] for split in manifest["splits"].values() for shard in split["shards"]]
        files += [records.index_path(folder, split) for split in manifest["splits"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise PrepareError(f"{manifest_path} is not a manifest ({error!r}); make the data set anew with --overwrite"
                           ) from error
    _refuse_differences(folder, before, settings)
    is_complete = all(file.is_file() for file in files) and (skip_bad or not manifest.get("skipped"))
    return manifest if is_complete else None


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
    write_json(path, settings)


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
    differing = [f"{key}: {shorten(before.get(key))} then, {shorten(now[key])} now" for key in now
                 if before.get(key) != now[key]]
    if differing:
        raise PrepareError(f"{folder} was prepared with other settings ({'; '.join(differing)}). Repeat those, or "
                           "begin anew with --overwrite.")


def _file_digest(path: pathlib.Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_sidecar(job: ShardJob) -> dict | None:
    """The sidecar of a finished shard; None if the shard is missing, of another size, or has skips that are not wanted
    now."""
    try:
        sidecar = json.loads(job.sidecar.read_text())
        sidecar["record_bytes"] = np.array(sidecar["record_bytes"], np.int64)
        sidecar.setdefault("detector_results", {})  # of former versions
        is_whole = job.path.stat().st_size == sidecar["record_bytes"].sum()
        return sidecar if is_whole and (job.skip_bad or not sidecar["skipped"]) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError):  # missing or damaged
        return None


def _assemble(folder: pathlib.Path, settings: dict, licence: str, jobs: list[ShardJob], shards: list[dict]) -> dict:
    """Writes the indices and returns the manifest."""
    counts = sum((collections.Counter(shard["detector_results"]) for shard in shards), collections.Counter())
    _check_use(settings, counts)
    splits = {}
    for split in dict.fromkeys(job.split for job in jobs):
        of_split = [(job, shard) for job, shard in zip(jobs, shards, strict=True) if job.split == split]
        num_examples = sum(shard["num_examples"] for _, shard in of_split)
        if num_examples == 0:
            skipped = [entry for _, shard in of_split for entry in shard["skipped"]]
            why = f"; the first one: {skipped[0]['where']}: {skipped[0]['reason']}" if skipped else ""
            raise ValueError(f"data set {settings['name']}: the {split} split came out empty, {len(skipped)} examples "
                             f"were skipped{why}")
        with atomic_file(records.index_path(folder, split)) as file:  # row by row: it may have 10^7 of them
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
            "settings": {key: settings[key] for key in ("name", "splits", "limit", "person_side", "detections", "detector")},
            "detector_results": dict(counts), "skipped": [entry for shard in shards for entry in shard["skipped"]]}


def _check_use(settings: dict, counts: collections.Counter) -> None:
    """Raises: ValueError if detections or masks are of other images: then all people would keep their boxes unnoticed."""
    if settings["detections"] and not counts["images_with_detections"]:
        raise ValueError(f"detections: none of the {counts['images']} images is in the file; it must name each image by its "
                         "path in the raw folder, a frame of a video by PATH#FRAME")
    if settings["detector"] and not counts["images_with_detections"]:
        raise ValueError(f"detector: it has found nobody in any of {counts['images']} images; its class 0 must be a person")
    if settings["masks"] and counts["people_without_mask"] and not counts["masks_added"]:
        raise ValueError(f"masks: none of {counts['people_without_mask']} people has one in {settings['masks']}; the mask of "
                         "an image must be PATH.png, PATH its path in the raw folder, of a frame of a video PATH#FRAME.png")


def _find_worker_problem(_adapter, raw_dir: pathlib.Path | None, raw_names: str | None, folder: pathlib.Path, mark: str,
                         versions: dict[str, str], detector: pathlib.Path | None = None,
                         detector_digest: str | None = None) -> str | None:
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
    if detector is not None and not (detector.is_file() and _file_digest(detector) == detector_digest):
        return f"does not see the same file {detector}; --detector must be on a file system that all machines share"
    return None


def _digest_of_names(folder: pathlib.Path | None) -> str | None:
    """Tells whether two machines see the same folder, in which a mount may be missing; None if it does not exist."""
    return digest_of(sorted(os.listdir(folder))) if folder is not None and folder.is_dir() else None


def _versions() -> dict[str, str]:
    """Of what the bytes of a crop depend on."""
    return {"posepile-trainer": _tool_version(), "Python": ".".join(map(str, sys.version_info[:2])),
            "numpy": np.__version__, "OpenCV": cv2.__version__}


def _tool_version() -> str:
    try:
        return importlib.metadata.version("posepile-trainer")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
