"""The plots of a stream: lines over the batches, with the alarms and warnings of the drift detectors above them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sparkimb.report.drawing import colour, dashed, finite, new_figure, paint, settings, svg_of
from sparkimb.report.formats import duration_unit
from sparkimb.report.stream_series import Line, Stream, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["share", "unit", "rate", "rows", "duration"]

# Inches.  The page scales a plot to its column: two in a row, or one where the page is narrow.
SIZE = (4.8, 2.8)
BOX = (0.125, 0.265, 0.86, 0.64)

# Values further apart than this need a logarithmic axis: on a linear one the line of a rare class is the axis itself.
MAX_LINEAR_RATIO = 20

# A decayed share of a class that no longer comes falls for ever; the axis stops six decades below the top.
MAX_DECADES = 6

# Lines of fewer points than this show each point: a single batch would otherwise be an invisible line.
MAX_DOTS = 30

# Marks closer together than 1 / MARKS of the axis are one mark.
MARKS = 200

DAY = 86_400

# How a tick shows a time, by the days that the axis spans.  No names of months: they depend on the locale.
_FORMS = ((1.5, "%H:%M"), (10, "%m-%d\n%H:%M"), (300, "%m-%d"), (math.inf, "%Y-%m"))


class Axis(NamedTuple):
    """The axis of batches, alike in all plots of a page so that they line up."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str

    @classmethod
    def of(cls, stream: Stream) -> Axis:
        """Return an axis over all that the stream left behind, its ticks with times where times are known."""
        low, high = stream.ends or (0.0, 1.0)
        ticks = [float(at) for at in _whole_ticks(low, high)]
        if not stream.times:
            return cls(low, high, tuple((at, f"{at:,.0f}") for at in ticks), "Batch")
        moments = [moment for at in ticks if (moment := stream.time_at(at))]
        first, last = (end(t for _, t in stream.times) for end in (min, max))
        seconds = (last - first).total_seconds()
        form = next(form for days, form in _FORMS if seconds < days * DAY)
        since = f", from {first:%Y-%m-%d}" if seconds < _FORMS[0][0] * DAY else ""
        labels = [f"{at:,.0f}\n{moment.strftime(form)}" for at, moment in zip(ticks, moments, strict=True)]
        return cls(
            low,
            high,
            tuple(zip(ticks, labels, strict=True)),
            f"Batch and {'event' if stream.eventTimes else 'writing'} time{since} (UTC)",
        )

    def share(self, x: float) -> float:
        """Return a place as a share in [0, 1] of the axis."""
        return (x - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def spread(self, places: Iterable[float]) -> list[float]:
        """Return at most MARKS + 1 of the places, no two of them too close to tell apart."""
        return list({round(self.share(x) * MARKS): x for x in places}.values())


def over_batches(
    key: str, lines: Sequence[Line], kind: Kind, axis: Axis, *, alarms: Sequence[float], warnings: Sequence[float]
) -> str:
    """Return lines over the batches; `key` makes the ids of the element unique in the page."""
    with settings(key):
        figure = new_figure(*SIZE)
        axes = figure.add_axes(BOX)
        points = [
            list(zip(*finite([x for x, _ in line.points], [y for _, y in line.points]), strict=True)) for line in lines
        ]
        shown = _AXES[kind](axes, [y for line in points for _, y in line])
        for i, line in enumerate(points):
            groups = grouped(line)
            x = [g.x for g in groups]
            if len(groups) < len(line):
                low, high = ([shown(y) for y in ends] for ends in ([g.low for g in groups], [g.high for g in groups]))
                axes.fill_between(x, low, high, color=colour(i), alpha=0.22, linewidth=0)
            axes.plot(
                x,
                [shown(g.mean) for g in groups],
                color=colour(i),
                linewidth=1.5,
                linestyle=dashed(i),
                marker="o" if len(groups) < MAX_DOTS else "",
                markersize=3.5,
            )
        margin = 0.012 * (axis.high - axis.low) or 0.5
        axes.set_xlim(axis.low - margin, axis.high + margin)
        axes.set_xticks([at for at, _ in axis.ticks], [text for _, text in axis.ticks])
        axes.set_xlabel(axis.label, fontsize=8.5)
        axes.tick_params(labelsize=8.5)
        _draw_marks(axes, axis, alarms, warnings)
        return svg_of(figure, key)


def _draw_marks(axes: Axes, axis: Axis, alarms: Sequence[float], warnings: Sequence[float]) -> None:
    """Draw a strip above the axes with a tick for each event, and a line where a run of alarms starts."""
    above: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    strips = ((warnings, "warning", (1.02, 1.055)), (alarms, "alarm", (1.02, 1.09)))
    for places, name, (low, high) in strips:
        axes.vlines(axis.spread(places), low, high, color=paint(name), linewidth=1.6, **above)
    for i, at in enumerate(shown := axis.spread(alarms)):
        if i == 0 or axis.share(at) - axis.share(shown[i - 1]) > 0.02:
            axes.axvline(at, color=paint("alarm"), linewidth=1, zorder=1)
            axes.plot([at], [1.11], marker="v", markersize=5, color=paint("alarm"), **above)


def _whole_ticks(low: float, high: float) -> list[int]:
    step = max(round(_nice((high - low) / 6)), 1)
    return [at for at in range(math.floor(low / step) * step, math.ceil(high) + 1, step) if low <= at <= high] or [
        round(high)
    ]


def _nice(size: float) -> float:
    """Return the next of 1, 2 or 5 times a power of ten."""
    if size <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(size))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= size * (1 - 1e-9))


