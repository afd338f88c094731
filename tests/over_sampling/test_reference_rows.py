"""A SMOTE model with a reference set makes rows row by row, between a row and its neighbours in the set."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from sparkimb import SMOTE, SMOTEModel
from sparkimb.errors import SparkimbError
from sparkimb.testing import example


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> SMOTEModel:
    sampler = SMOTE(idCols=["id"], referenceRows=20, syntheticCol="made", lineageCol="line")
    return sampler.fit(example(spark, {"common": 300, "rare": 90}))


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
