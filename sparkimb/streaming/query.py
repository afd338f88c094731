"""A streaming query that balances its batches, each exactly once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from sparkimb.errors import SparkimbError
from sparkimb.params import number
from sparkimb.streaming.balancer import BalancerState, BatchCounts, StreamingBalancer
from sparkimb.streaming.counts import DecayedCounts
from sparkimb.streaming.drift import DriftMonitor, announce, hand_over
from sparkimb.streaming.metrics import StreamingMetrics
from sparkimb.streaming.sinks import Sink
from sparkimb.streaming.state import StateTable
from sparkimb.streaming.waiting import WaitingRoom

Status = dict[str, Any]

# The rows of the side outputs.
STATUS_TYPE = (
    "batchId bigint, time string, eventTime string, rowsIn map<string,bigint>, rowsOut map<string,bigint>, "
    "unlabelled bigint, rejected map<string,bigint>, waiting bigint, rates map<string,double>, "
    "shares map<string,double>, seconds double, lagSeconds double"
)
METRICS_TYPE = (
    "batchId bigint, step bigint, rows bigint, unjudged bigint, time string, recall map<string,double>, "
    "precision map<string,double>, gMean double, balancedAccuracy double, areaUnderROC double, "
    "confusion array<struct<label:string,prediction:string,weight:double>>"
)
EVENT_TYPE = (
    "batchId bigint, step bigint, level string, detector string, rate string, value double, bound double, "
    "message string"
)

# Fewer rows than this say nothing about the source: one poison row among three is no reason to stop.
FEW_ROWS = 100

logger = logging.getLogger("sparkimb.streaming")


class _Measured(NamedTuple):
    """The state of metrics and monitor after a batch, the batch's rows of metrics, and its events."""

    after: dict[str, Any]
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]


