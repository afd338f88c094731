"""The metrics on the page: their names, what they say in one line, and which direction is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparkimb.report.formats import decimal, exists


class Metric(NamedTuple):
    """One row of the metrics table."""

    key: str
    name: str
    meaning: str
    higher_is_better: bool = True


GROUPS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    (
        "Ranking: does the score put positive rows first? No threshold needed.",
        (
            Metric(
                "averagePrecision",
                "Average precision",
                "Mean precision over all recall levels. The first number to read when the positive class is rare.",
            ),
            Metric("areaUnderPR", "Area under PR", "The same curve measured with straight lines between its points."),
            Metric(
                "areaUnderROC",
                "Area under ROC",
                "Chance that a random positive row scores above a random other one. Flatters on rare classes.",
            ),
        ),
    ),
    (
        "Decisions: what happens at the chosen threshold?",
        (
            Metric("precision", "Precision", "Of the rows flagged as positive, the share that are."),
            Metric("recall", "Recall", "Of the positive rows, the share that were flagged."),
            Metric("f1", "F1", "Harmonic mean of precision and recall: high only if both are."),
            Metric("specificity", "Specificity", "Of the other rows, the share left alone."),
            Metric("gMean", "G-mean", "Geometric mean of recall and specificity."),
            Metric("balancedAccuracy", "Balanced accuracy", "Mean of recall and specificity; 0.5 is guessing."),
            Metric(
                "mcc", "MCC", "Correlation of decisions with the truth: 1 is perfect, 0 is guessing, negative is worse."
            ),
        ),
    ),
    (
        "Probabilities: can the score be read as a chance?",
        (
            Metric("brier", "Brier score", "Mean squared distance of the score from the truth (0 or 1).", False),
            Metric(
                "expectedCalibrationError",
                "Calibration error",
                "Mean distance between the predicted and the observed share of positives, over bins.",
                False,
            ),
        ),
    ),
)


def value(treatment: Mapping[str, Any], key: str) -> float | None:
    """Return a treatment's metric, or None where it is absent, null or not finite."""
    found: float | None = treatment.get("metrics", {}).get(key)
    return found if exists(found) else None


def interval(treatment: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a treatment's metric, or None where there is none."""
    found: Sequence[Any] = treatment.get("intervals", {}).get(key) or (None, None)
    low, high = found
    return (float(low), float(high)) if exists(low) and exists(high) else None


def has_intervals(treatments: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether any treatment has an interval that the page shows."""
    return any(interval(t, metric.key) for t in treatments for _, group in GROUPS for metric in group)


def best_text(treatments: Sequence[Mapping[str, Any]], metric: Metric) -> str | None:
    """Return the best value as it is shown, so that values that look the same are marked the same.

    None where there is nothing to compare: fewer than two treatments have the metric, or all show the same value.
    """
    values = [v for t in treatments if (v := value(t, metric.key)) is not None]
    if len({decimal(v) for v in values}) < 2:
        return None
    return decimal(max(values) if metric.higher_is_better else min(values))
