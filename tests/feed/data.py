"""Materialized training sets made by pyarrow alone, for tests that need no Spark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparkimb.feed.manifest import DIRECTORY, Manifest, Shard


def write_training_set(
    path: Path,
    counts: Sequence[int] = (900, 100),
    *,
    width: int = 4,
    shards: int = 4,
    rows_per_group: int = 50,
    layout: str = "scalars",
    weights: bool = False,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Write a training set with every class striped over the rows; return features and codes in the files' order.

    Feature 0 is the row's number, so that a row can be told wherever it goes.  Shards are of equal rows.
    """
    n = sum(counts)
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    places = np.concatenate([(np.arange(rows) + 0.5) / rows for rows in counts])
    codes = codes[np.argsort(places, kind="stable")]
    features = rng.standard_normal((n, width)).astype(np.float32)
    files, order = [], []
    for i in range(shards):
        rows = np.arange(i * n // shards, (i + 1) * n // shards)
        order.append(rows)
        features[rows, 0] = rows
        name = f"part-{i:05d}.parquet"
        columns: dict[str, pa.Array] = (
            {f"f{j}": pa.array(features[rows, j]) for j in range(width)}
            if layout == "scalars"
            else {
                "features": pa.ListArray.from_arrays(
                    np.arange(0, (len(rows) + 1) * width, width, dtype=np.int32), features[rows].ravel()
                )
            }
        )
        columns["label"] = pa.array(codes[rows])
        if weights:
            columns["weight"] = pa.array((1 + rows % 3).astype(np.float32))
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path / name, row_group_size=rows_per_group)
        groups = [min(rows_per_group, len(rows) - j) for j in range(0, len(rows), rows_per_group)]
        files.append(
            Shard(
                file=name,
                bytes=(path / name).stat().st_size,
                row_groups=tuple(groups),
                counts=tuple(np.bincount(codes[rows], minlength=len(counts)).tolist()),
                checksum="0" * 16,
            )
        )
    manifest = Manifest(
        layout=layout,
        features=tuple(f"f{j}" for j in range(width)) if layout == "scalars" else ("features",),
        width=width,
        label="label",
        labels=tuple(range(len(counts))),
        weight="weight" if weights else None,
        shards=tuple(files),
        counts_before=tuple(counts),
        seed=seed,
    )
    (path / DIRECTORY).mkdir()
    (path / DIRECTORY / "part-00000.txt").write_text(manifest.to_json() + "\n")
    rows = np.concatenate(order)
    return features[rows], codes[rows]
