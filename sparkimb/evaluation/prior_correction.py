"""PriorCorrection: a stage that undoes on the probabilities what resampling or weighting did to the class priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.feature import ElementwiseProduct, Normalizer, SQLTransformer
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame

from sparkimb.columns import quoted
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.calibration import correct_priors
from sparkimb.evaluation.class_probabilities import (
    RewritesProbabilities,
    as_read,
    class_numbers,
    in_class_order,
    require_set,
)
from sparkimb.evaluation.class_scores import entries
from sparkimb.params import param
from sparkimb.persistence import JsonStage
from sparkimb.strategy import Label, SamplingPlan


class PriorCorrection(RewritesProbabilities, JsonStage, Transformer):
    """Correct class probabilities for the class priors that training changed, by `correct_priors`.

    Exact where the chance of a row to be kept, copied or weighted depends on its class alone; elsewhere fit a
    `PlattCalibrator` or an `IsotonicCalibrator` on natural held-out rows.  Of two classes the ranking is unchanged.
    `sparkimb.Pipeline(calibrate=True)` does the same with pyspark's own stages, and to the prediction as well.

    Parameters
    ----------
    before : list of float, optional
        Rows, or shares, of each class in the natural data, each in (0, inf), in the order of the probabilities.
        Needed to transform.
    after : list of float, optional
        Rows, shares or sums of weights of each class in what the model was trained on.  Needed to transform.
    probabilityCol : str, default="probability"
        Vector, or array of numbers, one per class.
    outputCol : str, default="correctedProbability"
        Column written, a vector or an array<double> as probabilityCol is: a new one, or probabilityCol to replace it.

    Raises
    ------
    SparkimbError
        In `transform`, before any job: before or after not set, or of different lengths; a column that is missing or
        of another type; an outputCol that exists.

    Notes
    -----
    Rows:   as they come.  Null where the probabilities are null, hold a null, are of another number than the priors,
            or sum to 0.
    Cost:   a plain expression: no job, no shuffle; also on a stream.

    Examples
    --------
    >>> PriorCorrection(before=[99_000, 1_000], after=[1_000, 1_000]).transform(scored)  # doctest: +SKIP
    >>> PriorCorrection.fromPlan(sampler.fit(train).plan).transform(scored)  # doctest: +SKIP
    """

    before = param("before", "rows or shares of each class in the natural data", class_numbers("before"))
    after = param("after", "rows or weights of each class in the training data", class_numbers("after"))

    @keyword_only
    def __init__(
        self,
        *,
        before: Sequence[float] | None = None,
        after: Sequence[float] | None = None,
        probabilityCol: str = "probability",
        outputCol: str = "correctedProbability",
    ):
        super().__init__()
        self._setDefault(outputCol="correctedProbability")
        self.setParams(**self._input_kwargs)

    @classmethod
    def fromPlan(cls, plan: SamplingPlan, *, labels: Sequence[Label] | None = None, **params: Any) -> PriorCorrection:
        """Undo a sampler's plan.

        Parameters
        ----------
        labels : list of labels, optional
            All labels in the order of the probabilities; by default 0, 1, ...
        **params
            probabilityCol and outputCol.
        """
        return cls.fromCounts(plan.counts, plan.targets, labels=labels, **params)

    @classmethod
    def fromWeights(
        cls,
        counts: Mapping[Label, int],
        classWeights: Mapping[Label, float],
        *,
        labels: Sequence[Label] | None = None,
        **params: Any,
    ) -> PriorCorrection:
        """Undo class weights: those of a ClassWeigherModel, with its counts."""
        unknown = [label for label in counts if label not in classWeights]
        if unknown:
            raise SparkimbError(f"classWeights has no weight for {unknown}. Give one for every label in counts.")
        weighted = {label: rows * classWeights[label] for label, rows in counts.items()}
        return cls.fromCounts(counts, weighted, labels=labels, **params)

    @classmethod
    def fromCounts(
        cls,
        before: Mapping[Label, float],
        after: Mapping[Label, float],
        *,
        labels: Sequence[Label] | None = None,
        **params: Any,
    ) -> PriorCorrection:
        """Correct from one set of rows, shares or weights by label to another."""
        return cls(before=in_class_order(before, labels), after=in_class_order(after, labels), **params)

    def getBefore(self) -> list[float] | None:
        """Return before, or None."""
        value: list[float] | None = self._optional(self.before)
        return value

    def getAfter(self) -> list[float] | None:
        """Return after, or None."""
        value: list[float] | None = self._optional(self.after)
        return value

    def _transform(self, dataset: DataFrame) -> DataFrame:
        require_set(self, ["before", "after"])
        self._check_columns(dataset)
        name = self.getProbabilityCol()
        corrected = correct_priors(entries(dataset, name), before=self.getBefore() or [], after=self.getAfter() or [])
        return dataset.withColumn(self.getOutputCol(), as_read(dataset, name, corrected))


def with_corrected_priors(model: Any, shifts: Sequence[float]) -> list[Transformer]:
    """Return a fitted learner of pyspark's and the stages behind it that correct its probabilities, all pyspark's own.

    The probabilities p_c become p_c / shift_c over their sum: an ElementwiseProduct and a Normalizer.  They take the
    place of the learner's, which are now called `uncorrectedProbability`.  The prediction follows by the learner's
    `thresholds`, which a class's p_c is divided by before the largest is taken.

    Parameters
    ----------
    model : ProbabilisticClassificationModel
        Changed: its Params probabilityCol, and thresholds or threshold.
    shifts : sequence of float > 0
        For each class how much more likely training made a row of it, up to one factor for all.
    """
    probability = model.getOrDefault("probabilityCol")
    uncorrected, scaled = (f"{word}{probability[0].upper()}{probability[1:]}" for word in ("uncorrected", "scaled"))
    model.set(model.getParam("probabilityCol"), uncorrected)
    if model.hasParam("threshold") and model.isSet("threshold"):
        cut = model.getOrDefault("threshold")
        negative, positive = (1 - cut) * shifts[0], cut * shifts[1]
        model.set(model.getParam("threshold"), positive / (negative + positive))
    else:
        thresholds = model.getOrDefault("thresholds") if model.isSet("thresholds") else [1.0] * len(shifts)
        model.set(model.getParam("thresholds"), [t * shift for t, shift in zip(thresholds, shifts, strict=True)])
    undone = Vectors.dense([min(shifts) / shift for shift in shifts])
    return [
        model,
        ElementwiseProduct(scalingVec=undone, inputCol=uncorrected, outputCol=scaled),
        Normalizer(p=1.0, inputCol=scaled, outputCol=probability),
        SQLTransformer(statement=f"SELECT * EXCEPT ({quoted(scaled)}) FROM __THIS__"),
    ]
