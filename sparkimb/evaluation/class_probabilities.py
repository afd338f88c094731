"""What stages that rewrite class probabilities share: columns read and written, numbers in the order of the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, NumericType

from sparkimb.columns import require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_scores import HasProbabilityCol
from sparkimb.params import column_name, number, param
from sparkimb.strategy import Label


class RewritesProbabilities(HasProbabilityCol):
    """A column of class probabilities that is read, and one that is written: a new one, or the same one."""

    outputCol = param("outputCol", "column written: a new one, or the one read", column_name("outputCol"))

    def getOutputCol(self) -> str:
        """Return outputCol."""
        return str(self.getOrDefault(self.outputCol))

    def _source(self) -> tuple[str, str]:
        """Return the Param that names the column read, and the column."""
        return "probabilityCol", self.getProbabilityCol()

    def _check_columns(self, dataset: DataFrame) -> None:
        """Check the column read and the one written."""
        param, name = self._source()
        require_columns(dataset, **{param: name})
        found = dataset.schema[name].dataType
        if not (isinstance(found, VectorUDT) or _holds_numbers(found)):
            raise SparkimbError(
                f"{param} '{name}' is of type {found.simpleString()}. It must be a vector or an array of numbers, with "
                "an entry for each class."
            )
        if self.getOutputCol() in dataset.columns and self.getOutputCol() != name:
            raise SparkimbError(
                f"outputCol '{self.getOutputCol()}' is there already. Name a column that the dataset does not have, or "
                f"'{name}' to replace what is read."
            )


def _holds_numbers(dataType: DataType) -> bool:
    return isinstance(dataType, ArrayType) and isinstance(dataType.elementType, NumericType)


def as_read(dataset: DataFrame, name: str, values: Column) -> Column:
    """Return an array of doubles as a vector if the column named is one; null where it is null."""
    if isinstance(dataset.schema[name].dataType, VectorUDT):
        return F.when(values.isNotNull(), array_to_vector(values))
    return values


def class_numbers(name: str) -> Callable[[Any], list[float]]:
    """Convert to a list of a number above 0 for each of two classes or more."""
    convert = number(name, 0, low_open=True)

    def convert_all(value: Any) -> list[float]:
        if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
            raise TypeError(
                f"{name} must be a list with a number for each class; got {value!r} of type {type(value).__name__}."
            )
        numbers = [convert(given) for given in value]
        if len(numbers) < 2:
            raise SparkimbError(f"{name} is {numbers}. Give one number for each of two classes or more.")
        return numbers

    return convert_all


def in_class_order(values: Mapping[Label, float], labels: Sequence[Label] | None) -> list[float]:
    """Return the values in the order of `labels`: by default 0, 1, ..., the order of pyspark's learners."""
    order = list(range(len(values))) if labels is None else list(labels)
    if len(order) != len(values) or set(order) != set(values):
        raise SparkimbError(
            f"labels are {order}, but there are numbers for {list(values)}. "
            "Give labels=[...]: every label once, in the order of the probabilities."
        )
    return [float(values[label]) for label in order]


def require_set(stage: Any, names: Sequence[str]) -> None:
    """Check that Params without a default are set."""
    lacking = [name for name in names if not stage.isSet(name)]
    if lacking:
        raise SparkimbError(
            f"{type(stage).__name__} needs {' and '.join(lacking)}: one number per class, in the order of the "
            "probabilities. Set it, or make the stage from a plan or from counts."
        )
