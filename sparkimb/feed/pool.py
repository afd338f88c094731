"""Rows of classes so rare that a window may have none: kept in memory, and dealt to the ranks anew in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparkimb.errors import NotEnoughSamplesError
from sparkimb.feed.blocks import join, take
from sparkimb.feed.engine import Block, Engine, row_groups
from sparkimb.feed.epochs import generator
from sparkimb.feed.manifest import Manifest

# A window can be a quarter of its usual size, which leaves 8 rows: too many for chance to spare, and still few to keep.
MIN_ROWS_IN_WINDOW = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Rows in memory, and which of them are each class's."""

    block: Block
    rows: Mapping[int, NDArray[np.int64]]


def rare_classes(
    manifest: Manifest, shares: NDArray[np.float64], *, window_rows: int, world_size: int
) -> tuple[int, ...]:
    """Return the codes of classes that are due and have fewer rows in a window than `MIN_ROWS_IN_WINDOW` on average.

    Raises
    ------
    NotEnoughSamplesError
        If one of them has fewer rows than there are ranks.
    """
    rare = [
        code
        for code, n in enumerate(manifest.counts)
        if shares[code] and n * window_rows < MIN_ROWS_IN_WINDOW * manifest.rows
    ]
    for code in rare:
        if (n := manifest.counts[code]) < world_size:
            raise NotEnoughSamplesError(
                f"Class {manifest.labels[code]!r} has {n} rows, fewer than the {world_size} ranks: one rank would have "
                "none. Train on fewer ranks, or give the class a share of 0."
            )
    return tuple(rare)


def read_pool(engine: Engine, manifest: Manifest, codes: tuple[int, ...]) -> Pool:
    """Read all rows of some classes, in the files' order."""
    groups = [group for group in row_groups(manifest) if any(manifest.shards[group.shard].counts[c] for c in codes)]
    block = join([take(block, np.flatnonzero(np.isin(block.codes, codes))) for block in engine.read(groups)])
    return Pool(block=block, rows={code: np.flatnonzero(block.codes == code) for code in codes})


def rank_pool(pool: Pool, *, seed: int, epoch: int, rank: int, world_size: int) -> Pool:
    """Return what a rank draws from in an epoch: each class's rows are dealt to the ranks in random order."""
    dealt = {
        code: generator(seed, epoch, "share", code).permutation(rows)[rank::world_size]
        for code, rows in pool.rows.items()
    }
    return Pool(block=pool.block, rows=dealt)
