"""What every metric checks and reads: scores, labels, weights, and the faults that rows may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DoubleType, FloatType, NumericType, StringType

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.errors import SparkimbError


def require_numeric(dataset: DataFrame, **names: str | None) -> None:
    """Check that every column named is a number.  The keywords are the Params that name them."""
    for param, name in names.items():
        found = dataset.schema[name].dataType if name is not None else None
        if found is None or isinstance(found, NumericType):
            continue
        hint = f"Take one entry: vector_to_array('{name}')[1]." if isinstance(found, VectorUDT) else "Cast it."
        raise SparkimbError(f"{param} '{name}' is of type {found.simpleString()}, not a number. {hint}")


def is_positive(dataset: DataFrame, labelCol: str, positiveLabel: Any) -> Column:
    """Return whether the label is the positive one; null where the label is null or NaN."""
    check_label_type(dataset, labelCol)
    found, label = dataset.schema[labelCol].dataType, column(labelCol)
    if isinstance(found, StringType):
        fits = isinstance(positiveLabel, str)
    elif isinstance(found, BooleanType):
        fits = positiveLabel in (0, 1)
        positiveLabel = bool(positiveLabel) if fits else positiveLabel
    else:
        fits = isinstance(positiveLabel, int | float | np.number) and positiveLabel == positiveLabel
        positiveLabel = int(positiveLabel) if isinstance(positiveLabel, bool) else positiveLabel
    if not fits:
        raise SparkimbError(
            f"positiveLabel is {positiveLabel!r}, but labelCol '{labelCol}' is of type {found.simpleString()}. "
            "Give the label of the positive class as it stands in the column."
        )
    positive = label == F.lit(positiveLabel)
    return F.when(~F.isnan(label), positive) if isinstance(found, DoubleType | FloatType) else positive


def weight(weightCol: str | None) -> Column:
    """Return the weight of a row as a double: 1 without a weight column."""
    return F.lit(1.0) if weightCol is None else column(weightCol).cast("double")


def bad_weight(weight: Column) -> Column:
    """Return whether a weight is null, NaN, negative or infinite; never null."""
    return ~F.coalesce((weight >= 0) & (weight < float("inf")), F.lit(False))


def scored_rows(
    dataset: DataFrame,
    *,
    scoreCol: str,
    labelCol: str,
    positiveLabel: Any,
    weightCol: str | None,
    probabilities: bool = False,
) -> tuple[DataFrame, dict[str, Column]]:
    """Return the columns `score`, `positive` and `weight`, and the faults that a row of them may have, by their names.

    Parameters
    ----------
    probabilities : bool
        Whether scores are to be in [0, 1], or any finite numbers.
    """
    require_columns(dataset, scoreCol=scoreCol, labelCol=labelCol, weightCol=weightCol)
    require_numeric(dataset, scoreCol=scoreCol, weightCol=weightCol)
    rows = dataset.select(
        column(scoreCol).cast("double").alias("score"),
        is_positive(dataset, labelCol, positiveLabel).alias("positive"),
        weight(weightCol).alias("weight"),
    )
    score = F.col("score")
    if probabilities:
        wrong = {f"scoreCol '{scoreCol}' outside [0, 1]": F.isnan(score) | ~score.between(0, 1)}
    else:
        wrong = {
            f"NaN in scoreCol '{scoreCol}'": F.isnan(score),
            f"infinite scoreCol '{scoreCol}'": F.abs(score) == float("inf"),
        }
    faults = {
        f"null scoreCol '{scoreCol}'": score.isNull(),
        **wrong,
        f"null or NaN labelCol '{labelCol}'": F.col("positive").isNull(),
        f"weightCol '{weightCol}' null, NaN, negative or infinite": bad_weight(F.col("weight")),
    }
    return rows, faults


def fault_code(faults: Mapping[str, Column]) -> Column:
    """Return the number, from 1, of the first fault that a row has; 0 if it has none."""
    code = F.lit(0)
    for number, fault in reversed(list(enumerate(faults.values(), start=1))):
        code = F.when(fault, number).otherwise(code)
    return code


def refuse_faults(faults: Mapping[str, Column], rows: Mapping[int, int]) -> None:
    """Raise if the count of rows by fault code holds a fault, or no row at all."""
    if not sum(rows.values()):
        raise SparkimbError("The dataset has no rows, so there is nothing to evaluate. Check the filters before it.")
    found = [f"{rows[number]} with {name}" for number, name in enumerate(faults, start=1) if rows.get(number)]
    if found:
        raise SparkimbError(
            f"Of {sum(rows.values())} rows some cannot be evaluated: {', '.join(found)}. Repair or drop these rows."
        )


def bucket(value: Column, cuts: npt.ArrayLike) -> Column:
    """Return how many of the rising cuts lie below the value, by bisection."""
    rising = np.asarray(cuts, dtype=float).tolist()

    def search(low: int, high: int) -> Column:
        if low == high:
            return F.lit(low)
        middle = (low + high) // 2
        return F.when(value > rising[middle], search(middle + 1, high)).otherwise(search(low, middle))

    return search(0, len(rising))
