"""A share of rows that forgets: each row of a stream counts less with every later one."""

from __future__ import annotations

import math
from dataclasses import dataclass


def fade(rows: int, fading: float) -> tuple[float, float]:
    """Return what is left of older rows' weight after so many rows, and the weight of these rows together.

    A row weighs 1 when it comes, and each later one multiplies that by `fading`, in (0, 1] [1]_.

    References
    ----------
    .. [1] Gama, Sebastião, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013, 317-346.
    """
    if fading == 1.0:
        return 1.0, float(rows)
    return fading**rows, -math.expm1(rows * math.log(fading)) / (1.0 - fading)


@dataclass(frozen=True)
class FadedShare:
    """The share of hits among rows of which older ones count less.

    Spark does not say in which order the rows of a batch came, so n rows with s hits move the sums by the mean over all
    orders; for one row that is the rule itself.

    Parameters
    ----------
    hits, weight : float
        Decayed number of hits and of rows.
    squares : float
        Sum of the squared weights of the rows: how far chance can move the share.
    """

    hits: float = 0.0
    weight: float = 0.0
    squares: float = 0.0

    @property
    def value(self) -> float:
        """The share, in [0, 1], after the first row."""
        return min(self.hits / self.weight, 1.0)  # a share of 1 may end a bit above

    @property
    def effective(self) -> float:
        """Rows of equal weight whose share would vary as much by chance, in [1, inf)."""
        return self.weight * self.weight / self.squares

    def after(self, rows: int, hits: int, fading: float) -> FadedShare:
        """Return the share after so many rows more."""
        if not rows:
            return self
        kept, weight = fade(rows, fading)
        return FadedShare(
            kept * self.hits + weight * (hits / rows),
            kept * self.weight + weight,
            kept * kept * self.squares + weight * weight / rows,
        )

    def to_json(self) -> list[float]:
        """Return what JSON can hold."""
        return [self.hits, self.weight, self.squares]

    @classmethod
    def from_json(cls, state: list[float]) -> FadedShare:
        """Read what `to_json` wrote."""
        return cls(*state)
