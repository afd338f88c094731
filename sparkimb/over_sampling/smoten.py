"""SMOTEN: SMOTE for rows of categories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from sparkimb.columns import Features
from sparkimb.draws import uniform_numbers
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.categories import ValueDifference, ValueDifferenceSpace, categories, check_categories, vote
from sparkimb.neighbors.search import Batches, Unit, Work
from sparkimb.neighbors.spaces import Space
from sparkimb.over_sampling.synthesis import Layout, SyntheticOverSampler, SyntheticOverSamplerModel, made_rows
from sparkimb.strategy import Label

# Counts in the tables of all columns together, values times classes: they are collected as at most so many rows, 20 MB,
# stay in the model and travel with every task.  With two classes 100,000 values.
MAX_COUNTS = 200_000


class SMOTENModel(SyntheticOverSamplerModel):
    """A fitted SMOTEN: how many rows are made of each row of a class that grows, and the classes of its values."""

    values: list[dict[str, list[int]]]

    def _rows(self, dataset: DataFrame, features: Features, keyCols: Sequence[str], d: int) -> DataFrame:
        """Add the texts, by which values are known, of columns that are no strings."""
        texts = [
            F.col(f"c{i}").cast("string").alias(f"text{i}")
            for i, name in enumerate(features.categorical)
            if not isinstance(dataset.schema[name].dataType, StringType)
        ]
        return super()._rows(dataset, features, keyCols, d).select("*", *texts)

    def _work(self, layout: Layout) -> Work:
        return partial(_voted, k=self._by_group(self.neighbors), seed=self.getSeed(), layout=layout)


class SMOTEN(SyntheticOverSampler[SMOTENModel]):
    """Add synthetic rows of categories, on each of which a row and its nearest neighbours vote.

    For features that are all categories; SMOTENC takes numbers beside them.  All rows made of one row are alike but for
    ties, so class weights or plain copies (RandomOverSampler) are cheaper and often do as well.

    Parameters
    ----------
    featuresCol : str, default="features"
        Not looked at: name the features in categoricalCols.
    inputCols : list of str, optional
        Not taken: use SMOTENC.
    categoricalCols : list of str, optional
        Categorical feature columns, one or more: strings, booleans, numbers, dates or timestamps.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.
    kNeighbors : int in [1, rows of the class) or "auto", default=5
        Neighbours that vote with a row.  "auto" takes 5, or in a class of 5 rows or fewer all the others, and logs so.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        Not looked at: there are no numbers.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a third job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` (struct of idCols), `neighbor` (null: all neighbours
        vote) and `gap` (0).
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    NotEnoughSamplesError
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer.
    SparkimbError
        In `fit`, before any job: categoricalCols not set or inputCols set, missing columns, columns of the wrong type,
        output columns that exist.  After the count: null labels, a single class, targets below a class's rows, growth
        beyond maxGrowth, more than 200,000 values times classes in all columns together, and with neighborSearch
        "exact" a class of more than 16 million numbers (8 bytes for each).

    Notes
    -----
    Distance: the value difference metric, squared: sum over the features of (sum over the classes c of |p(c | x) -
            p(c | y)|)^2, with p from the training rows of all classes; so imbalanced-learn's ValueDifferenceMetric.  A
            value that is null, or was not there at `fit`, has the shares of the classes in all rows.
    Categories: each feature takes the value that most of the row and its k neighbours have (so do the paper and
            imbalanced-learn); each row made draws anew among tied ones, imbalanced-learn takes the first.
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.  Each row of a class has equally many rows
            made of it (imbalanced-learn draws rows anew), those still missing are a random sample.
    Cost:   fit: one aggregate over label and id columns; without idCols over all columns, and a sampled one to warn of
            duplicates; one that counts values by class, of which at most 200,000 rows are collected and kept in the
            model; for classes of more than 16 million numbers a sample of 20,000 rows, collected.  resample: lazy; one
            shuffle of the rows of the classes that grow, which alone pass through Python, as Arrow batches; up to about
            850 MB in a task.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002, 321-357, section 6.2.
    .. [2] Stanfill and Waltz, "Toward memory-based reasoning", Communications of the ACM 29, 1986, 1213-1228.

    Examples
    --------
    >>> SMOTEN(categoricalCols=["country", "device"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = SMOTENModel
    exemptions: ClassVar[Mapping[str, str]] = {"check_feature_forms": "it takes categories only"}

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: Sequence[str] | None = None,
        categoricalCols: Sequence[str] | None = None,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        kNeighbors: int | str = 5,
        neighborSearch: str = "auto",
        scale: str = "robust",
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        syntheticCol: str | None = None,
        lineageCol: str | None = None,
        maxGrowth: float = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _check_schema(self, dataset: DataFrame, **more: Sequence[str] | None) -> None:
        if numbers := self.getInputCols():
            raise SparkimbError(
                f"SMOTEN takes categories only, but inputCols is {numbers}. "
                "Use SMOTENC, or SMOTE where all features are numbers."
            )
        if not (names := self.getCategoricalCols()):
            raise SparkimbError(
                "SMOTEN.categoricalCols is not set. "
                "Name the categorical features, or use SMOTE where all features are numbers."
            )
        super()._check_schema(dataset, **more)
        check_categories(dataset, names)

    def _check_features(self, features: Features) -> None:
        """Take categories: `_check_schema` has looked at them."""

    def _learn(self, model: SMOTENModel, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        model.values = self._count_values(rows, list(model.plan.counts))
        super()._learn(model, rows, counts)

    def _space(self, model: SMOTENModel) -> Space:
        rows = list(model.plan.counts.values())
        return ValueDifferenceSpace(scaling="none", exact=True, values=model.values, rows=rows)

    def _count_values(self, rows: DataFrame, labels: Sequence[Label]) -> list[dict[str, list[int]]]:
        """Count the rows of each class that have a value, by column and the value's text: one job, or two to refuse."""
        names = self.getCategoricalCols() or []
        texts = [
            F.struct(F.lit(i).alias("column"), F.col(f"c{i}").cast("string").alias("value")) for i in range(len(names))
        ]
        listed = rows.select("label", F.explode(F.array(*texts)).alias("found")).select("label", "found.*")
        counted = (
            listed.where(F.isnotnull("value")).groupBy("column", "value", "label").agg(F.count(F.lit(1)).alias("n"))
        )
        table = counted.limit(MAX_COUNTS + 1).toArrow()
        values: list[dict[str, list[int]]] = [{} for _ in names]
        places = {label: i for i, label in enumerate(labels)}
        for i, value, label, n in zip(*(column.to_pylist() for column in table.columns), strict=True):
            values[i].setdefault(value, [0] * len(labels))[places[label]] = n
        if len(labels) * sum(map(len, values)) > MAX_COUNTS:
            raise self._too_many_values(rows, names, len(labels))
        return values

    def _too_many_values(self, rows: DataFrame, names: Sequence[str], classes: int) -> SparkimbError:
        numbers = rows.select(*(F.approx_count_distinct(f"c{i}") for i in range(len(names)))).toArrow()
        found = {name: column[0].as_py() for name, column in zip(names, numbers.columns, strict=True)}
        worst = max(found, key=lambda name: found[name])
        return SparkimbError(
            f"SMOTEN keeps at most {MAX_COUNTS:,} counts, one for each value of categoricalCols in each of {classes} "
            f"classes, and '{worst}' alone has about {found[worst]:,} values. Leave it out, or group its rare values."
        )


def _voted(unit: Unit, *, k: Sequence[int], seed: int, layout: Layout) -> Batches:
    """Make rows whose categories each row and its k nearest vote on."""
    metric, columns = unit.metric, categories(unit.table)
    assert isinstance(metric, ValueDifference)
    queries = np.flatnonzero(unit.home & (unit.column("copies") > 0))
    found = unit.nearest(queries, metric.distinct(k[unit.group] + 1), k[unit.group]).rows
    voters = np.column_stack([queries, found])
    for at, keys, counters in made_rows(unit, queries):
        voted = [
            category.take(
                vote(
                    category.codes[voters[at]],
                    uniform_numbers(keys, counters, seed=seed, purpose=f"SMOTEN.category{i}"),
                )
            )
            for i, category in enumerate(columns)
        ]
        nobody = pa.nulls(len(at), pa.int64())
        yield layout.batch(unit, np.empty((len(at), 0)), queries[at], nobody, np.zeros(len(at)), voted)
