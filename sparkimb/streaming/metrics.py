"""Prequential metrics of a stream: each row is judged when it comes, and counts less with every later one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    FractionalType,
    IntegralType,
    StringType,
)

from sparkimb.columns import check_label_type, check_time_type, column, require_columns
from sparkimb.draws import row_key
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.confusion import check_alike
from sparkimb.evaluation.inputs import is_positive, require_numeric
from sparkimb.evaluation.ranking import RankingMetrics
from sparkimb.evaluation.steps import CollectedSteps
from sparkimb.params import column_name, column_names, integer, number
from sparkimb.streaming.fading import FadedShare, fade

# Steps of event time that one batch may be cut into.  A stream that was down for a day and comes back with steps of two
# minutes stays below; each step is a row of metrics, and costs the driver some microseconds a label.  Above it a stream
# judges what is older in one step.
MAX_STEPS = 1_000
# Pairs of label and prediction of all steps of a batch, and of the matrix kept: at 100 bytes a pair 10 MB.
MAX_CELLS = 100_000
# Rows that the area under the ROC curve may look at.  Score and label of each lie in the state of every batch: 2 MB.
MAX_WINDOW = 100_000
# A pair of label and prediction is forgotten when it weighs less than this part of a row.
FORGOTTEN = 1e-9

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

Kind = Literal["string", "boolean", "integer", "number"]


@dataclass(frozen=True)
class StepCounts:
    """Rows of one step by label and prediction, both as text; the newest time, in microseconds since 1970."""

    cells: dict[tuple[str, str], int] = field(default_factory=dict)
    newest: int | None = None

    @property
    def rows(self) -> int:
        """Rows with label and prediction."""
        return sum(self.cells.values())


@dataclass(frozen=True)
class MetricsLook:
    """What one look at a batch tells.

    Parameters
    ----------
    kind : {"string", "boolean", "integer", "number"}
        Of the labels.
    steps : tuple of StepCounts
        By rising time.
    unjudged : int
        Rows without label, prediction or time.
    window : tuple of (step, score, positive)
        The batch's newest rows with a score, oldest first.
    whole : bool
        Whether the window holds all rows of the batch that have a score.
    """

    kind: Kind
    steps: tuple[StepCounts, ...] = ()
    unjudged: int = 0
    window: tuple[tuple[int, float, bool], ...] = ()
    whole: bool = True

    def text(self, label: Any) -> str:
        """Return a label as this look's counts write it: 1, 1.0 and True are one label where labels are numbers."""
        fits = isinstance(label, str) == (self.kind == "string") and (self.kind != "boolean" or label in (0, 1))
        if not fits:
            raise SparkimbError(
                f"positiveLabel is {label!r}, but the labels are of type {self.kind}. "
                "Give the label of the positive class as it stands in the column."
            )
        return label_text(label, self.kind)


