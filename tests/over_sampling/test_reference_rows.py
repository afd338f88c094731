"""A SMOTE model with a reference set makes rows row by row: of a stream what it makes of the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkimb import SMOTE, SMOTEModel
from sparkimb.errors import SparkimbError
from sparkimb.testing import example


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> SMOTEModel:
    sampler = SMOTE(idCols=["id"], referenceRows=20, syntheticCol="made", lineageCol="line")
    return sampler.fit(example(spark, {"common": 300, "rare": 90}))


def test_a_stream_gives_the_rows_of_the_batch(spark: SparkSession, model: SMOTEModel, tmp_path: Path) -> None:
    dataset = example(spark, {"common": 300, "rare": 90}).drop("features").withColumn("features", F.array("f0", "f1"))
    dataset.repartition(3).write.parquet(str(tmp_path / "in"))
    made = model.resample(spark.readStream.schema(dataset.schema).parquet(str(tmp_path / "in")))
    query = made.writeStream.format("parquet").option("checkpointLocation", str(tmp_path / "state"))
    query.trigger(availableNow=True).start(str(tmp_path / "out")).awaitTermination()
    streamed = spark.read.schema(made.schema).parquet(str(tmp_path / "out"))
    assert sorted(map(repr, streamed.collect())) == sorted(map(repr, model.resample(dataset).collect()))
    assert streamed.where("made").count() == 210


def test_neighbours_are_of_the_reference_set_and_never_the_row_itself(spark: SparkSession, model: SMOTEModel) -> None:
    made = model.resample(example(spark, {"common": 300, "rare": 90})).where("made").select("line.*").collect()
    neighbors = {row["neighbor"]["id"] for row in made}
    assert 10 <= len(neighbors) <= 40  # twenty by hash, give or take
    assert len({row["parent"]["id"] for row in made}) == 90
    assert all(row["parent"] != row["neighbor"] for row in made)


def test_the_kept_rows_must_suffice_and_not_be_too_many(spark: SparkSession) -> None:
    dataset = example(spark, {"common": 300, "rare": 90})
    for rows in (5, 10_000_000):
        with pytest.raises(SparkimbError, match=rf"SMOTE.referenceRows is {rows:,}. It must be above kNeighbors 5"):
            SMOTE(idCols=["id"], referenceRows=rows).fit(dataset)
