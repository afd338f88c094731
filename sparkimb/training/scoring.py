"""A trained model as a column function on Spark: the one module of `sparkimb.training` that speaks to Spark."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sparkimb.errors import SparkimbError

if TYPE_CHECKING:
    from pyspark.sql import Column


def probability_udf(
    model: nn.Module, *, width: int, classes: int = 2, batch_size: int = 4096
) -> Callable[[Column | str], Column]:
    """Return a function of a column of features that gives probabilities, for any DataFrame or stream.

    Parameters
    ----------
    model : nn.Module
        Called with features [b, width], float32, it returns logits: [b] or [b, 1] for two classes, [b, C] for C.  A
        copy of it, with its parameters, goes to the executors, which need torch and the model's class.
    width : int
        Features of a row.
    classes : int in [2, inf), default=2
        With two the function gives the probability of class 1, a double; with more an array of all classes'.
    batch_size : int, default=4096
        Rows that the model sees at once.

    Returns
    -------
    callable
        Of a column of array<float> or array<double>, never null: `F.array(...)` of numbers, or `vector_to_array` of a
        vector.

    Notes
    -----
    Cost: a pandas UDF; each task runs the model on one core.
    Probabilities are of the classes as the model learnt them: of resampled rows or balanced batches not the data's
    (`sparkimb.evaluation.correct_priors`).

    Examples
    --------
    >>> model, labels = load_mlp("output/fraud/model.pt")  # doctest: +SKIP
    >>> score = probability_udf(model, width=30)  # doctest: +SKIP
    >>> rows.withColumn("score", score(vector_to_array("features")))  # doctest: +SKIP
    """
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import ArrayType, DoubleType

    if classes < 2 or width < 1 or batch_size < 1:
        raise SparkimbError(
            f"width is {width}, classes {classes} and batch_size {batch_size}. Give 1 or more features, 2 or more "
            "classes, and 1 or more rows."
        )
    sent = copy.deepcopy(model).cpu().eval().requires_grad_(False)

    def make_predict() -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        torch.set_num_threads(1)  # Spark runs a task on each core

        def predict(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            with torch.inference_mode():
                z = sent(torch.from_numpy(np.array(features, dtype=np.float32))).double().reshape(len(features), -1)
                if z.shape[1] == 1:
                    return np.asarray(torch.sigmoid(z[:, 0]))
                p = torch.softmax(z, 1)
                return np.asarray(p[:, 1] if classes == 2 else p)

        return predict

    return_type = DoubleType() if classes == 2 else ArrayType(DoubleType())
    scored: Callable[[Column | str], Column] = predict_batch_udf(
        make_predict, return_type=return_type, batch_size=batch_size, input_tensor_shapes=[[width]]
    )
    return scored
