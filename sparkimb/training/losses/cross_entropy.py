"""Cross-entropy and focal loss, with a weight per class: the losses that see rare or hard rows larger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparkimb.errors import SparkimbError
from sparkimb.training.losses.base import Counts, ImbalancedLoss, class_sizes, effective_number_weights
from sparkimb.training.losses.rows import Rows

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11


class FocalLoss(ImbalancedLoss):
    """Cross-entropy times (1 - p)^gamma, which fades rows that the model is already right about [1]_.

    Corrects for the prior only by its class weights: without them it attends to hard rows of any class.

    Parameters
    ----------
    gamma : float in [0, inf), default=2.0
        0 is cross-entropy.
    class_weights : sequence of float, optional
        The paper's alpha: a weight in [0, inf) per class, by code.  `from_counts` sets them inverse to the counts, with
        mean 1 over the rows; with class-balanced batches leave them out, as the batches correct for the prior already.
    reduction, ignore_index
        See `ImbalancedLoss`.

    References
    ----------
    .. [1] Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> FocalLoss(gamma=2.0)(torch.tensor([0.0]), torch.tensor([1]))  # 0.5^2 * log 2
    tensor(0.1733)
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        if not 0 <= gamma < math.inf:
            raise SparkimbError(f"gamma is {gamma}. It must be in [0, inf): 0 is cross-entropy.")
        self.gamma = gamma
        weights = None if class_weights is None else _checked(class_weights)
        self.classes = None if weights is None else len(weights)
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights))

    @classmethod
    def from_counts(cls, counts: Counts, **options: Any) -> Self:
        """Build the loss with class weights n / (C n_c), unless others are given.

        See `ImbalancedLoss.from_counts`.
        """
        sizes = class_sizes(counts)
        balanced = [sum(sizes) / (len(sizes) * rows) for rows in sizes]
        loss = cls(**{"class_weights": balanced, **options})
        loss.classes = len(sizes)
        return loss

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        log_p = rows.log_probabilities()
        losses = -log_p
        if self.gamma:
            losses = losses * (self.gamma * log1mexp(log_p)).exp()
        if self.class_weights is not None:
            losses = losses * rows.at_codes(self.class_weights.to(log_p.dtype))
        return rows.expected(losses)


class WeightedCrossEntropyLoss(FocalLoss):
    """Cross-entropy with a weight per class; with one logit per row, binary cross-entropy.

    Corrects for the prior of the training rows where the weights are inverse to it, as `from_counts` sets them: in the
    limit it is what class-balanced batches do, so use one of the two.

    Parameters
    ----------
    class_weights : sequence of float, optional
        A weight in [0, inf) per class, by code.
    reduction, ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    Equal to `torch.nn.CrossEntropyLoss(weight=...)` and `BCEWithLogitsLoss(pos_weight=...)`, but that the former
    divides the mean for integer labels by the batch's sum of class weights instead of its rows.

    Examples
    --------
    >>> WeightedCrossEntropyLoss.from_counts([900, 100]).class_weights
    tensor([0.5556, 5.0000])
    """

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(gamma=0.0, class_weights=class_weights, reduction=reduction, ignore_index=ignore_index)


class ClassBalancedLoss(FocalLoss):
    """Cross-entropy or focal loss, with weights inverse to the effective number of each class's rows [1]_.

    Corrects for the prior of the training rows, the less the more they repeat each other (the smaller beta).  With
    class-balanced batches it corrects twice.

    Parameters
    ----------
    counts : sequence, or dict by code
        Rows of each class, by code.
    beta : float in [0, 1), default=0.9999
        0 weighs all classes alike; towards 1 weights are inverse to the counts.
    gamma : float in [0, inf), default=0.0
        0 is cross-entropy, above it the focal loss.
    reduction, ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    The weights sum to the number of classes, as in the paper.  Their mean over the rows is therefore far below 1 where
    a large class is far larger than the rest.

    References
    ----------
    .. [1] Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
    """

    def __init__(
        self,
        counts: Counts,
        *,
        beta: float = 0.9999,
        gamma: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        weights = effective_number_weights(class_sizes(counts), beta)
        super().__init__(gamma=gamma, class_weights=weights, reduction=reduction, ignore_index=ignore_index)

    @classmethod
    def from_counts(cls, counts: Counts, **options: Any) -> Self:
        """Build the loss for these counts."""
        return cls(counts, **options)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - e^x) for x <= 0, finite with its gradient also at 0."""
    return torch.log(-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).tiny)))


def _checked(class_weights: Sequence[float]) -> list[float]:
    weights = [float(weight) for weight in class_weights]
    if len(weights) < 2 or not all(0 <= weight < math.inf for weight in weights):
        raise SparkimbError(f"class_weights are {weights}. Give a weight in [0, inf) for each of two classes or more.")
    return weights
