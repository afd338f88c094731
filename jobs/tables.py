"""What a job prints: its steps and its tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from treatments import text_of

from sparkimb.statistics import ImbalanceProfile

MAX_PRINTED_CLASSES = 20  # more than that is no table to read; metrics.json has them all

console = Console()
if not console.is_terminal:
    console = Console(width=120)  # a log file has no width; 80 columns would cut the tables


@contextmanager
def step(title: str, *, live: bool = True) -> Iterator[None]:
    """Show a step while it runs, unless it shows itself (live=False), and how long it took."""
    began = time.monotonic()
    with console.status(f"{escape(title)} …") if live else nullcontext():
        yield
    console.print(f"[green]✓[/green] {escape(title)}  [dim]{time.monotonic() - began:.1f} s[/dim]", highlight=False)


def print_profile(profile: ImbalanceProfile, label: str) -> None:
    """Print a table of the classes."""
    table = Table(title=escape(f"Classes of '{label}'"), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("class", "rows", "share", "effective number"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    effective, half = profile.effectiveNumbers(), MAX_PRINTED_CLASSES // 2
    hidden = len(profile.counts) - MAX_PRINTED_CLASSES
    for i, (name, rows) in enumerate(profile.counts.items()):
        if hidden <= 0 or i < half or i >= half + hidden:
            table.add_row(escape(text_of(name)), f"{rows:,}", f"{rows / profile.rows:.2%}", f"{effective[name]:,.0f}")
        elif i == half:
            table.add_row(f"… {hidden:,} more")
    console.print(table)
    nulls = {name: rows for name, rows in profile.nulls.items() if rows}
    console.print(
        f"{profile.rows:,} rows, imbalance {profile.imbalanceRatio:.1f} to 1, entropy {profile.entropy:.3f} bits "
        f"({profile.entropyRatio:.0%} of even classes), {profile.duplicateRows:,} rows repeat another "
        f"({profile.duplicateShare:.1%}), nulls in {len(nulls)} columns.",
        highlight=False,
    )


def print_treatments(results: Mapping[str, Any]) -> None:
    """Print a table of the treatments."""
    measured = ", measured on the untouched test rows" if "learner" in results else ""
    table = Table(title=f"Treatments{measured}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    metrics = {
        "averagePrecision": "avg.\nprec.",
        "areaUnderROC": "ROC\narea",
        "precision": "prec.",
        "recall": "recall",
        "f1": "F1",
        "gMean": "G-mean",
        "brier": "Brier",
    }
    table.add_column("treatment", overflow="fold")
    table.add_column("training\nrows", justify="right")
    for heading in metrics.values() if "learner" in results else ():
        table.add_column(heading, justify="right")
    for treatment in results["treatments"]:
        figures = [figure(treatment, name) for name in metrics] if "metrics" in treatment else []
        table.add_row(escape(treatment["name"]), f"{sum(treatment['rows'].values()):,}", *figures)
    console.print(table)


def figure(treatment: Mapping[str, Any], name: str) -> str:
    """Return a metric; under the two that treatments are chosen by, their 95 % interval where there is one."""
    shown, ends = f"{treatment['metrics'][name]:.3f}", treatment.get("intervals", {}).get(name)
    if name not in ("averagePrecision", "f1") or ends is None:
        return shown
    return f"{shown}\n[dim]{ends[0]:.2f} to {ends[1]:.2f}[/dim]"
