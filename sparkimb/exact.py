"""Sets of draws that hold an exact number of rows of each class (and stratum)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame

from sparkimb.draws import ALL_DRAWS, BUCKETS, NO_DRAWS, DrawSet, buckets_with_total, cut_below, split_bucket
from sparkimb.statistics import Group, draws_in


def choose_draws(
    dataset: DataFrame,
    *,
    histograms: Mapping[Group, Mapping[int, int]],
    sizes: Mapping[Group, int],
    labelCol: str,
    strataCols: Sequence[str],
    draw: Column,
) -> tuple[dict[Group, DrawSet], dict[Group, int]]:
    """Choose for each group the draws to keep, so that its size is met; return them and the rows that they hold.

    No job where whole buckets add up, as they do but for groups of a few rows; else one job, which splits buckets.
    The rows held differ from the size only where rows share a draw, which rows with ids of their own do not.
    """
    chosen: dict[Group, DrawSet] = {}
    held = dict(sizes)
    unsolved: dict[Group, tuple[list[int], int, int]] = {}
    for group, size in sizes.items():
        histogram = histograms[group]
        if size in (0, sum(histogram.values())):
            chosen[group] = ALL_DRAWS if size else NO_DRAWS
        elif (buckets := buckets_with_total(histogram, size)) is not None:
            chosen[group] = DrawSet.of_buckets(buckets)
        else:
            unsolved[group] = split_bucket(histogram, size)
    if unsolved:
        split = {group: b for group, (_, b, _) in unsolved.items()}
        draws = draws_in(dataset, labelCol=labelCol, strataCols=strataCols, draw=draw, buckets=split)
        for group, (whole, b, rows) in unsolved.items():
            bound, found = cut_below(draws[group], rows, (b + 1) / BUCKETS)
            chosen[group] = DrawSet.of_buckets(whole, (b, bound))
            held[group] += found - rows
    return chosen, held
