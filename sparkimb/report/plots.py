"""The plots, as SVG that takes its colours and fonts from the page around it.

No text from the data is drawn: names stand in the HTML beside a plot, where they wrap, are escaped once, and need no
glyph of matplotlib's font.  Nothing of matplotlib's global state is kept: no pyplot, and every setting in a context.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sparkimb.report.formats import decimal, exists
from sparkimb.report.metrics import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Sequence[float | None]

# Each series has its own dashes, so that no two differ by colour alone.  The untouched data is the first, solid.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (7, 2),
    (2, 1.5),
    (7, 2, 1.5, 2),
    (12, 3),
    (4, 1.5, 1.5, 1.5, 1.5, 1.5),
    (1, 1),
)
SERIES = len(DASHES)

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

# The page's CSS variables.  Matplotlib draws each in a placeholder colour that becomes `var(--name)` in the SVG.
_VARIABLES = ("ink", "muted", "rule", *(f"series-{i}" for i in range(SERIES)))
_PLACEHOLDERS = {name: f"#5a17{i:02x}" for i, name in enumerate(_VARIABLES)}

_REFERENCE: dict[str, Any] = {"color": _PLACEHOLDERS["muted"], "linewidth": 1, "linestyle": (0, (1, 2))}


def style_of(series: int) -> tuple[int, int]:
    """Return the numbers of the n-th treatment's colour and dashes: a pair of its own up to the 36th.

    The untouched data, number 0, has colour 0 and dashes 0, which no other has.
    """
    if series == 0:
        return 0, 0
    turn, place = divmod(series - 1, SERIES - 1)
    return 1 + place, 1 + (place + turn) % (SERIES - 1)


def pr_curves(treatments: Sequence[Mapping[str, Any]], *, prevalence: float) -> str:
    """Return precision against recall for all treatments, over the precision that guessing would have."""
    with _settings("pr"):
        figure = _figure(*SQUARE)
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
        return _svg(figure, "pr")


def roc_curves(treatments: Sequence[Mapping[str, Any]]) -> str:
    """Return the true against the false positive rate for all treatments, over the diagonal of guessing."""
    with _settings("roc"):
        figure = _figure(*SQUARE)
        axes = _unit_axes(figure, "False positive rate (1 \N{MINUS SIGN} specificity)", "True positive rate (recall)")
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "no skill", (0.6, 0.6), xytext=(5, -9))
        for i, treatment in _measured(treatments):
            curve = treatment["curves"]["roc"]
            _draw(axes, curve["falsePositiveRate"], curve["truePositiveRate"], series=i)
            specificity = value(treatment, "specificity")
            _mark(axes, None if specificity is None else 1 - specificity, value(treatment, "recall"), series=i)
        return _svg(figure, "roc")


def calibration_curves(treatments: Sequence[Mapping[str, Any]]) -> str:
    """Return the observed against the predicted share of positives for all treatments, a dot for each full bin."""
    with _settings("calibrations"):
        figure = _figure(*SQUARE)
        axes = _unit_axes(figure, "Predicted probability", "Observed share of positives")
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "perfect", (0.8, 0.8), xytext=(-4, 4), ha="right")
        for i, treatment in _measured(treatments):
            curve = treatment["curves"]["calibration"]
            _draw(axes, curve["predicted"], curve["observed"], series=i)
            x, y = _finite(
                curve["predicted"],
                [
                    share if rows is not None and rows >= FULL_BIN else None
                    for share, rows in zip(curve["observed"], curve["rows"], strict=True)
                ],
            )
            axes.plot(x, y, "o", color=_colour(i), markersize=4.5)
        return _svg(figure, "calibrations")


def calibration_curve(treatment: Mapping[str, Any], *, series: int) -> str:
    """Return the observed against the predicted share of positives, with the rows of each bin below."""
    curve, key = treatment["curves"]["calibration"], f"calibration-{series}"
    with _settings(key):
        figure = _figure(*SMALL_TALL)
        axes = _unit_axes(figure, "", "Observed share of positives", bottom=0.37)
        axes.tick_params(labelbottom=False)
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        _note(axes, "perfect", (0.8, 0.8), xytext=(-4, 4), ha="right")
        x, y = _finite(curve["predicted"], curve["observed"])
        axes.plot(x, y, color=_colour(series), linewidth=1.6, marker="o", markersize=5)
        _bin_counts(figure, *_finite(curve["predicted"], curve["rows"]), series=series)
        return _svg(figure, key)


def threshold_curves(treatment: Mapping[str, Any], *, series: int) -> str:
    """Return precision, recall and F1 against the threshold, with the chosen threshold marked."""
    curve, key = treatment["curves"]["threshold"], f"threshold-{series}"
    with _settings(key):
        figure = _figure(*SMALL)
        axes = _unit_axes(figure, "Threshold", "Value")
        for i, metric in enumerate(THRESHOLD_METRICS):
            _draw(axes, curve["threshold"], curve[metric], series=i + 1)
        chosen = treatment.get("threshold")
        if chosen is not None and exists(chosen):
            axes.axvline(chosen, color=paint("ink"), linewidth=1.2)
            side = "right" if chosen > 0.7 else "left"
            axes.annotate(f"chosen {decimal(chosen)}", (chosen, 1.04), ha=side, annotation_clip=False)
        return _svg(figure, key)


def paint(name: str) -> str:
    """Return the placeholder colour of a CSS variable of the page."""
    return _PLACEHOLDERS[name]


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


def _finite(x: Numbers, y: Numbers) -> tuple[list[float], list[float]]:
    points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None and exists(a) and exists(b)]
    return [a for a, _ in points], [b for _, b in points]


def _colour(series: int) -> str:
    return paint(f"series-{style_of(series)[0]}")


def _draw(axes: Axes, x: Numbers, y: Numbers, *, series: int, drawstyle: Any = "default") -> None:
    dashes = DASHES[style_of(series)[1]]
    axes.plot(
        *thin(*_finite(x, y)),
        color=_colour(series),
        linewidth=1.6,
        linestyle=(0, dashes) if dashes else "solid",
        drawstyle=drawstyle,
    )


def _mark(axes: Axes, x: float | None, y: float | None, *, series: int) -> None:
    if x is not None and y is not None and exists(x) and exists(y):
        axes.plot([x], [y], "o", color=_colour(series), markersize=6, zorder=5)


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
    axes.vlines(predicted, 0.5, [max(n, 0.5) for n in rows], color=_colour(series), linewidth=5)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _unit_axes(figure: Figure, x: str, y: str, *, bottom: float = 0.15) -> Axes:
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes = figure.add_axes((LEFT, bottom, WIDTH, 0.92 - bottom))
    axes.set(xlim=UNIT, ylim=UNIT, xlabel=x, ylabel=y, xticks=ticks, yticks=ticks)
    return axes


def _settings(key: str) -> AbstractContextManager[None]:
    """Return matplotlib's own defaults and ours, whatever the caller's settings; the caller's come back after."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError("The report's plots need matplotlib. Install sparkimb[jobs].") from error
    ink, muted, rule = paint("ink"), paint("muted"), paint("rule")
    ours = {
        "svg.fonttype": "none",  # text stays text: the page's font, a tenth of the bytes, found by search
        "svg.hashsalt": key,
        "font.size": 9.5,
        "text.parse_math": False,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": muted,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "grid.color": rule,
        "grid.linewidth": 0.7,
        "lines.scale_dashes": False,  # DASHES are points, as in the legend
        "xtick.color": muted,
        "ytick.color": muted,
    }
    return style.context(["default", ours])


def _svg(figure: Figure, key: str) -> str:
    """Return the figure as an element for an HTML page: no prolog, no styles of its own, ids that start with `key`."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]+"', svg)
    assert size is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg class="plot" {size.group()} aria-hidden="true" focusable="false">', svg, count=1)
    svg = (
        re.sub(r'\bid="', f'id="{key}-', svg)
        .replace("url(#", f"url(#{key}-")
        .replace('xlink:href="#', f'href="#{key}-')
    )
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)
