"""What a stream left behind, put in order: totals, and the lines that its plots draw over the batches."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any, NamedTuple

from sparkimb.report.drawing import SERIES
from sparkimb.report.formats import exists

Row = Mapping[str, Any]
Point = tuple[float, float | None]

# A plot half a page wide, some 500 pixels, shows no more than this many groups of batches apart.
MAX_GROUPS = 150


class Line(NamedTuple):
    """One line of a plot.  A name of None stands for all the others together."""

    name: str | None
    points: list[Point]

    @property
    def newest(self) -> float | None:
        """The last value that exists."""
        return next((y for _, y in reversed(self.points) if exists(y)), None)


class Group(NamedTuple):
    """Neighbouring points as one: their mean place and the lowest, the mean and the highest of their values."""

    x: float
    low: float
    mean: float
    high: float


class Stream(NamedTuple):
    """The rows of the side outputs by rising batch, and sums over them."""

    batches: list[Row]
    metrics: list[tuple[float, Row]]  # with their place on the axis of batches
    events: list[tuple[float, Row]]
    classes: list[str]  # by falling rows in
    rowsIn: dict[str, float]
    rowsOut: dict[str, float]
    rejected: dict[str, float]  # by falling rows
    eventTimes: bool  # the times are those of the newest events, not of the writing
    times: list[tuple[float, datetime]]  # by place on the axis

    @property
    def ends(self) -> tuple[float, float] | None:
        """The first and the last place on the axis, None where there is nothing."""
        places = [b["batchId"] for b in self.batches] + [x for x, _ in [*self.metrics, *self.events]]
        return (min(places), max(places)) if places else None

    def time_at(self, x: float) -> datetime | None:
        """Return the time of the newest batch at or before a place on the axis that has one, else of the first."""
        if not self.times:
            return None
        return self.times[max(bisect_right(self.times, x, key=itemgetter(0)) - 1, 0)][1]

    def alarms(self) -> list[tuple[float, Row]]:
        """Return the events that are alarms."""
        return [(x, e) for x, e in self.events if e.get("level") == "alarm"]

    def warnings(self) -> list[tuple[float, Row]]:
        """Return the events that are not alarms."""
        return [(x, e) for x, e in self.events if e.get("level") != "alarm"]


def read_stream(results: Row) -> Stream:
    """Return the batches, metrics and events of the results in order, with sums over the batches."""
    batches = sorted(results["batches"], key=lambda b: b["batchId"])
    metrics = _placed(results["metrics"])
    at = {(m["batchId"], m.get("step")): x for x, m in metrics}
    events = [(at.get((e["batchId"], e.get("step")), float(e["batchId"])), e) for e in results["events"]]
    rows_in, rows_out, rejected = (_totals(batches, key) for key in ("rowsIn", "rowsOut", "rejected"))
    event_times = _times(batches, "eventTime")
    labels = {label for b in batches for key in ("rowsIn", "rowsOut", "rates", "shares") for label in b.get(key) or ()}
    labels |= {label for _, m in metrics for key in ("recall", "precision") for label in m.get(key) or ()}
    return Stream(
        batches,
        metrics,
        sorted(
            events, key=lambda item: (item[0], *(str(item[1].get(k)) for k in ("level", "detector", "rate", "value")))
        ),
        sorted(labels, key=lambda label: (-rows_in.get(label, 0), label)),
        rows_in,
        rows_out,
        dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        bool(event_times),
        event_times or _times(batches, "time"),
    )


def _times(batches: Sequence[Row], key: str) -> list[tuple[float, datetime]]:
    return [(b["batchId"], t) for b in batches if (t := instant(b.get(key)))]


def _placed(metrics: Sequence[Row]) -> list[tuple[float, Row]]:
    """Return each row of metrics with its place: the steps of batch b are spread evenly over (b - 1, b]."""
    by_batch: dict[int, list[Row]] = {}
    for m in sorted(metrics, key=lambda m: (m["batchId"], m.get("step") or 0)):
        by_batch.setdefault(m["batchId"], []).append(m)
    return [(batch - 1 + (i + 1) / len(rows), m) for batch, rows in by_batch.items() for i, m in enumerate(rows)]


def _totals(batches: Sequence[Row], key: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for batch in batches:
        for name, n in (batch.get(key) or {}).items():
            totals[name] = totals.get(name, 0) + (n if exists(n) else 0)
    return totals


def instant(text: object) -> datetime | None:
    """Return an ISO time in UTC; one without an offset is UTC already.  None where the text is no such time."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)


