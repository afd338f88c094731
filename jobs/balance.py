"""Balance a training set, compare treatments on untouched rows, and write rows, model, figures and a report.

spark-submit jobs/balance.py --config conf/balance/demo.yaml
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any

import pyspark
import typer
import yaml
from config import PARTS, STEPS, Balance, Treatment, load
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml import PipelineModel
from pyspark.ml.feature import Imputer, IndexToString, OneHotEncoder, SQLTransformer, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, DoubleType, NumericType
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from session import require_source, session
from storage import RESULT, SPARK_ERRORS, Storage, reason, written_aside

import sparkimb
from sparkimb.base import Sampler
from sparkimb.columns import check_label_type, column, require_columns, temporary_name
from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, best_threshold, confusion_matrix, correct_priors, probability_metrics
from sparkimb.evaluation.folds import stratified_split
from sparkimb.report import render
from sparkimb.statistics import ImbalanceProfile, imbalance_profile, require_two_classes
from sparkimb.strategy import Label, match_label, minority_class

CURVE_POINTS = 400  # more than a plot has pixels for; keeps the report under a megabyte
MAX_PRINTED_CLASSES = 20  # more than that is no table to read; metrics.json has them all
OUTPUTS = ("features", "rawPrediction", "probability", "prediction", "predictedLabel")  # columns that the model writes
BINARY = ("GBTClassifier", "FMClassifier")  # the learners of pyspark.ml that know two classes only
SECRET = re.compile(r"(?i)secret|password|token|credential|access[._-]?key|account[._-]?key")

console = Console()
if not console.is_terminal:
    console = Console(width=120)  # a log file has no width; 80 columns would cut the tables


@dataclass
class Treated:
    """The training rows after a treatment, and what it did to them."""

    name: str
    dataset: DataFrame
    rows: dict[Label, int]
    weights: dict[Label, float]
    weightCol: str | None = None
    steps: list[str] = field(default_factory=list)

    @property
    def priors(self) -> dict[Label, float]:
        """The class shares that a learner sees: rows times weights."""
        mass = {label: n * self.weights[label] for label, n in self.rows.items()}
        return {label: m / sum(mass.values()) for label, m in mass.items()}


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a step while it runs, and how long it took."""
    began = time.monotonic()
    with console.status(f"{escape(title)} …"):
        yield
    console.print(f"[green]✓[/green] {escape(title)}  [dim]{time.monotonic() - began:.1f} s[/dim]", highlight=False)


@contextmanager
def kept(dataset: DataFrame) -> Iterator[DataFrame]:
    """Keep rows on the executors, spilling to disk, while they are read more than once."""
    dataset = dataset.persist()
    try:
        yield dataset
    finally:
        dataset.unpersist()


class BalanceJob:
    """One run of a config on a session."""

    def __init__(self, config: Balance, spark: SparkSession, command: str = "") -> None:
        self.config = config
        self.spark = spark
        self.command = command

    def run(self) -> dict[str, Any]:
        """Do it all; return what metrics.json holds."""
        began = time.monotonic()
        storage, output = Storage(self.spark), self.config.output
        rows, source = self.read(), self.config.input.path
        with (
            written_aside(storage, output.path, overwrite=output.overwrite, source=source) as aside,
            kept(rows) as dataset,
        ):
            with step("Profile the classes"):
                profile = self.profile(dataset)
            print_profile(profile, self.config.columns.label)
            positive = self.positive(profile)
            with step("Split into train, validation and test"):
                dataset, counts = self.split(dataset, profile, positive)
            split = column(self.split_col)
            part = {name: dataset.where(split == name).drop(self.split_col) for name in PARTS}
            learning = Learning(self.config, counts["train"], positive, part["train"]) if self.config.learner else None
            treatments = []
            for treatment in [None, *self.config.treatments]:
                with step(f"Treat and measure: {treatment.name if treatment else 'natural'}"):
                    treated = self.treat(treatment, part["train"], counts["train"])
                    result = self.describe(treated, counts["train"])
                    if learning is not None:
                        result |= learning.measure(treated, part["validation"], part["test"])
                    treatments.append(result)
                if treated.name == self.config.written:
                    with step("Write the balanced rows and the model"):
                        self.write_rows(treated, f"{aside}/training")
                        if learning is not None:
                            learning.model.write().save(f"{aside}/model")
            results = self.results(profile, positive, counts, treatments, time.monotonic() - began)
            with step("Write figures and report"):
                self.write_texts(storage, aside, results, counts["train"])
        print_treatments(results)
        where = storage.qualified(output.path)
        console.print(f"Results: {where}\nReport:  {where}/report.html", soft_wrap=True, highlight=False, markup=False)
        return results

    # ---- rows

    def read(self) -> DataFrame:
        """Open the input and check its columns: no job, but for what a reader needs to find the schema."""
        given, roles = self.config.input, self.config.columns
        reader = self.spark.read.options(**given.options)
        try:
            if given.format == "table":
                dataset = reader.table(str(given.table))
            else:
                dataset = reader.format(given.format).load(given.path)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"input '{given.source}' cannot be read as {given.format}: {reason(error)}.") from None
        require_columns(
            dataset,
            **{
                "columns.label": roles.label,
                "columns.numeric": roles.numeric,
                "columns.categorical": roles.categorical,
                "columns.id": roles.id,
                "split.column": self.config.split.column,
                "strataCols": [name for treatment in self.config.treatments for name in treatment.strataCols],
            },
        )
        check_label_type(dataset, roles.label)
        self.check_types(dataset)
        self.check_names(dataset)
        return dataset

    def check_types(self, dataset: DataFrame) -> None:
        """Check that numbers are numbers, and categories single values."""
        roles = self.config.columns
        for role, names, allowed, advice in (
            ("numeric", roles.numeric, NumericType, "List them under categorical, or let the reader make them numbers"),
            ("categorical", roles.categorical, AtomicType, "Leave them out, or take single values from them"),
        ):
            types = {name: dataset.schema[name].dataType for name in names}
            wrong = [f"'{name}' ({t.simpleString()})" for name, t in types.items() if not isinstance(t, allowed)]
            if wrong:
                kind = "numeric" if role == "numeric" else "single values"
                hint = " (csv: input.options.inferSchema)" if self.config.input.format == "csv" else ""
                raise SparkimbError(f"columns.{role} {', '.join(wrong)} are not {kind}. {advice}{hint}.")

    def check_names(self, dataset: DataFrame) -> None:
        """Check that no column of the input has a name that the job gives to a column of its own."""
        present = {name.lower(): name for name in dataset.columns}
        for treatment in self.config.treatments:
            if treatment.weightCol is not None and treatment.weightCol.lower() in present:
                raise SparkimbError(
                    f"The input has a column '{present[treatment.weightCol.lower()]}', which treatment "
                    f"'{treatment.name}' would overwrite with weights. Name another with ClassWeigher.weightCol."
                )
        if self.config.learner is not None:
            roles = self.config.columns
            written = [*OUTPUTS, *(made for names in stage_columns(roles.numeric, roles.categorical) for made in names)]
            clash = sorted(present[name.lower()] for name in written if name.lower() in present)
            if clash:
                raise SparkimbError(f"Columns {clash} of the input have names that the model writes. Rename them.")
            if len({name.lower() for name in written}) < len(written):
                raise SparkimbError(
                    "Feature columns differ in case, or in dots and lines, alone, so the model's stages would mix them "
                    f"up: {', '.join([*roles.numeric, *roles.categorical])}. Rename some."
                )

    def profile(self, dataset: DataFrame) -> ImbalanceProfile:
        """Profile the classes and the features."""
        roles = self.config.columns
        profile = imbalance_profile(
            dataset, labelCol=roles.label, columns=[*roles.numeric, *roles.categorical], idCols=roles.id
        )
        require_two_classes(profile.counts, roles.label)
        empty = [name for name, nulls in profile.nulls.items() if nulls == profile.rows]
        if empty:
            raise SparkimbError(f"Feature columns {empty} are null in all {profile.rows:,} rows. Leave them out.")
        return profile

    def positive(self, profile: ImbalanceProfile) -> Label:
        """Return the class that the metrics are about."""
        named = self.config.columns.positive
        if named is None:
            return minority_class(profile.counts)
        label = match_label(named, profile.counts)
        if label is None:
            raise SparkimbError(
                f"columns.positive is {named!r}, which is no label of '{self.config.columns.label}'. "
                f"Labels are: {', '.join(repr(known) for known in profile.counts)}."
            )
        return label

    def split(
        self, dataset: DataFrame, profile: ImbalanceProfile, positive: Label
    ) -> tuple[DataFrame, dict[str, dict[Label, int]]]:
        """Divide the rows and count each class in each part."""
        split, label = self.config.split, self.config.columns.label
        if split.fractions is not None:
            self.split_col = temporary_name(dataset, "split")
            fractions = {str(name): split.fractions[name] for name in PARTS}  # type: ignore[index]
            dataset = stratified_split(
                dataset,
                fractions,
                labelCol=label,
                idCols=self.config.columns.id or None,
                seed=split.seed,
                splitCol=self.split_col,
            )
        else:
            self.split_col = str(split.column)
        counted = dataset.groupBy(column(self.split_col).alias("part"), column(label).alias("label")).count()
        found = counted.limit(3 * len(profile.counts) + 1000).collect()
        unknown = sorted({repr(row["part"]) for row in found if row["part"] not in PARTS})
        if unknown:
            shown = ", ".join(unknown[:5]) + (" and more" if len(unknown) > 5 else "")
            raise SparkimbError(f"split.column '{split.column}' holds {shown}. It must say {', '.join(PARTS)}.")
        counts: dict[str, dict[Label, int]] = {name: {} for name in PARTS}
        for name, value, rows in found:
            counts[name][value] = rows
        counts = {name: {c: rows[c] for c in profile.counts if c in rows} for name, rows in counts.items()}
        for name, rows in counts.items():
            if rows.get(positive, 0) == 0 or len(rows) < 2:
                raise SparkimbError(
                    f"The {name} part has {rows.get(positive, 0)} rows of class {positive!r} and "
                    f"{sum(rows.values()) - rows.get(positive, 0):,} others (labelCol '{label}'). "
                    "Give it a larger fraction, or more data."
                )
        return dataset, counts

    def treat(self, treatment: Treatment | None, training: DataFrame, counts: Mapping[Label, int]) -> Treated:
        """Apply the steps of a treatment, in order, to the training rows."""
        treated = Treated("natural", training, dict(counts), dict.fromkeys(counts, 1.0))
        if treatment is None:
            return treated
        roles = self.config.columns
        treated.name = treatment.name
        for given in treatment.steps:
            (name, params), *_ = given.items()
            stage = STEPS[name](labelCol=roles.label, **params)
            if isinstance(stage, Sampler):
                stage.setParams(
                    idCols=roles.id or None,
                    **(
                        {"inputCols": roles.numeric, "categoricalCols": roles.categorical}
                        if stage.kind == "over"
                        else {}
                    ),
                )
                model = stage.fit(treated.dataset)
                treated.dataset, treated.rows = model.resample(treated.dataset), dict(model.plan.targets)
            else:
                model = stage.fit(treated.dataset)
                treated.dataset, treated.weightCol = model.transform(treated.dataset), stage.getWeightCol()
                treated.weights = {label: w * model.classWeights[label] for label, w in treated.weights.items()}
            treated.steps.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in params.items())})")
        gone = [label for label, share in treated.priors.items() if share == 0]
        if gone:
            raise SparkimbError(f"Treatment '{treated.name}' leaves nothing of the classes {gone}. Keep some of each.")
        return treated

    # ---- results

    def describe(self, treated: Treated, counts: Mapping[Label, int]) -> dict[str, Any]:
        """Say what a treatment did to the training rows."""
        total = sum(counts.values())
        return {
            "name": treated.name,
            "steps": treated.steps,
            "rows": by_text(treated.rows),
            "weights": by_text(treated.weights),
            "priorsBefore": by_text({label: rows / total for label, rows in counts.items()}),
            "priorsAfter": by_text(treated.priors),
            "seconds": 0.0,
        }

    def results(
        self,
        profile: ImbalanceProfile,
        positive: Label,
        counts: Mapping[str, Mapping[Label, int]],
        treatments: list[dict[str, Any]],
        seconds: float,
    ) -> dict[str, Any]:
        """Gather what metrics.json and the report hold."""
        roles, effective = self.config.columns, profile.effectiveNumbers()
        results = {
            "name": self.config.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": seconds,
            "versions": {
                "sparkimb": sparkimb.__version__,
                "pyspark": pyspark.__version__,
                "spark": self.spark.version,
                "python": platform.python_version(),
            },
            "seed": self.config.split.seed,
            "command": self.command,
            "config": self.resolved(),
            "data": {
                "source": self.config.input.source,
                "rows": profile.rows,
                "label": roles.label,
                "positive": text_of(positive),
                "numeric": roles.numeric,
                "categorical": roles.categorical,
                "id": roles.id,
            },
            "profile": {
                "rows": profile.rows,
                "imbalanceRatio": profile.imbalanceRatio,
                "entropy": profile.entropy,
                "entropyRatio": profile.entropyRatio,
                "duplicateRows": profile.duplicateRows,
                "duplicateShare": profile.duplicateShare,
                "classes": [
                    {
                        "label": text_of(label),
                        "rows": rows,
                        "share": rows / profile.rows,
                        "effectiveNumber": effective[label],
                    }
                    for label, rows in profile.counts.items()
                ],
                "nulls": profile.nulls,
            },
            "split": {name: by_text(rows) for name, rows in counts.items()},
            "treatments": treatments,
        }
        if self.config.learner is not None:
            results["learner"] = self.config.learner.name
        return results

    def resolved(self) -> str:
        """Return the config with every default filled in and no secret, as YAML."""
        given = self.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        for options in (given["input"]["options"], given["spark"]):
            options |= {key: "(not shown)" for key in options if SECRET.search(key)}
        return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)

    def write_rows(self, treated: Treated, path: str) -> None:
        """Write the treated training rows."""
        try:
            treated.dataset.write.format(self.config.output.format).save(path)
        except SPARK_ERRORS as error:
            raise SparkimbError(
                f"The rows cannot be written to '{path}' as {self.config.output.format}: {reason(error)}."
            ) from error
        self.schema = treated.dataset.schema.jsonValue()

    def write_texts(self, storage: Storage, aside: str, results: dict[str, Any], counts: Mapping[Label, int]) -> None:
        """Write the report, the figures, the resolved config and, last, the manifest."""
        written = next(t for t in results["treatments"] if t["name"] == self.config.written)
        manifest = {key: results[key] for key in ("name", "created", "versions", "seed")} | {
            "format": self.config.output.format,
            "treatment": written["name"],
            "steps": written["steps"],
            "rowsPerClass": {"before": by_text(counts), "after": written["rows"]},
            "priors": {"before": written["priorsBefore"], "after": written["priorsAfter"]},
            "positive": results["data"]["positive"],
            "threshold": written.get("threshold"),
            "schema": self.schema,
        }
        storage.write_text(f"{aside}/report.html", render(results))
        storage.write_text(f"{aside}/metrics.json", json.dumps(results, indent=1, ensure_ascii=False))
        storage.write_text(f"{aside}/config.yaml", results["config"])
        storage.write_text(f"{aside}/{RESULT}", json.dumps(manifest, indent=1, ensure_ascii=False))


