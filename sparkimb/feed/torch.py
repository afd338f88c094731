"""The feed on pyarrow alone: an engine for the loader, and the one call that makes both."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pyarrow as pa
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.decoding import decode
from sparkimb.feed.engine import TIMEOUT, Block, RowGroup, check_files, columns, open_shard
from sparkimb.feed.loader import Decode, Loader
from sparkimb.feed.manifest import Manifest, open_directory
from sparkimb.feed.mixes import Balance
from sparkimb.feed.read_ahead import read_ahead


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
    """Make a loader of a materialized training set, read by pyarrow.

    Parameters
    ----------
    path : str
        A local path, or a URI of any file system that pyarrow or fsspec knows.
    filesystem : pyarrow.fs.FileSystem, optional
        Where the path's own is not to be used.
    check_finite : bool, default=True
        Refuse NaN and infinite features.
    workers : int in [1, ∞), default=1
        Threads that read row groups, and as many that decode batches of encoded bytes.  Changes no batch.
    batch_size, shuffle_rows, balance, seed, rank, world_size, drop_last, decode, return_weights, timeout
        See `sparkimb.feed.loader.Loader`.

    Raises
    ------
    SparkimbError
        If there is no manifest, files are missing or not of the size written, or a setting cannot be met.

    Notes
    -----
    Files are listed here, and opened as their row groups are read; then columns and row groups are checked too.

    Examples
    --------
    >>> loader = make_torch_loader("s3://bucket/train", 4096, balance="uniform")   # doctest: +SKIP
    >>> for features, labels, _ in loader: ...                                     # doctest: +SKIP
    """
    manifest = Manifest.read(path, filesystem=filesystem)
    engine = ArrowEngine(
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


class ArrowEngine:
    """Reads row groups by pyarrow.parquet, in threads; see `sparkimb.feed.engine.Engine`.

    Parameters
    ----------
    path : str
    manifest : Manifest
    filesystem : pyarrow.fs.FileSystem, optional
    workers : int in [1, ∞), default=1
        Threads, which read as many row groups ahead.
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
        self._filesystem, self._root = open_directory(path, filesystem)
        self._manifest = manifest
        self._workers = workers
        self._timeout = timeout
        self._check_finite = check_finite
        self._columns = columns(manifest)
        self._closed = False
        check_files(self._filesystem, self._root, manifest)

    def read(self, row_groups: Sequence[RowGroup]) -> Generator[Block, None, None]:
        """Yield the row groups in this order."""
        if self._closed:
            raise SparkimbError("The engine was closed. Make a new loader.")
        return read_ahead(
            self._read,
            row_groups,
            workers=self._workers,
            timeout=self._timeout,
            describe=lambda group: f"Reading row group {group.group} of '{self._manifest.shards[group.shard].file}'",
        )

    def close(self) -> None:
        """Refuse to read again; threads and files end with each `read`."""
        self._closed = True

    def _read(self, group: RowGroup) -> Block:
        # Opened for each row group, at a fiftieth of its cost: an open file keeps the bytes that were read of it.
        with open_shard(self._filesystem, self._root, self._manifest, group.shard) as file:
            try:
                table = file.read_row_group(group.group, columns=self._columns, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                name = self._manifest.shards[group.shard].file
                raise SparkimbError(
                    f"Row group {group.group} of '{name}' cannot be read: {error}. Put the file back, or materialize "
                    "the data again."
                ) from error
        return decode(table, group, self._manifest, check_finite=self._check_finite)
