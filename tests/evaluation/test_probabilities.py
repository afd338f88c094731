"""probability_metrics against scikit-learn and a slow loop over bins."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import probabilities, probability_metrics


def rows(seed, n=300):
    rng = np.random.default_rng(seed)
    score = np.round(rng.random(n), 2)  # many scores lie on an edge of the bins
    return pd.DataFrame({"score": score, "label": rng.random(n) < score**2, "weight": rng.integers(0, 4, n) / 3})


def expected_calibration_error(pdf, bins):
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], pdf["score"])
    gaps = [
        abs(np.average(part["score"] - part["label"], weights=part["weight"])) * part["weight"].sum()
        for _, part in pdf[pdf["weight"] > 0].groupby(place[pdf["weight"] > 0])
    ]
    return sum(gaps) / pdf["weight"].sum()


@pytest.mark.parametrize(("partitions", "bins"), [(1, 10), (7, 1), (64, 13)])
def test_equal_to_the_oracles_with_weights(spark, partitions, bins):
    pdf = rows(partitions)
    df = spark.createDataFrame(pdf).repartition(partitions)
    found = probability_metrics(df, positiveLabel=True, weightCol="weight", bins=bins)
    expected = brier_score_loss(pdf["label"], pdf["score"], sample_weight=pdf["weight"])
    assert found.brier == pytest.approx(expected, rel=1e-9)
    assert found.expectedCalibrationError == pytest.approx(expected_calibration_error(pdf, bins), rel=1e-9)
    assert found.reliability["weight"].sum() == pytest.approx(pdf["weight"].sum())


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=20), st.integers(1, 20))
@settings(deadline=None, max_examples=5)
def test_reliability_equals_sklearn(spark, sample, bins):
    pdf = pd.DataFrame(sample, columns=["score", "label"])
    curve = probability_metrics(spark.createDataFrame(pdf), bins=bins).reliability
    share, predicted = calibration_curve(pdf["label"], pdf["score"], n_bins=bins, pos_label=1)
    assert curve["observedShare"].tolist() == pytest.approx(share.tolist(), rel=1e-9)
    assert curve["meanPredicted"].tolist() == pytest.approx(predicted.tolist(), rel=1e-9, abs=1e-12)
    assert curve["rows"].sum() == len(pdf)
    assert (curve["lower"] - 1e-12 <= curve["meanPredicted"]).all()
    assert (curve["meanPredicted"] <= curve["upper"] + 1e-12).all()


def test_perfect_probabilities_have_no_error(spark):
    df = spark.range(10).selectExpr("id % 2 AS label", "CAST(id % 2 AS DOUBLE) AS score")
    found = probability_metrics(df)
    assert (found.brier, found.expectedCalibrationError) == (0.0, 0.0)


def test_faulty_rows_are_counted(spark):
    nan = math.nan
    data = [(0.5, 1.0, 1.0), (-0.1, 1.0, 1.0), (1.1, 0.0, 1.0), (nan, 1.0, 1.0), (None, 1.0, 1.0)]
    data += [(0.2, None, 1.0), (0.3, nan, 1.0), (0.3, 1.0, -1.0)]
    df = spark.createDataFrame(data, "score double, label double, weight double")
    with pytest.raises(SparkimbError) as error:
        probability_metrics(df, weightCol="weight")
    for part in ["Of 8 rows", r"3 with scoreCol 'score' outside [0, 1]", "1 with null scoreCol"]:
        assert part in str(error.value)
    for part in ["2 with null or NaN labelCol", "1 with weightCol 'weight' null, NaN, negative or infinite"]:
        assert part in str(error.value)
    with pytest.raises(SparkimbError, match="no rows"):
        probability_metrics(df.where("score > 5 AND score < 6"))
    with pytest.raises(SparkimbError, match="is 0 in every row"):
        probability_metrics(df.where("score = 0.5").selectExpr("score", "label", "0 AS weight"), weightCol="weight")


def test_wrong_requests_are_refused(spark):
    df = spark.createDataFrame(rows(0))
    for bins in (0, probabilities.MAX_BINS + 1):
        with pytest.raises(SparkimbError, match=f"bins is {bins}"):
            probability_metrics(df, positiveLabel=True, bins=bins)
    with pytest.raises(SparkimbError, match=r"scoreCol 'p'.*labelCol 'y' not found"):
        probability_metrics(df, scoreCol="p", labelCol="y")
    with pytest.raises(SparkimbError, match="scoreCol 'label' is of type boolean, not a number"):
        probability_metrics(df, scoreCol="label", positiveLabel=True)
