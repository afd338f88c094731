"""ADASYN: synthetic rows where a class has most rows of others around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only

from sparkimb.over_sampling.levels import LevelOverSampler, LevelOverSamplerModel
from sparkimb.strategy import Label


class ADASYNModel(LevelOverSamplerModel):
    """A fitted ADASYN: how many rows are made of each row, and how rows are searched."""


class ADASYN(LevelOverSampler[ADASYNModel]):
    """Add synthetic rows as SMOTE does, more of them of the rows that have more rows of other classes around them.

    As many rows are made of a row as its share r of other classes among its nearest rows demands.  Unlike
    BorderlineSMOTE it makes most of the rows that lie alone among others, so wrong labels do harm.

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
        Nearest rows of every class among which r is counted, and neighbours in the class that a row's synthetic rows
        are drawn towards.  "auto" takes 5, or in a class of 5 rows or fewer all the others of it, and logs so.
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
        grow without any row of another class near.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.
            He et al. and imbalanced-learn round r / sum(r) * total for each row, so their total is not the target.
            Here rows of one r share what their class gets by the largest remainder, and each row gets r / sum(r) *
            total, rounded up or down: within 1 of imbalanced-learn's number.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Cost:   fit: one aggregate over label and id columns; a search, which shuffles every row and passes its features
            through Python; without idCols a sampled job to warn of duplicates; for vectors and arrays without metadata
            a look at one row; where rows are more than 16 million numbers a sample of 20,000, collected.  Where few
            rows share a level the search may run twice.  resample: lazy; the same search again, then one more shuffle
            of the rows of the classes that grow.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] He, Bai, Garcia and Li, "ADASYN: Adaptive synthetic sampling approach for imbalanced learning", IJCNN 2008,
       1322-1328.

    Examples
    --------
    >>> ADASYN(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = ADASYNModel

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
        return float(level)

    def _no_parents(self, label: Label, levels: Mapping[int, int]) -> str:
        k = self._level_neighbors()
        return (
            f"ADASYN.kNeighbors is {k}, but class {label!r} has no row of another class among the {k} nearest of any "
            f"of its {sum(levels.values()):,} rows. Raise kNeighbors, or use SMOTE for this class."
        )
