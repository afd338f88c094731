"""Rows in memory: cut, chosen and joined, whether their features are numbers or encoded bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkimb.feed.engine import Block, Features


def cut(block: Block, start: int, stop: int) -> Block:
    """Return rows [start, stop), as views."""
    return Block(
        features=block.features[start:stop],
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
    return features.take(pa.array(index))


def join(blocks: Sequence[Block]) -> Block:
    """Return the rows of several blocks; those of one as they are."""
    return blocks[0] if len(blocks) == 1 else gather(blocks, sum(len(block.codes) for block in blocks))


def gather(blocks: Iterable[Block], rows: int) -> Block:
    """Return the rows of several blocks, their number known, each copied as it comes and then let go."""
    features: NDArray[np.float32] | None = None
    encoded: list[pa.LargeBinaryArray] = []
    codes = np.empty(rows, np.int32)
    weights: NDArray[np.float32] | None = None
    start = 0
    for block in blocks:
        stop = start + len(block.codes)
        codes[start:stop] = block.codes
        if isinstance(block.features, np.ndarray):
            if features is None:
                features = np.empty((rows, block.features.shape[1]), np.float32)
            features[start:stop] = block.features
        else:
            # Large: a window of images may have more than the 2 GiB that the offsets of others reach.
            encoded.append(block.features.cast(pa.large_binary()))
        if block.weights is not None:
            if weights is None:
                weights = np.empty(rows, np.float32)
            weights[start:stop] = block.weights
        start = stop
    return Block(features=pa.concat_arrays(encoded) if features is None else features, codes=codes, weights=weights)
