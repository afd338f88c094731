"""Rows of a unit come to one task, in order, whatever the partitioning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from sparkimb.neighbors import search
from sparkimb.neighbors.cells import Cells
from sparkimb.neighbors.search import Unit, by_unit, numbers_that_hash_apart
from sparkimb.neighbors.spaces import Space, feature_matrix

N = 600


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 200])
def test_numbers_hash_apart(n: int) -> None:
    numbers = numbers_that_hash_apart(n)
    assert len(set(numbers)) == len(numbers) == n
    assert max(numbers) < 2**31


def test_hash_is_spark_s(spark: SparkSession) -> None:
    numbers = [0, 1, 2, 42, 2**20, 2**31 - 1, *np.random.default_rng(0).integers(0, 2**31, 50).tolist()]
    df = spark.createDataFrame([(int(number),) for number in numbers], "number int")
    found = {row[0]: row[1] for row in df.select("number", F.hash("number")).collect()}
    assert found == dict(zip(numbers, search._murmur3(np.array(numbers, np.uint32)).tolist(), strict=True))


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_each_unit_has_its_own_partition(spark: SparkSession, n: int) -> None:
    numbers = numbers_that_hash_apart(n)
    df = spark.createDataFrame([(number,) for number in numbers], "unit int").repartition(3)
    found = df.repartition(n, "unit").select("unit", F.spark_partition_id()).collect()
    assert dict(map(tuple, found)) == {number: partition for partition, number in enumerate(numbers)}


def places() -> Any:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(8, 2))[rng.integers(0, 8, N)] * 10 + rng.normal(size=(N, 2))).round(3)


def rows_in(spark: SparkSession, partitions: int) -> DataFrame:
    """Two groups of rows, and one that nobody asks for."""
    keys = np.random.default_rng(1).integers(-(2**62), 2**62, N).tolist()
    data = [(i % 3, key, row, f"row {i}") for i, (key, row) in enumerate(zip(keys, places().tolist(), strict=True))]
    return spark.createDataFrame(data, "group int, key bigint, features array<double>, note string").repartition(
        partitions
    )


def space(**changed: Any) -> Space:
    return Space(**{"scaling": "none", "exact": True, "center": (0.0, 0.0), "scale": (1.0, 1.0), **changed})


def some_cells() -> Cells:
    return Cells.learn(places().astype(np.float32), k=3, rows=N, max_rows=150)


DIVISIONS = {
    "one unit a group": {0: space(), 1: space()},
    "one unit": {1: space()},
    "parts": {0: space(parts=5), 1: space()},
    "cells": {0: space(parts=2), 1: space(cells=some_cells())},
}
SCHEMA = "group int, key bigint, note string, home boolean, place int, unit_rows int, task int, first bigint"


def found(df: DataFrame, spaces: dict[int, Space]) -> list[Any]:
    """Let each unit tell what it sees."""

    def tell(unit: Unit) -> Iterator[pa.RecordBatch]:
        context, n = TaskContext.get(), len(unit.table)
        assert context is not None
        columns = [
            pa.array(np.full(n, unit.group, np.int32)),
            pa.array(unit.column("key")),
            unit.table.column("note").combine_chunks(),
            pa.array(unit.home),
            pa.array(np.arange(n, dtype=np.int32)),
            pa.array(np.full(n, n, np.int32)),
            pa.array(np.full(n, context.partitionId(), np.int32)),
            pa.array(np.full(n, unit.column("key")[0])),
        ]
        names = ["group", "key", "note", "home", "place", "unit_rows", "task", "first"]
        yield pa.RecordBatch.from_arrays(columns, names=names)

    return sorted(tuple(row) for row in by_unit(df, spaces, tell, StructType.fromDDL(SCHEMA)).collect())


@pytest.mark.parametrize("division", DIVISIONS)
def test_rows_of_a_unit_meet_in_order(spark: SparkSession, division: str) -> None:
    spaces = DIVISIONS[division]
    seen = {partitions: found(rows_in(spark, partitions), spaces) for partitions in (1, 7)}
    assert seen[1] == seen[7]
    wanted = {i: (i % 3) for i in range(N) if i % 3 in spaces}
    at_home = [(note, group) for group, _, note, home, *_ in seen[1] if home]
    assert sorted(at_home) == sorted((f"row {i}", group) for i, group in wanted.items())
    units: dict[Any, list[Any]] = {}
    for group, key, _, _, place, n, task, first in seen[1]:
        units.setdefault((group, first, task), []).append((place, key, n))
    for told in units.values():
        told.sort()
        assert [place for place, _, _ in told] == list(range(told[0][2]))
        assert [key for _, key, _ in told] == sorted(key for _, key, _ in told)
    total = sum(space.units for space in spaces.values())
    assert len(units) == total, "each unit met once"
    assert len({task for _, _, task in units}) == total, "in a task of its own"
    group_of = {task: group for group, _, task in units}
    for group, space_of in spaces.items():
        assert sum(found == group for found in group_of.values()) == space_of.units


def test_rows_visit_the_cells_that_the_cells_say(spark: SparkSession) -> None:
    cells = some_cells()
    seen = found(rows_in(spark, 3), {1: space(cells=cells)})
    mine = np.arange(1, N, 3)
    rows, _, home = cells.route(places()[mine].astype(np.float32))
    times = Counter(note for _, _, note, *_ in seen)
    assert times == Counter(f"row {i}" for i in mine[rows])
    assert sum(not row[3] for row in seen) == (~home).sum() > 0


def batch(unit: int, keys: range, d: int = 4) -> pa.RecordBatch:
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(np.array(keys, float), d)), d).cast(
        pa.list_(pa.float64())
    )
    columns = [pa.array(np.full(len(keys), unit, np.int32)), pa.array(np.array(keys)), features]
    return pa.RecordBatch.from_arrays(columns, names=["unit", "key", "features"])


def joined(*batches: pa.RecordBatch) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def keys_of(tables: Iterator[pa.Table]) -> list[Any]:
    """Return the unit and the keys of each table, and check that its features are those of its rows."""
    told = []
    for table in tables:
        (unit,) = set(table.column("unit").to_pylist())
        keys = table.column("key").to_numpy()
        np.testing.assert_array_equal(feature_matrix(table), np.repeat(keys[:, None], 4, axis=1))
        told.append((unit, keys.tolist()))
    return told


def test_batches_of_a_unit_are_put_together() -> None:
    """Wherever Spark ends its batches, and though some hold rows of several units."""
    several = joined(batch(3, range(5)), batch(7, range(5, 9)), batch(8, range(9, 10)))
    batches = [batch(3, range(0)), several, batch(8, range(10, 12)), batch(9, range(12, 13))]
    expected = [(3, [*range(5)]), (7, [*range(5, 9)]), (8, [9, 10, 11]), (9, [12])]
    assert keys_of(search._tables(batches)) == expected
    assert keys_of(search._tables([])) == []
    assert keys_of(search._tables([batch(3, range(0))])) == []


def test_a_unit_larger_than_the_bound_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the keys; a part is above its bound by at most one batch."""
    monkeypatch.setattr(search, "MAX_UNIT_BYTES", 100 * 4 * 4)
    batches = [batch(3, range(start, start + 30)) for start in range(0, 600, 30)] + [batch(4, range(600, 610))]
    told = keys_of(search._tables(batches))
    assert [key for _, keys in told for key in keys] == list(range(610))
    sizes = [len(keys) for unit, keys in told if unit == 3]
    assert len(sizes) > 2
    assert max(sizes) <= 150 + 30
    assert told[-1] == (4, list(range(600, 610)))
    monkeypatch.setattr(search, "MAX_UNIT_BYTES", 2**20)
    assert [len(keys) for _, keys in keys_of(search._tables(batches))] == [600, 10]


def test_features_that_are_null_are_missing_numbers() -> None:
    table = pa.table({"features": pa.array([[1.0, None], [None, 4.0]], pa.list_(pa.float64()))})
    np.testing.assert_array_equal(feature_matrix(table), [[1.0, np.nan], [np.nan, 4.0]])
    assert feature_matrix(table.slice(1)).shape == (1, 2)
    np.testing.assert_array_equal(feature_matrix(table.slice(1)), [[np.nan, 4.0]])
    assert len(feature_matrix(table.slice(0, 0))) == 0
