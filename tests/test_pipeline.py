"""A fitted pipeline scores what it is given, loads without sparkimb, and is validated on rows that nobody touched."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare import rows
from conftest import CONNECT, slow_on_connect
from pyspark.ml import Estimator, Model, PipelineModel
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml.classification import (
    DecisionTreeClassifier,
    FMClassifier,
    LinearSVC,
    LogisticRegression,
    NaiveBayes,
    OneVsRest,
)
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb import (
    SMOTE,
    ClassWeigher,
    Pipeline,
    RandomOverSampler,
    RandomUnderSampler,
    SparkimbError,
    class_counts,
)
from sparkimb.evaluation.cost import CostSensitive
from sparkimb.evaluation.platt import PlattCalibrator
from sparkimb.evaluation.threshold_tuner import ThresholdTuner
from sparkimb.testing import example

COUNTS = {0.0: 120, 1.0: 24}


class Recorder(Estimator[Any]):
    """Keeps the rows that it is fitted on, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fitted: list[DataFrame] = []  # shared with copies

    def _fit(self, dataset: DataFrame) -> Model:
        self.fitted.append(dataset)
        return Identity()


class Identity(Model):
    def _transform(self, dataset: DataFrame) -> DataFrame:
        return dataset


class RecordingEvaluator(Evaluator):
    """Keeps the rows that it evaluates while they are there, as CrossValidator drops its caches."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluated: list[list[int]] = []

    def _evaluate(self, dataset: DataFrame) -> float:
        self.evaluated.append(sorted(row["id"] for row in dataset.select("id").collect()))
        return 0.0


def arrays(dataset: DataFrame, *names: str) -> list[Any]:
    """Return columns as NumPy arrays, in the order of the ids."""
    found = dataset.orderBy("id").select(*names).collect()
    return [
        np.array([row[i].toArray() if hasattr(row[i], "toArray") else row[i] for row in found])
        for i in range(len(names))
    ]


@pytest.fixture(scope="module")
def train(spark: SparkSession) -> DataFrame:
    return example(spark, COUNTS).drop("features")


def learner() -> list[Any]:
    return [VectorAssembler(inputCols=["f0", "f1"], outputCol="features"), LogisticRegression(maxIter=2)]


def fit_quietly(validator: Any, dataset: DataFrame) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pyspark leaves its pool of threads open
        model = validator.fit(dataset)
        gc.collect()
        return model


def test_samplers_and_weighers_act_on_training_rows_only(train: DataFrame) -> None:
    under, over, weigher, recorder = (
        RandomUnderSampler(samplingStrategy=0.5),
        RandomOverSampler(),
        ClassWeigher(),
        Recorder(),
    )
    over.setParams(inputCols=["f0", "f1"])
    costs = CostSensitive(costs={0: {1: 1.0}, 1: {0: 5.0}})
    stages = [under, over, weigher, costs, recorder]
    model = Pipeline(stages=stages).fit(train)
    assert type(model) is PipelineModel
    assert [type(stage) for stage in model.stages] == [Identity]
    assert stages == [under, over, weigher, costs, recorder], "the caller's list is as it was"
    [fitted] = recorder.fitted
    assert class_counts(fitted) == {0.0: 48, 1.0: 48}
    assert fitted.columns == [*train.columns, "weight"]
    assert rows(model.transform(train)) == rows(train)


def test_a_model_is_that_of_the_same_steps_by_hand(train: DataFrame) -> None:
    assembler, regression = learner()
    sampler = RandomUnderSampler(idCols=["id"], seed=4)
    model = Pipeline(stages=[assembler, sampler, regression]).fit(train)
    by_hand = regression.fit(sampler.fitResample(assembler.transform(train)))
    assert model.stages[1].coefficients.toArray() == pytest.approx(by_hand.coefficients.toArray(), rel=1e-9)


def test_pipelines_can_be_nested_either_way(train: DataFrame) -> None:
    assembler, regression = learner()
    inner = Pipeline(stages=[RandomUnderSampler(idCols=["id"]), regression])
    for outer in (Pipeline(stages=[assembler, inner]), SparkPipeline(stages=[assembler, inner])):
        assert outer.fit(train).transform(train).count() == train.count()


@pytest.mark.parametrize(
    "last", [RandomUnderSampler(), RandomOverSampler(), ClassWeigher()], ids=lambda s: type(s).__name__
)
def test_a_sampler_that_would_train_nothing_is_refused_before_any_job(train: DataFrame, last: Any) -> None:
    unreadable = train.where(F.raise_error(F.lit("read")).cast("boolean"))
    with pytest.raises(SparkimbError, match=rf"stages\[2\] is a {type(last).__name__}, and no estimator follows"):
        Pipeline(stages=[Recorder(), Identity(), last]).fit(unreadable)
    with pytest.raises(TypeError, match=r"stages\[0\] is a str"):
        Pipeline(stages=["sampler", last]).fit(unreadable)


def test_train_validation_split_evaluates_natural_rows(train: DataFrame) -> None:
    sampler, recorder, evaluator = RandomUnderSampler(idCols=["id"]), Recorder(), RecordingEvaluator()
    grid = ParamGridBuilder().addGrid(sampler.samplingStrategy, [0.5, {0.0: 30}]).addGrid(sampler.seed, [0, 1]).build()
    split = TrainValidationSplit(
        estimator=Pipeline(stages=[sampler, recorder]), estimatorParamMaps=grid, evaluator=evaluator, seed=1
    )
    fit_quietly(split, train)
    assert len(evaluator.evaluated) == 4
    validation = evaluator.evaluated[0]
    assert all(ids == validation for ids in evaluator.evaluated), "each candidate is judged on the same rows"
    majority = sum(i < 120 for i in validation)
    assert len(validation) > 20
    assert majority / len(validation) == pytest.approx(120 / 144, abs=0.12), "and they are not balanced"
    assert len(recorder.fitted) == 5


@slow_on_connect
def test_grids_choose_sampler_params_by_natural_rows(train: DataFrame) -> None:
    assembler, regression = learner()
    sampler = RandomUnderSampler(idCols=["id"])
    grid = ParamGridBuilder().addGrid(sampler.samplingStrategy, [0.3, 1.0]).build()
    validator = CrossValidator(
        estimator=Pipeline(stages=[assembler, sampler, regression]),
        estimatorParamMaps=grid,
        evaluator=BinaryClassificationEvaluator(),
        numFolds=2,
        foldCol="fold",  # pyspark's own folds are another process's other folds: its default seed is a string's hash
        parallelism=2,
    )
    model = fit_quietly(validator, train)
    assert len(model.avgMetrics) == 2
    assert [type(stage) for stage in model.bestModel.stages] == [
        VectorAssembler,
        type(regression.fit(assembler.transform(train))),
    ]


@slow_on_connect
def test_pipeline_and_validator_come_back_from_disk(train: DataFrame, tmp_path: Path) -> None:
    assembler, regression = learner()
    sampler = RandomUnderSampler(idCols=["id"], samplingStrategy={0.0: 40})
    pipeline = Pipeline(stages=[assembler, sampler, regression])
    for _ in range(2):
        pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    loaded = Pipeline.load(str(tmp_path / "pipeline"))
    assert type(loaded) is Pipeline
    assert loaded.uid == pipeline.uid
    assert [stage.uid for stage in loaded.getStages()] == [stage.uid for stage in pipeline.getStages()]
    assert loaded.getStages()[1].getSamplingStrategy() == {"0.0": 40}

    grid = ParamGridBuilder().addGrid(sampler.seed, [0, 5]).build()
    validator = CrossValidator(
        estimator=pipeline, estimatorParamMaps=grid, evaluator=BinaryClassificationEvaluator(), numFolds=2
    )
    for _ in range(2):
        validator.write().overwrite().save(str(tmp_path / "validator"))
    again = CrossValidator.load(str(tmp_path / "validator"))
    assert type(again.getEstimator()) is Pipeline
    assert [{p.name: v for p, v in params.items()} for params in again.getEstimatorParamMaps()] == [
        {"seed": 0},
        {"seed": 5},
    ]
    model = fit_quietly(again, train)
    model.bestModel.write().overwrite().save(str(tmp_path / "best"))
    best = PipelineModel.load(str(tmp_path / "best"))
    assert rows(best.transform(train).select("prediction")) == rows(
        model.bestModel.transform(train).select("prediction")
    )


def test_plain_pipelines_hold_samplers_on_disk_but_do_not_fit(train: DataFrame, tmp_path: Path) -> None:
    SparkPipeline(stages=[RandomUnderSampler(), LogisticRegression()]).write().save(str(tmp_path / "plain"))
    loaded = SparkPipeline.load(str(tmp_path / "plain"))
    with pytest.raises(SparkimbError, match=r"RandomUnderSampler .*sparkimb\.Pipeline"):
        loaded.fit(train)


@pytest.mark.slow  # it starts a driver of its own
@pytest.mark.skipif(CONNECT, reason="the fitted model is the same; one session in a second process is enough")
def test_a_fitted_pipeline_loads_where_sparkimb_is_not_installed(train: DataFrame, tmp_path: Path) -> None:
    assembler, regression = learner()
    weighted = regression.copy().setWeightCol("weight")
    stages = [assembler, RandomUnderSampler(samplingStrategy=0.5, idCols=["id"]), ClassWeigher(), weighted]
    model = Pipeline(stages=stages, calibrate=True).fit(train)
    model.write().save(str(tmp_path / "model"))
    train.write.parquet(str(tmp_path / "rows"))
    for file in tmp_path.joinpath("model").rglob("*"):
        assert not file.is_file() or b"sparkimb" not in file.read_bytes(), file
    code = f"""
