"""The exact metrics as pyspark Evaluators, for CrossValidator and TrainValidationSplit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.evaluation import Evaluator
from pyspark.sql import DataFrame

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_scores import (
    HasLabels,
    HasPredictionCol,
    HasProbabilityCol,
    HasWeightCol,
    class_label,
    class_score,
    entry_of,
    require_scores,
)
from sparkimb.evaluation.confusion import ConfusionMatrix, confusion_matrix
from sparkimb.evaluation.multiclass_ranking import MulticlassRanking, multiclass_ranking
from sparkimb.evaluation.probabilities import multiclass_probability_metrics, probability_metrics
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.params import HasLabelCol, choice, column_name, number, param
from sparkimb.persistence import JsonStage
from sparkimb.strategy import Label

_RANKING: dict[str, Callable[[RankingMetrics], float]] = {
    "averagePrecision": lambda metrics: metrics.averagePrecision,
    "areaUnderPR": lambda metrics: metrics.areaUnderPR,
    "areaUnderROC": lambda metrics: metrics.areaUnderROC,
    "ks": lambda metrics: metrics.ks.statistic,
}
_RANKING_AT: dict[str, Callable[[RankingMetrics, float], float]] = {
    "partialAreaUnderROC": lambda metrics, at: metrics.partialAreaUnderROC(at),
    "precisionAt": lambda metrics, at: metrics.precisionAt(at),
    "recallAt": lambda metrics, at: metrics.recallAt(at),
    "recallAtPrecision": lambda metrics, at: metrics.recallAtPrecision(at),
    "precisionAtRecall": lambda metrics, at: metrics.precisionAtRecall(at),
}
# Of all that judge probabilities, less is better.
_PROBABILITY = ("logLoss", "brier", "stratifiedBrier", "expectedCalibrationError", "maximumCalibrationError")
_PROBABILITIES = ("logLoss", "brier", "expectedCalibrationError", "maximumCalibrationError")
_DECISION: dict[str, Callable[[ConfusionMatrix, float], float]] = {
    "f1": lambda matrix, _: matrix.f1(),
    "fBeta": lambda matrix, beta: matrix.fBeta(beta),
    "gMean": lambda matrix, _: matrix.gMean,
    "balancedAccuracy": lambda matrix, _: matrix.balancedAccuracy,
    "mcc": lambda matrix, _: matrix.mcc,
    "kappa": lambda matrix, _: matrix.kappa(),
    "precision": lambda matrix, _: matrix.precision(),
    "recall": lambda matrix, _: matrix.recall(),
    "specificity": lambda matrix, _: matrix.specificity(),
    "accuracy": lambda matrix, _: matrix.accuracy,
}
_OVERALL: dict[str, Callable[[ConfusionMatrix, float], float]] = {
    "gMean": lambda matrix, _: matrix.gMean,
    "balancedAccuracy": lambda matrix, _: matrix.balancedAccuracy,
    "mcc": lambda matrix, _: matrix.mcc,
    "kappa": lambda matrix, _: matrix.kappa(),
    "accuracy": lambda matrix, _: matrix.accuracy,
    "macroF1": lambda matrix, _: matrix.f1(average="macro"),
    "macroFBeta": lambda matrix, beta: matrix.fBeta(beta, average="macro"),
    "macroPrecision": lambda matrix, _: matrix.precision(average="macro"),
    "macroRecall": lambda matrix, _: matrix.recall(average="macro"),
    "macroJaccard": lambda matrix, _: matrix.jaccard(average="macro"),
    "macroAveragedMeanAbsoluteError": lambda matrix, _: matrix.macroAveragedMeanAbsoluteError,
}
_BY_LABEL: dict[str, Callable[[ConfusionMatrix, float], float]] = {
    "f1ByLabel": lambda matrix, _: matrix.f1(),
    "fBetaByLabel": lambda matrix, beta: matrix.fBeta(beta),
    "precisionByLabel": lambda matrix, _: matrix.precision(),
    "recallByLabel": lambda matrix, _: matrix.recall(),
    "specificityByLabel": lambda matrix, _: matrix.specificity(),
    "jaccardByLabel": lambda matrix, _: matrix.jaccard(),
}
_RANKINGS: dict[str, Callable[[MulticlassRanking], float | None]] = {
    "macroAreaUnderROC": lambda ranking: ranking.areaUnderROC,
    "macroAveragePrecision": lambda ranking: ranking.averagePrecision,
}

BINARY_METRICS = (*_RANKING, *_RANKING_AT, *_PROBABILITY, *_DECISION)
MULTICLASS_METRICS = (*_OVERALL, *_BY_LABEL, *_RANKINGS, *_PROBABILITIES)


class _Params(HasLabelCol, HasPredictionCol, HasWeightCol, JsonStage):
    beta = param("beta", "weight of recall in fBeta", number("beta", 0, low_open=True))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(beta=1.0)

    def getBeta(self) -> float:
        """Return beta."""
        return float(self.getOrDefault(self.beta))

    def _matrix(self, dataset: DataFrame, label: Label | None) -> ConfusionMatrix:
        return confusion_matrix(
            dataset,
            predictionCol=self.getPredictionCol(),
            labelCol=self.getLabelCol(),
            positiveLabel=label,
            weightCol=self.getWeightCol(),
        )


class ImbalancedBinaryEvaluator(_Params, HasProbabilityCol, HasLabels, Evaluator):
    """Evaluate the ranking, the probabilities or the decisions of a binary classifier, exactly.

    Parameters
    ----------
    metricName : str, default="averagePrecision"
        Of the ranking (see `RankingMetrics`): "averagePrecision", "areaUnderPR", "areaUnderROC", "ks"; and with `at`
        "partialAreaUnderROC", "precisionAt", "recallAt", "recallAtPrecision", "precisionAtRecall".
        Of the probabilities, where less is better (see `probability_metrics`): "logLoss", "brier", "stratifiedBrier",
        "expectedCalibrationError", "maximumCalibrationError".
        Of the decisions (see `ConfusionMatrix`): "f1", "fBeta", "gMean", "balancedAccuracy", "mcc", "kappa",
        "precision", "recall", "specificity", "accuracy".
    at : float > 0, optional
        What five metrics need: the k of "precisionAt" and "recallAt", in rows from the top; the precision of
        "recallAtPrecision"; the recall of "precisionAtRecall"; the largest false positive rate of
        "partialAreaUnderROC", which is scaled as scikit-learn's.
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    positiveLabel : str, bool, int or float, default=1.0
        The label of the positive class; all other labels are the rest.
    probabilityCol : str, default="probability"
        Vector or array with one entry per class, or a number: the positive class's.  For metrics of the ranking and of
        the probabilities.
    rawPredictionCol : str, optional
        Of the same kinds; read instead of probabilityCol for metrics of the ranking.  For LinearSVC, which gives no
        probabilities, and where these round to 0 or 1 and tie.
    predictionCol : str, default="prediction"
        Of the type of labelCol, or both numbers.  For metrics of the decisions.
    labels : list of str, bool, int or float, optional
        The classes in the order of the entries of the vector, such as `StringIndexerModel.labels`.  By default the
        positive class's entry is the number positiveLabel, as with pyspark's learners; string labels need it.
    beta : float > 0, default=1.0
        Of "fBeta": recall counts beta times as much as precision.
    weightCol : str, optional
        Weight of each row, in [0, inf).

    Raises
    ------
    SparkimbError
        In `evaluate`: columns missing or of a wrong type; nulls or values out of range, with the number of rows; no
        rows; one class only, except for "logLoss", "brier" and the calibration errors; no `at` where it is needed.

    Notes
    -----
    Cost: that of RankingMetrics, `probability_metrics` or `confusion_matrix`: one or two actions.
    Unlike pyspark's evaluator it ranks by the probability, not by the raw prediction, whose entry for the positive
    class alone does not rank rows for trees (rows in the leaf), naive Bayes and the multilayer perceptron.
    A fold without positives is an error and not a 0 in the mean: use `stratified_split`, or fewer folds.

    Examples
    --------
    >>> ImbalancedBinaryEvaluator(metricName="gMean").evaluate(model.transform(test))   # doctest: +SKIP
    """

    metricName = param("metricName", "the metric", choice("metricName", BINARY_METRICS))
    at = param("at", "where some metrics of the ranking are taken", number("at", 0, low_open=True))
    positiveLabel = param("positiveLabel", "label of the positive class", class_label("positiveLabel"))
    rawPredictionCol = param("rawPredictionCol", "scores to rank by", column_name("rawPredictionCol"))

    @keyword_only
    def __init__(
        self,
        *,
        metricName: str = "averagePrecision",
        at: float | None = None,
        labelCol: str = "label",
        positiveLabel: Label = 1.0,
        probabilityCol: str = "probability",
        rawPredictionCol: str | None = None,
        predictionCol: str = "prediction",
        labels: Sequence[Label] | None = None,
        beta: float = 1.0,
        weightCol: str | None = None,
    ):
        super().__init__()
        self._setDefault(metricName="averagePrecision", positiveLabel=1.0)
        self.setParams(**self._input_kwargs)

    def getMetricName(self) -> str:
        """Return metricName."""
        return str(self.getOrDefault(self.metricName))

    def getAt(self) -> float | None:
        """Return at, or None."""
        value: float | None = self._optional(self.at)
        return value

    def getPositiveLabel(self) -> Label:
        """Return positiveLabel."""
        value: Label = self.getOrDefault(self.positiveLabel)
        return value

    def getRawPredictionCol(self) -> str | None:
        """Return rawPredictionCol, or None."""
        value: str | None = self._optional(self.rawPredictionCol)
        return value

    def isLargerBetter(self) -> bool:
        """Return whether a larger metric is better."""
        return self.getMetricName() not in _PROBABILITY

    def _evaluate(self, dataset: DataFrame) -> float:
        name, at = self.getMetricName(), self.getAt()
        if name in _DECISION:
            return _DECISION[name](self._against_rest(dataset), self.getBeta())
        if name in _PROBABILITY:
            metrics = probability_metrics(**self._scored(dataset, "probabilityCol", self.getProbabilityCol()))
            value: float = getattr(metrics, name)
            if math.isnan(value):
                raise SparkimbError(f"{name} needs rows of both classes. Check positiveLabel, or take more rows.")
            return value
        if name in _RANKING_AT and at is None:
            raise SparkimbError(
                f"metricName is '{name}', but at is not set. Set at to where the metric is to be taken."
            )
        raw = self.getRawPredictionCol()
        by, score = ("rawPredictionCol", raw) if raw is not None else ("probabilityCol", self.getProbabilityCol())
        ranking = RankingMetrics(**self._scored(dataset, by, score))
        return _RANKING[name](ranking) if at is None or name in _RANKING else _RANKING_AT[name](ranking, at)

    def _scored(self, dataset: DataFrame, by: str, score: str) -> dict[str, Any]:
        """Return the rows with one score each, and the columns and label that the metrics of scores take."""
        require_scores(dataset, score, by=by)
        positive = self.getPositiveLabel()
        return {
            "dataset": dataset.withColumn(
                score, class_score(dataset, score, lambda: entry_of(positive, self.getLabels()))
            ),
            "scoreCol": score,
            "labelCol": self.getLabelCol(),
            "positiveLabel": positive,
            "weightCol": self.getWeightCol(),
        }

    def _against_rest(self, dataset: DataFrame) -> ConfusionMatrix:
        """Return the matrix of the positive class and the rest."""
        matrix = self._matrix(dataset, self.getPositiveLabel())
        counts = {
            name: max(getattr(matrix, name)(), 0.0)  # differences of rounded sums
            for name in ("truePositives", "falsePositives", "falseNegatives", "trueNegatives")
        }
        binary = ConfusionMatrix.fromCounts(**counts)
        positives = counts["truePositives"] + counts["falseNegatives"]
        if not 0 < positives < matrix.total:
            unit = f"weight '{self.getWeightCol()}'" if self.getWeightCol() else "rows"
            raise SparkimbError(
                f"{self.getMetricName()} needs two classes, but {positives:g} of {matrix.total:g} {unit} have "
                f"{self.getLabelCol()} = {self.getPositiveLabel()!r}. Check positiveLabel, or take more rows."
            )
        return binary


class ImbalancedMulticlassEvaluator(_Params, HasProbabilityCol, HasLabels, Evaluator):
    """Evaluate the decisions or the probabilities of a classifier of any number of classes, with rare ones in view.

    Parameters
    ----------
    metricName : str, default="gMean"
        Over all classes: "gMean", "balancedAccuracy", "mcc", "kappa", "accuracy", "macroF1", "macroFBeta",
        "macroPrecision", "macroRecall", "macroJaccard", and "macroAveragedMeanAbsoluteError", of which less is better.
        Of the class metricLabel against the rest: "f1ByLabel", "fBetaByLabel", "precisionByLabel", "recallByLabel",
        "specificityByLabel", "jaccardByLabel".  See `ConfusionMatrix`.  Of the scores in probabilityCol, each class
        against the rest: "macroAreaUnderROC", "macroAveragePrecision".  See `multiclass_ranking`.  Of the
        probabilities, where less is better: "logLoss", "brier", "expectedCalibrationError",
        "maximumCalibrationError".  See `multiclass_probability_metrics`.
    labelCol : str, default="label"
        Of any atomic type; never null or NaN.
    predictionCol : str, default="prediction"
        Of the type of labelCol, or both numbers.
    probabilityCol : str, default="probability"
        Vector or array with one entry per class.
    labels : list of str, bool, int or float, optional
        The classes in the order of the entries of probabilityCol, such as `StringIndexerModel.labels`.  By default they
        are 0, 1, 2, ...; the metrics of scores need them.
    metricLabel : str, bool, int or float, optional
        The class of the metrics by label, which need it.
    beta : float > 0, default=1.0
        Of "macroFBeta" and "fBetaByLabel": recall counts beta times as much as precision.
    weightCol : str, optional
        Weight of each row, in [0, inf).

    Raises
    ------
    SparkimbError
        In `evaluate`: columns missing or of unlike types; nulls, NaN or bad weights, with the number of rows; no rows;
        a metricLabel that is missing, or that no row has or is predicted as.

    Notes
    -----
    Cost: one action, that of `confusion_matrix` or of `multiclass_probability_metrics`; or those of
    `multiclass_ranking`.
    A class without rows and predictions does not count.  Means count a class that is predicted but has no rows as 0,
    as scikit-learn's macro averages do; balancedAccuracy leaves it out.

    Examples
    --------
    >>> ImbalancedMulticlassEvaluator(metricName="recallByLabel", metricLabel="rare").evaluate(df)  # doctest: +SKIP
    """

    metricName = param("metricName", "the metric", choice("metricName", MULTICLASS_METRICS))
    metricLabel = param("metricLabel", "the class of metrics by label", class_label("metricLabel"))

    @keyword_only
    def __init__(
        self,
        *,
        metricName: str = "gMean",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        probabilityCol: str = "probability",
        labels: Sequence[Label] | None = None,
        metricLabel: Label | None = None,
        beta: float = 1.0,
        weightCol: str | None = None,
    ):
        super().__init__()
        self._setDefault(metricName="gMean")
        self.setParams(**self._input_kwargs)

    def getMetricName(self) -> str:
        """Return metricName."""
        return str(self.getOrDefault(self.metricName))

    def getMetricLabel(self) -> Label | None:
        """Return metricLabel, or None."""
        value: Label | None = self._optional(self.metricLabel)
        return value

    def isLargerBetter(self) -> bool:
        """Return whether a larger metric is better."""
        return self.getMetricName() not in ("macroAveragedMeanAbsoluteError", *_PROBABILITIES)

    def _evaluate(self, dataset: DataFrame) -> float:
        name, label = self.getMetricName(), self.getMetricLabel()
        if name in _RANKINGS:
            return self._ranked(dataset, _RANKINGS[name])
        if name in _BY_LABEL and label is None:
            raise SparkimbError(f"metricName is '{name}', but metricLabel is not set. Name the class to evaluate.")
        if name not in _PROBABILITIES:
            return {**_OVERALL, **_BY_LABEL}[name](self._matrix(dataset, label), self.getBeta())
        metrics = multiclass_probability_metrics(
            dataset,
            probabilityCol=self.getProbabilityCol(),
            labelCol=self.getLabelCol(),
            labels=self.getLabels(),
            weightCol=self.getWeightCol(),
        )
        value: float = getattr(metrics, name)
        return value

    def _ranked(self, dataset: DataFrame, mean: Callable[[MulticlassRanking], float | None]) -> float:
        if (labels := self.getLabels()) is None:
            raise SparkimbError(
                f"metricName is '{self.getMetricName()}', but labels is not set. Name the classes in the order of the "
                f"entries of '{self.getProbabilityCol()}'."
            )
        ranking = multiclass_ranking(
            dataset,
            labels=labels,
            probabilityCol=self.getProbabilityCol(),
            labelCol=self.getLabelCol(),
            weightCol=self.getWeightCol(),
        )
        found = mean(ranking)
        assert found is not None, "each against the rest"
        return found
