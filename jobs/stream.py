"""Balance a stream, watch its scores and its drift, and go on after a stop as if there had been none.

sparkimb stream --config conf/stream/demo.yaml

SIGTERM and SIGINT let the batch under way end; a second one stops at once, which loses nothing either.  With
spark-submit the signal must reach the Python process, not its JVM.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

import pyspark
import typer
from config import load, resolved
from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery
from session import require_source, session
from storage import SPARK_ERRORS, Storage, reason
from stream_config import Model, Stream
from tables import console, step

import sparkimb
from sparkimb import datasets
from sparkimb.errors import SparkimbError
from sparkimb.report import render_stream
from sparkimb.streaming.drift import DriftMonitor
from sparkimb.streaming.query import EVENT_TYPE, METRICS_TYPE, STATUS_TYPE, start_balanced
from sparkimb.streaming.sinks import BATCH, DeltaSink, KafkaSink, ParquetSink, Sink

MARK = "stream.json"  # what tells the directory of a stream from any other, and which stream it is
SIDE_OUTPUTS = {"status": STATUS_TYPE, "metrics": METRICS_TYPE, "events": EVENT_TYPE}
# Rows of each side output that the report looks at, the newest: a row takes about a kilobyte of the driver.
MAX_REPORT_ROWS = 20_000
# What batches leave in the output directory beside their rows.
LEFT_BY_BATCHES = ("state", "dead_letters", *SIDE_OUTPUTS)
MAX_PRINTED_CLASSES = 6
CORRUPT = "_corrupt_record"  # the text of a message that is not what source.value says


@dataclass(frozen=True)
class _WithoutText:
    """A sink for sound rows, which have no use for the text of unsound ones."""

    sink: Sink

    def write(self, dataset: DataFrame, batchId: int) -> None:
        self.sink.write(dataset.drop(CORRUPT), batchId)


class StreamJob:
    """One run of a config on a session, from its start or from where an earlier run stopped."""

    def __init__(
        self, config: Stream, spark: SparkSession, command: str = "", stop: threading.Event | None = None
    ) -> None:
        self.config = config
        self.spark = spark
        self.command = command
        self.stop = stop or threading.Event()
        self.storage = Storage(spark)
        self.application = ""
        self.path = ""
        self.rows_path = ""  # where a Parquet sink's rows go

    def run(self) -> dict[str, Any]:
        """Run the stream until it ends or is told to stop; return what the report shows."""
        self.open_output()
        if self.config.source.generate is not None:
            self.generate()
        rows = self.read()
        if self.stop.is_set():
            console.print("Stopped before the first batch.")
        else:
            self.drain(rows)
        with step("Write the report"):
            results = self.results()
            self.storage.write_text(f"{self.path}/report.html", render_stream(results))
        console.print(
            f"Results: {self.path}\nReport:  {self.path}/report.html", soft_wrap=True, highlight=False, markup=False
        )
        return results

    # ---- the output directory

    def open_output(self) -> None:
        """Make the output directory, or check that it is this stream's own."""
        output, storage = self.config.output, self.storage
        try:
            self.path = path = storage.qualified(output.path)
            outside = self.config.sink.path if self.config.sink.format == "parquet" else None
            self.rows_path = storage.qualified(outside or f"{path}/rows")
            names = storage.names(path) if storage.exists(path) else []
            if set(names) - {f"{MARK}.incomplete"}:
                if MARK not in names:
                    raise SparkimbError(
                        f"output.path '{path}' exists and holds no {MARK}, so it is no stream's. Name another path, or "
                        "remove that one."
                    )
                if not output.overwrite and self.batches("offsets"):
                    self.reopen()
                    return
            self.clear(names)
            storage.make_directory(path)
            self.application = f"{re.sub(r'[^A-Za-z0-9]+', '_', self.config.name)}_{uuid.uuid4().hex[:8]}"
            mark = {"formatVersion": 1, "application": self.application, "rows": self.rows_path}
            mark["config"] = self.config.identity
            storage.write_text(f"{path}/{MARK}.incomplete", json.dumps(mark, indent=1, ensure_ascii=False))
            storage.rename(f"{path}/{MARK}.incomplete", f"{path}/{MARK}")
            storage.write_text(f"{path}/config.yaml", resolved(self.config))
        except (*SPARK_ERRORS, OSError) as error:
            raise SparkimbError(
                f"output.path '{output.path}' cannot be written: {reason(error)}. Name another."
            ) from None

    def clear(self, names: list[str]) -> None:
        """Delete what an earlier run left, where it is told to or where no batch has written anything."""
        storage, where = self.storage, self.rows_path
        found = storage.names(where) if storage.exists(where) else []
        inside = f"{where}/".startswith(f"{self.path}/")
        if found and not inside and (MARK not in names or self.mark().get("rows") != where):
            raise SparkimbError(
                f"sink.path '{where}' holds '{min(found)}', and no {MARK} in '{self.path}' says that this stream wrote "
                "it. Name another path, or remove that one."
            )
        rows = [f"{where}/{name}" for name in found if name.startswith(f"{BATCH}=")]
        written = [*sorted({*LEFT_BY_BATCHES} & {*names}), *([where] if rows else [])]
        if written and not self.config.output.overwrite:
            raise SparkimbError(
                f"output.path '{self.path}' holds no checkpoint to go on from, but what batches wrote: "
                f"{', '.join(written)}. Put the checkpoint back, set output.overwrite to true, which deletes all of "
                "that, or name another path."
            )
        for batch in rows:
            storage.delete(batch)
        storage.delete(self.path)

    def mark(self) -> dict[str, Any]:
        """Read what tells which stream the output directory is of."""
        try:
            mark = json.loads(self.storage.read_text(f"{self.path}/{MARK}"))
            return {**mark, "application": str(mark["application"]), "config": dict(mark["config"])}
        except (ValueError, KeyError, TypeError):
            raise SparkimbError(
                f"'{self.path}/{MARK}' is damaged. Put it back from a copy, or name another output.path."
            ) from None

    def reopen(self) -> None:
        """Take up what an earlier run of the same stream left."""
        mark = self.mark()
        self.application, before = mark["application"], mark["config"]
        now = self.config.identity
        changed = [
            f"{key} was {before.get(key, 'not set')!r} and is {now.get(key, 'not set')!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise SparkimbError(
                f"output.path '{self.path}' belongs to another stream: {'; '.join(changed)}. Go on as it was begun, "
                "name another path, or set output.overwrite to true to start anew there."
            )
        self.clear_uncommitted()
        self.storage.write_text(f"{self.path}/config.yaml", resolved(self.config))

    def clear_uncommitted(self) -> None:
        """Remove side outputs of a batch that never ended: it is run again, and may have no such rows then."""
        committed = self.committed()
        if committed >= 0:
            console.print(f"Goes on after batch {committed}.", highlight=False)
        for name in ("dead_letters", *SIDE_OUTPUTS):
            folder = f"{self.path}/{name}"
            for batch in self.storage.names(folder) if self.storage.exists(folder) else ():
                if batch.startswith(f"{BATCH}=") and int(batch.removeprefix(f"{BATCH}=")) > committed:
                    self.storage.delete(f"{folder}/{batch}")

    def committed(self) -> int:
        """Return the id of the last batch that ended, -1 if none did."""
        return max(self.batches("commits"), default=-1)

    def batches(self, log: str) -> list[int]:
        """Return the ids of the batches in a log of the checkpoint: offsets of those begun, commits of those ended."""
        folder = f"{self.path}/checkpoint/{log}"
        names = self.storage.names(folder) if self.storage.exists(folder) else []
        return [int(name) for name in names if name.isdecimal()]

    # ---- rows

    def generate(self) -> None:
        """Write the files of a generated source, once."""
        given, where = self.config.source.generate, f"{self.path}/source"
        assert given is not None
        if self.storage.exists(where):
            return
        with step(f"Write {given.rows:,} rows as {given.files} files"):
            fields = given.model_dump(exclude={"rows", "files"})
            rows = datasets.drifting(self.spark, given.rows, partitions=given.files, **fields)
            aside = f"{where}.incomplete"
            rows.write.mode("overwrite").parquet(aside)
            files = sorted(name for name in self.storage.names(aside) if name.startswith("part-"))
            for second, name in enumerate(files):  # a streaming source takes the oldest first
                self.storage.set_modified(f"{aside}/{name}", int(time.time()) - len(files) + second)
            self.storage.rename(aside, where)

    def read(self) -> DataFrame:
        """Open the source, and make of its rows what the balancer takes."""
        given = self.config.source
        reader = self.spark.readStream.options(**given.options)
        name = given.path or given.table or given.format
        try:
            if given.generate is not None:
                path = f"{self.path}/source"
                rows = reader.schema(self.spark.read.parquet(path).schema).parquet(path)
            elif given.table is not None:
                rows = reader.table(given.table)
            else:
                assert given.format is not None
                reader = reader if given.fields is None else reader.schema(given.fields)
                rows = reader.format(given.format).load(given.path)
            if given.value is not None:
                rows = _parsed(rows, given.value.fields)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"source '{name}' cannot be read as {given.format}: {reason(error)}.") from None
        for column, sql in self.config.select.items():
            try:
                rows = rows.withColumn(column, F.expr(sql))
            except SPARK_ERRORS as error:
                raise SparkimbError(f"select.{column} is '{sql}', which Spark refuses: {reason(error)}.") from None
        return rows

    def judge(self) -> Callable[[DataFrame], DataFrame] | None:
        """Return what adds the model's prediction and, where it gives probabilities, `score`."""
        given = self.config.model
        if given is None:
            return None
        try:
            model = PipelineModel.load(given.path)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"model.path '{given.path}' holds no model to load: {reason(error)}.") from None
        return lambda rows: self.judged(model, given, rows)

    def judged(self, model: PipelineModel, given: Model, rows: DataFrame) -> DataFrame:
        """Add what the model says of the rows."""
        metrics = self.config.metrics
        try:
            out = model.transform(rows)
        except SPARK_ERRORS as error:
            raise SparkimbError(f"model.path '{given.path}' does not judge these rows: {reason(error)}.") from None
        made = {"prediction"} | ({metrics.prediction} if metrics else set())
        if "probability" in out.columns and "score" not in out.columns:
            out, made = (
                out.withColumn("score", vector_to_array(F.col("probability"))[given.positiveIndex]),
                made | {"score"},
            )
        return out.select(*(c for c in out.columns if c in rows.columns or c in made))

    def sink(self) -> Sink:
        """Return what takes the balanced rows."""
        given = self.config.sink
        options = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in given.options.items()}
        if given.format == "kafka":
            assert given.topic is not None
            return KafkaSink(topic=given.topic, options=options, application=self.application)
        if given.format == "delta":
            assert given.path is not None
            return DeltaSink(path=given.path, application=self.application, options=options)
        return ParquetSink(path=self.rows_path)

    # ---- the query

    def drain(self, rows: DataFrame) -> None:
        """Run the query until it ends or is to stop."""
        config, path = self.config, self.path
        monitor = None
        if config.drift is not None:
            monitor = DriftMonitor(
                detectors=config.drift.built, positiveLabel=config.columns.positive, onEvent=_print_event
            )
        sink, judge = self.sink(), self.judge()
        began = time.monotonic()
        try:
            query = start_balanced(
                rows,
                config.balancer,
                sink=_WithoutText(sink) if CORRUPT in rows.columns else sink,
                statePath=f"{path}/state",
                checkpointLocation=f"{path}/checkpoint",
                deadLetters=ParquetSink(path=f"{path}/dead_letters"),
                maxRejected=config.maxRejected,
                status=ParquetSink(path=f"{path}/status", format="json"),
                metrics=config.measured,
                metricsSink=ParquetSink(path=f"{path}/metrics", format="json") if config.metrics else None,
                monitor=monitor,
                eventsSink=ParquetSink(path=f"{path}/events", format="json") if monitor else None,
                trigger=config.trigger.model_dump(exclude_none=True),
                queryName=config.name,
                onStatus=_print_status,
                judge=judge,
            )
            try:
                self.wait(query)
            finally:
                query.stop()
        except SPARK_ERRORS as error:
            raise self.stopped(error) from error
        last = self.committed()
        when = "before the first batch" if last < 0 else f"after batch {last}"
        console.print(f"Stopped {when}, {time.monotonic() - began:.0f} s.", highlight=False)

    def wait(self, query: StreamingQuery) -> None:
        """Wait until the query has ended or, when it is to stop, until its batch has."""
        while query.isActive and not self.stop.is_set():
            query.awaitTermination(1)
        if not query.isActive:
            query.awaitTermination()  # raises what ended it
            return
        console.print("Told to stop: waits for the batch under way.")
        last = _batch(query)
        while query.isActive and query.status["isTriggerActive"] and _batch(query) == last:
            time.sleep(0.05)

    def stopped(self, error: Exception) -> SparkimbError:
        """Say in a sentence what ended the query."""
        text = str(error)
        ours = re.findall(r"(?:Sparkimb|NotEnoughSamples|ScoringPath)Error: (.+)", text)
        if ours:
            return SparkimbError(ours[-1].strip())
        why = [
            said.strip().rstrip(".")
            for name, said in re.findall(r"\[([A-Z][A-Z0-9_.]+)\] ([^\n]+?)(?= SQLSTATE|\n|$)", text)
            if not name.startswith(("FOREACH_BATCH", "STREAM_FAILED"))
        ]
        last = self.committed()
        when = "in its first batch" if last < 0 else f"after batch {last}"
        return SparkimbError(
            f"The stream stopped {when}: {why[-1] if why else reason(error)}. "
            "Nothing is lost: a batch that was not committed is run again. Correct what it says, and start again."
        )

    # ---- results

    def results(self) -> dict[str, Any]:
        """Gather what the report shows, of the newest batches."""
        sides = dict(zip(("batches", "metrics", "events"), map(self.newest, SIDE_OUTPUTS), strict=True))
        return {
            "name": self.config.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": self.command,
            "config": resolved(self.config),
            "versions": {
                "sparkimb": sparkimb.__version__,
                "pyspark": pyspark.__version__,
                "spark": self.spark.version,
                "python": platform.python_version(),
            },
            "method": self.config.balancer.method,
            "cut": {name: MAX_REPORT_ROWS for name, rows in sides.items() if len(rows) > MAX_REPORT_ROWS},
            **{name: rows[:MAX_REPORT_ROWS] for name, rows in sides.items()},
        }

    def newest(self, name: str) -> list[dict[str, Any]]:
        """Return the newest rows of a side output, and one more where there are more than the report looks at."""
        folder = f"{self.path}/{name}"
        if not self.storage.exists(folder):
            return []
        rows = self.spark.read.schema(SIDE_OUTPUTS[name]).json(folder)
        return [
            row.asDict(recursive=True) for row in rows.orderBy(F.desc("batchId")).limit(MAX_REPORT_ROWS + 1).collect()
        ]


