"""Properties of sampling orders and stateless random numbers, for sizes, seeds and compositions drawn by hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posepile.data import sampling

check = settings(derandomize=True, deadline=None, max_examples=80, print_blob=False)
seeds = st.integers(0, 2**31)
NUM_STANDARD_ERRORS = 5  # by which a statistic of true random numbers strays once in two million times


def epoch_order(seed, num_examples, epoch, name="a"):
    stream = np.arange(epoch * num_examples, (epoch + 1) * num_examples)
    return sampling.example_positions(seed, name, num_examples, stream)


def assert_chi_square(counts, variance, degrees_of_freedom):
    """The counts of true random numbers have this sum of squared deviations over `variance`, and twice that as the
    variance of it."""
    statistic = ((counts - counts.mean()) ** 2).sum() / variance
    limit = NUM_STANDARD_ERRORS * math.sqrt(2 * degrees_of_freedom) + 10  # more above than below for a few degrees
    assert abs(statistic - degrees_of_freedom) < limit, f"chi square {statistic:.0f}, {degrees_of_freedom} expected"


@check
@given(num_examples=st.integers(1, 5000), seed=seeds, epoch=st.integers(0, 10**9))
def test_every_epoch_is_a_permutation(num_examples, seed, epoch):
    order = epoch_order(seed, num_examples, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


@check
@given(num_examples=st.integers(300, 5000), seed=seeds, epoch=st.integers(0, 10**9))
def test_epochs_seeds_and_data_sets_differ(num_examples, seed, epoch):
    order = epoch_order(seed, num_examples, epoch)
    for other in (epoch_order(seed, num_examples, epoch + 1), epoch_order(seed + 1, num_examples, epoch),
                  epoch_order(seed, num_examples, epoch, "b")):
        assert np.count_nonzero(order == other) < 15  # 1 on average


@check
@given(num_examples=st.integers(1, 5000), seed=seeds, first=st.integers(0, 10**12),
       cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_slice_of_the_stream_is_its_single_positions(num_examples, seed, first, cuts):
    stream = np.arange(first, first + 60)
    whole = sampling.example_positions(seed, "a", num_examples, stream)
    single = [sampling.example_positions(seed, "a", num_examples, stream[i:i + 1]) for i in range(60)]
    np.testing.assert_array_equal(whole, np.concatenate(single))
    parts = np.split(stream, sorted(cuts))
    np.testing.assert_array_equal(
        whole, np.concatenate([sampling.example_positions(seed, "a", num_examples, part) for part in parts]))


@check
@given(num_examples=st.integers(1, 10**7), seed=seeds, step=st.integers(0, 10**12), examples_per_batch=st.integers(1, 96))
def test_steps_of_any_number_read_their_own_part_of_the_stream(num_examples, seed, step, examples_per_batch):
    positions = sampling.sample_positions(seed, "a", num_examples, step, examples_per_batch)
    assert positions.shape == (examples_per_batch,) and positions.min() >= 0 and positions.max() < num_examples
    two_steps = sampling.stream_positions(step, examples_per_batch, 2)
    assert two_steps.tolist() == list(range(step * examples_per_batch, (step + 2) * examples_per_batch))
    np.testing.assert_array_equal(sampling.example_positions(seed, "a", num_examples, two_steps), np.concatenate(
        [positions, sampling.sample_positions(seed, "a", num_examples, step + 1, examples_per_batch)]))


@pytest.mark.parametrize("step", [0, 10**12])
def test_a_late_start_touches_no_more_elements(monkeypatch, step):
    """Counted: what goes through the cipher of the permutation, which visits 4 elements per 3 at most."""
    sizes, feistel = [], sampling._feistel
    monkeypatch.setattr(sampling, "_feistel", lambda x, *arguments: sizes.append(len(x)) or feistel(x, *arguments))
    sampling.sample_positions(1, "a", 100_003, step, 1000)
    assert sizes[0] == 1000 and sum(sizes) < 1400


@pytest.mark.parametrize("num_examples", [2, 3, 5, 6, 37])
def test_every_example_comes_at_every_place_equally_often(num_examples):
    """The counts, example by place, of true random permutations have (n - 1)^2 degrees of freedom, since rows and columns
    have equal sums; over N of them a count has the variance N / n (1 - 1/n), which spreads over n^2 cells."""
    num_epochs = 60_000 // num_examples
    stream = np.arange(num_epochs * num_examples)
    orders = sampling.example_positions(1, "a", num_examples, stream).reshape(num_epochs, num_examples)
    counts = np.array([np.bincount(column, minlength=num_examples) for column in orders.T])
    assert_chi_square(counts, num_epochs / (num_examples - 1), (num_examples - 1) ** 2)


@pytest.mark.parametrize("by", ["epoch", "seed"])
def test_all_permutations_of_five_are_equally_frequent(by):
    num_orders = 24_000 if by == "epoch" else 3_600
    if by == "epoch":
        orders = sampling.example_positions(1, "a", 5, np.arange(5 * num_orders)).reshape(-1, 5)
    else:
        orders = np.array([epoch_order(seed, 5, 0) for seed in range(num_orders)])
    _, counts = np.unique(orders @ 5 ** np.arange(5), return_counts=True)
    assert len(counts) == 120
    assert_chi_square(counts, num_orders / 120, 119)


@check
@given(counts=st.lists(st.integers(0, 60), max_size=30))
def test_interleave_is_never_a_whole_example_off_the_proportion(counts):
    """After every prefix, for every data set: less than 1 ahead or behind."""
    order = sampling.interleave(counts)
    total = sum(counts)
    np.testing.assert_array_equal(np.sort(order), np.arange(total))
    dataset = np.repeat(np.arange(len(counts)), counts)[order]
    taken = np.cumsum(dataset[:, None] == np.arange(len(counts)), axis=0)
    share = np.arange(1, total + 1)[:, None] * np.array(counts).reshape(1, -1) / max(total, 1)
    assert (np.abs(taken - share) < 1 - 1e-9).all()
    for i in range(len(counts)):
        assert (np.diff(order[dataset == i]) == 1).all()  # the examples of one data set stay in their order


@pytest.mark.parametrize("seed", range(4))
def test_stateless_uniform_numbers_pass_for_random(seed):
    """Mean, variance, the shares of 32 equal bins, and the correlations between values of one position, consecutive
    positions, purposes, seeds, and epochs."""
    num = 50_000
    keys = [sampling.stream_key(seed, "a", "geometry"), sampling.stream_key(seed, "a", "color"),
            sampling.stream_key(seed + 1, "a", "geometry"), sampling.stream_key(seed, "b", "geometry")]
    values = np.concatenate([sampling.stateless_uniform(key, np.arange(num), 3) for key in keys], axis=1)
    tolerance = NUM_STANDARD_ERRORS / math.sqrt(num)
    np.testing.assert_allclose(values.mean(axis=0), 1 / 2, atol=tolerance * math.sqrt(1 / 12))
    np.testing.assert_allclose(values.var(axis=0), 1 / 12, atol=tolerance * math.sqrt(1 / 180))
    for column in values.T:
        assert_chi_square(np.bincount((32 * column).astype(int), minlength=32), num / 32, 31)
    series = np.concatenate([values, np.roll(values[:, :3], -1, axis=0), np.roll(values[:, :3], -1000, axis=0)], axis=1)
    correlation = np.corrcoef(series.T) - np.eye(series.shape[1])
    assert np.abs(correlation).max() < tolerance


@check
@given(seed=seeds, first=st.integers(0, 10**15), num_values=st.integers(1, 8))
def test_stateless_uniform_numbers_belong_to_their_positions(seed, first, num_values):
    key, stream = sampling.stream_key(seed, "a", "geometry"), np.arange(first, first + 20)
    values = sampling.stateless_uniform(key, stream, num_values)
    assert values.min() >= 0 and values.max() < 1
    np.testing.assert_array_equal(values[::-3], sampling.stateless_uniform(key, stream[::-3], num_values))
    np.testing.assert_array_equal(values[:, :1], sampling.stateless_uniform(key, stream, 1))
    assert len(np.unique(values)) == values.size
