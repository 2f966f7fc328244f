"""train.py from end to end on JAX, where tensorflow is not installed."""

import json

import numpy as np

from posepile.data.records import PreparedDataset
from posepile.evaluation.benchmark import predict_dataset
from posepile.models.normalization import ghost_layers
from posepile.prediction.predictor import Predictor, load_model
from posepile.training.run_log import read_log
from tests.end_to_end import REPOSITORY

STEPS, FINETUNE_STEPS, BN_INFERENCE_STEPS = 6, 4, 3
MODELS = ["initial", "finetuned", "finetuned_hybrid"]


def test_every_phase_on_jax(without_tensorflow, tiny_data_root, tiny_set, tmp_path):
    train = [str(REPOSITORY / "train.py"), f"--data-root={tiny_data_root}"]
    printed = without_tensorflow.run(
        *train, f"--dataset-set={tiny_set}", f"--steps={STEPS}", f"--finetune-steps={FINETUNE_STEPS}", "--bn-inference-steps=0",
        "--consistency=regularize,hybrid", cwd=tmp_path)

    run = tmp_path / "runs" / "tiny"
    assert "All phases are done" in printed
    assert {f"{name}.keras" for name in MODELS} | {"autoencoder.npz", "report.html"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "config.json").read_text())["versions"]["tensorflow"] == "not installed"
    log = {record["phase"]: record for record in read_log(run / "metrics.jsonl") if "loss" in record}
    assert list(log) == ["initial", "finetune", "finetune_hybrid"]
    assert [record["step"] for record in log.values()] == [STEPS, *[FINETUNE_STEPS] * 2]
    assert all(np.isfinite(record["loss"]) for record in log.values())
    assert log["finetune"]["loss_consistency"] > 0 and "loss_teacher" in log["finetune_hybrid"]
    check_predictions(run, "finetuned_hybrid", tiny_data_root)

    (tmp_path / "unscored.toml").write_text(tiny_set.read_text().replace('datasets = ["synthetic_test"]', ""))
    printed = without_tensorflow.run(
        *train, "--dataset-set=unscored.toml", "--phases=bn_inference", f"--init-from={run}",
        f"--bn-inference-steps={BN_INFERENCE_STEPS}", cwd=tmp_path)

    assert "All phases are done" in printed
    before, after = map(load_model, (run, tmp_path / "runs" / "unscored_bn_inference" / "bn_inference.keras"))
    layers = list(zip(ghost_layers(before), ghost_layers(after), strict=True))
    for old, new in layers:
        np.testing.assert_array_equal(new.moving_mean, old.moving_mean)
        np.testing.assert_array_equal(new.moving_variance, old.moving_variance)
        assert (np.asarray(new.gamma) != np.asarray(old.gamma)).any()
    assert layers


def check_predictions(run, model, data_root):
    """The model predicts with this process's backend what it did on JAX."""
    ours = predict_dataset(Predictor(run / f"{model}.keras"), PreparedDataset(data_root / "synthetic_test"))
    with np.load(run / "evaluation" / f"{model}_synthetic_test.npz") as theirs:
        np.testing.assert_allclose(ours, theirs["joints3d"], rtol=1e-3, atol=1)  # mm
