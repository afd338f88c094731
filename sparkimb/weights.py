"""Class weights as a column: the same effect on most learners as resampling, and no row added or dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pyspark import keyword_only
from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.params import HasLabelCol, choice, column_name, label_map, number, param
from sparkimb.persistence import JsonStage
from sparkimb.statistics import class_counts, require_two_classes
from sparkimb.strategy import Label, match_label

MODES = ("balanced", "inverse", "sqrtInverse", "log", "maxRatio", "medianFrequency", "effectiveNumber")


def class_weights(mode: str, counts: Mapping[Label, int], *, beta: float = 0.999) -> dict[Label, float]:
    """Return the weight of each class, scaled so that the mean over the rows is 1.

    Parameters
    ----------
    mode : str
        With n rows, K classes and n_c rows of class c, in proportion to: "balanced" n / (K n_c); "inverse" 1 / n_c;
        "sqrtInverse" 1 / sqrt(n_c); "log" 1 + log(max n / n_c); "maxRatio" max n / n_c; "medianFrequency"
        median n / n_c; "effectiveNumber" (1 - beta) / (1 - beta^n_c) (Cui et al., 2019).  Scaled to mean 1, "balanced",
        "inverse", "maxRatio" and "medianFrequency" are one and the same; the names are kept for those who know them.
    beta : float in (0, 1), default=0.999
        For "effectiveNumber" alone; towards 0 all weights are equal, towards 1 they are "inverse".
    """
    n, k = sum(counts.values()), len(counts)
    largest = max(counts.values())
    ordered = sorted(counts.values())
    median = (ordered[(k - 1) // 2] + ordered[k // 2]) / 2
    formulas: dict[str, Callable[[int], float]] = {
        "balanced": lambda rows: n / (k * rows),
        "inverse": lambda rows: 1 / rows,
        "sqrtInverse": lambda rows: 1 / math.sqrt(rows),
        "log": lambda rows: 1 + math.log(largest / rows),
        "maxRatio": lambda rows: largest / rows,
        "medianFrequency": lambda rows: median / rows,
        # expm1 keeps the digits that 1 - beta^n loses when beta is close to 1
        "effectiveNumber": lambda rows: (1 - beta) / -math.expm1(rows * math.log(beta)),
    }
    formula = formulas[mode]
    return normalised({label: formula(rows) for label, rows in counts.items()}, counts)


def normalised(weights: Mapping[Label, float], counts: Mapping[Label, int]) -> dict[Label, float]:
    """Scale weights so that their mean over the rows is 1."""
    mean = sum(weights[label] * rows for label, rows in counts.items()) / sum(counts.values())
    return {label: weight / mean for label, weight in weights.items()}


class _Params(HasLabelCol, JsonStage):
    weightCol = param("weightCol", "weight column, written; multiplied where it exists", column_name("weightCol"))
    mode = param("mode", "how weights follow from class counts", choice("mode", MODES))
    beta = param("beta", "overlap of rows in mode effectiveNumber", number("beta", 0, 1 - 1e-12, low_open=True))
    weights = param("weights", "weights by label, instead of a mode", label_map("weights", number("weights", 0)))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(weightCol="weight", mode="balanced", beta=0.999)

    def getWeightCol(self) -> str:
        """Return weightCol."""
        return str(self.getOrDefault(self.weightCol))

    def getMode(self) -> str:
        """Return mode."""
        return str(self.getOrDefault(self.mode))

    def getBeta(self) -> float:
        """Return beta."""
        return float(self.getOrDefault(self.beta))

    def getWeights(self) -> dict[str, float] | None:
        """Return weights, or None."""
        value: dict[str, float] | None = self._optional(self.weights)
        return value


class ClassWeigher(_Params, Estimator["ClassWeigherModel"]):
    """Weigh rows by their class.

    For learners that take `weightCol`: in pyspark.ml LogisticRegression, LinearSVC, decision trees, random forests,
    gradient-boosted trees, NaiveBayes and OneVsRest do; FMClassifier accepts it and ignores it; the multilayer
    perceptron has none.  Adds no rows and drops none, so it is safe in any Pipeline.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN in the training rows.
    weightCol : str, default="weight"
        Output column.  If the dataset has it, its weights are multiplied (it must be numeric); else it is added.
    mode : str, default="balanced"
        "balanced", "inverse", "sqrtInverse", "log", "maxRatio", "medianFrequency" or "effectiveNumber": see
        `class_weights`.
    beta : float in (0, 1), default=0.999
        For mode "effectiveNumber".
    weights : dict, optional
        Weights in [0, inf) by label, for every class of the data, instead of a mode.  Normalised like the others.

    Raises
    ------
    SparkimbError
        In `fit`: a missing column, a weightCol that is not numeric; null labels, a single class; weights for unknown
        labels, or not for all.

    Notes
    -----
    Rows:   as they come.  Class weights have mean 1 over the training rows; unseen and null labels get 1.0, as do all
            rows where the label column is missing altogether, as it may be at scoring time.
    Cost:   fit: one aggregate over the label.  transform: lazy, one column expression.

    Examples
    --------
    >>> ClassWeigher(labelCol="fraud").fit(train).transform(train)  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        labelCol: str = "label",
        weightCol: str = "weight",
        mode: str = "balanced",
        beta: float = 0.999,
        weights: Mapping[Any, float] | None = None,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> ClassWeigherModel:
        require_columns(dataset, labelCol=self.getLabelCol())
        check_label_type(dataset, self.getLabelCol())
        _check_weight_type(dataset, self.getWeightCol())
        counts = class_counts(dataset, labelCol=self.getLabelCol())
        require_two_classes(counts, self.getLabelCol())
        given = self.getWeights()
        model = ClassWeigherModel()
        model.counts = counts
        model.classWeights = (
            class_weights(self.getMode(), counts, beta=self.getBeta())
            if given is None
            else normalised(_all_labels(given, counts), counts)
        )
        return self._copyValues(model._resetUid(self.uid))


