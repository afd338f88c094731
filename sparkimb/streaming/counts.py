"""Class sizes of a stream that forget: what came long ago counts less than what came of late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparkimb.strategy import Label

# A class whose share falls below this is forgotten: it would weigh less than one row in 10^12.
FORGOTTEN = 1e-12


@dataclass(frozen=True)
class DecayedCounts:
    """How many rows have come, and the decayed size of each class.

    A row that comes moves every size towards its own class: w <- θ w + (1 - θ) [the row is of the class], with
    θ = 2^(-1 / halfLife) [1]_.  Spark does not say in which order the rows of a batch came, so a batch of n rows, n_c
    of them of class c, moves the sizes by the mean of that over all orders: w <- θ^n w + (1 - θ^n) n_c / n.

    Parameters
    ----------
    rows : int
        Rows since the start.
    sizes : dict
        Decayed size in (0, 1] of each class, in the order of their texts.  They sum up to 1 - θ^rows.

    References
    ----------
    .. [1] Wang, Minku, Yao, "Resampling-Based Ensemble Methods for Online Class Imbalance Learning", TKDE 27(5), 2015.
    """

    rows: int = 0
    sizes: dict[Label, float] = field(default_factory=dict)

    @property
    def shares(self) -> dict[Label, float]:
        """Share of each class, in (0, 1]: the sizes without the bias of the first rows."""
        total = sum(self.sizes.values())
        return {label: size / total for label, size in self.sizes.items()}

    @property
    def largest(self) -> Label | None:
        """The class of the largest size; None where there is none."""
        return max(self.sizes, key=lambda label: self.sizes[label], default=None)

    def after(self, counts: Mapping[Label, int], halfLife: float) -> DecayedCounts:
        """Return the counts after a batch with so many rows of each class."""
        n = sum(counts.values())
        if not n:
            return self
        kept = 2.0 ** (-n / halfLife)
        labels = sorted({*self.sizes, *counts}, key=lambda label: (str(label), str(type(label))))
        sizes = {c: kept * self.sizes.get(c, 0.0) + (1.0 - kept) * (counts.get(c, 0) / n) for c in labels}
        return DecayedCounts(self.rows + n, {c: size for c, size in sizes.items() if size > FORGOTTEN})

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"rows": self.rows, "sizes": [[label, size] for label, size in self.sizes.items()]}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> DecayedCounts:
        """Read what `to_json` wrote."""
        return cls(state["rows"], dict(state["sizes"]))


def row_size(halfLife: float) -> float:
    """Return what one row adds to the size of its class when it comes."""
    return -math.expm1(-math.log(2.0) / halfLife)
