"""Bone-length statistics of a data set, gathered shard by shard."""

import math
from collections.abc import Iterable

import numpy as np

from posepile.geometry.skeleton import Skeleton


class BoneLengthSums:
    """Counts, sums, sums of squares and ranges of bone lengths. Those of two parts of the data add up to those of the
    whole."""

    def __init__(self, skeleton: Skeleton, rows: list[list[float | None]] | None = None):
        """`rows`: what `to_rows` returned, to go on from there."""
        self._skeleton = skeleton
        self._edges = np.array(skeleton.edges, np.int64).reshape(-1, 2)
        self._sums = np.zeros((len(self._edges), 3))  # count, sum, sum of squares
        self._low = np.full(len(self._edges), np.inf)
        self._high = np.full(len(self._edges), -np.inf)
        if rows:
            self._sums = np.array([row[:3] for row in rows], np.float64)
            self._low, self._high = (np.array([empty if row[i] is None else row[i] for row in rows])
                                     for i, empty in ((3, np.inf), (4, -np.inf)))

    def add(self, joints3d: np.ndarray) -> None:
        """Adds a pose [num_joints, 3], mm; bones with a nan end do not count."""
        ends = np.asarray(joints3d, np.float64)[self._edges]
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
        is_known = ~np.isnan(length)
        length = np.where(is_known, length, 0)
        self._sums += np.stack([is_known, length, length * length], axis=1)
        self._low = np.minimum(self._low, np.where(is_known, length, np.inf))
        self._high = np.maximum(self._high, np.where(is_known, length, -np.inf))

    def to_rows(self) -> list[list[float | None]]:
        """Per bone: count, sum, sum of squares, min, max, as JSON can hold them: no min and max is None."""
        columns = self._sums.tolist(), self._low.tolist(), self._high.tolist()
        return [[int(count), total, squares, low if count else None, high if count else None]
                for (count, total, squares), low, high in zip(*columns, strict=True)]

    def statistics(self) -> dict[str, dict[str, float]]:
        """JOINT-JOINT -> mean, std, min, max, mm; without bones that never occur."""
        result = {}
        for (i, j), (count, total, squares, low, high) in zip(self._skeleton.edges, self.to_rows(), strict=True):
            if count:
                mean = total / count
                result[f"{self._skeleton.joint_names[i]}-{self._skeleton.joint_names[j]}"] = {
                    "mean": round(mean, 3), "std": round(math.sqrt(max(0.0, squares / count - mean * mean)), 3),
                    "min": round(low, 3), "max": round(high, 3)}
        return result


def merge_bone_lengths(skeleton: Skeleton, parts: Iterable[list[list[float | None]]]) -> BoneLengthSums:
    """The sums of several parts (`to_rows`), added in their order."""
    merged = BoneLengthSums(skeleton)
    for rows in parts:
        part = BoneLengthSums(skeleton, rows)
        merged._sums += part._sums
        merged._low, merged._high = np.minimum(merged._low, part._low), np.maximum(merged._high, part._high)
    return merged
