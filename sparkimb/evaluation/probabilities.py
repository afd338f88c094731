"""How far predicted probabilities are from what happened: log loss, Brier scores, calibration errors, reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, DoubleType, FloatType, FractionalType, StringType

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import (
    bad_weight,
    bucket,
    fault_code,
    refuse_faults,
    require_numeric,
    scored_rows,
    weight,
)
from sparkimb.evaluation.intervals import Interval, normal_interval

# One row per bin comes to the driver; finer bins than a thousandth say nothing about calibration that rows can support.
MAX_BINS = 1_000
# Distinct probabilities that the driver takes in to cut bins of equal mass: two numbers each, 16 MB.
MAX_SCORES = 1_000_000
# Beyond, the cuts are Spark's percentile_approx: off by at most this share of the rows, a hundredth of the finest bin.
# The sketch then holds some 10^5 numbers a task, a few MB.
CUT_ERROR = 1e-5
# Probabilities of a row may miss the sum 1 by this: a softmax over 1,000 classes in 32 bits stays well below.
SUM_TOLERANCE = 1e-4

Strategy: TypeAlias = Literal["uniform", "quantile"]
Edges: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProbabilityMetrics:
    """The quality of the probabilities of one class.

    Parameters
    ----------
    logLoss : float
        Mean -ln of the probability given to what happened, in [0, 37): probabilities are clipped to [e, 1 - e], with
        the machine epsilon e of the column's type (2.2e-16; 1.2e-7 for floats), as scikit-learn does.
    brier : float
        Mean squared distance of probability and outcome, in [0, 1].
    brierOfPositives, brierOfNegatives : float
        The same over the rows of the positive class, and over the rest; NaN if there are none.
    expectedCalibrationError : float
        Mean over the rows of |mean probability - observed share| of their bin, in [0, 1].
    maximumCalibrationError : float
        The largest |mean probability - observed share| of a bin, in [0, 1].
    reliability : pandas.DataFrame
        One row per bin that has rows, rising: lower, upper (the bin holds lower < probability <= upper, the first also
        its lower end), rows, weight, meanPredicted, observedShare.
    standardErrors : dict
        Of "logLoss" and "brier".
    """

    logLoss: float
    brier: float
    brierOfPositives: float
    brierOfNegatives: float
    expectedCalibrationError: float
    maximumCalibrationError: float
    reliability: pd.DataFrame
    standardErrors: Mapping[str, float]

    def interval(self, metric: Literal["logLoss", "brier"] = "brier", *, level: float = 0.95) -> Interval:
        """Return a confidence interval of a mean over the rows: no job, no replicates.

        It is the normal one.  The Poisson bootstrap, by which other metrics have theirs, comes to that for means of
        many rows.
        """
        if metric not in self.standardErrors:
            raise SparkimbError(f"metric is {metric!r}. Choose one of: {', '.join(self.standardErrors)}.")
        return normal_interval(getattr(self, metric), self.standardErrors[metric], level=level)

    @property
    def stratifiedBrier(self) -> float:
        """Mean of the classes' Brier scores, in [0, 1]: the rare class counts as much as the other."""
        return (self.brierOfPositives + self.brierOfNegatives) / 2


@dataclass(frozen=True)
class MulticlassProbabilityMetrics:
    """The quality of the probabilities of all classes.

    Parameters
    ----------
    logLoss : float
        As that of `ProbabilityMetrics`.
    brier : float
        Mean over the rows of the sum over the classes of (probability - outcome)^2, in [0, 2].  For two classes it is
        twice that of `ProbabilityMetrics`.
    expectedCalibrationError, maximumCalibrationError : float
        Of the top label: the largest probability of a row against whether its class was right.
    reliability : pandas.DataFrame
        As that of `ProbabilityMetrics`, of the top label.
    """

    logLoss: float
    brier: float
    expectedCalibrationError: float
    maximumCalibrationError: float
    reliability: pd.DataFrame


