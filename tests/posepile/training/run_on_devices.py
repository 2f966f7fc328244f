"""Trains the small model for a few steps on several devices and prints what came of it. Run by test_steps.py.

    python -m tests.posepile.training.run_on_devices FOLDER NUM_DEVICES
"""

import json
import pathlib
import sys

from posepile.training.distribution import make_distribution

if __name__ == "__main__":
    distribution = make_distribution(int(sys.argv[2]))  # before anything else uses the backend

    import numpy as np

    from posepile.models.objective import read_sums
    from posepile.training import backend
    from posepile.training.step_inputs import dataset_names
    from tests.posepile import small_model
    from tests.posepile.training.small_training import batch_of, make_small_steps

    backend.configure(1, "float32")
    plan = small_model.make_plan(pathlib.Path(sys.argv[1]) / "data").share(distribution.worker, distribution.num_workers)
    steps = make_small_steps(plan, ghost_batch_size=2, distribution=distribution, average_momentum=0.9)
    results = [[float(value) for value in steps.run(batch_of(plan, 3, step))] for step in range(3)]
    steps.sync()
    assert distribution.any_worker(distribution.worker == 0) and not distribution.any_worker(False)
    print(json.dumps({"steps": results, "weights": [np.asarray(v).tolist() for v in steps.objective.trainable_variables],
                      "errors": read_sums(np.asarray(steps.objective.sums), dataset_names(plan))}))
