"""The detectors equal loops over single rows, keep to their chance of false alarms, and see what they should."""

from __future__ import annotations

import json
import logging
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sparkimb.errors import SparkimbError
from sparkimb.streaming.drift import (
    DdmOci,
    Detector,
    DriftMonitor,
    LinearFourRates,
    Outcomes,
    announce,
    rate_bounds,
)
from sparkimb.streaming.metrics import MetricsLook, StepCounts

Pair = tuple[bool, bool]

# Few replicates and a wide alarm: the agreement with the loop does not depend on them.
QUICK = LinearFourRates(fading=0.9, warnSignificance=0.05, alarmSignificance=0.005, replicates=1_000)
FOUR = LinearFourRates(alarmSignificance=0.0005, replicates=10_000)


def stream(rows: int, seed: int, *, share: float = 0.1, recall: float = 0.9, specificity: float = 0.9) -> list[Pair]:
    """Return (label, prediction) of rows, whether positive."""
    random = np.random.default_rng(seed)
    positive = random.random(rows) < share
    right = random.random(rows) < np.where(positive, recall, specificity)
    return list(zip(positive.tolist(), (positive == right).tolist(), strict=True))


def outcomes(rows: list[Pair]) -> Outcomes:
    counts = Counter(rows)
    return Outcomes(counts[True, True], counts[False, True], counts[True, False], counts[False, False])


def look_of(*steps: list[Pair]) -> MetricsLook:
    text = {True: "1", False: "0"}
    cells = ({(text[a], text[b]): n for (a, b), n in sorted(Counter(rows).items())} for rows in steps)
    return MetricsLook("integer", tuple(map(StepCounts, cells)))


def events_of(detector: Detector, rows: list[Pair], step: int = 1) -> list[tuple[int, str, str]]:
    """Return (last row of the step, level, rate) of the events."""
    state, events = detector.empty(), []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        state, found = detector.after(state, outcomes(part))
        events += [(start + len(part) - 1, event["level"], event["rate"]) for event in found]
    return events


def alarms_of(detector: Detector, rows: list[Pair], step: int = 1) -> list[tuple[int, str]]:
    return [(row, rate) for row, level, rate in events_of(detector, rows, step) if level == "alarm"]


# --- against loops over rows ---


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.8, 0.95]), st.sampled_from([0.5, 0.7]))
def test_steps_of_one_row_are_the_loops(seed: int, fading: float, later: float) -> None:
    rows = stream(400, seed, share=0.4) + stream(400, seed + 1, share=0.4, recall=later)
    assert events_of(DdmOci(fading=fading), rows) == reference.ddm_oci(rows, fading=fading)
    assert events_of(QUICK, rows) == reference.linear_four_rates(
        rows, fading=0.9, warn=0.05, alarm=0.005, replicates=1_000
    )


def test_the_values_of_a_step_are_those_of_the_loop() -> None:
    rows = stream(200, 1, share=0.5)
    state, loop = DdmOci(fading=0.9).empty(), reference.Decayed(0.9)
    for row in rows:
        state, _ = DdmOci(fading=0.9).after(state, outcomes([row]))
        if row[0]:
            loop.see(row[1])
    hits, weight, squares = state["share"]
    assert hits / weight == pytest.approx(loop.value, rel=1e-12)
    assert weight**2 / squares == pytest.approx(loop.effective, rel=1e-12)


# --- bounds ---


@pytest.mark.parametrize(("p", "n"), [(0.5, 32), (0.9, 64), (0.97, 128), (0.9, 4096)])
def test_bounds_of_equal_weights_are_quantiles_of_the_binomial(p: float, n: int) -> None:
    significance, replicates = 0.01, 20_000
    ((low, high),) = rate_bounds(p, rows=n, effective=n, significances=(significance,), replicates=replicates, seed=1)
    # As wide as wanted, and no wider than the grid and the simulation explain.
    assert binom.cdf(round(low * n) - 1, n, p) < significance + 5 * math.sqrt(significance / replicates)
    assert binom.sf(round(high * n), n, p) < significance + 5 * math.sqrt(significance / replicates)
    sd = math.sqrt(p * (1 - p) / n)
    assert low > binom.ppf(significance, n, p) / n - 0.3 * sd - 1 / n
    assert high < binom.isf(significance, n, p) / n + 0.3 * sd + 1 / n


@pytest.mark.parametrize(("p", "fading"), [(0.8, 0.9), (0.95, 0.97), (0.6, 0.99)])
def test_bounds_of_geometric_weights(p: float, fading: float) -> None:
    weights = fading ** np.arange(int(12 / (1 - fading)))
    weights /= weights.sum()
    effective = 1 / np.square(weights).sum()
    draws = np.sort((np.random.default_rng(0).random((20_000, len(weights))) < p) @ weights)
    bounds = rate_bounds(p, rows=10_000, effective=effective, significances=(0.05, 0.005), replicates=20_000, seed=1)
    for significance, (low, high) in zip((0.05, 0.005), bounds, strict=True):
        below, above = np.mean(draws < low - 1e-9), np.mean(draws > high + 1e-9)
        assert 0.3 * significance < below < 1.3 * significance  # the grid widens the bounds, by up to a fifth
        assert above < 1.3 * significance


