"""Checkpoints: files that appear whole or not at all, loaded without running code that they may hold."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparkimb.errors import SparkimbError

FORMAT_VERSION = 1
NAME = "checkpoint.pt"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside its place, flush it to disk, and move it there.

    A process or machine that dies meanwhile leaves the checkpoint that was there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.incomplete")
    with aside.open("wb") as stream:
        torch.save({"formatVersion": FORMAT_VERSION, **content}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)
    if hasattr(os, "O_DIRECTORY"):  # the new name, too, is on disk only when the directory is
        directory = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def load(path: Path) -> dict[str, Any] | None:
    """Return what `save` wrote, or None where there is nothing: tensors and plain values only, whatever the file holds.

    Raises
    ------
    SparkimbError
        For a file that is damaged, holds other objects, or is of another format.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("formatVersion")
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, AttributeError) as error:
        said = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise SparkimbError(
            f"'{path}' cannot be read: {said.rstrip('.')}. Put it back from a copy; a training may start anew, "
            "with resume=False or another directory."
        ) from error
    if version != FORMAT_VERSION:
        raise SparkimbError(
            f"'{path}' is of format version {version}, and this sparkimb reads version "
            f"{FORMAT_VERSION}. Go on with the release that wrote it."
        )
    return content


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of torch, Python and NumPy, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_states` returned."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
