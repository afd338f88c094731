"""Spark's real-time mode: what is fitted on a table and is a plain expression runs between two topics of Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from broker import running_broker
from conftest import CONNECT

pytestmark = [
    pytest.mark.slow,  # a broker and a driver are to be started; what plans hold test_one_object.py tells sooner
    pytest.mark.skipif(CONNECT, reason="drivers of their own, whose jars must be there when they start"),
    pytest.mark.skipif("SPARKIMB_JARS" not in os.environ, reason="SPARKIMB_JARS does not say where Kafka's jars are"),
]

# Rows must arrive while the batch that reads them still runs, which no micro-batch can do: its length is ten minutes.
DRIVER = """
import sys, time
from pyspark.sql import SparkSession, functions as F
from sparkimb import ClassWeigher, RandomUnderSampler
from sparkimb.testing import example

broker, folder = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
df = example(spark, {"common": 240, "rare": 60}).drop("features")
under, weigh = RandomUnderSampler(idCols=["id"]).fit(df), ClassWeigher().fit(df)
kafka = {"kafka.bootstrap.servers": broker}

def balanced(rows):
    return under.resample(weigh.transform(rows))

def messages(rows):
    return rows.select(F.to_json(F.struct(*rows.columns)).alias("value"))

def rows_of(topic, schema):
    return topic.select(F.from_json(F.col("value").cast("string"), schema).alias("row")).select("row.*")

def send(rows):
    messages(rows).write.format("kafka").options(**kafka).option("topic", "in").save()

send(df.where("id % 2 = 0"))
read = spark.readStream.format("kafka").options(**kafka).option("subscribe", "in").option("startingOffsets", "earliest")
query = (
    messages(balanced(rows_of(read.load(), df.schema)))
    .writeStream.format("kafka").options(**kafka).option("topic", "out")
    .option("checkpointLocation", folder).outputMode("update").trigger(realTime="10 minutes").start()
)
wanted = balanced(df)
found, until, sent = [], time.monotonic() + 60, False
while len(found) < wanted.count() and query.isActive and time.monotonic() < until:
    topic = spark.read.format("kafka").options(**kafka).option("subscribe", "out").load()
    found = sorted(rows_of(topic, wanted.schema).collect())
    if found and not sent:
        send(df.where("id % 2 = 1"))
        sent = True
assert query.isActive, query.exception()
assert not query.recentProgress, "a batch has ended"
assert found == sorted(wanted.collect()), (len(found), wanted.count())
query.stop()
"""


def test_rows_are_weighed_and_sampled_in_real_time(tmp_path: Path) -> None:
    jars = ",".join(map(str, sorted(Path(os.environ["SPARKIMB_JARS"], "spark").glob("*.jar"))))
    with running_broker(tmp_path / "kafka") as broker:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, broker.address, str(tmp_path / "checkpoint")],
            env={
                **os.environ,
                # A task of a query in real-time mode keeps its core: two for the topic's partitions, two to look.
                "PYSPARK_SUBMIT_ARGS": f"--master local[4] --jars {jars} {os.environ['PYSPARK_SUBMIT_ARGS']}",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stdout + done.stderr
