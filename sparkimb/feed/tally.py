"""Rows read, counted by class against the manifest."""

from __future__ import annotations

import numpy as np

from sparkimb.errors import SparkimbError
from sparkimb.feed.engine import Block, RowGroup
from sparkimb.feed.manifest import Manifest


class Tally:
    """Counts each shard's rows by class, and compares when the last of its row groups has come.

    A shard of which others read a part is not compared; its row groups' rows are.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._counts = np.zeros((len(manifest.shards), len(manifest.labels)), np.int64)
        self._missing = [sum(1 for rows in shard.row_groups if rows) for shard in manifest.shards]

    def add(self, row_group: RowGroup, block: Block) -> None:
        """Count a row group's rows.

        Raises
        ------
        SparkimbError
            If it has other rows than the manifest says, or if its shard has and this is the last of it.
        """
        shard = self._manifest.shards[row_group.shard]
        if len(block) != row_group.rows:
            raise SparkimbError(
                f"Row group {row_group.group} of '{shard.file}' gave {len(block)} rows, and {row_group.rows} "
                "were written. Materialize the data again."
            )
        counts = self._counts[row_group.shard]
        counts += np.bincount(block.codes, minlength=len(counts))
        self._missing[row_group.shard] -= 1
        if not self._missing[row_group.shard] and tuple(counts.tolist()) != shard.counts:
            raise SparkimbError(
                f"'{shard.file}' gave {_rows(counts.tolist(), self._manifest)}, and written were "
                f"{_rows(shard.counts, self._manifest)}. Materialize the data again."
            )


def _rows(counts: tuple[int, ...], manifest: Manifest) -> str:
    return ", ".join(f"{n} rows of {label!r}" for n, label in zip(counts, manifest.labels, strict=True))
