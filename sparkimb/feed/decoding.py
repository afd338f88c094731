"""Row groups as tables become blocks, and what is in them is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import Block, Features, RowGroup, changed
from sparkimb.feed.manifest import Manifest


def decode(table: pa.Table, row_group: RowGroup, manifest: Manifest, *, check_finite: bool = True) -> Block:
    """Return a row group as a block.

    Raises
    ------
    SparkimbError
        For nulls, lists of other lengths or another number of rows than the manifest says, codes that are no class's,
        NaN or infinite features (with check_finite), weights that are negative, NaN or infinite.
    """
    _check_no_nulls(table, row_group, manifest)
    block = _decoded(table, row_group, manifest)
    _check_block(block, row_group, manifest, check_finite=check_finite)
    return block


def _check_no_nulls(table: pa.Table, row_group: RowGroup, manifest: Manifest) -> None:
    """Refuse nulls in the columns, and in the lists, of a row group as it was read."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        lists = pa.types.is_nested(column.type)
        nulls = column.null_count + (pc.list_flatten(column).null_count if lists else 0)
        if nulls:
            raise SparkimbError(
                f"Row group {row_group.group} of '{manifest.shards[row_group.shard].file}' has {nulls} nulls in column "
                f"'{name}'. Impute them before materializing."
            )


def _decoded(table: pa.Table, group: RowGroup, manifest: Manifest) -> Block:
    """Return a row group as a block, not checked."""
    if manifest.layout == "scalars":
        features: Features = tuple(_values(table.column(name)) for name in manifest.features)
    else:
        column = _whole(table.column(manifest.features[0]))
        features = _matrix(column, group, manifest) if manifest.layout == "array" else column
    return Block(
        features=features,
        codes=_values(table.column(manifest.label)).astype(np.int32, copy=False),
        weights=_values(table.column(manifest.weight)) if manifest.weight else None,
    )


def _matrix(lists: Any, group: RowGroup, manifest: Manifest) -> NDArray[np.float32]:
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if lengths != [manifest.width]:
        raise SparkimbError(
            f"Row group {group.group} of '{manifest.shards[group.shard].file}' has lists of lengths {lengths} in "
            f"column '{manifest.features[0]}', and the manifest says {manifest.width}. Materialize the data again."
        )
    values: NDArray[np.float32] = lists.flatten().to_numpy()
    return values.reshape(-1, manifest.width)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = _whole(column).to_numpy()
    return values


def _whole(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _check_block(block: Block, row_group: RowGroup, manifest: Manifest, *, check_finite: bool = True) -> None:
    """Check a row group's rows, codes and weights, and that its features are numbers.

    Raises
    ------
    SparkimbError
        For another number of rows, codes that are no class's, NaN or infinite features (with check_finite), weights
        that are negative, NaN or infinite.
    """
    file = manifest.shards[row_group.shard].file
    where = f"Row group {row_group.group} of '{file}'"
    features = block.features if isinstance(block.features, tuple) else (block.features,)
    for column in (*features, block.codes, *(() if block.weights is None else (block.weights,))):
        if len(column) != row_group.rows:
            raise changed(file, f"gave {len(column)} rows in row group {row_group.group} of {row_group.rows}")
    low, high = int(block.codes.min()), int(block.codes.max())
    if low < 0 or high >= len(manifest.labels):
        raise SparkimbError(
            f"{where} has class codes from {low} to {high} in column '{manifest.label}', and the manifest has "
            f"{len(manifest.labels)} classes. Materialize the data again."
        )
    for name, column in zip(manifest.features, features, strict=False) if check_finite else ():
        if isinstance(column, np.ndarray) and not _all_finite(column):
            rows = np.argwhere(~np.isfinite(column))[:, 0]
            raise SparkimbError(
                f"{where} has {len(rows)} features that are NaN or infinite in column '{name}', the first at its row "
                f"{rows[0]}. Impute them before materializing, or pass check_finite=False."
            )
    if block.weights is not None and not (_all_finite(block.weights) and block.weights.min() >= 0):
        raise SparkimbError(
            f"{where} has weights in column '{manifest.weight}' that are negative, NaN or infinite. Weights must be 0 "
            "or more."
        )


def _all_finite(values: NDArray[np.float32]) -> bool:
    """Return whether all are numbers; the sum tells at half the cost, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())
