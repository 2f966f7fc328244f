import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_and_prediction_where_tensorflow_is_not_installed(tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = subprocess.run(
        [sys.executable, "-m", "tests.posepile.training.run_without_tensorflow", str(tmp_path)], cwd=REPOSITORY,
        env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.endswith(f"OK {backend}\n")
