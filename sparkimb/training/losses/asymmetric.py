"""Asymmetric loss: focal with another strength for negatives, which are many and easy."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sparkimb.errors import SparkimbError
from sparkimb.training.losses.base import ImbalancedLoss
from sparkimb.training.losses.rows import Rows


class AsymmetricLoss(ImbalancedLoss):
    """Binary cross-entropy that fades easy negatives, and drops those below a probability [1]_.

    Corrects for no prior by itself: it takes the weight from the many negatives that are easy, so it needs no counts.
    It goes with natural and with class-balanced batches.

    Parameters
    ----------
    gamma_positive : float in [0, inf), default=0.0
    gamma_negative : float in [0, inf), default=4.0
        Powers that fade easy positives and negatives; 0 and 0 with clip 0 is binary cross-entropy.
    clip : float in [0, 1), default=0.05
        Negatives that the model gives less than this probability do not count at all.
    reduction, ignore_index
        See `ImbalancedLoss`.

    Notes
    -----
    As in the paper each class has a sigmoid of its own: of [b, C] logits the losses of all classes against the rest
    are summed up.  A soft label counts as positive by its share and as negative by the remainder.

    References
    ----------
    .. [1] Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021.
    """

    def __init__(
        self,
        *,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        clip: float = 0.05,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction=reduction, ignore_index=ignore_index)
        for name, gamma in (("gamma_positive", gamma_positive), ("gamma_negative", gamma_negative)):
            if not 0 <= gamma < math.inf:
                raise SparkimbError(f"{name} is {gamma}. It must be in [0, inf).")
        if not 0 <= clip < 1:
            raise SparkimbError(f"clip is {clip}. It must be in [0, 1).")
        self.gamma_positive = gamma_positive
        self.gamma_negative = gamma_negative
        self.clip = clip

    def row_losses(self, rows: Rows) -> Tensor:
        """Return the loss of each row, [b]."""
        z, shares = rows.against_rest()
        log_q = F.logsigmoid(-z)  # log(1 - p)
        positive = -(self.gamma_positive * log_q).exp() * F.logsigmoid(z)
        if self.clip:
            # Above 0, as a power below 1 has no slope there.
            shifted = (torch.sigmoid(z) - self.clip).clamp(min=torch.finfo(z.dtype).tiny)
            negative = -(shifted**self.gamma_negative) * torch.log1p(-shifted)
        else:
            negative = -(self.gamma_negative * F.logsigmoid(z)).exp() * log_q
        return (shares * positive + (1 - shares) * negative).sum(1)
