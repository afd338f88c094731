"""ConfusionMatrix against scikit-learn and imbalanced-learn, with and without Spark."""

from __future__ import annotations

import datetime
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.metrics import (
    classification_report_imbalanced,
    geometric_mean_score,
    macro_averaged_mean_absolute_error,
    make_index_balanced_accuracy,
    sensitivity_score,
    specificity_score,
)
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import ConfusionMatrix, classification_report, confusion, confusion_matrix

samples = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from([0.25, 1.0, 3.0])),
    min_size=1,
    max_size=30,
)
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


def matrix_of(sample):
    """The matrix of (label, prediction, weight) triples, without Spark."""
    cells = {}
    for label, prediction, weight in sample:
        cells[label, prediction] = cells.get((label, prediction), 0.0) + weight
    return ConfusionMatrix(tuple(sorted({label for pair in cells for label in pair})), cells)


def check(matrix, label, prediction, weight):
    given = {"y_true": label, "y_pred": prediction, "sample_weight": weight}
    each = {**given, "labels": list(matrix.labels), "average": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracles warn of every 0/0
        per_label = {
            "precision": metrics.precision_score(**each, zero_division=0),
            "recall": metrics.recall_score(**each, zero_division=0),
            "f1": metrics.f1_score(**each, zero_division=0),
        }
        overall = {
            "accuracy": metrics.accuracy_score(**given),
            "balancedAccuracy": metrics.balanced_accuracy_score(**given),
            "mcc": metrics.matthews_corrcoef(**given),
            "gMean": geometric_mean_score(**given, average="multiclass"),
        }
        counts = metrics.multilabel_confusion_matrix(**given, labels=list(matrix.labels))
        if weight is None:  # imbalanced-learn counts true negatives in rows, also where there are weights
            per_label["specificity"] = specificity_score(**each)
    for name, values in per_label.items():
        assert [getattr(matrix, name)(one) for one in matrix.labels] == pytest.approx(values, abs=1e-12), name
    for name, value in overall.items():
        assert getattr(matrix, name) == pytest.approx(value, abs=1e-9), name
    for one, count in zip(matrix.labels, counts, strict=True):
        found = [matrix.trueNegatives(one), matrix.falsePositives(one), matrix.falseNegatives(one)]
        assert [*found, matrix.truePositives(one)] == pytest.approx(count.ravel(), abs=1e-12)
        tn, fp = count[0]
        assert matrix.specificity(one) == pytest.approx(tn / (tn + fp) if tn + fp else 0.0, abs=1e-12)


@given(samples)
@settings(deadline=None)
def test_metrics_equal_the_oracles_for_many_labels(sample):
    check(matrix_of(sample), *map(list, zip(*sample, strict=True)))


@given(binary, st.sampled_from([0.5, 1.0, 3.0]))
@settings(deadline=None)
def test_metrics_equal_the_oracles_for_two_labels(sample, beta):
    label, prediction = zip(*sample, strict=True)
    tn, fp, fn, tp = metrics.confusion_matrix(label, prediction, labels=[0, 1]).ravel().tolist()
    matrix = ConfusionMatrix.fromCounts(truePositives=tp, falsePositives=fp, falseNegatives=fn, trueNegatives=tn)
    assert matrix.fBeta(beta) == pytest.approx(metrics.fbeta_score(label, prediction, beta=beta, zero_division=0))
    if {*label} == {0, 1}:
        check(matrix, label, prediction, None)
        expected = geometric_mean_score(label, prediction, average="binary")
        assert matrix.gMean == pytest.approx(expected)
        assert matrix.gMean == pytest.approx(math.sqrt(matrix.recall() * matrix.specificity()))


def repeated(sample):
    """Labels and predictions with every row four times its weight, as imbalanced-learn's true negatives are rows."""
    rows = [row for *row, weight in sample for _ in range(int(4 * weight))]
    return tuple(map(list, zip(*rows, strict=True)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@given(samples, st.sampled_from(["macro", "micro", "weighted"]), st.sampled_from([-0.5, 0.0, 0.1, 1.0]))
@settings(deadline=None)
def test_averages_equal_the_oracles(sample, average, alpha):
    matrix, (label, prediction) = matrix_of(sample), repeated(sample)
    given = {"y_true": label, "y_pred": prediction, "average": average}
    expected = {
        "precision": metrics.precision_score(**given, zero_division=0),
        "recall": metrics.recall_score(**given, zero_division=0),
        "f1": metrics.f1_score(**given, zero_division=0),
        "jaccard": metrics.jaccard_score(**given, zero_division=0),
        "specificity": specificity_score(**given),
        "geometricMean": geometric_mean_score(**given),
    }
    assert sensitivity_score(**given) == pytest.approx(expected["recall"])
    for name, value in expected.items():
        assert getattr(matrix, name)(average=average) == pytest.approx(value, abs=1e-9), name
    f2 = metrics.fbeta_score(**given, beta=2, zero_division=0)
    assert matrix.fBeta(2, average=average) == pytest.approx(f2, abs=1e-9)
    for squared in (True, False):
        iba = make_index_balanced_accuracy(alpha=alpha, squared=squared)(geometric_mean_score)(**given)
        found = matrix.indexBalancedAccuracy(average=average, alpha=alpha, squared=squared)
        assert found == pytest.approx(iba, abs=1e-9)


def kappa_of(label, prediction, weights):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 0/0, and of a single label
        return np.nan_to_num(metrics.cohen_kappa_score(label, prediction, weights=weights))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore:y_pred contains classes")
@given(samples, st.sampled_from([0.0, 0.001, 1.0]))
@settings(deadline=None)
def test_metrics_of_the_whole_table_equal_the_oracles(sample, correction):
    matrix, (label, prediction) = matrix_of(sample), repeated(sample)
    corrected = geometric_mean_score(label, prediction, correction=correction)
    assert matrix.correctedGMean(correction) == pytest.approx(corrected, abs=1e-9)
    for weights in (None, "linear", "quadratic"):
        assert matrix.kappa(weights) == pytest.approx(kappa_of(label, prediction, weights), abs=1e-9), weights
    if len({*label}) > 1:
        adjusted = metrics.balanced_accuracy_score(label, prediction, adjusted=True)
        assert matrix.adjustedBalancedAccuracy == pytest.approx(adjusted, abs=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@given(samples, st.sampled_from([0.1, 0.5]))
@settings(deadline=None)
def test_report_equals_imbalanced_learn(sample, alpha):
    label, prediction = repeated(sample)
    table = matrix_of([(a, b, 1.0) for a, b in zip(label, prediction, strict=True)]).report(alpha)
    expected = classification_report_imbalanced(label, prediction, alpha=alpha, output_dict=True, zero_division=0)
    for name in table.index[:-1]:
        assert table.loc[name].to_dict() == pytest.approx(expected[name], abs=1e-9)
    means = {name.removeprefix("avg_").replace("total_support", "sup"): expected[name] for name in list(expected)[-7:]}
    assert table.loc["avg / total"].to_dict() == pytest.approx(means, abs=1e-9)
    assert [*table.index[:-1]] == sorted({*label, *prediction})


ratings = st.lists(st.tuples(st.sampled_from([1, 2, 3.5, 7]), st.sampled_from([1, 2, 3.5, 7])), min_size=1, max_size=20)


@given(ratings)
@settings(deadline=None)
def test_macro_averaged_error_equals_imbalanced_learn(sample):
    label, prediction = zip(*sample, strict=True)
    codes = {value: code for code, value in enumerate([1, 2, 3.5, 7])}
    # imbalanced-learn takes ratings such as 3.5 for a regression and refuses them; ranks have errors of their own.
    ranks = [[codes[value] for value in values] for values in (label, prediction)]
    matrix = matrix_of([(*pair, 2.0) for pair in zip(*ranks, strict=True)])
    if {*prediction} <= {*label}:
        expected = macro_averaged_mean_absolute_error(*ranks)
        assert matrix.macroAveragedMeanAbsoluteError == pytest.approx(expected, abs=1e-9)
    by_label = pd.DataFrame({"label": label, "error": np.abs(np.subtract(label, prediction))}).groupby("label")["error"]
    found = matrix_of([(*pair, 0.1) for pair in sample]).macroAveragedMeanAbsoluteError
    assert found == pytest.approx(by_label.mean().mean(), abs=1e-9)


def test_a_label_that_was_only_predicted():
    matrix = matrix_of([(0, 0, 1.0), (0, 2, 1.0), (1, 1, 1.0), (1, 2, 1.0)])
    assert matrix.macroAveragedMeanAbsoluteError == (1.0 + 0.5) / 2
    assert matrix.recall(average="macro") == pytest.approx(1 / 3)  # as scikit-learn's: all labels that occur
    assert matrix.balancedAccuracy == 0.5  # as scikit-learn's: labels with rows
    assert (matrix.gMean, matrix.correctedGMean(0.5)) == (0.0, 0.5)
    assert matrix.report().loc[2, "sup"] == 0


def test_a_rare_label_keeps_its_digits():
    """Among 10^12 rows of weight 0.1, as among few: the counts are sums of exact parts."""
    many = 10**12
    matrix = matrix_of([(0, 0, many * 0.1), (0, 1, 0.3), (1, 0, 0.1), (1, 1, 0.2)])
    assert matrix.specificity(0) == 0.2 / (0.2 + 0.1)
    phi = math.sqrt(0.2 / 0.3 * 0.2 / 0.5)  # what mcc tends to, and kappa to f1
    assert matrix.mcc == pytest.approx(phi, rel=1e-9)
    assert matrix.kappa() == pytest.approx(matrix.f1(1), rel=1e-9)
    assert matrix_of([("a", "b", 0.1), ("b", "b", 0.2), ("b", "a", 0.3)]).trueNegatives("b") == 0.0


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 2, st.sampled_from([0.25, 1.0, 3.0])), min_size=1, max_size=30))
@settings(deadline=None)
def test_kappa_of_many_ordered_labels(sample):
    label, prediction = repeated(sample)
    for weights in ("linear", "quadratic"):
        expected = kappa_of(label, prediction, weights)
        assert matrix_of(sample).kappa(weights) == pytest.approx(expected, abs=1e-9)


def test_quotients_of_nothing_are_zero():
    never = ConfusionMatrix.fromCounts(truePositives=0, falsePositives=0, falseNegatives=0, trueNegatives=9)
    assert [never.precision(), never.recall(), never.f1(), never.mcc] == [0.0] * 4
    empty = ConfusionMatrix.fromCounts(truePositives=0, falsePositives=0, falseNegatives=0, trueNegatives=0)
    assert [empty.accuracy, empty.balancedAccuracy, empty.gMean, empty.specificity()] == [0.0] * 4
    nothing = [empty.kappa("linear"), empty.adjustedBalancedAccuracy, empty.macroAveragedMeanAbsoluteError]
    assert [*nothing, empty.f1(average="weighted"), empty.jaccard(average="micro")] == [0.0] * 5
    assert (empty.report() == 0.0).all(axis=None)
    assert never.adjustedBalancedAccuracy == never.kappa() == 0.0


@pytest.mark.parametrize(("partitions", "weighted"), [(1, True), (7, False), (16, True)])
def test_counted_on_spark_in_any_partitioning(spark, partitions, weighted):
    rng = np.random.default_rng(partitions)
    pdf = pd.DataFrame({"label": rng.integers(0, 4, 300), "weight": rng.integers(0, 5, 300) / 7})
    pdf["prediction"] = np.where(rng.random(300) < 0.6, pdf["label"], rng.integers(0, 4, 300)).astype(float)
    df = spark.createDataFrame(pdf).repartition(partitions)
    matrix = confusion_matrix(df, weightCol="weight" if weighted else None)
    check(matrix, pdf["label"], pdf["prediction"].astype(int), pdf["weight"] if weighted else None)
    assert matrix.total == pytest.approx(pdf["weight"].sum() if weighted else 300)


def test_report_counted_on_spark(spark):
    pdf = pd.DataFrame({"label": [*"aabbbc"], "guess": [*"abbbca"], "w": [1, 2, 1, 3, 1, 2]})
    df = spark.createDataFrame(pdf)
    report = classification_report.classification_report_imbalanced
    table = report(df, predictionCol="guess", weightCol="w", alpha=0.2)
    repeats = pdf.loc[pdf.index.repeat(pdf["w"])]
    expected = classification_report_imbalanced(
        repeats["label"], repeats["guess"], alpha=0.2, output_dict=True, zero_division=0
    )
    for name in "abc":
        assert table.loc[name].to_dict() == pytest.approx(expected[name], abs=1e-9)
    assert table.loc["avg / total", "iba"] == pytest.approx(expected["avg_iba"], abs=1e-9)
    assert table.loc["avg / total", "sup"] == 10
    with pytest.raises(SparkimbError, match="alpha is nan"):
        report(df, predictionCol="guess", alpha=math.nan)
    with pytest.raises(SparkimbError, match="predictionCol 'prediction' not found"):
        report(df)


@pytest.mark.parametrize(
    "labels",
    [("no", "yes"), (False, True), (b"\x00", b"\x01"), (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2))],
    ids=["string", "boolean", "binary", "date"],
)
def test_labels_of_any_atomic_type(spark, labels):
    no, yes = labels
    df = spark.createDataFrame([(no, no), (no, no), (no, yes), (yes, yes), (yes, no)], ["label", "prediction"])
    matrix = confusion_matrix(df, positiveLabel=yes)
    assert matrix.labels == labels
    assert [matrix.truePositives(), matrix.falsePositives(), matrix.falseNegatives()] == [1, 1, 1]
    assert matrix.cells == {(no, no): 2, (no, yes): 1, (yes, yes): 1, (yes, no): 1}


