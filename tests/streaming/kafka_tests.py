"""From a topic to a topic of a real broker: nothing is lost, and what comes twice has the same key."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import Broker, running_broker
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from stream import StreamJob
from stream_config import Stream

from sparkimb.datasets import drifting
from sparkimb.errors import SparkimbError
from sparkimb.streaming.sinks import drop_repeats

pytest_plugins = ["connected"]

FIELDS = "id bigint, event_time timestamp, label int, f0 double, f1 double, f2 double"
PATIENCE = 120  # seconds for rows to arrive, on two busy cores


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(tmp_path_factory.mktemp("kafka") / "broker") as running:
        yield running


def send(values: DataFrame, broker: Broker, topic: str) -> None:
    options = {"kafka.bootstrap.servers": broker.address, "topic": topic}
    # By their hashes to the two partitions: left to itself the client deals rows, and so batches, anew in each run.
    placed = values.selectExpr("value", "CAST(pmod(xxhash64(value), 2) AS int) AS partition")
    placed.write.format("kafka").options(**options).save()


def as_json(rows: DataFrame) -> DataFrame:
    return rows.select(F.to_json(F.struct("*")).alias("value"))


def received(connected: SparkSession, broker: Broker, topic: str) -> DataFrame:
    options = {"kafka.bootstrap.servers": broker.address, "subscribe": topic}
    return connected.read.format("kafka").options(**options).load().selectExpr("string(key) key", "string(value) value")


def settings(broker: Broker, topic: str, out: Path, **sections: Any) -> dict[str, Any]:
    servers = {"kafka.bootstrap.servers": broker.address}
    return {
        "name": topic,
        "source": {
            "format": "kafka",
            "options": {**servers, "subscribe": topic, "startingOffsets": "earliest", "maxOffsetsPerTrigger": 202},
            "value": {"schema": FIELDS},
        },
        "columns": {"label": "label", "numeric": ["f0", "f1", "f2"], "id": ["id"], "time": "event_time"},
        "balance": {"method": "oob", "ratio": 1.0, "halfLife": 1000.0, "warmUpRows": 100},
        "sink": {"format": "kafka", "topic": f"{topic}-balanced", "options": servers},
        "output": {"path": str(out)},
    } | sections


def rows_of(figures: list[dict[str, Any]], key: str) -> int:
    return sum(n for row in figures for n in row[key].values())


def test_a_replayed_batch_is_told_by_its_keys(connected: SparkSession, broker: Broker, tmp_path: Path) -> None:
    send(as_json(drifting(connected, 601, minority=0.2, partitions=1)), broker, "rows")
    poison = ["no JSON", '{"id": 9001, "f0": 1.0, "f1": 2.0, "f2": 3.0}', '{"id": 9002, "label": 1, "f0": "wide"}']
    send(connected.createDataFrame([(text,) for text in poison], "value string"), broker, "rows")
    given = Stream.model_validate(settings(broker, "rows", tmp_path / "out"))
    figures = StreamJob(given, connected).run()["batches"]
    last = max(row["batchId"] for row in figures)
    assert last >= 2
    assert rows_of(figures, "rowsIn") == 601

    dead = connected.read.parquet(f"{tmp_path}/out/dead_letters")
    assert {row["reason"]: row["rows"] for row in dead.groupBy("reason").agg(F.count("*").alias("rows")).collect()} == {
        "label 'label' is null": 2,
        "feature 'f0' is null, NaN or infinite": 1,
    }
    assert {row["_corrupt_record"] for row in dead.collect()} == {"no JSON", None, poison[2]}

    once = received(connected, broker, "rows-balanced").collect()
    assert len(once) == rows_of(figures, "rowsOut") > 800, "rows of the minority repeat"
    assert len({row["key"] for row in once}) == len(once)
    assert Counter(str(json.loads(row["value"])["label"]) for row in once) == sum(
        (Counter(row["rowsOut"]) for row in figures), Counter()
    )
    values = Counter(row["value"] for row in once)
    assert max(values.values()) > 2
    assert "_corrupt_record" not in json.loads(once[0]["value"])

    for name in (f"{last}", f".{last}.crc"):  # as if the driver had died before the last batch was committed
        (tmp_path / "out" / "checkpoint" / "commits" / name).unlink()
    again = StreamJob(given, connected).run()["batches"]
    assert [{k: row[k] for k in ("batchId", "rowsIn", "rowsOut", "rates")} for row in again] == [
        {k: row[k] for k in ("batchId", "rowsIn", "rowsOut", "rates")} for row in figures
    ]
    twice = received(connected, broker, "rows-balanced")
    assert twice.count() == len(once) + rows_of([row for row in figures if row["batchId"] == last], "rowsOut")
    assert sorted(drop_repeats(twice).collect()) == sorted(once)


def test_a_broker_that_is_killed_and_comes_back(connected: SparkSession, broker: Broker, tmp_path: Path) -> None:
    send(as_json(drifting(connected, 300, minority=0.2, partitions=1)), broker, "alive")
    sections = {"trigger": {"processingTime": "0 seconds"}, "balance": {"method": "weigh", "warmUpRows": 50}}
    given = Stream.model_validate(settings(broker, "alive", tmp_path / "out", **sections))
    stop, done = threading.Event(), []
    job = threading.Thread(target=lambda: done.append(StreamJob(given, connected, stop=stop).run()))
    job.start()
    try:
        wait_for(300, tmp_path / "out", job)
        broker.kill()
        time.sleep(1)  # in which the source asks it for offsets
        broker.start()
        later = drifting(connected, 700, minority=0.2, partitions=1).where("id >= 300")
        send(as_json(later), broker, "alive")
        wait_for(700, tmp_path / "out", job)
    finally:
        stop.set()
        job.join(PATIENCE)
    (results,) = done
    assert rows_of(results["batches"], "rowsIn") == 700
    found = drop_repeats(received(connected, broker, "alive-balanced"))
    ids = found.select(F.get_json_object("value", "$.id").cast("bigint").alias("id"))
    assert sorted(row["id"] for row in ids.collect()) == list(range(700))


def test_a_broker_that_is_killed_amid_batches(connected: SparkSession, broker: Broker, tmp_path: Path) -> None:
    rows, out = 4_000, tmp_path / "out"
    send(as_json(drifting(connected, rows, minority=0.2, partitions=1)), broker, "amid")
    sections = {"trigger": {"processingTime": "0 seconds"}, "balance": {"method": "weigh", "warmUpRows": 50}}
    given = settings(broker, "amid", out, **sections)
    given["source"]["options"]["maxOffsetsPerTrigger"] = 400
    stop, errors = threading.Event(), []

    def start_again_and_again() -> None:
        while not stop.is_set():
            try:
                StreamJob(Stream.model_validate(given), connected, stop=stop).run()
            except SparkimbError as error:
                errors.append(str(error))

    job = threading.Thread(target=start_again_and_again)
    job.start()
    try:
        for committed, seconds in ((400, 0.0), (1_600, 0.4)):
            wait_for(committed, out, job)
            wait_for_a_batch_under_way(out)
            time.sleep(seconds)  # it reads at first, then it writes
            broker.kill()
            time.sleep(1)
            broker.start()
        assert len(commits(out)) < rows / 400, "rows were left to read"
        wait_for(rows, out, job)
    finally:
        stop.set()
        job.join(PATIENCE)
    assert all("Nothing is lost" in error for error in errors), errors
    found = drop_repeats(received(connected, broker, "amid-balanced"))
    ids = found.select(F.get_json_object("value", "$.id").cast("bigint").alias("id"))
    assert sorted(row["id"] for row in ids.collect()) == list(range(rows))


def wait_for_a_batch_under_way(out: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if len(list(out.glob("checkpoint/offsets/[0-9]*"))) > len(commits(out)):
            return
        time.sleep(0.01)
    raise AssertionError("no batch began")


def commits(out: Path) -> set[str]:
    return {path.name for path in out.glob("checkpoint/commits/[0-9]*")}


def wait_for(rows: int, out: Path, job: threading.Thread) -> None:
    """Wait until batches with so many rows have been committed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and job.is_alive():
        told = [file for name in commits(out) for file in out.glob(f"status/batch={name}/part-*.json")]
        if sum(n for file in told for n in json.loads(file.read_text())["rowsIn"].values()) >= rows:
            return
        time.sleep(0.1)
    raise AssertionError(f"{rows} rows did not come, or the job has ended")
