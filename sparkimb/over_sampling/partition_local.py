"""PartitionLocalSampler: any sampler of imbalanced-learn's kind, run on groups of rows, each in one task."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, LongType, StructField, StructType
from threadpoolctl import threadpool_limits

from sparkimb.base import OverSamplerParams, Sampler, SamplerModel
from sparkimb.columns import (
    Features,
    case_of,
    cast_like,
    column,
    feature_array,
    number_type,
    require_columns,
    resolve_features,
    temporary_name,
)
from sparkimb.draws import row_key, uniform_numbers
from sparkimb.errors import SparkimbError
from sparkimb.exact import largest_remainder
from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.spaces import feature_matrix
from sparkimb.params import integer, param
from sparkimb.statistics import class_counts, number_of_features, require_two_classes
from sparkimb.strategy import Kind, SamplingPlan, resolve

# Rows of the smallest class in a group, on average: of 20,000 groups the poorest then has about 20, enough for the
# neighbours that samplers look for.
FEWEST_ROWS = 50
# Bytes of the features of a group, which one task holds about four times.
MAX_GROUP_BYTES = 2**30
# Groups times classes, which are counted on the driver: 10 MB.
MAX_COUNTS = 100_000
KINDS: Mapping[Any, Kind] = {"over-sampling": "over", "under-sampling": "under"}
OURS = ("random_state", "sampling_strategy")  # Params of a sampler that are set for each group


class _Params(OverSamplerParams):
    sampler = param("sampler", "what is run on each group", lambda value: _described_sampler(value))
    rowsPerGroup = param("rowsPerGroup", "rows of a group, about", integer("rowsPerGroup", 100))

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(rowsPerGroup=50_000)

    def getSampler(self) -> Any:
        """Return a new object like the sampler, or None."""
        description = self._optional(self.sampler)
        return None if description is None else _built(description)

    def getRowsPerGroup(self) -> int:
        """Return rowsPerGroup."""
        return int(self.getOrDefault(self.rowsPerGroup))

    @property
    def kind(self) -> Kind:
        """Whether the sampler adds rows or removes some; "over" where none is set."""
        sampler = self.getSampler()
        return "over" if sampler is None else KINDS[sampler._sampling_type]

    def _features(self, dataset: DataFrame) -> Features:
        return resolve_features(
            dataset, featuresCol=self.getFeaturesCol(), inputCols=self.getInputCols(), categoricalCols=None
        )

    def _check_outputs(self, dataset: DataFrame) -> None:
        super()._check_outputs(dataset)
        if self.getLineageCol() is not None:
            raise SparkimbError(
                f"lineageCol is '{self.getLineageCol()}', but samplers of imbalanced-learn do not tell the parents of "
                "the rows they make. Leave it out, or use one of sparkimb's own samplers."
            )
        if self.getCategoricalCols():
            raise SparkimbError(
                f"PartitionLocalSampler takes numbers only, but categoricalCols is {self.getCategoricalCols()}. "
                "Use SMOTENC or SMOTEN, or encode them as numbers."
            )

    def _grouped(
        self, dataset: DataFrame, features: Features, keyCols: Sequence[str], groups: int, d: int
    ) -> DataFrame:
        """Return of each training row its group, key, label and features."""
        training = dataset.where(self._is_training())
        group = F.floor(self._key_draw(dataset, keyCols, "group") * groups).cast("int")
        return training.select(
            group.alias("group"),
            F.xxhash64(*row_key(dataset, keyCols)).alias("key"),
            column(self.getLabelCol()).alias("label"),
            feature_array(dataset, features, d).alias("features"),
        )


class PartitionLocalSamplerModel(_Params, SamplerModel):
    """A fitted PartitionLocalSampler: how many groups there are, and the rows wanted of each class in each."""

    numFeatures: int
    targets: list[list[int]]  # by group, then by class in the plan's order

    def resample(self, dataset: DataFrame) -> DataFrame:
        """Run the sampler on each group: one shuffle of all rows, and where rows are removed a join."""
        require_columns(dataset, labelCol=self.getLabelCol(), idCols=self.keyCols, **self._feature_columns())
        self._check_outputs(dataset)
        synthetic = self.getSyntheticCol()
        if not self.plan.changed:
            return dataset if synthetic is None else dataset.withColumn(synthetic, F.lit(False))
        return self._with_made(dataset) if self.kind == "over" else self._without_removed(dataset)

    def _with_made(self, dataset: DataFrame) -> DataFrame:
        features = self._features(dataset)
        array = ArrayType(number_type([dataset.schema[name].dataType for name in features.numeric]))
        schema = StructType([StructField("code", IntegerType()), StructField("features", array)])
        made = self._by_group(dataset, _made, schema)
        outputs: dict[str, Column] = {}
        for field in dataset.schema:
            if field.name in features.numeric:
                value = F.col("features")
                if features.form == "columns":
                    number = F.get(value, F.lit(features.numeric.index(field.name)))
                    value = cast_like(F.when(~F.isnan(number), number), field.dataType)
                else:
                    value = array_to_vector(value) if features.form == "vector" else value.cast(field.dataType)
            elif field.name == self.getLabelCol():
                labels = dict(enumerate(self.plan.counts))
                value = case_of(F.col("code"), labels, F.lit(None)).cast(field.dataType)
            elif field.name == self.getValidationIndicatorCol():
                value = F.lit(False)
            else:
                value = F.lit(None).cast(field.dataType)
            outputs[field.name] = value
        finished = made.select(*(value.alias(name) for name, value in outputs.items()))
        if (synthetic := self.getSyntheticCol()) is None:
            return dataset.unionByName(finished)
        return dataset.withColumn(synthetic, F.lit(False)).unionByName(finished.withColumn(synthetic, F.lit(True)))

    def _without_removed(self, dataset: DataFrame) -> DataFrame:
        key, kept_key = temporary_name(dataset, "key"), temporary_name(dataset, "kept_key")
        kept = self._by_group(dataset, _kept, StructType([StructField(kept_key, LongType())]))
        label = column(self.getLabelCol())
        shrinks = self._is_training() & F.coalesce(label.isin(*self.plan.changed), F.lit(False))
        keyed = dataset.where(shrinks).withColumn(key, F.xxhash64(*row_key(dataset, self.keyCols)))
        chosen = keyed.join(kept, F.col(key) == F.col(kept_key), "left_semi").drop(key)
        out = dataset.where(~shrinks).unionByName(chosen)
        synthetic = self.getSyntheticCol()
        return out if synthetic is None else out.withColumn(synthetic, F.lit(False))

    def _by_group(self, dataset: DataFrame, work: Any, schema: StructType) -> DataFrame:
        """Bring the rows of each group to one task, and do some work on them in the order of their keys."""
        rows = self._grouped(dataset, self._features(dataset), self.keyCols, len(self.targets), self.numFeatures)
        codes = {label: i for i, label in enumerate(self.plan.counts)}
        coded = rows.withColumn("code", case_of(F.col("label"), codes, F.lit(-1))).where(F.col("code") >= 0)
        run = partial(
            work,
            sampler=self.getSampler(),
            labels=list(self.plan.counts),
            targets=self.targets,
            seed=self.getSeed(),
            names=schema.names,
        )
        # pyspark looks at the function's parameters to tell what to hand over, and a partial hides them.
        return coded.drop("label").groupBy("group").applyInArrow(lambda table: run(table.sort_by("key")), schema)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "numFeatures": self.numFeatures, "targets": self.targets}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.numFeatures, self.targets = state["numFeatures"], state["targets"]


class PartitionLocalSampler(_Params, Sampler[PartitionLocalSamplerModel]):  # type: ignore[override]  # kind is its sampler's
    """Run a sampler made for one machine on groups of rows: imbalanced-learn's, or another with its methods.

    For what sparkimb does not have.  Rows are put in groups by the hashes of their keys, so a group is a random sample
    of all rows, and neighbours are looked for in the group alone: fine for what looks at the whole distribution, worse
    than sparkimb's own samplers for what looks at nearest rows.

    Parameters
    ----------
    sampler : object, optional
        An over-sampler that returns the rows it is given and then the new ones, or an under-sampler that selects rows
        and says which in `sample_indices_`, as imbalanced-learn's do: a scikit-learn estimator with `fit_resample`,
        whose `_sampling_type` is "over-sampling" or "under-sampling".  Its own parameters are numbers, strings, lists,
        dicts and estimators.  Not optional in `fit`.  Cleaning samplers and combinations, which promise no numbers of
        rows, are refused, and so is what makes more or fewer rows than asked (imbalanced-learn's ADASYN, KMeansSMOTE).
    rowsPerGroup : int in [100, inf), default=50000
        Rows of a group, on average.  Groups are larger where the smallest class would have fewer than 50 rows in each.
    featuresCol : str, default="features"
        Vector, or array of doubles or floats, of one length.  Not looked at if inputCols is set.
    inputCols : list of str, optional
        Numeric scalar feature columns.  Values of integer columns are rounded in rows made.
    categoricalCols : list of str, optional
        Not taken: encode them as numbers.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.  The sampler sees 0 for the largest class, then 1, 2 ...
    samplingStrategy : str, float or dict, default="auto"
        Rows per class: see `sparkimb.strategy.resolve`.  The sampler's own `sampling_strategy` is set for each group.
    idCols : list of str, optional
        Columns that identify a row.  Without them all columns do, and where rows are removed `fit` needs one more job.
    validationIndicatorCol : str, optional
        Boolean column; rows where it is true are kept as they are, not counted and not looked at.  False in rows made.
    syntheticCol : str, optional
        Output column: true in rows made.
    lineageCol : str, optional
        Not taken: these samplers do not tell parents.
    maxGrowth : float in [1, inf), default=10.0
        Largest output allowed, as a multiple of the rows counted.
    seed : int, default=0
        Decides the groups, and each `random_state` that the sampler has, in each group.

    Raises
    ------
    ImportError
        If scikit-learn or imbalanced-learn is not installed.
    TypeError, SparkimbError
        When the sampler is set: it cannot be used.
    SparkimbError
        In `fit`, before any job: no sampler, missing columns, columns of the wrong type, output columns that exist.
        After the count: null labels, a single class, targets that this kind of sampler cannot reach, growth beyond
        maxGrowth, groups of more than 1 GB of features, more than 100,000 groups and classes.  When the rows are
        computed, from a task: the sampler fails in a group (its own message follows), or breaks the promises above.

    Notes
    -----
    Rows:   in n; out the plan's targets, exactly where idCols identify rows or rows differ: a class's rows to be made
            or kept are divided among the groups in proportion to its rows there.  Original rows stay as they are; rows
            made have nulls in every column but features and label.
    Nulls:  are NaN for the sampler, which may refuse them.
    Cost:   fit: a count by class, and one by class and group; for vectors and arrays without metadata a look at one
            row.  resample: lazy; one shuffle of label and features of all rows, which pass through Python, about four
            times a group's features in a task; where rows are removed, a join of the rows of the classes that shrink.
    Saving: the sampler is written as the name of its class and its parameters, so nothing executable is read back.
            Classes of imbalanced-learn and scikit-learn are imported when loading; import others before.
    Same input and seed give the same rows, whatever the partitioning: a group's rows come in the order of their keys.

    Examples
    --------
    >>> from imblearn.over_sampling import SVMSMOTE  # doctest: +SKIP
    >>> PartitionLocalSampler(sampler=SVMSMOTE(m_neighbors=5), idCols=["id"]).fitResample(train)  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        sampler: Any = None,
        rowsPerGroup: int = 50_000,
        featuresCol: str = "features",
        inputCols: Sequence[str] | None = None,
        categoricalCols: Sequence[str] | None = None,
        labelCol: str = "label",
        samplingStrategy: str | float | Mapping[Any, int] = "auto",
        idCols: Sequence[str] | None = None,
        validationIndicatorCol: str | None = None,
        syntheticCol: str | None = None,
        lineageCol: str | None = None,
        maxGrowth: float = 10.0,
        seed: int = 0,
    ):
        super().__init__()
        self.setParams(**self._input_kwargs)

    @property
    def exemptions(self) -> Mapping[str, str]:  # type: ignore[override]
        """Say which checks of `sparkimb.testing` do not apply, and why."""
        exempt = {
            "check_majority_stays_in_the_jvm": "what the sampler looks at is not known, so it gets every row",
            "check_made_rows": "the sampler does not tell parents",
        }
        return exempt if self.kind == "over" else {**exempt, "check_growth": "it makes no rows"}

    def _fit(self, dataset: DataFrame) -> PartitionLocalSamplerModel:
        if self.getSampler() is None:
            raise SparkimbError(
                "PartitionLocalSampler.sampler is not set. "
                "Set it to an over- or under-sampler of imbalanced-learn, such as SVMSMOTE()."
            )
        self._check_schema(dataset, **self._feature_columns())
        self._check_outputs(dataset)
        features = self._features(dataset)
        keyCols = self.getIdCols() or dataset.columns
        training = dataset.where(self._is_training())
        counts = class_counts(training, labelCol=self.getLabelCol())
        require_two_classes(counts, self.getLabelCol())
        model = PartitionLocalSamplerModel()
        model.plan, model.keyCols = resolve(self.getSamplingStrategy(), counts, self.kind), list(keyCols)
        self._check_growth(model.plan)
        model.numFeatures = number_of_features(dataset, features) if model.plan.changed else 0
        model.targets = []
        if model.plan.changed:
            groups = self._number_of_groups(model.plan, model.numFeatures)
            rows = self._grouped(dataset, features, keyCols, groups, model.numFeatures)
            counted = rows.groupBy("group", "label").agg(F.count(F.lit(1)).alias("rows"))
            found = {(row[0], row[1]): row[2] for row in counted.limit(groups * len(counts)).collect()}
            by_group = [[found.get((group, label), 0) for label in counts] for group in range(groups)]
            model.targets = targets_of_groups(model.plan, by_group)
        if self.kind == "under":
            self._warn_of_duplicates(training, keyCols, {label: counts[label] for label in model.plan.changed})
        return self._copyValues(model._resetUid(self.uid))

    def _number_of_groups(self, plan: SamplingPlan, d: int) -> int:
        total, fewest = sum(plan.counts.values()), min(plan.counts.values())
        groups = min(math.ceil(total / self.getRowsPerGroup()), max(1, fewest // FEWEST_ROWS))
        if groups * len(plan.counts) > MAX_COUNTS:
            raise SparkimbError(
                f"PartitionLocalSampler.rowsPerGroup is {self.getRowsPerGroup():,}, which makes {groups:,} groups of "
                f"{len(plan.counts)} classes, and {MAX_COUNTS:,} counts are the most. "
                f"Use rowsPerGroup >= {math.ceil(total * len(plan.counts) / MAX_COUNTS):,}."
            )
        if total / groups * d * 8 > MAX_GROUP_BYTES:
            raise SparkimbError(
                f"PartitionLocalSampler: {groups:,} groups of {total:,} rows with {d:,} features have "
                f"{total / groups * d * 8 / 2**20:,.0f} MB each, and one task takes {MAX_GROUP_BYTES // 2**20:,} MB "
                f"(rowsPerGroup {self.getRowsPerGroup():,}; the smallest class has {fewest:,} rows and wants "
                f"{FEWEST_ROWS} in a group). Use RandomUnderSampler on the largest class first, or lower rowsPerGroup."
            )
        return groups


def targets_of_groups(plan: SamplingPlan, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Divide the rows to be made or kept of each class among the groups, by its rows there.

    Parameters
    ----------
    rows : list of list of int
        By group, then by class in the plan's order; the result's order, too.
    """
    by_class: list[Sequence[int]] = []
    for label, mine in zip(plan.counts, zip(*rows, strict=True), strict=True):
        before, after = plan.counts[label], plan.targets[label]
        shares = [n / before for n in mine]
        if after > before:
            new_rows = largest_remainder(after - before, shares)
            by_class.append([n + new for n, new in zip(mine, new_rows, strict=True)])
        else:
            by_class.append(largest_remainder(after, shares) if after < before else mine)
    return [list(of_group) for of_group in zip(*by_class, strict=True)]


# --- the sampler as JSON ----------------------------------------------------------------------------------------------


def _described_sampler(value: Any) -> dict[str, Any]:
    """Convert a sampler, or its description, to its description."""
    if isinstance(value, Mapping) and set(value) == {"class", "params"}:
        description = dict(value)
    elif hasattr(value, "fit_resample") and hasattr(value, "get_params"):
        if (own := value.get_params().get("sampling_strategy", "auto")) != "auto":
            raise SparkimbError(
                f"sampler has sampling_strategy={own!r}, which is set anew for each group. "
                "Set PartitionLocalSampler.samplingStrategy instead."
            )
        description = _described(value)
    else:
        raise TypeError(
            f"sampler must be a scikit-learn estimator with fit_resample; got {value!r} of type {type(value).__name__}."
        )
    kind = getattr(_built(description), "_sampling_type", None)
    if kind not in KINDS:
        raise SparkimbError(
            f"sampler {description['class']} is of the kind {kind!r}, which promises no numbers of rows. "
            f"Use one of the kinds {', '.join(map(repr, KINDS))}."
        )
    return description


def _described(estimator: Any) -> dict[str, Any]:
    params = estimator.get_params(deep=False)
    cls = type(estimator)
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "params": {name: _plain(name, value) for name, value in params.items() if name not in OURS},
    }


def _plain(name: str, value: Any) -> Any:
    """Return what JSON can hold of a parameter."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, element) for element in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(name, element) for key, element in value.items()}
    if hasattr(value, "get_params"):
        return _described(value)
    raise SparkimbError(
        f"sampler has {name}={value!r} of type {type(value).__name__}, which cannot be saved as JSON. "
        "Use numbers, strings, lists, dicts and estimators."
    )


def _built(description: Mapping[str, Any]) -> Any:
    """Make an estimator from its description."""
    cls = _class_named(description["class"])
    return cls(**{name: _restored(value) for name, value in description["params"].items()})


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(element) for element in value]
    if isinstance(value, Mapping):
        if set(value) == {"class", "params"}:
            return _built(value)
        return {key: _restored(element) for key, element in value.items()}
    return value


def _class_named(path: str) -> Any:
    """Return an estimator's class: of imbalanced-learn and scikit-learn, or of a module that is imported already.

    So a file that is read cannot have any other code run.
    """
    module, _, name = str(path).rpartition(".")
    try:
        from sklearn.base import BaseEstimator

        if module.split(".")[0] in ("imblearn", "sklearn"):
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"PartitionLocalSampler needs {error.name} for {path}. Run: pip install imbalanced-learn"
        ) from error
    cls = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, BaseEstimator)):
        raise SparkimbError(
            f"sampler is of the class {path}, which is not a scikit-learn estimator in a module that is imported. "
            "Define it at the top of a module, and import that before."
        )
    return cls


