"""multiclass_ranking against scikit-learn, all classes in one action and one class after the other."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F
from sklearn import metrics
from sklearn.preprocessing import label_binarize

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import steps
from sparkimb.evaluation.multiclass_ranking import multiclass_ranking

EXACT = 1e-9
LABELS = [2, 0, 5]  # not in their order


def rows(n=300, seed=0):
    """Three classes of unequal size, and probabilities with ties that sum to 1."""
    rng = np.random.default_rng(seed)
    actual = rng.choice(3, n, p=[0.1, 0.6, 0.3])
    counts = rng.poisson(1 + 3 * np.eye(3)[actual]) + 0.5
    probability = counts / counts.sum(axis=1, keepdims=True)
    label = np.array(LABELS)[actual]
    weight = rng.integers(0, 4, n) / 3
    return pd.DataFrame({"label": label, "probability": list(probability), "weight": weight})


def dataset(spark, pdf):
    listed = [(int(row.label), row.probability.tolist(), float(row.weight)) for row in pdf.itertuples()]
    return spark.createDataFrame(listed, "label int, probability array<double>, weight double")


@pytest.fixture(params=["at once", "one by one"])
def way(request, monkeypatch):
    if request.param == "one by one":
        monkeypatch.setattr(steps, "MAX_SCORES", 3)
    return request.param


def test_one_against_the_rest_equals_sklearn(spark, way):
    pdf = rows()
    df, probability = dataset(spark, pdf), np.stack(pdf["probability"])
    one_hot = label_binarize(pdf["label"], classes=LABELS)
    requests = [("macro", None), ("weighted", "weight")]
    for average, weightCol in requests if way == "at once" else requests[1:]:
        weights = pdf["weight"] if weightCol else None
        given = {"average": average, "sample_weight": weights}
        found = multiclass_ranking(df, labels=LABELS, average=average, weightCol=weightCol)
        expected = metrics.roc_auc_score(one_hot, probability, **given)
        assert found.areaUnderROC == pytest.approx(expected, rel=EXACT)
        expected = metrics.average_precision_score(one_hot, probability, **given)
        assert found.averagePrecision == pytest.approx(expected, rel=EXACT)
        for i, label in enumerate(LABELS):
            alone = one_hot[:, i], probability[:, i]
            area = metrics.roc_auc_score(*alone, sample_weight=weights)
            assert found.areaUnderROCByLabel[label] == pytest.approx(area, rel=EXACT)
            precision = metrics.average_precision_score(*alone, sample_weight=weights)
            assert found.averagePrecisionByLabel[label] == pytest.approx(precision, rel=EXACT)


def test_sklearns_own_form_of_one_against_the_rest(spark):
    pdf = rows(seed=1)
    names = np.array(["a", "b", "c"])
    order = [1, 0, 2]  # scikit-learn takes the entries in the order of the sorted labels
    df = dataset(spark, pdf).withColumn("label", F.expr("map(2, 'b', 0, 'a', 5, 'c')[label]"))
    found = multiclass_ranking(
        df.withColumn("probability", array_to_vector("probability")), labels=["b", "a", "c"], average="weighted"
    )
    actual = pdf["label"].map({2: "b", 0: "a", 5: "c"})
    probability = np.stack(pdf["probability"])[:, order]
    expected = metrics.roc_auc_score(actual, probability, multi_class="ovr", average="weighted", labels=names)
    assert found.areaUnderROC == pytest.approx(expected, rel=EXACT)


def test_one_against_one_equals_sklearn(spark, way):
    pdf = rows(seed=2)
    df, order = dataset(spark, pdf), np.argsort(LABELS)
    probability = np.stack(pdf["probability"])[:, order]
    for average in ("macro", "weighted") if way == "at once" else ("weighted",):
        found = multiclass_ranking(df, labels=LABELS, average=average, multiClass="ovo")
        expected = metrics.roc_auc_score(pdf["label"], probability, multi_class="ovo", average=average)
        assert found.areaUnderROC == pytest.approx(expected, rel=EXACT)
    assert set(found.areaUnderROCByLabel) == {(2, 0), (2, 5), (0, 5)}
    assert found.averagePrecision is None


def test_weights_of_pairs_count_as_copies_of_rows(spark):
    pdf = rows(n=60, seed=3).assign(weight=lambda pdf: (pdf.index % 3).astype(float))
    copies = pdf.loc[np.repeat(pdf.index, pdf["weight"].astype(int))].assign(weight=1.0)
    for average in ("macro", "weighted"):
        given = {"labels": LABELS, "multiClass": "ovo", "average": average}
        found = multiclass_ranking(dataset(spark, pdf), weightCol="weight", **given)
        assert found.areaUnderROC == pytest.approx(multiclass_ranking(dataset(spark, copies), **given).areaUnderROC)


def test_faulty_rows_are_counted(spark):
    good = [(label, [0.2, 0.3, 0.5], 1.0) for label in (2.0, 0.0, 5.0)]
    scores = [None, [0.1, 0.9], [0.1, None, 0.9], [0.1, math.nan, 0.9], [0.1, math.inf, 0.9]]
    faulty = [(2.0, score, 1.0) for score in scores]
    faulty += [(None, [0.1, 0.1, 0.8], 1.0), (math.nan, [0.1, 0.1, 0.8], 1.0), (7.0, [0.1, 0.1, 0.8], 1.0)]
    faulty += [(2.0, [0.1, 0.1, 0.8], -1.0)]
    df = spark.createDataFrame(good + faulty, "label double, probability array<double>, weight double")
    with pytest.raises(SparkimbError) as error:
        multiclass_ranking(df, labels=LABELS, weightCol="weight")
    for part in (
        "Of 12 rows",
        "5 with probabilityCol 'probability' not of 3 finite numbers",
        "2 with null or NaN labelCol 'label'",
        "1 with labelCol 'label' none of the labels [2, 0, 5]",
        "1 with weightCol 'weight' null, NaN, negative or infinite",
    ):
        assert part in str(error.value)
    with pytest.raises(SparkimbError, match="no rows"):
        multiclass_ranking(df.where("label = 99"), labels=LABELS)
    with pytest.raises(SparkimbError, match=r"The labels \[5\] have no rows of any weight"):
        multiclass_ranking(df.where("label IN (0, 2) AND weight = 1").limit(2), labels=LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average": "micro"}, "average is 'micro'. Choose one of: macro, weighted"),
        ({"multiClass": "raise"}, "multiClass is 'raise'"),
        ({"labels": [2]}, "labels is .*2"),
        ({"labels": [2, 2, 0]}, "labels is .*2, 2, 0"),
        ({"labels": ["a", "b", "c"]}, "labelCol 'label' is of type int"),
        ({"probabilityCol": "nope"}, "probabilityCol 'nope'"),
        ({"probabilityCol": "weight"}, "probabilityCol 'weight' is of type double"),
        ({"weightCol": "probability"}, "weightCol 'probability' is of type array<double>, not a number"),
    ],
)
def test_wrong_requests_are_refused(spark, changes, message):
    with pytest.raises(SparkimbError, match=message):
        multiclass_ranking(dataset(spark, rows(n=3)), **{"labels": LABELS, **changes})
