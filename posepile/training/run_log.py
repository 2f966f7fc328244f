"""The log of a run: one JSON object per line in metrics.jsonl, and the same numbers for TensorBoard."""

import json
import os
import pathlib

from tensorboard.summary import Writer

from posepile.data.records import atomic_file

LOG_NAME = "metrics.jsonl"


class RunLog:
    """Appends records to metrics.jsonl and to TensorBoard event files.

    When a phase is taken up again at a checkpoint, the lines that were logged after it are removed first.
    """

    def __init__(self, run_dir: pathlib.Path):
        self.path = run_dir / LOG_NAME
        self._board_dir = run_dir / "tensorboard"
        self._writers: dict[str, Writer] = {}

    def truncate(self, phase: str, step: int) -> None:
        """Forgets what was logged in `phase` after `step`."""
        if not self.path.is_file():
            return
        lines = read_log(self.path)
        kept = [r for r in lines if r["phase"] != phase or r["step"] <= step]
        with atomic_file(self.path, "w") as file:
            file.writelines(json.dumps(r) + "\n" for r in kept)

    def write(self, phase: str, step: int, **values) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if phase not in self._writers:
            self._writers[phase] = Writer(str(self._board_dir / phase))
        for name, value in values.items():
            self._writers[phase].add_scalar(name, value, step)
        self._writers[phase].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def read_log(path: pathlib.Path) -> list[dict]:
    """The records of a log; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
