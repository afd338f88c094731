"""What happened to a stream, in plain sentences, and what to do about it.  Text only: the page escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from sparkimb.report.formats import count, decimal, duration, exists, percent
from sparkimb.report.stream_series import Line, Stream, batch_line, clock, overall_line, share_lines
from sparkimb.report.summary import quoted

# A class's share has moved when it has grown or shrunk by half: less is the sway of a decayed share of a rare class.
MOVED = 1.5

# More rejected rows than one in a hundred are a fault upstream, not dirt.
MANY_REJECTED = 0.01

# A stream falls behind when its lag has doubled and is more than a minute.
LAGGING, LAG_SECONDS = 2.0, 60.0

# What a detector watches, for readers who do not know its short name.
RATES = {
    "recall": "recall of the positive class",
    "tpr": "true positive rate: positive rows found",
    "tnr": "true negative rate: other rows left alone",
    "ppv": "precision: flagged rows that are positive",
    "npv": "unflagged rows that are not positive",
}


class StreamSummary(NamedTuple):
    """A headline, paragraphs with a title of a word, and what to do."""

    headline: str
    paragraphs: dict[str, str]
    advice: tuple[str, ...]


def summarise_stream(stream: Stream) -> StreamSummary:
    """Return what happened in words, no stronger than the detectors' own."""
    if stream.ends is None:
        return StreamSummary(
            "No batch yet",
            {"Rows": "The stream left nothing behind: no batch was balanced, no prediction scored, no event raised."},
            ("Wait for the first batch, or look at the job's log, then make this page again.",),
        )
    paragraphs = {
        "Rows": [*_row_sentences(stream), *_balance_sentences(stream), *_share_sentences(stream)],
        "Drift": [*_drift_sentences(stream), *_score_sentences(stream)],
        "Health": [*_rejected_sentences(stream), *_lag_sentences(stream)],
    }
    return StreamSummary(
        _headline(stream),
        {title: " ".join(sentences) for title, sentences in paragraphs.items() if sentences},
        _advice(stream),
    )


