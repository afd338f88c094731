"""The classes of a batch: their shares, their rows in every batch, and draws that use each row equally often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparkimb.errors import SparkimbError
from sparkimb.feed.epochs import generator
from sparkimb.feed.manifest import Label, Manifest

Balance: TypeAlias = Literal["natural", "uniform", "sqrt", "weight"] | Mapping[Label, float]

NAMES = ("natural", "uniform", "sqrt", "weight")

# Multiples of it modulo 1 are spread more evenly than those of any other number.
GOLDEN_RATIO = (5**0.5 - 1) / 2


def class_shares(balance: Balance, manifest: Manifest) -> NDArray[np.float64] | None:
    """Return each class's share of every batch, by code; None for "natural" and "weight", which have none.

    Raises
    ------
    SparkimbError
        For an unknown name, shares that do not name every class or do not sum to 1, a class that is due but has no
        rows, "weight" without a weight column.
    """
    counts = np.array(manifest.counts, dtype=float)
    if isinstance(balance, Mapping):
        shares = _named_shares(balance, manifest)
    elif balance == "uniform":
        shares = np.ones(len(counts))
    elif balance == "sqrt":
        shares = np.sqrt(counts)
    elif balance == "weight" and manifest.weight is None:
        raise SparkimbError(
            "balance is 'weight', but the training set has no weight column. Materialize it with one, or use 'uniform'."
        )
    elif balance in NAMES:
        return None
    else:
        raise SparkimbError(f"balance is {balance!r}. Use one of {', '.join(NAMES)}, or the share of each label.")
    if empty := [label for label, n, share in zip(manifest.labels, counts, shares, strict=True) if share and not n]:
        raise SparkimbError(
            f"balance is {balance!r}, but the training set has no rows of {_named(empty)}. Give the shares of the "
            "classes by label, 0 for those without rows."
        )
    shares /= shares.sum()
    return shares


def _named_shares(balance: Mapping[Label, float], manifest: Manifest) -> NDArray[np.float64]:
    if set(balance) != set(manifest.labels):
        raise SparkimbError(
            f"balance names the labels {_named(list(balance))}, and the training set has {_named(manifest.labels)}. "
            "Give each of these its share."
        )
    shares = np.array([balance[label] for label in manifest.labels], dtype=float)
    if not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise SparkimbError(f"balance has the shares {shares.tolist()}. They must be 0 or more and sum to 1.")
    return shares


def _named(labels: list[Label] | tuple[Label, ...]) -> str:
    return ", ".join(repr(label) for label in labels)


def batch_counts(
    shares: NDArray[np.float64], sizes: NDArray[np.int64], *, first: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the rows of each class in consecutive batches: its share of the batch, rounded down or up.

    Parameters
    ----------
    shares : ndarray [classes]
    sizes : ndarray [batches]
        Rows of each batch.
    first : int
        The first batch's number in the epoch.

    Returns
    -------
    ndarray [batches, classes]
        Rows sum to the sizes.

    Notes
    -----
    What rounding down leaves is given out by systematic sampling: the fractions are laid end to end on a line, and the
    classes at the points u, u + 1, u + 2, … get one row more.  u moves on by the golden ratio from batch to batch, so
    that it is spread evenly over [0, 1): over an epoch, each class has its share but for a few rows (the error grows
    with the logarithm of the steps).
    """
    due = sizes[:, None] * shares
    counts = np.floor(due)
    line = np.cumsum(due - counts, axis=1)
    line[:, -1] = np.rint(line[:, -1])
    steps = first + np.arange(len(sizes))
    u = (generator(seed, epoch, "mix").random() + steps * GOLDEN_RATIO) % 1
    points = np.ceil(line - u[:, None])  # how many lie before each class's end
    counts[:, 0] += points[:, 0]
    counts[:, 1:] += np.diff(points, axis=1)
    return counts.astype(np.int64)


def even_draws(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return n of the rows in random order, each drawn equally often, or once more."""
    cycles, rest = divmod(n, len(rows))
    whole = rng.permuted(np.tile(rows, (cycles, 1)), axis=1).ravel()
    return np.concatenate([whole, rng.choice(rows, rest, replace=False)])


class EvenDraws:
    """Draws from a class's rows: one random permutation of them after the other, so that none is drawn more often."""

    def __init__(self, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._rows = rows
        self._rng = rng
        self._left = rows[:0]

    def take(self, n: int) -> NDArray[np.int64]:
        """Return the next n rows."""
        cycles = -(-(n - len(self._left)) // len(self._rows)) if n > len(self._left) else 0
        fresh = self._rng.permuted(np.tile(self._rows, (cycles, 1)), axis=1).ravel()
        drawn = np.concatenate([self._left, fresh])
        self._left = drawn[n:]
        return drawn[:n]
