"""Trains, stops, resumes, saves and predicts where tensorflow is not installed. Run by test_other_backends.py.

    KERAS_BACKEND=torch python -m tests.posepile.training.run_without_tensorflow FOLDER

Prints OK and the backend when all checks have passed.
"""

import importlib.util
import itertools
import pathlib
import sys

import keras
import numpy as np

from posepile.models.normalization import ghost_layers
from posepile.prediction.predictor import Predictor
from posepile.training import backend
from posepile.training.checkpoints import list_checkpoints
from posepile.training.phases import Phase, PhaseRun, TrainingInterrupted
from posepile.training.run_log import RunLog, read_log
from posepile.training.step_inputs import dataset_names
from tests.posepile import small_model
from tests.posepile.training.small_training import SCHEDULE, batch_of, make_small_steps

STEPS, BN_INFERENCE_STEPS, SEED = 5, 2, 3


def main(folder: pathlib.Path) -> None:
    assert importlib.util.find_spec("tensorflow") is None
    plan = small_model.make_plan(folder / "data")
    whole = train(plan, folder / "whole")
    resumed = train(plan, folder / "resumed", stop=STEPS - BN_INFERENCE_STEPS)
    # XLA and threads may sum in another order after a restart; a wrong batch, seed or rate would be far off
    for ours, theirs in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_allclose(as_array(ours), as_array(theirs), rtol=1e-3, atol=1e-5, err_msg=theirs.path)
    logs = [read_log(folder / name / "metrics.jsonl")[-1] for name in ("whole", "resumed")]
    assert np.isfinite(logs[0]["loss"])
    np.testing.assert_allclose(*([log[name] for name in ("gradient_norm", "weight_norm")] for log in logs), rtol=1e-4)
    check_saved_model(whole.objective.pose_model, folder / "model.keras")
    check_mixed_precision(plan)
    print(f"OK {keras.backend.backend()}")


def train(plan, run_dir, stop=None):
    """One phase on micro-batches; stopped after the given step, and then taken up by new steps, as by a new process."""
    backend.configure(SEED, "float32")
    steps = make_small_steps(plan, seed=SEED, ghost_batch_size=(4, 2), average_momentum=0.9, micro_batches=2)
    ghost, moving_means = ghost_layers(steps.objective.pose_model)[0], []
    log = RunLog(run_dir)

    def should_stop():
        steps.sync()
        moving_means.append(as_array(ghost.moving_mean).copy())
        return int(as_array(steps.optimizer.iterations)) == stop

    phase_run = PhaseRun(steps, Phase("initial", STEPS, BN_INFERENCE_STEPS, SCHEDULE, SCHEDULE),
                         backend.batch_stream(plan, SEED), run_dir=run_dir, log=log, checkpoint_interval=100,
                         should_stop=should_stop, dataset_names=dataset_names(plan))
    try:
        phase_run.run()
    except TrainingInterrupted:
        assert [step for step, _ in list_checkpoints(run_dir / "checkpoints", "initial")] == [stop]
        return train(plan, run_dir)
    finally:
        log.close()
    assert stop is None
    moved = [(a != b).any() for a, b in itertools.pairwise(moving_means)]  # by each step, and rest in the last ones
    assert moved == [step < STEPS - BN_INFERENCE_STEPS for step in range(STEPS - len(moved), STEPS)], moved
    return steps


def check_saved_model(model, path):
    model.save(path)
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    boxes = np.array([[10, 10, 60, 80], [50, 20, 40, 40]])
    ours, theirs = (Predictor(source, batch_size=3).predict(image, boxes) for source in (model, path))
    assert ours.shape == (2, small_model.MERGED.num_joints, 3)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=0.1)


def check_mixed_precision(plan):
    """A step in bfloat16 changes all weights, which stay float32."""
    backend.configure(SEED, "mixed_bfloat16")
    steps = make_small_steps(plan, seed=SEED)
    before = [as_array(v).copy() for v in steps.objective.trainable_variables]
    assert np.isfinite([float(value) for value in steps.run(batch_of(plan, SEED, 0))]).all()
    steps.sync()
    assert steps.objective.pose_model.backbone.compute_dtype == "bfloat16"
    for variable, old in zip(steps.objective.trainable_variables, before, strict=True):
        assert as_array(variable).dtype == "float32" and (as_array(variable) != old).any(), variable.path


def as_array(variable):
    return keras.ops.convert_to_numpy(variable)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
