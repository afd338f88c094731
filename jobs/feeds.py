"""One epoch of a training set: as the loaders read it, and as pyarrow and petastorm do by themselves."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from sparkimb.feed.manifest import Manifest
from sparkimb.feed.petastorm_compat import install_compat

BATCH_ROWS = 4_096


def epoch(loader: Iterable[Any]) -> int:
    """Take every batch, and return the rows."""
    return sum(len(batch.labels) for batch in loader)


def seconds_to_first_batch(loader: Iterable[Any]) -> float:
    """Return how long a new loader takes until its first batch is there."""
    began = time.perf_counter()
    next(iter(loader))
    return time.perf_counter() - began


def row_groups(path: str) -> int:
    """Read all row groups by pyarrow, each to a tensor of features and one of codes, and return the rows: the floor."""
    manifest = Manifest.read(path)
    rows = 0
    for shard in manifest.shards:
        with pq.ParquetFile(f"{path}/{shard.file}") as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[*manifest.features, manifest.label])
                torch.from_numpy(table.column(manifest.label).to_numpy().copy())
                # Of the ways to make one matrix of the columns the fastest, by far.
                columns = np.stack([table.column(name).to_numpy() for name in manifest.features])
                rows += len(torch.from_numpy(columns).T.contiguous())
    return rows


def shuffling_queue(path: str, capacity: int) -> int:
    """Read an epoch by petastorm's own loader with its shuffling queue, and return the rows."""
    install_compat()
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    manifest = Manifest.read(path)
    reader = make_batch_reader(
        [(Path(path).absolute() / shard.file).as_uri() for shard in manifest.shards],
        schema_fields=[*manifest.features, manifest.label],
        workers_count=2,
        shuffle_row_groups=True,
        num_epochs=1,
    )
    rows = 0
    with (
        warnings.catch_warnings(),
        BatchedDataLoader(reader, batch_size=BATCH_ROWS, shuffling_queue_capacity=capacity) as loader,
    ):
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # petastorm's tensors of Arrow's
        for batch in loader:
            rows += len(torch.stack([batch[name] for name in manifest.features], dim=1))
    return rows
