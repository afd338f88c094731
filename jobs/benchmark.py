"""Measure speed: contestants run in turn on the same rows, and each benchmark prints one line of JSON.

spark-submit jobs/benchmark.py --config conf/benchmark/demo.yaml
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Annotated, Any, TypeAlias

import imblearn.over_sampling
import pandas as pd
import pyspark
import typer
from config import Benchmark, load
from drifts import KINDS, batches, figures
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table
from session import session
from sklearn.metrics import average_precision_score, roc_auc_score
from storage import Storage

import sparkimb
from sparkimb import SMOTE, ClassWeigher, RandomOverSampler, RandomUnderSampler
from sparkimb.base import Sampler
from sparkimb.datasets import blobs
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import scored_rows
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.steps import DistributedSteps
from sparkimb.feed.manifest import DIRECTORY
from sparkimb.feed.parquet import materialize
from sparkimb.neighbors import nearest_neighbors
from sparkimb.streaming.balancer import StreamingBalancer
from sparkimb.streaming.query import Status, start_balanced
from sparkimb.streaming.sinks import ParquetSink

Work: TypeAlias = Callable[[], object]

# `tidy` collects garbage.  The JVM would then give its heap back, and take it anew: a third more CPU in short runs.
KEEP_HEAP = "-XX:MaxHeapFreeRatio=100"
SAMPLE_SECONDS = 0.2  # between looks at resident memory; a look takes a few milliseconds
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DRIFT_STEPS = (10, 100, 1_000)  # rows at a time that detectors of drift look at
STREAM_BATCHES = 10  # that a stream over all files takes: enough that starting a query is not all there is

console = Console(stderr=True)  # stdout is for the lines of JSON


@dataclass(frozen=True)
class Contest:
    """A subject and its baselines, each a function that does all of its work anew."""

    subject: Work
    baselines: Mapping[str, Work]
    rows_in: int
    rows_out: int
    found: Mapping[str, Any] = field(default_factory=dict)  # what else is worth telling, beside time and memory
    cold: frozenset[str] = frozenset()  # contestants outside the JVM, whose first run is like any other

    @property
    def contestants(self) -> dict[str, Work]:
        """All of them by name, in the order they run."""
        return {"subject": self.subject, **self.baselines}


class Ground:
    """Where contests take place: a session, one generated data set, and a place to write that is cleared each time."""

    def __init__(self, config: Benchmark, spark: SparkSession) -> None:
        self.spark = spark
        self.storage = Storage(spark)
        self.processes = Processes(spark)
        shape = f"{config.rows}x{config.features}-{config.minority}-{config.clusters}-{config.scatter:g}"
        name = f"blobs-{shape}-{config.seed}-{config.files}"
        self.rows_in = config.rows
        self.minority = config.minority
        self.seeds = range(config.seed, config.seed + config.streams)  # of rows that no file holds
        self.source = f"{config.path}/{name}"
        self.peer = f"{config.path}/{name}-peer"
        self.out = f"{config.path}/{name}-out"
        self.files = config.files
        self.files_per_batch = -(-config.files // STREAM_BATCHES)
        if not self.storage.exists(f"{self.source}/_SUCCESS"):
            self._generate(config)

    def _generate(self, config: Benchmark) -> None:
        made = blobs(
            self.spark,
            config.rows,
            minority=config.minority,
            features=config.features,
            clusters=config.clusters,
            scatter=config.scatter,
            seed=config.seed,
            partitions=config.files,
        )
        floats = [F.col(f"f{i}").cast("float") for i in range(config.features)]
        made.select("id", "label", *floats).write.mode("overwrite").parquet(self.source)

    def read(self) -> DataFrame:
        """Return the generated rows: `id` (bigint), `label` (int, 1 for the minority) and floats `f0`, `f1`, ..."""
        return self.spark.read.parquet(self.source)

    def write(self, dataset: DataFrame) -> None:
        """Write to where nothing is kept."""
        dataset.write.parquet(self.out)

    def training_set(self) -> str:
        """Return where the generated rows lie as a training set for loaders, which is written at the first call."""
        path = f"{self.source}-training"
        if not self.storage.exists(f"{path}/{DIRECTORY}"):
            self.storage.delete(path)
            self.materialize(path)
        return self.local(path)

    def materialize(self, path: str) -> None:
        """Write the generated rows as a training set for loaders."""
        inputCols = [name for name in self.read().columns if name not in ("id", "label")]
        materialize(self.read(), path, inputCols=inputCols, idCols=["id"], shards=self.files)

    def stream(self, files_per_batch: int | None = None) -> DataFrame:
        """Return the generated rows as a stream, of a few files a batch."""
        stream = self.spark.readStream.schema(self.read().schema)
        return stream.option("maxFilesPerTrigger", files_per_batch or self.files_per_batch).parquet(self.source)

    def write_stream(self, stream: DataFrame) -> None:
        """Run a stream to its end, into Parquet files where nothing is kept."""
        writer = stream.writeStream.option("checkpointLocation", f"{self.out}/checkpoint").trigger(availableNow=True)
        writer.start(f"{self.out}/rows", format="parquet").awaitTermination()

    def local(self, path: str) -> str:
        """Return a path as programs that know no Hadoop take it."""
        return path.removeprefix("file:")

    def copy(self, path: str) -> None:
        """Copy rows as Spark does it: the floor for whatever reads and writes them."""
        self.write(self.spark.read.parquet(path))

    def keep_for_copying(self, dataset: DataFrame) -> None:
        """Write to where `peer` says, for a baseline that copies the subject's output: same rows, same files."""
        dataset.write.mode("overwrite").parquet(self.peer)

    def tidy(self) -> None:
        """Delete what was written, and collect garbage, which is else collected on the next contestant's time."""
        self.storage.delete(self.out)
        self.spark._jvm.System.gc()  # type: ignore[union-attr]


