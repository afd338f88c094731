"""PriorCorrection is correct_priors as a stage: from plans, counts, weights, and in the form of the column."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.sql import functions as F

from sparkimb import ClassWeigher, RandomUnderSampler
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.prior_correction import PriorCorrection
from sparkimb.strategy import SamplingPlan
from sparkimb.testing import example

BEFORE, AFTER = [90.0, 9.0, 1.0], [1.0, 1.0, 2.0]
RATIOS = np.divide(BEFORE, AFTER)


def scored(spark, rows):
    """Rows with the probabilities as an array and as a vector."""
    df = spark.createDataFrame([(i, row) for i, row in enumerate(rows)], "id int, array array<double>")
    return df.withColumn("vector", F.when(F.col("array").isNotNull(), array_to_vector("array")))


def test_vectors_and_arrays_are_corrected_in_their_own_form(spark):
    p = np.random.default_rng(0).dirichlet([1, 1, 1], size=20)
    df = scored(spark, p.tolist())
    for name, kind in (("array", list), ("vector", DenseVector)):
        stage = PriorCorrection(before=BEFORE, after=AFTER, probabilityCol=name)
        out = stage.transform(df)
        assert out.columns == [*df.columns, "correctedProbability"]
        assert isinstance(out.schema["correctedProbability"].dataType, VectorUDT) == (name == "vector")
        found = [row[-1] for row in sorted(out.collect())]
        assert {type(row) for row in found} == {kind}
        expected = p * RATIOS / (p * RATIOS).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.array([list(row) for row in found]), expected, rtol=1e-12)


def test_the_column_may_be_replaced_and_rows_without_probabilities_stay_null(spark):
    df = scored(spark, [[0.5, 0.5], None, [0.2, 0.3, 0.5]])
    stage = PriorCorrection(before=[9, 1], after=[1, 1], probabilityCol="vector", outputCol="vector")
    out = stage.transform(df)
    assert out.columns == df.columns
    found = [row["vector"] for row in out.orderBy("id").collect()]
    assert found[0].toArray() == pytest.approx([0.9, 0.1])
    assert found[1:] == [None, None]


def test_two_classes_keep_their_ranking(spark):
    p = np.unique(np.random.default_rng(1).uniform(1e-6, 1 - 1e-6, 50))
    df = scored(spark, np.c_[1 - p, p].tolist())
    out = PriorCorrection(before=[1_000, 1], after=[1, 1], probabilityCol="array").transform(df).orderBy("id")
    positive = [row[-1][1] for row in out.collect()]
    assert np.all(np.diff(positive) > 0)


def test_plans_counts_and_weights_give_the_priors_in_the_order_of_the_labels(spark):
    plan = SamplingPlan({"rare": 10, "common": 90}, {"rare": 10, "common": 20})
    stage = PriorCorrection.fromPlan(plan, labels=["common", "rare"], probabilityCol="p")
    assert (stage.getBefore(), stage.getAfter(), stage.getProbabilityCol()) == ([90, 10], [20, 10], "p")
    df = example(spark, {0.0: 30, 1.0: 10})
    fitted = RandomUnderSampler(samplingStrategy=0.5, idCols=["id"]).fit(df)
    stage = PriorCorrection.fromPlan(fitted.plan)
    assert (stage.getBefore(), stage.getAfter()) == ([30, 10], [20, 10])
    weigher = ClassWeigher(weights={0: 1, 1: 3}).fit(df)
    stage = PriorCorrection.fromWeights(weigher.counts, weigher.classWeights)
    assert np.divide(stage.getBefore(), stage.getAfter()) == pytest.approx(
        np.array([1, 1 / 3]) * stage.getBefore()[0] / stage.getAfter()[0]
    )


def test_the_stage_comes_back_from_disk(tmp_path, spark):
    stage = PriorCorrection(before=np.array([9, 1]), after=(1, 1), outputCol="p")
    for _ in range(2):
        stage.write().overwrite().save(str(tmp_path / "stage"))
    loaded = PriorCorrection.load(str(tmp_path / "stage"))
    assert (loaded.uid, loaded.getBefore(), loaded.getAfter(), loaded.getOutputCol()) == (
        stage.uid,
        [9, 1],
        [1, 1],
        "p",
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "PriorCorrection needs before and after"),
        ({"before": [1, 2]}, "PriorCorrection needs after"),
        ({"before": [1, 2], "after": [1, 2, 3]}, "before has 2 and after 3 classes"),
        ({"before": [1, 2], "after": [1, 2], "outputCol": "id"}, "outputCol 'id' is there already"),
        ({"before": [1, 2], "after": [1, 2], "probabilityCol": "id"}, "probabilityCol 'id' is of type int"),
        ({"before": [1, 2], "after": [1, 2], "probabilityCol": "p"}, "probabilityCol 'p' not found"),
    ],
)
def test_what_cannot_be_corrected_is_refused_before_any_job(spark, params, message):
    df = scored(spark, [[0.5, 0.5]])
    with pytest.raises(SparkimbError, match=message):
        PriorCorrection(**{"probabilityCol": "array", **params}).transform(df)


def test_wrong_priors_are_refused():
    with pytest.raises(SparkimbError, match=r"PriorCorrection\.before is 0\. It must be in \(0, inf\)"):
        PriorCorrection(before=[0, 1])
    with pytest.raises(SparkimbError, match=r"PriorCorrection\.before is \[1\.0\]"):
        PriorCorrection(before=[1])
    with pytest.raises(TypeError, match=r"PriorCorrection\.after must be a list"):
        PriorCorrection(after={0: 1, 1: 2})
    with pytest.raises(SparkimbError, match=r"labels are \[0, 1\], but there are numbers for \['a', 'b'\]"):
        PriorCorrection.fromCounts({"a": 1, "b": 2}, {"a": 1, "b": 2})
    with pytest.raises(SparkimbError, match=r"no weight for \[1\]"):
        PriorCorrection.fromWeights({0: 5, 1: 5}, {0: 1.0})
