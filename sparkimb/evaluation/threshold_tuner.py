"""ThresholdTuner: the decision that makes an objective best on held-out rows, as a stage of a pipeline."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from pyspark import keyword_only
from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_scores import (
    HasLabels,
    HasPredictionCol,
    HasProbabilityCol,
    HasWeightCol,
    class_label,
    class_score,
    class_scores,
    entry_of,
    known,
    label_of_largest,
    require_scores,
)
from sparkimb.evaluation.confusion import ConfusionMatrix
from sparkimb.evaluation.inputs import require_numeric, scored_rows
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.steps import MAX_SCORES, ROUNDING, DistributedSteps
from sparkimb.evaluation.thresholds import OBJECTIVES, BestThreshold, best_threshold
from sparkimb.params import HasLabelCol, choice, column_name, number, param
from sparkimb.persistence import JsonStage
from sparkimb.strategy import Label

# For a threshold of 0, of which pyspark allows only one: the class is called wherever its probability is above 0.
LEAST = sys.float_info.min
# Far more than the roundings of a probability, a logarithm and a division, far less than what tells rows apart.
BELOW = 1e-12

C = TypeVar("C", bound=Model)


class _Params(HasLabelCol, HasProbabilityCol, HasPredictionCol, HasLabels, HasWeightCol, JsonStage):
    scoreCol = param("scoreCol", "column of numbers to cut, instead of probabilityCol", column_name("scoreCol"))
    positiveLabel = param("positiveLabel", "of two labels the positive one", class_label("positiveLabel"))
    objective = param("objective", "what the thresholds make best", choice("objective", OBJECTIVES))
    beta = param("beta", "weight of recall in fBeta", number("beta", 0, low_open=True))
    minPrecision = param("minPrecision", "least precision", number("minPrecision", 0, 1))
    minRecall = param("minRecall", "least recall", number("minRecall", 0, 1))
    falsePositiveCost = param("falsePositiveCost", "cost of a false alarm", number("falsePositiveCost", 0))
    falseNegativeCost = param("falseNegativeCost", "cost of a missed row", number("falseNegativeCost", 0))
    topK = param("topK", "most rows called positive, in the mean over the groups", number("topK", 0, low_open=True))
    groupCol = param("groupCol", "column whose values are the groups of topK", column_name("groupCol"))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            labels=[0.0, 1.0],
            objective="f1",
            beta=1.0,
            minPrecision=0.0,
            minRecall=0.0,
            falsePositiveCost=1.0,
            falseNegativeCost=1.0,
        )

    def getScoreCol(self) -> str | None:
        """Return scoreCol, or None."""
        value: str | None = self._optional(self.scoreCol)
        return value

    def getPositiveLabel(self) -> Label | None:
        """Return positiveLabel, by default the second of two labels; None if there are more."""
        if self.isSet(self.positiveLabel):
            value: Label = self.getOrDefault(self.positiveLabel)
            return value
        labels = self._labels()
        return labels[1] if len(labels) == 2 else None

    def getObjective(self) -> str:
        """Return objective."""
        return str(self.getOrDefault(self.objective))

    def getBeta(self) -> float:
        """Return beta."""
        return float(self.getOrDefault(self.beta))

    def getMinPrecision(self) -> float:
        """Return minPrecision."""
        return float(self.getOrDefault(self.minPrecision))

    def getMinRecall(self) -> float:
        """Return minRecall."""
        return float(self.getOrDefault(self.minRecall))

    def getFalsePositiveCost(self) -> float:
        """Return falsePositiveCost."""
        return float(self.getOrDefault(self.falsePositiveCost))

    def getFalseNegativeCost(self) -> float:
        """Return falseNegativeCost."""
        return float(self.getOrDefault(self.falseNegativeCost))

    def getTopK(self) -> float | None:
        """Return topK, or None."""
        value: float | None = self._optional(self.topK)
        return value

    def getGroupCol(self) -> str | None:
        """Return groupCol, or None."""
        value: str | None = self._optional(self.groupCol)
        return value

    def _labels(self) -> list[Label]:
        labels: list[Label] = self.getOrDefault(self.labels)
        return labels

    def _check_columns(self, dataset: DataFrame) -> None:
        """Check the column to be cut."""
        score = self.getScoreCol()
        if score is None:
            # The one number that a column of numbers holds cannot speak for three classes.
            require_scores(dataset, self.getProbabilityCol(), by="probabilityCol", several=len(self._labels()) > 2)
        elif len(self._labels()) > 2:
            raise SparkimbError(
                f"scoreCol '{score}' holds one number per row, but labels names {len(self._labels())} classes. "
                "Set probabilityCol, a vector or array of their probabilities."
            )
        else:
            require_columns(dataset, scoreCol=score)
            require_numeric(dataset, scoreCol=score)

    def _read(self) -> str:
        return self.getScoreCol() or self.getProbabilityCol()

    def _score(self, dataset: DataFrame, label: Label) -> Column:
        return class_score(dataset, self._read(), lambda: entry_of(label, self._labels()))


class ThresholdTuner(_Params, Estimator["ThresholdTunerModel"]):
    """Find the thresholds on predicted probabilities that make an objective best, and decide by them.

    Fit it on rows that the classifier did not see, with natural class shares: on the training rows, or on resampled
    ones, the thresholds come out wrong.  Moving the threshold is often all that an imbalanced problem needs.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    probabilityCol : str, default="probability"
        Vector or array with one entry per class; or, for two classes, a number: the positive class's.
    scoreCol : str, optional
        For two classes, a finite number of any range to cut instead of probabilityCol, higher for the positive class.
    predictionCol : str, default="prediction"
        Output column; replaced if it is there.  It holds labels.
    labels : list of str, bool, int or float, default=[0.0, 1.0]
        The classes in the order of the entries of probabilityCol, as they stand in labelCol.  For string labels that
        were indexed, `StringIndexerModel.labels`.
    positiveLabel : str, bool, int or float, optional
        Of two labels the positive one; by default the second.  Rows with labels other than this count as the rest.
    objective : str, default="f1"
        "f1", "fBeta", "gMean", "mcc", "balancedAccuracy", "youden", "accuracy", "precision", "recall", "cost" or
        "topK": see `best_threshold`.
    beta : float > 0, default=1.0
        Of "fBeta": recall counts beta times as much as precision.
    minPrecision : float in [0, 1], default=0.0
        Only thresholds that reach it count, for any objective.
    minRecall : float in [0, 1], default=0.0
        Likewise.
    falsePositiveCost : float in [0, inf), default=1.0
        Of "cost": what a false alarm costs more than a row rightly let pass.
    falseNegativeCost : float in [0, inf), default=1.0
        Of "cost": what a missed row costs more than one rightly called positive.  For a cost of each pair of several
        labels, and for costs that differ from row to row, decide by BayesDecision.
    topK : float > 0, optional
        Only thresholds that call at most so many rows positive in each group, in the mean over the groups, count, for
        any objective; objective "topK" uses up what it allows.  For two classes.
    groupCol : str, optional
        The column whose values are the groups of topK, such as the day; by default all rows are one group.  No nulls.
    weightCol : str, optional
        Weight of each row, in [0, inf); then topK is in weights too.

    Raises
    ------
    SparkimbError
        In `fit`: columns missing or of a wrong type; scores, labels or weights out of their range (with the number of
        rows); no rows; a class without rows; with three labels or more, rows of another label; no threshold that
        reaches minPrecision and minRecall within topK.

    Notes
    -----
    Rows:   as they come; predictionCol is null where a score is null or NaN.
    Two classes: positive if the score is at or above the threshold, which is exact over all distinct scores.
    More:   each class gets the threshold that is best for it against the rest, exact over all distinct scores, and a
            row the class with the largest probability / threshold, as by pyspark's `thresholds`; of equals the first.
    topK is met in the mean over the groups that have rows, by one threshold, so the decision on a row needs no other
    row and works on a stream.  A group with many high scores gets more than topK.  To take exactly the k highest of
    each group, a batch can rank them: `row_number()` over a window.
    Cost:   fit: for each class (of two, one) the actions of RankingMetrics; for topK an aggregate more.  transform: a
            plain expression, also on a stream.

    References
    ----------
    .. [1] Lipton, Elkan and Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", ECML PKDD,
           2014, 225-239.

    Examples
    --------
    >>> tuner = ThresholdTuner(labelCol="fraud", objective="fBeta", beta=2.0)   # doctest: +SKIP
    >>> tuner.fit(classifier.transform(validation)).applyTo(classifier).transform(test)   # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        labelCol: str = "label",
        probabilityCol: str = "probability",
        scoreCol: str | None = None,
        predictionCol: str = "prediction",
        labels: Sequence[Label] = [0.0, 1.0],  # copied by the converter
        positiveLabel: Label | None = None,
        objective: str = "f1",
        beta: float = 1.0,
        minPrecision: float = 0.0,
        minRecall: float = 0.0,
        falsePositiveCost: float = 1.0,
        falseNegativeCost: float = 1.0,
        topK: float | None = None,
        groupCol: str | None = None,
        weightCol: str | None = None,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> ThresholdTunerModel:
        positive = self.getPositiveLabel()
        self._check_settings(positive)
        require_columns(
            dataset, labelCol=self.getLabelCol(), weightCol=self.getWeightCol(), groupCol=self.getGroupCol()
        )
        check_label_type(dataset, self.getLabelCol())
        self._check_columns(dataset)
        top_k, rows = self._most_called(dataset)
        best: dict[Label, BestThreshold] = {}
        labelled = total = 0.0
        for label in self._labels() if positive is None else [positive]:
            ranking = self._ranking(dataset, label, rows)
            try:
                best[label] = self._best(ranking, top_k)
            except SparkimbError as error:
                of = f" of label {label!r}" if positive is None else ""
                raise SparkimbError(f"ThresholdTuner{of}: {_as_typed(str(error))}") from None
            labelled, total = labelled + ranking.positives, ranking.positives + ranking.negatives
        if positive is None:
            self._check_classes(best, labelled, total)
        model = ThresholdTunerModel()
        model.best = best
        return self._copyValues(model._resetUid(self.uid))

    def _ranking(self, dataset: DataFrame, label: Label, rows: int) -> RankingMetrics:
        scored = dataset.withColumn(self._read(), self._score(dataset, label))
        columns: dict[str, Any] = {
            "scoreCol": self._read(),
            "labelCol": self.getLabelCol(),
            "positiveLabel": label,
            "weightCol": self.getWeightCol(),
        }
        ranking = RankingMetrics(scored, **columns)
        if self.getObjective() != "topK" or rows <= MAX_SCORES:
            return ranking
        # Of many rows RankingMetrics may have merged scores that lie between positives, which is no matter to any other
        # objective, as it never gains by a false positive.
        return RankingMetrics.fromSteps(DistributedSteps(*scored_rows(scored, **columns)))

    def _best(self, ranking: RankingMetrics, top_k: float) -> BestThreshold:
        return best_threshold(
            ranking,
            self.getObjective(),
            beta=self.getBeta(),
            min_precision=self.getMinPrecision(),
            min_recall=self.getMinRecall(),
            false_positive_cost=self.getFalsePositiveCost(),
            false_negative_cost=self.getFalseNegativeCost(),
            top_k=top_k,
        )

    def _check_settings(self, positive: Label | None) -> None:
        if positive is not None:
            entry_of(positive, self._labels())
        if positive is not None and len(self._labels()) > 2:
            raise SparkimbError(
                f"ThresholdTuner.positiveLabel is {positive!r}, but labels names {len(self._labels())} classes, each "
                "of which gets a threshold. Leave positiveLabel out, or cut the class's own scores by scoreCol."
            )
        if self.getTopK() is None and (self.getObjective() == "topK" or self.getGroupCol() is not None):
            asking = "objective is 'topK'" if self.getObjective() == "topK" else f"groupCol is '{self.getGroupCol()}'"
            raise SparkimbError(
                f"ThresholdTuner.{asking}, but topK is not set. Set the rows to call positive per group."
            )
        if self.getTopK() is not None and positive is None:
            raise SparkimbError(
                f"ThresholdTuner.topK is {self.getTopK():g}, but labels names {len(self._labels())} classes. "
                "topK is for two classes: the rows to call positive."
            )

    def _most_called(self, dataset: DataFrame) -> tuple[float, int]:
        """Return the rows that may be called positive in all groups together, and the rows, if that matters."""
        top_k, group = self.getTopK(), self.getGroupCol()
        if top_k is None:
            return math.inf, 0
        value = F.lit(0) if group is None else column(group)
        found = dataset.agg(F.count_distinct(value), F.count_if(value.isNull()), F.count("*")).first()
        assert found is not None
        groups, nulls, rows = found
        if nulls:
            raise SparkimbError(
                f"groupCol '{group}' is null in {nulls} of {rows} rows. Every row must belong to a group: drop these "
                "rows, or fill them."
            )
        return top_k * max(groups, 1), rows  # RankingMetrics refuses a dataset without rows

    def _check_classes(self, best: dict[Label, BestThreshold], labelled: float, total: float) -> None:
        if total - labelled > ROUNDING * total:
            unit = f"weight (weightCol '{self.getWeightCol()}')" if self.getWeightCol() else "rows"
            raise SparkimbError(
                f"labels are {self._labels()}, but {total - labelled:g} of {total:g} {unit} have another label in "
                f"labelCol '{self.getLabelCol()}'. Name all classes, or drop these rows."
            )
        below = [label for label, found in best.items() if found.threshold < 0]
        if below:
            raise SparkimbError(
                f"probabilityCol '{self.getProbabilityCol()}' holds numbers below 0 for {below}. Thresholds of several "
                "classes divide probabilities: give these, not raw scores."
            )


