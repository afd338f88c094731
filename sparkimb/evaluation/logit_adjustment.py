"""LogitAdjustment: the prediction that favours rare classes, taken from the probabilities of any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.class_probabilities import class_numbers, in_class_order, require_set
from sparkimb.evaluation.class_scores import (
    HasLabels,
    HasPredictionCol,
    HasProbabilityCol,
    class_scores,
    label_of_largest,
    require_scores,
)
from sparkimb.params import number, param
from sparkimb.persistence import JsonStage
from sparkimb.strategy import Label


class LogitAdjustment(HasProbabilityCol, HasPredictionCol, HasLabels, JsonStage, Transformer):
    """Predict the class with the largest log p_c - tau log prior_c.

    With tau = 1 and calibrated probabilities this minimises the balanced error, the mean of the classes' error rates.
    A cut for two classes or thresholds tuned on held-out rows (`best_threshold`) serve other objectives.

    Parameters
    ----------
    priors : list of float, optional
        Rows, shares or sums of weights of each class in what the model was trained on, each in (0, inf), in the order
        of the probabilities.  Needed to transform.
    tau : float in [0, inf), default=1.0
        0 leaves the prediction to the probabilities; above 1 favours rare classes even more.
    probabilityCol : str, default="probability"
        Vector, or array of numbers, one per class.
    predictionCol : str, default="prediction"
        Output column; replaced if it is there.  It holds labels.
    labels : list of str, bool, int or float, optional
        The classes in the order of the probabilities; by default 0.0, 1.0, ..., as pyspark's predictions are.

    Raises
    ------
    SparkimbError
        In `transform`, before any job: priors not set, or of another number than labels; a column that is missing or of
        another type.

    Notes
    -----
    Rows:   as they come.  Of equal classes the first is predicted; null where the probabilities are null, hold a null
            or NaN, or are of another number than the priors.
    Cost:   a plain expression: no job, no shuffle; also on a stream.

    References
    ----------
    .. [1] Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

    Examples
    --------
    >>> LogitAdjustment.fromCounts(class_counts(train)).transform(scored)  # doctest: +SKIP
    """

    priors = param("priors", "rows, shares or weights of each class in the training data", class_numbers("priors"))
    tau = param("tau", "strength of the adjustment", number("tau", 0))

    @keyword_only
    def __init__(
        self,
        *,
        priors: Sequence[float] | None = None,
        tau: float = 1.0,
        probabilityCol: str = "probability",
        predictionCol: str = "prediction",
        labels: Sequence[Label] | None = None,
    ):
        super().__init__()
        self._setDefault(tau=1.0)
        self.setParams(**self._input_kwargs)

    @classmethod
    def fromCounts(
        cls, counts: Mapping[Label, float], *, labels: Sequence[Label] | None = None, **params: Any
    ) -> LogitAdjustment:
        """Adjust by rows of each label in the training data: of `class_counts`, or of a sampler's `plan.targets`.

        Parameters
        ----------
        labels : list of labels, optional
            All labels in the order of the probabilities, which are then predicted; by default 0, 1, ...
        **params
            tau, probabilityCol and predictionCol.
        """
        return cls(priors=in_class_order(counts, labels), labels=labels, **params)

    def getPriors(self) -> list[float] | None:
        """Return priors, or None."""
        value: list[float] | None = self._optional(self.priors)
        return value

    def getTau(self) -> float:
        """Return tau."""
        return float(self.getOrDefault(self.tau))

    def _transform(self, dataset: DataFrame) -> DataFrame:
        require_set(self, ["priors"])
        require_scores(dataset, self.getProbabilityCol(), by="probabilityCol", several=True)
        priors = self.getPriors() or []
        labels = self.getLabels() or [float(i) for i in range(len(priors))]
        if len(labels) != len(priors):
            raise SparkimbError(
                f"LogitAdjustment.labels is {labels}, but priors is {priors}. Give one of each per class."
            )
        # p / prior^tau is largest where its logarithm is, and takes a probability of 0.
        factors = [(min(priors) / prior) ** self.getTau() for prior in priors]
        scores = class_scores(dataset, self.getProbabilityCol(), len(priors))
        adjusted = [score * F.lit(factor) for score, factor in zip(scores, factors, strict=True)]
        return dataset.withColumn(self.getPredictionCol(), label_of_largest(adjusted, labels))
