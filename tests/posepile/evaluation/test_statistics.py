"""The bootstrap against planted truths, closed forms, and a loop that resamples poses one by one."""

import itertools

import numpy as np
import pytest
import scipy.stats

from posepile.evaluation.statistics import PoseSums, beside, bootstrap, interval, make_resampling


def mean_of(values, counts=None):
    """A metric that is the mean of `values`, [num_poses], weighted by `counts`."""
    counts = np.ones(len(values)) if counts is None else counts
    return PoseSums(("mean",), (values * counts)[None], counts[None].astype(float))


def paired_interval(before, after, groups, confidence=0.95, seeds=(0, 0), num_resamples=400):
    """Interval of the difference of two means: [2]."""
    samples = [bootstrap(sums, groups, num_resamples, seed) for sums, seed in zip((before, after), seeds, strict=True)]
    return interval(after.values() - before.values(), samples[1] - samples[0], len(np.unique(groups)), confidence)[:, 0]


def test_values_are_ratios_of_sums_by_hand():
    sums = PoseSums(("a", "b", "c"), np.array([[6, 0, 2], [1, np.inf, 1], [0, 0, 0.0]]),
                    np.array([[2, 0, 2], [1, 1, 1], [0, 0, 0.0]]))
    np.testing.assert_array_equal(sums.values(), [8 / 4, np.nan, np.nan])
    np.testing.assert_array_equal((sums + sums).select(("c", "a")).values(), [np.nan, 2])
    np.testing.assert_array_equal(sums.only(np.array([True, False, False])).values(), [3, 1, np.nan])
    assert beside([sums.prefixed("x"), sums.prefixed("y", "z")]).names == (
        ("x", "a"), ("x", "b"), ("x", "c"), ("y", "z", "a"), ("y", "z", "b"), ("y", "z", "c"))


def test_equals_resampling_poses_one_by_one():
    rng = np.random.default_rng(0)
    groups = np.array(["b", "a", "c", "a", "b", "b", "c", "d"])
    sums = PoseSums(("p", "q"), rng.random((2, 8)), rng.integers(1, 4, (2, 8)).astype(float))
    samples = bootstrap(sums, groups, 6, seed=3)
    drawn = np.random.default_rng(3).integers(4, size=(6, 4))
    for sample, draws in zip(samples, drawn, strict=True):
        poses = np.concatenate([np.flatnonzero(groups == "abcd"[group]) for group in draws])
        np.testing.assert_allclose(sample, sums.numerators[:, poses].sum(axis=1) / sums.denominators[:, poses].sum(axis=1))


def test_many_groups_are_drawn_in_chunks_of_one_stream(monkeypatch):
    sums, groups = mean_of(np.random.default_rng(0).random(50)), np.arange(50)
    whole = bootstrap(sums, groups, 20, seed=5)
    monkeypatch.setattr("posepile.evaluation.statistics._CHUNK_DRAWS", 150)
    np.testing.assert_allclose(bootstrap(sums, groups, 20, seed=5), whole, rtol=1e-12)
    assert (bootstrap(sums, groups, 20, seed=6) != whole).any()


def test_standard_error_of_a_mean_is_the_classical_one():
    values = np.random.default_rng(1).normal(0, 10, 40)
    low, high = interval(np.mean(values), bootstrap(mean_of(values), np.arange(40), 20_000)[:, 0], 40, 0.9)
    expected = scipy.stats.t.interval(0.9, 39, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose([low, high], expected, rtol=0.03)


@pytest.mark.parametrize("num_sequences", [3, 6, 40])
def test_interval_covers_a_planted_difference_as_often_as_it_says(num_sequences):
    """Sequences of different lengths, whose poses err alike; the second model is 2 mm better on average."""
    num_trials, covered = 300, 0
    for seed in range(num_trials):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(num_sequences), rng.integers(8, 13, num_sequences))
        before = 80 + rng.normal(0, 15, num_sequences)[groups] + rng.normal(0, 20, len(groups))
        after = before - 2 + rng.normal(0, 3, num_sequences)[groups] + rng.normal(0, 5, len(groups))
        low, high = paired_interval(mean_of(before), mean_of(after), groups, seeds=(seed, seed))
        covered += low < -2 < high
    assert 0.92 <= covered / num_trials <= 0.98


