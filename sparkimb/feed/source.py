"""The rows to materialize: features as they will be written, what tells rows apart, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, NumericType

from sparkimb.columns import check_label_type, column, require_columns, resolve_features
from sparkimb.draws import row_key, uniform
from sparkimb.errors import SparkimbError
from sparkimb.feed.dealing import DRAW_BITS, FIRST_BITS, MAX_BUCKETS, Buckets
from sparkimb.statistics import MAX_CLASSES, check_labels, require_two_classes
from sparkimb.strategy import Label


@dataclass(frozen=True)
class Counted:
    """What one look at the rows found.

    Attributes
    ----------
    labels : list
        Sorted; a label's place is its code.
    counts, sums : list of int
        Rows of each class, and the sum of their hashes modulo 2^64, by code.
    width : int
        Features of a row; 0 for bytes.
    mean_bytes, most_bytes : int
        Of the features of a row.
    buckets : Buckets
    """

    labels: list[Label]
    counts: list[int]
    sums: list[int]
    width: int
    mean_bytes: int
    most_bytes: int
    buckets: Buckets


@dataclass(frozen=True)
class Source:
    """The columns of a dataset that are to be materialized.

    Attributes
    ----------
    layout : {"scalars", "array", "bytes"}
    features : tuple of str
    label : str
    weight : str or None
    rows : DataFrame
        Columns "f0", "f1", ... and `weight` (if any) as they will be written, `label` as it is, `content`, a hash of
        features and weight, and `draw`, an integer in [0, 2^53).
    """

    layout: str
    features: tuple[str, ...]
    label: str
    weight: str | None
    rows: DataFrame

    @property
    def written(self) -> list[str]:
        """The columns of `rows` that hold features and weight."""
        return [*(f"f{i}" for i in range(len(self.features))), *([] if self.weight is None else ["weight"])]

    def coded(self, labels: Sequence[Label]) -> DataFrame:
        """Return the rows with `code`, the place of their label in `labels`, and all `features` in one column.

        An array holds floats in half the bytes that they take as columns, when rows are shuffled and sorted.
        """
        of_labels = F.array(*map(F.lit, labels)).cast(ArrayType(self.rows.schema["label"].dataType))
        code = F.coalesce(F.array_position(of_labels, F.col("label")) - 1, F.lit(-1)).cast("int")
        names = self.written[: len(self.features)]
        features = F.array(*names) if self.layout == "scalars" else F.col("f0")
        others = ["content", "draw", *([] if self.weight is None else ["weight"])]
        return self.rows.select(features.alias("features"), code.alias("code"), *others)

    def count_rows(self) -> Counted:
        """Count the rows by class and draw, and refuse those that nothing can be learned from: one job, one aggregate.

        Raises
        ------
        SparkimbError
            With their numbers: labels, features or weights that are null, NaN or infinite; negative weights; arrays of
            different lengths.  One class only, no rows, too many classes.
        """
        weight = F.col("weight")
        size = {"scalars": F.lit(len(self.features)), "array": F.size("f0"), "bytes": F.octet_length("f0")}[self.layout]
        bad_weight = F.lit(False) if self.weight is None else ~_true((weight >= 0) & (weight < inf))
        fault = self._fault()
        counted = (
            self.rows.groupBy("label", F.shiftright("draw", DRAW_BITS - FIRST_BITS).alias("bucket"))
            .agg(
                F.count(F.lit(1)).alias("rows"),
                *hash_sums(),
                F.count(fault).alias("faults"),
                F.min(fault).alias("fault"),
                F.count_if(bad_weight).alias("weights"),
                F.min(size).alias("shortest"),
                F.max(size).alias("longest"),
                F.sum(size).alias("size"),
            )
            .limit(MAX_BUCKETS + 1)
            .toArrow()
        )
        found = {name: counted[name].to_numpy() for name in counted.column_names if name != "label"}
        given = counted["label"].to_pylist()
        counts: dict[Any, int] = {}
        for label, rows in zip(given, found["rows"].tolist(), strict=True):
            counts[label] = counts.get(label, 0) + rows
        if len(counts) > MAX_CLASSES or len(given) > MAX_BUCKETS:
            raise SparkimbError(
                f"labelCol '{self.label}' has too many different values: {MAX_CLASSES:,} are possible. Is it a "
                "continuous column or an id? Bin it, or name another column."
            )
        require_two_classes(check_labels(counts, self.label), self.label)
        self._refuse(found)
        labels = sorted(counts)
        codes = {label: code for code, label in enumerate(labels)}
        code = np.array([codes[label] for label in given])
        sums = [
            hash_sum(*(sum(found[half][code == c].tolist()) for half in ("high", "low"))) for c in range(len(labels))
        ]
        each, most = 1 if self.layout == "bytes" else 4, int(found["longest"].max())
        return Counted(
            labels=labels,
            counts=[counts[label] for label in labels],
            sums=sums,
            width=0 if self.layout == "bytes" else most,
            mean_bytes=each * int(found["size"].sum()) // int(found["rows"].sum()),
            most_bytes=each * most,
            buckets=Buckets.of_all(code, found["bucket"], found["rows"]),
        )

    def _fault(self) -> Column:
        """Return the number of a row's first feature that is no finite number, or null."""
        if self.layout == "scalars":
            return F.coalesce(
                *(F.when(~_true(F.abs(F.col(f"f{i}")) < inf), i) for i in range(len(self.features))), F.lit(None)
            )
        value = F.col("f0")
        if self.layout == "bytes":
            return F.when(~_true(F.octet_length(value) > 0), 0)
        # NaN is above all numbers; whether an array contains a number is null where it has nulls and not the number.
        finite = (F.array_max(value) < inf) & (F.array_min(value) > -inf)
        return F.when(~_true(finite & ~F.array_contains(value, F.lit(float("nan")).cast("float"))), 0)

    def _refuse(self, found: dict[str, Any]) -> None:
        rows, faults, weights = (int(found[name].sum()) for name in ("rows", "faults", "weights"))
        problems = []
        if faults:
            first = self.features[int(np.nanmin(found["fault"].astype(float)))]
            what = "null or empty" if self.layout == "bytes" else "null, NaN or infinite as 32-bit floats"
            among = f", the first in '{first}'" if len(self.features) > 1 else f" in '{first}'"
            problems.append(f"Features are {what} in {faults:,} of {rows:,} rows{among}.")
        elif self.layout == "array" and (shortest := found["shortest"].min()) < (longest := found["longest"].max()):
            problems.append(f"featuresCol '{self.features[0]}' has from {shortest} to {longest} numbers in a row.")
        if weights:
            problems.append(f"weightCol '{self.weight}' is null, NaN, infinite or negative in {weights:,} rows.")
        if problems:
            raise SparkimbError(f"{' '.join(problems)} Fill or drop these rows first; nothing was written.")


