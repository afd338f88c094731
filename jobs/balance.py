"""Balance a training set, compare treatments on untouched rows, and write rows, model, figures and a report.

spark-submit jobs/balance.py --config conf/balance/demo.yaml
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any

import pyspark
import typer
import yaml
from config import PARTS, STEPS, Balance, Treatment, load
from pyspark.errors import AnalysisException
from pyspark.ml import Pipeline as SparkPipeline
from pyspark.ml import PipelineModel
from pyspark.ml.feature import Imputer, IndexToString, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, NumericType
from rich.console import Console
from rich.table import Table
from session import session
from storage import Storage, written_aside

import sparkimb
from sparkimb.base import Sampler
from sparkimb.columns import column, require_columns, temporary_name
from sparkimb.errors import SparkimbError
from sparkimb.evaluation import RankingMetrics, best_threshold, confusion_matrix, correct_priors, probability_metrics
from sparkimb.evaluation.folds import stratified_split
from sparkimb.report import render
from sparkimb.statistics import ImbalanceProfile, imbalance_profile, require_two_classes
from sparkimb.strategy import Label, match_label, minority_class

CURVE_POINTS = 400  # more than a plot has pixels for; keeps the report under a megabyte

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
    with console.status(f"{title} …"):
        yield
    console.print(f"[green]✓[/green] {title}  [dim]{time.monotonic() - began:.1f} s[/dim]", highlight=False)


class BalanceJob:
    """One run of a config on a session."""

    def __init__(self, config: Balance, spark: SparkSession, command: str = "") -> None:
        self.config = config
        self.spark = spark
        self.command = command

    def run(self) -> dict[str, Any]:
        """Do it all; return what metrics.json holds."""
        began = time.monotonic()
        storage = Storage(self.spark)
        with written_aside(storage, self.config.output.path, overwrite=self.config.output.overwrite) as aside:
            dataset = self.read()
            with step("Profile the classes"):
                profile = self.profile(dataset)
            print_profile(profile, self.config.columns.label)
            positive = self.positive(profile)
            with step("Split into train, validation and test"):
                dataset, counts = self.split(dataset, profile, positive)
            part = {name: dataset.where(F.col(self.split_col) == name).drop(self.split_col) for name in PARTS}
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
            dataset.unpersist()
        print_treatments(results)
        console.print(f"Results: {storage.qualified(self.config.output.path)}", soft_wrap=True, highlight=False)
        console.print(
            f"Report:  {storage.qualified(self.config.output.path)}/report.html", soft_wrap=True, highlight=False
        )
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
        except Exception as error:
            if not isinstance(error, AnalysisException) and "Exception" not in type(error).__name__:
                raise
            why = str(error).split("\n")[0].strip()
            raise SparkimbError(f"input '{given.source}' cannot be read as {given.format}: {why}") from None
        require_columns(
            dataset,
            **{
                "columns.label": roles.label,
                "columns.numeric": roles.numeric,
                "columns.categorical": roles.categorical,
                "columns.id": roles.id,
                "split.column": self.config.split.column,
            },
        )
        wrong = [
            f"'{name}' ({dataset.schema[name].dataType.simpleString()})"
            for name in roles.numeric
            if not isinstance(dataset.schema[name].dataType, NumericType)
        ]
        if wrong:
            raise SparkimbError(f"columns.numeric {', '.join(wrong)} are not numeric. List them under categorical.")
        return dataset

    def profile(self, dataset: DataFrame) -> ImbalanceProfile:
        """Profile the classes and the features."""
        roles = self.config.columns
        profile = imbalance_profile(
            dataset, labelCol=roles.label, columns=[*roles.numeric, *roles.categorical], idCols=roles.id
        )
        require_two_classes(profile.counts, roles.label)
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
        """Divide the rows and count each class in each part.

        From here on every treatment reads the rows, so they are kept on the executors, spilling to disk.
        """
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
        dataset = dataset.persist()
        counted = dataset.groupBy(column(self.split_col).alias("part"), column(label).alias("label")).count()
        counts: dict[str, dict[Label, int]] = {name: {} for name in PARTS}
        for name, value, rows in counted.limit(3 * len(profile.counts) + 1000).collect():
            if name not in PARTS:
                raise SparkimbError(f"split.column '{split.column}' holds {name!r}. It must say {', '.join(PARTS)}.")
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
            stage = STEPS[name](labelCol=roles.label, **(params or {}))
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
            treated.steps.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in (params or {}).items())})")
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
        """Return the config with every default filled in, as YAML."""
        return yaml.safe_dump(self.config.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)

    def write_rows(self, treated: Treated, path: str) -> None:
        """Write the treated training rows."""
        treated.dataset.write.format(self.config.output.format).save(path)
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
        storage.write_text(f"{aside}/manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))


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
        self.features = self.fit_features(training)
        self.model: PipelineModel

    def fit_features(self, training: DataFrame) -> PipelineModel:
        """Learn categories and medians on the natural rows; a null is a category of its own, or the median."""
        numeric, categorical = self.config.columns.numeric, self.config.columns.categorical
        made = {
            name: f"{name}__{kind}" for kind, names in (("filled", numeric), ("index", categorical)) for name in names
        }
        clash = sorted(
            {*training.columns} & {*made.values(), "features", "prediction", "probability", "rawPrediction", "y"}
        )
        if clash:
            raise SparkimbError(f"Columns {clash} of the input are names that the learner's stages write. Rename them.")
        stages: list[Any] = []
        if categorical:
            index, onehot = [made[name] for name in categorical], [f"{name}__onehot" for name in categorical]
            stages.append(StringIndexer(inputCols=categorical, outputCols=index, handleInvalid="keep"))
            stages.append(OneHotEncoder(inputCols=index, outputCols=onehot, handleInvalid="keep"))
        if numeric:
            filled = [made[name] for name in numeric]
            stages.append(Imputer(strategy="median", inputCols=numeric, outputCols=filled))
        inputs = [*(made[name] for name in numeric), *(f"{name}__onehot" for name in categorical)]
        stages.append(VectorAssembler(inputCols=inputs, outputCol="features"))
        return SparkPipeline(stages=stages).fit(training)

    def measure(self, treated: Treated, validation: DataFrame, test: DataFrame) -> dict[str, Any]:
        """Train on treated rows, choose the threshold on the validation rows, measure on the test rows."""
        began = time.monotonic()
        weight = {"weightCol": treated.weightCol} if treated.weightCol else {}
        learner = self.learner.kind(labelCol="y", **weight, **self.learner.params)
        rows = self.features.transform(treated.dataset.withColumn("y", self.label_index()))
        rows = rows.select("features", "y", *(column(name) for name in weight.values()))
        try:
            fitted = learner.fit(rows)
        except Exception as error:
            why = str(error).split("\n")[0].strip()
            raise SparkimbError(f"learner {self.learner.name} failed on treatment '{treated.name}': {why}") from error
        seconds = time.monotonic() - began
        names = IndexToString(
            inputCol="prediction", outputCol="predictedLabel", labels=[text_of(c) for c in self.labels]
        )
        self.model = PipelineModel([*self.features.stages, fitted, names])

        scored = {
            name: self.score(fitted, part, treated).persist()
            for name, part in (("validation", validation), ("test", test))
        }
        best = best_threshold(
            RankingMetrics(scored["validation"], labelCol="truth", positiveLabel=True), self.config.threshold
        )
        ranking = RankingMetrics(scored["test"], labelCol="truth", positiveLabel=True)
        probability = probability_metrics(scored["test"], labelCol="truth", positiveLabel=True)
        decided = scored["test"].withColumn("decision", F.col("score") >= F.lit(best.threshold))
        matrix = confusion_matrix(decided, predictionCol="decision", labelCol="truth", positiveLabel=True)
        pr, roc, cuts = (
            ranking.prCurve(CURVE_POINTS),
            ranking.rocCurve(CURVE_POINTS),
            ranking.thresholdCurve(CURVE_POINTS),
        )
        for part in scored.values():
            part.unpersist()
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


def text_of(label: Label) -> str:
    """Return a label as text."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def by_text(values: Mapping[Label, Any]) -> dict[str, Any]:
    """Return a dict by label as a dict by text, as JSON needs."""
    return {text_of(label): value for label, value in values.items()}


