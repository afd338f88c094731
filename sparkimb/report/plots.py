"""The plots of the balance report: curves of the treatments' scores on the test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkimb.report.drawing import Numbers, colour, dashed, finite, new_figure, paint, settings, svg_of
from sparkimb.report.formats import decimal, exists
from sparkimb.report.metrics import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points drawn of a curve: in a plot some 500 pixels wide 400 look like all, and twenty treatments stay under 1 MB.
MAX_POINTS = 400

THRESHOLD_METRICS = ("precision", "recall", "f1")

# The axes' left edge and width in the figure, alike in all plots so that they line up under one another.
LEFT, WIDTH = 0.15, 0.82

# The unit interval with room for the half of a line or dot that lies on its border.
UNIT = (-0.015, 1.015)

# Inches.  The page scales a plot to its column, three in a row.
SQUARE, SMALL, SMALL_TALL = (3.5, 3.3), (3.5, 3.0), (3.5, 3.6)

# A share of positives over fewer rows than this has a standard error of up to 0.09: no dot marks it where curves meet.
FULL_BIN = 30

_REFERENCE: dict[str, Any] = {"color": paint("muted"), "linewidth": 1, "linestyle": (0, (1, 2))}


def pr_curves(treatments: Sequence[Mapping[str, Any]], *, prevalence: float) -> str:
    """Return precision against recall for all treatments, over the precision that guessing would have."""
    with settings("pr"):
        figure = new_figure(*SQUARE)
        axes = _unit_axes(figure, "Recall", "Precision")
        axes.axhline(prevalence, **_REFERENCE)
        _note(axes, f"no skill {decimal(prevalence)}", (0, prevalence), xytext=(5, 4 if prevalence < 0.9 else -12))
        for i, treatment in _measured(treatments):
            curve = treatment["curves"]["pr"]
            recall, precision = curve["recall"], curve["precision"]
            if len(recall) > 1 and (recall[0] or 0) > (recall[-1] or 0):  # scikit-learn's order
                recall, precision = recall[::-1], precision[::-1]
            # Steps, as average precision counts them: what is gained up to a recall is gained at its precision.
            _draw(axes, recall, precision, series=i, drawstyle="steps-pre")
            _mark(axes, value(treatment, "recall"), value(treatment, "precision"), series=i)
        return svg_of(figure, "pr")


def roc_curves(treatments: Sequence[Mapping[str, Any]]) -> str:
    """Return the true against the false positive rate for all treatments, over the diagonal of guessing."""
    with settings("roc"):
        figure = new_figure(*SQUARE)
        axes = _unit_axes(figure, "False positive rate (1 \N{MINUS SIGN} specificity)", "True positive rate (recall)")
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "no skill", (0.6, 0.6), xytext=(5, -9))
        for i, treatment in _measured(treatments):
            curve = treatment["curves"]["roc"]
            _draw(axes, curve["falsePositiveRate"], curve["truePositiveRate"], series=i)
            specificity = value(treatment, "specificity")
            _mark(axes, None if specificity is None else 1 - specificity, value(treatment, "recall"), series=i)
        return svg_of(figure, "roc")


def calibration_curves(treatments: Sequence[Mapping[str, Any]]) -> str:
    """Return the observed against the predicted share of positives for all treatments, a dot for each full bin."""
    with settings("calibrations"):
        figure = new_figure(*SQUARE)
        axes = _unit_axes(figure, "Predicted probability", "Observed share of positives")
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "perfect", (0.8, 0.8), xytext=(-4, 4), ha="right")
        for i, treatment in _measured(treatments):
            curve = treatment["curves"]["calibration"]
            _draw(axes, curve["predicted"], curve["observed"], series=i)
            x, y = finite(
                curve["predicted"],
                [
                    share if rows is not None and rows >= FULL_BIN else None
                    for share, rows in zip(curve["observed"], curve["rows"], strict=True)
                ],
            )
            axes.plot(x, y, "o", color=colour(i), markersize=4.5)
        return svg_of(figure, "calibrations")


def calibration_curve(treatment: Mapping[str, Any], *, series: int) -> str:
    """Return the observed against the predicted share of positives, with the rows of each bin below."""
    curve, key = treatment["curves"]["calibration"], f"calibration-{series}"
    with settings(key):
        figure = new_figure(*SMALL_TALL)
        axes = _unit_axes(figure, "", "Observed share of positives", bottom=0.37)
        axes.tick_params(labelbottom=False)
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "perfect", (0.8, 0.8), xytext=(-4, 4), ha="right")
        x, y = finite(curve["predicted"], curve["observed"])
        axes.plot(x, y, color=colour(series), linewidth=1.6, marker="o", markersize=5)
        _bin_counts(figure, *finite(curve["predicted"], curve["rows"]), series=series)
        return svg_of(figure, key)


def threshold_curves(treatment: Mapping[str, Any], *, series: int) -> str:
    """Return precision, recall and F1 against the threshold, with the chosen threshold marked."""
    curve, key = treatment["curves"]["threshold"], f"threshold-{series}"
    with settings(key):
        figure = new_figure(*SMALL)
        axes = _unit_axes(figure, "Threshold", "Value")
        for i, metric in enumerate(THRESHOLD_METRICS):
            _draw(axes, curve["threshold"], curve[metric], series=i + 1)
        chosen = treatment.get("threshold")
        if chosen is not None and exists(chosen):
            axes.axvline(chosen, color=paint("ink"), linewidth=1.2)
            side = "right" if chosen > 0.7 else "left"
            axes.annotate(f"chosen {decimal(chosen)}", (chosen, 1.04), ha=side, annotation_clip=False)
        return svg_of(figure, key)


def thin(x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Return at most `limit` points of a curve, spaced along its length, the first and the last among them."""
    n = len(x)
    if n <= limit:
        return list(x), list(y)
    along = [0.0]
    for i in range(1, n):
        along.append(along[-1] + math.hypot(x[i] - x[i - 1], y[i] - y[i - 1]))
    stride = along[-1] / (limit - 2) or 1.0  # a curve that never moves has length 0
    kept = [i for i in range(n) if i in (0, n - 1) or along[i] // stride > along[i - 1] // stride]
    return [x[i] for i in kept], [y[i] for i in kept]


def _draw(axes: Axes, x: Numbers, y: Numbers, *, series: int, drawstyle: Any = "default") -> None:
    axes.plot(
        *thin(*finite(x, y)),
        color=colour(series),
        linewidth=1.6,
        linestyle=dashed(series),
        drawstyle=drawstyle,
    )


def _mark(axes: Axes, x: float | None, y: float | None, *, series: int) -> None:
    if x is not None and y is not None and exists(x) and exists(y):
        axes.plot([x], [y], "o", color=colour(series), markersize=6, zorder=5)


def _measured(treatments: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((i, t) for i, t in enumerate(treatments) if "curves" in t)


def _note(axes: Axes, text: str, at: tuple[float, float], **place: Any) -> None:
    axes.annotate(text, at, textcoords="offset points", color=paint("muted"), **place)


def _bin_counts(figure: Figure, predicted: list[float], rows: list[float], *, series: int) -> None:
    axes = figure.add_axes((LEFT, 0.125, WIDTH, 0.17))
    # Logarithmic: most rows of a rare class's data lie in the lowest bin.  Half a row is the floor, so one row shows.
    top = max([10, *rows])
    decades = [10**e for e in range(0, math.ceil(math.log10(top)) + 1, 2)]
    axes.set(xlim=UNIT, yscale="log", ylim=(0.5, top * 2), xlabel="Predicted probability", ylabel="Rows")
    axes.set_yticks(decades, [f"{d:,}" if d < 10_000 else f"{d // 1000:,}k" for d in decades])
    axes.minorticks_off()
    axes.vlines(predicted, 0.5, [max(n, 0.5) for n in rows], color=colour(series), linewidth=5)


def _unit_axes(figure: Figure, x: str, y: str, *, bottom: float = 0.15) -> Axes:
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes = figure.add_axes((LEFT, bottom, WIDTH, 0.92 - bottom))
    axes.set(xlim=UNIT, ylim=UNIT, xlabel=x, ylabel=y, xticks=ticks, yticks=ticks)
    return axes
