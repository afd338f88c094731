"""A session with the jars of Kafka and Delta, as the stream job starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import SESSION_CONF
from pyspark.sql import SparkSession
from session import session

CONF = {
    "spark.master": "local[2]",
    "spark.databricks.delta.snapshotPartitions": 1,  # by default 50 tasks to read a log of three lines
}


@pytest.fixture(scope="session")
def connected() -> Iterator[SparkSession]:
    """The session: once for the tests of all connectors, and never in a process that has one without the jars."""
    opened = session("connectors", CONF | SESSION_CONF, delta=True, kafka=True)
    yield opened
    opened.stop()
