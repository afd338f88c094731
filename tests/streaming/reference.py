"""Prequential metrics and drift detectors as their papers have them: one process, one row after another."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from sparkimb.streaming.drift import rate_bounds


class Metrics:
    """Decayed recall and precision of each class, the decayed confusion matrix and the newest scores."""

    def __init__(self, fading: float, window: int = 1000) -> None:
        self.fading = fading
        self.recalls: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.precisions: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.confusion: dict[tuple[Any, Any], float] = defaultdict(float)
        self.newest: deque[tuple[float, bool]] = deque(maxlen=window)

    def see(self, label: Any, prediction: Any) -> None:
        for sums in (self.recalls[label], self.precisions[prediction]):
            sums[0] = self.fading * sums[0] + (label == prediction)
            sums[1] = self.fading * sums[1] + 1.0
        for pair in self.confusion:
            self.confusion[pair] *= self.fading
        self.confusion[label, prediction] += 1.0

    @property
    def recall(self) -> dict[Any, float]:
        return {label: hits / rows for label, (hits, rows) in self.recalls.items()}

    @property
    def precision(self) -> dict[Any, float]:
        return {label: hits / rows for label, (hits, rows) in self.precisions.items()}


class Decayed:
    """A decayed share, with the weights of its rows one by one."""

    def __init__(self, fading: float) -> None:
        self.fading, self.weights, self.rows, self.sum, self.hits = fading, [], 0, 0.0, 0

    def see(self, hit: bool) -> None:
        self.weights = [w * self.fading for w in self.weights if w > 1e-9] + [1.0]
        self.sum = self.fading * self.sum + hit
        self.rows += 1
        self.hits += hit

    @property
    def value(self) -> float:
        return self.sum / math.fsum(self.weights)

    @property
    def effective(self) -> float:
        return math.fsum(self.weights) ** 2 / math.fsum(w * w for w in self.weights)


def ddm_oci(
    rows: Iterable[tuple[bool, bool]], *, fading: float, minRows: int = 30, warn: float = 2.0, alarm: float = 3.0
) -> list[tuple[int, str, str]]:
    """Return (row, level, rate) of the events in rows of (label, prediction), whether positive."""
    events: list[tuple[int, str, str]] = []
    recall, best, warned = Decayed(fading), None, False
    for i, (label, prediction) in enumerate(rows):
        if not label:
            continue
        recall.see(prediction)
        if recall.rows < minRows:
            continue
        p = (recall.hits + 1) / (recall.rows + 2)
        s = math.sqrt(p * (1 - p) / recall.rows)
        best = (p, s) if best is None else max(best, (p, s), key=lambda at: at[0] - at[1])
        sigma = math.sqrt(best[1] ** 2 + best[0] * (1 - best[0]) / recall.effective)
        if recall.value < best[0] - alarm * sigma - 1e-9:
            events.append((i, "alarm", "recall"))
            recall, best, warned = Decayed(fading), None, False
            continue
        before, warned = warned, recall.value < best[0] - warn * sigma - 1e-9
        if warned and not before:
            events.append((i, "warning", "recall"))
    return events


def published_ddm_oci(rows: Iterable[tuple[bool, bool]], *, fading: float = 0.9, minRows: int = 30) -> list[int]:
    """Return the rows of the alarms of DDM-OCI as published: the best is the best decayed recall there has been."""
    alarms = []
    r, n, best = 0.0, 0, (0.0, 0.0)
    for i, (label, prediction) in enumerate(rows):
        if not label:
            continue
        r, n = fading * r + (1 - fading) * prediction, n + 1
        if n < minRows:
            continue
        s = math.sqrt(r * (1 - r) / n)
        best = max(best, (r, s), key=sum)
        if r - s < best[0] - 3 * best[1]:
            alarms.append(i)
            r, n, best = 0.0, 0, (0.0, 0.0)
    return alarms


def linear_four_rates(
    rows: Iterable[tuple[bool, bool]],
    *,
    fading: float,
    minRows: int = 30,
    warn: float = 0.01,
    alarm: float = 0.0001,
    replicates: int = 50_000,
    seed: int = 0,
) -> list[tuple[int, str, str]]:
    """Return (row, level, rate) of the events in rows of (label, prediction), whether positive."""
    names = ("tpr", "tnr", "ppv", "npv")
    events: list[tuple[int, str, str]] = []
    rates, warned = {name: Decayed(fading) for name in names}, set()
    for i, (label, prediction) in enumerate(rows):
        found = []
        for name in ("tpr" if label else "tnr", "ppv" if prediction else "npv"):
            rate = rates[name]
            rate.see(label == prediction)
            if rate.rows < minRows:
                continue
            p = (rate.hits + 1) / (rate.rows + 2)
            if abs(rate.value - p) <= 1.5 * math.sqrt(p * (1 - p) / rate.effective):
                warned.discard(name)
                continue
            (low, high), (lowest, highest) = rate_bounds(
                p,
                rows=rate.rows,
                effective=rate.effective,
                significances=(warn, alarm),
                replicates=replicates,
                seed=seed,
            )
            if not lowest - 1e-9 <= rate.value <= highest + 1e-9:
                found.append((i, "alarm", name))
            elif low - 1e-9 <= rate.value <= high + 1e-9:
                warned.discard(name)
            elif name not in warned:
                found.append((i, "warning", name))
                warned.add(name)
        if any(level == "alarm" for _, level, _ in found):
            found = [event for event in found if event[1] == "alarm"]
            rates, warned = {name: Decayed(fading) for name in names}, set()
        events += found
    return events
