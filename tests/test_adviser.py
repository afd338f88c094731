"""The adviser: natural rows are what it measures on, and it says "do nothing" unless intervals say otherwise."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pyspark.ml.classification import FMClassifier, LinearSVC, LogisticRegression, MultilayerPerceptronClassifier
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import average_precision_score

from sparkimb import ClassWeigher, RandomUnderSampler
from sparkimb.adviser import advise, default_treatments, recommend
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.stratified_folds import StratifiedFolds
from sparkimb.testing import example


def learner() -> LogisticRegression:
    return LogisticRegression(maxIter=5)


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return example(spark, {"common": 300, "rare": 30}).select("id", "label", "features")


def table(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    columns = ["treatment", "threshold", "value", "low", "high", "seconds"]
    return pd.DataFrame(rows, columns=columns).sort_values("value", ascending=False, ignore_index=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (table(("nothing", "any", 0.6, 0.5, 0.7, 1), ("SMOTE", "any", 0.5, 0.4, 0.6, 2)), "Do nothing"),
        (table(("nothing", "any", 0.6, 0.5, 0.7, 1), ("SMOTE", "any", 0.65, 0.6, 0.7, 2)), "overlap"),
        (
            table(
                ("nothing", "default", 0.1, 0.0, 0.2, 1),
                ("nothing", "tuned", 0.6, 0.5, 0.7, 1),
                ("SMOTE", "default", 0.65, 0.6, 0.7, 2),
            ),
            "Do nothing to the rows, and move the threshold.",
        ),
        (table(("nothing", "any", 0.3, 0.2, 0.4, 1), ("SMOTE", "any", 0.65, 0.6, 0.7, 2)), "Use SMOTE."),
        (
            table(
                ("nothing", "any", 0.3, 0.2, 0.4, 1),
                ("weights", "any", 0.6, 0.5, 0.62, 1),
                ("SMOTE", "any", 0.65, 0.6, 0.7, 2),
            ),
            "Use weights.",
        ),
        (
            table(
                ("nothing", "default", 0.1, 0.05, 0.12, 1),
                ("weights", "default", 0.2, 0.1, 0.3, 1),
                ("weights", "tuned", 0.6, 0.5, 0.66, 1),
                ("SMOTE", "tuned", 0.65, 0.6, 0.7, 2),
            ),
            "Use weights and tune the threshold.",
        ),
        (
            table(
                ("nothing", "default", 0.1, 0.05, 0.12, 1),
                ("SMOTE", "default", 0.64, 0.6, 0.7, 2),
                ("SMOTE", "tuned", 0.65, 0.6, 0.7, 2),
            ),
            "Use SMOTE.",
        ),
        (
            table(("nothing", "default", 0.5, 0.4, 0.6, 1), ("nothing", "tuned", 0.6, 0.5, 0.7, 1)),
            "Do nothing to the rows, and move the threshold.",
        ),
    ],
)
def test_the_simplest_of_what_may_be_the_best_is_recommended(found: pd.DataFrame, expected: str) -> None:
    assert expected in recommend(found, "f1", 0.95)


def test_every_treatment_is_measured_and_nothing_is_recommended(rows: DataFrame) -> None:
    """A linear learner on two Gaussians: the ranking hardly moves, whatever is done to the classes' shares."""
    advice = advise(rows, learner=learner(), idCols=["id"], numFolds=2)
    assert set(advice.table["treatment"]) == {"nothing", *default_treatments()}
    assert set(advice.table["threshold"]) == {"any"}
    assert advice.table["value"].is_monotonic_decreasing
    assert ((advice.table["low"] <= advice.table["value"]) & (advice.table["value"] <= advice.table["high"])).all()
    trained = dict(zip(advice.table["treatment"], advice.table["rows"], strict=True))
    assert trained == {
        "nothing": 330,
        "class weights": 330,
        "under-sampling": 60,
        "over-sampling": 600,
        "SMOTE": 600,
    }
    assert advice.recommendation.endswith("Do nothing.") or "move the threshold" in advice.recommendation
    assert advice.skipped == {}
    assert advice.recommendation in str(advice)


def test_a_value_is_that_of_the_folds_by_hand(rows: DataFrame) -> None:
    advice = advise(rows, learner=learner(), idCols=["id"], treatments={}, numFolds=2, seed=3)
    indexed = rows.select(F.col("id").alias("id0"), "features", (F.col("label") == "rare").cast("double").alias("y"))
    folded = StratifiedFolds(numFolds=2, labelCol="y", idCols=["id0"], seed=3).fit(indexed).transform(indexed)
    scores: list[Any] = []
    for fold in (0, 1):
        model = learner().setParams(labelCol="y").fit(folded.where(F.col("fold") != fold))
        scored = model.transform(folded.where(F.col("fold") == fold))
        scores += scored.select("y", vector_to_array("probability")[1]).collect()
    expected = average_precision_score(*zip(*scores, strict=True))
    assert advice.table["value"].tolist() == pytest.approx([expected], abs=1e-9)


