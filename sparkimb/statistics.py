"""What a dataset's classes look like.  Every function here runs one Spark job that scans the dataset, and says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DoubleType, FractionalType, StringType, StructField, StructType

from sparkimb.columns import Features, check_label_type, column, require_columns, temporary_name
from sparkimb.draws import Interval, bucket, bucket_interval, row_key, uniform
from sparkimb.errors import SparkimbError
from sparkimb.strategy import Label

Group: TypeAlias = tuple[Label, tuple[str | None, ...]]  # a class, in a stratum
Histogram: TypeAlias = dict[Interval, int]  # rows by interval of draws
INTERVAL_TYPE = StructType([StructField("low", DoubleType()), StructField("high", DoubleType())])

# Classes the driver will count.  A column with more values than this is no label.
MAX_CLASSES = 10_000
# Buckets of draws, of all classes and strata, that the driver will take in: at most 500 bytes each as rows of Python,
# 500 MB.  A group of n rows fills at most n of its 568 buckets.
MAX_BUCKETS = 1_000_000
# Draws the driver will look at, 100 MB, to split one small bucket of each class.  Only rows that share few draws
# between them, and so fill few buckets, can need more than some tens for a class.
MAX_DRAWS = 1_000_000
# Rows of one class whose draws are compared to estimate its share of exact duplicates: at 1 % the estimate's standard
# error is 0.1 %, and classes of this size or less are counted exactly.
DUPLICATE_SAMPLE = 10_000


def class_counts(dataset: DataFrame, *, labelCol: str = "label") -> dict[Label, int]:
    """Count the rows of each class: one job, one grouped aggregate.

    Raises
    ------
    SparkimbError
        If the column is missing or of another type than string, boolean, integer or double; if labels are null or NaN
        (with their number); if there are no rows, or more than 10,000 classes.
    """
    require_columns(dataset, labelCol=labelCol)
    check_label_type(dataset, labelCol)
    rows = _by_class(dataset.groupBy(column(labelCol).alias("label")).agg(F.count(F.lit(1)).alias("rows")), labelCol)
    return check_labels({row["label"]: row["rows"] for row in rows}, labelCol)


def check_labels(counts: Mapping[Any, int], labelCol: str) -> dict[Label, int]:
    """Check the counted labels, and return them in order: the largest class first, ties by text."""
    if not counts:
        raise SparkimbError(f"The dataset has no rows, so labelCol '{labelCol}' has no classes to count.")
    bad = {
        "null": sum(rows for label, rows in counts.items() if label is None),
        "NaN": sum(rows for label, rows in counts.items() if isinstance(label, float) and math.isnan(label)),
    }
    if any(bad.values()):
        found = " and ".join(f"{rows:,} {name}" for name, rows in bad.items() if rows)
        raise SparkimbError(
            f"labelCol '{labelCol}' has {found} labels in {sum(counts.values()):,} rows. Drop those rows or fill them."
        )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))))


def require_two_classes(counts: Mapping[Label, int], labelCol: str) -> None:
    """Check that there is something to balance."""
    if len(counts) < 2:
        label, rows = next(iter(counts.items()))
        raise SparkimbError(
            f"labelCol '{labelCol}' holds one class only: {label!r} in all {rows:,} rows. "
            "Two classes or more are needed: look at the filters before this step."
        )


def draw_histograms(
    dataset: DataFrame, *, labelCol: str, strataCols: Sequence[str], draw: Column
) -> dict[Group, Histogram]:
    """Count the rows of each class, stratum and bucket of draws: one job, one grouped aggregate.

    Strata are told apart by their values as strings.
    """
    strata = {f"stratum{i}": column(name).cast("string") for i, name in enumerate(strataCols)}
    # A draw that is a column is hashed once; in the tree of comparisons that is its bucket, again and again.
    drawn = dataset.select(
        column(labelCol).alias("label"), *(s.alias(name) for name, s in strata.items()), draw.alias("draw")
    )
    labels = drawn.groupBy("label", *strata, bucket(F.col("draw")).alias("bucket"))
    histograms: dict[Group, Histogram] = {}
    too_many = (
        f"labelCol '{labelCol}' with strataCols {list(strataCols)} has too many different values: its rows fill more "
        f"than {MAX_BUCKETS:,} buckets of draws. "
        "Is one a continuous column or an id? Bin it, or take a stratum that repeats."
    )
    for row in _at_most(MAX_BUCKETS, labels.agg(F.count(F.lit(1)).alias("rows")), too_many):
        histograms.setdefault((row[0], tuple(row[1:-2])), {})[bucket_interval(row[-2])] = row[-1]
    return histograms


def draws_in(
    dataset: DataFrame, *, labelCol: str, strataCols: Sequence[str], draw: Column, intervals: Mapping[Group, Interval]
) -> dict[Group, dict[float, int]]:
    """Count the rows of each draw in one interval of each group: one job, which collects those draws."""
    ends = temporary_name(dataset, "ends")
    joined = with_group_values(
        dataset,
        labelCol=labelCol,
        strataCols=strataCols,
        values=intervals,
        name=ends,
        dataType=INTERVAL_TYPE,
    )
    keys = [column(name).cast("string").alias(f"stratum{i}") for i, name in enumerate(strataCols)]
    counted = (
        joined.where((draw >= F.col(ends)["low"]) & (draw < F.col(ends)["high"]))
        .groupBy(column(labelCol).alias("label"), *keys, draw.alias("draw"))
        .agg(F.count(F.lit(1)).alias("rows"))
    )
    found: dict[Group, dict[float, int]] = {group: {} for group in intervals}
    for row in _at_most(MAX_DRAWS, counted, f"Too many rows of labelCol '{labelCol}' share few draws. Set idCols."):
        found[(row[0], tuple(row[1:-2]))][row[-2]] = row[-1]
    return found


def with_group_values(
    dataset: DataFrame,
    *,
    labelCol: str,
    strataCols: Sequence[str],
    values: Mapping[Group, Any],
    name: str,
    dataType: DataType,
) -> DataFrame:
    """Join a value to each row by its class and stratum, null for groups without one: lazy, a broadcast join."""
    label = temporary_name(dataset, "label")
    strata = [temporary_name(dataset, f"stratum{i}") for i in range(len(strataCols))]
    schema = StructType(
        [
            StructField(label, dataset.schema[labelCol].dataType),
            *(StructField(stratum, StringType()) for stratum in strata),
            StructField(name, dataType),
        ]
    )
    table = dataset.sparkSession.createDataFrame(
        [(c, *stratum, value) for (c, stratum), value in values.items()], schema
    )
    match = column(labelCol) == F.col(label)
    for given, stratum in zip(strataCols, strata, strict=True):
        match = match & column(given).cast("string").eqNullSafe(F.col(stratum))
    return dataset.join(F.broadcast(table), match, "left").drop(label, *strata)


def duplicate_shares(
    dataset: DataFrame, *, labelCol: str, keyCols: Sequence[str], counts: Mapping[Label, int]
) -> dict[Label, float]:
    """Estimate the share of rows that repeat an earlier row of their class: one job over a hash sample of the values.

    Exact for classes of up to 10,000 rows.  The sample is of values, so all copies of a row are in it or none.
    """
    draw = uniform(*row_key(dataset, keyCols), seed=0, purpose="statistics.duplicates")
    sampled = F.lit(False)
    for label, rows in counts.items():
        share = DUPLICATE_SAMPLE / rows if rows > DUPLICATE_SAMPLE else 1.0
        sampled = sampled | ((column(labelCol) == F.lit(label)) & (draw < F.lit(share)))
    values = dataset.where(sampled).groupBy(column(labelCol).alias("label"), draw.alias("draw"))
    shares = (
        values.agg(F.count(F.lit(1)).alias("rows"))
        .groupBy("label")
        .agg((1.0 - F.count(F.lit(1)) / F.sum("rows")).alias("share"))
    )
    return {row["label"]: row["share"] for row in shares.limit(MAX_CLASSES).collect()}


def number_of_features(dataset: DataFrame, features: Features) -> int:
    """Return how many numbers a row's features are: for a vector or array without metadata one small job, one row."""
    if features.form == "columns":
        return len(features.numeric)
    name = features.numeric[0]
    attributes = dataset.schema[name].metadata.get("ml_attr", {})
    if "num_attrs" in attributes:
        return int(attributes["num_attrs"])
    first = dataset.where(F.isnotnull(column(name))).select(column(name)).head()
    return 0 if first is None else len(first[0])