def probability_metrics(
    dataset: DataFrame,
    *,
    scoreCol: str = "score",
    labelCol: str = "label",
    positiveLabel: Any = 1,
    weightCol: str | None = None,
    bins: int = 10,
    strategy: Strategy = "uniform",
) -> ProbabilityMetrics:
    """Compare the predicted probability of the positive class with its observed share.

    Parameters
    ----------
    scoreCol : str, default="score"
        Number in [0, 1], never null: the probability of the positive class.
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    positiveLabel : str, bool, int or float, default=1
    weightCol : str, optional
        Weight of each row, in [0, inf).
    bins : int in [1, MAX_BINS], default=10
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or of equal numbers of rows, with scikit-learn's edges (`calibration_curve`).  Equal
        probabilities are never parted, so where they are many a bin of "quantile" holds more rows and others none.
        Rows of weight 0 do not count; other weights do not move the edges.

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; probabilities, labels or weights out of their range (with the number of
        rows); no rows, or no weight.

    Notes
    -----
    Cost: one action, one shuffle of one row per bin and partition.  "quantile" needs one more before it, a shuffle of
    one row per distinct probability and partition; with more than MAX_SCORES of them still one, which sketches the
    edges: they are off by at most CUT_ERROR of the rows.

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950, 1-3.
    .. [2] Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI, 2015.
    .. [3] Wallace and Dahabreh, "Class probability estimates are unreliable for imbalanced data (and how to fix them)",
           ICDM, 2012, 695-704 (the Brier scores of the classes).
    """
    _check_bins(bins, strategy)
    rows, faults = scored_rows(
        dataset,
        scoreCol=scoreCol,
        labelCol=labelCol,
        positiveLabel=positiveLabel,
        weightCol=weightCol,
        probabilities=True,
    )
    score, mass, positive = F.col("score"), F.col("weight"), F.col("positive")
    own = F.when(positive, score).otherwise(1 - score)
    squares = F.when(positive, (1 - score) * (1 - score)).otherwise(score * score)
    values = {"logLoss": _loss(own, dataset.schema[scoreCol].dataType), "brier": squares}
    edges = _edges(rows, faults, bins, strategy)
    found = _binned(
        rows,
        faults,
        edges,
        [
            F.sum(mass * values["logLoss"]).alias("loss"),
            F.sum(mass * mass).alias("masses"),
            *(F.sum(mass * mass * value).alias(f"{name}1") for name, value in values.items()),
            *(F.sum(mass * mass * value * value).alias(f"{name}2") for name, value in values.items()),
            F.sum(F.when(positive, mass * squares).otherwise(0.0)).alias("positiveSquares"),
            F.sum(F.when(positive, 0.0).otherwise(mass * squares)).alias("negativeSquares"),
            F.sum(F.when(positive, 0.0).otherwise(mass)).alias("negatives"),
        ],
        weightCol,
    )
    total = {name: float(found[name].sum()) for name in found}
    ece, mce, reliability = _calibration(found, edges)
    means = {
        "logLoss": total["loss"] / total["weight"],
        "brier": (total["positiveSquares"] + total["negativeSquares"]) / total["weight"],
    }
    # Of a mean of rows that count Poisson(1) times: the sum of (w (x - mean))^2.
    spreads = {n: total[f"{n}2"] - 2 * mean * total[f"{n}1"] + mean**2 * total["masses"] for n, mean in means.items()}
    return ProbabilityMetrics(
        **means,
        brierOfPositives=total["positiveSquares"] / total["observed"] if total["observed"] else math.nan,
        brierOfNegatives=total["negativeSquares"] / total["negatives"] if total["negatives"] else math.nan,
        expectedCalibrationError=ece,
        maximumCalibrationError=mce,
        reliability=reliability,
        standardErrors={name: math.sqrt(max(spread, 0.0)) / total["weight"] for name, spread in spreads.items()},
    )