def test_poses_of_a_sequence_err_alike_so_that_poses_by_themselves_are_too_sure_of_it():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 20)
    before = rng.normal(80, 5, 600)
    after = before - 2 + rng.normal(0, 3, 30)[groups]
    by_sequence, by_pose = (np.diff(paired_interval(mean_of(before), mean_of(after), g)) for g in (groups, np.arange(600)))
    assert by_sequence > 3 * by_pose  # sqrt(20) times, as all 20 poses of a sequence differ by the same


def test_pairing_narrows_the_interval_where_errors_are_correlated():
    rng = np.random.default_rng(3)
    before = rng.normal(80, 30, 500)  # hard and easy poses
    after = before - 2 + rng.normal(0, 3, 500)
    groups = np.arange(500)
    paired = paired_interval(mean_of(before), mean_of(after), groups)
    unpaired = paired_interval(mean_of(before), mean_of(after), groups, seeds=(0, 1))
    assert np.diff(unpaired) > 10 * np.diff(paired)  # sqrt(2) * 30 to 3
    assert paired[1] < 0 < unpaired[1]


def test_a_share_of_poses():
    """30 % of 2000 independent poses pass in one model; in the other one these and every fifth of the rest."""
    rng = np.random.default_rng(4)
    passes = rng.random(2000) < 0.3
    before, after = mean_of(100.0 * passes), mean_of(100.0 * (passes | (rng.random(2000) < 0.2)))
    low, high = paired_interval(before, after, np.arange(2000), num_resamples=4000)
    share = 0.7 * 0.2  # of poses that change
    assert low < 100 * share < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(share * (1 - share) / 2000), rel=0.08)


def test_the_same_predictions_differ_by_exactly_nothing():
    sums = mean_of(np.random.default_rng(5).random(1000))
    again = PoseSums(sums.names, sums.numerators.copy(), sums.denominators.copy())
    np.testing.assert_array_equal(paired_interval(sums, again, np.arange(1000) // 7), [0, 0])


def test_what_is_undefined_stays_so():
    sums = PoseSums(("rare", "never", "infinite"), np.array([[5.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, np.inf, 1]]),
                    np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]))
    samples = bootstrap(sums, np.arange(4), 200)
    assert set(samples[np.isfinite(samples[:, 0]), 0]) == {5} and np.isnan(samples[:, 0]).any()
    assert np.isnan(samples[:, 1:]).all()
    np.testing.assert_array_equal(interval(sums.values(), samples, 4), [[5, np.nan, np.nan]] * 2)
    assert np.isnan(interval(np.array([1.0]), np.ones((10, 1)), 1)).all()  # one group tells nothing of how groups differ


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_confidence_out_of_range(confidence):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        interval(np.zeros(1), np.zeros((5, 1)), 5, confidence)


# ---- Groups


def test_groups_are_summed_in_rising_order_of_their_labels():
    sums = PoseSums(("a", "b"), np.array([[1, 2, 4, 8], [1, np.inf, 1, 0.0]]), np.array([[1, 1, 2, 2], [1, 1, 0, 0.0]]))
    for labels in (["y", "x", "y", "z"], [7, -1, 7, 30]):
        grouped = sums.grouped(np.array(labels))
        np.testing.assert_array_equal(grouped.numerators, [[2, 5, 8], [np.inf, 2, 0]])
        np.testing.assert_array_equal(grouped.denominators, [[1, 3, 2], [1, 1, 0]])
        np.testing.assert_array_equal(grouped.ratios(), [[2, 5 / 3, 4], [np.nan, 2, np.nan]])
        np.testing.assert_array_equal(grouped.num_counted(), [3, 2])
        np.testing.assert_array_equal(grouped.values(), sums.values())
    assert sums.grouped(np.zeros(4)).names == ("a", "b")


def test_groups_equal_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 200)
    sums = PoseSums(("a",), rng.random((1, 200)), rng.random((1, 200)))
    expected = [[a[0, labels == label].sum() for label in np.unique(labels)] for a in (sums.numerators, sums.denominators)]
    np.testing.assert_allclose([sums.grouped(labels).numerators[0], sums.grouped(labels).denominators[0]], expected)


