"""Which frames of a recording to keep: those in which the person has moved since the frames kept before.

Two samplers of the published training mix are settings of one rule: the one that compares with the last kept pose only
(buffer=1), and the one that compares with many of them, so that a repeated movement is kept once.
"""

import math
from collections.abc import Sequence

import numpy as np


def select_frames(poses: Sequence[np.ndarray], thresholds: Sequence[float]) -> list[int]:
    """Which frames of a track in 2D to keep: those with a joint newly labelled or moved since the last frame kept.

    Args:
        poses: [num_joints, 2] px each; nan where there is no label.
        thresholds: px, one per frame; the distance that counts as movement.

    Returns: indices of the frames. The first one with any label is kept.
    """
    sampler = FrameSampler(0, newly_valid=True)
    return [i for i, (pose, threshold) in enumerate(zip(poses, thresholds, strict=True)) if sampler.keep(pose, threshold)]


class FrameSampler:
    """Decides frame by frame, in the order of the recording, for one person; usually one sampler per video.

    A frame is kept if some joint lies `threshold_mm` or more from its place in each of the remembered poses (in different
    ones it may be different joints). The first frame that has a joint is kept, a frame that has none never is.
    """

    def __init__(self, threshold_mm: float, buffer: int | None = 1, newly_valid: bool = False,
                 nan_unchanged: bool = False):
        """Sets the rule.

        Args:
            threshold_mm: movement that counts.
            buffer: how many of the last kept poses are remembered; None: all, which takes 24 bytes per joint and pose.
            newly_valid: keep a frame, too, in which a joint is labelled that is not in the pose remembered last, and
                compare only those joints that are labelled now.
            nan_unchanged: a joint without a label, now or in the remembered pose, counts as not moved, and is
                remembered where it was last. Otherwise it counts as moved.
        """
        if not 0 <= threshold_mm < math.inf or (buffer is not None and buffer < 1):
            raise ValueError(f"threshold_mm is {threshold_mm} and buffer {buffer}; expected 0 or more, and 1 or more or None")
        self.threshold_mm = threshold_mm
        self.buffer = buffer
        self.newly_valid = newly_valid
        self.nan_unchanged = nan_unchanged
        self._num_kept = 0
        self._memory = np.empty((0, 0, 3))  # [places, num_joints, 3], a ring once it has `buffer` places

    def keep(self, joints: np.ndarray, threshold: float | None = None) -> bool:
        """Whether the next frame is kept; if so, it is remembered.

        Args:
            joints: [num_joints, 3] mm, or of fewer coordinates; nan where there is no label.
            threshold: movement that counts in this frame, in the unit of `joints`; None: `threshold_mm`.
        """
        threshold = self.threshold_mm if threshold is None else threshold
        is_valid = np.isfinite(joints).all(axis=-1)
        joints = np.where(is_valid[:, None], joints, np.nan).astype(np.float64)
        if not is_valid.any() or (self._num_kept and not self._is_new(joints, is_valid, threshold)):
            return False
        self._remember(joints, is_valid)
        return True

    def _is_new(self, joints: np.ndarray, is_valid: np.ndarray, threshold: float) -> bool:
        remembered = self._memory[:self._num_kept]
        if joints.shape != remembered.shape[1:]:
            raise ValueError(f"joints have shape {list(joints.shape)}, earlier ones {list(remembered.shape[1:])}")
        distance = np.linalg.norm(remembered - joints, axis=-1)
        if self.newly_valid and np.isnan(distance[self._last_place(), is_valid]).any():
            return True
        moved = distance >= threshold
        if not self.nan_unchanged:
            moved |= np.isnan(distance) & (is_valid if self.newly_valid else True)
        return bool(moved.any(axis=1).all())

    def _remember(self, joints: np.ndarray, is_valid: np.ndarray) -> None:
        if self._num_kept and self.nan_unchanged:
            joints = np.where(is_valid[:, None], joints, self._memory[self._last_place()])
        num_places = len(self._memory)
        if self._num_kept == num_places != self.buffer:
            larger = np.empty((min(max(64, 2 * num_places), self.buffer or math.inf), *joints.shape))
            larger[:num_places] = self._memory.reshape(num_places, *joints.shape)
            self._memory = larger
        self._num_kept += 1
        self._memory[self._last_place()] = joints

    def _last_place(self) -> int:
        return (self._num_kept - 1) % len(self._memory)
