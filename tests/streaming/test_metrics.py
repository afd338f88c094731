"""Metrics of a stream equal a loop over single rows, or its mean over all orders of the rows of a batch."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from sparkimb.errors import SparkimbError
from sparkimb.streaming import metrics as module
from sparkimb.streaming.fading import FadedShare
from sparkimb.streaming.metrics import MetricsLook, StepCounts, StreamingMetrics

Row = tuple[str, str]

labels = st.sampled_from(["0", "1", "2"])
row_lists = st.lists(st.tuples(labels, labels), min_size=1, max_size=60)
fadings = st.sampled_from([0.5, 0.9, 0.999, 0.9999999, 1.0])


def look_of(*steps: list[Row], **fields: Any) -> MetricsLook:
    return MetricsLook("integer", tuple(StepCounts(dict(sorted(Counter(rows).items()))) for rows in steps), **fields)


def run(metrics: StreamingMetrics, *looks: MetricsLook) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    state, rows = metrics.empty(), []
    for look in looks:
        state, found = metrics.after(state, look)
        rows += found
    return state, rows


def weights(confusion: list[list[Any]]) -> dict[tuple[str, str], float]:
    return {(label, prediction): w for label, prediction, w in confusion}


# --- pure ---


@given(row_lists, fadings)
def test_batches_of_one_row_are_the_loop_over_rows(rows: list[Row], fading: float) -> None:
    loop = reference.Metrics(fading)
    state = StreamingMetrics(fading=fading).empty()
    for row in rows:
        loop.see(*row)
        state, (found,) = StreamingMetrics(fading=fading).after(state, look_of([row]))
        assert found["recall"] == pytest.approx(loop.recall, rel=1e-12, abs=1e-12)
        assert found["precision"] == pytest.approx(loop.precision, rel=1e-12, abs=1e-12)
        expected = {pair: w for pair, w in loop.confusion.items() if w > 1e-9}
        assert weights(found["confusion"]) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        recalls = list(loop.recall.values())
        assert found["balancedAccuracy"] == pytest.approx(sum(recalls) / len(recalls), rel=1e-12, abs=1e-12)
        assert found["gMean"] == pytest.approx(math.prod(recalls) ** (1 / len(recalls)), rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(row_lists, st.lists(st.tuples(labels, labels), min_size=1, max_size=5), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_batch_is_the_mean_over_all_orders_of_its_rows(past: list[Row], batch: list[Row], fading: float) -> None:
    loops = []
    for order in permutations(batch):
        loops.append(reference.Metrics(fading))
        for row in [*past, *order]:
            loops[-1].see(*row)
    _, rows = run(StreamingMetrics(fading=fading), *(look_of([row]) for row in past), look_of(batch))
    for name in ("recall", "precision"):
        found = rows[-1][name]
        assert found == pytest.approx(
            {label: sum(getattr(loop, name)[label] for loop in loops) / len(loops) for label in found},
            rel=1e-9,
            abs=1e-12,
        )
    found = weights(rows[-1]["confusion"])
    assert found == pytest.approx(
        {pair: sum(loop.confusion[pair] for loop in loops) / len(loops) for pair in found}, rel=1e-9, abs=1e-12
    )


def test_a_large_batch_is_within_chance_of_the_mean_over_random_orders() -> None:
    draw = random.Random(3)
    batch = [(str(int(draw.random() < 0.3)), str(int(draw.random() < 0.4))) for _ in range(300)]
    recalls = []
    for _ in range(400):
        draw.shuffle(batch)
        loop = reference.Metrics(0.95)
        for row in batch:
            loop.see(*row)
        recalls.append(loop.recall["1"])
    mean = sum(recalls) / len(recalls)
    error = math.sqrt(sum((r - mean) ** 2 for r in recalls) / (len(recalls) - 1) / len(recalls))
    _, rows = run(StreamingMetrics(fading=0.95), look_of(batch))
    assert abs(rows[0]["recall"]["1"] - mean) < 5 * error


@given(row_lists, row_lists)
def test_rows_of_other_classes_do_not_fade_a_class(rows: list[Row], others: list[Row]) -> None:
    others = [("7", "8")] * len(others)
    state, _ = run(StreamingMetrics(fading=0.9), look_of(rows))
    after, _ = StreamingMetrics(fading=0.9).after(state, look_of(others))
    assert {k: v for k, v in after["recall"].items() if k != "7"} == state["recall"]
    assert {k: v for k, v in after["precision"].items() if k != "8"} == state["precision"]


@given(row_lists, row_lists, row_lists, fadings)
def test_steps_of_a_batch_are_batches(first: list[Row], second: list[Row], third: list[Row], fading: float) -> None:
    metrics = StreamingMetrics(fading=fading)
    together, rows = run(metrics, look_of(first, second, third))
    apart, single = run(metrics, look_of(first), look_of(second), look_of(third))
    assert together == apart
    assert rows == [{**row, "step": i} for i, row in enumerate(single)]


@given(st.lists(row_lists, max_size=4), fadings)
def test_state_survives_json(batches: list[list[Row]], fading: float) -> None:
    metrics, state = StreamingMetrics(fading=fading, window=3), StreamingMetrics().empty()
    stored = state
    for i, batch in enumerate(batches):
        look = look_of(batch, window=((0, 0.1 * i, i % 2 == 0), (0, 0.7, False)))
        state, rows = metrics.after(state, look)
        stored, same = metrics.after(json.loads(json.dumps(stored, sort_keys=True)), look)
        assert (json.dumps(stored), json.dumps(same)) == (json.dumps(state), json.dumps(rows))


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(2, 20),
)
def test_area_is_that_of_the_newest_rows(batches: list[list[tuple[int, bool]]], window: int) -> None:
    metrics = StreamingMetrics(scoreCol="score", window=window)
    state, seen = metrics.empty(), []
    for batch in batches:
        seen += batch
        newest = tuple((0, score / 4, positive) for score, positive in batch[-window:])
        state, (found,) = metrics.after(state, look_of([("1", "1")], window=newest))
        scores, positives = zip(*seen[-window:], strict=True)
        if len(set(positives)) < 2:
            assert found["areaUnderROC"] is None
        else:
            assert found["areaUnderROC"] == pytest.approx(roc_auc_score(positives, scores), rel=1e-12)
        assert len(state["scores"]) == len(state["positives"]) <= window


def test_a_batch_without_judged_rows_changes_nothing() -> None:
    metrics = StreamingMetrics()
    state, _ = run(metrics, look_of([("0", "1")]))
    assert metrics.after(state, look_of()) == (state, [])
    after, (row,) = metrics.after(state, look_of(unjudged=3))
    assert after == state
    assert (row["rows"], row["unjudged"], row["time"]) == (0, 3, None)
    _, (first,) = metrics.after(metrics.empty(), look_of(unjudged=3))
    assert (first["recall"], first["gMean"], first["balancedAccuracy"], first["confusion"]) == ({}, None, None, [])


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=9))
def test_effective_rows_are_never_more_than_rows(steps: list[tuple[int, float]]) -> None:
    share = FadedShare()
    for n, part in steps:
        share = share.after(n, round(n * part), 0.9)
        assert 0 <= share.value <= 1
    assert 1 - 1e-9 <= share.effective <= sum(n for n, _ in steps) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kind", "label", "text"),
    [
        ("integer", 5.0, "5"), ("integer", 5.5, "5.5"), ("integer", True, "1"), ("integer", 2**60 + 1, str(2**60 + 1)),
        ("integer", math.inf, "inf"), ("number", 5, "5.0"), ("number", -0.0, "0.0"), ("number", True, "1.0"),
        ("boolean", 1.0, "True"), ("boolean", 0, "False"), ("boolean", 2.0, "2.0"), ("string", "5", "5"),
    ],
)  # fmt: skip
def test_texts_of_labels(kind: module.Kind, label: Any, text: str) -> None:
    assert module.label_text(label, kind) == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fading": 0.0}, r"StreamingMetrics\.fading is 0\.0\. It must be in \(0, 1\]"),
        ({"fading": 1.5}, r"StreamingMetrics\.fading is 1\.5"),
        ({"window": 1}, r"StreamingMetrics\.window is 1\. It must be at least 2"),
        ({"window": 100_001}, r"StreamingMetrics\.window is 100001\. It must be at most 100000"),
        ({"stepSeconds": 60}, r"StreamingMetrics\.stepSeconds is 60, but timeCol is not set"),
        ({"stepSeconds": 1e-9, "timeCol": "t"}, r"StreamingMetrics\.stepSeconds is 1e-09\. Spark's times"),
        ({"labelCol": ""}, r"StreamingMetrics\.labelCol is empty"),
    ],
)
def test_values_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SparkimbError, match=message):
        StreamingMetrics(**fields)


def test_more_pairs_than_the_state_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", 3)
    with pytest.raises(SparkimbError, match="have held more than 3 different pairs"):
        run(StreamingMetrics(), look_of([("0", "0"), ("0", "1")]), look_of([("1", "0"), ("1", "1")]))


def test_pickle() -> None:
    metrics = StreamingMetrics(scoreCol="score", timeCol="t", stepSeconds=5, fading=0.9)
    assert pickle.loads(pickle.dumps(metrics)) == metrics


# --- on Spark ---

METRICS = StreamingMetrics(scoreCol="score", timeCol="event_time", stepSeconds=100, fading=0.99, window=150)


def scored(spark: SparkSession, rows: int) -> DataFrame:
    """Rows one a second, with a score of few values and a prediction that is right for most."""
    draw = random.Random(5)
    table = []
    for i in range(rows):
        label = int(draw.random() < 0.3)
        score = round(draw.gauss(label, 1.0), 1)
        table.append((i, label, float(score > 0.5), score))
    df = spark.createDataFrame(table, "id int, label int, prediction double, score double")
    return df.withColumn("event_time", F.timestamp_seconds(F.col("id") + 1_704_067_200))


def test_partitions_do_not_matter(spark: SparkSession) -> None:
    df = scored(spark, 400)
    # Four rows have one time, so that the window ends among rows of one time.
    df = df.withColumn("event_time", F.timestamp_seconds(1_704_067_200 + F.floor(F.col("id") / 4) * 4))
    found = set()
    for parts in (1, 7):
        state, rows = run(
            METRICS, *(METRICS.look(b.repartition(parts)) for b in (df.where("id < 130"), df.where("id >= 130")))
        )
        found.add(json.dumps([state, rows]))
    assert len(found) == 1


def test_a_look_at_a_batch_is_the_loop_over_its_rows_by_time(spark: SparkSession) -> None:
    df = scored(spark, 600)
    table = df.orderBy("id").toPandas()
    one_row = replace(METRICS, stepSeconds=1.0, window=600)
    state, rows = run(one_row, one_row.look(df.where("id < 300")), one_row.look(df.where("id >= 300")))
    loop = reference.Metrics(0.99)
    assert len(rows) == 600
    for i, (row, label, prediction) in enumerate(zip(rows, table.label, table.prediction, strict=True)):
        loop.see(str(label), str(int(prediction)))
        assert row["recall"] == pytest.approx(loop.recall, rel=1e-12)
        assert row["time"] == (datetime(2024, 1, 1) + timedelta(seconds=i)).isoformat() + "+00:00"
    assert (state["scores"], state["positives"]) == (table.score.tolist(), table.label.tolist())
    for i in (50, 299, 450, 599):
        assert rows[i]["areaUnderROC"] == pytest.approx(roc_auc_score(table.label[: i + 1], table.score[: i + 1]))


def test_steps_of_time_equal_batches_of_them(spark: SparkSession) -> None:
    df = scored(spark, 400)
    whole = replace(METRICS, stepSeconds=None)
    together, rows = run(METRICS, METRICS.look(df))
    apart, single = run(whole, *(whole.look(df.where(F.floor(F.col("id") / 100) == i)) for i in range(4)))
    assert together == apart
    assert [row["rows"] for row in rows] == [100] * 4
    # 400 rows are more than the window holds, so only the last step has an area.
    assert [row["areaUnderROC"] is None for row in rows] == [True, True, True, False]
    areas = [row.pop("areaUnderROC") for row in single]
    assert rows[-1].pop("areaUnderROC") == areas[-1]
    assert rows[:3] == [{**row, "step": i, "areaUnderROC": None} for i, row in enumerate(single[:3])]


@pytest.mark.parametrize(
    ("label", "prediction", "values", "positive", "texts"),
    [
        ("int", "double", [(5, 5.0), (5, 0.0), (0, 0.5), (0, float("nan")), (None, 0.0)], 5, ("5", "0.5")),
        ("double", "int", [(5.0, 5), (5.0, 0), (0.0, 7), (float("nan"), 0), (0.0, None)], 5, ("5.0", "7.0")),
        ("boolean", "double", [(True, 1.0), (True, 0.0), (False, 2.0), (None, 1.0), (True, None)], 1, ("True", "2.0")),
        ("string", "string", [("a", "a"), ("a", "b"), ("b", "c"), (None, "a"), ("a", None)], "a", ("a", "c")),
    ],
)
def test_labels_of_any_type(
    label: str, prediction: str, values: list[Any], positive: Any, texts: Row, spark: SparkSession
) -> None:
    df = spark.createDataFrame([(*row, 0.5) for row in values], f"label {label}, prediction {prediction}, score double")
    metrics = StreamingMetrics(scoreCol="score", positiveLabel=positive)
    look = metrics.look(df)
    _, (row,) = metrics.after(metrics.empty(), look)
    text, other = texts
    assert (row["rows"], row["unjudged"], row["time"]) == (3, 2, None)
    assert row["recall"][text] == pytest.approx(0.5, abs=1e-3)
    assert row["precision"][text] == 1.0
    assert other in row["precision"]
    assert other not in row["recall"]
    assert look.text(positive) == text
    assert sorted(look.window) == [(0, 0.5, False), (0, 0.5, True), (0, 0.5, True)]


def test_rows_without_time_or_score(spark: SparkSession) -> None:
    rows = [(1, 1, 0.5, 10), (1, 0, None, 11), (0, 0, float("nan"), 12), (0, 1, float("inf"), 13), (1, 1, 0.4, None)]
    df = spark.createDataFrame(rows, "label int, prediction int, score double, second int")
    df = df.withColumn("time", F.timestamp_seconds("second"))
    look = replace(METRICS, timeCol="time").look(df)
    assert look.unjudged == 1
    assert [step.rows for step in look.steps] == [4]
    assert look.steps[0].newest == 13_000_000
    assert look.window == ((0, 0.5, True),)


def test_errors_of_columns(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, "1", 0.5, 3)], "label int, prediction string, score double, time int")
    with pytest.raises(SparkimbError, match=r"scoreCol 'p', timeCol 'when' not found\. Columns are: label"):
        StreamingMetrics(scoreCol="p", timeCol="when").look(df)
    with pytest.raises(SparkimbError, match=r"labelCol 'label' is of type int, but predictionCol 'prediction'"):
        StreamingMetrics().check(df)
    with pytest.raises(SparkimbError, match=r"scoreCol 'prediction' is of type string, not a number"):
        StreamingMetrics(predictionCol="label", scoreCol="prediction").check(df)
    with pytest.raises(SparkimbError, match=r"timeCol 'time' is of type int\. Cast it to a timestamp"):
        StreamingMetrics(predictionCol="label", timeCol="time").check(df)
    with pytest.raises(SparkimbError, match=r"positiveLabel is 'yes', but labelCol 'label' is of type int"):
        StreamingMetrics(predictionCol="label", scoreCol="score", positiveLabel="yes").check(df)


def test_too_many_steps_are_merged_on_demand(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    df, metrics = scored(spark, 60), replace(METRICS, stepSeconds=10)
    apart = metrics.look(df)
    monkeypatch.setattr(module, "MAX_STEPS", 3)
    look = metrics.look(df, mergeSteps=True)
    early = sum((Counter(step.cells) for step in apart.steps[:4]), Counter())
    assert [step.cells for step in look.steps] == [dict(early), *(step.cells for step in apart.steps[4:])]
    assert [step.newest for step in look.steps] == [step.newest for step in apart.steps[3:]]
    assert look.window == tuple((max(step - 3, 0), *row) for step, *row in apart.window)
    assert look == metrics.look(df.repartition(5), mergeSteps=True)
    monkeypatch.setattr(module, "MAX_CELLS", 4)
    (whole,) = metrics.look(df, mergeSteps=True).steps
    assert whole.cells == dict(sum((Counter(step.cells) for step in apart.steps), Counter()))


def test_too_many_steps_or_pairs(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    df = scored(spark, 40)
    monkeypatch.setattr(module, "MAX_STEPS", 3)
    with pytest.raises(SparkimbError, match=r"A batch holds 4 steps of 10\.0 seconds, and at most 3"):
        replace(METRICS, stepSeconds=10).look(df)
    monkeypatch.setattr(module, "MAX_CELLS", 3)
    with pytest.raises(SparkimbError, match="hold more than 3 different pairs in the steps of one batch"):
        METRICS.look(df.withColumn("label", F.col("id")))
