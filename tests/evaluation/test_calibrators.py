"""PlattCalibrator and IsotonicCalibrator against scikit-learn: scores, margins, weights, more classes, and bad rows."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.isotonic import IsotonicCalibrator, IsotonicCalibratorModel
from sparkimb.evaluation.platt import PlattCalibrator, PlattCalibratorModel

CALIBRATORS = [PlattCalibrator, IsotonicCalibrator]
METHODS = [(PlattCalibrator, "sigmoid"), (IsotonicCalibrator, "isotonic")]
# Two optimisers that stop where the likelihood hardly changes: probabilities agree to some 1e-8.
NEAR = 1e-6


class Margins(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn's whose margins are its features."""

    def __init__(self, k=2):
        self.k, self.classes_ = k, np.arange(k)

    def fit(self, x, y):
        return self

    def predict(self, x):
        raise NotImplementedError

    def decision_function(self, x):
        return x[:, 0] if self.k == 2 else x


def sklearn_probabilities(method, margins, labels, weights, at):
    k = len(np.unique(labels))
    calibrated = CalibratedClassifierCV(FrozenEstimator(Margins(k)), method=method, cv=2, ensemble=False)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Since FrozenEstimator"
        )  # that calibration alone is weighted is wanted
        return calibrated.fit(margins, labels, sample_weight=weights).predict_proba(at)


def binary(n=300, seed=0):
    """Margins with ties, rare positives, weights of which some are 0."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.2).astype(float)
    margin = np.round(rng.normal(size=n) * 2 + 2 * label, 1)
    return pd.DataFrame({"label": label, "margin": margin, "weight": rng.integers(0, 4, n).astype(float)})


def frame(spark, pdf):
    df = spark.createDataFrame(pdf)
    p = 1 / (1 + F.exp(-F.col("margin")))
    return df.select(
        "*",
        F.array(-F.col("margin"), F.col("margin")).alias("raw"),
        F.array(1 - p, p).alias("array"),
        array_to_vector(F.array(1 - p, p)).alias("probability"),
    )


def found(df, outputCol="calibratedProbability"):
    return np.array([list(row[0]) for row in df.select(outputCol).collect()])


@pytest.mark.parametrize(("calibrator", "method"), METHODS)
def test_margins_are_calibrated_as_by_scikit_learn(spark, calibrator, method):
    pdf = binary()
    at = pd.DataFrame({"margin": np.linspace(-12, 12, 25)})
    model = calibrator(rawPredictionCol="raw", weightCol="weight").fit(frame(spark, pdf))
    out = model.transform(frame(spark, at).drop("probability", "array"))
    expected = sklearn_probabilities(method, pdf[["margin"]].to_numpy(), pdf["label"], pdf["weight"], at.to_numpy())
    np.testing.assert_allclose(found(out), expected, atol=NEAR if method == "sigmoid" else 1e-12)


def test_platt_takes_the_logit_of_a_probability(spark):
    """The margins' probabilities have the margins as logits, so the sigmoid is the same, but for their last digits."""
    df = frame(spark, binary())
    by_margin = PlattCalibrator(rawPredictionCol="raw").fit(df)
    by_probability = PlattCalibrator(probabilityCol="array").fit(df)
    assert by_probability.curves[0] == pytest.approx(by_margin.curves[0], rel=1e-6)
    ends = spark.createDataFrame([([1.0, 0.0],), ([0.0, 1.0],)], "array array<double>")
    (_, low), (_, high) = found(by_probability.transform(ends))
    assert 0 < low < 1e-3
    assert 1 - 1e-3 < high < 1


def test_isotonic_is_scikit_learn_s_with_ties_and_beyond_the_ends(spark):
    pdf = binary(seed=1)
    df = frame(spark, pdf)
    model = IsotonicCalibrator().fit(df)
    p = 1 / (1 + np.exp(-pdf["margin"]))
    oracle = IsotonicRegression(out_of_bounds="clip").fit(p, pdf["label"])
    at = np.r_[0, p.min() / 2, np.sort(p)[::10], 0.4321, (1 + p.max()) / 2, 1]
    points = spark.createDataFrame([([1 - x, x],) for x in at.tolist()], "probability array<double>")
    np.testing.assert_allclose(found(model.transform(points))[:, 1], oracle.predict(at), atol=1e-12)
    assert len(model.curves[0][0]) < len(np.unique(p)), "pooled"


def test_a_curve_of_one_point_is_flat(spark):
    df = spark.createDataFrame([([0.5, 0.5], i % 4 == 0) for i in range(8)], "probability array<double>, y boolean")
    df = df.select("probability", F.col("y").cast("int").alias("label"))
    model = IsotonicCalibrator().fit(df)
    assert model.curves == [[[0.5], [0.25]]]
    points = spark.createDataFrame([([1 - x, x],) for x in (0.0, 0.5, 1.0)], "probability array<double>")
    np.testing.assert_allclose(found(model.transform(points)), [[0.75, 0.25]] * 3)


