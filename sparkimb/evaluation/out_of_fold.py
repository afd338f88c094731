"""Predictions for every row by a model that did not see it."""

from __future__ import annotations

from typing import Any

from pyspark.ml.base import Estimator
from pyspark.sql import DataFrame

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import require_numeric


def out_of_fold_predictions(
    dataset: DataFrame, estimator: Estimator[Any], *, numFolds: int, foldCol: str = "fold"
) -> DataFrame:
    """Predict each fold with the estimator fitted on the others.

    For what must not be learned from rows that a model was trained on: `InstanceHardnessFolds`, calibrators,
    thresholds.  A `sparkimb.Pipeline` resamples each training set alone, so the predictions are for natural rows.

    Parameters
    ----------
    estimator : Estimator
        Fitted numFolds times, one after another.
    numFolds : int, at least 2
    foldCol : str, default="fold"
        Integer in [0, numFolds): what `StratifiedFolds` writes.  Rows with another value are left out.

    Returns
    -------
    DataFrame
        What the models' transform gives, the rows of all folds one after another.

    Raises
    ------
    SparkimbError
        Before any job: a missing foldCol, one that is no number, fewer than 2 folds.

    Notes
    -----
    Cost: numFolds times that of `estimator.fit`.  The result is lazy: each fold is a filter of the dataset.
    """
    if numFolds < 2:
        raise SparkimbError(
            f"numFolds is {numFolds}. It must be at least 2, so that a model can be fitted on the rest."
        )
    require_columns(dataset, foldCol=foldCol)
    require_numeric(dataset, foldCol=foldCol)
    fold = column(foldCol)
    known = dataset.where(fold.isin(*range(numFolds)))
    first, *others = (estimator.fit(known.where(fold != i)).transform(known.where(fold == i)) for i in range(numFolds))
    predicted: DataFrame = first
    for other in others:
        predicted = predicted.unionByName(other)
    return predicted
