"""What all losses share: their call, their reductions, and the sizes of classes that they are built from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparkimb.errors import SparkimbError
from sparkimb.training.losses.rows import Rows, as_rows

REDUCTIONS = ("mean", "sum", "none")

# Rows of each class, by code, or by label where the labels are the codes 0, 1, ...
Counts = Sequence[float] | Mapping[Any, float]
Loss = TypeVar("Loss", bound="ImbalancedLoss")


class ImbalancedLoss(nn.Module):
    """A loss over the rows of a batch.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default="mean"
        "mean" divides by the rows that count, not by their weights: with weights of mean 1 over the training set, as
        `ClassWeigher` gives them, every batch then estimates the loss of the whole set without bias, and the batches
        of several ranks or accumulated steps add up to it.
    ignore_index : int, default=-100
        Rows with this label do not count: their loss and gradient are 0.

    Notes
    -----
    Logits of 16 bits are taken to float32 first, so losses may be called under autocast; values and gradients are
    finite for logits as far out as ±1e4.  With one logit per row class 1 is the positive one.
    """

    def __init__(self, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise SparkimbError(f"reduction is {reduction!r}. Choose one of: {', '.join(REDUCTIONS)}.")
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.classes: int | None = None

    @classmethod
    def from_counts(cls: type[Loss], counts: Counts, **options: Any) -> Loss:
        """Build the loss for training rows of these classes.

        Parameters
        ----------
        counts : sequence, or dict by code
            Rows (or weights) of each class, by code, as the model is to see them: none may be 0.
        **options
            Parameters of the class.
        """
        loss = cls(**options)
        loss.classes = len(class_sizes(counts))
        return loss

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0: for losses with a schedule."""

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        logits : Tensor [b], [b, 1] or [b, C]
        labels : Tensor
            Codes [b], or soft labels: shares of classes [b, C]; with one logit, the share of class 1, [b].
        weight : Tensor [b], optional
            Weight of each row.

        Returns
        -------
        Tensor
            A scalar, or [b] with reduction "none".
        """
        rows = self.rows(logits, labels)
        losses = self.row_losses(rows)
        if weight is not None:
            losses = losses * row_weights(weight, losses)
        if rows.kept is not None:
            losses = torch.where(rows.kept, losses, 0)
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        return losses.sum() / (losses.numel() if rows.kept is None else rows.kept.sum().clamp(min=1))

    def rows(self, logits: Tensor, labels: Tensor) -> Rows:
        """Bring a batch to one form, and check that it has as many classes as the loss."""
        rows = as_rows(logits, labels, ignore_index=self.ignore_index)
        if self.classes is not None and rows.classes != self.classes:
            raise SparkimbError(
                f"logits are of shape {list(logits.shape)}, which is {rows.classes} classes, and "
                f"{type(self).__name__} was built for {self.classes}. Give the counts of the model's classes."
            )
        return rows

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        raise NotImplementedError


def row_weights(weight: Tensor, losses: Tensor) -> Tensor:
    """Return the weights of rows as the losses are, and check that there is one for each."""
    if weight.numel() != losses.shape[0]:
        raise SparkimbError(f"weight is of shape {list(weight.shape)} for {losses.shape[0]} rows. Give one per row.")
    return weight.reshape(-1).to(losses.dtype)


def class_sizes(counts: Counts) -> list[float]:
    """Return the rows of each class by code, and check that there are two classes or more and that each has some."""
    if isinstance(counts, Mapping):
        if sorted(counts) != list(range(len(counts))):
            raise SparkimbError(
                f"counts has labels {list(counts)}. Give the counts in the order of the model's outputs, as a list, or "
                "by class code from 0."
            )
        counts = [counts[code] for code in range(len(counts))]
    sizes = [float(rows) for rows in counts]
    if len(sizes) < 2 or not all(0 < rows < math.inf for rows in sizes):
        raise SparkimbError(
            f"counts are {list(counts)}. Give the rows of two classes or more, none of them 0; leave classes without "
            "rows out of the model, or count the data that have them."
        )
    return sizes


def effective_number_weights(sizes: Sequence[float], beta: float) -> list[float]:
    """Return weights in proportion to (1 - beta) / (1 - beta^n), which sum to the number of classes."""
    if not 0 <= beta < 1:
        raise SparkimbError(f"beta is {beta}. It must be in [0, 1): towards 1 the weights are inverse to the counts.")
    # expm1 keeps the digits that 1 - beta^n loses when beta is close to 1
    weights = [1.0 if beta == 0 else (1 - beta) / -math.expm1(rows * math.log(beta)) for rows in sizes]
    return [len(weights) * weight / sum(weights) for weight in weights]
