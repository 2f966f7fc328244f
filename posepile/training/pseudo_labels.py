"""Pseudo-ground truth for the autoencoder: what the initial model predicts, in all formats, on training images.

Poses go to disk in parts as soon as they are predicted, and are joined at the end, so that memory stays bounded and a killed
program goes on where it was:

    RUN/pseudo_labels/NAME-NNNNN.npz    plausible poses of some images of a data set; deleted at the end
    RUN/pseudo_labels.npz               joints3d [n, num_joints, 3] float32, camera frame, mm, and joint_names; of every pose
        dataset_index into dataset_names, and positions: its example in the train split; num_left_out, identity
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from posepile.data.atomic_files import atomic_file
from posepile.data.crops import UnusableExampleError, crop_examples
from posepile.data.prefetch import ordered_map, prepare_threads
from posepile.data.records import PreparedDataset
from posepile.data.sampling import evenly_spread
from posepile.prediction.predictor import Predictor
from posepile.prediction.test_time_augmentation import PLAIN, Views
from posepile.training import plausibility
from posepile.training.plausibility import BONE_LENGTH, PLAUSIBLE, REASONS, UNUSABLE, KnownBones, judge_poses, known_bones

BATCHES_PER_PART = 4
_CROPS_AHEAD = 1024  # crops made before they are needed take memory


def predict_poses(predictor: Predictor, dataset: PreparedDataset, split: str, positions: np.ndarray,
                  description: str = "", views: Views = PLAIN) -> np.ndarray:
    """Predictions on the plain crops, or means over these views.

    Returns: [len(positions), num_joints, 3] float32, in the frames of the plain crops' cameras, mm.
    Raises: UnusableExampleError naming file and offset.
    """
    with (_progress_bar(description or dataset.name, len(positions) * len(views)) as progress,
          contextlib.closing(predict_parts(predictor, dataset, split, [positions], progress, views=views)) as parts):
        return next(parts)[0]


def predict_parts(predictor: Predictor, dataset: PreparedDataset, split: str, parts: Sequence[np.ndarray], progress: tqdm,
                  skip_bad: bool = False, views: Views = PLAIN) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predictions on the plain crops, or means over views, part by part. Threads make the next crops while the model predicts.

    Args:
        parts: [n] int64 positions in the split each.
        progress: is moved on, by one for each crop.
        skip_bad: warn of examples whose records cannot be used, instead of raising.
        views: in which every example is predicted.

    Yields: [n, num_joints, 3] float32, in the frames of the plain crops' cameras, mm, nan for examples that cannot be used;
        and which can, [n] bool.
    Raises: UnusableExampleError naming file and offset.
    """
    batch_size = predictor.batch_size
    num_threads = min(prepare_threads(), max(1, _CROPS_AHEAD // batch_size))
    batches = ((part[person], view) for part in parts for person, view in views.batches(len(part), batch_size))
    crops = ordered_map(lambda batch: _crop(dataset, split, *batch, views, predictor.model.crop_side, skip_bad), batches,
                        num_threads, num_ahead=num_threads)
    with contextlib.closing(crops):
        for part in parts:
            poses = np.zeros((len(part), predictor.skeleton.num_joints, 3), np.float32)
            is_used = np.ones(len(part), bool)
            for person, view in views.batches(len(part), batch_size):
                batch, is_used_in_batch = next(crops)
                is_used[person[~is_used_in_batch]] = False
                if is_used_in_batch.any():
                    views.add_to_means(poses, person[is_used_in_batch], view[is_used_in_batch],
                                       predictor.predict_crops(batch["image"], batch["intrinsics"]), predictor.skeleton.mirror)
                progress.update(len(person))
            poses[~is_used] = np.nan
            yield poses, is_used


def make_pseudo_labels(predictor: Predictor, datasets: Sequence[PreparedDataset], all_datasets: Sequence[PreparedDataset],
                       max_per_dataset: int, path: pathlib.Path, skip_bad: bool = False) -> None:
    """Predicts all formats on training images, leaves implausible poses out, and writes the rest to `path`.

    Called again after an interruption, it goes on with the parts that are missing or damaged, or were made with another model,
    other data or settings; the result is bitwise the same. It logs how many poses of each data set are left out, and why.

    Args:
        datasets: whose training images are used, at most `max_per_dataset` of each, evenly spread.
        all_datasets: whose bone lengths tell what is plausible.
        path: ends in .npz.
        skip_bad: as in `predict_parts`.

    Raises: ValueError if no pose is plausible; OSError naming the file that cannot be written.
    """
    bones, folder = known_bones(predictor.skeleton, all_datasets), path.with_suffix("")
    tasks = _make_tasks(predictor, datasets, bones, max_per_dataset, folder)
    identity = {task.dataset.name: task.identity for task in tasks}
    if _identity(_read(path, "identity")) != identity:
        outcomes = np.array([_label(predictor, task, bones, skip_bad) for task in tasks])
        num_images, num_kept = outcomes.sum(), outcomes[:, PLAUSIBLE].sum()
        if not num_kept:
            raise ValueError(f"none of the {num_images} predicted poses is plausible, see above: the initial model is not "
                             "trained far enough to fit the autoencoder. Train it with more --steps.")
        _join(path, [file for task in tasks for file in task.files], (num_kept, predictor.skeleton.num_joints, 3), {
            "joint_names": predictor.skeleton.joint_names,
            "dataset_index": np.repeat(np.arange(len(tasks)), outcomes[:, PLAUSIBLE]),
            "dataset_names": list(identity), "num_left_out": num_images - num_kept, "identity": json.dumps(identity)})
    shutil.rmtree(folder, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class _Task:
    """The images of a data set that are to be labelled: in parts, each with the file of its poses.

    Attributes: identity: everything that the poses depend on, by name, as digests or numbers.
    """

    dataset: PreparedDataset
    parts: list[np.ndarray]
    files: list[pathlib.Path]
    identity: dict[str, str | int]


def _make_tasks(predictor: Predictor, datasets: Sequence[PreparedDataset], bones: KnownBones, max_images: int,
                folder: pathlib.Path) -> list[_Task]:
    in_common = {
        "model": _digest(*(weights.tobytes() for weights in predictor.model.get_weights())),
        "crop side": predictor.model.crop_side, "batch size": predictor.batch_size,
        "joint list": _digest(json.dumps(predictor.skeleton.joint_names).encode()),
        "bone lengths": _digest(bones.joints.tobytes(), bones.mean_lengths.tobytes(), repr(plausibility.BOUNDS).encode())}
    tasks = []
    for dataset in datasets:
        positions = evenly_spread(dataset.num_examples("train"), max_images)
        parts = _cut(positions, BATCHES_PER_PART * predictor.batch_size)
        files = [folder / f"{dataset.name}-{i:05d}.npz" for i in range(len(parts))]
        manifest = _digest(json.dumps(dataset.manifest, sort_keys=True).encode())
        tasks.append(_Task(dataset, parts, files,
                           {**in_common, "manifest": manifest, "number of images": len(positions)}))
    return tasks


def _label(predictor: Predictor, task: _Task, bones: KnownBones, skip_bad: bool) -> np.ndarray:
    """Makes those parts of a task that are not there yet, and logs what came out for all of them.

    Returns: [5] int64: for how many images each outcome.
    """
    name = task.dataset.name
    outcomes, implausible_bones = np.zeros(len(plausibility.OUTCOMES), np.int64), np.zeros(len(bones.names), np.int64)
    missing, num_stale, changed = [], 0, set()
    for part, file in zip(task.parts, task.files, strict=True):
        arrays = _read(file)
        if (identity := _identity(arrays)) == task.identity:
            outcomes += arrays["outcomes"]
            implausible_bones += arrays["implausible_bones"]
            continue
        missing.append((part, file))
        if identity is not None:
            num_stale += 1
            changed.update(key for key in task.identity if identity.get(key) != task.identity[key])
    if changed:
        logging.warning("%d finished parts of the pseudo-labels of %s were made with another %s: they are made anew", num_stale,
                        name, ", another ".join(sorted(changed)))
    with _progress_bar(f"pseudo-labels {name}", sum(map(len, task.parts)), done=int(outcomes.sum())) as progress:
        parts = predict_parts(predictor, task.dataset, "train", [part for part, _ in missing], progress, skip_bad)
        with contextlib.closing(parts):
            for (positions, file), (poses, is_used) in zip(missing, parts, strict=True):
                outcome, implausible = judge_poses(poses, bones)
                outcome[~is_used] = UNUSABLE
                is_kept = outcome == PLAUSIBLE
                counts = {"outcomes": np.bincount(outcome, minlength=len(outcomes)),
                          "implausible_bones": implausible[outcome == BONE_LENGTH].sum(axis=0)}
                with _new_file(file) as opened:
                    np.savez(opened, joints3d=poses[is_kept], positions=positions[is_kept], identity=json.dumps(task.identity),
                             **counts)
                outcomes += counts["outcomes"]
                implausible_bones += counts["implausible_bones"]
                progress.set_postfix_str(f"{1 - outcomes[PLAUSIBLE] / outcomes.sum():.1%} left out", refresh=False)
    _log_outcomes(name, outcomes, implausible_bones, bones)
    return outcomes


def _log_outcomes(name: str, outcomes: np.ndarray, implausible_bones: np.ndarray, bones: KnownBones) -> None:
    num_images = outcomes.sum()
    num_left_out = num_images - outcomes[PLAUSIBLE]
    reasons = [f"{outcomes[outcome]} for a {REASONS[outcome][0]}" for outcome in REASONS if outcomes[outcome]]
    if outcomes[BONE_LENGTH]:
        worst = implausible_bones.argmax()
        reasons.append(f"the worst bone, in {implausible_bones[worst]}, is {bones.names[worst]}")
    logging.info("pseudo-labels of %s: %d images, %d left out%s", name, num_images, num_left_out,
                 f": {'; '.join(reasons)}" if reasons else "")
    if num_left_out > num_images / 2:
        meaning = REASONS[max(REASONS, key=lambda outcome: outcomes[outcome])][1]
        logging.warning("more than half of the pseudo-labels of %s are left out, so that the autoencoder sees little of its "
                        "poses. Probably %s. --pseudo-label-datasets chooses other data sets.", name, meaning)


def _join(path: pathlib.Path, files: Sequence[pathlib.Path], shape: tuple[int, ...], others: dict) -> None:
    """Writes the poses of all parts, [*shape] together, and `others` to one .npz file, one part at a time."""
    positions = []
    with _new_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("joints3d.npy", "w", force_zip64=True) as entry:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False,
                      "shape": tuple(map(int, shape))}
            np.lib.format.write_array_header_1_0(entry, header)
            for part in files:
                if (arrays := _read(part)) is None:
                    raise ValueError(f"{part} has been damaged since it was written. The same command makes it anew.")
                entry.write(arrays["joints3d"].tobytes())
                positions.append(arrays["positions"])
        for name, values in {**others, "positions": np.concatenate(positions)}.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)


def _read(path: pathlib.Path, *names: str) -> dict[str, np.ndarray] | None:
    """These arrays of an .npz file, or all; None if it is missing or, with a warning, damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        logging.warning("%s is damaged (%s): it is made anew", path, error)
        return None


def _identity(arrays: dict[str, np.ndarray] | None) -> dict | None:
    return None if arrays is None else json.loads(str(arrays["identity"]))


@contextlib.contextmanager
def _new_file(path: pathlib.Path) -> Iterator:
    """As `atomic_file`; errors name the file."""
    try:
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(error.filename or path)) from error


def _crop(dataset: PreparedDataset, split: str, positions: np.ndarray, view: np.ndarray, views: Views, crop_side: int,
          skip_bad: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The crops, each in a view, of those examples that can be used, and which ones these are: [len(positions)] bool."""
    is_used = np.ones(len(positions), bool)
    while is_used.any():
        try:
            crops = crop_examples(dataset, split, positions[is_used], crop_side, geometry=views.geometry(view[is_used]))
            views.adjust_brightness(crops["image"], view[is_used])
            return crops, is_used
        except UnusableExampleError as error:
            if not skip_bad:
                raise
            logging.warning("skipped an example of %s: %s", dataset.name, error)
            is_used[np.flatnonzero(is_used)[error.row]] = False
    return {}, is_used


def _cut(array: np.ndarray, size: int) -> list[np.ndarray]:
    """Views of so many rows each, but for the last one."""
    return [array[start:start + size] for start in range(0, len(array), size)]


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]


def _progress_bar(description: str, num_images: int, done: int = 0) -> tqdm:
    return tqdm(total=num_images, initial=done, desc=f"{description:12}", unit="crop", mininterval=1.0, dynamic_ncols=True)
