import itertools

import numpy as np
import pytest

from posepile.data import sampling


def epoch_order(seed, name, num_examples, epoch):
    stream = np.arange(epoch * num_examples, (epoch + 1) * num_examples)
    return sampling.example_positions(seed, name, num_examples, stream)


@pytest.mark.parametrize("num_examples", [*range(1, 40), 63, 64, 65, 1000, 4095, 4096, 4097, 100_003])
def test_every_epoch_visits_each_example_exactly_once(num_examples):
    for epoch in (0, 1, 12345):
        np.testing.assert_array_equal(np.sort(epoch_order(1, "a", num_examples, epoch)), np.arange(num_examples))


def test_every_epoch_seed_and_dataset_has_its_own_order():
    orders = [epoch_order(seed, name, 1000, epoch) for seed, name, epoch in itertools.product((1, 2), "ab", (0, 1))]
    for one, other in itertools.combinations(orders, 2):
        assert np.count_nonzero(one == other) < 15  # two independent permutations agree in 1 place on average


def test_order_is_well_mixed():
    num_examples, num_epochs = 200, 500
    orders = np.array([epoch_order(3, "a", num_examples, epoch) for epoch in range(num_epochs)])
    # Any example comes at any time: its mean time is that of uniform draws, 99.5, within 5 standard errors.
    standard_error = num_examples / np.sqrt(12 * num_epochs)
    assert np.abs(np.argsort(orders, axis=1).mean(axis=0) - 99.5).max() < 5 * standard_error
    # Neighbours in the file do not stay neighbours: a step of +1 happens 0.995 times per permutation on average.
    assert abs(np.count_nonzero(np.diff(orders, axis=1) == 1) / num_epochs - 0.995) < 0.25


def test_small_permutations_all_occur():
    seen = {tuple(epoch_order(1, "a", 4, epoch)) for epoch in range(600)}
    assert len(seen) == 24


def test_steps_cut_the_stream_without_gap_or_overlap():
    num_examples, examples_per_batch = 7, 3
    steps = [sampling.sample_positions(5, "a", num_examples, step, examples_per_batch) for step in range(14)]
    expected = np.concatenate([epoch_order(5, "a", num_examples, epoch) for epoch in range(6)])
    np.testing.assert_array_equal(np.concatenate(steps), expected)


def test_batch_may_span_several_epochs():
    positions = sampling.sample_positions(5, "a", 3, step=1, examples_per_batch=9)
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(positions), [3, 3, 3])


def test_empty_split_is_refused():
    with pytest.raises(ValueError, match="data set a has 0 training examples"):
        sampling.sample_positions(1, "a", 0, 0, 4)


def test_interleave_by_hand():
    # Of 4 examples in 7 places the first has to come within 7/4 places, rounded up, the second within 14/4, and so on.
    np.testing.assert_array_equal(sampling.interleave([4, 2, 1]), [0, 4, 1, 2, 6, 5, 3])
    np.testing.assert_array_equal(sampling.interleave([2, 0, 2]), [0, 2, 1, 3])
    assert len(sampling.interleave([])) == 0


def test_interleave_mixes_every_ghost_batch_group():
    counts = [32, 32, 32]
    dataset = np.repeat(np.arange(3), counts)[sampling.interleave(counts)]
    groups = dataset.reshape(6, 16)
    for group in groups:
        assert set(np.bincount(group, minlength=3)) <= {5, 6}
    counts = [6, 7, 6, 5, 3, 4, 3, 4, 3, 2, 4, 3, 5, 3, 2, 2, 4, 1, 1, 1, 2, 5, 4, 3, 3, 5, 3, 2]
    dataset = np.repeat(np.arange(len(counts)), counts)[sampling.interleave(counts)]
    np.testing.assert_array_equal(np.bincount(dataset), counts)
    assert all(len(set(group)) >= 12 for group in dataset.reshape(6, 16))


def test_stateless_uniform_depends_on_each_position_alone():
    key = sampling.stream_key(1, "a", "geometry")
    values = sampling.stateless_uniform(key, np.arange(100), 4)
    assert values.shape == (100, 4) and values.dtype == np.float64
    np.testing.assert_array_equal(sampling.stateless_uniform(key, np.array([17, 3]), 4), values[[17, 3]])
    np.testing.assert_array_equal(sampling.stateless_uniform(key, np.array([17]), 2), values[[17], :2])


def test_stateless_uniform_is_uniform_and_independent():
    key = sampling.stream_key(1, "a", "geometry")
    values = sampling.stateless_uniform(key, np.arange(40_000), 3)
    assert values.min() >= 0 and values.max() < 1
    for column in values.T:
        counts = np.bincount((column * 16).astype(int), minlength=16)
        assert ((counts - 2500) ** 2 / 2500).sum() < 45  # chi square, 15 degrees of freedom: p = 7e-5
    other = sampling.stateless_uniform(sampling.stream_key(1, "b", "geometry"), np.arange(40_000), 3)
    series = np.concatenate([values, other, np.roll(values, 1, axis=0)], axis=1)
    correlation = np.corrcoef(series.T) - np.eye(9)
    assert np.abs(correlation).max() < 5 / np.sqrt(40_000)


def test_stream_keys_differ_by_every_argument():
    arguments = list(itertools.product((1, 2), "ab", ("order", "color")))
    assert len({sampling.stream_key(*a) for a in arguments}) == len(arguments)


def test_evenly_spread_positions():
    np.testing.assert_array_equal(sampling.evenly_spread(9, 3), [0, 4, 8])
    np.testing.assert_array_equal(sampling.evenly_spread(3, 10), [0, 1, 2])
