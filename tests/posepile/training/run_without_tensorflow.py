"""Trains, interrupts, resumes, saves and predicts where tensorflow cannot be imported. Run by test_other_backends.py.

    KERAS_BACKEND=torch python -m tests.posepile.training.run_without_tensorflow FOLDER

Prints OK when all checks have passed.
"""
# ruff: noqa: E402 - imports that must not find tensorflow

import importlib.machinery
import itertools
import pathlib
import sys


class _FinderWithoutTensorflow(importlib.machinery.PathFinder):
    """Finds every installed package but tensorflow; to whoever looks, it is not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] == "tensorflow" else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = _FinderWithoutTensorflow

import keras
import numpy as np

from posepile.models.normalization import GhostBatchNormalization
from posepile.prediction.predictor import Predictor, default_jit_compile
from posepile.training import backend, phases, schedules
from posepile.training.checkpoints import restore_checkpoint
from posepile.training.run_log import RunLog, read_log
from tests.posepile import small_model

STEPS, BN_INFERENCE_STEPS = 5, 2


def main(folder: pathlib.Path) -> None:
    plan = small_model.make_plan(folder / "data")
    whole, statistics = _train(plan, folder / "whole", stops=[])
    _check_moving_statistics(statistics)
    resumed, _ = _train(plan, folder / "resumed", stops=[2])
    # XLA and threads may sum in another order after a restart; a wrong batch, seed or rate would be far off
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    for name in ("whole", "resumed"):
        records = read_log(folder / name / "metrics.jsonl")
        assert [r["step"] for r in records] == [STEPS]
        assert np.isfinite(records[0]["loss"])
    assert list((folder / "whole" / "tensorboard" / "initial").iterdir())

    model = whole.pose_model
    model.save(folder / "model.keras")
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    boxes = np.array([[10, 10, 60, 80], [50, 20, 40, 40]])
    ours = Predictor(model, batch_size=3).predict(image, boxes)
    theirs = Predictor(folder / "model.keras", batch_size=3).predict(image, boxes)
    assert ours.shape == (2, small_model.MERGED.num_joints, 3)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=0.1)
    assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
    print(f"OK {keras.backend.backend()}")


def _train(plan, run_dir, stops):
    """Runs one phase, stopped after the given steps and taken up by a new trainer each time.

    Returns: the trainer, and the moving means of the first BatchNorm after each step.
    """
    schedule = schedules.initial_schedule(1e-3, STEPS)
    phase = phases.Phase("initial", STEPS, BN_INFERENCE_STEPS, schedule, schedule, schedule.drop_step)
    stops, statistics = [*stops, None], []
    for stop in stops:
        backend.configure(3, "float32")
        trainer = small_model.make_trainer(plan, seed=3, ghost_batch_size=(8, 4))
        log = RunLog(run_dir)

        def should_stop(trainer=trainer, stop=stop):
            layer = next(x for x in trainer.pose_model.backbone.layers if isinstance(x, GhostBatchNormalization))
            statistics.append(keras.ops.convert_to_numpy(layer.moving_mean).copy())
            return int(trainer.step_count) == stop

        try:
            phases.run_phase(trainer, phase, backend.batch_stream(plan, 3), run_dir=run_dir, log=log,
                             weight_decay=0.1, checkpoint_interval=100, should_stop=should_stop,
                             jit_compile=default_jit_compile())
            assert stop is None
        except phases.TrainingInterrupted:
            state = [*trainer.variables, *trainer.optimizer.variables]
            assert restore_checkpoint(run_dir / "checkpoints", "initial", state) == stop
        log.close()
    return trainer, statistics


def _check_moving_statistics(statistics):
    """They move in every step until the inference-mode tail, and rest there."""
    moved = [np.abs(b - a).max() > 0 for a, b in itertools.pairwise(statistics)]
    assert moved == [step < STEPS - BN_INFERENCE_STEPS for step in range(1, STEPS)], moved


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
