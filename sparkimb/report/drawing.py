"""What all plots share: series styles, settings, and SVG that takes its colours and fonts from the page around it.

No text from the data is drawn: names stand in the HTML beside a plot, where they wrap, are escaped once, and need no
glyph of matplotlib's font.  Nothing of matplotlib's global state is kept: no pyplot, and every setting in a context.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sparkimb.report.formats import exists

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = Sequence[float | None]

# Each series has its own dashes, so that no two differ by colour alone.  The first is solid.
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

# The page's CSS variables.  Matplotlib draws each in a placeholder colour that becomes `var(--name)` in the SVG.
_VARIABLES = ("ink", "muted", "rule", *(f"series-{i}" for i in range(SERIES)), "alarm", "warning")
_PLACEHOLDERS = {name: f"#5a17{i:02x}" for i, name in enumerate(_VARIABLES)}


def style_of(series: int) -> tuple[int, int]:
    """Return the numbers of the n-th series' colour and dashes: a pair of its own up to the 36th.

    Series 0, in the balance report the untouched data, has colour 0 and dashes 0, which no other has.
    """
    if series == 0:
        return 0, 0
    turn, place = divmod(series - 1, SERIES - 1)
    return 1 + place, 1 + (place + turn) % (SERIES - 1)


def paint(name: str) -> str:
    """Return the placeholder colour of a CSS variable of the page."""
    return _PLACEHOLDERS[name]


def colour(series: int) -> str:
    """Return the placeholder colour of the n-th series."""
    return paint(f"series-{style_of(series)[0]}")


def dashed(series: int) -> Any:
    """Return the line style of the n-th series."""
    dashes = DASHES[style_of(series)[1]]
    return (0, dashes) if dashes else "solid"


def finite(x: Numbers, y: Numbers) -> tuple[list[float], list[float]]:
    """Return the points both of whose coordinates are finite numbers."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None and exists(a) and exists(b)]
    return [a for a, _ in points], [b for _, b in points]


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def settings(key: str) -> AbstractContextManager[None]:
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


def svg_of(figure: Figure, key: str) -> str:
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
