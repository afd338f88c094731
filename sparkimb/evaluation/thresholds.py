"""The best cut on a score, exact over all distinct scores."""

from __future__ import annotations

import math
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
        What was made as large as possible; "cost" as small.
    value : float
        The objective at the threshold.
    confusion : ConfusionMatrix
        The decision at the threshold; label 1 is the positive class, 0 the rest.
    """

    threshold: float
    objective: str
    value: float
    confusion: ConfusionMatrix


@dataclass(frozen=True)
class _Given:
    """The numbers that some objectives take."""

    beta: float
    false_positive_cost: float
    false_negative_cost: float


# Each objective twice: as a formula of tp, fp, positives, negatives and the numbers given that ranks the thresholds
# (free of roots where the square ranks alike, so that equal counts of rows tie exactly), and as a metric of the matrix.
_Rank = Callable[[Values, Values, float, float, _Given], Values]
_OBJECTIVES: dict[str, tuple[_Rank, Callable[[ConfusionMatrix, _Given], float]]] = {
    "f1": (
        lambda tp, fp, p, n, _: divide(2 * tp, tp + fp + p),
        lambda matrix, _: matrix.f1(),
    ),
    "fBeta": (
        lambda tp, fp, p, n, given: divide((1 + given.beta**2) * tp, tp + fp + given.beta**2 * p),
        lambda matrix, given: matrix.fBeta(given.beta),
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
        # The square keeps a product that rounding left just below 0 from becoming NaN, Spark's largest number.
        lambda tp, fp, p, n, _: divide(tp * n - fp * p, (((tp + fp) * (p + n - tp - fp)) ** 2) ** 0.25),
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
    "cost": (
        lambda tp, fp, p, n, given: given.false_negative_cost * tp - given.false_positive_cost * fp,
        lambda matrix, given: _cost(matrix, given),
    ),
    "topK": (
        lambda tp, fp, p, n, _: tp + fp,
        lambda matrix, _: matrix.truePositives() + matrix.falsePositives(),
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
    false_positive_cost: float = 1.0,
    false_negative_cost: float = 1.0,
    top_k: float = math.inf,
) -> BestThreshold:
    """Find the score at which calling all rows from there up positive makes the objective best.

    Every distinct score is tried, so at least one row is called positive; for "cost" also a threshold above them all.
    Of equal values the highest threshold wins.  Choose the threshold on rows that the model did not see, with natural
    class shares.

    Parameters
    ----------
    objective : str, default="f1"
        "f1", "fBeta", "gMean", "mcc", "balancedAccuracy", "youden", "accuracy", "precision", "recall", "cost" or
        "topK".  "youden" is recall + specificity - 1.  "recall" with `min_precision`, or "precision" with `min_recall`,
        finds the best of one at a floor of the other.  "cost" is the mean cost per row, made as small as possible.
        "topK" calls as many rows positive as `top_k` allows; fewer where RankingMetrics has merged scores of the rest.
    beta : float > 0, default=1.0
        Of "fBeta": recall counts beta times as much as precision.
    min_precision, min_recall : float in [0, 1], default=0.0
        Only thresholds that reach these count, for any objective.
    false_positive_cost, false_negative_cost : float in [0, inf), default=1.0
        Of "cost": what a row that is called positive wrongly, or missed, costs more than when called rightly.
    top_k : float > 0, default=inf
        Only thresholds that call at most this weight (rows, without weights) positive count, for any objective.  Rows
        of one score are called together.

    Raises
    ------
    SparkimbError
        Unknown objective, a number out of its range, or no threshold that reaches `min_precision` within `top_k`.

    Notes
    -----
    Cost: no job where RankingMetrics holds the scores on the driver; beyond, one action with a shuffle of the rows, and
    for "cost" a second where calling no row costs least.
    """
    if objective not in OBJECTIVES:
        raise SparkimbError(f"objective is {objective!r}. Choose one of: {', '.join(OBJECTIVES)}.")
    check_beta(beta)
    for name, floor in {"min_precision": min_precision, "min_recall": min_recall}.items():
        if not 0 <= floor <= 1:
            raise SparkimbError(f"{name} is {floor}. Give a share in [0, 1].")
    costs = {"false_positive_cost": false_positive_cost, "false_negative_cost": false_negative_cost}
    for name, cost in costs.items():
        if not 0 <= cost < math.inf:
            raise SparkimbError(f"{name} is {cost}. Give a finite cost of 0 or more.")
    if not top_k > 0 or (objective == "topK" and math.isinf(top_k)):
        raise SparkimbError(f"top_k is {top_k}. Give the number of rows to call positive, above 0.")
    given = _Given(beta, **costs)
    rank, metric = _OBJECTIVES[objective]
    positives, negatives = ranking.positives, ranking.negatives

    def ranked(at: Step) -> tuple[Values, Values]:
        # Sums of weights are rounded; a bound that is met exactly must not be missed for that.
        precise = divide(at.tp, at.tp + at.fp) >= min_precision - ROUNDING
        complete = at.tp / positives >= min_recall - ROUNDING
        few = at.tp + at.fp <= top_k * (1 + ROUNDING)
        return rank(at.tp, at.fp, positives, negatives, given), precise & complete & few

    best = ranking.steps.best(ranked)
    if objective == "cost" and not min_precision and not min_recall:
        # Calling none ranks as 0, and is above every threshold of equal value.
        value = rank(best[1], best[2], positives, negatives, given) if best is not None else 0.0
        if value <= 0:
            highest, *_ = _highest(ranking)
            # Of probabilities well above the highest, so that rounding makes no difference to what uses the threshold.
            best = max(math.nextafter(highest, math.inf), (highest + 1) / 2), 0.0, 0.0
    if best is None:
        raise _out_of_reach(ranking, min_precision, min_recall, top_k)
    threshold, tp, fp = best
    confusion = ConfusionMatrix.fromCounts(
        truePositives=tp,
        falsePositives=fp,
        falseNegatives=max(positives - tp, 0.0),  # the sums of weights may differ in the last bit
        trueNegatives=max(negatives - fp, 0.0),
    )
    return BestThreshold(threshold, objective, metric(confusion, given), confusion)


def _cost(matrix: ConfusionMatrix, given: _Given) -> float:
    errors = matrix.falsePositives() * given.false_positive_cost, matrix.falseNegatives() * given.false_negative_cost
    return sum(errors) / matrix.total


def _highest(ranking: RankingMetrics) -> tuple[float, float, float]:
    """Return score, tp and fp of the highest step."""
    highest = ranking.steps.best(lambda at: (-(at.tp + at.fp), at.tp >= 0))
    assert highest is not None, "there are rows of both classes"
    return highest


def _out_of_reach(ranking: RankingMetrics, min_precision: float, min_recall: float, top_k: float) -> SparkimbError:
    if math.isinf(top_k):
        reached = best_threshold(ranking, "precision", min_recall=min_recall).value
        return SparkimbError(
            f"min_precision is {min_precision}, but with min_recall {min_recall} the best precision is {reached:.6g}. "
            "Lower one of the two."
        )
    score, tp, fp = _highest(ranking)
    if tp + fp > top_k:
        return SparkimbError(
            f"top_k is {top_k:g}, but {tp + fp:g} rows share the highest score, {score:g}. "
            "Raise top_k, or give a score with fewer ties."
        )
    return SparkimbError(
        f"No threshold that calls at most {top_k:g} rows positive (top_k) has precision {min_precision} and recall "
        f"{min_recall}. Raise top_k, or lower min_precision or min_recall."
    )
