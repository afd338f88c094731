"""`render`: the results of the balance job as one HTML page."""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparkimb.errors import SparkimbError
from sparkimb.report import formats, metrics, plots
from sparkimb.report.environment import markup, new_environment, package_text
from sparkimb.report.explorer import explorer
from sparkimb.report.summary import noise_yardstick, summarise

if TYPE_CHECKING:
    from jinja2 import Template

REQUIRED = (
    "name", "created", "seconds", "versions", "seed", "command", "config", "data", "profile", "split", "treatments",
)  # fmt: skip

# Classes shown by name: more bars than this per treatment are a wall, not a picture.
MAX_CLASSES = 20

# Columns with nulls shown by name.
MAX_NULL_COLUMNS = 30

# Counts further apart than this need a logarithmic scale: on a linear one the smaller bar is a sliver.
MAX_LINEAR_RATIO = 20


def render(results: Mapping[str, Any]) -> str:
    """Return the report of a balance run as one HTML page.

    The page needs no network and no other file.  Every text from the results is escaped.  Its one script moves the
    threshold; the browser runs it by its hash and no other, and without it the page shows the chosen thresholds.  The
    same results give the same page, byte for byte, under one version of matplotlib.  Runs no Spark job.

    Parameters
    ----------
    results : mapping
        What the balance job writes as metrics.json.  The first treatment is the untouched data.  Without a learner
        (no key "learner", no metrics in the treatments) the page describes data, split and class counts only.
        Optional in a treatment: "intervals", a dict of the 95 % interval [low, high] of a metric by its key, and the
        "truePositives" and "falsePositives" of its threshold curve, without which there is no slider for it.

    Returns
    -------
    str
        An HTML document, to be written as UTF-8.

    Raises
    ------
    SparkimbError
        If keys are missing, or there is no treatment.
    ImportError
        If jinja2 or matplotlib is missing; the message names the extra that brings them.
    """
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise SparkimbError(
            f"The results lack the keys {missing}. Found are {sorted(results)}. "
            "Pass the whole dict that the balance job writes as metrics.json."
        )
    treatments = results["treatments"]
    if not treatments:
        raise SparkimbError(
            "The results hold no treatment. The key 'treatments' is an empty list. "
            "Pass at least the untouched data, which is the first treatment of every run."
        )
    template = _template()
    classes = shown_classes(results["profile"]["classes"], results["data"]["positive"])
    test = results["split"]["test"]
    positives, test_rows = test.get(results["data"]["positive"], 0), sum(test.values())
    prevalence = positives / test_rows if test_rows else 0.0
    page = template.render(
        r=results,
        summary=summarise(results),
        classes=classes,
        hidden_classes=len(results["profile"]["classes"]) - len(classes),
        scale=Scale.of([rows for t in treatments for rows in t["rows"].values()]),
        profile_scale=Scale.of([c["rows"] for c in results["profile"]["classes"]]),
        nulls=sorted(((n, c) for c, n in results["profile"]["nulls"].items() if n), key=lambda item: -item[0]),
        max_null_columns=MAX_NULL_COLUMNS,
        positives=positives,
        test_rows=test_rows,
        prevalence=prevalence,
        yardstick=noise_yardstick(positives),
        measured=any("metrics" in t for t in treatments),
        intervals=metrics.has_intervals(treatments),
        explorer=explorer(treatments),
        plots=_plots(treatments, prevalence=prevalence),
    )
    return page.lstrip()