def multiclass_probability_metrics(
    dataset: DataFrame,
    *,
    probabilityCol: str = "probability",
    labelCol: str = "label",
    labels: Sequence[Any] | None = None,
    weightCol: str | None = None,
    bins: int = 10,
    strategy: Strategy = "uniform",
) -> MulticlassProbabilityMetrics:
    """Compare the predicted probabilities of all classes with what happened.

    Parameters
    ----------
    probabilityCol : str, default="probability"
        Vector, or array of doubles or floats: one probability per class, in [0, 1] and of sum 1.
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    labels : sequence, optional
        The labels in the order of the probabilities.  By default they are 0, 1, 2, … as Spark ML's.
    weightCol : str, optional
        Weight of each row, in [0, inf).
    bins, strategy
        Of the top label's reliability, as in `probability_metrics`.

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; probabilities, labels or weights out of their range (with the number of
        rows); no rows, or no weight.

    Notes
    -----
    Cost: as `probability_metrics`.  Of equal largest probabilities the first class is the top label.

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950, 1-3.
    .. [2] Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML, 2017 (the top label).
    """
    _check_bins(bins, strategy)
    require_columns(dataset, probabilityCol=probabilityCol, labelCol=labelCol, weightCol=weightCol)
    require_numeric(dataset, weightCol=weightCol)
    array, element = _probability_array(dataset, probabilityCol)
    p, label, place, mass = F.col("p"), F.col("label"), F.col("place"), F.col("weight")
    size = F.size(p) if labels is None else F.lit(len(labels))
    rows = (
        dataset.select(
            array.alias("p"), _label(dataset, labelCol, labels).alias("label"), weight(weightCol).alias("weight")
        )
        .withColumn("place", _place(label, labels, size))
        .withColumn("score", F.array_max(p))
        .withColumn("positive", F.array_position(p, F.col("score")) == place + 1)
    )
    known = "a place of the probabilities" if labels is None else "in labels"
    faults = {
        f"null probabilityCol '{probabilityCol}'": p.isNull(),
        f"probabilityCol '{probabilityCol}' not of one entry for each of labels": F.size(p) != size,
        f"probabilityCol '{probabilityCol}' outside [0, 1]": F.exists(p, _outside),
        f"probabilityCol '{probabilityCol}' not of sum 1": F.abs(_sum(p) - 1) > SUM_TOLERANCE,
        f"null or NaN labelCol '{labelCol}'": label.isNull(),
        f"labelCol '{labelCol}' not {known}": place.isNull(),
        f"weightCol '{weightCol}' null, NaN, negative or infinite": bad_weight(mass),
    }
    squares = F.transform(p, lambda value, i: (value - (i == place).cast("double")) ** 2)
    edges = _edges(rows, faults, bins, strategy)
    found = _binned(
        rows,
        faults,
        edges,
        [
            F.sum(mass * _loss(F.get(p, place), element)).alias("loss"),
            F.sum(mass * _sum(squares)).alias("squares"),
            F.min(F.size(p)).alias("shortest"),
            F.max(F.size(p)).alias("longest"),
        ],
        weightCol,
    )
    shortest, longest = found["shortest"].min(), found["longest"].max()
    if shortest != longest:
        raise SparkimbError(
            f"probabilityCol '{probabilityCol}' holds from {shortest} to {longest} probabilities. "
            "Give every row one for each class."
        )
    ece, mce, reliability = _calibration(found, edges)
    total = float(found["weight"].sum())
    return MulticlassProbabilityMetrics(
        logLoss=float(found["loss"].sum()) / total,
        brier=float(found["squares"].sum()) / total,
        expectedCalibrationError=ece,
        maximumCalibrationError=mce,
        reliability=reliability,
    )


def _check_bins(bins: int, strategy: str) -> None:
    if not 1 <= bins <= MAX_BINS:
        raise SparkimbError(f"bins is {bins}. Give a number of bins in [1, {MAX_BINS}].")
    if strategy not in get_args(Strategy):
        raise SparkimbError(f"strategy is {strategy!r}. Choose one of: {', '.join(get_args(Strategy))}.")


def _edges(rows: DataFrame, faults: Mapping[str, Column], bins: int, strategy: Strategy) -> Edges:
    """Return the bins' edges, rising.  For "quantile" one job, or two; rows with faults have no part in them."""
    shares = np.linspace(0, 1, bins + 1)
    if strategy == "uniform":
        return shares
    sound = rows.where((fault_code(faults) == 0) & (F.col("weight") > 0))
    counted = sound.groupBy("score").agg(F.count("*").alias("rows"))
    found = counted.limit(MAX_SCORES + 1).toArrow().to_pandas().sort_values("score")
    if found.empty:
        return shares  # the aggregate that follows says what is wrong with the rows
    if len(found) > MAX_SCORES:
        cuts = F.percentile_approx("score", shares.tolist(), round(1 / CUT_ERROR)).alias("cuts")
        return np.array(sound.agg(cuts).toArrow().to_pylist()[0]["cuts"], dtype=float)
    return _percentiles(found["score"].to_numpy(), found["rows"].to_numpy(), shares)


def _percentiles(values: Edges, rows: npt.NDArray[np.int64], shares: Edges) -> Edges:
    """Return numpy.percentile of rising values that occur several times each, bit for bit, without repeating them."""
    last = np.cumsum(rows) - 1
    rank = last[-1] * (shares * 100 / 100)  # NumPy takes percents; the way there and back moves some shares
    low, high = (values[np.searchsorted(last, end(rank))] for end in (np.floor, np.ceil))
    part = rank - np.floor(rank)
    edges: Edges = np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))
    return edges


