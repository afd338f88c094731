"""A batch written twice is there once, in every sink that needs no service."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import CONNECT
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.streaming.sinks import DeltaSink, KafkaSink, MemorySink, ParquetSink, drop_repeats

BROKERS = {"kafka.bootstrap.servers": "127.0.0.1:1"}


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    """Some rows, of which three are equal and two others are too."""
    return spark.sql(
        "select * from values (1, 'a', timestamp'2026-01-01 10:00:00.123456', 0.1d), (2, 'b', null, double('nan')), "
        "(1, 'a', timestamp'2026-01-01 10:00:00.123456', 0.1d), (null, 'c', null, null), (3, null, null, -0.0d), "
        "(1, 'a', timestamp'2026-01-01 10:00:00.123456', 0.1d), (null, 'c', null, null) as (id, name, at, x)"
    )


def counted(dataset: DataFrame) -> Counter[str]:
    return Counter(map(repr, dataset.collect()))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.name[0] not in "._"}


# ---- Parquet


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_a_repeated_batch_takes_the_place_of_the_first(spark: SparkSession, tmp_path: Path, form: str) -> None:
    sink = ParquetSink(path=f"{tmp_path}/out", format=form)
    sink.write(spark.range(3), 0)
    sink.write(spark.range(10, 30).repartition(5), 1)
    sink.write(spark.range(10, 12).coalesce(1), 1)
    written = spark.read.schema("id bigint, batch int").format(form).load(f"{tmp_path}/out")
    assert counted(written) == Counter(f"Row(id={i}, batch={b})" for i, b in [(0, 0), (1, 0), (2, 0), (10, 1), (11, 1)])


def test_what_a_killed_writer_left_is_replaced(spark: SparkSession, tmp_path: Path) -> None:
    sink = ParquetSink(path=f"{tmp_path}/out")
    sink.write(spark.range(5).repartition(4), 7)
    folder = tmp_path / "out" / "batch=7"
    first, *_ = folder.glob("part-*")
    shutil.copy(first, folder / f"part-00099-half{first.suffix}")  # a file of another partitioning, committed
    (folder / "_temporary" / "0").mkdir(parents=True)
    shutil.copy(first, folder / "_temporary" / "0" / "part-00000")
    (folder / "_SUCCESS").unlink()
    sink.write(spark.range(5).repartition(2), 7)
    assert counted(spark.read.parquet(str(folder))) == Counter(f"Row(id={i})" for i in range(5))
    assert (folder / "_SUCCESS").exists()
    assert not (folder / "_temporary").exists()


def test_an_empty_batch_is_a_directory_too(spark: SparkSession, tmp_path: Path) -> None:
    sink = ParquetSink(path=f"{tmp_path}/out")
    sink.write(spark.range(0), 0)
    assert spark.read.parquet(f"{tmp_path}/out/batch=0").isEmpty()


def test_rows_whose_column_would_be_taken_for_the_batch(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(SparkimbError, match=r"a column 'batch', .*Rename"):
        ParquetSink(path=f"{tmp_path}/out").write(spark.range(1).withColumnRenamed("id", "Batch"), 0)
    assert not (tmp_path / "out").exists()


# ---- memory


def test_memory_holds_the_last_try_of_each_batch(spark: SparkSession) -> None:
    sink = MemorySink(maxRows=4)
    sink.write(spark.range(3), 0)
    sink.write(spark.range(4), 0)
    assert sink.batches[0].to_pydict() == {"id": [0, 1, 2, 3]}
    with pytest.raises(SparkimbError, match="has room for 0, but batch 1 has more"):
        sink.write(spark.range(1), 1)
    assert list(sink.batches) == [0]
    sink.write(spark.range(0), 1)
    assert sink.batches[1].num_rows == 0
    assert MemorySink().batches == {}


# ---- Kafka


def keys(dataset: DataFrame, batchId: int, application: str = "") -> list[str]:
    messages = KafkaSink(topic="t", options=BROKERS, application=application).messages(dataset, batchId)
    assert messages.dtypes == [("key", "string"), ("value", "string")]
    return [row["key"] for row in messages.collect()]


def test_equal_rows_have_keys_of_their_own(rows: DataFrame) -> None:
    found = keys(rows, 4)
    assert len(set(found)) == len(found) == rows.count()
    batches, hashes, copies = zip(*(key.split("-") for key in found), strict=True)
    assert set(batches) == {"4"}
    assert sorted(Counter(hashes).values()) == [1, 1, 2, 3]
    assert Counter(copies) == {"1": 4, "2": 2, "3": 1}
    assert not set(found) & set(keys(rows, 5))
    assert all(key.startswith("fraud-4-") for key in keys(rows, 4, "fraud"))


def test_a_replay_has_the_same_messages(spark: SparkSession, rows: DataFrame) -> None:
    sink = KafkaSink(topic="t", options=BROKERS)
    first = counted(sink.messages(rows, 2))
    assert counted(sink.messages(rows.repartition(7).orderBy(F.desc("x")), 2)) == first
    zone = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    try:
        assert counted(sink.messages(rows.repartition(2), 2)) == first
    finally:
        spark.conf.set("spark.sql.session.timeZone", str(zone))


def test_the_value_is_the_whole_row(rows: DataFrame) -> None:
    messages = KafkaSink(topic="t", options=BROKERS).messages(rows, 0)
    read = messages.select(F.from_json("value", rows.schema.simpleString()).alias("row")).select("row.*")
    assert counted(read) == counted(rows)


def test_a_consumer_drops_what_a_replay_sent_again(rows: DataFrame) -> None:
    sink = KafkaSink(topic="t", options=BROKERS)
    half = sink.messages(rows, 0).limit(3)  # what a driver sent before it died
    topic = half.union(sink.messages(rows, 0)).union(sink.messages(rows, 1))
    assert drop_repeats(topic).count() == 2 * rows.count()
    binary = topic.select(F.col("key").cast("binary"), "value")  # as Kafka's source gives it
    assert counted(drop_repeats(binary).select("value")) == Counter(
        {value: 2 * n for value, n in counted(sink.messages(rows, 0).select("value")).items()}
    )
    with pytest.raises(SparkimbError, match="keyCol 'key' not found"):
        drop_repeats(topic.drop("key"))


@pytest.mark.skipif(CONNECT, reason="plans are the server's")
def test_keys_cost_one_shuffle_and_no_sort(rows: DataFrame) -> None:
    plan = KafkaSink(topic="t", options=BROKERS).messages(rows, 0)._jdf.queryExecution().executedPlan().toString()
    assert plan.count("Exchange ") == 1
    assert "Sort" not in plan


# ---- mistakes


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: ParquetSink(path=""), SparkimbError, "ParquetSink.path is empty"),
        (lambda: ParquetSink(path=None), TypeError, "ParquetSink.path must be a string"),
        (lambda: ParquetSink(path="x", format="csv"), SparkimbError, "ParquetSink.format is 'csv'"),
        (lambda: DeltaSink(path="x", application=""), SparkimbError, "DeltaSink.application is empty"),
        (lambda: KafkaSink(topic="", options=BROKERS), SparkimbError, "KafkaSink.topic is empty"),
        (lambda: KafkaSink(topic="x", options={}), SparkimbError, "lack 'kafka.bootstrap.servers'"),
        (lambda: MemorySink(maxRows=0), SparkimbError, "MemorySink.maxRows is 0"),
    ],
)
def test_mistakes(make, error, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=said):
        make()


def test_rows_as_people_read_them(spark: SparkSession, tmp_path: Path) -> None:
    sink = ParquetSink(path=f"{tmp_path}/status", format="json")
    sink.write(spark.createDataFrame([Row(rows=1)]).coalesce(1), 0)
    (file,) = files(tmp_path / "status")
    assert (tmp_path / "status" / "batch=0" / file).read_text() == '{"rows":1}\n'
