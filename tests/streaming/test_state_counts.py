"""StateCounts is exact to the row, whatever batches, restarts, partitions and salts; rows decay by their own time."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CONNECT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.streaming.state_counts import PROVIDER, ROCKSDB, ClassTotals, StateCounts, with_rows

HOUR = 3600.0
START = datetime(2026, 3, 1, tzinfo=timezone.utc)
TIMED = {"idCols": ["id"], "timeCol": "time", "halfLifeSeconds": HOUR}


@pytest.fixture(autouse=True)
def rocksdb(spark: SparkSession) -> Iterator[None]:
    before = spark.conf.get(PROVIDER)
    spark.conf.set(PROVIDER, f"org.apache.spark.sql.execution.streaming.state.{ROCKSDB}")
    yield
    spark.conf.set(PROVIDER, before)


def table(seed: int, labels: list[str | None], n: int = 300) -> pd.DataFrame:
    """Rows within six hours, in no order, so that many are late; of the first label most."""
    rng = np.random.default_rng(seed)
    p = np.array([10.0, *np.ones(len(labels) - 1)])
    times = [START + timedelta(milliseconds=int(ms)) for ms in rng.integers(0, 6 * 3_600_000, n)]
    label = [labels[i] for i in rng.choice(len(labels), size=n, p=p / p.sum())]
    return pd.DataFrame({"id": 1_000 * seed + np.arange(n), "label": label, "time": times})


def arrive(spark: SparkSession, rows: pd.DataFrame, folder: Path) -> None:
    """Add a file to the source, whose files are the batches."""
    spark.createDataFrame(rows, SCHEMA).coalesce(1).write.mode("append").parquet(str(folder / "in"))


SCHEMA = "id bigint, label string, time timestamp"


def count(spark: SparkSession, counts: StateCounts, folder: Path, *, query: str, files: int) -> DataFrame:
    """Run a query over what has come, so many files a batch, and return all that it has told so far."""
    told = str(folder / query / "out")

    def append(batch: DataFrame, batchId: int) -> None:  # files take no updates
        batch.write.mode("append").parquet(told)

    stream = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", files).parquet(str(folder / "in"))
    writer = counts.partials(stream).writeStream.outputMode("update").foreachBatch(append)
    writer = writer.option("checkpointLocation", str(folder / query / "checkpoint"))
    assert writer.trigger(availableNow=True).start().awaitTermination(120)
    return spark.read.parquet(told)


def expected(rows: pd.DataFrame, at: datetime | None = None) -> ClassTotals:
    """Count at once, with NumPy."""
    rows = rows[rows["label"].notna() & rows["time"].notna()]
    time = rows["time"].max() if at is None else pd.Timestamp(at)
    age = (time - rows["time"]).dt.total_seconds().to_numpy()
    weights = pd.Series(2.0 ** (-age / HOUR), index=rows["label"]).groupby(level=0).sum()
    return ClassTotals(rows["label"].value_counts().to_dict(), weights.to_dict(), time.to_pydatetime())


def check(found: ClassTotals, wanted: ClassTotals) -> None:
    assert found.rows == wanted.rows
    assert found.decayedRows == pytest.approx(wanted.decayedRows, rel=1e-12)
    assert found.time == wanted.time


def test_counts_are_those_of_all_rows_at_once(spark: SparkSession, tmp_path: Path) -> None:
    first, second = table(1, ["common", "rare", None]), table(2, ["common", "rare"])
    first.loc[::50, "time"] = pd.NaT  # without a time there is no age
    arrive(spark, first, tmp_path)
    arrive(spark, second, tmp_path)
    counts = StateCounts(**TIMED)
    told = count(spark, counts, tmp_path, query="a", files=1)
    check(counts.totals(told), expected(pd.concat([first, second])))
    assert told.where("label = 'common'").select("salt").distinct().count() == 16

    # A restart from the checkpoint, with other salts, where rows are late and a class is new.
    late = table(3, ["common", "new"]).assign(time=lambda rows: rows["time"] - timedelta(days=1))
    arrive(spark, late, tmp_path)
    rows = pd.concat([first, second, late])
    salted = StateCounts(**TIMED, salt=3, majority=["common"])
    told = count(spark, salted, tmp_path, query="a", files=1)
    check(salted.totals(told), expected(rows))
    check(salted.totals(told.union(told)), expected(rows))
    later = START + timedelta(hours=9)
    check(salted.totals(told, at=later), expected(rows, at=later))

    # A query of its own, with another number of partitions, and batches of other rows.
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    try:
        told = count(spark, salted, tmp_path, query="b", files=3)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")
    check(salted.totals(told), expected(rows))
    groups = told.groupBy("label").agg(F.countDistinct("salt")).collect()
    assert dict(map(tuple, groups)) == {"common": 3, "rare": 1, "new": 1}


def test_rows_may_be_added_in_any_order() -> None:
    rng = np.random.default_rng(0)
    micros = rng.integers(0, 10**10, 1_000)
    sums = []
    for order in (np.arange(1_000), rng.permutation(1_000), np.argsort(-micros)):
        newest, decayed = None, 0.0
        for part in np.array_split(micros[order], 7):
            newest, decayed = with_rows(newest, decayed, part, 1e9)
        sums.append((newest, decayed))
    assert {newest for newest, _ in sums} == {micros.max()}
    assert [s for _, s in sums] == pytest.approx([np.exp2((micros - micros.max()) / 1e9).sum()] * 3, rel=1e-13)


@pytest.mark.parametrize("kind", ["boolean", "int", "double"])
def test_labels_of_other_types_are_counted_and_nan_is_none(spark: SparkSession, kind: str) -> None:
    label = F.when(F.col("id") < 10, F.lit(1)).otherwise(F.lit(0)).cast(kind)
    if kind == "double":
        label = F.when(F.col("id") == 99, F.lit(float("nan"))).otherwise(label)
    counts = StateCounts(idCols=["id"], salt=2)
    partials = counts.partials(spark.range(100).withColumn("label", label))
    assert partials.columns == ["label", "salt", "rows"]
    assert counts.totals(partials) == ClassTotals({1: 10, 0: 89 if kind == "double" else 90})


@pytest.mark.skipif(CONNECT, reason="a look at the plan, which is the same")
def test_only_label_salt_and_time_go_to_python(spark: SparkSession) -> None:
    dataset = spark.range(3).selectExpr("id", "'a' AS label", "now() AS time", "id AS heavy")
    plan = StateCounts(**TIMED).partials(dataset)._jdf.queryExecution().analyzed().toString()
    before = plan.partition("TransformWithStateInPySpark")[2].splitlines()[1]
    assert set(re.findall(r"(\w+)#\d+L?(?=[,\]])", before)) == {"label", "salt", "micros"}, plan


def test_what_the_state_needs_is_checked_before_a_query_starts(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = spark.range(3).withColumn("label", F.lit("a"))
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ImportError, match=r"need protobuf.* pip install \"sparkimb\[connect\]\""):
        StateCounts(idCols=["id"]).partials(dataset)
    monkeypatch.undo()
    spark.conf.set(PROVIDER, "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider")
    with pytest.raises(SparkimbError, match=rf"RocksDB state store, but {PROVIDER} is .*HDFSBacked.* Set it to"):
        StateCounts(idCols=["id"]).partials(dataset)


def test_wrong_settings_are_refused(spark: SparkSession) -> None:
    for given, message in (
        ({"timeCol": "time"}, r"timeCol 'time' and halfLifeSeconds None\. Give both"),
        ({"halfLifeSeconds": 3.0}, r"timeCol None and halfLifeSeconds 3\.0\. Give both"),
        ({"timeCol": "time", "halfLifeSeconds": 0.0}, r"halfLifeSeconds is 0\.0\. It must be in \(0, inf\)"),
        ({"salt": 0}, r"StateCounts\.salt is 0\. It must be at least 1"),
        ({"idCols": []}, r"StateCounts\.idCols is empty"),
    ):
        with pytest.raises(SparkimbError, match=message):
            StateCounts(**{"idCols": ["id"], **given})
    dataset = spark.range(3).withColumn("label", F.lit("a")).withColumn("time", F.lit(3))
    with pytest.raises(SparkimbError, match=r"timeCol 'time' is of type int\. Cast it to a timestamp"):
        StateCounts(**TIMED).partials(dataset)
    with pytest.raises(SparkimbError, match=r"labelCol 'klass', idCols 'key' not found"):
        StateCounts(labelCol="klass", idCols=["key"]).partials(dataset)
