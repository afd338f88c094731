"""Tasks that die and are run again make the rows that they would have made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONNECT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CONNECT, reason="the server runs the same tasks")]

# A session of its own: that of the other tests does not run a task a second time.
SCRIPT = """
import os, sys
from pathlib import Path
from pyspark import TaskContext
from pyspark.sql import SparkSession, functions as F
from sparkimb import SMOTE
from sparkimb.neighbors import spaces
from sparkimb.testing import example

spaces.MAX_UNIT_BYTES = 60 * 2 * 4  # several cells
spark = SparkSession.builder.master("local[2, 3]").getOrCreate()
spark.conf.set("spark.sql.shuffle.partitions", 2)
spark.sparkContext.setLogLevel("OFF")

traces = sys.argv[1]

def dying(name):
    def work(batches):
        task = TaskContext.get()
        for batch in batches:
            yield batch
        if task.attemptNumber() == 0:
            Path(traces, f"{name}-{task.partitionId()}").touch()
            os._exit(1)
    return work

df = example(spark, {"common": 400, "rare": 200}, partitions=2).drop("features")
smote = SMOTE(inputCols=["f0", "f1"], idCols=["id"], lineageCol="line", neighborSearch="cells")
fitted = [smote.fit(rows) for rows in (df, df.mapInArrow(dying("fit"), df.schema))]
assert fitted[0]._state() == fitted[1]._state()
assert fitted[0].spaces["rare"].units > 1
out = fitted[0].resample(df)
again = fitted[0].resample(df.mapInArrow(dying("read"), df.schema)).mapInArrow(dying("made"), out.schema)
assert sorted(map(repr, again.collect())) == sorted(map(repr, out.collect()))
print(out.where("line is not null").count())
"""


def test_retried_tasks_make_the_same_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["200"]
    died = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert died == {"fit", "read", "made"}