def source_of(
    dataset: DataFrame,
    *,
    featuresCol: str,
    inputCols: Sequence[str] | None,
    imageCol: str | None,
    labelCol: str,
    weightCol: str | None,
    idCols: Sequence[str] | None,
    seed: int,
) -> Source:
    """Check the columns of a dataset, and return its rows as they will be written: lazy."""
    if inputCols and imageCol is not None:
        raise SparkimbError(f"inputCols {list(inputCols)} and imageCol '{imageCol}' are both given. Leave one out.")
    given: dict[str, str | Sequence[str]] = {"featuresCol": featuresCol}
    if inputCols:
        given = {"inputCols": inputCols}
    elif imageCol is not None:
        given = {"imageCol": imageCol}
    require_columns(dataset, **given, labelCol=labelCol, weightCol=weightCol, idCols=idCols)
    check_label_type(dataset, labelCol)
    if weightCol is not None and not isinstance(found := dataset.schema[weightCol].dataType, NumericType):
        raise SparkimbError(f"weightCol '{weightCol}' is of type {found.simpleString()}. It must be a number: cast it.")
    layout, features, written = _features(dataset, featuresCol, inputCols, imageCol)
    names = [*features, labelCol, *([] if weightCol is None else [weightCol])]
    if len({name.lower() for name in names}) < len(names):
        raise SparkimbError(
            f"Features, label and weight are the columns {names}, of which two differ in case at most. Name or rename "
            "columns so that each has its own name."
        )
    columns = {f"f{i}": value for i, value in enumerate(written)}
    if weightCol is not None:
        columns["weight"] = column(weightCol).cast("float")
    ids = {} if idCols is None else {"draw": _draw(row_key(dataset, idCols), seed)}
    selected = {**columns, "label": column(labelCol), **ids}
    rows = dataset.select(*(value.alias(name) for name, value in selected.items()))
    rows = rows.withColumn("content", content_hash(list(columns)))
    if idCols is None:
        rows = rows.withColumn("draw", _draw([F.col("content")], seed))
    return Source(layout, features, labelCol, weightCol, rows)


def _features(
    dataset: DataFrame, featuresCol: str, inputCols: Sequence[str] | None, imageCol: str | None
) -> tuple[str, tuple[str, ...], list[Column]]:
    if imageCol is not None:
        found = dataset.schema[imageCol].dataType
        if not isinstance(found, BinaryType):
            raise SparkimbError(
                f"imageCol '{imageCol}' is of type {found.simpleString()}. It holds the bytes of image files, as the "
                "column 'content' of spark.read.format('binaryFile') does."
            )
        return "bytes", (imageCol,), [column(imageCol)]
    features = resolve_features(dataset, featuresCol=featuresCol, inputCols=inputCols, categoricalCols=None)
    if features.form == "columns":
        return "scalars", features.numeric, [column(name).cast("float") for name in features.numeric]
    value = column(features.numeric[0])
    if features.form == "vector":  # which Spark cannot convert where it is null
        return "array", features.numeric, [F.when(value.isNotNull(), vector_to_array(value, "float32"))]
    return "array", features.numeric, [value.cast("array<float>")]


def content_hash(names: Sequence[str]) -> Column:
    """Return the hash of a row's features and weight, as they are written."""
    return F.xxhash64(*map(column, names))


def hash_sums() -> list[Column]:
    """Sum the column `content` of up to 2^31 rows, in two halves that cannot overflow."""
    low = F.sum(F.col("content").bitwiseAND(2**32 - 1)).alias("low")
    return [F.sum(F.shiftright("content", 32)).alias("high"), low]


def hash_sum(high: int, low: int) -> int:
    """Return the sum modulo 2^64 of which these are the halves."""
    return ((high << 32) + low) % 2**64


def _draw(key: Sequence[Column], seed: int) -> Column:
    return (uniform(*key, seed=seed, purpose="feed.materialize") * 2.0**DRAW_BITS).cast("bigint")


def _true(condition: Column) -> Column:
    """Say whether a condition is true, and not null."""
    return F.coalesce(condition, F.lit(False))
