import numpy as np
import pytest

from datasets.bone_lengths import BoneLengthSums, merge_bone_lengths
from posepile.geometry.skeleton import skeleton_from_dict

SKELETON = skeleton_from_dict({"name": "chain", "joints": ["a", "b", "c"], "edges": ["a-b-c"]})


def chain(ab, bc):
    return np.array([[0.0, 0, 0], [ab, 0, 0], [ab, bc, 0]])


def test_statistics_by_hand():
    sums = BoneLengthSums(SKELETON)
    sums.add(chain(100, 5))
    sums.add(chain(300, np.nan))
    assert sums.statistics() == {"a-b": {"mean": 200, "std": 100, "min": 100, "max": 300},
                                 "b-c": {"mean": 5, "std": 0, "min": 5, "max": 5}}


def test_parts_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    poses = [chain(*rng.uniform(50, 500, 2)) for _ in range(20)]
    whole, parts = BoneLengthSums(SKELETON), [BoneLengthSums(SKELETON) for _ in range(3)]
    for i, pose in enumerate(poses):
        whole.add(pose)
        parts[i % 2].add(pose)  # the third part stays empty
    merged = merge_bone_lengths(SKELETON, [part.to_rows() for part in parts])
    for name, values in whole.statistics().items():
        assert merged.statistics()[name] == pytest.approx(values, abs=2e-3)


def test_bones_that_never_occur_are_left_out():
    sums = BoneLengthSums(SKELETON)
    sums.add(chain(100, np.nan))
    assert list(sums.statistics()) == ["a-b"]
    assert sums.to_rows()[1] == [0, 0, 0, None, None]
