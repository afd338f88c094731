"""GaussianSMOTE: synthetic rows from the normal distribution of a row's neighbourhood in its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import keyword_only

from sparkimb.draws import uniform_numbers
from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Batches, Unit, Work
from sparkimb.neighbors.spaces import feature_matrix
from sparkimb.over_sampling.synthesis import Layout, SyntheticOverSampler, SyntheticOverSamplerModel, made_rows


class GaussianSMOTEModel(SyntheticOverSamplerModel):
    """A fitted GaussianSMOTE: how many rows are made of each row of a class that grows, and how rows are searched."""

    def _work(self, layout: Layout) -> Work:
        return partial(_drawn, k=self._by_group(self.neighbors), seed=self.getSeed(), layout=layout)


class GaussianSMOTE(SyntheticOverSampler[GaussianSMOTEModel]):
    """Add synthetic rows drawn from the normal distribution of a row and its nearest neighbours in its class.

    Also known as MGS, multivariate Gaussian SMOTE.  SMOTE's rows lie on segments, so a class that grows much keeps too
    little of its variance; rows drawn here have the mean and the covariance of their whole neighbourhood.  They may lie
    a little outside of it.

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
        Neighbours of a row whose distribution, with the row's own place, its synthetic rows are drawn from.  Rows made
        lie in the flat through these places, all of the space from kNeighbors = number of features on.  "auto" takes
        5, or in a class of 5 rows or fewer all the others, and logs so.
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a feature is divided by for distances: its interquartile range in the class, its standard deviation, or
        nothing.  Learned from 20,000 rows of the class at most.  Rows are drawn from the features as they are.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a second job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` (struct of idCols), whose neighbourhood the row made
        comes from, `neighbor` (null, as all of them have a part in it) and `gap` (0).
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
        4,096, and with neighborSearch "exact" a class of more than 16 million numbers.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.  Each row of a class has equally many rows
            made of it, those still missing are a random sample.
    Draws:  mean + sum over the k + 1 places of z (place - mean) / sqrt(k + 1), with a standard normal number z for
            each.  Its covariance is that of the places, divided by k + 1 and not by k: rows made are to be spread as
            the neighbourhood is, which is no sample of something wider.  No matrix of d x d numbers is made.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  Its mean and deviations
            are those of the places that have it; where none has it, it is null (NaN in vectors and arrays).
    Cost:   fit: one aggregate over label and id columns; without idCols over all columns, and a second, sampled one to
            warn of duplicates; for vectors and arrays without metadata a look at one row; for classes of more than
            16 million numbers a sample of 20,000 rows, collected.  resample: lazy; one shuffle of the rows of the
            classes that grow, which alone pass through Python, as Arrow batches; up to about 850 MB in a task.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Sakho, Malherbe and Scornet, "Do we need rebalancing strategies? A theoretical and empirical study around
       SMOTE and its variants", 2024, arXiv 2402.03819.
    .. [2] Box and Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics 29,
       1958, 610-611.

    Examples
    --------
    >>> GaussianSMOTE(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = GaussianSMOTEModel

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


def _drawn(unit: Unit, *, k: Sequence[int], seed: int, layout: Layout) -> Batches:
    """Draw rows from the neighbourhood of each row that is to have some."""
    values = feature_matrix(unit.table)
    queries = np.flatnonzero(unit.home & (unit.column("copies") > 0))
    neighbors = unit.nearest(queries, np.arange(len(values)), k[unit.group]).rows
    places = np.column_stack([queries, neighbors])
    for at, keys, counters in made_rows(unit, queries):
        normals = normal_numbers(keys, counters, places.shape[1], seed=seed, purpose="GaussianSMOTE")
        nobody = pa.nulls(len(at), pa.int64())
        yield layout.batch(unit, gaussian(values, places[at], normals), queries[at], nobody, np.zeros(len(at)))


def gaussian(values: Floats, places: Rows, normals: Floats) -> Floats:
    """Return rows with the mean and the covariance of the rows at some places.

    Parameters
    ----------
    values : float array [rows, d]
        NaN and infinities are missing.
    places : int64 array [n, m]
        The m rows that each of the n rows returned is drawn from.
    normals : float64 array [n, m]
        Standard normal.
    """
    found = np.isfinite(values)
    known = values if found.all() else np.where(found, values, 0)
    # One place after the other: all of them at once would hold m times as many numbers as the rows made.
    having = sum(found[place].astype(values.dtype) for place in places.T)
    with np.errstate(invalid="ignore"):  # 0 / 0 where none has it
        mean: Floats = sum(known[place] for place in places.T) / having
        apart = np.zeros_like(mean)
        for place, normal in zip(places.T, normals.astype(values.dtype).T, strict=True):
            apart += normal[:, None] * np.where(found[place], known[place] - mean, 0)
        made: Floats = mean + apart / np.sqrt(having)
    return made


def normal_numbers(keys: Rows, counters: Rows, n: int, *, seed: int, purpose: str) -> Floats:
    """Draw n standard normal float64 for each key and counter: [keys, n]."""
    columns: list[Floats] = []
    for pair in range(-(-n // 2)):
        first = uniform_numbers(keys, counters, seed=seed, purpose=f"{purpose}.radius{pair}")
        second = uniform_numbers(keys, counters, seed=seed, purpose=f"{purpose}.angle{pair}")
        radius, angle = np.sqrt(-2.0 * np.log1p(-first)), 2.0 * np.pi * second
        columns += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.column_stack(columns[:n])
