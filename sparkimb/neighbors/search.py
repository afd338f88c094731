"""Neighbours of the rows of a DataFrame: rows go to the tasks that search them, each task's answers come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, IntegerType, StructField, StructType
from threadpoolctl import threadpool_limits

from sparkimb.neighbors.kernel import Nearest, nearest
from sparkimb.neighbors.metrics import Metric, Rows
from sparkimb.neighbors.spaces import MAX_UNIT_BYTES, Space

Batches: TypeAlias = Iterator[pa.RecordBatch]

# A unit that turns out larger than it was at fit is cut into parts of this size, by the order of the keys.
MAX_UNIT_GROWTH = 1.5


@dataclass(frozen=True)
class Unit:
    """The rows that one task searches, in the order of their keys.

    Parameters
    ----------
    group : int
    table : pyarrow.Table
        The rows, with all their columns.
    metric : Metric
        Distances between them.
    home : bool array [n]
        Rows that live here; the others visit, to be found as neighbours.
    exact : bool
        How to search.
    reference : int
        Where not 0, only so many rows, the first ones, are neighbours; the others have come to look for theirs.
    """

    group: int
    table: pa.Table
    metric: Metric
    home: Any
    exact: bool
    reference: int = 0

    @property
    def index(self) -> Rows:
        """The positions of the rows that may be neighbours."""
        return np.arange(self.reference or len(self.home))

    def column(self, name: str) -> Any:
        """Return a column as a NumPy array."""
        return self.table.column(name).to_numpy()

    def nearest(self, queries: Rows, index: Rows, k: int) -> Nearest:
        """Find the k nearest index rows of each query row: see `sparkimb.neighbors.kernel.nearest`."""
        own = None
        if self.reference:
            keys = self.column("key")
            ours = np.argsort(keys[: self.reference], kind="stable")
            places = np.searchsorted(keys[ours], keys[queries])
            candidates = ours[np.minimum(places, self.reference - 1)]
            own = np.where(keys[candidates] == keys[queries], candidates, -1)
        return nearest(self.metric, queries, index, k, own=own, exact=self.exact)


Work: TypeAlias = Callable[[Unit], Batches]


def by_unit(rows: DataFrame, spaces: Mapping[int, Space], work: Work, schema: StructType) -> DataFrame:
    """Bring the rows of each unit to one task, which does some work on it: lazy, one shuffle of the rows.

    Where a group has several units the rows pass through Python once more, before the shuffle, to learn theirs.

    Parameters
    ----------
    rows : DataFrame
        Columns `group` (int), `key` (bigint), what the spaces measure, and what the work needs.
    spaces : dict
        How each group is divided; rows of other groups are left out.
    work : function
        From a Unit to batches of `schema`; a function of a module, or a `partial` of one.
    """
    total = sum(space.units for space in spaces.values())
    numbers = numbers_that_hash_apart(total)
    first = dict(zip(spaces, np.cumsum([0, *(space.units for space in spaces.values())]).tolist(), strict=False))
    units = {group: numbers[first[group] : first[group] + space.units] for group, space in spaces.items()}
    rows = rows.where(F.col("group").isin(*spaces))
    if total == len(spaces):
        number = F.when(F.lit(False), F.lit(0))
        for group, (unit,) in units.items():
            number = number.when(F.col("group") == group, F.lit(unit))
        sent = rows.withColumns({"unit": number, "home": F.lit(True)})
    else:
        added = [StructField("unit", IntegerType()), StructField("home", BooleanType())]
        sent = rows.mapInArrow(partial(_send, spaces=spaces, units=units), StructType([*rows.schema, *added]))
    together = sent.repartition(total, "unit") if total > 1 else sent.repartition(1)
    return together.sortWithinPartitions("unit", "key").mapInArrow(partial(_work, spaces=spaces, work=work), schema)


def _send(batches: Iterable[pa.RecordBatch], spaces: Mapping[int, Space], units: Mapping[int, list[int]]) -> Batches:
    for batch in batches:
        table = pa.Table.from_batches([batch])
        groups = table.column("group").to_numpy()
        for group in np.unique(groups).tolist():
            members = table.take(np.flatnonzero(groups == group))
            space = spaces[group]
            if space.cells is not None:
                rows, cells, home = space.cells.route(space.metric(members).places)
            else:
                cells = np.mod(members.column("key").to_numpy(), space.parts)
                rows, home = np.arange(len(cells)), np.ones(len(cells), bool)
            unit = pa.array(np.array(units[group], np.int32)[cells])
            sent = members.take(rows).append_column("unit", unit).append_column("home", pa.array(home))
            yield from sent.to_batches()


def _work(batches: Iterable[pa.RecordBatch], spaces: Mapping[int, Space], work: Work) -> Batches:
    # Spark gives a task one core: more threads would take what the other tasks were promised.
    with threadpool_limits(limits=1):
        for table in _tables(batches):
            group = table.column("group")[0].as_py()
            metric = spaces[group].metric(table)
            home = table.column("home").to_numpy()
            yield from work(Unit(group, table, metric, home, spaces[group].exact))


def by_reference(
    rows: DataFrame, spaces: Mapping[int, Space], references: Mapping[int, pa.Table], work: Work, schema: StructType
) -> DataFrame:
    """Do some work on rows beside a reference set, which alone holds neighbours: lazy, no shuffle, fit for streams.

    Parameters
    ----------
    spaces : dict
        With center and scale.
    references : dict
        Rows of each group, with the columns of `rows`; they travel with the task.
    """
    beside = partial(_work_by_reference, spaces=spaces, references=references, work=work)
    return rows.where(F.col("group").isin(*spaces)).mapInArrow(beside, schema)


def _work_by_reference(
    batches: Iterable[pa.RecordBatch], spaces: Mapping[int, Space], references: Mapping[int, pa.Table], work: Work
) -> Batches:
    with threadpool_limits(limits=1):
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            groups = rows.column("group").to_numpy()
            for group in np.unique(groups).tolist():
                members = rows.take(np.flatnonzero(groups == group)).sort_by("key")
                reference = references[group].select(members.column_names).cast(members.schema)
                table = pa.concat_tables([reference, members]).combine_chunks()
                home = np.arange(len(table)) >= len(reference)
                space = spaces[group]
                yield from work(Unit(group, table, space.metric(table), home, space.exact, len(reference)))


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Put the batches of one unit together, up to the most rows that a unit may have."""
    held: list[pa.RecordBatch] = []
    unit, held_bytes = None, 0
    for batch in batches:
        numbers = batch.column("unit").to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for start, stop in pairwise(starts):
            if start == stop:
                continue
            if held and (numbers[start] != unit or held_bytes > MAX_UNIT_GROWTH * MAX_UNIT_BYTES):
                yield pa.Table.from_batches(held).combine_chunks()
                held, held_bytes = [], 0
            part = batch.slice(start, stop - start)
            held.append(part)
            unit, held_bytes = numbers[start], held_bytes + _feature_bytes(part)
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _feature_bytes(batch: pa.RecordBatch) -> int:
    """Return the bytes of the rows' features as they are counted for units."""
    categories = sum(name[0] == "c" and name[1:].isdigit() for name in batch.schema.names)
    return int(4 * len(batch.column("features").flatten()) + 8 * categories * batch.num_rows)


def numbers_that_hash_apart(n: int) -> list[int]:
    """Return n integers, of which Spark's `repartition(n, column)` sends the i-th to partition i.

    It takes the remainder of MurmurHash3 (Appleby, 2011).  With the numbers 0 to n - 1 some tasks would get several
    units and others none.
    """
    found: dict[int, int] = {}
    start = 0
    while len(found) < n:
        numbers = np.arange(start, start + 4 * n, dtype=np.uint32)
        for number, partition in zip(numbers.tolist(), (_murmur3(numbers) % n).tolist(), strict=True):
            found.setdefault(partition, number)
        start += 4 * n
    return [found[partition] for partition in range(n)]


def _murmur3(numbers: Any) -> Any:
    """Return Spark's hash of 32-bit integers, with its seed of 42, as signed integers."""

    def turned(x: Any, bits: int) -> Any:
        return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))

    h = np.uint32(42) ^ (turned(numbers * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593))
    h = (turned(h, 13) * np.uint32(5) + np.uint32(0xE6546B64)) ^ np.uint32(4)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (h ^ (h >> np.uint32(16))).astype(np.int32)