@dataclass(frozen=True, kw_only=True)
class StreamingMetrics:
    """Recall, precision and what follows from them, of a stream with labels and predictions, as it goes along.

    For a stream whose rows come with a label and with what a model said before it knew that label (test, then train).
    A table is better judged by `ConfusionMatrix` and `RankingMetrics`.

    Parameters
    ----------
    labelCol : str, default="label"
        String, boolean, integer or double.
    predictionCol : str, default="prediction"
        String like the label, or any number where labels are numbers or booleans.
    scoreCol : str, optional
        Number, higher for the positive class.  Without it there is no area under the ROC curve.
    positiveLabel : str, bool, int or float, default=1
        The class whose score scoreCol holds.
    timeCol : str, optional
        Timestamp of the event.
    stepSeconds : float in (0, inf), optional
        Each batch is cut into steps of so much event time, at multiples of it since 1970, and each of them is judged by
        itself.  Without it a batch is one step.  For a batch of more than 1,000 steps see `look`.
    idCols : list of str, optional
        Columns that identify a row, to order rows of one time.  Without them all columns do.
    fading : float in (0, 1], default=0.999
        What is left of a row's weight after one more row of its kind; 1 forgets nothing.
    window : int in [2, 100_000], default=1_000
        Rows that the area under the ROC curve looks at.

    Raises
    ------
    SparkimbError
        From `check` and `look`, before any job: missing columns or columns of the wrong type.  From `look`, after the
        count: a batch of more than 1,000 steps, or more than 100,000 pairs of step, label and prediction; with
        mergeSteps only more than 100,000 pairs of label and prediction.

    Notes
    -----
    recall, precision : by class; those of a class fade only by its own rows and by the rows predicted as it, so that a
        rare class is not forgotten between its rows [1]_ [2]_.
    gMean, balancedAccuracy : geometric and arithmetic mean of the recalls of all classes that have had rows.
    confusion : rows by label and prediction, which fade by every row.
    areaUnderROC : over the newest `window` rows [3]_, None while these are of one class.  Rows of a later batch are
        newer; in a batch timeCol decides, and then a hash of the row.  Where a batch has more rows with a score than
        the window, only its last step has an area.
    Rows without label, prediction or (with timeCol) time are not judged, but counted: "unjudged", for the whole batch,
    in the row of its last step.  Rows without a finite score are judged, but stay out of the window.

    Cost:   a batch: one grouped aggregate over label, prediction and time; with scoreCol one more job that hands at
            most `window` rows to the driver.  Nothing passes through Python on the executors.
    State:  a few numbers for each pair of label and prediction, and scores and labels of the window.
    The same rows and batches give the same state to the bit, whatever the partitioning.

    References
    ----------
    .. [1] Gama, Sebastião, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013, 317-346.
    .. [2] Wang, Minku, Yao, "A Learning Framework for Online Class Imbalance Learning", CIEL, 2013, 36-45.
    .. [3] Brzezinski, Stefanowski, "Prequential AUC: properties of the area under the ROC curve for data streams with
           concept drift", Knowledge and Information Systems 52, 2017, 531-562.

    Examples
    --------
    >>> metrics = StreamingMetrics(labelCol="fraud", scoreCol="p_fraud", fading=0.99)
    >>> state, rows = metrics.after(metrics.empty(), metrics.look(batch))   # doctest: +SKIP
    """

    labelCol: str = "label"
    predictionCol: str = "prediction"
    scoreCol: str | None = None
    positiveLabel: Any = 1
    timeCol: str | None = None
    stepSeconds: float | None = None
    idCols: Sequence[str] | None = None
    fading: float = 0.999
    window: int = 1_000

    def __post_init__(self) -> None:
        checks: dict[str, Any] = {
            **{name: column_name(f"StreamingMetrics.{name}") for name in ("labelCol", "predictionCol")},
            "fading": number("StreamingMetrics.fading", 0, 1, low_open=True),
            "window": integer("StreamingMetrics.window", 2),
        }
        optional: dict[str, Any] = {
            **{name: column_name(f"StreamingMetrics.{name}") for name in ("scoreCol", "timeCol")},
            "idCols": column_names("StreamingMetrics.idCols"),
            "stepSeconds": number("StreamingMetrics.stepSeconds", 0, low_open=True),
        }
        checks |= {name: convert for name, convert in optional.items() if getattr(self, name) is not None}
        for name, convert in checks.items():
            object.__setattr__(self, name, convert(getattr(self, name)))  # frozen, but not yet seen by anybody
        if self.window > MAX_WINDOW:
            raise SparkimbError(f"StreamingMetrics.window is {self.window}. It must be at most {MAX_WINDOW}.")
        if self.stepSeconds is not None and self.timeCol is None:
            raise SparkimbError(
                f"StreamingMetrics.stepSeconds is {self.stepSeconds:g}, but timeCol is not set. Name the time's column."
            )
        if self.stepSeconds is not None and self.stepSeconds < 1e-6:
            raise SparkimbError(f"StreamingMetrics.stepSeconds is {self.stepSeconds}. Spark's times tell microseconds.")

    def check(self, dataset: DataFrame) -> None:
        """Check the columns of a stream or batch: no job."""
        require_columns(
            dataset,
            labelCol=self.labelCol,
            predictionCol=self.predictionCol,
            scoreCol=self.scoreCol,
            timeCol=self.timeCol,
            idCols=self.idCols,
        )
        check_label_type(dataset, self.labelCol)
        check_alike(dataset, self.labelCol, self.predictionCol)
        if self.scoreCol is not None:
            require_numeric(dataset, scoreCol=self.scoreCol)
            is_positive(dataset, self.labelCol, self.positiveLabel)
        check_time_type(dataset, self.timeCol)

    def empty(self) -> dict[str, Any]:
        """Return the state before any row."""
        return {"recall": {}, "precision": {}, "confusion": [], "scores": [], "positives": []}

    def look(self, batch: DataFrame, *, mergeSteps: bool = False) -> MetricsLook:
        """Count the rows of a batch by step, label and prediction: one job, with scoreCol another small one.

        Parameters
        ----------
        mergeSteps : bool, default=False
            Judge a batch of too many steps, as a stream has after a long pause, instead of raising: all but the newest
            999 as one step or, if there are still too many pairs, the whole batch as one.  Two or four jobs more.
        """
        self.check(batch)
        found = self._counted(batch)
        for most in (MAX_STEPS, 1) if mergeSteps else ():
            if len(found) > MAX_CELLS or len(_starts(found)) > MAX_STEPS:
                found = self._counted(batch, self._start_of_newest(batch, most))
        if len(found) > MAX_CELLS:
            raise SparkimbError(
                f"labelCol '{self.labelCol}' and predictionCol '{self.predictionCol}' hold more than {MAX_CELLS} "
                "different pairs in the steps of one batch. Give columns of class labels, or longer steps."
            )
        starts = _starts(found)
        if len(starts) > MAX_STEPS:
            raise SparkimbError(
                f"A batch holds {len(starts)} steps of {self.stepSeconds} seconds, and at most {MAX_STEPS} are judged. "
                "Set a larger stepSeconds, or limit what a batch reads."
            )
        kind = label_kind(batch.schema[self.labelCol].dataType)
        at = {start: i for i, start in enumerate(starts)}
        cells: list[dict[tuple[str, str], int]] = [{} for _ in starts]
        newest: list[list[int]] = [[] for _ in starts]
        for row in found:
            if row["step"] is not None:
                pair = label_text(row["label"], kind), label_text(row["prediction"], kind)
                step = at[row["step"]]
                cells[step][pair] = cells[step].get(pair, 0) + row["rows"]
                newest[step] += [] if row["newest"] is None else [row["newest"]]
        scored = sum(row["scored"] for row in found)
        return MetricsLook(
            kind,
            tuple(
                StepCounts(dict(sorted(c.items())), max(times, default=None))
                for c, times in zip(cells, newest, strict=True)
            ),
            sum(row["rows"] for row in found if row["step"] is None),
            tuple(self._newest(batch, at)) if scored else (),
            scored <= self.window,
        )

    def _counted(self, batch: DataFrame, start: int | None = None) -> list[Row]:
        """Count the rows by step, label and prediction; those before a step's start count for that step."""
        judged = self._judged(batch)
        step = self._step() if start is None else F.greatest(self._step(), F.lit(start).cast("bigint"))
        groups = (
            batch.select(
                F.when(judged, step).alias("step"),
                F.when(judged, column(self.labelCol)).alias("label"),
                F.when(judged, column(self.predictionCol)).alias("prediction"),
                F.when(judged, self._time()).alias("time"),
                (judged & self._scored()).alias("scored"),
            )
            .groupBy("step", "label", "prediction")
            .agg(
                F.count(F.lit(1)).alias("rows"),
                F.max("time").alias("newest"),
                F.count_if(F.col("scored")).alias("scored"),
            )
        )
        return groups.limit(MAX_CELLS + 1).collect()

    def _start_of_newest(self, batch: DataFrame, most: int) -> int:
        """Return where the first of the newest steps begins."""
        steps = batch.where(self._judged(batch)).select(self._step().alias("step")).distinct()
        newest = steps.orderBy(F.desc("step")).limit(most).collect()
        return int(newest[-1]["step"])

    def after(self, state: Mapping[str, Any], look: MetricsLook) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the state after a batch, and a row of metrics for each of its steps; no job.

        Parameters
        ----------
        state : dict
            From `empty` or the batch before.

        Returns
        -------
        state : dict
            What JSON can hold.
        rows : list of dict
            step (from 0, in the batch), rows, unjudged, time (the newest, in UTC, as ISO text), recall and precision
            (by label), gMean, balancedAccuracy, areaUnderROC, confusion (tuples of label, prediction and weight).
        """
        known, rows = dict(state), []
        steps = look.steps or ((StepCounts(),) if look.unjudged else ())
        by_step = {i: list(found) for i, found in groupby(look.window, key=itemgetter(0))}
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            known = self._after_step(known, step, by_step.get(i, []))
            recalls = _values(known["recall"])
            rows.append(
                {
                    "step": i,
                    "rows": step.rows,
                    "unjudged": look.unjudged if last else 0,
                    "time": None if step.newest is None else (_EPOCH + timedelta(microseconds=step.newest)).isoformat(),
                    "recall": recalls,
                    "precision": _values(known["precision"]),
                    "gMean": _geometric_mean(list(recalls.values())),
                    "balancedAccuracy": math.fsum(recalls.values()) / len(recalls) if recalls else None,
                    "areaUnderROC": _area(known["scores"], known["positives"]) if last or look.whole else None,
                    "confusion": [
                        tuple(cell) for cell in known["confusion"]
                    ],  # Spark Connect takes no list for a struct
                }
            )
        return known, rows

    def _after_step(
        self, state: Mapping[str, Any], step: StepCounts, window: Sequence[tuple[int, float, bool]]
    ) -> dict[str, Any]:
        kept, weight = fade(step.rows, self.fading)
        matrix = {(label, prediction): kept * w for label, prediction, w in state["confusion"]}
        for pair, n in step.cells.items():
            matrix[pair] = matrix.get(pair, 0.0) + weight * (n / step.rows)
        confusion = [[*pair, w] for pair, w in sorted(matrix.items()) if w > FORGOTTEN]
        if len(confusion) > MAX_CELLS:
            raise SparkimbError(
                f"labelCol '{self.labelCol}' and predictionCol '{self.predictionCol}' have held more than {MAX_CELLS} "
                "different pairs. Give columns of class labels, or a smaller fading."
            )
        return {
            "recall": self._shares(state["recall"], step, side=0),
            "precision": self._shares(state["precision"], step, side=1),
            "confusion": confusion,
            "scores": [*state["scores"], *(score for _, score, _ in window)][-self.window :],
            "positives": [*state["positives"], *(int(positive) for _, _, positive in window)][-self.window :],
        }

    def _shares(self, known: Mapping[str, list[float]], step: StepCounts, *, side: int) -> dict[str, list[float]]:
        """Return the recalls (side 0) or precisions (side 1) after a step."""
        totals: dict[str, int] = {}
        for pair, n in step.cells.items():
            totals[pair[side]] = totals.get(pair[side], 0) + n
        shares = dict(known)
        for text, n in totals.items():
            before = FadedShare.from_json(shares[text]) if text in shares else FadedShare()
            shares[text] = before.after(n, step.cells.get((text, text), 0), self.fading).to_json()
        return dict(sorted(shares.items()))

    def _newest(self, batch: DataFrame, at: Mapping[int, int]) -> Iterator[tuple[int, float, bool]]:
        """Collect the newest rows with a score, at most `window`; oldest first."""
        assert self.scoreCol is not None
        order = ["time", "hash", "score", "positive"]  # the last two for rows that share all the rest
        rows = batch.where(self._judged(batch) & self._scored()).select(
            self._step().alias("step"),
            self._time().alias("time"),
            F.xxhash64(*row_key(batch, list(self.idCols or batch.columns))).alias("hash"),
            column(self.scoreCol).cast("double").alias("score"),
            is_positive(batch, self.labelCol, self.positiveLabel).alias("positive"),
        )
        table = rows.orderBy(*(F.desc(name) for name in order)).limit(self.window).toArrow()
        for row in reversed(table.to_pylist()):
            yield at[max(row["step"], min(at))], row["score"], row["positive"]  # of steps merged the first is left

    def _judged(self, batch: DataFrame) -> Column:
        """Say whether a row has a label, a prediction and, with timeCol, a time; never null."""
        judged = F.lit(True) if self.timeCol is None else F.isnotnull(column(self.timeCol))
        for name in (self.labelCol, self.predictionCol):
            judged = judged & F.isnotnull(column(name))
            if isinstance(batch.schema[name].dataType, FractionalType):
                judged = judged & ~F.isnan(F.coalesce(column(name).cast("double"), F.lit(0.0)))
        return judged

    def _scored(self) -> Column:
        """Say whether a row has a finite score; never null."""
        if self.scoreCol is None:
            return F.lit(False)
        # NaN is above all numbers in Spark.
        return F.coalesce(F.abs(column(self.scoreCol).cast("double")) < F.lit(math.inf), F.lit(False))

    def _time(self) -> Column:
        """Return the microseconds since 1970."""
        if self.timeCol is None:
            return F.lit(None).cast("bigint")
        return F.unix_micros(column(self.timeCol).cast("timestamp"))

    def _step(self) -> Column:
        """Return the microsecond at which a row's step begins; 0 where a batch is one step."""
        if self.stepSeconds is None:
            return F.lit(0).cast("bigint")
        return self._time() - F.pmod(self._time(), F.lit(round(self.stepSeconds * 1e6)).cast("bigint"))