def under_sampling(ground: Ground) -> Contest:
    """RandomUnderSampler 1:1, resample and write, against a copy of the rows it reads."""
    return _under_sampling(ground, RandomUnderSampler(idCols=["id"]))


def under_sampling_without_ids(ground: Ground) -> Contest:
    """The same with rows told apart by all their columns."""
    return _under_sampling(ground, RandomUnderSampler())


def _under_sampling(ground: Ground, sampler: RandomUnderSampler) -> Contest:
    model = sampler.fit(ground.read())
    check_without_python(model.resample(ground.read()))
    return Contest(
        subject=lambda: ground.write(model.resample(ground.read())),
        baselines={"copy": lambda: ground.copy(ground.source)},
        rows_in=ground.rows_in,
        rows_out=model.resample(ground.read()).count(),
    )


def class_weights(ground: Ground) -> Contest:
    """ClassWeigher, transform and write, against a copy of the rows."""
    model = ClassWeigher().fit(ground.read())
    check_without_python(model.transform(ground.read()))
    return Contest(
        subject=lambda: ground.write(model.transform(ground.read())),
        baselines={"copy": lambda: ground.copy(ground.source)},
        rows_in=ground.rows_in,
        rows_out=model.transform(ground.read()).count(),
    )


def fit(ground: Ground) -> Contest:
    """RandomUnderSampler's fit, which counts and finds the exact threshold, against a scan of the same two columns.

    A scan must hand over every value, or Parquet's footers would answer: to a writer that drops rows (noop), or to a
    maximum, which is computed beside the decoding and forms no row, so it is the harder floor.  The scan that also
    counts each class tells what any grouped count costs, with no draw in it.
    """

    def columns() -> DataFrame:
        return ground.read().select("label", "id")

    sampler = RandomUnderSampler(idCols=["id"])
    return Contest(
        subject=lambda: sampler.fit(ground.read()),
        baselines={
            "scan": lambda: columns().write.format("noop").mode("overwrite").save(),
            "scan for maxima": lambda: columns().agg(F.max("label"), F.max("id")).collect(),
            "scan and count": lambda: columns().groupBy("label").agg(F.count("id")).collect(),
        },
        rows_in=ground.rows_in,
        rows_out=0,
    )


