"""Shares of classes in batches: each batch rounded down or up, exact in the long run, rows drawn equally often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed.data import write_training_set
from hypothesis import given
from hypothesis import strategies as st

from sparkimb.errors import SparkimbError
from sparkimb.feed.manifest import Manifest
from sparkimb.feed.mixes import EvenDraws, batch_counts, class_shares

shares = st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda s: sum(s) > 0.01).map(np.array)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path: Path = tmp_path_factory.mktemp("mixes") / "set"
    write_training_set(path, (640, 350, 10, 0))
    return Manifest.read(str(path))


@given(shares, st.integers(1, 70), st.integers(1, 300), st.integers(0, 9))
def test_every_batch_has_each_class_rounded_down_or_up(weights: np.ndarray, size: int, steps: int, epoch: int) -> None:
    share = weights / weights.sum()
    sizes = np.full(steps, size)
    sizes[-1] = max(1, size // 2)
    counts = batch_counts(share, sizes, first=0, seed=1, epoch=epoch)
    assert (counts.sum(axis=1) == sizes).all()
    assert (counts >= 0).all()
    assert (np.abs(counts - sizes[:, None] * share) < 1 + 1e-6).all()
    # The discrepancy of multiples of the golden ratio in an interval, twice for its two ends.
    assert (np.abs((counts - sizes[:, None] * share).sum(axis=0)) < 4 + np.log(steps)).all()


@given(st.integers(0, 50), st.integers(1, 50))
def test_counts_do_not_depend_on_where_a_window_begins(first: int, steps: int) -> None:
    share = np.array([0.7, 0.2, 0.1])
    whole = batch_counts(share, np.full(100, 16), first=0, seed=3, epoch=2)
    part = batch_counts(share, np.full(steps, 16), first=first, seed=3, epoch=2)
    assert (whole[first : first + steps] == part).all()


@given(st.integers(1, 30), st.lists(st.integers(0, 80), max_size=6))
def test_draws_are_even(rows: int, takes: list[int]) -> None:
    draws = EvenDraws(np.arange(100, 100 + rows), np.random.default_rng(0))
    parts = [draws.take(n) for n in takes]
    assert [len(part) for part in parts] == takes
    drawn = np.bincount(np.concatenate([*parts, np.zeros(0, int)]).astype(int), minlength=100 + rows)[100:]
    assert drawn.max() - drawn.min() <= 1


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("natural", None),
        ("sqrt", np.sqrt([640, 350, 10, 0]) / np.sqrt([640, 350, 10, 0]).sum()),
        ({0: 0.5, 1: 0.25, 2: 0.25, 3: 0}, [0.5, 0.25, 0.25, 0]),
    ],
)
def test_shares(balance: Any, expected: Any, manifest: Manifest) -> None:
    found = class_shares(balance, manifest)
    assert (found is None) if expected is None else np.allclose(found, expected)


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ("even", "balance is 'even'. Use one of natural, uniform, sqrt, weight, or the share of each label"),
        ("uniform", "no rows of 3. Give the shares of the classes by label"),
        ("weight", "no weight column"),
        ({0: 0.5, 1: 0.5}, "names the labels 0, 1, and the training set has 0, 1, 2, 3"),
        ({0: 0.5, 1: 0.5, 2: 0.5, 3: 0}, "must be 0 or more and sum to 1"),
        ({0: float("nan"), 1: 0.5, 2: 0.5, 3: 0}, "must be 0 or more and sum to 1"),
    ],
)
def test_shares_that_cannot_be_met(balance: Any, message: str, manifest: Manifest) -> None:
    with pytest.raises(SparkimbError, match=message):
        class_shares(balance, manifest)
