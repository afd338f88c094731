"""Sinks: where the rows of a batch go, so that a batch written twice is there once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.params import choice, integer

BATCH = "batch"  # the directories of a ParquetSink are this column's values

# What JSON holds of a time must not hang on the session's time zone, nor lose the microseconds: the key is made of it.
JSON_OPTIONS = {
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}


class Sink(Protocol):
    """What takes the rows of batches.

    Spark runs a batch again if the driver died before the batch was committed, so `write` must be idempotent: after a
    second call with the same rows and batch id, whether the first one ended or not, the sink holds them once.
    """

    def write(self, dataset: DataFrame, batchId: int) -> None:
        """Take the rows of a batch, in place of those that an earlier try wrote."""


@dataclass(frozen=True, kw_only=True)
class ParquetSink:
    """A directory for each batch, replaced whole.

    Parameters
    ----------
    path : str
        A directory of this stream alone.  A batch lies in `<path>/batch=<batch id>`.
    format : {"parquet", "json"}, default="parquet"
        JSON for a few rows that people read.

    Raises
    ------
    SparkimbError
        In `write`, if the rows have a column `batch`, which a reader of `path` could not tell from the directories.

    Notes
    -----
    Cost:   one job, no shuffle.
    Reader: `spark.read.parquet(path)` gives the column `batch` besides.  While a batch is written, or where a driver
            died in it, its directory lacks the file `_SUCCESS` and may hold some of the rows.
    """

    path: str
    format: str = "parquet"

    def __post_init__(self) -> None:
        _check_name("ParquetSink.path", self.path)
        choice("ParquetSink.format", ("parquet", "json"))(self.format)

    def write(self, dataset: DataFrame, batchId: int) -> None:
        """Replace the directory of a batch."""
        if BATCH in (name.lower() for name in dataset.columns):
            raise SparkimbError(
                f"The rows have a column '{BATCH}', the name by which ParquetSink '{self.path}' keeps batches apart. "
                "Rename the column."
            )
        dataset.write.mode("overwrite").format(self.format).save(f"{self.path}/{BATCH}={batchId}")


@dataclass(frozen=True, kw_only=True)
class DeltaSink:
    """A Delta table, to which each batch is added by one transaction that its log remembers.

    Parameters
    ----------
    path : str
        Of the table; others may write to it too.
    application : str
        Name of this stream in the table's log (Delta's txnAppId).  It belongs to one checkpoint: if a stream starts
        anew with an empty one give it another name, as Delta skips the batch ids that a name has used.
    options : dict, optional
        Further options of Delta's writer, such as mergeSchema.

    Notes
    -----
    Cost:   one job and one commit, no shuffle.  A batch that is there already is skipped without a job.
    Needs:  Delta's jars and settings in the session.
    """

    path: str
    application: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name("DeltaSink.path", self.path)
        _check_name("DeltaSink.application", self.application)

    def write(self, dataset: DataFrame, batchId: int) -> None:
        """Append a batch, unless the table has it."""
        transaction = {"txnAppId": self.application, "txnVersion": str(batchId)}
        dataset.write.format("delta").options(**self.options, **transaction).mode("append").save(self.path)


@dataclass(frozen=True, kw_only=True)
class KafkaSink:
    """A Kafka topic.  Its messages may come twice, by keys that tell: see `drop_repeats`.

    The key of a row is "<batch id>-<MD5 of the value>-<number of the copy>", the value is the row as JSON.  Rows of a
    batch that are equal have different numbers, so a consumer that drops messages whose key it has seen has each row
    as often as the batch has it.

    Parameters
    ----------
    topic : str
    options : dict
        Options of Spark's Kafka writer: "kafka.bootstrap.servers" at least.
    application : str, default=""
        Put before the key with a "-" after it.  Streams that write to one topic, and a stream that starts anew with an
        empty checkpoint, need one each.

    Notes
    -----
    Cost:   one job with one shuffle of the values, which are counted by a hash aggregate: a row's copy number cannot be
            known where the row stands.  For rows of 240 bytes the shuffle takes 4 microseconds of CPU a row, as much as
            JSON and MD5.  A window over the hash takes as much.  So does a first pass that finds the rows that repeat,
            to shuffle only these, even over a batch that costs nothing to make; and it reads the source once more.
    JSON:   fields that are null are left out; times are in UTC to the microsecond; NaN is the string "NaN".
    Needs:  the jar spark-sql-kafka-0-10 in the session.
    """

    topic: str
    options: Mapping[str, str]
    application: str = ""

    def __post_init__(self) -> None:
        _check_name("KafkaSink.topic", self.topic)
        if "kafka.bootstrap.servers" not in self.options:
            raise SparkimbError("KafkaSink.options lack 'kafka.bootstrap.servers'. Name the brokers, as host:port.")

    def messages(self, dataset: DataFrame, batchId: int) -> DataFrame:
        """Return the messages of a batch, two strings `key` and `value`: lazy, one shuffle."""
        value = F.to_json(F.struct(*(column(name) for name in dataset.columns)), JSON_OPTIONS)
        counted = dataset.select(value.alias("value")).groupBy("value").agg(F.count(F.lit(1)).alias("rows"))
        copies = counted.select("value", F.explode(F.sequence(F.lit(1).cast("bigint"), "rows")).alias("copy"))
        return copies.select(self._key(batchId).alias("key"), "value")

    def write(self, dataset: DataFrame, batchId: int) -> None:
        """Send the messages of a batch."""
        self.messages(dataset, batchId).write.format("kafka").options(**self.options, topic=self.topic).save()

    def _key(self, batchId: int) -> Column:
        batch = F.lit(f"{self.application}-{batchId}" if self.application else f"{batchId}")
        return F.concat_ws("-", batch, F.md5(F.col("value").cast("binary")), F.col("copy").cast("string"))


def drop_repeats(messages: DataFrame, *, keyCol: str = "key") -> DataFrame:
    """Return the messages of a KafkaSink without those that a replayed batch sent again: lazy, one shuffle.

    Parameters
    ----------
    messages : DataFrame
        A batch, as `spark.read.format("kafka")` gives it.  On a stream Spark must keep every key it has seen, as the
        messages carry no time before which none comes again.
    """
    require_columns(messages, keyCol=keyCol)
    return messages.dropDuplicates([keyCol])


@dataclass(frozen=True, kw_only=True)
class MemorySink:
    """Tables on the driver, for tests and notebooks.

    Parameters
    ----------
    maxRows : int in [1, ∞), default=100_000
        Most rows of all batches together.

    Attributes
    ----------
    batches : dict
        A pyarrow.Table by batch id.

    Raises
    ------
    SparkimbError
        In `write`, if there are more rows.

    Notes
    -----
    A query on Spark Connect runs on the server, so a client's `batches` stay empty.
    """

    maxRows: int = 100_000
    batches: dict[int, pa.Table] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        integer("MemorySink.maxRows", 1)(self.maxRows)

    def write(self, dataset: DataFrame, batchId: int) -> None:
        """Collect a batch."""
        room = self.maxRows - sum(table.num_rows for batch, table in self.batches.items() if batch != batchId)
        table = dataset.limit(room + 1).toArrow()
        if table.num_rows > room:
            raise SparkimbError(
                f"MemorySink holds {self.maxRows - room:,} rows and has room for {room:,}, but batch {batchId} has "
                "more. Set a larger maxRows, or write to a ParquetSink."
            )
        self.batches[batchId] = table


def _check_name(name: str, given: object) -> None:
    if not isinstance(given, str):
        raise TypeError(f"{name} must be a string; got {given!r} of type {type(given).__name__}.")
    if not given:
        raise SparkimbError(f"{name} is empty. Give it a name.")
