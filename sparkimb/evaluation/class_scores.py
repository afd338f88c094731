"""The columns in which classifiers write, a score for each class and a decision, and the Params that name them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_
from typing import Any

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, NumericType

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.params import CheckedParams, column_name, param
from sparkimb.strategy import Label


def class_label(name: str) -> Callable[[Any], Label]:
    """Convert to one label: a string, boolean, integer or finite float."""

    def convert(value: Any) -> Label:
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, str | bool | int | float):
            raise TypeError(
                f"{name} must be a string, boolean or number; got {value!r} of type {type(value).__name__}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise SparkimbError(f"{name} is {value}. Give a label that rows can have.")
        return value

    return convert


def class_labels(name: str) -> Callable[[Any], list[Label]]:
    """Convert to a list of two distinct labels or more, all strings or none."""
    convert = class_label(name)

    def convert_all(value: Any) -> list[Label]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(f"{name} must be a list of labels; got {value!r} of type {type(value).__name__}.")
        labels = [convert(label) for label in value]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise SparkimbError(f"{name} is {labels}. Name two classes or more, each once.")
        if len({isinstance(label, str) for label in labels}) > 1:
            raise SparkimbError(f"{name} is {labels}. Give labels of one type, that of labelCol.")
        return labels

    return convert_all


class HasProbabilityCol(CheckedParams):
    """The column of class probabilities: a vector or array with one entry per class, or one number."""

    probabilityCol = param("probabilityCol", "column of class probabilities", column_name("probabilityCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(probabilityCol="probability")

    def getProbabilityCol(self) -> str:
        """Return probabilityCol."""
        return str(self.getOrDefault(self.probabilityCol))


class HasPredictionCol(CheckedParams):
    """The column of decisions, which holds labels."""

    predictionCol = param("predictionCol", "column of decisions", column_name("predictionCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(predictionCol="prediction")

    def getPredictionCol(self) -> str:
        """Return predictionCol."""
        return str(self.getOrDefault(self.predictionCol))


class HasLabels(CheckedParams):
    """The classes in the order of the entries of a vector, as StringIndexerModel.labels gives them."""

    labels = param("labels", "the classes in the order of the entries of a vector", class_labels("labels"))

    def getLabels(self) -> list[Label] | None:
        """Return labels, or None."""
        value: list[Label] | None = self._optional(self.labels)
        return value


class HasWeightCol(CheckedParams):
    """A column of weights of the rows, read."""

    weightCol = param("weightCol", "weights of the rows", column_name("weightCol"))

    def getWeightCol(self) -> str | None:
        """Return weightCol, or None."""
        value: str | None = self._optional(self.weightCol)
        return value


def entry_of(label: Label, labels: Sequence[Label] | None, by: str = "positiveLabel") -> int:
    """Return the entry of a vector that belongs to a label: its place in the labels or, without these, its number."""
    if labels is not None:
        if label not in labels:
            raise SparkimbError(f"{by} is {label!r}, but labels are {list(labels)}. Name one of them.")
        return list(labels).index(label)
    if isinstance(label, str) or label < 0 or label != int(label):
        raise SparkimbError(
            f"{by} is {label!r}, so the entry of a vector that belongs to it is not known. Set labels to all labels "
            "in the order of the vector: StringIndexerModel.labels."
        )
    return int(label)


def require_scores(dataset: DataFrame, name: str, *, by: str, several: bool = False) -> None:
    """Check the column that the Param `by` names: a vector, an array of numbers or, unless `several`, a number."""
    require_columns(dataset, **{by: name})
    found = dataset.schema[name].dataType
    array = isinstance(found, ArrayType) and isinstance(found.elementType, NumericType)
    if not (isinstance(found, VectorUDT) or array or (isinstance(found, NumericType) and not several)):
        raise SparkimbError(
            f"{by} '{name}' is of type {found.simpleString()}. It must be a vector or an array of numbers"
            f"{'' if several else ', or a number'}: name a column that a classifier wrote."
        )


def class_score(dataset: DataFrame, name: str, entry: Callable[[], int]) -> Column:
    """Return one entry of a vector or array column, null where it has none; a column of numbers as it is.

    `entry` is asked only where it is needed.
    """
    if isinstance(dataset.schema[name].dataType, NumericType):
        return column(name).cast("double")
    return F.get(entries(dataset, name), F.lit(entry()))


def class_scores(dataset: DataFrame, name: str, classes: int) -> list[Column]:
    """Return the entries of a vector or array column; null in rows that have another number of them."""
    found = entries(dataset, name)
    return [F.get(F.when(F.size(found) == classes, found), F.lit(i)) for i in range(classes)]


def entries(dataset: DataFrame, name: str) -> Column:
    """Return a vector or array column as array<double>; null where it is null."""
    value = column(name)
    if isinstance(dataset.schema[name].dataType, VectorUDT):
        return F.when(value.isNotNull(), vector_to_array(value))
    return value.cast("array<double>")


def label_of_largest(scores: Sequence[Column], labels: Sequence[Label]) -> Column:
    """Return the label with the largest score, of equals the first; null where a score is null or NaN."""
    largest = F.greatest(*scores)
    first = F.coalesce(*(F.when(score == largest, F.lit(label)) for score, label in zip(scores, labels, strict=True)))
    return F.when(reduce(and_, map(known, scores)), first)


def known(score: Column) -> Column:
    """Return whether a double is neither null nor NaN, which Spark takes for the largest number; never null."""
    return score.isNotNull() & ~F.isnan(score)