def over_sampling(ground: Ground) -> Contest:
    """RandomOverSampler 1:1, resample and write, against a copy of the rows it writes."""
    return _over_sampling(ground)


def over_sampling_with_noise(ground: Ground) -> Contest:
    """The same with noise on every feature of each copy."""
    return _over_sampling(ground, shrinkage=0.5)


def _over_sampling(ground: Ground, **params: Any) -> Contest:
    inputCols = [name for name in ground.read().columns if name not in ("id", "label")]
    model = RandomOverSampler(inputCols=inputCols, idCols=["id"], **params).fit(ground.read())
    check_without_python(model.resample(ground.read()))
    ground.keep_for_copying(model.resample(ground.read()))
    return Contest(
        subject=lambda: ground.write(model.resample(ground.read())),
        baselines={"copy": lambda: ground.copy(ground.peer)},
        rows_in=ground.rows_in,
        rows_out=ground.spark.read.parquet(ground.peer).count(),
    )


def smote(ground: Ground) -> Contest:
    """SMOTE 1:1, fit, resample and write, against RandomOverSampler's same output, and against imbalanced-learn.

    imbalanced-learn reads the rows with pandas and writes one Parquet file, all in the driver's process.
    """
    inputCols = [name for name in ground.read().columns if name not in ("id", "label")]
    samplers: dict[str, Sampler[Any]] = {
        "subject": SMOTE(inputCols=inputCols, idCols=["id"]),
        "RandomOverSampler": RandomOverSampler(inputCols=inputCols, idCols=["id"]),
    }
    works = {name: partial(_fit_resample_write, ground, sampler) for name, sampler in samplers.items()}

    def imbalanced_learn() -> None:
        table = pd.read_parquet(ground.local(ground.source), columns=["label", *inputCols])
        features, label = imblearn.over_sampling.SMOTE(random_state=0).fit_resample(table[inputCols], table["label"])
        path = Path(ground.local(ground.out))
        path.mkdir(parents=True)
        features.assign(label=label).to_parquet(path / "all.parquet")

    return Contest(
        subject=works.pop("subject"),
        baselines={**works, "imbalanced-learn": imbalanced_learn},
        cold=frozenset({"imbalanced-learn"}),
        rows_in=ground.rows_in,
        rows_out=sum(samplers["subject"].fit(ground.read()).plan.targets.values()),
    )


def neighbors(ground: Ground) -> Contest:
    """The neighbours of the minority within its class, fit and search, against a scan of the same rows; their quality.

    The scan reads all columns of the class and drops them (noop), which is what the search does besides searching.
    """
    inputCols = [name for name in ground.read().columns if name not in ("id", "label")]
    model = SMOTE(inputCols=inputCols, idCols=["id"]).fit(ground.read())
    (quality,) = model.neighborQuality(ground.read()).values()

    def search() -> None:
        found = nearest_neighbors(ground.read(), idCols=["id"], inputCols=inputCols, queryLabels=[1])
        found.write.format("noop").mode("overwrite").save()

    return Contest(
        subject=search,
        baselines={"scan": lambda: ground.read().where("label = 1").write.format("noop").mode("overwrite").save()},
        rows_in=ground.rows_in,
        rows_out=5 * model.plan.counts[1],
        found={"quality": asdict(quality), "units": model.spaces[1].units},
    )


def ranking(ground: Ground) -> Contest:
    """The areas under both curves of a continuous score, against Spark's one of them, and against scikit-learn's both.

    scikit-learn has the scores and labels in memory, as NumPy arrays.  What the scores are is `_scored`.
    """
    return _ranking(ground, _scored(ground), RankingMetrics)


def ranking_ties(ground: Ground) -> Contest:
    """The same for scores of three decimals, of which there are some ten thousand: a cast, as `round` takes longer."""
    rounded = (F.col("score") * 1000).cast("int") / 1000
    return _ranking(ground, _scored(ground).withColumn("score", rounded), RankingMetrics)


