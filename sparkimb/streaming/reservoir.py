"""A sample of fixed size of each class of a stream, in which rows of late are likelier than rows of long ago."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.strategy import Label

# Bytes of the features of all rows kept, at 4 a number: they travel with every task and lie in the state of a batch.
MAX_RESERVOIR_BYTES = 2**24


@dataclass(frozen=True)
class Reservoir:
    """Rows of each class with the lowest ranks, as tables of `key`, `rank` and `features` in the order of ranks.

    A row's rank is log(-log(1 - u)) - a, where u is its draw and a the age of the stream when it came, as the number of
    half-lives before it times log 2.  The `size` rows of the lowest ranks are a sample without replacement in which a
    row's weight doubles with each half-life [1]_ [2]_.  Ranks do not change, so the rows of two parts of a stream give
    those of the whole, and a replay gives the same rows.

    References
    ----------
    .. [1] Efraimidis, Spirakis, "Weighted random sampling with a reservoir", Inf. Process. Lett. 97, 2006, 181-185.
    .. [2] Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems",
           ICDE 2009, 138-149.
    """

    rows: dict[Label, pa.Table] = field(default_factory=dict)

    def after(self, found: DataFrame, counts: Mapping[Label, int], *, size: int, age: float) -> Reservoir:
        """Return the reservoir after a batch: one job, two where many rows share a key.

        Parameters
        ----------
        found : DataFrame
            Rows of the batch: `label`, `key` (bigint), `draw` and `features` (array).
        counts : dict
            Rows of the batch by class, of the classes to be kept.  Others lose their rows.
        size : int
            Rows kept of each class.  At most four times as many are collected.
        age : float
            Half-lives before the batch, times log 2.
        """
        kept = {label: self.rows[label] for label in counts if label in self.rows}
        bounds = {label: self._bound(label, size, age) for label, n in counts.items() if n}
        # So many rows as this have the `size` lowest draws among them, but for one batch in 10^9.
        enough = size + 6.0 * math.sqrt(size) + 10.0
        guesses = {label: min(bound, enough / counts[label]) for label, bound in bounds.items()}
        new = _below(found, guesses, 4 * size)
        lacking = [c for c in bounds if guesses[c] < bounds[c] and new[c].num_rows < min(size, counts[c])]
        if lacking:
            new |= _below(found, {label: bounds[label] for label in lacking}, 4 * size)
        for label, table in new.items():
            if table.num_rows:
                kept[label] = _lowest([kept[label]] if label in kept else [], _ranked(table, age), size)
        return Reservoir(kept)

    def _bound(self, label: Label, size: int, age: float) -> float:
        """Return a number in (0, 1] that the draws of a batch's rows must be below to get in."""
        if label not in self.rows or self.rows[label].num_rows < size:
            return 1.0
        last = self.rows[label].column("rank")[-1].as_py()
        return min(1.0, -math.expm1(-math.exp(min(last + age, 5.0))) * (1.0 + 1e-9))  # a touch wide: ranks decide

    def reference(self, label: Label) -> pa.Table:
        """Return the rows of a class as SMOTE's models take them: in the order of their keys."""
        rows = self.rows[label].sort_by("key")
        nothing = pa.array(np.zeros(len(rows), np.int32))  # they are neighbours: no rows are made of them
        return rows.drop_columns(["rank"]).append_column("group", nothing).append_column("copies", nothing)

    def to_json(self) -> list[list[Any]]:
        """Return [label, Arrow's bytes as text] of each class."""
        return [[label, b64encode(_to_bytes(table)).decode()] for label, table in self.rows.items()]

    @classmethod
    def from_json(cls, state: list[list[Any]]) -> Reservoir:
        """Read what `to_json` wrote."""
        return cls({label: pa.ipc.open_stream(b64decode(text)).read_all() for label, text in state})


def _below(rows: DataFrame, bounds: Mapping[Label, float], most: int) -> dict[Label, pa.Table]:
    """Collect the rows of each class whose draws are below its bound, at most so many of a class."""
    if not bounds:
        return {}
    low = F.lit(False)
    for label, bound in bounds.items():
        low = low | ((F.col("label") == F.lit(label)) & (F.col("draw") < F.lit(bound)))
    lowest = rows.where(low).orderBy("draw", "key").limit(most * len(bounds))
    table = lowest.select("label", "key", "draw", "features").toArrow()
    return {c: table.filter(pc.equal(table.column("label"), pa.scalar(c))).drop_columns(["label"]) for c in bounds}


def _ranked(table: pa.Table, age: float) -> pa.Table:
    draws = np.maximum(table.column("draw").to_numpy(), 2.0**-54)  # a draw of 0 has the lowest rank that is a number
    ranks = np.log(-np.log1p(-draws)) - age
    return pa.table({"key": table.column("key"), "rank": ranks, "features": table.column("features")})


def _lowest(old: list[pa.Table], new: pa.Table, size: int) -> pa.Table:
    """Return the rows of the lowest ranks, one of each key."""
    table = pa.concat_tables([*(part.cast(new.schema) for part in old), new])
    table = table.take(pc.sort_indices(table, [("rank", "ascending"), ("key", "ascending")]))
    _, first = np.unique(table.column("key").to_numpy(), return_index=True)
    return table.take(np.sort(first)[:size]).combine_chunks()


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
