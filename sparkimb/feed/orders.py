"""The rows of a window in the order in which batches take them: all once, by class shares, or by weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import Block
from sparkimb.feed.epochs import Window, generator
from sparkimb.feed.manifest import Label
from sparkimb.feed.mixes import EvenDraws, batch_counts, even_draws
from sparkimb.feed.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The batches of a rank in an epoch: all of batch_size but for the last, where it is not dropped."""

    epoch: int
    rank: int
    seed: int
    rows: int
    batch_size: int
    drop_last: bool

    @property
    def number(self) -> int:
        """Return the number of batches."""
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    @property
    def drawn(self) -> int:
        """Return the rows of all batches."""
        return min(self.rows, self.number * self.batch_size)

    def of_window(self, window: Window) -> tuple[int, int]:
        """Return which batches are drawn from a window, [first, last), where none is drawn from two."""
        first, last = (min(round(row / self.batch_size), self.number) for row in (window.start, window.stop))
        return first, self.number if window.stop == self.rows else last

    def rows_of_window(self, window: Window) -> tuple[int, int]:
        """Return which rows of the epoch these batches have."""
        first, last = self.of_window(window)
        return first * self.batch_size, min(last * self.batch_size, self.drawn)

    def generator(self, window: Window) -> np.random.Generator:
        """Return the generator of a window's order."""
        return generator(self.seed, self.epoch, "window", self.rank, window.number)


class Order(Protocol):
    """Orders the windows of an epoch, one after the other."""

    @property
    def pool(self) -> Pool | None:
        """Return other rows that are drawn too."""
        ...

    @property
    def in_turn(self) -> bool:
        """Return whether the window's rows are drawn as they come, each once."""
        ...

    def span(self, window: Window) -> tuple[int, int]:
        """Return which of the rows drawn in the epoch are drawn from a window: [first, last)."""
        ...

    def skip(self, window: Window) -> None:
        """Pass over a window whose rows were drawn before."""
        ...

    def draw(self, window: Window, block: Block) -> NDArray[np.int64]:
        """Return the row of the window that each row drawn is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Natural:
    """Every row once, in turn or shuffled within the window."""

    steps: Steps
    in_turn: bool
    pool: None = None

    def span(self, window: Window) -> tuple[int, int]:
        """Return the window's own rows."""
        return min(window.start, self.steps.drawn), min(window.stop, self.steps.drawn)

    def skip(self, window: Window) -> None:
        """Pass over a window."""

    def draw(self, window: Window, block: Block) -> NDArray[np.int64]:
        """Return a permutation of the rows."""
        return self.steps.generator(window).permutation(len(block))


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Rows with replacement, with probabilities in proportion to their weights among the window's."""

    steps: Steps
    column: str
    in_turn: bool = False
    pool: None = None

    def span(self, window: Window) -> tuple[int, int]:
        """Return the rows of whole batches."""
        return self.steps.rows_of_window(window)

    def skip(self, window: Window) -> None:
        """Pass over a window."""

    def draw(self, window: Window, block: Block) -> NDArray[np.int64]:
        """Return independent draws of the rows."""
        assert block.weights is not None
        first, last = self.span(window)
        ends = np.cumsum(block.weights, dtype=float)
        if not ends[-1]:
            raise SparkimbError(
                f"All {len(ends)} rows of a window have weight 0 in column '{self.column}', so that none can be drawn. "
                "Pass larger shuffle_rows, or leave such rows out when materializing."
            )
        points = self.steps.generator(window).random(last - first) * ends[-1]
        # Rounded up to the end, a point would be of no row, or of a last one of weight 0.
        last_row = np.flatnonzero(block.weights)[-1]
        drawn: NDArray[np.int64] = np.minimum(ends.searchsorted(points, side="right"), last_row)
        return drawn


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Each class's share in every batch; a class's rows in the window are drawn equally often.

    Attributes
    ----------
    shares : ndarray [classes]
    pool : Pool or None
        The rows of classes that windows may lack: these are drawn from here, equally often over the epoch.
    """

    steps: Steps
    shares: NDArray[np.float64]
    labels: Sequence[Label]
    pool: Pool | None
    in_turn: bool = False
    _draws: dict[int, EvenDraws] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code, rows in (self.pool.rows if self.pool else {}).items():
            rng = generator(self.steps.seed, self.steps.epoch, "pool", self.steps.rank, code)
            self._draws[code] = EvenDraws(rows, rng)

    def span(self, window: Window) -> tuple[int, int]:
        """Return the rows of whole batches."""
        return self.steps.rows_of_window(window)

    def skip(self, window: Window) -> None:
        """Draw from the pool what the window's batches had from it."""
        due = self._counts(window).sum(axis=0)
        for code, draws in self._draws.items():
            draws.take(int(due[code]))

    def draw(self, window: Window, block: Block) -> NDArray[np.int64]:
        """Return the batches' rows in random order, the pool's numbered on from the window's."""
        rng = self.steps.generator(window)
        counts = self._counts(window)
        due = counts.sum(axis=0)
        by_class = np.argsort(_small(block.codes, len(self.shares)), kind="stable")
        ends = np.cumsum(np.bincount(block.codes, minlength=len(self.shares)))
        drawn = []
        for code in np.flatnonzero(due).tolist():
            n = int(due[code])
            if code in self._draws:
                drawn.append(len(block) + self._draws[code].take(n))
                continue
            own = by_class[ends[code - 1] if code else 0 : ends[code]]
            if not len(own):
                raise self._missing(code, block)
            drawn.append(even_draws(own, n, rng))
        return _dealt(drawn, counts, rng)

    def _counts(self, window: Window) -> NDArray[np.int64]:
        first, last = self.steps.of_window(window)
        sizes = np.full(last - first, self.steps.batch_size)
        if last == self.steps.number and len(sizes):
            sizes[-1] = self.steps.drawn - (last - 1) * self.steps.batch_size
        return batch_counts(self.shares, sizes, first=first, seed=self.steps.seed, epoch=self.steps.epoch)

    def _missing(self, code: int, block: Block) -> SparkimbError:
        return SparkimbError(
            f"Class {self.labels[code]!r} is due in every batch, but none of the {len(block)} rows of a window "
            f"on rank {self.steps.rank} are of it: the files' classes are not spread evenly. Write them with "
            "sparkimb.feed.materialize, or pass larger shuffle_rows."
        )


def _dealt(drawn: list[NDArray[np.int64]], counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows drawn of each class dealt to the batches by counts [batches, classes], each batch shuffled."""
    runs = counts.ravel()  # of one class in one batch, batch by batch; the rows drawn are class by class
    starts = np.cumsum(counts.T).reshape(counts.T.shape).T.ravel() - runs
    order: NDArray[np.int64] = np.concatenate(drawn)[
        np.arange(runs.sum()) + np.repeat(starts - (np.cumsum(runs) - runs), runs)
    ]
    size = int(counts[0].sum())
    whole = len(order) // size * size  # the last batch may be smaller
    rng.permuted(order[:whole].reshape(-1, size), axis=1, out=order[:whole].reshape(-1, size))
    rng.shuffle(order[whole:])
    return order


def _small(codes: NDArray[np.int32 | np.int64], classes: int) -> NDArray[np.uint16 | np.int32 | np.int64]:
    """Return codes as 16-bit integers, which NumPy sorts by radix."""
    return codes.astype(np.uint16) if classes <= 1 << 16 else codes
