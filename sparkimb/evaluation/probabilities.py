"""How far predicted probabilities are from what happened: Brier score, calibration error, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import bucket, fault_code, refuse_faults, scored_rows

# One row per bin comes to the driver; finer bins than a thousandth say nothing about calibration that rows can support.
MAX_BINS = 1_000


@dataclass(frozen=True)
class ProbabilityMetrics:
    """The quality of the probabilities of one class.

    Parameters
    ----------
    brier : float
        Mean squared distance of probability and outcome, in [0, 1].
    expectedCalibrationError : float
        Mean over the rows of |mean probability - observed share| of their bin, in [0, 1].
    reliability : pandas.DataFrame
        One row per bin that has rows, rising: lower, upper (the bin holds lower < probability <= upper, the first also
        0), rows, weight, meanPredicted, observedShare.
    """

    brier: float
    expectedCalibrationError: float
    reliability: pd.DataFrame


def probability_metrics(
    dataset: DataFrame,
    *,
    scoreCol: str = "score",
    labelCol: str = "label",
    positiveLabel: Any = 1,
    weightCol: str | None = None,
    bins: int = 10,
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
        Bins of equal width, with scikit-learn's edges (`calibration_curve`).

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; probabilities, labels or weights out of their range (with the number of
        rows); no rows, or no weight.

    Notes
    -----
    Cost: one action, one shuffle of one row per bin and partition.

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950, 1-3.
    .. [2] Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI, 2015.
    """
    if not 1 <= bins <= MAX_BINS:
        raise SparkimbError(f"bins is {bins}. Give a number of bins in [1, {MAX_BINS}].")
    rows, faults = scored_rows(
        dataset,
        scoreCol=scoreCol,
        labelCol=labelCol,
        positiveLabel=positiveLabel,
        weightCol=weightCol,
        probabilities=True,
    )
    score, mass, outcome = F.col("score"), F.col("weight"), F.col("positive").cast("double")
    edges = np.linspace(0, 1, bins + 1)
    found = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", bucket(score, edges[1:-1]).alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            F.sum("weight").alias("weight"),
            F.sum(mass * score).alias("predicted"),
            F.sum(mass * outcome).alias("observed"),
            F.sum(mass * (score - outcome) * (score - outcome)).alias("squares"),
        )
        .toArrow()  # at most five rows per bin: sound, or with one of four faults
        .to_pandas()
    )
    refuse_faults(faults, found.groupby("fault")["rows"].sum().to_dict())
    found = found[found["weight"] > 0].sort_values("bin", ignore_index=True)
    if found.empty:
        raise SparkimbError(f"weightCol '{weightCol}' is 0 in every row. Give a weight above 0 to the rows that count.")
    total = found["weight"].sum()
    places = found["bin"].to_numpy()
    return ProbabilityMetrics(
        brier=float(found["squares"].sum() / total),
        expectedCalibrationError=float((found["predicted"] - found["observed"]).abs().sum() / total),
        reliability=pd.DataFrame(
            {
                "lower": edges[places],
                "upper": edges[places + 1],
                "rows": found["rows"],
                "weight": found["weight"],
                "meanPredicted": found["predicted"] / found["weight"],
                "observedShare": found["observed"] / found["weight"],
            }
        ),
    )
