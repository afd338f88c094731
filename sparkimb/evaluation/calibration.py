"""Predicted probabilities brought back to the class priors that held before resampling or weighting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError


def correct_priors(probability: Column, *, before: Sequence[float], after: Sequence[float]) -> Column:
    """Return the class probabilities as if the model had been trained with the natural class priors.

    Each probability is multiplied by before / after of its class, and the row scaled to sum 1.  This is exact where the
    chance of a row to be kept, copied or weighted depends on its class alone: random under- and over-sampling, class
    weights.  For SMOTE, ENN and the like, which move the classes' densities, fit an isotonic or logistic calibration on
    natural hold-out rows instead.

    Parameters
    ----------
    probability : Column of array<double>
        One probability per class, in the order of the classes in the lists.  For a vector column give
        `vector_to_array(col)`.
    before : sequence of float > 0
        Rows, or shares, of each class in the natural data.
    after : sequence of float > 0
        Rows, shares, or sums of weights of each class in what the model was trained on.  Each list may have its own
        scale.

    Returns
    -------
    Column of array<double>
        Null where the array is null, holds a null, has another length, or sums to 0.

    Raises
    ------
    SparkimbError
        Lists of different lengths, of fewer than two classes, or with values that are not finite and above 0.

    Notes
    -----
    Cost: a plain expression, also on a stream.  Starts no job.  For two classes and a majority of which the share b was
    kept it is the p = b p_s / (b p_s - p_s + 1) of [2]_.

    References
    ----------
    .. [1] Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
           Neural Computation 14, 2002, 21-41.
    .. [2] Dal Pozzolo et al., "Calibrating probability with undersampling for unbalanced classification", IEEE SSCI,
           2015, 159-166.

    Examples
    --------
    >>> correct_priors(vector_to_array("probability"), before=[99_000, 1_000], after=[1_000, 1_000])   # doctest: +SKIP
    """
    if len(before) != len(after) or len(before) < 2:
        raise SparkimbError(
            f"before has {len(before)} and after {len(after)} classes. "
            "Give one number per class in both, in the order of the probability array."
        )
    for name, priors in {"before": before, "after": after}.items():
        wrong = [prior for prior in priors if not 0 < prior < math.inf]
        if wrong:
            raise SparkimbError(f"{name} holds {wrong}. Give the rows or the share of every class, finite and above 0.")
    ratios = [float(b) / sum(before) / (float(a) / sum(after)) for b, a in zip(before, after, strict=True)]
    scaled = F.zip_with(probability, F.array(*map(F.lit, ratios)), lambda p, ratio: p * ratio)
    # The sum is taken once per row, as the finishing step of the fold binds it.
    corrected = F.aggregate(
        scaled,
        F.lit(0.0),
        lambda total, p: total + p,
        lambda total: F.when(total != 0, F.transform(scaled, lambda p: p / total)),
    )
    return F.when(F.size(probability) == len(ratios), corrected)
