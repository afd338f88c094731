"""Drift of a stream's concept, seen in how well a model's predictions fit: two detectors for imbalanced classes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from pyspark.sql import DataFrame

from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import is_positive
from sparkimb.params import integer, number
from sparkimb.streaming.fading import FadedShare
from sparkimb.streaming.metrics import MetricsLook

Event: TypeAlias = dict[str, Any]

# A bound at significance s is the (s · replicates)-th lowest or highest of the simulated rates; fewer than five of them
# beyond it would leave it to chance.
LEAST_BEYOND = 5
# Rows simulated one by one; more are simulated in so many blocks of rows of one weight.
MOST_SINGLE, BLOCKS = 128, 32
# Rates nearer than this to what is expected, in standard deviations, are no event and need no simulation: the bound at
# the largest significance allowed, 0.05, is at 1.64 where the rate is normal.
NEAR = 1.5
# Rates that differ by rounding only are equal.
ROUNDING = 1e-9

logger = logging.getLogger("sparkimb.streaming")


class Outcomes(NamedTuple):
    """Rows of a step: of the positive class and of the rest, predicted rightly (t) and wrongly (f)."""

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True, kw_only=True)
class DdmOci:
    """DDM-OCI: the decayed recall of the minority class falls below the best that it has been [1]_.

    Sees changes that cost recall of the positive class, and no others.

    Parameters
    ----------
    fading : float in (0, 1), default=0.99
        What is left of the weight of a row of the positive class after one more.  0.9, as in [1]_, is quicker, and
        oftener wrong.
    warnSigma, alarmSigma : float in (0, inf), default=2.0 and 3.0
        Standard deviations below the best at which it warns and alarms.  Looked at after every row, 3.0 makes about one
        false alarm in two thousand rows of the class, 4.0 next to none; larger steps make fewer.
    minRows : int in [1, inf), default=30
        Rows of the positive class since the start or the last alarm without which it is silent.

    Notes
    -----
    [1]_ takes for the best the highest decayed recall so far.  That is lifted by chance alone, the further the longer
    the stream, so the rule alarms again and again where nothing changes [2]_.  Here the best is, as in DDM, that of the
    recall of all rows since the last alarm: the one with the highest p - s, where p = (hits + 1) / (rows + 2) and s its
    standard deviation.  The decayed recall is compared with it by the standard deviation of the difference, to which a
    decayed recall adds that of its rows' weights.

    References
    ----------
    .. [1] Wang, Minku, Ghezzi, Caltabiano, Tino, Yao, "Concept drift detection for online class imbalance learning",
           IJCNN, 2013.
    .. [2] Wang, Abraham, "Concept drift detection for streaming data", IJCNN, 2015.
    """

    name: ClassVar[str] = "ddmOci"

    fading: float = 0.99
    warnSigma: float = 2.0
    alarmSigma: float = 3.0
    minRows: int = 30

    def __post_init__(self) -> None:
        _check_fading("DdmOci", self.fading)
        for name in ("warnSigma", "alarmSigma"):
            number(f"DdmOci.{name}", 0, low_open=True)(getattr(self, name))
        integer("DdmOci.minRows", 1)(self.minRows)
        if self.alarmSigma < self.warnSigma:
            raise SparkimbError(
                f"DdmOci.alarmSigma is {self.alarmSigma:g}, below warnSigma {self.warnSigma:g}. A warning comes first."
            )

    def empty(self) -> dict[str, Any]:
        """Return the state before any row, and after an alarm."""
        return {"share": FadedShare().to_json(), "rows": 0, "hits": 0, "best": None, "warned": False}

    def after(self, state: Mapping[str, Any], step: Outcomes) -> tuple[dict[str, Any], list[Event]]:
        """Return the state after a step, and its events."""
        n = step.tp + step.fn
        if not n:
            return dict(state), []
        share = FadedShare.from_json(state["share"]).after(n, step.tp, self.fading)
        rows, hits = state["rows"] + n, state["hits"] + step.tp
        known = {**state, "share": share.to_json(), "rows": rows, "hits": hits}
        if rows < self.minRows:
            return known, []
        p = (hits + 1) / (rows + 2)
        s = math.sqrt(p * (1.0 - p) / rows)
        if known["best"] is None or p - s > known["best"][0] - known["best"][1]:
            known["best"] = [p, s]
        best, spread = known["best"]
        sigma = math.hypot(spread, math.sqrt(best * (1.0 - best) / share.effective))
        below = {"rate": "recall", "value": share.value, "expected": best}
        if share.value < best - self.alarmSigma * sigma - ROUNDING:
            return self.empty(), [{"level": "alarm", "bound": best - self.alarmSigma * sigma, **below}]
        warned = share.value < best - self.warnSigma * sigma - ROUNDING
        new = warned and not known["warned"]
        events = [{"level": "warning", "bound": best - self.warnSigma * sigma, **below}] if new else []
        return {**known, "warned": warned}, events


@dataclass(frozen=True, kw_only=True)
class LinearFourRates:
    """Linear Four Rates: one of the decayed recalls and precisions of both classes leaves what chance allows [1]_.

    Sees changes of the concept whatever they do to the minority, and of the class shares, which change the precisions;
    also changes for the better.

    Parameters
    ----------
    fading : float in (0, 1), default=0.99
        What is left of a row's weight after one more row of its rate.  In [1]_: 0.9.
    warnSignificance : float in (0, 0.05], default=0.01
        Chance that a rate without drift is below (and as much that it is above) the bounds of a warning.
    alarmSignificance : float in (0, 0.05], default=0.0001
        The same for an alarm.  Rates are looked at after every step.
    minRows : int in [1, inf), default=30
        Rows of a rate since the start or the last alarm without which the rate is passed over.
    replicates : int in [1, inf), default=50_000
        Simulated rates behind each pair of bounds: at least 5 / alarmSignificance.
    seed : int, default=0

    Notes
    -----
    The rates are tpr, tnr, ppv and npv.  A rate is compared with p = (hits + 1) / (rows + 2) of all its rows since the
    last alarm, the newest included.  Its bounds are quantiles of the same weighted sum of Bernoulli draws with
    chance p.  Where the steps are single rows the weights are geometric; a step of many rows gives all of them the same
    weight, so the bounds are of weights with the same number of rows and the same sum of squares.  Bounds are simulated
    for p, rows and sum of squares on a grid (see `rate_bounds`), and kept.  A rate within 1.5 standard deviations of p
    is no event.
    An alarm resets all four rates.

    References
    ----------
    .. [1] Wang, Abraham, "Concept drift detection for streaming data", IJCNN, 2015.
    """

    name: ClassVar[str] = "linearFourRates"

    fading: float = 0.99
    warnSignificance: float = 0.01
    alarmSignificance: float = 0.0001
    minRows: int = 30
    replicates: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fading("LinearFourRates", self.fading)
        for name in ("warnSignificance", "alarmSignificance"):
            number(f"LinearFourRates.{name}", 0, 0.05, low_open=True)(getattr(self, name))
        integer("LinearFourRates.minRows", 1)(self.minRows)
        integer("LinearFourRates.replicates", 1)(self.replicates)
        integer("LinearFourRates.seed", 0)(self.seed)
        if self.alarmSignificance > self.warnSignificance:
            raise SparkimbError(
                f"LinearFourRates.alarmSignificance is {self.alarmSignificance:g}, above warnSignificance "
                f"{self.warnSignificance:g}. A warning comes first."
            )
        least = math.ceil(LEAST_BEYOND / self.alarmSignificance - ROUNDING)
        if self.replicates < least:
            raise SparkimbError(
                f"LinearFourRates.replicates is {self.replicates}, too few for alarmSignificance "
                f"{self.alarmSignificance:g}. Use at least {least}."
            )

    def empty(self) -> dict[str, Any]:
        """Return the state before any row, and after an alarm."""
        return {
            rate: {"share": FadedShare().to_json(), "rows": 0, "hits": 0, "warned": False}
            for rate in ("tpr", "tnr", "ppv", "npv")
        }

    def after(self, state: Mapping[str, Any], step: Outcomes) -> tuple[dict[str, Any], list[Event]]:
        """Return the state after a step, and its events."""
        counts = {
            "tpr": (step.tp + step.fn, step.tp),
            "tnr": (step.tn + step.fp, step.tn),
            "ppv": (step.tp + step.fp, step.tp),
            "npv": (step.tn + step.fn, step.tn),
        }
        known, events = {}, []
        for rate, (n, hits) in counts.items():
            known[rate], found = self._after_rate(state[rate], n, hits)
            events += [{"rate": rate, **event} for event in found]
        alarms = [event for event in events if event["level"] == "alarm"]
        return (self.empty(), alarms) if alarms else (known, events)

    def _after_rate(self, state: Mapping[str, Any], n: int, hits: int) -> tuple[dict[str, Any], list[Event]]:
        if not n:
            return dict(state), []
        share = FadedShare.from_json(state["share"]).after(n, hits, self.fading)
        rows, all_hits = state["rows"] + n, state["hits"] + hits
        known = {**state, "share": share.to_json(), "rows": rows, "hits": all_hits}
        if rows < self.minRows:
            return known, []
        p = (all_hits + 1) / (rows + 2)
        if abs(share.value - p) <= NEAR * math.sqrt(p * (1.0 - p) / share.effective):
            return {**known, "warned": False}, []
        warn, alarm = rate_bounds(
            p,
            rows=rows,
            effective=share.effective,
            significances=(self.warnSignificance, self.alarmSignificance),
            replicates=self.replicates,
            seed=self.seed,
        )
        at = {"value": share.value, "expected": p}
        if (crossed := _crossed(share.value, alarm)) is not None:
            return known, [{"level": "alarm", "bound": crossed, **at}]
        crossed = _crossed(share.value, warn)
        new = crossed is not None and not state["warned"]
        events = [{"level": "warning", "bound": crossed, **at}] if new else []
        return {**known, "warned": crossed is not None}, events


Detector: TypeAlias = DdmOci | LinearFourRates
DETECTORS: dict[str, Callable[[], Detector]] = {kind.name: kind for kind in (DdmOci, LinearFourRates)}


@dataclass(frozen=True, kw_only=True)
class DriftMonitor:
    """Watch the predictions on a stream for drift, by what `StreamingMetrics` counts.

    Parameters
    ----------
    detectors : list of str or detectors, default=("ddmOci", "linearFourRates")
        Each by its name, or as an object with values of its own, such as DdmOci(fading=0.95).
    positiveLabel : str, bool, int or float, default=1
        The minority class.  Of more than two classes it is told from all the others together.
    onEvent : function, optional
        Called with each event by `announce`.  A batch that is run again calls it again, and what it raises is logged.
        On Spark Connect it runs on the server.

    Notes
    -----
    A warning is told once, when a rate enters its range; an alarm resets its detector, which then learns anew what is
    normal.  Each step is looked at as a whole (see `StreamingMetrics.stepSeconds`), so an alarm comes at the end of
    the step at the earliest.
    Cost: no job.  State: a few numbers for each detector.

    Examples
    --------
    >>> monitor = DriftMonitor(detectors=["ddmOci", LinearFourRates(fading=0.999)])
    >>> state, events = monitor.after(monitor.empty(), metrics.look(batch))   # doctest: +SKIP
    """

    detectors: Sequence[str | Detector] = ("ddmOci", "linearFourRates")
    positiveLabel: Any = 1
    onEvent: Callable[[Event], None] | None = None
    _known: dict[str, Detector] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.detectors, str) or not isinstance(self.detectors, Sequence):
            raise TypeError(f"DriftMonitor.detectors must be a list; got {self.detectors!r}.")
        for given in self.detectors:
            if isinstance(given, str) and given not in DETECTORS:
                raise SparkimbError(f"DriftMonitor.detectors has {given!r}. Use: {', '.join(DETECTORS)}.")
            if not isinstance(given, str | DdmOci | LinearFourRates):
                raise TypeError(f"DriftMonitor.detectors has {given!r} of type {type(given).__name__}. Use a detector.")
            detector = DETECTORS[given]() if isinstance(given, str) else given
            if detector.name in self._known:
                raise SparkimbError(f"DriftMonitor.detectors has two of '{detector.name}'. Use one monitor for each.")
            self._known[detector.name] = detector
        if not self._known:
            raise SparkimbError(f"DriftMonitor.detectors is empty. Use: {', '.join(DETECTORS)}.")

    def check(self, dataset: DataFrame, labelCol: str) -> None:
        """Check that the label column of a stream or batch can hold the positive label: no job."""
        is_positive(dataset, labelCol, self.positiveLabel)

    def empty(self) -> dict[str, Any]:
        """Return the state before any row."""
        return {name: detector.empty() for name, detector in self._known.items()}

    def after(self, state: Mapping[str, Any], look: MetricsLook) -> tuple[dict[str, Any], list[Event]]:
        """Return the state after a batch, and its events; no job.

        Parameters
        ----------
        state : dict
            From `empty` or the batch before.  Detectors that it does not know start anew.

        Returns
        -------
        state : dict
            What JSON can hold.
        events : list of dict
            step (from 0, in the batch), level ("warning" or "alarm"), detector, rate, value, bound, message.
        """
        positive = look.text(self.positiveLabel)
        known = {name: state.get(name) or detector.empty() for name, detector in self._known.items()}
        events: list[Event] = []
        for i, step in enumerate(look.steps):
            outcomes = _outcomes(step.cells, positive)
            for name, detector in self._known.items():
                known[name], found = detector.after(known[name], outcomes)
                events += [_event(i, name, positive, event) for event in found]
        return known, events


def announce(
    events: Iterable[Event], batchId: int, onEvent: Callable[[Event], None] | None, *, query: str | None = None
) -> None:
    """Log each event as one line of JSON, as a warning of "sparkimb.streaming", and hand it on.

    Parameters
    ----------
    batchId : int
        Added to the event, as is `query`, the name of the query, if there is one.
    """
    for event in events:
        told = {**({} if query is None else {"query": query}), "batchId": batchId, **event}
        logger.warning("%s", json.dumps(told))
        hand_over(told, onEvent)


def hand_over(told: dict[str, Any], function: Callable[[dict[str, Any]], None] | None) -> None:
    """Call a function of the user's; what it raises is logged, as it would end the query now and at each new start."""
    if function is None:
        return
    try:
        function(told)
    except Exception:
        logger.exception("A function that is told of the stream has failed at %s. The stream goes on.", told)


