"""Splits that give every class its exact share of every part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import check_label_type, column, require_columns
from sparkimb.draws import row_key, uniform
from sparkimb.errors import SparkimbError
from sparkimb.exact import choose_draws, largest_remainder
from sparkimb.statistics import check_labels, draw_histograms


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
    are 7, 3 and 2.  The same rows whatever the partitioning; exact where idCols identify rows or rows differ.

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
    left = draw_histograms(dataset, labelCol=labelCol, strataCols=(), draw=draw)
    check_labels({label: sum(histogram.values()) for (label, _), histogram in left.items()}, labelCol)
    sizes = {group: largest_remainder(sum(h.values()), list(fractions.values())) for group, h in left.items()}

    *parts, last = fractions
    part = F.when(F.lit(False), F.lit(last))
    for i, name in enumerate(parts):
        wanted = {group: rows[i] for group, rows in sizes.items()}
        chosen, left = choose_draws(dataset, histograms=left, sizes=wanted, labelCol=labelCol, strataCols=(), draw=draw)
        for (label, _), draws in chosen.items():
            part = part.when((column(labelCol) == F.lit(label)) & draws.contains(draw), F.lit(name))
    return dataset.withColumn(splitCol, part.otherwise(F.lit(last)))
