"""The library's metrics of a model's logits on rows that fit in memory: as `sparkimb.evaluation` defines them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sparkimb.errors import SparkimbError

Floats = NDArray[np.float64]


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the sum over the distinct scores of the gain in recall times the precision, in [0, 1].

    Exact: rows with one score are one step, whatever their order.

    Parameters
    ----------
    scores : array [n]
        Higher for the positive class; finite.
    positive : array [n] of bool

    Raises
    ------
    SparkimbError
        For scores that are not finite, or rows of one class only.
    """
    tp, fp = _steps(scores, positive)
    precision = tp / (tp + fp)
    return float(np.sum(np.diff(tp, prepend=0) * precision) / tp[-1])


def area_under_roc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the chance that a positive row scores above another row, in [0, 1]; ties count half.

    Parameters and errors are those of `average_precision`.
    """
    tp, fp = _steps(scores, positive)
    before = np.concatenate([[0.0], tp[:-1]])
    return float(np.sum(np.diff(fp, prepend=0) * (before + tp) / 2) / (tp[-1] * fp[-1]))


def metrics_of(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics of a model's outputs.

    Parameters
    ----------
    logits : Tensor [n], [n, 1] or [n, C]
        One logit per row is for class 1 of two.
    labels : Tensor [n]
        Class codes, at least one row of each class.

    Returns
    -------
    dict of str to float
        averagePrecision, areaUnderROC, accuracy, balancedAccuracy, gMean and mcc; of two classes also precision, recall
        and f1 of class 1, of more macroF1, and the areas are means over the classes against the rest.  Decisions are
        for the largest logit.

    Raises
    ------
    SparkimbError
        For logits that are not finite, labels out of range, or a class without rows.
    """
    z = logits.detach().cpu().double().reshape(len(logits), -1).numpy()
    y = labels.detach().cpu().long().numpy()
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    classes = z.shape[1]
    rows = np.bincount(y, minlength=classes)
    if len(rows) > classes or not rows.all():
        raise SparkimbError(
            f"The rows measured have {rows.tolist()} of each class, of {classes} that the model knows. Metrics need "
            "some of each, and of no other."
        )
    if classes == 2:
        scores = z[:, 1] - z[:, 0]
        areas = [(average_precision(scores, y == 1), area_under_roc(scores, y == 1))]
    else:
        p = torch.softmax(torch.from_numpy(z), 1).numpy()
        areas = [(average_precision(p[:, c], y == c), area_under_roc(p[:, c], y == c)) for c in range(classes)]
    averaged = np.mean(areas, 0)
    found = {"averagePrecision": float(averaged[0]), "areaUnderROC": float(averaged[1])}
    return found | decision_metrics(np.bincount(classes * y + z.argmax(1), minlength=classes**2).reshape(classes, -1))


def decision_metrics(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Return the metrics of a confusion matrix, [label, prediction] in rows, every label with some."""
    n = confusion.astype(np.float64)
    tp, actual, predicted, total = n.diagonal(), n.sum(1), n.sum(0), n.sum()
    recall = tp / actual
    precision = np.divide(tp, predicted, out=np.zeros_like(tp), where=predicted > 0)
    f1 = 2 * tp / (actual + predicted)
    spread = np.sum(actual * (total - actual)) * np.sum(predicted * (total - predicted))
    both = np.sum(tp * total - actual * predicted)
    found = {
        "accuracy": tp.sum() / total,
        "balancedAccuracy": recall.mean(),
        "gMean": np.exp(np.log(recall).mean()) if recall.all() else 0.0,
        "mcc": both / np.sqrt(spread) if spread else 0.0,
    }
    if len(tp) == 2:
        found |= {"precision": precision[1], "recall": recall[1], "f1": f1[1]}
    else:
        found["macroF1"] = f1.mean()
    return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    amp: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a model's logits, as float32, and the labels of all rows of some batches, on the CPU.

    The model is in evaluation mode meanwhile, and afterwards as it was.

    Parameters
    ----------
    batches : iterable
        Of features, labels and more that is not looked at: one epoch of a loader with natural batches.
    device : torch.device or str, optional
        Where the model is; by default where its first parameter is, or the CPU where it has none.
    amp : torch.dtype, optional
        Of autocast.
    """
    first = next(model.parameters(), None)
    device = torch.device(device or ("cpu" if first is None else first.device))
    training = model.training
    model.eval()
    logits, labels = [], []
    try:
        for features, codes, *_ in batches:
            with torch.autocast(device.type, amp, enabled=amp is not None):
                logits.append(model(features.to(device, non_blocking=True)).float().cpu())
            labels.append(codes.cpu())
    finally:
        model.train(training)
    if not logits:
        raise SparkimbError("There are no batches to predict. Give a loader with rows.")
    return torch.cat(logits), torch.cat(labels)


def _steps(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats]:
    """Return positives and others down to each distinct score, from the highest."""
    score, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if not np.isfinite(score).all():
        raise SparkimbError(
            f"{np.sum(~np.isfinite(score))} of {len(score)} scores are not finite. Has the training diverged? Lower "
            "the learning rate, and look for NaN or huge values in the features."
        )
    order = np.argsort(-score, kind="stable")
    score, is_positive = score[order], is_positive[order]
    last = np.append(np.nonzero(np.diff(score))[0], len(score) - 1)
    tp, fp = np.cumsum(is_positive)[last].astype(np.float64), np.cumsum(~is_positive)[last].astype(np.float64)
    if not tp[-1] or not fp[-1]:
        raise SparkimbError(
            f"{tp[-1]:.0f} positive and {fp[-1]:.0f} other rows have no ranking. Measure on rows of both classes."
        )
    return tp, fp
