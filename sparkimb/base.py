"""The sampler contract: estimators that decide a plan in `fit` and change rows in `resample`, never in `transform`."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pyspark.ml.base import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from sparkimb.columns import Features, check_label_type, column, require_columns, resolve_features
from sparkimb.draws import row_key, uniform
from sparkimb.errors import ScoringPathError, SparkimbError
from sparkimb.params import (
    HasFeatures,
    HasIdCols,
    HasLabelCol,
    HasSamplingStrategy,
    HasSeed,
    HasValidationIndicatorCol,
    column_name,
    number,
    param,
)
from sparkimb.persistence import JsonStage
from sparkimb.statistics import Group, Histogram, check_labels, draw_histograms, duplicate_shares, require_two_classes
from sparkimb.strategy import Kind, Label, SamplingPlan

M = TypeVar("M", bound="SamplerModel")

DUPLICATES_WORTH_A_WARNING = 0.01


class SamplerParams(HasLabelCol, HasSamplingStrategy, HasIdCols, HasValidationIndicatorCol, HasSeed, JsonStage):
    """The Params of every sampler and of its model."""

    def _key_draw(self, dataset: DataFrame, keyCols: Sequence[str], purpose: str) -> Column:
        name = type(self).__name__.removesuffix("Model")
        return uniform(*row_key(dataset, keyCols), seed=self.getSeed(), purpose=f"{name}.{purpose}")

    def _is_training(self) -> Column:
        """Say of a row whether it is to be sampled: true but for rows flagged as validation rows."""
        flag = self.getValidationIndicatorCol()
        return F.lit(True) if flag is None else ~F.coalesce(column(flag), F.lit(False))


class Sampler(SamplerParams, Estimator[M]):
    """An estimator that learns from the training rows what to keep, copy or make.

    `fit` decides; `SamplerModel.resample` does.  Put it in `sparkimb.Pipeline`, or call `fitResample`.
    """

    kind: ClassVar[Kind]
    # Checks of sparkimb.testing that do not apply to the class: their names, and the reason.
    exemptions: ClassVar[Mapping[str, str]] = {}

    def fitResample(self, dataset: DataFrame, params: dict[Any, Any] | None = None) -> DataFrame:
        """Fit on a dataset and resample it: the jobs of `fit`, then a lazy DataFrame."""
        copied = self.copy(params) if params else self
        return copied.fit(dataset).resample(dataset)

    @abstractmethod
    def _fit(self, dataset: DataFrame) -> M: ...

    def _check_schema(self, dataset: DataFrame, **more: Sequence[str] | None) -> None:
        flag = self.getValidationIndicatorCol()
        require_columns(
            dataset, labelCol=self.getLabelCol(), idCols=self.getIdCols(), validationIndicatorCol=flag, **more
        )
        check_label_type(dataset, self.getLabelCol())
        if flag is not None and not isinstance(dataset.schema[flag].dataType, BooleanType):
            raise SparkimbError(
                f"validationIndicatorCol '{flag}' is of type {dataset.schema[flag].dataType.simpleString()}. "
                "It must be boolean: true for validation rows."
            )

    def _histograms(
        self, dataset: DataFrame, draw: Column, strataCols: Sequence[str] = ()
    ) -> tuple[dict[Group, Histogram], dict[Label, int]]:
        """Count the training rows by class, stratum and draw, and by class: the one job of every `fit`."""
        histograms = draw_histograms(dataset, labelCol=self.getLabelCol(), strataCols=strataCols, draw=draw)
        totals: dict[Label, int] = {}
        for (label, _), histogram in histograms.items():
            totals[label] = totals.get(label, 0) + sum(histogram.values())
        counts = check_labels(totals, self.getLabelCol())
        require_two_classes(counts, self.getLabelCol())
        return histograms, counts

    def _warn_of_duplicates(self, dataset: DataFrame, keyCols: Sequence[str], counts: Mapping[Label, int]) -> None:
        """Warn if rows of the changed classes cannot be told apart: one job, and none with idCols."""
        if self.getIdCols() is not None or not counts:
            return
        shares = duplicate_shares(dataset, labelCol=self.getLabelCol(), keyCols=keyCols, counts=counts)
        many = {label: share for label, share in shares.items() if share > DUPLICATES_WORTH_A_WARNING}
        if many:
            found = ", ".join(f"{share:.1%} of class {label!r}" for label, share in many.items())
            warnings.warn(
                f"{type(self).__name__}: rows repeat another row exactly ({found}), and equal rows share one draw, so "
                "they are sampled together. Set idCols to columns that tell rows apart.",
                stacklevel=4,
            )


class SamplerModel(SamplerParams, Model):
    """A fitted sampler: a plan, and the means to carry it out on training rows."""

    plan: SamplingPlan
    keyCols: list[str]

    @abstractmethod
    def resample(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with its rows changed.  Lazy: no Spark job."""

    def transform(self, dataset: DataFrame, params: Any = None) -> DataFrame:
        """Refuse: a sampler must not touch the rows being scored."""
        name = type(self).__name__.removesuffix("Model")
        raise ScoringPathError(
            f"{name} changes the rows of a training set, so it cannot run at scoring time. Use "
            "sparkimb.Pipeline, which resamples while fitting and leaves the sampler out of the fitted model, or call "
            "fitResample(dataset) yourself."
        )

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self.transform(dataset)

    def _by_label(self, values: Mapping[Label, Column], otherwise: Column) -> Column:
        """Return the value of a row's class, or `otherwise` for other classes, null labels and validation rows."""
        cases = F.when(~self._is_training(), otherwise)
        for label, value in values.items():
            cases = cases.when(column(self.getLabelCol()) == F.lit(label), value)
        return cases.otherwise(otherwise)

    def _state(self) -> dict[str, Any]:
        return {"plan": self.plan.to_json(), "keyCols": self.keyCols}

    def _set_state(self, state: dict[str, Any]) -> None:
        self.plan = SamplingPlan.from_json(state["plan"])
        self.keyCols = state["keyCols"]