class Learning:
    """A learner on the features of the config: trained on treated rows, measured on untouched ones."""

    def __init__(self, config: Balance, counts: Mapping[Label, int], positive: Label, training: DataFrame) -> None:
        assert config.learner is not None
        self.config = config
        self.learner = config.learner
        self.positive = positive
        # The positive class is the last index: 1 of two, as binary learners expect.
        self.labels = [label for label in counts if label != positive] + [positive]
        self.natural = {label: rows / sum(counts.values()) for label, rows in counts.items()}
        if self.learner.name in BINARY and len(self.labels) > 2:
            raise SparkimbError(
                f"learner.class '{self.learner.name}' learns two classes, but '{config.columns.label}' has "
                f"{len(self.labels)}. Take another learner."
            )
        self.features = self.fit_features(training)
        self.check_layers(training)
        self.model: PipelineModel

    def fit_features(self, training: DataFrame) -> PipelineModel:
        """Learn categories and medians on the natural rows.

        A null number becomes the median.  A null or empty text is a category, one with those not seen here.
        """
        numeric, categorical = self.config.columns.numeric, self.config.columns.categorical
        numbers, filled, texts, index, onehot = stage_columns(numeric, categorical)
        # Spark's indexer takes no booleans or dates, its encoder no empty text; its imputer rounds a median to the
        # column's type; and none of them finds a column with a dot in its name.
        casts = [
            f"CAST({quoted(name)} AS DOUBLE) AS {quoted(made)}" for name, made in zip(numeric, numbers, strict=True)
        ]
        casts += [
            f"NULLIF(CAST({quoted(name)} AS STRING), '') AS {quoted(made)}"
            for name, made in zip(categorical, texts, strict=True)
        ]
        stages: list[Any] = [SQLTransformer(statement=f"SELECT *, {', '.join(casts)} FROM __THIS__")]
        if categorical:
            stages.append(StringIndexer(inputCols=texts, outputCols=index, handleInvalid="keep"))
            stages.append(OneHotEncoder(inputCols=index, outputCols=onehot, handleInvalid="keep"))
        if numeric:
            stages.append(Imputer(strategy="median", inputCols=numbers, outputCols=filled))
        stages.append(VectorAssembler(inputCols=[*filled, *onehot], outputCol="features"))
        try:
            return SparkPipeline(stages=stages).fit(training)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"The training rows cannot be made into features: {reason(error)}.") from error

    def check_layers(self, training: DataFrame) -> None:
        """Check that a perceptron's first and last layers fit, which Spark finds out by an index out of bounds."""
        layers = self.learner.params.get("layers")
        width = self.features.transform(training).schema["features"].metadata["ml_attr"]["num_attrs"]
        if layers is not None and (layers[:1], layers[-1:]) != ([width], [len(self.labels)]):
            raise SparkimbError(
                f"learner.params.layers is {layers}, but there are {width} features (one-hot) and {len(self.labels)} "
                f"classes. Let it begin with {width} and end with {len(self.labels)}."
            )

    def measure(self, treated: Treated, validation: DataFrame, test: DataFrame) -> dict[str, Any]:
        """Train on treated rows, choose the threshold on the validation rows, measure on the test rows."""
        began = time.monotonic()
        weight = {"weightCol": treated.weightCol} if treated.weightCol else {}
        y = temporary_name(treated.dataset, "y")
        learner = self.learner.kind(labelCol=y, **weight, **self.learner.params)
        rows = self.features.transform(treated.dataset.withColumn(y, self.label_index()))
        rows = rows.select("features", y, *(column(name) for name in weight.values()))
        try:
            fitted = learner.fit(rows)
        except SPARK_ERRORS as error:
            raise SparkimbError(
                f"learner {self.learner.name} failed on treatment '{treated.name}': {reason(error)}."
            ) from error
        seconds = time.monotonic() - began
        names = IndexToString(
            inputCol="prediction", outputCol="predictedLabel", labels=[text_of(c) for c in self.labels]
        )
        self.model = PipelineModel([*self.features.stages, fitted, names])

        with (
            kept(self.score(fitted, validation, treated)) as validated,
            kept(self.score(fitted, test, treated)) as tested,
        ):
            on_validation = RankingMetrics(validated, labelCol="truth", positiveLabel=True)
            best = best_threshold(on_validation, self.config.threshold)
            ranking = RankingMetrics(tested, labelCol="truth", positiveLabel=True)
            probability = probability_metrics(tested, labelCol="truth", positiveLabel=True)
            decided = tested.withColumn("decision", F.col("score") >= F.lit(best.threshold))
            matrix = confusion_matrix(decided, predictionCol="decision", labelCol="truth", positiveLabel=True)
            pr, roc, cuts = (
                ranking.prCurve(CURVE_POINTS),
                ranking.rocCurve(CURVE_POINTS),
                ranking.thresholdCurve(CURVE_POINTS),
            )
        return {
            "seconds": seconds,
            "threshold": best.threshold,
            "objective": best.objective,
            "metrics": {
                "averagePrecision": ranking.averagePrecision,
                "areaUnderPR": ranking.areaUnderPR,
                "areaUnderROC": ranking.areaUnderROC,
                "precision": matrix.precision(),
                "recall": matrix.recall(),
                "f1": matrix.f1(),
                "specificity": matrix.specificity(),
                "gMean": matrix.gMean,
                "balancedAccuracy": matrix.balancedAccuracy,
                "mcc": matrix.mcc,
                "brier": probability.brier,
                "expectedCalibrationError": probability.expectedCalibrationError,
            },
            "confusion": {
                "truePositive": int(matrix.truePositives()),
                "falsePositive": int(matrix.falsePositives()),
                "falseNegative": int(matrix.falseNegatives()),
                "trueNegative": int(matrix.trueNegatives()),
            },
            "curves": {
                "pr": {name: pr[name].tolist() for name in ("recall", "precision")},
                "roc": {name: roc[name].tolist() for name in ("falsePositiveRate", "truePositiveRate")},
                "calibration": {
                    "predicted": probability.reliability["meanPredicted"].tolist(),
                    "observed": probability.reliability["observedShare"].tolist(),
                    "rows": probability.reliability["rows"].tolist(),
                },
                "threshold": {name: cuts[name].tolist() for name in ("threshold", "precision", "recall", "f1")},
            },
        }

    def score(self, fitted: Any, part: DataFrame, treated: Treated) -> DataFrame:
        """Return truth and the corrected probability of the positive class for each row."""
        scored = fitted.transform(self.features.transform(part))
        probability = vector_to_array(F.col("probability"))
        if treated.name != "natural":
            probability = correct_priors(
                probability,
                before=[self.natural[label] for label in self.labels],
                after=[treated.priors[label] for label in self.labels],
            )
        truth = column(self.config.columns.label) == F.lit(self.positive)
        corrected: DataFrame = scored.select(
            truth.alias("truth"), F.get(probability, F.lit(len(self.labels) - 1)).alias("score")
        )
        return corrected

    def label_index(self) -> Column:
        """Return the label as the index that learners want."""
        index = F.lit(None).cast(DoubleType())
        for i, label in enumerate(self.labels):
            index = F.when(column(self.config.columns.label) == F.lit(label), float(i)).otherwise(index)
        return index


