"""The confusion matrix of any atomic labels, and the metrics of a decision that follow from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, BooleanType, DoubleType, FloatType, NumericType

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import bad_weight, fault_code, refuse_faults, require_numeric, weight

# Pairs of label and prediction that the driver takes in: every pair of 316 labels, or far more labels that are seldom
# mistaken.  At 100 bytes a pair, 10 MB.  A continuous column taken for a label ends here too.
MAX_CELLS = 100_000

Average: TypeAlias = Literal["macro", "micro", "weighted"]
AVERAGES: tuple[Average, ...] = get_args(Average)


class Counts(NamedTuple):
    """Weights of one label against the rest."""

    tp: float
    fp: float
    fn: float
    tn: float

    @property
    def actual(self) -> float:
        """Weight of the rows that have the label."""
        return self.tp + self.fn

    @property
    def predicted(self) -> float:
        """Weight of the rows that were predicted as the label."""
        return self.tp + self.fp


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often each label was predicted as which.

    Quotients 0/0 are 0.0, as scikit-learn's zero_division=0.  A method speaks of one label, by default `positiveLabel`,
    or of all with `average`: "macro" is the mean over the labels, "weighted" the mean weighted by the labels' rows,
    "micro" the value of the labels' counts summed up.  All labels take part that occur, also those that were only
    predicted.

    Parameters
    ----------
    labels : tuple
        All labels and predictions that occur, sorted.
    cells : dict of (label, prediction) to float
        Weight (rows, without weights) of each pair; a pair that is absent is 0.
    positiveLabel : str, bool, int, float or other label, default=1
        What the methods speak of when no label is named.

    Notes
    -----
    The values are scikit-learn's and imbalanced-learn's, but for two.  With weights, imbalanced-learn counts true
    negatives in rows, and so gets other specificities; here they are weights.  And where labels were predicted that no
    row has, its macro-averaged mean absolute error fails; here such labels have no part in it.
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
    def _counts(self) -> Mapping[Any, Counts]:
        """The counts of each label, from exact sums: a difference is 0.0 where it should be, in any order of cells."""
        cells = {pair: Fraction(float(cell)) for pair, cell in self.cells.items()}
        actual, predicted = (dict.fromkeys(self.labels, Fraction(0)) for _ in range(2))
        for (label, prediction), cell in cells.items():
            actual[label] += cell
            predicted[prediction] += cell
        total = sum(actual.values())
        counts = {}
        for label in self.labels:
            tp = cells.get((label, label), Fraction(0))
            fp, fn = predicted[label] - tp, actual[label] - tp
            counts[label] = Counts(*map(float, (tp, fp, fn, total - tp - fp - fn)))
        return counts

    def _of(self, label: Any) -> Counts:
        chosen = self.positiveLabel if label is None else label
        if chosen not in self._counts:
            shown = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self.labels) > 10 else "")
            raise SparkimbError(
                f"Label {chosen!r} does not occur. Labels are: {shown}. Name one, or set positiveLabel."
            )
        return self._counts[chosen]

    def _score(self, formula: Callable[[Counts], float], label: Any, average: Average | None) -> float:
        if average is None:
            return formula(self._of(label))
        if average not in AVERAGES:
            raise SparkimbError(f"average is {average!r}. Choose one of: {', '.join(AVERAGES)}.")
        if label is not None:
            raise SparkimbError(f"label is {label!r} and average {average!r}. Give one of the two.")
        counts = self._counts.values()
        if average == "micro":
            return formula(Counts(*map(math.fsum, zip(*counts, strict=True))))
        weights = [at.actual if average == "weighted" else 1.0 for at in counts]
        return _mean(map(formula, counts), weights)

    def truePositives(self, label: Any = None) -> float:
        """Weight of the label's rows that were predicted so."""
        return self._of(label).tp

    def falsePositives(self, label: Any = None) -> float:
        """Weight of other rows that were predicted as the label."""
        return self._of(label).fp

    def falseNegatives(self, label: Any = None) -> float:
        """Weight of the label's rows that were predicted otherwise."""
        return self._of(label).fn

    def trueNegatives(self, label: Any = None) -> float:
        """Weight of other rows that were predicted as other, whether rightly or not."""
        return self._of(label).tn

    def precision(self, label: Any = None, *, average: Average | None = None) -> float:
        """Share of the rows predicted as the label that have it, in [0, 1]."""
        return self._score(lambda at: _share(at.tp, at.predicted), label, average)

    def recall(self, label: Any = None, *, average: Average | None = None) -> float:
        """Share of the label's rows that were predicted so (its sensitivity), in [0, 1]."""
        return self._score(lambda at: _share(at.tp, at.actual), label, average)

    def specificity(self, label: Any = None, *, average: Average | None = None) -> float:
        """Share of the other rows that were predicted as other, in [0, 1]."""
        return self._score(lambda at: _share(at.tn, at.tn + at.fp), label, average)

    def fBeta(self, beta: float, label: Any = None, *, average: Average | None = None) -> float:
        """Return the weighted harmonic mean of precision and recall, in [0, 1]; recall counts beta (> 0) times."""
        check_beta(beta)
        squared = beta * beta
        return self._score(
            lambda at: _share((1 + squared) * at.tp, (1 + squared) * at.tp + squared * at.fn + at.fp), label, average
        )

    def f1(self, label: Any = None, *, average: Average | None = None) -> float:
        """Return the harmonic mean of precision and recall, in [0, 1]."""
        return self.fBeta(1.0, label, average=average)

    def jaccard(self, label: Any = None, *, average: Average | None = None) -> float:
        """Return the rows that have the label and were predicted so, as a share of those that do either, in [0, 1]."""
        return self._score(lambda at: _share(at.tp, at.tp + at.fp + at.fn), label, average)

    def geometricMean(self, label: Any = None, *, average: Average | None = None) -> float:
        """Return sqrt(recall * specificity) of the label against the rest, or of their averages, in [0, 1].

        `gMean` looks at the recalls of all labels at once; with two labels both are the same.
        """
        return math.sqrt(self.recall(label, average=average) * self.specificity(label, average=average))

    def indexBalancedAccuracy(
        self, label: Any = None, *, average: Average | None = None, alpha: float = 0.1, squared: bool = True
    ) -> float:
        """Return (1 + alpha * (recall - specificity)) * geometricMean^2: the G-mean, tilted towards recall.

        Parameters
        ----------
        alpha : float, default=0.1
            How much the difference of recall and specificity (the dominance) counts.
        squared : bool, default=True
            Whether the geometric mean is squared.

        References
        ----------
        .. [1] Garcia, Sanchez and Mollineda, "On the effectiveness of preprocessing methods when dealing with different
               levels of class imbalance", Knowledge-Based Systems 25, 2012, 13-21.
        """
        check_alpha(alpha)
        recall, specificity = self.recall(label, average=average), self.specificity(label, average=average)
        product = recall * specificity
        return (1 + alpha * (recall - specificity)) * (product if squared else math.sqrt(product))

    @property
    def accuracy(self) -> float:
        """Share of the rows predicted rightly, in [0, 1]."""
        return _share(math.fsum(at.tp for at in self._counts.values()), self.total)

    @cached_property
    def _recalls(self) -> list[float]:
        """The recalls of the labels that have rows."""
        return [self.recall(label) for label, at in self._counts.items() if at.actual]

    @property
    def balancedAccuracy(self) -> float:
        """Mean recall over the labels that have rows, in [0, 1]."""
        return _share(math.fsum(self._recalls), len(self._recalls))

    @property
    def adjustedBalancedAccuracy(self) -> float:
        """`balancedAccuracy` on a scale where guessing gives 0 and no mistake 1; 0.0 if only one label has rows."""
        guessing = _share(1.0, len(self._recalls))
        return _share(self.balancedAccuracy - guessing, 1 - guessing)

    @property
    def gMean(self) -> float:
        """Geometric mean of the recalls, in [0, 1]: for two labels, of recall and specificity.

        0.0 if some label is never recalled; one that is predicted but has no rows counts as such.
        """
        return self.correctedGMean(0.0)

    def correctedGMean(self, correction: float) -> float:
        """Return `gMean` with a recall of `correction`, in [0, 1], for labels that are never recalled.

        So that one hopeless label of many does not hide how the others fare.
        """
        if not 0 <= correction <= 1:
            raise SparkimbError(f"correction is {correction}. Give the recall of a label never recalled, in [0, 1].")
        seen = [label for label, at in self._counts.items() if at.actual or at.predicted]
        recalls = [self.recall(label) or correction for label in seen]
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
        # Sums over the labels of what [1] writes as differences of squares of totals, which lose a rare label's digits.
        counts = self._counts.values()
        both = math.fsum(at.tp * at.tn - at.fp * at.fn for at in counts)
        spread = math.fsum(at.actual * (at.fp + at.tn) for at in counts)
        spread_predicted = math.fsum(at.predicted * (at.fn + at.tn) for at in counts)
        return _share(both, math.sqrt(spread) * math.sqrt(spread_predicted))

    def kappa(self, weights: Literal["linear", "quadratic"] | None = None) -> float:
        """Return Cohen's kappa in [-1, 1]: agreement of label and prediction beyond chance.

        0.0 if all rows have one label and that prediction.

        Parameters
        ----------
        weights : {"linear", "quadratic"}, optional
            For ordered labels: a mistake counts as the number of places, or its square, between label and prediction in
            `labels`.  By default all mistakes count alike.

        References
        ----------
        .. [1] Cohen, "Weighted kappa: nominal scale agreement with provision for scaled disagreement or partial
               credit", Psychological Bulletin 70, 1968, 213-220.
        """
        if weights not in (None, "linear", "quadratic"):
            raise SparkimbError(f"weights is {weights!r}. Choose 'linear', 'quadratic' or None.")
        power = {None: 0, "linear": 1, "quadratic": 2}[weights]
        place = {label: i for i, label in enumerate(self.labels)}
        observed = math.fsum(
            cell * abs(place[label] - place[prediction]) ** power
            for (label, prediction), cell in self.cells.items()
            if label != prediction
        )
        # Without weights the counts are exact: 0.0 says for any weights that there is nothing to agree on by chance.
        return 1 - observed * self.total / self._chance(power) if self._chance(0) else 0.0

    def _chance(self, power: int) -> float:
        """Sum actual[i] * predicted[j] * |i - j|^power over labels i != j, in one pass instead of over all pairs."""
        counts = list(self._counts.values())
        if power == 0:
            return math.fsum(at.actual * (at.fn + at.tn) for at in counts)
        actual, predicted = (np.array(part) for part in zip(*((at.actual, at.predicted) for at in counts), strict=True))
        if power == 1:  # |i - j| cuts between neighbouring labels lie between i and j
            below, below_predicted = np.cumsum(actual)[:-1], np.cumsum(predicted)[:-1]
            above, above_predicted = (np.cumsum(part[::-1])[::-1][1:] for part in (actual, predicted))
            return float(below @ above_predicted + above @ below_predicted)
        # Around the mean of the actual places the product of the first moments is 0.
        places = np.arange(len(counts)) - _share(float(np.arange(len(counts)) @ actual), self.total)
        return self.total * float(places**2 @ (actual + predicted))

    @property
    def macroAveragedMeanAbsoluteError(self) -> float:
        """Mean over the labels that have rows of the mean |label - prediction| of their rows; for numeric labels.

        References
        ----------
        .. [1] Baccianella, Esuli and Sebastiani, "Evaluation measures for ordinal regression", ISDA, 2009, 283-287.
        """
        if not all(isinstance(label, Real | Decimal) for label in self.labels):
            raise SparkimbError(
                f"macroAveragedMeanAbsoluteError needs labels that are numbers, but there is {self.labels[0]!r}. "
                "Turn ordered labels into their ranks; of names, look at balancedAccuracy."
            )
        errors: dict[Any, list[float]] = {}
        for (label, prediction), cell in self.cells.items():
            errors.setdefault(label, []).append(cell * abs(float(label) - float(prediction)))
        means = [math.fsum(errors[label]) / at.actual for label, at in self._counts.items() if at.actual]
        return _share(math.fsum(means), len(means))

    def report(self, alpha: float = 0.1) -> pd.DataFrame:
        """Return a row of metrics for each label, and their means weighted by the labels' rows as "avg / total".

        The columns are those of imbalanced-learn's `classification_report_imbalanced`: pre(cision), rec(all),
        spe(cificity), f1, geo (`geometricMean`), iba (`indexBalancedAccuracy` with `alpha`), and sup(port), the weight
        of the label's rows, whose last value is the total.  The means of geo and iba are of the labels' values; their
        methods with average="weighted" are of the averaged recall and specificity.
        """
        rows = [
            [
                self.precision(label),
                self.recall(label),
                self.specificity(label),
                self.f1(label),
                self.geometricMean(label),
                self.indexBalancedAccuracy(label, alpha=alpha),
                self._counts[label].actual,
            ]
            for label in self.labels
        ]
        *values, support = zip(*rows, strict=True)
        rows.append([*(_mean(value, support) for value in values), self.total])
        return pd.DataFrame(
            rows,
            index=pd.Index([*self.labels, "avg / total"], dtype=object),
            columns=["pre", "rec", "spe", "f1", "geo", "iba", "sup"],
        )


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
    check_alike(dataset, labelCol, predictionCol)
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


def check_alpha(alpha: float) -> None:
    """Refuse an alpha of the index balanced accuracy that is not finite."""
    if not math.isfinite(alpha):
        raise SparkimbError(f"alpha is {alpha}. Give a finite number; 0 leaves the dominance out.")


def check_alike(dataset: DataFrame, labelCol: str, predictionCol: str) -> None:
    """Check that labels and predictions are single values, both of one type or both numeric or boolean."""
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


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: Iterable[float], weights: Sequence[float]) -> float:
    return _share(math.fsum(v * w for v, w in zip(values, weights, strict=True)), math.fsum(weights))
