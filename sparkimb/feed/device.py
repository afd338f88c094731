"""Batches copied to the device while the one before is in use."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from sparkimb.feed.loader import Batch, Loader
from sparkimb.feed.read_ahead import read_ahead

# Seconds for one copy, which takes milliseconds.
TIMEOUT = 120.0


class DevicePrefetcher:
    """A loader whose batches are on a device; the next one is copied, from pinned memory, while one is in use.

    Parameters
    ----------
    loader : Loader
    device : str or torch.device
        On "cpu" batches are passed through as they are.

    Notes
    -----
    On CUDA a thread pins each batch and copies it on a stream of its own; the current stream waits for the copy, and
    the program does not.  The device holds one batch more than is in use.

    `state_dict` is as of the batches handed out, not of those copied ahead, and is interchangeable with the loader's.
    An iteration that is left early begins its epoch again, as the loader's does.
    """

    def __init__(self, loader: Loader, device: str | torch.device) -> None:
        self._loader = loader
        self._device = torch.device(device)
        self._state: dict[str, Any] | None = None
        self._running: ref[Generator[Batch, None, None]] | None = None
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless it is the current one."""
        if epoch != self.state_dict()["epoch"]:
            self._loader.set_epoch(epoch)
            self._state = None

    def state_dict(self) -> dict[str, Any]:
        """Return which batch comes next, as the loader does."""
        return self._loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration begin at the batch that came next when the state was taken."""
        self._loader.load_state_dict(state)
        self._state = None

    def __iter__(self) -> Iterator[Batch]:
        """Run one epoch, as the loader does."""
        if self._device.type == "cpu":
            return iter(self._loader)
        running = None if self._running is None else self._running()
        if running is not None:
            running.close()
        batches = self._run()
        self._running = ref(batches)  # weak, so that leaving a loop early ends it
        return batches

    def _run(self) -> Generator[Batch, None, None]:
        handed_out = None
        ahead = read_ahead(
            self._copy,
            ((batch, self._loader.state_dict()) for batch in self._loader),
            workers=1,
            timeout=TIMEOUT,
            describe=lambda _: f"Copying a batch to {self._device}",
        )
        try:
            with closing(ahead):
                for batch, handed_out, copied in ahead:
                    if copied is not None:
                        current = torch.cuda.current_stream(self._device)
                        current.wait_event(copied)
                        for tensor in batch:
                            if tensor is not None:
                                tensor.record_stream(current)  # or its memory could be used again too early
                    self._state = handed_out
                    yield batch
            self._state = None
        finally:
            # Left early: a batch copied ahead may have been the epoch's last.
            if handed_out is not None and self._state is handed_out:
                self._loader.set_epoch(handed_out["epoch"])

    def _copy(self, task: tuple[Batch, dict[str, Any]]) -> _Copied:
        batch, state = task
        if self._stream is None:
            return _Copied(_each(batch, lambda tensor: tensor.to(self._device)), state, None)
        with torch.cuda.stream(self._stream):
            copy = _each(batch, lambda tensor: tensor.pin_memory().to(self._device, non_blocking=True))
            return _Copied(copy, state, self._stream.record_event())


class _Copied(NamedTuple):
    batch: Batch
    state: dict[str, Any]
    event: torch.cuda.Event | None


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    features, labels, weights = batch
    return Batch(change(features), change(labels), None if weights is None else change(weights))
