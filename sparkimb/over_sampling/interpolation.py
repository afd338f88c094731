"""Rows made on the line through a row and one of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from sparkimb.draws import uniform_numbers
from sparkimb.neighbors.metrics import Floats, Rows
from sparkimb.neighbors.search import Batches, Unit
from sparkimb.neighbors.spaces import feature_matrix
from sparkimb.over_sampling.synthesis import Layout, made_rows

GapRule: TypeAlias = Callable[[Unit, Rows, Rows, Floats], Floats]  # of parents, neighbours and draws in [0, 1)


def anywhere(unit: Unit, parents: Rows, others: Rows, draws: Floats) -> Floats:
    """Return gaps in [0, 1)."""
    return draws


def make_between(unit: Unit, *, k: Sequence[int], seed: int, sampler: str, gap: GapRule, layout: Layout) -> Batches:
    """Make rows between each home row that is to have some and one of its k nearest in the unit, where `gap` says.

    Parameters
    ----------
    k : list of int
        By group.
    sampler : str
        Whose draws they are.
    gap : function
        From the unit, parents, neighbours and draws in [0, 1) to gaps: 0 is the parent's place, 1 the neighbour's.
    """
    values = feature_matrix(unit.table)
    queries = np.flatnonzero(unit.home & (unit.column("copies") > 0))
    neighbors = unit.nearest(queries, unit.index, k[unit.group]).rows
    if neighbors.shape[1] == 0:  # alone in its unit
        neighbors = queries[:, None]
    for at, keys, counters in made_rows(unit, queries):
        chosen = uniform_numbers(keys, counters, seed=seed, purpose=f"{sampler}.neighbor") * neighbors.shape[1]
        parents, others = queries[at], neighbors[at, chosen.astype(np.int64)]
        gaps = gap(unit, parents, others, uniform_numbers(keys, counters, seed=seed, purpose=f"{sampler}.gap"))
        yield layout.batch(unit, between(values[parents], values[others], gaps), parents, others, gaps)


def between(rows: Floats, others: Floats, gaps: Floats) -> Floats:
    """Return the points at `gaps` of the ways from rows to others; where one of the two is missing, the other."""
    with np.errstate(invalid="ignore"):  # infinities are missing, too
        made: Floats = rows + gaps.astype(rows.dtype)[:, None] * (others - rows)
    if not np.isfinite(made).all():
        known, theirs = np.isfinite(rows), np.isfinite(others)
        made = np.where(known & theirs, made, np.where(known, rows, np.where(theirs, others, np.nan)))
    return made
