"""How many rows go out for each row that comes in, from the classes' sizes; and the draw that decides for one row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from pyspark.sql import Column
from pyspark.sql import functions as F

from sparkimb.strategy import Label

METHODS = ("under", "over", "oob", "uob", "smote", "weigh")
LOWERING = ("under", "uob")  # they drop rows of the larger classes
RAISING = ("over", "oob", "smote")  # they add rows to the smaller ones
POISSON = ("oob", "uob")

# Above this exp(-rate) and its multiples would lose digits; no stream wants a row a hundred times.
MOST_RATE = 100.0


def sampling_rates(
    method: str,
    sizes: Mapping[Label, float],
    *,
    ratio: float,
    maxRate: float,
    minRate: float = 0.0,
    strays: float = 0.0,
) -> dict[Label, float]:
    """Return the mean number of rows that go out for each row of a class.

    Parameters
    ----------
    method : str
        With sizes w: "under" and "uob" min(1, min w / (ratio w_c)), at least minRate; "over", "oob" and "smote"
        max(1, ratio max w / w_c), at most maxRate; "weigh" the weight sum w / (K w_c) of K classes, at most maxRate.
    sizes : dict
        Size of each class, above 0.
    ratio : float in (0, 1]
        Wanted size of the smallest class for each row of the largest.
    maxRate : float in [1, 100]
    minRate : float in [0, 1], default=0.0
    strays : float, default=0.0
        Classes of a smaller size are not the smallest, if two others are left.
    """
    if len(sizes) < 2:
        return dict.fromkeys(sizes, 1.0)
    settled = [size for size in sizes.values() if size >= strays]
    smallest = min(settled if len(settled) > 1 else sizes.values())
    largest, total = max(sizes.values()), sum(sizes.values())
    if method == "weigh":
        return {label: min(maxRate, total / (len(sizes) * size)) for label, size in sizes.items()}
    if method in LOWERING:
        return {label: min(1.0, max(minRate, smallest / (ratio * size))) for label, size in sizes.items()}
    return {label: min(maxRate, max(1.0, ratio * largest / size)) for label, size in sizes.items()}


def number_of_rows(method: str, rate: float, draw: Column) -> Column:
    """Return how many rows go out for a row with this draw in [0, 1): an integer with mean `rate`.

    The Poisson methods [1]_ take the quantile of the draw, the others the whole part of the rate and one more for the
    rows whose draw is below the rest.

    References
    ----------
    .. [1] Wang, Minku, Yao, "Resampling-Based Ensemble Methods for Online Class Imbalance Learning", TKDE 27(5), 2015.
    """
    if rate == 1.0:
        return F.lit(1)  # a class that is left as it is, also by the Poisson methods
    if method in POISSON:
        return _how_many_below(draw, poisson_bounds(rate), 0)
    whole = math.floor(rate)
    return F.when(draw < F.lit(rate - whole), F.lit(whole + 1)).otherwise(F.lit(whole))


def poisson_bounds(rate: float) -> list[float]:
    """Return P(K <= 0), P(K <= 1), … of a Poisson variable, up to the largest double below 1."""
    terms = [math.exp(-rate)]
    while len(terms) <= rate or terms[-1] > 2.0**-60:
        terms.append(terms[-1] * rate / len(terms))
    return [bound for bound in accumulate(terms) if bound < 1.0]


def _how_many_below(draw: Column, bounds: Sequence[float], below: int) -> Column:
    """Return how many of the bounds are at most the draw: a tree of comparisons."""
    if not bounds:
        return F.lit(below)
    middle = len(bounds) // 2
    left = _how_many_below(draw, bounds[:middle], below)
    return F.when(draw < F.lit(bounds[middle]), left).otherwise(
        _how_many_below(draw, bounds[middle + 1 :], below + middle + 1)
    )
