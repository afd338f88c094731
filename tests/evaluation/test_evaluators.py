"""The evaluators against scikit-learn, on columns of every kind, and within pyspark's validators."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imblearn.metrics import geometric_mean_score, macro_averaged_mean_absolute_error
from pyspark.ml.classification import LinearSVC, NaiveBayes
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.evaluators import (
    BINARY_METRICS,
    MULTICLASS_METRICS,
    ImbalancedBinaryEvaluator,
    ImbalancedMulticlassEvaluator,
)

ROWS = 200
SEVERAL = {"labelCol": "kind", "predictionCol": "guess", "probabilityCol": "three", "labels": ["a", "b", "c"]}
LESS_IS_BETTER = {"logLoss", "brier", "stratifiedBrier", "expectedCalibrationError", "maximumCalibrationError"}


@pytest.fixture(scope="module")
def scored(spark):
    rng = np.random.default_rng(2)
    label = (np.arange(ROWS) < 30).astype(float)
    p = np.round(1 / (1 + np.exp(1.5 - 2 * label - rng.normal(size=ROWS))), 2)
    kind = rng.choice(3, ROWS, p=[0.7, 0.2, 0.1])
    three = rng.dirichlet([1, 1, 1], ROWS)
    pdf = pd.DataFrame(
        {
            "label": label,
            "prediction": (p > 0.5).astype(float),
            "p": p,
            "raw": np.round(rng.normal(size=ROWS) + label, 2),
            "two": [[1 - x, x] for x in p.tolist()],
            "name": np.where(label == 1, "fraud", "fair"),
            "called": np.where(p > 0.5, "fraud", "fair"),
            "kind": np.array(["a", "b", "c"])[kind],
            "guess": np.array(["a", "b", "c"])[np.where(rng.random(ROWS) < 0.7, kind, 0)],
            "three": three.tolist(),
            "weight": rng.integers(1, 4, ROWS).astype(float),
        }
    )
    return pdf, spark.createDataFrame(pdf).withColumn("vector", array_to_vector("two"))


BINARY_WITH_ORACLES = {
    "averagePrecision": lambda y, p, _, w: metrics.average_precision_score(y, p, sample_weight=w),
    "areaUnderROC": lambda y, p, _, w: metrics.roc_auc_score(y, p, sample_weight=w),
    "partialAreaUnderROC": lambda y, p, _, w: metrics.roc_auc_score(y, p, max_fpr=0.2, sample_weight=w),
    "brier": lambda y, p, _, w: metrics.brier_score_loss(y, p, sample_weight=w),
    "logLoss": lambda y, p, _, w: metrics.log_loss(y, p, sample_weight=w),
    "f1": lambda y, _, called, w: metrics.f1_score(y, called, sample_weight=w),
    "fBeta": lambda y, _, called, w: metrics.fbeta_score(y, called, beta=2, sample_weight=w),
    "gMean": lambda y, _, called, w: np.sqrt(np.prod(metrics.recall_score(y, called, average=None, sample_weight=w))),
    "balancedAccuracy": lambda y, _, called, w: metrics.balanced_accuracy_score(y, called, sample_weight=w),
    "mcc": lambda y, _, called, w: metrics.matthews_corrcoef(y, called, sample_weight=w),
    "kappa": lambda y, _, called, w: metrics.cohen_kappa_score(y, called, sample_weight=w),
    "precision": lambda y, _, called, w: metrics.precision_score(y, called, sample_weight=w),
    "recall": lambda y, _, called, w: metrics.recall_score(y, called, sample_weight=w),
    "specificity": lambda y, _, called, w: metrics.recall_score(y, called, pos_label=0, sample_weight=w),
    "accuracy": lambda y, _, called, w: metrics.accuracy_score(y, called, sample_weight=w),
}


def test_binary_metrics_are_scikit_learn_s(scored):
    pdf, df = scored
    for name, oracle in BINARY_WITH_ORACLES.items():
        evaluator = ImbalancedBinaryEvaluator(
            metricName=name, probabilityCol="vector", beta=2, at=0.2, weightCol="weight"
        )
        expected = oracle(pdf["label"], pdf["p"], pdf["prediction"], pdf["weight"])
        assert evaluator.evaluate(df) == pytest.approx(expected, abs=1e-9), name
        assert evaluator.isLargerBetter() is (name not in LESS_IS_BETTER)


def expected_at(pdf, k):
    """Precision and recall of the k highest, those that tie with the last in part, in slow NumPy."""
    order = pdf.sort_values("p", ascending=False)
    last = order["p"].iloc[k - 1]
    above, tied = order[order["p"] > last], order[order["p"] == last]
    found = above["label"].sum() + tied["label"].mean() * (k - len(above))
    return found / k, found / pdf["label"].sum()


def test_metrics_at_a_point_are_those_of_numpy(scored):
    pdf, df = scored
    precision, recall, _ = metrics.precision_recall_curve(pdf["label"], pdf["p"])
    called = [pdf["p"] >= cut for cut in sorted(pdf["p"].unique())]
    ks = max(abs(c[pdf["label"] == 1].mean() - c[pdf["label"] == 0].mean()) for c in called)
    of_k = expected_at(pdf, 9)
    expected = {
        "precisionAt": (9, of_k[0]),
        "recallAt": (9, of_k[1]),
        "recallAtPrecision": (0.5, max(recall[:-1][precision[:-1] >= 0.5])),
        "precisionAtRecall": (0.6, max(precision[:-1][recall[:-1] >= 0.6])),
        "ks": (None, ks),
    }
    for name, (at, value) in expected.items():
        evaluator = ImbalancedBinaryEvaluator(metricName=name, probabilityCol="p", at=at)
        assert evaluator.evaluate(df) == pytest.approx(value, abs=1e-9), name


def test_every_other_metric_can_be_asked_for(scored):
    _, df = scored
    at = {"precisionAt": 9, "recallAt": 9, "recallAtPrecision": 0.5, "precisionAtRecall": 0.5}
    binary = ["areaUnderPR", "ks", *at, "stratifiedBrier", "expectedCalibrationError", "maximumCalibrationError"]
    for name in binary:
        evaluator = ImbalancedBinaryEvaluator(metricName=name, probabilityCol="p", at=at.get(name))
        assert 0 < evaluator.evaluate(df) < 1, name
        assert evaluator.isLargerBetter() is (name not in LESS_IS_BETTER)
    assert set(binary) | set(BINARY_WITH_ORACLES) == set(BINARY_METRICS)
    several = ["macroPrecision", "macroRecall", "macroFBeta", "precisionByLabel", "specificityByLabel", "fBetaByLabel"]
    several += ["accuracy", "brier", "expectedCalibrationError", "maximumCalibrationError"]
    for name in several:
        evaluator = ImbalancedMulticlassEvaluator(metricName=name, metricLabel="b", **SEVERAL)
        assert 0 < evaluator.evaluate(df) < 2, name
        assert evaluator.isLargerBetter() is (name not in LESS_IS_BETTER)
    several += ["macroAveragedMeanAbsoluteError"]  # of numbers: see below
    assert set(several) | set(MULTICLASS_WITH_ORACLES) == set(MULTICLASS_METRICS)


def test_scores_come_as_vector_array_or_number_and_labels_as_strings(scored):
    pdf, df = scored
    expected = metrics.average_precision_score(pdf["label"], pdf["p"])
    words = {"labelCol": "name", "positiveLabel": "fraud", "labels": ["fair", "fraud"], "predictionCol": "called"}
    for settings in ({"probabilityCol": "two"}, {"probabilityCol": "p"}, {"probabilityCol": "vector", **words}):
        assert ImbalancedBinaryEvaluator(**settings).evaluate(df) == pytest.approx(expected, abs=1e-9)
    raw = ImbalancedBinaryEvaluator(metricName="areaUnderROC", rawPredictionCol="raw")
    assert raw.evaluate(df) == pytest.approx(metrics.roc_auc_score(pdf["label"], pdf["raw"]), abs=1e-9)
    assert ImbalancedBinaryEvaluator(metricName="mcc", **words).evaluate(df) == pytest.approx(
        metrics.matthews_corrcoef(pdf["label"], pdf["prediction"]), abs=1e-9
    )
    rest = ImbalancedBinaryEvaluator(metricName="gMean", labelCol="kind", positiveLabel="c", predictionCol="guess")
    assert rest.evaluate(df) == pytest.approx(geometric_mean_score(pdf["kind"] == "c", pdf["guess"] == "c"), abs=1e-9)


MULTICLASS_WITH_ORACLES = {
    "gMean": lambda y, guess, _: geometric_mean_score(y, guess),
    "balancedAccuracy": lambda y, guess, _: metrics.balanced_accuracy_score(y, guess),
    "mcc": lambda y, guess, _: metrics.matthews_corrcoef(y, guess),
    "kappa": lambda y, guess, _: metrics.cohen_kappa_score(y, guess),
    "macroF1": lambda y, guess, _: metrics.f1_score(y, guess, average="macro"),
    "f1ByLabel": lambda y, guess, _: metrics.f1_score(y, guess, labels=["c"], average="macro"),
    "recallByLabel": lambda y, guess, _: metrics.recall_score(y, guess, labels=["c"], average="macro"),
    "logLoss": lambda y, _, p: metrics.log_loss(y, p),
    "macroJaccard": lambda y, guess, _: metrics.jaccard_score(y, guess, average="macro"),
    "jaccardByLabel": lambda y, guess, _: metrics.jaccard_score(y, guess, labels=["c"], average="macro"),
    "macroAreaUnderROC": lambda y, _, p: metrics.roc_auc_score(y, p, multi_class="ovr"),
    "macroAveragePrecision": lambda y, _, p: metrics.average_precision_score(
        np.array(y)[:, None] == np.array(["a", "b", "c"]), p
    ),
    "accuracy": lambda y, guess, _: metrics.accuracy_score(y, guess),
    "macroPrecision": lambda y, guess, _: metrics.precision_score(y, guess, average="macro"),
    "macroRecall": lambda y, guess, _: metrics.recall_score(y, guess, average="macro"),
    "macroFBeta": lambda y, guess, _: metrics.fbeta_score(y, guess, beta=1, average="macro"),
    "precisionByLabel": lambda y, guess, _: metrics.precision_score(y, guess, labels=["c"], average="macro"),
    "specificityByLabel": lambda y, guess, _: metrics.recall_score(y == "c", guess == "c", pos_label=False),
    "fBetaByLabel": lambda y, guess, _: metrics.fbeta_score(y, guess, beta=1, labels=["c"], average="macro"),
}


def test_ordered_classes_have_a_distance(scored):
    pdf, df = scored
    places = {
        name: F.create_map(*(F.lit(x) for pair in zip("abc", (0, 1, 2), strict=True) for x in pair))[F.col(name)]
        for name in ("kind", "guess")
    }
    evaluator = ImbalancedMulticlassEvaluator(
        metricName="macroAveragedMeanAbsoluteError", labelCol="kind", predictionCol="guess"
    )
    at = pdf[["kind", "guess"]].apply(lambda column: column.map({"a": 0, "b": 1, "c": 2}))
    expected = macro_averaged_mean_absolute_error(at["kind"], at["guess"])
    assert evaluator.evaluate(df.withColumns(places)) == pytest.approx(expected, abs=1e-9)
    assert not evaluator.isLargerBetter()
    with pytest.raises(SparkimbError, match="metricName is 'macroAreaUnderROC', but labels is not set"):
        ImbalancedMulticlassEvaluator(metricName="macroAreaUnderROC", labelCol="kind", probabilityCol="three").evaluate(
            df
        )


def test_multiclass_metrics_take_weights(scored):
    pdf, df = scored
    w = pdf["weight"]
    for name, oracle in {
        "mcc": metrics.matthews_corrcoef,
        "balancedAccuracy": metrics.balanced_accuracy_score,
        "accuracy": metrics.accuracy_score,
    }.items():
        evaluator = ImbalancedMulticlassEvaluator(metricName=name, weightCol="weight", **SEVERAL)
        expected = oracle(pdf["kind"], pdf["guess"], sample_weight=w)
        assert evaluator.evaluate(df) == pytest.approx(expected, abs=1e-9), name
        assert expected != pytest.approx(oracle(pdf["kind"], pdf["guess"]))


def test_multiclass_metrics_are_scikit_learn_s(scored):
    pdf, df = scored
    for name, oracle in MULTICLASS_WITH_ORACLES.items():
        evaluator = ImbalancedMulticlassEvaluator(metricName=name, metricLabel="c", **SEVERAL)
        expected = oracle(pdf["kind"], pdf["guess"], np.array(pdf["three"].tolist()))
        assert evaluator.evaluate(df) == pytest.approx(expected, abs=1e-9), name


@pytest.fixture(scope="module")
def points(spark):
    rng = np.random.default_rng(4)
    label = (np.arange(ROWS) % 8 == 0).astype(float)
    x, z = (rng.random((2, ROWS)) < 0.1 + 0.8 * label).astype(float)
    pdf = pd.DataFrame({"label": label, "x": x, "z": z, "fold": np.arange(ROWS) // 8 % 2})
    return VectorAssembler(inputCols=["x", "z"], outputCol="features").transform(spark.createDataFrame(pdf))


@pytest.mark.slow
@pytest.mark.parametrize(
    "evaluator",
    [
        partial(ImbalancedBinaryEvaluator, metricName="brier"),
        partial(ImbalancedMulticlassEvaluator, metricName="gMean"),
    ],
    ids=["less is better", "more is better"],
)
def test_a_cross_validator_chooses_by_the_evaluator_and_is_saved(points, tmp_path: Path, evaluator):
    learner, evaluator = NaiveBayes(), evaluator()
    grid = ParamGridBuilder().addGrid(learner.modelType, ["multinomial", "gaussian", "bernoulli"]).build()
    validator = CrossValidator(
        estimator=learner, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, foldCol="fold"
    )
    model = validator.fit(points)
    assert len(set(model.avgMetrics)) > 1
    best = (max if evaluator.isLargerBetter() else min)(range(3), key=lambda i: model.avgMetrics[i])
    assert model.bestModel.getModelType() == grid[best][learner.modelType]
    for stage in (validator, model):
        path = str(tmp_path / type(stage).__name__)
        stage.write().overwrite().save(path)
        loaded = type(stage).load(path).getEvaluator()
        assert (type(loaded), loaded.extractParamMap()) == (type(evaluator), evaluator.extractParamMap())


def test_a_train_validation_split_takes_raw_scores(points, tmp_path: Path):
    learner = LinearSVC(maxIter=2)
    evaluator = ImbalancedBinaryEvaluator(rawPredictionCol="rawPrediction", metricName="areaUnderROC")
    grid = ParamGridBuilder().addGrid(learner.regParam, [0.1]).build()
    split = TrainValidationSplit(
        estimator=learner, estimatorParamMaps=grid, evaluator=evaluator, trainRatio=0.5, seed=1
    )
    assert 0.5 < split.fit(points).validationMetrics[0] <= 1
    split.write().overwrite().save(str(tmp_path / "split"))
    assert TrainValidationSplit.load(str(tmp_path / "split")).getEvaluator().getMetricName() == "areaUnderROC"


def test_saved_evaluators_are_the_same_after_loading_and_copies_are_apart(tmp_path: Path, spark):
    evaluator = ImbalancedBinaryEvaluator(metricName="fBeta", beta=2, positiveLabel="yes", labels=["no", "yes"])
    for _ in range(2):
        evaluator.write().overwrite().save(str(tmp_path / "evaluator"))
    loaded = ImbalancedBinaryEvaluator.load(str(tmp_path / "evaluator"))
    assert (loaded.uid, loaded.extractParamMap()) == (evaluator.uid, evaluator.extractParamMap())
    other = evaluator.copy({evaluator.metricName: "brier"})
    assert (other.isLargerBetter(), evaluator.isLargerBetter()) == (False, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metricName": "areaUnderROC", "probabilityCol": "name"}, "probabilityCol 'name' is of type string"),
        ({"rawPredictionCol": "q", "probabilityCol": "p"}, "rawPredictionCol 'q'.* not found"),
        ({"metricName": "recallAt", "probabilityCol": "p"}, "metricName is 'recallAt', but at is not set"),
        ({"probabilityCol": "two", "labelCol": "name", "positiveLabel": "fraud"}, "Set labels to all labels"),
        ({"probabilityCol": "two", "labels": [0, 2]}, r"positiveLabel is 1.0, but labels are \[0, 2\]"),
        ({"probabilityCol": "p", "labelCol": "name"}, "positiveLabel is 1.0, but labelCol 'name' is of type string"),
        ({"probabilityCol": "two", "positiveLabel": 7}, "200 with null scoreCol 'two'"),
        ({"metricName": "brier", "probabilityCol": "raw"}, r"with scoreCol 'raw' outside \[0, 1\]"),
        ({"metricName": "f1", "positiveLabel": 3.0}, "Label 3.0 does not occur"),
        ({"metricName": "f1", "labelCol": "name"}, "labelCol 'name' is of type string, but predictionCol"),
    ],
)
def test_wrong_requests_are_refused(scored, settings, message):
    with pytest.raises(SparkimbError, match=message):
        ImbalancedBinaryEvaluator(**settings).evaluate(scored[1])


def test_rows_that_cannot_be_judged_are_refused(scored):
    _, df = scored
    for name in ("gMean", "averagePrecision", "stratifiedBrier"):
        evaluator = ImbalancedBinaryEvaluator(metricName=name, probabilityCol="p")
        with pytest.raises(SparkimbError, match=r"two classes|both classes"):
            evaluator.evaluate(df.where("label = 0 or prediction = 9"))
        with pytest.raises(SparkimbError, match="no rows"):
            evaluator.evaluate(df.limit(0))
    gap = df.withColumn("prediction", F.expr("nullif(prediction, 1)"))
    with pytest.raises(SparkimbError, match="null or NaN predictionCol 'prediction'"):
        ImbalancedMulticlassEvaluator().evaluate(gap)
    with pytest.raises(SparkimbError, match="null scoreCol 'vector'"):
        ImbalancedBinaryEvaluator(probabilityCol="vector").evaluate(
            df.withColumn("vector", F.when(F.col("p") < 0.5, F.col("vector")))
        )
    with pytest.raises(SparkimbError, match="metricName is 'f1ByLabel', but metricLabel is not set"):
        ImbalancedMulticlassEvaluator(metricName="f1ByLabel").evaluate(df)
    with pytest.raises(SparkimbError, match=r"Label 'z' does not occur"):
        ImbalancedMulticlassEvaluator(metricName="recallByLabel", metricLabel="z", **SEVERAL).evaluate(df)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metricName": "auc"}, r"ImbalancedBinaryEvaluator.metricName is 'auc'. Use one of"),
        ({"positiveLabel": float("nan")}, "positiveLabel is nan"),
        ({"labels": ["a", "a"]}, "labels is .*Name two classes or more, each once"),
        ({"labels": ["a", 1]}, "Give labels of one type"),
        ({"beta": 0}, "beta is 0"),
    ],
)
def test_wrong_values_are_refused_when_set(settings, message):
    with pytest.raises(SparkimbError, match=message):
        ImbalancedBinaryEvaluator(**settings)
    with pytest.raises(
        TypeError, match=r"ImbalancedBinaryEvaluator\.positiveLabel must be a string, boolean or number"
    ):
        ImbalancedBinaryEvaluator(positiveLabel=[1])
