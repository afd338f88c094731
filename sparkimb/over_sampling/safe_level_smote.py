"""Safe-Level-SMOTE: synthetic rows nearer to the one of two rows that has more of its class around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pyspark import keyword_only

from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Unit
from sparkimb.over_sampling.interpolation import GapRule
from sparkimb.over_sampling.levels import LevelOverSampler, LevelOverSamplerModel
from sparkimb.strategy import Label


class SafeLevelSMOTEModel(LevelOverSamplerModel):
    """A fitted SafeLevelSMOTE: how many rows are made of each row, and how rows are searched."""

    def _gap_rule(self) -> GapRule:
        return partial(_towards_the_safer, k=self._level_neighbors())


class SafeLevelSMOTE(LevelOverSampler[SafeLevelSMOTEModel]):
    """Add synthetic rows on the segments between rows of a class, nearer to the safer end.

    The safe level of a row is how many of its nearest rows are of its own class.  For rows of overlapping classes: it
    keeps out of the other class's ground, where BorderlineSMOTE and ADASYN go.

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
        Nearest rows of every class among which safe levels are counted, and neighbours in the class that a row's
        synthetic rows are drawn towards.  "auto" takes 5, or in a class of 5 rows or fewer all the others of it, and
        logs so.
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
        In `fit`, after the count, if a class to grow has kNeighbors rows or fewer.
    SparkimbError
        In `fit`, before any job: missing columns, columns of the wrong type, output columns that exist.  After the
        count: null labels, a single class, targets below a class's rows, growth beyond maxGrowth, vectors longer than
        4,096, and with neighborSearch "exact" more than 16 million numbers in all rows.  After the search: a class to
        grow in which no row has another near.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Gaps:   with the safe levels p of a row and n of its neighbour the gap is drawn from [0, 1) where they are equal,
            from [0, n / p) where the row is safer (0, a copy of it, where n is 0), and from [1 - p / n, 1) where the
            neighbour is.  No rows are made of rows of safe level 0, which are taken for noise; the paper makes copies
            of their neighbours of them where those are safe.  The others have equally many rows made of them.
    Cost:   fit: one aggregate over label and id columns; a search, which shuffles every row and passes its features
            through Python; without idCols a sampled job to warn of duplicates; for vectors and arrays without metadata
            a look at one row; where rows are more than 16 million numbers a sample of 20,000, collected.  Where few
            rows share a level the search may run twice.  resample: lazy; the same search again, then one more shuffle
            of the rows of the classes that grow.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Bunkhumpornpat, Sinapiromsaran and Lursinsap, "Safe-Level-SMOTE: Safe-level-synthetic minority over-sampling
       technique for handling the class imbalanced problem", PAKDD 2009, LNCS 5476, 475-482.

    Examples
    --------
    >>> SafeLevelSMOTE(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = SafeLevelSMOTEModel

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

    def _weight(self, level: int) -> float:
        return float(level < self._level_neighbors())

    def _no_parents(self, label: Label, levels: Mapping[int, int]) -> str:
        k = self._level_neighbors()
        return (
            f"SafeLevelSMOTE.kNeighbors is {k}, but class {label!r} has no row of its own among the {k} nearest of any "
            f"of its {sum(levels.values()):,} rows. Raise kNeighbors, or use SMOTE for this class."
        )


def _towards_the_safer(unit: Unit, parents: Rows, others: Rows, draws: Floats, *, k: int) -> Floats:
    """Return gaps that are the wider the more alike the two safe levels are."""
    safe = k - unit.column("stratum0")
    own, theirs = safe[parents], safe[others]
    width = np.minimum(own, theirs) / np.maximum(own, theirs)  # a parent's is at least 1
    gaps: Floats = np.where(own < theirs, 1.0 - width, 0.0) + width * draws
    return gaps