def when(stream: Stream, x: float) -> str:
    """Return the batch at a place on the axis, with the newest event time there if it is known."""
    batch = -int(-x // 1)  # the steps of batch b lie in (b - 1, b]
    moment = stream.time_at(batch) if stream.eventTimes else None
    return f"batch {batch:,} ({clock(moment)})" if moment else f"batch {batch:,}"


def share_of(rows: dict[str, float], label: str) -> float | None:
    """Return a class's share of all rows, None where there is no row."""
    total = sum(rows.values())
    return rows.get(label, 0) / total if total else None


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _headline(stream: Stream) -> str:
    alarms, warnings = stream.alarms(), stream.warnings()
    if alarms:
        return f"Drift found: {_several(len(alarms), 'alarm')}, the first at {when(stream, alarms[0][0])}"
    if warnings:
        return f"{_several(len(warnings), 'warning')} of drift, but no alarm"
    if stream.metrics:
        return "No drift found"
    return "Balanced, but not watched for drift"


def _row_sentences(stream: Stream) -> list[str]:
    if not stream.batches:
        return ["No batch left its status behind, so what came in and went out is not known."]
    batches = "1 batch" if len(stream.batches) == 1 else f"{len(stream.batches):,} batches"
    said = f"{batches} brought {count(sum(stream.rowsIn.values()))} labelled rows"
    if stream.times:
        first, last = (end(t for _, t in stream.times) for end in (min, max))
        kind = "with event times" if stream.eventTimes else "written"
        said += (
            f", {kind} from about {clock(first)} to {clock(last)} UTC"
            if first < last
            else f", {kind} about {clock(last)} UTC"
        )
    return [f"{said}."]


def _balance_sentences(stream: Stream) -> list[str]:
    seen = [label for label in stream.classes if stream.rowsIn.get(label, 0) > 0]
    out = sum(stream.rowsOut.values())
    if not seen:
        return []
    if not out:
        return ["None of them went out."]
    if len(seen) == 1:
        return [f"All are of the class {quoted(seen[0])}, so there was nothing to balance."]
    rare = seen[-1]
    before, after = (share_of(rows, rare) for rows in (stream.rowsIn, stream.rowsOut))
    assert before is not None
    assert after is not None
    named = f"the rarest of {len(seen)} classes, {quoted(rare)}, is {percent(before)} of the rows that came in"
    if percent(before) == percent(after):
        return [f"{named[0].upper()}{named[1:]} and as much of the {count(out)} rows that went out to training."]
    return [f"To train on, they were balanced: {named} and {percent(after)} of the {count(out)} rows that went out."]


def _drift_sentences(stream: Stream) -> list[str]:
    alarms, warnings = stream.alarms(), stream.warnings()
    if not stream.events:
        if not stream.metrics:
            return ["No predictions were scored, so whether a model still fits the rows is not known."]
        return ["Predictions were scored, and no detector of drift raised a warning or an alarm."]
    x, first = (alarms or warnings)[0]
    level = "alarm" if alarms else "warning"
    rate, detector = (str(first.get(key) or "unnamed") for key in ("rate", "detector"))
    known = RATES.get(rate, rate).split(":")[0]
    numbers = (
        f" at {decimal(first['value'])}, beyond its bound of {decimal(first['bound'])}"
        if exists(first.get("value")) and exists(first.get("bound"))
        else ""
    )
    found = "A change that a trained model does not know of was found" if alarms else "A first sign of a change came"
    said = (
        f"{found} at {when(stream, x)}: the detector {quoted(detector)} raised its first {level} on "
        f"the {quoted(known) if rate not in RATES else known}{numbers}."
    )
    counted = " and ".join(
        _several(len(found), name) for found, name in ((alarms, "alarm"), (warnings, "warning")) if found
    )
    last = when(stream, stream.events[-1][0])
    return [said, f"There are {counted} in all, the last at {last}."] if len(stream.events) > 1 else [said]


class _Dip(NamedTuple):
    """A metric before the first alarm, at its lowest since, and now."""

    before: float
    low: float
    now: float

    @property
    def deep(self) -> bool:
        return self.before - self.low > 0.05

    @property
    def over(self) -> bool:
        return self.now >= self.before - max(0.02, 0.25 * (self.before - self.low))


def _dip(stream: Stream) -> _Dip | None:
    alarms, points = stream.alarms(), _known(overall_line(stream, "gMean", "G-mean"))
    if not alarms:
        return None
    # The metric falls before a detector is sure: the tenth of the axis before the alarm is not "before".
    low, high = stream.ends or (0.0, 0.0)
    start = alarms[0][0]
    before = [y for x, y in points if x < start - (high - low) / 10] or [y for x, y in points if x < start]
    since = [y for x, y in points if x >= start]
    if not before or not since:
        return None
    return _Dip(median(before), min(since), median(_last_fifth(since)))


def _score_sentences(stream: Stream) -> list[str]:
    dip = _dip(stream)
    if dip is None:
        now = overall_line(stream, "gMean", "G-mean").newest
        return (
            [] if now is None else [f"The newest G-mean, one number for the recall of all classes, is {decimal(now)}."]
        )
    held = f"G-mean, one number for the recall of all classes, was {decimal(dip.before)} before the first alarm"
    if not dip.deep:
        return [f"{held} and has not fallen below {decimal(dip.low)} since."]
    verdict = "has recovered to" if dip.over else "stands now at"
    return [f"{held}, fell to {decimal(dip.low)} and {verdict} {decimal(dip.now)}."]


def _moved(stream: Stream) -> tuple[str, float, float] | None:
    """Return the class whose decayed share moved by the largest factor, with its early and its late share."""
    if len(stream.batches) < 10:  # a fifth of fewer batches is one batch, and one batch is chance
        return None
    moves = []
    for line in share_lines(stream, stream.classes[:20]):
        shares = [y for _, y in _known(line)]
        early, late = (median(part) if part else 0.0 for part in (_first_fifth(shares), _last_fifth(shares)))
        if line.name is not None and early > 0 and late > 0:
            moves.append((max(early / late, late / early), line.name, early, late))
    largest = max(moves, default=(0.0, "", 0.0, 0.0))
    return largest[1:] if largest[0] >= MOVED else None


def _share_sentences(stream: Stream) -> list[str]:
    moved = _moved(stream)
    if moved is None:
        return []
    label, early, late = moved
    return [
        f"The classes' decayed shares moved: {quoted(label)} went from {percent(early)} to {percent(late)} of the rows."
    ]


def _rejected_share(stream: Stream) -> float:
    rejected, rows = sum(stream.rejected.values()), sum(stream.rowsIn.values())
    return rejected / (rejected + rows) if rejected else 0.0


def _rejected_sentences(stream: Stream) -> list[str]:
    rejected = sum(stream.rejected.values())
    if not rejected:
        return []
    reason = next(iter(stream.rejected))
    return [
        f"{_several(round(rejected), 'row')} ({percent(_rejected_share(stream))} of all) "
        f"{'was' if rejected == 1 else 'were'} rejected, most often for {quoted(reason)}."
    ]


def _lagging(stream: Stream) -> tuple[float, float] | None:
    lags = [y for _, y in _known(batch_line(stream, "lagSeconds", "lag"))]
    if len(lags) < 10:
        return None
    early, late = median(_first_fifth(lags)), median(_last_fifth(lags))
    return (early, late) if late > LAG_SECONDS and late > LAGGING * early else None


def _lag_sentences(stream: Stream) -> list[str]:
    lagging = _lagging(stream)
    if lagging is None:
        return []
    return [f"The stream falls behind: its lag has grown from {duration(lagging[0])} to {duration(lagging[1])}."]


def _advice(stream: Stream) -> tuple[str, ...]:
    advice = []
    if stream.alarms():
        start, dip = when(stream, stream.alarms()[0][0]), _dip(stream)
        if dip is not None and dip.over:
            advice.append(
                "The scores have recovered, so the model seems to have followed. Check that it stays so, and keep the "
                "old model for rows of the old kind only if those come back."
            )
        else:
            advice.append(
                f"Train the model anew on rows since {start}, compare it with the present one on the newest rows, and "
                "replace it if it does better. Older rows teach it what no longer holds."
            )
        advice.append(
            "Look upstream before you trust either: a changed source, unit or rule for labels looks just like drift."
        )
    elif stream.warnings():
        advice.append("Wait: a warning that no alarm follows is often chance. Look again if they come more often.")
    elif stream.metrics:
        advice.append("Nothing to do about drift.")
    else:
        advice.append("Give the job predictions to score and a drift monitor: they tell when a model no longer fits.")
    if _moved(stream) is not None:
        advice.append(
            "The balancer follows moving shares by itself. The threshold of a model does not: choose it anew."
        )
    if _rejected_share(stream) >= MANY_REJECTED:
        advice.append("Find out why so many rows are rejected: the dead letters hold each with its reason.")
    if _lagging(stream) is not None:
        advice.append("Give the stream more cores, or smaller batches, before it falls further behind.")
    return tuple(advice)


def _known(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if y is not None and exists(y)]


def _first_fifth(values: Sequence[Any]) -> Sequence[Any]:
    return values[: max(len(values) // 5, 1)]


def _last_fifth(values: Sequence[Any]) -> Sequence[Any]:
    return values[-max(len(values) // 5, 1) :]