# --- in a task --------------------------------------------------------------------------------------------------------


def group_state(seed: int, group: int) -> int:
    """Return the random_state of the sampler in a group, in [0, 2^32)."""
    purpose = "PartitionLocalSampler.state"
    return int(uniform_numbers(np.array([group]), np.array([0]), seed=seed, purpose=purpose)[0] * 2**32)


def _made(table: pa.Table, **how: Any) -> pa.Table:
    """Return the rows that an over-sampler makes of a group."""
    x, y, wanted = _rows_of(table, **how)
    found = np.bincount(y, minlength=len(wanted))
    with _Reported(table, found, **how) as sampler:
        new_x, new_y = x[:0], y[:0]
        if (found < wanted).any():
            strategy = {code: int(wanted[code]) for code in np.flatnonzero(found < wanted).tolist()}
            out_x, out_y = sampler.set_params(sampling_strategy=strategy).fit_resample(x, y)
            if not (np.array_equal(out_x[: len(x)], x, equal_nan=True) and np.array_equal(out_y[: len(y)], y)):
                raise SparkimbError("it does not return the rows it was given and then the new ones.")
            new_x, new_y = np.asarray(out_x[len(x) :], x.dtype), np.asarray(out_y[len(y) :])
            _check_counts(np.bincount(new_y, minlength=len(wanted)), wanted - found)
    offsets = np.arange(0, new_x.size + 1, max(1, new_x.shape[1]), dtype=np.int32)
    arrays = pa.ListArray.from_arrays(pa.array(offsets), pa.array(new_x.ravel()))
    return pa.Table.from_arrays([pa.array(new_y.astype(np.int32)), arrays], names=list(how["names"]))


