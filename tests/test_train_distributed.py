"""train.py as two processes on one machine, as if they were two machines."""

import json
import os
import signal
import socket
import subprocess
import sys

import keras
import pytest

from posepile.training.checkpoints import list_checkpoints
from tests import end_to_end
from tests.conftest import REPOSITORY
from tests.test_train import digests, leftovers

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts TensorFlow's workers")
STEPS = 40


def start_pair(folder, *arguments, **environment):
    """The two processes, chief first; what they write to stderr goes to 0.txt and 1.txt in the folder."""
    with socket.socket() as first, socket.socket() as second:
        ports = [s.bind(("127.0.0.1", 0)) or s.getsockname()[1] for s in (first, second)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        with open(folder / f"{index}.txt", "w") as stderr:
            processes.append(subprocess.Popen(
                [sys.executable, str(REPOSITORY / "train.py"), *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr,
                env={**os.environ, "TF_CONFIG": task}))
    return processes


def finish(processes, folder):
    """Exit status and stderr of either process."""
    try:
        statuses = [process.wait(end_to_end.TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return list(zip(statuses, ((folder / f"{index}.txt").read_text() for index in range(2)), strict=True))


def test_two_machines_share_a_run(tmp_path, tiny_data_root, tiny_set):
    """Preempted, taken up again, finished, and started once more."""
    run = tmp_path / "run"
    command = (f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", f"--workdir={run}", f"--steps={STEPS}",
               "--finetune-steps=4", "--bn-inference-steps=0", "--ghost-batch-size=2", "--checkpoint-interval=2")

    processes = start_pair(tmp_path, *command)
    end_to_end.wait_until(lambda: list_checkpoints(run / "checkpoints", "initial")
                          or any(process.poll() is not None for process in processes))
    for process in processes:
        process.send_signal(signal.SIGTERM)
    ends = finish(processes, tmp_path)
    step = list_checkpoints(run / "checkpoints", "initial")[-1][0]
    assert step < STEPS
    for status, stderr in ends:
        assert status == 0, stderr[-4000:]
        assert f"stopped after step {step} of {STEPS} of initial" in stderr

    for status, stderr in finish(start_pair(tmp_path, *command), tmp_path):
        assert status == 0, stderr[-4000:]
    assert {path.name for path in run.iterdir()} >= {"initial.keras", "pseudo_labels.npz", "autoencoder.npz", "finetuned.keras",
                                                     "summary.json", "report.html"}
    assert leftovers(run) == []
    assert len(list((run / "tensorboard" / "initial").iterdir())) == 2  # the chief's, of either start

    before = digests(run)
    for status, stderr in finish(start_pair(tmp_path, *command), tmp_path):
        assert status == 0, stderr[-4000:]
    assert digests(run) == before


