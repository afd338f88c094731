"""One fitted object, batch and stream: what was fitted on a table takes a stream as it is, and gives the same rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from compare import rows
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from sparkimb import SMOTE, ClassWeigher, RandomOverSampler, RandomUnderSampler
from sparkimb.draws import uniform
from sparkimb.evaluation.cost import BayesDecision, CostSensitive
from sparkimb.evaluation.isotonic import IsotonicCalibrator
from sparkimb.evaluation.logit_adjustment import LogitAdjustment
from sparkimb.evaluation.platt import PlattCalibrator
from sparkimb.evaluation.prior_correction import PriorCorrection
from sparkimb.evaluation.threshold_tuner import ThresholdTuner
from sparkimb.testing import example

ROWS = {0.0: 240, 1.0: 60}
FILES = 3
COSTS = {0: {1: 5.0}, 1: {0: "amount"}}
SAMPLERS = {
    "under": RandomUnderSampler(idCols=["id"]),
    "under, all columns": RandomUnderSampler(samplingStrategy=0.5),
    "over": RandomOverSampler(idCols=["id"], syntheticCol="made"),
    "over, with noise": RandomOverSampler(idCols=["id"], shrinkage=1.0),
    "under in strata": RandomUnderSampler(idCols=["id"], strataCols=["stratum"]),
    "SMOTE with a reference set": SMOTE(idCols=["id"], referenceRows=20, syntheticCol="made", lineageCol="line"),
}
STAGES = {
    "class weights": ClassWeigher(),
    "costs as weights": CostSensitive(costs=COSTS),
    "threshold": ThresholdTuner(),
    "thresholds by label": ThresholdTuner(labelCol="color", labels=["blue", "green", "red"], probabilityCol="three"),
    "prior correction": PriorCorrection(before=[240, 60], after=[60, 60]),
    "Bayes decision": BayesDecision(costs=COSTS),
    "logit adjustment": LogitAdjustment(priors=[240, 60]),
    "Platt": PlattCalibrator(),
    "isotonic": IsotonicCalibrator(),
}
# What the plan of a batch must not hold, if rows shall pass one by one, as in Spark's real-time mode.
NOT_ROW_BY_ROW = re.compile(r"Python|Pandas|Arrow|Join|Aggregate|Exchange|Sort|Window")
BEYOND_EXPRESSIONS = {"under in strata", "SMOTE with a reference set"}  # a join with many groups; Python


class Source(NamedTuple):
    """The same rows twice: a table, and the folder of files that a stream reads one by one."""

    table: DataFrame
    folder: str

    def stream(self) -> DataFrame:
        """Read the files as a stream."""
        spark = self.table.sparkSession
        return spark.readStream.schema(self.table.schema).option("maxFilesPerTrigger", 1).parquet(self.folder)


@pytest.fixture(scope="module")
def source(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    p = (F.col("label") + uniform("id", seed=0, purpose="p")) / 2
    three = [uniform("id", seed=0, purpose=name) for name in ("blue", "green", "red")]
    scored = (
        example(spark, ROWS)
        .withColumn("probability", array_to_vector(F.array(1 - p, p)))
        .withColumn("three", F.array(*three))
        .withColumn("amount", F.col("id") % 7 + 1.5)
    )
    folder = str(tmp_path_factory.mktemp("one_object") / "in")
    scored.repartition(FILES, "id").write.parquet(folder)
    table = spark.read.parquet(folder).cache()
    yield Source(table, folder)
    table.unpersist()


def fitted(name: str, dataset: DataFrame) -> Callable[[DataFrame], DataFrame]:
    """Fit on the table; return what takes a table or a stream."""
    if name in SAMPLERS:
        return SAMPLERS[name].fit(dataset).resample
    stage = STAGES[name]
    return (stage.fit(dataset) if hasattr(stage, "fit") else stage).transform


def run(streamed: DataFrame, name: str, folder: Path) -> StreamingQuery:
    """Run all batches into a table in memory."""
    writer = streamed.writeStream.format("memory").queryName(name).option("checkpointLocation", str(folder))
    query = writer.trigger(availableNow=True).start()
    assert query.awaitTermination(120)
    return query


@pytest.mark.parametrize("name", [*SAMPLERS, *STAGES])
def test_a_stream_gives_the_rows_of_the_table(
    spark: SparkSession, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    apply = fitted(name, source.table)
    query = run(apply(source.stream()), "streamed", tmp_path)
    batches = [progress for progress in query.recentProgress if progress.numInputRows]
    assert len(batches) == FILES, "the rows came in several batches"
    assert rows(spark.table("streamed")) == rows(apply(source.table))

    query.explain()
    plan = capsys.readouterr().out
    assert "Scan parquet" in plan, "the plan of a batch, not of nothing"
    assert bool(NOT_ROW_BY_ROW.search(plan)) == (name in BEYOND_EXPRESSIONS), plan
