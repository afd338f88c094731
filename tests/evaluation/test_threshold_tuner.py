"""ThresholdTuner decides as trying every score does, on any column of scores, and pyspark's models decide alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.base import Model
from pyspark.ml.classification import (
    GBTClassifier,
    LinearSVC,
    LogisticRegression,
    MultilayerPerceptronClassifier,
    NaiveBayes,
    RandomForestClassifier,
)
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.pipeline import Pipeline
from pyspark.sql import functions as F
from sklearn import metrics

from sparkimb.errors import SparkimbError
from sparkimb.evaluation import steps, threshold_tuner
from sparkimb.evaluation.threshold_tuner import ThresholdTuner, ThresholdTunerModel

ROWS = 240


@pytest.fixture(scope="module")
def scored(spark):
    """Scores of two and of three classes, with ties, as number, array and vector; string labels; days."""
    rng = np.random.default_rng(5)
    label = (np.arange(ROWS) < 40).astype(float)
    p = np.round(1 / (1 + np.exp(1 - 2 * label - rng.normal(size=ROWS))), 2)
    three = rng.dirichlet([1, 1, 1], ROWS)
    kind = np.where(rng.random(ROWS) < 0.6, three.argmax(axis=1), rng.choice(3, ROWS, p=[0.7, 0.2, 0.1]))
    pdf = pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "label": label,
            "name": np.where(label == 1, "fraud", "fair"),
            "p": p,
            "two": [[1 - x, x] for x in p.tolist()],
            "three": three.tolist(),
            "kind": np.array(["a", "b", "c"])[kind],
            "day": rng.integers(0, 6, ROWS),
            "weight": rng.integers(0, 4, ROWS).astype(float),
        }
    )
    df = spark.createDataFrame(pdf).withColumn("vector", array_to_vector("two"))
    return pdf, df


def decisions(model, df, column="prediction"):
    return model.transform(df).orderBy("id").toPandas()[column].to_numpy()


def test_every_form_of_scores_gives_the_same_decision(scored):
    pdf, df = scored
    model = ThresholdTuner(probabilityCol="vector").fit(df)
    tried = {cut: metrics.f1_score(pdf["label"], pdf["p"] >= cut) for cut in pdf["p"].unique()}
    best = model.best[1.0]
    assert (best.value, best.threshold) == pytest.approx((max(tried.values()), max(tried, key=tried.get)))
    expected = (pdf["p"] >= best.threshold).astype(float).to_numpy()
    assert (decisions(model, df) == expected).all()
    forms = [{"probabilityCol": "two"}, {"probabilityCol": "p"}, {"scoreCol": "p"}]
    for form in forms:
        assert ThresholdTuner(**form).fit(df).best == model.best
    words = ThresholdTuner(labelCol="name", labels=["fair", "fraud"], probabilityCol="two", predictionCol="name").fit(
        df
    )
    out = words.transform(df)
    assert out.columns == df.columns
    assert (out.orderBy("id").toPandas()["name"] == np.where(expected == 1, "fraud", "fair")).all()


def test_the_positive_label_may_be_the_first(scored):
    _, df = scored
    swapped = df.withColumn("two", F.reverse("two"))
    model = ThresholdTuner(labelCol="name", labels=["fraud", "fair"], positiveLabel="fraud", probabilityCol="two")
    found = decisions(model.fit(swapped), swapped)
    assert (found == np.where(decisions(ThresholdTuner(scoreCol="p").fit(df), df) == 1, "fraud", "fair")).all()


def test_objectives_take_their_numbers_and_weights(scored):
    pdf, df = scored
    y, p, w = pdf["label"], pdf["p"], pdf["weight"]
    model = ThresholdTuner(scoreCol="p", objective="fBeta", beta=3, weightCol="weight").fit(df)
    tried = [metrics.fbeta_score(y, p >= cut, beta=3, sample_weight=w) for cut in p.unique()]
    assert model.best[1.0].value == pytest.approx(max(tried))
    model = ThresholdTuner(scoreCol="p", objective="cost", falsePositiveCost=2, falseNegativeCost=9).fit(df)
    assert model.best[1.0].value == pytest.approx(
        min((2 * ((p >= cut) & (y == 0)) + 9 * ((p < cut) & (y == 1))).mean() for cut in p.unique())
    )
    model = ThresholdTuner(scoreCol="p", objective="recall", minPrecision=0.7).fit(df)
    assert metrics.precision_score(y, decisions(model, df)) >= 0.7
    model = ThresholdTuner(scoreCol="p", objective="precision", minRecall=0.7).fit(df)
    assert metrics.recall_score(y, decisions(model, df)) >= 0.7


def test_top_k_is_met_in_the_mean_over_the_groups(scored, monkeypatch):
    pdf, df = scored
    tuner = ThresholdTuner(scoreCol="p", objective="topK", topK=4, groupCol="day")
    model = tuner.fit(df)
    found = decisions(model, df)
    assert pdf["day"].nunique() == 6
    called = {cut: (pdf["p"] >= cut).sum() for cut in pdf["p"].unique()}
    assert found.sum() == max(rows for rows in called.values() if rows <= 4 * 6)
    assert decisions(ThresholdTuner(scoreCol="p", objective="f1", topK=10).fit(df), df).sum() <= 10
    monkeypatch.setattr(steps, "MAX_SCORES", 3)
    monkeypatch.setattr(threshold_tuner, "MAX_SCORES", 3)
    assert tuner.fit(df).best == model.best, "also of too many rows for the driver"


def test_what_is_out_of_reach_is_said_of_the_params_and_the_label(scored):
    _, df = scored
    with pytest.raises(SparkimbError, match=r"^ThresholdTuner: topK is 0\.6, but \d+ rows share the highest score"):
        ThresholdTuner(scoreCol="p", objective="topK", topK=0.1, groupCol="day").fit(df)
    tuner = ThresholdTuner(
        labelCol="kind", labels=["a", "b", "c"], probabilityCol="three", minPrecision=0.99, minRecall=0.9
    )
    with pytest.raises(SparkimbError, match=r"^ThresholdTuner of label 'a': minPrecision is 0\.99, but with minRecall"):
        tuner.fit(df)


def one_against_rest(pdf, place, label):
    """The highest of the best cuts of a class by F1, in slow NumPy."""
    p, y = np.array(pdf["three"].tolist())[:, place], pdf["kind"] == label
    values = {cut: metrics.f1_score(y, p >= cut) for cut in p}
    return max(cut for cut, value in values.items() if value >= max(values.values()) - 1e-12)


def test_several_classes_get_their_best_cuts_and_the_largest_ratio_decides(scored):
    pdf, df = scored
    model = ThresholdTuner(labelCol="kind", labels=["a", "b", "c"], probabilityCol="three").fit(df)
    cuts = [one_against_rest(pdf, place, label) for place, label in enumerate("abc")]
    assert [model.best[label].threshold for label in "abc"] == cuts
    expected = np.array(["a", "b", "c"])[(np.array(pdf["three"].tolist()) / cuts).argmax(axis=1)]
    assert (decisions(model, df) == expected).all()


def test_rows_without_scores_get_no_decision(spark, scored):
    _, df = scored
    two = ThresholdTuner(probabilityCol="vector").fit(df)
    three = ThresholdTuner(labelCol="kind", labels=["a", "b", "c"], probabilityCol="three").fit(df)
    rows = [(0, None, None, None), (1, [0.1], [0.1, 0.9], float("nan")), (2, [0.0, 1.0], [0.0, None, 0.1], 1.0)]
    odd = spark.createDataFrame(rows, "id int, two array<double>, three array<double>, p double")
    odd = odd.withColumn("vector", F.when(F.col("two").isNotNull(), array_to_vector("two")))
    assert [row[0] for row in two.transform(odd).orderBy("id").select("prediction").collect()] == [None, None, 1.0]
    assert not [row for row in three.transform(odd).collect() if row["prediction"] is not None]
    number = ThresholdTuner(scoreCol="p").fit(df)
    assert [row[0] for row in number.transform(odd).orderBy("id").select("prediction").collect()] == [None, None, 1.0]


@pytest.fixture(scope="module")
def points(spark):
    rng = np.random.default_rng(8)
    label = (np.arange(ROWS) < 50).astype(float)
    kind = np.where(label == 1, 1 + (np.arange(ROWS) % 2), 0).astype(float)
    pdf = pd.DataFrame({"id": np.arange(ROWS), "label": label, "kind": kind})
    pdf["x"], pdf["y"] = rng.normal(size=ROWS) + 1.5 * label, rng.normal(size=ROWS) + kind
    df = VectorAssembler(inputCols=["x", "y"], outputCol="features").transform(spark.createDataFrame(pdf))
    return df.withColumn("positive", F.abs("y")).withColumn("features2", F.col("features"))


RECALL_FIRST = {"objective": "fBeta", "beta": 2.0}
OTHER_CLASS = {"objective": "gMean", "positiveLabel": 0.0}
LEARNERS = {
    "logistic": (LogisticRegression, OTHER_CLASS),
    "logistic with threshold": (partial(LogisticRegression, threshold=0.9), RECALL_FIRST),
    "logistic with thresholds": (partial(LogisticRegression, thresholds=[0.2, 0.8]), RECALL_FIRST),
    "logistic of the multinomial family": (partial(LogisticRegression, family="multinomial"), RECALL_FIRST),
    "forest": (partial(RandomForestClassifier, numTrees=5, maxDepth=4, seed=1), OTHER_CLASS),
    "boosted": (partial(GBTClassifier, maxIter=2, maxDepth=3, seed=1), RECALL_FIRST),
    "perceptron": (partial(MultilayerPerceptronClassifier, layers=[2, 3, 2], maxIter=10, seed=1), RECALL_FIRST),
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_pyspark_models_decide_alike(points, learner):
    make, settings = LEARNERS[learner]
    classifier = make().fit(points)
    out = classifier.transform(points)
    model = ThresholdTuner(**settings).fit(out)
    applied = model.applyTo(classifier)
    assert type(applied) is type(classifier)
    assert (decisions(applied, points) == decisions(model, out)).all()
    assert applied.extractParamMap() != classifier.extractParamMap()


def test_pyspark_models_of_several_classes_decide_alike_and_are_saved(points, tmp_path: Path):
    classifier = RandomForestClassifier(labelCol="kind", numTrees=5, maxDepth=4, seed=1).fit(points)
    out = classifier.transform(points)
    model = ThresholdTuner(labelCol="kind", labels=[0, 1, 2]).fit(out)
    applied = model.applyTo(classifier)
    expected = decisions(model, out)
    assert (expected != out.orderBy("id").toPandas()["prediction"]).any()
    assert (decisions(applied, points) == expected).all()
    applied.write().overwrite().save(str(tmp_path / "forest"))
    assert (decisions(type(classifier).load(str(tmp_path / "forest")), points) == expected).all()


def test_a_margin_has_a_threshold_too(points):
    classifier = LinearSVC(maxIter=10).fit(points)
    out = classifier.transform(points).withColumn("margin", vector_to_array("rawPrediction")[1])
    model = ThresholdTuner(scoreCol="margin", objective="recall", minPrecision=0.5).fit(out)
    assert (decisions(model.applyTo(classifier), points) == decisions(model, out)).all()
    with pytest.raises(SparkimbError, match="for the second label alone, but the tuner cut 'probability'"):
        ThresholdTuner().fit(LogisticRegression().fit(points).transform(points)).applyTo(classifier)


def test_what_pyspark_cannot_say_is_refused(points):
    classifier = LogisticRegression().fit(points)
    out = classifier.transform(points)
    raw = ThresholdTuner(probabilityCol="rawPrediction", objective="precision").fit(out)
    assert raw.best[1.0].threshold > 1
    with pytest.raises(SparkimbError, match=r"pyspark's thresholds are probabilities in \(0, 1\)"):
        raw.applyTo(classifier)
    model = ThresholdTuner().fit(out)
    with pytest.raises(SparkimbError, match="PipelineModel has no thresholds to set"):
        model.applyTo(Pipeline(stages=[]).fit(points))
    corrected = ThresholdTuner(probabilityCol="corrected").fit(out.withColumn("corrected", F.col("probability")))
    with pytest.raises(SparkimbError, match="writes its probabilities to 'probability', but the tuner cut those in 'c"):
        corrected.applyTo(classifier)
    naive = NaiveBayes(labelCol="kind", modelType="gaussian").fit(points)
    with pytest.raises(SparkimbError, match="NaiveBayesModel tells 3 classes apart, but labels are"):
        model.applyTo(naive)
    both = LogisticRegression(family="multinomial", threshold=0.5).fit(points)
    with pytest.raises(SparkimbError, match="was given a threshold of its own"):
        model.applyTo(both)


def test_a_pipeline_holds_the_tuned_decision(points, tmp_path: Path):
    fitted = Pipeline(stages=[LogisticRegression(), ThresholdTuner(objective="gMean")]).fit(points)
    expected = decisions(fitted, points)
    assert (expected != decisions(fitted.stages[0], points)).any(), "the classifier's own decision was another"
    for _ in range(2):
        fitted.write().overwrite().save(str(tmp_path / "pipeline"))
    assert (decisions(type(fitted).load(str(tmp_path / "pipeline")), points) == expected).all()


def test_saved_tuner_and_model_are_the_same_after_loading(scored, tmp_path: Path):
    _, df = scored
    tuner = ThresholdTuner(labelCol="kind", labels=["a", "b", "c"], probabilityCol="three", objective="mcc")
    model = tuner.fit(df)
    for _ in range(2):
        tuner.write().overwrite().save(str(tmp_path / "tuner"))
        model.write().overwrite().save(str(tmp_path / "model"))
    assert ThresholdTuner.load(str(tmp_path / "tuner")).extractParamMap() == tuner.extractParamMap()
    loaded = ThresholdTunerModel.load(str(tmp_path / "model"))
    assert isinstance(loaded, Model)
    assert (loaded.best, loaded.uid) == (model.best, model.uid)
    assert loaded.copy().best == model.best


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positiveLabel": 2}, r"positiveLabel is 2, but labels are \[0.0, 1.0\]"),
        ({"labels": ["a", "b", "c"], "positiveLabel": "a"}, "labels names 3 classes, each of which gets a threshold"),
        ({"labels": ["a", "b", "c"], "topK": 3}, "topK is for two classes"),
        ({"labels": ["a", "b", "c"], "scoreCol": "p"}, "scoreCol 'p' holds one number per row"),
        ({"labels": ["a", "b", "c"], "probabilityCol": "p"}, "It must be a vector or an array of numbers: name"),
        ({"objective": "topK"}, "objective is 'topK', but topK is not set"),
        ({"groupCol": "day"}, "groupCol is 'day', but topK is not set"),
        ({"probabilityCol": "name"}, "probabilityCol 'name' is of type string"),
        ({"scoreCol": "two"}, "scoreCol 'two' is of type array<double>, not a number"),
        ({"scoreCol": "q", "weightCol": "w"}, "weightCol 'w'.* not found"),
        ({"labelCol": "name", "probabilityCol": "p"}, "positiveLabel is 1.0, but labelCol 'name' is of type string"),
        ({"labelCol": "kind", "labels": ["a", "b", "d"], "probabilityCol": "three"}, "'d' sum to 0"),
    ],
)
def test_wrong_requests_are_refused(scored, settings, message):
    with pytest.raises(SparkimbError, match=message):
        ThresholdTuner(**settings).fit(scored[1])


def test_rows_that_cannot_be_judged_are_refused(scored):
    _, df = scored
    with pytest.raises(
        SparkimbError, match=r"labels are .*, but \d+ of 240 rows have another label in labelCol 'kind'"
    ):
        ThresholdTuner(labelCol="kind", labels=["a", "b", "e"], probabilityCol="three").fit(
            df.withColumn("kind", F.when(F.col("id") % 5 == 0, "e").otherwise(F.col("kind")))
        )
    with pytest.raises(SparkimbError, match=r"Of 240 rows .*: 1 with null scoreCol 'two'"):
        ThresholdTuner(probabilityCol="two").fit(df.withColumn("two", F.expr("if(id = 3, null, two)")))
    with pytest.raises(SparkimbError, match="1 with NaN in scoreCol 'p'"):
        ThresholdTuner(scoreCol="p").fit(df.withColumn("p", F.expr("if(id = 3, double('nan'), p)")))
    with pytest.raises(SparkimbError, match="no rows"):
        ThresholdTuner(scoreCol="p").fit(df.limit(0))
    with pytest.raises(SparkimbError, match="sum to 0 and all others to"):
        ThresholdTuner(scoreCol="p").fit(df.where("label = 0"))
    with pytest.raises(SparkimbError, match="groupCol 'day' is null in 1 of 240 rows"):
        ThresholdTuner(scoreCol="p", topK=3, groupCol="day").fit(df.withColumn("day", F.expr("nullif(day, id)")))
    with pytest.raises(SparkimbError, match="holds numbers below 0 for"):
        ThresholdTuner(labelCol="kind", labels=["a", "b", "c"], probabilityCol="three").fit(
            df.withColumn("three", F.transform("three", lambda p: p - 2))
        )
