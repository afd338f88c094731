"""IsotonicCalibrator: a rising curve fitted to the scores of held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.regression import IsotonicRegression
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.calibrators import Calibrator, CalibratorModel, Curve

# Points of a curve that go into the expression, 2 MB of text.  Rows of weight 1 make at most some n^(2/3) steps, as the
# steps' heights are different fractions and their denominators sum to n; of real scores a hundredth of that.
MAX_POINTS = 100_000


class IsotonicCalibrator(Calibrator["IsotonicCalibratorModel"]):
    """Learn the rising curve from scores to probabilities that is nearest to the outcomes.

    Follows any shape that keeps the order, so it needs rows: thousands of the rarest class.  Ranks that it ties stay
    tied.  With fewer rows a `PlattCalibrator` is safer.

    Parameters
    ----------
    probabilityCol : str, default="probability"
        Vector, or array of numbers in [0, 1], one per class: its entries are the scores.  Not looked at if
        rawPredictionCol is set.
    rawPredictionCol : str, optional
        Vector, or array of finite numbers, one per class, whose entries are the scores.
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
        their range (with the number of rows); no rows; a class without rows; a curve of more than 100,000 points.

    Notes
    -----
    Fit it on rows that the model was not trained on and that have natural class shares.  sparkimb's Pipeline refuses it
    behind a sampler, where it would learn the sampled shares.
    Between the points of the curve probabilities are interpolated; scores beyond them get the first or the last.
    Classes: of two, one curve for the second; of more, one for each against the rest, scaled to sum 1.
    Rows:   as they come.  Null where the scores are null, of another number than the classes, or out of their range.
    Cost:   fit: one aggregate, and for each class pyspark's IsotonicRegression: a sort of the scores, and what pools in
            no partition comes to the driver.  transform: a plain expression, also on a stream.

    References
    ----------
    .. [1] Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD,
           2002, 694-699.

    Examples
    --------
    >>> IsotonicCalibrator().fit(model.transform(validation)).transform(model.transform(test))  # doctest: +SKIP
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
        regression = IsotonicRegression(featuresCol="score", labelCol="outcome", weightCol="weight").fit(rows)
        points = [float(score) for score in regression.boundaries.toArray()]
        if len(points) > MAX_POINTS:
            raise SparkimbError(
                f"IsotonicCalibrator: the curve has {len(points):,} points, more than {MAX_POINTS:,}. "
                "Round the scores, fit it on fewer rows, or use PlattCalibrator."
            )
        return [points, [float(p) for p in regression.predictions.toArray()]]

    def _model(self) -> IsotonicCalibratorModel:
        return IsotonicCalibratorModel()


class IsotonicCalibratorModel(CalibratorModel):
    """A fitted IsotonicCalibrator: `curves` holds [scores, probabilities] for each class, of two for the second."""

    def _calibrated(self, score: Column, curve: Sequence[Any]) -> Column:
        points, probabilities = curve
        x, y = _literal(points), _literal(probabilities)
        last = len(points) - 1

        def at(place: Column) -> Column:
            """Interpolate behind the point with this number."""
            x0, y0 = F.get(x, place), F.get(y, place)
            share = (score - x0) / (F.get(x, place + 1) - x0)
            between = y0 + share * (F.get(y, place + 1) - y0)
            return F.when(place < 0, probabilities[0]).when(place >= last, probabilities[last]).otherwise(between)

        # The last point at or below the score, by bisection: it moves up by 2^i, ..., 2, 1 points where it can.
        moves = F.array(*(F.lit(1 << i) for i in reversed(range(len(points).bit_length()))))
        return F.aggregate(
            moves,
            F.lit(-1),
            lambda place, move: F.when(F.get(x, place + move) <= score, place + move).otherwise(place),
            at,
        )


def _literal(numbers: Sequence[float]) -> Column:
    """Return an array that is one literal once the plan is optimised, where F.array would hold one for each number."""
    return F.split(F.lit(" ".join(map(repr, numbers))), " ").cast("array<double>")
