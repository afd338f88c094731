"""The best cut on a score, exact over all distinct scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.confusion import ConfusionMatrix, check_beta
from sparkimb.evaluation.ranking import ROUNDING, RankingMetrics, Step, Values, divide


@dataclass(frozen=True)
class BestThreshold:
    """A cut on a score and what it does.

    Parameters
    ----------
    threshold : float
        A row is called positive if its score is >= threshold.
    objective : str
        What was made as large as possible.
    value : float
        The objective at the threshold.
    confusion : ConfusionMatrix
        The decision at the threshold; label 1 is the positive class, 0 the rest.
    """

    threshold: float
    objective: str
    value: float
    confusion: ConfusionMatrix


# Each objective twice: as a formula of tp, fp, positives, negatives and beta squared that ranks the thresholds (free of
# roots where the square ranks alike, so that equal counts of rows tie exactly), and as a metric of the matrix.
_Rank = Callable[[Values, Values, float, float, float], Values]
_OBJECTIVES: dict[str, tuple[_Rank, Callable[[ConfusionMatrix, float], float]]] = {
    "f1": (
        lambda tp, fp, p, n, _: divide(2 * tp, tp + fp + p),
        lambda matrix, _: matrix.f1(),
    ),
    "fBeta": (
        lambda tp, fp, p, n, squared: divide((1 + squared) * tp, tp + fp + squared * p),
        lambda matrix, beta: matrix.fBeta(beta),
    ),
    "gMean": (
        lambda tp, fp, p, n, _: tp * (n - fp),
        lambda matrix, _: matrix.gMean,
    ),
    "balancedAccuracy": (
        lambda tp, fp, p, n, _: tp * n - fp * p,
        lambda matrix, _: matrix.balancedAccuracy,
    ),
    "youden": (
        lambda tp, fp, p, n, _: tp * n - fp * p,
        lambda matrix, _: matrix.recall() + matrix.specificity() - 1,
    ),
    "mcc": (
        lambda tp, fp, p, n, _: divide(tp * n - fp * p, ((tp + fp) * (p + n - tp - fp)) ** 0.5),
        lambda matrix, _: matrix.mcc,
    ),
    "accuracy": (
        lambda tp, fp, p, n, _: tp - fp,
        lambda matrix, _: matrix.accuracy,
    ),
    "precision": (
        lambda tp, fp, p, n, _: divide(tp, tp + fp),
        lambda matrix, _: matrix.precision(),
    ),
    "recall": (
        lambda tp, fp, p, n, _: tp / p,
        lambda matrix, _: matrix.recall(),
    ),
}

OBJECTIVES = tuple(_OBJECTIVES)


def best_threshold(
    ranking: RankingMetrics,
    objective: str = "f1",
    *,
    beta: float = 1.0,
    min_precision: float = 0.0,
    min_recall: float = 0.0,
) -> BestThreshold:
    """Find the score at which calling all rows from there up positive makes the objective largest.

    Every distinct score is tried, so at least one row is called positive.  Of equal values the highest threshold wins.
    Choose the threshold on rows that the model did not see, with natural class shares.

    Parameters
    ----------
    objective : {"f1", "fBeta", "gMean", "mcc", "balancedAccuracy", "youden", "accuracy", "precision", "recall"}
        "youden" is recall + specificity - 1.  "recall" with `min_precision`, or "precision" with `min_recall`, finds
        the best of one at a floor of the other.
    beta : float > 0, default=1.0
        Of "fBeta": recall counts beta times as much as precision.
    min_precision, min_recall : float in [0, 1], default=0.0
        Only thresholds that reach these count, for any objective.

    Raises
    ------
    SparkimbError
        Unknown objective, a number out of its range, or no threshold that reaches `min_precision`.

    Notes
    -----
    Cost: no job up to `ranking.MAX_SCORES` distinct scores; beyond, one action with the two shuffles of RankingMetrics.
    """
    if objective not in OBJECTIVES:
        raise SparkimbError(f"objective is {objective!r}. Choose one of: {', '.join(OBJECTIVES)}.")
    check_beta(beta)
    for name, floor in {"min_precision": min_precision, "min_recall": min_recall}.items():
        if not 0 <= floor <= 1:
            raise SparkimbError(f"{name} is {floor}. Give a share in [0, 1].")
    rank, metric = _OBJECTIVES[objective]
    positives, negatives = ranking.positives, ranking.negatives

    def ranked(at: Step) -> tuple[Values, Values]:
        # Sums of weights are rounded; a floor that is met exactly must not be missed for that.
        precise = divide(at.tp, at.tp + at.fp) >= min_precision - ROUNDING
        complete = at.tp / positives >= min_recall - ROUNDING
        return rank(at.tp, at.fp, positives, negatives, beta * beta), precise & complete

    best = ranking.steps.best(ranked)
    if best is None:
        reached = best_threshold(ranking, "precision", min_recall=min_recall).value
        raise SparkimbError(
            f"min_precision is {min_precision}, but with min_recall {min_recall} the best precision is {reached:.6g}. "
            "Lower one of the two."
        )
    threshold, tp, fp = best
    confusion = ConfusionMatrix.fromCounts(
        truePositives=tp,
        falsePositives=fp,
        falseNegatives=max(positives - tp, 0.0),  # the sums of weights may differ in the last bit
        trueNegatives=max(negatives - fp, 0.0),
    )
    return BestThreshold(threshold, objective, metric(confusion, beta), confusion)
