"""Exact ROC and precision-recall metrics of a score: the areas, the curves, and the best step along them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import bucket, fault_code, refuse_faults, scored_rows

# Distinct scores that the driver takes in.  A row is 36 bytes (three doubles, a count, a code): 36 MB on the wire, far
# under Spark's default result limit of 1 GB, and about 150 MB on the driver with the sorted copy and the running sums.
# Many more would wait for one task, through which the limit passes all rows.
MAX_SCORES = 1_000_000
# Beyond MAX_SCORES the scores are cut into this many ranges, one sort each.  A range of a billion distinct scores is
# then 4 million rows, 160 MB, and the totals that the driver collects stay at 256 rows.
RANGES = 256
# A curve of more points than this is a dataset: no plot shows them, and the driver would have to hold them.
MAX_POINTS = 100_000
# Running sums of weights differ by rounding between the two paths; positions closer than this are the same.
ROUNDING = 1e-9

# NumPy arrays or Spark columns.  The formulas use only + - * / ** and comparisons, so that both paths share them.
Values: TypeAlias = Any


@dataclass(frozen=True)
class Step:
    """Weights at one distinct score (`p` positives, `n` others) and at or above it (`tp`, `fp`)."""

    p: Values
    n: Values
    tp: Values
    fp: Values


class Steps(Protocol):
    """The distinct scores of a dataset, highest first, wherever they are held."""

    count: int
    positives: float
    negatives: float

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        """Sum each value of the formula over all steps."""

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        """Return score, tp and fp where the formula's value is largest among the steps that it allows.

        Of equal values the highest score wins.  None if no step is allowed.
        """

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        """Return score, tp and fp of the steps kept, highest score first."""


class RankingMetrics:
    """Exact areas and curves of a binary score, equal to scikit-learn's with ties and weights at any size.

    Spark's own `BinaryClassificationMetrics` bins the scores by rows, and so loses the few top rows where a rare class
    lives.  Here rows are grouped by score and nothing else is merged.

    Parameters
    ----------
    dataset : DataFrame
        One row per example.  Beyond MAX_SCORES distinct scores it is read several times, so it must give the same rows
        each time.
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
    Cost: up to MAX_SCORES distinct scores one action with one shuffle, of one row per distinct score and partition; the
    rest is NumPy on the driver.  Beyond, three more actions here, and one for the areas, for each curve and for each
    call of `best_threshold`, each with that shuffle and one more of the distinct scores; the driver holds 256 totals.
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
        self.steps = _find_steps(rows, faults)
        self.positives, self.negatives = self.steps.positives, self.steps.negatives
        if not (self.positives > 0 and self.negatives > 0):
            unit = f"weights '{weightCol}'" if weightCol else "rows"
            raise SparkimbError(
                f"Ranking metrics need two classes, but the {unit} with {labelCol} = {positiveLabel!r} sum to "
                f"{self.positives:g} and all others to {self.negatives:g}. Check positiveLabel, or take more rows."
            )

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

    def rocCurve(self, points: int = 1000) -> pd.DataFrame:
        """Return the ROC curve: columns threshold, falsePositiveRate, truePositiveRate, all rates in [0, 1].

        The first row is (inf, 0, 0), the last (lowest score, 1, 1).  With `points - 1` distinct scores or fewer every
        score is there.  Else at most `points` rows in [4, MAX_POINTS]: the first to cross each line of a grid that is
        even in the true positive rate and fine near 0 in the false positive rate.
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


def divide(numerator: Values, denominator: Values, otherwise: Values = 0.0) -> Values:
    """Divide numbers, arrays or columns; `otherwise` where the denominator is 0."""
    if isinstance(denominator, Column):
        return F.when(denominator == 0, otherwise).otherwise(numerator / denominator)
    defined = np.not_equal(denominator, 0)
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), otherwise)


def _cell(share: Values, cells: int) -> Values:
    """Return the number of the grid cell that a share in [0, 1] lies in, as a whole double."""
    scaled = share * cells + ROUNDING
    return scaled - scaled % 1.0


def _fourth_root(share: Values) -> Values:
    """Return the fourth root; the square keeps a share that rounding left just below 0 from becoming NaN.

    It makes the grid fine where few false positives decide about the precision.
    """
    return (share * share) ** 0.125


def _find_steps(rows: DataFrame, faults: Mapping[str, Column]) -> Steps:
    """Group rows of score, positive and weight by score, and hold the groups where they fit."""
    fault = F.col("fault")
    grouped = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", F.when(fault == 0, F.col("score")).alias("score"))
        .agg(
            F.sum(F.when(F.col("positive"), F.col("weight")).otherwise(0.0)).alias("p"),
            F.sum(F.when(F.col("positive"), 0.0).otherwise(F.col("weight"))).alias("n"),
            F.count("*").alias("rows"),
        )
    )
    found = grouped.limit(MAX_SCORES + 1).toArrow().to_pandas()
    fits = len(found) <= MAX_SCORES
    codes = found if fits else grouped.groupBy("fault").agg(F.sum("rows").alias("rows")).toArrow().to_pandas()
    refuse_faults(faults, codes.groupby("fault")["rows"].sum().to_dict())
    # Scores of weight 0 change no sum and would divide 0 by 0.
    if fits:
        return _CollectedSteps(found[found["p"] + found["n"] > 0])
    return _DistributedSteps(grouped.where(F.col("p") + F.col("n") > 0).select("score", "p", "n"))


class _CollectedSteps:
    """Steps as NumPy arrays on the driver."""

    def __init__(self, found: pd.DataFrame) -> None:
        found = found.sort_values("score", ascending=False)
        p, n = found["p"].to_numpy(), found["n"].to_numpy()
        self._score = found["score"].to_numpy()
        self._at = Step(p=p, n=n, tp=np.cumsum(p), fp=np.cumsum(n))
        self.count = len(found)
        self.positives, self.negatives = (float(at[-1]) if len(at) else 0.0 for at in (self._at.tp, self._at.fp))

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        return [float(np.sum(values)) for values in formula(self._at)]

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        value, allowed = formula(self._at)
        if not np.any(allowed):
            return None
        top = int(np.argmax(np.where(allowed, value, -np.inf)))
        return float(self._score[top]), float(self._at.tp[top]), float(self._at.fp[top])

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        chosen = kept(self._at)
        columns = {"score": self._score, "tp": self._at.tp, "fp": self._at.fp}
        return pd.DataFrame({name: values[chosen] for name, values in columns.items()})


class _DistributedSteps:
    """Steps as a DataFrame: running sums within ranges of scores, on top of the totals of the ranges above."""

    def __init__(self, grouped: DataFrame) -> None:
        # The cuts only balance the ranges; any cuts give the same sums.
        shares = [i / RANGES for i in range(1, RANGES)]
        size = grouped.agg(F.count("*").alias("count"), F.percentile_approx("score", shares).alias("cuts")).first()
        assert size is not None
        self.count = size["count"]
        ranged = grouped.withColumn(
            "range", bucket(F.col("score"), np.unique(np.array(size["cuts"] or [], dtype=float)))
        )
        totals = np.zeros((RANGES, 2))
        for row in ranged.groupBy("range").agg(F.sum("p"), F.sum("n")).collect():  # at most RANGES rows
            totals[row[0]] = row[1], row[2]
        above = np.cumsum(totals[::-1], axis=0)[::-1] - totals
        self.positives, self.negatives = totals.sum(axis=0).tolist()
        falling = Window.partitionBy("range").orderBy(F.desc("score")).rowsBetween(Window.unboundedPreceding, 0)

        def running(name: str, offsets: list[float]) -> Column:
            return F.get(F.array(*map(F.lit, offsets)), F.col("range")) + F.sum(name).over(falling)

        self._at = Step(p=F.col("p"), n=F.col("n"), tp=F.col("tp"), fp=F.col("fp"))
        self._table = ranged.select(
            "score",
            "p",
            "n",
            running("p", above[:, 0].tolist()).alias("tp"),
            running("n", above[:, 1].tolist()).alias("fp"),
        )

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        row = self._table.agg(*(F.sum(value) for value in formula(self._at))).first()
        assert row is not None
        return list(row)

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        value, allowed = formula(self._at)
        # Structs compare field by field: the highest value, then the highest score.
        step = F.struct(value.alias("value"), "score", "tp", "fp")
        row = self._table.where(allowed).agg(F.max(step).alias("best")).first()
        best = row["best"] if row is not None else None
        return best and (best["score"], best["tp"], best["fp"])

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        chosen: pd.DataFrame = self._table.where(kept(self._at)).select("score", "tp", "fp").toArrow().to_pandas()
        return chosen.sort_values("score", ascending=False, ignore_index=True)
