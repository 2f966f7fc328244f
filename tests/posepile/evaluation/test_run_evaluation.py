"""Scoring a run's models: what is written, what is printed, and that nothing is done twice."""

import json
import types

import numpy as np
import pytest

from posepile.evaluation import run_evaluation
from posepile.training.run_directory import RunDirectory
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared
from tests.posepile.evaluation.test_benchmark import _KnowsTheTruth

OFFSETS = {"initial": 80.0, "finetuned": 40.0, "finetuned_ema": 20.0}  # of the second joint, mm
MODELS = tuple(OFFSETS)


@pytest.fixture(name="datasets", scope="module")
def _datasets(tmp_path_factory):
    """Two evaluated data sets, of which only the first has a training split to take a mean pose from."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    for split in ("train", "test"):
        examples = [dotted_example(rng, small_model.LEGS, "3d") for _ in range(9)]
        legs = write_prepared(folder, "legs", small_model.LEGS, examples, "3d", split)
    examples = [dotted_example(rng, small_model.ARMS, "3d") for _ in range(7)]
    return [legs, write_prepared(folder, "arms", small_model.ARMS, examples, "3d", "test")]


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch, datasets):
    """A run with files in the place of models, which predict the truth off by OFFSETS; `predicted` lists who was asked."""
    run = RunDirectory(tmp_path / "runs" / "some")
    run.open({"seed": 1})
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (
        {"phase": "initial", "step": 1, "loss": 2.0, "crops_per_second": 5.0},
        {"phase": "initial", "step": 2, "loss": 1.0, "crops_per_second": 7.0},
        {"phase": "initial", "step": 2, "validation_mpjpe": 99.0})))
    run.predicted = []

    def predict(predictor, dataset, description="", views=None):
        run.predicted.append((predictor.name, dataset.name))
        truth = _KnowsTheTruth(dataset, "test", 0).poses
        truth = truth[:, [small_model.MERGED.index(f"{name}_{dataset.name}") for name in dataset.skeleton.joint_names]]
        truth[:, 1, 0] += OFFSETS[predictor.name]
        return truth

    monkeypatch.setattr(run_evaluation, "Predictor", lambda path: types.SimpleNamespace(
        name=path.stem, model=types.SimpleNamespace(crop_side=32)))
    monkeypatch.setattr(run_evaluation.benchmark, "predict_dataset", predict)
    return run


def evaluate(run, datasets, names=MODELS):
    run_evaluation.evaluate_run(run, names, datasets, datasets[:1], settings={"seed": 1}, crop_side=32)


def test_every_model_is_scored_shown_and_summed_up(run, datasets, capsys):
    for name in MODELS:
        (run.path / f"{name}.keras").touch()
    evaluate(run, datasets)
    printed = capsys.readouterr().out
    summary = json.loads((run.path / "summary.json").read_text())
    assert list(summary) == ["mean_pose_mpjpe", *MODELS, "seconds", "peak_memory_mb", "crops_per_second"]
    assert summary["crops_per_second"] == 6.0
    assert {name: summary[name]["mpjpe"] for name in MODELS} == pytest.approx(
        {name: offset / 4 for name, offset in OFFSETS.items()}, rel=1e-4)
    assert json.loads((run.path / "evaluation" / "finetuned_ema.json").read_text())["arms"]["pooled"]["mpjpe"] == pytest.approx(
        20 / 3, rel=1e-4)
    assert json.loads((run.path / "evaluation" / "mean_pose.json").read_text())["arms"] is None
    assert "legs, 9 images of its test split" in printed and "arms, 7 images of its test split" in printed
    assert printed.splitlines()[-1].startswith("All phases are done. Report: ")
    page = (run.path / "report.html").read_text()
    assert all(page.count(f'class="head">{name}<') == 6 for name in ("truth", *MODELS))


def test_what_is_done_is_not_done_again_and_a_new_model_joins_in(run, datasets, capsys):
    (run.path / "initial.keras").touch()
    evaluate(run, datasets)
    assert "Done so far" in capsys.readouterr().out.splitlines()[-1]
    evaluate(run, datasets)
    again = capsys.readouterr().out
    assert run.predicted == [("initial", "legs"), ("initial", "arms")]
    (run.path / "finetuned.keras").touch()
    evaluate(run, datasets, MODELS[:2])
    assert run.predicted[2:] == [("finetuned", "legs"), ("finetuned", "arms")]
    assert "change" in capsys.readouterr().out and "change" not in again
    assert json.loads((run.path / "progress.json").read_text())["done"] == [
        "evaluate_mean_pose", "evaluate_initial", "report_initial", "evaluate_finetuned", "report_initial_finetuned"]


def test_nothing_to_evaluate_says_why(run, datasets, capsys):
    evaluate(run, datasets)
    assert capsys.readouterr().out == f"Done so far: {run.path}. Nothing is evaluated, as there is no model yet.\n"
    (run.path / "initial.keras").touch()
    evaluate(run, [], ["initial"])
    assert capsys.readouterr().out == (f"All phases are done: {run.path}. Nothing is evaluated, as the set names no prepared "
                                       "data set under [evaluation].\n")


def test_summary_of_a_run_without_speeds_and_mean_pose():
    score = {"legs": {"pooled": {"mpjpe": 1, "pa_mpjpe": 2, "pck100": 3, "cps200": 4}, "inconsistency": {"total": 5}}}
    summary = run_evaluation.summarize_run({"seconds": {"initial": 3.0}, "peak_memory_mb": 9}, {
        "mean_pose": {"legs": None}, "initial": score}, [])
    assert summary == {"mean_pose_mpjpe": None, "seconds": {"initial": 3.0}, "peak_memory_mb": 9, "crops_per_second": None,
                       "initial": {"mpjpe": 1, "pa_mpjpe": 2, "pck100": 3, "cps200": 4, "inconsistency": 5}}
