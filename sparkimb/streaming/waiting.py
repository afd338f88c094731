"""Rows that wait for their labels, in a table versioned by batch id like the state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from sparkimb.columns import column, quoted
from sparkimb.draws import row_key
from sparkimb.errors import SparkimbError
from sparkimb.streaming.balancer import StreamingBalancer, reason_name

SINCE = "__since"  # the batch in which a row came
PLACE = "__place"  # of a row among those with its ids


class Released(NamedTuple):
    """The rows of a batch that have their labels, and those that have none.

    Parameters
    ----------
    ready : DataFrame
        Rows with a label.
    waiting : DataFrame
        Rows that go on waiting.
    expired : DataFrame
        Rows that have waited for too long, with the column `reason`.
    spare : DataFrame
        Rows that cannot wait: with a null among their ids, or with the ids of one that waits.
    """

    ready: DataFrame
    waiting: DataFrame
    expired: DataFrame
    spare: DataFrame


@dataclass(frozen=True, kw_only=True)
class WaitingRoom:
    """A table of rows without a label, as of each batch.

    Parameters
    ----------
    path : str
        A directory of this stream alone.
    versions : int
        Tables kept.  Batch b overwrites the one of batch b - versions.

    Notes
    -----
    A batch joins its labelled rows with the rows that wait, on the id columns, and writes those that go on waiting:
    its cost grows with their number, in Spark, not on the driver.
    """

    path: str
    versions: int

    def slot(self, batchId: int) -> str:
        """Return the directory that holds the rows waiting after a batch."""
        return f"{self.path}/slot={batchId % self.versions}"

    def release(self, batch: DataFrame, batchId: int, balancer: StreamingBalancer) -> Released:
        """Part a batch, and the rows that waited before it, by their labels: lazy.

        A labelled row takes from the row with its ids that waited all that it lacks itself.  Of the rows without a
        label and with the same ids the first one waits on, in a batch the one with the lowest hash.
        """
        assert balancer.idCols is not None
        ids, labelCol = list(balancer.idCols), balancer.labelCol
        unlabelled = F.isnull(column(labelCol))
        named = reduce(and_, (F.isnotnull(column(name)) for name in ids))
        new = batch.where(unlabelled & named).withColumn(SINCE, F.lit(batchId).cast("bigint"))
        before = self._before(batch, batchId)
        placed = _placed(new if before is None else before.unionByName(new), ids, batch.columns)
        waiting = placed.where(F.col(PLACE) == 1).drop(PLACE)
        spare = batch.where(unlabelled & ~named).unionByName(placed.where(F.col(PLACE) > 1).drop(PLACE, SINCE))
        labelled = batch.where(~unlabelled)
        same = _same(ids)
        left, right = labelled.alias("labelled"), waiting.alias("waiting")
        ready = left.join(right, same, "left").select(
            *(F.coalesce(_of("labelled", name), _of("waiting", name)).alias(name) for name in batch.columns)
        )
        still = right.join(left, same, "left_anti")
        late = F.col(SINCE) <= F.lit(batchId - balancer.maxWaitBatches)
        reason = F.lit(f"label '{labelCol}' has not come within {balancer.maxWaitBatches} batches")
        expired = still.where(late).drop(SINCE).withColumn(reason_name(batch), reason)
        # A null that stands there as such, so that Spark drops these rows unread where only labelled ones are wanted.
        null = F.lit(None).cast(batch.schema[labelCol].dataType)
        return Released(ready, still.where(~late), expired, spare.withColumn(labelCol, null))

    def write(self, waiting: DataFrame, batchId: int) -> int:
        """Keep the rows that wait after a batch, and return their number: two jobs."""
        waiting.write.mode("overwrite").parquet(self.slot(batchId))
        return waiting.sparkSession.read.schema(waiting.schema).parquet(self.slot(batchId)).count()

    def _before(self, batch: DataFrame, batchId: int) -> DataFrame | None:
        if batchId == 0:
            return None
        slot = self.slot(batchId - 1)
        try:
            rows = batch.sparkSession.read.parquet(slot)
        except AnalysisException as error:
            raise SparkimbError(
                f"The rows that wait for labels after batch {batchId - 1} cannot be read from '{slot}': "
                f"{str(error).strip().splitlines()[0]} Put '{self.path}' back as it was, or start anew: with an empty "
                "checkpoint."
            ) from error
        found, wanted = rows.drop(SINCE).schema.simpleString(), batch.schema.simpleString()
        if found != wanted:
            raise SparkimbError(
                f"The rows in '{slot}' that wait for labels are {found}, but the stream is {wanted} now. "
                "Give the stream its former columns, or start anew: with an empty checkpoint."
            )
        return rows


def _of(side: str, name: str) -> Column:
    return F.col(f"{side}.{quoted(name)}")


def _same(ids: list[str]) -> Column:
    same = F.lit(True)
    for name in ids:
        same = same & _of("labelled", name).eqNullSafe(_of("waiting", name))
    return same


def _placed(rows: DataFrame, ids: list[str], names: list[str]) -> DataFrame:
    """Number the rows with the same ids from 1, those that came first before the others."""
    order = Window.partitionBy(*(column(name) for name in ids)).orderBy(SINCE, F.xxhash64(*row_key(rows, names)))
    return rows.withColumn(PLACE, F.row_number().over(order))
