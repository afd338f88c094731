"""LogitAdjustment: the argmax of its paper, and the least balanced error where the posterior is known."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.logit_adjustment import LogitAdjustment

PRIORS = np.array([0.9, 0.08, 0.02])


def predicted(spark, stage, rows):
    df = spark.createDataFrame([(i, row) for i, row in enumerate(rows)], "id int, probability array<double>")
    return [row["prediction"] for row in stage.transform(df).orderBy("id").collect()]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_the_prediction_has_the_largest_adjusted_logit(spark, tau):
    p = np.random.default_rng(0).dirichlet([2, 1, 1], size=40)
    expected = (np.log(p) - tau * np.log(PRIORS)).argmax(axis=1)
    stage = LogitAdjustment(priors=(PRIORS * 1_000).tolist(), tau=tau)
    assert predicted(spark, stage, p.tolist()) == expected.tolist()


def test_the_balanced_error_is_the_least(spark):
    """Three Gaussians of known place and share: moving the cuts either way gives a greater mean of the error rates."""
    x, place = np.linspace(-6, 9, 301), np.array([0.0, 1.5, 3.0])
    densities = np.exp(-((x[:, None] - place) ** 2) / 2)
    p = densities * PRIORS / (densities @ PRIORS)[:, None]

    def balanced_error(prediction):
        hits = [densities[prediction == c, c].sum() / densities[:, c].sum() for c in range(3)]
        return 1 - np.mean(hits)

    errors = {}
    for tau in (0.0, 0.8, 1.0, 1.2):
        found = predicted(spark, LogitAdjustment(priors=PRIORS.tolist(), tau=tau), p.tolist())
        errors[tau] = balanced_error(np.array(found))
    assert min(errors, key=errors.get) == 1.0


def test_impossible_classes_ties_and_missing_probabilities(spark):
    stage = LogitAdjustment(priors=[1, 1])
    rows = [[0.0, 1.0], [0.5, 0.5], [0.0, 0.0], None, [0.5], [None, 0.5], [float("nan"), 0.5]]
    assert predicted(spark, stage, rows) == [1.0, 0.0, 0.0, None, None, None, None]


def test_labels_name_the_classes_and_vectors_are_taken(spark):
    stage = LogitAdjustment.fromCounts({"rare": 1, "common": 99}, labels=["common", "rare"])
    assert stage.getPriors() == [99, 1]
    df = spark.createDataFrame([([0.9, 0.1],), ([0.999, 0.001],)], "p array<double>")
    out = stage.transform(df.select(array_to_vector("p").alias("probability"), F.lit(7.0).alias("prediction")))
    assert [row["prediction"] for row in out.collect()] == ["rare", "common"]


def test_the_stage_comes_back_from_disk(tmp_path, spark):
    stage = LogitAdjustment.fromCounts({0: 90, 1: 10}, tau=0.5, predictionCol="decision")
    stage.write().overwrite().save(str(tmp_path / "stage"))
    loaded = LogitAdjustment.load(str(tmp_path / "stage"))
    found = loaded.uid, loaded.getPriors(), loaded.getTau(), loaded.getPredictionCol(), loaded.getLabels()
    assert found == (stage.uid, [90, 10], 0.5, "decision", None)


def test_what_cannot_be_adjusted_is_refused_before_any_job(spark):
    df = spark.createDataFrame([(1, [0.5, 0.5])], "id int, probability array<double>")
    with pytest.raises(SparkimbError, match="LogitAdjustment needs priors"):
        LogitAdjustment().transform(df)
    with pytest.raises(SparkimbError, match=r"labels is \['a', 'b', 'c'\], but priors is"):
        LogitAdjustment(priors=[1, 1], labels=["a", "b", "c"]).transform(df)
    with pytest.raises(SparkimbError, match="probabilityCol 'id' is of type int"):
        LogitAdjustment(priors=[1, 1], probabilityCol="id").transform(df)
    with pytest.raises(SparkimbError, match=r"LogitAdjustment\.tau is -1"):
        LogitAdjustment(tau=-1)
