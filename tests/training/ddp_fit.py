"""A training for test_trainer.py, which also runs it as two ranks, or to be killed, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from training.batches import MemoryLoader, rows

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training import ranks
from sparkimb.training.augment import GaussianNoise
from sparkimb.training.losses import FocalLoss
from sparkimb.training.mlp import MLP
from sparkimb.training.trainer import fit


class Killed(FocalLoss):
    """A loss that ends its process, as kill -9 does, when it is called for the last time."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls -= 1
        return super().forward(logits, labels, weight)


def training(
    directory: Path,
    *,
    loss: nn.Module | None = None,
    loader: type[MemoryLoader] = MemoryLoader,
    stop_after: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Train 3 epochs of 10 steps, with everything that draws: dropout and augmentation."""
    rank, world = ranks.rank(), ranks.world_size()
    torch.manual_seed(rank)
    model = MLP(4, hidden=[8], dropout=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batches = loader(rows(weights=True), 60 // world, rank=rank, world_size=world)
    if isinstance(batches, Stopping):
        batches.left = stop_after
    fitted = fit(
        model,
        batches,
        loss=loss or FocalLoss(),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95),
        validation=[rows((90, 10), seed=1)],
        augment=GaussianNoise(probability={1: 0.5}),
        checkpoint_dir=directory,
        device="cpu",  # where it is the same bit for bit
        **{"epochs": 3, **options},
    )
    parameters = {name: value.tolist() for name, value in fitted.model.state_dict().items()}
    return {"parameters": parameters, "history": fitted.history, "steps": fitted.steps, "early": fitted.stopped_early}


class StoppedError(Exception):
    """What ends a training in the middle."""


class Stopping(MemoryLoader):
    """A loader that ends the training after some batches."""

    left = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.left == 0:
                raise StoppedError
            self.left -= 1
            yield batch


class OfOneRank(MemoryLoader):
    """A loader that was made before there were two ranks."""

    rank, world_size = 0, 1


def ranks_meet(directory: Path, rank: int) -> dict[str, Any]:
    """Return what one of two ranks sees of a training, one that is stopped, one that ends early, and two that fail."""
    straight = training(directory / "straight")
    try:
        training(directory / "stopped", loader=Stopping, stop_after=13, checkpoint_steps=5)
        raise AssertionError("it was to be stopped")
    except StoppedError:
        resumed = training(directory / "stopped", checkpoint_steps=5)
    early = training(directory / "early", patience=1, epochs=50)
    failures = []
    for loader, validation in (
        (MemoryLoader(rows(), 20 + 10 * rank), None),
        (MemoryLoader(rows(), 20), [rows((9, 0))]),
        (OfOneRank(rows(), 20), None),
    ):
        try:
            fit(MLP(4), loader, loss=FocalLoss(), epochs=1, validation=validation, device="cpu")
        except SparkimbError as error:
            failures.append(str(error))
    return {"straight": straight, "resumed": resumed, "early": early, "failures": failures}


def killed(directory: Path) -> None:
    training(directory / "killed", loss=Killed(13), checkpoint_steps=1)


def meet(directory: Path, rank: int) -> None:
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    result = ranks_meet(directory, rank)
    distributed.destroy_process_group()
    (directory / f"result-{rank}.json").write_text(json.dumps(result))


def main() -> None:
    """Fork the process to be killed and the two ranks, which spares them the imports; print their exit statuses."""
    directory, children = Path(sys.argv[1]), []
    for run in (lambda: killed(directory), lambda: meet(directory, 0), lambda: meet(directory, 1)):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))  # noqa: T201


if __name__ == "__main__":
    main()
