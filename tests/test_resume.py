"""Runs of train.py that are killed, stopped or fed with bad labels: they end as they would have, or say why not."""

import re
import shutil
import signal
import sys

import numpy as np
import pytest

import train
from benchmarks import exact_resume
from posepile.training.checkpoints import list_checkpoints
from tests import end_to_end
from tests.end_to_end import CHECKPOINT_INTERVAL, INITIAL_STEPS


def _has_checkpoint(run, phase):
    return any(step > 0 for step, _ in list_checkpoints(run / "checkpoints", phase))


def test_stopped_and_killed_run_ends_like_an_undisturbed_one(finished_run, tiny_data_root, tiny_set, tmp_path):
    """Ctrl-C in the first phase, kill -9 while poses are predicted and while a checkpoint is written; one command."""
    arguments = [f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}"]
    run = tmp_path / "runs" / "tiny"

    status, stderr = end_to_end.run_and_signal(signal.SIGINT, lambda: _has_checkpoint(run, "initial"), "train.py", *arguments,
                                               cwd=tmp_path)
    assert status == 1
    stopped = re.fullmatch(rf"stopped after step (\d+) of {INITIAL_STEPS} of initial\. The same command goes on from here\.",
                           stderr.splitlines()[-1])
    assert stopped, stderr
    assert "Traceback" not in stderr and "Aborted" not in stderr
    assert CHECKPOINT_INTERVAL <= int(stopped[1]) < INITIAL_STEPS
    assert (run / "checkpoints" / f"initial-{int(stopped[1]):08d}.npz").is_file()
    assert list(exact_resume.unfinished_files(run)) == []

    command = [sys.executable, str(end_to_end.REPOSITORY / "train.py"), *arguments, f"--workdir={run}"]
    rng = np.random.default_rng(0)
    for part in ("pseudo_labels", "finetune"):
        assert exact_resume.kill(command, run, part, rng, is_writing=part == "finetune") == (part, part == "finetune")
    exact_resume.run_to_end(command)

    assert list(exact_resume.differences(finished_run[0], run)) == []


def test_differences_are_found(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    assert list(exact_resume.differences(finished_run[0], run)) == []

    with np.load(run / "autoencoder.npz") as file:
        arrays = dict(file)
    arrays["encoder"][0, 0] = np.nextafter(arrays["encoder"][0, 0], 9)
    np.savez(run / "autoencoder.npz", **arrays)
    (run / "pseudo_labels.npz").unlink()
    shutil.copy(run / "initial.keras", run / "finetuned.keras")
    log = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(log.replace('"loss_2d": ', '"loss_2d": 1'))
    (run / "evaluation" / ".x.json.abc.part").touch()

    found = list(exact_resume.differences(finished_run[0], run))
    assert len(found) == 5
    for text in ("evaluation/.x.json.abc.part is left", "pseudo_labels.npz is there in one run only", "autoencoder.npz: 1 of",
                 "finetuned.keras: ", "metrics.jsonl: "):
        assert any(difference.startswith(text) for difference in found), text


def test_preempted_while_worker_processes_make_crops(tiny_data_root, tiny_set, tmp_path):
    """SIGTERM to all processes of the job, as from a scheduler."""
    run = tmp_path / "runs" / "tiny"
    status, stderr = end_to_end.run_and_signal(
        signal.SIGTERM, lambda: _has_checkpoint(run, "initial"), "train.py", f"--dataset-set={tiny_set}",
        f"--data-root={tiny_data_root}", "--data-workers=2", cwd=tmp_path)

    assert status == 0, stderr
    stopped = re.fullmatch(r"stopped after step (\d+) of .*\. The same command goes on from here\.", stderr.splitlines()[-1])
    assert stopped and "Traceback" not in stderr, stderr
    assert list_checkpoints(run / "checkpoints", "initial")[-1][0] == int(stopped[1])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_outside_of_the_steps(tiny_data_root, tiny_set, tmp_path, monkeypatch, capsys, signum):
    """While poses are predicted, the autoencoder is fitted, or models are scored: no step is there to be finished."""
    monkeypatch.setattr(train, "execute", lambda plan, overwrite: signal.raise_signal(signum))
    with end_to_end.command_line(f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}"):
        if signum == signal.SIGTERM:
            train.main(["program"])
            assert capsys.readouterr().err == "stopped. The same command goes on from here.\n"
        else:
            with pytest.raises(SystemExit, match=r"stopped\. The same command goes on from the last checkpoint\."):
                train.main(["program"])


def test_loss_that_is_not_finite_ends_the_run_and_is_explained(tiny_data_root, tiny_set, tmp_path):
    result = end_to_end.run_program("train.py", f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}",
                                    "--learning-rate=1e18", cwd=tmp_path)

    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert re.match(r"error: the (loss|gradient's norm) is (nan|inf) at step \d+ of initial\. ", message), result.stderr
    assert "--on-nan=skip" in message and "Traceback" not in result.stderr
