"""Rows in memory: cut, chosen and joined, whether their features are numbers or encoded bytes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkimb.feed.engine import Block, Features

# Rows transposed at once: 32 features of them, 256 kB, stay in the processor's cache.
ROWS_AT_ONCE = 2048


def cut(block: Block, start: int, stop: int) -> Block:
    """Return rows [start, stop), as views."""
    features = block.features
    return Block(
        features=tuple(c[start:stop] for c in features) if isinstance(features, tuple) else features[start:stop],
        codes=block.codes[start:stop],
        weights=None if block.weights is None else block.weights[start:stop],
    )


def take(block: Block, index: NDArray[np.int64]) -> Block:
    """Return the rows of an index, as a copy."""
    return Block(
        features=_take(block.features, index),
        codes=np.take(block.codes, index),
        weights=None if block.weights is None else np.take(block.weights, index),
    )


def _take(features: Features, index: NDArray[np.int64]) -> Features:
    if isinstance(features, np.ndarray):
        return np.take(features, index, axis=0)
    if isinstance(features, tuple):
        return tuple(np.take(column, index) for column in features)
    return features.take(pa.array(index))


def gather(blocks: Iterable[Block], rows: int, into: NDArray[np.float32] | None = None) -> Block:
    """Return the rows of several blocks, their number known, each copied as it comes and then let go.

    Features that are numbers become one matrix: the first rows of `into`, if given.
    """
    matrix = into
    encoded: list[pa.LargeBinaryArray] = []
    codes = np.empty(rows, np.int32)
    weights: NDArray[np.float32] | None = None
    start = 0
    for block in blocks:
        stop = start + len(block)
        codes[start:stop] = block.codes
        if isinstance(block.features, np.ndarray | tuple):
            if matrix is None:
                matrix = np.empty((rows, _width(block.features)), np.float32)
            _write(block.features, matrix[start:stop])
        else:
            # Large: a window of images may have more than the 2 GiB that the offsets of others reach.
            encoded.append(block.features.cast(pa.large_binary()))
        if block.weights is not None:
            if weights is None:
                weights = np.empty(rows, np.float32)
            weights[start:stop] = block.weights
        start = stop
    features = pa.concat_arrays(encoded) if matrix is None else matrix[:rows]
    return Block(features=features, codes=codes, weights=weights)


def join(blocks: list[Block]) -> Block:
    """Return the rows of several blocks; those of one as they are."""
    return blocks[0] if len(blocks) == 1 else gather(blocks, sum(len(block) for block in blocks))


def interleave(own: Block, other: Block, index: NDArray[np.int64]) -> Block:
    """Return the rows of an index into own with other after it, neither of which is copied whole."""
    is_own = index < len(own)
    # Where each row of the index is once those of own come first.
    places = np.where(is_own, np.cumsum(is_own) - 1, is_own.sum() + np.cumsum(~is_own) - 1)
    return take(join([take(own, index[is_own]), take(other, index[~is_own] - len(own))]), places)


def _width(features: NDArray[np.float32] | tuple[NDArray[np.float32], ...]) -> int:
    return len(features) if isinstance(features, tuple) else int(features.shape[1])


def _write(features: NDArray[np.float32] | tuple[NDArray[np.float32], ...], matrix: NDArray[np.float32]) -> None:
    """Write features into a matrix; columns in half the time that np.stack takes."""
    if isinstance(features, np.ndarray):
        matrix[:] = features
        return
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        rows = matrix[start : start + ROWS_AT_ONCE]
        rows[:] = np.concatenate([c[start : start + ROWS_AT_ONCE] for c in features]).reshape(len(features), -1).T
