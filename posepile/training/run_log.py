"""The log of a run: one JSON object per line in metrics.jsonl; the same numbers, and pictures, for TensorBoard."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

import cv2
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from posepile.data.atomic_files import atomic_file

LOG_NAME = "metrics.jsonl"
_RGB = 3  # TensorBoard's colorspace


class RunLog:
    """Appends records to metrics.jsonl and to TensorBoard event files, one folder of these per phase.

    A slash in a name, as in `loss/h36m`, puts it into a group of TensorBoard's.
    """

    def __init__(self, run_dir: pathlib.Path):
        self.path = run_dir / LOG_NAME
        self._board_dir = run_dir / "tensorboard"
        self._writers: dict[str, EventFileWriter] = {}

    def truncate(self, phase: str, step: int) -> None:
        """Forgets what was logged in `phase` after `step`: to be called when a phase begins, and when it is taken up again.

        TensorBoard's fast data loading keeps such points until the same name is logged anew.
        """
        # At every start of a session but the first, TensorBoard drops what it has read from this step on.
        self._add_event(phase, step + 1, session_log=SessionLog(status=SessionLog.START))
        if not self.path.is_file():
            return
        kept = [r for r in read_log(self.path) if r["phase"] != phase or r["step"] <= step]
        with atomic_file(self.path, "w") as file:
            file.writelines(_json_line(r) for r in kept)

    def write(self, phase: str, step: int, **values: float) -> None:
        """Logs numbers; what is not finite is null in metrics.jsonl, as JSON has no nan, and itself in TensorBoard."""
        values = {name: float(value) for name, value in values.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(_json_line({"phase": phase, "step": step, **values}))
            file.flush()
            os.fsync(file.fileno())
        self._add_event(phase, step, summary=Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]))

    def write_pictures(self, phase: str, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Shows pictures in TensorBoard, by name; each [height, width, 3] uint8 RGB."""
        values = []
        for name, picture in pictures.items():
            encoded, data = cv2.imencode(".png", picture[..., ::-1])
            assert encoded, "OpenCV was built without PNG support"
            height, width, _ = picture.shape
            values.append(Summary.Value(tag=name, image=Summary.Image(
                height=height, width=width, colorspace=_RGB, encoded_image_string=data.tobytes())))
        self._add_event(phase, step, summary=Summary(value=values))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _add_event(self, phase: str, step: int, **content) -> None:
        if phase not in self._writers:
            self._writers[phase] = EventFileWriter(str(self._board_dir / phase))
        self._writers[phase].add_event(Event(wall_time=time.time(), step=step, **content))
        self._writers[phase].flush()


def read_log(path: pathlib.Path) -> list[dict]:
    """The records of a log, nan where a number was not finite; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records.append({name: math.nan if value is None else value for name, value in record.items()})
    return records


def _json_line(record: Mapping) -> str:
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value
              for name, value in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
