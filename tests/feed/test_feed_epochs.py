"""Which rows each rank reads: all ranks as many, none twice, whatever the row groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import RowGroup
from sparkimb.feed.epochs import Piece, rank_pieces, windows

sizes = st.lists(st.integers(1, 40), min_size=4, max_size=30)


def groups(rows: list[int]) -> list[RowGroup]:
    return [RowGroup(i // 3, i % 3, n) for i, n in enumerate(rows)]


def rows_of(pieces: tuple[Piece, ...]) -> set[tuple[int, int, int]]:
    return {(p.row_group.shard, p.row_group.group, row) for p in pieces for row in range(p.start, p.stop)}


@given(sizes, st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_ranks_have_as_many_rows_and_none_in_common(rows: list[int], world_size: int, seed: int, epoch: int) -> None:
    shares = [
        rows_of(rank_pieces(groups(rows), seed=seed, epoch=epoch, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {sum(rows) // world_size}
    assert len(set().union(*shares)) == sum(rows) // world_size * world_size


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(p.row_group for p in rank_pieces(groups([10] * 12), seed=seed, epoch=epoch, rank=0, world_size=1))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_more_ranks_than_row_groups_are_refused() -> None:
    with pytest.raises(SparkimbError, match=r"world_size is 5, but .* only 4 row groups .* smaller row groups"):
        rank_pieces(groups([10] * 4), seed=0, epoch=0, rank=0, world_size=5)


@given(sizes, st.integers(1, 200))
def test_windows_are_of_about_the_rows_asked_for(rows: list[int], wanted: int) -> None:
    pieces = rank_pieces(groups(rows), seed=0, epoch=0, rank=0, world_size=1)
    made = windows(pieces, wanted)
    assert tuple(piece for window in made for piece in window.pieces) == pieces
    ends = np.cumsum([sum(p.stop - p.start for p in window.pieces) for window in made])
    assert [window.stop for window in made] == ends.tolist()
    assert [window.start for window in made] == [0, *ends[:-1]]
    for window in made:
        assert window.stop - window.start <= 2 * wanted + max(rows)
        assert window.stop - window.start >= min(wanted, sum(rows)) / 4


def test_without_a_window_every_piece_is_one() -> None:
    pieces = rank_pieces(groups([10] * 6), seed=0, epoch=0, rank=0, world_size=1)
    assert [window.pieces for window in windows(pieces, 0)] == [(piece,) for piece in pieces]
