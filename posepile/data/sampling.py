"""Which example at which step, and stateless random numbers: pure functions of (seed, data set, step).

Nothing here has a state that would have to be saved, so a run resumes at any step in O(1), and any number of workers
sees the same order. Every data set is one endless stream: stream position k belongs to epoch k // n, and each epoch
visits each of the n examples exactly once, in a fresh order.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

_FEISTEL_ROUNDS = 16  # with 8, permutations of 5 elements are measurably uneven
# Increment and mixing constants of SplitMix64 (Steele et al., OOPSLA 2014).
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)  # half of a hash is enough for one coordinate, and leaves room for the sum
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def stream_positions(step: int, examples_per_batch: int, num_steps: int = 1) -> np.ndarray:
    """[num_steps * examples_per_batch] int64: the positions in a data set's stream that these steps consume."""
    return np.arange(step * examples_per_batch, (step + num_steps) * examples_per_batch, dtype=np.int64)


def sample_positions(seed: int, dataset_name: str, num_examples: int, step: int, examples_per_batch: int) -> np.ndarray:
    """Which examples of a data set a training step uses.

    Args:
        seed: of the run.
        dataset_name: data sets of one size get different orders.
        num_examples: in the split.
        step: training step, 0 or more.
        examples_per_batch: how many of them are in each batch.

    Returns: [examples_per_batch] int64 positions in the split, 0 .. num_examples - 1.
    Raises: ValueError for an empty split.
    """
    return example_positions(seed, dataset_name, num_examples, stream_positions(step, examples_per_batch))


def example_positions(seed: int, dataset_name: str, num_examples: int, stream: np.ndarray) -> np.ndarray:
    """Stream positions [n] int64 -> positions of the examples in the split [n] int64; see `sample_positions`."""
    if num_examples < 1:
        raise ValueError(f"data set {dataset_name} has {num_examples} training examples; it needs one or more")
    epoch, position = np.divmod(np.asarray(stream, np.int64), num_examples)
    return permute(position, num_examples, _keyed_hash(stream_key(seed, dataset_name, "order"), epoch))


def permute(position: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """A pseudo-random permutation of 0 .. size - 1, one element at a time: O(1) memory, no state.

    A Feistel network on a grid just large enough, with additions modulo the sides of the grid, and cycle walking for
    the elements that leave the range (Black and Rogaway, CT-RSA 2002: methods "generalized Feistel" and "cycle
    walking").

    Args:
        position: [n] int64, in 0 .. size - 1.
        size: of the permuted set.
        key: [n] uint64; elements with equal keys belong to the same permutation.

    Returns: [n] int64.
    """
    rows = np.uint64(np.ceil(np.sqrt(size)))
    columns = np.uint64(-(-size // int(rows)))
    result = np.array(position, np.uint64)
    pending = np.arange(len(result))
    while len(pending):
        result[pending] = _feistel(result[pending], rows, columns, key[pending])
        pending = pending[result[pending] >= size]
    return result.astype(np.int64)


def interleave(counts: Sequence[int]) -> np.ndarray:
    """The fixed order of the data sets' examples within one part of a batch, each data set spread evenly over the part.

    Consecutive examples, such as the groups of Ghost BatchNorm, thus mix data sets in the proportion of the whole part:
    in any first n places, the number of each data set's examples differs from its proportional share by less than 1
    (earliest deadline first; Baruah et al., Algorithmica 1996: "proportionate progress").

    Args:
        counts: examples per batch of each data set.

    Returns: [sum(counts)] int64 indices into the concatenation of the data sets' examples.
    """
    counts = [int(count) for count in counts]
    total = sum(counts)
    num_placed, order = [0] * len(counts), []

    def urgency(i):
        """The number of places within which the next example has to come, then the middle of its stretch."""
        return -(-(num_placed[i] + 1) * total // counts[i]), (num_placed[i] + 0.5) / counts[i]

    for place in range(total):
        not_ahead = [i for i, count in enumerate(counts) if num_placed[i] * total < (place + 1) * count]
        chosen = min(not_ahead, key=urgency)
        order.append(sum(counts[:chosen]) + num_placed[chosen])
        num_placed[chosen] += 1
    return np.array(order, np.int64)


@functools.lru_cache(maxsize=4096)
def stream_key(seed: int, dataset_name: str, purpose: str) -> int:
    """A 64-bit key per (seed, data set, purpose): what is drawn for one purpose never shifts what is drawn for
    another.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{dataset_name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def stateless_uniform(key: int, stream: np.ndarray, num_values: int) -> np.ndarray:
    """Uniform random numbers that depend on nothing but their arguments.

    Args:
        key: see `stream_key`.
        stream: [n] int64 positions in the data set's stream.
        num_values: per position.

    Returns: [n, num_values] float64 in [0, 1).
    """
    per_position = _keyed_hash(key, stream)[:, None]
    bits = _mix(per_position + _GOLDEN_GAMMA * np.arange(1, num_values + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)) * 2.0**-53


def _feistel(x: np.ndarray, rows: np.uint64, columns: np.uint64, key: np.ndarray) -> np.ndarray:
    """A keyed bijection of 0 .. rows * columns - 1."""
    row, column = np.divmod(x, columns)
    round_keys = _mix(key + _GOLDEN_GAMMA * np.arange(1, _FEISTEL_ROUNDS + 1, dtype=np.uint64)[:, None])
    for even_key, odd_key in zip(round_keys[::2], round_keys[1::2], strict=True):
        row = (row + (_mix(even_key ^ column) >> _HALF)) % rows
        column = (column + (_mix(odd_key ^ row) >> _HALF)) % columns
    return row * columns + column


def _keyed_hash(key: int, counter: np.ndarray) -> np.ndarray:
    """[n] int64 -> [n] uint64: SplitMix64's output function, twice, of a counter offset by a key."""
    counter = np.atleast_1d(counter).astype(np.uint64)
    return _mix(_mix(counter * _GOLDEN_GAMMA + np.uint64(key)) ^ np.uint64(key))


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64: a bijection of 64-bit numbers in which every input bit affects every output
    bit.
    """
    x = (x ^ x >> np.uint64(30)) * _MIX1
    x = (x ^ x >> np.uint64(27)) * _MIX2
    return x ^ x >> np.uint64(31)


def evenly_spread(num_examples: int, max_examples: int) -> np.ndarray:
    """At most `max_examples` positions, [n] int64, rising, from the first example to the last one at equal distances."""
    return np.unique(np.linspace(0, num_examples - 1, min(num_examples, max_examples)).astype(np.int64))
