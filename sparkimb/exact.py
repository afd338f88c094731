"""Sets of draws that hold an exact number of rows of each class (and stratum)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame

from sparkimb.draws import ALL_DRAWS, NO_DRAWS, DrawSet, Interval, cut_below, interval_to_split, intervals_with_total
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

    No job where whole buckets add up, as they do but for groups of a few rows; else one job, which splits buckets.
    The rows taken differ from the size only where rows share a draw, which rows with ids of their own do not.
    """
    chosen: dict[Group, DrawSet] = {}
    left: dict[Group, Histogram] = {}
    unsolved: dict[Group, tuple[list[Interval], Interval, int]] = {}
    for group, size in sizes.items():
        histogram = histograms[group]
        if size == 0:
            chosen[group], left[group] = NO_DRAWS, dict(histogram)
        elif size == sum(histogram.values()):
            chosen[group], left[group] = ALL_DRAWS, {}
        elif (taken := intervals_with_total(histogram, size)) is not None:
            chosen[group], left[group] = _spanning(histogram, taken), _without(histogram, taken)
        else:
            unsolved[group] = interval_to_split(histogram, size)
    if unsolved:
        split = {group: interval for group, (_, interval, _) in unsolved.items()}
        draws = draws_in(dataset, labelCol=labelCol, strataCols=strataCols, draw=draw, intervals=split)
        for group, (whole, (low, high), rows) in unsolved.items():
            bound, found = cut_below(draws[group], rows, (low, high))
            chosen[group] = DrawSet.union([(whole[0][0] if whole else low, bound)])
            left[group] = _without(histograms[group], [*whole, (low, high)])
            left[group][bound, high] = histograms[group][low, high] - found
    return chosen, left


def _spanning(histogram: Histogram, taken: Sequence[Interval]) -> DrawSet:
    """Join the intervals taken that have none but empty ones between them: each one less makes a shorter filter."""
    joined: list[Interval] = []
    in_a_row = False
    for low, high in sorted(histogram):
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
