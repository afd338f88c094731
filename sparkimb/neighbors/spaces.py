"""How the rows of a group are measured and divided among tasks, decided once at fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.draws import uniform
from sparkimb.errors import SparkimbError
from sparkimb.neighbors.cells import Cells
from sparkimb.neighbors.metrics import Euclidean, Floats, Metric

Scaling: TypeAlias = Literal["robust", "standard", "none"]
Search: TypeAlias = Literal["auto", "exact", "cells", "partition"]

SEARCHES = ("auto", "exact", "cells", "partition")
SCALINGS = ("robust", "standard", "none")

# Bytes of a unit's features at 4 a number, 16 million of them.  One task searches it, and holds them, as floats or
# doubles, in Arrow, as places and as a factor of products, with its answers: about 850 MB.
MAX_UNIT_BYTES = 2**26
# A row of more features than this is too long for distances to mean much, and 4,096 of them fill a unit.
MAX_FEATURES = 4096
# "auto" searches classes of up to so many rows exactly: about a second of one core with 30 features.
EXACT_ROWS = 20_000
# Squares of 4,096 numbers, none larger than so many scales, sum up to less than the largest double.
MOST_SCALES = 2.0**500
# Rows of a group under "partition": 10,000 are searched exactly in a fifth of a second.
PARTITION_ROWS = 10_000
# Rows that are collected of a group too large for one unit, to learn its cells and scales from.
SAMPLE_ROWS, SAMPLE_BYTES = 20_000, 2**26


@dataclass(frozen=True)
class Space:
    """How the rows of a group are measured, and the units in which they are searched.

    A unit is the work of one task.  A group is one unit, or one for each cell, or `parts` of them by the rows' keys.
    """

    scaling: Scaling
    exact: bool
    parts: int = 1
    cells: Cells | None = None
    center: tuple[float, ...] | None = None  # None: a task finds center and scale of the rows that it sees
    scale: tuple[float, ...] | None = None

    @property
    def units(self) -> int:
        """How many units there are."""
        return self.parts if self.cells is None else self.cells.number

    def measured(self, table: pa.Table) -> Space:
        """Return a space with center and scale, from rows in the order of their keys if it has none."""
        if self.center is not None:
            return self
        center, scale = center_and_scale(feature_matrix(table)[:SAMPLE_ROWS], self.scaling)
        return replace(self, center=tuple(center.tolist()), scale=tuple(scale.tolist()))

    def metric(self, table: pa.Table) -> Metric:
        """Return the distances between rows."""
        measured = self.measured(table)
        return Euclidean(feature_matrix(table), np.array(measured.center), np.array(measured.scale))

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold: the fields, and which kind of space they are of."""
        cells = None if self.cells is None else self.cells.to_json()
        return {**vars(self), "kind": type(self).__name__, "cells": cells}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Space:
        """Read what `to_json` wrote, as the kind of space that wrote it."""
        kinds: list[type[Space]] = [Space, *Space.__subclasses__()]
        kind = next(kind for kind in kinds if kind.__name__ == state["kind"])
        fields = {name: value for name, value in state.items() if name != "kind"}
        tuples = {name: None if state[name] is None else tuple(state[name]) for name in ("center", "scale")}
        cells = None if state["cells"] is None else Cells.from_json(state["cells"])
        return kind(**{**fields, **tuples, "cells": cells})


def feature_matrix(table: pa.Table) -> Floats:
    """Return the column `features` as a matrix, nulls as NaN; without a copy where it has none."""
    column = table.column("features").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    numbers: Floats = column.flatten().to_numpy(zero_copy_only=False)
    lengths = np.diff(column.offsets.to_numpy())
    if len(lengths) and lengths.min() < lengths.max():  # only a look at every row could have told before
        raise SparkimbError(
            f"The features are vectors or arrays of different lengths, from {lengths.min()} to {lengths.max()}. "
            "Make them one length."
        )
    return numbers.reshape(len(column), len(numbers) // max(len(column), 1))


def center_and_scale(values: Floats, scaling: Scaling) -> tuple[Floats, Floats]:
    """Return each feature's centre and scale: median and interquartile range, or mean and standard deviation, or 1.

    Missing numbers are left out.  Where half of the numbers are one, the interquartile range is 0 and the standard
    deviation serves, as it does where the range is so small that squared distances would overflow; where all are one, 1
    does.
    """
    known = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    known[:, np.isnan(known).all(axis=0)] = 0.0
    mean, deviation = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    if scaling == "none":
        return mean, np.ones_like(mean)
    if scaling == "robust":
        whole = not np.isnan(known).any()
        low, mean, high = (np.quantile if whole else np.nanquantile)(known, [0.25, 0.5, 0.75], axis=0)
        deviation = np.where(high - low > np.nanmax(np.abs(known), axis=0) / MOST_SCALES, high - low, deviation)
    return mean, np.where(deviation > 0, deviation, 1.0)


def check_features(d: int, name: str) -> None:
    """Check that rows are short enough to be made dense."""
    if d > MAX_FEATURES:
        raise SparkimbError(
            f"{name}: the features are vectors of length {d:,}, and neighbours are searched among dense rows of "
            f"at most {MAX_FEATURES:,}. Reduce them first (PCA, feature hashing), or use RandomOverSampler."
        )


def learn_spaces(
    rows: DataFrame,
    spaces: Mapping[int, Space],
    counts: Mapping[int, int],
    *,
    row_bytes: int,
    k: int,
    search: Search,
    name: str,
) -> dict[int, Space]:
    """Decide how each group is divided: no job, or one that samples the groups too large for a unit.

    Parameters
    ----------
    rows : DataFrame
        Columns `group` (int), `key` (bigint) and what the spaces measure.
    spaces : dict
        By group: how it is measured.
    counts : dict
        Rows of each group.
    row_bytes : int
        Bytes of a row's features at 4 a number.
    name : str
        Who asks, for errors.
    """
    most = max(1, MAX_UNIT_BYTES // row_bytes)
    large = [group for group in spaces if counts[group] > most]
    if search == "exact" and large:
        raise SparkimbError(
            f"{name}.neighborSearch is 'exact', but a group of {max(counts[g] for g in large):,} rows is to be "
            f"searched, and one task takes {most:,} rows of {row_bytes} bytes. Use neighborSearch 'auto' or 'cells'."
        )
    if search == "partition":
        parts = {group: math.ceil(counts[group] / min(PARTITION_ROWS, most)) for group in spaces}
        decided = {group: replace(space, exact=True, parts=parts[group]) for group, space in spaces.items()}
        large = [group for group in spaces if parts[group] > 1]
    else:
        exact = {group: search == "exact" or (search == "auto" and counts[group] <= EXACT_ROWS) for group in spaces}
        decided = {group: replace(space, exact=exact[group]) for group, space in spaces.items()}
    if large:
        wanted = min(SAMPLE_ROWS, max(2 * (k + 1), SAMPLE_BYTES // row_bytes))
        for group, sample in sampled(rows, {group: counts[group] for group in large}, wanted).items():
            space = decided[group].measured(sample)
            if search != "partition":
                places = space.metric(sample).places
                space = replace(space, cells=Cells.learn(places, k=k, rows=counts[group], max_rows=most))
            decided[group] = space
    return decided


def sampled(rows: DataFrame, counts: Mapping[int, int], wanted: int) -> dict[int, pa.Table]:
    """Collect about `wanted` rows of each group, or all if it has no more, in the order of their keys: one job.

    Rows are chosen by their keys, so it does not matter how they are partitioned; never more than twice as many come.
    """
    collected = rows.where(in_sample(counts, wanted)).limit(2 * wanted * len(counts)).toArrow()
    table = collected.sort_by([("group", "ascending"), ("key", "ascending")])
    groups = table.column("group").to_numpy()
    return {group: table.take(np.flatnonzero(groups == group)) for group in counts}


def in_sample(counts: Mapping[int, int], wanted: int) -> Column:
    """Say of a row whether it is in the sample of its group."""
    draw = uniform("key", seed=0, purpose="neighbors.sample")
    chosen = F.lit(False)
    for group, rows in counts.items():
        chosen = chosen | ((F.col("group") == group) & (draw < F.lit(wanted / rows if rows > wanted else 1.0)))
    return chosen
