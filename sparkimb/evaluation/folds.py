"""Splits that give every class its exact share of every part."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import check_label_type, column, require_columns, temporary_name
from sparkimb.draws import DrawSet, row_key, uniform, with_draw
from sparkimb.errors import SparkimbError
from sparkimb.exact import choose_draws, largest_remainder
from sparkimb.statistics import Group, Histogram, check_labels, draw_histograms
from sparkimb.strategy import Label

# The rows of each class that have their draws here are of the part; those of no part before the last are of the last.
Part = dict[Label, DrawSet]


def stratified_split(
    dataset: DataFrame,
    fractions: Mapping[str, float],
    *,
    labelCol: str = "label",
    idCols: Sequence[str] | None = None,
    seed: int = 0,
    splitCol: str = "split",
) -> DataFrame:
    """Add a column that names each row's part, with every class divided exactly.

    A class of n rows gives a part of fraction f its n·f rows, rounded by largest remainder: 12 rows at 0.6, 0.2 and 0.2
    are 7, 3 and 2.  The same rows whatever the partitioning; exact where idCols identify rows or rows differ, with a
    warning where they do not.

    Parameters
    ----------
    fractions : dict of str to float
        Parts and their fractions in (0, 1), which sum to 1: `{"train": 0.6, "validation": 0.2, "test": 0.2}`.
    idCols : list of str, optional
        Columns that identify a row; by default all columns.

    Raises
    ------
    SparkimbError
        For fractions that do not sum to 1, missing columns, an existing splitCol, null labels.

    Notes
    -----
    Cost: one job, one aggregate over label and id columns; for classes of a few rows up to one more for each part but
    the last.  The result is lazy: the dataset and one column expression.
    """
    if not fractions or any(not 0 < share <= 1 for share in fractions.values()):
        raise SparkimbError(
            f"fractions {dict(fractions)} are not all in (0, 1]. Name each part with its share of rows."
        )
    if abs(sum(fractions.values()) - 1) > 1e-9:
        raise SparkimbError(f"fractions {dict(fractions)} sum to {sum(fractions.values()):g}. They must sum to 1.")
    require_columns(dataset, labelCol=labelCol, idCols=idCols)
    check_label_type(dataset, labelCol)
    if splitCol in dataset.columns:
        raise SparkimbError(f"splitCol '{splitCol}' is there already. Name a column that the dataset does not have.")
    draw = uniform(*row_key(dataset, idCols or dataset.columns), seed=seed, purpose="stratified_split")
    histograms = draw_histograms(dataset, labelCol=labelCol, strataCols=(), draw=draw)
    counts = rows_by_label(histograms, labelCol)
    shares = list(fractions.values())
    sizes = {label: largest_remainder(rows, shares) for label, rows in counts.items()}
    parts = choose_parts(dataset, histograms=histograms, sizes=sizes, labelCol=labelCol, draw=draw)
    *names, last = fractions
    name = temporary_name(dataset, "draw")
    part = F.coalesce(part_of(parts, names, labelCol=labelCol, draw=F.col(name)), F.lit(last))
    return with_draw(dataset, draw, name).withColumn(splitCol, part).drop(name)


def rows_by_label(histograms: Mapping[Group, Histogram], labelCol: str) -> dict[Label, int]:
    """Return the rows of each class, the largest first, and check the labels."""
    return check_labels({label: sum(histogram.values()) for (label, _), histogram in histograms.items()}, labelCol)


def choose_parts(
    dataset: DataFrame,
    *,
    histograms: Mapping[Group, Histogram],
    sizes: Mapping[Label, Sequence[int]],
    labelCol: str,
    draw: Column,
) -> list[Part]:
    """Choose the draws of each part but the last, so that its classes have their sizes: one job a part, often none.

    Warns where equal rows, which share a draw, stand against that.
    """
    parts: list[Part] = []
    left, uneven = dict(histograms), dict[Label, str]()
    for i in range(len(next(iter(sizes.values()))) - 1):
        wanted: dict[Group, int] = {(label, ()): rows[i] for label, rows in sizes.items()}
        before = _rows(left)
        chosen, left = choose_draws(dataset, histograms=left, sizes=wanted, labelCol=labelCol, strataCols=(), draw=draw)
        parts.append({label: draws for (label, _), draws in chosen.items()})
        taken = {group: before[group] - rows for group, rows in _rows(left).items()}
        uneven |= {
            g[0]: f"{taken[g]} instead of {n} rows of class {g[0]!r}" for g, n in wanted.items() if taken[g] != n
        }
    if uneven:
        warnings.warn(
            f"A part has {', another '.join(uneven.values())}: rows repeat another row exactly, and equal rows share "
            "one draw, so they are of one part. Set idCols to columns that tell rows apart.",
            stacklevel=5,
        )
    return parts


def _rows(histograms: Mapping[Group, Histogram]) -> dict[Group, int]:
    return {group: sum(histogram.values()) for group, histogram in histograms.items()}


def part_of(parts: Sequence[Part], names: Sequence[str | int], *, labelCol: str, draw: Column) -> Column:
    """Return the name of a row's part; null in the last part, which has none, and for labels of no part."""
    found = F.when(F.lit(False), F.lit(names[0]) if names else F.lit(None))
    for part, name in zip(parts, names, strict=True):
        for label, draws in part.items():
            found = found.when((column(labelCol) == F.lit(label)) & draws.contains(draw), F.lit(name))
    return found