def _binned(
    rows: DataFrame, faults: Mapping[str, Column], edges: Edges, aggregates: Sequence[Column], weightCol: str | None
) -> pd.DataFrame:
    """Sum up the rows of each bin; refuse faults, and weights that are all 0."""
    score, mass = F.col("score"), F.col("weight")
    found = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", bucket(score, edges[1:-1]).alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            F.sum(mass).alias("weight"),
            F.sum(mass * score).alias("predicted"),
            F.sum(mass * F.col("positive").cast("double")).alias("observed"),
            *aggregates,
        )
        .toArrow()  # at most eight rows per bin: sound, or with one of up to seven faults
        .to_pandas()
    )
    refuse_faults(faults, found.groupby("fault")["rows"].sum().to_dict())
    weighed: pd.DataFrame = found[found["weight"] > 0].sort_values("bin", ignore_index=True)
    if weighed.empty:
        raise SparkimbError(f"weightCol '{weightCol}' is 0 in every row. Give a weight above 0 to the rows that count.")
    return weighed


def _calibration(found: pd.DataFrame, edges: Edges) -> tuple[float, float, pd.DataFrame]:
    """Return the expected and the maximum calibration error, and the bins they come from."""
    gaps = (found["predicted"] - found["observed"]).abs()
    places = found["bin"].to_numpy()
    reliability = pd.DataFrame(
        {
            "lower": edges[places],
            "upper": edges[places + 1],
            "rows": found["rows"],
            "weight": found["weight"],
            "meanPredicted": found["predicted"] / found["weight"],
            "observedShare": found["observed"] / found["weight"],
        }
    )
    return float(gaps.sum() / found["weight"].sum()), float((gaps / found["weight"]).max()), reliability


def _loss(own: Column, dataType: DataType) -> Column:
    """Return -ln of the probability of what happened, clipped by the epsilon of its type."""
    epsilon = float(np.finfo(np.float32 if isinstance(dataType, FloatType) else np.float64).eps)
    return -F.log(F.least(F.greatest(own, F.lit(epsilon)), F.lit(1 - epsilon)))


def _probability_array(dataset: DataFrame, probabilityCol: str) -> tuple[Column, DataType]:
    """Return a vector or array as array<double>, null where it is null, and the type of its entries."""
    found, value = dataset.schema[probabilityCol].dataType, column(probabilityCol)
    if isinstance(found, VectorUDT):
        return F.when(value.isNotNull(), vector_to_array(value)), DoubleType()
    if isinstance(found, ArrayType) and isinstance(found.elementType, FractionalType):
        return value.cast("array<double>"), found.elementType
    raise SparkimbError(
        f"probabilityCol '{probabilityCol}' is of type {found.simpleString()}, not a vector or an array of doubles or "
        "floats. For the probability of one class use probability_metrics."
    )


def _label(dataset: DataFrame, labelCol: str, labels: Sequence[Any] | None) -> Column:
    """Return the label as a string or a double, null where it is null or NaN."""
    check_label_type(dataset, labelCol)
    found, label = dataset.schema[labelCol].dataType, column(labelCol)
    text = isinstance(found, StringType)
    if labels is None and text:
        raise SparkimbError(f"labelCol '{labelCol}' holds strings. Give labels, in the order of the probabilities.")
    wrong = [one for one in labels or () if isinstance(one, str) != text or one != one]
    if wrong or len(set(labels or ())) < len(labels or ()):
        raise SparkimbError(
            f"labels are {list(labels or ())}, but labelCol '{labelCol}' is of type {found.simpleString()}. "
            "Give each label once, as it stands in the column."
        )
    if text:
        return label
    number = label.cast("double")
    return F.when(~F.isnan(number), number)


def _place(label: Column, labels: Sequence[Any] | None, size: Column) -> Column:
    """Return the place of the label's probability, from 0; null if there is none."""
    if labels is None:
        return F.when((label >= 0) & (label < size) & (label % 1 == 0), label.cast("int"))
    values = [one if isinstance(one, str) else float(one) for one in labels]
    return F.coalesce(*(F.when(label == F.lit(value), i) for i, value in enumerate(values)))


def _outside(value: Column) -> Column:
    return ~F.coalesce(value.between(0, 1), F.lit(False))


def _sum(array: Column) -> Column:
    return F.aggregate(array, F.lit(0.0), lambda total, value: total + value)
