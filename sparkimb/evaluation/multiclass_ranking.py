"""Ranking metrics of more than two classes: each against the rest, or each against each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation import steps
from sparkimb.evaluation.class_scores import class_labels, class_scores, known, require_scores
from sparkimb.evaluation.inputs import bad_weight, fault_code, is_positive, refuse_faults, require_numeric, weight
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.score_gaps import sums_at
from sparkimb.evaluation.steps import CollectedSteps
from sparkimb.strategy import Label

AVERAGES = ("macro", "weighted")
FORMS = ("ovr", "ovo")


@dataclass(frozen=True)
class MulticlassRanking:
    """Areas of every class, and their means.

    Parameters
    ----------
    areaUnderROC : float
        Mean over the classes, or over the pairs of classes, in [0, 1].
    averagePrecision : float or None
        Mean over the classes, in [0, 1]; None for pairs, which scikit-learn has no such mean of either.
    areaUnderROCByLabel : dict
        By label against the rest; for pairs by (label, label), the mean of both directions.
    averagePrecisionByLabel : dict
        By label against the rest; empty for pairs.
    """

    areaUnderROC: float
    averagePrecision: float | None
    areaUnderROCByLabel: Mapping[Any, float]
    averagePrecisionByLabel: Mapping[Any, float]


def multiclass_ranking(
    dataset: DataFrame,
    *,
    labels: Sequence[Any],
    probabilityCol: str = "probability",
    labelCol: str = "label",
    average: Literal["macro", "weighted"] = "macro",
    multiClass: Literal["ovr", "ovo"] = "ovr",
    weightCol: str | None = None,
) -> MulticlassRanking:
    """Measure how well the score of each class ranks its rows.

    Parameters
    ----------
    labels : sequence of str, bool, int or float
        The label of each entry of `probabilityCol`, in its order.  At least two, each with rows.
    probabilityCol : str, default="probability"
        Vector or array with a finite score for each class, higher for rows of it; never null.  The scores need not sum
        to 1.
    labelCol : str, default="label"
        String, boolean, integer or double; one of the labels, never null or NaN.
    average : {"macro", "weighted"}, default="macro"
        Whether all classes count alike, or by their rows' weight; for pairs by that of both classes.
    multiClass : {"ovr", "ovo"}, default="ovr"
        Each class against the rest, or each pair of classes by itself [1]_, as scikit-learn's `multi_class`.
    weightCol : str, optional
        Weight of each row, in [0, inf).  scikit-learn takes none for "ovo".

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; fewer than two labels, or one twice; rows with a label that is not among
        them, scores or weights out of their range (with the number of rows); no rows, or none of some label.

    Notes
    -----
    Cost: an action that counts the rows.  Then, up to `steps.MAX_SCORES` scores in all (rows x classes), one action for
    all classes, which shuffles one row per class, score and label.  Beyond, RankingMetrics for one class after the
    other, or for two of each pair: its actions, K or K (K - 1) times.

    References
    ----------
    .. [1] Hand and Till, "A simple generalisation of the area under the ROC curve for multiple class classification
           problems", Machine Learning 45, 2001, 171-186.

    Examples
    --------
    >>> multiclass_ranking(scored, labels=[0.0, 1.0, 2.0], average="weighted").averagePrecision   # doctest: +SKIP
    """
    for name, given, allowed in (("average", average, AVERAGES), ("multiClass", multiClass, FORMS)):
        if given not in allowed:
            raise SparkimbError(f"{name} is {given!r}. Choose one of: {', '.join(allowed)}.")
    classes = class_labels("labels")(labels)
    require_columns(dataset, labelCol=labelCol, weightCol=weightCol)
    require_scores(dataset, probabilityCol, by="probabilityCol", several=True)
    require_numeric(dataset, weightCol=weightCol)
    scores = class_scores(dataset, probabilityCol, len(classes))
    is_class = [is_positive(dataset, labelCol, label) for label in classes]
    rows = dataset.select(
        F.coalesce(*(F.when(found, i) for i, found in enumerate(is_class))).alias("actual"),
        is_class[0].isNull().alias("unlabelled"),
        F.array(*scores).alias("scores"),
        weight(weightCol).alias("weight"),
    )
    masses, count = _masses(rows, classes, probabilityCol, labelCol, weightCol)
    ranking = _collected(rows) if count * len(classes) <= steps.MAX_SCORES else _one_by_one(rows, weightCol)
    if multiClass == "ovo":
        pairs = list(combinations(range(len(classes)), 2))
        by_pair = [(ranking(a, b).areaUnderROC + ranking(b, a).areaUnderROC) / 2 for a, b in pairs]
        shares = [masses[a] + masses[b] for a, b in pairs] if average == "weighted" else None
        named = {(classes[a], classes[b]): area for (a, b), area in zip(pairs, by_pair, strict=True)}
        return MulticlassRanking(float(np.average(by_pair, weights=shares)), None, named, {})
    by_class = [ranking(a, None) for a in range(len(classes))]
    areas = [metrics.areaUnderROC for metrics in by_class]
    precisions = [metrics.averagePrecision for metrics in by_class]
    weights = masses if average == "weighted" else None
    return MulticlassRanking(
        float(np.average(areas, weights=weights)),
        float(np.average(precisions, weights=weights)),
        dict(zip(classes, areas, strict=True)),
        dict(zip(classes, precisions, strict=True)),
    )


def _masses(
    rows: DataFrame, classes: Sequence[Label], probabilityCol: str, labelCol: str, weightCol: str | None
) -> tuple[list[float], int]:
    """Return the weight of each class and the number of rows; raise if rows have faults or a class has no weight."""
    faults = {
        f"probabilityCol '{probabilityCol}' not of {len(classes)} finite numbers": ~F.coalesce(
            F.forall("scores", lambda score: known(score) & (F.abs(score) < math.inf)), F.lit(False)
        ),
        f"null or NaN labelCol '{labelCol}'": F.col("unlabelled"),
        f"labelCol '{labelCol}' none of the labels {list(classes)}": F.col("actual").isNull(),
        f"weightCol '{weightCol}' null, NaN, negative or infinite": bad_weight(F.col("weight")),
    }
    found = (
        rows.withColumn("fault", fault_code(faults))
        .groupBy("fault", "actual")
        .agg(F.count("*").alias("rows"), F.sum("weight").alias("mass"))
        .collect()  # at most five rows per class
    )
    codes: Counter[int] = Counter()
    for row in found:
        codes[row["fault"]] += row["rows"]
    refuse_faults(faults, codes)
    by_class = {row["actual"]: row["mass"] for row in found}
    masses = [by_class.get(i, 0.0) for i in range(len(classes))]
    empty = [label for label, mass in zip(classes, masses, strict=True) if not mass > 0]
    if empty:
        raise SparkimbError(
            f"The labels {empty} have no rows of any weight in labelCol '{labelCol}', so no ranking of them can be "
            "measured. Leave them and their entries out, or take more rows."
        )
    return masses, sum(codes.values())


_Ranking: TypeAlias = Callable[[int, int | None], RankingMetrics]


def _collected(rows: DataFrame) -> _Ranking:
    """Return the metrics of class a against class b, or against all, from one action."""
    entries = rows.where(F.col("weight") > 0).select("actual", "weight", F.posexplode("scores").alias("of", "score"))
    table = entries.groupBy("of", "score", "actual").agg(F.sum("weight").alias("weight")).toArrow().to_pandas()
    by_entry = dict(iter(table.groupby("of")))

    def ranking(a: int, b: int | None) -> RankingMetrics:
        entry = by_entry[a]
        chosen = entry if b is None else entry[entry["actual"].isin([a, b])]
        rising, place = np.unique(chosen["score"].to_numpy(), return_inverse=True)
        mass, positive = chosen["weight"].to_numpy(), chosen["actual"].to_numpy() == a
        p, n = (sums_at(place, mass * side, len(rising))[::-1] for side in (positive, ~positive))
        return RankingMetrics.fromSteps(CollectedSteps(rising[::-1], p, n))

    return ranking


def _one_by_one(rows: DataFrame, weightCol: str | None) -> _Ranking:
    """Return the metrics of class a against class b, or against all, from actions of their own."""

    def ranking(a: int, b: int | None) -> RankingMetrics:
        chosen = rows if b is None else rows.where(F.col("actual").isin([a, b]))
        return RankingMetrics(
            chosen.select(F.get("scores", F.lit(a)).alias("score"), (F.col("actual") == a).alias("label"), "weight"),
            positiveLabel=True,
            weightCol="weight" if weightCol else None,
        )

    return ranking
