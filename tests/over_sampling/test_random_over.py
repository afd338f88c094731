"""Random over-sampling: rows are repeated evenly, and the smoothed bootstrap's noise is Silverman's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from compare import rows
from imblearn.over_sampling import RandomOverSampler as ImblearnOverSampler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy import stats

from sparkimb import RandomOverSampler, SparkimbError
from sparkimb.testing import example

ALARM = 1e-6  # how often a statistical test here would fail for other seeds


@pytest.mark.parametrize("target", [16, 17, 31, 32, 90])
def test_rows_are_repeated_equally_often_but_for_one(spark: SparkSession, target: int) -> None:
    df = example(spark, {"common": 90, "rare": 16})
    out = RandomOverSampler(idCols=["id"], lineageCol="line", samplingStrategy={"rare": target}).fitResample(df)
    times = Counter(row[0] for row in out.select("line.parent.id").collect() if row[0] is not None)
    assert sum(times.values()) == target - 16
    assert {times[i] + 1 for i in range(90, 106)} <= {target // 16, -(-target // 16)}


def test_without_shrinkage_rows_made_are_copies(spark: SparkSession) -> None:
    df = example(spark)
    out = RandomOverSampler(idCols=["id"], inputCols=["f0"], categoricalCols=["color"], lineageCol="line").fitResample(
        df
    )
    values = {row["id"]: (row["f0"], row["color"], row["label"]) for row in df.collect()}
    for row in out.where("line is not null").collect():
        assert (row["f0"], row["color"], row["label"]) == values[row["line"]["parent"]["id"]]
        assert (row["line"]["neighbor"], row["line"]["gap"]) == (None, 0.0)


@pytest.mark.parametrize("form", ["columns", "vector", "array"])
def test_noise_is_that_of_the_smoothed_bootstrap(spark: SparkSession, form: str) -> None:
    """Normal, apart for every row and feature, and as wide as imbalanced-learn's for a class of this size.

    imbalanced-learn takes the rows of all classes for n in the bandwidth; Menardi and Torelli, and we, the class's own.
    """
    n_common, n_rare = 3000, 60
    df = example(spark, {"common": n_common, "rare": n_rare}).withColumn("f1", F.col("f1") * 50).drop("features")
    array = F.array("f0", "f1")
    if form != "columns":
        df = df.withColumn("features", array if form == "array" else array_to_vector(array))
    sampler = RandomOverSampler(idCols=["id"], lineageCol="line", shrinkage=0.8, maxGrowth=10)
    if form == "columns":
        sampler.setParams(inputCols=["f0", "f1"])
    out = sampler.fitResample(df).where("line is not null")
    found = {"columns": array, "array": F.col("features"), "vector": vector_to_array("features")}[form]
    made = out.select(found, "line.parent.id")
    local = df.select("id", "label", "f0", "f1").toPandas().set_index("id")
    new, parents = zip(*made.collect(), strict=True)
    noise = np.array(new) - local.loc[list(parents), ["f0", "f1"]].to_numpy()
    assert len(noise) == n_common - n_rare

    oracle = ImblearnOverSampler(shrinkage=0.8, random_state=0)
    x, _ = oracle.fit_resample(local[["f0", "f1"]].to_numpy(), local["label"])
    theirs = (x - local[["f0", "f1"]].to_numpy()[oracle.sample_indices_])[n_common + n_rare :]
    same_n = (n_rare / (n_common + n_rare)) ** (-1 / (2 + 4))
    for ours, expected in zip(noise.T, (theirs * same_n).T, strict=True):
        # The ratio of two standard deviations of normal samples of this size: its logarithm has deviation 1 / sqrt(n).
        assert abs(np.log(ours.std() / expected.std())) < stats.norm.isf(ALARM / 2) / np.sqrt(len(noise)) + 1 / n_rare
        assert stats.kstest(ours / ours.std(), "norm").pvalue > ALARM
        assert len(np.unique(ours.round(12))) == len(ours), "no two rows made have the same noise"
    assert abs(np.corrcoef(noise.T)[0, 1]) < stats.norm.isf(ALARM / 2) / np.sqrt(len(noise))


def test_features_keep_their_types_and_nulls(spark: SparkSession) -> None:
    names = {"f": "float", "i": "int", "l": "bigint", "d": "decimal(12,3)", "s": "smallint"}
    df = example(spark, {"common": 90, "rare": 16}).select(
        "id", "label", *((F.col("f0") * 100).cast(kind).alias(name) for name, kind in names.items())
    )
    df = df.withColumn("i", F.when(F.col("id") % 4 > 0, F.col("i")))
    sampler = RandomOverSampler(idCols=["id"], inputCols=list(names), shrinkage=1.0, lineageCol="line")
    out = sampler.fitResample(df)
    assert [(field.name, field.dataType) for field in out.schema][:-1] == [(f.name, f.dataType) for f in df.schema]
    for row in out.where("line is not null").collect():
        assert (row["i"] is None) == (row["line"]["parent"]["id"] % 4 == 0)


@pytest.mark.parametrize("bad", ["cast('NaN' as double)", "cast('Infinity' as double)", "cast(null as double)"])
@pytest.mark.parametrize("form", ["columns", "array"])
def test_noise_needs_a_spread(spark: SparkSession, bad: str, form: str) -> None:
    if (form, bad.split("(")[1]) == ("array", "null as double)"):
        pytest.skip("a null in an array is not a number that a vector can hold")
    df = example(spark).withColumn("f0", F.expr(bad)).withColumn("features", F.array("f0", "f1"))
    sampler = RandomOverSampler(idCols=["id"], shrinkage=1.0)
    if form == "columns":
        sampler.setParams(inputCols=["f0", "f1"])
    with pytest.raises(SparkimbError, match=r"RandomOverSampler\.shrinkage is 1, but the standard deviations"):
        sampler.fit(df)


def test_a_row_s_copies_depend_on_the_row_alone(spark: SparkSession) -> None:
    """So a task that is run again, on any part of the rows, makes the same ones."""
    df = example(spark)
    model = RandomOverSampler(idCols=["id"], lineageCol="line", shrinkage=1.0).fit(df)
    part = F.col("id") % 7 < 3
    parent = F.coalesce(F.col("id"), F.col("line.parent.id"))
    assert rows(model.resample(df.where(part))) == rows(model.resample(df).where(parent % 7 < 3))


def test_equal_rows_are_copied_together_and_fit_warns(spark: SparkSession) -> None:
    rare = F.col("label") == "rare"
    same = example(spark, {"common": 90, "rare": 30}).select("label", F.when(~rare, F.col("f0")).alias("f0"))
    with pytest.warns(UserWarning, match=r"96\.7% of class 'rare'.*Set idCols"):
        model = RandomOverSampler(inputCols=["f0"], samplingStrategy={"rare": 50}).fit(same)
    out = Counter(row["label"] for row in model.resample(same).collect())
    assert out == Counter(model.plan.targets)
    assert out["rare"] in (30, 60)


def test_lineage_needs_ids(spark: SparkSession) -> None:
    with pytest.raises(SparkimbError, match=r"lineageCol 'line' .* idCols is not set"):
        RandomOverSampler(lineageCol="line").fit(example(spark))
