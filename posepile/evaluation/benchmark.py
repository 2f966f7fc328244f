"""Running a benchmark: predict a prepared data set's images and score the predictions."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset, atomic_file, write_json
from posepile.data.sampling import evenly_spread
from posepile.evaluation.comparison import compare_poses
from posepile.evaluation.scoring import json_ready, mean_pose_baseline, mean_relative_pose, score_merged
from posepile.geometry.skeleton import Skeleton, joint_indices, merged_joint_names
from posepile.prediction.predictor import Predictor
from posepile.training.plausibility import MIN_DEPTH_MM
from posepile.training.pseudo_labels import predict_poses

_MEAN_POSE_EXAMPLES = 2000  # of each training set


def evaluation_split(dataset: PreparedDataset) -> str:
    """The split that is scored: test, or the next best that the data set has."""
    return next(split for split in ("test", "validation", "train") if split in dataset.splits())


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


def predict_dataset(predictor: Predictor, dataset: PreparedDataset, description: str = "") -> np.ndarray:
    """Predictions for the scored split. Returns: [num_poses, num_joints, 3] mm, of the data set's own joints, in the frames of
    the evaluation crops. Raises: as `check_joints`."""
    check_joints(predictor, dataset)
    split = evaluation_split(dataset)
    poses = predict_poses(predictor, dataset, split, np.arange(dataset.num_examples(split)), description)
    return poses[:, joint_indices(predictor.skeleton, dataset.skeleton)]


def evaluate_dataset(predictor: Predictor, dataset: PreparedDataset, predictions_path: pathlib.Path | None = None,
                     description: str = "") -> dict:
    """Scores a model on a data set with 3D labels, in the formats that the data set labels.

    Args: predictions_path: .npz that gets the predictions, `joints3d` and `joint_names`; None: not written.
    Returns: `score_merged`'s record, with `stamp`: data set, split, number of poses, root and averaging.
    Raises: ValueError if the model does not predict the data set's format, or the data set has no 3D labels.
    """
    joints3d = predict_dataset(predictor, dataset, description)
    if predictions_path is not None:
        with atomic_file(predictions_path) as file:
            np.savez(file, joints3d=joints3d, joint_names=np.array(dataset.skeleton.joint_names))
    true, mask = _scored_truth(dataset, predictor.model.crop_side)
    return {**score_merged(joints3d, true, mask, dataset.skeleton), "stamp": _stamp(dataset)}


def save_predictions(predictor: Predictor, dataset: PreparedDataset, path: pathlib.Path) -> dict:
    """Predictions beside labels of another format, for fitting that format to the model's joints: `python -m ace add-skeleton`.

    Of the train split, so that the others are left for scoring, or of the first there is. Writes, in the frames of the crops:
    `joints3d` [n, J, 3] mm of the model's joints, nan for poses with a joint nearer than 300 mm; `joint_names`;
    `new_joints3d` [n, K, 3] mm, or `new_joints2d` [n, K, 2] px with `intrinsics` [n, 3, 3], nan where there is no label;
    `new_joint_names`; `skeleton`, the format of the labels as JSON.

    Returns: split, num_poses, and num_left_out: those that are nan.
    """
    split = dataset.splits()[0]
    positions = np.arange(dataset.num_examples(split))
    joints3d = predict_poses(predictor, dataset, split, positions)
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


def compare_models(predictors: Mapping[str, Predictor], dataset: PreparedDataset, confidence: float = 0.95) -> dict:
    """Scores several models on the same images and compares each with the first.

    Returns: `models`: {name: `score_merged`'s record}, `differences` of `comparison.compare_poses`, and `stamp` with that of
        `evaluate_dataset` and that of the comparison.
    Raises: ValueError as `check_models`, before any of them predicts.
    """
    check_models(predictors, [dataset])
    predictions = {name: predict_dataset(predictor, dataset, f"{dataset.name}, {name}")
                   for name, predictor in predictors.items()}
    # Crops of any side turn the camera alike, so the truth is the same for all models.
    true, mask = _scored_truth(dataset, next(iter(predictors.values())).model.crop_side)
    labels = {key: read_labels(dataset, evaluation_split(dataset), key) for key in ("sequence", "activity")}
    comparison = compare_poses(predictions, true, mask, dataset.skeleton, **labels, confidence=confidence)
    return {"models": {name: score_merged(poses, true, mask, dataset.skeleton) for name, poses in predictions.items()},
            "differences": comparison["differences"], "stamp": {**_stamp(dataset), **comparison["stamp"]}}


def read_labels(dataset: PreparedDataset, split: str, key: str) -> np.ndarray | None:
    """[num_examples] text of an entry of the examples' provenance; None unless all examples have it."""
    labels = [dataset.read(split, i).provenance.get(key) for i in range(dataset.num_examples(split))]
    return None if None in labels else np.array(list(map(str, labels)))


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
    true, mask = _scored_truth(dataset, crop_side)
    return mean_pose_baseline(total, true, mask, skeleton)


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


def _scored_truth(dataset: PreparedDataset, crop_side: int) -> tuple[np.ndarray, np.ndarray]:
    split = evaluation_split(dataset)
    return read_truth(dataset, split, np.arange(dataset.num_examples(split)), crop_side)


def _stamp(dataset: PreparedDataset) -> dict:
    split = evaluation_split(dataset)
    return {"dataset": dataset.name, "split": split, "num_poses": dataset.num_examples(split),
            "joints": dataset.skeleton.name, "root": "each format's own root joint, counted in every mean",
            "annotation": "metric, crop camera frame", "averaging": "flat over poses and joints"}
