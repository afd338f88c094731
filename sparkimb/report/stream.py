"""`render_stream`: what a balanced stream left behind as one HTML page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparkimb.errors import SparkimbError
from sparkimb.report import formats
from sparkimb.report import stream_series as series
from sparkimb.report.environment import markup, new_environment
from sparkimb.report.stream_plots import Axis, Kind, over_batches
from sparkimb.report.stream_series import Line, Row, Stream, both_ends, read_stream
from sparkimb.report.stream_summary import RATES, share_of, summarise_stream, when

if TYPE_CHECKING:
    from jinja2 import Template

REQUIRED = ("name", "created", "versions", "command", "config", "batches", "metrics", "events")

# Rows of the tables.  The outputs of the stream hold all; a page is for reading.
MAX_CLASSES, MAX_SIGNALS, MAX_EVENTS, MAX_REASONS, MAX_BATCHES = 20, 12, 60, 12, 20


class Panel(NamedTuple):
    """A plot with what stands around it."""

    title: str
    caption: str
    lines: list[Line]
    svg: str


class Signal(NamedTuple):
    """The events of one detector on one rate; places are in [0, 100] of the axis."""

    detector: str
    rate: str
    alarms: int
    warnings: int
    first: str
    last: str
    alarm_places: list[float]
    warning_places: list[float]


def render_stream(results: Mapping[str, Any]) -> str:
    """Return the report of a balanced stream, over time, as one HTML page.

    The page says in words what came in, what went out, whether drift was found and what to do, then shows it: class
    shares, rates applied, rows, scores, lag and rejected rows by batch, the detectors' alarms and warnings above them.
    It needs no network, no script and no other file; every text from the results is escaped.  The same results give
    the same page, byte for byte, under one version of matplotlib, whatever the order of batches, metrics and events.
    Runs no Spark job.

    Parameters
    ----------
    results : mapping
        Plain values, as JSON holds them:

        "name", "created", "command", "config" : str
            What was run, when (ISO), by which command, with which YAML text.
        "method" : str, optional
            That of the balancer.  With "weigh" rates are weights, and the page calls them so.
        "cut" : dict of str to int, optional
            Rows given of "batches", "metrics" and "events", of those that older rows were left out of.
        "versions" : dict of str
            Version by tool.
        "batches" : list of dict
            The status of each batch.  "batchId" (int) is needed.  Optional, or null: "time" and "eventTime" (ISO; when
            it was written, its newest event; without an offset UTC), "rowsIn", "rowsOut", "rates", "shares" (number
            by label), "rejected" (rows by reason), "waiting" (rows), "seconds", "lagSeconds".  A label or reason that
            is not there had no row.
        "metrics" : list of dict
            The scores of predictions: "batchId", and optional or null "step" (int), "rows", "recall" and "precision"
            (number by label), "gMean", "balancedAccuracy", "areaUnderROC".  The steps of one batch are spread evenly
            between its place and the one before.  Empty where no predictions are scored.
        "events" : list of dict
            What drift detectors raised: "batchId", and optional or null "step", "level" ("alarm"; any other is a
            warning), "detector", "rate", "value", "bound", "message".

    Returns
    -------
    str
        An HTML document, to be written as UTF-8.

    Raises
    ------
    SparkimbError
        If keys are missing.
    ImportError
        If jinja2 or matplotlib is missing; the message names the extra that brings them.

    Notes
    -----
    Bounds: of more than 300 batches a plot shows lowest, mean and highest in 150 groups, and the page says so.
            Of more than seven classes the three most common and the three rarest have lines, the others one together.
            Tables show both ends, or the alarms before the warnings, and say how many more there are.  Thousands of
            batches make a page of less than a megabyte.
    Empty:  without batches the page shows the scores and events alone, without metrics and events what was balanced,
            and that nothing watched it; without all three it says that no batch was there yet.
    """
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise SparkimbError(
            f"The results lack the keys {missing}. Found are {sorted(results)}. "
            "Pass lists, empty where the stream has no such output, for 'batches', 'metrics' and 'events'."
        )
    template = _template()
    stream = read_stream(results)
    axis = Axis.of(stream)
    events, hidden_alarms, hidden_warnings = _shown_events(stream)
    signals = _signals(stream, axis)
    classes = both_ends(stream.classes, MAX_CLASSES)
    longest = max(len(stream.batches), len(stream.metrics))
    weighed = results.get("method") == "weigh"
    page = template.render(
        r=results,
        stream=stream,
        summary=summarise_stream(stream),
        axis=axis,
        when=when,
        panels=_panels(stream, axis, weighed),
        weighed=weighed,
        cut=results.get("cut", {}),
        legend_classes=_legend(series.shown_classes(stream), stream.classes),
        legend_reasons=_legend(series.shown_reasons(stream), list(stream.rejected)),
        classes=classes,
        hidden_classes=max(len(stream.classes) - MAX_CLASSES, 0),
        newest={line.name: line.newest for line in series.rate_lines(stream, classes)},
        signals=signals[:MAX_SIGNALS],
        hidden_signals=max(len(signals) - MAX_SIGNALS, 0),
        events=events,
        hidden_alarms=hidden_alarms,
        hidden_warnings=hidden_warnings,
        reasons=list(stream.rejected.items())[:MAX_REASONS],
        hidden_reasons=max(len(stream.rejected) - MAX_REASONS, 0),
        batches=stream.batches[-MAX_BATCHES:],
        hidden_batches=max(len(stream.batches) - MAX_BATCHES, 0),
        groups=series.MAX_GROUPS if longest > 2 * series.MAX_GROUPS else None,
    )
    return page.lstrip()


def _legend(shown: Sequence[str], names: Sequence[str]) -> list[str | None]:
    return [*shown, *([None] if len(names) > len(shown) else [])]


def _panels(stream: Stream, axis: Axis, weighed: bool) -> dict[str, Panel]:
    classes, reasons = series.shown_classes(stream), series.shown_reasons(stream)
    others = "; the others together" if len(classes) < len(stream.classes) else ""
    mean = "; of the others the mean" if others else ""
    rates = (
        ("Weight of each class", f"What a row of the class counts for in training{mean}.")
        if weighed
        else (
            "Rate applied to each class",
            f"Rows that go out for each row that comes in: below 1 rows are dropped, above 1 rows are added{mean}.",
        )
    )
    overall = [
        series.overall_line(stream, key, name)
        for key, name in (
            ("gMean", "G-mean"),
            ("balancedAccuracy", "Balanced accuracy"),
            ("areaUnderROC", "Area under ROC"),
        )
    ]
    alarms, warnings = ([x for x, _ in found] for found in (stream.alarms(), stream.warnings()))
    one = series.batch_line
    plans: tuple[tuple[str, Kind, str, str, list[Line]], ...] = (
        ("recall", "unit", "Recall of each class", f"Of the rows of a class, the share that the model finds{mean}.",
         series.metric_lines(stream, "recall", classes)),
        ("precision", "unit", "Precision of each class",
         f"Of the rows that the model says are of a class, the share that are{mean}.",
         series.metric_lines(stream, "precision", classes)),
        ("overall", "unit", "All classes together",
         "G-mean falls to 0 when one class is no longer found; plain accuracy would not notice.", overall),
        ("scored", "rows", "Rows scored", "Predictions whose label came, in each step.",
         [series.overall_line(stream, "rows", "Rows scored")]),
        ("shares", "share", "Share of each class among the rows that came in",
         f"Decayed: old rows count less and less{others}.", series.share_lines(stream, classes)),
        ("rates", "rate", *rates, series.rate_lines(stream, classes)),
        ("rowsIn", "rows", "Rows in, by class", f"Labelled rows of each batch{others}.",
         series.summed_lines(stream, "rowsIn", classes)),
        ("rowsOut", "rows", "Rows out, by class", f"Rows of each batch after balancing{others}.",
         series.summed_lines(stream, "rowsOut", classes)),
        ("lag", "duration", "Lag", "How long after its newest event a batch was written.",
         [one(stream, "lagSeconds", "Lag")]),
        ("seconds", "duration", "Time to work on a batch", "Where it exceeds the time between batches, lag grows.",
         [one(stream, "seconds", "Seconds")]),
        ("waiting", "rows", "Rows waiting for their label", "Unlabelled rows held back.",
         [one(stream, "waiting", "Waiting")]),
        ("rejected", "rows", "Rejected rows, by reason", "Rows of each batch that could not be used.",
         series.summed_lines(stream, "rejected", reasons) if reasons else []),
    )  # fmt: skip
    # Plots hold fixed text and numbers only: nothing in them is from the data, so that they need no escaping.
    return {
        key: Panel(
            title, caption, lines,
            markup(over_batches(f"stream-{key}", lines, kind, axis, alarms=alarms, warnings=warnings)),
        )
        for key, kind, title, caption, lines in plans
        if any(line.newest is not None for line in lines)
    }  # fmt: skip


def _signals(stream: Stream, axis: Axis) -> list[Signal]:
    """Return the events by detector and rate: those with the most alarms first."""
    found: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for x, event in stream.events:
        detector, rate = (str(event.get(key) or formats.MISSING) for key in ("detector", "rate"))
        found.setdefault((detector, rate), []).append((x, event))
    signals = []
    for (detector, rate), events in found.items():
        alarms, warnings = ([x for x, e in events if (e.get("level") == "alarm") is alarm] for alarm in (True, False))
        signals.append(
            Signal(
                detector,
                rate,
                len(alarms),
                len(warnings),
                when(stream, events[0][0]),
                when(stream, events[-1][0]),
                *([round(100 * axis.share(x), 2) for x in axis.spread(places)] for places in (alarms, warnings)),
            )
        )
    return sorted(signals, key=lambda s: (-s.alarms, -s.warnings, s.detector, s.rate))


def _shown_events(stream: Stream) -> tuple[list[tuple[float, Row]], int, int]:
    """Return the events of the table, and how many alarms and warnings are left out: warnings before alarms."""
    alarms, warnings = stream.alarms(), stream.warnings()
    kept = both_ends(alarms, MAX_EVENTS)
    kept += both_ends(warnings, MAX_EVENTS - len(kept))
    left_out = Counter(alarm=len(alarms), warning=len(warnings))
    left_out.subtract("alarm" if e.get("level") == "alarm" else "warning" for _, e in kept)
    return sorted(kept, key=lambda item: item[0]), left_out["alarm"], left_out["warning"]


def _template() -> Template:
    environment = new_environment()
    environment.globals |= {
        "rate_meanings": RATES,
        "share_of": share_of,
        "total": lambda rows: math.fsum(rows.values()),
        "when_text": lambda text: series.clock(found) if (found := series.instant(text)) else "",
    }
    return environment.get_template("stream.html.j2")
