"""Scoring the models of a training run on its evaluation data sets: numbers, summary, report, and tables on the screen."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from posepile.data.atomic_files import write_json
from posepile.data.records import PreparedDataset
from posepile.evaluation import benchmark
from posepile.evaluation.run_report import REPORT_NAME, write_run_report
from posepile.evaluation.scoring import headline
from posepile.evaluation.table import format_scores
from posepile.geometry.skeleton import Skeleton
from posepile.prediction.predictor import Predictor
from posepile.training.run_directory import RunDirectory
from posepile.training.run_log import LOG_NAME, read_log

SUMMARY_NAME = "summary.json"
MEAN_POSE = "mean_pose"


def evaluate_run(run: RunDirectory, model_names: Sequence[str], datasets: Sequence[PreparedDataset],
                 training_sets: Sequence[PreparedDataset], *, settings: Mapping, crop_side: int,
                 autoencoder: tuple[np.ndarray, np.ndarray] | None = None,
                 model_skeleton: Skeleton | None = None) -> None:
    """Scores what there is of the run's models, side by side; what is scored already is not scored again.

    Writes evaluation/MODEL.json and evaluation/MODEL_DATASET.npz, summary.json and report.html, and prints a table for each
    data set.

    Args:
        run: its folder holds MODEL.keras.
        model_names: of all models that the run makes, in the order of their columns.
        datasets: to score on; the first one is shown in summary and report.
        training_sets: labelled in 3D, for the mean pose.
        settings: of the run, for the report.
        crop_side: of the models, px.
        autoencoder, model_skeleton: see `write_run_report`.
    """
    models = [name for name in model_names if (run.path / f"{name}.keras").is_file()]
    done = "All phases are done" if models == list(model_names) else "Done so far"
    if not datasets or not models:
        reason = "the set names no prepared data set under [evaluation]" if models else "there is no model yet"
        print(f"{done}: {run.path}. Nothing is evaluated, as {reason}.")
        return
    folder = run.path / "evaluation"

    def score_mean_pose():
        benchmark.save_scores(folder / f"{MEAN_POSE}.json", {
            dataset.name: benchmark.evaluate_baseline(training_sets, dataset, crop_side) for dataset in datasets})

    def score_model(name):
        predictor = Predictor(run.path / f"{name}.keras")
        benchmark.save_scores(folder / f"{name}.json", {
            dataset.name: benchmark.evaluate_dataset(predictor, dataset, folder / f"{name}_{dataset.name}.npz",
                                                     f"evaluate {name}") for dataset in datasets})

    run.run_part(f"evaluate_{MEAN_POSE}", score_mean_pose)
    for name in models:
        run.run_part(f"evaluate_{name}", lambda name=name: score_model(name))
    scores = {name: json.loads((folder / f"{name}.json").read_text()) for name in (MEAN_POSE, *models)}
    log = read_log(run.path / LOG_NAME)
    run.run_part(f"report_{'_'.join(models)}", lambda: write_run_report(
        run.path, settings=settings, scores=scores, records=log, dataset=datasets[0], crop_side=crop_side,
        seconds=run.progress()["seconds"], autoencoder=autoencoder, model_skeleton=model_skeleton))
    write_json(run.path / SUMMARY_NAME, summarize_run(run.progress(), scores, log))
    baselines = scores.pop(MEAN_POSE)
    for dataset in datasets:
        stamp = scores[models[0]][dataset.name]["stamp"]
        print(f"\n{dataset.name}, {stamp['num_poses']} images of its {stamp['split']} split")
        print(format_scores({name: scores[name][dataset.name] for name in models}, baselines[dataset.name]))
    print(f"\n{done}. Report: {run.path / REPORT_NAME}, numbers: {run.path / SUMMARY_NAME}")


def summarize_run(progress: Mapping, scores: Mapping[str, Mapping], log: Sequence[Mapping]) -> dict:
    """The figures of a run in one small record, from its first evaluation data set.

    Args:
        progress: of the `RunDirectory`.
        scores: {"mean_pose" and the models: {data set: score}}.
        log: lines of metrics.jsonl; some have `crops_per_second`.
    """
    dataset = next(iter(scores[MEAN_POSE]))
    baseline = scores[MEAN_POSE][dataset]
    speeds = [record["crops_per_second"] for record in log if "crops_per_second" in record]
    return {
        "mean_pose_mpjpe": baseline and baseline["pooled"]["mpjpe"],
        **{model: headline(record[dataset]) for model, record in scores.items() if model != MEAN_POSE},
        "seconds": progress["seconds"], "peak_memory_mb": progress["peak_memory_mb"],
        "crops_per_second": round(float(np.median(speeds)), 1) if speeds else None}