def test_numbers_and_booleans_are_one_label(spark):
    df = spark.createDataFrame([(True, 1.0), (False, 1.0), (False, 0.0)], ["label", "prediction"])
    assert confusion_matrix(df).labels == (0, 1)
    assert confusion_matrix(df).precision() == 0.5


def test_faulty_rows_are_counted(spark):
    nan = math.nan
    data = [(1.0, 1.0, 1.0), (None, 1.0, 1.0), (nan, 0.0, 1.0), (0.0, nan, 1.0), (0.0, 0.0, -2.0), (0.0, 0.0, None)]
    df = spark.createDataFrame(data, "label double, prediction double, weight double")
    with pytest.raises(SparkimbError) as error:
        confusion_matrix(df, weightCol="weight")
    for part in ["Of 6 rows", "2 with null or NaN labelCol", "1 with null or NaN predictionCol", "2 with weightCol"]:
        assert part in str(error.value)
    with pytest.raises(SparkimbError, match="no rows"):
        confusion_matrix(df.where("label = 5"))


def test_the_number_of_cells_is_bounded(spark, monkeypatch):
    monkeypatch.setattr(confusion, "MAX_CELLS", 5)
    df = spark.range(6).selectExpr("id AS label", "id AS prediction")
    assert len(confusion_matrix(df.limit(5)).labels) == 5
    with pytest.raises(SparkimbError, match="more than 5 different pairs"):
        confusion_matrix(df)


