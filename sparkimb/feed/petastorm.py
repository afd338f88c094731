"""The feed on petastorm: an engine for the loader, and the one call that makes both."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.decoding import decode
from sparkimb.feed.engine import OPENERS, TIMEOUT, Block, RowGroup, check_files, columns, open_shard, row_groups
from sparkimb.feed.loader import Decode, Loader
from sparkimb.feed.manifest import Manifest, open_directory
from sparkimb.feed.mixes import Balance
from sparkimb.feed.petastorm_compat import install_compat
from sparkimb.feed.read_ahead import read_ahead

if TYPE_CHECKING:
    from sparkimb.feed.petastorm_reader import OrderedReader


def make_torch_loader(
    path: str,
    batch_size: int,
    *,
    filesystem: fs.FileSystem | None = None,
    check_finite: bool = True,
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
) -> Loader:
    """Make a loader of a materialized training set, read by petastorm.

    Its batches are those of `sparkimb.feed.torch.make_torch_loader`, where the parameters are described.

    Raises
    ------
    ImportError
        If petastorm is not there.
    SparkimbError
        As there; and if petastorm is another version than 0.12.1, or was imported before `install_compat`.

    Notes
    -----
    The footers of all files are read before the first batch, and at most `workers` + 3 row groups are in memory beside
    the loader's own.

    Examples
    --------
    >>> loader = make_torch_loader("s3://bucket/train", 4096, balance="uniform")   # doctest: +SKIP
    >>> for features, labels, _ in loader: ...                                     # doctest: +SKIP
    """
    manifest = Manifest.read(path, filesystem=filesystem)
    engine = PetastormEngine(
        path, manifest, filesystem=filesystem, workers=workers, timeout=timeout, check_finite=check_finite
    )
    return Loader(
        engine,
        manifest,
        batch_size=batch_size,
        shuffle_rows=shuffle_rows,
        balance=balance,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        decode=decode,
        return_weights=return_weights,
        workers=workers,
        timeout=timeout,
    )


class PetastormEngine:
    """Reads row groups by petastorm's `make_batch_reader` in its threads; see `sparkimb.feed.engine.Engine`.

    One reader serves all epochs; a read that is left before its end costs another.

    Parameters
    ----------
    path : str
    manifest : Manifest
    filesystem : pyarrow.fs.FileSystem, optional
    workers : int in [1, ∞), default=1
        Threads, which read two row groups more than they are ahead.
    timeout : float, default=120
        The longest wait for a row group, in seconds.
    check_finite : bool, default=True
        Refuse NaN and infinite features.
    """

    def __init__(
        self,
        path: str,
        manifest: Manifest,
        *,
        filesystem: fs.FileSystem | None = None,
        workers: int = 1,
        timeout: float = TIMEOUT,
        check_finite: bool = True,
    ) -> None:
        install_compat()
        self._filesystem, self._root = open_directory(path, filesystem)
        self._manifest = manifest
        self._files = [f"{self._root}/{shard.file}" for shard in manifest.shards]
        self._workers = workers
        self._timeout = timeout
        self._check_finite = check_finite
        self._reader: OrderedReader[Block] | None = None
        self._closed = False
        check_files(self._filesystem, self._root, manifest)

    def read(self, row_groups: Sequence[RowGroup]) -> Generator[Block, None, None]:
        """Yield the row groups in this order."""
        if self._closed:
            raise SparkimbError("The engine was closed. Make a new loader.")
        if self._reader is None or self._reader.reading:
            self._stop()
            self._reader = self._open()
        return self._reader.read([(self._files[group.shard], group.group) for group in row_groups])

    def close(self) -> None:
        """End reading and join the threads."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._reader:
            self._reader.stop()
            self._reader = None

    def _open(self) -> OrderedReader[Block]:
        """Check every file against the manifest, and build petastorm's reader of them."""
        from sparkimb.feed.petastorm_reader import OrderedReader  # imports petastorm

        opened = read_ahead(
            self._open_shard,
            range(len(self._files)),
            workers=min(OPENERS, len(self._files)),
            timeout=self._timeout,
            describe=lambda shard: f"Opening '{self._files[shard]}'",
        )
        with closing(opened):
            for file in opened:
                file.close()
        groups = {(self._files[group.shard], group.group): group for group in row_groups(self._manifest)}
        return OrderedReader(
            self._files,
            self._filesystem,
            columns(self._manifest),
            # No method: petastorm's threads would hold the engine, which nobody could let go of to end them.
            partial(_block, groups, self._manifest, self._check_finite),
            workers=self._workers,
            timeout=self._timeout,
        )

    def _open_shard(self, shard: int) -> pq.ParquetFile:
        return open_shard(self._filesystem, self._root, self._manifest, shard)


def _block(
    groups: Mapping[tuple[str, int], RowGroup],
    manifest: Manifest,
    check_finite: bool,
    file: str,
    place: int,
    table: pa.Table,
) -> Block:
    return decode(table, groups[file, place], manifest, check_finite=check_finite)
