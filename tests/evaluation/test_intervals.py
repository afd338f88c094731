"""Intervals cover what they are to cover, depend on rows and seed alone, and equal scipy's where it has them."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import ConfusionMatrix, RankingMetrics, intervals, steps
from sparkimb.evaluation.intervals import RowGroups, confusion_interval, wilson_interval
from sparkimb.evaluation.steps import CollectedSteps


def sample(rng, n=300, share=0.3):
    """Scores of two normal classes, one standard deviation apart."""
    label = (rng.random(n) < share).astype(int)
    return pd.DataFrame({"score": rng.normal(size=n) + label, "label": label})


def collected(pdf):
    found = pdf.assign(p=pdf["label"] == 1, n=pdf["label"] == 0).groupby("score", as_index=False)[["p", "n"]].sum()
    found = found.sort_values("score", ascending=False)
    return RankingMetrics.fromSteps(
        CollectedSteps(*(found[name].to_numpy(dtype=float) for name in ("score", "p", "n")))
    )


def least_covered(intervals, coverage):
    """How many intervals of this coverage cover at least, but for a chance of one in a million."""
    return binom.ppf(1e-6, intervals, coverage)


def test_bootstrap_of_the_area_covers_the_true_area():
    """Percentile intervals of 90 % cover about 88 % with 90 positives; 84 % is asked."""
    truth, rng = NormalDist().cdf(1 / np.sqrt(2)), np.random.default_rng(1)
    found = [collected(sample(rng)).interval("areaUnderROC", level=0.9, replicates=100, seed=i) for i in range(200)]
    covered = sum(interval.low <= truth <= interval.high for interval in found)
    assert covered >= least_covered(200, 0.84)
    assert all(interval.low <= interval.estimate <= interval.high for interval in found)


def test_bootstrap_of_a_confusion_metric_covers_the_true_value():
    shares, rng = np.array([0.05, 0.02, 0.03, 0.9]), np.random.default_rng(2)  # tp, fp, fn, tn
    truth = 2 * shares[0] / (2 * shares[0] + shares[1] + shares[2])
    covered = 0
    for seed, cells in enumerate(rng.multinomial(2000, shares, size=300)):
        tp, fp, fn, tn = map(float, cells)
        matrix = ConfusionMatrix.fromCounts(truePositives=tp, falsePositives=fp, falseNegatives=fn, trueNegatives=tn)
        interval = confusion_interval(matrix, "f1", level=0.9, replicates=60, seed=seed)
        covered += interval.low <= truth <= interval.high
    assert covered >= least_covered(300, 0.84)


def test_replicates_scatter_as_resampled_rows_do():
    """Against resampling the rows themselves with Poisson weights, one by one."""
    pdf = sample(np.random.default_rng(3), n=200).round(1)
    rng = np.random.default_rng(4)
    areas = []
    for _ in range(400):
        areas.append(collected(pdf.loc[np.repeat(pdf.index, rng.poisson(1, len(pdf)))]).areaUnderROC)
    interval = collected(pdf).interval("areaUnderROC", replicates=400)
    spread = np.std(areas)
    # Quantiles of 400 draws scatter by about 0.13 standard deviations here; five of these.
    for end, quantile in ((interval.low, 0.025), (interval.high, 0.975)):
        assert abs(end - np.quantile(areas, quantile)) < 5 * 0.13 * np.sqrt(2) * spread


def test_intervals_depend_on_rows_and_seed_alone(spark, monkeypatch):
    pdf = sample(np.random.default_rng(5)).round(2).assign(weight=1.0, heavy=lambda pdf: 1.0 + (pdf.index % 3))
    df = spark.createDataFrame(pdf)
    plain = RankingMetrics(df.repartition(1)).interval(seed=7)
    assert RankingMetrics(df.repartition(5)).interval(seed=7) == plain
    assert plain == collected(pdf).interval(seed=7)
    assert RankingMetrics(df).interval(seed=8) != plain
    weighted = RankingMetrics(df.repartition(3), weightCol="heavy")
    assert weighted.interval(seed=7) == RankingMetrics(df, weightCol="heavy").interval(seed=7)
    assert weighted.interval(seed=7).estimate == weighted.averagePrecision
    monkeypatch.setattr(intervals, "MAX_SCORES", 5)
    exact, merged = (
        weighted.interval(replicates=1_000),
        RankingMetrics(df, weightCol="heavy").interval(replicates=1_000),
    )
    assert merged.estimate == weighted.averagePrecision
    spread = exact.high - exact.low
    assert (merged.low, merged.high) == pytest.approx((exact.low, exact.high), abs=0.15 * spread)
    assert merged == RankingMetrics(df.repartition(3), weightCol="heavy").interval(replicates=1_000)


def test_weights_are_those_of_rows_and_not_of_copies():
    """One row of weight 100 scatters far more than 100 rows of weight 1."""
    pdf = sample(np.random.default_rng(6), n=60)
    score, place = np.unique(-pdf["score"], return_inverse=True)
    label = pdf["label"].to_numpy(dtype=float)
    light = RowGroups(-score, place, label, 1 - label, np.full(len(pdf), 100.0))
    heavy = RowGroups(-score, place, label * 100, (1 - label) * 100, np.ones(len(pdf)))
    rng = np.random.default_rng(0)
    spreads = [
        np.std([RankingMetrics.fromSteps(groups.drawn(rng)).areaUnderROC for _ in range(100)])
        for groups in (light, heavy)
    ]
    assert spreads[1] > 5 * spreads[0]


def test_distributed_steps_have_about_the_same_interval(spark, monkeypatch):
    pdf = sample(np.random.default_rng(8)).round(2)
    here = collected(pdf).interval("areaUnderROC", replicates=400)
    monkeypatch.setattr(steps, "MAX_POSITIVES", 3)
    monkeypatch.setattr(steps, "RANGES", 4)
    monkeypatch.setattr(steps, "SAMPLED", 1)
    there = RankingMetrics(spark.createDataFrame(pdf)).interval("areaUnderROC", replicates=400)
    assert there.estimate == pytest.approx(here.estimate, rel=1e-12)
    assert (there.low, there.high) == pytest.approx((here.low, here.high), rel=1e-9)  # few scores: nothing is merged


def test_a_function_of_the_metrics_has_an_interval_too():
    metric = collected(sample(np.random.default_rng(9)))
    interval = metric.interval(lambda ranking: ranking.recallAt(30), level=0.8)
    assert interval.low < metric.recallAt(30) == interval.estimate < interval.high
    matrix = ConfusionMatrix.fromCounts(truePositives=30, falsePositives=5, falseNegatives=9, trueNegatives=300)
    found = confusion_interval(matrix, lambda m: m.fBeta(2), seed=3)
    assert found.low < matrix.fBeta(2) == found.estimate < found.high
    assert found == confusion_interval(matrix, lambda m: m.fBeta(2), seed=3)
    assert confusion_interval(matrix, "mcc").estimate == matrix.mcc


def test_a_replicate_without_positives_says_nothing_of_recall():
    """One positive, found: e^-1 of the replicates have none, and of these both kinds of metrics leave out all."""
    matrix = ConfusionMatrix.fromCounts(truePositives=1, falsePositives=0, falseNegatives=0, trueNegatives=50)
    found = confusion_interval(matrix, "balancedAccuracy")
    assert (found.low, found.estimate, found.high) == (1, 1, 1)


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(deadline=None)
def test_wilson_equals_scipy_and_solves_its_equation(successes, trials, level):
    successes = min(successes, trials)
    found = wilson_interval(successes, trials, level=level)
    expected = binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.low <= found.estimate <= found.high
    z = NormalDist().inv_cdf((1 + level) / 2)
    for end in (found.low, found.high):
        assert trials * (successes / trials - end) ** 2 == pytest.approx(z * z * end * (1 - end), abs=1e-9)


def test_intervals_know_whether_they_overlap():
    low, middle, high = (wilson_interval(rows, 100) for rows in (5, 12, 60))
    assert low.overlaps(middle)
    assert middle.overlaps(low)
    assert not middle.overlaps(high)
    assert not high.overlaps(middle)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda metric, _: metric.interval("ks"), "metric is 'ks'. Choose one of areaUnderROC"),
        (lambda metric, _: metric.interval(level=1.0), "level is 1.0"),
        (
            lambda metric, _: metric.interval(replicates=39),
            r"replicates is 39. An interval of level 0.95 takes .*\[40,",
        ),
        (lambda metric, _: metric.interval(replicates=10**6), "replicates is 1000000"),
        (lambda _, matrix: confusion_interval(matrix, "areaUnderROC"), "metric is 'areaUnderROC'. Name a property"),
        (lambda _, matrix: confusion_interval(matrix, "_right"), "metric is '_right'"),
        (lambda *_: wilson_interval(3, 2), "3 of 2 is no share"),
        (lambda *_: wilson_interval(0, 0), "0 of 0 is no share"),
        (lambda *_: wilson_interval(1, 2, level=0.0), "level is 0.0"),
    ],
)
def test_wrong_requests_are_refused(request_, message):
    matrix = ConfusionMatrix.fromCounts(truePositives=3, falsePositives=1, falseNegatives=1, trueNegatives=9)
    with pytest.raises(SparkimbError, match=message):
        request_(collected(sample(np.random.default_rng(0))), matrix)


def test_weights_in_a_confusion_matrix_are_refused():
    matrix = ConfusionMatrix.fromCounts(truePositives=3.5, falsePositives=1, falseNegatives=1, trueNegatives=9)
    with pytest.raises(SparkimbError, match="not whole numbers of rows"):
        confusion_interval(matrix, "f1")


def test_replicates_without_a_class_do_not_count():
    metric = RankingMetrics.fromSteps(CollectedSteps(np.array([2.0, 1.0]), np.array([1.0, 0.0]), np.array([0.0, 50.0])))
    assert metric.interval("areaUnderROC", replicates=40) == metric.interval("areaUnderROC", replicates=60)
    assert metric.interval("areaUnderROC").low == 1.0
