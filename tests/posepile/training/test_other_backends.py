import importlib.util
import socket

import pytest

from tests.clean_environment import output_of


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"))])
def test_training_and_prediction_where_tensorflow_is_not_installed(without_tensorflow, tmp_path, backend):
    printed = without_tensorflow.run("-m", "tests.posepile.training.run_without_tensorflow", str(tmp_path), backend=backend)
    assert printed.endswith(f"OK {backend}\n")


def test_jax_on_two_devices_does_what_it_does_on_one(without_tensorflow, tmp_path):
    assert without_tensorflow.run("-m", "tests.posepile.training.run_on_jax_devices", str(tmp_path), "2").endswith("OK 2\n")


def test_jax_in_two_processes_does_what_it_does_in_one(without_tensorflow, tmp_path):
    """On the loopback interface, each reads its own half of every batch; one is told by Keras's variables, one by Slurm's."""
    with socket.socket() as coordinator:
        coordinator.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{coordinator.getsockname()[1]}"
    environments = [
        {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
         "KERAS_DISTRIBUTION_PROCESS_ID": "0", "JAX_COORDINATOR_BIND_ADDRESS": address},
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2",
         "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "JAX_COORDINATOR_PORT": address.partition(":")[2]}]
    processes = [without_tensorflow.start("-m", "tests.posepile.training.run_on_jax_devices", str(tmp_path), "1", **environment)
                 for environment in environments]
    for process in processes:
        assert output_of(process).endswith("OK 2\n")
