"""The stream's report: a whole, safe page that says what came in, what went out, and whether there was drift."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import test_report
from test_report import HOSTILE, Page

from sparkimb.errors import SparkimbError
from sparkimb.report import render_stream
from sparkimb.report.formats import MISSING, count, decimal, duration
from sparkimb.report.stream import MAX_CLASSES, MAX_EVENTS, MAX_REASONS
from sparkimb.report.stream_plots import MARKS, Axis
from sparkimb.report.stream_series import (
    MAX_GROUPS,
    grouped,
    instant,
    metric_lines,
    read_stream,
    shown_classes,
    summed_lines,
)
from sparkimb.report.stream_summary import summarise_stream, when

START = datetime(2026, 3, 9, 6, 0, tzinfo=timezone.utc)


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_stream(n: int = 120, *, drift: int | None = 70, seed: int = 3) -> dict[str, Any]:
    """A stream of fraud in n batches; from batch `drift` on fraud looks otherwise, and there is more of it."""
    rng = np.random.default_rng(seed)
    batches, metrics, events = [], [], []
    share, recall, precision = 0.016, {"0": 0.985, "1": 0.86}, {"0": 0.997, "1": 0.52}
    for b in range(n):
        rows = int(rng.normal(9_000, 900) * (1.25 + math.sin(b / 9)) / 2)
        drifted = drift is not None and b >= drift
        frauds = int(rng.binomial(rows, 0.045 if drifted else 0.016))
        share += 0.12 * (frauds / rows - share)
        rate = min(share / (1 - share), 1.0)
        kept = int(rng.binomial(rows - frauds, rate))
        event = START + timedelta(minutes=30 * (b + 1), seconds=float(rng.uniform(-90, 0)))
        seconds = float(rng.gamma(9, 0.4)) * rows / 6_000
        batches.append(
            {
                "batchId": b,
                "time": iso(event + timedelta(seconds=9 + seconds)),
                "eventTime": iso(event),
                "rowsIn": {"0": rows - frauds, "1": frauds},
                "rowsOut": {"0": kept, "1": frauds},
                "rejected": {
                    "the label is null": int(rng.poisson(6)),
                    **({"a feature is not finite": int(rng.poisson(25))} if 40 <= b < 48 else {}),
                },
                "waiting": None,
                "rates": {"0": rate, "1": 1.0},
                "shares": {"0": 1 - share, "1": share},
                "seconds": seconds,
                "lagSeconds": 9 + seconds,
            }
        )
        # The old model misses the new fraud; a model that learns on finds it again after some thirty batches.
        lost = 0.55 * math.exp(-(b - drift) / 16) if drifted else 0.0
        goals = {"0": 0.985 - 0.06 * lost, "1": 0.86 - lost}
        for label, goal in goals.items():
            recall[label] += 0.35 * (goal + rng.normal(0, 0.012 if label == "1" else 0.001) - recall[label])
            precision[label] += 0.35 * (
                (0.997 if label == "0" else 0.52 - 0.5 * lost) + rng.normal(0, 0.015 if label == "1" else 0.0005)
                - precision[label]
            )  # fmt: skip
        g = math.sqrt(recall["0"] * recall["1"])
        metrics.append(
            {
                "batchId": b,
                "step": b,
                "rows": rows,
                "time": iso(event),
                "recall": dict(recall),
                "precision": dict(precision),
                "gMean": g,
                "balancedAccuracy": (recall["0"] + recall["1"]) / 2,
                "areaUnderROC": min(0.955 - 0.35 * lost + float(rng.normal(0, 0.004)), 1.0),
                "confusion": [["0", "0", 900.0], ["1", "1", 12.0]],
            }
        )
        for detector, rate_name, value, calm in (
            ("ddmOci", "recall", recall["1"], 0.86),
            ("linearFourRates", "tpr", recall["1"], 0.86),
            ("linearFourRates", "ppv", precision["1"], 0.52),
        ):
            below = calm - value
            if below > 0.07:
                level = "alarm" if below > 0.16 else "warning"
                bound = calm - (0.16 if level == "alarm" else 0.07)
                events.append(
                    {
                        "batchId": b,
                        "step": b,
                        "level": level,
                        "detector": detector,
                        "rate": rate_name,
                        "value": value,
                        "bound": bound,
                        "message": f"{rate_name} is {value:.3f}, below the {level} bound of {bound:.3f}.",
                    }
                )
    return {
        "name": "card-fraud-stream",
        "created": "2026-03-11T19:02:11+00:00",
        "versions": {"sparkimb": "0.1.0", "pyspark": "4.0.1", "python": "3.11.7"},
        "command": "sparkimb stream conf/stream/card_fraud.yaml --output out/card-fraud-stream",
        "config": "name: card-fraud-stream\nbalancer:\n  method: under\n  halfLife: 50000\n",
        "batches": batches,
        "metrics": metrics,
        "events": events,
    }


def make_hostile_stream(results: dict[str, Any]) -> dict[str, Any]:
    """The same stream, with a hostile text wherever it may hold foreign text."""
    bad = copy.deepcopy(results)
    for key in ("name", "created", "command", "config"):
        bad[key] = key + HOSTILE
    bad["versions"] = {HOSTILE: HOSTILE, **dict.fromkeys(bad["versions"], HOSTILE)}
    for row in [*bad["batches"], *bad["metrics"]]:
        for key in ("rowsIn", "rowsOut", "rates", "shares", "rejected", "recall", "precision"):
            if key in row:
                row[key] = {name + HOSTILE: value for name, value in row[key].items()}
    for b in bad["batches"][-3:]:
        b["time"] = HOSTILE
    for e in bad["events"]:
        e |= {key: e[key] + HOSTILE for key in ("detector", "rate", "message")}
        e["level"] = e["level"] if e["level"] == "alarm" else HOSTILE
    return bad


def make_crowd(results: dict[str, Any], classes: int = 45, reasons: int = 30) -> dict[str, Any]:
    """The same stream with many classes and reasons for rejection."""
    many = copy.deepcopy(results)
    draws = random.Random(2)
    for b, m in zip(many["batches"], many["metrics"], strict=True):
        for k in range(2, classes):
            n = draws.randint(0, 3 * k)
            b["rowsIn"][f"class {k}"], b["rowsOut"][f"class {k}"] = n, 2 * n
            b["shares"][f"class {k}"], b["rates"][f"class {k}"] = 0.0002 * k, 2.0
            m["recall"][f"class {k}"] = k / classes
        b["rejected"] |= {f"reason {k}": draws.randint(0, k) for k in range(reasons)}
        b["waiting"] = draws.randint(0, 500)
    return many


def make_sparse(results: dict[str, Any]) -> dict[str, Any]:
    """The same stream as a writer leaves it that leaves out what is null, or writes NaN."""
    sparse = copy.deepcopy(results)
    for i, b in enumerate(sparse["batches"]):
        for key in ("time", "eventTime", "waiting", "seconds", "lagSeconds", "rejected", "shares"):
            b.pop(key)
        if i % 3 == 0:
            b |= {"rowsIn": {}, "rowsOut": None, "rates": {"1": math.nan}}
    for i, m in enumerate(sparse["metrics"]):
        m |= {"areaUnderROC": None, "time": None}
        if i % 2:
            m |= {"gMean": math.nan, "recall": {"0": None, "1": math.nan}, "precision": {}}
    for e in sparse["events"]:
        e |= {"value": None, "bound": math.nan, "message": None}
        del e["step"]
    sparse["events"][0] |= {"detector": None, "rate": None, "level": "alarm"}
    return sparse


def only(results: dict[str, Any], *kept: str) -> dict[str, Any]:
    """The same stream with the other outputs empty."""
    return {**results, **{key: [] for key in ("batches", "metrics", "events") if key not in kept}}


@pytest.fixture(scope="module")
def stream() -> dict[str, Any]:
    return make_stream()


@pytest.fixture(scope="module")
def html(stream: dict[str, Any]) -> str:
    return render_stream(stream)


VARIANTS = {
    "drift": lambda s: s,
    "calm": lambda s: make_stream(40, drift=None),
    "one batch": lambda s: make_stream(1, drift=None),
    "hostile": make_hostile_stream,
    "crowd": make_crowd,
    "sparse": make_sparse,
    "long": lambda s: make_stream(700, drift=500),
    "nothing": only,
    "batches alone": lambda s: only(s, "batches"),
    "metrics alone": lambda s: only(s, "metrics"),
    "events alone": lambda s: only(s, "events"),
    "from JSON": lambda s: json.loads(json.dumps(s)),
}


@pytest.fixture(scope="module", params=VARIANTS)
def page(request: pytest.FixtureRequest, stream: dict[str, Any]) -> Page:
    return Page(render_stream(VARIANTS[request.param](stream)))


class TestEveryStreamPage(test_report.TestEveryPage):
    """What holds for every page holds for this one."""

    def test_it_has_no_script_and_no_undefined_number(self, page: Page) -> None:
        assert page.tags["script"] == 0
        assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
        assert not re.search(r"\bnan\b", page.html)


def test_same_stream_gives_the_same_page_in_any_order(stream: dict[str, Any], html: str) -> None:
    before = json.dumps(stream)
    shuffled = copy.deepcopy(stream)
    for key in ("batches", "metrics", "events"):
        random.Random(5).shuffle(shuffled[key])
    assert render_stream(shuffled) == html
    assert json.dumps(stream) == before


def test_hostile_text_is_shown_as_text_and_never_drawn(stream: dict[str, Any], html: str) -> None:
    hostile = render_stream(make_hostile_stream(stream))
    page = Page(hostile)
    assert page.text.count(HOSTILE[:18]) > 60
    assert any(HOSTILE[:18] in v for _, name, v in page.attributes if name == "aria-label")

    def plots(text: str) -> list[str]:
        return re.findall(r'<svg class="plot".*?</svg>', text, re.DOTALL)

    assert plots(hostile) == plots(html)


def test_numbers_are_those_of_the_stream(stream: dict[str, Any], html: str) -> None:
    page = Page(html)
    exact = {float(v) for tag, name, v in page.attributes if (tag, name) == ("data", "value")}
    for key in ("rowsIn", "rowsOut"):
        by_class = [sum(b[key][label] for b in stream["batches"]) for label in ("0", "1")]
        assert {*by_class, sum(by_class)} <= exact
        assert count(sum(by_class)) in page.text
    assert {float(n) for n in stream["batches"][-1]["rates"].values()} <= exact
    assert sum(n for b in stream["batches"] for n in b["rejected"].values()) in exact
    for b in stream["batches"][-20:]:
        assert {b["lagSeconds"], b["seconds"], float(sum(b["rowsIn"].values()))} <= exact
        assert b["eventTime"][:16].replace("T", " ") in page.text
    for fact in ("sparkimb 0.1.0", "method: under", stream["command"], "card-fraud-stream", "a feature is not finite"):
        assert fact in page.text


def test_everything_that_is_there_has_a_plot(stream: dict[str, Any], html: str) -> None:
    titles = {
        "recall": "Recall of each class",
        "gMean": "All classes together",
        "shares": "Share of each class",
        "rates": "Rate applied",
        "rowsIn": "Rows in, by class",
        "rowsOut": "Rows out, by class",
        "lagSeconds": "Lag",
        "rejected": "Rejected rows, by reason",
        "precision": "Precision of each class",
        "waiting": "Rows waiting for their label",
    }
    shown = re.findall(r"<figure.*?<h3>(.*?)</h3>", html, re.DOTALL)
    assert {key for key, title in titles.items() if not any(t.startswith(title) for t in shown)} == {"waiting"}
    crowd = re.findall(r"<figure.*?<h3>(.*?)</h3>", render_stream(make_crowd(stream)), re.DOTALL)
    assert all(any(t.startswith(title) for t in crowd) for title in titles.values())
    assert '<svg class="plot"' not in render_stream(only(stream))


def test_each_alarm_and_warning_has_its_row(stream: dict[str, Any]) -> None:
    few = {**stream, "events": stream["events"][:MAX_EVENTS]}
    html = render_stream(few)
    rows = [Page(row).text for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if "bound of" in row]
    assert len(rows) == MAX_EVENTS
    for e in few["events"]:
        parts = (f"batch {e['batchId']} (", e["level"], e["detector"], decimal(e["value"]), decimal(e["bound"]))
        assert any(all(part in row for part in (*parts, e["message"])) for row in rows)
    assert "more alarms" not in html
    assert "more warnings" not in html


def test_a_crowd_of_events_keeps_the_alarms_before_the_warnings(stream: dict[str, Any]) -> None:
    event = stream["events"][0]
    alarms, warnings = 40, 500
    levels = ["alarm"] * alarms + ["warning"] * warnings
    events = [{**event, "batchId": i % 120, "step": i, "level": v, "message": f"{v}!"} for i, v in enumerate(levels)]
    text = Page(render_stream({**stream, "events": events})).text
    assert (text.count("alarm!"), text.count("warning!")) == (alarms, MAX_EVENTS - alarms)
    assert f"{warnings - MAX_EVENTS + alarms} more warnings" in text
    more = [{**event, "batchId": i % 120, "step": i, "message": "alarm!", "level": "alarm"} for i in range(200)]
    text = Page(render_stream({**stream, "events": more})).text
    assert text.count("alarm!") == MAX_EVENTS
    assert f"{200 - MAX_EVENTS} more alarms" in text


def test_many_classes_and_reasons_are_cut_and_counted(stream: dict[str, Any]) -> None:
    crowd = make_crowd(stream, classes=45, reasons=30)
    text = Page(render_stream(crowd)).text
    assert f"{45 - MAX_CLASSES} more classes in between" in text
    assert f"{32 - MAX_REASONS} more reasons" in text
    assert "100 more older batches" in text
    read = read_stream(crowd)
    shown = shown_classes(read)
    assert shown == [*read.classes[:3], *read.classes[-3:]]
    lines = summed_lines(read, "rowsIn", shown)
    assert [line.name for line in lines] == [*shown, None]
    for i, b in enumerate(crowd["batches"]):
        assert sum(line.points[i][1] or 0 for line in lines) == sum(b["rowsIn"].values())
    recalls = crowd["metrics"][0]["recall"]
    others = [v for name, v in recalls.items() if name not in shown]
    assert metric_lines(read, "recall", shown)[-1].points[0][1] == pytest.approx(np.mean(others))


def test_groups_keep_the_extremes_and_the_mean() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=5_003)
    y[[17, 4_000]] = 40, -40
    groups = grouped(list(enumerate(y.tolist())))
    assert len(groups) == MAX_GROUPS
    assert (max(g.high for g in groups), min(g.low for g in groups)) == (40, -40)
    assert all(g.low <= g.mean <= g.high for g in groups)
    assert [g.x for g in groups] == sorted(g.x for g in groups)
    for g, part in zip(groups, np.split(y, [i * 5_003 // MAX_GROUPS for i in range(1, MAX_GROUPS)]), strict=True):
        assert g.mean == pytest.approx(part.mean())
        assert (g.low, g.high) == (part.min(), part.max())
    few = list(enumerate(y[: 2 * MAX_GROUPS].tolist()))
    assert [(g.x, g.low, g.mean, g.high) for g in grouped(few)] == [(x, v, v, v) for x, v in few]


def test_a_long_stream_is_a_small_page_that_says_what_it_left_out(html: str) -> None:
    long = render_stream(make_stream(3_000, drift=2_000))
    assert len(long) < 1_000_000
    sentence = f"as {MAX_GROUPS} groups: the line is the mean of a group"
    assert sentence in Page(long).text
    assert "2,980 more older batches" in Page(long).text
    assert sentence not in Page(html).text


def test_marks_of_many_events_are_bounded() -> None:
    axis = Axis.of(read_stream(make_stream(50)))
    marks = axis.spread(x / 1_000 for x in range(49_001))
    assert len(marks) <= MARKS + 1
    assert (round(min(marks)), round(max(marks))) == (0, 49)


@pytest.mark.parametrize("n", [1, 2, 7, 120, 4_999])
def test_ticks_lie_on_the_axis_and_tell_the_time(n: int) -> None:
    axis = Axis.of(read_stream(make_stream(n)))
    places = [at for at, _ in axis.ticks]
    assert 1 <= len(places) <= 8
    assert places == sorted(set(places))
    assert all(axis.low <= at <= axis.high and at == int(at) for at in places)
    for at, text in axis.ticks:
        shown, *time = text.split("\n")
        assert int(shown.replace(",", "")) == at
        event = START + timedelta(minutes=30 * (at + 1), seconds=-90)
        assert time[-1] in {f"{event + timedelta(minutes=m):{form}}" for m in range(3) for form in ("%H:%M", "%m-%d")}
    assert "event time" in axis.label


def test_without_event_times_the_axis_tells_of_writing(stream: dict[str, Any]) -> None:
    batches = [{**b, "eventTime": None} for b in stream["batches"]]
    assert "writing time" in Axis.of(read_stream({**stream, "batches": batches})).label
    assert Axis.of(read_stream(make_sparse(stream))).label == "Batch"
    assert summarise_stream(read_stream({**stream, "batches": batches})).headline.endswith("at batch 70")


def test_the_steps_of_a_batch_fill_the_room_before_it(stream: dict[str, Any]) -> None:
    steps = [{**stream["metrics"][0], "batchId": i // 4, "step": i} for i in range(12)]
    events = [{**stream["events"][0], "batchId": 1, "step": 5}, {**stream["events"][0], "batchId": 2, "step": 99}]
    read = read_stream({**stream, "batches": stream["batches"][:3], "metrics": steps[::-1], "events": events})
    assert [x for x, _ in read.metrics] == [-1 + (i + 1) / 4 for i in range(12)]
    assert [x for x, _ in read.events] == [0.5, 2.0]
    assert [when(read, x).split(" (")[0] for x in (-0.75, 0.0, 0.25, 1.0)] == [
        "batch 0",
        "batch 0",
        "batch 1",
        "batch 1",
    ]


def test_the_summary_says_what_was_balanced_and_when_it_drifted(stream: dict[str, Any]) -> None:
    summary = summarise_stream(read_stream(stream))
    assert summary.headline == "Drift found: 53 alarms, the first at batch 70 (2026-03-10 17:28)"
    rows = summary.paragraphs["Rows"]
    assert rows.startswith("120 batches brought 698,152 labelled rows, with event times from about 2026-03-09 06:29")
    assert "“1”, is 2.7% of the rows that came in and 53.2% of the 34,931 rows that went out" in rows
    assert "“1” went from 1.6% to 4.6% of the rows" in rows
    drift = summary.paragraphs["Drift"]
    assert "“ddmOci” raised its first alarm on the recall of the positive class at 0.657, beyond its bound of" in drift
    assert "53 alarms and 45 warnings" in drift
    assert "was 0.920 before the first alarm, fell to 0.656 and has recovered to 0.896" in drift
    assert "most often for “the label is null”" in summary.paragraphs["Health"]


def with_events(stream: dict[str, Any], *levels: str) -> dict[str, Any]:
    return {**stream, "events": [{**stream["events"][0], "batchId": 30 + i, "level": v} for i, v in enumerate(levels)]}


@pytest.mark.parametrize(
    ("change", "headline", "advice"),
    [
        (lambda s: s, "Drift found: 53 alarms, the first at batch 70", "The scores have recovered"),
        (
            lambda s: {**s, "batches": s["batches"][:80], "metrics": s["metrics"][:80], "events": s["events"][:20]},
            "Drift found: 18 alarms, the first at batch 70",
            "Train the model anew on rows since batch 70",
        ),
        (lambda s: with_events(s, "alarm"), "Drift found: 1 alarm, the first at batch 30", "Look upstream"),
        (lambda s: with_events(s, "warning"), "1 warning of drift, but no alarm", "Wait: a warning"),
        (lambda s: with_events(s, "warning", "unheard of"), "2 warnings of drift, but no alarm", "Wait: a warning"),
        (lambda s: {**s, "events": []}, "No drift found", "Nothing to do about drift."),
        (lambda s: only(s, "batches"), "Balanced, but not watched for drift", "Give the job predictions to score"),
        (lambda s: only(s, "events"), "Drift found: 53 alarms, the first at batch 70", "Train the model anew"),
        (only, "No batch yet", "Wait for the first batch"),
    ],
)
def test_the_headline_and_the_advice_fit_what_was_found(
    stream: dict[str, Any], change: Any, headline: str, advice: str
) -> None:
    changed = change(stream)
    summary = summarise_stream(read_stream(changed))
    assert summary.headline.split(" (")[0] == headline
    assert any(line.startswith(advice) for line in summary.advice)
    text = Page(render_stream(changed)).text
    assert all(part in text for part in (summary.headline, *summary.paragraphs.values(), *summary.advice))


def test_what_is_not_there_is_said(stream: dict[str, Any]) -> None:
    text = Page(render_stream(only(stream))).text
    for sentence in (
        "The stream left nothing behind",
        "Nothing was watched",
        "No predictions were scored",
        "No batch left its status behind",
    ):
        assert sentence in text
    assert "No detector raised" in Page(render_stream(only(stream, "metrics", "batches"))).text
    assert "what came in and went out is not known" in Page(render_stream(only(stream, "metrics"))).text


def test_faults_of_the_stream_are_said_only_when_they_are_there(stream: dict[str, Any]) -> None:
    calm = make_stream(60, drift=None)
    plain = summarise_stream(read_stream(calm))
    assert "Health" in plain.paragraphs
    assert "falls behind" not in plain.paragraphs["Health"]
    assert "moved" not in plain.paragraphs["Rows"]
    assert plain.advice == ("Nothing to do about drift.",)
    bad = copy.deepcopy(calm)
    for i, b in enumerate(bad["batches"]):
        b["lagSeconds"] = 30.0 * (i + 1)
        b["rejected"] = {"the label is null": 900}
    said = summarise_stream(read_stream(bad))
    assert f"its lag has grown from {duration(195)} to {duration(1635)}" in said.paragraphs["Health"]
    assert [line.split(" ")[0] for line in said.advice] == ["Nothing", "Find", "Give"]


@pytest.mark.parametrize(
    ("rows_out", "words"),
    [
        ({"0": 970, "1": 30}, "and as much of the 1,000 rows that went out"),
        ({"0": 30, "1": 30}, "is 3% of the rows that came in and 50.0% of the 60 rows that went out"),
        ({}, "None of them went out."),
    ],
)
def test_balance_is_said_as_it_was(stream: dict[str, Any], rows_out: dict[str, int], words: str) -> None:
    batch = {"batchId": 0, "rowsIn": {"0": 970, "1": 30}, "rowsOut": rows_out}
    assert words in summarise_stream(read_stream({**only(stream), "batches": [batch]})).paragraphs["Rows"]


def test_one_class_alone_is_not_balanced(stream: dict[str, Any]) -> None:
    batch = {"batchId": 0, "rowsIn": {"0": 970}, "rowsOut": {"0": 970}}
    said = summarise_stream(read_stream({**only(stream), "batches": [batch]})).paragraphs["Rows"]
    assert "nothing to balance" in said


def test_times_are_read_in_utc() -> None:
    nine = datetime(2026, 3, 14, 9, 26, tzinfo=timezone.utc)
    for text in ("2026-03-14T09:26:00Z", "2026-03-14T09:26:00", "2026-03-14 10:26:00.000+01:00"):
        assert instant(text) == nine
    assert [instant(text) for text in ("soon", "", None, 7)] == [None] * 4


def test_durations_have_the_unit_that_reads_best() -> None:
    spans = (0, 1.25, 90, 119, 120, 7_200, 19_800, 172_800, -300)
    shown = ["0 s", "1.2 s", "90 s", "119 s", "2 min", "2 h", "5.5 h", "2 days", "\N{MINUS SIGN}5 min"]
    assert [duration(s) for s in spans] == shown
    assert duration(None) == duration(math.nan) == MISSING


def test_missing_keys_are_named_all_at_once() -> None:
    with pytest.raises(SparkimbError, match=r"(?s)'batches', 'metrics', 'events'.*\['name'\].*empty"):
        render_stream({"name": "x"})


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(
    package: str, stream: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*sparkimb\[jobs\]"):
        render_stream(stream)


def test_matplotlib_settings_come_back_and_do_not_matter(stream: dict[str, Any], html: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 40, "lines.linewidth": 9, "timezone": "Asia/Tokyo"}):
        before = dict(matplotlib.rcParams)
        assert render_stream(stream) == html
        assert dict(matplotlib.rcParams) == before


def test_weights_are_not_called_rates(stream: dict[str, Any], html: str) -> None:
    weighed = render_stream({**stream, "method": "weigh"})
    for text, other in (("Weight of each class", "Rate applied to each class"), ("Newest weight", "Newest rate")):
        assert text in weighed
        assert text not in html
        assert other in html
        assert other not in weighed


def test_the_page_says_when_older_batches_are_left_out(stream: dict[str, Any], html: str) -> None:
    cut = Page(render_stream({**stream, "cut": {"batches": 20_000, "events": 7}})).text
    assert "the newest 20,000 batches only" in cut
    assert "the newest 7 warnings and alarms only" in cut
    assert "looks at the newest" not in Page(html).text
