"""The distinct scores of a dataset, highest first, with the weights at and above each: on the driver or distributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from sparkimb.evaluation.inputs import fault_code, refuse_faults
from sparkimb.evaluation.score_gaps import Floats, Positives, at_cuts, find_positives, sums_at

# Rows up to which every distinct score comes to the driver: 24 bytes each on the wire, far under Spark's default result
# limit of 1 GB, and about 150 MB on the driver with the sorted copy and the running sums.
MAX_SCORES = 1_000_000
# Beyond, distinct scores of positives up to which the others are counted between them.  At most twice as many rows come
# to the driver, and every task holds the scores, padded, in at most 16 MB.
MAX_POSITIVES = 1_000_000
# Beyond that the scores are cut into this many ranges, one sort each.  A range of a billion distinct scores is then 4
# million rows, 160 MB, and the totals that the driver collects stay at 512 rows.
RANGES = 256
# The cuts between the ranges are quantiles of one row in this many, drawn by chance: where there are more scores than
# come to the driver, 15,000 rows at least, so that the largest range is hardly twice the mean.
SAMPLED = 64
# Running sums of weights differ by rounding between the two paths; positions closer than this are the same.
ROUNDING = 1e-9
# What is at a score, and what is at or above it.
_TOTALS = {"p": "tp", "n": "fp"}

# NumPy arrays or Spark columns.  The formulas use only + - * / ** and comparisons, `divide` and `clip`, so that both
# paths share them.
Values: TypeAlias = Any


@dataclass(frozen=True)
class Step:
    """Weights at one distinct score (`p` positives, `n` others) and at or above it (`tp`, `fp`)."""

    p: Values
    n: Values
    tp: Values
    fp: Values


class Steps(Protocol):
    """The distinct scores of a dataset, highest first, wherever they are held.

    Others whose scores lie between those of two neighbouring positives may be one step, at the lowest of their scores.
    No area changes by that, and no threshold is lost that is the best by a value which falls with fp while tp stays.
    """

    positives: float
    negatives: float

    @property
    def count(self) -> int:
        """The number of steps."""

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        """Sum each value of the formula over all steps."""

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        """Return score, tp and fp where the formula's value is largest among the steps that it allows.

        Of equal values the highest score wins.  None if no step is allowed.
        """

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        """Return score, tp and fp of the steps kept, highest score first."""


def divide(numerator: Values, denominator: Values, otherwise: Values = 0.0) -> Values:
    """Divide numbers, arrays or columns; `otherwise` where the denominator is 0."""
    if isinstance(denominator, Column):
        return F.when(denominator == 0, otherwise).otherwise(numerator / denominator)
    defined = np.not_equal(denominator, 0)
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), otherwise)


def clip(values: Values, low: float, high: float) -> Values:
    """Return the values of an array or a column, moved into [low, high]."""
    if isinstance(values, Column):
        return F.greatest(F.least(values, F.lit(float(high))), F.lit(float(low)))
    return np.clip(values, low, high)


def find_steps(rows: DataFrame, faults: Mapping[str, Column]) -> Steps:
    """Find the steps of rows of `score`, `positive` and `weight`; raise if rows have faults.

    First a look at the positives, whose scores are few in imbalanced data.  What it finds decides how the others come:
    by their scores, by their place among the positives' scores, or, where both are too many, not at all.
    """
    found = find_positives(rows, faults, MAX_POSITIVES)
    if found is None:
        return DistributedSteps(rows, faults)
    others = rows.where(~F.col("positive") & (F.col("weight") > 0))
    if found.rows <= MAX_SCORES:
        by_score = others.groupBy("score").agg(F.sum("weight").alias("n")).toArrow()
        return CollectedSteps.of(found, by_score["score"].to_numpy(), by_score["n"].to_numpy())
    # The highest score of all is a cut too, so that the first step is a score of its own.
    cuts = np.union1d(found.scores, [found.highest] if np.isfinite(found.highest) else [])
    by_place = at_cuts(others, cuts).groupBy("place").agg(F.sum("weight").alias("n"), F.min("score").alias("score"))
    table = by_place.toArrow()  # at most one row for each cut and each gap
    return CollectedSteps.of(found, table["score"].to_numpy(), table["n"].to_numpy())


class CollectedSteps:
    """Steps as NumPy arrays on the driver.

    Parameters
    ----------
    score : array of float
        Distinct, falling.
    p, n : array of float
        Weights of positives and of others at each score, not both 0.
    """

    def __init__(self, score: Floats, p: Floats, n: Floats) -> None:
        self.score = score
        self.at = Step(p=p, n=n, tp=np.cumsum(p), fp=np.cumsum(n))
        self.positives, self.negatives = (float(at[-1]) if len(at) else 0.0 for at in (self.at.tp, self.at.fp))

    @classmethod
    def of(cls, positives: Positives, scores: Floats, weights: Floats) -> CollectedSteps:
        """Return the steps of the positives and of others, each with distinct scores in any order."""
        rising, place = np.unique(np.concatenate([positives.scores, scores]), return_inverse=True)
        p = sums_at(place[: len(positives.scores)], positives.weights, len(rising))
        n = sums_at(place[len(positives.scores) :], weights, len(rising))
        return cls(rising[::-1], p[::-1], n[::-1])

    @property
    def count(self) -> int:
        """The number of steps."""
        return len(self.score)

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        """Sum each value of the formula over all steps."""
        return [float(np.sum(values)) for values in formula(self.at)]

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        """Return score, tp and fp of the best step allowed."""
        value, allowed = formula(self.at)
        if not np.any(allowed):
            return None
        top = int(np.argmax(np.where(allowed, value, -np.inf)))
        return float(self.score[top]), float(self.at.tp[top]), float(self.at.fp[top])

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        """Return score, tp and fp of the steps kept, highest score first."""
        chosen = kept(self.at)
        columns = {"score": self.score, "tp": self.at.tp, "fp": self.at.fp}
        return pd.DataFrame({name: values[chosen] for name, values in columns.items()})


class DistributedSteps:
    """Steps as a DataFrame: running sums within ranges of scores, on top of the totals of the ranges above.

    Finding it takes two actions over the rows, without a shuffle of them.  Each use shuffles the rows once, by range,
    and sorts them there.  Ties are not merged before the shuffle, as continuous scores have next to none.
    """

    def __init__(self, rows: DataFrame, faults: Mapping[str, Column]) -> None:
        shares = [i / RANGES for i in range(1, RANGES)]
        # The cuts only balance the ranges; any cuts give the same sums, so it does not matter which rows are drawn.
        drawn = rows.where(F.rand(seed=0) * SAMPLED < 1).agg(F.percentile_approx("score", shares, 4 * RANGES)).first()
        cuts = np.unique(np.array((drawn and drawn[0]) or [], dtype=float))
        cuts = cuts[np.isfinite(cuts)]
        sound = F.col("fault") == 0
        ranged = at_cuts(rows.withColumn("fault", fault_code(faults)), cuts).select(
            "fault",
            "score",
            # Positives above 0, others below: what is shuffled is small.
            F.when(F.col("positive"), F.col("weight")).otherwise(-F.col("weight")).alias("mass"),
            F.when(sound, 2 * len(cuts) - F.col("place")).alias("range"),  # from 0, the highest scores
        )
        look = (  # at most 2 RANGES rows and one per fault
            ranged.groupBy("fault", "range")
            .agg(F.count("*").alias("rows"), *(F.sum(weight).alias(name) for name, weight in _masses().items()))
            .toArrow()
            .to_pandas()
        )
        refuse_faults(faults, look.groupby("fault")["rows"].sum().to_dict())
        at = look["range"].to_numpy(dtype=np.int64)
        totals = np.stack([sums_at(at, look[name].to_numpy(), 2 * len(cuts) + 1) for name in "pn"])
        self.positives, self.negatives = totals.sum(axis=1).tolist()
        self._above = dict(zip("pn", np.cumsum(totals, axis=1) - totals, strict=True))
        # Windows sort by range and score, which takes comparisons of whole rows.  By score alone Spark sorts faster, by
        # the digits of a number, and the order is the same: what windows are to sort is in order already.
        weighted = ranged.where(F.col("mass") != 0).select("range", "score", "mass")
        self._rows = weighted.repartition("range").sortWithinPartitions(F.desc("score"))
        self._at = Step(p=F.col("p"), n=F.col("n"), tp=F.col("tp"), fp=F.col("fp"))

    @cached_property
    def _all(self) -> DataFrame:
        """Every step."""
        falling = Window.partitionBy("range").orderBy(F.desc("score"))
        summed = self._rows.select(
            "range",
            "score",
            *(self._so_far(name, weight).alias(_TOTALS[name]) for name, weight in _masses().items()),
            F.lead("score").over(falling).alias("after"),
        )
        # The last row of those that tie has seen them all; what the row before it among these had not is the step's.
        last = summed.where(F.col("after").isNull() | (F.col("after") < F.col("score")))
        before = {name: F.coalesce(F.lag(total).over(falling), self._offset(name)) for name, total in _TOTALS.items()}
        return last.select("score", "tp", "fp", *((F.col(_TOTALS[n]) - before[n]).alias(n) for n in before))

    @cached_property
    def _merged(self) -> DataFrame:
        """The steps of positives, and one for all others of a range between two of them: few where positives are.

        No area needs more, and all but one window is over these few instead of all rows.
        """
        falling = Window.partitionBy("range").orderBy(F.desc("score"))  # up to a row and all that tie with it
        last = self._rows.withColumn("positive", F.min(F.when(F.col("mass") > 0, F.col("score"))).over(falling))
        merged = last.groupBy("range", "positive", (F.col("positive") == F.col("score")).alias("ties")).agg(
            F.min("score").alias("score"), *(F.sum(weight).alias(name) for name, weight in _masses().items())
        )
        totals = [self._so_far(name, F.col(name)).alias(total) for name, total in _TOTALS.items()]
        return merged.select("score", "p", "n", *totals)

    def _so_far(self, name: str, weight: Column) -> Column:
        """Return the weight of all rows above a row, and of this one."""
        falling = Window.partitionBy("range").orderBy(F.desc("score"))
        return self._offset(name) + F.sum(weight).over(falling.rowsBetween(Window.unboundedPreceding, 0))

    def _offset(self, name: str) -> Column:
        """Return the weight in the ranges above."""
        return F.get(F.array(*map(F.lit, self._above[name].tolist())), F.col("range"))

    @cached_property
    def count(self) -> int:
        """The number of steps.  One action."""
        row = self._all.agg(F.count("*")).first()
        assert row is not None
        return int(row[0])

    def sums(self, formula: Callable[[Step], list[Values]]) -> list[float]:
        """Sum each value of the formula over all steps.  One action."""
        row = self._merged.agg(*(F.sum(value) for value in formula(self._at))).first()
        assert row is not None
        return list(row)

    def best(self, formula: Callable[[Step], tuple[Values, Values]]) -> tuple[float, float, float] | None:
        """Return score, tp and fp of the best step allowed.  One action."""
        value, allowed = formula(self._at)
        # Structs compare field by field: the highest value, then the highest score.
        step = F.struct(value.alias("value"), "score", "tp", "fp")
        row = self._all.where(allowed).agg(F.max(step).alias("best")).first()
        best = row["best"] if row is not None else None
        return best and (best["score"], best["tp"], best["fp"])

    def where(self, kept: Callable[[Step], Values]) -> pd.DataFrame:
        """Return score, tp and fp of the steps kept, highest score first.  One action."""
        chosen: pd.DataFrame = self._all.where(kept(self._at)).select("score", "tp", "fp").toArrow().to_pandas()
        return chosen.sort_values("score", ascending=False, ignore_index=True)


def _masses() -> dict[str, Column]:
    """Return the weights of positives and of others, which `mass` tells apart by its sign."""
    mass = F.col("mass")
    return {"p": F.greatest(mass, F.lit(0.0)), "n": F.greatest(-mass, F.lit(0.0))}
