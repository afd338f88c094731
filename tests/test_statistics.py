"""Counts and profiles are pandas's; what cannot be counted is refused with what was found."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy.stats import entropy

from sparkimb import class_counts, imbalance_profile, statistics
from sparkimb.errors import SparkimbError
from sparkimb.testing import example


@pytest.mark.parametrize(
    "values", [["b", "a", "a", "c", "b", "a"], [1, 0, 0, 0], [1.5, 0.0, 0.0], [True, False, False]]
)
def test_counts_are_those_of_the_labels_with_their_type(spark: SparkSession, values: list[Any]) -> None:
    df = spark.createDataFrame([(value,) for value in values], ["label"])
    counts = class_counts(df)
    assert counts == Counter(values)
    assert {type(label) for label in counts} == {type(values[0])}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("kind", ["tinyint", "smallint", "int", "bigint", "float", "double"])
def test_every_kind_of_number_is_a_label(spark: SparkSession, kind: str) -> None:
    df = spark.range(7).select((F.col("id") % 2).cast(kind).alias("a.label"))
    assert class_counts(df, labelCol="a.label") == {0: 4, 1: 3}


@pytest.mark.parametrize("kind", ["decimal(3,1)", "array<int>", "date", "binary", "struct<a:int>", "map<int,int>"])
def test_other_types_are_refused(spark: SparkSession, kind: str) -> None:
    df = spark.range(1).select(F.lit(None).cast(kind).alias("label"))
    with pytest.raises(SparkimbError, match=r"labelCol 'label' is of type .*cast it"):
        class_counts(df)


def test_nulls_and_nans_are_counted_in_the_refusal(spark: SparkSession) -> None:
    df = spark.createDataFrame([(None,), (None,), (math.nan,), (1.0,)], "label double")
    with pytest.raises(SparkimbError, match="2 null and 1 NaN labels in 4 rows"):
        class_counts(df)


def test_a_missing_column_is_refused_with_the_nearest_name(spark: SparkSession) -> None:
    with pytest.raises(SparkimbError, match=r"labelCol 'lable' \(did you mean 'label'\?\) not found"):
        class_counts(example(spark), labelCol="lable")


def test_too_many_classes_are_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_CLASSES", 20)
    assert len(class_counts(spark.range(20), labelCol="id")) == 20
    with pytest.raises(SparkimbError, match="more than 20 different values"):
        class_counts(spark.range(21), labelCol="id")


def test_profile_is_pandas_s(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "label": rng.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1]),
            "x": rng.choice([0.0, 1.0, np.nan], 300),
            "y": rng.choice(["u", "v", "w"], 300),
        }
    )
    df = spark.createDataFrame(frame).withColumn("x.z", F.expr("nullif(y, 'u')")).withColumn("id", F.expr("uuid()"))
    profile = imbalance_profile(df, idCols=["id"])
    counts = frame["label"].value_counts()
    assert profile.counts == counts.to_dict()
    assert profile.rows == 300
    assert profile.nulls == {"x": frame["x"].isna().sum(), "y": 0, "x.z": (frame["y"] == "u").sum()}
    assert profile.duplicateRows == frame.duplicated().sum()
    assert profile.duplicateShare == pytest.approx(frame.duplicated().mean())
    assert profile.imbalanceRatio == counts.max() / counts.min()
    assert profile.entropy == pytest.approx(entropy(counts, base=2))
    assert profile.entropyRatio == pytest.approx(entropy(counts, base=3))
    for label, rows in profile.counts.items():
        assert profile.effectiveNumbers(0.9)[label] == pytest.approx((1 - 0.9**rows) / (1 - 0.9))


def test_duplicate_shares_are_exact_for_small_classes_and_near_for_large_ones(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 20_000
    df = spark.range(n).select(
        F.when(F.col("id") < 500, "rare").otherwise("common").alias("label"),
        F.when(F.col("id") % 10 == 0, F.lit(-1)).otherwise(F.col("id") - F.col("id") % 3).alias("value"),
    )
    frame = df.toPandas()
    expected = frame.groupby("label")["value"].apply(lambda values: values.duplicated().mean()).to_dict()
    counts = frame["label"].value_counts().to_dict()
    assert statistics.duplicate_shares(df, labelCol="label", keyCols=["value"], counts=counts)["rare"] == pytest.approx(
        expected["rare"]
    )
    monkeypatch.setattr(statistics, "DUPLICATE_SAMPLE", 5_000)
    distinct = df.where("value >= 0")  # the value that a tenth of the rows share is in the sample or it is not
    rows = distinct.toPandas()
    shares = statistics.duplicate_shares(
        distinct, labelCol="label", keyCols=["value"], counts=rows["label"].value_counts().to_dict()
    )
    assert shares["common"] == pytest.approx(rows[rows.label == "common"]["value"].duplicated().mean(), abs=0.03)
