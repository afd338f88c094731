"""PlattCalibrator: a sigmoid fitted to the scores of held-out rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.evaluation.calibrators import Calibrator, CalibratorModel, CalibratorParams, Curve

# Probabilities of 0 and 1 have no logit, this one has -27.6; scikit-learn adds the same before it takes logarithms.
LEAST_PROBABILITY = 1e-12
# Two parameters of a convex function: quasi-Newton steps need a dozen.
MAX_STEPS, TOLERANCE = 200, 1e-10


class PlattCalibrator(Calibrator["PlattCalibratorModel"]):
    """Learn a slope and an intercept that turn scores into probabilities, with Platt's smoothed targets.

    Needs few held-out rows, and suits scores whose error has the shape of a sigmoid: a prior that changed, margins of
    a support vector machine, boosted trees.  With thousands of rows of the rarest class an `IsotonicCalibrator` can
    follow any shape.

    Parameters
    ----------
    probabilityCol : str, default="probability"
        Vector, or array of numbers in [0, 1], one per class: its logits are the scores.  Not looked at if
        rawPredictionCol is set.
    rawPredictionCol : str, optional
        Vector, or array of finite numbers, one per class, whose entries are the scores: LinearSVC's margins.
    labelCol : str, default="label"
        Index of the class, a number 0, 1, ...
    weightCol : str, optional
        Weight of each row, in [0, inf).
    outputCol : str, default="calibratedProbability"
        Column written, a vector or an array<double> as the column read is: a new one, or the one read to replace it.

    Raises
    ------
    SparkimbError
        In `fit`: columns missing or of a wrong type, an outputCol that exists; probabilities, labels or weights out of
        their range (with the number of rows); no rows; a class without rows.

    Notes
    -----
    Fit it on rows that the model was not trained on and that have natural class shares.  sparkimb's Pipeline refuses it
    behind a sampler, where it would learn the sampled shares.
    Classes: of two, one sigmoid for the second; of more, one for each against the rest, scaled to sum 1.
    Rows:   as they come.  Null where the scores are null, of another number than the classes, or out of their range.
    Cost:   fit: one aggregate, and for each class pyspark's LogisticRegression on one feature, which caches its rows
            while it runs and passes over them a dozen times.  transform: a plain expression, also on a stream.

    References
    ----------
    .. [1] Platt, "Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods",
           Advances in Large Margin Classifiers, 1999, 61-74.
    .. [2] Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD,
           2002, 694-699.

    Examples
    --------
    >>> PlattCalibrator().fit(model.transform(validation)).transform(model.transform(test))  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        probabilityCol: str = "probability",
        rawPredictionCol: str | None = None,
        labelCol: str = "label",
        weightCol: str | None = None,
        outputCol: str = "calibratedProbability",
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _curve(self, rows: DataFrame, *, positives: float, negatives: float) -> Curve:
        # The targets are shares, and a logistic regression takes classes: each row counts in both, by its target.
        target = F.when(F.col("outcome") == 1, (positives + 1) / (positives + 2)).otherwise(1 / (negatives + 2))
        both = F.array(
            F.struct(F.lit(1.0).alias("label"), target.alias("share")),
            F.struct(F.lit(0.0).alias("label"), (1 - target).alias("share")),
        )
        doubled = rows.select(_score(self, F.col("score")).alias("score"), "weight", F.explode(both).alias("target"))
        regression = LogisticRegression(weightCol="weight", maxIter=MAX_STEPS, tol=TOLERANCE).fit(
            doubled.select(
                array_to_vector(F.array("score")).alias("features"),
                F.col("target.label").alias("label"),
                (F.col("weight") * F.col("target.share")).alias("weight"),
            )
        )
        slope, intercept = float(regression.coefficients[0]), float(regression.intercept)
        if slope <= 0:
            warnings.warn(
                f"PlattCalibrator: the higher the score in {self._source()[0]} '{self._source()[1]}', the rarer the "
                f"class (slope {slope:.3g}), so calibration reverses the ranking. Look at the labels and the scores.",
                stacklevel=5,
            )
        return [slope, intercept]

    def _model(self) -> PlattCalibratorModel:
        return PlattCalibratorModel()


class PlattCalibratorModel(CalibratorModel):
    """A fitted PlattCalibrator: `curves` holds [slope, intercept] for each class, of two classes for the second."""

    def _calibrated(self, score: Column, curve: Sequence[Any]) -> Column:
        slope, intercept = curve
        return 1 / (1 + F.exp(-(slope * _score(self, score) + intercept)))


def _score(stage: CalibratorParams, score: Column) -> Column:
    """Return a raw score as it is, and a probability as its logit."""
    if stage.getRawPredictionCol() is not None:
        return score
    p = F.greatest(F.lit(LEAST_PROBABILITY), F.least(F.lit(1 - LEAST_PROBABILITY), score))
    return F.log(p / (1 - p))
