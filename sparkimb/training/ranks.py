"""The processes of a distributed run, or the one there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed

from sparkimb.errors import SparkimbError

Value = TypeVar("Value")


def is_distributed() -> bool:
    """Say whether torch.distributed is there and initialised."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return this process's number."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if is_distributed() else 1


def on_first(decide: Callable[[], Value]) -> Value:
    """Run something on rank 0 and return its result on all.

    Where it fails there, all ranks raise, so that none waits for the others until a timeout.
    """
    if not is_distributed():
        return decide()
    answer: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            answer[0] = decide()
        except Exception as error:
            failure, answer[1] = error, f"{type(error).__name__}: {error}"
    distributed.broadcast_object_list(answer)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise SparkimbError(f"Rank 0 failed, and with it all ranks: {answer[1]}")
    result: Value = answer[0]
    return result


def of_all(value: Value) -> list[Value]:
    """Return every rank's value, in their order, on all ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def check_loader(loader: Any) -> None:
    """Check that a loader which divides its rows does so over the ranks there are; all ranks raise, or none.

    Raises
    ------
    SparkimbError
        If its rank and world_size, where it has any, are not those of the process.
    """
    here = rank(), world_size()
    made_for = of_all((getattr(loader, "rank", here[0]), getattr(loader, "world_size", here[1])))
    if wrong := [(i, place) for i, place in enumerate(made_for) if place != (i, here[1])]:
        i, place = wrong[0]
        raise SparkimbError(
            f"The loader of rank {i} of {here[1]} was made for rank {place[0]} of {place[1]}, so that ranks would have "
            "rows in common or leave some out. Make it when the process group is there (by init_process_group, or by "
            "transformers' TrainingArguments), or pass rank and world_size."
        )


def total(value: torch.Tensor) -> torch.Tensor:
    """Return the sum over the ranks."""
    if is_distributed():
        value = value.clone()
        distributed.all_reduce(value)
    return value
