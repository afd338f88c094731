"""Train a multilayer perceptron on balanced rows, here or on a cluster, and measure it on untouched ones.

sparkimb train --config conf/train/demo.yaml

A run that was stopped goes on where it was when it is started again: at the last checkpoint, which is written after
every epoch and, with checkpoint_steps, in between.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from balance import BalanceJob
from config import PARTS, Balance, load, resolved
from pydantic import ValidationError
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich import box
from rich.table import Table
from session import session
from storage import SPARK_ERRORS, local_uri, reason
from tables import console, step
from treatments import by_text, text_of

import sparkimb
from sparkimb.columns import column
from sparkimb.errors import SparkimbError
from sparkimb.feed import Manifest, materialize
from sparkimb.strategy import Label

try:
    import torch
    from train_config import Train

    from sparkimb.training.mlp import MLP, save_mlp
    from sparkimb.training.tabular import check_corrected_once, train_mlp, train_mlp_rank
except ImportError as error:
    raise ImportError('Training needs PyTorch. Install it with: pip install "sparkimb[torch]"') from error

MARK = "train.json"  # what tells the directory of a training from any other, and which training it is
RESULT = "metrics.json"  # written last
SHOWN = ("averagePrecision", "areaUnderROC", "precision", "recall", "f1", "macroF1", "gMean", "balancedAccuracy", "mcc")


class TrainJob:
    """One run of a config, from its start or from where an earlier run stopped."""

    def __init__(self, config: Train, start: Callable[[], SparkSession], command: str = "") -> None:
        self.config = config
        self.start = start  # Spark is started only if something is to be done on it
        self.command = command
        self.output = Path(config.output.path).absolute()
        self.labels: list[Any] = []

    def run(self) -> dict[str, Any]:
        """Do it all; return what metrics.json holds."""
        began = time.monotonic()
        self.open_output()
        sets = self.made_sets() if self.config.data.balanced is not None else self.given_sets()
        with step("Train", live=self.config.distributed is not None):  # in this process `fit` shows its progress
            trained = self.train(sets)
        results = self.results(trained, sets, time.monotonic() - began)
        model = MLP(**trained["mlp"])
        model.load_state_dict(trained["state"])
        save_mlp(self.output / "model.pt", model, labels=[text_of(label) for label in self.labels])
        self.write_text("config.yaml", resolved(self.config))
        self.write_text(RESULT, json.dumps(results, indent=1, ensure_ascii=False))
        _print(results)
        console.print(f"Results: {self.output}", soft_wrap=True, highlight=False, markup=False)
        return results

    # ---- the output directory

    def open_output(self) -> None:
        """Make the output directory, or check that it is this training's own."""
        output, mark = self.output, json.dumps(self.identity(), indent=1, ensure_ascii=False, sort_keys=True)
        names = set(os.listdir(output)) if output.is_dir() else set()
        if output.exists() and names - {f"{MARK}.incomplete"} and MARK not in names:
            raise SparkimbError(
                f"output.path '{output}' exists and holds no {MARK}, so it is no training's. Name another path, or "
                "remove that one."
            )
        same = MARK in names and (output / MARK).read_text(encoding="utf-8") == mark
        if names and (RESULT in names or not same):
            if not self.config.output.overwrite:
                what = "holds a result"
                if RESULT not in names:
                    was, now = (json.loads(text) for text in ((output / MARK).read_text(encoding="utf-8"), mark))
                    differing = ", ".join(sorted(key for key in was | now if was.get(key) != now.get(key)))
                    what = f"belongs to a training of another config or other rows ({differing})"
                raise SparkimbError(
                    f"output.path '{output}' {what}. Name another path, or set output.overwrite to true."
                )
            shutil.rmtree(output)
        elif same:
            console.print("Goes on where an earlier run stopped.")
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.write_text(MARK, mark)
        except OSError as error:
            raise SparkimbError(f"output.path '{output}' cannot be written: {error.strerror}. Name another.") from None

    def identity(self) -> dict[str, Any]:
        """Return what the training is of."""
        if self.config.data.balanced is not None:
            return {**self.config.identity, "created": self.balanced_json("manifest.json")["created"]}
        sets = {name: Manifest.read(path).fingerprint for name, path in self.given_sets().items()}
        return {**self.config.identity, "sets": sets}

    def write_text(self, name: str, text: str) -> None:
        """Write a file that appears whole."""
        aside = self.output / f"{name}.incomplete"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.output / name)

    # ---- rows

    def given_sets(self) -> dict[str, str]:
        """Return the paths of sets that are there."""
        data = self.config.data
        sets = {"training": str(data.training), "validation": str(data.validation)}
        self.labels = list(Manifest.read(sets["training"]).labels)
        return sets if data.test is None else {**sets, "test": data.test}

    def made_sets(self) -> dict[str, str]:
        """Return the paths of the sets made from a result of jobs/balance.py, and make those that are not there."""
        sets = {name: str(self.output / name) for name in ("training", "validation", "test")}
        known = self.output / "labels.json"
        if known.exists():  # written when all sets were
            self.labels = json.loads(known.read_text(encoding="utf-8"))
            return sets
        for path in sets.values():
            shutil.rmtree(path, ignore_errors=True)
        spark = self.start()
        parts, labels = self.balanced_rows(spark)
        for name, (rows, weight) in parts.items():
            with step(f"Write the {name} rows for training"):
                manifest = self.materialize(rows, sets[name], weight, labels)
            if len(manifest.labels) < len(labels):
                raise SparkimbError(
                    f"The {name} rows are of {len(manifest.labels)} of {len(labels)} classes. Balance with a larger "
                    "fraction for them, or leave the rarest classes out."
                )
        self.labels = [text_of(label) for label in labels]
        self.write_text("labels.json", json.dumps(self.labels, ensure_ascii=False))
        return sets

    def balanced_json(self, name: str) -> dict[str, Any]:
        """Return what a file of the balanced result holds."""
        path = Path(str(self.config.data.balanced)) / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise SparkimbError(
                f"data.balanced '{path.parent}' is no result of jobs/balance.py: it has no {name}. Run "
                "sparkimb balance first, and name its output.path."
            ) from None

    def balanced_rows(self, spark: SparkSession) -> tuple[dict[str, tuple[DataFrame, str | None]], list[Label]]:
        """Return the rows of each set with a weight column or None, and the labels, of which the last is positive.

        Training rows are as they were balanced; the others are those of the same split, as they are in the source.
        """
        source = Path(str(self.config.data.balanced)).absolute()
        about, figures = self.balanced_json("manifest.json"), self.balanced_json("metrics.json")
        try:
            given = Balance.model_validate(yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8")))
            if given.learner is None:
                raise SparkimbError(
                    f"'{source}' was made without a learner, and so without features. Balance with one."
                )
            weight = next(t for t in given.treatments if t.name == given.written).weightCol
            if weight is not None:
                treated = next(t for t in figures["treatments"] if t["name"] == given.written)
                check_corrected_once(self.config.batches.balance, weight, treated["weights"])
            job = BalanceJob(given, spark)
            rows = job.read()
            profile = job.profile(rows)
            positive = job.positive(profile)
            divided, counts = job.split(rows, profile, positive)
            _check_same_rows(given.input.source, figures["split"], {part: by_text(n) for part, n in counts.items()})
            stages = PipelineModel.load(local_uri(source / "model")).stages[:-2]  # without classifier and its labels
            training = spark.read.format(about["format"]).load(local_uri(source / "training"))
        except (OSError, ValidationError, *SPARK_ERRORS) as error:
            raise SparkimbError(
                f"data.balanced '{source}' cannot be read: {reason(error)}. Run sparkimb balance again."
            ) from error
        labels = [label for label in profile.counts if label != positive] + [positive]
        features = PipelineModel(stages)
        parts = {name: divided.where(column(job.split_col) == name) for name in PARTS}
        sets = {
            "training": (training, weight),
            "validation": (parts["validation"], None),
            "test": (parts["test"], None),
        }
        return {
            name: (self.coded(features.transform(r), given.columns.label, labels), w) for name, (r, w) in sets.items()
        }, labels

    def coded(self, rows: DataFrame, label: str, labels: list[Label]) -> DataFrame:
        """Return features, class codes in the order of the labels, and all other columns."""
        codes = [F.when(column(label) == F.lit(known), F.lit(code)) for code, known in enumerate(labels)]
        return rows.withColumn("code", F.coalesce(*codes))

    def materialize(self, rows: DataFrame, path: str, weight: str | None, labels: list[Label]) -> Manifest:
        """Write one set."""
        data = self.config.data
        return materialize(
            rows,
            local_uri(Path(path)),
            labelCol="code",
            weightCol=weight,
            shards=data.shards,
            rows_per_group=data.rows_per_group,
            seed=self.config.seed,
        )

    # ---- training

    def train(self, sets: Mapping[str, str]) -> dict[str, Any]:
        """Train in this process, or in those of TorchDistributor; return what rank 0 gives."""
        config, spread = self.config, self.config.distributed
        loss, loss_options = config.loss_and_options
        options: dict[str, Any] = {
            **sets,
            "loss": loss,
            "loss_options": loss_options,
            "augment": self.augment(),
            **config.model.model_dump(),
            "batch_size": config.batches.size,
            **config.batches.model_dump(exclude={"size", "balance"}),
            "balance": self.balance(),
            **config.optimizer.model_dump(),
            **config.model_dump(include={"epochs", "patience", "amp", "checkpoint_steps", "seed"}),
            "checkpoint_dir": str(self.output / "checkpoints"),
        }
        if spread is None:
            return train_mlp(**options)
        self.start()  # TorchDistributor takes the active session
        from pyspark.ml.torch.distributor import TorchDistributor

        failure = self.output / "failure.txt"
        failure.unlink(missing_ok=True)
        options |= {"device": "cuda" if spread.gpu else "cpu", "ranks_timeout": spread.timeout, "failure": str(failure)}
        try:
            distributor = TorchDistributor(num_processes=spread.processes, local_mode=spread.local, use_gpu=spread.gpu)
            trained = distributor.run(train_mlp_rank, **options)
        except (RuntimeError, *SPARK_ERRORS) as error:
            if failure.exists():
                raise SparkimbError(failure.read_text(encoding="utf-8")) from error
            raise SparkimbError(
                f"TorchDistributor failed: {reason(error)[:300]}. What its processes said stands above."
            ) from error
        if trained is None:
            raise SparkimbError("The processes ended without a result. What they said stands above.")
        return dict(trained)

    def balance(self) -> Any:
        """Return the balance of batches, with shares by class code where the sets were made here."""
        given = self.config.batches.balance
        if not isinstance(given, dict) or self.config.data.balanced is None:
            return given
        return self.by_code("batches.balance", given)

    def augment(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the augmentations, with probabilities by class code."""
        found = []
        for name, options in self.config.augmentations:
            chances = options.get("probability")
            if isinstance(chances, dict):
                options = {**options, "probability": self.by_code(f"augment.{name}.probability", chances)}
            found.append((name, options))
        return found

    def by_code(self, key: str, given: Mapping[Any, float]) -> dict[int, float]:
        """Return what a config says of labels, by their codes."""
        labels = [text_of(label) for label in self.labels]
        unknown = sorted({text_of(label) for label in given} - set(labels))
        if unknown:
            raise SparkimbError(f"{key} names {unknown}. Labels are: {', '.join(labels)}.")
        return {labels.index(text_of(label)): number for label, number in given.items()}

    def results(self, trained: Mapping[str, Any], sets: Mapping[str, str], seconds: float) -> dict[str, Any]:
        """Gather what metrics.json holds."""
        counts = {name: Manifest.read(path).counts for name, path in sets.items()}
        return {
            "name": self.config.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": seconds,
            "command": self.command,
            "versions": {
                "sparkimb": sparkimb.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "rows": {
                name: {text_of(label): n for label, n in zip(self.labels, rows, strict=True)}
                for name, rows in counts.items()
            },
            **{key: trained[key] for key in ("history", "best_epoch", "steps", "stopped_early", "test")},
        }


def _check_same_rows(
    source: str, before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> None:
    """Refuse rows other than those that were balanced: they would be split otherwise."""
    wrong = [
        f"{part} has {now[part].get(label, 0):,} rows of {label!r} instead of {before[part].get(label, 0):,}"
        for part in before
        for label in dict.fromkeys([*before[part], *now[part]])
        if now[part].get(label) != before[part].get(label)
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SparkimbError(
            f"'{source}' has other rows than when it was balanced: {', '.join(wrong[:5])}{more}. Rows of training "
            "could come to validation or test. Run sparkimb balance again."
        )


def _print(results: Mapping[str, Any]) -> None:
    """Print the metrics of the best epoch and of the test rows."""
    best = results["history"][results["best_epoch"]]
    parts = {"validation": best} | ({"test": results["test"]} if results["test"] else {})
    console.print(
        f"{len(results['history'])} epochs, {results['steps']:,} steps; the best was epoch {results['best_epoch']}.",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for part in parts:
        table.add_column(part, justify="right")
    for name in SHOWN:
        if name in best:
            table.add_row(name, *(f"{figures[name]:.3f}" for figures in parts.values()))
    console.print(table)


def main(config: Annotated[str, typer.Option(help="A YAML file: see conf/train/.")]) -> None:
    """Train a perceptron on balanced rows, and go on where an earlier run of the same config stopped."""
    warnings.showwarning = lambda message, *_: console.print(f"Note: {message}", style="yellow", markup=False)
    try:
        given = load(config, Train)

        def start() -> SparkSession:
            with step("Start Spark"):
                return session(f"sparkimb train {given.name}", given.spark)

        TrainJob(given, start, command=f"sparkimb train --config {config}").run()
    except SparkimbError as error:
        console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
