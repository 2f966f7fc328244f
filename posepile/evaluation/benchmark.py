"""Running a benchmark: predict a prepared data set's images and score the predictions."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data.atomic_files import atomic_file, write_json
from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset
from posepile.data.sampling import evenly_spread
from posepile.evaluation.comparison import compare_poses, measure_poses
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import mpi_inf_3dhp
from posepile.evaluation.scoring import (
    PROTOCOLS,
    json_ready,
    mean_pose_baseline,
    mean_relative_pose,
    score_merged,
    score_poses,
)
from posepile.geometry.camera import crop_cameras
from posepile.geometry.skeleton import Skeleton, joint_indices, merged_joint_names
from posepile.prediction.predictor import Predictor
from posepile.prediction.test_time_augmentation import PLAIN, Views
from posepile.training.plausibility import MIN_DEPTH_MM
from posepile.training.pseudo_labels import predict_poses

_MEAN_POSE_EXAMPLES = 2000  # of each training set
_SPLITS = {"3dpw": ("train", "validation", "test")}  # where a benchmark takes others than the test split


def evaluation_splits(dataset: PreparedDataset) -> tuple[str, ...]:
    """The splits that are scored together: those of the benchmark, or test, or the next best that the data set has."""
    if dataset.name in _SPLITS:
        return tuple(split for split in _SPLITS[dataset.name] if split in dataset.splits())
    return (next(split for split in ("test", "validation", "train") if split in dataset.splits()),)


def read_truth(dataset: PreparedDataset, split: str, positions: Sequence[int], crop_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels in the frames of the evaluation crops: joints3d [n, num_joints, 3] mm, and their mask [n, num_joints] bool."""
    return _read_crops(dataset, split, positions, crop_side, ("joints3d", "joints3d_mask"))


def check_joints(predictor: Predictor, dataset: PreparedDataset) -> None:
    """Raises: ValueError naming the joints if the model lacks some that the data set labels, or it has no 3D labels."""
    if dataset.kind != "3d":
        raise ValueError(f"data set {dataset.name} has 2D labels only and cannot be scored in 3D")
    known = set(predictor.skeleton.joint_names)
    names = [name for fmt in dataset.skeleton.formats or (dataset.skeleton,) for name in merged_joint_names(fmt)]
    if missing := [name for name in dict.fromkeys(names) if name not in known]:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        formats = ", ".join(fmt.name for fmt in predictor.skeleton.formats or (predictor.skeleton,))
        raise ValueError(f"data set {dataset.name} is labelled in {dataset.skeleton.name}, which this model was not trained "
                         f"on: it lacks {shown}; its formats: {formats}")


def check_models(predictors: Mapping[str, Predictor], datasets: Sequence[PreparedDataset]) -> None:
    """`check_joints` of all models on all data sets; the message names the model."""
    for dataset in datasets:
        for name, predictor in predictors.items():
            try:
                check_joints(predictor, dataset)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def predict_dataset(predictor: Predictor, dataset: PreparedDataset, description: str = "", views: Views = PLAIN) -> np.ndarray:
    """Predictions for the scored splits, means over the views. Returns: [num_poses, num_joints, 3] mm, of the data set's own
    joints, in the frames of the evaluation crops. Raises: as `check_joints`."""
    check_joints(predictor, dataset)
    joints = joint_indices(predictor.skeleton, dataset.skeleton)
    return np.concatenate([
        predict_poses(predictor, dataset, split, np.arange(dataset.num_examples(split)), description, views)[:, joints]
        for split in evaluation_splits(dataset)])


def evaluate_dataset(predictor: Predictor, dataset: PreparedDataset, predictions_path: pathlib.Path | None = None,
                     description: str = "", confidence: float = 0.95, views: Views = PLAIN) -> dict:
    """Scores a model on a data set with 3D labels, in the formats that the data set labels.

    Args:
        predictions_path: .npz that gets the predictions, see `Poses.to_arrays`; None: not written.
        confidence: of the intervals.
        views: over which predictions are averaged: test-time augmentation.

    Returns: `score_merged`'s record, with `stamp`: data set, split, number of poses, views, root, averaging and what is
        resampled; `intervals`, `per_joint` and `per_activity`, see `measure_poses`; and `benchmark`, the record of the protocol
        of the data set's name, if there is one.
    Raises: ValueError if the model does not predict the data set's format, or the data set has no 3D labels.
    """
    joints3d = predict_dataset(predictor, dataset, description, views)
    truth = read_scored(dataset, predictor.model.crop_side)
    measured = measure_poses(joints3d, truth.joints3d, truth.validity, dataset.skeleton, confidence=confidence,
                             **{name: truth.labels.get(name) for name in ("sequence", "activity")})
    record = {**score_merged(joints3d, truth.joints3d, truth.validity, dataset.skeleton), **measured,
              "stamp": {**_stamp(dataset, views), **measured["stamp"]}}
    pred, true = protocol_poses(dataset, joints3d, truth)
    if predictions_path is not None:
        with atomic_file(predictions_path) as file:
            np.savez(file, **pred.to_arrays())
    if dataset.name in PROTOCOLS:
        record["benchmark"] = score_poses(pred, true, dataset.name, confidence)
    return record


