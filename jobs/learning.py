"""A pyspark.ml learner on the features of a config: trained on treated rows, measured on untouched ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from config import Balance
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml import PipelineModel
from pyspark.ml.feature import Imputer, IndexToString, OneHotEncoder, SQLTransformer, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType
from storage import SPARK_ERRORS, reason
from treatments import Treated, kept, text_of

from sparkimb.columns import column, quoted, temporary_name
from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, best_threshold, confusion_matrix, correct_priors, probability_metrics
from sparkimb.evaluation.intervals import confusion_interval, wilson_interval
from sparkimb.report.explorer import CELLS
from sparkimb.strategy import Label

CURVE_POINTS = 400  # more than a plot has pixels for; keeps the report under a megabyte
RANKINGS = ("averagePrecision", "areaUnderPR", "areaUnderROC")
DECISIONS = ("precision", "recall", "f1", "specificity", "gMean", "balancedAccuracy", "mcc")
BINARY = ("GBTClassifier", "FMClassifier")  # the learners of pyspark.ml that know two classes only


class Learning:
    """A learner on the features of the config: trained on treated rows, measured on untouched ones."""

    def __init__(self, config: Balance, counts: Mapping[Label, int], positive: Label, training: DataFrame) -> None:
        assert config.learner is not None
        self.config = config
        self.learner = config.learner
        self.positive = positive
        # The positive class is the last index: 1 of two, as binary learners expect.
        self.labels = [label for label in counts if label != positive] + [positive]
        self.natural = {label: rows / sum(counts.values()) for label, rows in counts.items()}
        if self.learner.name in BINARY and len(self.labels) > 2:
            raise SparkimbError(
                f"learner.class '{self.learner.name}' learns two classes, but '{config.columns.label}' has "
                f"{len(self.labels)}. Take another learner."
            )
        self.features = self.fit_features(training)
        self.check_layers(training)
        self.model: PipelineModel

    def fit_features(self, training: DataFrame) -> PipelineModel:
        """Learn categories and medians on the natural rows.

        A null number becomes the median.  A null or empty text is a category, one with those not seen here.
        """
        numeric, categorical = self.config.columns.numeric, self.config.columns.categorical
        numbers, filled, texts, index, onehot = stage_columns(numeric, categorical)
        # Spark's indexer takes no booleans or dates, its encoder no empty text; its imputer rounds a median to the
        # column's type; and none of them finds a column with a dot in its name.
        casts = [
            f"CAST({quoted(name)} AS DOUBLE) AS {quoted(made)}" for name, made in zip(numeric, numbers, strict=True)
        ]
        casts += [
            f"NULLIF(CAST({quoted(name)} AS STRING), '') AS {quoted(made)}"
            for name, made in zip(categorical, texts, strict=True)
        ]
        stages: list[Any] = [SQLTransformer(statement=f"SELECT *, {', '.join(casts)} FROM __THIS__")]
        if categorical:
            stages.append(StringIndexer(inputCols=texts, outputCols=index, handleInvalid="keep"))
            stages.append(OneHotEncoder(inputCols=index, outputCols=onehot, handleInvalid="keep"))
        if numeric:
            stages.append(Imputer(strategy="median", inputCols=numbers, outputCols=filled))
        stages.append(VectorAssembler(inputCols=[*filled, *onehot], outputCol="features"))
        try:
            return SparkPipeline(stages=stages).fit(training)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"The training rows cannot be made into features: {reason(error)}.") from error

    def check_layers(self, training: DataFrame) -> None:
        """Check that a perceptron's first and last layers fit, which Spark finds out by an index out of bounds."""
        layers = self.learner.params.get("layers")
        width = self.features.transform(training).schema["features"].metadata["ml_attr"]["num_attrs"]
        if layers is not None and (layers[:1], layers[-1:]) != ([width], [len(self.labels)]):
            raise SparkimbError(
                f"learner.params.layers is {layers}, but there are {width} features (one-hot) and {len(self.labels)} "
                f"classes. Let it begin with {width} and end with {len(self.labels)}."
            )

    def measure(self, treated: Treated, validation: DataFrame, test: DataFrame) -> dict[str, Any]:
        """Train on treated rows, choose the threshold on the validation rows, measure on the test rows."""
        began = time.monotonic()
        weight = {"weightCol": treated.weightCol} if treated.weightCol else {}
        y = temporary_name(treated.dataset, "y")
        learner = self.learner.kind(labelCol=y, **weight, **self.learner.params)
        rows = self.features.transform(treated.dataset.withColumn(y, self.label_index()))
        rows = rows.select("features", y, *(column(name) for name in weight.values()))
        try:
            fitted = learner.fit(rows)
        except SPARK_ERRORS as error:
            raise SparkimbError(
                f"learner {self.learner.name} failed on treatment '{treated.name}': {reason(error)}."
            ) from error
        seconds = time.monotonic() - began
        names = IndexToString(
            inputCol="prediction", outputCol="predictedLabel", labels=[text_of(c) for c in self.labels]
        )
        self.model = PipelineModel([*self.features.stages, fitted, names])

        with (
            kept(self.score(fitted, validation, treated)) as validated,
            kept(self.score(fitted, test, treated)) as tested,
        ):
            on_validation = RankingMetrics(validated, labelCol="truth", positiveLabel=True)
            best = best_threshold(on_validation, self.config.threshold)
            ranking = RankingMetrics(tested, labelCol="truth", positiveLabel=True)
            probability = probability_metrics(tested, labelCol="truth", positiveLabel=True)
            decided = tested.withColumn("decision", F.col("score") >= F.lit(best.threshold))
            matrix = confusion_matrix(decided, predictionCol="decision", labelCol="truth", positiveLabel=True)
            intervals = {name: ranking.interval(name) for name in RANKINGS}
            intervals |= {name: confusion_interval(matrix, name) for name in DECISIONS}
            intervals["brier"] = probability.interval("brier")
            tp, fp = int(matrix.truePositives()), int(matrix.falsePositives())
            fn, tn = int(matrix.falseNegatives()), int(matrix.trueNegatives())
            # A replicate of no errors has none either: the bootstrap would be sure of a recall of 1.
            shares = {"precision": (tp, tp + fp), "recall": (tp, tp + fn), "specificity": (tn, tn + fp)}
            intervals |= {name: wilson_interval(part, rows) for name, (part, rows) in shares.items() if rows}
            pr, roc, cuts = (
                ranking.prCurve(CURVE_POINTS),
                ranking.rocCurve(CURVE_POINTS),
                ranking.thresholdCurve(2 * (CELLS + 1)),  # as fine as the explorer's grids
            )
        return {
            "seconds": seconds,
            "threshold": best.threshold,
            "objective": best.objective,
            "metrics": {name: interval.estimate for name, interval in intervals.items()}
            | {"expectedCalibrationError": probability.expectedCalibrationError},
            "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()},
            "confusion": {"truePositive": tp, "falsePositive": fp, "falseNegative": fn, "trueNegative": tn},
            "curves": {
                "pr": {name: pr[name].tolist() for name in ("recall", "precision")},
                "roc": {name: roc[name].tolist() for name in ("falsePositiveRate", "truePositiveRate")},
                "calibration": {
                    "predicted": probability.reliability["meanPredicted"].tolist(),
                    "observed": probability.reliability["observedShare"].tolist(),
                    "rows": probability.reliability["rows"].tolist(),
                },
                "threshold": {name: cuts[name].tolist() for name in ("threshold", "precision", "recall", "f1")}
                | {name: cuts[name].astype(int).tolist() for name in ("truePositives", "falsePositives")},
            },
        }

    def score(self, fitted: Any, part: DataFrame, treated: Treated) -> DataFrame:
        """Return truth and the corrected probability of the positive class for each row.

        Corrected by the class shares: all that there is to correct where a treatment looks at the class alone.  What
        is left where it makes rows of others (SMOTE) shows in the Brier score and in the calibration of natural rows.
        """
        scored = fitted.transform(self.features.transform(part))
        probability = vector_to_array(F.col("probability"))
        if treated.name != "natural":
            probability = correct_priors(
                probability,
                before=[self.natural[label] for label in self.labels],
                after=[treated.priors[label] for label in self.labels],
            )
        truth = column(self.config.columns.label) == F.lit(self.positive)
        corrected: DataFrame = scored.select(
            truth.alias("truth"), F.get(probability, F.lit(len(self.labels) - 1)).alias("score")
        )
        return corrected

    def label_index(self) -> Column:
        """Return the label as the index that learners want."""
        index = F.lit(None).cast(DoubleType())
        for i, label in enumerate(self.labels):
            index = F.when(column(self.config.columns.label) == F.lit(label), float(i)).otherwise(index)
        return index


def stage_columns(numeric: Sequence[str], categorical: Sequence[str]) -> tuple[list[str], ...]:
    """Return the columns that the feature stages write: numbers, filled, texts, indices and one-hot vectors.

    Feature stages take a dot in a name for a field of a struct, so it becomes a line.
    """
    ends = {"number": numeric, "filled": numeric, "text": categorical, "index": categorical, "onehot": categorical}
    return tuple([f"{name.replace('.', '_')}__{end}" for name in names] for end, names in ends.items())