@dataclass(kw_only=True)
class BatchRunner:
    """What `foreachBatch` calls: reads the state before a batch, writes the batch's rows and the state after it.

    Spark runs a batch again if the driver died before the batch was committed.  Everything written for a batch is a
    function of its rows, the seed and the state before it, and takes the place of what an earlier try wrote, so it does
    not matter where that try ended.

    Parameters
    ----------
    balancer : StreamingBalancer
    sink : Sink
        Takes the balanced rows.
    state : StateTable
    deadLetters : Sink, optional
        Takes the rows that cannot be used, with the column `reason`.  Without it such a row ends the query.
    maxRejected : float in [0, 1], default=1.0
        Share of a batch's rows that may be unusable, in batches of 100 rows or more.  A batch with more ends the query,
        before anything is written of it: a source whose schema changed must not turn into dead letters.
    status : Sink, optional
        Takes a row of figures for each batch.
    metrics : StreamingMetrics, optional
        Measured on the sound rows as they came, a batch of too many steps in fewer (mergeSteps of
        `StreamingMetrics.look`), so that a stream goes on after a long pause.
    metricsSink : Sink, optional
        Takes their rows.
    monitor : DriftMonitor, optional
        Looks at what the metrics counted.
    eventsSink : Sink, optional
        Takes its warnings and alarms.
    onStatus : function, optional
        Called with the figures of each batch.  A batch that is run again calls it again, and logs them again; what it
        raises is logged.  On Spark Connect it runs on the server.
    queryName : str, optional
        Name of the query in the log; else it is told by the state's path.
    judge : function, optional
        Adds to the rows of a batch what a model says of them, as columns.  Where rows wait for their labels it is asked
        once these have come, as a row that brings the label alone has no features to judge by.
    """

    balancer: StreamingBalancer
    sink: Sink
    state: StateTable
    deadLetters: Sink | None = None
    maxRejected: float = 1.0
    status: Sink | None = None
    metrics: StreamingMetrics | None = None
    metricsSink: Sink | None = None
    monitor: DriftMonitor | None = None
    eventsSink: Sink | None = None
    onStatus: Callable[[Status], None] | None = None
    queryName: str | None = None
    judge: Callable[[DataFrame], DataFrame] | None = None
    # The state after the last batch of this process, so that it is not read back.
    _last: tuple[int, dict[str, Any]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        number("BatchRunner.maxRejected", 0, 1)(self.maxRejected)
        if self.balancer.unlabelled == "wait" and self.deadLetters is None:
            raise SparkimbError("Rows may wait for a label in vain, but deadLetters is None. Give it a sink for them.")
        if self.monitor is not None and self.metrics is None:
            raise SparkimbError("monitor looks at what metrics counts, but metrics is None. Give both.")
        for sink, source in (("metricsSink", "metrics"), ("eventsSink", "monitor")):
            if getattr(self, sink) is not None and getattr(self, source) is None:
                raise SparkimbError(f"{sink} has nothing to take, because {source} is None. Give both.")

    def __call__(self, batch: DataFrame, batchId: int) -> None:
        """Balance one batch."""
        began = time.monotonic()
        spark, balancer = batch.sparkSession, self.balancer
        before = self._before(spark, batchId)
        known = BalancerState.from_json(before["balancer"]) if before else BalancerState()

        room, released = WaitingRoom(path=f"{self.state.path}/waiting", versions=self.state.versions), None
        if balancer.unlabelled == "wait":
            released = room.release(batch, batchId, balancer)
            batch = released.ready
        batch = batch if self.judge is None else self.judge(batch)
        if released is not None:
            batch = batch.unionByName(released.spare, allowMissingColumns=True)

        # All that raises because of what the rows are comes first: nothing is written of a batch that ends the query.
        known = balancer.measured(batch, known)
        seen = balancer.look(batch, known)
        self._check_rejected(seen, batchId)
        late = 0 if released is None else released.expired.count()
        if late:
            seen.rejected[f"label '{balancer.labelCol}' has not come"] = late
        measured = self._measure(balancer.sound(batch, known.numFeatures), before or {})
        with _cached(balancer.smaller(batch, known)) as smaller:
            after = {"balancer": balancer.after(batch, known, seen, smaller).to_json(), **measured.after}
            waiting = None if released is None else room.write(released.waiting, batchId)
            if seen.rejected and self.deadLetters is not None:
                rejected = balancer.rejected(batch, known.numFeatures)
                if released is not None:
                    rejected = rejected.unionByName(released.expired, allowMissingColumns=True)
                self.deadLetters.write(rejected, batchId)
            self.sink.write(balancer.resample(batch, known, smaller), batchId)
        _write_rows(self.metricsSink, spark, measured.rows, METRICS_TYPE, batchId)
        _write_rows(self.eventsSink, spark, measured.events, EVENT_TYPE, batchId)
        self.state.write(spark, batchId, after)
        self._last = batchId, after
        if self.monitor is not None:
            announce(measured.events, batchId, self.monitor.onEvent, query=self._name)
        self._tell(spark, batchId, known, after, seen, waiting, time.monotonic() - began)

    @property
    def _name(self) -> str:
        return self.queryName or self.state.path

    def _before(self, spark: SparkSession, batchId: int) -> dict[str, Any] | None:
        if self._last is not None and self._last[0] == batchId - 1:
            return self._last[1]
        return self.state.before(spark, batchId)

    def _check_rejected(self, seen: BatchCounts, batchId: int) -> None:
        """End the query before anything is written if rows have nowhere to go, or if too many cannot be used."""
        rejected = sum(seen.rejected.values())
        rows = sum(seen.rowsIn.values()) + seen.unlabelled + rejected
        too_many = rows >= FEW_ROWS and rejected > self.maxRejected * rows
        if not too_many and (not rejected or self.deadLetters is not None):
            return
        found = ", ".join(f"{reason} ({n:,} rows)" for reason, n in seen.rejected.items())
        way_out = (
            "Has the source changed? Correct how it is read, or set maxRejected to 1"
            if too_many
            else "Give deadLetters a sink that takes such rows"
        )
        raise SparkimbError(
            f"Batch {batchId} has {rows:,} rows, of which {rejected:,} cannot be used: {found}. Nothing is lost: the "
            f"batch was not committed, and nothing was written of it. {way_out}, and start again."
        )

    def _measure(self, sound: DataFrame, before: Mapping[str, Any]) -> _Measured:
        """Measure and watch a batch."""
        if self.metrics is None:
            return _Measured({}, [], [])
        look = self.metrics.look(sound, mergeSteps=True)  # a stream cannot go back and read less
        metrics, rows = self.metrics.after(before.get("metrics") or self.metrics.empty(), look)
        if self.monitor is None:
            return _Measured({"metrics": metrics}, rows, [])
        drift, events = self.monitor.after(before.get("drift") or self.monitor.empty(), look)
        return _Measured({"metrics": metrics, "drift": drift}, rows, events)

    def _tell(
        self,
        spark: SparkSession,
        batchId: int,
        known: BalancerState,
        after: Mapping[str, Any],
        seen: BatchCounts,
        waiting: int | None,
        seconds: float,
    ) -> None:
        """Write, log and hand over the figures of a batch."""
        now = datetime.now(timezone.utc)
        newest = None if seen.newest is None else datetime.fromtimestamp(seen.newest / 1e6, timezone.utc)
        shares = DecayedCounts.from_json(after["balancer"]["counts"]).shares  # and not the reservoir, which is large
        figures: Status = {
            "batchId": batchId,
            "time": now.isoformat(),
            "eventTime": newest.isoformat() if newest else None,
            "rowsIn": _by_text(seen.rowsIn),
            "rowsOut": _by_text(seen.rowsOut),
            "unlabelled": seen.unlabelled,
            "rejected": seen.rejected,
            "waiting": waiting,
            "rates": _by_text({c: r for c, r in self.balancer.rates(known).items() if c in seen.rowsIn}),
            "shares": _by_text(shares),
            "seconds": round(seconds, 3),
            "lagSeconds": round((now - newest).total_seconds(), 3) if newest else None,
        }
        _write_rows(self.status, spark, [figures], STATUS_TYPE, batchId)
        logger.info("%s: batch %s", self._name, figures)
        hand_over(figures, self.onStatus)


def start_balanced(
    stream: DataFrame,
    balancer: StreamingBalancer,
    *,
    sink: Sink,
    statePath: str,
    checkpointLocation: str,
    stateVersions: int = 8,
    deadLetters: Sink | None = None,
    maxRejected: float = 1.0,
    status: Sink | None = None,
    metrics: StreamingMetrics | None = None,
    metricsSink: Sink | None = None,
    monitor: DriftMonitor | None = None,
    eventsSink: Sink | None = None,
    trigger: Mapping[str, Any] | None = None,
    queryName: str | None = None,
    onStatus: Callable[[Status], None] | None = None,
    judge: Callable[[DataFrame], DataFrame] | None = None,
) -> StreamingQuery:
    """Start a query that balances a stream, exactly once: see `BatchRunner` for what takes what.

    Parameters
    ----------
    stream : DataFrame
        A streaming DataFrame.
    statePath, checkpointLocation : str
        Directories of this query alone.  The two belong together: keep, copy and delete both.
    stateVersions : int in [2, ∞), default=8
        States kept: see `StateTable`.  A stream goes on with the number that it was begun with.
    trigger : dict, optional
        As `DataStreamWriter.trigger` takes it, {"availableNow": True} by default.

    Raises
    ------
    SparkimbError
        Before the query starts: a dataset that is no stream, and what `StreamingBalancer.check`,
        `StreamingMetrics.check` and `DriftMonitor.check` find.

    Notes
    -----
    On Spark Connect all sinks, monitors and functions travel to the server.
    """
    if not stream.isStreaming:
        raise SparkimbError("The dataset is no stream. Read it with readStream, or use a sampler's fitResample.")
    judged = stream if judge is None else judge(stream)
    balancer.check(judged)
    if metrics is not None:
        metrics.check(judged)
    if monitor is not None:
        monitor.check(judged, balancer.labelCol)
    runner = BatchRunner(
        balancer=balancer,
        sink=sink,
        state=StateTable(path=statePath, versions=stateVersions),
        deadLetters=deadLetters,
        maxRejected=maxRejected,
        status=status,
        metrics=metrics,
        metricsSink=metricsSink,
        monitor=monitor,
        eventsSink=eventsSink,
        onStatus=onStatus,
        queryName=queryName,
        judge=judge,
    )
    writer = stream.writeStream.foreachBatch(runner).option("checkpointLocation", checkpointLocation)
    if queryName is not None:
        writer = writer.queryName(queryName)
    return writer.trigger(**(trigger or {"availableNow": True})).start()


@contextmanager
def _cached(dataset: DataFrame | None) -> Iterator[DataFrame | None]:
    if dataset is None:
        yield None
        return
    dataset.persist()
    try:
        yield dataset
    finally:
        dataset.unpersist()


def _write_rows(sink: Sink | None, spark: SparkSession, rows: list[dict[str, Any]], schema: str, batchId: int) -> None:
    if sink is not None and rows:
        sink.write(spark.createDataFrame([{**row, "batchId": batchId} for row in rows], schema).coalesce(1), batchId)


def _by_text(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(label): value for label, value in values.items()}
