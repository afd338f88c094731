"""CostSensitive and BayesDecision against NumPy, with costs for each label and for each row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.cost import BayesDecision, CostSensitive, CostSensitiveModel

ROWS = 60
THREE = {"a": {"b": 1, "c": 2}, "b": {"a": 5, "c": 3}, "c": {"a": 50, "b": 20}}
MATRIX = np.array([[0, 1, 2], [5, 0, 3], [50, 20, 0]])
TWO = {0: {1: 1.0}, 1: {0: "amount"}}


@pytest.fixture(scope="module")
def rows(spark):
    rng = np.random.default_rng(7)
    kind = rng.choice(3, ROWS, p=[0.6, 0.3, 0.1])
    pdf = pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "label": (kind == 2).astype(float),
            "kind": np.array(["a", "b", "c"])[kind],
            "amount": np.round(rng.exponential(50, ROWS), 2),
            "p": rng.random(ROWS),
            "three": rng.dirichlet([2, 1, 1], ROWS).tolist(),
            "given": rng.integers(1, 5, ROWS).astype(float),
        }
    )
    return pdf, spark.createDataFrame(pdf).withColumn("vector", array_to_vector("three"))


def column(df, name):
    return df.orderBy("id").toPandas()[name].to_numpy()


def test_weights_are_what_mistakes_of_the_class_cost_with_mean_one(rows):
    pdf, df = rows
    model = CostSensitive(labelCol="kind", costs=THREE).fit(df)
    stakes = MATRIX.sum(axis=1)[pdf["kind"].map({"a": 0, "b": 1, "c": 2})]
    out = model.transform(df)
    assert out.columns == [*df.columns, "weight"]
    assert column(out, "weight") == pytest.approx(stakes / stakes.mean())
    assert out.drop("weight").collect() == df.collect()


def test_costs_of_each_row_make_its_weight(rows):
    pdf, df = rows
    stakes = np.where(pdf["label"] == 1, pdf["amount"], 1.0)
    model = CostSensitive(costs=TWO, weightCol="given").fit(df)
    assert model.meanCost == pytest.approx(stakes.mean())
    out = model.transform(df)
    assert out.columns == df.columns
    assert column(out, "given") == pytest.approx(stakes / stakes.mean() * pdf["given"])


def test_what_the_right_prediction_costs_is_taken_off(rows):
    pdf, df = rows
    model = CostSensitive(costs={0: {0: 1.0, 1: 4.0}, 1: {0: 9.0, 1: 2.0}}).fit(df)
    stakes = np.where(pdf["label"] == 1, 7.0, 3.0)
    assert column(model.transform(df), "weight") == pytest.approx(stakes / stakes.mean())


def test_rows_without_a_known_cost_weigh_one(spark, rows):
    _, df = rows
    model = CostSensitive(costs=TWO).fit(df)
    odd = spark.createDataFrame([(1.0, None), (None, 3.0), (7.0, 3.0)], "label double, amount double")
    assert [row["weight"] for row in model.transform(odd).collect()] == [1.0, 1.0, 1.0]
    assert [row["weight"] for row in model.transform(odd.drop("label")).collect()] == [1.0, 1.0, 1.0]
    assert [row["weight"] for row in model.transform(odd.drop("amount")).collect()] == [1.0, 1.0, 1.0]


def test_decision_has_the_least_expected_cost(rows):
    pdf, df = rows
    expected = np.array(pdf["three"].tolist()) @ MATRIX
    for name in ("three", "vector"):
        decision = BayesDecision(costs=THREE, labels=["a", "b", "c"], probabilityCol=name)
        assert (
            column(decision.transform(df), "prediction") == np.array(["a", "b", "c"])[expected.argmin(axis=1)]
        ).all()


def test_two_classes_are_cut_at_the_ratio_of_their_costs(rows):
    pdf, df = rows
    called = column(
        BayesDecision(costs={0: {1: 5.0}, 1: {0: "amount"}}, probabilityCol="p").transform(df), "prediction"
    )
    assert (called == (pdf["p"] > 5 / (5 + pdf["amount"]))).all()
    assert 0 < called.sum() < ROWS
    array = df.withColumn("two", F.array(1 - F.col("p"), "p"))
    decision = BayesDecision(costs={False: {True: 5.0}, True: {False: "amount"}}, labels=[False, True])
    out = decision.setParams(probabilityCol="two", predictionCol="p").transform(array)
    assert (column(out, "p") == called.astype(bool)).all()


def test_rows_that_cannot_be_decided_get_none(spark):
    cases = [
        (1, None, 1.0),
        (2, [0.5, None], 1.0),
        (3, [0.5, float("nan")], 1.0),
        (4, [1.0], 1.0),
        (5, [0.5, 0.5], None),
    ]
    df = spark.createDataFrame([*cases, (6, [0.5, 0.5], 1.0)], "id int, probability array<double>, amount double")
    out = BayesDecision(costs=TWO).transform(df)
    assert column(out, "prediction")[:5].tolist() == pytest.approx([np.nan] * 5, nan_ok=True)
    assert column(out, "prediction")[5] == 0.0, "of equals the first"


def test_saved_stages_are_the_same_after_loading(rows, tmp_path: Path):
    _, df = rows
    estimator = CostSensitive(costs=TWO, weightCol="w")
    model, decision = estimator.fit(df), BayesDecision(costs=TWO, probabilityCol="p")
    for stage in (estimator, model, decision):
        path = str(tmp_path / type(stage).__name__)
        for _ in range(2):
            stage.write().overwrite().save(path)
        loaded = type(stage).load(path)
        assert (loaded.uid, loaded.extractParamMap()) == (stage.uid, stage.extractParamMap())
    loaded = CostSensitiveModel.load(str(tmp_path / "CostSensitiveModel"))
    assert (loaded.meanCost, loaded.getCosts()) == (model.meanCost, model.getCosts())


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({0: {1: 1.0}}, "and lacks: 1 taken for 0"),
        ({0: {0: 1.0}}, "and lacks: a second label"),
        ({0: {1.0: 1.0}, 1: {0: 1.0}}, r"names the labels \['0', '1', '1.0'\], and lacks: 0 taken for 1"),
        ({0: {1: -1.0}, 1: {0: 1.0}}, r"a cost is -1.0. It must be in \[0, inf\)"),
        ({0: {1: ""}, 1: {0: 1.0}}, "a cost is empty"),
    ],
)
def test_wrong_costs_are_refused_when_set(costs, message):
    for stage in (CostSensitive, BayesDecision):
        with pytest.raises(SparkimbError, match=f"{stage.__name__}.*{message}"):
            stage(costs=costs)
    with pytest.raises(TypeError, match="costs must be a non-empty dict"):
        CostSensitive(costs={})


def test_rows_that_cannot_be_weighed_are_refused(rows):
    _, df = rows
    for changed, costs, message in [
        (df, {0: {2: 1}, 2: {0: 1}}, r"Of 60 rows .* with a labelCol 'label' that costs does not name \(0\.0, 2\.0\)"),
        (df.withColumn("label", F.expr("nullif(label, 1)")), TWO, "labelCol 'label' that costs does not name"),
        (
            df.withColumn("amount", -F.col("amount")),
            TWO,
            "with costs null, NaN, infinite or less than that of the right",
        ),
        (df.limit(0), TWO, "no rows"),
        (df.where("label = 0"), TWO, "one class only: 0.0 in all"),
        (df, {0: {1: 0}, 1: {0: 0}}, "The costs of all rows are 0"),
        (df, {"a": {"b": 1}, "b": {"a": 1}}, "costs names the label 'a', but labelCol 'label' is of type double"),
        (df, {0: {1: "stake"}, 1: {0: 1}}, "costs 'stake'.* not found"),
        (df, {0: {1: "kind"}, 1: {0: 1}}, "costs 'kind' is of type string, not a number"),
        (df.withColumn("weight", F.lit("x")), TWO, "weightCol 'weight' is of type string, not a number"),
    ]:
        with pytest.raises(SparkimbError, match=message):
            CostSensitive(costs=costs).fit(changed)
    with pytest.raises(SparkimbError, match=r"CostSensitive\.costs is not set"):
        CostSensitive().fit(df)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "BayesDecision.costs is not set"),
        ({"costs": THREE}, r"costs names the labels \['a', 'b', 'c'\], but labels are \[0.0, 1.0\]"),
        ({"costs": TWO, "labels": [0, 1, 2]}, "Give costs for each of the labels"),
        ({"costs": TWO, "probabilityCol": "kind"}, "probabilityCol 'kind' is of type string"),
        (
            {"costs": THREE, "labels": ["a", "b", "c"], "probabilityCol": "p"},
            "must be a vector or an array of numbers:",
        ),
        ({"costs": TWO, "probabilityCol": "q"}, "probabilityCol 'q'.* not found"),
    ],
)
def test_decisions_that_cannot_be_made_are_refused(rows, settings, message):
    with pytest.raises(SparkimbError, match=message):
        BayesDecision(**settings).transform(rows[1])
