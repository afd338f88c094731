"""Streams that drift, a model that does not learn, and how soon the detectors see that it no longer fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.datasets import drifting, stagger
from sparkimb.streaming.drift import DETECTORS, DriftMonitor
from sparkimb.streaming.metrics import MAX_STEPS, StreamingMetrics

NOISE = 0.1  # of both classes: without it the rule of the old concept would be right before the drift in every row
WIDTH = 0.2  # of a gradual drift, as a share of the rows
GROWTH = 3.0  # of the minority's share, where only that drifts
BATCH_ROWS = 10_000  # at most, and no more than MAX_STEPS steps

# The rules of the concepts before the drift, which the model knows.
SEA, STAGGER = "f0 + f1 <= 7.0", "size = 'small' AND colour = 'red'"


@dataclass(frozen=True)
class Kind:
    """One kind of stream: how its rows are made of minority share, rows and seed; the model's rule; when it drifts."""

    made: Callable[[SparkSession, int, float, int], DataFrame]
    rule: str
    drift: float | None = 0.5  # as a share of the rows; None: never
    width: float = 0.0

    def rows(self, spark: SparkSession, rows: int, minority: float, seed: int) -> DataFrame:
        """Return the rows of a stream, with the model's predictions."""
        return self.made(spark, rows, minority, seed).withColumn("prediction", F.expr(self.rule).cast("int"))

    def began(self, rows: int) -> int:
        """Return the first row that may have drifted."""
        return rows if self.drift is None else round(rows * (self.drift - self.width / 2.0))


def _sea(**drift: Any) -> Callable[[SparkSession, int, float, int], DataFrame]:
    return lambda spark, rows, minority, seed: drifting(
        spark, rows, minority=minority, noise=NOISE, seed=seed, **{k: v(minority) for k, v in drift.items()}
    )


def _stagger(*concepts: int, growth: float = 1.0, width: float = 0.0) -> Callable[..., DataFrame]:
    changes = [0.5] * (len(concepts) - 1)
    return lambda spark, rows, minority, seed: stagger(
        spark,
        rows,
        concepts=concepts,
        changes=changes,
        width=width,
        minority=[minority, minority * growth][: len(concepts)],
        noise=NOISE,
        seed=seed,
    )


KINDS = {
    "SEA, none": Kind(_sea(drift=lambda _: "prior", minority_after=lambda share: share), SEA, drift=None),
    "SEA, abrupt": Kind(_sea(), SEA),
    "SEA, gradual": Kind(_sea(drift=lambda _: "gradual", width=lambda _: WIDTH), SEA, width=WIDTH),
    "SEA, prior": Kind(_sea(drift=lambda _: "prior", minority_after=lambda share: share * GROWTH), SEA),
    "STAGGER, none": Kind(_stagger(1), STAGGER, drift=None),
    "STAGGER, abrupt": Kind(_stagger(1, 2), STAGGER),
    "STAGGER, gradual": Kind(_stagger(1, 2, width=WIDTH), STAGGER, width=WIDTH),
    "STAGGER, prior": Kind(_stagger(1, 1, growth=GROWTH), STAGGER),
}


def batches(stream: DataFrame, rows: int, step: int) -> Iterator[DataFrame]:
    """Cut a stream into batches of so many steps as one may have."""
    size = min(BATCH_ROWS, MAX_STEPS * step)
    for start in range(0, rows, size):
        yield stream.where(F.col("id").between(start, start + size - 1))


def alarms(stream: DataFrame, rows: int, *, step: int, monitor: DriftMonitor | None = None) -> list[tuple[int, str]]:
    """Return the rows that had come when alarms were given, and by whom, looking at `step` rows at a time.

    A row comes each second, so steps of rows are steps of time.
    """
    metrics = StreamingMetrics(timeCol="event_time", stepSeconds=step)
    monitor = monitor or DriftMonitor()
    state, seen, found = monitor.empty(), 0, []
    for batch in batches(stream, rows, step):
        look = metrics.look(batch)
        state, events = monitor.after(state, look)
        ends = [seen := seen + counts.rows for counts in look.steps]
        found += [(ends[e["step"]], e["detector"]) for e in events if e["level"] == "alarm"]
    return found


def figures(spark: SparkSession, *, rows: int, minority: float, seeds: range, step: int) -> list[dict[str, Any]]:
    """Return what each detector made of each kind of stream.

    seen: streams of which an alarm came after the drift began; delay and longest_delay: rows from the beginning of the
    drift to that alarm, the median and the most; false_alarms: those before, in all streams together.
    """
    found = []
    for name, kind in KINDS.items():
        began = kind.began(rows)
        by_seed = [alarms(kind.rows(spark, rows, minority, seed), rows, step=step) for seed in seeds]
        for detector in DETECTORS:
            given = [[row for row, by in alarms if by == detector] for alarms in by_seed]
            # A step that ends where the drift begins holds nothing of it.
            delays = [min(row for row in rows if row > began) - began for rows in given if max(rows, default=0) > began]
            found.append(
                {
                    "stream": name,
                    "detector": detector,
                    "step": step,
                    "streams": len(by_seed),
                    "seen": None if kind.drift is None else len(delays),
                    "delay": median(delays) if delays else None,
                    "longest_delay": max(delays, default=None),
                    "false_alarms": sum(row <= began for rows in given for row in rows),
                    "rows_before": began * len(by_seed),
                }
            )
    return found
