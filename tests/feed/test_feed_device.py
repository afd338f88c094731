"""Batches copied ahead to a device: the same ones, and the state of those handed out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from feed.data import write_training_set

from sparkimb.feed.device import DevicePrefetcher
from sparkimb.feed.torch import make_torch_loader

DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("device") / "set"
    write_training_set(path, weights=True)
    return str(path)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_on_the_device_and_states_as_of_those_handed_out(device: str, path: str) -> None:
    loader = make_torch_loader(path, 64, shuffle_rows=100, return_weights=True)
    expected, states = [], []
    for batch in loader:
        expected.append(batch)
        states.append(loader.state_dict())
    loader.set_epoch(0)
    prefetcher = DevicePrefetcher(loader, device)
    assert len(prefetcher) == len(loader)
    seen = 0
    for batch, own, state in zip(prefetcher, expected, states, strict=True):
        seen += 1
        assert batch.weights is not None
        assert {tensor.device.type for tensor in batch} == {device}
        assert batch.features.shape == own.features.shape
        if device != "meta":
            assert torch.equal(batch.features.cpu(), own.features)
        assert prefetcher.state_dict() == state
    assert seen == len(loader)
    assert prefetcher.state_dict() == loader.state_dict()
    assert loader.epoch == 1


@pytest.mark.parametrize("device", DEVICES)
def test_it_resumes_after_a_loop_left_early(device: str, path: str) -> None:
    prefetcher = DevicePrefetcher(make_torch_loader(path, 64, return_weights=True), device)
    for step, _ in enumerate(prefetcher):
        if step == 4:
            break
    state = prefetcher.state_dict()
    assert (state["epoch"], state["step"]) == (0, 5)
    prefetcher.load_state_dict(state)
    assert sum(1 for _ in prefetcher) == len(prefetcher) - 5
    prefetcher.set_epoch(7)
    assert prefetcher.state_dict()["epoch"] == 7


@pytest.mark.parametrize("device", DEVICES)
def test_a_loop_left_before_the_last_batch_begins_its_epoch_again(device: str, path: str) -> None:
    loader = make_torch_loader(path, 64)
    prefetcher = DevicePrefetcher(loader, device)
    for step, _ in enumerate(prefetcher):
        prefetcher.set_epoch(0)  # the current one: nothing changes
        assert prefetcher.state_dict()["step"] == (step + 1) % len(loader)
        if step == len(loader) - 2:  # the last one is copied already
            break
    assert loader.epoch == 0
    assert sum(1 for _ in prefetcher) == len(loader)
    older = iter(prefetcher)
    for _ in range(len(loader) - 1):
        next(older)
    assert sum(1 for _ in prefetcher) == len(loader)
    assert list(older) == []  # ended by the newer one
    assert loader.epoch == 2
