"""Checkpoints: all state of a training phase in one file, written atomically, restored exactly."""

import hashlib
import pathlib
import re
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import logging

from posepile.data.atomic_files import atomic_file

NUM_KEPT = 2
_NAME = re.compile(r"(?P<phase>[a-z_]+)-(?P<step>\d{8})\.npz")


def checkpoint_path(folder: pathlib.Path, phase: str, step: int) -> pathlib.Path:
    return folder / f"{phase}-{step:08d}.npz"


def save_checkpoint(folder: pathlib.Path, phase: str, step: int, variables: Sequence, keep: int | None = None) -> pathlib.Path:
    """Writes the values of Keras variables after `step` steps; older checkpoints of the phase but the last one go.

    Args:
        variables: weights, optimizer slots, counters and random states, in a fixed order.
        keep: the step of another checkpoint that stays.

    Raises: OSError naming the checkpoint that is intact, if this one cannot be written.
    """
    arrays = {f"v{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    arrays["paths"] = np.array([v.path for v in variables])
    arrays["digest"] = np.array(_digest(arrays))
    path = checkpoint_path(folder, phase, step)
    try:
        with atomic_file(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        intact = [str(old) for _, old in list_checkpoints(folder, phase)]
        raise OSError(f"the checkpoint of step {step} of {phase} could not be written ({error}); "
                      + (f"{intact[-1]} is intact" if intact else "there is none before it")) from error
    for old_step, old in list_checkpoints(folder, phase)[:-NUM_KEPT]:
        if old_step < step and old_step != keep:
            old.unlink()
    return path


def list_checkpoints(folder: pathlib.Path, phase: str) -> list[tuple[int, pathlib.Path]]:
    """(step, file) of a phase's checkpoints, oldest first."""
    matches = ((_NAME.fullmatch(p.name), p) for p in folder.glob(f"{phase}-*.npz")) if folder.is_dir() else ()
    return sorted((int(m["step"]), p) for m, p in matches if m and m["phase"] == phase)


def restore_checkpoint(folder: pathlib.Path, phase: str, variables: Sequence) -> int:
    """Loads the newest intact checkpoint of a phase into the variables.

    Returns: its step, 0 if there is none.
    Raises: ValueError if an intact checkpoint belongs to another model.
    """
    damaged = []
    for step, path in reversed(list_checkpoints(folder, phase)):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if str(arrays.pop("digest")) != _digest(arrays):
                raise ValueError("checksum mismatch")
        except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            logging.warning("checkpoint %s is damaged (%s)", path, error)
            damaged.append(path.name)
            continue
        shapes = [arrays[f"v{i:05d}"].shape for i in range(len(arrays) - 1)]
        if shapes != [tuple(v.shape) for v in variables]:
            raise ValueError(f"{path} does not fit the model: its variables have other shapes. Was it written by a run "
                             "with other settings? Use another --workdir, or --overwrite.")
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"v{i:05d}"])
        if damaged:
            logging.warning("%s goes on from the checkpoint before, of step %d", phase, step)
        return step
    if damaged:
        logging.warning("no checkpoint of %s in %s is intact: the phase starts over", phase, folder)
    return 0


def _digest(arrays):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if name != "digest":
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
