"""That the PyDataset's batches equal the tf.data pipeline's is tested in test_input_pipeline.py."""

import subprocess
import sys

import numpy as np

from tests.posepile.data.prepared import dotted_example, write_prepared

_PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # any import of it now raises ImportError
from posepile.data import batches, prefetch, records
plan = batches.BatchPlan([(records.PreparedDataset(sys.argv[1]), 3)], [], 32)
batch = next(prefetch.prefetched_batches(plan, 1, 2))
print(batch["image"].shape, batch["joints3d"].shape)
"""


def test_batches_need_no_tensorflow(tmp_path):
    rng = np.random.default_rng(0)
    examples = [dotted_example(rng, "h36m_17", "3d") for _ in range(3)]
    dataset = write_prepared(tmp_path, "one", "h36m_17", examples, "3d")
    done = subprocess.run([sys.executable, "-c", _PROGRAM, dataset.folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(3, 32, 32, 3) (3, 17, 3)\n"
