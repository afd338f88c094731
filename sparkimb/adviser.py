"""What to do about an imbalance, found out by trying: treatments compared on rows that they did not see."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import pandas as pd
from pyspark.ml import Estimator
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.base import Sampler
from sparkimb.columns import case_of, column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.calibration import correct_priors
from sparkimb.evaluation.confusion import confusion_matrix
from sparkimb.evaluation.intervals import Interval, check_replicates, confusion_interval
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.stratified_folds import StratifiedFolds
from sparkimb.evaluation.thresholds import best_threshold
from sparkimb.over_sampling import SMOTE, RandomOverSampler
from sparkimb.statistics import class_counts, require_two_classes
from sparkimb.strategy import Label, match_label, minority_class
from sparkimb.under_sampling import RandomUnderSampler
from sparkimb.weights import ClassWeigher

Stage: TypeAlias = Sampler[Any] | ClassWeigher

NOTHING = "nothing"
RANKINGS = ("averagePrecision", "areaUnderPR", "areaUnderROC")
DECISIONS = ("f1", "gMean", "mcc", "balancedAccuracy")  # of ConfusionMatrix and of best_threshold, by one name
IGNORE_WEIGHTS = ("FMClassifier",)  # it has weightCol, and does not look at it


def default_treatments() -> dict[str, Stage]:
    """Return the treatments that `advise` compares with doing nothing, the cheapest first."""
    return {
        "class weights": ClassWeigher(),
        "under-sampling": RandomUnderSampler(),
        "over-sampling": RandomOverSampler(),
        "SMOTE": SMOTE(kNeighbors="auto"),
    }


@dataclass(frozen=True)
class Advice:
    """What the treatments did to the objective, and what follows.

    Parameters
    ----------
    objective : str
    recommendation : str
        One or two sentences.
    table : pandas.DataFrame
        The best first: treatment, threshold ("any" for objectives that need none, else "default" or "tuned"), value,
        low and high (the ends of its confidence interval), seconds (of training, in all folds) and rows (trained on, in
        all folds).
    skipped : dict of str to str
        Treatments that were not tried, and why.
    """

    objective: str
    recommendation: str
    table: pd.DataFrame
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        left_out = "".join(f"\nNot tried: {name}, {reason}." for name, reason in self.skipped.items())
        return f"{self.table.to_string(index=False)}\n{self.recommendation}{left_out}"


def advise(
    dataset: DataFrame,
    *,
    learner: Estimator[Any],
    labelCol: str = "label",
    featuresCol: str = "features",
    idCols: Sequence[str] | None = None,
    positiveLabel: Label | None = None,
    treatments: Mapping[str, Stage] | None = None,
    objective: str = "averagePrecision",
    numFolds: int = 3,
    level: float = 0.95,
    replicates: int = 200,
    budget: float | None = None,
    seed: int = 0,
) -> Advice:
    """Compare doing nothing, moving the threshold, and treatments of the training rows, in stratified folds.

    In each fold a treatment changes the training rows alone; rows held out are natural.  The scores of all folds are
    measured together, after probabilities are corrected for the class shares that a treatment changed.  Where the
    intervals of the best treatment and of doing nothing overlap, the advice is to do nothing, or to move the threshold.

    Parameters
    ----------
    dataset : DataFrame
        Features and labels.  It is read once, and kept while the treatments are compared.
    learner : pyspark.ml classifier
        With the params that are to be used; its featuresCol and labelCol are set here, and its weightCol for weights.
        It sees the classes as 0, 1, …, the positive one last.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    featuresCol : str, default="features"
        Vector.
    idCols : list of str, optional
        Columns that identify a row; by default features and label do.
    positiveLabel : optional
        The class that the objective is about; by default the smallest.  All other labels are the rest.
    treatments : dict of str to sampler or ClassWeigher, optional
        What to compare, by name, in this order; by default `default_treatments()`.  They are given the label, the
        features as one vector, and ids: labelCol, featuresCol, idCols, weightCol and seed are set here.
    objective : str, default="averagePrecision"
        "averagePrecision", "areaUnderPR" or "areaUnderROC", which need no threshold; or "f1", "gMean", "mcc" or
        "balancedAccuracy": then each treatment is measured as its model decides and, as "tuned", at the best threshold,
        which is found for each fold on the rows held out in the others.
    numFolds : int in [2, rows of the smallest class], default=3
    level : float in (0, 1), default=0.95
        Of the confidence intervals: Poisson bootstrap of the rows held out; thresholds and models stay as they are.
    replicates : int in [2 / (1 - level), 100_000], default=200
        Of the bootstrap.
    budget : float > 0, optional
        Seconds: no treatment begins after them.  Doing nothing is always measured.
    seed : int, default=0
        Of folds, treatments and intervals.

    Raises
    ------
    SparkimbError
        Before any job: missing columns, an unknown objective, numbers out of their range, a learner that has a
        weightCol or thresholds, a treatment named "nothing" or with columns other than those given it.  After the
        count: null labels, a single class, an unknown positiveLabel, fewer rows of a class than folds.  A treatment
        that fails by one is told among those skipped.

    Notes
    -----
    Cost: features, labels and ids are read once, by the count, and kept (MEMORY_AND_DISK) until the end.  Then the
    folds and a count for each; for each treatment and fold the jobs of its fit and the learner's, and one action for
    the scores of all folds, which are kept while they are measured; for an objective with a threshold one for each fold
    and two more.

    Examples
    --------
    >>> print(advise(train, learner=LogisticRegression(), idCols=["id"], budget=600))  # doctest: +SKIP
    """
    compared = dict(default_treatments() if treatments is None else treatments)
    _check(learner, compared, objective, budget)
    check_replicates(level, replicates)
    require_columns(dataset, labelCol=labelCol, featuresCol=featuresCol, idCols=idCols)
    if not isinstance(found := dataset.schema[featuresCol].dataType, VectorUDT):
        raise SparkimbError(
            f"featuresCol '{featuresCol}' is of type {found.simpleString()}, not a vector. Use VectorAssembler first."
        )
    began = time.monotonic()
    ids = [f"id{i}" for i in range(len(idCols or []))]
    rows = dataset.select(
        column(labelCol).alias("label"),
        column(featuresCol).alias("features"),
        *(column(name).alias(made) for name, made in zip(idCols or [], ids, strict=True)),
    ).persist()
    skipped: dict[str, str] = {}
    tried: list[dict[str, Any]] = []
    try:
        counts = class_counts(rows.withColumnRenamed("label", labelCol), labelCol=labelCol)
        require_two_classes(counts, labelCol)
        labels = _positive_last(counts, positiveLabel, labelCol)
        ids = ids or ["label", "features"]
        folds = StratifiedFolds(numFolds=numFolds, idCols=ids, foldCol="fold", seed=seed).fit(rows)
        folded = folds.transform(rows)
        outside = [class_counts(folded.where(F.col("fold") != fold), labelCol="label") for fold in range(numFolds)]
        trial = _Trial(folded, labels, outside, learner, ids, objective, level, replicates, seed)
        for name, stage in [(NOTHING, None), *compared.items()]:
            if stage is not None and budget is not None and time.monotonic() - began > budget:
                skipped[name] = f"as the {budget:g} seconds were spent"
            elif isinstance(stage, ClassWeigher) and not _takes_weights(learner):
                skipped[name] = f"as {type(learner).__name__} does not look at weights"
            else:
                try:
                    tried += [{"treatment": name, **outcome} for outcome in trial.outcomes(stage)]
                except SparkimbError as error:
                    if stage is None:
                        raise
                    skipped[name] = f"as it failed: {str(error).rstrip('.')}"
    finally:
        rows.unpersist()
    table = pd.DataFrame(tried).sort_values(["value", "seconds"], ascending=[False, True], ignore_index=True)
    return Advice(objective, recommend(table, objective, level), table, skipped)


def _check(learner: Estimator[Any], treatments: Mapping[str, Stage], objective: str, budget: float | None) -> None:
    if not (isinstance(learner, Estimator) and learner.hasParam("featuresCol") and learner.hasParam("predictionCol")):
        raise TypeError(f"learner must be a pyspark.ml classifier; got {type(learner).__name__}.")
    if learner.hasParam("weightCol") and learner.isDefined("weightCol"):
        raise SparkimbError(
            "learner has a weightCol, which rows made by a sampler lack. Leave it out: class weights are a treatment."
        )
    if learner.hasParam("thresholds") and learner.isSet("thresholds"):
        raise SparkimbError(
            "learner has thresholds, but the order of the classes is set here, the positive one last. Leave them out: "
            "objectives such as 'f1' tune the threshold."
        )
    wrong = {
        name: type(stage).__name__
        for name, stage in treatments.items()
        if not isinstance(stage, Sampler | ClassWeigher)
    }
    if wrong:
        raise TypeError(f"treatments must be samplers or ClassWeighers by name; got {wrong}.")
    for name, stage in treatments.items():
        for param in ("inputCols", "categoricalCols", "strataCols"):
            if stage.hasParam(param) and stage.isSet(param):
                raise SparkimbError(
                    f"treatments['{name}'] has {param} {stage.getOrDefault(param)}, but treatments are given the "
                    "label, ids and one vector of features. Leave it out, or compare it by hand in StratifiedFolds."
                )
    if NOTHING in treatments:
        raise SparkimbError(f"treatments has the name '{NOTHING}', which stands for no treatment. Give another name.")
    if objective not in (*RANKINGS, *DECISIONS):
        raise SparkimbError(f"objective is {objective!r}. Choose one of: {', '.join([*RANKINGS, *DECISIONS])}.")
    if budget is not None and not budget > 0:
        raise SparkimbError(f"budget is {budget}. Give a number of seconds above 0, or leave it out.")


def _positive_last(counts: Mapping[Label, int], positiveLabel: Label | None, labelCol: str) -> list[Label]:
    """Return the labels with the positive one at the end: learners of two classes take that as 1."""
    positive = minority_class(counts) if positiveLabel is None else match_label(positiveLabel, counts)
    if positive is None:
        raise SparkimbError(
            f"positiveLabel is {positiveLabel!r}, which is no label of '{labelCol}'. "
            f"Labels are: {', '.join(repr(known) for known in counts)}."
        )
    return [label for label in counts if label != positive] + [positive]


def recommend(table: pd.DataFrame, objective: str, level: float) -> str:
    """Return the advice that follows from a table as `Advice` has it: the simplest of what may be the best."""
    best = table.iloc[0]
    overlapping = table[table["high"] >= best["low"]]
    untreated = overlapping[overlapping["treatment"] == NOTHING].set_index("threshold")
    told = f"{best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
    if best["treatment"] == NOTHING:
        found = f"No treatment has a better {objective} than the natural rows, {told}."
    else:
        found = f"The best {objective} is that of {best['treatment']}, {told}."
        if len(untreated):
            row = untreated.iloc[0]
            found += (
                f" That of the natural rows is {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], and the "
                f"{level:.0%} intervals overlap."
            )
    if len(untreated):
        moved = untreated.index[0] == "tuned"
        return f"{found} Do nothing to the rows, and move the threshold." if moved else f"{found} Do nothing."
    cheapest = overlapping.sort_values(["seconds", "threshold"]).iloc[0]  # of equals without a tuned threshold
    use = f"Use {cheapest['treatment']}{' and tune the threshold' if cheapest['threshold'] == 'tuned' else ''}."
    if cheapest["treatment"] != best["treatment"]:
        return f"{found} The interval of {cheapest['treatment']} overlaps with it, at less cost. {use}"
    return f"{found} No interval of the natural rows reaches it. {use}"


@dataclass(frozen=True)
class _Trial:
    """The rows in their folds, and how a treatment is measured on them."""

    rows: DataFrame
    labels: Sequence[Label]  # in the order of the learner's classes
    counts: Sequence[Mapping[Label, int]]  # of the rows outside each fold
    learner: Estimator[Any]
    ids: Sequence[str]
    objective: str
    level: float
    replicates: int
    seed: int

    def outcomes(self, stage: Stage | None) -> list[dict[str, Any]]:
        """Return what a treatment reaches, and at what cost."""
        began = time.monotonic()
        parts, trained = zip(*(self._scored(stage, fold) for fold in range(len(self.counts))), strict=True)
        cost = {"seconds": time.monotonic() - began, "rows": sum(trained)}
        scored = reduce(DataFrame.unionByName, parts).persist()
        try:
            return [
                {"threshold": name, "value": found.estimate, "low": found.low, "high": found.high, **cost}
                for name, found in self._measured(scored).items()
            ]
        finally:
            scored.unpersist()

    def _scored(self, stage: Stage | None, fold: int) -> tuple[DataFrame, int]:
        """Train on the other folds; return the scores of this one, and how many rows were trained on."""
        training, before = self.rows.where(F.col("fold") != fold), self.counts[fold]
        learner: Any = self.learner.copy()
        learner.setParams(featuresCol="features", labelCol="y")
        rows: Mapping[Label, float] = before
        after: Mapping[Label, float] = before
        if isinstance(stage, Sampler):
            given = {"labelCol": "label", "idCols": list(self.ids), "featuresCol": "features", "seed": self.seed}
            sampler = stage.copy().setParams(**{name: value for name, value in given.items() if stage.hasParam(name)})
            model = sampler.fit(training)
            training, rows = model.resample(training), model.plan.targets
            after = rows
        elif stage is not None:
            weigher = stage.copy().setParams(labelCol="label", weightCol="weight").fit(training)
            training = weigher.transform(training)
            after = {label: n * weigher.classWeights[label] for label, n in before.items()}
            learner.setParams(weightCol="weight")
        # The index only now: treatments know the labels by their names, and make rows with no other column.
        index = case_of(F.col("label"), {label: float(i) for i, label in enumerate(self.labels)}, F.lit(None))
        fitted = learner.fit(training.withColumn("y", index))
        last = len(self.labels) - 1
        if learner.hasParam("probabilityCol"):
            probability = vector_to_array(column(learner.getProbabilityCol()))
            corrected = correct_priors(
                probability, before=[before[c] for c in self.labels], after=[after[c] for c in self.labels]
            )
            score = F.get(corrected, F.lit(last))
        else:
            score = F.get(vector_to_array(column(learner.getRawPredictionCol())), F.lit(last))
        scores = fitted.transform(self.rows.where(F.col("fold") == fold)).select(
            "fold",
            score.alias("score"),
            (F.col("label") == F.lit(self.labels[-1])).alias("truth"),
            (column(learner.getPredictionCol()) == float(last)).alias("decision"),
        )
        return scores, int(sum(rows.values()))

    def _measured(self, scored: DataFrame) -> dict[str, Interval]:
        """Measure the objective on the scores of all folds, by the kind of threshold."""
        drawn: dict[str, Any] = {"level": self.level, "replicates": self.replicates, "seed": self.seed}
        if self.objective in RANKINGS:
            ranking = RankingMetrics(scored, labelCol="truth", positiveLabel=True)
            return {"any": ranking.interval(self.objective, **drawn)}
        tuned = F.lit(None)
        for fold in range(len(self.counts)):
            others = RankingMetrics(scored.where(F.col("fold") != fold), labelCol="truth", positiveLabel=True)
            best = best_threshold(others, self.objective)
            tuned = F.when(F.col("fold") == fold, F.col("score") >= F.lit(best.threshold)).otherwise(tuned)
        decided = {"default": scored, "tuned": scored.withColumn("decision", tuned)}
        return {
            name: confusion_interval(
                confusion_matrix(rows, predictionCol="decision", labelCol="truth", positiveLabel=True),
                self.objective,
                **drawn,
            )
            for name, rows in decided.items()
        }


def _takes_weights(learner: Estimator[Any]) -> bool:
    return learner.hasParam("weightCol") and type(learner).__name__ not in IGNORE_WEIGHTS
