"""best_threshold against trying every score with scikit-learn and imbalanced-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.metrics import geometric_mean_score
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, best_threshold, steps

ORACLES = {
    "f1": metrics.f1_score,
    "fBeta": lambda y, called: metrics.fbeta_score(y, called, beta=2),
    "gMean": lambda y, called: geometric_mean_score(y, called, average="binary"),
    "balancedAccuracy": metrics.balanced_accuracy_score,
    "youden": lambda y, called: metrics.balanced_accuracy_score(y, called, adjusted=True),
    "mcc": metrics.matthews_corrcoef,
    "accuracy": metrics.accuracy_score,
    "precision": metrics.precision_score,
    "recall": metrics.recall_score,
}

samples = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=30).filter(
    lambda sample: len({label for _, label in sample}) == 2
)


def ranking_of(sample):
    """RankingMetrics of (score, label) pairs, without Spark."""
    pdf = pd.DataFrame(sample, columns=["score", "label"]).astype(float)
    grouped = pdf.assign(p=pdf["label"], n=1 - pdf["label"]).groupby("score")[["p", "n"]].sum()
    grouped = grouped.sort_index(ascending=False)
    held = steps.CollectedSteps(*map(np.asarray, (grouped.index, grouped["p"], grouped["n"])))
    return pdf, RankingMetrics.fromSteps(held)


@pytest.mark.parametrize("objective", ORACLES)
@given(sample=samples)
@settings(deadline=None, max_examples=25)
def test_best_of_all_thresholds_and_the_highest_of_equals(objective, sample):
    pdf, metric = ranking_of(sample)
    tried = {cut: ORACLES[objective](pdf["label"], pdf["score"] >= cut) for cut in pdf["score"].unique()}
    best = best_threshold(metric, objective, beta=2)
    assert best.value == pytest.approx(max(tried.values()), abs=1e-12)
    assert best.threshold == max(cut for cut, value in tried.items() if value >= max(tried.values()) - 1e-12)


@given(samples, st.sampled_from(list(ORACLES)))
@settings(deadline=None, max_examples=50)
def test_confusion_is_the_one_at_the_threshold(sample, objective):
    pdf, metric = ranking_of(sample)
    best = best_threshold(metric, objective)
    called = pdf["score"] >= best.threshold
    tn, fp, fn, tp = metrics.confusion_matrix(pdf["label"], called, labels=[0, 1]).ravel()
    found = best.confusion
    assert (tp, fp) == (found.truePositives(), found.falsePositives())
    assert (fn, tn) == (found.falseNegatives(), found.trueNegatives())


@given(samples, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from(["recall", "precision", "f1"]), st.booleans())
@settings(deadline=None, max_examples=100)
def test_floors_of_precision_and_recall_hold(sample, floor, objective, of_precision):
    pdf, metric = ranking_of(sample)
    floored = metrics.precision_score if of_precision else metrics.recall_score
    calls = [pdf["score"] >= cut for cut in pdf["score"].unique()]
    legal = [ORACLES[objective](pdf["label"], called) for called in calls if floored(pdf["label"], called) >= floor]
    floors = {"min_precision" if of_precision else "min_recall": floor}
    if legal:
        assert best_threshold(metric, objective, **floors).value == pytest.approx(max(legal), abs=1e-12)
    else:
        reached = max(metrics.precision_score(pdf["label"], called) for called in calls)
        with pytest.raises(SparkimbError, match=f"best precision is {reached:.6g}"):
            best_threshold(metric, objective, **floors)


costs = st.sampled_from([0.0, 0.5, 1.0, 7.0])


@given(samples, costs, costs)
@settings(deadline=None, max_examples=100)
def test_least_cost_is_found_also_where_it_is_to_call_no_row(sample, of_alarm, of_miss):
    pdf, metric = ranking_of(sample)

    def cost(cut):
        called, positive = pdf["score"] >= cut, pdf["label"] == 1
        return (of_alarm * (called & ~positive).sum() + of_miss * (~called & positive).sum()) / len(pdf)

    best = best_threshold(metric, "cost", false_positive_cost=of_alarm, false_negative_cost=of_miss)
    tried = {cut: cost(cut) for cut in [*pdf["score"].unique(), np.inf]}
    assert best.value == pytest.approx(min(tried.values()), abs=1e-12)
    assert best.value == pytest.approx(cost(best.threshold), abs=1e-12)
    highest = max(cut for cut, value in tried.items() if value <= min(tried.values()) + 1e-12)
    assert best.threshold == highest or (highest == np.inf and best.threshold > pdf["score"].max())


@given(samples, st.integers(1, 30))
@settings(deadline=None, max_examples=50)
def test_top_k_is_used_up_and_not_exceeded(sample, k):
    pdf, metric = ranking_of(sample)
    called = {cut: (pdf["score"] >= cut).sum() for cut in pdf["score"].unique()}
    if min(called.values()) > k:
        with pytest.raises(SparkimbError, match=f"top_k is {k}, but {min(called.values())} rows share the highest"):
            best_threshold(metric, "topK", top_k=k)
        return
    best = best_threshold(metric, "topK", top_k=k)
    assert best.value == max(rows for rows in called.values() if rows <= k)
    assert best.value == called[best.threshold]
    legal = {cut: ORACLES["f1"](pdf["label"], pdf["score"] >= cut) for cut, rows in called.items() if rows <= k}
    assert best_threshold(metric, "f1", top_k=k).value == pytest.approx(max(legal.values()), abs=1e-12)


def test_bounds_that_no_threshold_meets_together_are_refused():
    _, metric = ranking_of([(3, False), (2, True), (1, True), (0, False)])
    with pytest.raises(SparkimbError, match=r"at most 2 rows positive \(top_k\) has precision 0.0 and recall 1.0"):
        best_threshold(metric, top_k=2, min_recall=1.0)
    assert best_threshold(metric, "cost", false_positive_cost=9.0).confusion.recall() == 0.0
    assert best_threshold(metric, "cost", false_positive_cost=9.0, min_recall=0.5).confusion.recall() == 1.0


def test_all_homes_of_the_steps_choose_the_same_threshold(spark, monkeypatch):
    rng = np.random.default_rng(3)
    label = (np.arange(500) < 60).astype(int)
    score = np.round(rng.normal(size=500) + 1.5 * label, 2)
    df = spark.createDataFrame(pd.DataFrame({"score": score, "label": label, "weight": rng.integers(0, 4, 500) / 3}))
    small = RankingMetrics(df, weightCol="weight")
    monkeypatch.setattr(steps, "MAX_SCORES", 3)
    merged = RankingMetrics(df, weightCol="weight")
    monkeypatch.setattr(steps, "MAX_POSITIVES", 3)
    monkeypatch.setattr(steps, "RANGES", 4)
    monkeypatch.setattr(steps, "SAMPLED", 1)
    large = RankingMetrics(df, weightCol="weight")
    assert isinstance(large.steps, steps.DistributedSteps)
    assert merged.steps.count < small.steps.count == large.steps.count
    requests = [
        *({"objective": objective, "beta": 0.5} for objective in ("fBeta", "mcc")),
        {"objective": "cost", "false_negative_cost": 0.0},
        {"objective": "recall", "min_precision": 0.6},
        {"objective": "f1", "top_k": 20},
    ]
    for request in requests:
        found = [best_threshold(metric, **request) for metric in (small, merged, large)]
        assert len({best.threshold for best in found}) == 1, request
        assert [best.value for best in found] == pytest.approx([found[0].value] * 3, rel=1e-12)
        assert found[0].confusion.precision() >= request.get("min_precision", 0.0)
    one, other = (best_threshold(metric, "topK", top_k=20) for metric in (small, large))
    assert one.threshold == other.threshold
    assert best_threshold(merged, "topK", top_k=20).value <= one.value
    with pytest.raises(SparkimbError, match=r"with min_recall 0\.9 the best precision is"):
        best_threshold(large, min_precision=1.0, min_recall=0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "f2"}, "objective is 'f2'. Choose one of: f1, fBeta, gMean"),
        ({"objective": "fBeta", "beta": 0.0}, "beta is 0.0"),
        ({"min_precision": 1.1}, "min_precision is 1.1"),
        ({"min_recall": float("nan")}, "min_recall is nan"),
        ({"objective": "cost", "false_negative_cost": -1.0}, "false_negative_cost is -1.0"),
        ({"objective": "topK"}, "top_k is inf. Give the number of rows"),
        ({"top_k": 0.0}, r"top_k is 0\.0"),
    ],
)
def test_wrong_requests_are_refused(changes, message):
    _, metric = ranking_of([(1, True), (0, False)])
    with pytest.raises(SparkimbError, match=message):
        best_threshold(metric, **changes)
