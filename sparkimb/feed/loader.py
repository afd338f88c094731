"""The loader: batches of a training set, shuffled, balanced, divided over ranks, and resumed at the exact batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, cast
from weakref import ref

import numpy as np
import pyarrow as pa

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import TIMEOUT, Block, Engine, row_groups
from sparkimb.feed.epochs import rank_pieces, rows_per_rank, windows
from sparkimb.feed.manifest import Manifest
from sparkimb.feed.mixes import Balance, class_shares
from sparkimb.feed.orders import Mixed, Natural, Order, Steps, Weighted
from sparkimb.feed.pool import Pool, rank_pool, rare_classes, read_pool
from sparkimb.feed.read_ahead import read_ahead
from sparkimb.feed.windows import WindowReader

try:
    import torch
    from torch import Tensor, distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise ImportError('PyTorch is not installed. Install it with: pip install "sparkimb[torch]"') from error

STATE_VERSION = 1

Decode: TypeAlias = Callable[[bytes], Tensor]


class Batch(NamedTuple):
    """Some rows.

    Attributes
    ----------
    features : Tensor [b, width] of float32; for encoded bytes [b, …], as decoded
    labels : Tensor [b] of int64
        Class codes: places in the manifest's labels.
    weights : Tensor [b] of float32, or None
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None


