"""`fit` goes on exactly where it was stopped, stops where it should, and keeps the ranks of a distributed run alike."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.batches import MemoryLoader, rows
from training.ddp_fit import StoppedError, Stopping, training

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training import checkpoints
from sparkimb.training.augment import Mixup
from sparkimb.training.losses import FocalLoss, LDAMLoss, LogitAdjustedLoss, WeightedCrossEntropyLoss
from sparkimb.training.metrics import metrics_of, predict
from sparkimb.training.mlp import MLP, feature_moments
from sparkimb.training.trainer import Fitted, device_of_rank, fit

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a training was killed after 13 steps, and where two ranks trained."""
    directory = tmp_path_factory.mktemp("elsewhere")
    script = str(TESTS / "training" / "ddp_fit.py")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error", script, str(directory)]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        output, _ = started.communicate(timeout=150)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # with the processes that it forked
    assert json.loads(output) == [-signal.SIGKILL, 0, 0]
    return directory


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What 30 steps give without a stop."""
    return training(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(("stop_after", "every"), [(13, 1), (13, 5), (13, None), (20, 5), (29, 4), (3, 5)])
def test_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, straight: dict[str, Any], stop_after: int, every: int | None
) -> None:
    with pytest.raises(StoppedError):
        training(tmp_path, loader=Stopping, stop_after=stop_after, checkpoint_steps=every)
    torch.rand(7)  # whatever happened to the generators meanwhile
    assert training(tmp_path, checkpoint_steps=every) == straight


def test_goes_on_after_a_kill(elsewhere: Path, straight: dict[str, Any]) -> None:
    found = checkpoints.load(elsewhere / "killed" / checkpoints.NAME)
    assert found is not None
    assert found["step"] == 13
    assert training(elsewhere / "killed", checkpoint_steps=1) == straight


def test_what_has_ended_is_not_repeated_and_can_be_continued(tmp_path: Path, straight: dict[str, Any]) -> None:
    first = training(tmp_path, epochs=2)
    assert first["steps"] == 20
    assert training(tmp_path, epochs=2, loader=Stopping) == first
    assert training(tmp_path) == straight
    assert training(tmp_path, resume=False) == straight


def test_two_ranks(elsewhere: Path) -> None:
    one, two = (json.loads((elsewhere / f"result-{rank}.json").read_text()) for rank in (0, 1))
    assert one["straight"] == two["straight"], "the same parameters and figures"
    assert one["straight"]["steps"] == 30
    assert one["resumed"] == two["resumed"] == one["straight"]
    assert one["early"] == two["early"]
    assert one["early"]["early"]
    assert one["early"]["steps"] < 500
    for failures in (one["failures"], two["failures"]):
        assert re.search(r"\[30, 20\] batches", failures[0])
        assert re.search(r"\[9, 0\] of each class", failures[1])
        assert "loader of rank 0 of 2 was made for rank 0 of 1" in failures[2]
    with pytest.raises(SparkimbError, match="of 2 ranks, and there are 1 now"):
        training(elsewhere / "straight")


def test_goes_on_from_a_checkpoint_of_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        training(tmp_path, loader=Stopping, stop_after=13, checkpoint_steps=13)
    path = tmp_path / checkpoints.NAME
    found = checkpoints.load(path)
    assert found is not None
    found["ranks"][0]["random"]["cuda"] = found["ranks"][0]["augment"] = torch.zeros(16, dtype=torch.uint8)
    checkpoints.save(path, found)
    assert training(tmp_path)["steps"] == 30


# ---- what is trained


def blobs_fit(**options: Any) -> Fitted:
    torch.manual_seed(3)
    given: dict[str, Any] = {"loss": WeightedCrossEntropyLoss(), "epochs": 4, "validation": [rows((180, 20), seed=1)]}
    return fit(MLP(4, hidden=[16]), MemoryLoader(rows()), **(given | options))


def test_it_learns_and_says_how_well() -> None:
    fitted = blobs_fit(epochs=8, optimizer=None)
    losses = [figures["loss"] for figures in fitted.history]
    assert losses == sorted(losses, reverse=True)
    assert fitted.history[-1]["averagePrecision"] > 0.5
    assert [figures["epoch"] for figures in fitted.history] == list(range(8))
    assert fitted.steps == 8 * 12
    best = max(fitted.history, key=lambda figures: figures["averagePrecision"])
    assert fitted.best_epoch == best["epoch"]
    found = metrics_of(*predict(fitted.model, [rows((180, 20), seed=1)]))
    assert found == {name: value for name, value in best.items() if name not in ("epoch", "loss")}
    assert not fitted.model.training


def test_without_validation_the_last_parameters_stay() -> None:
    fitted = blobs_fit(validation=None)
    assert fitted.best_epoch is None
    assert set(fitted.history[0]) == {"epoch", "loss"}


def test_early_stopping_keeps_the_best_epoch() -> None:
    class Worse(nn.Module):
        """Scores rows by a number that sinks below 0 as it is trained: ever worse."""

        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.05))

        def forward(self, x: Tensor) -> Tensor:
            return self.slope * (x[:, 1] - x[:, 0])

    class Push(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return (logits * (2 * labels - 1)).mean()

    model = Worse()
    fitted = fit(
        model,
        MemoryLoader(rows()),
        loss=Push(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.001),
        epochs=60,
        patience=3,
        validation=[rows((180, 20), seed=1)],
    )
    assert fitted.stopped_early
    assert fitted.best_epoch == 0
    assert len(fitted.history) == 4
    assert fitted.history[0]["averagePrecision"] == max(f["averagePrecision"] for f in fitted.history)
    assert model.slope.item() > 0.03


def test_bfloat16_trains_as_well() -> None:
    fitted, half = blobs_fit(epochs=6), blobs_fit(epochs=6, amp="bfloat16")
    assert half.history[-1]["loss"] == pytest.approx(fitted.history[-1]["loss"], rel=0.05)
    assert half.history[-1] != fitted.history[-1]
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())


def test_weights_reach_the_loss_and_losses_learn_the_epoch() -> None:
    seen: list[tuple[int, bool]] = []

    class Watched(LDAMLoss):
        def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
            seen.append((self.epoch, weight is not None and torch.equal(weight, 1 + labels.float())))
            return super().forward(logits, labels, weight)

    fit(MLP(4), MemoryLoader(rows(weights=True), 100), loss=Watched([540, 60], drw_epoch=1), epochs=2)
    assert seen == [(0, True)] * 6 + [(1, True)] * 6


def test_augmentation_and_clipping_and_plain_batches() -> None:
    fitted = blobs_fit(augment=Mixup(2, probability={1: 0.5}), clip_norm=1e-6, epochs=1)
    assert fitted.history[0]["loss"] > 0
    plain = [(batch.features, batch.labels) for batch in MemoryLoader(rows())]
    once = fit(MLP(4), plain, loss=FocalLoss(), epochs=2)
    assert once.steps == 24
    three = rows((300, 200, 100))
    fitted = fit(MLP(4, classes=3), MemoryLoader(three), loss=nn.CrossEntropyLoss(), epochs=2, validation=[three])
    assert 0 < fitted.history[-1]["macroF1"] <= 1


def test_logit_adjustment_raises_the_recall_of_the_rare_class() -> None:
    natural, adjusted = blobs_fit(epochs=8), blobs_fit(epochs=8, loss=LogitAdjustedLoss([540, 60]))
    assert adjusted.history[-1]["recall"] > natural.history[-1]["recall"] + 0.1
    assert adjusted.history[-1]["balancedAccuracy"] > natural.history[-1]["balancedAccuracy"]


def test_a_bar_is_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    blobs_fit(epochs=1)
    assert not capsys.readouterr().out
    blobs_fit(epochs=1, progress=True)
    assert "epoch 0" in capsys.readouterr().out


def test_moments_of_features() -> None:
    data = rows((400, 201))
    data.features[:, 0] += 1e4
    data.features[:, 1] = 7.0
    batches = [Batch(*(None if x is None else x[i : i + 50] for x in data)) for i in range(0, 601, 50)]
    mean, std = feature_moments(batches)
    torch.testing.assert_close(mean, data.features.double().mean(0).float())
    expected = data.features.double().std(0, correction=0).float()
    expected[1] = 1.0  # constant
    torch.testing.assert_close(std, expected)
    model = MLP(4, hidden=[3], mean=mean, std=std)
    assert torch.equal(model.state_dict()["mean"], mean)
    with pytest.raises(SparkimbError, match="no batches"):
        feature_moments([])


def test_rows_are_predicted_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which device "meta" has none of

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.device == self.weight.device == torch.device("meta")
            return torch.zeros(len(x))

    logits, labels = predict(Watched(4, 1, device="meta"), [rows((9, 1))])
    assert len(logits) == len(labels) == 10


def test_a_rank_has_its_gpu_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(device_of_rank(given)) for given in (None, "cuda", "cuda:0", "cpu")] == ["cuda:1"] * 2 + [
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(device_of_rank()) == "cpu"
    with pytest.raises(SparkimbError, match="finds no GPU"):
        device_of_rank("cuda")


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"patience": 2, "validation": None}, "no validation"),
        ({"amp": "float8"}, "float8"),
        ({"amp": "float16"}, "float16' on cpu"),
        ({"checkpoint_steps": 5}, "needs checkpoint_dir"),
        ({"validation": [rows((20, 0))]}, r"\[20, 0\] of each class"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(SparkimbError, match=match):
        blobs_fit(device="cpu", **options)


def test_a_loss_that_is_not_finite_ends_it_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    good = blobs_fit(checkpoint_dir=tmp_path, epochs=1)
    data = rows()
    data.features[5] = torch.inf
    with pytest.raises(SparkimbError, match=r"loss of epoch 1 is nan after \d+ steps"):
        fit(
            MLP(4, hidden=[16]),
            MemoryLoader(data),
            loss=WeightedCrossEntropyLoss(),
            epochs=2,
            checkpoint_dir=tmp_path,
            checkpoint_steps=1,
        )
    found = checkpoints.load(tmp_path / checkpoints.NAME)
    assert found is not None
    assert found["step"] >= good.steps
    assert all(torch.isfinite(value).all() for value in found["model"].values())


def test_a_loader_of_one_pass_is_told(tmp_path: Path) -> None:
    class Once(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            taken, self[:] = list(super().__iter__()), []
            return iter(taken)

    with pytest.raises(SparkimbError, match="gave no batches"):
        fit(MLP(4), Once(MemoryLoader(rows())), loss=FocalLoss(), epochs=2)


def test_checkpoints_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    blobs_fit(checkpoint_dir=tmp_path, epochs=1)
    path = tmp_path / checkpoints.NAME
    with pytest.raises(SparkimbError, match="another training"):
        fit(MLP(5), MemoryLoader(rows(width=5)), loss=FocalLoss(), epochs=1, checkpoint_dir=tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(SparkimbError, match="cannot be read"):
            blobs_fit(checkpoint_dir=tmp_path)
    torch.save({"formatVersion": 99}, path)
    with pytest.raises(SparkimbError, match="format version 99"):
        blobs_fit(checkpoint_dir=tmp_path)


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / checkpoints.NAME

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"formatVersion": 1, "model": Payload()}, path)
    with pytest.raises(SparkimbError, match="cannot be read"):
        blobs_fit(checkpoint_dir=tmp_path)
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(SparkimbError, match="cannot be read"):
        blobs_fit(checkpoint_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / checkpoints.NAME
    checkpoints.save(path, {"step": 1})

    def dies(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(path, {"step": 2})
    assert checkpoints.load(path) == {"step": 1}
