"""Exact sizes, however small and many the groups are, and honest ones where rows share a draw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkimb.draws import uniform
from sparkimb.exact import choose_draws, largest_remainder
from sparkimb.statistics import draw_histograms


@pytest.mark.parametrize("strata", [1, 400, 2_000])
def test_sizes_are_met_in_groups_of_a_few_rows(spark: SparkSession, strata: int) -> None:
    """Groups of 1 to 5 rows; the size asked for is drawn, and met in every one."""
    size_of = F.pmod(F.xxhash64("stratum"), F.lit(5)) + 1
    df = (
        spark.range(strata)
        .withColumnRenamed("id", "stratum")
        .select("stratum", F.explode(F.sequence(F.lit(1), size_of.cast("int"))).alias("n"))
        .select("stratum", "n", F.when(F.col("n") % 2 == 0, "even").otherwise("odd").alias("label"))
    )
    draw = uniform("stratum", "n", seed=0, purpose="test")
    histograms = draw_histograms(df, labelCol="label", strataCols=["stratum"], draw=draw)
    rng = np.random.default_rng(0)
    sizes = {group: int(rng.integers(0, sum(rows.values()) + 1)) for group, rows in histograms.items()}
    chosen, left = choose_draws(
        df, histograms=histograms, sizes=sizes, labelCol="label", strataCols=["stratum"], draw=draw
    )
    for group, size in sizes.items():
        assert sum(left[group].values()) == sum(histograms[group].values()) - size
    kept: Counter[object] = Counter()
    for label, stratum, at in df.select("label", F.col("stratum").cast("string"), draw).collect():
        kept[(label, (stratum,))] += any(low <= at < high for low, high in chosen[label, (stratum,)].intervals)
    assert kept == Counter({group: size for group, size in sizes.items() if size})


def test_rows_that_share_a_draw_are_held_together_and_said_so(spark: SparkSession) -> None:
    df = spark.range(100).select((F.col("id") % 4).alias("value"), F.lit("a").alias("label"))
    draw = uniform("value", seed=0, purpose="test")
    histograms = draw_histograms(df, labelCol="label", strataCols=(), draw=draw)
    for wanted in (30, 45, 88):
        chosen, left = choose_draws(
            df, histograms=histograms, sizes={("a", ()): wanted}, labelCol="label", strataCols=(), draw=draw
        )
        held = df.where(chosen["a", ()].contains(draw)).count()
        assert held == 100 - sum(left["a", ()].values())
        assert held == 25 * round(wanted / 25)


def test_what_is_left_can_be_divided_again(spark: SparkSession) -> None:
    """Three parts of the rows, each from what the parts before it left, as a split takes them."""
    df = spark.range(30).select("id", F.lit("a").alias("label"))
    draw = uniform("id", seed=0, purpose="test")
    left = draw_histograms(df, labelCol="label", strataCols=(), draw=draw)
    parts = []
    for size in (7, 11, 12):
        chosen, left = choose_draws(
            df, histograms=left, sizes={("a", ()): size}, labelCol="label", strataCols=(), draw=draw
        )
        kept = {row["id"] for row in df.where(chosen["a", ()].contains(draw)).collect()}
        parts.append(kept.difference(*parts))
    assert [len(part) for part in parts] == [7, 11, 12]


@pytest.mark.parametrize("rows", [1, 10, 97, 1_000])
@pytest.mark.parametrize("shares", [[1.0], [0.8, 0.2], [0.6, 0.3, 0.1], [1 / 3] * 3])
def test_largest_remainders_add_up_and_are_less_than_one_row_off(rows: int, shares: list[float]) -> None:
    sizes = largest_remainder(rows, shares)
    assert sum(sizes) == rows
    assert all(abs(size - rows * share) < 1 for size, share in zip(sizes, shares, strict=True))
