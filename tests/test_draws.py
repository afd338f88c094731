"""Draws are uniform, independent by seed and purpose, and the same for the same key; sets of them hold exact totals.

Statistical tests use fixed seeds, so they pass or fail for good; ALARM is how often one would fail for other seeds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy import stats

from sparkimb.draws import (
    BUCKETS,
    DrawSet,
    Interval,
    bucket,
    bucket_interval,
    bucket_numbers,
    cut_below,
    fill,
    normal,
    row_key,
    uniform,
)

ALARM = 1e-6
N = 20_000
HISTOGRAMS = st.dictionaries(
    st.sampled_from(bucket_numbers()).map(bucket_interval), st.integers(1, 400), min_size=1, max_size=60
)


@pytest.fixture(scope="module")
def drawn(spark: SparkSession) -> dict[str, np.ndarray]:
    """Draws of the ids 0 .. N - 1 for seeds and purposes next to each other: one job."""
    draws = {f"{seed}{purpose}": uniform("id", seed=seed, purpose=purpose) for seed in (0, 1) for purpose in "ab"}
    others = {"id": F.col("id"), "bucket": bucket(draws["0a"]), "normal": normal("id", seed=0, purpose="a")}
    columns = {**others, **draws}
    found = spark.range(N).select(*columns.values()).toDF(*columns).toPandas().sort_values("id")
    return {name: found[name].to_numpy() for name in columns}


def test_draws_are_uniform(drawn: dict[str, np.ndarray]) -> None:
    for name in ("0a", "0b", "1a", "1b"):
        assert drawn[name].min() >= 0
        assert drawn[name].max() < 1
        assert stats.chisquare(np.histogram(drawn[name], bins=200, range=(0, 1))[0]).pvalue > ALARM


def test_a_draw_lies_in_its_bucket_and_in_no_other(spark: SparkSession) -> None:
    """Draws at the ends of buckets and just before them, and some between."""
    intervals = [bucket_interval(b) for b in bucket_numbers()]
    assert sum(high - low for low, high in intervals) == 1
    ends = np.unique(intervals)[:-1]
    draws = np.concatenate([ends, np.nextafter(ends[1:], 0), np.random.default_rng(0).random(500)])
    draws = np.concatenate([draws, 10.0 ** -np.random.default_rng(1).uniform(1, 12, 500)])
    df = spark.createDataFrame([(float(draw),) for draw in draws], "draw double")
    for draw, b in df.select("draw", bucket(F.col("draw"))).collect():
        assert bucket_interval(b)[0] <= draw < bucket_interval(b)[1]


def test_draws_of_seeds_purposes_and_neighbouring_ids_are_independent(drawn: dict[str, np.ndarray]) -> None:
    pairs = [*itertools.combinations([drawn[name] for name in ("0a", "0b", "1a", "1b")], 2)]
    pairs.append((drawn["0a"][:-1], drawn["0a"][1:]))
    for x, y in pairs:
        table = np.histogram2d(x, y, bins=10)[0]
        assert stats.chi2_contingency(table).pvalue > ALARM


def test_normals_are_normal(drawn: dict[str, np.ndarray]) -> None:
    assert stats.kstest(drawn["normal"], "norm").pvalue > ALARM
    assert abs(np.corrcoef(drawn["normal"][:-1], drawn["normal"][1:])[0, 1]) < 5 / np.sqrt(N)


def keys(df: DataFrame, *names: str) -> list[float]:
    return [row[0] for row in df.select(uniform(*row_key(df, names or df.columns), seed=0, purpose="key")).collect()]


def test_rows_with_nulls_in_different_columns_draw_differently(spark: SparkSession) -> None:
    df = spark.createDataFrame([(None, 1, 1), (1, None, 1), (1, 1, None), (None, None, 1)], "a int, b int, c int")
    assert len(set(keys(df))) == 4


def test_key_does_not_depend_on_the_order_of_columns_and_of_map_entries(spark: SparkSession) -> None:
    df = spark.range(5).select(
        "id",
        F.create_map(F.lit("a"), "id", F.lit("b"), F.lit(0)).alias("m"),
        F.struct(F.array(F.create_map("id", F.create_map(F.lit(1), "id", F.lit(2), "id")))).alias("nested"),
    )
    swapped = spark.range(5).select(
        F.struct(F.array(F.create_map("id", F.create_map(F.lit(2), "id", F.lit(1), "id")))).alias("nested"),
        F.create_map(F.lit("b"), F.lit(0), F.lit("a"), "id").alias("m"),
        "id",
    )
    assert keys(df) == keys(swapped)
    assert len(set(keys(df, "m"))) == len(set(keys(df, "nested"))) == 5


def test_variants_are_told_apart(spark: SparkSession) -> None:
    df = spark.range(3).select(F.array(F.parse_json(F.col("id").cast("string"))).alias("v"))
    assert len(set(keys(df))) == 3


@given(HISTOGRAMS, st.data())
def test_filled_intervals_and_the_rest_make_the_total(histogram: dict[Interval, int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(histogram.values())))
    taken, rest = fill(histogram, total)
    assert len(set(taken)) == len(taken)
    assert sum(histogram[interval] for interval in taken) + rest == total
    assert all(histogram[interval] > rest for interval in histogram if interval not in taken)


@pytest.mark.parametrize("parts", [2, 3, 10])
@pytest.mark.parametrize("rows", [300, 10_000, 1_000_000, 1_000_000_000])
def test_buckets_add_up_to_the_parts_of_any_number_of_rows(rows: int, parts: int) -> None:
    """Each part from what the parts before it left, as a split takes them."""
    intervals = [bucket_interval(b) for b in bucket_numbers()]
    rng = np.random.default_rng(0)
    for drawn in rng.multinomial(rows, [high - low for low, high in intervals], size=20):
        left = dict(zip(intervals, map(int, drawn), strict=True))
        for size in rng.multinomial(rows, rng.dirichlet([2.0] * parts))[:-1]:
            taken, rest = fill(left, int(size))
            assert rest == 0
            left = {interval: n for interval, n in left.items() if interval not in taken}


def test_contains_says_what_the_intervals_say(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    sets = [
        DrawSet.union(bucket_interval(int(b)) for b in rng.choice(bucket_numbers(), n, False))
        for n in (1, 3, 40, BUCKETS)
    ]
    ends = np.unique([bucket_interval(b) for b in bucket_numbers()])[:-1]
    draws = np.concatenate([ends, np.nextafter(ends[1:], 0), rng.random(200)])
    df = spark.createDataFrame([(float(draw),) for draw in draws], "draw double")
    for draw, *found in df.select("draw", *(kept.contains(F.col("draw")) for kept in sets)).collect():
        assert found == [any(low <= draw < high for low, high in kept.intervals) for kept in sets]


@given(st.dictionaries(st.floats(0.25, 0.49), st.integers(1, 3), min_size=1, max_size=20), st.data())
def test_cut_is_exact_where_no_draws_are_shared(draws: dict[float, int], data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, sum(draws.values())))
    bound, found = cut_below(draws, rows, (0.25, 0.5))
    assert 0.25 <= bound <= 0.5
    assert found == sum(n for draw, n in draws.items() if draw < bound)
    assert abs(found - rows) <= max(draws.values()) / 2


@given(st.sets(st.sampled_from(bucket_numbers())), st.floats(0, 1, exclude_max=True))
def test_a_union_holds_what_its_intervals_hold(buckets: set[int], draw: float) -> None:
    intervals = [bucket_interval(b) for b in buckets]
    union = DrawSet.union(intervals).intervals
    assert any(low <= draw < high for low, high in union) == any(low <= draw < high for low, high in intervals)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(union)), "in order and apart"


def exact_sample(draws: np.ndarray, rows: int) -> np.ndarray:
    """Sample as `exact.choose_draws` does: whole buckets, and one split if they do not add up."""
    intervals = sorted(bucket_interval(b) for b in bucket_numbers())
    counts = np.histogram(draws, bins=[*(low for low, _ in intervals), 1.0])[0]
    histogram = dict(zip(intervals, map(int, counts), strict=True))
    taken, rest = fill(histogram, rows)
    if rest:
        low, high = min((n, interval) for interval, n in histogram.items() if n and interval not in taken)[1]
        inside = {float(draw): 1 for draw in draws if low <= draw < high}
        taken.append((low, cut_below(inside, rest, (low, high))[0]))
    return np.any([(draws >= low) & (draws < high) for low, high in DrawSet.union(taken).intervals], axis=0)


@pytest.mark.parametrize(("n", "rows"), [(7, 3), (60, 20), (900, 450)])
def test_exact_samples_are_simple_random_samples(n: int, rows: int) -> None:
    """Each row is as likely as any other, and the rows of half the class that are in are hypergeometric."""
    rng = np.random.default_rng(3)
    trials = 2_000
    kept = np.array([exact_sample(rng.random(n), rows) for _ in range(trials)])
    assert (kept.sum(axis=1) == rows).all()
    inclusion = kept.sum(axis=0)
    expected = trials * rows / n
    # Inclusions are negatively correlated: over n - 1 degrees of freedom their variance is p (1 - p) n / (n - 1).
    statistic = ((inclusion - expected) ** 2).sum() / (expected * (1 - rows / n)) * (n - 1) / n
    assert stats.chi2.sf(statistic, n - 1) > ALARM
    half = kept[:, : n // 2].sum(axis=1)
    law = stats.hypergeom(n, n // 2, rows)
    cuts = np.unique(law.ppf([0.2, 0.4, 0.6, 0.8]))
    observed = np.bincount(np.searchsorted(cuts, half), minlength=len(cuts) + 1)
    probabilities = np.diff([0, *law.cdf(cuts), 1])
    assert stats.chisquare(observed[probabilities > 0], trials * probabilities[probabilities > 0]).pvalue > ALARM