@pytest.mark.parametrize(("calibrator", "method"), METHODS)
def test_more_classes_are_each_calibrated_against_the_rest(spark, calibrator, method):
    rng = np.random.default_rng(2)
    label = rng.choice(3, size=240, p=[0.6, 0.3, 0.1])
    margins = np.round(rng.normal(size=(240, 3)) + 1.5 * np.eye(3)[label], 1)
    df = spark.createDataFrame(list(zip(margins.tolist(), label.tolist(), strict=True)), "raw array<double>, label int")
    model = calibrator(rawPredictionCol="raw").fit(df)
    at = np.r_[margins[:30], [[-50.0, -50.0, -50.0]], [[60.0, 0.0, 1.0]]]
    out = found(model.transform(spark.createDataFrame([(row,) for row in at.tolist()], "raw array<double>")))
    expected = sklearn_probabilities(method, margins, label, None, at)
    np.testing.assert_allclose(out.sum(axis=1), 1)
    np.testing.assert_allclose(out, expected, atol=NEAR if method == "sigmoid" else 1e-12)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_calibration_error_falls_where_the_posterior_is_known(spark, calibrator):
    """Scores that claim twice the log-odds they have: on fresh rows the calibrated ones are nearer to the truth."""
    rng = np.random.default_rng(3)

    def sample(n):
        truth = 1 / (1 + np.exp(-rng.normal(-1.5, 1.2, n)))
        claimed = truth**2 / (truth**2 + (1 - truth) ** 2)
        return pd.DataFrame({"label": (rng.random(n) < truth).astype(int), "truth": truth, "claimed": claimed})

    def shown(pdf):
        return spark.createDataFrame(pdf).select(
            "label", "truth", F.array(1 - F.col("claimed"), F.col("claimed")).alias("probability")
        )

    model = calibrator().fit(shown(sample(3_000)))
    fresh = sample(500)
    out = found(model.transform(shown(fresh)))[:, 1]
    assert np.abs(out - fresh["truth"]).mean() < 0.25 * np.abs(fresh["claimed"] - fresh["truth"]).mean()


def test_models_come_back_from_disk_and_keep_the_form_of_the_column(spark, tmp_path):
    df = frame(spark, binary())
    for calibrator, kind in ((PlattCalibrator, PlattCalibratorModel), (IsotonicCalibrator, IsotonicCalibratorModel)):
        stage = calibrator(weightCol="weight", outputCol="probability")
        model = stage.fit(df)
        for _ in range(2):
            stage.write().overwrite().save(str(tmp_path / "stage"))
            model.write().overwrite().save(str(tmp_path / "model"))
        assert calibrator.load(str(tmp_path / "stage")).extractParamMap() == stage.extractParamMap()
        loaded = kind.load(str(tmp_path / "model"))
        assert (loaded.curves, loaded.numClasses, loaded.uid) == (model.curves, 2, model.uid)
        out = loaded.transform(df)
        assert out.columns == df.columns
        assert isinstance(out.schema["probability"].dataType, VectorUDT)
        np.testing.assert_array_equal(found(out, "probability"), found(model.transform(df), "probability"))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_rows_that_cannot_be_calibrated_become_null(spark, calibrator):
    model = calibrator(probabilityCol="array").fit(frame(spark, binary()))
    rows = [None, [0.5], [0.5, 1.5], [-0.5, 0.5], [None, 0.5], [0.5, float("nan")], [0.5, 0.5]]
    df = spark.createDataFrame([(i, row) for i, row in enumerate(rows)], "id int, array array<double>")
    out = [row[-1] for row in model.transform(df).orderBy("id").collect()]
    assert out[:-1] == [None] * 6
    assert sum(out[-1]) == pytest.approx(1)


BAD = [
    ([([0.5, 0.5], 0.0, 1.0), (None, 0.0, 1.0)], "Of 2 rows .* 1 with null probabilityCol 'p'"),
    ([([0.5, 0.5], 0.0, 1.0), ([0.5, 1.5], 0.0, 1.0)], r"1 with entries of probabilityCol 'p' null, NaN or outside"),
    ([([0.5, 0.5], 2.0, 1.0)] * 3, "3 with labelCol 'label' null, or not the index of an entry"),
    ([([0.5, 0.5], 0.5, 1.0), ([0.5, 0.5], None, 1.0)], "2 with labelCol 'label' null, or not the index"),
    ([([0.5, 0.5], 0.0, -1.0)], "1 with weightCol 'w' null, NaN, negative or infinite"),
    ([([0.5, 0.5], 0.0, 1.0), ([0.2, 0.3, 0.5], 1.0, 1.0)], "has 2 to 3 entries in a row"),
    ([([0.5, 0.5], 0.0, 1.0)] * 4, r"no rows, or no weight, of the classes \[1\] of 2 in 4 rows"),
    ([([0.5, 0.5], 0.0, 1.0), ([0.5, 0.5], 1.0, 0.0)], r"no rows, or no weight, of the classes \[1\]"),
    ([], "The dataset has no rows"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_bad_rows_are_counted_and_refused(spark, rows, message):
    df = spark.createDataFrame(rows, "p array<double>, label double, w double")
    with pytest.raises(SparkimbError, match=message):
        PlattCalibrator(probabilityCol="p", weightCol="w").fit(df)


def test_infinite_margins_and_wrong_columns_are_refused(spark):
    df = spark.createDataFrame([([0.0, float("inf")], 1, "x")], "raw array<double>, label int, text string")
    with pytest.raises(SparkimbError, match="1 with entries of rawPredictionCol 'raw' null, NaN or infinite"):
        IsotonicCalibrator(rawPredictionCol="raw").fit(df)
    with pytest.raises(SparkimbError, match="probabilityCol 'text' is of type string"):
        PlattCalibrator(probabilityCol="text").fit(df)
    with pytest.raises(SparkimbError, match="labelCol 'text' is of type string, not a number"):
        PlattCalibrator(probabilityCol="raw", labelCol="text").fit(df)
    with pytest.raises(SparkimbError, match="outputCol 'text' is there already"):
        PlattCalibrator(probabilityCol="raw", outputCol="text").fit(df)


def test_a_reversed_ranking_is_told(spark):
    df = frame(spark, binary()).withColumn("label", 1 - F.col("label"))
    with pytest.warns(UserWarning, match="the higher the score in rawPredictionCol 'raw', the rarer the class"):
        PlattCalibrator(rawPredictionCol="raw").fit(df)
