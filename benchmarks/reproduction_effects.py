"""Figures of models that were trained with several seeds, and how sure differences between them are.

A difference is uncertain for two reasons. Other seeds would give other models: the differences within the seeds, each between
models of one seed, show by how much they scatter. And other test people would be harder for one of the models than for the
other: people are resampled, the same ones for all models and seeds. The variances add, which counts what only some people in
some seeds do twice: the intervals are rather too wide. Degrees of freedom: Satterthwaite, Biometrics Bulletin 1946.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import special

import ace
from benchmarks.reproduction_directions import FIGURES, Direction
from posepile.evaluation import metrics
from posepile.evaluation.consistency import inconsistency_sums
from posepile.evaluation.published import METRICS, published_rows
from posepile.evaluation.scoring import formats_of
from posepile.evaluation.statistics import PoseSums, beside, bootstrap
from posepile.geometry.skeleton import Skeleton

HOLDS, DOES_NOT_HOLD, NOT_DECIDED, NOT_PUBLISHED = "holds", "does not hold", "not decided", "no direction published"
BENCHMARKS = ("mupots", "3dpw", "mpi_inf_3dhp", "h36m")
WIDE_CPS_MM = 400.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of one model, trained with several seeds.

    Attributes:
        names: of the figures.
        values: [num_seeds, num_figures].
        resamples: [num_seeds, num_resamples, num_figures] of the same with resampled people, paired between all models and
            seeds; None: no people are involved.
        num_people: who were resampled.
    """

    names: tuple[str, ...]
    values: np.ndarray
    resamples: np.ndarray | None = None
    num_people: int = 0

    def by_figure(self) -> dict[str, list[float]]:
        """{figure: a value for every seed}."""
        return dict(zip(self.names, self.values.T.tolist(), strict=True))

    def combine(self, figure: str) -> tuple[np.ndarray, np.ndarray]:
        """[num_seeds] values and [num_seeds, num_resamples] resamples of a figure, or of a difference of two, "a - b"."""
        columns = [self.names.index(name) for name in figure.split(" - ")]
        signs = np.array([1, -1])[:len(columns)]
        resamples = self.values[:, None] if self.resamples is None else self.resamples
        return self.values[:, columns] @ signs, resamples[..., columns] @ signs


def measure_model(predictions: Sequence[np.ndarray], joints3d_true, validity, skeleton: Skeleton, people) -> Measured:
    """Args: predictions: of each seed, [num_poses, num_joints, 3] mm; people: [num_poses] labels; others: as `score_merged`."""
    sums = [figure_sums(joints3d, joints3d_true, validity, skeleton) for joints3d in predictions]
    return Measured(sums[0].names, np.stack([s.values() for s in sums]), np.stack([bootstrap(s, people) for s in sums]),
                    len(np.unique(people)))


def figure_sums(joints3d_pred, joints3d_true, validity, skeleton: Skeleton) -> PoseSums:
    """What every pose adds to the figures, pooled over the formats."""
    pred, true, validity = metrics.check_poses(joints3d_pred, joints3d_true, validity)
    by_format = []
    for _, joints, root in formats_of(skeleton):
        distances = metrics.joint_distances(pred[:, joints], true[:, joints], validity[:, joints], root)
        is_counted = distances.relative_validity
        is_scored = is_counted.any(axis=1)
        passes = is_scored & (np.where(is_counted, distances.relative, 0) < WIDE_CPS_MM).all(axis=1)
        by_format.append(beside([metrics.pose_sums(distances).select(("mpjpe", "pa_mpjpe", "pck100", "cps200")),
                                 PoseSums(("cps400",), 100.0 * passes[None], is_scored[None].astype(float))]))
    inconsistency = inconsistency_sums(pred, true, validity, skeleton).select(("total",))
    return beside([sum(by_format[1:], start=by_format[0]), dataclasses.replace(inconsistency, names=("inconsistency",))])


