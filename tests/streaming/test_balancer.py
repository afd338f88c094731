"""StreamingBalancer: rates from the batches before, exact counts of what goes out, whatever the partitioning."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.datasets import blobs
from sparkimb.errors import SparkimbError
from sparkimb.streaming.balancer import BalancerState, StreamingBalancer
from sparkimb.streaming.counts import DecayedCounts

KEPT = DecayedCounts(rows=5_000, sizes={0: 0.8, 1: 0.2})
ROWS = 600


@pytest.fixture(scope="module")
def batch(spark: SparkSession) -> Iterator[DataFrame]:
    df = blobs(spark, rows=ROWS, minority=0.2, features=3, layout="array", partitions=2).persist()
    yield df
    df.unpersist()


def balancer(**given: Any) -> StreamingBalancer:
    return StreamingBalancer(**{"idCols": ["id"], "warmUpRows": 0, "maxRate": 3.0, **given})


def state_of(found: StreamingBalancer, batch: DataFrame, before: BalancerState) -> BalancerState:
    return found.after(batch, before, found.look(batch, before))


def rows_of(df: DataFrame) -> list[str]:
    return sorted(repr(row) for row in df.collect())


@pytest.mark.parametrize("method", ["under", "uob", "over", "oob", "weigh"])
def test_rows_that_go_out_are_those_counted_and_near_the_rates(batch: DataFrame, method: str) -> None:
    found, state = balancer(method=method), BalancerState(KEPT)
    seen = found.look(batch, state)
    out = found.resample(batch, state)
    came = dict(batch.groupBy("label").count().collect())
    assert seen.rowsIn == came
    assert Counter(row["label"] for row in out.collect()) == seen.rowsOut
    rates = found.rates(state)
    for label, n in came.items():
        expected = n * (1.0 if method == "weigh" else rates[label])
        assert abs(seen.rowsOut[label] - expected) <= 5 * math.sqrt(n * max(rates[label], 1.0))
    if method == "weigh":
        assert out.groupBy("label").agg(F.max("weight")).collect() == [(c, rates[c]) for (c,) in _labels(out)]


def _labels(df: DataFrame) -> list[Any]:
    return [row[:1] for row in df.groupBy("label").agg(F.max("weight")).collect()]


def test_rates_are_of_the_batch_before(batch: DataFrame) -> None:
    found = balancer(method="under")
    first = BalancerState()
    assert found.rates(first) == {}
    assert found.resample(batch, first).count() == ROWS
    second = state_of(found, batch, first)
    rows = dict(batch.groupBy("label").count().collect())
    assert second.counts.shares == pytest.approx({c: n / ROWS for c, n in rows.items()})
    assert found.rates(second) == pytest.approx({0: rows[1] / rows[0], 1: 1.0})


def test_nothing_is_changed_while_it_warms_up(batch: DataFrame) -> None:
    found = balancer(warmUpRows=ROWS + 1)
    state = state_of(found, batch, BalancerState())
    assert set(found.rates(state).values()) == {1.0}
    assert rows_of(found.resample(batch, state)) == rows_of(batch)
    assert found.rates(state_of(found, batch, state)) != found.rates(state)


def test_a_class_that_appears_passes_and_has_a_rate_from_the_next_batch_on(batch: DataFrame) -> None:
    found = balancer(method="over", maxRate=20.0)
    state = state_of(found, batch, BalancerState())
    new = batch.withColumn("label", F.when(F.col("id") % 40 == 0, 7).otherwise(F.col("label")))
    assert found.look(new, state).rowsOut[7] == 15
    assert found.rates(state_of(found, new, state))[7] > 1.0


def test_repeated_rows_are_whole_and_told_apart(batch: DataFrame) -> None:
    out = balancer(method="over", syntheticCol="made").resample(batch, BalancerState(KEPT))
    by_id = out.groupBy("id", "label").agg(F.count_if(~F.col("made")).alias("first"), F.count(F.lit(1)).alias("all"))
    assert {
        tuple(row) for row in by_id.groupBy("label", "first", "all").count().select("label", "first", "all").collect()
    } == {
        (0, 1, 1),
        (1, 1, 3),
    }


@pytest.mark.parametrize("form", ["array", "vector", "columns"])
def test_rows_made_lie_between_rows_of_their_class(spark: SparkSession, batch: DataFrame, form: str) -> None:
    given: dict[str, Any] = {"featuresCol": "features"}
    if form == "vector":
        batch = batch.withColumn("features", array_to_vector("features"))
    if form == "columns":
        batch = batch.select("id", "label", *(F.col("features")[i].alias(f"f{i}") for i in range(3)))
        given = {"inputCols": ["f0", "f1", "f2"]}
    found = balancer(method="smote", syntheticCol="made", reservoirRows=40, **given)
    state = state_of(found, batch, BalancerState())
    assert set(state.reservoir.rows) == {1}
    assert state.reservoir.rows[1].num_rows == 40
    out = found.resample(batch, state)
    assert out.dtypes == batch.withColumn("made", F.lit(False)).dtypes
    seen = found.look(batch, state)
    assert Counter(row["label"] for row in out.select("label").collect()) == seen.rowsOut
    made = out.where("made").collect()
    assert {row["label"] for row in made} == {1}
    assert {row["id"] for row in made} == {None}
    points = np.array([_features(row, form) for row in made])
    parents = np.array([_features(row, form) for row in batch.where("label = 1").collect()])
    kept = np.array(state.reservoir.rows[1].column("features").to_pylist())
    assert all(_on_a_segment(point, parents, kept) for point in points)


def _features(row: Any, form: str) -> list[float]:
    return [row["f0"], row["f1"], row["f2"]] if form == "columns" else list(row["features"])


def _on_a_segment(point: Any, starts: Any, ends: Any) -> bool:
    for start in starts:
        ways = ends - start
        lengths = np.einsum("ij,ij->i", ways, ways)
        with np.errstate(invalid="ignore"):
            t = np.clip((point - start) @ ways.T / lengths, 0, 1)
        if (np.linalg.norm(start + np.nan_to_num(t)[:, None] * ways - point, axis=1) < 1e-6).any():
            return True
    return False


@pytest.mark.parametrize("sizes", [{0: 0.8, 1: 0.2}, {0: 0.2, 1: 0.8}], ids=["as before", "the largest class changes"])
def test_rows_of_the_smaller_classes_may_be_cached(batch: DataFrame, sizes: dict[int, float]) -> None:
    found = balancer(method="smote", featuresCol="features", halfLife=10.0)
    state = replace(state_of(found, batch, BalancerState()), counts=DecayedCounts(rows=5_000, sizes=sizes))
    smaller, seen = found.smaller(batch, state), found.look(batch, state)
    assert smaller is not None
    assert {row["label"] for row in smaller.collect()} == {min(sizes, key=sizes.__getitem__)}
    assert rows_of(found.resample(batch, state, smaller)) == rows_of(found.resample(batch, state))
    after = found.after(batch, state, seen, smaller)
    assert after.to_json() == found.after(batch, state, seen).to_json()
    assert after.counts.largest == 0
    assert list(after.reservoir.rows) == [1]


@pytest.mark.parametrize("method", ["under", "oob", "smote"])
def test_partitions_change_neither_rows_nor_state(batch: DataFrame, method: str) -> None:
    found = balancer(method=method, inputCols=None, featuresCol="features", reservoirRows=50)
    seen = {}
    for partitions in (1, 5):
        divided = batch.repartition(partitions)
        state = state_of(found, divided, BalancerState())
        again = state_of(found, divided.where("id % 2 = 0"), state)
        rows = rows_of(found.resample(divided, again))
        seen[partitions] = (json.dumps(again.to_json()), rows)
    assert seen[1] == seen[5]
    loaded = BalancerState.from_json(json.loads(seen[1][0]))
    assert json.dumps(loaded.to_json()) == seen[1][0]


def test_rows_that_cannot_be_used_are_told_with_their_reasons(spark: SparkSession) -> None:
    nan = float("nan")
    df = spark.createDataFrame(
        [
            (1, 1.0, 0.5),
            (2, None, 0.5),
            (3, nan, 0.5),
            (4, 0.0, nan),
            (5, 0.0, None),
            (6, 0.0, math.inf),
            (7, 0.0, 1.0),
        ],
        "id int, label double, x double",
    )
    found = balancer(inputCols=["x"])
    feature = "feature 'x' is null, NaN or infinite"
    seen = found.look(df, BalancerState())
    assert seen.rejected == {feature: 3, "label 'label' is NaN": 1, "label 'label' is null": 1}
    assert seen.rowsIn == {0.0: 1, 1.0: 1}
    assert {row["id"]: row["reason"] for row in found.rejected(df).collect()} == {
        2: "label 'label' is null",
        3: "label 'label' is NaN",
        **dict.fromkeys((4, 5, 6), feature),
    }
    assert [row["id"] for row in found.resample(df, BalancerState()).orderBy("id").collect()] == [1, 7]
    passing = balancer(inputCols=["x"], unlabelled="pass", missingFeatures="pass", method="weigh")
    seen = passing.look(df, BalancerState())
    assert (seen.unlabelled, seen.rejected) == (1, {"label 'label' is NaN": 1})
    assert passing.resample(df, BalancerState()).where("id = 2").collect() == [(2, None, 0.5, 1.0)]


def test_other_features_than_those_kept_are_an_error(batch: DataFrame) -> None:
    state = state_of(balancer(method="smote", featuresCol="features"), batch, BalancerState())
    other = balancer(method="smote", featuresCol="others")
    with pytest.raises(SparkimbError, match=r"features \['features'\], but the balancer has \['others'\]"):
        state_of(other, batch.withColumnRenamed("features", "others"), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "smoke"}, "method"),
        ({"ratio": 0.0}, r"ratio is 0.0. It must be in \(0, 1\]"),
        ({"maxRate": 101.0}, "maxRate"),
        ({"minRate": 0.0}, r"minRate is 0.0. It must be in \(0, 1\]"),
        ({"method": "smote"}, "needs featuresCol or inputCols"),
        ({"method": "smote", "featuresCol": "f", "kNeighbors": 500}, "Keep more rows than neighbours"),
        ({"featuresCol": "f", "inputCols": ["g"]}, "Give one"),
        ({"unlabelled": "wait", "idCols": None}, "Set idCols"),
    ],
)
def test_values_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SparkimbError, match=message):
        StreamingBalancer(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labelCol": "lable"}, r"labelCol 'lable' \(did you mean 'label'\?\)"),
        ({"inputCols": ["word"]}, "not numeric"),
        ({"timeCol": "id"}, "Cast it to a timestamp"),
        ({"method": "weigh", "weightCol": "id"}, "is there already"),
        ({"syntheticCol": "word"}, "is there already"),
    ],
)
def test_columns_are_checked_before_any_job(spark: SparkSession, given: dict[str, Any], message: str) -> None:
    df = spark.createDataFrame([], "id long, label int, word string")
    with pytest.raises(SparkimbError, match=message):
        StreamingBalancer(**given).check(df)


def test_a_stray_label_costs_the_others_no_rows() -> None:
    found = StreamingBalancer(halfLife=1_000.0, warmUpRows=0, minRate=0.001)
    known = DecayedCounts().after({"a": 900, "b": 100}, 1_000)
    stray = known.after({"stray": 1}, 1_000)
    assert found.rates(BalancerState(stray)) == pytest.approx({**found.rates(BalancerState(known)), "stray": 1.0})
    rare = DecayedCounts(rows=10**6, sizes={"a": 1.0, "b": 1e-9})
    assert found.rates(BalancerState(rare)) == {"a": 0.001, "b": 1.0}


@pytest.mark.parametrize("form", ["array", "vector"])
def test_rows_of_another_length_cannot_be_used(batch: DataFrame, form: str) -> None:
    other = F.when(F.col("id") % 100 == 0, F.slice("features", 1, 2)).otherwise(F.col("features"))
    mixed = batch.withColumn("features", other)
    if form == "vector":
        mixed = mixed.withColumn("features", array_to_vector("features"))
    found = balancer(method="smote", featuresCol="features", reservoirRows=40)
    for parts in (1, 5):
        state = found.measured(mixed.repartition(parts), BalancerState())
        assert state.numFeatures == 3
    seen = found.look(mixed, state)
    reason = "feature 'features' has 2 numbers instead of 3"
    assert seen.rejected == {reason: 6}
    assert {row["reason"] for row in found.rejected(mixed, 3).collect()} == {reason}
    after = found.after(mixed, state, seen)
    assert {len(row) for row in after.reservoir.rows[1].column("features").to_pylist()} == {3}
    assert Counter(row["label"] for row in found.resample(mixed, after).select("label").collect()) == (
        found.look(mixed, after).rowsOut
    )


def test_null_features_have_no_length(batch: DataFrame) -> None:
    found = balancer(method="smote", featuresCol="features", missingFeatures="pass")
    nothing = batch.withColumn("features", F.lit(None).cast("array<double>"))
    state = state_of(found, nothing, BalancerState())
    assert (state.numFeatures, sum(state.counts.sizes.values()) > 0) == (0, True)
    assert found.look(nothing, BalancerState(numFeatures=3)).rejected == {}


def test_more_features_than_the_reservoir_has_room_for(batch: DataFrame) -> None:
    found = balancer(method="smote", featuresCol="features", reservoirRows=2_000_000)
    with pytest.raises(SparkimbError, match=r"with 3 features at most 1,398,101 are kept of a class\. Keep fewer"):
        found.measured(batch, BalancerState())
    many = [f"f{i}" for i in range(1_000)]
    with pytest.raises(SparkimbError, match="with 1,000 features at most 4,194 are kept"):
        StreamingBalancer(method="smote", inputCols=many, reservoirRows=5_000)
