"""A multilayer perceptron for tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparkimb.errors import SparkimbError
from sparkimb.training import checkpoints


class MLP(nn.Module):
    """A multilayer perceptron: standardised features, hidden layers with ReLU and dropout, a linear classifier.

    Parameters
    ----------
    width : int
        Features of a row.
    classes : int in [2, inf), default=2
        Two classes have one logit per row, [b]; more have [b, classes].
    hidden : sequence of int, default=(256, 128)
        Widths of the hidden layers.
    dropout : float in [0, 1), default=0.1
    mean, std : Tensor [width], optional
        Of the features in the training rows, as `feature_moments` gives them; by default 0 and 1.  They are kept with
        the parameters.  Not batch statistics, as those of class-balanced batches are not those of the rows to score.

    Attributes
    ----------
    body : nn.Sequential
        All but the classifier: the backbone that `transfer.freeze` freezes.
    classifier : nn.Linear
    options : dict
        width, classes, hidden and dropout, as given.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int,
        *,
        classes: int = 2,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.1,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or classes < 2 or not hidden or min(hidden) < 1 or not 0 <= dropout < 1:
            raise SparkimbError(
                f"MLP got width {width}, classes {classes}, hidden {list(hidden)} and dropout {dropout}. Give "
                "a feature or more, 2 classes or more, a hidden layer or more of a unit or more, and dropout in [0, 1)."
            )
        self.register_buffer("mean", torch.zeros(width) if mean is None else mean.detach().clone())
        self.register_buffer("std", torch.ones(width) if std is None else std.detach().clone())
        self.options = {"width": width, "classes": classes, "hidden": list(hidden), "dropout": dropout}
        layers: list[nn.Module] = []
        for inputs, outputs in zip([width, *hidden[:-1]], hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(hidden[-1], 1 if classes == 2 else classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of rows [b, width]: [b], or [b, classes] for more than two."""
        z: Tensor = self.classifier(self.body((features - self.mean) / self.std))
        return z.squeeze(1) if z.shape[1] == 1 else z


def save_mlp(path: str | Path, model: MLP, *, labels: Sequence[Any]) -> None:
    """Write a model to a local file, atomically, with the labels of its classes by code: plain values."""
    content = {"options": model.options, "labels": list(labels), "state": model.state_dict()}
    checkpoints.save(Path(path), content)


def load_mlp(path: str | Path) -> tuple[MLP, list[Any]]:
    """Return a model, in evaluation mode on the CPU, and its labels, as `save_mlp` wrote them; runs no code.

    Raises
    ------
    SparkimbError
        Where there is no such file, or one that is damaged or holds other objects.
    """
    content = checkpoints.load(Path(path))
    if content is None:
        raise SparkimbError(f"There is no model '{path}'. Name the file that save_mlp wrote.")
    model = MLP(**content["options"])
    model.load_state_dict(content["state"])
    return model.eval(), content["labels"]


def feature_moments(batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every feature over some batches, [width] each; 1 for one that is constant.

    Parameters
    ----------
    batches : iterable
        Of features [b, width] first, and more that is not looked at: one epoch of a loader with natural batches.
    """
    n, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for features, *_ in batches:
        x = features.double().cpu()
        # Welford's, by batches: exact also where the mean is far larger than the deviation.
        delta, at = x.mean(0) - mean, len(x) / (n + len(x))
        squares = squares + ((x - x.mean(0)) ** 2).sum(0) + delta**2 * n * at
        mean, n = mean + delta * at, n + len(x)
    if not n:
        raise SparkimbError("There are no batches to take moments of. Give a loader with rows.")
    std = (squares / n).sqrt()
    return mean.float(), torch.where(std > 0, std, 1).float()
