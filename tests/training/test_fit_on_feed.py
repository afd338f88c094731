"""`fit` and the Trainer on the feed's own loader: balanced batches, resumed in the middle of an epoch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feed.data import write_training_set
from pyarrow import fs
from torch import Tensor, nn

from sparkimb.errors import SparkimbError
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


def trained(path: str, directory: Path, loss: nn.Module, balance: Any, **options: Any) -> Fitted:
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
            device="cpu",  # where it is the same bit for bit
            **{"checkpoint_steps": 7, **options},
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


def test_other_data_or_batches_are_not_continued(path: str, tmp_path: Path) -> None:
    once = {"checkpoint_dir": tmp_path / "once", "epochs": 1}
    with make_torch_loader(path, 64, seed=5) as loader:
        first = fit(MLP(4), loader, loss=FocalLoss(), **once)
    write_training_set(tmp_path / "other", COUNTS, weights=True, seed=1)
    for training, settings, found in (
        (path, {"batch_size": 32}, "batch_size was 64 and is 32"),
        (path, {"balance": "uniform"}, "balance was 'natural' and is 'uniform'"),
        (path, {"seed": 6}, "seed was 5 and is 6"),
        (str(tmp_path / "other"), {}, "another training set"),
    ):
        with make_torch_loader(training, **{"batch_size": 64, "seed": 5, **settings}) as loader:
            model = MLP(4)
            before = copy.deepcopy(model.state_dict())
            with pytest.raises(SparkimbError, match=found):
                fit(model, loader, loss=FocalLoss(), **{**once, "epochs": 2})
            assert all(torch.equal(value, before[name]) for name, value in model.cpu().state_dict().items())
    with make_torch_loader(path, 64, seed=5) as loader:
        assert fit(MLP(4), loader, loss=FocalLoss(), **{**once, "epochs": 2}).steps == 2 * first.steps


def test_a_loader_of_other_ranks_is_refused(path: str) -> None:
    with (
        make_torch_loader(path, 64, rank=0, world_size=2) as loader,
        pytest.raises(SparkimbError, match="loader of rank 0 of 1 was made for rank 0 of 2"),
    ):
        fit(MLP(4), loader, loss=FocalLoss(), epochs=1)


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


def test_a_manifest_of_another_file_system(path: str) -> None:
    where = fs.SubTreeFileSystem(str(Path(path).parent), fs.LocalFileSystem())
    expected = from_manifest(path, "cross_entropy").state_dict()
    found = from_manifest(Path(path).name, "cross_entropy", filesystem=where).state_dict()
    assert expected
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_loss_of_the_manifest_trains(path: str) -> None:
    with make_torch_loader(path, 64) as loader:
        assert fit(MLP(4), loader, loss=from_manifest(path, "balanced_softmax"), epochs=1).steps == 16
