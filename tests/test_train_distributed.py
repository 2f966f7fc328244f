"""train.py as two processes on one machine, as if they were two machines."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import keras
import pytest

from posepile.training.checkpoints import list_checkpoints
from tests import end_to_end
from tests.conftest import REPOSITORY
from tests.test_train import leftovers

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts TensorFlow's workers")
STEPS = 24


def start_pair(folder, *arguments):
    """The two processes, chief first; what they write to stderr goes to 0.txt and 1.txt in the folder."""
    with socket.socket() as first, socket.socket() as second:
        ports = [s.bind(("127.0.0.1", 0)) or s.getsockname()[1] for s in (first, second)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        with open(folder / f"{index}.txt", "w") as stderr:
            processes.append(subprocess.Popen(
                [sys.executable, str(REPOSITORY / "train.py"), *arguments], cwd=folder, env={**os.environ, "TF_CONFIG": task},
                stdout=subprocess.DEVNULL, stderr=stderr))
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
    """Preempted, taken up again, and finished."""
    run = tmp_path / "run"
    command = (f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", f"--workdir={run}", f"--steps={STEPS}",
               "--finetune-steps=4", "--bn-inference-steps=0", "--ghost-batch-size=2", "--checkpoint-interval=4",
               "--consistency=regularize")

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


def test_the_documented_slurm_script_gives_every_process_its_place(tmp_path):
    text = (REPOSITORY / "docs" / "training.md").read_text()
    (script,) = [block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "#SBATCH" in block]
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    for name, content in {
            "scontrol": '[ "$1 $2" = "show hostnames" ] && printf "%s\\n" node07 node09 || echo "scontrol $*" >> calls.txt',
            "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; for i in 0 1; do SLURM_PROCID=$i "$@" || exit; done',
            "python": 'printf "%s\\n" "$TF_CONFIG" "$*" >> calls.txt'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{content}\n")
        (tmp_path / name).chmod(0o755)

    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[07,09]"}

    def run():
        (tmp_path / "calls.txt").unlink(missing_ok=True)
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, **variables}, check=True)
        return (tmp_path / "calls.txt").read_text().splitlines()

    *lines, requeued = run()
    assert requeued == "scontrol requeue 4711"
    for index, (config, command) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        assert json.loads(config) == {"cluster": {"worker": ["node07:24711", "node09:24711"]},
                                      "task": {"type": "worker", "index": index}}
        assert command.startswith("train.py --dataset-set=full ") and "--workdir=runs/full" in command
    assert len(lines) == 4
    (tmp_path / "runs" / "full").mkdir(parents=True)
    (tmp_path / "runs" / "full" / "report.html").touch()
    assert len(run()) == 4  # all is done
