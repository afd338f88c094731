"""Batches in memory, for tests of what takes a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparkimb.feed.loader import Batch


def rows(counts: tuple[int, ...] = (540, 60), width: int = 4, seed: int = 0, weights: bool = False) -> Batch:
    """Return rows whose classes differ in the mean of the first features."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((n,), code) for code, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=g)]
    features = torch.randn(len(labels), width, generator=g)
    features[:, : len(counts)] += 1.5 * torch.nn.functional.one_hot(labels, len(counts))
    return Batch(features, labels, 1 + labels.float() if weights else None)


class MemoryLoader:
    """Shuffled batches of rows in memory, by the interface of the feed's loader."""

    def __init__(self, data: Batch, batch_size: int = 50, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.mine = torch.arange(rank, len(data.labels) - len(data.labels) % world_size, world_size)
        self.epoch, self.given = 0, 0

    def __len__(self) -> int:
        return len(self.mine) // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.given = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.given = state["epoch"], state["given"]

    def order(self) -> Tensor:
        g = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return self.mine[torch.randperm(len(self.mine), generator=g)]

    def __iter__(self) -> Iterator[Batch]:
        order = self.order()
        while self.given < len(self):
            taken = order[self.given * self.batch_size :][: self.batch_size]
            self.given += 1
            yield Batch(*(None if x is None else x[taken] for x in self.data))
        self.given = 0
