"""The neighbour table of a DataFrame equals scikit-learn's, and its quality is measured rightly."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.neighbors import NearestNeighbors

from sparkimb import SMOTE, SMOTEN, SMOTENC
from sparkimb.datasets import blobs
from sparkimb.errors import SparkimbError
from sparkimb.neighbors import nearest_neighbors, spaces
from sparkimb.testing import example

COLUMNS = [f"f{i}" for i in range(6)]


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return blobs(spark, 1500, minority=0.3, features=6, clusters=4, scatter=3.0)


def oracle(points: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances, found = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points).kneighbors(points[queries])
    return distances[:, 1:] ** 2, found[:, 1:]


@pytest.mark.parametrize("among", ["class", "all"])
def test_the_table_is_scikit_learns(rows: DataFrame, among: str) -> None:
    table = nearest_neighbors(
        rows, idCols=["id"], inputCols=COLUMNS, among=among, queryLabels=[1], k=4, search="exact", scale="none"
    )
    found = table.select("row.id", "neighbor.id", "label", "neighborLabel", "rank", "squaredDistance").collect()
    data = rows.orderBy("id").toPandas()
    pool = data if among == "all" else data[data.label == 1].reset_index(drop=True)
    queries = np.flatnonzero(pool.label == 1)
    squared, neighbors = oracle(pool[COLUMNS].to_numpy(), queries, 4)
    expected = {
        (pool.id[row], rank + 1): (pool.id[neighbors[i, rank]], pool.label[neighbors[i, rank]], squared[i, rank])
        for i, row in enumerate(queries)
        for rank in range(4)
    }
    assert len(found) == len(expected)
    for row, neighbor, label, neighbor_label, rank, distance in found:
        assert label == 1
        assert (neighbor, neighbor_label) == expected[row, rank][:2]
        assert distance == pytest.approx(expected[row, rank][2], rel=1e-9)


def test_groups_smaller_than_k_have_fewer_neighbours(spark: SparkSession) -> None:
    few = spark.createDataFrame(
        [(1, "a", [0.0]), (2, "a", [1.0]), (3, "b", [5.0])], "id int, label string, x array<double>"
    )
    table = nearest_neighbors(few, idCols=["id"], featuresCol="x", k=3, scale="none").collect()
    assert {(row["row"]["id"], row["neighbor"]["id"], row["squaredDistance"]) for row in table} == {
        (1, 2, 1.0),
        (2, 1, 1.0),
    }


def test_what_is_not_there_is_named(rows: DataFrame) -> None:
    with pytest.raises(SparkimbError, match=r"queryLabels names 7. Labels are: 0, 1"):
        nearest_neighbors(rows, idCols=["id"], inputCols=COLUMNS, queryLabels=[7])
    with pytest.raises(SparkimbError, match=r"'f9'.*not found"):
        nearest_neighbors(rows, idCols=["id"], inputCols=["f9"])
    with pytest.raises(SparkimbError, match="search is 'near'"):
        nearest_neighbors(rows, idCols=["id"], inputCols=COLUMNS, search="near")  # type: ignore[arg-type]


@pytest.mark.parametrize("search", ["exact", "cells", "partition"])
def test_quality_is_what_comparing_with_scikit_learn_gives(
    rows: DataFrame, search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is in the sample, so the recall and the distances can be computed from the lineage's own search."""
    if search != "exact":
        monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 120 * 24)  # 120 rows of six numbers: several cells
        monkeypatch.setattr(spaces, "PARTITION_ROWS", 120)
    sampler = SMOTE(idCols=["id"], inputCols=COLUMNS, kNeighbors=4, scale="none", neighborSearch=search)
    model = sampler.fit(rows)
    (quality,) = model.neighborQuality(rows, sample=10_000).values()
    found = nearest_neighbors(
        rows, idCols=["id"], inputCols=COLUMNS, queryLabels=[1], k=4, search=search, scale="none"
    ).collect()
    data = rows.where("label = 1").orderBy("id").toPandas()
    squared, neighbors = oracle(data[COLUMNS].to_numpy(), np.arange(len(data)), 4)
    true = {(data.id[i], data.id[j]) for i, row in enumerate(neighbors) for j in row}
    hits = sum((row["row"]["id"], row["neighbor"]["id"]) in true for row in found)
    lengths = sum(row["squaredDistance"] ** 0.5 for row in found)
    assert quality.rows == len(data)
    assert quality.recall == pytest.approx(hits / squared.size, abs=1e-12)
    assert quality.distanceRatio == pytest.approx(lengths / np.sqrt(squared).sum(), rel=1e-9)
    if search == "exact":
        assert quality.recall == 1.0
        assert quality.beyondBorder == 0.0
    if search == "partition":
        assert quality.recall < 0.6
    if search == "cells":
        assert model.spaces[1].units > 1
        assert quality.recall > 0.8
        assert quality.beyondBorder > 0


def test_a_sample_of_the_rows_is_enough(rows: DataFrame) -> None:
    model = SMOTE(idCols=["id"], inputCols=COLUMNS).fit(rows)
    (quality,) = model.neighborQuality(rows, sample=50).values()
    assert 25 <= quality.rows <= 100
    assert quality.recall == 1.0


def test_a_table_does_not_depend_on_partitions(rows: DataFrame) -> None:
    def table(dataset: DataFrame) -> list[str]:
        found = nearest_neighbors(dataset, idCols=["id"], inputCols=COLUMNS, search="cells", k=3)
        return sorted(map(repr, found.collect()))

    assert table(rows.coalesce(1)) == table(rows.repartition(7)) == table(rows.repartition(16, F.col("f0")))


@pytest.mark.parametrize(
    "sampler",
    [
        SMOTENC(idCols=["id"], inputCols=["f0", "f1"], categoricalCols=["color", "stratum"]),
        SMOTEN(idCols=["id"], categoricalCols=["color", "stratum", "fold"]),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_exact_search_among_categories_is_perfect(spark: SparkSession, sampler: SMOTENC | SMOTEN) -> None:
    dataset = example(spark)
    for label, quality in sampler.fit(dataset).neighborQuality(dataset).items():
        assert quality.rows == {"middle": 40, "rare": 16}[label]
        assert (quality.recall, quality.distanceRatio) == (1.0, 1.0)
