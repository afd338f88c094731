"""The confusion matrix of any atomic labels, and the metrics of a decision that follow from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, BooleanType, DoubleType, FloatType, NumericType

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import bad_weight, fault_code, refuse_faults, require_numeric, weight

# Pairs of label and prediction that the driver takes in: every pair of 316 labels, or far more labels that are seldom
# mistaken.  At 100 bytes a pair, 10 MB.  A continuous column taken for a label ends here too.
MAX_CELLS = 100_000


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often each label was predicted as which.

    Quotients 0/0 are 0.0, as scikit-learn's zero_division=0.  Every method takes a label, by default `positiveLabel`.

    Parameters
    ----------
    labels : tuple
        All labels and predictions that occur, sorted.
    cells : dict of (label, prediction) to float
        Weight (rows, without weights) of each pair; a pair that is absent is 0.
    positiveLabel : str, bool, int, float or other label, default=1
        What the methods speak of when no label is named.
    """

    labels: tuple[Any, ...]
    cells: Mapping[tuple[Any, Any], float]
    positiveLabel: Any = 1

    @classmethod
    def fromCounts(
        cls,
        *,
        truePositives: float,
        falsePositives: float,
        falseNegatives: float,
        trueNegatives: float,
        positiveLabel: Any = 1,
        negativeLabel: Any = 0,
    ) -> ConfusionMatrix:
        """Return the binary matrix of four weights >= 0.  Starts no job."""
        counts = truePositives, falsePositives, falseNegatives, trueNegatives
        if not all(0 <= count < math.inf for count in counts):
            raise SparkimbError(f"tp, fp, fn and tn are {counts}. Give finite counts of 0 or more.")
        if positiveLabel == negativeLabel:
            raise SparkimbError(f"positiveLabel and negativeLabel are both {positiveLabel!r}. Give two labels.")
        pairs = [(a, b) for a in (positiveLabel, negativeLabel) for b in (positiveLabel, negativeLabel)]
        cells = dict(zip(pairs, (truePositives, falseNegatives, falsePositives, trueNegatives), strict=True))
        return cls(tuple(sorted((positiveLabel, negativeLabel))), cells, positiveLabel)

    @cached_property
    def total(self) -> float:
        """Weight of all rows."""
        return math.fsum(self.cells.values())

    @cached_property
    def _actual(self) -> Mapping[Any, float]:
        return _sums((label, cell) for (label, _), cell in self.cells.items())

    @cached_property
    def _predicted(self) -> Mapping[Any, float]:
        return _sums((prediction, cell) for (_, prediction), cell in self.cells.items())

    def _label(self, label: Any) -> Any:
        chosen = self.positiveLabel if label is None else label
        if chosen not in self.labels:
            shown = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self.labels) > 10 else "")
            raise SparkimbError(
                f"Label {chosen!r} does not occur. Labels are: {shown}. Name one, or set positiveLabel."
            )
        return chosen

    def truePositives(self, label: Any = None) -> float:
        """Weight of the label's rows that were predicted so."""
        label = self._label(label)
        return self.cells.get((label, label), 0.0)

    def falsePositives(self, label: Any = None) -> float:
        """Weight of other rows that were predicted as the label."""
        return self._predicted.get(self._label(label), 0.0) - self.truePositives(label)

    def falseNegatives(self, label: Any = None) -> float:
        """Weight of the label's rows that were predicted otherwise."""
        return self._actual.get(self._label(label), 0.0) - self.truePositives(label)

    def trueNegatives(self, label: Any = None) -> float:
        """Weight of other rows that were predicted as other, whether rightly or not."""
        label = self._label(label)
        return math.fsum(cell for pair, cell in self.cells.items() if label not in pair)

    def precision(self, label: Any = None) -> float:
        """Share of the rows predicted as the label that have it, in [0, 1]."""
        return _share(self.truePositives(label), self._predicted.get(self._label(label), 0.0))

    def recall(self, label: Any = None) -> float:
        """Share of the label's rows that were predicted so, in [0, 1]."""
        return _share(self.truePositives(label), self._actual.get(self._label(label), 0.0))

    def specificity(self, label: Any = None) -> float:
        """Share of the other rows that were predicted as other, in [0, 1]."""
        return _share(self.trueNegatives(label), self.total - self._actual.get(self._label(label), 0.0))

    def fBeta(self, beta: float, label: Any = None) -> float:
        """Return the weighted harmonic mean of precision and recall, in [0, 1]; recall counts beta (> 0) times."""
        check_beta(beta)
        tp, squared = self.truePositives(label), beta * beta
        errors = squared * self.falseNegatives(label) + self.falsePositives(label)
        return _share((1 + squared) * tp, (1 + squared) * tp + errors)

    def f1(self, label: Any = None) -> float:
        """Return the harmonic mean of precision and recall, in [0, 1]."""
        return self.fBeta(1.0, label)

    @property
    def accuracy(self) -> float:
        """Share of the rows predicted rightly, in [0, 1]."""
        return _share(self._right, self.total)

    @property
    def balancedAccuracy(self) -> float:
        """Mean recall over the labels that have rows, in [0, 1]."""
        actual = [label for label in self.labels if self._actual.get(label)]
        return _share(math.fsum(map(self.recall, actual)), len(actual))

    @property
    def gMean(self) -> float:
        """Geometric mean of the recalls, in [0, 1]: for two labels, of recall and specificity.

        0.0 if some label is never recalled; one that is predicted but has no rows counts as such.
        """
        seen = [label for label in self.labels if self._actual.get(label) or self._predicted.get(label)]
        recalls = [self.recall(label) for label in seen]
        if not recalls or not all(recalls):
            return 0.0
        return math.exp(math.fsum(map(math.log, recalls)) / len(recalls))

    @property
    def mcc(self) -> float:
        """Matthews correlation coefficient in [-1, 1]; with more than two labels its K-category form (R_K).

        0.0 if all rows have one label or one prediction.

        References
        ----------
        .. [1] Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational
               Biology and Chemistry 28, 2004, 367-374.
        """
        actual, predicted, total = self._actual, self._predicted, self.total
        both = math.fsum(actual.get(label, 0.0) * predicted.get(label, 0.0) for label in self.labels)
        spread = total**2 - math.fsum(a * a for a in actual.values())
        spread_predicted = total**2 - math.fsum(p * p for p in predicted.values())
        return _share(self._right * total - both, math.sqrt(max(spread, 0.0)) * math.sqrt(max(spread_predicted, 0.0)))

    @cached_property
    def _right(self) -> float:
        return math.fsum(cell for (label, prediction), cell in self.cells.items() if label == prediction)