def _kept(table: pa.Table, **how: Any) -> pa.Table:
    """Return the keys of the rows that an under-sampler keeps of a group."""
    x, y, wanted = _rows_of(table, **how)
    found = np.bincount(y, minlength=len(wanted))
    with _Reported(table, found, **how) as sampler:
        kept = np.arange(len(y))
        if (found > wanted).any():
            strategy = {code: int(wanted[code]) for code in np.flatnonzero(found > wanted).tolist()}
            sampler.set_params(sampling_strategy=strategy).fit_resample(x, y)
            if not hasattr(sampler, "sample_indices_"):
                raise SparkimbError("it does not select rows, for it has no sample_indices_.")
            kept = np.asarray(sampler.sample_indices_)
            _check_counts(np.bincount(y[kept], minlength=len(wanted)), wanted)
    keys = table.column("key").to_numpy()[kept]
    return pa.Table.from_arrays([pa.array(keys)], names=list(how["names"]))


def _rows_of(table: pa.Table, *, targets: Sequence[Sequence[int]], **_: Any) -> tuple[Floats, Rows, Rows]:
    """Return a group's features and classes, and the rows wanted of each class."""
    codes = table.column("code").to_numpy().astype(np.int64)
    return feature_matrix(table), codes, np.array(targets[table.column("group")[0].as_py()])


