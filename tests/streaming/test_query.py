"""BatchRunner and start_balanced: each batch exactly once, whatever was written of it before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONNECT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from written import contents

from sparkimb.datasets import drifting
from sparkimb.errors import SparkimbError
from sparkimb.streaming import metrics as metrics_module
from sparkimb.streaming.balancer import BalancerState, StreamingBalancer
from sparkimb.streaming.drift import DriftMonitor
from sparkimb.streaming.metrics import StreamingMetrics
from sparkimb.streaming.query import BatchRunner, start_balanced
from sparkimb.streaming.sinks import ParquetSink
from sparkimb.streaming.state import StateTable

BATCHES, ROWS = 3, 300
FEATURES = ["f0", "f1", "f2"]
UNWATCHED = dict.fromkeys(("metrics", "metricsSink", "monitor", "eventsSink"))


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> Iterator[DataFrame]:
    """Rows of a drifting stream, judged by the old concept; `batch` numbers the batches."""
    stream = drifting(spark, BATCHES * ROWS, minority=0.2, partitions=2)
    df = stream.withColumns(
        {
            "prediction": (F.col("f0") + F.col("f1") <= 7).cast("int"),
            "score": 7 - F.col("f0") - F.col("f1"),
            "batch": F.floor(F.col("id") / ROWS).cast("int"),
        }
    ).persist()
    df.count()
    yield df
    df.unpersist()


def batch(rows: DataFrame, number: int) -> DataFrame:
    return rows.where(F.col("batch") == number).drop("batch")


def balancer(**given: Any) -> StreamingBalancer:
    settings = {"idCols": ["id"], "inputCols": FEATURES, "timeCol": "event_time", "warmUpRows": 100, "method": "smote"}
    return StreamingBalancer(**{**settings, "reservoirRows": 40, "halfLife": 400.0, **given})


def runner(path: Path, found: StreamingBalancer | None = None, **given: Any) -> BatchRunner:
    side = {name: ParquetSink(path=str(path / name), format="json") for name in ("status", "metricsSink", "eventsSink")}
    metrics = StreamingMetrics(predictionCol="prediction", scoreCol="score", positiveLabel=1, timeCol="event_time")
    watched = {"metrics": metrics, "monitor": DriftMonitor(positiveLabel=1)}
    return BatchRunner(
        balancer=found or balancer(),
        sink=ParquetSink(path=str(path / "out")),
        state=StateTable(path=str(path / "state")),
        **{**side, **watched, "deadLetters": ParquetSink(path=str(path / "dead")), **given},
    )


def test_a_batch_run_again_by_another_driver_leaves_the_same(rows: DataFrame, tmp_path: Path) -> None:
    once = runner(tmp_path / "once")
    for number in range(BATCHES):
        once(batch(rows, number), number)
    for number in range(BATCHES):
        for _ in range(2):  # a new runner knows nothing but what lies in the directories
            runner(tmp_path / "twice")(batch(rows, number).repartition(3), number)
    if not CONNECT:  # a client does not see what is cached
        assert rows.sparkSession.sparkContext._jsc.getPersistentRDDs().size() == 1, "rows, and nothing of a batch"
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")
    assert len(contents(tmp_path / "once")) > 3 * BATCHES


def test_figures_tell_what_was_written(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    figures: list[dict[str, Any]] = []
    run = runner(tmp_path, onStatus=figures.append)
    for number in range(2):
        run(batch(rows, number), number)
    written = [
        dict(spark.read.parquet(str(tmp_path / f"out/batch={n}")).groupBy("label").count().collect()) for n in (0, 1)
    ]
    for number, told in enumerate(figures):
        assert told["rowsOut"] == {str(label): n for label, n in written[number].items()}
        assert sum(told["rowsIn"].values()) == ROWS
        assert told["eventTime"].startswith("2024-01-01T00:")
        assert told["lagSeconds"] > 0
    assert figures[0]["rates"] == {}
    assert figures[1]["rates"]["1"] > 1.5
    assert sum(figures[1]["shares"].values()) == pytest.approx(1)
    kept = spark.read.json(str(tmp_path / "status")).orderBy("batchId").collect()
    assert [row["rowsOut"].asDict() for row in kept] == [told["rowsOut"] for told in figures]


@pytest.mark.parametrize("method", [pytest.param("under", marks=pytest.mark.slow), "smote"])
def test_batches_without_rows_or_of_one_class_are_batches(rows: DataFrame, tmp_path: Path, method: str) -> None:
    run = runner(tmp_path, balancer(method=method, warmUpRows=0))
    run(batch(rows, 0).where("label = 0"), 0)
    run(batch(rows, 1).limit(0), 1)
    run(batch(rows, 1).where("label = 1"), 2)
    run(batch(rows, 2), 3)
    figures = contents(tmp_path)
    assert len(figures["out/batch=0"]) == batch(rows, 0).where("label = 0").count()
    assert figures["out/batch=1"] == []
    state = json.loads(figures["state/slot=3"][0].partition(" ")[2])["state"]["balancer"]
    assert BalancerState.from_json(state).counts.rows == sum(len(figures[f"out/batch={n}"]) for n in (0, 2)) + ROWS


def test_rows_that_cannot_be_used_go_to_the_dead_letters_and_the_stream_goes_on(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    poisoned = batch(rows, 0).withColumns(
        {
            "label": F.when(F.col("id") != 5, F.col("label")),
            "f1": F.when(F.col("id") == 7, float("nan")).otherwise(F.col("f1")),
        }
    )
    run = runner(tmp_path)
    run(poisoned, 0)
    run(batch(rows, 1), 1)
    dead = spark.read.parquet(str(tmp_path / "dead"))
    assert {row["id"]: row["reason"] for row in dead.collect()} == {
        5: "label 'label' is null",
        7: "feature 'f1' is null, NaN or infinite",
    }
    out = spark.read.parquet(str(tmp_path / "out/batch=0"))
    assert out.where("id is not null").count() == ROWS - 2
    for given, way_out in (
        ({"deadLetters": None}, "Give deadLetters a sink"),
        ({"maxRejected": 0.0}, "the source changed"),
    ):
        with pytest.raises(SparkimbError, match=rf"Batch 0 has 300 rows, of which 2 cannot be used: .*{way_out}"):
            runner(tmp_path / "none", **given)(poisoned, 0)
    assert not (tmp_path / "none").exists()


def test_rows_wait_for_their_labels(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    figures: list[dict[str, Any]] = []
    run = runner(tmp_path, balancer(method="under", unlabelled="wait", warmUpRows=10_000), onStatus=figures.append)
    blank = F.lit(None)
    late = F.col("id") % 3 == 0
    run(batch(rows, 0).withColumn("label", F.when(~late, F.col("label"))), 0)
    labels = batch(rows, 0).where(late)
    columns = [name for name in labels.columns if name not in ("id", "label")]
    run(labels.withColumns({name: blank.cast(labels.schema[name].dataType) for name in columns}), 1)
    assert [told["waiting"] for told in figures] == [ROWS // 3, 0]
    with pytest.raises(SparkimbError, match="Rows may wait for a label in vain, but deadLetters is None"):
        runner(tmp_path, run.balancer, deadLetters=None)
    out = spark.read.parquet(str(tmp_path / "out")).drop("batch")
    assert sorted(map(repr, out.collect())) == sorted(map(repr, batch(rows, 0).collect()))


def test_a_lost_state_is_told_and_nothing_is_written(rows: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SparkimbError, match="state after batch 4 is not in"):
        runner(tmp_path)(batch(rows, 0), 5)
    assert not (tmp_path / "out").exists()


def test_a_stream_is_balanced_as_its_batches_are(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    for number in range(BATCHES):
        batch(rows, number).coalesce(1).write.parquet(str(tmp_path / "in"), mode="append")
    stream = (
        spark.readStream.schema(batch(rows, 0).schema).option("maxFilesPerTrigger", 1).parquet(str(tmp_path / "in"))
    )
    given = vars(runner(tmp_path / "query")).copy()
    for name in ("_last", "onStatus"):
        given.pop(name, None)
    settings = {"statePath": given.pop("state").path, "checkpointLocation": str(tmp_path / "checkpoint")}
    query = start_balanced(stream, given.pop("balancer"), **given, **settings)
    assert query.awaitTermination(120)
    direct = runner(tmp_path / "direct")
    for number in range(BATCHES):
        direct(batch(rows, number), number)
    assert contents(tmp_path / "query") == contents(tmp_path / "direct")


def test_what_cannot_work_is_refused_before_the_query_starts(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    sink = ParquetSink(path=str(tmp_path / "out"))
    places = {"statePath": str(tmp_path / "state"), "checkpointLocation": str(tmp_path / "checkpoint")}
    with pytest.raises(SparkimbError, match="The dataset is no stream"):
        start_balanced(rows, balancer(), sink=sink, **places)
    with pytest.raises(SparkimbError, match=r"labelCol 'label', idCols 'id', .* not found"):
        start_balanced(spark.readStream.format("rate").load(), balancer(), sink=sink, **places)
    stream = spark.readStream.schema(batch(rows, 0).schema).parquet(str(tmp_path))
    worded = stream.withColumns({name: F.col(name).cast("string") for name in ("label", "prediction")})
    watched = {"metrics": StreamingMetrics(positiveLabel="1"), "monitor": DriftMonitor()}
    with pytest.raises(SparkimbError, match="positiveLabel is 1, but labelCol 'label' is of type string"):
        start_balanced(worded, balancer(), sink=sink, **watched, **places)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SparkimbError, match="metrics is None"):
        BatchRunner(balancer=balancer(), sink=sink, state=StateTable(path="x"), monitor=DriftMonitor(positiveLabel=1))
    with pytest.raises(SparkimbError, match="metricsSink has nothing to take"):
        BatchRunner(balancer=balancer(), sink=sink, state=StateTable(path="x"), metricsSink=sink)


def test_rows_that_waited_in_vain_go_to_the_dead_letters(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    figures: list[dict[str, Any]] = []
    run = runner(tmp_path, balancer(method="under", unlabelled="wait", maxWaitBatches=1), onStatus=figures.append)
    run(batch(rows, 0).withColumn("label", F.when(F.col("id") != 4, F.col("label"))), 0)
    run(batch(rows, 1), 1)
    assert [told["rejected"] for told in figures] == [{}, {"label 'label' has not come": 1}]
    dead = spark.read.parquet(str(tmp_path / "dead")).collect()
    assert [(row["id"], row["reason"]) for row in dead] == [(4, "label 'label' has not come within 1 batches")]


def test_rows_that_cannot_wait_for_a_label_are_counted_and_buried(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    figures: list[dict[str, Any]] = []
    some = batch(rows, 0).where("id < 40")
    blank = some.withColumn("label", F.when(F.col("id") >= 10, F.col("label")))
    poisoned = blank.withColumn("id", F.when(F.col("id") != 3, F.col("id"))).union(blank.where("id in (4, 5)"))
    for name, parts in (("once", 1), ("again", 3)):
        run = runner(tmp_path / name, balancer(method="under", unlabelled="wait"), onStatus=figures.append, **UNWATCHED)
        run(poisoned.repartition(parts), 0)
    assert contents(tmp_path / "once") == contents(tmp_path / "again")
    rejected = {
        "another row with the same ids waits for label 'label'": 2,
        "id 'id' is null, so no label would find the row": 1,
    }
    assert [(told["rejected"], told["waiting"], sum(told["rowsIn"].values())) for told in figures] == [
        (rejected, 9, 30)
    ] * 2
    dead = spark.read.parquet(str(tmp_path / "once/dead")).groupBy("reason").count().collect()
    assert {row["reason"]: row["count"] for row in dead} == rejected


def test_a_batch_that_cannot_be_judged_leaves_nothing(
    rows: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = batch(rows, 0).withColumn("label", F.when(F.col("id") != 5, F.col("label")))
    monkeypatch.setattr(metrics_module, "MAX_CELLS", 1)
    with pytest.raises(SparkimbError, match="different pairs"):
        runner(tmp_path)(poisoned, 0)
    assert not list(tmp_path.iterdir())


def test_a_batch_of_too_many_steps_is_judged_in_fewer(
    rows: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "MAX_STEPS", 2)
    metrics = StreamingMetrics(timeCol="event_time", stepSeconds=10)
    run = runner(tmp_path, balancer(method="under"), metrics=metrics, monitor=None, eventsSink=None)
    run(batch(rows, 0), 0)
    told = [json.loads(line) for line in contents(tmp_path)["metricsSink/batch=0"]]
    assert sorted(row["step"] for row in told) == [0, 1]
    assert sum(row["rows"] for row in told) == ROWS


def test_a_function_that_raises_does_not_end_the_query(
    rows: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(figures: dict[str, Any]) -> None:
        raise OSError("no network")

    run = runner(tmp_path, balancer(method="under"), onStatus=fail, queryName="cards", **UNWATCHED)
    with caplog.at_level("INFO", logger="sparkimb.streaming"):
        run(batch(rows, 0), 0)
    assert "no network" in caplog.text
    assert any(record.getMessage().startswith("cards: batch {") for record in caplog.records)


def test_rows_are_judged_when_their_labels_have_come(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    def judge(batch: DataFrame) -> DataFrame:
        return batch.withColumn("prediction", F.coalesce((F.col("f0") + F.col("f1") <= 7).cast("int"), F.lit(-1)))

    given = balancer(method="under", unlabelled="wait", warmUpRows=10_000)
    run = runner(tmp_path, given, judge=judge, **UNWATCHED)
    raw = batch(rows, 0).drop("prediction")
    run(raw.withColumn("label", F.when(F.col("id") >= 20, F.col("label"))), 0)
    lacking = [F.lit(None).cast(raw.schema[name].dataType).alias(name) for name in FEATURES]
    run(raw.where("id < 20").select("id", "event_time", "label", *lacking, "score"), 1)
    out = spark.read.parquet(str(tmp_path / "out")).select("id", "prediction")
    assert sorted(out.collect()) == sorted(batch(rows, 0).select("id", "prediction").collect())