def measure_autoencoder(autoencoders: Iterable[ace.AffineAutoencoder]) -> Measured:
    """`zero_weights`: those below 1e-3, percent; `negative_weights`: their part of the sum of all magnitudes, percent."""
    return Measured(("zero_weights", "negative_weights"),
                    100 * np.array([(a.sparsity, a.negative_weight_share) for a in autoencoders]))


def judge(directions: Iterable[Direction], measured: Mapping[str, Measured], confidence: float) -> list[dict]:
    """A line per direction and figure, see the docstring of `benchmarks.reproduction`."""
    lines = []
    for direction in directions:
        for figure in direction.figures:
            difference = compare(direction.difference, measured, figure, confidence)
            lines.append({"direction": direction.text, "figure": figure, "models": dict(direction.difference),
                          "improves": direction.improves, "published": published_differences(direction, figure), **difference,
                          "verdict": verdict(difference["low"], difference["high"], figure, direction.improves)})
    return lines


def published_differences(direction: Direction, figure: str) -> dict[str, float] | None:
    """{benchmark: what was published of the difference}; None if nothing was."""
    if not direction.published or not set(figure.split(" - ")) <= set(METRICS):
        return None
    first, *second = figure.split(" - ")
    differences = {}
    for benchmark in BENCHMARKS:
        rows = {row.label: row.metrics for row in published_rows(benchmark)}
        differences[benchmark] = round(sum(sign * (rows[label][first] - sum(rows[label][name] for name in second))
                                           for label, sign in direction.published.items()), 1)
    return differences


def compare(coefficients: Mapping[str, int], measured: Mapping[str, Measured], figure: str, confidence: float) -> dict:
    """A difference between models, or a difference of such, with its interval.

    Returns: `estimate`, `low`, `high`; the standard errors `error_of_seeds`, `error_of_people`; `by_seed`.
    """
    parts = [(sign, measured[name].combine(figure)) for name, sign in coefficients.items()]
    by_seed = sum(sign * values for sign, (values, _) in parts)
    resamples = sum(sign * resampled for sign, (_, resampled) in parts).mean(axis=0)
    num_people = max(measured[name].num_people for name in coefficients)
    of_seeds = np.std(by_seed, ddof=1) / math.sqrt(len(by_seed))
    # The standard error of resamples of n groups is too small by sqrt((n - 1) / n).
    of_people = np.std(resamples) * math.sqrt(num_people / (num_people - 1)) if num_people else 0.0
    low, high = crossed_interval(by_seed.mean(), ((of_seeds, len(by_seed)), (of_people, num_people)), confidence)
    return {"estimate": float(by_seed.mean()), "low": low, "high": high, "error_of_seeds": float(of_seeds),
            "error_of_people": float(of_people), "by_seed": by_seed.tolist()}


def crossed_interval(estimate: float, errors: Sequence[tuple[float, int]], confidence: float) -> tuple[float, float]:
    """Interval of Student's t for an estimate whose error has independent parts.

    Args: errors: of each part, the standard error and the number of seeds or people it was estimated from.

    Returns: lower and upper end; nan if there is no error at all, as where nobody passes a threshold.
    """
    variances = [(error**2, number - 1) for error, number in errors if error > 0]
    total = sum(variance for variance, _ in variances)
    if not total > 0:
        return math.nan, math.nan
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in variances)
    reach = special.stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(total)
    return float(estimate - reach), float(estimate + reach)


def verdict(low: float, high: float, figure: str, improves: bool | None) -> str:
    """Whether the interval of a difference lies where it is expected, where it is not, or on both sides of 0."""
    if improves is None:
        return NOT_PUBLISHED
    if not (low > 0 or high < 0):
        return NOT_DECIDED
    is_better = (low > 0) == FIGURES[figure].more_is_better
    return HOLDS if is_better == improves else DOES_NOT_HOLD

