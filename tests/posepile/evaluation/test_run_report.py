import numpy as np
import pytest

from posepile.evaluation import benchmark, run_report
from posepile.evaluation.run_report import write_run_report
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared
from tests.posepile.evaluation.test_benchmark import _KnowsTheTruth

RECORDS = [{"phase": phase, "step": step, "loss": 2.0 - step / 100, "crops_per_second": 5.0, "learning_rate_head": 1e-3,
            "learning_rate_backbone": 1e-3} for phase in ("initial", "finetune") for step in (50, 100)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("reported"), np.random.default_rng(3)
    return write_prepared(folder, "test_images", small_model.MERGED,
                          [dotted_example(rng, small_model.MERGED, "3d") for _ in range(11)], "3d", "test")


def _write(run_dir, dataset, offsets, baseline=True, **options):
    """A report on predictions that are the truth plus an offset of every joint but the first, mm. Returns: the page."""
    scores = {"mean_pose": {dataset.name: None}}
    for name, offset in offsets.items():
        shift = np.full((dataset.skeleton.num_joints, 3), offset)
        shift[0] = 0
        predictor = _KnowsTheTruth(dataset, "test", shift)
        scores[name] = {dataset.name: benchmark.evaluate_dataset(
            predictor, dataset, run_dir / "evaluation" / f"{name}_{dataset.name}.npz")}
    if baseline:
        scores["mean_pose"] = {dataset.name: scores["initial"][dataset.name]}
    write_run_report(run_dir, settings={"seed": 987}, scores=scores, records=RECORDS, dataset=dataset, crop_side=32,
                     seconds={"initial": 12.3}, **options)
    return (run_dir / "report.html").read_text()


def test_shows_scores_samples_and_settings(dataset, tmp_path):
    encoder = np.full((2, 7), 1 / 7)
    page = _write(tmp_path, dataset, {"initial": 40.0, "finetuned": 20.0}, autoencoder=(encoder, encoder.T * 3.5))
    for text in ("987", "seconds, initial", "12.3", f"Training run {tmp_path.name}"):
        assert text in page
    for position in (0, 2, 4, 6, 8, 10):  # six of the eleven images, evenly spread
        assert f"test_images, test image {position}" in page
    assert "test image 1<" not in page


def test_samples_are_the_predictions_of_those_images(dataset, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run_report, "write_report", lambda path, content: (seen.append(content), path.write_text("")))
    _write(tmp_path, dataset, {"initial": 40.0})
    samples, positions = seen[0].samples, [0, 2, 4, 6, 8, 10]
    truth, _ = benchmark.read_truth(dataset, "test", positions, 32)
    expected = truth + 40.0
    expected[:, 0] -= 40.0
    np.testing.assert_allclose(samples.joints3d_pred["initial"], expected, rtol=1e-5)


def test_initial_model_alone_without_baseline_and_autoencoder(dataset, tmp_path):
    page = _write(tmp_path, dataset, {"initial": 40.0}, baseline=False)
    assert "test_images, test image 10" in page


def test_data_set_in_one_of_the_formats(tmp_path):
    rng = np.random.default_rng(4)
    legs = write_prepared(tmp_path / "data", "legs", small_model.LEGS,
                          [dotted_example(rng, small_model.LEGS, "3d") for _ in range(5)], "3d", "test")
    encoder = np.full((2, 7), 1 / 7)  # of all the joints that the model predicts
    page = _write(tmp_path / "run", legs, {"initial": 40.0, "finetuned": 20.0}, autoencoder=(encoder, encoder.T * 3.5),
                  model_skeleton=small_model.MERGED)
    assert "legs, test image 4" in page
