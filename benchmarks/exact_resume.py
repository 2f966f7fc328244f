"""A training that is killed again and again against one left alone: whether they end bitwise the same.

    python -m benchmarks.exact_resume [--json] [--kills=20] [--seed=1]

Runs a short train.py with everything in it (all phases, micro-batches, averaged weights, validation, float32, CPU) twice: once
undisturbed; once killed by SIGKILL, worker processes included, at random moments and started again each time. The moments
are drawn so that every part of the run gets its share. About 8 s per kill, most of it the start of the program.

    identical     whether all checkpoints, models, pseudo-labels, the autoencoder, predictions and the log are the same, but for
                  times, speeds and memory, and no unfinished file is left
    differences   what is not
    kills         that hit the program; kills_during: in which part of the run, of these kills_while_writing a file
"""

import argparse
import collections
import io
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import h5py
import numpy as np

from datasets.prepare import prepare
from datasets.registry import SYNTHETIC_DATASETS, load_adapter
from posepile.training.checkpoints import list_checkpoints
from posepile.training.run_directory import LOCK_NAME, UNFINISHED, RunDirectory
from posepile.training.run_log import LOG_NAME, read_log

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PARTS = ("initial", "pseudo_labels", "autoencoder", "finetune", "evaluation")
# In which parts the kills fall, again from the start beyond the tenth.
_KILLED_PARTS = ("initial", "finetune", "pseudo_labels", "evaluation", "initial", "finetune", "autoencoder", "initial",
                 "finetune", "evaluation")
_WRITING_SHARE = 0.4  # of the kills
_TRAINING = ("initial", "finetune")
_TIMEOUT_SECONDS = 300
_NUM_EXAMPLES = 48  # of each data set
_MEASURED = ("crops_per_second", "memory_mb", "data/")  # beginnings of the names of figures that no two runs have in common
_SET = """
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
initial_steps = 40
finetune_steps = 32
checkpoint_interval = 4
validation_interval = 6
micro_batches = 2
ghost_batch_size = 8
average_momentum = 0.9
base_learning_rate = 3e-3
autoencoder_sweeps = 5
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact_resume", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args(arguments)
    result = measure(options.kills, options.seed)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def measure(num_kills: int, seed: int) -> dict:
    """Returns: the figures named in the module's docstring."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, TMPDIR=name):  # killed programs leave files there
        folder = pathlib.Path(name)
        for dataset in SYNTHETIC_DATASETS:
            prepare(load_adapter(dataset), None, folder / "data", limit=_NUM_EXAMPLES, progress=False)
        (folder / "killed.toml").write_text(_SET)
        command = [sys.executable, str(REPOSITORY / "train.py"), f"--dataset_set={folder / 'killed.toml'}",
                   f"--data_root={folder / 'data'}"]
        runs = [folder / "undisturbed", folder / "killed"]
        run_to_end([*command, f"--workdir={runs[0]}"])
        rng = np.random.default_rng(seed)
        parts = sorted(itertools.islice(itertools.cycle(_KILLED_PARTS), num_kills), key=PARTS.index)
        command.append(f"--workdir={runs[1]}")
        kills = [kill(command, runs[1], part, rng, is_writing=rng.random() < _WRITING_SHARE) for part in parts]
        run_to_end(command)
        found = list(differences(*runs))
    return {"benchmark": "exact_resume", "kills": len(kills), "identical": not found, "differences": found,
            "kills_during": dict(collections.Counter(part for part, _ in kills)),
            "kills_while_writing": sum(is_writing for _, is_writing in kills), "seed": seed,
            "benchmark_seconds": round(time.monotonic() - start)}