class OverSamplerParams(SamplerParams, HasFeatures):
    """The Params of every sampler that makes rows, and of its model."""

    syntheticCol = param("syntheticCol", "boolean output column: true for rows made", column_name("syntheticCol"))
    lineageCol = param("lineageCol", "struct output column: parents' ids and the gap", column_name("lineageCol"))
    maxGrowth = param("maxGrowth", "largest output, as a multiple of the input's rows", number("maxGrowth", 1))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(maxGrowth=10.0)

    def getSyntheticCol(self) -> str | None:
        """Return syntheticCol, or None."""
        value: str | None = self._optional(self.syntheticCol)
        return value

    def getLineageCol(self) -> str | None:
        """Return lineageCol, or None."""
        value: str | None = self._optional(self.lineageCol)
        return value

    def getMaxGrowth(self) -> float:
        """Return maxGrowth."""
        return float(self.getOrDefault(self.maxGrowth))

    def _features(self, dataset: DataFrame) -> Features:
        return resolve_features(
            dataset,
            featuresCol=self.getFeaturesCol(),
            inputCols=self.getInputCols(),
            categoricalCols=self.getCategoricalCols(),
        )

    def _check_outputs(self, dataset: DataFrame) -> None:
        for name, given in (("syntheticCol", self.getSyntheticCol()), ("lineageCol", self.getLineageCol())):
            if given is not None and given in dataset.columns:
                raise SparkimbError(f"{name} '{given}' is there already. Name a column that the dataset does not have.")
        if self.getLineageCol() is not None and self.getIdCols() is None:
            raise SparkimbError(
                f"lineageCol '{self.getLineageCol()}' tells the parents' ids, but idCols is not set. Set idCols."
            )

    def _check_growth(self, plan: SamplingPlan) -> None:
        before, after = sum(plan.counts.values()), sum(plan.targets.values())
        if after > self.getMaxGrowth() * before:
            raise SparkimbError(
                f"{type(self).__name__}.maxGrowth is {self.getMaxGrowth():g}, but the plan makes {after:,} rows of "
                f"{before:,}. Ask for fewer rows with samplingStrategy, or raise maxGrowth to {after / before:.2f}."
            )