def status_line(figures: dict[str, Any]) -> str:
    """Return the figures of a batch in a line."""
    parts = [f"batch {figures['batchId']}"]
    for name, key, form in (("in", "rowsIn", ",d"), ("out", "rowsOut", ",d"), ("rates", "rates", ".3g")):
        values = sorted(figures[key].items(), key=lambda item: (-figures["rowsIn"].get(item[0], 0), item[0]))
        shown = ", ".join(f"{label}: {value:{form}}" for label, value in values[:MAX_PRINTED_CLASSES])
        more = len(values) - MAX_PRINTED_CLASSES
        parts.append(f"{name} {shown or 'nothing'}{f' and {more} classes more' if more > 0 else ''}")
    parts += [f"without label {figures['unlabelled']:,d}"] if figures["unlabelled"] else []
    parts += [f"waiting {figures['waiting']:,d}"] if figures["waiting"] else []
    rejected = sum(figures["rejected"].values())
    parts += [f"rejected {rejected:,d}"] if rejected else []
    parts += [f"lag {_duration(figures['lagSeconds'])}"] if figures["lagSeconds"] is not None else []
    return " | ".join([*parts, f"{figures['seconds']:.1f} s"])


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def _print_status(figures: dict[str, Any]) -> None:
    console.print(status_line(figures), soft_wrap=True, highlight=False, markup=False)


