"""Windows of rows, read one ahead, and the batches cut from them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import GEN_RUNNING, getgeneratorstate
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparkimb.errors import SparkimbError
from sparkimb.feed.blocks import cut, gather, interleave, join, take
from sparkimb.feed.engine import Block, Engine
from sparkimb.feed.epochs import Window
from sparkimb.feed.manifest import Manifest
from sparkimb.feed.orders import Order
from sparkimb.feed.pool import Pool
from sparkimb.feed.read_ahead import read_ahead
from sparkimb.feed.tally import Tally


class _Drawn(NamedTuple):
    """Rows [first, last) of those drawn in an epoch: the window's by order, and the pool's, numbered on from them.

    Where the order is None, they are the window's in turn.
    """

    first: int
    last: int
    block: Block
    order: NDArray[np.int64] | None
    pool: Pool | None
    buffer: NDArray[np.float32] | None

    def rows(self, start: int, stop: int) -> Block:
        start, stop = start - self.first, stop - self.first
        if self.order is None:
            return gather([cut(self.block, start, stop)], stop - start)
        index = self.order[start:stop]
        return take(self.block, index) if self.pool is None else interleave(self.block, self.pool.block, index)


@dataclass(kw_only=True, eq=False)
class WindowReader:
    """Reads windows: one in use, one being read; their memory is used again, from epoch to epoch.

    Attributes
    ----------
    capacity : int
        The most rows that a window has.
    timeout : float
        The longest wait for a row group, in seconds.
    """

    engine: Engine
    manifest: Manifest
    capacity: int
    timeout: float

    def __post_init__(self) -> None:
        self._free: list[NDArray[np.float32]] = []

    def batches(
        self, windows: Sequence[Window], order: Order, *, first: int, last: int, batch_size: int
    ) -> Generator[Block, None, None]:
        """Yield batches of rows [first, last) of those drawn in an epoch; windows of rows before them are not read.

        Raises
        ------
        SparkimbError
            For what the engine and the tally refuse, and for a wait that is too long.
        """
        todo = []
        for window in windows:
            begin, end = order.span(window)
            if begin < end and end > first:
                todo.append(window)
            else:
                order.skip(window)
        blocks = self.engine.read([piece.row_group for window in todo for piece in window.pieces])
        tally = Tally(self.manifest)
        left = Event()

        def pieces(window: Window) -> Iterator[Block]:
            for piece in window.pieces:
                group = piece.row_group
                if left.is_set() or (block := next(blocks, None)) is None:
                    file = self.manifest.shards[group.shard].file
                    raise SparkimbError(f"Reading ended before row group {group.group} of '{file}'.")
                tally.add(group, block)
                yield cut(block, piece.start, piece.stop)

        loaded = read_ahead(
            lambda window: self._load(window, pieces(window), order),
            todo,
            workers=1,
            # The engine's own error should come first: it knows the file.
            timeout=self.timeout * (1 + max(len(window.pieces) for window in todo)),
            describe=lambda window: f"Reading {len(window.pieces)} row groups",
        )
        try:
            yield from self._cut(loaded, first, last, batch_size)
        finally:
            left.set()
            loaded.close()
            # Else a thread that is stuck runs it, and ends the read when it comes back.
            if getgeneratorstate(blocks) != GEN_RUNNING:
                blocks.close()

    def _load(self, window: Window, pieces: Iterator[Block], order: Order) -> _Drawn:
        if order.in_turn:  # then a window is one row group, and is copied as batches are cut from it
            return _Drawn(*order.span(window), next(pieces), None, None, None)
        buffer = None
        if self.manifest.layout != "bytes":
            buffer = self._free.pop() if self._free else np.empty((self.capacity, self.manifest.width), np.float32)
        block = gather(pieces, window.stop - window.start, buffer)
        return _Drawn(*order.span(window), block, order.draw(window, block), order.pool, buffer)

    def _cut(self, windows: Iterable[_Drawn], first: int, last: int, size: int) -> Generator[Block, None, None]:
        """Yield the rows of batches of one size; those across two windows have some of both."""
        parts: list[Block] = []
        at, end = first, min(first + size, last)
        for window in windows:
            while at < window.last:
                to = min(end, window.last)
                parts.append(window.rows(at, to))
                at = to
                if at == end:
                    yield join(parts)
                    parts, end = [], min(end + size, last)
            if window.buffer is not None:
                self._free.append(window.buffer)
