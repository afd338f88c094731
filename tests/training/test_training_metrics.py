"""The metrics of logits against scikit-learn and imbalanced-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from imblearn.metrics import geometric_mean_score
from numpy.typing import NDArray
from sklearn import metrics as sk

from sparkimb.errors import SparkimbError
from sparkimb.training.metrics import area_under_roc, average_precision, metrics_of, predict
from sparkimb.training.mlp import MLP


def scores(ties: int | None, rows: int = 500, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.07
    score = rng.normal(size=rows) + positive
    return (score if ties is None else np.round(score * ties) / ties), positive


@pytest.mark.parametrize("ties", [None, 10, 1])
@pytest.mark.parametrize("seed", range(5))
def test_areas_are_scikit_learns(ties: int | None, seed: int) -> None:
    score, positive = scores(ties, seed=seed)
    assert average_precision(score, positive) == pytest.approx(sk.average_precision_score(positive, score), abs=1e-12)
    assert area_under_roc(score, positive) == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-12)


def test_ties_are_one_step_in_any_order() -> None:
    assert average_precision([1.0] * 4, [True, False, False, False]) == 0.25
    assert average_precision([1.0] * 4, [False, False, False, True]) == 0.25
    assert area_under_roc([1.0] * 4, [False, False, False, True]) == 0.5


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_two_classes(columns: int) -> None:
    score, positive = scores(None)
    y, predicted = positive.astype(int), (score > 0).astype(int)
    z = torch.from_numpy(score)
    logits = {0: z, 1: z.unsqueeze(1), 2: torch.stack([-z / 2, z / 2], 1)}[columns]
    found = metrics_of(logits, torch.from_numpy(y))
    expected = {
        "averagePrecision": sk.average_precision_score(y, score),
        "areaUnderROC": sk.roc_auc_score(y, score),
        "accuracy": sk.accuracy_score(y, predicted),
        "balancedAccuracy": sk.balanced_accuracy_score(y, predicted),
        "gMean": geometric_mean_score(y, predicted),
        "mcc": sk.matthews_corrcoef(y, predicted),
        "precision": sk.precision_score(y, predicted),
        "recall": sk.recall_score(y, predicted),
        "f1": sk.f1_score(y, predicted),
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_more_classes() -> None:
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1, 2, 3], [200, 100, 30, 8])
    z = rng.normal(size=(len(y), 4)) + 1.5 * np.eye(4)[y]
    p, predicted = torch.softmax(torch.from_numpy(z), 1).numpy(), z.argmax(1)
    expected = {
        "averagePrecision": sk.average_precision_score(np.eye(4)[y], p, average="macro"),
        "areaUnderROC": sk.roc_auc_score(y, p, multi_class="ovr"),
        "accuracy": sk.accuracy_score(y, predicted),
        "balancedAccuracy": sk.balanced_accuracy_score(y, predicted),
        "gMean": geometric_mean_score(y, predicted),
        "mcc": sk.matthews_corrcoef(y, predicted),
        "macroF1": sk.f1_score(y, predicted, average="macro"),
    }
    assert metrics_of(torch.from_numpy(z), torch.from_numpy(y)) == pytest.approx(expected, abs=1e-12)


def test_a_model_that_predicts_one_class() -> None:
    found = metrics_of(torch.tensor([-1.0, -2.0, -3.0, -1.5]), torch.tensor([0, 0, 1, 0]))
    assert (found["gMean"], found["mcc"], found["precision"], found["f1"]) == (0.0, 0.0, 0.0, 0.0)
    assert found["balancedAccuracy"] == 0.5


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(SparkimbError, match="2 of 3 scores are not finite"):
        average_precision([1.0, np.nan, np.inf], [True, False, False])
    with pytest.raises(SparkimbError, match="0 positive and 2 other"):
        area_under_roc([1.0, 2.0], [False, False])
    for labels in ([0, 0, 0], [0, 1, 2]):
        with pytest.raises(SparkimbError, match="of 2 that the model knows"):
            metrics_of(torch.zeros(3), torch.tensor(labels))


def test_predict_leaves_the_model_as_it_was() -> None:
    model, x = MLP(3, hidden=[8], dropout=0.5), torch.randn(10, 3)
    y = torch.arange(10) % 2
    for training in (True, False):
        model.train(training)
        logits, labels = predict(model, [(x[:6], y[:6], None), (x[6:], y[6:])])
        assert model.training is training
        assert torch.equal(labels, y)
        torch.testing.assert_close(logits, model.eval()(x))
        assert not logits.requires_grad
    half, _ = predict(model, [(x, y)], amp=torch.bfloat16)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model(x), atol=0.05, rtol=0.05)
    with pytest.raises(SparkimbError, match="no batches"):
        predict(model, [])
