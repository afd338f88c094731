"""Which rows a rank reads in an epoch, and in what order: pure functions of the manifest, the seed, epoch and rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import RowGroup

Purpose = Literal["order", "window", "mix", "pool", "share"]

_PURPOSES: tuple[Purpose, ...] = ("order", "window", "mix", "pool", "share")


class Piece(NamedTuple):
    """Rows [start, stop) of a row group: all but at the two ends of a rank's rows."""

    row_group: RowGroup
    start: int
    stop: int


class Window(NamedTuple):
    """Pieces read together and shuffled together: rows [start, stop) of the rank's rows of the epoch."""

    number: int
    pieces: tuple[Piece, ...]
    start: int
    stop: int


def generator(seed: int, epoch: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return the generator of one purpose in one epoch; those of different purposes or numbers are independent."""
    return np.random.default_rng((seed, epoch, _PURPOSES.index(purpose), *numbers))


def rows_per_rank(row_groups: Sequence[RowGroup], world_size: int) -> int:
    """Return the rows of a rank in an epoch, the same for each; up to world_size - 1 rows are left out.

    Raises
    ------
    SparkimbError
        If there are more ranks than row groups, or than rows.
    """
    rows = sum(group.rows for group in row_groups)
    if len(row_groups) < world_size:
        raise SparkimbError(
            f"world_size is {world_size}, but the training set has only {len(row_groups)} row groups ({rows} rows). "
            "Materialize it with smaller row groups, several for each rank, or train on fewer ranks."
        )
    return rows // world_size


def rank_pieces(
    row_groups: Sequence[RowGroup], *, seed: int, epoch: int, rank: int, world_size: int
) -> tuple[Piece, ...]:
    """Return what a rank reads in an epoch.

    The row groups in a random order of the epoch are one sequence of rows, and each rank has a contiguous range of it,
    all of one length.  A row group across a border is read by both ranks, and each takes its own rows.
    """
    n = rows_per_rank(row_groups, world_size)
    first, last = rank * n, (rank + 1) * n
    pieces, begin = [], 0
    for i in generator(seed, epoch, "order").permutation(len(row_groups)):
        group = row_groups[i]
        start, stop = max(first - begin, 0), min(last - begin, group.rows)
        if start < stop:
            pieces.append(Piece(group, start, stop))
        begin += group.rows
    return tuple(pieces)


def windows(pieces: Sequence[Piece], rows: int) -> list[Window]:
    """Divide a rank's pieces into windows of about as many rows, cut between pieces; each piece is one where rows is 0.

    Windows are of at most 2 · rows and a row group, and none is less than a quarter of rows, unless all are.
    """
    ends = np.cumsum([piece.stop - piece.start for piece in pieces])
    cuts = _even_cuts(ends, rows) if rows else range(1, len(pieces))
    bounds = [0, *cuts, len(pieces)]
    starts = [0, *(int(ends[cut - 1]) for cut in bounds[1:])]
    return [
        Window(i, tuple(pieces[bounds[i] : bounds[i + 1]]), starts[i], starts[i + 1]) for i in range(len(bounds) - 1)
    ]


def _even_cuts(ends: np.ndarray[tuple[int], np.dtype[np.int64]], rows: int) -> list[int]:
    """Return the numbers of pieces before each cut, the cuts nearest to even ones."""
    total = int(ends[-1])
    n = -(-total // rows)
    step = total / n
    cuts, before = [], 0
    for k in range(1, n):
        cut = int(np.abs(ends - k * step).argmin())
        # The first and last pieces can be a few rows, which would make a window of their own.
        if ends[cut] - before >= step / 2 and total - ends[cut] >= step / 2:
            cuts.append(cut + 1)
            before = int(ends[cut])
    return cuts
