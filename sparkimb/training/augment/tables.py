"""Augmentation of rows of numbers; mixing goes for images too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training.augment.base import Augmentation, where_chosen


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Augmentation):
    """Add normal noise to every feature, by its own spread.

    Parameters
    ----------
    scale : float in [0, inf), default=0.1
        Standard deviation of the noise, in standard deviations of the feature.
    std : Tensor [features], optional
        Those of the features; by default of the batch at hand, all its rows.
    probability
        See `Augmentation`.
    """

    scale: float = 0.1
    std: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.scale < math.inf:
            raise SparkimbError(f"GaussianNoise.scale is {self.scale}. It must be in [0, inf).")

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with noise on the chosen rows."""
        x = batch.features
        std = x.std(0, correction=0) if self.std is None else self.std.to(x)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return Batch(where_chosen(chosen, x + self.scale * std * noise, x), batch.labels, batch.weights)


@dataclass(frozen=True, kw_only=True)
class FeatureDropout(Augmentation):
    """Replace features, each by chance, with a value that says nothing.

    Parameters
    ----------
    rate : float in [0, 1], default=0.1
        Chance of each feature of a chosen row.
    fill : float or Tensor [features], default=0.0
        What stands in their place: the features' means, where these are not 0.
    probability
        See `Augmentation`.
    """

    rate: float = 0.1
    fill: float | Tensor = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate <= 1:
            raise SparkimbError(f"FeatureDropout.rate is {self.rate}. It must be in [0, 1].")

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with features of the chosen rows replaced."""
        x = batch.features
        dropped = torch.rand(x.shape, generator=generator, device=x.device) < self.rate
        fill = self.fill.to(x) if isinstance(self.fill, Tensor) else self.fill
        return Batch(where_chosen(chosen, torch.where(dropped, fill, x), x), batch.labels, batch.weights)


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Mix chosen rows, their labels and their weights with other rows of the batch [1]_.

    Parameters
    ----------
    classes : int in [2, inf)
        Of the labels, which come out soft: shares of classes, [b, classes].
    alpha : float in (0, inf), default=0.2
        A row keeps the share lambda ~ Beta(alpha, alpha), drawn for each row.
    probability
        See `Augmentation`.

    References
    ----------
    .. [1] Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """

    classes: int
    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, classes=self.classes, alpha=self.alpha)

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen rows mixed."""
        kept, partner = _draw(self.alpha, chosen, generator)
        return _mixed(batch, partner, kept, kept, self.classes)


@dataclass(frozen=True)
class ReMix(Augmentation):
    """Mix rows as `Mixup` does, with labels that lean to the rarer class of the two [1]_.

    Parameters
    ----------
    counts : sequence of int
        Training rows of each class, by code.
    alpha : float in (0, inf), default=1.0
        A row keeps the share lambda ~ Beta(alpha, alpha) of its features, drawn for each row.
    ratio : float in [1, inf), default=3.0
        The paper's kappa: where one class has this many times the rows of the other, the label may be the rarer alone,
    threshold : float in [0, 1], default=0.5
        the paper's tau: if the share of the larger class in the features is below it.
    probability
        See `Augmentation`.

    References
    ----------
    .. [1] Chou et al., "Remix: Rebalanced Mixup", ECCV 2020 workshops.
    """

    counts: Sequence[int]
    alpha: float = 1.0
    ratio: float = 3.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, classes=len(self.counts), alpha=self.alpha)
        if not all(rows > 0 for rows in self.counts):
            raise SparkimbError(f"ReMix.counts are {list(self.counts)}. Every class must have rows.")
        if not (self.ratio >= 1 and 0 <= self.threshold <= 1):
            raise SparkimbError(
                f"ReMix.ratio is {self.ratio} and threshold {self.threshold}. They must be in [1, inf) and [0, 1]."
            )

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen rows mixed."""
        if torch.is_floating_point(batch.labels):
            raise SparkimbError("ReMix got soft labels, of no one class. Put it before steps that mix labels.")
        kept, partner = _draw(self.alpha, chosen, generator)
        rows = torch.tensor(self.counts, device=kept.device, dtype=kept.dtype)[batch.labels]
        larger = rows / rows[partner]
        share = torch.where((larger >= self.ratio) & (kept < self.threshold), 0, kept)
        share = torch.where((larger <= 1 / self.ratio) & (1 - kept < self.threshold), 1, share)
        return _mixed(batch, partner, kept, share, len(self.counts))


def _check(step: Mixup | ReMix, *, classes: int, alpha: float) -> None:
    name = type(step).__name__
    if classes < 2:
        raise SparkimbError(f"{name} got {classes} classes. It needs 2 or more.")
    if not 0 < alpha < math.inf:
        raise SparkimbError(f"{name}.alpha is {alpha}. It must be in (0, inf).")


def _draw(alpha: float, chosen: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw what each row keeps of itself, [b] in [0, 1] and 1 where not chosen, and its partner, [b]."""
    # Beta from two Gammas.  torch.distributions takes no generator, and this underlies it; float64, as with a small
    # alpha both may be too small for float32.
    shape = torch.full((2, len(chosen)), alpha, dtype=torch.float64, device=chosen.device)
    a, b = torch._standard_gamma(shape, generator=generator)
    partner = torch.randperm(len(chosen), generator=generator, device=chosen.device)
    return torch.where(chosen, a / (a + b), 1).float(), partner


def _mixed(batch: Batch, partner: Tensor, kept: Tensor, share: Tensor, classes: int) -> Batch:
    """Mix features by `kept`, labels and weights by `share`."""
    x, y, w = batch.features, batch.labels, batch.weights
    if not torch.is_floating_point(y):
        y = F.one_hot(y, classes).to(x.dtype)
    elif y.dim() == 1:
        y = torch.stack([1 - y, y], 1)
    return Batch(
        torch.lerp(x[partner], x, kept.to(x).reshape(-1, *[1] * (x.dim() - 1))),
        torch.lerp(y[partner], y, share.to(y).unsqueeze(1)),
        None if w is None else torch.lerp(w[partner], w, share.to(w)),
    )