def _print_event(event: dict[str, Any]) -> None:
    style = "bold red" if event["level"] == "alarm" else "yellow"
    line = f"batch {event['batchId']} | {event['level']}: {event['message']}"
    console.print(line, style=style, soft_wrap=True, highlight=False, markup=False)


def _parsed(messages: DataFrame, fields: str) -> DataFrame:
    """Return the fields of Kafka messages, and the whole text of those that are not as they should be."""
    text = F.col("value").cast("string")
    value = F.from_json(text, f"{fields}, {CORRUPT} string", {"columnNameOfCorruptRecord": CORRUPT})
    return messages.select(value.alias("value")).select("value.*")


def _batch(query: StreamingQuery) -> int:
    progress = query.lastProgress
    return -1 if progress is None else int(progress["batchId"])


def _stop_on_signals(stop: threading.Event) -> None:
    """Set the event at the first SIGTERM or SIGINT, and end at the second as without this."""

    def told(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)


def main(config: Annotated[str, typer.Option(help="A YAML file: see conf/stream/.")]) -> None:
    """Balance a stream, and go on where an earlier run of the same config stopped."""
    warnings.showwarning = lambda message, *_: console.print(f"Note: {message}", style="yellow", markup=False)
    if sys.stderr.isatty():  # where the events' lines of JSON would stand among those that people read
        logging.getLogger("sparkimb.streaming").addHandler(logging.NullHandler())
    stop = threading.Event()
    try:
        given = load(config, Stream)
        _stop_on_signals(stop)
        formats = {str(given.source.format), given.sink.format}
        with step("Start Spark"):
            spark = session(
                f"sparkimb stream {given.name}", given.spark, delta="delta" in formats, kafka="kafka" in formats
            )
        if not stop.is_set():
            _stop_on_signals(stop)  # again, as Spark has set a handler of its own
        for name in sorted(formats & {"delta", "kafka"}):
            require_source(spark, name)
        StreamJob(given, spark, command=f"sparkimb stream --config {config}", stop=stop).run()
    except SparkimbError as error:
        console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
