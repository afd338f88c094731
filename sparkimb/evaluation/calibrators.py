"""Calibration learned from held-out rows, class by class: what PlattCalibrator and IsotonicCalibrator share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_probabilities import RewritesProbabilities, as_read, entries
from sparkimb.evaluation.class_scores import HasWeightCol
from sparkimb.evaluation.inputs import bad_weight, fault_code, refuse_faults, require_numeric, weight
from sparkimb.params import HasLabelCol, column_name, param
from sparkimb.persistence import JsonStage

# A regression is fitted for each class, and a row per class comes to the driver.
MAX_CLASSES = 1_000

Curve = list[Any]  # what a regression of one class against the rest has found, as JSON has it
C = TypeVar("C", bound="CalibratorModel")


class CalibratorParams(RewritesProbabilities, HasLabelCol, HasWeightCol, JsonStage):
    """The Params of every calibrator and of its model."""

    rawPredictionCol = param(
        "rawPredictionCol", "scores of any range, to be used instead", column_name("rawPredictionCol")
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(outputCol="calibratedProbability")

    def getRawPredictionCol(self) -> str | None:
        """Return rawPredictionCol, or None."""
        value: str | None = self._optional(self.rawPredictionCol)
        return value

    def _source(self) -> tuple[str, str]:
        raw = self.getRawPredictionCol()
        return super()._source() if raw is None else ("rawPredictionCol", raw)

    def _out_of_range(self, scores: Column) -> Column:
        """Say whether an array holds a score that cannot be calibrated; null where it is null."""
        if self.getRawPredictionCol() is None:
            return F.exists(scores, lambda score: ~F.coalesce(score.between(0, 1), F.lit(False)))
        return F.exists(scores, lambda score: ~F.coalesce(F.abs(score) < float("inf"), F.lit(False)))


class Calibrator(CalibratorParams, Estimator[C]):
    """An estimator that learns on held-out rows what share of rows with a score are of the class."""

    def _fit(self, dataset: DataFrame) -> C:
        self._check_columns(dataset)
        names = {"labelCol": self.getLabelCol(), "weightCol": self.getWeightCol()}
        require_columns(dataset, **names)
        require_numeric(dataset, **names)
        rows = dataset.select(
            entries(dataset, self._source()[1]).alias("scores"),
            column(self.getLabelCol()).cast("double").alias("label"),
            weight(self.getWeightCol()).alias("weight"),
        )
        masses = self._masses(rows)
        rows = rows.where(F.col("weight") > 0)
        classes = [1] if len(masses) == 2 else range(len(masses))
        curves = [
            self._curve(
                rows.select(
                    F.get("scores", F.lit(c)).alias("score"),
                    (F.col("label") == c).cast("double").alias("outcome"),
                    "weight",
                ),
                positives=masses[c],
                negatives=sum(masses) - masses[c],
            )
            for c in classes
        ]
        model = self._model()
        model.numClasses, model.curves = len(masses), curves
        return self._copyValues(model._resetUid(self.uid))

    def _masses(self, rows: DataFrame) -> list[float]:
        """Return the sum of the weights of each class, and check all rows on the way: one job."""
        by, name = self._source()
        scores, label = F.col("scores"), F.col("label")
        is_class = (label >= 0) & (label < F.size(scores)) & (label == F.floor(label))
        wanted = "outside [0, 1]" if by == "probabilityCol" else "infinite"
        faults = {
            f"null {by} '{name}'": scores.isNull(),
            f"entries of {by} '{name}' null, NaN or {wanted}": self._out_of_range(scores),
            f"labelCol '{self.getLabelCol()}' null, or not the index of an entry of {by}": ~F.coalesce(
                is_class, F.lit(False)
            ),
            f"weightCol '{self.getWeightCol()}' null, NaN, negative or infinite": bad_weight(F.col("weight")),
        }
        found = (
            rows.withColumn("fault", fault_code(faults))
            .groupBy("fault", F.when(F.col("fault") == 0, label).alias("class"))
            .agg(
                F.count("*").alias("rows"),
                F.sum("weight").alias("weight"),
                F.min(F.size(scores)).alias("fewest"),
                F.max(F.size(scores)).alias("most"),
            )
            .limit(MAX_CLASSES + len(faults) + 1)
            .toArrow()
            .to_pandas()
        )
        refuse_faults(faults, found.groupby("fault")["rows"].sum().to_dict())
        k = int(found["most"].max())
        if found["fewest"].min() != k or not 2 <= k <= MAX_CLASSES:
            raise SparkimbError(
                f"{by} '{name}' has {found['fewest'].min()} to {k} entries in a row. Every row must have one for each "
                f"class, of 2 to {MAX_CLASSES:,} classes."
            )
        by_class = dict(zip(found["class"].astype(int), found["weight"].astype(float), strict=True))
        lacking = [c for c in range(k) if not by_class.get(c)]
        if lacking:
            raise SparkimbError(
                f"labelCol '{self.getLabelCol()}' has no rows, or no weight, of the classes {lacking} of {k} in "
                f"{found['rows'].sum():,} rows, so there is nothing to learn about them. Hold out rows of every class."
            )
        return [by_class[c] for c in range(k)]

    @abstractmethod
    def _curve(self, rows: DataFrame, *, positives: float, negatives: float) -> Curve:
        """Learn from the columns score, outcome (0.0 or 1.0) and weight, whose sums by outcome are given."""

    @abstractmethod
    def _model(self) -> C:
        """Return an empty model."""


class CalibratorModel(CalibratorParams, Model):
    """A fitted calibrator: a curve for each class against the rest; of two classes for the second alone."""

    numClasses: int
    curves: list[Curve]

    @abstractmethod
    def _calibrated(self, score: Column, curve: Sequence[Any]) -> Column:
        """Return the probability at a score."""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_columns(dataset)
        name = self._source()[1]
        scores = entries(dataset, name)
        sound = (F.size(scores) == self.numClasses) & ~self._out_of_range(scores)
        return dataset.withColumn(
            self.getOutputCol(), as_read(dataset, name, F.when(sound, self._probabilities(scores)))
        )

    def _probabilities(self, scores: Column) -> Column:
        if self.numClasses == 2:
            # The lambda binds the probability, which would else be computed for each class.
            positive = F.array(self._calibrated(F.get(scores, F.lit(1)), self.curves[0]))
            return F.flatten(F.transform(positive, lambda p: F.array(1 - p, p)))
        each = F.array(*(self._calibrated(F.get(scores, F.lit(c)), curve) for c, curve in enumerate(self.curves)))
        # As scikit-learn does, where no class is deemed possible all are deemed equally likely.
        return F.aggregate(
            each,
            F.lit(0.0),
            lambda total, p: total + p,
            lambda total: F.transform(each, lambda p: F.when(total > 0, p / total).otherwise(1 / self.numClasses)),
        )

    def _state(self) -> dict[str, Any]:
        return {"numClasses": self.numClasses, "curves": self.curves}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.numClasses, self.curves = state["numClasses"], state["curves"]