class ClassWeigherModel(_Params, Model):
    """A fitted ClassWeigher: `counts` and `classWeights`, by label."""

    counts: dict[Label, int]
    classWeights: dict[Label, float]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        _check_weight_type(dataset, self.getWeightCol())
        weight = self._weight(dataset)
        if self.getWeightCol() in dataset.columns:
            weight = weight * column(self.getWeightCol())
        return dataset.withColumn(self.getWeightCol(), weight)

    def _weight(self, dataset: DataFrame) -> Column:
        if self.getLabelCol() not in dataset.columns:
            return F.lit(1.0)
        cases = F.when(F.lit(False), F.lit(1.0))
        for label, weight in self.classWeights.items():
            cases = cases.when(column(self.getLabelCol()) == F.lit(label), F.lit(weight))
        return cases.otherwise(F.lit(1.0))

    def _state(self) -> dict[str, Any]:
        return {"classes": [[label, rows, self.classWeights[label]] for label, rows in self.counts.items()]}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.counts = {label: rows for label, rows, _ in state["classes"]}
        self.classWeights = {label: weight for label, _, weight in state["classes"]}


def _check_weight_type(dataset: DataFrame, weightCol: str) -> None:
    if weightCol in dataset.columns and not isinstance(dataset.schema[weightCol].dataType, NumericType):
        raise SparkimbError(
            f"weightCol '{weightCol}' exists and is of type {dataset.schema[weightCol].dataType.simpleString()}, so "
            "class weights cannot be multiplied into it. Cast it, or name another column."
        )


def _all_labels(given: Mapping[str, float], counts: Mapping[Label, int]) -> dict[Label, float]:
    found = {key: match_label(key, counts) for key in given}
    unknown = [key for key, label in found.items() if label is None]
    lacking = [label for label in counts if label not in found.values()]
    if unknown or lacking:
        raise SparkimbError(
            f"ClassWeigher.weights names labels {list(given)}; unknown are {unknown}, missing are {lacking}. "
            f"Give one weight for each label: {', '.join(repr(label) for label in counts)}."
        )
    weights = {label: given[key] for key, label in found.items() if label is not None}
    if not any(weights.values()):
        raise SparkimbError("ClassWeigher.weights are all 0, so no row would count. Give a class a weight above 0.")
    return weights
