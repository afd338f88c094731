"""What the threshold explorer moves over: the counts at each threshold of the test rows.  Numbers only, no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparkimb.report.formats import exists

# Lines of each of the two grids that a slider's stops cross, so at most twice as many stops, and a few: as many as a
# slider has pixels, and twenty treatments of 30 bytes a stop add 300 kB to the page.  Of up to so many positive rows
# each has a stop, and the lowest cost is always at one of them or at none.
CELLS = 250
# CELLS times a share that is a whole number may come out a little below it.
ROUNDING = 1e-9


def explorer(treatments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stops of the slider of each treatment that has a chosen threshold and the counts along its curve."""
    stops = ((series, _stops(treatment)) for series, treatment in enumerate(treatments))
    return [{"series": series, **found} for series, found in stops if found is not None]


def _stops(treatment: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return thresholds (rising; the last, None, is above every score) and the counts of rows that score at least so.

    The chosen threshold, which comes from other rows, is a stop of its own, with the counts of the confusion matrix.
    """
    curve, chosen = treatment.get("curves", {}).get("threshold", {}), treatment.get("threshold")
    counts, matrix = ("truePositives", "falsePositives"), treatment.get("confusion")
    if matrix is None or not exists(chosen) or any(name not in curve for name in counts):
        return None
    points = dict(zip(curve["threshold"], zip(*(curve[name] for name in counts), strict=True), strict=True))
    points[chosen] = matrix["truePositive"], matrix["falsePositive"]
    positives = matrix["truePositive"] + matrix["falseNegative"]
    negatives = matrix["falsePositive"] + matrix["trueNegative"]
    thresholds, cells = [], (0, 0)
    for threshold in sorted(points, reverse=True):
        found, alarms = points[threshold]
        # Even in the share found, and fine where few false alarms decide about the precision.
        before, cells = cells, (_cell(found, positives), _cell(alarms, negatives, power=0.25))
        if cells != before or threshold == chosen:
            thresholds.append(threshold)
    thresholds.reverse()
    return {
        "threshold": [*thresholds, None],
        "truePositives": [*(points[t][0] for t in thresholds), 0],
        "falsePositives": [*(points[t][1] for t in thresholds), 0],
        "positives": positives,
        "negatives": negatives,
        "chosen": thresholds.index(chosen),
    }


def _cell(part: float, whole: float, power: float = 1.0) -> int:
    return int(CELLS * (part / whole) ** power + ROUNDING) if whole > 0 else 0