def test_schema_errors(spark):
    df = spark.range(1).selectExpr("id AS label", "'a' AS text", "array(1) AS list")
    with pytest.raises(SparkimbError, match=r"predictionCol 'prediction'.*weightCol 'w' not found"):
        confusion_matrix(df, weightCol="w")
    with pytest.raises(SparkimbError, match="of type bigint, but predictionCol 'text' of type string"):
        confusion_matrix(df, predictionCol="text")
    with pytest.raises(SparkimbError, match="of type array<int>"):
        confusion_matrix(df, labelCol="list", predictionCol="list")
    with pytest.raises(SparkimbError, match="weightCol 'text' is of type string"):
        confusion_matrix(df, predictionCol="label", weightCol="text")


def test_wrong_requests_are_refused():
    counts = {"truePositives": 1, "falsePositives": 2, "falseNegatives": 3, "trueNegatives": 4}
    with pytest.raises(SparkimbError, match=r"Label 'x' does not occur\. Labels are: 0, 1"):
        ConfusionMatrix.fromCounts(**counts).recall("x")
    with pytest.raises(SparkimbError, match="Give finite counts"):
        ConfusionMatrix.fromCounts(**{**counts, "falsePositives": -1})
    with pytest.raises(SparkimbError, match="both 1"):
        ConfusionMatrix.fromCounts(**counts, negativeLabel=1)
    with pytest.raises(SparkimbError, match="beta is -1"):
        ConfusionMatrix.fromCounts(**counts).fBeta(-1)
    matrix = ConfusionMatrix.fromCounts(**counts)
    with pytest.raises(SparkimbError, match=r"average is 'mean'\. Choose one of: macro, micro, weighted"):
        matrix.recall(average="mean")
    with pytest.raises(SparkimbError, match="label is 1 and average 'macro'"):
        matrix.recall(1, average="macro")
    with pytest.raises(SparkimbError, match="weights is 'cubic'"):
        matrix.kappa("cubic")
    with pytest.raises(SparkimbError, match="correction is -1"):
        matrix.correctedGMean(-1)
    with pytest.raises(SparkimbError, match="alpha is inf"):
        matrix.indexBalancedAccuracy(alpha=math.inf)
    with pytest.raises(SparkimbError, match="needs labels that are numbers, but there is 'a'"):
        _ = matrix_of([("a", "b", 1.0)]).macroAveragedMeanAbsoluteError
