"""`fit` and the Trainer on the feed's own loader: balanced batches, resumed in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feed.data import write_training_set
from torch import Tensor, nn

from sparkimb.feed.torch import make_torch_loader
from sparkimb.training.augment import ReMix
from sparkimb.training.losses import FocalLoss, from_manifest
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.mlp import MLP, feature_moments
from sparkimb.training.trainer import Fitted, fit

COUNTS = (900, 100)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("training") / "set"
    write_training_set(where, COUNTS, weights=True)
    return str(where)


class Failing(FocalLoss):
    """A loss that fails when it has been called so often."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.calls == 0:
            raise InterruptedError
        self.calls -= 1
        return super().forward(logits, labels, weight)


def trained(path: str, directory: Path, loss: nn.Module, balance: Any) -> Fitted:
    torch.manual_seed(0)
    with (
        make_torch_loader(path, 64, shuffle_rows=300, balance=balance, seed=5) as loader,
        make_torch_loader(path, 256, shuffle_rows=0) as natural,
    ):
        mean, std = feature_moments(natural)
        return fit(
            MLP(4, hidden=[8], mean=mean, std=std),
            loader,
            loss=loss,
            epochs=3,
            augment=ReMix(COUNTS, probability={1: 0.5}),
            validation=natural,
            checkpoint_dir=directory,
            checkpoint_steps=7,
        )


@pytest.mark.parametrize("balance", ["natural", "uniform", {0: 0.7, 1: 0.3}, "weight"], ids=str)
def test_goes_on_at_the_exact_batch(path: str, tmp_path: Path, balance: Any) -> None:
    straight = trained(path, tmp_path / "straight", FocalLoss(), balance)
    with pytest.raises(InterruptedError):
        trained(path, tmp_path / "stopped", Failing(24), balance)
    resumed = trained(path, tmp_path / "stopped", FocalLoss(), balance)
    assert resumed.history == straight.history
    assert resumed.steps == straight.steps == 3 * 16
    expected = straight.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_validation_sees_every_row_once(path: str) -> None:
    with make_torch_loader(path, 64, shuffle_rows=0) as natural:
        logits, labels = predict(MLP(4), natural)
        assert np.bincount(labels.numpy()).tolist() == list(COUNTS)
        assert set(metrics_of(logits, labels)) >= {"averagePrecision", "areaUnderROC", "gMean", "f1", "mcc"}


def test_weights_of_the_training_set_reach_the_loss(path: str) -> None:
    class Watched(FocalLoss):
        total = 0.0

        def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
            assert weight is not None
            Watched.total += weight.sum().item()
            return super().forward(logits, labels, weight)

    with make_torch_loader(path, 64, return_weights=True) as loader:
        fit(MLP(4), loader, loss=Watched(), epochs=1)
    assert Watched.total == sum(1 + i % 3 for i in range(1000))


def test_a_loss_of_the_manifest_trains(path: str) -> None:
    with make_torch_loader(path, 64) as loader:
        assert fit(MLP(4), loader, loss=from_manifest(path, "balanced_softmax"), epochs=1).steps == 16
