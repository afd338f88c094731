"""Frozen parts stay as they are; classifiers are trained anew or rescaled, as an example on images shows."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim import AdamW
from training.batches import MemoryLoader, rows

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training.losses import WeightedCrossEntropyLoss
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.mlp import MLP
from sparkimb.training.trainer import fit
from sparkimb.training.transfer import freeze, reinitialize, retrain_classifier, tau_normalize, unfreeze


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(8, 2),
    )


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_frozen_backbone_stays_as_it_is_with_its_statistics() -> None:
    model = network()
    freeze(model[0])
    freeze(model[0])  # twice is once
    before, loader = state(model[0]), MemoryLoader(rows())
    fit(model, loader, loss=WeightedCrossEntropyLoss(), epochs=1, device="cpu")
    assert same(before, state(model[0]))
    assert not same(state(network()[1]), state(model[1]))
    x = torch.randn(5, 4)
    model.train()
    assert torch.equal(model[0](x), model[0](x)), "no dropout"
    again = copy.deepcopy(model).train()
    assert torch.equal(again[0](x), model[0](x))
    unfreeze(model[0])
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()
    assert not torch.equal(model[0](x), model[0](x))
    fit(model, loader, loss=WeightedCrossEntropyLoss(), epochs=1, device="cpu")
    assert not same(before, state(model[0]))


def test_retraining_changes_the_classifier_alone() -> None:
    model = network()
    before = state(model)
    retrain_classifier(model, model[1])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]
    assert not torch.equal(model[1].weight, before["1.weight"])
    model.train()
    x = torch.randn(5, 4)
    assert torch.equal(model[0](x), model[0](x))
    with pytest.raises(SparkimbError, match="no part"):
        retrain_classifier(model, nn.Linear(8, 2))


def test_layers_that_cannot_start_anew_are_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    with pytest.raises(SparkimbError, match=r"Layer '1' \(Scale\)"):
        reinitialize(nn.Sequential(nn.Linear(2, 2), Scale()))


def test_tau_normalisation_evens_the_norms() -> None:
    layer = nn.Linear(6, 3)
    norms = layer.weight.norm(dim=1)
    with torch.no_grad():
        layer.weight *= torch.tensor([[5.0], [1.0], [0.2]])
    scaled = layer.weight.detach().clone()
    for tau in (0.0, 0.5, 1.0):
        layer.weight.data = scaled.clone()
        tau_normalize(layer, tau)
        torch.testing.assert_close(layer.weight, scaled / scaled.norm(dim=1, keepdim=True) ** tau)
        assert not layer.bias.any()
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(3))
    assert norms.requires_grad is True
    with pytest.raises(SparkimbError, match="one output"):
        tau_normalize(nn.Linear(6, 1))
    with pytest.raises(SparkimbError, match="tau"):
        tau_normalize(layer, -1.0)
    with pytest.raises(TypeError, match="ReLU"):
        tau_normalize(nn.ReLU())  # type: ignore[arg-type]


def test_example_on_digits_made_imbalanced() -> None:
    """1,257 images of digits, with 12 of each from 5 to 9: train as they come, then look at the classifier again."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    before = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])  # of the same digit
    train, test = torch.arange(len(labels)) < 1257, torch.arange(len(labels)) >= 1257
    train &= (labels < 5) | (before < 12)
    data = Batch(images[train].float() / 16, labels[train], None)
    held_out = [Batch(images[test].float() / 16, labels[test], None)]

    def balanced_accuracy(model: nn.Module) -> float:
        return metrics_of(*predict(model, held_out))["balancedAccuracy"]

    torch.manual_seed(0)
    model, loss = MLP(64, classes=10, hidden=[64], dropout=0.0), WeightedCrossEntropyLoss()
    fit(model, MemoryLoader(data, 32), loss=loss, epochs=15, optimizer=AdamW(model.parameters(), lr=3e-3))
    natural = balanced_accuracy(model)

    rescaled = copy.deepcopy(model)
    tau_normalize(rescaled.classifier, tau=1.0)
    assert balanced_accuracy(rescaled) > natural + 0.01

    counts = torch.bincount(data.labels)
    drawn = torch.multinomial(1 / counts[data.labels].float(), 1000, replacement=True)  # as balance="uniform" draws
    uniform = MemoryLoader(Batch(data.features[drawn], data.labels[drawn], None), 32)
    body = state(model.body)
    retrain_classifier(model, model.classifier)
    fit(model, uniform, loss=loss, epochs=10, optimizer=AdamW(model.classifier.parameters(), lr=1e-2))
    assert same(body, state(model.body))
    assert balanced_accuracy(model) > natural + 0.05