class ThresholdTunerModel(_Params, Model):
    """A fitted ThresholdTuner.

    Attributes
    ----------
    best : dict of label to BestThreshold
        For the positive class, or for each of three classes or more against the rest: the threshold, the objective
        there, and what it does to the rows of `fit`.
    """

    best: dict[Label, BestThreshold]

    def applyTo(self, classifier: C) -> C:
        """Return a copy of a fitted pyspark classifier that decides as this model does; runs no job.

        The copy is a plain pyspark model with other `thresholds`, and loads where sparkimb is not installed.  For two
        classes these lie below the threshold by a share of 10^-12, since pyspark calls what is above, not at, them and
        computes with other roundings.  LinearSVC has one `threshold`, on its rawPrediction: for it, scoreCol must have
        been the second entry of that.

        Raises
        ------
        SparkimbError
            For models without such Params, of another number of classes, or that write another probabilityCol than the
            one that was cut; and for thresholds that pyspark cannot express: not between 0 and 1, or where `threshold`
            was set in a way that cannot be changed.
        """
        name = type(classifier).__name__
        if not classifier.hasParam("thresholds"):
            if not classifier.hasParam("threshold"):
                raise SparkimbError(
                    f"{name} has no thresholds to set. Apply to a fitted classifier, not to a whole pipeline; or put "
                    "this model after it in the pipeline."
                )
            return classifier.copy({classifier.getParam("threshold"): self._margin(name)})
        values = self._thresholds()
        if self.getScoreCol() is None and (written := classifier.getOrDefault("probabilityCol")) != self._read():
            raise SparkimbError(
                f"{name} writes its probabilities to '{written}', but the tuner cut those in '{self._read()}', which "
                f"may be corrected ones. Put this model after {name} in the pipeline, or fit the tuner on '{written}'."
            )
        classes = getattr(classifier, "numClasses", len(values))
        if classes != len(values):
            raise SparkimbError(
                f"{name} tells {classes} classes apart, but labels are {self._labels()}. "
                "Fit the tuner on what this classifier predicts."
            )
        if not classifier.hasParam("threshold") or not classifier.isSet("threshold"):
            return classifier.copy({classifier.getParam("thresholds"): values})
        # pyspark refuses any moment at which the two differ, and cannot clear one on Connect.
        if classifier.isSet("thresholds") or classifier.getOrDefault("family") == "multinomial" or classes > 2:
            raise SparkimbError(
                f"{name} was given a threshold of its own, which nothing can replace here. Fit it without threshold."
            )
        return classifier.copy({classifier.getParam("threshold"): values[1]})

    def _thresholds(self) -> list[float]:
        """Return the value of pyspark's `thresholds`."""
        labels = self._labels()
        if len(labels) > 2:
            return self._divisors()
        ((positive, best),) = self.best.items()
        if not 0 < best.threshold < 1:
            raise SparkimbError(
                f"The threshold is {best.threshold:g}, but pyspark's thresholds are probabilities in (0, 1). "
                "Fit the tuner on probabilityCol, or put this model after the classifier in the pipeline."
            )
        cut = best.threshold * (1 - BELOW)
        return [cut if label == positive else 1 - cut for label in labels]

    def _margin(self, name: str) -> float:
        labels = self._labels()
        if self.getScoreCol() is None or list(self.best) != labels[1:]:
            raise SparkimbError(
                f"{name} has a threshold on its rawPrediction for the second label alone, but the tuner cut "
                f"'{self._read()}' for {list(self.best)}. Fit it with scoreCol, the second entry of rawPrediction."
            )
        return math.nextafter(self.best[labels[1]].threshold, -math.inf)

    def _divisors(self) -> list[float]:
        return [max(self.best[label].threshold, LEAST) for label in self._labels()]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_columns(dataset)
        decision = self._one_of_many(dataset) if len(self._labels()) > 2 else self._one_of_two(dataset)
        return dataset.withColumn(self.getPredictionCol(), decision)

    def _one_of_two(self, dataset: DataFrame) -> Column:
        ((positive, best),) = self.best.items()
        rest = next(label for label in self._labels() if label != positive)
        score = self._score(dataset, positive)
        return F.when(known(score), F.when(score >= best.threshold, F.lit(positive)).otherwise(F.lit(rest)))

    def _one_of_many(self, dataset: DataFrame) -> Column:
        scores = class_scores(dataset, self.getProbabilityCol(), len(self._labels()))
        ratios = [score / divisor for score, divisor in zip(scores, self._divisors(), strict=True)]
        return label_of_largest(ratios, self._labels())

    def _state(self) -> dict[str, Any]:
        return {"best": [[label, _plain(best)] for label, best in self.best.items()]}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.best = {label: _from_plain(found) for label, found in state["best"]}


def _as_typed(text: str) -> str:
    """Name Params as they were typed, in what `best_threshold` says."""
    for name in ("min_precision", "min_recall", "top_k"):
        head, tail = name.split("_")
        text = text.replace(name, head + tail.capitalize())
    return text


_COUNTS = ("truePositives", "falsePositives", "falseNegatives", "trueNegatives")


def _plain(best: BestThreshold) -> dict[str, Any]:
    counts = {name: getattr(best.confusion, name)() for name in _COUNTS}
    return {"threshold": best.threshold, "objective": best.objective, "value": best.value, "counts": counts}


def _from_plain(found: dict[str, Any]) -> BestThreshold:
    confusion = ConfusionMatrix.fromCounts(**found["counts"])
    return BestThreshold(found["threshold"], found["objective"], found["value"], confusion)
