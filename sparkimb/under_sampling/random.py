"""Random under-sampling, exact to the row and stratified on request."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from sparkimb.base import Sampler, SamplerModel, SamplerParams
from sparkimb.columns import require_columns, temporary_name
from sparkimb.draws import DrawSet, with_draw
from sparkimb.errors import SparkimbError
from sparkimb.exact import choose_draws
from sparkimb.params import column_names, param
from sparkimb.statistics import INTERVAL_TYPE, Group, with_group_values
from sparkimb.strategy import Label, SamplingPlan, majority_class, minority_class, resolve, targeted_classes


class _Params(SamplerParams):
    strataCols = param("strataCols", "columns within whose values classes are balanced", column_names("strataCols"))

    def getStrataCols(self) -> list[str]:
        """Return strataCols."""
        return list(self._optional(self.strataCols) or [])


class RandomUnderSampler(_Params, Sampler["RandomUnderSamplerModel"]):
    """Keep a random, exact number of rows of the larger classes.

    The first thing to try where the majority is large: it makes training cheaper, and the change of the class priors
    can be undone on the predicted probabilities (`sparkimb.evaluation.correct_priors`).

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.  With strataCols a word or a float.
    strataCols : list of str, optional
        Balance the classes within each value of these columns (of all of them together).  Which class is the smallest
        is decided over all rows; where a stratum has fewer rows of a class than asked for it keeps them all.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a second job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept and not counted.
    seed : int, default=0

    Raises
    ------
    SparkimbError
        In `fit`, before any job: missing columns, a label or flag of the wrong type, a dict with strataCols.  After the
        count: null labels, a single class, targets above a class's rows, more than 10,000 classes and strata.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ; a subset of the input.
            Strata without a row of the smallest class are left whole, with a warning.
    Cost:   fit: one aggregate over label, strata and id columns (up to 568 groups a class and stratum); without idCols
            over all columns, and a second, sampled one to warn of duplicates.  Where strata of a few rows, or rows that
            share a draw, cannot be divided by buckets: one more.  resample: lazy, a filter that the majority passes
            inside the JVM; with strataCols behind a broadcast join.
    Same input and seed give the same rows, whatever the partitioning.

    Examples
    --------
    >>> RandomUnderSampler(samplingStrategy=0.5, idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    kind = "under"

    @keyword_only
    def __init__(
        self,
        *,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        strataCols: Sequence[str] | None = None,
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> RandomUnderSamplerModel:
        strata = self.getStrataCols()
        self._check_schema(dataset, strataCols=strata)
        if strata and isinstance(self.getSamplingStrategy(), dict):
            raise SparkimbError(
                "RandomUnderSampler.samplingStrategy is a dict, which gives rows of the whole dataset, but strataCols "
                f"{strata} asks for balance in each stratum. Use a word or a float, or leave strataCols out."
            )
        keyCols = self.getIdCols() or dataset.columns
        training = dataset.where(self._is_training())
        draw = self._key_draw(training, keyCols, "keep")
        histograms, counts = self._histograms(training, draw, strata)
        rows = {group: sum(histogram.values()) for group, histogram in histograms.items()}
        plan = resolve(self.getSamplingStrategy(), counts, "under")
        sizes: dict[Group, int] = {(label, ()): plan.targets[label] for label in plan.changed}
        if strata:
            sizes = self._sizes_in_strata(rows, counts)
        chosen, dropped = choose_draws(
            training, histograms=histograms, sizes=sizes, labelCol=self.getLabelCol(), strataCols=strata, draw=draw
        )
        model = RandomUnderSamplerModel()
        kept = {group: rows[group] - sum(dropped[group].values()) for group in sizes}
        model.plan = SamplingPlan(counts, _totals({**rows, **kept}, counts))
        model.keyCols = list(keyCols)
        model.chosen = chosen
        self._warn_of_duplicates(training, keyCols, {c: counts[c] for c in model.plan.changed})
        return self._copyValues(model._resetUid(self.uid))

    def _sizes_in_strata(self, rows: Mapping[Group, int], counts: Mapping[Label, int]) -> dict[Group, int]:
        """Return the rows wanted of each class in each stratum that has rows of the smallest class."""
        strategy = self.getSamplingStrategy()
        minority = minority_class(counts)
        if isinstance(strategy, str):
            targeted, ratio = targeted_classes(strategy, counts, "under"), 1.0
        else:
            assert isinstance(strategy, float)
            targeted, ratio = [majority_class(counts)], strategy
        sizes = {}
        left_whole = 0
        for (label, stratum), n in rows.items():
            reference = rows.get((minority, stratum), 0)
            if label not in targeted or label == minority:
                continue
            if reference == 0:
                left_whole += n
            elif (size := int(reference / ratio)) < n:
                sizes[(label, stratum)] = size
        if left_whole:
            warnings.warn(
                f"RandomUnderSampler: {left_whole:,} rows lie in strata {self.getStrataCols()} without a row of class "
                f"{minority!r}, and are all kept. Use coarser strataCols, or drop those strata first.",
                stacklevel=4,
            )
        return sizes


class RandomUnderSamplerModel(_Params, SamplerModel):
    """A fitted RandomUnderSampler: for each class (and stratum) that shrinks, the draws whose rows are kept."""

    chosen: dict[Group, DrawSet]

    def resample(self, dataset: DataFrame) -> DataFrame:
        """Keep the chosen rows: a filter.  Works on a streaming DataFrame."""
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.keyCols, strataCols=self.getStrataCols())
        name = temporary_name(dataset, "draw")
        drawn = with_draw(dataset, self._key_draw(dataset, self.keyCols, "keep"), name)
        if self.getStrataCols():
            return self._resample_strata(drawn, F.col(name)).drop(name)
        kept = {label: draws.contains(F.col(name)) for (label, _), draws in self.chosen.items()}
        return drawn.where(self._by_label(kept, F.lit(True))).drop(name)

    def _resample_strata(self, dataset: DataFrame, draw: Column) -> DataFrame:
        """Join each row with the draws kept in its class and stratum; there may be thousands, too many for a CASE."""
        kept = temporary_name(dataset, "kept")
        joined = with_group_values(
            dataset,
            labelCol=self.getLabelCol(),
            strataCols=self.getStrataCols(),
            values={group: list(draws.intervals) for group, draws in self.chosen.items()},
            name=kept,
            dataType=ArrayType(INTERVAL_TYPE),
        )
        inside = F.exists(F.col(kept), lambda ends: (draw >= ends["low"]) & (draw < ends["high"]))
        return joined.where(~self._is_training() | F.col(kept).isNull() | inside).drop(kept)

    def _state(self) -> dict[str, Any]:
        groups = [[label, list(stratum), draws.intervals] for (label, stratum), draws in self.chosen.items()]
        return {**super()._state(), "chosen": groups}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.chosen = {
            (label, tuple(stratum)): DrawSet(tuple((low, high) for low, high in intervals))
            for label, stratum, intervals in state["chosen"]
        }


def _totals(rows: Mapping[Group, int], counts: Mapping[Label, int]) -> dict[Label, int]:
    totals = dict.fromkeys(counts, 0)
    for (label, _), n in rows.items():
        totals[label] += n
    return totals
