"""Exact ranking metrics from the positives' scores and the rows counted between them: a small, mergeable summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import fault_code, refuse_faults, scored_rows

# Cuts of a summary.  Each is a double here and two places of two sums: 4 MB in memory, the same over the wire.
MAX_CUTS = 100_000

METRICS = ("areaUnderROC", "areaUnderPR", "averagePrecision")

Floats = npt.NDArray[np.float64]


def at_cuts(rows: DataFrame, cuts: Floats) -> DataFrame:
    """Add `place`: 2i + 1 for a `score` on cut i (from 0), 2i for one below it and above the cut before.

    The cuts rise and are finite.  They travel as one broadcast row; each row finds its place by bisection in compiled
    code, so a hundred thousand cuts cost 17 comparisons a row, no Python and no shuffle.  Starts no job.
    """
    depth = len(cuts).bit_length()
    padded = np.full(2**depth, np.inf)
    padded[: len(cuts)] = cuts
    table = pa.table({"cuts": pa.array([padded], type=pa.list_(pa.float64()))})
    found = rows.crossJoin(F.broadcast(rows.sparkSession.createDataFrame(table))).withColumn("below", F.lit(0))
    score, below = F.col("score"), F.col("below")
    for bit in (1 << d for d in reversed(range(depth))):
        # One projection a step: in one expression each step would repeat the one before it twice.
        further = F.get("cuts", below.bitwiseOR(bit - 1)) < score
        found = found.withColumn("below", F.when(further, below.bitwiseOR(bit)).otherwise(below))
    place = 2 * below + F.when(F.get("cuts", below) == score, 1).otherwise(0)
    return found.select(*rows.columns, place.alias("place"))


@dataclass(frozen=True, eq=False)
class ScoreGaps:
    """The weights of positives and others at each cut of the scores and between the cuts.

    Where every positive's score is a cut the areas are exact, though the others' scores are forgotten.  Summaries with
    the same cuts add up: over parts of a dataset, over days, over the batches of a stream.  Positives that come later
    may fall between the cuts; then only bounds are known, and `bounds` gives them.

    Parameters
    ----------
    cuts : array of float
        Distinct finite scores, rising.
    positives, negatives : array of float
        Weight (rows, without weights) at each of the 2 len(cuts) + 1 places: below the first cut, on it, between it
        and the next, ..., above the last.

    See Also
    --------
    score_gaps : makes one of a dataset.
    gap_counts : the counts as a DataFrame, for a stream.
    """

    cuts: Floats
    positives: Floats
    negatives: Floats

    def __post_init__(self) -> None:
        if not len(self.positives) == len(self.negatives) == 2 * len(self.cuts) + 1:
            raise SparkimbError(
                f"{len(self.cuts)} cuts make {2 * len(self.cuts) + 1} places, but positives has {len(self.positives)} "
                f"and negatives {len(self.negatives)}. Give the weight of every place."
            )

    @property
    def exact(self) -> bool:
        """Whether all positives lie on cuts."""
        return not np.any(self.positives[::2])

    @property
    def areaUnderROC(self) -> float:
        """Area under the ROC curve, in [0, 1]."""
        return self._exactly("areaUnderROC")

    @property
    def areaUnderPR(self) -> float:
        """Area under the precision-recall curve by trapezoids, in [0, 1]."""
        return self._exactly("areaUnderPR")

    @property
    def averagePrecision(self) -> float:
        """Average precision, in [0, 1]."""
        return self._exactly("averagePrecision")

    def bounds(self, metric: str) -> tuple[float, float]:
        """Return a lower and an upper bound of the metric, given the counts.

        Equal where `exact` is true.  Else the rows of a gap that holds positives may come in any order, with or without
        ties: at worst all others rank above the positives there, at best all below.

        Parameters
        ----------
        metric : {"areaUnderROC", "areaUnderPR", "averagePrecision"}
        """
        if metric not in METRICS:
            raise SparkimbError(f"metric is {metric!r}. Choose one of: {', '.join(METRICS)}.")
        positives, negatives = float(self.positives.sum()), float(self.negatives.sum())
        if not (positives > 0 and negatives > 0):
            raise SparkimbError(
                f"Ranking metrics need two classes, but the positives sum to {positives:g} and all others to "
                f"{negatives:g}. Merge more rows first."
            )
        p, n = self.positives[::-1], self.negatives[::-1]
        gap = np.arange(len(p)) % 2 == 0
        tp, fp = np.cumsum(p) - p, np.cumsum(n) - n  # above the place
        if metric == "areaUnderROC":
            area = n * (tp + p / 2)
            low, high = np.where(gap, n * tp, area), np.where(gap, n * (tp + p), area)
            return float(low.sum() / positives / negatives), float(high.sum() / positives / negatives)
        after = _precision(tp + p, fp + n)
        if metric == "averagePrecision":
            # All positives at once at the best; one by one in ever smaller steps, below all others, at the worst.
            tied, best = p * after, p * _precision(tp + p, fp)
            worst = _integral(tp, p, fp + n)
        else:
            before = np.where(tp + fp > 0, _precision(tp, fp), after)
            tied, best = p * (before + after) / 2, _integral(tp, p, fp)
            worst = p * (_precision(tp, fp + n) + after) / 2
        return (
            float(np.where(gap, worst, tied).sum() / positives),
            float(np.where(gap, best, tied).sum() / positives),
        )

    def _exactly(self, metric: str) -> float:
        if not self.exact:
            between, total = self.positives[::2].sum(), self.positives.sum()
            low, high = self.bounds(metric)
            raise SparkimbError(
                f"Positives of weight {between:g} of {total:g} lie between the cuts, so {metric} is only known to be "
                f"in [{low:.6g}, {high:.6g}]. Use bounds('{metric}'), or count again with new cuts."
            )
        return self.bounds(metric)[0]

    def merge(self, other: ScoreGaps) -> ScoreGaps:
        """Return the summary of both datasets; the cuts must be the same.

        Merging is commutative, and for whole weights associative to the last bit.
        """
        if not np.array_equal(self.cuts, other.cuts):
            raise SparkimbError(
                f"The summaries have different cuts ({len(self.cuts)} and {len(other.cuts)} scores), so their places "
                "mean different things. Make the second with score_gaps(..., cuts=first.cuts)."
            )
        return ScoreGaps(self.cuts, self.positives + other.positives, self.negatives + other.negatives)

    def toJson(self) -> str:
        """Return the summary as JSON: three lists of numbers, read back without loss by `fromJson`."""
        return json.dumps({"cuts": self.cuts.tolist(), "p": self.positives.tolist(), "n": self.negatives.tolist()})

    @classmethod
    def fromJson(cls, text: str) -> ScoreGaps:
        """Return the summary that `toJson` wrote."""
        state = json.loads(text)
        return cls(*(np.array(state[name], dtype=float) for name in ("cuts", "p", "n")))

    @classmethod
    def fromCounts(cls, counts: pd.DataFrame, cuts: npt.ArrayLike) -> ScoreGaps:
        """Return the summary of the rows of `gap_counts`, collected, and of the cuts they were counted at.

        Raises
        ------
        SparkimbError
            Rows that cannot be evaluated, with their number; no rows.
        """
        cuts = _checked(cuts)
        faults = [name for name in counts["fault"].unique() if isinstance(name, str)]
        rows = {i: int(counts.loc[counts["fault"] == name, "rows"].sum()) for i, name in enumerate(faults, start=1)}
        sound = counts[counts["fault"].isna()]
        refuse_faults(dict.fromkeys(faults, F.lit(True)), rows | {0: int(sound["rows"].sum())})
        place, places = sound["place"].to_numpy(dtype=np.int64), 2 * len(cuts) + 1
        p, n = (sums_at(place, sound[name].to_numpy(dtype=float), places) for name in ("positives", "negatives"))
        return cls(cuts, p, n)


def score_gaps(
    dataset: DataFrame,
    *,
    cuts: npt.ArrayLike | None = None,
    scoreCol: str = "score",
    labelCol: str = "label",
    positiveLabel: Any = 1,
    weightCol: str | None = None,
) -> ScoreGaps:
    """Count positives and others at the positives' scores and between them.

    Parameters
    ----------
    cuts : sequence of float, optional
        At most MAX_CUTS rising scores to count at, of an earlier summary.  By default the distinct scores of this
        dataset's positives, so that its areas are exact.
    scoreCol, labelCol, positiveLabel, weightCol
        As of RankingMetrics.

    Raises
    ------
    SparkimbError
        As RankingMetrics does, but for a class without rows; more than MAX_CUTS distinct positive scores; cuts that do
        not rise or are not finite.

    Notes
    -----
    Cost: two actions, one with `cuts`; each shuffles one row per place and partition.  In foreachBatch give `cuts`, and
    merge what comes back with what was counted before.

    Examples
    --------
    >>> yesterday.merge(score_gaps(today, cuts=yesterday.cuts)).averagePrecision   # doctest: +SKIP
    """
    if cuts is None:
        rows, faults = scored_rows(
            dataset, scoreCol=scoreCol, labelCol=labelCol, positiveLabel=positiveLabel, weightCol=weightCol
        )
        found = find_positives(rows, faults, MAX_CUTS)
        if found is None:
            raise SparkimbError(
                f"The positives have more than {MAX_CUTS} distinct scores in scoreCol '{scoreCol}'. Give cuts, for "
                "bounds of the areas, or use RankingMetrics, which needs no summary."
            )
        cuts = found.scores
    counts = gap_counts(
        dataset,
        cuts=cuts,
        scoreCol=scoreCol,
        labelCol=labelCol,
        positiveLabel=positiveLabel,
        weightCol=weightCol,
    )
    return ScoreGaps.fromCounts(counts.toArrow().to_pandas(), cuts)  # a row per place, and one per fault


def gap_counts(
    dataset: DataFrame,
    *,
    cuts: npt.ArrayLike,
    scoreCol: str = "score",
    labelCol: str = "label",
    positiveLabel: Any = 1,
    weightCol: str | None = None,
) -> DataFrame:
    """Return the counts that `ScoreGaps.fromCounts` takes: a plain aggregate, also of a streaming dataset.

    Columns `fault` (null for sound rows), `place`, `positives`, `negatives` (weights) and `rows`.  On a stream write it
    in complete mode, or in update mode and keep the last row of each fault and place.

    Notes
    -----
    Cost: lazy; one shuffle of one row per place and partition.
    """
    rows, faults = scored_rows(
        dataset, scoreCol=scoreCol, labelCol=labelCol, positiveLabel=positiveLabel, weightCol=weightCol
    )
    fault = F.lit(None).cast("string")
    for name, found in reversed(faults.items()):
        fault = F.when(found, name).otherwise(fault)
    placed = at_cuts(rows.withColumn("fault", fault), _checked(cuts))
    return placed.groupBy("fault", F.when(F.col("fault").isNull(), F.col("place")).alias("place")).agg(
        F.sum(F.when(F.col("positive"), F.col("weight")).otherwise(0.0)).alias("positives"),
        F.sum(F.when(F.col("positive"), 0.0).otherwise(F.col("weight"))).alias("negatives"),
        F.count("*").alias("rows"),
    )


@dataclass(frozen=True, eq=False)
class Positives:
    """The positives' distinct scores, rising, and their weights; the others' highest score; the number of all rows."""

    scores: Floats
    weights: Floats
    highest: float
    rows: int


def find_positives(rows: DataFrame, faults: Mapping[str, Column], most: int) -> Positives | None:
    """Return the positives, or None if they have more than `most` distinct scores; raise if rows have faults.

    One action; one shuffle of one row per distinct score of a positive and partition.
    """
    fault = F.col("fault")
    grouped = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", F.when((fault == 0) & F.col("positive"), F.col("score")).alias("score"))
        .agg(
            F.sum("weight").alias("weight"),
            F.max(F.when(F.col("weight") > 0, F.col("score"))).alias("highest"),
            F.count("*").alias("rows"),
        )
    )
    others = len(faults) + 1  # rows of the table that are no positives' score
    found = grouped.limit(most + others + 1).toArrow().to_pandas()
    if len(found) > most + others:
        return None
    refuse_faults(faults, found.groupby("fault")["rows"].sum().to_dict())
    positive = found["score"].notna()
    scores = found[positive & (found["weight"] > 0)].sort_values("score")
    return Positives(
        scores["score"].to_numpy(),
        scores["weight"].to_numpy(),
        float(found.loc[~positive, "highest"].max()),
        int(found["rows"].sum()),
    )


def sums_at(place: npt.NDArray[np.int64], weights: Floats, places: int) -> Floats:
    """Return the sum of the weights at each of the places."""
    return np.asarray(np.bincount(place, weights, places), dtype=float)


def _checked(cuts: npt.ArrayLike) -> Floats:
    """Return cuts as an array, or refuse them."""
    found = np.asarray(cuts, dtype=float)
    if found.ndim != 1 or len(found) > MAX_CUTS:
        raise SparkimbError(f"cuts is of shape {found.shape}. Give a list of at most {MAX_CUTS} scores.")
    if not np.all(np.isfinite(found)) or np.any(np.diff(found) <= 0):
        raise SparkimbError(f"The {len(found)} cuts do not all rise or are not finite. Give distinct scores, sorted.")
    return found


def _precision(tp: Floats, fp: Floats) -> Floats:
    called = tp + fp
    return np.divide(tp, called, out=np.zeros_like(called), where=called > 0)


def _integral(tp: Floats, p: Floats, fp: Floats) -> Floats:
    """Return the integral of x / (x + fp) for x from tp to tp + p."""
    start = tp + fp
    grown = np.log1p(np.divide(p, start, out=np.zeros_like(p), where=start > 0))
    # Where nothing lies above, fp is 0 and the precision 1 throughout.
    return p - fp * grown
