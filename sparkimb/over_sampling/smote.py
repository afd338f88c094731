"""SMOTE: synthetic rows on the segments between a row and its neighbours of the same class."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark import keyword_only
from pyspark.sql import DataFrame

from sparkimb.errors import SparkimbError
from sparkimb.neighbors.search import Work, by_reference
from sparkimb.neighbors.spaces import sampled
from sparkimb.over_sampling.interpolation import anywhere, make_between
from sparkimb.over_sampling.synthesis import (
    Layout,
    SyntheticOverSampler,
    SyntheticOverSamplerModel,
    SyntheticParams,
    feature_bytes,
)
from sparkimb.params import integer, param
from sparkimb.statistics import Group, Histogram
from sparkimb.strategy import Label

# Bytes of the features of all reference rows: they travel with every task, and with the saved model.
MAX_REFERENCE_BYTES = 2**24


class _Params(SyntheticParams):
    referenceRows = param("referenceRows", "rows of a class kept as neighbours", integer("referenceRows", 2))

    def getReferenceRows(self) -> int | None:
        """Return referenceRows, or None."""
        value: int | None = self._optional(self.referenceRows)
        return value


class SMOTEModel(_Params, SyntheticOverSamplerModel):
    """A fitted SMOTE: how many rows are made of each row of a class that grows, and how its rows are searched.

    With a reference set, `resample` makes rows between a row and its neighbours in that set: row by row, without a
    shuffle, and so on a streaming DataFrame too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reference: dict[Label, pa.Table] = {}

    def _make(self, rows: DataFrame, layout: Layout) -> DataFrame:
        if not self.reference:
            return super()._make(rows, layout)
        spaces, references = (dict(enumerate(found.values())) for found in (self.spaces, self.reference))
        return by_reference(self._sent(rows), spaces, references, self._work(layout), layout.schema)

    def _state(self) -> dict[str, Any]:
        kept = [[label, b64encode(_to_bytes(table)).decode()] for label, table in self.reference.items()]
        return {**super()._state(), "reference": kept}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.reference = {label: pa.ipc.open_stream(b64decode(kept)).read_all() for label, kept in state["reference"]}

    def _work(self, layout: Layout) -> Work:
        return partial(
            make_between,
            k=self._by_group(self.neighbors),
            seed=self.getSeed(),
            sampler="SMOTE",
            gap=anywhere,
            layout=layout,
        )


class SMOTE(_Params, SyntheticOverSampler[SMOTEModel]):
    """Add synthetic rows on the segments between rows of a class and their nearest neighbours in it.

    The standard over-sampler for numeric features.  Where some are categories take SMOTENC, where all are SMOTEN; plain
    copies (RandomOverSampler) or class weights are cheaper and often do as well.

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
    neighborSearch : {"auto", "exact", "cells", "partition"}, default="auto"
        How neighbours are found: see `sparkimb.neighbors.nearest_neighbors`.
    scale : {"robust", "standard", "none"}, default="robust"
        What a feature is divided by for distances: its interquartile range in the class, its standard deviation, or
        nothing (as in imbalanced-learn).  Learned from 20,000 rows of the class at most.
    referenceRows : int in [2, ∞), optional
        Rows of each class, chosen by their hashes, that the model keeps and that alone are neighbours: `resample` then
        needs no shuffle and works on streams.  At most 16 MB of features, which travel with each task.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a second job.
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
        4,096, referenceRows out of its range, and with neighborSearch "exact" a class of more than 16 million numbers.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label.  Each row of a class has equally many rows
            made of it (Chawla et al. do so, imbalanced-learn draws rows anew), those still missing are a random sample.
    Nulls:  a feature that is null, NaN or infinite lies at the feature's centre for distances.  A row made takes it
            from the other parent; where neither has it, it is null (NaN in vectors and arrays).
    Cost:   fit: one aggregate over label and id columns; without idCols over all columns, and a second, sampled one to
            warn of duplicates; for vectors and arrays without metadata a look at one row; for classes of more than
            16 million numbers a sample of 20,000 rows, or the referenceRows, is collected.  resample: lazy, one shuffle
            of the rows of the classes that grow (none with referenceRows), which alone pass through Python, as Arrow
            batches; up to about 850 MB in a task.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002, 321-357.

    Examples
    --------
    >>> SMOTE(inputCols=["amount", "age"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    model = SMOTEModel

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
        referenceRows: int | None = None,
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        syntheticCol: str | None = None,
        lineageCol: str | None = None,
        maxGrowth: float = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _learn(self, model: SMOTEModel, rows: DataFrame, counts: Mapping[Label, int]) -> None:
        wanted, row_bytes = self.getReferenceRows(), feature_bytes(rows, model.numFeatures)
        if wanted is None:
            super()._learn(model, rows, counts)
            return
        most = MAX_REFERENCE_BYTES // (row_bytes * len(counts))
        if not max(model.neighbors.values()) < wanted <= most:
            raise SparkimbError(
                f"SMOTE.referenceRows is {wanted:,}. It must be above kNeighbors {max(model.neighbors.values())} and, "
                f"for {len(counts)} classes with {row_bytes} bytes of features a row, at most {most:,}."
            )
        model.spaces = {label: self._space(model) for label in counts}

    def _allot(self, model: SMOTEModel, rows: DataFrame, histograms: Mapping[Group, Histogram]) -> None:
        super()._allot(model, rows, histograms)
        if (wanted := self.getReferenceRows()) is not None:
            counts = {i: model.plan.counts[label] for i, label in enumerate(model.spaces)}
            found = sampled(model._sent(rows), counts, wanted)
            model.reference = {label: found[i] for i, label in enumerate(model.spaces)}
            model.spaces = {label: model.spaces[label].measured(table) for label, table in model.reference.items()}


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
