"""What all augmentations share: which rows they change, and their composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch

# Of every row, or of the rows of each class, by code; classes that are not named are left as they are.
Probability = float | Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A change of some rows of a batch, where the batch lies.

    Parameters
    ----------
    probability : float or dict of int to float, default=1.0
        In [0, 1]: of a row to be changed; by class code, of the rows of these classes alone: `{1: 0.5}`.

    Notes
    -----
    Called with a batch and a `torch.Generator` on the batch's device, which draws everything; without one torch's own
    does.  The batch given is left as it is.  Nothing waits for the device but small copies of parameters to it: `std`
    and `fill` where they lie elsewhere, and ReMix's counts.
    """

    probability: Probability = 1.0

    def __post_init__(self) -> None:
        chances = self.probability.values() if isinstance(self.probability, Mapping) else [self.probability]
        if not all(0 <= chance <= 1 for chance in chances):
            raise SparkimbError(f"{type(self).__name__}.probability is {self.probability}. It must be in [0, 1].")

    def __call__(self, batch: Batch, generator: Generator | None = None) -> Batch:
        """Return the batch with its rows changed."""
        return self.changed(batch, self.chosen(batch, generator), generator)

    def chosen(self, batch: Batch, generator: Generator | None) -> Tensor:
        """Draw the rows to change, [b] bool.  A row with a soft label is drawn by the mean over its classes."""
        drawn = torch.rand(len(batch.labels), generator=generator, device=batch.features.device)
        if not isinstance(self.probability, Mapping):
            return drawn < self.probability
        chance = torch.zeros_like(drawn)
        for code, probability in self.probability.items():
            chance = chance + probability * _share(batch.labels, code)
        return drawn < chance

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen rows changed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Compose:
    """Augmentations, one after the other.

    Parameters
    ----------
    steps : sequence of callables
        Of a batch and a generator, as augmentations are.

    Examples
    --------
    >>> augment = Compose([GaussianNoise(probability={1: 0.5}), ReMix([900, 100])])  # doctest: +SKIP
    >>> augment(batch, torch.Generator().manual_seed(7))  # doctest: +SKIP
    """

    steps: Sequence[Augmentation | Compose]

    def __call__(self, batch: Batch, generator: Generator | None = None) -> Batch:
        """Return the batch with its rows changed by every step."""
        for step in self.steps:
            batch = step(batch, generator)
        return batch


def where_chosen(chosen: Tensor, changed: Tensor, features: Tensor) -> Tensor:
    """Return the chosen rows as changed, and the others as they were."""
    return torch.where(chosen.reshape(-1, *[1] * (features.dim() - 1)), changed, features)


def _share(labels: Tensor, code: int) -> Tensor:
    """Return how much each row is of a class."""
    if not torch.is_floating_point(labels):
        return (labels == code).float()
    if labels.dim() == 2:
        return labels[:, code].float()
    return (labels if code == 1 else 1 - labels).float()  # shares of class 1
