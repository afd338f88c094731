"""From a samplingStrategy and class counts to a plan: how many rows each class shall have.  Pure Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sparkimb.errors import SparkimbError

Label: TypeAlias = str | bool | int | float
Kind: TypeAlias = Literal["under", "over"]
Strategy: TypeAlias = str | float | Mapping[str, int]

WORDS = ("auto", "minority", "majority", "not minority", "not majority", "all")


@dataclass(frozen=True)
class SamplingPlan:
    """Rows of each class before sampling and after it, in one order of labels."""

    counts: dict[Label, int]
    targets: dict[Label, int]

    @property
    def priorsBefore(self) -> dict[Label, float]:
        """Share of each class in the rows counted."""
        return _shares(self.counts)

    @property
    def priorsAfter(self) -> dict[Label, float]:
        """Share of each class in the rows after sampling."""
        return _shares(self.targets)

    @property
    def changed(self) -> list[Label]:
        """The classes whose number of rows changes."""
        return [label for label, rows in self.counts.items() if self.targets[label] != rows]

    def __str__(self) -> str:
        """Show a line for each class."""
        width = max(len(str(label)) for label in self.counts)
        return "\n".join(
            f"{label!s:<{width}}  {rows:>14,} -> {self.targets[label]:>14,}" for label, rows in self.counts.items()
        )

    def to_json(self) -> list[list[Any]]:
        """Return [label, rows before, rows after] for each class."""
        return [[label, rows, self.targets[label]] for label, rows in self.counts.items()]

    @classmethod
    def from_json(cls, triples: list[list[Any]]) -> SamplingPlan:
        """Read what `to_json` wrote."""
        return cls({label: rows for label, rows, _ in triples}, {label: rows for label, _, rows in triples})


def _shares(rows: Mapping[Label, int]) -> dict[Label, float]:
    total = sum(rows.values())
    return {label: n / total for label, n in rows.items()}


def minority_class(counts: Mapping[Label, int]) -> Label:
    """Return the smallest class; of equal ones the first by text."""
    return min(counts, key=lambda label: (counts[label], str(label)))


def majority_class(counts: Mapping[Label, int]) -> Label:
    """Return the largest class; of equal ones the first by text, but never the minority class."""
    others = [label for label in counts if label != minority_class(counts)]
    return min(others, key=lambda label: (-counts[label], str(label)))


def resolve(strategy: Strategy, counts: Mapping[Label, int], kind: Kind) -> SamplingPlan:
    """Decide the rows of each class, with imbalanced-learn's meanings.

    Parameters
    ----------
    strategy : str, float or dict
        A word names the classes to change, and they get as many rows as the smallest class (kind "under") or the
        largest (kind "over"): "minority", "majority", "not minority", "not majority", "all", and "auto", which is
        "not minority" for "under" and "not majority" for "over".  A float in (0, 1] is the wanted minority / majority
        ratio of two classes.  A dict gives rows by label; labels may be written as strings, as JSON must.
    counts : dict
        Rows of each class, two classes or more.

    Raises
    ------
    SparkimbError
        If a label is unknown, a float is given for more than two classes, or a target cannot be had by this kind.
    """
    if isinstance(strategy, Mapping):
        wanted = _by_label(strategy, counts)
    elif isinstance(strategy, str):
        wanted = dict.fromkeys(targeted_classes(strategy, counts, kind), _reference_rows(counts, kind))
    else:
        wanted = _by_ratio(strategy, counts, kind)
    wrong = {label: n for label, n in wanted.items() if (n > counts[label] if kind == "under" else n < counts[label])}
    if wrong:
        found = ", ".join(f"{n:,} for class {label!r}, which has {counts[label]:,}" for label, n in wrong.items())
        verb, bound = ("remove", "<=") if kind == "under" else ("add", ">=")
        raise SparkimbError(
            f"samplingStrategy {_shown(strategy)} asks for {found} rows. "
            f"This sampler can only {verb} rows: use targets {bound} the class's rows."
        )
    return SamplingPlan(dict(counts), {label: wanted.get(label, rows) for label, rows in counts.items()})


def targeted_classes(word: str, counts: Mapping[Label, int], kind: Kind) -> list[Label]:
    """Return the classes that a word names."""
    if word == "auto":
        word = "not minority" if kind == "under" else "not majority"
    minority, majority = minority_class(counts), majority_class(counts)
    if word == "minority":
        if kind == "under":
            raise SparkimbError(
                "samplingStrategy 'minority' names the smallest class, which under-sampling would leave as it is. "
                "Use 'majority', 'not minority' or 'auto'."
            )
        return [minority]
    if word == "majority":
        if kind == "over":
            raise SparkimbError(
                "samplingStrategy 'majority' names the largest class, which over-sampling would leave as it is. "
                "Use 'minority', 'not majority' or 'auto'."
            )
        return [majority]
    left_out = {"not minority": {minority}, "not majority": {majority}, "all": set()}[word]
    return [label for label in counts if label not in left_out]


def _reference_rows(counts: Mapping[Label, int], kind: Kind) -> int:
    return min(counts.values()) if kind == "under" else max(counts.values())


def _by_ratio(ratio: float, counts: Mapping[Label, int], kind: Kind) -> dict[Label, int]:
    if len(counts) != 2:
        raise SparkimbError(
            f"samplingStrategy {ratio} is a minority/majority ratio, which needs two classes; found {len(counts)}. "
            "Use a word such as 'auto', or a dict of rows by label."
        )
    minority, majority = minority_class(counts), majority_class(counts)
    if kind == "under":
        return {majority: int(counts[minority] / ratio)}
    return {minority: int(counts[majority] * ratio)}


def _by_label(strategy: Mapping[str, int], counts: Mapping[Label, int]) -> dict[Label, int]:
    found = {key: match_label(key, counts) for key in strategy}
    unknown = [key for key, label in found.items() if label is None]
    if unknown:
        raise SparkimbError(
            f"samplingStrategy names labels {unknown}, which the data does not have. "
            f"Labels are: {', '.join(repr(label) for label in counts)}."
        )
    return {label: strategy[key] for key, label in found.items() if label is not None}


def match_label(key: Any, labels: Mapping[Label, Any]) -> Label | None:
    """Find the label that a key stands for: itself, its text, or the same number."""
    for label in labels:
        if str(key).lower() == str(label).lower() if isinstance(label, bool) else str(key) == str(label):
            return label
    for label in labels:
        if not isinstance(label, str | bool) and _number(key) == label:
            return label
    return None


def _number(key: Any) -> float:
    try:
        return math.nan if isinstance(key, bool) else float(key)
    except ValueError:
        return math.nan


def _shown(strategy: Strategy) -> str:
    return repr(dict(strategy)) if isinstance(strategy, Mapping) else repr(strategy)
