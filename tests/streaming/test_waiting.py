"""Rows that wait for their labels: they go out when it comes, whole and once, or are told to have waited in vain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkimb.errors import SparkimbError
from sparkimb.streaming.balancer import StreamingBalancer
from sparkimb.streaming.waiting import WaitingRoom

SCHEMA = "id long, label int, x double"
BALANCER = StreamingBalancer(idCols=["id"], inputCols=["x"], unlabelled="wait", maxWaitBatches=2)


@pytest.fixture
def room(tmp_path: Path) -> WaitingRoom:
    return WaitingRoom(path=str(tmp_path / "waiting"), versions=2)


def step(room: WaitingRoom, batch: DataFrame, batchId: int) -> dict[str, Any]:
    ready, waiting, expired, spare = room.release(batch, batchId, BALANCER)
    found = {"ready": sorted(map(tuple, ready.collect())), "expired": sorted(map(tuple, expired.collect()))}
    dead = BALANCER.rejected(spare).select("id", "x", "reason").orderBy("x").collect()
    return found | {"waiting": room.write(waiting, batchId), "spare": [tuple(row) for row in dead]}


def test_labels_find_their_rows(spark: SparkSession, room: WaitingRoom) -> None:
    batches = [
        [(1, None, 0.1), (2, None, 0.2), (3, 0, 0.3)],
        [(1, 1, None), (4, None, 0.4), (2, None, 9.9)],  # the first of two rows with one id waits on
        [(2, 0, None), (5, 1, None)],  # a label without a row comes as it is
        [(6, 1, 0.6)],
        [],
    ]
    seen = [step(room, spark.createDataFrame(rows, SCHEMA), batchId) for batchId, rows in enumerate(batches)]
    assert [found["ready"] for found in seen] == [
        [(3, 0, 0.3)],
        [(1, 1, 0.1)],
        [(2, 0, 0.2), (5, 1, None)],
        [(6, 1, 0.6)],
        [],
    ]
    assert [found["waiting"] for found in seen] == [2, 2, 1, 0, 0]
    assert [found["expired"] for found in seen] == [
        [],
        [],
        [],
        [(4, None, 0.4, "label 'label' has not come within 2 batches")],
        [],
    ]


def test_a_batch_run_again_finds_what_it_found(spark: SparkSession, room: WaitingRoom) -> None:
    step(room, spark.createDataFrame([(1, None, 0.1), (2, None, 0.2)], SCHEMA), 0)
    second = spark.createDataFrame([(1, 1, None)], SCHEMA)
    assert step(room, second, 1) == step(room, second, 1)


def test_columns_that_changed_are_told(spark: SparkSession, room: WaitingRoom) -> None:
    step(room, spark.createDataFrame([(1, None, 0.1)], SCHEMA), 0)
    with pytest.raises(SparkimbError, match="Give the stream its former columns"):
        step(room, spark.createDataFrame([], "id long, label int, x double, y double"), 1)


def test_a_table_that_is_gone_is_told(spark: SparkSession, room: WaitingRoom) -> None:
    with pytest.raises(SparkimbError, match="after batch 3 cannot be read"):
        step(room, spark.createDataFrame([], SCHEMA), 4)


def test_rows_that_cannot_wait_are_told(spark: SparkSession, room: WaitingRoom) -> None:
    lost = "id 'id' is null, so no label would find the row"
    repeated = "another row with the same ids waits for label 'label'"
    batches = [
        [(None, None, 0.1), (None, None, 0.2), (1, None, 0.3), (2, None, 0.4), (None, 1, 0.5)],
        [(1, None, 0.6), (1, None, 0.7), (2, 0, None), (2, None, 0.8), (3, 1, 0.9)],
    ]
    for parts in (1, 3):
        seen = [step(room, spark.createDataFrame(rows, SCHEMA).repartition(parts), i) for i, rows in enumerate(batches)]
        assert [found["ready"] for found in seen] == [[(None, 1, 0.5)], [(2, 0, 0.4), (3, 1, 0.9)]]
        assert [found["waiting"] for found in seen] == [2, 1]
        assert [found["spare"] for found in seen] == [
            [(None, 0.1, lost), (None, 0.2, lost)],
            [(1, 0.6, repeated), (1, 0.7, repeated), (2, 0.8, repeated)],
        ]


def test_of_the_first_rows_with_the_same_ids_one_waits_whatever_the_partitioning(
    spark: SparkSession, room: WaitingRoom
) -> None:
    df = spark.createDataFrame([(1, None, x / 10) for x in range(9)], SCHEMA)
    found = [step(room, df.repartition(parts), 0) for parts in (1, 4)]
    assert found[0] == found[1]
    assert (found[0]["waiting"], len(found[0]["spare"])) == (1, 8)
