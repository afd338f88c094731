"""A tree of cuts through space: the cells in which large classes are searched, and who visits a neighbouring cell.

A row's home is the cell it lies in.  A row near a cut also visits the cell beyond it, to be found there as a neighbour
(Liu, Moore, Gray and Yang, "An investigation of practical approximate nearest neighbor algorithms", NIPS 2004).  So a
cell alone answers for its home rows, and no answers need merging.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkimb.neighbors.kernel import nearest
from sparkimb.neighbors.metrics import Euclidean, Floats, Rows

# How far beyond a cut a row's neighbours may lie: so far lie this share of the neighbours of a sample's rows.
MARGIN_SHARE = 0.99
# The most rows of a cell that may visit another, per cut: in many dimensions without clusters every row is near a cut.
MAX_VISITING = 0.25
# Where a cut may go, as shares of a cell's rows: where the fewest are near it.
CUT_LOW, CUT_HIGH, CUTS_TRIED = 0.35, 0.65, 31
POWER_ROUNDS = 20  # of power iteration, towards the direction in which a cell is longest: any long one does
MARGIN_QUERIES = 2_000  # rows whose neighbours in the sample tell the margins


@dataclass(frozen=True)
class Cells:
    """Cuts, each a direction and a threshold with a margin, and what lies below and above: a cut, or ~cell.

    Parameters
    ----------
    directions : float64 array [cuts, e]
        Of length 1.
    thresholds, margins : float64 array [cuts]
    sides : int64 array [cuts, 2]
    """

    directions: Floats
    thresholds: Floats
    margins: Floats
    sides: Rows

    @property
    def number(self) -> int:
        """How many cells there are."""
        return len(self.thresholds) + 1

    @classmethod
    def learn(cls, places: Floats, *, k: int, rows: int, max_rows: int) -> Cells:
        """Cut a sample of `rows` rows until no cell holds more than `max_rows` of them, visitors included."""
        everything = np.arange(len(places))
        queries = everything[:MARGIN_QUERIES]
        metric = Euclidean(places, np.zeros(places.shape[1]), np.ones(places.shape[1]))
        neighbours = nearest(metric, queries, everything, k, exact=True).rows
        cuts: list[tuple[Floats, float, float]] = []
        sides: list[list[int]] = []
        cells = 0

        def grow(home: Rows, visiting: Rows) -> int:
            nonlocal cells
            if (len(home) + len(visiting)) * rows <= max_rows * len(places) or len(home) < 2 * (k + 1):
                cells += 1
                return ~(cells - 1)
            direction = _longest_direction(places[home])
            along = _along(places, direction)
            if np.ptp(along[home]) == 0:  # rows alike cannot be cut apart
                cells += 1
                return ~(cells - 1)
            inside = np.intersect1d(home, queries, assume_unique=True)
            spread = np.abs(along[inside][:, None] - along[neighbours[inside]]).ravel()
            threshold, margin = _cut(along[home], spread)
            node = len(cuts)
            cuts.append((direction, threshold, margin))
            sides.append([0, 0])
            below, met = along < threshold, np.abs(along - threshold) <= margin
            for side, here in enumerate((below, ~below)):
                guests = np.concatenate([visiting[(here | met)[visiting]], home[(~here & met)[home]]])
                sides[node][side] = grow(home[here[home]], guests)
            return node

        grow(everything, everything[:0])
        directions = np.array([direction for direction, _, _ in cuts]).reshape(len(cuts), places.shape[1])
        ends = np.array([ends for _, *ends in cuts]).reshape(len(cuts), 2)
        return cls(directions, ends[:, 0], ends[:, 1], np.array(sides, np.int64).reshape(len(cuts), 2))

    def route(self, places: Floats) -> tuple[Rows, Rows, Any]:
        """Send rows to cells: return the rows, the cell of each, and whether it is the row's home."""
        found: list[tuple[Rows, int, Any]] = []
        waiting = [(0 if len(self.thresholds) else ~0, np.arange(len(places)), np.ones(len(places), bool))]
        while waiting:
            node, rows, home = waiting.pop()
            if node < 0:
                found.append((rows, ~node, home))
                continue
            beyond = _along(places[rows], self.directions[node]) - np.float32(self.thresholds[node])
            below, met = beyond < 0, np.abs(beyond) <= np.float32(self.margins[node])
            for side, here in zip(self.sides[node], (below, ~below), strict=True):
                sent = here | met
                waiting.append((int(side), rows[sent], (home & here)[sent]))
        rows = np.concatenate([rows for rows, _, _ in found])
        cells = np.concatenate([np.full(len(rows), cell) for rows, cell, _ in found])
        return rows, cells, np.concatenate([home for _, _, home in found])

    def border_distances(self, places: Floats) -> Floats:
        """Return how far each row is from the nearest cut that bounds its home cell, in the units of the places."""
        nearest_cut = np.full(len(places), np.inf)
        waiting = [(0 if len(self.thresholds) else ~0, np.arange(len(places)))]
        while waiting:
            node, rows = waiting.pop()
            if node >= 0:
                beyond = _along(places[rows], self.directions[node]) - np.float32(self.thresholds[node])
                nearest_cut[rows] = np.minimum(nearest_cut[rows], np.abs(beyond))
                waiting += [(int(self.sides[node][0]), rows[beyond < 0]), (int(self.sides[node][1]), rows[beyond >= 0])]
        return nearest_cut

    def to_json(self) -> list[Any]:
        """Return lists of numbers."""
        return [part.tolist() for part in (self.directions, self.thresholds, self.margins, self.sides)]

    @classmethod
    def from_json(cls, parts: list[Any]) -> Cells:
        """Read what `to_json` wrote."""
        directions, thresholds, margins, sides = (np.array(part) for part in parts)
        return cls(directions, thresholds, margins, sides)


def _along(places: Floats, direction: Floats) -> Floats:
    """Return how far rows lie along a direction."""
    # Not a product of matrices: its rounding depends on what other rows there are, and a row would change its cell.
    along: Floats = np.einsum("ij,j->i", places, direction.astype(np.float32))
    return along


def _longest_direction(places: Floats) -> Floats:
    """Return the direction of about the largest variance, a vector of length 1."""
    centred = (places - places.mean(axis=0)).astype(np.float64)
    direction = np.zeros(places.shape[1])
    direction[np.argmax(centred.var(axis=0))] = 1.0
    for _ in range(POWER_ROUNDS):
        turned = centred.T @ (centred @ direction)
        length = float(np.linalg.norm(turned))
        if length == 0.0:
            break
        direction = turned / length
    return direction


def _cut(along: Floats, spread: Floats) -> tuple[float, float]:
    """Return the threshold that the fewest rows are near, and the margin."""
    margin = float(np.quantile(spread, MARGIN_SHARE)) if len(spread) else 0.0
    ordered = np.sort(along)
    lowest = ordered[ordered > ordered[0]][0]  # some row is to lie below, even where most are alike
    thresholds = np.maximum(np.quantile(ordered, np.linspace(CUT_LOW, CUT_HIGH, CUTS_TRIED)), lowest)

    def near(threshold: float, margin: float) -> int:
        ends = np.searchsorted(ordered, [threshold - margin, threshold + margin])
        return int(ends[1] - ends[0])

    threshold = float(min(thresholds, key=lambda t: (near(t, margin), abs(t - np.median(along)))))
    if near(threshold, margin) > MAX_VISITING * len(along):
        margin = float(np.quantile(np.abs(along - threshold), MAX_VISITING))
    return threshold, margin