def ranking_distributed(ground: Ground) -> Contest:
    """The same by prefix sums on the executors, as if the positives' scores were too many for the driver."""

    def distributed(scored: DataFrame) -> RankingMetrics:
        rows = scored_rows(scored, scoreCol="score", labelCol="label", positiveLabel=1, weightCol=None)
        return RankingMetrics.fromSteps(DistributedSteps(*rows))

    return _ranking(ground, _scored(ground), distributed)


def _scored(ground: Ground) -> DataFrame:
    """Return the label and a score that is near the best there is, a double with next to no ties."""
    return ground.read().select("label", (F.col("f0").cast("double") + F.col("f1").cast("double") / 16).alias("score"))


def _ranking(ground: Ground, scored: DataFrame, made: Callable[[DataFrame], RankingMetrics]) -> Contest:
    table = scored.toArrow()
    label, score = table["label"].to_numpy(), table["score"].to_numpy()
    evaluator = BinaryClassificationEvaluator(rawPredictionCol="score", metricName="areaUnderPR")

    def both() -> tuple[float, float]:
        metrics = made(scored)
        return metrics.areaUnderROC, metrics.averagePrecision

    truth = roc_auc_score(label, score), average_precision_score(label, score)
    return Contest(
        subject=both,
        baselines={
            "pyspark's evaluator": lambda: evaluator.evaluate(scored),
            "scikit-learn": lambda: (roc_auc_score(label, score), average_precision_score(label, score)),
        },
        rows_in=ground.rows_in,
        rows_out=0,
        found={
            "positives": int(label.sum()),
            "largest_error": max(abs(one - other) for one, other in zip(both(), truth, strict=True)),
        },
    )


def streaming(ground: Ground) -> Contest:
    """A stream weighted and under-sampled 1:1, against the same query passing all rows through."""
    weigher, sampler = ClassWeigher().fit(ground.read()), RandomUnderSampler(idCols=["id"]).fit(ground.read())
    return _streaming(ground, lambda rows: sampler.resample(weigher.transform(rows)))


def streaming_weights(ground: Ground) -> Contest:
    """A stream weighted, which writes as many rows as the query passing them through, and a column more."""
    return _streaming(ground, ClassWeigher().fit(ground.read()).transform)


def _streaming(ground: Ground, change: Callable[[DataFrame], DataFrame]) -> Contest:
    check_without_python(change(ground.read()))
    return Contest(
        subject=lambda: ground.write_stream(change(ground.stream())),
        baselines={"pass through": lambda: ground.write_stream(ground.stream())},
        rows_in=ground.rows_in,
        rows_out=change(ground.read()).count(),
    )


def streaming_balancer(ground: Ground) -> Contest:
    """StreamingBalancer's SMOTE 1:1 with its reservoir, exactly once, against the query passing all rows through.

    The stream of RandomOverSampler's copies writes as many rows, in a plain query without state.
    """
    told: list[Status] = []
    _balance(ground, told.append)
    ground.tidy()
    inputCols = [name for name in ground.read().columns if name not in ("id", "label")]
    copies = RandomOverSampler(inputCols=inputCols, idCols=["id"]).fit(ground.read())
    return Contest(
        subject=lambda: _balance(ground),
        baselines={
            "pass through": lambda: ground.write_stream(ground.stream()),
            "as many rows": lambda: ground.write_stream(copies.resample(ground.stream())),
        },
        rows_in=ground.rows_in,
        rows_out=sum(sum(status["rowsOut"].values()) for status in told),
    )