def run_to_end(command: Sequence[str]) -> None:
    """Raises: subprocess.CalledProcessError, with the end of what the program wrote to stderr as a note."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    if result.returncode:
        error = subprocess.CalledProcessError(result.returncode, command)
        error.add_note(result.stderr[-2000:])
        raise error


def kill(command: Sequence[str], run: pathlib.Path, part: str, rng: np.random.Generator, is_writing: bool) -> tuple[str, bool]:
    """Starts a program and kills it and its worker processes with SIGKILL at a random moment of a part of its run.

    Args: run: its folder; part: one of PARTS; rng: draws the moment; is_writing: a moment when it is writing a file.
    Returns: in which part it was then, and whether it was writing a file.
    Raises: RuntimeError if the program ends by itself.
    """
    conditions = _moment(run, part, rng, is_writing)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    try:
        for condition in conditions:
            while not condition():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} was to be killed in the part {part}, but "
                                       + ("goes on too long" if process.poll() is None else f"ended with {process.poll()}"))
                time.sleep(0.002)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if status != -signal.SIGKILL:
        raise RuntimeError(f"{' '.join(command)} ended with {status} before it could be killed")
    return current_part(run), any(unfinished_files(run))


def _moment(run: pathlib.Path, part: str, rng: np.random.Generator, is_writing: bool) -> list[Callable[[], bool]]:
    """What has to hold, one after the other, until the program is to be killed."""
    clock, seconds_before = {}, _lock_time(run)
    num_new, delay = rng.integers(3), rng.uniform(0, 1)
    steps_before = _newest_step(run, part)

    def is_past():
        return PARTS.index(current_part(run)) > PARTS.index(part)

    def has_new_checkpoints():
        return is_past() or sum(step > steps_before for step, _ in list_checkpoints(run / "checkpoints", part)) >= num_new

    def has_waited():
        return time.monotonic() > clock.setdefault("start", time.monotonic()) + delay

    return [lambda: _lock_time(run) > seconds_before,  # at work in the folder, done with its imports
            lambda: is_past() or current_part(run) == part,
            *([has_new_checkpoints] if part in _TRAINING else []),
            (lambda: any(unfinished_files(run))) if is_writing else has_waited]


def _lock_time(run):
    lock = run / LOCK_NAME
    return lock.stat().st_mtime_ns if lock.is_file() else 0


def _newest_step(run, phase):
    return max((step for step, _ in list_checkpoints(run / "checkpoints", phase)), default=0)


def current_part(run: pathlib.Path) -> str:
    """The first part of a run that is not done."""
    done = RunDirectory(run).progress()["done"]
    return next((part for part in PARTS if part not in done), PARTS[-1])


def unfinished_files(run: pathlib.Path) -> Iterator[pathlib.Path]:
    return run.rglob(UNFINISHED)


def differences(expected: pathlib.Path, found: pathlib.Path) -> Iterator[str]:
    """What two runs' folders do not have in common though it is no matter of time or memory, in words."""
    for unfinished in unfinished_files(found):
        yield f"{unfinished.relative_to(found)} is left"
    names = [{str(path.relative_to(run)) for pattern in ("*.npz", "*.keras", "*-best.json") for path in run.rglob(pattern)}
             for run in (expected, found)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is there in one run only"
    for name in sorted(names[0] & names[1]):
        ours, theirs = (read_values(run / name) for run in (expected, found))
        keys = sorted(ours.keys() | theirs.keys())
        if differing := [key for key in keys if not _same(ours.get(key), theirs.get(key))]:
            yield f"{name}: {len(differing)} of {len(keys)} values, {differing[0]} among them"
    logs = [[{key: value for key, value in record.items() if not key.startswith(_MEASURED)}
             for record in read_log(run / LOG_NAME)] for run in (expected, found)]
    if json.dumps(logs[0]) != json.dumps(logs[1]):
        yield f"{LOG_NAME}: {len(logs[0])} records and {len(logs[1])}, or other ones"


def read_values(path: pathlib.Path) -> dict[str, np.ndarray | str]:
    """What a .npz, .json or .keras file holds, by name; of the latter the weights and how the model is made."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    values = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        values["config"] = archive.read("config.json").decode()
        weights.visititems(lambda name, item: values.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return values


def _same(a, b) -> bool:
    """Whether two values are bitwise the same."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a == b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


if __name__ == "__main__":
    sys.exit(main())
