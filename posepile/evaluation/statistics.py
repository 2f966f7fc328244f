"""How sure a difference between two predictors is: paired bootstrap of metrics that are ratios of sums over poses.

Every metric of `posepile.evaluation.metrics` is of that kind: a mean over joints is the sum of the poses' sums over the
sum of their numbers of joints, and so is a share below a threshold, an area under such a curve (the mean of a ramp), and
the correct pose score, which counts 0 or 1 pose. Resampling groups of poses then resamples the groups' sums.
"""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

NUM_RESAMPLES = 2000
MAX_GROUPS = 1000  # more would change the intervals by 1.6 % of their width at most, and take time
_CHUNK_DRAWS = 1 << 22  # bounds the memory


@dataclasses.dataclass(frozen=True)
class PoseSums:
    """Metrics, each the sum of its numerators over all poses divided by the sum of its denominators.

    Attributes:
        names: of the metrics.
        numerators: [num_metrics, num_poses]; not finite where the metric is undefined for a prediction.
        denominators: [num_metrics, num_poses], not negative; 0 where a pose does not count.
    """

    names: tuple[Hashable, ...]
    numerators: np.ndarray
    denominators: np.ndarray

    def values(self) -> np.ndarray:
        """[num_metrics]; nan where nothing counts or the sum is not finite."""
        return _ratio(self.numerators.sum(axis=1), self.denominators.sum(axis=1))

    def select(self, names: Sequence[Hashable]) -> "PoseSums":
        """Some of the metrics."""
        rows = [self.names.index(name) for name in names]
        return PoseSums(tuple(names), self.numerators[rows], self.denominators[rows])

    def only(self, is_counted: np.ndarray) -> "PoseSums":
        """The same metrics of some of the poses, [num_poses] bool; the others count nothing."""
        numerators, denominators = (np.where(is_counted, a, 0.0) for a in (self.numerators, self.denominators))
        return PoseSums(self.names, numerators, denominators)

    def grouped(self, groups: np.ndarray) -> "PoseSums":
        """The same metrics of groups of poses: [num_poses] labels in, a column for each label in rising order out."""
        group = np.unique(groups, return_inverse=True)[1].ravel()
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        return PoseSums(self.names, *(np.add.reduceat(a[:, order], starts, axis=1)
                                      for a in (self.numerators, self.denominators)))

    def ratios(self) -> np.ndarray:
        """[num_metrics, num_columns] of each column by itself; nan where it does not count or is not finite."""
        return _ratio(self.numerators, self.denominators)

    def num_counted(self) -> np.ndarray:
        """[num_metrics]: in how many columns something counts."""
        return np.count_nonzero(self.denominators > 0, axis=1)

    def equally_weighted(self) -> "PoseSums":
        """Metrics that are plain means over the columns: each column's ratio counts once, however many joints it has."""
        counts = self.denominators > 0
        return PoseSums(self.names, np.where(counts, self.ratios(), 0), counts.astype(np.float64))

    def prefixed(self, *prefix: Hashable) -> "PoseSums":
        """The same under names that are tuples: (*prefix, name)."""
        return dataclasses.replace(self, names=tuple((*prefix, name) for name in self.names))

    def __add__(self, other: "PoseSums") -> "PoseSums":
        """The metrics of both kinds of joints together, pose by pose."""
        assert self.names == other.names
        return PoseSums(self.names, self.numerators + other.numerators, self.denominators + other.denominators)


@dataclasses.dataclass(frozen=True)
class Resampling:
    """What a bootstrap draws together.

    Attributes:
        groups: [num_poses] int64, 0..num_groups - 1.
        num_groups: of them.
        unit: what a group is, in words.
    """

    groups: np.ndarray
    num_groups: int
    unit: str


def make_resampling(sequence, num_poses: int) -> Resampling:
    """Groups the poses of a sequence, since neighbouring frames err alike. Without labels, or with one label for all, poses
    are drawn one by one, and beyond 1000 of them in runs of consecutive ones.

    Args: sequence: [num_poses] labels, or None.
    """
    if sequence is not None:
        values, groups = np.unique(np.asarray(sequence), return_inverse=True)
        if len(values) > 1:
            return Resampling(groups.ravel(), len(values), "sequences")
    length = max(1, -(-num_poses // MAX_GROUPS))
    groups = np.arange(num_poses) // length
    return Resampling(groups, int(groups[-1]) + 1 if num_poses else 0,
                      "poses" if length == 1 else f"runs of {length} consecutive poses")


def beside(parts: Sequence[PoseSums]) -> PoseSums:
    """The metrics of several sums over the same poses."""
    return PoseSums(tuple(name for part in parts for name in part.names),
                    np.concatenate([part.numerators for part in parts]),
                    np.concatenate([part.denominators for part in parts]))


def bootstrap(sums: PoseSums, groups: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """The metrics of resampled data: as many groups as there are, drawn with replacement, with all their poses.

    Args:
        sums: the metrics.
        groups: [num_poses] labels; what belongs together, such as the frames of a sequence, is drawn together.
        num_resamples: how many times.
        seed: the draws are a function of it, of the groups and of nothing else: two predictors resampled with one seed are
            paired.

    Returns: [num_resamples, num_metrics]; nan where nothing that counts was drawn.
    """
    sums = sums.grouped(groups)
    numerators, denominators = sums.numerators.T, sums.denominators.T
    rng, num_groups, results = np.random.default_rng(seed), len(numerators), []
    chunk = max(_CHUNK_DRAWS // num_groups, 1)
    for start in range(0, num_resamples, chunk):
        count = min(chunk, num_resamples - start)
        drawn = rng.integers(num_groups, size=(count, num_groups)) + num_groups * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * num_groups).reshape(count, num_groups).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 * inf: an undefined metric stays so
            results.append(_ratio(weights @ numerators, weights @ denominators))
    return np.concatenate(results)


def interval(estimate: np.ndarray, resamples: np.ndarray, num_groups: int | np.ndarray, confidence: float = 0.95,
             limits: tuple = (-np.inf, np.inf)) -> np.ndarray:
    """Intervals of Student's t around the estimates, with the standard error of the bootstrap.

    The standard error of resamples of n groups is too small by sqrt((n - 1) / n), for which it is corrected. Unlike
    percentiles of the resamples these intervals stay honest with few groups: there are only 3 different resamples of 2.

    Args:
        estimate: [...] of any statistic.
        resamples: [num_resamples, ...] of the same; nan is left out.
        num_groups: how many independent groups were resampled, of those in which something counts: one number, or [...].
        confidence: above 0, below 1.
        limits: the lowest and the highest value that there can be, each a number or [...]; intervals end there.

    Returns: [2, ...] lower and upper end; nan where the estimate or every resample is, or with fewer than 2 groups.
    Source: Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015, section 5.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must be above 0 and below 1, such as 0.95; got {confidence}")
    reach = np.full(np.shape(estimate), np.nan)
    num_groups = np.broadcast_to(num_groups, reach.shape)
    is_defined = ~np.isnan(resamples).all(axis=0) & (num_groups > 1)
    num_groups = num_groups[is_defined]
    error = np.nanstd(resamples[:, is_defined], axis=0) * np.sqrt(num_groups / (num_groups - 1))
    reach[is_defined] = special.stdtrit(num_groups - 1, (1 + confidence) / 2) * error
    return np.clip(np.stack([estimate - reach, estimate + reach]), *limits)


def _ratio(numerator, denominator):
    numerator = np.where(np.isfinite(numerator), numerator, np.nan)
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(np.shape(numerator), np.nan))