@dataclasses.dataclass(frozen=True)
class ScoredTruth:
    """The annotations of the splits that are scored, in the frames of the evaluation crops.

    Attributes:
        joints3d: [n, num_joints, 3] mm; 0 where there is no label.
        validity: [n, num_joints] bool.
        world_to_crop: [n, 4, 4] rigid, from the records' worlds, mm.
        split: [n] names.
        labels: by name what all records say in their provenance, [n, ...].
    """

    joints3d: np.ndarray
    validity: np.ndarray
    world_to_crop: np.ndarray
    split: np.ndarray
    labels: dict[str, np.ndarray]


def read_scored(dataset: PreparedDataset, crop_side: int) -> ScoredTruth:
    """Reads the annotations, without decoding the images. Crops of any side turn the camera alike."""
    names = ("sequence", "activity", "frame", "person", "intrinsics", "joints3d_universal")
    split, bbox, intrinsics, world_to_image, joints3d, labels = [], [], [], [], [], {name: [] for name in names}
    for of_split in evaluation_splits(dataset):
        for i in range(dataset.num_examples(of_split)):
            example = dataset.read(of_split, i)
            split.append(of_split)
            for values, value in ((bbox, example.bbox), (intrinsics, example.intrinsics), (joints3d, example.joints3d),
                                  (world_to_image, example.world_to_camera)):
                values.append(value)
            for name, values in labels.items():
                values.append(example.provenance.get(name))
    _, rotation = crop_cameras(np.array(intrinsics), np.array(bbox), crop_side)
    joints3d = np.einsum("nij,nkj->nki", rotation, np.array(joints3d, np.float64))
    validity = np.isfinite(joints3d).all(axis=-1)
    world_to_crop = np.array(world_to_image, np.float64)
    world_to_crop[:, :3] = rotation @ world_to_crop[:, :3]
    return ScoredTruth(np.where(validity[..., None], joints3d, 0), validity, world_to_crop, np.array(split), {
        name: np.array(values) for name, values in labels.items() if not any(value is None for value in values)})


def protocol_poses(dataset: PreparedDataset, joints3d_pred: np.ndarray, truth: ScoredTruth) -> tuple[Poses, Poses]:
    """Predictions and annotations with all that protocols need, in the frames of the evaluation crops.

    Args:
        joints3d_pred: [n, num_joints, 3] mm, in the frames of the evaluation crops, see `predict_dataset`.
        truth: of `read_scored`.

    Returns: predictions, annotations. `joints2d`, px of the whole image, are there where the records have its `intrinsics`:
        then their world is its camera.
    """
    labels, names, world_to_crop = truth.labels, dataset.skeleton.joint_names, truth.world_to_crop
    joints2d = [_project(_to_world(joints, world_to_crop), labels["intrinsics"]) if "intrinsics" in labels else None
                for joints in (joints3d_pred, truth.joints3d)]
    universal = None
    if "joints3d_universal" in labels:  # of the benchmark's joints, in the world
        universal = np.zeros_like(truth.joints3d)
        universal[:, [names.index(name) for name in mpi_inf_3dhp.JOINTS]] = (
            np.einsum("nij,nkj->nki", world_to_crop[:, :3, :3], labels["joints3d_universal"]) + world_to_crop[:, None, :3, 3])
    common = {"joint_names": names, **{name: labels.get(name) for name in ("sequence", "frame")}}
    return (Poses(f"predictions for {dataset.name}", joints3d_pred, joints2d[0], **common),
            Poses(dataset.name, truth.joints3d, joints2d[1], truth.validity, dataset.skeleton.root, split=truth.split,
                  activity=labels.get("activity"), person=labels.get("person"), joints3d_universal=universal, **common))


