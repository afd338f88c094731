"""Rows of classes so rare that a window may have none: kept in memory, and dealt to the ranks anew in each epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sparkimb.errors import NotEnoughSamplesError
from sparkimb.feed.blocks import join, take
from sparkimb.feed.engine import Block, Engine, row_groups
from sparkimb.feed.epochs import generator
from sparkimb.feed.manifest import Manifest

# A window can be a quarter of its usual size, which leaves 8 rows: too many for chance to spare, and still few to keep.
MIN_ROWS_IN_WINDOW = 32


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


def read_pool(engine: Engine, manifest: Manifest, codes: tuple[int, ...]) -> dict[int, Block]:
    """Read all rows of some classes, in the files' order."""
    wanted = [
        group for group in row_groups(manifest) if any(manifest.shards[group.shard].counts[code] for code in codes)
    ]
    found: dict[int, list[Block]] = {code: [] for code in codes}
    for block in engine.read(wanted):
        for code in codes:
            if len(rows := np.flatnonzero(block.codes == code)):
                found[code].append(take(block, rows))
    return {code: join(blocks) for code, blocks in found.items()}


def rank_pool(pool: Mapping[int, Block], *, seed: int, epoch: int, rank: int, world_size: int) -> dict[int, Block]:
    """Return the rows that a rank draws from in an epoch: each class's are dealt to the ranks in random order."""
    dealt = {}
    for code, block in pool.items():
        order = generator(seed, epoch, "share", code).permutation(len(block.codes))
        dealt[code] = take(block, np.sort(order[rank::world_size]))
    return dealt
