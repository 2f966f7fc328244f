import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from posepile.models.objective import read_sums
from posepile.training.schedules import Schedule
from posepile.training.step_inputs import dataset_names
from tests.conftest import REPOSITORY
from tests.posepile.training.small_training import batch_of, make_small_steps, values_of

NUM_STEPS = 3


@pytest.fixture(autouse=True)
def _policy():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def test_loss_falls_on_one_batch(batch_plan):
    steps = make_small_steps(batch_plan, schedule=Schedule(2e-3, 1000),
                             losses={"absolute_loss_start": 0, "weak_perspective_steps": 0})
    batch = batch_of(batch_plan, 0, 0)
    losses = [float(steps.run(batch)[0]) for _ in range(30)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_micro_batches_take_the_step_of_the_mean_of_their_losses(batch_plan):
    """Parts with Ghost BatchNorm groups of their own, whose gradients are averaged."""
    whole, parts = make_small_steps(batch_plan), make_small_steps(batch_plan, micro_batches=2, ghost_batch_size=2)
    batch = batch_of(batch_plan, 0, 0)
    start = values_of(parts.objective.trainable_variables)
    loss, norm = parts.run(batch)
    assert int(np.asarray(parts.optimizer.iterations)) == 1
    moved = [np.abs(a - b).max() for a, b in zip(values_of(parts.objective.trainable_variables), start, strict=True)]
    assert np.mean(np.array(moved) > 0) > 0.9
    assert float(loss) == pytest.approx(float(whole.run(batch)[0]), rel=0.1)  # groups and masked means differ a little
    assert np.asarray(parts.objective.sums)[1, 0] == 2  # micro-batches
    assert float(norm) > 0


def test_sums_of_the_losses_and_of_each_data_set(batch_plan):
    steps, names = make_small_steps(batch_plan), dataset_names(batch_plan)
    losses = [float(steps.run(batch_of(batch_plan, 0, step))[0]) for step in range(NUM_STEPS)]
    steps.sync()
    means = read_sums(np.asarray(steps.objective.sums), names)
    assert means["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    # all examples have as many labels as the others of their data set: 4 of arms with 3 joints, 4 of legs with 4
    assert means["loss_mean_relative"] == pytest.approx((3 * means["error/arms"] + 4 * means["error/legs"]) / 7, rel=0.02)
    assert read_sums(np.zeros_like(steps.objective.sums), names) == {}


def test_a_bad_batch_leaves_weights_and_statistics_alone(batch_plan):
    steps = make_small_steps(batch_plan)
    steps.run(batch_of(batch_plan, 0, 0))
    steps.sync()
    before = values_of(steps.variables)
    batch = batch_of(batch_plan, 0, 1)
    batch["intrinsics"][9] = np.nan
    loss, _ = steps.run(batch)
    steps.sync()
    assert not np.isfinite(float(loss))
    changed = [v.path for v, value in zip(steps.variables, before, strict=True)
               if not np.array_equal(np.asarray(v), value) and "moving" not in v.path]
    assert {path.rpartition("/")[2] for path in changed} == {"gradient_norm", "num_skipped"}
    assert all(np.isfinite(np.asarray(v)).all() for v in steps.objective.variables)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_moves_every_weight_and_keeps_them_in_float32(batch_plan, precision):
    keras.config.set_dtype_policy(precision)
    steps = make_small_steps(batch_plan, loss_scale="dynamic" if precision == "mixed_float16" else None)
    start = values_of(steps.objective.trainable_variables)
    for step in range(NUM_STEPS):
        steps.run(batch_of(batch_plan, 0, step))
    steps.sync()
    moved = [np.abs(a - b).max() for a, b in zip(values_of(steps.objective.trainable_variables), start, strict=True)]
    assert np.isfinite(moved).all()
    assert np.mean(np.array(moved) > 0) > 0.9
    assert all(v.dtype == "float32" for v in steps.objective.trainable_variables)
    assert steps.objective.pose_model.backbone.compute_dtype == precision.removeprefix("mixed_")
    assert float(np.asarray(steps.optimizer.num_skipped)) < NUM_STEPS


def _run_devices(tmp_path, backend, *arguments, **environment):
    """Starts `run_on_devices` as a process of its own, as devices have to be set up before anything else."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.posepile.training.run_on_devices", str(tmp_path), *arguments], cwd=REPOSITORY,
        env={**os.environ, "KERAS_BACKEND": backend, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _result(process):
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr[-4000:]
    return json.loads(stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_device(batch_plan):
    """Losses, gradient norms and final weights of one device, with groups that also fit two."""
    steps = make_small_steps(batch_plan, ghost_batch_size=2, average_momentum=0.9)
    results = [[float(value) for value in steps.run(batch_of(batch_plan, 3, step))] for step in range(NUM_STEPS)]
    steps.sync()
    return {"steps": results, "weights": [np.asarray(v).tolist() for v in steps.objective.trainable_variables],
            "errors": read_sums(np.asarray(steps.objective.sums), dataset_names(batch_plan))}


def _assert_same(actual, expected):
    np.testing.assert_allclose(actual["steps"], expected["steps"], rtol=2e-4)
    assert actual["errors"] == pytest.approx(expected["errors"], rel=1e-4)
    for a, b in zip(actual["weights"], expected["weights"], strict=True):
        assert np.abs(np.subtract(a, b)).mean() < 1e-5  # a step moves each weight by some 2e-3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with this process's TensorFlow")
def test_two_devices_do_what_one_does(tmp_path, one_device):
    _assert_same(_result(_run_devices(tmp_path, "tensorflow", "2")), one_device)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with this process's TensorFlow")
def test_two_machines_do_what_one_does(tmp_path, one_device):
    """Two processes on the loopback interface, each of which reads its own half of every batch."""
    with socket.socket() as first, socket.socket() as second:
        ports = [s.bind(("127.0.0.1", 0)) or s.getsockname()[1] for s in (first, second)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = [_run_devices(tmp_path / str(index), "tensorflow", "1", TF_CONFIG=json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": index}})) for index in range(2)]
    for result in map(_result, processes):
        _assert_same(result, one_device)
