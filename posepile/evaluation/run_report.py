"""The report of a run, from the files in its folder."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset
from posepile.data.sampling import evenly_spread
from posepile.evaluation.benchmark import evaluation_splits
from posepile.geometry.skeleton import Skeleton
from posepile.visualization.report import ReportContent, ReportSamples, write_report

REPORT_NAME = "report.html"
NUM_SAMPLES = 6


def write_run_report(run_dir: pathlib.Path, *, settings: Mapping, scores: Mapping[str, Mapping],
                     records: Sequence[Mapping], dataset: PreparedDataset, crop_side: int, seconds: Mapping[str, float],
                     autoencoder: tuple[np.ndarray, np.ndarray] | None = None,
                     model_skeleton: Skeleton | None = None) -> None:
    """Writes report.html.

    Args:
        run_dir: the run's folder; its evaluation/MODEL_DATASET.npz hold the predictions.
        settings: of the run.
        scores: for "mean_pose" and per model, in the order of the columns, per data set, as in evaluation/*.json.
        records: lines of metrics.jsonl.
        dataset: the evaluated data set that is shown.
        crop_side: of the model, px.
        seconds: per part of the run.
        autoencoder: encoder [num_latents, num_joints] and decoder [num_joints, num_latents]; None: not shown.
        model_skeleton: of the joints that the model predicts and the autoencoder takes; None: that of the data set.
    """
    models = [name for name in scores if name != "mean_pose"]
    split = evaluation_splits(dataset)[0]  # the predictions begin with it
    positions = evenly_spread(dataset.num_examples(split), NUM_SAMPLES)
    batch = crop_examples(dataset, split, positions, crop_side)
    predictions = {}
    for name in models:
        with np.load(run_dir / "evaluation" / f"{name}_{dataset.name}.npz", allow_pickle=False) as file:
            predictions[name] = file["joints3d"][positions]
    samples = ReportSamples(
        batch["image"], batch["intrinsics"], batch["joints3d"], batch["joints3d_mask"], predictions,
        [f"{dataset.name}, {split} image {i}" for i in positions])
    encoder, decoder = autoencoder or (None, None)
    write_report(run_dir / REPORT_NAME, ReportContent(
        settings=settings, metrics={name: scores[name][dataset.name] for name in models},
        skeleton=dataset.skeleton, baseline=scores["mean_pose"][dataset.name],
        training_log=records, samples=samples, encoder=encoder, decoder=decoder,
        autoencoder_skeleton=model_skeleton,
        measurements={f"seconds, {part}": value for part, value in seconds.items()},
        title=f"Training run {run_dir.name}"))