def rate_bounds(
    share: float, *, rows: int, effective: float, significances: tuple[float, ...], replicates: int, seed: int
) -> list[tuple[float, float]]:
    """Return, for each significance, the lowest and the highest value of a decayed rate that chance allows.

    Parameters
    ----------
    share : float in [0, 1]
        Chance of a hit.
    rows : int
        Number of rows, whose weights are geometric: the same for all where `effective` is `rows`.
    effective : float in [1, rows]
        1 / the sum of the squared weights, where the weights sum up to 1.
    significances : tuple of float
        Chance to be below, and chance to be above.
    replicates : int
        Simulated rates.
    seed : int

    Notes
    -----
    The arguments are moved to a grid: effective down by up to 16 %, rows to the next of 1, 1.5, 2.5 and 4 times that,
    and share by up to a tenth of the rate's standard deviation, away from each bound.
    """
    size = math.floor(4.0 * math.log2(max(effective, 1.0)) + ROUNDING)
    ratio = next((r for r in _RATIOS if rows <= r * effective * (1.0 + ROUNDING)), _RATIOS[-1])
    # On this scale all shares have one standard deviation, 1 / (2 sqrt(effective)).
    cells = _cells(size)
    place = math.asin(math.sqrt(share)) / (math.pi / 2.0) * cells
    below, above = max(math.floor(place), 0), min(math.ceil(place), cells)
    lower, upper = (_simulated_bounds(at, size, ratio, significances, replicates, seed) for at in (below, above))
    return [(low, high) for (low, _), (_, high) in zip(lower, upper, strict=True)]