@pytest.mark.slow
def test_a_threshold_objective_tells_the_model_s_decision_from_a_tuned_one(rows: DataFrame) -> None:
    overlapping = rows.withColumn("label", F.when(F.col("id") % 7 == 0, "rare").otherwise("common"))
    advice = advise(
        overlapping,
        learner=learner(),
        idCols=["id"],
        treatments={"weights": ClassWeigher()},
        objective="f1",
        numFolds=2,
    )
    assert len(advice.table) == 4
    values = advice.table.set_index(["treatment", "threshold"])["value"]
    assert values["nothing", "default"] == 0, "a rare class without a pattern is never predicted"
    assert values["nothing", "tuned"] > 0.1
    assert "move the threshold" in advice.recommendation


def test_what_cannot_be_tried_is_said(rows: DataFrame) -> None:
    perceptron = MultilayerPerceptronClassifier(layers=[2, 2], maxIter=1)
    given = {"weights": ClassWeigher(), "under": RandomUnderSampler()}
    advice = advise(rows, learner=perceptron, idCols=["id"], treatments=given, numFolds=2, budget=1e-9)
    assert advice.skipped == {"weights": "as the 1e-09 seconds were spent", "under": "as the 1e-09 seconds were spent"}
    advice = advise(rows, learner=FMClassifier(maxIter=1), idCols=["id"], treatments={"w": ClassWeigher()}, numFolds=2)
    assert advice.skipped == {"w": "as FMClassifier does not look at weights"}
    assert "Not tried: w, as FMClassifier does not look at weights." in str(advice)


def test_treatments_name_the_labels_as_the_rows_do(spark: SparkSession) -> None:
    """Labels whose order the learner does not see: the rare class is 0, and 0 is what the weights are for."""
    df = example(spark, {1: 90, 0: 30}).select("id", "label", "features")
    advice = advise(
        df,
        learner=learner(),
        idCols=["id"],
        treatments={
            "none of the others": RandomUnderSampler(samplingStrategy={1: 8}),
            "weights": ClassWeigher(weights={0: 3, 1: 1}),
        },
        numFolds=2,
    )
    trained = dict(zip(advice.table["treatment"], advice.table["rows"], strict=True))
    assert trained == {"nothing": 120, "weights": 120, "none of the others": 2 * (8 + 15)}
    assert advice.skipped == {}


def test_a_treatment_that_fails_is_told_and_the_others_go_on(rows: DataFrame) -> None:
    given = {"too many": RandomUnderSampler(samplingStrategy={"rare": 31}), "under": RandomUnderSampler()}
    advice = advise(rows, learner=learner(), idCols=["id"], treatments=given, numFolds=2)
    assert set(advice.table["treatment"]) == {"nothing", "under"}
    assert set(advice.skipped) == {"too many"}
    assert advice.skipped["too many"].startswith("as it failed: ")
    assert "31" in str(advice)


@pytest.mark.slow
def test_scores_without_probabilities_do(rows: DataFrame) -> None:
    advice = advise(
        rows, learner=LinearSVC(maxIter=2), treatments={"under": RandomUnderSampler()}, numFolds=2, positiveLabel="rare"
    )
    assert len(advice.table) == 2


def test_bad_questions_are_refused(rows: DataFrame) -> None:
    unreadable = rows.where(F.raise_error(F.lit("read")).cast("boolean"))
    for message, given in {
        "objective is 'auc'": {"objective": "auc"},
        "treatments has the name 'nothing'": {"treatments": {"nothing": ClassWeigher()}},
        "learner has a weightCol": {"learner": LogisticRegression(weightCol="w")},
        "budget is 0": {"budget": 0},
        "level is 1.5": {"level": 1.5},
        r"An interval of level 0\.995 takes a number in \[400": {"level": 0.995},
        "learner has thresholds": {"learner": LogisticRegression(thresholds=[0.2, 0.8])},
        r"treatments\['x'\] has strataCols \['color'\]": {
            "treatments": {"x": RandomUnderSampler(strataCols=["color"])}
        },
        "labelCol 'labl' .* not found": {"labelCol": "labl"},
        "featuresCol 'label' is of type string, not a vector": {"featuresCol": "label"},
    }.items():
        with pytest.raises(SparkimbError, match=message):
            advise(unreadable, **{"learner": learner(), **given})
    with pytest.raises(TypeError, match=r"learner must be a pyspark\.ml classifier"):
        advise(unreadable, learner="LogisticRegression")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="treatments must be samplers"):
        advise(unreadable, learner=learner(), treatments={"x": learner()})
    with pytest.raises(SparkimbError, match="positiveLabel is 7, which is no label of 'label'"):
        advise(rows, learner=learner(), positiveLabel=7)
