"""probability_metrics against scikit-learn and a slow loop over bins."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql.types import DoubleType, StructField, StructType
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import probabilities, probability_metrics
from sparkimb.evaluation.probabilities import multiclass_probability_metrics


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


@pytest.mark.parametrize(("partitions", "bins"), [(1, 10), (7, 1), (16, 13)])
def test_equal_to_the_oracles_with_weights(spark, partitions, bins):
    pdf = rows(partitions)
    df = spark.createDataFrame(pdf).repartition(partitions)
    found = probability_metrics(df, positiveLabel=True, weightCol="weight", bins=bins)
    expected = brier_score_loss(pdf["label"], pdf["score"], sample_weight=pdf["weight"])
    assert found.brier == pytest.approx(expected, rel=1e-9)
    loss = log_loss(pdf["label"], pdf["score"], sample_weight=pdf["weight"])
    assert found.logLoss == pytest.approx(loss, rel=1e-9)
    by_class = [
        np.average((part["score"] - part["label"]) ** 2, weights=part["weight"]) for _, part in pdf.groupby("label")
    ]
    assert [found.brierOfNegatives, found.brierOfPositives] == pytest.approx(by_class, rel=1e-9)
    assert found.stratifiedBrier == pytest.approx(sum(by_class) / 2, rel=1e-9)
    gaps = (found.reliability["meanPredicted"] - found.reliability["observedShare"]).abs()
    assert found.maximumCalibrationError == pytest.approx(gaps.max(), rel=1e-9)
    assert found.expectedCalibrationError == pytest.approx(expected_calibration_error(pdf, bins), rel=1e-9)
    assert found.reliability["weight"].sum() == pytest.approx(pdf["weight"].sum())


def test_intervals_are_those_of_a_poisson_bootstrap(spark):
    pdf = rows(3)
    found = probability_metrics(spark.createDataFrame(pdf), positiveLabel=True, weightCol="weight")
    rng = np.random.default_rng(0)
    own = np.clip(np.where(pdf["label"], pdf["score"], 1 - pdf["score"]), 2.2e-16, 1)
    for name, values in {"brier": (pdf["score"] - pdf["label"]) ** 2, "logLoss": -np.log(own)}.items():
        drawn = [np.average(values, weights=pdf["weight"] * rng.poisson(1, len(pdf))) for _ in range(4_000)]
        interval = found.interval(name, level=0.9)
        assert interval.estimate == getattr(found, name)
        width = np.quantile(drawn, 0.95) - np.quantile(drawn, 0.05)
        assert interval.high - interval.low == pytest.approx(width, rel=0.06), name  # quantiles of 4,000: 2 % or so
    with pytest.raises(SparkimbError, match=r"metric is 'mce'\. Choose one of: logLoss, brier"):
        found.interval("mce")
    with pytest.raises(SparkimbError, match="level is 2"):
        found.interval(level=2)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=20), st.integers(1, 20))
@settings(deadline=None, max_examples=5)
def test_reliability_equals_sklearn(spark, strategy, sample, bins):
    pdf = pd.DataFrame(sample, columns=["score", "label"])
    curve = probability_metrics(spark.createDataFrame(pdf), bins=bins, strategy=strategy).reliability
    share, predicted = calibration_curve(pdf["label"], pdf["score"], n_bins=bins, pos_label=1, strategy=strategy)
    assert curve["observedShare"].tolist() == pytest.approx(share.tolist(), rel=1e-9)
    assert curve["meanPredicted"].tolist() == pytest.approx(predicted.tolist(), rel=1e-9, abs=1e-12)
    assert curve["rows"].sum() == len(pdf)
    assert (curve["lower"] - 1e-12 <= curve["meanPredicted"]).all()
    assert (curve["meanPredicted"] <= curve["upper"] + 1e-12).all()


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0, 0.123]), min_size=1, max_size=40), st.integers(1, 30))
@settings(deadline=None)
def test_percentiles_are_numpys_bit_for_bit(values, bins):
    shares = np.linspace(0, 1, bins + 1)
    distinct, rows = np.unique(values, return_counts=True)
    found = probabilities._percentiles(distinct, rows, shares)
    assert found.tolist() == np.percentile(values, shares * 100).tolist()


def test_bins_of_equal_mass(spark, monkeypatch):
    """Few rows near 1, as for a rare class: bins of equal width put nearly all rows in one."""
    df = spark.range(1000).selectExpr("int(id % 97 = 0) AS label", "pow(id / 1000, 4) AS score", "id % 2 AS weight")
    curve = probability_metrics(df, bins=8, strategy="quantile").reliability
    assert curve["rows"].tolist() == [125] * 8
    assert curve["upper"].tolist()[:-1] == curve["lower"].tolist()[1:]
    halved = probability_metrics(df, bins=8, strategy="quantile", weightCol="weight").reliability
    assert halved["weight"].between(62, 63).all()
    monkeypatch.setattr(probabilities, "MAX_SCORES", 999)
    sketched = probability_metrics(df, bins=8, strategy="quantile").reliability
    assert sketched["rows"].between(124, 126).all()


def test_floats_are_clipped_by_their_own_epsilon(spark):
    df = spark.createDataFrame([(0.0, 1), (1.0, 1), (0.25, 0)], "score double, label int")
    for kind in ("float", "double"):
        cast = df.withColumn("score", df["score"].cast(kind))
        expected = log_loss([1, 1, 0], np.array([0.0, 1.0, 0.25], dtype=np.float32 if kind == "float" else float))
        assert probability_metrics(cast).logLoss == pytest.approx(expected, rel=1e-6)


def several(seed, n=200, classes=4):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), n)
    p[0] = np.eye(classes)[1]  # certain, and wrong
    p[1] = 1 / classes  # all tied
    label = np.array([rng.choice(classes, p=row) for row in p])
    label[:2] = 0
    return p, label, rng.integers(0, 4, n) / 3


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_many_classes_equal_sklearn(spark, strategy):
    p, label, weight = several(3)
    names = np.array(["d", "a", "c", "b"])
    kinds = {"probability": VectorUDT(), "label": DoubleType(), "weight": DoubleType()}
    schema = StructType([StructField(name, kind) for name, kind in kinds.items()])
    df = spark.createDataFrame(
        [
            (Vectors.dense(row), float(i), w)
            for row, i, w in zip(p.tolist(), label.tolist(), weight.tolist(), strict=True)
        ],
        schema,
    )
    found = multiclass_probability_metrics(df, weightCol="weight", bins=5, strategy=strategy)
    assert found.logLoss == pytest.approx(log_loss(label, p, sample_weight=weight), rel=1e-9)
    squares = ((p - np.eye(p.shape[1])[label]) ** 2).sum(axis=1)  # scikit-learn's since 1.7
    assert found.brier == pytest.approx(np.average(squares, weights=weight), rel=1e-9)
    right = p.argmax(axis=1) == label
    if strategy == "quantile":
        cuts = np.percentile(p.max(axis=1)[weight > 0], [20, 40, 60, 80])
    else:
        cuts = np.linspace(0, 1, 6)[1:-1]
    bins = np.searchsorted(cuts, p.max(axis=1))
    gap = np.bincount(bins, (p.max(axis=1) - right) * weight, minlength=5)
    mass = np.bincount(bins, weight, minlength=5)
    assert found.expectedCalibrationError == pytest.approx(np.abs(gap).sum() / weight.sum(), rel=1e-9)
    assert found.maximumCalibrationError == pytest.approx(np.abs(gap / np.maximum(mass, 1e-9)).max(), rel=1e-9)
    if strategy == "uniform":  # the same as arrays of floats, with names for labels
        renamed = spark.createDataFrame(
            pd.DataFrame({"probability": p.tolist(), "label": names[label], "weight": weight})
        )
        again = multiclass_probability_metrics(
            renamed.withColumn("probability", renamed["probability"].cast("array<float>")),
            labels=names.tolist(),
            weightCol="weight",
            bins=5,
        )
        clipped = log_loss(label, p.astype(np.float32), sample_weight=weight)
        assert again.logLoss == pytest.approx(clipped, rel=1e-5)
        assert again.brier == pytest.approx(found.brier, rel=1e-5)


def test_two_classes_either_way(spark):
    pdf = rows(5)
    df = spark.createDataFrame(pdf).selectExpr("label", "score", "array(1 - score, score) AS probability")
    one, both = probability_metrics(df, positiveLabel=True), multiclass_probability_metrics(df, labels=[False, True])
    assert both.logLoss == pytest.approx(one.logLoss, rel=1e-9)
    assert both.brier == pytest.approx(2 * one.brier, rel=1e-9)


def test_faulty_rows_of_many_classes_are_counted(spark):
    nan = math.nan
    data = [([0.5, 0.5], 1.0), (None, 1.0), ([0.5, 0.25], 1.0), ([1.5, -0.5], 0.0), ([nan, 1.0], 0.0)]
    data += [([None, 1.0], 0.0), ([0.5, 0.5], None), ([0.5, 0.5], nan), ([0.5, 0.5], 2.0), ([0.5, 0.5], 0.5)]
    df = spark.createDataFrame(data, "probability array<double>, label double")
    with pytest.raises(SparkimbError) as error:
        multiclass_probability_metrics(df)
    parts = ["1 with null probabilityCol", "3 with probabilityCol 'probability' outside [0, 1]", "of sum 1"]
    for part in [*parts, "2 with null or NaN labelCol", "2 with labelCol 'label' not a place of the probabilities"]:
        assert part in str(error.value)
    ragged = spark.createDataFrame([([0.5, 0.5], 1.0), ([1.0], 0.0)], df.schema)
    with pytest.raises(SparkimbError, match="holds from 1 to 2 probabilities"):
        multiclass_probability_metrics(ragged)
    with pytest.raises(SparkimbError, match="1 with probabilityCol 'probability' not of one entry for each of labels"):
        multiclass_probability_metrics(ragged, labels=[0, 1])
    with pytest.raises(SparkimbError, match="1 with labelCol 'label' not in labels"):
        multiclass_probability_metrics(ragged.limit(1), labels=[0, 2])
    with pytest.raises(SparkimbError, match="no rows"):
        multiclass_probability_metrics(df.where("label = 9"), strategy="quantile")


def test_wrong_requests_of_many_classes_are_refused(spark):
    df = spark.range(1).selectExpr("id AS label", "'a' AS name", "array(0.5D, 0.5D) AS probability", "0.5D AS score")
    with pytest.raises(SparkimbError, match=r"'name' holds strings\. Give labels"):
        multiclass_probability_metrics(df, labelCol="name")
    for labels in (["a", "b"], [0, 0], [0, math.nan]):
        with pytest.raises(SparkimbError, match="Give each label once"):
            multiclass_probability_metrics(df, labels=labels)
    with pytest.raises(SparkimbError, match="'score' is of type double, not a vector or an array"):
        multiclass_probability_metrics(df, probabilityCol="score")


def test_one_class_has_no_brier_of_the_other(spark):
    found = probability_metrics(spark.createDataFrame([(0.5, 0), (0.25, 0)], ["score", "label"]))
    assert math.isnan(found.brierOfPositives)
    assert math.isnan(found.stratifiedBrier)
    assert found.brierOfNegatives == found.brier == (0.25 + 0.0625) / 2


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
    with pytest.raises(SparkimbError, match=r"strategy is 'mass'\. Choose one of: uniform, quantile"):
        probability_metrics(df, positiveLabel=True, strategy="mass")
    with pytest.raises(SparkimbError, match=r"scoreCol 'p'.*labelCol 'y' not found"):
        probability_metrics(df, scoreCol="p", labelCol="y")
    with pytest.raises(SparkimbError, match="scoreCol 'label' is of type boolean, not a number"):
        probability_metrics(df, scoreCol="label", positiveLabel=True)