def stage_columns(numeric: Sequence[str], categorical: Sequence[str]) -> tuple[list[str], ...]:
    """Return the columns that the feature stages write: numbers, filled, texts, indices and one-hot vectors.

    Feature stages take a dot in a name for a field of a struct, so it becomes a line.
    """
    ends = {"number": numeric, "filled": numeric, "text": categorical, "index": categorical, "onehot": categorical}
    return tuple([f"{name.replace('.', '_')}__{end}" for name in names] for end, names in ends.items())


def quoted(name: str) -> str:
    """Return a column's name as SQL takes it."""
    return "`" + name.replace("`", "``") + "`"


def text_of(label: Label) -> str:
    """Return a label as text."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def by_text(values: Mapping[Label, Any]) -> dict[str, Any]:
    """Return a dict by label as a dict by text, as JSON needs."""
    return {text_of(label): value for label, value in values.items()}


def print_profile(profile: ImbalanceProfile, label: str) -> None:
    """Print a table of the classes."""
    table = Table(title=escape(f"Classes of '{label}'"), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("class", "rows", "share", "effective number"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    effective, half = profile.effectiveNumbers(), MAX_PRINTED_CLASSES // 2
    hidden = len(profile.counts) - MAX_PRINTED_CLASSES
    for i, (name, rows) in enumerate(profile.counts.items()):
        if hidden <= 0 or i < half or i >= half + hidden:
            table.add_row(escape(text_of(name)), f"{rows:,}", f"{rows / profile.rows:.2%}", f"{effective[name]:,.0f}")
        elif i == half:
            table.add_row(f"… {hidden:,} more")
    console.print(table)
    nulls = {name: rows for name, rows in profile.nulls.items() if rows}
    console.print(
        f"{profile.rows:,} rows, imbalance {profile.imbalanceRatio:.1f} to 1, entropy {profile.entropy:.3f} bits "
        f"({profile.entropyRatio:.0%} of even classes), {profile.duplicateRows:,} rows repeat another "
        f"({profile.duplicateShare:.1%}), nulls in {len(nulls)} columns.",
        highlight=False,
    )


def print_treatments(results: Mapping[str, Any]) -> None:
    """Print a table of the treatments."""
    measured = ", measured on the untouched test rows" if "learner" in results else ""
    table = Table(title=f"Treatments{measured}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    metrics = {
        "averagePrecision": "avg.\nprec.",
        "areaUnderROC": "ROC\narea",
        "precision": "prec.",
        "recall": "recall",
        "f1": "F1",
        "gMean": "G-mean",
        "brier": "Brier",
    }
    table.add_column("treatment", overflow="fold")
    table.add_column("training\nrows", justify="right")
    for heading in metrics.values() if "learner" in results else ():
        table.add_column(heading, justify="right")
    for treatment in results["treatments"]:
        figures = [f"{treatment['metrics'][name]:.3f}" for name in metrics] if "metrics" in treatment else []
        table.add_row(escape(treatment["name"]), f"{sum(treatment['rows'].values()):,}", *figures)
    console.print(table)


def main(config: Annotated[str, typer.Option(help="A YAML file: see conf/balance/.")]) -> None:
    """Balance a training set and compare treatments on untouched rows."""
    warnings.showwarning = lambda message, *_: console.print(f"Note: {message}", style="yellow", markup=False)
    try:
        given = load(config, Balance)
        delta = "delta" in (given.input.format, given.output.format)
        with step("Start Spark"):
            spark = session(f"sparkimb balance {given.name}", given.spark, delta=delta)
        if delta:
            require_source(spark, "delta")
        BalanceJob(given, spark, command=f"sparkimb balance --config {config}").run()
    except SparkimbError as error:
        console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
