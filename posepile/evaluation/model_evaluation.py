"""Evaluating a model on several benchmarks, as a user sees it: tables on the screen, and a folder with everything.

    DIR/scores.json, DIR/scores.csv    all numbers
    DIR/report.html                    tables and pictures
    DIR/predictions/NAME.npz, DIR/annotations/NAME.npz    what is scored, as `prediction_files` reads it
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data.atomic_files import atomic_file
from posepile.data.records import PreparedDataset
from posepile.evaluation import benchmark
from posepile.evaluation.evaluation_files import write_scores
from posepile.evaluation.evaluation_pictures import draw_pictures
from posepile.evaluation.evaluation_report import Pictures, write_report
from posepile.evaluation.primary_error import format_mean_primary_error, mean_primary_error
from posepile.evaluation.published import with_published
from posepile.evaluation.table import format_metrics
from posepile.prediction.predictor import Predictor
from posepile.prediction.test_time_augmentation import PLAIN, Views

MEAN_PRIMARY_ERROR = "mean_primary_error"


def evaluate_model(predictor: Predictor, datasets: Sequence[PreparedDataset], primaries: Mapping[str, str], *, name: str,
                   folder: pathlib.Path | None = None, confidence: float = 0.95, views: Views = PLAIN) -> dict:
    """Scores a model, prints tables for each data set and the mean primary error, and writes files.

    Args:
        predictor: of the model.
        datasets: with 3D labels.
        primaries: {data set: its primary metric}, see `primary_error.parse_primaries`.
        name: of the model, for tables and report.
        folder: gets the files that the module lists; they replace those of an earlier evaluation. None: nothing is written.
        confidence: of the intervals.
        views: over which predictions are averaged.

    Returns: {data set: record of `benchmark.evaluate_dataset`, with `published` where there are such numbers}, and
        `mean_primary_error`, see `primary_error.mean_primary_error`.
    Raises: ValueError before anything is predicted, if the model lacks joints that a data set labels; OSError.
    """
    for dataset in datasets:
        benchmark.check_joints(predictor, dataset)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    scores, pictures = {}, {}
    for dataset in datasets:
        predictions = folder and folder / "predictions" / f"{dataset.name}.npz"
        record = scores[dataset.name] = with_published(benchmark.evaluate_dataset(
            predictor, dataset, predictions, confidence=confidence, views=views))
        print(f"\n{dataset.name}\n\n{format_metrics(record, name)}")
        if folder is not None:
            pictures[dataset.name] = _keep(dataset, folder, predictor.model.crop_side, record)
    mean = mean_primary_error(scores, primaries)
    print(f"\n{format_mean_primary_error(mean)}")
    content = {**scores, MEAN_PRIMARY_ERROR: mean}
    if folder is not None:
        write_scores(folder, content, scores)
        write_report(folder, f"Evaluation of {name}", scores, pictures, mean)
        print(f"written: {folder}")
    return content


def _keep(dataset, folder, crop_side, record) -> Pictures:
    """Writes the annotations beside the predictions, and draws both."""
    with np.load(folder / "predictions" / f"{dataset.name}.npz", allow_pickle=False) as file:
        joints3d = file["joints3d"]
    truth = benchmark.read_scored(dataset, crop_side)
    _, annotations = benchmark.protocol_poses(dataset, joints3d, truth)
    with atomic_file(folder / "annotations" / f"{dataset.name}.npz") as file:
        np.savez(file, **annotations.to_arrays())
    return draw_pictures(dataset, joints3d, truth, record["per_joint"])