def _at_most(limit: int, dataset: DataFrame, otherwise: str) -> list[Any]:
    """Collect a dataset of at most `limit` rows, or say why it has more."""
    rows = dataset.limit(limit + 1).collect()
    if len(rows) > limit:
        raise SparkimbError(otherwise)
    return rows


def _by_class(counted: DataFrame, labelCol: str) -> list[Any]:
    return _at_most(
        MAX_CLASSES,
        counted,
        f"labelCol '{labelCol}' has more than {MAX_CLASSES:,} different values. "
        "Is it a continuous column or an id? Bin it, or name another column.",
    )


@dataclass(frozen=True)
class ImbalanceProfile:
    """How uneven the classes are, and what stands in the way of using the rows."""

    counts: dict[Label, int]
    nulls: dict[str, int]
    duplicateRows: int

    @property
    def rows(self) -> int:
        """Rows of all classes."""
        return sum(self.counts.values())

    @property
    def imbalanceRatio(self) -> float:
        """Rows of the largest class for each row of the smallest, in [1, inf)."""
        return max(self.counts.values()) / min(self.counts.values())

    @property
    def entropy(self) -> float:
        """Shannon entropy of the class shares, in bits: 0 for one class, log2(K) for K equal ones."""
        return -sum(n / self.rows * math.log2(n / self.rows) for n in self.counts.values())

    @property
    def entropyRatio(self) -> float:
        """Entropy over its maximum, in [0, 1]."""
        return self.entropy / math.log2(len(self.counts)) if len(self.counts) > 1 else 0.0

    @property
    def duplicateShare(self) -> float:
        """Share of rows that repeat an earlier row, in [0, 1)."""
        return self.duplicateRows / self.rows

    def effectiveNumbers(self, beta: float = 0.999) -> dict[Label, float]:
        """Return (1 - beta^n) / (1 - beta) for each class: what its n rows count for when rows overlap.

        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
        """
        return {label: -math.expm1(n * math.log(beta)) / (1.0 - beta) for label, n in self.counts.items()}


