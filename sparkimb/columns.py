"""Columns of a dataset: names, checks, and the three forms in which features come."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    ByteType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    FractionalType,
    IntegralType,
    NumericType,
    ShortType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from sparkimb.errors import SparkimbError

SINGLE = (FloatType, ByteType, ShortType)  # types that a 32-bit float holds


def column(name: str) -> Column:
    """Return the top-level column of this name, dots and backticks in it included."""
    return F.col(quoted(name))


def quoted(name: str) -> str:
    """Return a column's name as SQL takes it."""
    return "`" + name.replace("`", "``") + "`"


def require_columns(dataset: DataFrame, **names: str | Sequence[str] | None) -> None:
    """Check that every column named is there, and there once.  The keywords are the Params that name them."""
    present = Counter(dataset.columns)
    wanted = [
        (param, name) for param, given in names.items() for name in ([given] if isinstance(given, str) else given or [])
    ]
    missing = [(param, name) for param, name in wanted if name not in present]
    if missing:
        listed = ", ".join(f"{param} '{name}'{_nearest(name, present)}" for param, name in missing)
        hint = " Did you run VectorAssembler?" if any(param == "featuresCol" for param, _ in missing) else ""
        raise SparkimbError(f"{listed} not found. Columns are: {', '.join(dataset.columns)}.{hint}")
    doubled = sorted({name for _, name in wanted if present[name] > 1})
    if doubled:
        raise SparkimbError(f"Column names {doubled} stand more than once in the dataset. Rename or drop the others.")


def _nearest(name: str, present: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, present, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def check_label_type(dataset: DataFrame, labelCol: str) -> None:
    """Check that the label column is a string, boolean, integer, float or double."""
    found = dataset.schema[labelCol].dataType
    if isinstance(found, DecimalType) or not isinstance(found, StringType | BooleanType | NumericType):
        raise SparkimbError(
            f"labelCol '{labelCol}' is of type {found.simpleString()}. "
            "Labels are strings, booleans, integers or doubles: cast it."
        )


def check_time_type(dataset: DataFrame, timeCol: str | None) -> None:
    """Check that the time column, if there is one, is a timestamp."""
    if timeCol is None:
        return
    found = dataset.schema[timeCol].dataType
    if not isinstance(found, TimestampType | TimestampNTZType):
        raise SparkimbError(f"timeCol '{timeCol}' is of type {found.simpleString()}. Cast it to a timestamp.")


def temporary_name(dataset: DataFrame, stem: str) -> str:
    """Return a column name that the dataset does not use."""
    taken = {name.lower() for name in dataset.columns}
    name, n = f"__{stem}", 0
    while name.lower() in taken:
        n += 1
        name = f"__{stem}_{n}"
    return name


@dataclass(frozen=True)
class Features:
    """The feature columns of a dataset: one vector or array column, or several scalar columns."""

    form: Literal["vector", "array", "columns"]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that hold features."""
        return self.numeric + self.categorical


def resolve_features(
    dataset: DataFrame, *, featuresCol: str, inputCols: Sequence[str] | None, categoricalCols: Sequence[str] | None
) -> Features:
    """Find the features: `inputCols` and `categoricalCols` where either is given, else `featuresCol`."""
    if inputCols or categoricalCols:
        require_columns(dataset, inputCols=inputCols, categoricalCols=categoricalCols)
        wrong = [
            f"'{name}' ({dataset.schema[name].dataType.simpleString()})"
            for name in inputCols or ()
            if not isinstance(dataset.schema[name].dataType, NumericType)
        ]
        if wrong:
            raise SparkimbError(
                f"inputCols {', '.join(wrong)} are not numeric. Name them in categoricalCols, or cast them."
            )
        return Features("columns", tuple(inputCols or ()), tuple(categoricalCols or ()))
    require_columns(dataset, featuresCol=featuresCol)
    found = dataset.schema[featuresCol].dataType
    if isinstance(found, VectorUDT):
        return Features("vector", (featuresCol,))
    if isinstance(found, ArrayType) and isinstance(found.elementType, FractionalType):
        return Features("array", (featuresCol,))
    raise SparkimbError(
        f"featuresCol '{featuresCol}' is of type {found.simpleString()}. "
        "Features are a vector, an array of doubles or floats, or scalar columns named by inputCols."
    )


def cast_like(value: Column, dataType: DataType) -> Column:
    """Cast a double to a feature's own type; integers are rounded to the nearest."""
    return (F.round(value) if isinstance(dataType, IntegralType) else value).cast(dataType)


def case_of(value: Column, results: Mapping[Any, Any], otherwise: Column) -> Column:
    """Return the literal that belongs to a value."""
    cases = F.when(F.lit(False), otherwise)
    for found, result in results.items():
        cases = cases.when(value == F.lit(found), F.lit(result))
    return cases.otherwise(otherwise)


def in_small_methods(value: Column) -> Column:
    """Return the value in a way that makes Spark cut the code of its whole projection into small methods.

    Of all that is done with a row Spark makes one method, unless a function that takes a lambda is part of it.  Java
    compiles no method of more than 8,000 bytes: such a one takes five to ten times as long.
    """
    return F.get(F.transform(F.array(value), lambda x: x), 0)


def number_type(types: Sequence[DataType]) -> DataType:
    """Return float if it holds numbers of all of these types, else double."""
    elements = [t.elementType if isinstance(t, ArrayType) else t for t in types]
    return FloatType() if elements and all(isinstance(t, SINGLE) for t in elements) else DoubleType()


def feature_array(dataset: DataFrame, features: Features, d: int) -> Column:
    """Return the numeric features as an array of d floats or doubles; a null vector or array is all missing."""
    element = number_type([dataset.schema[name].dataType for name in features.numeric])
    if features.form == "columns":
        # As text, for one call to the JVM instead of four for each feature.
        numbers = ", ".join(f"CAST({quoted(name)} AS {element.simpleString()})" for name in features.numeric)
        return F.expr(f"array({numbers})").cast(ArrayType(element))
    value = column(features.numeric[0])
    array = vector_to_array(value) if features.form == "vector" else value.cast(ArrayType(element))
    return F.when(F.isnull(value), F.array_repeat(F.lit(float("nan")).cast(element), d)).otherwise(array)
