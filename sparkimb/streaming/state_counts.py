"""Class counts in Spark's own state store, row by row: the second engine, where a row's own time decides its weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle
from pyspark.sql.types import (
    DoubleType,
    FractionalType,
    IntegerType,
    LongType,
    StructField,
    StructType,
)

from sparkimb.columns import check_label_type, check_time_type, column, require_columns
from sparkimb.draws import row_key, uniform
from sparkimb.errors import SparkimbError
from sparkimb.params import column_name, column_names, integer, number
from sparkimb.statistics import MAX_CLASSES
from sparkimb.strategy import Label

PROVIDER = "spark.sql.streaming.stateStore.providerClass"
ROCKSDB = "RocksDBStateStoreProvider"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class ClassTotals:
    """Rows of each class, and what they count for at one time.

    Parameters
    ----------
    rows : dict
        Rows since the start by label.
    decayedRows : dict, optional
        Sum over a class's rows of 2^(-(time - time of the row) / half-life), by label.
    time : datetime, optional
        In UTC; the newest time of any row unless another was asked for.
    """

    rows: dict[Label, int]
    decayedRows: dict[Label, float] | None = None
    time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class StateCounts:
    """Count the classes of a stream by `transformWithStateInPandas`, each row by its own time.

    `StreamingBalancer` needs none of this: it forgets by rows, and counts a batch in one aggregate.  Take this where
    counts must forget by the clock and be exact to the row, however the rows are spread over batches and however late
    they come.  It is a plain query without `foreachBatch`, so it also runs where that is not to be had.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double.
    idCols : list of str
        Columns that identify a row; their hash is the salt.
    timeCol : str, optional
        Timestamp.  With halfLifeSeconds, without which it means nothing.
    halfLifeSeconds : float in (0, ∞), optional
        A row counts half when it is so old.
    salt : int in [1, ∞), default=16
        Groups of each class, so that the largest one is not a single task.  Totals do not depend on it, and it may
        change from one start of a query to the next.
    majority : list, optional
        The labels that are salted; None salts all.  The other classes are one group each.

    Notes
    -----
    Rows:   without a label (null or NaN), or without a time where one is asked for, are not counted.  Late rows are,
            with the weight of their age: a group keeps its newest time T and the sum of 2^(-(T - t) / half-life), which
            any row and any other such pair can be added to, in any order, exactly but for the rounding of doubles.
    Cost:   one shuffle and a Python worker see every row, but of its columns only the label, the salt and the time.
            State: three numbers for each class and salt.
    Needs:  the RocksDB state store, protobuf on the driver and the workers (`pyspark[connect]` brings it), Spark 4.0.
    """

    labelCol: str = "label"
    idCols: Sequence[str]
    timeCol: str | None = None
    halfLifeSeconds: float | None = None
    salt: int = 16
    majority: Sequence[Label] | None = None

    def __post_init__(self) -> None:
        column_name("StateCounts.labelCol")(self.labelCol)
        if not column_names("StateCounts.idCols")(self.idCols):
            raise SparkimbError("StateCounts.idCols is empty. Name the columns that identify a row.")
        integer("StateCounts.salt", 1)(self.salt)
        if (self.timeCol is None) != (self.halfLifeSeconds is None):
            raise SparkimbError(
                f"StateCounts has timeCol {self.timeCol!r} and halfLifeSeconds {self.halfLifeSeconds!r}. Give both, to "
                "count rows by their age, or neither."
            )
        if self.timeCol is not None:
            column_name("StateCounts.timeCol")(self.timeCol)
            number("StateCounts.halfLifeSeconds", 0, low_open=True)(self.halfLifeSeconds)

    def partials(self, dataset: DataFrame) -> DataFrame:
        """Return the counts of each group that a batch touches: `label`, `salt`, `rows` (bigint) and, with a half-life,
        `decayedRows` (double) and `newest` (timestamp, which decayedRows is as of).

        Lazy; write it in output mode "update" or append it anywhere.  A later row of a group replaces the earlier ones.

        Raises
        ------
        SparkimbError
            Columns that are missing or of the wrong type; another state store than RocksDB.
        ImportError
            Without protobuf.
        """
        self._check(dataset)
        counted = dataset.select(
            column(self.labelCol).alias("label"), self._group(dataset).alias("salt"), self._micros().alias("micros")
        ).where(self._is_labelled(dataset) & F.isnotnull("micros"))
        label = dataset.schema[self.labelCol].dataType
        out = StructType([StructField("label", label), *_COUNTED])
        partials = counted.groupBy("label", "salt").transformWithStateInPandas(
            _Counter(None if self.halfLifeSeconds is None else 1e6 * self.halfLifeSeconds),
            outputStructType=out,
            outputMode="update",
            timeMode="none",
        )
        if self.timeCol is None:
            return partials.select("label", "salt", "rows")
        return partials.withColumn("newest", F.timestamp_micros("newest"))

    def totals(self, partials: DataFrame, *, at: datetime | None = None) -> ClassTotals:
        """Sum up what `partials` has written, whole or in part, once or more often: one job.

        Parameters
        ----------
        partials : DataFrame
            A batch of rows as `partials` makes them.  Of each label and salt the row with the most `rows` is the
            latest, so no batch id is needed, and rows that were written again by a replayed batch do no harm.
        at : datetime, optional
            The time that rows are decayed to; the newest of any row by default.
        """
        names = ["rows"] if self.timeCol is None else ["rows", "decayedRows", "newest"]
        require_columns(partials, partials=["label", "salt", *names])
        latest = partials.groupBy("label", "salt").agg(F.max(F.struct(*names)).alias("last")).select("label", "last.*")
        found = latest.groupBy("label").agg(*self._sums())
        classes = found.limit(MAX_CLASSES + 1).collect()
        if len(classes) > MAX_CLASSES:
            raise SparkimbError(
                f"labelCol '{self.labelCol}' has more than {MAX_CLASSES:,} different values. "
                "Is it a continuous column or an id? Bin it, or name another column."
            )
        classes.sort(key=lambda row: str(row["label"]))
        rows = {row["label"]: row["rows"] for row in classes}
        if self.timeCol is None or not classes:
            return ClassTotals(rows)
        newest = max(row["micros"] for row in classes)
        time = newest if at is None else (at.astimezone(timezone.utc) - EPOCH) // timedelta(microseconds=1)
        decayed = {row["label"]: row["decayed"] * self._kept(time - row["micros"]) for row in classes}
        return ClassTotals(rows, decayed, EPOCH + timedelta(microseconds=time))

    def _sums(self) -> list[Column]:
        """Return the rows of a class, its newest time and what its rows count for then."""
        rows = F.sum("rows").alias("rows")
        if self.timeCol is None:
            return [rows]
        groups = F.collect_list(F.struct("decayedRows", F.unix_micros("newest").alias("micros")))  # one for each salt
        newest = F.array_max(groups["micros"])
        half_life = F.lit(1e6 * self._halfLife)
        decayed = F.aggregate(
            groups,
            F.lit(0.0),
            lambda total, group: (
                total + group["decayedRows"] * F.pow(F.lit(2.0), (group["micros"] - newest) / half_life)
            ),
        )
        return [rows, newest.alias("micros"), decayed.alias("decayed")]

    @property
    def _halfLife(self) -> float:
        assert self.halfLifeSeconds is not None
        return self.halfLifeSeconds

    def _kept(self, micros: int) -> float:
        return float(2.0 ** (-micros / (1e6 * self._halfLife)))

    def _group(self, dataset: DataFrame) -> Column:
        number = uniform(*row_key(dataset, self.idCols), seed=0, purpose="StateCounts.salt") * F.lit(float(self.salt))
        salt = number.cast("int")
        if self.majority is None:
            return salt
        return F.when(column(self.labelCol).isin(list(self.majority)), salt).otherwise(F.lit(0))

    def _micros(self) -> Column:
        if self.timeCol is None:
            return F.lit(0).cast("bigint")
        return F.unix_micros(column(self.timeCol).cast("timestamp"))

    def _is_labelled(self, dataset: DataFrame) -> Column:
        labelled = F.isnotnull("label")
        if isinstance(dataset.schema[self.labelCol].dataType, FractionalType):
            labelled = labelled & ~F.isnan("label")
        return labelled

    def _check(self, dataset: DataFrame) -> None:
        require_columns(dataset, labelCol=self.labelCol, idCols=self.idCols, timeCol=self.timeCol)
        check_label_type(dataset, self.labelCol)
        check_time_type(dataset, self.timeCol)
        require_state_store(dataset.sparkSession)


def require_state_store(spark: SparkSession) -> None:
    """Check for what `transformWithStateInPandas` needs, before a query starts: RocksDB and protobuf; no job."""
    provider = spark.conf.get(PROVIDER) or ""
    if not provider.endswith(ROCKSDB):
        raise SparkimbError(
            f"Counts by state need the RocksDB state store, but {PROVIDER} is '{provider}'. Set it to "
            f"'org.apache.spark.sql.execution.streaming.state.{ROCKSDB}' before the query starts."
        )
    try:
        import_module("google.protobuf")
    except ImportError as error:
        raise ImportError(
            "Counts by state need protobuf, on the driver and on the workers, which is not installed here. "
            'Run: pip install "sparkimb[connect]"'
        ) from error
    # A session that has run no stream lacks what its state stores report to, and a table could not be counted.
    _ = spark.streams.active


# A group's state, and what is told of it.
_STATE = StructType(
    [StructField("rows", LongType()), StructField("newest", LongType()), StructField("decayed", DoubleType())]
)
_COUNTED = [
    StructField("salt", IntegerType()),
    StructField("rows", LongType()),
    StructField("decayedRows", DoubleType()),
    StructField("newest", LongType()),
]


class _Counter(StatefulProcessor):
    """Adds the rows of a batch to the state of their group."""

    def __init__(self, halfLife: float | None) -> None:
        self.halfLife = halfLife  # in microseconds

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the state."""
        self.state = handle.getValueState("counted", _STATE)

    def handleInputRows(self, key: Any, rows: Iterator[Any], timerValues: Any) -> Iterator[pd.DataFrame]:
        """Count a group's rows, and tell its new state."""
        label, salt = key
        counted = self.state.get() if self.state.exists() else None
        n, newest, decayed = (0, None, 0.0) if counted is None else counted
        for part in rows:
            micros = part["micros"].to_numpy()
            n += len(micros)
            if self.halfLife is not None:
                newest, decayed = with_rows(newest, decayed, micros, self.halfLife)
        self.state.update((n, newest, decayed))
        told = {"label": [label], "salt": [salt], "rows": [n], "decayedRows": [decayed], "newest": [newest]}
        yield pd.DataFrame(told)

    def close(self) -> None:
        """Nothing is held open."""


def with_rows(newest: int | None, decayed: float, micros: npt.NDArray[np.int64], halfLife: float) -> tuple[int, float]:
    """Add rows of these times to a sum that is decayed to `newest`; return the newest time of all and the sum then."""
    latest = int(micros.max()) if newest is None else max(newest, int(micros.max()))
    before = 0.0 if newest is None else decayed * 2.0 ** ((newest - latest) / halfLife)
    return latest, before + float(np.exp2((micros - latest) / halfLife).sum())