def clock(moment: datetime) -> str:
    """Return a time to the minute, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M}"


def both_ends(ordered: Sequence[Any], limit: int) -> list[Any]:
    """Return the first and the last of a sequence, `limit` in all; the whole where it is no longer."""
    if len(ordered) <= limit:
        return list(ordered)
    return [*ordered[: limit - limit // 2], *ordered[len(ordered) - limit // 2 :]]


def shown_classes(stream: Stream) -> list[str]:
    """Return the classes that have a line of their own: all, or the most common and the rarest."""
    return stream.classes if len(stream.classes) <= SERIES else both_ends(stream.classes, SERIES - 1)


def shown_reasons(stream: Stream) -> list[str]:
    """Return the reasons for rejection that have a line of their own: all, or the most frequent."""
    reasons = list(stream.rejected)
    return reasons if len(reasons) <= SERIES else reasons[: SERIES - 1]


def summed_lines(stream: Stream, key: str, shown: Sequence[str]) -> list[Line]:
    """Return a line of rows in each batch for each name shown, and of the sum of the others; no entry is no row."""
    return _lines(_of_batches(stream), key, shown, missing=0.0, fold=math.fsum)


def share_lines(stream: Stream, shown: Sequence[str]) -> list[Line]:
    """Return a line of the decayed share of each class shown, and of the sum of the others."""
    return _lines(_of_batches(stream), "shares", shown, missing=None, fold=math.fsum)


def rate_lines(stream: Stream, shown: Sequence[str]) -> list[Line]:
    """Return a line of the rate applied to each class shown, and of the mean of the others."""
    return _lines(_of_batches(stream), "rates", shown, missing=None, fold=_mean)


def metric_lines(stream: Stream, key: str, shown: Sequence[str]) -> list[Line]:
    """Return a line of a metric of each class shown, and of the mean of the others."""
    return _lines(stream.metrics, key, shown, missing=None, fold=_mean)


def batch_line(stream: Stream, key: str, name: str) -> Line:
    """Return the line of one number of each batch."""
    return Line(name, [(x, row.get(key)) for x, row in _of_batches(stream)])


def overall_line(stream: Stream, key: str, name: str) -> Line:
    """Return the line of one metric of all classes together."""
    return Line(name, [(x, row.get(key)) for x, row in stream.metrics])


def _of_batches(stream: Stream) -> list[tuple[float, Row]]:
    return [(b["batchId"], b) for b in stream.batches]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _lines(
    rows: Sequence[tuple[float, Row]],
    key: str,
    shown: Sequence[str],
    *,
    missing: float | None,
    fold: Callable[[Sequence[float]], float],
) -> list[Line]:
    own: list[list[Point]] = [[] for _ in shown]
    among = set(shown)
    together: list[Point] = []
    for x, row in rows:
        values = row.get(key) or {}
        for points, name in zip(own, shown, strict=True):
            points.append((x, values.get(name, missing)))
        rest = [v for name, v in values.items() if name not in among and exists(v)]
        together.append((x, fold(rest) if rest else missing))
    lines = [Line(name, points) for name, points in zip(shown, own, strict=True)]
    has_others = any(name not in among for _, row in rows for name in row.get(key) or ())
    return [*lines, Line(None, together)] if has_others else lines


def grouped(points: Sequence[tuple[float, float]], groups: int = MAX_GROUPS) -> list[Group]:
    """Return the points in equal groups in order, one a point where there are no more than 2 · groups."""
    n = len(points)
    if n <= 2 * groups:
        return [Group(x, y, y, y) for x, y in points]
    parts = (points[g * n // groups : (g + 1) * n // groups] for g in range(groups))
    return [
        Group(
            _mean([x for x, _ in part]), min(y for _, y in part), _mean([y for _, y in part]), max(y for _, y in part)
        )
        for part in parts
    ]
