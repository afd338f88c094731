"""The one Spark session of a test run: classic, or Connect when SPARKIMB_SPARK=connect."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

# Workers must run this interpreter: the first python3 on PATH may lack pandas.
os.environ["PYSPARK_PYTHON"] = sys.executable
# The Connect server binds an ephemeral port under this flag, and port 15002 on every interface without it.
os.environ["SPARK_TESTING"] = "1"
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
# For every JVM, those of tests' own processes too.  Queries are many and small, and cores few: with the quick compiler
# alone 43 tests took 55 CPU seconds instead of 95.
os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

CONNECT = os.environ.get("SPARKIMB_SPARK", "classic") == "connect"

STATIC_CONF = {  # read when the JVM starts; a Connect client may not set them later
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.default.parallelism": "2",
    "spark.ui.enabled": "false",  # no port, no page nobody reads
    "spark.ui.showConsoleProgress": "false",
    "spark.python.sql.dataFrameDebugging.enabled": "false",  # it tells the JVM the line of each call
    "spark.sql.ui.retainedExecutions": "20",  # no page, so no memory for it
    "spark.sql.warehouse.dir": os.path.join(tempfile.gettempdir(), "sparkimb-warehouse"),
}
SESSION_CONF = {
    "spark.sql.shuffle.partitions": "2",  # two cores; small data
    "spark.sql.adaptive.enabled": "false",  # re-planning costs more than these queries; tests that need it set it
    "spark.sql.session.timeZone": "UTC",
}
if not CONNECT:
    # Compiling a query takes longer than running it on a few hundred rows.  On Connect queries are compiled, so that
    # the contract is kept either way.  In a file, so that tests' own processes read it too.
    os.environ["SPARK_CONF_DIR"] = tempfile.mkdtemp(prefix="sparkimb-conf-")
    atexit.register(shutil.rmtree, os.environ["SPARK_CONF_DIR"], ignore_errors=True)
    Path(os.environ["SPARK_CONF_DIR"], "spark-defaults.conf").write_text(
        "spark.sql.codegen.wholeStage false\nspark.sql.codegen.factoryMode NO_CODEGEN\n"
    )
os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join([*(f"--conf '{k}={v}'" for k, v in STATIC_CONF.items()), "pyspark-shell"])


def slow_on_connect(test: Any) -> Any:
    """Leave a test to `make test-contract` on Connect: it is of numbers that no client changes."""
    return pytest.mark.slow(test) if CONNECT else test


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave evaluation, streams and materialize on Connect to `make test-contract`, with the rest of the contract."""
    beside = {Path(__file__).parent / name for name in ("evaluation", "streaming", "feed/test_feed_parquet.py")}
    for item in items if CONNECT else ():
        if beside & {item.path, *item.path.parents}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    builder = SparkSession.builder.remote("local[2]") if CONNECT else SparkSession.builder.master("local[2]")
    session = builder.getOrCreate()
    for key, value in SESSION_CONF.items():
        session.conf.set(key, value)
    yield session
    session.stop()
