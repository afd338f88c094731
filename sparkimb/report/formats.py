"""Numbers and foreign text as the page shows them.  Escaping is the template's work, not done here."""

from __future__ import annotations

import math
import re

# C0 and C1 controls (HTML forbids them, but for tab and line ends) and lone surrogates (UTF-8 cannot hold them).
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

MISSING = "–"  # noqa: RUF001  an en dash: the mark for a number that does not exist


def printable(text: str) -> str:
    """Return `text` with every character that an HTML page cannot hold replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def short(text: object, limit: int = 60) -> str:
    """Return `text`, its middle replaced by an ellipsis where it is longer than `limit` characters."""
    whole = str(text)
    if len(whole) <= limit:
        return whole
    tail = limit // 3
    return f"{whole[: limit - tail - 1]}…{whole[-tail:]}"


def exists(value: float | None) -> bool:
    """Tell whether `value` is a finite number; JSON writers turn an undefined metric into null or NaN."""
    return value is not None and math.isfinite(value)


def count(value: float | None) -> str:
    """Return a number of rows with thousands separators."""
    return f"{value:,.0f}" if value is not None and exists(value) else MISSING


def decimal(value: float | None) -> str:
    """Return a metric to three decimals, or two digits where three decimals would read as zero."""
    if value is None or not exists(value):
        return MISSING
    if value != 0 and abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:,.3f}"


def span(low: float, high: float) -> str:
    """Return an interval, each end as `decimal` shows it."""
    return f"{decimal(low)}\N{EN DASH}{decimal(high)}"


def ratio(value: float | None) -> str:
    """Return a ratio of rows to one decimal."""
    return f"{value:,.1f}" if value is not None and exists(value) else MISSING


def signed(value: float | None) -> str:
    """Return a difference to three decimals with its sign."""
    if value is None or not exists(value):
        return MISSING
    if round(value, 3) == 0:
        return "±0"
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as a percentage: one decimal, or two digits for the small shares of rare classes."""
    if share is None or not exists(share):
        return MISSING
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    return f"{value:.1f}%" if value >= 10 else f"{value:.2g}%"


def duration(seconds: float | None) -> str:
    """Return a time span in the largest unit of which there are two: "90 s", "12 min", "5.5 h", "3 days"."""
    if seconds is None or not exists(seconds):
        return MISSING
    size, unit = duration_unit(abs(seconds) / 2)
    return f"{seconds / size:,.1f}".removesuffix(".0").replace("-", "\N{MINUS SIGN}") + f" {unit}"


def duration_unit(seconds: float) -> tuple[float, str]:
    """Return the largest unit of time, in seconds and by name, of which so many seconds hold one; at least seconds."""
    return next((u for u in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")) if seconds >= u[0]), (1.0, "s"))