def test_bounds_are_a_function_of_the_arguments() -> None:
    given: dict[str, Any] = {"rows": 90, "effective": 19.0, "significances": (0.01,), "replicates": 2_000}
    first = rate_bounds(0.8, **given, seed=0)
    rate_bounds.__globals__["_simulated_bounds"].cache_clear()
    assert rate_bounds(0.8, **given, seed=0) == first
    assert rate_bounds(0.8, **given, seed=7) != first


# --- what they see ---


@pytest.mark.parametrize("step", [1, 100])
@pytest.mark.parametrize("detector", [DdmOci(), FOUR], ids=lambda d: d.name)
def test_false_alarms_are_few(detector: Detector, step: int) -> None:
    alarms = [alarms_of(detector, stream(5_000, seed), step) for seed in range(8)]
    assert sum(map(len, alarms)) <= 8  # in 40,000 rows, 4,000 of them of the minority


def test_the_published_rule_alarms_where_nothing_changes() -> None:
    """Why DdmOci takes the best of all rows and not the highest decayed recall."""
    streams = [stream(5_000, seed) for seed in range(8)]
    published = sum(len(reference.published_ddm_oci(rows)) for rows in streams)
    assert published > 80
    assert sum(len(alarms_of(DdmOci(fading=0.9), rows)) for rows in streams) < published / 5


@pytest.mark.parametrize("step", [1, 50, 1000])
@pytest.mark.parametrize("detector", [DdmOci(), FOUR], ids=lambda d: d.name)
def test_a_loss_of_recall_is_seen_once(detector: Detector, step: int) -> None:
    for seed in range(3):
        rows = stream(4_000, seed) + stream(4_000, seed + 9, recall=0.5)
        alarms = [row for row, _ in alarms_of(detector, rows, step)]
        assert [row for row in alarms if 4_000 <= row < 5_000 + step]
        assert len(alarms) <= 3  # after the first, what came after the change is normal


def test_only_the_four_rates_see_another_class_share() -> None:
    rows = stream(6_000, 1) + stream(6_000, 2, share=0.4)
    assert alarms_of(DdmOci(), rows, 50) == []
    row, rate = alarms_of(FOUR, rows, 50)[0]
    assert 6_000 <= row < 7_000
    assert rate in ("ppv", "npv")


def test_a_warning_is_told_once_and_comes_before_the_alarm() -> None:
    rows = stream(4_000, 5, share=0.5) + stream(400, 6, share=0.5, recall=0.7)
    events = [event for event in events_of(DdmOci(), rows) if event[0] >= 4_000]
    assert [level for _, level, _ in events[:2]] == ["warning", "alarm"]


def test_silent_before_enough_rows() -> None:
    rows = stream(40, 0, share=1.0, recall=1.0) + stream(40, 0, share=1.0, recall=0.0)
    assert events_of(DdmOci(minRows=200), rows) == []
    assert events_of(LinearFourRates(minRows=200), rows) == []
    assert events_of(DdmOci(minRows=30), rows) != []


def test_a_step_without_rows_of_the_class_changes_nothing() -> None:
    state, _ = DdmOci().after(DdmOci().empty(), outcomes(stream(100, 0, share=0.5)))
    assert DdmOci().after(state, Outcomes(0, 3, 0, 7)) == (state, [])
    state, _ = LinearFourRates().after(LinearFourRates().empty(), Outcomes(5, 5, 5, 5))
    assert LinearFourRates().after(state, Outcomes(0, 0, 0, 0)) == (state, [])


# --- the monitor ---


def test_events_of_the_monitor() -> None:
    before, after = stream(3_000, 0, share=0.3), stream(3_000, 1, share=0.3, recall=0.4)
    monitor = DriftMonitor(detectors=["ddmOci", FOUR])
    state, events = monitor.after(monitor.empty(), look_of(before))
    assert events == []
    state, events = monitor.after(state, look_of(*(after[i : i + 500] for i in range(0, 3_000, 500))))
    first = next(event for event in events if event["detector"] == "ddmOci")
    assert list(first) == ["step", "level", "detector", "rate", "value", "bound", "message"]
    assert (first["step"], first["level"], first["rate"]) == (0, "alarm", "recall")
    assert first["value"] < first["bound"]
    assert first["message"].startswith("The recall of class '1' has fallen to 0.")
    assert {event["detector"] for event in events} == {"ddmOci", "linearFourRates"}


