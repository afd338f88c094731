"""The sampler contract as checks: `check_sampler(sampler, spark)` runs them on any sampler, yours included.

A check is a function of a sampler and a session that raises AssertionError.  Each makes its own small dataset with
`example`, so a sampler under test names the columns of that one.  Where a check cannot apply, `skip_reason` says why; a
class declares its own reasons in `exemptions`.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from pyspark.ml import Estimator, Model
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.ml.param import Params
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructField, StructType

from sparkimb.base import OverSamplerParams, Sampler
from sparkimb.columns import column
from sparkimb.draws import normal
from sparkimb.errors import ScoringPathError, SparkimbError
from sparkimb.over_sampling import (
    ADASYN,
    SMOTE,
    SMOTEN,
    SMOTENC,
    SVMSMOTE,
    BorderlineSMOTE,
    GaussianSMOTE,
    KMeansSMOTE,
    PartitionLocalSampler,
    RandomOverSampler,
    SafeLevelSMOTE,
)
from sparkimb.pipeline import Pipeline
from sparkimb.statistics import class_counts
from sparkimb.strategy import Label, Strategy, resolve
from sparkimb.under_sampling import RandomUnderSampler

Check: TypeAlias = Callable[[Sampler[Any], SparkSession], None]

THREE_CLASSES: Mapping[Label, int] = {"common": 90, "middle": 40, "rare": 16}


def all_samplers() -> list[Sampler[Any]]:
    """Return every sampler of the library, configured for `example`, and the variants that have code of their own.

    Needs imbalanced-learn, two of whose samplers are among them.
    """
    import imblearn.over_sampling
    import imblearn.under_sampling

    return [
        RandomUnderSampler(idCols=["id"]),
        RandomUnderSampler(),
        RandomUnderSampler(idCols=["id"], strataCols=["stratum"]),
        RandomOverSampler(idCols=["id"]),
        RandomOverSampler(),
        RandomOverSampler(idCols=["id"], shrinkage=1.0),
        RandomOverSampler(idCols=["id"], inputCols=["f0", "f1"], categoricalCols=["color"], shrinkage=1.0),
        SMOTE(idCols=["id"]),
        SMOTE(idCols=["id"], referenceRows=10),
        SMOTENC(idCols=["id"], inputCols=["f0", "f1"], categoricalCols=["color"]),
        SMOTEN(idCols=["id"], categoricalCols=["color", "stratum"]),
        BorderlineSMOTE(idCols=["id"], mNeighbors=20),
        BorderlineSMOTE(idCols=["id"], mNeighbors=20, variant="borderline-2"),
        ADASYN(idCols=["id"]),
        SafeLevelSMOTE(idCols=["id"]),
        SVMSMOTE(idCols=["id"]),
        KMeansSMOTE(idCols=["id"], clusterBalanceThreshold=0.1),
        GaussianSMOTE(idCols=["id"]),
        PartitionLocalSampler(idCols=["id"], sampler=imblearn.over_sampling.SMOTE()),
        PartitionLocalSampler(idCols=["id"], sampler=imblearn.under_sampling.RandomUnderSampler()),
    ]


def check_sampler(sampler: Sampler[Any], spark: SparkSession) -> dict[str, str]:
    """Run every check that applies to a sampler; return why the others do not, by their names.

    Parameters
    ----------
    sampler : Sampler
        Any subclass, for the columns of `example`: id, f0, f1, features, color, stratum, fold, note and label.
    spark : SparkSession
        Classic or Connect; it must write to the file system of this process.  Some hundred jobs on some hundred rows.

    Raises
    ------
    AssertionError
        By the first check that fails.

    Examples
    --------
    >>> check_sampler(RandomUnderSampler(idCols=["id"]), spark)  # doctest: +SKIP
    """
    skipped = {}
    for check in CHECKS:
        reason = skip_reason(check, sampler)
        if reason is None:
            check(sampler.copy(), spark)
        else:
            skipped[check.__name__] = reason
    return skipped


def skip_reason(check: Check, sampler: Sampler[Any]) -> str | None:
    """Say why a check does not apply to a sampler; None if it does."""
    if check.__name__ in sampler.exemptions:
        return sampler.exemptions[check.__name__]
    if check in (check_made_rows, check_growth) and not isinstance(sampler, OverSamplerParams):
        return "it makes no rows"
    if check is check_feature_forms and not sampler.hasParam("featuresCol"):
        return "it does not look at features"
    if check is check_feature_forms and sampler.getIdCols() is None:
        return "without idCols the draws come from the features as they are written"
    return None


def example(spark: SparkSession, rows: Mapping[Label, int] = THREE_CLASSES, *, partitions: int = 3) -> DataFrame:
    """Make a dataset with so many rows of each label, whose type may be str, bool, int or float.

    id is a bigint in 0 .. n - 1, in the order of the labels; f0 and f1 are normal around the label's place; features is
    the vector of both; color, stratum and note are strings; fold is 0 or 1.
    """
    label, place, n = F.lit(None), F.lit(None), 0
    for i, (value, count) in enumerate(rows.items()):
        n += count
        here = F.col("id") < n
        label = F.when(here, F.lit(value)) if i == 0 else label.when(here, F.lit(value))
        place = F.when(here, 2.0 * i) if i == 0 else place.when(here, 2.0 * i)
    return (
        spark.range(0, n, numPartitions=partitions)
        .select(
            "id",
            (place + normal("id", seed=1, purpose="f0")).alias("f0"),
            (place + normal("id", seed=1, purpose="f1")).alias("f1"),
            F.element_at(F.array(F.lit("red"), F.lit("green"), F.lit("blue")), (F.col("id") % 3 + 1).cast("int")).alias(
                "color"
            ),
            F.when(F.col("id") % 2 == 0, "even").otherwise("odd").alias("stratum"),
            (F.floor(F.col("id") / 2) % 2).cast("int").alias("fold"),
            F.concat(F.lit("row "), F.col("id")).alias("note"),
            label.alias("label"),
        )
        .withColumn("features", array_to_vector(F.array("f0", "f1")))
    )


# --- params -----------------------------------------------------------------------------------------------------------


def documented_parameters(cls: type) -> dict[str, Any]:
    """Return the parameters that a class's docstring names, with their defaults: None where it says optional."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", inspect.getdoc(cls) or "", re.M | re.S)
    lines = re.findall(r"^(\w+) : (.*)$", section[1], re.M) if section else []
    defaults = {name: re.search(r"default=(.+)$", rest) for name, rest in lines}
    return {name: ast.literal_eval(found[1]) if found else None for name, found in defaults.items()}


