import csv
import dataclasses
import json

import numpy as np
import pytest

from posepile.data.crops import crop_examples
from posepile.evaluation import model_evaluation
from posepile.evaluation.model_evaluation import evaluate_model
from posepile.evaluation.scoring import score_files
from posepile.geometry.skeleton import load_skeleton, merge_skeletons
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared

H36M = load_skeleton("h36m_17")
ARMS_AND_H36M = merge_skeletons([small_model.ARMS, H36M])


class _OffByAnInch:
    """A predictor that answers with the labels, in turn for each data set, and the last joint of each 25 mm to the right."""

    skeleton = ARMS_AND_H36M
    batch_size = 8

    class model:
        crop_side = 32

    def __init__(self, *datasets):
        self.poses = []
        for dataset in datasets:
            truth = crop_examples(dataset, "test", range(dataset.num_examples("test")), 32)["joints3d"]
            poses = np.full((len(truth), self.skeleton.num_joints, 3), 3000, np.float32)
            joints = slice(0, 3) if dataset.skeleton.num_joints == 3 else slice(3, 20)
            poses[:, joints] = truth
            poses[:, joints.stop - 1, 0] += 25
            self.poses.append(poses)
        self.poses, self.position = np.concatenate(self.poses), 0

    def predict_crops(self, image, intrinsics):
        start, self.position = self.position, self.position + len(image)
        return self.poses[start:self.position]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """h36m with sequences and activities, and a data set without a protocol."""
    folder, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(3)
    h36m = [dataclasses.replace(dotted_example(rng, H36M, "3d"), provenance={
        "sequence": f"S9 {i // 4}", "frame": i % 4, "activity": ("Walking", "Sitting")[i // 4 % 2]}) for i in range(12)]
    arms = [dotted_example(rng, small_model.ARMS, "3d") for _ in range(9)]
    return [write_prepared(folder, "h36m", H36M, h36m, "3d", "test"),
            write_prepared(folder, "arms", small_model.ARMS, arms, "3d", "test")]


@pytest.fixture(scope="module")
def evaluated(datasets, tmp_path_factory):
    """What is returned, and the folder that is written."""
    folder = tmp_path_factory.mktemp("evaluated") / "new" / "folder"
    content = evaluate_model(_OffByAnInch(*datasets), datasets, {"h36m": "mpjpe", "arms": "mpjpe"}, name="run/finetuned",
                             folder=folder, confidence=0.9)
    return content, folder


def test_numbers_by_hand_and_their_mean(evaluated):
    content, folder = evaluated
    assert content["h36m"]["benchmark"]["metrics"]["mpjpe"] == pytest.approx(25 / 17, rel=1e-3)
    assert content["arms"]["pooled"]["mpjpe"] == pytest.approx(25 / 3, rel=1e-3)
    mean = content["mean_primary_error"]
    assert list(mean["of"]) == ["h36m", "arms"] and mean["value"] == pytest.approx((25 / 17 + 25 / 3) / 2, rel=1e-3)
    saved = json.loads((folder / "scores.json").read_text())
    assert saved["mean_primary_error"]["value"] == pytest.approx(mean["value"])
    assert len(saved["h36m"]["published"]) == 25 and "published" not in saved["arms"]
    assert saved["h36m"]["benchmark"]["stamp"]["confidence"] == 0.9
    with open(folder / "scores.csv", newline="") as file:
        assert {row["data_set"] for row in csv.DictReader(file)} == {"h36m", "arms"}


@pytest.mark.parametrize(("name", "protocol", "part"), [("h36m", "h36m", "benchmark"), ("arms", "flat", None)])
def test_the_files_written_score_the_same(evaluated, name, protocol, part):
    content, folder = evaluated
    record = score_files(folder / "predictions" / f"{name}.npz", folder / "annotations" / f"{name}.npz", protocol, 0.9)
    expected = content[name][part]["metrics"] if part else content[name]["pooled"]
    assert record["metrics"] == pytest.approx(expected, rel=1e-12)
    if part:
        assert record["per_activity"]["Walking"] == pytest.approx(content[name][part]["per_activity"]["Walking"])
        assert record["intervals"]["metrics"]["mpjpe"] == content[name][part]["intervals"]["metrics"]["mpjpe"]


def test_the_report_shows_all_data_sets(evaluated):
    page = (evaluated[1] / "report.html").read_text()
    for text in ("Evaluation of run/finetuned", "h36m: published numbers", "h36m: Worst 12", "arms: Median 9",
                 "Error over depth"):
        assert text in page
    assert page.count("data:image/jpeg") == 2 * (12 + 9) and page.count("data:image/png") == 2 * 4


def test_without_a_folder_nothing_is_written_and_tables_are_shown(datasets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate_model(_OffByAnInch(datasets[1]), datasets[1:], {"arms": "pa_mpjpe"}, name="run/finetuned")
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "\narms\n" in printed and "MPJPE, mm" in printed and "Mean primary error: " in printed
    assert "(arms PA-MPJPE " in printed


def test_missing_joints_are_refused_before_anything_is_predicted(datasets, tmp_path, monkeypatch):
    predictor = _OffByAnInch(*datasets)
    predictor.skeleton = merge_skeletons([small_model.ARMS, small_model.LEGS])
    monkeypatch.setattr(model_evaluation.benchmark, "evaluate_dataset", lambda *_, **__: pytest.fail("predicts"))
    with pytest.raises(ValueError, match="data set h36m is labelled in h36m_17"):
        evaluate_model(predictor, datasets[::-1], {}, name="run", folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