def print_profile(profile: ImbalanceProfile, label: str) -> None:
    """Print a table of the classes."""
    table = Table(title=f"Classes of '{label}'", title_justify="left")
    for heading in ("class", "rows", "share", "effective number"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    effective = profile.effectiveNumbers()
    for name, rows in profile.counts.items():
        table.add_row(text_of(name), f"{rows:,}", f"{rows / profile.rows:.2%}", f"{effective[name]:,.0f}")
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
    table = Table(title="Treatments, measured on the untouched test rows", title_justify="left")
    metrics = {
        "averagePrecision": "avg. precision",
        "areaUnderROC": "ROC area",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "gMean": "G-mean",
        "brier": "Brier",
    }
    table.add_column("treatment")
    table.add_column("training rows", justify="right")
    for heading in metrics.values() if "learner" in results else ():
        table.add_column(heading, justify="right")
    for treatment in results["treatments"]:
        figures = [f"{treatment['metrics'][name]:.3f}" for name in metrics] if "metrics" in treatment else []
        table.add_row(treatment["name"], f"{sum(treatment['rows'].values()):,}", *figures)
    console.print(table)


def main(config: Annotated[str, typer.Option(help="A YAML file: see conf/balance/.")]) -> None:
    """Balance a training set and compare treatments on untouched rows."""
    try:
        given = load(config, Balance)
        with step("Start Spark"):
            spark = session(
                f"sparkimb balance {given.name}",
                given.spark,
                delta="delta" in (given.input.format, given.output.format),
            )
        BalanceJob(given, spark, command=f"sparkimb balance --config {config}").run()
    except SparkimbError as error:
        console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