# Rows for each effective row.  From four on the oldest rows weigh e^-8 of the newest, as good as nothing.
_RATIOS = (1.0, 1.5, 2.5, 4.0)


def _cells(size: int) -> int:
    return math.ceil(math.pi / 2.0 * 20.0 * math.sqrt(2.0 ** (size / 4.0)))


# 4,096 pairs of bounds are a megabyte.
@lru_cache(maxsize=4_096)
def _simulated_bounds(
    place: int, size: int, ratio: float, significances: tuple[float, ...], replicates: int, seed: int
) -> tuple[tuple[float, float], ...]:
    share = math.sin(place / _cells(size) * math.pi / 2.0) ** 2
    decay, blocks, m = _geometric(2.0 ** (size / 4.0), ratio)
    random = np.random.default_rng([seed, place, size, _RATIOS.index(ratio)])
    rates, weight = np.zeros(replicates), 0.0
    for _ in range(blocks):  # as the stream has it: each block multiplies the weights of those before it
        hits = random.random(replicates, dtype=np.float32) < share if m == 1 else random.binomial(m, share, replicates)
        rates = decay * rates + hits
        weight = decay * weight + m
    rates = np.sort(rates) / weight
    beyond = [math.floor(s * replicates + ROUNDING) for s in significances]
    return tuple((float(rates[k]), float(rates[-1 - k])) for k in beyond)