def signature_parameters(cls: type) -> dict[str, Any]:
    """Return the parameters of a class's constructor, with their defaults; they must all be keyword-only."""
    parameters = list(inspect.signature(cls).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters), f"{cls.__name__}'s parameters are not all keyword-only"
    return {p.name: p.default for p in parameters}


def check_params(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Constructor, defaults and docstring tell the same; every Param has a getter."""
    fresh = type(sampler)()
    declared = {p.name: fresh.getOrDefault(p) if fresh.hasDefault(p) else None for p in fresh.params}
    signature = signature_parameters(type(sampler))
    assert signature == declared, f"the constructor has {signature}, the Params are {declared}"
    documented = documented_parameters(type(sampler))
    assert list(documented.items()) == list(signature.items()), f"documented are {documented}, not {signature}"
    for name in signature:
        getattr(sampler, f"get{name[0].upper()}{name[1:]}")()


def check_wrong_values(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Every Param refuses a value of the wrong type with a TypeError that names class and Param."""
    for p in sampler.params:
        message = _refusal(TypeError, lambda name=p.name: sampler.copy().setParams(**{name: object()}))  # type: ignore[misc]
        assert message.startswith(f"{type(sampler).__name__}.{p.name}"), message


def check_numpy_scalars(sampler: Sampler[Any], spark: SparkSession) -> None:
    """NumPy's numbers are taken and become Python's."""
    numbers = {p.name: value for p, value in sampler.extractParamMap().items() if type(value) in (int, float)}
    for name, value in numbers.items():
        given = np.int64(value) if isinstance(value, int) else np.float64(value)
        copied = sampler.copy().setParams(**{name: given})
        assert type(copied.getOrDefault(name)) is type(value), f"{name} became {copied.getOrDefault(name)!r}"
    by_label = sampler.copy().setParams(samplingStrategy={np.int64(1): np.int64(30)})
    assert json.dumps(by_label.getSamplingStrategy()) == '{"1": 30}'


def check_copy(sampler: Sampler[Any], spark: SparkSession) -> None:
    """A copy with other values leaves the original alone, and values survive JSON."""
    before = _values(sampler)
    copied = sampler.copy({sampler.seed: before["seed"] + 1})
    assert _values(sampler) == before
    assert _values(copied) == {**before, "seed": before["seed"] + 1}
    assert copied.uid == sampler.uid
    for p, value in sampler.extractParamMap().items():
        again = p.typeConverter(json.loads(json.dumps(value)))
        assert again == value, f"{p.name} {value!r} comes back from JSON as {again!r}"


# --- laziness ---------------------------------------------------------------------------------------------------------


def check_resample_is_lazy(sampler: Sampler[Any], spark: SparkSession) -> None:
    """`resample` reads nothing: it does not even notice that reading fails."""
    dataset = example(spark)
    model = sampler.fit(dataset)
    out = model.resample(_unreadable(dataset))
    assert _WAS_READ in _refusal(Exception, out.count), "the dataset that cannot be read was read"


def check_leaves_no_traces(sampler: Sampler[Any], spark: SparkSession) -> None:
    """The caller's cache, conf and temporary views are as before."""
    dataset = example(spark).persist()
    try:
        before = (dataset.storageLevel, dict(spark.conf.getAll), _views(spark))
        sampler.fitResample(dataset).count()
        assert (dataset.storageLevel, dict(spark.conf.getAll), _views(spark)) == before
    finally:
        dataset.unpersist()


def check_majority_stays_in_the_jvm(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Rows of the largest class never pass through Python: there is no Python step, or it does not read them."""
    dataset = example(spark)
    model = sampler.fit(dataset)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        model.resample(dataset).explain()
    plan = shown.getvalue()
    assert "Range" in plan, plan  # the plan was caught
    found = re.search(r"\w*(Python|Arrow|Pandas)\w*", plan)
    if found is None:
        return
    assert isinstance(sampler, OverSamplerParams), f"{found[0]} in\n{plan}"
    model.setParams(syntheticCol="made")
    readable = (F.col("label") != "common") | F.raise_error(F.lit(_WAS_READ)).cast("boolean")
    hidden = dataset.withColumns({name: F.when(readable, F.col(name)) for name in _feature_names(sampler)})
    made = model.resample(hidden).where("made").collect()
    assert len(made) == sum(model.plan.targets.values()) - sum(model.plan.counts.values())


# --- rows -------------------------------------------------------------------------------------------------------------


def check_schema(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Columns keep their order, types and metadata; where rows are dropped they keep their nullability, too."""
    marked = example(spark).withMetadata("features", {"of": "a test"}).withMetadata("f0", {"of": "a test"})
    found = sampler.fitResample(marked).schema
    for before, after in zip(marked.schema, found, strict=True):
        assert (after.name, after.dataType, after.metadata) == (before.name, before.dataType, before.metadata)
        assert after.nullable == before.nullable or (sampler.kind == "over" and after.nullable), after


def check_targets(sampler: Sampler[Any], spark: SparkSession) -> None:
    """The plan is the strategy's, and is met exactly: for two to four classes, labels of each type, each strategy."""
    under = sampler.kind == "under"
    cases: list[tuple[Mapping[Label, int], Strategy]] = [
        ({"common": 90, "rare": 16}, 0.5),
        ({0: 80, 1: 30, 2: 16}, "auto"),
        ({False: 70, True: 16}, "majority" if under else "minority"),
        ({"a": 50, "b": 40, "c": 24, "d": 16}, "not majority" if under else "not minority"),
    ]
    if not _strata(sampler):  # rows by label leave no room for balance within strata
        cases.append(({0.0: 70, 1.0: 24, 2.5: 16}, {"1.0": 17} if under else {"1.0": 61}))
    for rows, strategy in cases:
        dataset = example(spark, rows)
        model = sampler.copy().setParams(samplingStrategy=strategy).fit(dataset)
        assert model.plan.counts == rows
        if not _strata(sampler):
            assert model.plan == resolve(strategy, rows, sampler.kind)
        assert model.plan.changed, f"{strategy!r} changes nothing, so this check proves nothing"
        _assert_rows(sampler, dataset, model, model.resample(dataset))


def check_no_change(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Classes that are even already come back as they are."""
    dataset = example(spark, {"a": 16, "b": 16})
    assert _rows(sampler.fitResample(dataset)) == _rows(dataset)


def check_made_rows(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Rows made are marked, have parents of their class, and are null but for features and label."""
    assert isinstance(sampler, OverSamplerParams)
    with_ids = sampler.getIdCols() is not None
    marked = sampler.copy().setParams(syntheticCol="made", **({"lineageCol": "line"} if with_ids else {}))
    dataset = example(spark)
    model = marked.fit(dataset)
    out = model.resample(dataset).collect()
    made = [row for row in out if row["made"]]
    assert len(made) == sum(model.plan.targets.values()) - sum(model.plan.counts.values())
    kept = {*_feature_names(sampler), "label"}
    label_of = {row["id"]: row["label"] for row in out if not row["made"]}
    for row in made:
        assert all((row[name] is not None) == (name in kept) for name in dataset.columns), row
        if with_ids:
            assert label_of[row["line"]["parent"]["id"]] == row["label"]
            assert -1 <= row["line"]["gap"] <= 1
    assert all(row["made"] is False and (not with_ids or row["line"] is None) for row in out if row["id"] is not None)
    taken = sampler.copy().setParams(syntheticCol="note")
    assert "'note'" in _refusal(SparkimbError, lambda: taken.fit(_unreadable(dataset)))


def check_growth(sampler: Sampler[Any], spark: SparkSession) -> None:
    """A plan beyond maxGrowth is refused, with the number that would do."""
    message = _refusal(SparkimbError, lambda: sampler.copy().setParams(maxGrowth=1.01).fit(example(spark)))
    assert f"{type(sampler).__name__}.maxGrowth is 1.01" in message, message


def check_validation_rows(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Rows flagged for validation come back as they are, and are not counted; a null flag is no flag."""
    flag = F.when(F.col("id") % 5 == 0, True).when(F.col("id") % 5 == 1, False)
    dataset = example(spark).withColumn("held", flag)
    model = sampler.copy().setParams(validationIndicatorCol="held").fit(dataset)
    held, training = F.col("held"), ~F.coalesce("held", F.lit(False))
    out = model.resample(dataset)
    assert model.plan.counts == class_counts(dataset.where(training))
    assert _rows(out.where(held)) == _rows(dataset.where(held))
    assert class_counts(out.where(training)) == model.plan.targets


def check_any_columns(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Columns of any type pass, and without idCols they identify rows."""
    text = F.col("id").cast("string")
    typed = example(spark, {"common": 50, "rare": 16}).select(
        "*",
        F.create_map(F.lit("id"), "id").alias("a map"),
        F.array(F.create_map("id", text), F.create_map(text.alias("k").cast("long"), text)).alias("array of maps"),
        F.array(text, F.lit(None)).alias("array"),
        F.struct("id", F.create_map(text, "f0").alias("map"), F.array("f0").alias("array")).alias("struct"),
        F.col("f0").cast("decimal(20,10)").alias("decimal"),
        F.timestamp_seconds("id").alias("timestamp"),
        F.date_add(F.lit("2024-01-01").cast("date"), F.col("id").cast("int")).alias("date"),
        text.cast("binary").alias("binary"),
        F.make_dt_interval(days=F.col("id").cast("int")).alias("interval"),
        F.lit(None).alias("void"),
    )
    anonymous = sampler.copy()
    anonymous.clear(anonymous.idCols)
    model = anonymous.fit(typed)
    _assert_rows(sampler, typed, model, model.resample(typed))


# --- determinism ------------------------------------------------------------------------------------------------------


def check_same_rows(sampler: Sampler[Any], spark: SparkSession) -> None:
    """The rows do not depend on partitions, empty ones included, nor on adaptive execution or the order of columns."""
    dataset = example(spark)
    expected = _rows(sampler.fitResample(dataset))
    for arranged in (dataset.coalesce(1), dataset.repartition(7), dataset.repartition(64, "label")):
        assert _rows(sampler.fitResample(arranged)) == expected
    reordered = sampler.fitResample(dataset.select(*reversed(dataset.columns))).select(*dataset.columns)
    assert _rows(reordered) == expected
    adaptive = spark.conf.get("spark.sql.adaptive.enabled")
    spark.conf.set("spark.sql.adaptive.enabled", "false" if adaptive == "true" else "true")
    try:
        assert _rows(sampler.fitResample(dataset.repartition(5))) == expected
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", str(adaptive))


def check_seed(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Another seed gives other rows; `fit` and `fitResample` take it as a param map, too."""
    dataset = example(spark)
    other = {sampler.seed: sampler.getSeed() + 1}
    rows = _rows(sampler.fitResample(dataset, other))
    assert rows != _rows(sampler.fitResample(dataset))
    assert rows == _rows(sampler.fit(dataset, other).resample(dataset))


# --- input ------------------------------------------------------------------------------------------------------------


def check_feature_forms(sampler: Sampler[Any], spark: SparkSession) -> None:
    """A dense vector, a sparse vector, an array and scalar columns with the same numbers give the same rows."""
    dataset = example(spark, {"common": 40, "rare": 16}).select("id", "f0", "f1", "label", "features")
    numbers = [(row["id"], Vectors.sparse(2, {0: row["f0"], 1: row["f1"]})) for row in dataset.collect()]
    sparse = spark.createDataFrame(
        numbers, StructType([StructField("id", LongType()), StructField("features", VectorUDT())])
    )
    forms = {
        "dense vector": dataset.drop("f0", "f1"),
        "sparse vector": dataset.drop("f0", "f1", "features").join(sparse, "id"),
        "array": dataset.select("id", "label", F.array("f0", "f1").alias("features")),
        "columns": dataset.select("id", "label", "f0", "f1"),
    }
    found = {}
    for name, form in forms.items():
        plain = sampler.copy()
        for p in ("inputCols", "categoricalCols"):
            plain.clear(plain.getParam(p))
        if name == "columns":
            plain.setParams(inputCols=["f0", "f1"])
        rows = plain.fitResample(form).collect()
        found[name] = Counter(
            (row["id"], row["label"], *(round(float(x), 9) for x in (row[-2:] if name == "columns" else _vector(row))))
            for row in rows
        )
    for name, rows_of_form in found.items():
        assert rows_of_form == found["dense vector"], f"{name} differs: {rows_of_form - found['dense vector']}"


def check_bad_input(sampler: Sampler[Any], spark: SparkSession) -> None:
    """What cannot be worked with is refused in words, before any job where the schema tells."""
    dataset = example(spark)
    label = F.col("label")
    schema_errors = {
        "'label'": dataset.withColumn("label", F.array("label")),
        "not found": dataset.drop("label", *_named_columns(sampler)),
    }
    for expected, bad in schema_errors.items():
        message = _refusal(SparkimbError, lambda bad=bad: sampler.fit(_unreadable(bad)))  # type: ignore[misc]
        assert expected in message, message
    missing = _refusal(SparkimbError, lambda: sampler.fit(dataset.drop("label", *_named_columns(sampler))))
    assert all(f"'{name}'" in missing.split(" not found")[0] for name in ("label", *_named_columns(sampler))), missing
    flagged = sampler.copy().setParams(validationIndicatorCol="note")
    assert "boolean" in _refusal(SparkimbError, lambda: flagged.fit(_unreadable(dataset)))

    half, number = F.col("id") % 2 == 0, F.col("fold").cast("double")
    data_errors = {
        "73 null": dataset.withColumn("label", F.when(half, label)),
        "73 NaN": dataset.withColumn("label", F.when(half, F.lit(float("nan"))).otherwise(number)),
        "one class": dataset.withColumn("label", F.lit(1)),
        "no rows": dataset.limit(0),
    }
    for expected, bad in data_errors.items():
        message = _refusal(SparkimbError, lambda bad=bad: sampler.fit(bad))  # type: ignore[misc]
        assert expected in message, message


def check_column_names(sampler: Sampler[Any], spark: SparkSession) -> None:
    """Dots, spaces and backticks in names do no harm."""
    dataset = example(spark)
    odd = {name: f"a.{name} `x`" for name in dataset.columns}
    renamed = dataset.select(*(column(name).alias(new) for name, new in odd.items()))
    copied = sampler.copy()
    for p in sampler.params:
        value = sampler.getOrDefault(p) if sampler.isDefined(p) else None
        if isinstance(value, str) and value in odd:
            copied.setParams(**{p.name: odd[value]})
        elif isinstance(value, list) and set(value) <= set(odd):
            copied.setParams(**{p.name: [odd[name] for name in value]})
    assert _rows(copied.fitResample(renamed).toDF(*dataset.columns)) == _rows(sampler.fitResample(dataset))


# --- composition ------------------------------------------------------------------------------------------------------


class _Learner(Estimator[Any]):
    """Notes the class counts of the rows that it is given, and learns nothing from them."""

    def __init__(self, seen: list[dict[Label, int]]):
        super().__init__()
        self.seen = seen  # shared with the copies that CrossValidator makes

    def _fit(self, dataset: DataFrame) -> Model:
        self.seen.append(class_counts(dataset))
        return _Scorer()


class _Scorer(Model):
    def _transform(self, dataset: DataFrame) -> DataFrame:
        return dataset


class _Evaluator(Evaluator):
    """Notes the class counts of the rows to be evaluated."""

    def __init__(self, seen: list[dict[Label, int]]):
        super().__init__()
        self.seen = seen

    def _evaluate(self, dataset: DataFrame) -> float:
        self.seen.append(class_counts(dataset))
        return 0.0


def check_refuses_to_score(sampler: Sampler[Any], spark: SparkSession) -> None:
    """`transform`, and so pyspark's own Pipeline, says what to use instead."""
    dataset = example(spark)
    model = sampler.fit(dataset)
    for call in (
        lambda: model.transform(dataset),
        lambda: SparkPipeline(stages=[sampler, _Learner([])]).fit(dataset),
    ):
        message = _refusal(ScoringPathError, call)
        assert message.startswith(f"{type(sampler).__name__} "), message
        assert "sparkimb.Pipeline" in message, message


def check_pipeline(sampler: Sampler[Any], spark: SparkSession) -> None:
    """The learner trains on the resampled rows; the fitted pipeline has no sampler, and scores every row."""
    dataset = example(spark)
    seen: list[dict[Label, int]] = []
    fitted = Pipeline(stages=[sampler, _Learner(seen)]).fit(dataset)
    assert seen == [sampler.fit(dataset).plan.targets]
    assert [type(stage) for stage in fitted.stages] == [_Scorer]
    assert class_counts(fitted.transform(dataset)) == THREE_CLASSES


def check_evaluator_sees_natural_rows(sampler: Sampler[Any], spark: SparkSession) -> None:
    """CrossValidator's evaluator gets each fold as it is, whatever the learner trained on; grids take our Params."""
    dataset = example(spark)
    trained: list[dict[Label, int]] = []
    evaluated: list[dict[Label, int]] = []
    validator = CrossValidator(
        estimator=Pipeline(stages=[sampler, _Learner(trained)]),
        evaluator=_Evaluator(evaluated),
        estimatorParamMaps=ParamGridBuilder().addGrid(sampler.samplingStrategy, ["auto", "all"]).build(),
        numFolds=2,
        foldCol="fold",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pyspark leaves its pool of threads open
        validator.fit(dataset)
        gc.collect()
    natural = [class_counts(dataset.where(F.col("fold") == fold)) for fold in (0, 1)]
    assert evaluated == [natural[0], natural[0], natural[1], natural[1]]
    assert len(trained) == 5  # two of each fold, and the best one on all rows
    assert all(counts not in natural for counts in trained)


def check_saving(sampler: Sampler[Any], spark: SparkSession) -> None:
    """A sampler and its model are saved, overwritten and loaded; the loaded model gives the same rows."""
    dataset = example(spark)
    model = sampler.fit(dataset)
    with TemporaryDirectory() as folder:
        for instance in (sampler, model):
            path = str(Path(folder, type(instance).__name__))
            instance.write().save(path)
            instance.write().overwrite().save(path)
            loaded = type(instance).load(path)
            assert loaded.uid == instance.uid
            assert _values(loaded) == _values(instance)
    assert loaded.plan == model.plan
    assert _rows(loaded.resample(dataset)) == _rows(model.resample(dataset))


CHECKS: tuple[Check, ...] = (
    check_params,
    check_wrong_values,
    check_numpy_scalars,
    check_copy,
    check_resample_is_lazy,
    check_leaves_no_traces,
    check_majority_stays_in_the_jvm,
    check_schema,
    check_targets,
    check_no_change,
    check_made_rows,
    check_growth,
    check_validation_rows,
    check_any_columns,
    check_same_rows,
    check_seed,
    check_feature_forms,
    check_bad_input,
    check_column_names,
    check_refuses_to_score,
    check_pipeline,
    check_evaluator_sees_natural_rows,
    check_saving,
)

# --- what the checks share --------------------------------------------------------------------------------------------

_WAS_READ = "the dataset was read"


def _unreadable(dataset: DataFrame) -> DataFrame:
    """Return the dataset with a filter that fails whatever job reads it."""
    return dataset.where(F.raise_error(F.lit(_WAS_READ)).cast("boolean"))


def _refusal(kind: type[Exception], call: Callable[[], object]) -> str:
    """Return the message of the error of this kind that a call must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def _values(stage: Params) -> dict[str, Any]:
    return {p.name: value for p, value in stage.extractParamMap().items()}


def _views(spark: SparkSession) -> set[str]:
    return {table.name for table in spark.catalog.listTables() if table.isTemporary}


def _rows(dataset: DataFrame) -> Counter[str]:
    """Count the rows by what they show: vectors, maps and bytes do not hash."""
    return Counter(map(repr, dataset.collect()))


def _assert_rows(sampler: Sampler[Any], dataset: DataFrame, model: Any, out: DataFrame) -> None:
    """Assert what holds of the rows after any sampler: the plan is met, and the input's rows are as they were."""
    before, after = dataset.collect(), out.collect()
    assert Counter(row["label"] for row in after) == Counter(model.plan.targets)
    few, many = (after, before) if sampler.kind == "under" else (before, after)
    assert _shown(few) <= _shown(many), "an original row is lost or changed"
    untouched = [label for label in model.plan.counts if label not in model.plan.changed]
    assert _shown(r for r in after if r["label"] in untouched) == _shown(r for r in before if r["label"] in untouched)
    ids = Counter(row["id"] for row in after if row["id"] is not None)
    assert max(ids.values()) == 1, "an id occurs twice"


def _shown(rows: Iterator[Row] | list[Row]) -> Counter[str]:
    return Counter(map(repr, rows))


def _strata(sampler: Sampler[Any]) -> bool:
    return sampler.hasParam("strataCols") and sampler.isSet("strataCols")


def _feature_names(sampler: OverSamplerParams) -> list[str]:
    columns = [*(sampler.getInputCols() or ()), *(sampler.getCategoricalCols() or ())]
    return columns or [sampler.getFeaturesCol()]


def _named_columns(sampler: Sampler[Any]) -> list[str]:
    """Return the columns that a sampler needs besides the label."""
    strata = sampler.getOrDefault("strataCols") if _strata(sampler) else []
    features = _feature_names(sampler) if isinstance(sampler, OverSamplerParams) else []
    return [*(sampler.getIdCols() or ()), *strata, *features]


def _vector(row: Row) -> list[float]:
    return list(getattr(row["features"], "toArray", lambda: row["features"])())
