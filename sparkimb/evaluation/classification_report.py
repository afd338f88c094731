"""The table of metrics by label that imbalanced-learn reports, from one aggregate over a DataFrame."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame

from sparkimb.evaluation.confusion import check_alpha, confusion_matrix


def classification_report_imbalanced(
    dataset: DataFrame,
    *,
    predictionCol: str = "prediction",
    labelCol: str = "label",
    weightCol: str | None = None,
    alpha: float = 0.1,
) -> pd.DataFrame:
    """Return precision, recall, specificity, F1, G-mean and index balanced accuracy of each label, and their means.

    One row for each label that occurs, sorted, then the means weighted by the labels' rows as "avg / total".  The
    columns are pre, rec, spe, f1, geo, iba and sup; see `ConfusionMatrix.report`, which makes the same table of counts
    that are there already.

    Parameters
    ----------
    predictionCol, labelCol : str
        Of any atomic type, both alike or both numeric or boolean (1, 1.0 and true are one label); never null or NaN.
    weightCol : str, optional
        Weight of each row, in [0, inf).
    alpha : float, default=0.1
        How much the index balanced accuracy counts the difference of recall and specificity.

    Raises
    ------
    SparkimbError
        As `confusion_matrix`, and for an alpha that is not finite.

    Notes
    -----
    Cost: one action, one shuffle of one row per pair of label and prediction and partition.
    Without weights the numbers are those of imbalanced-learn's `classification_report_imbalanced` with zero_division=0;
    with weights its specificity, and what follows from it, mixes rows and weights, and here it does not.

    Examples
    --------
    >>> classification_report_imbalanced(scored, labelCol="is_fraud").round(2)   # doctest: +SKIP
    """
    check_alpha(alpha)
    matrix = confusion_matrix(dataset, predictionCol=predictionCol, labelCol=labelCol, weightCol=weightCol)
    return matrix.report(alpha)