def imbalance_profile(
    dataset: DataFrame, *, labelCol: str = "label", columns: Sequence[str] | None = None, idCols: Sequence[str] = ()
) -> ImbalanceProfile:
    """Profile the classes: counts, nulls (and NaN) of each column, rows that repeat another row but for their ids.

    Two jobs: one grouped aggregate, and one that shuffles a 64-bit hash of every row to count exact duplicates.

    Parameters
    ----------
    columns : sequence of str, optional
        The columns looked at; by default all but the label and the ids.
    """
    names = list(columns) if columns is not None else [c for c in dataset.columns if c not in {labelCol, *idCols}]
    require_columns(dataset, labelCol=labelCol, idCols=idCols, columns=names)
    check_label_type(dataset, labelCol)

    def missing(name: str) -> Column:
        null = F.isnull(column(name))
        return null | F.isnan(column(name)) if isinstance(dataset.schema[name].dataType, FractionalType) else null

    aggregates = [
        F.count(F.lit(1)).alias("rows"),
        *(F.count_if(missing(c)).alias(f"null{i}") for i, c in enumerate(names)),
    ]
    rows = _by_class(dataset.groupBy(column(labelCol).alias("label")).agg(*aggregates), labelCol)
    counts = check_labels({row["label"]: row["rows"] for row in rows}, labelCol)
    nulls = {name: sum(row[f"null{i}"] for row in rows) for i, name in enumerate(names)}
    hashed = dataset.select(uniform(*row_key(dataset, [*names, labelCol]), seed=0, purpose="profile").alias("draw"))
    distinct = hashed.distinct().count()
    return ImbalanceProfile(counts, nulls, sum(counts.values()) - distinct)
