"""The benchmark of drift counts alarms as a loop over single rows has them."""

from __future__ import annotations

import os

import pytest
import reference
from drifts import KINDS, alarms, figures
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkimb.streaming.drift import DdmOci, DriftMonitor, LinearFourRates

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)

QUICK = LinearFourRates(fading=0.97, warnSignificance=0.01, alarmSignificance=0.001, replicates=5_000)


def test_row_by_row_the_alarms_are_those_of_the_loop(spark: SparkSession) -> None:
    monitor = DriftMonitor(detectors=[DdmOci(fading=0.97), QUICK])
    stream = KINDS["SEA, abrupt"].rows(spark, 1_500, 0.3, 1).cache()
    rows = [tuple(row) for row in stream.orderBy("id").select(F.col("label") == 1, F.col("prediction") == 1).collect()]
    loops = {
        "ddmOci": reference.ddm_oci(rows, fading=0.97),
        "linearFourRates": reference.linear_four_rates(rows, fading=0.97, alarm=0.001, replicates=5_000),
    }
    expected = [(i + 1, name) for name, events in loops.items() for i, level, _ in events if level == "alarm"]
    found = alarms(stream, 1_500, step=1, monitor=monitor)
    stream.unpersist()
    assert sorted(found) == sorted({*expected})
    assert {name for row, name in found if row > 750} == {"ddmOci", "linearFourRates"}


@pytest.mark.slow
def test_figures(spark: SparkSession) -> None:
    found = figures(spark, rows=4_000, minority=0.2, seeds=range(1), step=200)
    at = {(row["stream"], row["detector"]): row for row in found}
    assert len(found) == len(at) == 2 * len(KINDS)
    for stream in ("SEA, abrupt", "STAGGER, abrupt"):
        for detector in ("ddmOci", "linearFourRates"):
            row = at[stream, detector]
            assert (row["seen"], row["rows_before"]) == (1, 2_000)
            assert row["delay"] == row["longest_delay"]
            assert 0 < row["delay"] <= 1_000
    assert at["STAGGER, gradual", "ddmOci"]["rows_before"] == 1_600
    assert at["SEA, none", "ddmOci"]["seen"] is None
    assert at["SEA, none", "ddmOci"]["rows_before"] == 4_000