def test_columns_of_equal_weight():
    """Means 2, 4, nothing and 9 of 1, 100, 0 and 2 joints."""
    sums = PoseSums(("mean",), np.array([[2, 400, 0, 18.0]]), np.array([[1, 100, 0, 2.0]]))
    assert sums.equally_weighted().values() == pytest.approx([5])
    np.testing.assert_array_equal(sums.equally_weighted().denominators, [[1, 1, 0, 1]])
    broken = PoseSums(("mean",), np.array([[2, np.inf]]), np.array([[1, 1.0]]))
    assert np.isnan(broken.equally_weighted().values()).all()  # never dropped


@pytest.mark.parametrize("sequence, num_poses, expected", [
    (["b", "a", "b"], 3, ([1, 0, 1], 2, "sequences")),
    ([5, 5, 4], 3, ([1, 1, 0], 2, "sequences")),
    (["a", "a", "a"], 3, ([0, 1, 2], 3, "poses")),
    (None, 3, ([0, 1, 2], 3, "poses")),
    (None, 0, ([], 0, "poses")),
])
def test_what_is_resampled(sequence, num_poses, expected):
    resampling = make_resampling(sequence, num_poses)
    assert (resampling.groups.tolist(), resampling.num_groups, resampling.unit) == expected


@pytest.mark.parametrize("num_poses, length, num_groups", [(1000, 1, 1000), (1001, 2, 501), (2001, 3, 667)])
def test_many_poses_are_resampled_in_runs(num_poses, length, num_groups):
    resampling = make_resampling(None, num_poses)
    assert resampling.num_groups == num_groups
    assert resampling.unit == ("poses" if length == 1 else f"runs of {length} consecutive poses")
    np.testing.assert_array_equal(resampling.groups, np.arange(num_poses) // length)


def test_all_resamples_of_three_groups():
    """27 equally likely draws, listed: the bootstrap's spread is theirs, of a ratio that is no plain mean."""
    numerators, denominators = np.array([3, 20, 7.0]), np.array([1, 2, 4.0])
    sums = PoseSums(("ratio",), numerators[None], denominators[None])
    listed = [numerators[list(draw)].sum() / denominators[list(draw)].sum() for draw in itertools.product(range(3), repeat=3)]
    resamples = bootstrap(sums, np.arange(3), 40_000)[:, 0]
    values, counts = np.unique(np.round(listed, 9), return_counts=True)
    drawn, frequencies = np.unique(np.round(resamples, 9), return_counts=True)
    np.testing.assert_array_equal(drawn, values)
    np.testing.assert_allclose(frequencies / 40_000, counts / 27, atol=0.01)
    low, high = interval(np.array([30 / 7]), resamples[:, None], 3, 0.95)
    reach = scipy.stats.t.ppf(0.975, 2) * np.std(listed) * np.sqrt(3 / 2)
    np.testing.assert_allclose([low[0], high[0]], [30 / 7 - reach, 30 / 7 + reach], rtol=0.02)


def test_every_metric_has_its_own_number_of_groups():
    resamples = np.random.default_rng(0).normal(0, 1, (1000, 3))
    each = interval(np.zeros(3), resamples, np.array([2, 10, 1]))
    for i, num_groups in enumerate((2, 10, 1)):
        np.testing.assert_array_equal(each[:, i], interval(np.zeros(1), resamples[:, i:i + 1], num_groups)[:, 0])
    assert np.isnan(each[:, 2]).all() and each[1, 0] > 4 * each[1, 1]


def test_a_part_in_few_of_the_sequences_is_covered_as_often_as_it_says():
    """The part is in 3 of 9 sequences; their true mean is 80 mm."""
    num_trials, covered = 300, 0
    groups = np.repeat(np.arange(9), 10)
    for seed in range(num_trials):
        rng = np.random.default_rng(seed)
        part = mean_of(80 + rng.normal(0, 15, 9)[groups] + rng.normal(0, 20, 90)).only(groups < 3)
        low, high = interval(part.values(), bootstrap(part, groups, 400, seed), part.grouped(groups).num_counted())[:, 0]
        covered += low < 80 < high
    assert 0.92 <= covered / num_trials <= 0.99
