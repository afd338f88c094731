"""Random over-sampling: exact copies, or copies with noise (the smoothed bootstrap)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.stat import Summarizer
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.base import OverSamplerParams, Sampler, SamplerModel
from sparkimb.columns import Features, cast_like, column, in_small_methods, require_columns, temporary_name
from sparkimb.draws import DrawSet, normal, row_key, with_draw
from sparkimb.errors import SparkimbError
from sparkimb.exact import choose_draws
from sparkimb.params import number, param
from sparkimb.strategy import Label, SamplingPlan, resolve


class _Params(OverSamplerParams):
    shrinkage = param("shrinkage", "width of the noise, in bandwidths; 0 copies exactly", number("shrinkage", 0))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(shrinkage=0.0)

    def getShrinkage(self) -> float:
        """Return shrinkage."""
        return float(self.getOrDefault(self.shrinkage))


class RandomOverSampler(_Params, Sampler["RandomOverSamplerModel"]):
    """Repeat rows of the smaller classes, exactly or with a little noise.

    Each row of a class is repeated equally often; the rows still missing are a random sample of it.  Cheaper than SMOTE
    and, with `shrinkage`, often as good.  Class weights do the same to most learners without any rows.

    Parameters
    ----------
    featuresCol : str, default="features"
        Vector, or array of doubles or floats, of one length.  Not looked at if inputCols or categoricalCols is set.
    inputCols : list of str, optional
        Numeric scalar feature columns.
    categoricalCols : list of str, optional
        Feature columns of any type, copied as they are.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.
    shrinkage : float in [0, inf), default=0.0
        Standard deviation of the Gaussian noise added to the numeric features of rows made, in units of Silverman's
        bandwidth for the class, (4 / ((d + 2) n))^(1 / (d + 4)) standard deviations of the feature.  0 adds none.
        Integer features are rounded; nulls stay null.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and `fit` needs a second job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are and not counted.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Output column, null in original rows: struct of `parent` (struct of idCols), `neighbor` (null) and `gap` (0).
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0

    Raises
    ------
    SparkimbError
        In `fit`, before any job: missing columns, columns of the wrong type, output columns that exist.  After the
        count: null labels, a single class, targets below a class's rows, growth beyond maxGrowth, and with shrinkage
        features that are NaN or have no spread to speak of.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ.  Original rows are kept;
            rows made have nulls in every column but features and label, so no id occurs twice.
    Cost:   fit: one aggregate over label and id columns; without idCols over all columns, and a second, sampled one to
            warn of duplicates; with shrinkage one more, for the standard deviations.  Classes of a few rows may need
            one more.  resample: lazy, one pass without a shuffle, inside the JVM.
    Same input and seed give the same rows, whatever the partitioning.

    References
    ----------
    .. [1] Menardi and Torelli, "Training and assessing classification rules with imbalanced data", Data Mining and
       Knowledge Discovery 28, 2014, 92-122 (the smoothed bootstrap, ROSE).

    Examples
    --------
    >>> RandomOverSampler(inputCols=["amount"], idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    kind = "over"

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        inputCols: Sequence[str] | None = None,
        categoricalCols: Sequence[str] | None = None,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        shrinkage: float = 0.0,
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        syntheticCol: str | None = None,
        lineageCol: str | None = None,
        maxGrowth: float = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> RandomOverSamplerModel:
        self._check_schema(dataset, **self._feature_columns())
        self._check_outputs(dataset)
        features = self._features(dataset)
        keyCols = self.getIdCols() or dataset.columns
        training = dataset.where(self._is_training())
        draw = self._key_draw(training, keyCols, "copy")
        histograms, counts = self._histograms(training, draw)
        plan = resolve(self.getSamplingStrategy(), counts, "over")
        self._check_growth(plan)
        once_more, unchosen = choose_draws(
            training,
            histograms=histograms,
            sizes={(label, ()): plan.targets[label] % counts[label] for label in plan.changed},
            labelCol=self.getLabelCol(),
            strataCols=(),
            draw=draw,
        )
        model = RandomOverSamplerModel()
        whole = {label: plan.targets[label] // counts[label] for label in plan.changed}
        made = {label: (whole[label] + 1) * counts[label] - sum(unchosen[label, ()].values()) for label in plan.changed}
        model.plan = SamplingPlan(counts, {**counts, **made})
        model.keyCols = list(keyCols)
        model.copies = {label: (whole[label], once_more[label, ()]) for label in plan.changed}
        model.scales = {}
        if self.getShrinkage() > 0 and plan.changed:
            model.scales = self._noise_scales(training, features, {label: counts[label] for label in plan.changed})
        self._warn_of_duplicates(training, keyCols, {label: counts[label] for label in plan.changed})
        return self._copyValues(model._resetUid(self.uid))

    def _noise_scales(
        self, dataset: DataFrame, features: Features, counts: Mapping[Label, int]
    ) -> dict[Label, list[float]]:
        """Return the standard deviation of the noise for each class and numeric feature: one job."""
        label = column(self.getLabelCol())
        grown = dataset.where(label.isin(*counts)).groupBy(label.alias("label"))
        if features.form == "columns":
            rows = grown.agg(F.array(*(F.stddev_samp(column(name)) for name in features.numeric)).alias("deviation"))
        else:
            vector = column(features.numeric[0])
            vector = vector if features.form == "vector" else array_to_vector(vector)
            rows = grown.agg(vector_to_array(Summarizer.std(vector)).alias("deviation"))
        scales = {}
        for group, deviations in rows.limit(len(counts)).collect():
            if any(deviation is None or not 0 <= deviation < float("inf") for deviation in deviations):
                raise SparkimbError(
                    f"RandomOverSampler.shrinkage is {self.getShrinkage():g}, but the standard deviations of the "
                    f"features {list(features.numeric)} in class {group!r} are {deviations}. "
                    "Fill NaN, infinite and all-null features first, or use shrinkage=0."
                )
            d = len(deviations)
            bandwidth = (4.0 / ((d + 2) * counts[group])) ** (1.0 / (d + 4))
            # Six digits: the last digits of a deviation move with the partitions, and the rows made must not.
            scales[group] = [float(f"{self.getShrinkage() * bandwidth * deviation:.6g}") for deviation in deviations]
        return scales


class RandomOverSamplerModel(_Params, SamplerModel):
    """A fitted RandomOverSampler: how often each row of a class that grows is repeated, and the width of the noise."""

    copies: dict[Label, tuple[int, DrawSet]]
    scales: dict[Label, list[float]]

    def resample(self, dataset: DataFrame) -> DataFrame:
        """Repeat rows: one pass.  Works on a streaming DataFrame."""
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.keyCols, **self._feature_columns())
        self._check_outputs(dataset)
        features = self._features(dataset)
        key = row_key(dataset, self.keyCols)
        draw, copy = temporary_name(dataset, "draw"), temporary_name(dataset, "copy")
        times = {
            label: F.lit(whole) + F.when(draws.contains(F.col(draw)), 1).otherwise(0)
            for label, (whole, draws) in self.copies.items()
        }
        last = self._by_label(times, F.lit(1)) - 1
        drawn = with_draw(dataset, self._key_draw(dataset, self.keyCols, "copy"), draw)
        repeated = drawn.select("*", F.explode(F.sequence(F.lit(0), last)).alias(copy))
        made = F.col(copy) > 0
        outputs = {name: self._output(dataset, name, features, [*key, F.col(copy)], made) for name in dataset.columns}
        if (synthetic := self.getSyntheticCol()) is not None:
            outputs[synthetic] = made
        if (lineage := self.getLineageCol()) is not None:
            outputs[lineage] = F.when(made, self._lineage(dataset))
        if self.scales:  # thirty features with noise are more than Java compiles in one method
            outputs[self.getLabelCol()] = in_small_methods(outputs[self.getLabelCol()])
        # Names come last: inside a lambda, Spark takes a name for the column made here rather than for the one read.
        metadata = {field.name: field.metadata for field in dataset.schema}
        unnamed = [
            value.alias(temporary_name(dataset, f"output{i}"), metadata=metadata.get(name, {}))
            for i, (name, value) in enumerate(outputs.items())
        ]
        return repeated.select(*unnamed).toDF(*outputs)

    def _output(self, dataset: DataFrame, name: str, features: Features, key: list[Column], made: Column) -> Column:
        value = column(name)
        if name == self.getValidationIndicatorCol():
            return F.when(made, False).otherwise(value)
        if name not in features.names and name != self.getLabelCol():
            return F.when(~made, value)
        if not self.scales or name not in features.numeric:
            return value
        noisy = {label: self._noisy(dataset, name, features, key, scales) for label, scales in self.scales.items()}
        return F.when(made, self._by_label(noisy, value)).otherwise(value)

    def _noisy(
        self, dataset: DataFrame, name: str, features: Features, key: list[Column], scales: Sequence[float]
    ) -> Column:
        def noise(feature: Column) -> Column:
            return normal(*key, feature, seed=self.getSeed(), purpose="RandomOverSampler.noise")

        value = column(name)
        if features.form == "columns":
            i = features.numeric.index(name)
            return cast_like(value + F.lit(scales[i]) * noise(F.lit(i)), dataset.schema[name].dataType)
        values = vector_to_array(value) if features.form == "vector" else value
        widths = F.array(*(F.lit(scale) for scale in scales))
        moved = F.transform(values, lambda x, i: x + F.get(widths, i) * noise(i))
        return array_to_vector(moved) if features.form == "vector" else moved.cast(dataset.schema[name].dataType)

    def _lineage(self, dataset: DataFrame) -> Column:
        parent = F.struct(*(column(name) for name in self.keyCols))
        nobody = F.lit(None).cast(dataset.select(parent.alias("parent")).schema["parent"].dataType)
        return F.struct(parent.alias("parent"), nobody.alias("neighbor"), F.lit(0.0).alias("gap"))

    def _state(self) -> dict[str, Any]:
        copies = [[label, whole, draws.intervals] for label, (whole, draws) in self.copies.items()]
        return {**super()._state(), "copies": copies, "scales": list(self.scales.items())}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.copies = {
            label: (whole, DrawSet(tuple((low, high) for low, high in intervals)))
            for label, whole, intervals in state["copies"]
        }
        self.scales = dict(state["scales"])
