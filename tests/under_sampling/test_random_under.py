"""Random under-sampling: exact, balanced within strata, row by row."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
from compare import rows
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.stats import chi2, hypergeom

from sparkimb import RandomOverSampler, RandomUnderSampler, SparkimbError
from sparkimb.testing import example

ALARM = 1e-6  # how often a statistical test here would fail for other seeds


def table(df: DataFrame, *names: str) -> Counter[tuple[object, ...]]:
    return Counter({tuple(row[:-1]): row[-1] for row in df.groupBy(*names).count().collect()})


@pytest.mark.parametrize("strategy", ["auto", 0.7])
def test_classes_are_balanced_in_hundreds_of_strata_of_a_few_rows(spark: SparkSession, strategy: str | float) -> None:
    """Strata have 1 to 5 rows of one class, and 3 to 7 of the other."""
    by = [F.pmod(F.xxhash64("stratum", F.lit(i)), F.lit(5)) + 1 + 2 * i for i in range(2)]
    df = (
        spark.range(300)
        .withColumnRenamed("id", "stratum")
        .select("stratum", F.posexplode(F.array(*by)).alias("class", "n"))
        .select("stratum", "class", F.explode(F.sequence(F.lit(1), "n")).alias("i"))
        .select(F.struct("stratum", "class", "i").alias("id"), "stratum", (F.col("class") == 1).alias("label"))
    )
    before = table(df, "stratum", "label")
    model = RandomUnderSampler(idCols=["id"], strataCols=["stratum"], samplingStrategy=strategy).fit(df)
    counts = model.plan.counts
    minority = min(counts, key=lambda label: counts[label])
    after = table(model.resample(df), "stratum", "label")
    for (stratum, label), n in before.items():
        wanted = int(before[stratum, minority] / (1 if strategy == "auto" else 0.7))
        assert after[stratum, label] == (n if label == minority else min(n, wanted))
    totals = {label: sum(n for (_, found), n in after.items() if found == label) for label in counts}
    assert model.plan.targets == totals


def test_strata_may_be_null_of_any_type_and_several(spark: SparkSession) -> None:
    df = example(spark, {"common": 600, "rare": 120}).select(
        "id",
        "label",
        F.when(F.col("id") % 3 > 0, F.col("id") % 3).alias("a.b"),
        F.date_add(F.lit("2024-01-01").cast("date"), (F.col("id") % 2).cast("int")).alias("day"),
    )
    out = RandomUnderSampler(idCols=["id"], strataCols=["a.b", "day"]).fitResample(df)
    assert out.schema == df.schema
    found = table(out, "`a.b`", "day", "label")
    assert len(found) == 12
    assert set(found.values()) == {20}


def test_strata_without_the_smallest_class_are_kept_whole_with_a_warning(spark: SparkSession) -> None:
    df = example(spark, {"common": 100, "rare": 20}).withColumn(
        "stratum", F.when(F.col("id") < 30, "lone").otherwise("s")
    )
    with pytest.warns(UserWarning, match=r"30 rows lie in strata \['stratum'\] without a row of class 'rare'"):
        out = RandomUnderSampler(idCols=["id"], strataCols=["stratum"]).fitResample(df)
    assert table(out, "stratum", "label") == {("lone", "common"): 30, ("s", "common"): 20, ("s", "rare"): 20}


def test_rows_by_label_do_not_go_with_strata(spark: SparkSession) -> None:
    sampler = RandomUnderSampler(strataCols=["stratum"], samplingStrategy={"common": 3})
    with pytest.raises(SparkimbError, match=r"samplingStrategy is a dict.*strataCols \['stratum'\]"):
        sampler.fit(example(spark))


def test_a_row_s_fate_depends_on_the_row_alone(spark: SparkSession) -> None:
    """So a task that is run again, on any part of the rows, keeps the same ones."""
    df = example(spark, {"common": 300, "rare": 60})
    for strata in ([], ["stratum"]):
        model = RandomUnderSampler(idCols=["id"], strataCols=strata).fit(df)
        part = F.col("id") % 7 < 3
        assert rows(model.resample(df.where(part))) == rows(model.resample(df).where(part))


def test_every_row_is_as_likely_as_any_other(spark: SparkSession) -> None:
    """30 of 60 rows for each of 24 seeds: how often each row is kept."""
    df = example(spark, {"common": 60, "rare": 30}).select("id", "label")
    seeds, n, kept = 24, 60, 30
    sampled = [
        RandomUnderSampler(idCols=["id"], seed=seed).fitResample(df).where("label = 'common'").select("id")
        for seed in range(seeds)
    ]
    together = sampled[0]
    for one in sampled[1:]:
        together = together.union(one)
    times = Counter(row["id"] for row in together.collect())
    expected = seeds * kept / n
    statistic = sum((times[i] - expected) ** 2 for i in range(n)) / (expected * (1 - kept / n)) * (n - 1) / n
    assert chi2.sf(statistic, n - 1) > ALARM


def test_two_samplers_with_one_seed_are_not_correlated(spark: SparkSession) -> None:
    """The rows kept of a class and the rows copied of it: what they share is hypergeometric."""
    df = example(spark, {"a": 2000, "b": 1000})
    kept = RandomUnderSampler(idCols=["id"]).fitResample(df).where("label = 'a'")
    over = RandomOverSampler(idCols=["id"], samplingStrategy={"a": 3000}, lineageCol="line").fitResample(df)
    copied = over.where("line is not null").select(F.col("line.parent.id").alias("id"))
    shared = kept.join(copied, "id").count()
    law = hypergeom(2000, 1000, 1000)
    assert law.ppf(ALARM) <= shared <= law.isf(ALARM)


def test_equal_rows_share_their_fate_and_fit_warns(spark: SparkSession) -> None:
    df = spark.range(1000).select(
        F.when(F.col("id") < 100, "rare").otherwise("common").alias("label"), (F.col("id") % 50).alias("x")
    )
    with pytest.warns(UserWarning, match=r"RandomUnderSampler: rows repeat .*94\.4% of class 'common'.*Set idCols"):
        model = RandomUnderSampler().fit(df)
    found = table(model.resample(df), "label", "x")
    assert all(n in (2, 18) for n in found.values()), "all rows of a value or none"
    common = sum(n for (label, _), n in found.items() if label == "common")
    assert model.plan.targets == {"common": common, "rare": 100}
    assert abs(common - 100) <= 9, "the nearest number that can be had"


def test_ids_that_repeat_give_the_nearest_number_without_a_warning(spark: SparkSession) -> None:
    df = example(spark, {"common": 300, "rare": 50}).withColumn("id", F.floor(F.col("id") / 3))
    model = RandomUnderSampler(idCols=["id"]).fit(df)
    found = model.resample(df).where("label = 'common'").count()
    assert model.plan.targets["common"] == found
    assert abs(found - 50) <= 1


def test_a_class_of_one_row_repeated_is_kept_or_dropped_whole(spark: SparkSession) -> None:
    df = spark.range(120).select(
        F.when(F.col("id") < 20, "rare").otherwise("common").alias("label"), F.lit(1).alias("x")
    )
    with pytest.warns(UserWarning, match=r"99\.0% of class 'common'"):
        model = RandomUnderSampler().fit(df)
    assert model.plan.targets == {"common": 0, "rare": 20}
    assert table(model.resample(df), "label") == {("rare",): 20}


def test_few_duplicates_are_no_reason_to_warn(spark: SparkSession) -> None:
    df = example(spark, {"common": 400, "rare": 50}).drop("id", "note")
    doubled = df.union(df.where("label = 'common'").limit(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandomUnderSampler().fit(doubled)
