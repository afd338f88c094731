"""Balance a training set, compare treatments on untouched rows, and write rows, model, figures and a report.

spark-submit jobs/balance.py --config conf/balance/demo.yaml
"""

from __future__ import annotations

import json
import platform
import sys
import time
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any

import pyspark
import typer
from config import PARTS, Balance, load, resolved
from learning import Learning, stage_columns
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import AtomicType, NumericType
from session import require_source, session
from storage import RESULT, SPARK_ERRORS, Storage, reason, written_aside
from tables import console, print_profile, print_treatments, step
from treatments import Treated, by_text, kept, text_of, treat

import sparkimb
from sparkimb.columns import check_label_type, column, require_columns, temporary_name
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.folds import stratified_split
from sparkimb.report import render
from sparkimb.statistics import ImbalanceProfile, imbalance_profile, require_two_classes
from sparkimb.strategy import Label, match_label, minority_class

OUTPUTS = ("features", "rawPrediction", "probability", "prediction", "predictedLabel")  # columns that the model writes


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
                    treated = treat(treatment, part["train"], counts["train"], self.config.columns)
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
            "config": resolved(self.config),
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
