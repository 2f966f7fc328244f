import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from datasets.frame_sampling import FrameSampler, select_frames

NAN = np.nan


def kept_frames(positions, **options):
    """Indices of the frames kept of joints on the x axis, [frames, num_joints] mm."""
    sampler = FrameSampler(**options)
    return [i for i, frame in enumerate(positions)
            if sampler.keep(np.stack([frame, np.zeros(len(frame)), np.zeros(len(frame))], axis=-1))]


def test_keeps_what_moved_since_the_last_kept_frame():
    # Joint 1 creeps: 60 is near 0, 100 is not; from there 199 is near, 200 is not. Joint 0 jumps at the end.
    positions = [[0, 0], [0, 60], [0, 100], [0, 199], [0, 200], [-100, 200]]
    assert kept_frames(positions, threshold_mm=100) == [0, 2, 4, 5]


def test_distance_is_that_of_one_joint_in_space():
    sampler = FrameSampler(100)
    assert sampler.keep(np.zeros((2, 3)))
    assert not sampler.keep(np.array([[60.0, 60, 50], [60, 60, 50]]))  # 98.5 each
    assert sampler.keep(np.array([[60.0, 60, 53], [0, 0, 0]]))  # 100.04


def test_buffer_keeps_a_repeated_movement_once():
    swing = [[0], [100], [200], [100], [0], [100], [200]]
    assert kept_frames(swing, threshold_mm=100) == [0, 1, 2, 3, 4, 5, 6]
    assert kept_frames(swing, threshold_mm=100, buffer=None) == [0, 1, 2]
    # Remembered after frame 2: 100, 200. Frame 4 (0) is new again and pushes 100 out, which makes frame 5 new.
    assert kept_frames(swing, threshold_mm=100, buffer=2) == [0, 1, 2, 4, 5, 6]
    # Against different poses different joints may have moved.
    assert kept_frames([[0, 0], [100, 0], [0, 100], [100, 100], [0, 50]], threshold_mm=100, buffer=None) == [0, 1, 2, 3]


def test_nan_counts_as_moved_unless_told_otherwise():
    positions = [[NAN, NAN], [0, NAN], [0, NAN], [0, 0], [0, 0], [NAN, 0], [NAN, NAN], [0, 0]]
    # Frames without any joint are never kept. Plain: every frame with nan on either side has "moved".
    assert kept_frames(positions, threshold_mm=100) == [1, 2, 3, 5, 7]
    # Only what is labelled now is compared: joint 1 appears in frame 3, and frame 5, without joint 0, is not kept.
    assert kept_frames(positions, threshold_mm=100, newly_valid=True) == [1, 3]
    assert kept_frames(positions, threshold_mm=100, nan_unchanged=True) == [1]
    assert kept_frames(positions, threshold_mm=100, newly_valid=True, nan_unchanged=True) == [1, 3]


def test_nan_unchanged_remembers_where_a_joint_was_last():
    # Joint 1 vanishes while joint 0 moves (frame 1 is kept); when it is back at its old place nothing is new.
    positions = [[0, 0], [100, NAN], [100, 99], [100, 100]]
    assert kept_frames(positions, threshold_mm=100, newly_valid=True, nan_unchanged=True) == [0, 1, 3]
    assert kept_frames(positions, threshold_mm=100, newly_valid=True) == [0, 1, 2]  # forgotten, so new in 2


def plainly_kept(frames, threshold_mm, buffer, newly_valid, nan_unchanged):
    """The rule in words of single joints; a joint is a tuple or None."""
    kept, memory = [], []

    def has_moved(now, before):
        if now is None or before is None:
            return not nan_unchanged and not (newly_valid and now is None)
        return sum((a - b) ** 2 for a, b in zip(now, before, strict=True)) >= threshold_mm ** 2

    for i, frame in enumerate(frames):
        if all(joint is None for joint in frame):
            continue
        is_new = all(any(has_moved(now, before) for now, before in zip(frame, pose, strict=True))
                     for pose in (memory if buffer is None else memory[-buffer:]))
        if newly_valid and memory:
            is_new = is_new or any(now is not None and before is None
                                   for now, before in zip(frame, memory[-1], strict=True))
        if is_new:
            kept.append(i)
            last = memory[-1] if memory and nan_unchanged else frame
            memory.append([before if now is None else now for now, before in zip(frame, last, strict=True)])
    return kept


COORDINATES = strategies.integers(0, 4)
JOINTS = strategies.none() | strategies.tuples(COORDINATES, COORDINATES, COORDINATES)


@hypothesis.given(strategies.lists(strategies.tuples(JOINTS, JOINTS), max_size=30), strategies.sampled_from([0, 1, 2, 3, 5]),
                  strategies.sampled_from([None, 1, 2, 3, 7]), strategies.booleans(), strategies.booleans())
@hypothesis.settings(deadline=None, max_examples=200)
def test_agrees_with_a_plain_implementation(frames, threshold, buffer, newly_valid, nan_unchanged):
    sampler = FrameSampler(threshold, buffer, newly_valid, nan_unchanged)
    poses = [np.array([(NAN,) * 3 if joint is None else joint for joint in frame], np.float32) for frame in frames]
    kept = [i for i, pose in enumerate(poses) if sampler.keep(pose)]
    assert kept == plainly_kept(frames, threshold, buffer, newly_valid, nan_unchanged)


@pytest.mark.parametrize("buffer", [None, 1000, 300])
def test_long_recordings_outgrow_the_first_memory(buffer):
    """500 places in a row, then back along them: a memory of all has seen them, one of 300 only the nearest."""
    sampler = FrameSampler(1, buffer)
    places = [*range(500), *reversed(range(500))]
    kept = [sampler.keep(np.array([[x, 0.0, 0.0]])) for x in places]
    assert all(kept[:500])
    # Remembered are 200..499; each new one pushes out the oldest of them.
    assert sum(kept[500:]) == (200 if buffer == 300 else 0)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="buffer 0"):
        FrameSampler(100, buffer=0)
    with pytest.raises(ValueError, match="threshold_mm is nan"):
        FrameSampler(np.nan)
    sampler = FrameSampler(100)
    sampler.keep(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"shape \[1, 3\], earlier ones \[2, 3\]"):
        sampler.keep(np.zeros((1, 3)))


def pose(x=0.0, y=0.0, missing=()):
    joints2d = np.array([[x, y], [x + 50, y], [x, y + 50]], np.float64)
    joints2d[list(missing)] = np.nan
    return joints2d


def test_frames_of_a_track_in_2d_by_hand():
    def select(*poses):
        return select_frames(poses, [10.0] * len(poses))

    assert select(pose(), pose(9), pose(10)) == [0, 2]  # against the last kept frame, not the one before
    assert select(pose(), pose(6, 7), pose(6, 8)) == [0, 2]  # distances 9.2 and 10
    assert select(pose(missing=[0]), pose(1)) == [0, 1]  # a joint newly labelled
    assert select(pose(), pose(1, missing=[0]), pose(2)) == [0]  # one that vanishes and returns is none
    returned = pose(20)
    returned[0] = pose()[0]
    assert select(pose(), pose(20, missing=[0]), returned) == [0, 1, 2]  # but for one that was missing in the last kept frame
    assert select(pose(missing=[0, 1, 2]), pose()) == [1]  # the first frame with a label
    # Each joint by itself: all three moving by 9 px make 15.6 px in one norm over the pose.
    assert select(pose(), pose(9)) == [0]
    assert select_frames([pose(), pose(4), pose(4.5)], [5.0, 5.0, 4.5]) == [0, 2]