class Scale(NamedTuple):
    """The axis of the bars of row counts: from 0 to `top`, or from 1 to `top` in powers of ten."""

    top: float
    logarithmic: bool

    @classmethod
    def of(cls, counts: Sequence[float]) -> Scale:
        """Return a scale that shows the smallest and the largest of the counts."""
        seen = [n for n in counts if n > 0]
        if not seen or max(seen) / min(seen) <= MAX_LINEAR_RATIO:
            return cls(max(seen, default=1), logarithmic=False)
        return cls(10.0 ** math.ceil(math.log10(max(seen))), logarithmic=True)

    def width(self, rows: float) -> float:
        """Return a bar's length in [0, 100]; a single row is still a sliver, none is nothing."""
        if rows <= 0:
            return 0.0
        share = math.log10(max(rows, 1)) / math.log10(self.top) if self.logarithmic else rows / self.top
        return round(max(100 * share, 0.6), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return at most six positions in [0, 100] with the counts they stand for."""
        if not self.logarithmic:
            return [(0.0, "0"), (50.0, formats.count(self.top / 2)), (100.0, formats.count(self.top))]
        decades = round(math.log10(self.top))
        step = math.ceil(decades / 5)
        return [(round(100 * e / decades, 2), _power_of_ten(e)) for e in range(0, decades + 1, step)]


def _power_of_ten(exponent: int) -> str:
    suffixes = ("", "k", "M", "G", "T")
    thousands = min(exponent // 3, len(suffixes) - 1)
    return f"{10 ** (exponent - 3 * thousands)}{suffixes[thousands]}"


def shown_classes(classes: Sequence[Mapping[str, Any]], positive: str) -> list[Mapping[str, Any]]:
    """Return the classes by falling rows: all, or the largest and the smallest MAX_CLASSES / 2 and the positive one."""
    ordered = sorted(classes, key=lambda c: -c["rows"])
    if len(ordered) <= MAX_CLASSES:
        return ordered
    half = MAX_CLASSES // 2
    between = [c for c in ordered[half:-half] if c["label"] == positive]
    return [*ordered[:half], *between, *ordered[-half:]]


def share_segments(shares: Mapping[str, float], positive: str) -> list[tuple[float, float]]:
    """Return start and width, in [0, 100], of each class's share: the positive class first, then by falling share.

    Of more than MAX_CLASSES others the rarest are one segment.  The positive class is at least a sliver.
    """
    others = sorted((share for label, share in shares.items() if label != positive), reverse=True)
    others = [*others[: MAX_CLASSES - 1], *([sum(others[MAX_CLASSES - 1 :])] if len(others) >= MAX_CLASSES else [])]
    widths = [100 * share for share in (shares.get(positive, 0.0), *others)]
    if widths[0] > 0:
        widths[0] = max(widths[0], 0.6)
    stretch = 100 / max(sum(widths), 1e-9)
    return [(round(sum(widths[:i]) * stretch, 2), round(width * stretch, 2)) for i, width in enumerate(widths)]


def _plots(treatments: Sequence[Mapping[str, Any]], *, prevalence: float) -> dict[str, Any]:
    # Markup: plots hold fixed text and numbers only, nothing in them is from the data.
    curved = [(i, t) for i, t in enumerate(treatments) if "curves" in t]
    if not curved:
        return {}
    return {
        "pr": markup(plots.pr_curves(treatments, prevalence=prevalence)),
        "roc": markup(plots.roc_curves(treatments)),
        "calibrations": markup(plots.calibration_curves(treatments)),
        "calibration": {i: markup(plots.calibration_curve(t, series=i)) for i, t in curved},
        "threshold": {i: markup(plots.threshold_curves(t, series=i)) for i, t in curved},
    }


def _template() -> Template:
    script = package_text("explorer.js")
    environment = new_environment()
    environment.globals |= {
        "share_segments": share_segments,
        "script": markup(script),
        "script_hash": "sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "metric_groups": metrics.GROUPS,
        "compared": (("averagePrecision", "Average precision"), ("f1", "F1 at the chosen threshold")),
        "metric_interval": metrics.interval,
        "metric_value": metrics.value,
        "best_text": metrics.best_text,
        "threshold_metrics": (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1")),
        "full_bin": plots.FULL_BIN,
    }
    return environment.get_template("page.html.j2")