def _geometric(effective: float, ratio: float) -> tuple[float, int, int]:
    """Return what a block of rows weighs for 1 of the next one, the number of blocks, and the rows of a block."""
    rows = max(round(effective * ratio), 1)
    blocks = rows if rows <= MOST_SINGLE else BLOCKS
    m = round(rows / blocks)

    def effective_with(decay: float) -> float:
        weights = decay ** np.arange(blocks)
        return float(m * weights.sum() ** 2 / np.square(weights).sum())

    low, high = 0.0, 1.0
    for _ in range(60):  # bisection, to the last bit
        middle = (low + high) / 2.0
        low, high = (low, middle) if effective_with(middle) > effective else (middle, high)
    return high, blocks, m


def _crossed(value: float, bounds: tuple[float, float]) -> float | None:
    """Return the bound that a value is beyond, or None."""
    low, high = bounds
    if value < low - ROUNDING:
        return low
    return high if value > high + ROUNDING else None


def _outcomes(cells: Mapping[tuple[str, str], int], positive: str) -> Outcomes:
    """Return the rows of a step, the positive label against the rest."""
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for (label, prediction), n in cells.items():
        counts[label == positive, prediction == positive] += n
    return Outcomes(counts[True, True], counts[False, True], counts[True, False], counts[False, False])


_RATES = {
    "recall": "recall of class '{}'",
    "tpr": "recall of class '{}'",
    "tnr": "recall of the classes other than '{}'",
    "ppv": "precision of class '{}'",
    "npv": "precision of the classes other than '{}'",
}


def _event(step: int, detector: str, positive: str, found: Event) -> Event:
    value, bound, expected = found["value"], found["bound"], found["expected"]
    rate = _RATES[found["rate"]].format(positive)
    way = "fallen" if value < expected else "risen"
    message = (
        f"The {rate} has {way} to {value:.3g}, beyond {bound:.3g}, which is the bound of "
        f"{'a warning' if found['level'] == 'warning' else 'an alarm'} where {expected:.3g} is expected."
    )
    return {
        "step": step,
        "level": found["level"],
        "detector": detector,
        "rate": found["rate"],
        "value": value,
        "bound": bound,
        "message": message,
    }


def _check_fading(name: str, fading: float) -> None:
    number(f"{name}.fading", 0, 1, low_open=True)(fading)
    if fading == 1.0:
        raise SparkimbError(f"{name}.fading is 1.0, which never forgets, so no drift would show. Use less: 0.99.")
