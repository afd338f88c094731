"""What reads row groups for a loader, and what every such engine checks of its files."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.manifest import Manifest

# The longest wait for one row group, in seconds: a slow object store takes a few.
TIMEOUT = 120.0
# Threads that open files, each of which waits for the file system most of the time.
OPENERS = 16

# All float32: a matrix in C order, or for layout "scalars" its columns, which the loader makes one matrix of; or the
# rows' encoded bytes.
Features: TypeAlias = NDArray[np.float32] | tuple[NDArray[np.float32], ...] | pa.BinaryArray


class RowGroup(NamedTuple):
    """A row group: its shard's place in the manifest, its own place in that file, and its rows."""

    shard: int
    group: int
    rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """The rows of one row group, decoded, in the file's order.

    Attributes
    ----------
    features : ndarray of float32 [rows, width], or a tuple of [rows] for each of width, or pyarrow.BinaryArray [rows]
    codes : ndarray of int32 or int64 [rows]
        Class codes.
    weights : ndarray of float32 [rows] or None
        None where the manifest names no weight column.
    """

    features: Features
    codes: NDArray[np.int32 | np.int64]
    weights: NDArray[np.float32] | None

    def __len__(self) -> int:
        """Return the rows."""
        return len(self.codes)


class Engine(Protocol):
    """Reads row groups.  Made as `Engine(path, manifest, filesystem=…, workers=…, timeout=…, check_finite=…)`.

    One `read` runs at a time; a new one, or closing the iterator, ends the one before it and its threads' work.
    """

    def read(self, row_groups: Sequence[RowGroup]) -> Generator[Block, None, None]:
        """Yield each of the row groups once, in exactly this order.

        Raises
        ------
        SparkimbError
            For a file that is missing, damaged or other than the manifest says, for rows that `decode` refuses,
            and where no row group comes within the timeout.
        """
        ...

    def close(self) -> None:
        """End reading and join the threads.  Reading again afterwards is an error; closing again is not."""
        ...


def row_groups(manifest: Manifest) -> list[RowGroup]:
    """Return the row groups of a training set, file by file; those without rows are left out."""
    return [
        RowGroup(i, j, rows)
        for i, shard in enumerate(manifest.shards)
        for j, rows in enumerate(shard.row_groups)
        if rows
    ]


def columns(manifest: Manifest) -> list[str]:
    """Return the columns to read."""
    return [*manifest.features, manifest.label, *([manifest.weight] if manifest.weight else [])]


def check_files(where: fs.FileSystem, root: str, manifest: Manifest) -> None:
    """Check by one listing that all files are there, and of the size that was written.

    Raises
    ------
    SparkimbError
        Naming the files that are not.
    """
    found = {info.path: info.size for info in where.get_file_info(fs.FileSelector(root, recursive=True))}
    wrong = [
        f"'{path}' is {'missing' if path not in found else f'{found[path]} bytes long instead of {shard.bytes}'}"
        for shard in manifest.shards
        if found.get(path := f"{root}/{shard.file}") != shard.bytes
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SparkimbError(
            f"Files are not as they were written: {', '.join(wrong[:5])}{more}. Put them back, or materialize the data "
            "again."
        )


def open_shard(where: fs.FileSystem, root: str, manifest: Manifest, shard: int) -> pq.ParquetFile:
    """Open a shard and check its row groups and column types against the manifest.

    Raises
    ------
    SparkimbError
        If it is missing, is no Parquet file, or differs from what was written.
    """
    written = manifest.shards[shard]
    path = f"{root}/{written.file}"
    try:
        file = pq.ParquetFile(where.open_input_file(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise changed(path, f"cannot be read as Parquet ({error})") from error
    try:
        footer = file.metadata
        found = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        if found != written.row_groups:
            raise changed(
                path, f"has row groups of {_short(found)} rows, and {_short(written.row_groups)} were written"
            )
        _check_schema(path, file.schema_arrow, manifest)
    except BaseException:
        file.close()
        raise
    return file


def _check_schema(path: str, schema: pa.Schema, manifest: Manifest) -> None:
    wrong = []
    for name in columns(manifest):
        place = schema.get_field_index(name)
        found = schema.field(place).type if place >= 0 else None
        if name == manifest.label:
            right, wanted = found is not None and pa.types.is_integer(found), "integers"
        elif name == manifest.weight or manifest.layout == "scalars":
            right, wanted = found == pa.float32(), "float"
        elif manifest.layout == "array":
            right, wanted = found is not None and _is_list_of_floats(found), "list<float>"
        else:
            right, wanted = found in (pa.binary(), pa.large_binary()), "binary"
        if not right:
            wrong.append(f"'{name}' is {'missing' if found is None else found} instead of {wanted}")
    if wrong:
        raise changed(path, f"has other columns than the manifest names: {', '.join(wrong)}")


def _is_list_of_floats(found: pa.DataType) -> bool:
    is_list: bool = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    return is_list and found.value_type == pa.float32()


def changed(file: str, how: str) -> SparkimbError:
    """Return what is to be raised where a file is not as it was written."""
    return SparkimbError(f"'{file}' {how}. It is not the file of the manifest: materialize the data again.")


def _short(numbers: Sequence[int]) -> str:
    text = ", ".join(str(n) for n in numbers[:5])
    return f"{text}, … ({len(numbers)} in all)" if len(numbers) > 5 else text or "no"
