"""Compares a few training steps on all JAX devices with the same steps on one. Run by test_other_backends.py.

    KERAS_BACKEND=jax python -m tests.posepile.training.run_on_jax_devices FOLDER NUM_DEVICES

Prints OK and the number of devices when all is the same; the environment may name more processes.
"""

import pathlib
import re
import sys

import jax
import numpy as np

from posepile.models.normalization import ghost_layers
from posepile.models.objective import read_sums
from posepile.training import backend
from posepile.training.distribution import Distribution, make_distribution
from posepile.training.step_inputs import dataset_names
from tests.posepile import small_model
from tests.posepile.training.small_training import batch_of, make_small_steps, values_of

SEED, NUM_STEPS = 3, 3


def main(folder: pathlib.Path, num_devices: int) -> None:
    distribution = make_distribution(num_devices)
    plan = small_model.make_plan(folder / f"data{distribution.worker}")
    ours = train(plan.share(distribution.worker, distribution.num_workers), distribution)
    theirs = train(plan, Distribution())
    np.testing.assert_allclose(ours["steps"], theirs["steps"], rtol=2e-4)
    np.testing.assert_allclose(list(ours["errors"].values()), list(theirs["errors"].values()), rtol=1e-4)
    for a, b in zip(ours["weights"], theirs["weights"], strict=True):
        assert np.abs(a - b).mean() < 1e-5  # a step moves each weight by some 2e-3
    for a, b in zip(ours["variances"], theirs["variances"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05)  # the later a group the more it counts, and their order is another one
    assert distribution.any_worker(distribution.worker == 0) and not distribution.any_worker(False)
    print(f"OK {distribution.num_devices}")


def train(plan, distribution):
    backend.configure(1, "float32")
    steps = make_small_steps(plan, ghost_batch_size=2, distribution=distribution, average_momentum=0.9)
    if distribution.num_devices > 1:
        check_placement(steps, batch_of(plan, SEED, 0))
    results = [[float(value) for value in steps.run(batch_of(plan, SEED, step))] for step in range(NUM_STEPS)]
    assert all(value.sharding.is_fully_replicated for value in jax.tree.leaves(steps._state))
    steps.sync()
    return {"steps": results, "errors": read_sums(np.asarray(steps.objective.sums), dataset_names(plan)),
            "weights": values_of(steps.objective.trainable_variables),
            "variances": values_of(layer.moving_variance for layer in ghost_layers(steps.objective.pose_model))}


def check_placement(steps, batch):
    """Every device has all variables, of BatchNorm, random states and optimizer too, and its own rows of all activations."""
    num_devices = steps.distribution.num_devices
    for variable in steps.variables:
        assert variable.value.sharding.is_fully_replicated and len(variable.value.sharding.device_set) == num_devices
    predict, layouts = steps.objective.predict, []

    def watched(*arguments):
        points = predict(*arguments)
        jax.debug.inspect_array_sharding(jax.lax.stop_gradient(points.joints3d), callback=layouts.append)
        return points

    steps.objective.predict = watched
    block = steps.distribution.place(batch)
    state = tuple([v.value for v in variables] for variables in steps._groups())
    program = steps._functions[True] = steps._functions[True].lower(state, block).compile()
    num_rows = block["image"].shape[0]
    assert [layout.shard_shape((num_rows, 7, 3)) for layout in layouts] == [(num_rows // num_devices, 7, 3)]
    collectives = set(re.findall("all-reduce|all-gather|all-to-all|collective-permute", program.as_text()))
    assert collectives == {"all-reduce"}  # of gradients, losses, statistics; no BatchNorm group is on two devices


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
