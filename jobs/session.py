"""The Spark session of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyspark.sql import SparkSession
from storage import SPARK_ERRORS

from sparkimb.errors import SparkimbError

DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0"
PACKAGES = {"delta": DELTA, "kafka": "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"}
JARS = {"delta": ("delta-*.jar",), "kafka": ("*kafka*.jar", "commons-pool2-*.jar")}
DELTA_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


def session(name: str, conf: Mapping[str, object], *, delta: bool = False, kafka: bool = False) -> SparkSession:
    """Start a session, or take the one that spark-submit or a notebook has started.

    What spark-submit was told wins over these settings where Spark allows no change afterwards.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers take the first python3 on PATH
    builder = SparkSession.builder.appName(name).config("spark.log.level", "ERROR")
    builder = builder.config("spark.ui.showConsoleProgress", "false")  # the job's own lines say where it is
    connectors = [name for name, wanted in (("delta", delta), ("kafka", kafka)) if wanted]
    for key, value in {**(DELTA_CONF if delta else {}), **_jars(connectors)}.items():
        builder = builder.config(key, value)
    for key, given in conf.items():
        builder = builder.config(key, str(given).lower() if isinstance(given, bool) else str(given))
    return builder.getOrCreate()


def require_source(spark: SparkSession, name: str) -> None:
    """Check that Spark can read and write a format, before a job finds out when all is computed."""
    conf = spark._jsparkSession.sessionState().conf()
    try:
        spark._jvm.org.apache.spark.sql.execution.datasources.DataSource.lookupDataSource(name, conf)  # type: ignore[union-attr]
    except SPARK_ERRORS:
        raise SparkimbError(
            f"Spark does not know the format '{name}'. Start the job with spark-submit --packages "
            f"{PACKAGES.get(name, DELTA)}, or with sparkimb where Spark may fetch packages."
        ) from None


def _jars(connectors: Sequence[str]) -> dict[str, str]:
    """Take the connectors' jars from the folder SPARKIMB_JARS, or let Spark resolve them."""
    if not connectors:
        return {}
    folder = os.environ.get("SPARKIMB_JARS")
    if folder is None:
        return {"spark.jars.packages": ",".join(PACKAGES[name] for name in connectors)}
    patterns = [pattern for name in connectors for pattern in JARS[name]]
    return {"spark.jars": ",".join(sorted({str(jar) for p in patterns for jar in Path(folder, "spark").glob(p)}))}
