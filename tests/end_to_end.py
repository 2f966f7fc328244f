"""Starts train.py and evaluate.py as a user does, and within this process, on a few examples of the embedded data."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from absl.testing import flagsaver

from datasets import flags as common_flags
from datasets.prepare import prepare
from datasets.registry import SYNTHETIC_DATASETS, load_adapter

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 240
NUM_TRAIN, NUM_TEST = 48, 24  # examples of each data set
INITIAL_STEPS, FINETUNE_STEPS, CHECKPOINT_INTERVAL = 40, 16, 4
# What TensorFlow itself writes to stderr when it is imported.
_TENSORFLOW_NOISE = re.compile(r"^(WARNING: All log messages before|[IWE]\d{4} ).*\n?", re.MULTILINE)

TINY_SET = f"""
description = "A few examples of each embedded data set."
batch_size = 16

[datasets_3d]
synthetic_studio = 3
synthetic_street = 3
synthetic_gym = 3
synthetic_garden = 3

[datasets_2d]
synthetic_photos = 4

[evaluation]
datasets = ["synthetic_test"]

[hyperparameters]
backbone = "tiny"
crop_side = 64
initial_steps = {INITIAL_STEPS}
finetune_steps = {FINETUNE_STEPS}
checkpoint_interval = {CHECKPOINT_INTERVAL}
base_learning_rate = 3e-3
autoencoder_sweeps = 5
consistency = "regularize,hybrid"
"""


def prepare_tiny_data(data_root: pathlib.Path) -> None:
    """Renders the first examples of every embedded data set."""
    for name in SYNTHETIC_DATASETS:
        limit = NUM_TEST if name == "synthetic_test" else NUM_TRAIN
        prepare(load_adapter(name), None, data_root, limit=limit, workers=1, progress=False)


def run_program(program: str, *arguments: str, cwd: pathlib.Path, **options) -> subprocess.CompletedProcess:
    """Runs `python PROGRAM ARGUMENTS` to its end; stderr without TensorFlow's own lines.

    Args: cwd: the folder it runs in, never the repository, for a run writes there; options: of `subprocess.run`.
    """
    result = subprocess.run(_command(program, arguments), cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
                            **options)
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout, _TENSORFLOW_NOISE.sub("", result.stderr))


def run_and_signal(signum: signal.Signals, when: Callable[[], bool], program: str, *arguments: str,
                   cwd: pathlib.Path) -> tuple[int, str]:
    """Runs a program and signals it, its worker processes included, as soon as `when()` holds: a terminal's Ctrl-C.

    Returns: exit status, and what it wrote to stderr.
    """
    stderr_path = cwd / "stderr.txt"
    with open(stderr_path, "w") as stderr:
        process = subprocess.Popen(_command(program, arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=stderr,
                                   start_new_session=True)
    try:
        wait_until(lambda: when() or process.poll() is not None)
        assert process.poll() is None, f"ended before the signal: {stderr_path.read_text()}"
        os.killpg(process.pid, signum)
        status = process.wait(TIMEOUT_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status, _TENSORFLOW_NOISE.sub("", stderr_path.read_text())


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@contextlib.contextmanager
def command_line(*arguments: str) -> Iterator[None]:
    """Within the block the flags of this process have the values of a command line."""
    with flagsaver.flagsaver():
        flags.FLAGS(["program", *common_flags.with_underscores(list(arguments))])
        yield


def exit_message(main: Callable[[Sequence[str]], None], *arguments: str) -> str:
    """What a program's `main` ends with on bad input; raises AssertionError if it does not end by `sys.exit(message)`."""
    with command_line(*arguments):
        try:
            main(["program"])
        except SystemExit as end:
            assert isinstance(end.code, str), f"exit code {end.code!r}, not a message"
            return end.code
    raise AssertionError("the program ended without an error")


def _command(program, arguments):
    return [sys.executable, str(REPOSITORY / program), *arguments]
