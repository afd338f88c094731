"""Exact ROC and precision-recall metrics of a score: areas, curves, the top of the list, and intervals of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import scored_rows
from sparkimb.evaluation.intervals import Interval, RowGroups, check_replicates, percentile_interval
from sparkimb.evaluation.score_gaps import METRICS
from sparkimb.evaluation.steps import ROUNDING, CollectedSteps, Step, Steps, Values, clip, divide, find_steps

__all__ = ["MAX_POINTS", "ROUNDING", "KolmogorovSmirnov", "RankingMetrics", "Step", "Values", "divide"]

# A curve of more points than this is a dataset: no plot shows them, and the driver would have to hold them.
MAX_POINTS = 100_000
# Bins of a lift table: percentiles.  Each is a sum of its own in one aggregate.
MAX_BINS = 100


class KolmogorovSmirnov(NamedTuple):
    """The largest distance of the two classes' distributions, in [0, 1], and the score where it is reached."""

    statistic: float
    threshold: float


class RankingMetrics:
    """Exact areas and curves of a binary score, equal to scikit-learn's with ties and weights at any size.

    Spark's own `BinaryClassificationMetrics` bins the scores by rows, and so loses the few top rows where a rare class
    lives.  Here no two rows count as tied unless their scores are equal.

    Parameters
    ----------
    dataset : DataFrame
        One row per example.  It is read at least twice, so it must give the same rows each time.
    scoreCol : str, default="score"
        Number, higher for the positive class; finite, never null.  Not necessarily a probability.
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    positiveLabel : str, bool, int or float, default=1
        The label of the positive class.  All other labels are the rest.
    weightCol : str, optional
        Weight of each row, in [0, inf).  Rows of weight 0 do not count.

    Attributes
    ----------
    areaUnderROC : float
        In [0, 1].  Ties count half.
    areaUnderPR : float
        In [0, 1].  Trapezoids under the precision-recall curve, which starts, as Spark's, at recall 0 with the
        precision of the highest score.
    averagePrecision : float
        In [0, 1].  Sum over the scores of the gain in recall times the precision, as scikit-learn's.
    positives, negatives : float
        Weight (rows, without `weightCol`) of the positive class and of the rest.

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; scores, labels or weights out of their range (with the number of rows); no
        rows; one class only.

    Notes
    -----
    Cost: two actions, and none for any metric or curve of up to MAX_SCORES rows, or of up to MAX_POSITIVES distinct
    scores of positives.  The first shuffles one row per positive's score and partition.  The second does so for the
    others' scores up to MAX_SCORES rows; beyond, it shuffles one row per gap between the positives' scores, so that
    rare positives among any number of rows cost two scans.  All areas and all best thresholds are the same for that,
    but curves have no points inside a gap: there only the false positives change.
    Where the positives are too many as well, three actions, and then one for the areas, for each curve and for each
    other metric, each with a shuffle of the rows; the driver holds 512 totals.
    Without weights (or with whole numbers) the sums per score are exact, whatever the partitioning; with other weights
    results may move in the last bits.

    Examples
    --------
    >>> RankingMetrics(scored, scoreCol="p_fraud", labelCol="is_fraud").areaUnderPR   # doctest: +SKIP
    """

    steps: Steps

    def __init__(
        self,
        dataset: DataFrame,
        *,
        scoreCol: str = "score",
        labelCol: str = "label",
        positiveLabel: Any = 1,
        weightCol: str | None = None,
    ) -> None:
        rows, faults = scored_rows(
            dataset, scoreCol=scoreCol, labelCol=labelCol, positiveLabel=positiveLabel, weightCol=weightCol
        )
        self._take(find_steps(rows, faults), rows if weightCol else None)
        if not (self.positives > 0 and self.negatives > 0):
            unit = f"weights '{weightCol}'" if weightCol else "rows"
            raise SparkimbError(
                f"Ranking metrics need two classes, but the {unit} with {labelCol} = {positiveLabel!r} sum to "
                f"{self.positives:g} and all others to {self.negatives:g}. Check positiveLabel, or take more rows."
            )

    @classmethod
    def fromSteps(cls, steps: Steps) -> RankingMetrics:
        """Return the metrics of steps, both classes of which have weight; `interval` takes it for numbers of rows."""
        metrics = object.__new__(cls)
        metrics._take(steps, None)
        return metrics

    def _take(self, steps: Steps, weighted: DataFrame | None) -> None:
        self.steps, self._weighted = steps, weighted
        self.positives, self.negatives = steps.positives, steps.negatives

    @property
    def areaUnderROC(self) -> float:
        """Area under the ROC curve, in [0, 1]."""
        return self._areas[0]

    @property
    def areaUnderPR(self) -> float:
        """Area under the precision-recall curve by trapezoids, in [0, 1]."""
        return self._areas[1]

    @property
    def averagePrecision(self) -> float:
        """Average precision, in [0, 1]."""
        return self._areas[2]

    @cached_property
    def _areas(self) -> list[float]:
        positives, negatives = self.positives, self.negatives

        def areas(at: Step) -> list[Values]:
            precision = divide(at.tp, at.tp + at.fp)
            # The step before this one needs no second look at the data: tp before = tp - p.
            before = divide(at.tp - at.p, (at.tp - at.p) + (at.fp - at.n), otherwise=precision)
            recall = at.p / positives
            return [
                at.n / negatives * (at.tp - at.p / 2) / positives,
                recall * (precision + before) / 2,
                recall * precision,
            ]

        return self.steps.sums(areas)

    def partialAreaUnderROC(self, maxFPR: float, *, standardised: bool = True) -> float:
        """Return the area under the ROC curve up to a false positive rate in (0, 1].

        Parameters
        ----------
        standardised : bool, default=True
            Scale as scikit-learn does with max_fpr: 0.5 for a random, 1 for a perfect score.  Else the raw area, in
            [0, maxFPR].

        References
        ----------
        .. [1] McClish, "Analyzing a portion of the ROC curve", Medical Decision Making 9, 1989, 190-195.
        """
        if not 0 < maxFPR <= 1:
            raise SparkimbError(f"maxFPR is {maxFPR}. Give a false positive rate in (0, 1].")
        positives, negatives = self.positives, self.negatives

        def area(at: Step) -> list[Values]:
            width = clip(at.fp / negatives, 0, maxFPR) - clip((at.fp - at.n) / negatives, 0, maxFPR)
            reached = divide(width, at.n / negatives)  # share of the step that lies below maxFPR
            return [width * (at.tp - at.p + at.p * reached / 2) / positives]

        (raw,) = self.steps.sums(area)
        chance = maxFPR * maxFPR / 2
        return 0.5 * (1 + (raw - chance) / (maxFPR - chance)) if standardised else raw

    def precisionAt(self, k: float) -> float:
        """Return the share of positives among the k rows (by weight, with weights) of the highest scores, in [0, 1].

        Where the k-th row ties with others it is the mean over all orders of these.  k is in (0, all rows].
        """
        return self._found(k) / k

    def recallAt(self, k: float) -> float:
        """Return the share of the positives that are among the k rows of the highest scores, in [0, 1].

        Ties and k are as in `precisionAt`.
        """
        return self._found(k) / self.positives

    def _found(self, k: float) -> float:
        total = self.positives + self.negatives
        if not 0 < k <= total * (1 + ROUNDING):
            raise SparkimbError(f"k is {k}, but there are rows of weight {total:g}. Give a number in (0, {total:g}].")
        return self._captured([k])[0]

    def _captured(self, tops: list[float]) -> list[float]:
        """Return the weight of the positives among the top rows, for each weight of rows."""

        def captured(at: Step) -> list[Values]:
            above, here = at.tp - at.p + at.fp - at.n, at.p + at.n
            return [at.p * clip((top - above) / here, 0, 1) for top in tops]

        return self.steps.sums(captured)

    def recallAtPrecision(self, precision: float) -> float:
        """Return the highest recall at a threshold whose precision is at least that given, in [0, 1]; 0.0 if none is.

        `best_threshold(ranking, "recall", min_precision=...)` also tells the threshold.
        """
        if not 0 <= precision <= 1:
            raise SparkimbError(f"precision is {precision}. Give a share in [0, 1].")
        best = self.steps.best(lambda at: (at.tp, at.tp / (at.tp + at.fp) >= precision - ROUNDING))
        return 0.0 if best is None else min(best[1] / self.positives, 1.0)

    def precisionAtRecall(self, recall: float) -> float:
        """Return the highest precision at a threshold whose recall is at least that given, in (0, 1]."""
        if not 0 < recall <= 1:
            raise SparkimbError(f"recall is {recall}. Give a share in (0, 1].")
        positives = self.positives
        best = self.steps.best(lambda at: (at.tp / (at.tp + at.fp), at.tp / positives >= recall - ROUNDING))
        assert best is not None  # the lowest score recalls all
        return best[1] / (best[1] + best[2])

    @cached_property
    def ks(self) -> KolmogorovSmirnov:
        """Kolmogorov-Smirnov statistic of the two classes' scores, and its threshold.

        The largest |recall - false positive rate| of all thresholds; of equal ones the highest.
        """
        positives, negatives = self.positives, self.negatives
        best = self.steps.best(lambda at: ((at.tp / positives - at.fp / negatives) ** 2, at.tp >= 0))
        assert best is not None
        threshold, tp, fp = best
        return KolmogorovSmirnov(abs(tp / positives - fp / negatives), threshold)

    def liftTable(self, bins: int = 10) -> pd.DataFrame:
        """Return what the rows hold from the top of the list down, in bins of equal weight (rows, without weights).

        Columns populationShare (of the rows down to the bin's end), rows, positives, rate (positives / rows), lift
        (rate / rate of all rows), cumulativeCapture (share of the positives down to the bin's end).  Rows that tie
        across an end are divided between the bins with the mean of their class, as if in every order.

        Parameters
        ----------
        bins : int in [1, MAX_BINS], default=10
        """
        if not 1 <= bins <= MAX_BINS:
            raise SparkimbError(f"bins is {bins}. Give a number of bins in [1, {MAX_BINS}].")
        total = self.positives + self.negatives
        shares = np.arange(1, bins + 1) / bins
        captured = np.array(self._captured((shares * total).tolist()))
        positives = np.diff(captured, prepend=0.0)
        rate = positives / (total / bins)
        return pd.DataFrame(
            {
                "populationShare": shares,
                "rows": total / bins,
                "positives": positives,
                "rate": rate,
                "lift": rate / (self.positives / total),
                "cumulativeCapture": captured / self.positives,
            }
        )

    def rocCurve(self, points: int = 1000) -> pd.DataFrame:
        """Return the ROC curve: columns threshold, falsePositiveRate, truePositiveRate, all rates in [0, 1].

        The first row is (inf, 0, 0), the last (lowest score, 1, 1).  With `points - 1` distinct scores or fewer every
        score is there (of gaps, one).  Else at most `points` rows in [4, MAX_POINTS]: the first to cross each line of a
        grid that is even in the true positive rate and fine near 0 in the false positive rate.
        """
        curve = self.thresholdCurve(points)[["threshold", "falsePositiveRate", "recall"]]
        curve = curve.rename(columns={"recall": "truePositiveRate"})
        start = pd.DataFrame([[np.inf, 0.0, 0.0]], columns=curve.columns)
        return pd.concat([start, curve], ignore_index=True)

    def prCurve(self, points: int = 1000) -> pd.DataFrame:
        """Return the precision-recall curve: columns threshold, recall, precision, rates in [0, 1].

        The first row is (inf, 0, precision of the highest score), as Spark's.  Thinned as in `rocCurve`.
        """
        curve = self.thresholdCurve(points)[["threshold", "recall", "precision"]]
        start = pd.DataFrame([[np.inf, 0.0, curve["precision"].iloc[0]]], columns=curve.columns)
        return pd.concat([start, curve], ignore_index=True)

    def thresholdCurve(self, points: int = 1000) -> pd.DataFrame:
        """Return what each threshold does to the rows: a row is called positive if its score >= threshold.

        Columns threshold (falling), truePositives, falsePositives, precision, recall, falsePositiveRate, f1.  Thinned
        as in `rocCurve`.
        """
        if not 4 <= points <= MAX_POINTS:
            raise SparkimbError(f"points is {points}. Ask for a number of points in [4, {MAX_POINTS}].")
        cells = points // 2 - 1
        positives, negatives, whole = self.positives, self.negatives, self.steps.count < points

        def kept(at: Step) -> Values:
            if whole:
                return at.tp >= 0
            first = at.tp + at.fp <= at.p + at.n
            higher = _cell(at.tp / positives, cells) > _cell((at.tp - at.p) / positives, cells)
            rate, before = _fourth_root(at.fp / negatives), _fourth_root((at.fp - at.n) / negatives)
            return first | higher | (_cell(rate, cells) > _cell(before, cells))

        steps = self.steps.where(kept)
        tp, fp = steps["tp"], steps["fp"]
        return pd.DataFrame(
            {
                "threshold": steps["score"],
                "truePositives": tp,
                "falsePositives": fp,
                "precision": tp / (tp + fp),
                "recall": (tp / positives).clip(upper=1.0),
                "falsePositiveRate": (fp / negatives).clip(upper=1.0),
                "f1": 2 * tp / (tp + fp + positives),
            }
        )

    def interval(
        self,
        metric: str | Callable[[RankingMetrics], float] = "averagePrecision",
        *,
        level: float = 0.95,
        replicates: int = 200,
        seed: int = 0,
    ) -> Interval:
        """Return a confidence interval of a metric by the Poisson bootstrap.

        In each replicate every row counts as often as a Poisson(1) draw says.  For m rows alike that is Poisson(m), so
        the draws are made on the driver from the counts per score, and the rows are not read again.

        Parameters
        ----------
        metric : str or function, default="averagePrecision"
            "areaUnderROC", "areaUnderPR" or "averagePrecision", or a function of RankingMetrics:
            `lambda ranking: ranking.precisionAt(100)`.
        level : float in (0, 1), default=0.95
        replicates : int, default=200
            Enough for one beyond each end of the interval.  Those without a positive or without another row do not
            count.
        seed : int, default=0
            The same rows and seed give the same interval, whatever the partitioning.

        Raises
        ------
        SparkimbError
            An unknown metric, numbers out of their range.

        Notes
        -----
        Cost: no job, and 60 to 80 ns per replicate and step; with weights one action, which counts rows of equal score,
        class and weight.  Where the steps are distributed, two actions: the steps of the thinned curve (at most
        MAX_POINTS) are drawn, and their spread is put around the exact value.  So too, with one action more, where more
        than MAX_SCORES triples of score, class and weight differ: the rows of a step are then drawn as so many of one
        weight as have the same sum and the same variance.

        References
        ----------
        .. [1] Chamandy et al., "Estimating uncertainty for massive data streams", Google technical report, 2012.
        """
        if isinstance(metric, str) and metric not in METRICS:
            raise SparkimbError(f"metric is {metric!r}. Choose one of {', '.join(METRICS)}, or give a function.")
        check_replicates(level, replicates)
        value: Callable[[RankingMetrics], float] = attrgetter(metric) if isinstance(metric, str) else metric
        drawn = []
        groups, merged = self._groups
        rng = np.random.default_rng(seed % 2**64)
        for _ in range(replicates):
            steps = groups.drawn(rng)
            if steps.positives > 0 and steps.negatives > 0:
                drawn.append(float(value(RankingMetrics.fromSteps(steps))))
        estimate = float(value(self))
        moved = estimate - value(self._merged) if merged else 0.0
        return percentile_interval(estimate, np.array(drawn) + moved, level)

    @cached_property
    def _groups(self) -> tuple[RowGroups, bool]:
        """What replicates are drawn from, and whether that is the rows of the merged steps."""
        if self._weighted is not None and (groups := RowGroups.of_rows(self._weighted)) is not None:
            return groups, False
        if self._weighted is None and isinstance(self.steps, CollectedSteps):
            return RowGroups.of_steps(self.steps), False
        steps = self._merged.steps
        assert isinstance(steps, CollectedSteps)
        if self._weighted is None:
            return RowGroups.of_steps(steps), True
        return RowGroups.of_ranges(self._weighted, steps.score), True

    @cached_property
    def _merged(self) -> RankingMetrics:
        """The metrics of the thinned curve's steps, each with what lies between it and the one before."""
        curve = self.thresholdCurve(MAX_POINTS)
        p, n = (np.diff(curve[name], prepend=0.0) for name in ("truePositives", "falsePositives"))
        return RankingMetrics.fromSteps(CollectedSteps(curve["threshold"].to_numpy(), p, n))


def _cell(share: Values, cells: int) -> Values:
    """Return the number of the grid cell that a share in [0, 1] lies in, as a whole double."""
    scaled = share * cells + ROUNDING
    return scaled - scaled % 1.0


def _fourth_root(share: Values) -> Values:
    """Return the fourth root; the square keeps a share that rounding left just below 0 from becoming NaN.

    It makes the grid fine where few false positives decide about the precision.
    """
    return (share * share) ** 0.125
