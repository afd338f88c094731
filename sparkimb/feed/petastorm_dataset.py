"""The Parquet dataset that petastorm asks pyarrow for, which pyarrow has no more since its version 15."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import OPENERS, TIMEOUT
from sparkimb.feed.read_ahead import read_ahead

PartitionValue = int | str

# A footer of 33 columns in 5 row groups is about 50 kB in memory, so these are some 13 MB.  It is parsed once for each
# file up to as many files, and once for each row group beyond.
MAX_FOOTERS = 256


class ParquetDataset:
    """A directory, with the columns of its Hive partitions, or a list of files.

    Nothing is listed or opened before it is asked for.  The signature is that of petastorm's calls.

    Parameters
    ----------
    path_or_paths : str or list of str
        A directory or file, or files.  A list of one is that one.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        By default the local one.
    filters : list of tuple, or list of list of tuple, optional
        Over partition columns alone: they choose files, not rows.
    """

    # petastorm's own stores keep a schema and counts of row groups here, and Spark a summary, maybe of other files.
    metadata = common_metadata = None

    def __init__(
        self,
        path_or_paths: str | Sequence[str],
        filesystem: Any = None,
        *,
        validate_schema: bool = False,
        metadata_nthreads: int = 1,
        filters: Any = None,
    ) -> None:
        self.paths = path_or_paths[0] if len(path_or_paths) == 1 else path_or_paths
        self._filesystem = _arrow_filesystem(filesystem)
        self._filters = filters
        self.footer = lru_cache(MAX_FOOTERS)(self._read_footer)

    def open(self, path: str) -> Any:
        """Open a file for reading."""
        return self._filesystem.open_input_file(path)

    def _read_footer(self, path: str) -> pq.FileMetaData:
        with self.open(path) as file:
            return pq.ParquetFile(file).metadata

    @cached_property
    def _dataset(self) -> ds.Dataset:
        is_directory = (
            isinstance(self.paths, str) and self._filesystem.get_file_info(self.paths).type == fs.FileType.Directory
        )
        return ds.dataset(
            self.paths,
            filesystem=self._filesystem,
            format="parquet",
            partitioning=ds.HivePartitioning.discover(infer_dictionary=False) if is_directory else None,
        )

    @cached_property
    def _keys(self) -> dict[str, Mapping[str, Any]]:
        """Its files in their order, and what pyarrow makes of their partitions."""
        if not isinstance(self.paths, str):
            return {path: {} for path in self.paths}
        parts = sorted(self._dataset.get_fragments(), key=lambda part: part.path)
        if not parts:
            raise SparkimbError(f"'{self.paths}' has no Parquet file. Name the directory that holds the files.")
        return {part.path: ds.get_partition_keys(part.partition_expression) for part in parts}

    @cached_property
    def partitions(self) -> Partitions:
        """Its partition columns."""
        names = list(dict.fromkeys(name for keys in self._keys.values() for name in keys))
        for path, keys in self._keys.items():
            if missing := [name for name in names if keys.get(name) is None]:
                raise SparkimbError(
                    f"'{path}' has no value of the partition column {', '.join(missing)}. Give its rows a value, or "
                    "read the other partitions by their paths."
                )
        return Partitions(Partition(name, [keys[name] for keys in self._keys.values()]) for name in names)

    @cached_property
    def pieces(self) -> list[ParquetDatasetPiece]:
        """Its files."""
        values = {partition.name: partition.value_of for partition in self.partitions}
        return [
            ParquetDatasetPiece(self, path, [(name, values[name][self._keys[path][name]]) for name in values])
            for path in self._kept()
        ]

    def _kept(self) -> Collection[str]:
        """Return its files that the filters leave."""
        if self._filters is None:
            return self._keys
        terms = self._filters if isinstance(self._filters[0][0], str) else chain(*self._filters)
        names = self.partitions.partition_names
        if others := sorted({term[0] for term in terms} - names):
            raise SparkimbError(
                f"filters name {', '.join(others)}, but choose files by their partition columns alone, which are: "
                f"{', '.join(sorted(names)) or '(none)'}. Use a predicate to choose rows."
            )
        kept = {part.path for part in self._dataset.get_fragments(filter=pq.filters_to_expression(self._filters))}
        if not kept:
            raise SparkimbError(f"filters {self._filters} leave no file of '{self.paths}'. Name values that it has.")
        return [path for path in self._keys if path in kept]

    def row_groups(self) -> list[ParquetDatasetPiece]:
        """Return the row groups of its files in their order: reads every footer."""
        footers = read_ahead(
            ParquetDatasetPiece.get_metadata,
            self.pieces,
            workers=min(OPENERS, len(self.pieces)),
            timeout=TIMEOUT,
            describe=lambda piece: f"Reading the footer of '{piece.path}'",
        )
        with closing(footers):
            return [
                ParquetDatasetPiece(self, piece.path, piece.partition_keys, row_group)
                for piece, footer in zip(self.pieces, footers, strict=True)
                for row_group in range(footer.num_row_groups)
            ]


class ParquetDatasetPiece:
    """A file, or one row group of it.

    Attributes
    ----------
    partition_keys : list of (str, int or str)
        Its partition columns and their values; petastorm looks these up in `Partition.keys`.
    """

    def __init__(
        self,
        dataset: ParquetDataset,
        path: str,
        partition_keys: Sequence[tuple[str, PartitionValue]],
        row_group: int | None = None,
    ) -> None:
        self._dataset = dataset
        self.path = path
        self.partition_keys = partition_keys
        self.row_group = row_group

    def get_metadata(self) -> pq.FileMetaData:
        """Return the footer of its file."""
        return self._dataset.footer(self.path)

    def read(self, columns: Collection[str]) -> pa.Table:
        """Return columns of a row group, those of partitions among them."""
        partitions = {name: value for name, value in self.partition_keys if name in columns}
        with self._dataset.open(self.path) as file:
            parquet = pq.ParquetFile(file, metadata=self.get_metadata(), pre_buffer=True)
            in_file = [name for name in parquet.schema_arrow.names if name in columns]
            if missing := sorted(set(columns) - set(in_file) - set(partitions)):
                raise SparkimbError(
                    f"'{self.path}' has no column {', '.join(missing)}, which other files of the data have. Its "
                    f"columns are: {', '.join(parquet.schema_arrow.names)}. Write it again with the others' columns."
                )
            try:
                table = parquet.read_row_group(self.row_group, columns=in_file, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise SparkimbError(
                    f"Row group {self.row_group} of '{self.path}' cannot be read: {error}. Put the file back as it was."
                ) from error
        for name, value in partitions.items():
            if name not in in_file:
                values = pa.repeat(pa.scalar(value, pa.int64() if isinstance(value, int) else pa.string()), len(table))
                table = table.append_column(name, values)
        return table


class Partition:
    """A partition column: int64 where all its values are integers, else strings.

    Attributes
    ----------
    keys : dict
        Each value as itself.
    dictionary : pyarrow.Array
        Its values, for their type.
    value_of : dict
        Its values by what pyarrow found, which takes integers over 32 bits for strings.
    """

    def __init__(self, name: str, found: Iterable[PartitionValue]) -> None:
        distinct = sorted(set(found))
        values: list[int] | list[str]
        try:
            values = [int(value) for value in distinct]
        except ValueError:
            values = [str(value) for value in distinct]
        self.name = name
        self.keys = {value: value for value in values}
        self.dictionary = pa.array(values, pa.int64() if isinstance(values[0], int) else pa.string())
        self.value_of: dict[PartitionValue, PartitionValue] = dict(zip(distinct, values, strict=True))


class Partitions(list[Partition]):
    """Partition columns, from the outermost to the innermost."""

    @property
    def partition_names(self) -> set[str]:
        """Return their names."""
        return {partition.name for partition in self}


def _arrow_filesystem(filesystem: Any) -> fs.FileSystem:
    if filesystem is None:
        return fs.LocalFileSystem()
    if isinstance(filesystem, fs.FileSystem):
        return filesystem
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem))
