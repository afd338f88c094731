"""SMOTENC: SMOTE for rows of numbers and categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from pyspark import keyword_only
from pyspark.sql import DataFrame

from sparkimb.columns import Features
from sparkimb.draws import uniform_numbers
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.categories import MixedSpace, categories, check_categories, vote
from sparkimb.neighbors.search import Batches, Unit, Work
from sparkimb.neighbors.spaces import Space, feature_matrix
from sparkimb.over_sampling.interpolation import between
from sparkimb.over_sampling.synthesis import Layout, SyntheticOverSampler, SyntheticOverSamplerModel, made_rows


class SMOTENCModel(SyntheticOverSamplerModel):
    """A fitted SMOTENC: how many rows are made of each row of a class that grows, and how its rows are searched."""

    def _work(self, layout: Layout) -> Work:
        return partial(_interpolated, k=self._by_group(self.neighbors), seed=self.getSeed(), layout=layout)


class SMOTENC(SyntheticOverSampler[SMOTENCModel]):
    """Add synthetic rows whose numbers lie between a row and a neighbour, and whose categories its neighbours vote on.

    For features of which some are numbers and some categories; take SMOTE where all are numbers, SMOTEN where all are
    categories.  Categories stay in their columns, of any type; nothing is one-hot encoded.

    Parameters
    ----------
    featuresCol : str, default="features"
        Not looked at: name the features in inputCols and categoricalCols.
    inputCols : list of str, optional
        Numeric scalar feature columns, one or more.  Values of integer columns are rounded in rows made.
    categoricalCols : list of str, optional
        Categorical feature columns, one or more: strings, booleans, numbers, dates or timestamps.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.
    kNeighbors : int in [1, rows of the class) or "auto", default=5
        Neighbours that a row's synthetic rows are drawn towards, and that vote.  "auto" takes 5, or in a class of 5
        rows or fewer all the others, and logs so.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a number is divided by for distances: its interquartile range in the class, its standard deviation, or
        nothing (as in the paper and in imbalanced-learn).  Learned from 20,000 rows of the class at most.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a second job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` and `neighbor` (structs of idCols) and `gap`, how far
        the numbers of the row made lie on the way from the one to the other, in [0, 1).
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    NotEnoughSamplesError
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer.
    SparkimbError
        In `fit`, before any job: inputCols or categoricalCols not set, missing columns, columns of the wrong type,
        output columns that exist.  After the count: null labels, a single class, targets below a class's rows, growth
        beyond maxGrowth, and with neighborSearch "exact" a class of more than 16 million numbers.

    Notes
    -----
    Distance: the squared distance of the numbers, each divided by its scale, plus M^2 for each category that differs.
            M is the median, over the numbers, of their standard deviations in the class (divisor n), divided by their
            scales too; learned from the same rows as the scales.  With scale "none" it is the paper's M, and
            imbalanced-learn's.  Where half of the numbers or more are constant M is 0, and categories do not count.
    Categories: the value that most of the k neighbours have, the row itself left out (so do the paper and
            imbalanced-learn); each row made draws anew among tied ones.  Null is a category like others.
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.  Each row of a class has equally many rows
            made of it, those still missing are a random sample.
    Nulls:  a number that is null, NaN or infinite lies at its feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null.
    Cost:   fit: one aggregate over label and id columns; without idCols over all columns, and a second, sampled one to
            warn of duplicates; for classes of more than 16 million numbers a sample of 20,000 rows, collected.
            resample: lazy; one shuffle of the rows of the classes that grow, which alone pass through Python, as Arrow
            batches; up to about 850 MB in a task.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002, 321-357, section 6.1.

    Examples
    --------
    >>> sampler = SMOTENC(inputCols=["amount", "age"], categoricalCols=["country"], idCols=["id"])
    >>> sampler.fitResample(train)  # doctest: +SKIP
    """

    model = SMOTENCModel
    exemptions: ClassVar[Mapping[str, str]] = {"check_feature_forms": "it takes scalar columns only"}

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
        numbers, names = self.getInputCols() or [], self.getCategoricalCols() or []
        if not names:
            raise SparkimbError(
                f"SMOTENC.categoricalCols is not set (inputCols is {numbers}). "
                "Name the categorical features, or use SMOTE where all features are numbers."
            )
        if not numbers:
            raise SparkimbError(
                f"SMOTENC.inputCols is not set (categoricalCols is {names}). "
                "Name the numeric features, or use SMOTEN where all features are categories."
            )
        if both := sorted(set(numbers) & set(names)):
            raise SparkimbError(f"SMOTENC: {both} are in inputCols and in categoricalCols. Name each feature in one.")
        super()._check_schema(dataset, **more)
        check_categories(dataset, names)

    def _check_features(self, features: Features) -> None:
        """Take categories: `_check_schema` has looked at them."""

    def _space(self, model: SMOTENCModel) -> Space:
        return MixedSpace(scaling=self.getScale(), exact=True)  # type: ignore[arg-type]


def _interpolated(unit: Unit, *, k: Sequence[int], seed: int, layout: Layout) -> Batches:
    """Make rows between each row and some of its k nearest, which vote on the categories."""
    values, columns = feature_matrix(unit.table), categories(unit.table)
    queries = np.flatnonzero(unit.home & (unit.column("copies") > 0))
    neighbors = unit.nearest(queries, unit.index, k[unit.group]).rows
    if neighbors.shape[1] == 0:  # alone in its unit
        neighbors = queries[:, None]
    for at, keys, counters in made_rows(unit, queries):
        draw = partial(uniform_numbers, keys, counters, seed=seed)
        chosen = draw(purpose="SMOTENC.neighbor") * neighbors.shape[1]
        parents, others = queries[at], neighbors[at, chosen.astype(np.int64)]
        gaps = draw(purpose="SMOTENC.gap")
        voted = [
            category.take(vote(category.codes[neighbors[at]], draw(purpose=f"SMOTENC.category{i}")))
            for i, category in enumerate(columns)
        ]
        made = between(values[parents], values[others], gaps)
        yield layout.batch(unit, made, parents, others, gaps, voted)