def test_state_survives_json_and_steps_are_batches() -> None:
    rows = stream(2_000, 0, share=0.3) + stream(2_000, 1, share=0.3, recall=0.4)
    steps = [rows[i : i + 250] for i in range(0, 4_000, 250)]
    monitor = DriftMonitor(detectors=["ddmOci", FOUR])
    together, events = monitor.after(monitor.empty(), look_of(*steps))
    state: dict[str, Any] = {}
    apart = []
    for i, step in enumerate(steps):
        state, found = monitor.after(json.loads(json.dumps(state, sort_keys=True)), look_of(step))
        apart += [{**event, "step": i} for event in found]
    assert apart == events
    assert json.dumps(state, sort_keys=True) == json.dumps(together, sort_keys=True)
    assert events


def test_one_class_against_the_rest() -> None:
    cells = {("a", "a"): 5, ("a", "b"): 3, ("b", "c"): 2, ("c", "a"): 4, ("c", "c"): 1}
    look = MetricsLook("string", (StepCounts(cells),))
    monitor = DriftMonitor(positiveLabel="a", detectors=["ddmOci"])
    state, _ = monitor.after(monitor.empty(), look)
    assert state == {"ddmOci": DdmOci().after(DdmOci().empty(), Outcomes(tp=5, fp=4, fn=3, tn=3))[0]}


def test_a_positive_label_of_another_type() -> None:
    monitor = DriftMonitor()
    for kind, text in (("integer", "1"), ("number", "1.0"), ("boolean", "True")):
        state, _ = monitor.after({}, MetricsLook(kind, (StepCounts({(text, text): 8}),)))
        assert state["ddmOci"]["hits"] == 8
    with pytest.raises(SparkimbError, match="positiveLabel is 1, but the labels are of type string"):
        monitor.after({}, MetricsLook("string", (StepCounts({("1", "1"): 8}),)))
    with pytest.raises(SparkimbError, match="positiveLabel is 3, but the labels are of type boolean"):
        DriftMonitor(positiveLabel=3).after({}, MetricsLook("boolean"))


def test_announce(caplog: pytest.LogCaptureFixture) -> None:
    event = {"step": 0, "level": "alarm", "detector": "ddmOci", "rate": "recall", "value": 0.5, "bound": 0.7}
    told: list[Any] = []
    with caplog.at_level(logging.WARNING, logger="sparkimb.streaming"):
        announce([event, event], 7, told.append)
        announce([], 8, None)
    assert told == [{"batchId": 7, **event}] * 2
    assert [json.loads(record.getMessage()) for record in caplog.records] == told


def test_pickle() -> None:
    monitor = DriftMonitor(detectors=[DdmOci(fading=0.9), FOUR], positiveLabel=True, onEvent=print)
    copy = pickle.loads(pickle.dumps(monitor))
    assert copy == monitor
    look = look_of(stream(500, 0))
    assert copy.after(copy.empty(), look) == monitor.after(monitor.empty(), look)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: DdmOci(fading=1.0), r"DdmOci\.fading is 1\.0, which never forgets"),
        (lambda: DdmOci(alarmSigma=1.0), r"DdmOci\.alarmSigma is 1, below warnSigma 2"),
        (lambda: DdmOci(minRows=0), r"DdmOci\.minRows is 0"),
        (lambda: LinearFourRates(fading=0.0), r"LinearFourRates\.fading is 0\.0"),
        (lambda: LinearFourRates(warnSignificance=0.2), r"warnSignificance is 0\.2\. It must be in \(0, 0\.05\]"),
        (lambda: LinearFourRates(alarmSignificance=0.02), r"alarmSignificance is 0\.02, above warnSignificance 0\.01"),
        (lambda: LinearFourRates(replicates=10_000), r"replicates is 10000, too few.*Use at least 50000"),
        (lambda: DriftMonitor(detectors=[]), r"DriftMonitor\.detectors is empty"),
        (lambda: DriftMonitor(detectors=["ddm"]), r"DriftMonitor\.detectors has 'ddm'\. Use: ddmOci, linearFourRates"),
        (lambda: DriftMonitor(detectors=["ddmOci", DdmOci()]), r"detectors has two of 'ddmOci'"),
    ],
)
def test_values_out_of_range(made: Any, message: str) -> None:
    with pytest.raises(SparkimbError, match=message):
        made()


@pytest.mark.parametrize("detectors", ["ddmOci", [3], None])
def test_detectors_of_a_wrong_type(detectors: Any) -> None:
    with pytest.raises(TypeError, match=r"DriftMonitor\.detectors"):
        DriftMonitor(detectors=detectors)


def test_what_a_function_raises_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    def fail(event: dict[str, Any]) -> None:
        told.append(event)
        raise OSError("no network")

    announce([{"level": "alarm"}, {"level": "warning"}], 7, fail, query="cards")
    assert told == [{"query": "cards", "batchId": 7, "level": level} for level in ("alarm", "warning")]
    failures = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info[1]) for record in failures if record.exc_info] == ["no network"] * 2
