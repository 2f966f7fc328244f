"""Frames of videos, decoded one after the other."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from datasets.readers.files import require_file

# Frames that a container may count beyond those that can be decoded: it may hide some by an edit list, and Matroska states
# a duration from which the number is worked out.
COUNT_TOLERANCE = 3
# 8K has half as many; a broken header may claim any size, and a few frames of it are kept in memory.
MAX_PIXELS = 2**26
MAX_FRAME_RATE = 1000


def read_frames(path: pathlib.Path, indices: Iterable[int] | None = None, hint: str = "") -> Iterator[tuple[int, np.ndarray]]:
    """Decodes a video from its beginning, and yields the wanted frames as they are stored: a rotation is not applied.

    Frame i is the i-th that the decoder gives, whatever its time stamp. Frames that are not wanted are decoded but not
    converted; one frame is in memory at a time.

    Args:
        indices: of the wanted frames, rising, from 0; None for all. It may be an iterator that is asked as it goes.

    Yields: index, image [height, width, 3] uint8 RGB.
    Raises: FileNotFoundError followed by `hint`; ValueError naming file and frame: if it is not a video, if a wanted frame
        does not exist or cannot be decoded, or if all are wanted and there are fewer than the container counts (by more
        than `COUNT_TOLERANCE`); those that there are have been yielded by then.
    """
    with _open_video(path, hint) as capture:
        position = -1  # of the frame that was decoded last
        for index in itertools.count() if indices is None else indices:
            if index <= position:
                raise ValueError(f"{path}: frame {index} was asked for after frame {position}; indices must rise from 0")
            while position < index and capture.grab():
                position += 1
            decoded, image = capture.retrieve() if position == index else (False, None)
            if not decoded:
                if indices is None and position != index and position + 1 >= _stated_count(capture) - COUNT_TOLERANCE:
                    return
                raise ValueError(f"{path}: frame {index} cannot be decoded: the video ends after {position + 1} frames, its "
                                 f"header states {_stated_count(capture)}. Was it cut short or damaged?")
            yield int(index), cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def num_frames(path: pathlib.Path, hint: str = "") -> int:
    """The number of frames that the container states, or else of those that can be decoded.

    A statement may be off by a few (see `COUNT_TOLERANCE`), and that of a video cut short counts what is lost: whoever
    needs all frames reads them.

    Raises: FileNotFoundError followed by `hint`; ValueError if it is not a video.
    """
    with _open_video(path, hint) as capture:
        return _stated_count(capture) or sum(1 for _ in iter(capture.grab, False))


def frame_rate(path: pathlib.Path, hint: str = "") -> float:
    """Frames per second, as the container states.

    Raises: FileNotFoundError followed by `hint`; ValueError if it is not a video, or states no rate.
    """
    with _open_video(path, hint) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not 1 <= rate <= MAX_FRAME_RATE:
            raise ValueError(f"{path} states a frame rate of {rate}, expected 1 to {MAX_FRAME_RATE}. Is it a damaged video?")
        return rate


def _stated_count(capture: cv2.VideoCapture) -> int:
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 2**31 else 0  # a negative number or an absurd one where there is none


@contextlib.contextmanager
def _open_video(path: pathlib.Path, hint: str) -> Iterator[cv2.VideoCapture]:
    # The backend is named, since others take a path with digits for a series of images, and the path is absolute, since
    # FFmpeg takes a word and a colon in front for a protocol.
    path = require_file(path, hint)
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not capture.isOpened() or not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"{path} cannot be read as a video (opened: {capture.isOpened()}, {width:.0f} x {height:.0f} px). "
                             "Is it damaged, or another kind of file than its name says?")
        yield capture
    finally:
        capture.release()
