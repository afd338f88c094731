"""Distances between rows: a coarse one by matrix products, never too large, and the exact one for few pairs."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[Any]
Rows: TypeAlias = NDArray[np.int64]

ROUNDING = 2.0**-24  # of float32
# Places end here, as their squares must not overflow.  That brings rows nearer to each other, never apart.
FARTHEST = 2.0**50
UNDERFLOW = 2.0**-120  # more than float32 products and sums lose that come out too small for it
EXACT_NUMBERS = 2**20  # numbers subtracted at a time: 8 MB, which a core's cache holds


class Metric(Protocol):
    """Rows of one task in a space, and the squared distances between them."""

    @property
    def places(self) -> Floats:
        """Float32 [n, e]: places whose Euclidean distances are near enough to the metric's to look for rows by them."""

    def coarse(self, left: Rows, right: Rows) -> Floats:
        """Return float32 [left, right]: squared distances less `offset` of the left row, rounding always downwards."""

    def offset(self, left: Rows) -> Floats:
        """Return float64 [left]: what `coarse` leaves out."""

    def exact(self, left: Rows, right: Rows) -> Floats:
        """Return float64 [pairs]: the squared distance of each left row to the right row beside it."""


class Euclidean:
    """Distances of numbers divided by their features' scales; a missing number is at its feature's centre.

    Parameters
    ----------
    values : float array [n, d]
        float32 or float64; NaN and infinities are missing.
    center, scale : float64 array [d]
        scale in (0, inf).
    """

    def __init__(self, values: Floats, center: Floats, scale: Floats) -> None:
        found = np.isfinite(values)
        self.values = values if found.all() else np.where(found, values, center.astype(values.dtype))
        self.scale = scale
        self.places = np.clip((self.values - center) / scale, -FARTHEST, FARTHEST).astype(np.float32)
        self.norms = np.einsum("ij,ij->i", self.places, self.places, dtype=np.float64)
        # A product of d + 1 float32 numbers is off by at most (d + 1) roundings of |x|^2 + |y|^2; each place by one.
        self.slack = 2.0 * (values.shape[1] + 8) * ROUNDING
        lowered = ((1.0 - self.slack) * self.norms - UNDERFLOW).astype(np.float32)
        self._right = np.column_stack([-2.0 * self.places, lowered])

    def coarse(self, left: Rows, right: Rows) -> Floats:
        """Return |y|^2 - 2 x y, one matrix product."""
        product: Floats = np.column_stack([self.places[left], np.ones(len(left), np.float32)]) @ self._right[right].T
        return product

    def offset(self, left: Rows) -> Floats:
        """Return |x|^2."""
        lowered: Floats = (1.0 - self.slack) * self.norms[left]
        return lowered

    def exact(self, left: Rows, right: Rows) -> Floats:
        """Return the squared distances in float64."""
        squared = np.empty(len(left))
        step = max(1, EXACT_NUMBERS // max(1, self.values.shape[1]))
        for i in range(0, len(left), step):
            some = slice(i, i + step)
            apart = (self.values[left[some]].astype(np.float64) - self.values[right[some]]) / self.scale
            squared[some] = np.einsum("ij,ij->i", apart, apart)
        return squared