class Loader(IterableDataset[Batch]):
    """Batches of one rank, epoch after epoch; each iteration is one epoch.

    Everything is a function of the manifest, the settings, the seed, the epoch and the rank: the same batches with any
    number of workers, and from any engine.

    Parameters
    ----------
    engine : Engine
        Reads the row groups; closed with the loader.
    manifest : Manifest
    batch_size : int in [1, ∞)
        Rows of a batch of this rank.
    shuffle_rows : int in [0, ∞), default=200_000
        The shuffle window: so many rows, of row groups in random order, are read and shuffled together.  0 leaves rows
        in the order of their row groups, which is random all the same.  For encoded bytes pass less: the window is
        in memory.
    balance : {"natural", "uniform", "sqrt", "weight"} or dict of label to share, default="natural"
        "natural": every row once.  "uniform", "sqrt" or shares in [0, 1] by label: every batch has each class's share
        of its rows, rounded down or up; sqrt is in proportion to the root of the class's rows.  "weight": rows are
        drawn with replacement in proportion to the weight column, within a window.
    seed : int in [0, 2^32), default=0
    rank, world_size : int, optional
        By default those of torch.distributed, where it is initialised, else 0 and 1.
    drop_last : bool, default=False
        Leave out the last batch of an epoch where it is smaller, as it is on all ranks alike.
    decode : callable, optional
        For layout "bytes": makes a tensor of one row's bytes, all of one shape.  Called in threads.
    return_weights : bool, default=False
        Fill `Batch.weights`.
    workers : int in [1, ∞), default=1
        Threads that decode batches, for layout "bytes".
    timeout : float, default=120
        The longest wait for a row group, in seconds.

    Raises
    ------
    SparkimbError
        For settings that the training set cannot meet; while iterating, for what the engine refuses, and for rows whose
        number or classes are not those of the manifest.
    NotEnoughSamplesError
        For a class that is due in every batch, but has fewer rows than there are ranks.

    Notes
    -----
    Epoch:    the row groups in random order are one sequence of rows, of which each rank has a contiguous range: all
              ranks have the same number of rows and steps, and no row in common.  Up to world_size - 1 rows, others in
              each epoch, are left out.  A row group across two ranks' ranges is read by both.
    Balanced: an epoch is one pass over the rank's row groups, in as many steps as a natural one.  In each window a
              class's rows are drawn in random order, over and over: each as often as any other, or once more.  Classes
              with fewer than 32 rows in a window on average are drawn from a pool instead, dealt to the ranks anew in
              each epoch, so that each row is drawn equally often over the epoch.  It is read once, by one more pass at
              the first iteration.
    Weighted: a window's rows are drawn as by torch's WeightedRandomSampler of that window, as many as it has (to the
              batch), whatever their weights: with n rows and W the sum of their weights, a row of weight w is due
              n·w / W times.  For the training set that is the same where one rank's one window holds all of it, and
              close where all windows have about the same mean weight, as with `materialize`'s files and weights that
              go by class.
    Memory:   two windows, one in use and one being read, of about shuffle_rows rows: twice that and a row group at
              most.  Besides, `workers` + 1 row groups, and the pool: fewer than 32 rows of each rare class for every
              window that the training set makes.
    Cost:     one read, one copy and one gather for each row, whatever the window.
    Checked:  each row group's rows, and each shard's rows of each class where its row groups were all read by this rank
              in this iteration.  On several ranks, or after a stop, a shard whose row groups are read here and there is
              not counted by class; `sparkimb.feed.verify` counts all.

    An iteration that is left early begins its epoch again.  One iteration runs at a time.  In a torch DataLoader, pass
    batch_size=None and num_workers=0.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        *,
        batch_size: int,
        shuffle_rows: int = 200_000,
        balance: Balance = "natural",
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        decode: Decode | None = None,
        return_weights: bool = False,
        workers: int = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        self.rank, self.world_size = _place(rank, world_size)
        self._batch_size = _integer("batch_size", batch_size, 1)
        self._shuffle_rows = _integer("shuffle_rows", shuffle_rows, 0)
        self._seed = _integer("seed", seed, 0)
        self._workers = _integer("workers", workers, 1)
        if seed >= 1 << 32:
            raise SparkimbError(f"seed is {seed}. It must be less than 2^32.")
        if (manifest.layout == "bytes") != (decode is not None):
            raise SparkimbError(
                f"The training set's layout is '{manifest.layout}', and decode is {decode!r}. Pass decode, which "
                "makes a tensor of one row's bytes, for layout 'bytes' and for no other."
            )
        if return_weights and manifest.weight is None:
            raise SparkimbError("return_weights is True, but the training set has no weight column.")
        self._engine = engine
        self._manifest = manifest
        self._row_groups = row_groups(manifest)
        self._rows = rows_per_rank(self._row_groups, self.world_size)
        self._drop_last = drop_last
        self._decode = decode
        self._return_weights = return_weights
        self._timeout = timeout
        self._balance: Balance = balance
        self._shares = class_shares(balance, manifest)
        # A window of a quarter of its size still has a batch, where batches are of one window.
        self._window_rows = self._shuffle_rows if balance == "natural" else max(self._shuffle_rows, 4 * batch_size)
        self._rare: tuple[int, ...] = ()
        if self._shares is not None:
            expected = min(self._window_rows, self._rows)
            self._rare = rare_classes(manifest, self._shares, window_rows=expected, world_size=self.world_size)
        self._pool: Pool | None = None
        capacity = min(self._rows, 2 * self._window_rows + max(group.rows for group in self._row_groups))
        self._reader = WindowReader(engine=engine, manifest=manifest, capacity=capacity, timeout=timeout)
        self._epoch = 0
        self._step = 0  # the next batch, as state_dict has it
        self._first = 0  # where the next iteration begins
        self._running: ref[Generator[Batch, None, None]] | None = None
        if not len(self):
            raise SparkimbError(
                f"batch_size is {batch_size}, but a rank has only {self._rows} rows, and drop_last is True. Use a "
                "smaller batch_size."
            )

    @property
    def manifest(self) -> Manifest:
        """Return what the training set holds."""
        return self._manifest

    @property
    def epoch(self) -> int:
        """Return the epoch of the next batch."""
        return self._epoch

    def __len__(self) -> int:
        """Return the steps of an epoch, the same on all ranks."""
        return self._steps(0).number

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless it is the current one."""
        if _integer("epoch", epoch, 0) != self._epoch:
            self._epoch, self._step, self._first = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return which batch comes next, as plain values: epoch, step, and what they are of."""
        return {
            "format_version": STATE_VERSION,
            "epoch": self._epoch,
            "step": self._step,
            "manifest": self._manifest.fingerprint,
            "settings": {
                "batch_size": self._batch_size,
                "shuffle_rows": self._shuffle_rows,
                "balance": self._balance if isinstance(self._balance, str) else self._named_shares(),
                "seed": self._seed,
                "world_size": self.world_size,
                "drop_last": self._drop_last,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration begin at the batch that came next when the state was taken, on any rank.

        Raises
        ------
        SparkimbError
            If the state is of another format, training set or settings.
        """
        own = self.state_dict()
        if state.get("format_version") != STATE_VERSION:
            raise SparkimbError(
                f"The loader's state is of format version {state.get('format_version')}, and this sparkimb reads "
                f"version {STATE_VERSION}. Go on with the release that wrote it."
            )
        if state["manifest"] != own["manifest"]:
            raise SparkimbError(
                "The loader's state is of another training set: the manifests differ. Go on with the data it was taken "
                "on, or start anew."
            )
        if other := [
            f"{name} was {state['settings'].get(name)!r} and is {value!r}"
            for name, value in own["settings"].items()
            if state["settings"].get(name) != value
        ]:
            raise SparkimbError(
                f"The loader's state is of other settings: {', '.join(other)}. Use those it was taken with, or "
                "start anew."
            )
        self._epoch, self._step, self._first = state["epoch"], state["step"], state["step"]

    def __iter__(self) -> Iterator[Batch]:
        """Run one epoch, or what is left of it after `load_state_dict`, and go on to the next."""
        if get_worker_info() is not None:
            raise SparkimbError(
                "The loader is in a DataLoader with worker processes, each of which would give all rows. Pass "
                "num_workers=0: the loader reads ahead in threads of its own."
            )
        self._end_running()
        self._step, self._first = self._first, 0
        batches = self._run(self._steps(self._epoch), self._step)
        self._running = ref(batches)  # weak, so that leaving a loop early ends its threads
        return batches

    def close(self) -> None:
        """End an iteration that runs, and close the engine."""
        try:
            self._end_running()
        finally:
            self._engine.close()

    def __enter__(self) -> Loader:
        """Return the loader, which is closed at the end of the `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _named_shares(self) -> list[float]:
        assert self._shares is not None
        return [float(share) for share in self._shares]

    def _end_running(self) -> None:
        running = None if self._running is None else self._running()
        if running is not None:
            running.close()

    def _steps(self, epoch: int) -> Steps:
        return Steps(
            epoch=epoch,
            rank=self.rank,
            seed=self._seed,
            rows=self._rows,
            batch_size=self._batch_size,
            drop_last=self._drop_last,
        )

    def _run(self, steps: Steps, step: int) -> Generator[Batch, None, None]:
        pieces = rank_pieces(
            self._row_groups, seed=self._seed, epoch=steps.epoch, rank=self.rank, world_size=self.world_size
        )
        rows = self._reader.batches(
            windows(pieces, self._window_rows),
            self._order(steps),
            first=step * self._batch_size,
            last=steps.drawn,
            batch_size=self._batch_size,
        )
        with closing(rows) as blocks:
            batches = (self._batch(block) for block in blocks)
            if self._decode is not None:
                batches = read_ahead(
                    self._batch,
                    blocks,
                    workers=self._workers,
                    timeout=self._timeout,
                    describe=lambda block: f"Decoding a batch of {len(block)} rows",
                )
            with closing(batches):
                for batch in batches:
                    step += 1
                    self._epoch, self._step = (steps.epoch, step) if step < steps.number else (steps.epoch + 1, 0)
                    yield batch

    def _order(self, steps: Steps) -> Order:
        if self._balance == "weight":
            assert self._manifest.weight is not None
            return Weighted(steps=steps, column=self._manifest.weight)
        if self._shares is None:
            return Natural(steps=steps, in_turn=self._shuffle_rows == 0)
        if self._rare and self._pool is None:
            self._pool = read_pool(self._engine, self._manifest, self._rare)
        pool = self._pool and rank_pool(
            self._pool, seed=self._seed, epoch=steps.epoch, rank=self.rank, world_size=self.world_size
        )
        return Mixed(steps=steps, shares=self._shares, labels=self._manifest.labels, pool=pool)

    def _batch(self, block: Block) -> Batch:
        if self._decode is None:
            features = torch.from_numpy(block.features)
        else:
            features = torch.stack([self._decode(row) for row in cast(pa.BinaryArray, block.features).to_pylist()])
        weights = torch.from_numpy(np.array(block.weights)) if self._return_weights else None
        return Batch(features, torch.from_numpy(block.codes.astype(np.int64)), weights)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise SparkimbError(f"rank is {rank} and world_size is {world_size}. Pass both or neither.")
    if rank is None or world_size is None:
        if not (distributed.is_available() and distributed.is_initialized()):
            return 0, 1
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    _integer("world_size", world_size, 1)
    if _integer("rank", rank, 0) >= world_size:
        raise SparkimbError(f"rank is {rank}, and world_size is {world_size}. Ranks go from 0 to world_size - 1.")
    return rank, world_size


def _integer(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}. It must be an integer.")
    if value < least:
        raise SparkimbError(f"{name} is {value}. It must be {least} or more.")
    return value