def confusion_matrix(
    dataset: DataFrame,
    *,
    predictionCol: str = "prediction",
    labelCol: str = "label",
    positiveLabel: Any = 1,
    weightCol: str | None = None,
) -> ConfusionMatrix:
    """Count how often each label was predicted as which.

    Parameters
    ----------
    predictionCol, labelCol : str
        Of any atomic type, both alike or both numeric or boolean (1, 1.0 and true are one label); never null or NaN.
    positiveLabel : default=1
        What the metrics of the result speak of when no label is named.
    weightCol : str, optional
        Weight of each row, in [0, inf).

    Raises
    ------
    SparkimbError
        Columns missing or of unlike types; nulls, NaN or bad weights (with the number of rows); no rows; more than
        MAX_CELLS pairs of label and prediction.

    Notes
    -----
    Cost: one action, one shuffle of one row per pair and partition.
    """
    require_columns(dataset, predictionCol=predictionCol, labelCol=labelCol, weightCol=weightCol)
    require_numeric(dataset, weightCol=weightCol)
    _check_alike(dataset, labelCol, predictionCol)
    rows = dataset.select(
        column(labelCol).alias("label"), column(predictionCol).alias("prediction"), weight(weightCol).alias("weight")
    )
    faults = {
        f"null or NaN labelCol '{labelCol}'": _unknown(rows, "label"),
        f"null or NaN predictionCol '{predictionCol}'": _unknown(rows, "prediction"),
        f"weightCol '{weightCol}' null, NaN, negative or infinite": bad_weight(F.col("weight")),
    }
    grouped = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", "label", "prediction")
        .agg(F.sum("weight").alias("cell"), F.count("*").alias("rows"))
    )
    found = grouped.limit(MAX_CELLS + 1).toArrow().to_pylist()
    if len(found) > MAX_CELLS:
        raise SparkimbError(
            f"labelCol '{labelCol}' and predictionCol '{predictionCol}' hold more than {MAX_CELLS} different pairs. "
            "Give columns of class labels; a score belongs in RankingMetrics."
        )
    codes: Counter[int] = Counter()
    for row in found:
        codes[row["fault"]] += row["rows"]
    refuse_faults(faults, codes)
    cells = {(row["label"], row["prediction"]): row["cell"] for row in found}
    return ConfusionMatrix(tuple(sorted({label for pair in cells for label in pair})), cells, positiveLabel)


def check_beta(beta: float) -> None:
    """Refuse a beta outside (0, inf)."""
    if not 0 < beta < math.inf:
        raise SparkimbError(f"beta is {beta}. Give a finite number above 0: 2 counts recall twice, 0.5 half as much.")


def _check_alike(dataset: DataFrame, labelCol: str, predictionCol: str) -> None:
    label, prediction = (dataset.schema[name].dataType for name in (labelCol, predictionCol))
    numbers = NumericType | BooleanType
    if label != prediction and not (isinstance(label, numbers) and isinstance(prediction, numbers)):
        raise SparkimbError(
            f"labelCol '{labelCol}' is of type {label.simpleString()}, but predictionCol '{predictionCol}' of type "
            f"{prediction.simpleString()}. Turn indices back into labels (IndexToString), or cast one."
        )
    if not isinstance(label, AtomicType):
        raise SparkimbError(
            f"labelCol '{labelCol}' and predictionCol '{predictionCol}' are of type {label.simpleString()}. "
            "Labels are single values: cast them, or take one entry."
        )


def _unknown(rows: DataFrame, name: str) -> Any:
    unknown = F.col(name).isNull()
    fractional = isinstance(rows.schema[name].dataType, DoubleType | FloatType)
    return unknown | F.isnan(name) if fractional else unknown


def _sums(pairs: Iterable[tuple[Any, float]]) -> Mapping[Any, float]:
    """Sum the weights of each label.  fsum, so that the order in which Spark gave the cells does not matter."""
    parts: dict[Any, list[float]] = {}
    for label, cell in pairs:
        parts.setdefault(label, []).append(cell)
    return {label: math.fsum(cells) for label, cells in parts.items()}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
