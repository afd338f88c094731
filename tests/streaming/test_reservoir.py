"""Reservoir: the lowest ranks of a stream are those of the whole, and rows of late are likelier."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.draws import uniform
from sparkimb.streaming.reservoir import Reservoir

ROWS = 3_000


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> Iterator[DataFrame]:
    numbered = spark.range(ROWS).select(
        F.when(F.col("id") % 10 == 0, "rare").otherwise("common").alias("label"),
        F.xxhash64("id").alias("key"),
        uniform("id", seed=3, purpose="reservoir").alias("draw"),
        F.array(F.col("id").cast("float")).alias("features"),
        "id",
    )
    df = numbered.persist()
    yield df
    df.unpersist()


def oracle(rows: DataFrame, label: str, size: int, ages: list[float], parts: int) -> list[float]:
    """Rank all rows at once, on one machine."""
    found = [row for row in rows.collect() if row["label"] == label]
    ranks = [math.log(-math.log1p(-row["draw"])) - ages[row["id"] * parts // ROWS] for row in found]
    return [found[i]["features"][0] for i in np.argsort(ranks)[:size]]


def kept(reservoir: Reservoir, label: str) -> list[float]:
    return [features[0] for features in reservoir.rows[label].column("features").to_pylist()]


@pytest.mark.parametrize(("size", "decay"), [(20, 0.0), (20, 2.0), (500, 1.0)])
def test_batches_leave_what_the_whole_would(rows: DataFrame, size: int, decay: float) -> None:
    parts = 4
    ages = [decay * part for part in range(parts)]
    reservoir = Reservoir()
    for part in range(parts):
        batch = rows.where(F.floor(F.col("id") * parts / ROWS) == part)
        counts = {"rare": ROWS // 10 // parts, "common": ROWS * 9 // 10 // parts}
        reservoir = reservoir.after(batch, counts, size=size, age=ages[part])
    for label in ("rare", "common"):
        assert kept(reservoir, label) == oracle(rows, label, size, ages, parts)
    again = Reservoir.from_json(json.loads(json.dumps(reservoir.to_json())))
    assert again.to_json() == reservoir.to_json()


def test_rows_of_late_are_likelier_by_the_half_life(rows: DataFrame) -> None:
    half = rows.where("label = 'common'")
    first, second = half.where(F.col("id") < ROWS / 2), half.where(F.col("id") >= ROWS / 2)
    n = {"common": ROWS * 9 // 20}
    reservoir = Reservoir().after(first, n, size=300, age=0.0).after(second, n, size=300, age=2 * math.log(2))
    late = np.mean(np.array(kept(reservoir, "common")) >= ROWS / 2)
    # Four times the weight: without replacement a little less than 4 in 5, as the heavy half runs low.
    assert 0.70 < late < 0.82


def test_classes_that_are_not_asked_for_lose_their_rows(rows: DataFrame) -> None:
    reservoir = Reservoir().after(rows, {"rare": 300, "common": 2_700}, size=5, age=0.0)
    assert set(reservoir.after(rows.limit(0), {"rare": 0}, size=5, age=0.0).rows) == {"rare"}


def test_a_key_that_comes_again_is_kept_once(rows: DataFrame) -> None:
    rare = rows.where("label = 'rare'")
    reservoir = Reservoir().after(rare, {"rare": 300}, size=50, age=0.0)
    again = reservoir.after(rare.union(rare), {"rare": 600}, size=50, age=0.0)
    assert kept(again, "rare") == kept(reservoir, "rare")


def test_few_draws_that_many_rows_share_are_all_looked_at(rows: DataFrame) -> None:
    high = rows.where("label = 'rare'").withColumn("draw", F.col("draw") / 10 + 0.9)
    assert len(kept(Reservoir().after(high, {"rare": 300}, size=10, age=0.0), "rare")) == 10