def _to_world(joints3d: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """[n, num_joints, 3] in cameras -> in their worlds, float64."""
    return np.einsum("nij,nki->nkj", world_to_camera[:, :3, :3], joints3d - world_to_camera[:, None, :3, 3])


def _project(joints3d: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """[n, num_joints, 3] mm -> [n, num_joints, 2] px, with [n, 4] focal lengths and principal points; nan behind the camera."""
    depth = np.where(joints3d[..., 2:] > 0, joints3d[..., 2:], np.nan)
    return joints3d[..., :2] / depth * camera[:, None, :2] + camera[:, None, 2:]


def save_predictions(predictor: Predictor, dataset: PreparedDataset, path: pathlib.Path, views: Views = PLAIN) -> dict:
    """Predictions beside labels of another format, for fitting that format to the model's joints: `python -m ace add-skeleton`.

    Of the train split, so that the others are left for scoring, or of the first there is. Writes, in the frames of the crops:
    `joints3d` [n, J, 3] mm of the model's joints, nan for poses with a joint nearer than 300 mm; `joint_names`;
    `new_joints3d` [n, K, 3] mm, or `new_joints2d` [n, K, 2] px with `intrinsics` [n, 3, 3], nan where there is no label;
    `new_joint_names`; `skeleton`, the format of the labels as JSON.

    Returns: split, num_poses, and num_left_out: those that are nan.
    """
    split = dataset.splits()[0]
    positions = np.arange(dataset.num_examples(split))
    joints3d = predict_poses(predictor, dataset, split, positions, views=views)
    is_left_out = ~(joints3d[..., 2] >= MIN_DEPTH_MM).all(axis=1)
    joints3d[is_left_out] = np.nan
    name = f"joints{dataset.kind}"
    labels, mask, intrinsics = _read_crops(dataset, split, positions, predictor.model.crop_side,
                                           (name, f"{name}_mask", "intrinsics"))
    with atomic_file(path) as file:
        np.savez(file, joints3d=joints3d, joint_names=np.array(predictor.skeleton.joint_names),
                 new_joint_names=np.array(dataset.skeleton.joint_names), skeleton=json.dumps(dataset.skeleton.to_dict()),
                 **{f"new_{name}": np.where(mask[..., None], labels, np.nan)},
                 **({"intrinsics": intrinsics} if dataset.kind == "2d" else {}))
    return {"split": split, "num_poses": len(joints3d), "num_left_out": int(is_left_out.sum())}


def compare_models(predictors: Mapping[str, Predictor], dataset: PreparedDataset, confidence: float = 0.95,
                   views: Views = PLAIN) -> dict:
    """Scores several models on the same images, in the same views, and compares each with the first.

    Returns: `models`: {name: `score_merged`'s record}, `differences` of `comparison.compare_poses`, and `stamp` with that of
        `evaluate_dataset` and that of the comparison.
    Raises: ValueError as `check_models`, before any of them predicts.
    """
    check_models(predictors, [dataset])
    predictions = {name: predict_dataset(predictor, dataset, f"{dataset.name}, {name}", views)
                   for name, predictor in predictors.items()}
    # Crops of any side turn the camera alike, so the truth is the same for all models.
    truth = read_scored(dataset, next(iter(predictors.values())).model.crop_side)
    comparison = compare_poses(predictions, truth.joints3d, truth.validity, dataset.skeleton, confidence=confidence,
                               **{name: truth.labels.get(name) for name in ("sequence", "activity")})
    return {"models": {name: score_merged(poses, truth.joints3d, truth.validity, dataset.skeleton)
                       for name, poses in predictions.items()},
            "differences": comparison["differences"], "stamp": {**_stamp(dataset, views), **comparison["stamp"]}}


def evaluate_baseline(training_sets: Sequence[PreparedDataset], dataset: PreparedDataset, crop_side: int) -> dict | None:
    """Scores the mean training pose on a data set; None if no training set labels its formats."""
    formats = dataset.skeleton.formats or (dataset.skeleton,)
    skeleton = dataset.skeleton
    total = np.full((skeleton.num_joints, 3), np.nan)
    for training_set in training_sets:
        for fmt in formats:
            if training_set.skeleton == fmt:
                mean_pose = _mean_training_pose(training_set, fmt, crop_side)
                total[joint_indices(skeleton, fmt) if skeleton.formats else slice(None)] = mean_pose
    if not np.isfinite(total).all():
        return None
    truth = read_scored(dataset, crop_side)
    return mean_pose_baseline(total, truth.joints3d, truth.validity, skeleton)


def save_scores(path: pathlib.Path, scores: dict) -> None:
    """Writes a record of scores as JSON; undefined numbers become null."""
    write_json(path, json_ready(scores))


def _mean_training_pose(training_set: PreparedDataset, skeleton: Skeleton, crop_side: int) -> np.ndarray:
    positions = evenly_spread(training_set.num_examples("train"), _MEAN_POSE_EXAMPLES)
    return mean_relative_pose(*read_truth(training_set, "train", positions, crop_side), skeleton)


def _read_crops(dataset, split, positions, crop_side, keys):
    """Arrays of `crop_examples`, for any number of examples."""
    chunks = [crop_examples(dataset, split, positions[i:i + 256], crop_side) for i in range(0, len(positions), 256)]
    return tuple(np.concatenate([chunk[key] for chunk in chunks]) for key in keys)


def _stamp(dataset: PreparedDataset, views: Views) -> dict:
    splits = evaluation_splits(dataset)
    settings = dataset.manifest.get("settings", {})
    boxes = "of a detector" if settings.get("detections") or settings.get("detector") else "of the data set"
    return {"dataset": dataset.name, "split": " + ".join(splits), "num_poses": sum(map(dataset.num_examples, splits)),
            "boxes": boxes, **views.stamp,
            "joints": dataset.skeleton.name, "root": "each format's own root joint, counted in every mean",
            "annotation": "metric, crop camera frame", "averaging": "flat over poses and joints"}