def _same(y: float) -> float:
    return y


Shown = Callable[[float], float]


def _unit_axis(axes: Axes, values: Sequence[float]) -> Shown:
    axes.set(ylim=(-0.02, 1.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    return _same


def _share_axis(axes: Axes, values: Sequence[float]) -> Shown:
    if any(0 < v < 1 / MAX_LINEAR_RATIO for v in values):
        return _logarithmic(axes, values, _whole_percent)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set(ylim=(-0.02, 1.02))
    axes.set_yticks(ticks, [_whole_percent(t) for t in ticks])
    return _same


def _row_axis(axes: Axes, values: Sequence[float]) -> Shown:
    if _far_apart(values):
        return _logarithmic(axes, values, _short_number)
    return _linear(axes, values, _short_number)


def _duration_axis(axes: Axes, values: Sequence[float]) -> Shown:
    size, unit = duration_unit(max(map(abs, values), default=0) / 2)
    _linear(axes, [v / size for v in values], lambda v: f"{v:,.10g}")
    axes.annotate(
        unit,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-4, 6),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=paint("muted"),
    )
    return lambda y: y / size


def _far_apart(values: Sequence[float]) -> bool:
    seen = [v for v in values if v > 0]
    return bool(seen) and max(seen) > MAX_LINEAR_RATIO * min(seen)


def _linear(axes: Axes, values: Sequence[float], text: Callable[[float], str]) -> Shown:
    low, high = min([0.0, *values]), max([0.0, *values])
    step = _nice((high - low) / 5)
    ticks = [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)] or [0.0]
    top = max(ticks[-1], step)
    axes.set_ylim(ticks[0] - 0.02 * (top - ticks[0]), top + 0.02 * (top - ticks[0]))
    axes.set_yticks(
        [*ticks, *([top] if top > ticks[-1] else [])], [text(t) for t in [*ticks, *([top] if top > ticks[-1] else [])]]
    )
    return _same


def _logarithmic(axes: Axes, values: Sequence[float], text: Callable[[float], str]) -> Shown:
    """Set a logarithmic axis; zero, and what is too small for the axis, lies on its lower edge, which says 0."""
    seen = [v for v in values if v > 0]
    top = max(seen)
    low = max(min(seen), top * 10.0**-MAX_DECADES)
    floor = low / 2 if any(v < low for v in values) else low / 1.25
    steps = (1, 2, 5) if top / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(top)) + 1)
    ticks = [n * 10.0**e for e in decades for n in steps if low * 0.8 <= n * 10.0**e <= top * 1.25]
    zero = [(floor, "0")] if any(v < low for v in values) else []
    axes.set(yscale="log", ylim=(floor, top * 1.25))
    axes.minorticks_off()
    axes.set_yticks([*(at for at, _ in zero), *ticks], [*(t for _, t in zero), *map(text, ticks)])
    return lambda y: max(y, floor)


def _whole_percent(value: float) -> str:
    return f"{100 * value:.10g}%"


def _short_number(value: float) -> str:
    size = abs(value)
    scale, suffix = next((u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= u[0]), (1.0, ""))
    return f"{value / scale:.10g}{suffix}"


_AXES: dict[Kind, Callable[[Axes, Sequence[float]], Shown]] = {
    "share": _share_axis,
    "unit": _unit_axis,
    "rate": _row_axis,
    "rows": _row_axis,
    "duration": _duration_axis,
}
