"""Sets of draws that hold an exact number of rows of each class (and stratum)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pyspark.sql import Column, DataFrame

from sparkimb.draws import ALL_DRAWS, DrawSet, Interval, cut_below, fill
from sparkimb.statistics import Group, Histogram, draws_in


def choose_draws(
    dataset: DataFrame,
    *,
    histograms: Mapping[Group, Histogram],
    sizes: Mapping[Group, int],
    labelCol: str,
    strataCols: Sequence[str],
    draw: Column,
) -> tuple[dict[Group, DrawSet], dict[Group, Histogram]]:
    """Choose for each group the draws to take, so that its size is met; return them and the histograms of what is left.

    No job where whole buckets add up; else one job, which looks at the few draws of one small bucket in each group
    where they do not.  The rows taken differ from the size only where rows share a draw, which rows with ids of their
    own do not.  A set may also cover draws that no row of its histogram has, so when what is left is divided again, the
    first set that holds a row's draw is the row's.
    """
    filled = {group: fill(histograms[group], size) for group, size in sizes.items()}
    short = {group: rest for group, (_, rest) in filled.items() if rest}
    # Any interval not taken holds more rows than are still wanted, or it would have been taken: split the smallest.
    split = {group: _smallest(_without(histograms[group], filled[group][0])) for group in short}
    draws = draws_in(dataset, labelCol=labelCol, strataCols=strataCols, draw=draw, intervals=split) if split else {}
    chosen: dict[Group, DrawSet] = {}
    left: dict[Group, Histogram] = {}
    for group, (taken, rest) in filled.items():
        histogram = dict(histograms[group])
        if group in split:
            low, high = split[group]
            bound, found = cut_below(draws[group], rest, (low, high))
            rows = histogram.pop((low, high))
            histogram |= {(low, bound): found, (bound, high): rows - found}
            taken = [*taken, (low, bound)]
        left[group] = _without(histogram, taken)
        chosen[group] = _spanning(histogram, taken) if any(left[group].values()) else ALL_DRAWS
    return chosen, left


def _smallest(histogram: Histogram) -> Interval:
    return min((rows, interval) for interval, rows in histogram.items() if rows)[1]


def _spanning(histogram: Histogram, taken: Collection[Interval]) -> DrawSet:
    """Join the intervals taken that have none but empty ones between them: each one less makes a shorter filter."""
    joined: list[Interval] = []
    in_a_row = False
    for low, high in sorted(interval for interval, rows in histogram.items() if rows):
        if (low, high) in taken:
            joined = [*joined[:-1], (joined[-1][0], high)] if in_a_row else [*joined, (low, high)]
        in_a_row = (low, high) in taken
    return DrawSet.union(joined)


def _without(histogram: Histogram, taken: Sequence[Interval]) -> Histogram:
    return {interval: rows for interval, rows in histogram.items() if interval not in set(taken)}


def largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Divide rows by shares that sum to 1: whole parts first, the rest to the largest remainders, ties to the first."""
    quotas = [total * share for share in shares]
    sizes = [int(quota + 1e-9) for quota in quotas]  # 0.6 of 10 is 5.999... in binary
    by_remainder = sorted(range(len(shares)), key=lambda i: (-round(quotas[i] - sizes[i], 9), i))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes
