"""A driver that balances a stream and dies on request: run by test_kills.py in a process group of its own.

python driver.py ROOT PARTITIONS [POINT BATCH]
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.streaming.balancer import StreamingBalancer
from sparkimb.streaming.drift import DriftMonitor
from sparkimb.streaming.metrics import StreamingMetrics
from sparkimb.streaming.query import start_balanced
from sparkimb.streaming.sinks import ParquetSink
from sparkimb.streaming.state import StateTable

SCHEMA = "id bigint, event_time timestamp, label int, f0 double, f1 double, f2 double"
# Where a driver can die within a batch: all that it writes lies between two of these.
POINTS = ("before rows", "amid rows", "after rows", "amid state", "after state", "at commit")


def die() -> None:
    """Kill this driver and its JVM as the machine's end would."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


class DyingSink(ParquetSink):
    """Writes, and kills the driver before, amid or after it."""

    def write(self, dataset: DataFrame, batchId: int) -> None:
        point, batch = FATE
        if batch == batchId and point == "before rows":
            die()
        if batch == batchId and point == "amid rows":
            threading.Timer(0.08, die).start()
        super().write(dataset, batchId)
        if batch == batchId and point == "after rows":
            die()


class DyingState(StateTable):
    """The same for the state."""

    def write(self, spark: SparkSession, batchId: int, state: dict[str, Any]) -> None:
        point, batch = FATE
        if batch == batchId and point == "amid state":
            threading.Timer(0.05, die).start()
        super().write(spark, batchId, state)
        if batch == batchId and point == "after state":
            die()


def at_commit(figures: dict[str, Any]) -> None:
    if ("at commit", figures["batchId"]) == FATE:
        die()


def main(root: str, partitions: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", partitions)
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    rows = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).parquet(f"{root}/in")
    judged = rows.withColumns(
        {"prediction": (F.col("f0") + F.col("f1") <= 7).cast("int"), "score": 7 - F.col("f0") - F.col("f1")}
    )
    features = ["f0", "f1", "f2"]
    import sparkimb.streaming.query as module

    module.StateTable = DyingState
    query = start_balanced(
        judged,
        StreamingBalancer(
            idCols=["id"], inputCols=features, method="smote", warmUpRows=50, halfLife=500.0, reservoirRows=30
        ),
        sink=DyingSink(path=f"{root}/out"),
        statePath=f"{root}/state",
        checkpointLocation=f"{root}/checkpoint",
        deadLetters=ParquetSink(path=f"{root}/dead"),
        metrics=StreamingMetrics(predictionCol="prediction", scoreCol="score", positiveLabel=1, timeCol="event_time"),
        metricsSink=ParquetSink(path=f"{root}/metrics", format="json"),
        monitor=DriftMonitor(positiveLabel=1),
        eventsSink=ParquetSink(path=f"{root}/events", format="json"),
        onStatus=at_commit,
    )
    query.awaitTermination()


if __name__ == "__main__":
    FATE = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else ("never", -1)
    main(sys.argv[1], sys.argv[2])
