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
from sparkimb.evaluation import RankingMetrics, best_threshold, ranking

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
    grouped = pdf.assign(p=pdf["label"], n=1 - pdf["label"]).groupby("score", as_index=False)[["p", "n"]].sum()
    metric = object.__new__(RankingMetrics)
    metric.steps = ranking._CollectedSteps(grouped)
    metric.positives, metric.negatives = metric.steps.positives, metric.steps.negatives
    return pdf, metric


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


def test_both_paths_choose_the_same_threshold(spark, monkeypatch):
    rng = np.random.default_rng(3)
    label = (np.arange(500) < 60).astype(int)
    score = np.round(rng.normal(size=500) + 1.5 * label, 2)
    df = spark.createDataFrame(pd.DataFrame({"score": score, "label": label, "weight": rng.integers(0, 4, 500) / 3}))
    small = RankingMetrics(df, weightCol="weight")
    monkeypatch.setattr(ranking, "MAX_SCORES", 3)
    monkeypatch.setattr(ranking, "RANGES", 4)
    large = RankingMetrics(df, weightCol="weight")
    for objective in ["fBeta", "gMean", "mcc", "youden"]:
        one, other = best_threshold(small, objective, beta=0.5), best_threshold(large, objective, beta=0.5)
        assert (one.threshold, one.value) == pytest.approx((other.threshold, other.value), rel=1e-12)
    one, other = (best_threshold(metric, "recall", min_precision=0.6) for metric in (small, large))
    assert one.threshold == other.threshold
    assert one.confusion.precision() >= 0.6
    with pytest.raises(SparkimbError, match=r"with min_recall 0\.9 the best precision is"):
        best_threshold(large, min_precision=1.0, min_recall=0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "f2"}, "objective is 'f2'. Choose one of: f1, fBeta, gMean"),
        ({"objective": "fBeta", "beta": 0.0}, "beta is 0.0"),
        ({"min_precision": 1.1}, "min_precision is 1.1"),
        ({"min_recall": float("nan")}, "min_recall is nan"),
    ],
)
def test_wrong_requests_are_refused(changes, message):
    _, metric = ranking_of([(1, True), (0, False)])
    with pytest.raises(SparkimbError, match=message):
        best_threshold(metric, **changes)