def _check_counts(found: Rows, wanted: Rows) -> None:
    if not np.array_equal(found, wanted):
        raise SparkimbError(f"asked for {wanted.tolist()} rows of the classes it returns {found.tolist()}.")


class _Reported:
    """Lends a sampler for one group, on one thread, and says in which group it failed."""

    def __init__(
        self, table: pa.Table, found: Rows, *, sampler: Any, labels: Sequence[Any], seed: int, **_: Any
    ) -> None:
        from sklearn.base import clone

        self.group = table.column("group")[0].as_py()
        self.counts = dict(zip(labels, found.tolist(), strict=True))
        self.name = type(sampler).__name__
        self.sampler = clone(sampler)
        states = [name for name in self.sampler.get_params() if name.split("__")[-1] == "random_state"]
        self.sampler.set_params(**dict.fromkeys(states, group_state(seed, self.group)))
        # Spark gives a task one core: more threads would take what the other tasks were promised.
        self.threads = threadpool_limits(limits=1)

    def __enter__(self) -> Any:
        return self.sampler

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.threads.restore_original_limits()
        if isinstance(error, Exception):
            said = str(error) if isinstance(error, SparkimbError) else f"{kind.__name__}: {error}"
            raise SparkimbError(
                f"PartitionLocalSampler: {self.name} failed in group {self.group}, with the rows {self.counts}: "
                f"{said.rstrip('.')}. Use another sampler, other parameters of it, or more rowsPerGroup."
            ) from error
