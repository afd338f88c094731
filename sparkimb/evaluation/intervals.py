"""Confidence intervals: Poisson bootstrap from grouped counts, and Wilson's for shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.confusion import ConfusionMatrix
from sparkimb.evaluation.score_gaps import Floats, at_cuts, sums_at
from sparkimb.evaluation.steps import MAX_SCORES, ROUNDING, CollectedSteps

# More replicates than this narrow the noise of an interval's ends by less than a hundredth of its width.
MAX_REPLICATES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval.

    Parameters
    ----------
    low, high : float
        The ends.
    estimate : float
        The value from the rows as they are.
    level : float in (0, 1)
        How often such an interval covers the true value, about.
    """

    low: float
    high: float
    estimate: float
    level: float

    def overlaps(self, other: Interval) -> bool:
        """Return whether some value lies in both intervals."""
        return self.low <= other.high and other.low <= self.high


def wilson_interval(successes: float, trials: float, *, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share: a recall or a precision, also near 0 and 1 and of few rows.

    Parameters
    ----------
    successes, trials : float
        Numbers of rows, 0 <= successes <= trials and trials > 0; with weights give effective numbers of rows.
    level : float in (0, 1), default=0.95

    References
    ----------
    .. [1] Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
           Statistical Association 22, 1927, 209-212.
    """
    _check_level(level)
    if not 0 <= successes <= trials or not 0 < trials < math.inf:
        raise SparkimbError(f"{successes} of {trials} is no share. Give 0 <= successes <= trials, and trials above 0.")
    share = successes / trials
    z = NormalDist().inv_cdf((1 + level) / 2)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low, high = ((share + z * z / (2 * trials) + side * spread) / (1 + z * z / trials) for side in (-1, 1))
    # At the ends of the range the formula gives the end, but for rounding.
    return Interval(low if successes else 0.0, high if successes < trials else 1.0, share, level)


def normal_interval(estimate: float, error: float, *, level: float = 0.95) -> Interval:
    """Return the interval of a mean of values >= 0 with this standard error, cut at 0."""
    _check_level(level)
    spread = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(max(estimate - spread, 0.0), estimate + spread, estimate, level)


def confusion_interval(
    matrix: ConfusionMatrix,
    metric: str | Callable[[ConfusionMatrix], float],
    *,
    level: float = 0.95,
    replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """Return a confidence interval of a metric of a confusion matrix by the Poisson bootstrap.  Starts no job.

    In each replicate every row counts as often as a Poisson(1) draw says, so a cell of m rows holds Poisson(m).

    Parameters
    ----------
    matrix : ConfusionMatrix
        Of rows: its cells are whole numbers.
    metric : str or function
        A property ("mcc") or a method of the positive label ("recall"), or a function of the matrix:
        `lambda m: m.fBeta(2)`.
    level : float in (0, 1), default=0.95
    replicates : int, default=200
        Enough for one beyond each end of the interval.  Those without any row do not count, nor of two labels those
        without a row of either, as in `RankingMetrics.interval`: of a recall they would say 0.
    seed : int, default=0

    Raises
    ------
    SparkimbError
        An unknown metric, numbers out of their range, cells that are no counts.
    """
    check_replicates(level, replicates)
    counts = [matrix.cells.get((actual, predicted), 0.0) for actual in matrix.labels for predicted in matrix.labels]
    if any(count != round(count) for count in counts):
        raise SparkimbError(
            "The cells of the matrix are weights, not whole numbers of rows, so how far they scatter is unknown. "
            "Count without weightCol for an interval."
        )
    if isinstance(metric, str):
        if metric.startswith("_") or not hasattr(type(matrix), metric):
            raise SparkimbError(f"metric is {metric!r}. Name a property or a method of ConfusionMatrix.")
        value = _named(metric)
    else:
        value = metric
    pairs = [(actual, predicted) for actual in matrix.labels for predicted in matrix.labels]
    rng = np.random.default_rng(seed % 2**64)
    draws = rng.poisson(counts, size=(replicates, len(counts))).astype(float)
    of_label = draws.reshape(replicates, len(matrix.labels), -1).sum(axis=2) > 0
    counted = of_label.sum(axis=1) >= (np.any(of_label, axis=0).sum() if len(matrix.labels) == 2 else 1)
    drawn = [value(replace(matrix, cells=dict(zip(pairs, draw.tolist(), strict=True)))) for draw in draws[counted]]
    return percentile_interval(float(value(matrix)), np.array(drawn, dtype=float), level)


def _named(metric: str) -> Callable[[ConfusionMatrix], float]:
    def value(matrix: ConfusionMatrix) -> float:
        found = getattr(matrix, metric)
        return float(found() if callable(found) else found)

    return value


def check_replicates(level: float, replicates: int) -> None:
    """Refuse a level outside (0, 1), and replicates too few to have one beyond each end of the interval."""
    _check_level(level)
    least = math.ceil(2 / (1 - level) - ROUNDING)
    if not least <= replicates <= MAX_REPLICATES:
        raise SparkimbError(
            f"replicates is {replicates}. An interval of level {level} takes a number in [{least}, {MAX_REPLICATES}]."
        )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SparkimbError(f"level is {level}. Give a share in (0, 1), such as 0.95.")


def percentile_interval(estimate: float, drawn: Floats, level: float) -> Interval:
    """Return the interval between the quantiles of the replicates' values that leave half of 1 - level on each side."""
    if not len(drawn):
        raise SparkimbError("No replicate has rows of both classes. Take more rows, or more replicates.")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), estimate, level)


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Rows grouped by what they are alike in, to draw replicates from.

    Parameters
    ----------
    scores : array of float
        Distinct scores, falling.
    place : array of int
        The score of each group, by its number.
    p, n : array of float
        Weight of a row of each group, if it is positive and if it is not; one of the two is 0.
    rows : array of float
        Number of rows of each group.
    """

    scores: Floats
    place: npt.NDArray[np.int64]
    p: Floats
    n: Floats
    rows: Floats

    @classmethod
    def of_steps(cls, steps: CollectedSteps) -> RowGroups:
        """Return the groups of steps that count rows."""
        p, n = steps.at.p, steps.at.n
        of_p, of_n = np.flatnonzero(p), np.flatnonzero(n)
        positive = np.repeat([1.0, 0.0], [len(of_p), len(of_n)])
        rows = np.concatenate([p[of_p], n[of_n]])
        return cls(steps.score, np.concatenate([of_p, of_n]), positive, 1 - positive, rows)

    @classmethod
    def of_rows(cls, rows: DataFrame) -> RowGroups | None:
        """Return the groups of rows of `score`, `positive` and `weight` that are alike in all three.  One action.

        None if they are more than MAX_SCORES.
        """
        alike = rows.where(F.col("weight") > 0).groupBy("score", "positive", "weight").agg(F.count("*").alias("rows"))
        found = alike.limit(MAX_SCORES + 1).toArrow().to_pandas()
        if len(found) > MAX_SCORES:
            return None
        found = found.sort_values(["score", "positive", "weight"])  # the draws follow the order
        rising, place = np.unique(found["score"].to_numpy(), return_inverse=True)
        positive = found["positive"].to_numpy(dtype=float)
        weight = found["weight"].to_numpy()
        return cls(
            rising[::-1],
            len(rising) - 1 - place,
            weight * positive,
            weight * (1 - positive),
            found["rows"].to_numpy(dtype=float),
        )

    @classmethod
    def of_ranges(cls, rows: DataFrame, scores: Floats) -> RowGroups:
        """Return the groups of weighted rows between falling scores, the lowest of which is below none.  One action.

        Rows of weights w scatter as (sum w)^2 / sum w^2 rows of one weight do, that of sum w^2 / sum w.
        """
        step = F.greatest(F.floor((F.col("place") - 1) / 2), F.lit(0)).alias("step")
        placed = at_cuts(rows.where(F.col("weight") > 0), scores[::-1]).groupBy(step, "positive")
        sums = placed.agg(F.sum("weight").alias("sum"), F.sum(F.col("weight") * F.col("weight")).alias("squares"))
        found = sums.toArrow().to_pandas().sort_values(["step", "positive"])  # at most two rows a step
        positive, weight = found["positive"].to_numpy(dtype=float), (found["squares"] / found["sum"]).to_numpy()
        place = len(scores) - 1 - found["step"].to_numpy(dtype=np.int64)
        return cls(scores, place, weight * positive, weight * (1 - positive), (found["sum"] / weight).to_numpy())

    def drawn(self, rng: np.random.Generator) -> CollectedSteps:
        """Return the steps of a replicate: each row as often as a Poisson(1) draw, summed per group."""
        times = rng.poisson(self.rows)
        p = sums_at(self.place, self.p * times, len(self.scores))
        n = sums_at(self.place, self.n * times, len(self.scores))
        kept = p + n > 0
        return CollectedSteps(self.scores[kept], p[kept], n[kept])