def streaming_memory(ground: Ground) -> Contest:
    """The same, a file a batch and hundreds of them: is memory after a tenth of the batches what it is at the end?"""
    files = len(ground.read().inputFiles())
    marks: list[dict[str, int]] = []  # of the last run

    def mark(status: Status) -> None:
        if status["batchId"] + 1 in (-(-files // 10), files):
            marks.append({"batch": status["batchId"] + 1, **ground.processes.memory()})

    def subject() -> None:
        marks.clear()
        _balance(ground, mark, files_per_batch=1)

    return Contest(
        subject=subject,
        baselines={"pass through": lambda: ground.write_stream(ground.stream(files_per_batch=1))},
        rows_in=ground.rows_in,
        rows_out=0,
        found={"memory": marks},
    )


def _balance(
    ground: Ground, on_status: Callable[[Status], None] | None = None, *, files_per_batch: int | None = None
) -> None:
    inputCols = [name for name in ground.read().columns if name not in ("id", "label")]
    query = start_balanced(
        ground.stream(files_per_batch),
        StreamingBalancer(inputCols=inputCols, idCols=["id"], method="smote", warmUpRows=0),
        sink=ParquetSink(path=f"{ground.out}/rows"),
        status=ParquetSink(path=f"{ground.out}/status", format="json"),
        statePath=f"{ground.out}/state",
        checkpointLocation=f"{ground.out}/checkpoint",
        onStatus=on_status,
    )
    query.awaitTermination()


def drift(ground: Ground) -> Contest:
    """The detectors on streams that drift, against a count of the same batches by label and prediction.

    What they see and how soon is in `drift`, for looks at 10 rows, at 100 and at 1,000.
    """
    seen: list[dict[str, Any]] = []  # of the last run

    def subject() -> None:
        seen.clear()
        for step in DRIFT_STEPS:
            seen.extend(
                figures(ground.spark, rows=ground.rows_in, minority=ground.minority, seeds=ground.seeds, step=step)
            )

    def count() -> None:
        for kind in KINDS.values():
            for seed in ground.seeds:
                stream = kind.rows(ground.spark, ground.rows_in, ground.minority, seed)
                for step in DRIFT_STEPS:
                    for batch in batches(stream, ground.rows_in, step):
                        batch.groupBy("label", "prediction").count().collect()

    return Contest(
        subject=subject,
        baselines={"count": count},
        rows_in=ground.rows_in,  # of each stream
        rows_out=0,
        found={"drift": seen},
    )


def training_set(ground: Ground) -> Contest:
    """A training set for loaders written by `materialize`, against a copy of the rows."""
    return Contest(
        subject=lambda: ground.materialize(ground.out),
        baselines={"copy": lambda: ground.copy(ground.source)},
        rows_in=ground.rows_in,
        rows_out=ground.rows_in,
    )


def feed(ground: Ground) -> Contest:
    """An epoch of float32 batches by petastorm, in the files' order, against the same row groups read by pyarrow."""
    return _feed(ground, shuffle_rows=0)


def feed_shuffled(ground: Ground) -> Contest:
    """The same through a window of 200,000 rows; also against petastorm's own loader with a queue of as many."""
    from feeds import shuffling_queue

    path = ground.training_set()
    return _feed(ground, shuffle_rows=200_000, baselines={"petastorm's queue": lambda: shuffling_queue(path, 200_000)})


def feed_wide_window(ground: Ground) -> Contest:
    """The same through a window of 800,000 rows, against one of 200,000."""
    from feeds import epoch

    narrow = _loader(ground, shuffle_rows=200_000)()
    return _feed(ground, shuffle_rows=800_000, baselines={"200,000 rows": lambda: epoch(narrow)})


def feed_balanced(ground: Ground) -> Contest:
    """The same through a window of 200,000 rows, with as many rows of each class in every batch."""
    return _feed(ground, shuffle_rows=200_000, balance="uniform")


def feed_memory(ground: Ground) -> Contest:
    """Twenty epochs of that, against one: is memory after the second what it is at the end?"""
    from feeds import epoch

    marks: list[dict[str, int]] = []  # of the last run
    make = _loader(ground, shuffle_rows=200_000, balance="uniform")

    def subject() -> None:
        marks.clear()
        loader = make()
        for number in range(1, 21):
            epoch(loader)
            if number in (2, 20):
                marks.append({"epoch": number, **ground.processes.memory()})

    return Contest(
        subject=subject,
        baselines={"one epoch": lambda: epoch(make())},
        rows_in=ground.rows_in,  # of each epoch
        rows_out=ground.rows_in,
        found={"memory": marks},
    )


def _feed(ground: Ground, *, baselines: Mapping[str, Work] | None = None, **settings: Any) -> Contest:
    """Each run is the next epoch of a loader that lives on; what a new one takes to begin is told apart."""
    from feeds import epoch, row_groups, seconds_to_first_batch

    path = ground.training_set()
    by_petastorm, by_pyarrow = (_loader(ground, engine=engine, **settings) for engine in ("petastorm", "pyarrow"))
    first = seconds_to_first_batch(by_petastorm())
    one, other = by_petastorm(), by_pyarrow()
    return Contest(
        subject=lambda: epoch(one),
        baselines={
            "row groups": lambda: row_groups(path),
            "pyarrow's engine": lambda: epoch(other),
            **(baselines or {}),
        },
        rows_in=ground.rows_in,
        rows_out=epoch(by_petastorm()),
        found={"first_batch_seconds": round(first, 3)},
    )


def _loader(ground: Ground, *, engine: str = "petastorm", **settings: Any) -> Callable[[], Any]:
    from feeds import BATCH_ROWS

    from sparkimb.feed import petastorm, torch

    make = {"petastorm": petastorm, "pyarrow": torch}[engine].make_torch_loader
    return partial(make, ground.training_set(), BATCH_ROWS, **settings)


def _fit_resample_write(ground: Ground, sampler: Sampler[Any]) -> None:
    ground.write(sampler.fitResample(ground.read()))


CONTESTS: dict[str, Callable[[Ground], Contest]] = {
    contest.__name__: contest
    for contest in (
        *(under_sampling, under_sampling_without_ids, class_weights, fit),
        *(over_sampling, over_sampling_with_noise, smote, neighbors),
        *(ranking, ranking_ties, ranking_distributed),
        *(streaming, streaming_weights, streaming_balancer, streaming_memory, drift),
        *(training_set, feed, feed_shuffled, feed_wide_window, feed_balanced, feed_memory),
    )
}


def python_nodes(dataset: DataFrame) -> list[str]:
    """Return the names of the physical plan's nodes that pass rows through Python."""
    plan = dataset._jdf.queryExecution().executedPlan().toString()
    names = re.findall(r"^[\s:+*-]*(?:\(\d+\) )?(\w+)", plan, flags=re.MULTILINE)
    return [name for name in names if re.search("Python|Pandas|InArrow", name)]


def check_without_python(dataset: DataFrame) -> None:
    """Fail where rows would pass through Python, however fast that was."""
    found = python_nodes(dataset)
    assert not found, f"rows pass through Python in {found}"


@dataclass(frozen=True)
class Stat:
    """What Linux tells of a process: ticks of CPU time, those of children that have ended included; resident pages."""

    name: str
    ticks: int
    pages: int


@dataclass(frozen=True)
class Spent:
    """What one run took: seconds, CPU seconds, and the largest memory seen resident, in bytes.

    Of the JVM, of its Python workers together, and of the largest of them.
    """

    wall: float
    cpu: float
    jvm_bytes: int
    python_bytes: int
    worker_bytes: int


class Processes:
    """This process, Spark's JVM, and all their descendants, as Linux (and no other system) shows them in /proc."""

    def __init__(self, spark: SparkSession) -> None:
        self.java = spark._jvm.java.lang  # type: ignore[union-attr]
        self.driver = os.getpid()
        # A child of this process, or its parent under spark-submit.
        self.jvm = int(self.java.ProcessHandle.current().pid())

    def spent_by(self, work: Work) -> Spent:
        """Run, and return what it took.

        CPU seconds count everything in the JVM: garbage collection and compilation too.  Memory is sampled.  The JVM
        keeps the memory it once had, so of that only a rise says something.  What Python's workers share with their
        parent is counted for each of them.
        """
        peaks = {"jvm": 0, "python": 0, "worker": 0}
        done = Event()

        def watch() -> None:
            while not done.wait(SAMPLE_SECONDS):
                stats = self._stats()
                peaks["jvm"] = max(peaks["jvm"], stats[self.jvm].pages)
                pages = [worker.pages for worker in self._workers(stats)]
                peaks["python"] = max(peaks["python"], sum(pages))
                peaks["worker"] = max(peaks["worker"], *pages, 0)

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        cpu, began = self._cpu_seconds(), time.perf_counter()
        work()
        wall, cpu = time.perf_counter() - began, self._cpu_seconds() - cpu
        done.set()
        watcher.join()
        return Spent(wall, cpu, *(peaks[name] * PAGE_BYTES for name in ("jvm", "python", "worker")))

    def memory(self) -> dict[str, int]:
        """Collect garbage, and return what is in use: the JVM's heap, and what is resident of each kind of process."""
        for _ in range(2):  # what the first makes unreachable, Spark's cleaner lets go
            self.java.System.gc()
            time.sleep(SAMPLE_SECONDS)
        runtime, stats = self.java.Runtime.getRuntime(), self._stats()
        pages = {
            "jvm_mb": stats[self.jvm].pages,
            "driver_mb": stats[self.driver].pages,
            "workers_mb": sum(worker.pages for worker in self._workers(stats)),
        }
        used = {name: n * PAGE_BYTES // 2**20 for name, n in pages.items()}
        return {
            "heap_mb": (runtime.totalMemory() - runtime.freeMemory()) // 2**20,
            **used,
            "workers": len(self._workers(stats)),
        }

    def _workers(self, stats: Mapping[int, Stat]) -> list[Stat]:
        # By name: a JVM about to start another program shows for an instant as a second one of its size.
        return [stat for pid, stat in stats.items() if pid != self.driver and "python" in stat.name]

    def _cpu_seconds(self) -> float:
        return sum(stat.ticks for stat in self._stats().values()) / TICKS_PER_SECOND

    def _stats(self) -> dict[int, Stat]:
        stats: dict[int, Stat] = {}
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # See man 5 proc: a number, a name in brackets that may hold anything, and fields numbered from 3.
                name, _, rest = (folder / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            pid, fields = int(folder.name), rest.split()
            stats[pid] = Stat(name.partition("(")[2], sum(int(ticks) for ticks in fields[11:15]), int(fields[21]))
            children.setdefault(int(fields[1]), []).append(pid)
        ours, queue = set(), [self.driver, self.jvm]
        while queue:
            pid = queue.pop()
            if pid not in ours:
                ours.add(pid)
                queue += children.get(pid, [])
        return {pid: stats[pid] for pid in ours}


def measure(contest: Contest, ground: Ground, *, runs: int, warmup: int) -> dict[str, list[Spent]]:
    """Run all contestants in turn, again and again, and return what each run took but for the first, which warm up."""
    spent: dict[str, list[Spent]] = {name: [] for name in contest.contestants}
    ground.tidy()
    for i in range(warmup + runs):
        for name, work in contest.contestants.items():
            if i < warmup and name in contest.cold:
                continue
            took = ground.processes.spent_by(work)
            ground.tidy()
            if i >= warmup:
                spent[name].append(took)
    return spent


def results(contest: Contest, spent: Mapping[str, Sequence[Spent]]) -> dict[str, Any]:
    """Put in plain values what was measured."""
    cpu = {name: [run.cpu for run in runs] for name, runs in spent.items()}
    wall = {name: [run.wall for run in runs] for name, runs in spent.items()}
    return {
        **contest.found,
        "rows_in": contest.rows_in,
        "rows_out": contest.rows_out,
        "ratios": {
            name: {"cpu": ratios(cpu["subject"], cpu[name]), "wall": ratios(wall["subject"], wall[name])}
            for name in contest.baselines
        },
        "contestants": {
            name: {
                "cpu_seconds": [round(seconds, 2) for seconds in cpu[name]],
                "wall_seconds": [round(seconds, 3) for seconds in wall[name]],
                "rows_per_second": round(contest.rows_in / median(wall[name])),
                "peak_jvm_mb": max(run.jvm_bytes for run in runs) // 2**20,
                "peak_python_mb": max(run.python_bytes for run in runs) // 2**20,
                "peak_worker_mb": max(run.worker_bytes for run in runs) // 2**20,
            }
            for name, runs in spent.items()
        },
    }


def ratios(subject: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Compare runs: the ratio of medians, and the median ratio of runs that followed each other.

    What took no tick of the clock counts as one.
    """
    baseline = [max(seconds, 1 / TICKS_PER_SECOND) for seconds in baseline]
    pairs = [s / b for s, b in zip(subject, baseline, strict=True)]
    return {"of_medians": round(median(subject) / median(baseline), 3), "of_pairs": round(median(pairs), 3)}


def circumstances(config: Benchmark, spark: SparkSession) -> dict[str, Any]:
    """Return what a reader needs to know to repeat a run."""
    java = spark._jvm.System  # type: ignore[union-attr]
    return {
        "config": config.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": revision(),
        "versions": {
            "sparkimb": sparkimb.__version__,
            "pyspark": pyspark.__version__,
            "java": java.getProperty("java.version"),
            "python": platform.python_version(),
        },
        "master": spark.conf.get("spark.master"),
        "cores": spark.sparkContext.defaultParallelism,
        "runs": config.runs,
        "warmup": config.warmup,
        "features": config.features,
        "minority": config.minority,
        "clusters": config.clusters,
        "scatter": config.scatter,
    }


def revision() -> str | None:
    """Return git's revision of the checkout, marked where files have changed since; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def run(config: Benchmark, spark: SparkSession) -> list[dict[str, Any]]:
    """Run the benchmarks of a config; print and return what each of them found."""
    ground = Ground(config, spark)
    found = []
    for name in config.benchmarks:
        with console.status(f"{name} ..."):
            contest = CONTESTS[name](ground)
            baselines = {key: work for key, work in contest.baselines.items() if key not in config.leave_out}
            contest = replace(contest, baselines=baselines)
            spent = measure(contest, ground, runs=config.runs, warmup=config.warmup)
        targets = config.targets.get(name, {})
        result = {"benchmark": name, **results(contest, spent), "targets": targets, **circumstances(config, spark)}
        line = json.dumps(result) + "\n"
        sys.stdout.write(line)
        sys.stdout.flush()
        if config.output is not None:
            Path(config.output).parent.mkdir(parents=True, exist_ok=True)
            with open(config.output, "a", encoding="utf-8") as file:
                file.write(line)
        found.append(result)
    ground.storage.delete(ground.peer)
    return found


def print_table(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the ratios for people."""
    table = Table(title="Subject to baseline, median of pairs", title_justify="left")
    for heading in ("benchmark", "baseline", "CPU", "target", "wall"):
        table.add_column(heading, justify="left" if heading in ("benchmark", "baseline") else "right")
    for result in found:
        for i, (name, ratio) in enumerate(result["ratios"].items()):
            target = f"{result['targets'][name]:.2f}" if name in result["targets"] else ""
            figures = [f"{ratio['cpu']['of_pairs']:.2f}", target, f"{ratio['wall']['of_pairs']:.2f}"]
            table.add_row(result["benchmark"] if i == 0 else "", name, *figures)
    console.print(table)


def check_names(names: Sequence[str]) -> None:
    """Check that every benchmark named is one."""
    unknown = [name for name in names if name not in CONTESTS]
    if unknown:
        raise SparkimbError(f"benchmarks {unknown} are not known. Known are {', '.join(CONTESTS)}.")


def main(config: Annotated[str, typer.Option(help="A YAML file: see conf/benchmark/.")]) -> None:
    """Measure what a config asks for."""
    try:
        given = load(config, Benchmark)
        check_names(given.benchmarks)
        settings = {
            "spark.master": given.master,
            "spark.driver.memory": given.driver_memory,
            "spark.driver.extraJavaOptions": KEEP_HEAP,
            **given.spark,
        }
        print_table(run(given, session(f"sparkimb benchmark {given.name}", settings)))
    except SparkimbError as error:
        console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
