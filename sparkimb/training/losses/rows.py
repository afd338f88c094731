"""Logits and labels of a batch in one form, whether two classes or more, labels or shares of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparkimb.errors import SparkimbError


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, b of them, of C classes.

    A binary logit z stands as the logits (0, z): their softmax is the sigmoid, so that each loss is written once.

    Attributes
    ----------
    logits : Tensor [b, C], float32 or float64
    codes : Tensor [b, k], int64
        The classes that each row is of: its label (k = 1), or all of them (k = C).
    shares : Tensor [b, k]
        In [0, 1]: how much each row is of those classes.  All 0 in rows to ignore.
    kept : Tensor [b], bool, or None
        Rows that count; None where all do.
    binary : bool
        Whether there was one logit per row.
    """

    logits: Tensor
    codes: Tensor
    shares: Tensor
    kept: Tensor | None
    binary: bool

    @property
    def classes(self) -> int:
        """Return C."""
        return self.logits.shape[1]

    def at_codes(self, values: Tensor) -> Tensor:
        """Return, as [b, k], the values [b, C] or [C] of the classes that each row is of."""
        return values[self.codes] if values.dim() == 1 else values.gather(1, self.codes)

    def log_probabilities(self, logits: Tensor | None = None) -> Tensor:
        """Return, as [b, k], log p of the classes that each row is of, by these logits or the rows' own."""
        return self.at_codes(torch.log_softmax(self.logits if logits is None else logits, 1))

    def expected(self, values: Tensor) -> Tensor:
        """Return, as [b], the mean of values [b, k] over the classes that each row is of."""
        return (self.shares * values).sum(1)

    def all_shares(self) -> Tensor:
        """Return, as [b, C], the share of every class."""
        if self.codes.shape[1] == self.classes:
            return self.shares
        return torch.zeros_like(self.logits).scatter(1, self.codes, self.shares)

    def against_rest(self) -> tuple[Tensor, Tensor]:
        """Return logits and shares of each class against the rest: [b, C], of one logit that itself: [b, 1]."""
        if self.binary:
            return self.logits[:, 1:], self.all_shares()[:, 1:]
        return self.logits, self.all_shares()


def as_rows(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Rows:
    """Bring logits and labels to one form.

    Parameters
    ----------
    logits : Tensor [b], [b, 1] or [b, C]
        Of any floating type; those of 16 bits are taken to float32.
    labels : Tensor
        Codes [b] or [b, 1], integer or boolean; shares [b, C]; with one logit also shares of class 1, [b] or [b, 1].

    Raises
    ------
    TypeError
        For logits that are not floating.
    SparkimbError
        For shapes that do not fit, and for labels out of range; the latter where they lie on the CPU, as elsewhere to
        look at them would wait for the device.
    """
    if not torch.is_floating_point(logits):
        raise TypeError(f"logits are of type {logits.dtype}. Give the model's output before softmax, floating.")
    if logits.dim() not in (1, 2) or logits.shape[-1] == 0:
        raise _shapes(logits, labels)
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    z = z.reshape(-1, 1) if z.dim() == 1 else z
    binary = z.shape[1] == 1
    if binary:
        z = torch.cat([torch.zeros_like(z), z], 1)
    if labels.shape == z.shape and torch.is_floating_point(labels):
        _check_range(labels, (labels >= 0) & (labels <= 1), "shares of classes in [0, 1]")
        return Rows(z, _all_codes(z), labels.to(z.dtype), None, binary)
    if labels.numel() != z.shape[0] or labels.dim() > 2:
        raise _shapes(logits, labels)
    labels = labels.reshape(-1)
    kept = labels != ignore_index
    if not torch.is_floating_point(labels):
        codes = labels.long()
        _check_range(labels, ~kept | (codes >= 0) & (codes < z.shape[1]), f"class codes from 0 to {z.shape[1] - 1}")
        codes = torch.where(kept, codes, 0).unsqueeze(1)
        return Rows(z, codes, kept.to(z.dtype).unsqueeze(1), kept, binary)
    if not binary:
        raise _shapes(logits, labels)
    _check_range(labels, ~kept | (labels >= 0) & (labels <= 1), "shares of class 1 in [0, 1]")
    positive = torch.where(kept, labels, 0).to(z.dtype)
    shares = torch.stack([1 - positive, positive], 1) * kept.unsqueeze(1)
    return Rows(z, _all_codes(z), shares, kept, binary)


def _all_codes(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[1], device=logits.device).expand_as(logits)


def _shapes(logits: Tensor, labels: Tensor) -> SparkimbError:
    return SparkimbError(
        f"logits are of shape {list(logits.shape)} and labels of shape {list(labels.shape)}, {labels.dtype}. Give "
        "[b] or [b, 1] logits with labels [b], or [b, C] logits with integer labels [b] or shares of classes [b, C]."
    )


def _check_range(labels: Tensor, good: Tensor, wanted: str) -> None:
    if labels.device.type != "cpu" or bool(good.all()):
        return
    bad = labels[~good]
    raise SparkimbError(f"{len(bad)} labels are out of range, such as {bad[0].item()}. They must be {wanted}.")