import sys
sys.modules["sparkimb"] = None  # what an import finds where it is not installed
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[1]").getOrCreate()
scored = PipelineModel.load({str(tmp_path / "model")!r}).transform(spark.read.parquet({str(tmp_path / "rows")!r}))
print(scored.count(), scored.select("prediction").distinct().count())
print(*(row["probability"][1] for row in scored.orderBy("id").select("probability").head(3)))
"""
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=240)
    assert run.stdout.split()[:2] == ["144", "2"], run.stderr
    [probability] = arrays(model.transform(train), "probability")
    assert [float(p) for p in run.stdout.split()[2:]] == pytest.approx(probability[:3, 1].tolist(), rel=1e-12)


@slow_on_connect
def test_calibrate_undoes_what_samplers_and_weights_did(train: DataFrame) -> None:
    """Under-sampling, copies, and weights that multiply both: the model of these steps by hand, corrected by hand."""
    assembler, _ = learner()
    under = RandomUnderSampler(samplingStrategy={0.0: 60}, idCols=["id"])
    over = RandomOverSampler(samplingStrategy={1.0: 40}, inputCols=["f0", "f1"], idCols=["id"])
    weigher = ClassWeigher(weights={0: 1, 1: 4})
    regression = LogisticRegression(weightCol="weight", regParam=0.01)
    stages = [under, over, weigher, assembler, regression]
    plain = Pipeline(stages=stages).fit(train).transform(train)
    model = Pipeline(stages=stages, calibrate=True).fit(train)
    assert type(model) is PipelineModel
    scored = model.transform(train)
    assert scored.columns == [
        *train.columns,
        "features",
        "rawPrediction",
        "uncorrectedProbability",
        "prediction",
        "probability",
    ]
    [expected] = arrays(plain, "probability")
    probability, uncorrected, prediction = arrays(scored, "probability", "uncorrectedProbability", "prediction")
    np.testing.assert_allclose(uncorrected, expected, rtol=1e-9)
    shift = np.array([60 / 120 * 1, 40 / 24 * 4])  # rows kept and copied, and weighed
    expected = uncorrected / shift
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, expected, rtol=1e-12)
    assert prediction.tolist() == expected.argmax(axis=1).tolist()
    assert prediction.tolist() != uncorrected.argmax(axis=1).tolist()
    assert np.argsort(probability[:, 1]).tolist() == np.argsort(uncorrected[:, 1]).tolist()


@slow_on_connect
def test_calibrate_undoes_costs_by_class(train: DataFrame) -> None:
    assembler, _ = learner()
    costs = CostSensitive(costs={0: {1: 2.0}, 1: {0: 9.0, 1: 1.0}})
    stages = [costs, assembler, LogisticRegression(weightCol="weight", regParam=0.01)]
    scored = Pipeline(stages=stages, calibrate=True).fit(train).transform(train)
    probability, uncorrected = arrays(scored, "probability", "uncorrectedProbability")
    odds = uncorrected[:, 1] / uncorrected[:, 0] / (probability[:, 1] / probability[:, 0])
    np.testing.assert_allclose(odds, (9 - 1) / 2, rtol=1e-9)


@slow_on_connect
def test_calibrate_makes_probabilities_true_where_the_truth_is_known(spark: SparkSession) -> None:
    """Two Gaussians: the posterior is a logistic function of x, which a logistic regression can learn."""
    rng = np.random.default_rng(0)
    label = (rng.random(20_000) < 0.05).astype(float)
    x = rng.normal(size=20_000) + 1.5 * label
    df = spark.createDataFrame(
        [(i, float(label[i]), float(x[i])) for i in range(20_000)], "id int, label double, x double"
    )
    stages = [
        VectorAssembler(inputCols=["x"], outputCol="features"),
        RandomUnderSampler(idCols=["id"]),
        LogisticRegression(),
    ]
    probability, uncorrected = arrays(
        Pipeline(stages=stages, calibrate=True).fit(df).transform(df), "probability", "uncorrectedProbability"
    )
    truth = 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2 + np.log(0.05 / 0.95))))
    assert np.abs(probability[:, 1] - truth).mean() < 0.1 * np.abs(uncorrected[:, 1] - truth).mean()
    assert probability[:, 1].mean() == pytest.approx(0.05, abs=0.01)


@slow_on_connect
@pytest.mark.parametrize("thresholds", [{"threshold": 0.2}, {"thresholds": [0.3, 0.7]}], ids=str)
def test_thresholds_of_one_s_own_cut_the_corrected_probability(train: DataFrame, thresholds: dict[str, Any]) -> None:
    assembler, _ = learner()
    stages = [assembler, RandomUnderSampler(idCols=["id"]), LogisticRegression(**thresholds)]
    scored = Pipeline(stages=stages, calibrate=True).fit(train).transform(train)
    probability, prediction = arrays(scored, "probability", "prediction")
    cut = [0.8, 0.2] if "threshold" in thresholds else thresholds["thresholds"]
    assert prediction.tolist() == (probability / cut).argmax(axis=1).tolist()


@slow_on_connect
@pytest.mark.parametrize("classifier", [DecisionTreeClassifier, NaiveBayes])
def test_other_classifiers_and_more_classes_are_corrected(spark: SparkSession, classifier: Any) -> None:
    df = example(spark, {0: 60, 1: 30, 2: 12})
    df = df.select("id", "label", array_to_vector(F.array(F.abs("f0"), F.abs("f1"))).alias("features"))
    stages = [RandomUnderSampler(idCols=["id"]), classifier(probabilityCol="p")]
    probability, uncorrected, prediction = arrays(
        Pipeline(stages=stages, calibrate=True).fit(df).transform(df), "p", "uncorrectedP", "prediction"
    )
    expected = uncorrected * [60 / 12, 30 / 12, 1]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, expected, rtol=1e-12, atol=1e-15)
    assert prediction.tolist() == expected.argmax(axis=1).tolist()


@slow_on_connect
def test_classifiers_are_corrected_for_what_they_saw_alone(train: DataFrame) -> None:
    """The first saw natural rows, the second sampled ones without the weights, and a calibrated pipeline is inside."""
    assembler, _ = learner()
    first = LogisticRegression(maxIter=2, predictionCol="a", rawPredictionCol="b", probabilityCol="first")
    inner = Pipeline(stages=[RandomUnderSampler(idCols=["id"]), ClassWeigher(weightCol="w"), FMClassifier(maxIter=1)])
    with pytest.raises(SparkimbError, match=r"stages\[1\] is a ClassWeigher, but no classifier with weightCol 'w'"):
        inner.copy({inner.calibrate: True}).fit(train)
    second = LogisticRegression(maxIter=2)
    inner = Pipeline(stages=[RandomUnderSampler(idCols=["id"]), second], calibrate=True)
    scored = SparkPipeline(stages=[assembler, first, inner]).fit(train).transform(train)
    assert "uncorrectedFirst" not in scored.columns
    probability, uncorrected = arrays(scored, "probability", "uncorrectedProbability")
    odds = probability[:, 1] / probability[:, 0] * uncorrected[:, 0] / uncorrected[:, 1]
    np.testing.assert_allclose(odds, 24 / 120, rtol=1e-9)


@slow_on_connect
def test_what_calibrate_cannot_undo_is_refused_before_any_job(train: DataFrame) -> None:
    unreadable = train.where(F.raise_error(F.lit("read")).cast("boolean"))
    under, regression = RandomUnderSampler(), LogisticRegression()
    inner = SparkPipeline(stages=[regression])
    for stages, message in [
        ([SMOTE(), regression], r"stages\[0\] is a SMOTE, which looks at the features, so .* IsotonicCalibrator"),
        ([RandomUnderSampler(strataCols=["color"]), regression], "RandomUnderSampler with strataCols"),
        ([RandomOverSampler(shrinkage=1.0), regression], "RandomOverSampler with shrinkage"),
        ([CostSensitive(), regression], "CostSensitive, whose weights may differ within a class"),
        ([under, LinearSVC()], "the LinearSVC after it writes no probabilities"),
        ([under, OneVsRest(classifier=regression)], "the OneVsRest after it writes no probabilities"),
        ([under, inner], "but no classifier follows"),
        ([ClassWeigher(), regression], "but no classifier with weightCol 'weight' follows"),
        ([RandomUnderSampler(labelCol="fraud"), regression], "labelCol 'fraud', but the LogisticRegression"),
        ([under, PlattCalibrator()], "the PlattCalibrator after it would learn from training rows with changed"),
    ]:
        with pytest.raises(SparkimbError, match=message):
            Pipeline(stages=stages, calibrate=True).fit(unreadable)
    with pytest.raises(SparkimbError, match="the PlattCalibrator after it would learn"):
        Pipeline(stages=[under, regression, PlattCalibrator()]).fit(unreadable)
    with pytest.raises(SparkimbError, match="the PlattCalibrator after it would learn"):
        Pipeline(stages=[under, SparkPipeline(stages=[regression, PlattCalibrator()])]).fit(unreadable)
    with pytest.raises(SparkimbError, match="the ThresholdTuner after it would learn from training rows with changed"):
        Pipeline(stages=[under, regression, ThresholdTuner()]).fit(unreadable)
    by_row = CostSensitive(costs={0: {1: 1.0}, 1: {0: "f0"}})
    with pytest.raises(SparkimbError, match="CostSensitive, whose weights may differ within a class"):
        Pipeline(stages=[by_row, regression], calibrate=True).fit(unreadable)
    nothing = ClassWeigher(weights={0: 0, 1: 1})
    assembler, _ = learner()
    with pytest.raises(SparkimbError, match=r"ClassWeigher leaves nothing of class 0\.0"):
        Pipeline(stages=[assembler, nothing, LogisticRegression(weightCol="weight")], calibrate=True).fit(train)
    with pytest.raises(TypeError, match="calibrate"):
        Pipeline(calibrate="yes")


@slow_on_connect
def test_calibrate_comes_back_from_disk(train: DataFrame, tmp_path: Path) -> None:
    assembler, regression = learner()
    pipeline = Pipeline(stages=[assembler, RandomUnderSampler(idCols=["id"]), regression], calibrate=True)
    evaluator = BinaryClassificationEvaluator(rawPredictionCol="probability")
    validator = CrossValidator(
        estimator=pipeline,
        estimatorParamMaps=ParamGridBuilder().addGrid(pipeline.calibrate, [True, False]).build(),
        evaluator=evaluator,
        numFolds=2,
        foldCol="fold",
    )
    validator.write().overwrite().save(str(tmp_path / "validator"))
    again = CrossValidator.load(str(tmp_path / "validator"))
    assert again.getEstimator().getCalibrate() is True
    assert [list(grid.values()) for grid in again.getEstimatorParamMaps()] == [[True], [False]]
    model = fit_quietly(again, train)
    assert model.avgMetrics[0] == pytest.approx(model.avgMetrics[1], abs=1e-12), "ranks are as they were"
    SparkPipeline(stages=[]).write().save(str(tmp_path / "plain"))
    assert Pipeline.load(str(tmp_path / "plain")).getCalibrate() is False
