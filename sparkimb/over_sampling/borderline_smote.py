"""Borderline-SMOTE: synthetic rows of the rows that lie near the border of their class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from pyspark import keyword_only
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Batches, Unit, Work, by_unit
from sparkimb.over_sampling.interpolation import GapRule, anywhere
from sparkimb.over_sampling.levels import (
    HasMNeighbors,
    LevelOverSampler,
    LevelOverSamplerModel,
)
from sparkimb.over_sampling.synthesis import Layout
from sparkimb.params import choice, param
from sparkimb.strategy import Label

VARIANTS = ("borderline-1", "borderline-2")


class _Params(HasMNeighbors):
    # imbalanced-learn's `kind`, a name that every Sampler uses for "over" or "under".
    variant = param("variant", "whose rows are neighbours", choice("variant", VARIANTS))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(variant="borderline-1")

    def getVariant(self) -> str:
        """Return variant."""
        return str(self.getOrDefault(self.variant))


class BorderlineSMOTEModel(_Params, LevelOverSamplerModel):
    """A fitted BorderlineSMOTE: how many rows are made of each row in danger, and how rows are searched."""

    def _make(self, rows: DataFrame, layout: Layout) -> DataFrame:
        if self.getVariant() == "borderline-1":
            return super()._make(rows, layout)
        assert self.everything is not None
        others = rows.where(~F.col("label").isin(*self.spaces)).withColumn("stratum0", F.lit(None).cast("int"))
        sent = self._together(self._with_copies(self._levels(rows).unionByName(others))).drop("label", "draw")
        work = partial(_class_by_class, work=self._work(layout), classes=len(self.spaces))
        return by_unit(sent, {0: self.everything}, work, layout.schema)

    def _gap_rule(self) -> GapRule:
        return anywhere if self.getVariant() == "borderline-1" else _nearer_to_parent


class BorderlineSMOTE(_Params, LevelOverSampler[BorderlineSMOTEModel]):
    """Add synthetic rows on the segments that leave the rows of a class near its border.

    A row is in danger if half or more of its nearest rows, but not all, are of other classes; rows are made of rows in
    danger only, and equally many of each.  Rows deep in their class need no help, and rows alone among others are taken
    for noise.  SMOTE makes rows of all rows, ADASYN of more of them the more they are in danger.

    Parameters
    ----------
    featuresCol : str, default="features"
        Vector, or array of doubles or floats, of one length up to 4,096.  Not looked at if inputCols is set.
    inputCols : list of str, optional
        Numeric scalar feature columns.  Values of integer columns are rounded in rows made.
    categoricalCols : list of str, optional
        Not taken: use SMOTENC.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.
    kNeighbors : int in [1, rows of the class) or "auto", default=5
        Neighbours that a row's synthetic rows are drawn towards.  "auto" takes 5, or in a class of 5 rows or fewer all
        the others, and logs so.
    mNeighbors : int in [1, rows), default=10
        Nearest rows of every class among which a row's danger is counted.
    variant : {"borderline-1", "borderline-2"}, default="borderline-1"
        Whose rows are the kNeighbors neighbours: those of the row's class, or of every class.  Towards a row of another
        class a row made goes less than half of the way.  imbalanced-learn calls this `kind`.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found, in the class and in all rows: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a feature is divided by for distances: its interquartile range, its standard deviation, or nothing (as in
        imbalanced-learn).  Learned from 20,000 rows at most, of the class or of all rows, as the search is.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs one more job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` and `neighbor` (structs of idCols) and `gap`, how far
        the row made lies on the way from the one to the other, in [0, 1).
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    NotEnoughSamplesError
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer, or there are mNeighbors rows or
        fewer.
    SparkimbError
        In `fit`, before any job: missing columns, columns of the wrong type, output columns that exist.  After the
        count: null labels, a single class, targets below a class's rows, growth beyond maxGrowth, vectors longer than
        4,096, and with neighborSearch "exact" more than 16 million numbers in all rows.  After the search: a class to
        grow without a row in danger (imbalanced-learn leaves such a class as it is and does not say so).

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Cost:   fit: one aggregate over label and id columns; a search, which shuffles every row and passes its features
            through Python; without idCols a sampled job to warn of duplicates; for vectors and arrays without metadata
            a look at one row; where rows are more than 16 million numbers a sample of 20,000, collected.  Where a few
            rows are in danger the search may run twice.  resample: lazy; the same search again, then one more shuffle:
            of the rows of the classes that grow, or for borderline-2 of all rows.
    The second variant takes the nearest rows of every class as imbalanced-learn does (Han et al. add to the nearest of
    the class the one nearest row of another) and gaps in [0, 0.5) as Han et al. do (imbalanced-learn's are the product
    of two draws, so most of its rows lie close to their parents).
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Han, Wang and Mao, "Borderline-SMOTE: a new over-sampling method in imbalanced data sets learning", ICIC
       2005, LNCS 3644, 878-887.

    Examples
    --------
    >>> BorderlineSMOTE(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = BorderlineSMOTEModel

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
        mNeighbors: int = 10,
        variant: str = "borderline-1",
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

    def _weight(self, level: int) -> float:
        m = self.getMNeighbors()
        return float(m <= 2 * level < 2 * m)

    def _no_parents(self, label: Label, levels: Mapping[int, int]) -> str:
        m = self.getMNeighbors()
        noise = levels.get(m, 0)
        return (
            f"BorderlineSMOTE.mNeighbors is {m}, but class {label!r} has no row in danger: of its nearest {m} rows "
            f"fewer than half are of other classes for {sum(levels.values()) - noise:,} of its rows, and all of them "
            f"for {noise:,}. Raise mNeighbors, or use SMOTE for this class."
        )


def _class_by_class(unit: Unit, *, work: Work, classes: int) -> Batches:
    """Do the work for the home rows of one class after the other, among all rows."""
    codes = unit.column("code")
    for code in range(classes):
        yield from work(replace(unit, group=code, home=unit.home & (codes == code)))


def _nearer_to_parent(unit: Unit, parents: Rows, others: Rows, draws: Floats) -> Floats:
    """Return gaps in [0, 0.5) towards rows of other classes, in [0, 1) else."""
    codes = unit.column("code")
    gaps: Floats = np.where(codes[parents] == codes[others], draws, 0.5 * draws)
    return gaps
