"""Nearest neighbours among the rows of one task: exact, or nearly so in a fraction of the time by inverted lists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkimb.neighbors.metrics import Floats, Metric, Rows

# A block of coarse distances: 512 x 4,096 float32 numbers, 8 MB, which a core's cache holds.
BLOCK_QUERIES, BLOCK_INDEX = 512, 4096
# Rows of an inverted list: few, so that probes are fine-grained, but enough for a product of matrices to pay; in an
# index of n rows at least sqrt(n) / 2, or comparing every row with every list would take longest.
LIST_ROWS = 256
# Rows that k-means sees for each list, and its rounds: lists need not be clusters, only neighbourhoods.
KMEANS_ROWS, KMEANS_ROUNDS = 40, 5
# Queries whose true neighbours tell how many lists to probe, and the share of the neighbours that those must hold.
TUNING_QUERIES, RECALL = 256, 0.98
# Lists near a query's own that are compared with it, for each one probed.
SHORTLIST = 8
MAX_PROBES_HELD = 4_000_000  # (query, list) pairs: 100 MB


@dataclass(frozen=True)
class Nearest:
    """The neighbours of some rows, nearest first: positions int64 [q, k] and squared distances float64 [q, k]."""

    rows: Rows
    squared: Floats


def nearest(metric: Metric, queries: Rows, index: Rows, k: int, *, own: Rows | None = None, exact: bool) -> Nearest:
    """Find the k nearest index rows of each query row.

    Distances are compared in float64, and rows at one distance in the order of their positions, so an exact search has
    one answer on any machine.

    Parameters
    ----------
    queries, index : int64 array
        Positions of rows in the metric's space.
    k : int in [1, index rows)
        Where the index has fewer rows to offer, as many as it has.
    own : int64 array, optional
        The index row that each query is, or -1: it is no neighbour of itself.  By default a query's own position.
    exact : bool
        Look at every index row; else at so many inverted lists that 98 % of the neighbours of a sample are found.
    """
    own = queries if own is None else own
    most = len(index) - int(np.isin(own, index).any())
    best = _Best(metric, queries, own, max(0, min(k, most)))
    if best.rows.size == 0:
        return Nearest(best.rows, best.squared)
    if exact or len(index) <= 4 * LIST_ROWS:
        best.look_at(np.arange(len(queries)), index)
    else:
        _look_at_lists(best, index)
        lacking = np.flatnonzero(best.rows[:, -1] < 0)  # their lists held too few rows
        if len(lacking):
            found = nearest(metric, queries[lacking], index, best.rows.shape[1], own=own[lacking], exact=True)
            best.rows[lacking], best.squared[lacking] = found.rows, found.squared
    return Nearest(best.rows, best.squared)


class _Best:
    """The best k candidates so far of each query.  A row is to be looked at once."""

    def __init__(self, metric: Metric, queries: Rows, own: Rows, k: int) -> None:
        self.metric, self.queries, self.own = metric, queries, own
        self.squared = np.full((len(queries), k), np.inf)
        self.rows = np.full((len(queries), k), -1, np.int64)
        self.offset = metric.offset(queries)
        self.limit = np.full(len(queries), np.inf, np.float32)  # of coarse distances: no row beyond it is nearer

    def look_at(self, some: Rows, index: Rows) -> None:
        """Compare some queries with some rows."""
        for i in range(0, len(index), BLOCK_INDEX):
            block = index[i : i + BLOCK_INDEX]
            step = BLOCK_QUERIES * BLOCK_INDEX // len(block)
            for q in range(0, len(some), step):
                self._look_at(some[q : q + step], block)

    def _look_at(self, some: Rows, index: Rows) -> None:
        # Nothing is nearer than rows alike, and of these the first count: the many others need no look.
        some = some[(self.squared[some, -1] > 0) | (self.rows[some, -1] > index.min())]
        coarse = self.metric.coarse(self.queries[some], index)
        new = np.isinf(self.limit[some])
        if new.any():
            # The exact distances of the k + 1 nearest by coarse ones, one of which may be the query, set a limit.
            k = min(self.rows.shape[1] + 1, len(index))
            first = np.full((len(some), 1), -np.inf, np.float32)
            first[new, 0] = np.partition(coarse[new], k - 1, axis=1)[:, k - 1]
            self._offer_where(coarse <= first, some, index)
            coarse[coarse <= first] = np.nan  # within no limit
        self._offer_where(coarse <= self.limit[some][:, None], some, index)

    def _offer_where(self, chosen: Any, some: Rows, index: Rows) -> None:
        at, columns = np.divmod(np.flatnonzero(chosen), len(index))
        self._offer(some[at], index[columns])

    def _offer(self, at: Rows, rows: Rows) -> None:
        k = self.rows.shape[1]
        other = self.own[at] != rows
        at, rows = at[other], rows[other]
        squared, worst = self.metric.exact(self.queries[at], rows), self.squared[at, -1]
        # Among many rows alike most are as near as those held and come after them.
        nearer = (squared < worst) | ((squared == worst) & (rows < self.rows[at, -1]))
        at, rows, squared = at[nearer], rows[nearer], squared[nearer]
        if len(at) == 0:
            return
        touched = np.unique(at)
        squared = np.concatenate([squared, self.squared[touched].ravel()])
        rows = np.concatenate([rows, self.rows[touched].ravel()])
        at = np.concatenate([at, np.repeat(touched, k)])
        order = np.lexsort((squared, at))
        ordered = squared[order]
        if (ordered[1:] == ordered[:-1])[np.isfinite(ordered[1:])].any():  # perhaps of one query: positions decide
            order = np.lexsort((rows, squared, at))
        starts = np.searchsorted(at[order], touched)
        chosen = order[starts[:, None] + np.arange(k)]  # at least k each: those held before
        self.rows[touched], self.squared[touched] = rows[chosen], squared[chosen]
        with np.errstate(over="ignore"):  # too far for float32 is no limit
            limit = (self.squared[touched, -1] - self.offset[touched]).astype(np.float32)
        self.limit[touched] = np.nextafter(limit, np.float32(np.inf))


def _look_at_lists(best: _Best, index: Rows) -> None:
    places = best.metric.places
    lists = math.ceil(len(index) / max(LIST_ROWS, math.sqrt(len(index)) / 2))
    centres = _centres(places[index[: lists * KMEANS_ROWS]], lists)
    homes = _nearest_centres(places[index], centres)
    members = np.split(index[np.argsort(homes, kind="stable")], np.cumsum(np.bincount(homes, minlength=lists))[:-1])
    probes = _probes_wanted(best, index, homes, centres)
    near = np.argsort(_coarse(centres, centres), axis=1, kind="stable")[:, : SHORTLIST * probes]
    block = max(BLOCK_QUERIES, MAX_PROBES_HELD // probes)
    for q in range(0, len(best.queries), block):
        some = np.arange(q, min(q + block, len(best.queries)))
        probed = _probed(places[best.queries[some]], centres, near, probes)
        # A query's nearest list first, which sets a limit; then the others, list by list, as few products as can be.
        for chosen in (probed[:, :1], probed[:, 1:]):
            order = np.argsort(chosen.ravel(), kind="stable")
            visitors = np.split(
                some[order // max(chosen.shape[1], 1)], np.cumsum(np.bincount(chosen.ravel(), minlength=lists))[:-1]
            )
            for visiting, listed in zip(visitors, members, strict=True):
                best.look_at(visiting, listed)


def _probes_wanted(best: _Best, index: Rows, homes: Rows, centres: Floats) -> int:
    """Return how many lists hold the share RECALL of the true neighbours of some queries."""
    chosen = np.unique(np.linspace(0, len(best.queries) - 1, TUNING_QUERIES).astype(np.int64))
    trial = _Best(best.metric, best.queries[chosen], best.own[chosen], best.rows.shape[1])
    trial.look_at(np.arange(len(chosen)), index)
    apart = _coarse(best.metric.places[trial.queries], centres)
    home_of = np.full(int(index.max()) + 1, -1, np.int64)
    home_of[index] = homes
    of_neighbours = np.take_along_axis(apart, home_of[trial.rows], axis=1)
    ranks = (apart[:, None, :] < of_neighbours[:, :, None]).sum(axis=2)
    return int(np.quantile(ranks, RECALL, method="higher")) + 1


def _probed(places: Floats, centres: Floats, near: Rows, probes: int) -> Rows:
    """Return for each place its nearest centres [q, probes], the very nearest first."""
    homes = _nearest_centres(places, centres)
    probed = np.empty((len(places), probes), np.int64)
    order = np.argsort(homes, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(homes[order])) + 1):
        shortlist = near[homes[members[0]]]
        apart = _coarse(places[members], centres[shortlist])
        apart[:, shortlist == homes[members[0]]] = -np.inf
        chosen = np.argpartition(apart, sorted({0, min(probes, len(shortlist)) - 1}), axis=1)[:, :probes]
        probed[members] = shortlist[chosen]
    return probed


def _centres(places: Floats, lists: int) -> Floats:
    """Learn centres by some rounds of k-means (Lloyd, 1982) that begins with evenly spaced rows."""
    centres = places[np.linspace(0, len(places) - 1, lists).astype(np.int64)]
    for _ in range(KMEANS_ROUNDS):
        homes = _nearest_centres(places, centres)
        order = np.argsort(homes, kind="stable")
        found, starts = np.unique(homes[order], return_index=True)
        sums = np.add.reduceat(places[order], starts, axis=0)
        centres = centres.copy()
        centres[found] = sums / np.diff(np.append(starts, len(places)))[:, None]
    return centres


def _nearest_centres(places: Floats, centres: Floats) -> Rows:
    homes = np.empty(len(places), np.int64)
    for i in range(0, len(places), BLOCK_INDEX):
        homes[i : i + BLOCK_INDEX] = np.argmin(_coarse(places[i : i + BLOCK_INDEX], centres), axis=1)
    return homes


def _coarse(places: Floats, centres: Floats) -> Floats:
    """Return squared distances less a number for each place."""
    found: Floats = np.einsum("ij,ij->i", centres, centres) - 2.0 * (places @ centres.T)
    return found
