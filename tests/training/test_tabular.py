"""An MLP trained on materialized sets from its settings alone, and kept in a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from feed.data import write_training_set
from torch import Tensor, distributed

from sparkimb.errors import SparkimbError
from sparkimb.feed.torch import make_torch_loader
from sparkimb.training import losses, tabular
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.mlp import MLP, load_mlp, save_mlp
from sparkimb.training.tabular import train_mlp

SETTINGS: dict[str, Any] = {"hidden": [8], "batch_size": 64, "epochs": 2}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    paths = {name: tmp_path_factory.mktemp("sets") / name for name in ("training", "validation", "test")}
    for seed, (name, path) in enumerate(paths.items()):
        write_training_set(path, (900, 100) if name == "training" else (180, 20), weights=name == "training", seed=seed)
    return {name: str(path) for name, path in paths.items()}


def test_it_trains_from_settings_and_measures_the_test_rows(sets: dict[str, str], tmp_path: Path) -> None:
    options = {**SETTINGS, "loss": "focal", "loss_options": {"gamma": 1.0}, "device": "cpu"}  # the same bit for bit
    found = train_mlp(**sets, **options, checkpoint_dir=tmp_path)
    assert found["steps"] == 2 * 16
    assert {"loss", "averagePrecision"} <= set(found["history"][0])
    model = MLP(**found["mlp"])
    model.load_state_dict(found["state"])
    with make_torch_loader(sets["test"], 200) as loader:
        assert metrics_of(*predict(model, loader)) == pytest.approx(found["test"])
    # feature 0 is the row's number, with a mean of 499.5
    assert model.mean[0].item() == pytest.approx(499.5)
    again = train_mlp(**sets, **options)
    assert all(torch.equal(again["state"][name], value) for name, value in found["state"].items())


@pytest.mark.parametrize("balance", ["uniform", {0: 0.5, 1: 0.5}], ids=str)
def test_batches_may_be_balanced(sets: dict[str, str], balance: Any) -> None:
    options = {"loss": "focal", "loss_options": {"class_weights": None}}
    found = train_mlp(sets["training"], validation=sets["validation"], balance=balance, **options, **SETTINGS)
    assert found["test"] is None
    assert found["best_epoch"] in (0, 1)


def test_losses_are_built_from_weights_where_there_are_any(sets: dict[str, str], monkeypatch: Any) -> None:
    seen: list[Any] = []
    built = losses.from_counts
    monkeypatch.setattr(losses, "from_counts", lambda name, counts: seen.append(counts) or built(name, counts))
    train_mlp(sets["training"], **SETTINGS)
    labels = pq.read_table(sets["training"], columns=["label", "f0"]).sort_by("f0")["label"].to_pylist()
    expected = [sum(1 + i % 3 for i, code in enumerate(labels) if code == c) for c in (0, 1)]
    assert seen == [expected]


@pytest.mark.parametrize(("balance", "weighted"), [("natural", True), ("weight", False)])
def test_weights_act_once(sets: dict[str, str], monkeypatch: Any, balance: str, weighted: bool) -> None:
    seen: list[Any] = []

    class Watched(losses.FocalLoss):
        def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
            seen.append(weight)
            return super().forward(logits, labels, weight)

    monkeypatch.setattr(losses, "from_counts", lambda *_: Watched())
    train_mlp(sets["training"], **SETTINGS, balance=balance)
    assert len(seen) == 2 * 16
    assert {weight is not None for weight in seen} == {weighted}


def test_weights_and_batches_do_not_both_correct(sets: dict[str, str], monkeypatch: Any) -> None:
    monkeypatch.setattr(tabular, "_weights_by_class", lambda *_: [500.0, 500.0])
    with pytest.raises(SparkimbError, match=r"'uniform', and the weights of column 'weight' .* 0.556 of 0, 5 of 1\."):
        train_mlp(sets["training"], **SETTINGS, balance="uniform")
    for balance in ("natural", "weight"):
        tabular.check_corrected_once(balance, "weight", {0: 0.5, 1: 5.0})
    tabular.check_corrected_once("sqrt", "weight", {0: 1.0, 1: 1.3})


def test_a_rank_meets_the_others_where_it_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    met: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, timeout: met.append((backend, timeout)))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: met.append(None))
    monkeypatch.setattr(tabular, "train_mlp", lambda **options: options)
    assert tabular.train_mlp_rank(device="cpu", epochs=3) == {"device": torch.device("cpu"), "epochs": 3}
    assert tabular.train_mlp_rank(ranks_timeout=60)["device"].type == "cuda"
    assert met == [("gloo", timedelta(hours=1)), None, ("nccl", timedelta(minutes=1)), None]

    sentences = iter(["No rows.", "Rank 0 failed."])

    def refuses(**_: Any) -> None:
        raise SparkimbError(next(sentences))

    monkeypatch.setattr(tabular, "train_mlp", refuses)
    for said in ("No rows", "Rank 0 failed"):
        with pytest.raises(SparkimbError, match=said):
            tabular.train_mlp_rank(device="cpu", failure=str(tmp_path / "failure.txt"))
    assert (tmp_path / "failure.txt").read_text() == "No rows."


def test_sets_of_other_classes_are_refused(sets: dict[str, str], tmp_path: Path) -> None:
    write_training_set(tmp_path / "three", (90, 10, 5))
    with pytest.raises(SparkimbError, match=r"validation set has the classes \[0, 1, 2\]"):
        train_mlp(sets["training"], validation=str(tmp_path / "three"), **SETTINGS)
    with pytest.raises(SparkimbError, match="engine is 'duckdb'"):
        train_mlp(sets["training"], engine="duckdb", **SETTINGS)


def test_a_model_in_a_file(tmp_path: Path) -> None:
    for classes in (2, 4):
        model = MLP(3, classes=classes, hidden=[5, 4], mean=torch.arange(3.0), std=torch.full((3,), 2.0)).eval()
        save_mlp(tmp_path / "model.pt", model, labels=["no", "yes"])
        again, labels = load_mlp(tmp_path / "model.pt")
        assert labels == ["no", "yes"]
        x = torch.randn(6, 3)
        assert torch.equal(again(x), model(x))
        assert not again.training
    with pytest.raises(SparkimbError, match="no model"):
        load_mlp(tmp_path / "other.pt")
    with pytest.raises(SparkimbError, match="MLP got width 0"):
        MLP(0)