def label_kind(dataType: DataType) -> Kind:
    """Return what labels of a type are."""
    if isinstance(dataType, StringType):
        return "string"
    if isinstance(dataType, BooleanType):
        return "boolean"
    return "integer" if isinstance(dataType, IntegralType) else "number"


def label_text(label: Any, kind: Kind) -> str:
    """Return a label or prediction as text, as `str` writes the label column's value that it equals."""
    if kind == "boolean" and label in (0, 1):
        return str(bool(label))
    if kind == "integer" and (isinstance(label, int) or float(label).is_integer()):
        return str(int(label))
    return str(label) if kind == "string" else str(float(label) + 0.0)  # -0.0 is 0.0


def _starts(found: Sequence[Row]) -> list[int]:
    return sorted({row["step"] for row in found if row["step"] is not None})


def _values(shares: Mapping[str, list[float]]) -> dict[str, float]:
    return {text: FadedShare.from_json(share).value for text, share in shares.items()}


def _geometric_mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0


def _area(scores: Sequence[float], positives: Sequence[int]) -> float | None:
    """Return the area under the ROC curve of some rows; None if they are of one class."""
    if not 0 < sum(positives) < len(positives):
        return None
    rising, place = np.unique(np.asarray(scores), return_inverse=True)
    p = np.bincount(place, weights=positives, minlength=len(rising)).astype(np.float64)
    n = np.bincount(place, minlength=len(rising)).astype(np.float64) - p
    return RankingMetrics.fromSteps(CollectedSteps(rising[::-1], p[::-1], n[::-1])).areaUnderROC
