import numpy as np

from posepile.geometry.bone_lengths import is_implausible_length


def test_a_bone_is_implausible_if_far_off_both_in_ratio_and_in_mm():
    #      fits, too long, long but by 140 mm only, too short, half as long, unknown, unknown mean
    length = np.array([410.0, 1300.0, 200.0, 30.0, 200.0, np.nan, 400.0])
    mean = np.array([400.0, 400.0, 60.0, 400.0, 400.0, 400.0, np.nan])
    np.testing.assert_array_equal(is_implausible_length(length, mean), [False, True, False, True, False, False, False])
