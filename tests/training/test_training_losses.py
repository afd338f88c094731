"""The losses against their papers' formulas in NumPy, against torch's own, by gradcheck, and at their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from feed.data import write_training_set
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sparkimb.errors import SparkimbError
from sparkimb.training import losses
from sparkimb.training.losses import LOSSES, ImbalancedLoss, from_counts, from_manifest

Array = NDArray[np.float64]
COUNTS = [900, 90, 10]
BINARY = [950, 50]


# ---- the papers, one row at a time: z are logits of C classes, y shares of classes; t is a one-vs-rest target


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


def cross_entropy(z: Array, y: Array, counts: Sequence[int]) -> float:
    weight = [sum(counts) / (len(counts) * n) for n in counts]
    return -sum(y[c] * weight[c] * np.log(softmax(z)[c]) for c in range(len(z)))


def focal(z: Array, y: Array, counts: Sequence[int]) -> float:
    alpha, p = [sum(counts) / (len(counts) * n) for n in counts], softmax(z)
    return -sum(y[c] * alpha[c] * (1 - p[c]) ** 2 * np.log(p[c]) for c in range(len(z)))


def effective_weights(counts: Sequence[int], beta: float) -> Array:
    raw = np.array([(1 - beta) / (1 - beta**n) for n in counts])
    return raw / raw.sum() * len(counts)


def class_balanced(z: Array, y: Array, counts: Sequence[int]) -> float:
    weight = effective_weights(counts, 0.9999)
    return -sum(y[c] * weight[c] * np.log(softmax(z)[c]) for c in range(len(z)))


def ldam(z: Array, y: Array, counts: Sequence[int]) -> float:
    """Of hard labels alone."""
    margin = np.array([1 / n**0.25 for n in counts])
    margin *= 0.5 / margin.max()
    c = int(y.argmax())
    ahead = np.exp(z[c] - margin[c])
    return -np.log(ahead / (ahead + sum(np.exp(z[j]) for j in range(len(z)) if j != c)))


def logit_adjusted(z: Array, y: Array, counts: Sequence[int]) -> float:
    prior = np.array(counts) / sum(counts)
    p = softmax(z + 1.0 * np.log(prior))
    return -sum(y[c] * np.log(p[c]) for c in range(len(z)))


def balanced_softmax(z: Array, y: Array, counts: Sequence[int]) -> float:
    e = np.array(counts) * np.exp(z)
    return -sum(y[c] * np.log(e[c] / e.sum()) for c in range(len(z)))


def asymmetric_one(z: float, t: float) -> float:
    p = sigmoid(z)
    shifted = max(p - 0.05, 0.0)
    return -t * np.log(p) - (1 - t) * shifted**4 * np.log(1 - shifted)


def dice_one(p: float, t: float) -> float:
    return 1 - (2 * (1 - p) * p * t + 1) / ((1 - p) * p + t + 1)


def asymmetric(z: Array, y: Array, counts: Sequence[int], binary: bool) -> float:
    if binary:
        return asymmetric_one(z[1] - z[0], y[1])
    return sum(asymmetric_one(z[c], y[c]) for c in range(len(z)))


def self_adjusting_dice(z: Array, y: Array, counts: Sequence[int], binary: bool) -> float:
    values = [dice_one(softmax(z)[c], y[c]) for c in range(len(z))]
    return values[1] if binary else float(np.mean(values))


def dice(z: Array, y: Array) -> Array:
    """Of all rows, per class."""
    p = np.array([softmax(row) for row in z])
    return np.array(
        [1 - (2 * p[:, c] @ y[:, c] + 1) / ((p[:, c] ** 2).sum() + (y[:, c] ** 2).sum() + 1) for c in range(z.shape[1])]
    )


FORMULAS: dict[str, Callable[..., float]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "class_balanced": class_balanced,
    "ldam": ldam,
    "logit_adjusted": logit_adjusted,
    "balanced_softmax": balanced_softmax,
    "asymmetric": asymmetric,
    "self_adjusting_dice": self_adjusting_dice,
}
AGAINST_REST = ("asymmetric", "self_adjusting_dice")


def batch(binary: bool, soft: bool, rows: int = 40, scale: float = 3.0) -> tuple[Tensor, Tensor, Array, Array]:
    """Return logits and labels for the loss, and the same as [b, C] logits and shares for the formulas."""
    rng = np.random.default_rng(rows + 2 * binary + soft)
    c = 2 if binary else 3
    z = rng.normal(0, scale, (rows, c))
    if binary:
        z[:, 0] = 0
    y = rng.dirichlet(np.ones(c), rows) if soft else np.eye(c)[rng.integers(0, c, rows)]
    logits = torch.tensor(z[:, 1] if binary else z)
    if soft:
        return logits, torch.tensor(y[:, 1] if binary else y), z, y
    return logits, torch.tensor(y.argmax(1)), z, y


def made(name: str, binary: bool, **options: object) -> ImbalancedLoss:
    return from_counts(name, BINARY if binary else COUNTS, **options)


each = pytest.mark.parametrize("name", LOSSES)
kinds = pytest.mark.parametrize(("binary", "soft"), [(True, False), (True, True), (False, False), (False, True)])


@kinds
@pytest.mark.parametrize("name", FORMULAS)
def test_rows_have_the_values_of_the_papers(name: str, binary: bool, soft: bool) -> None:
    if name == "ldam" and soft:
        pytest.skip("the paper has no soft labels")
    logits, labels, z, y = batch(binary, soft)
    counts = BINARY if binary else COUNTS
    more = (binary,) if name in AGAINST_REST else ()
    expected = [FORMULAS[name](z[i], y[i], counts, *more) for i in range(len(z))]
    found = made(name, binary, reduction="none").double()(logits, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=1e-9)  # the weights are float32


@kinds
def test_dice_is_of_the_batch(binary: bool, soft: bool) -> None:
    logits, labels, z, y = batch(binary, soft)
    expected = dice(z, y)[1:] if binary else dice(z, y)
    found = made("dice", binary, reduction="none")(logits, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@kinds
@each
def test_reductions_weights_and_ignored_rows(name: str, binary: bool, soft: bool) -> None:
    logits, labels, *_ = batch(binary, soft)
    weight = torch.rand(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    by = {r: made(name, binary, reduction=r) for r in ("mean", "sum", "none")}
    none = by["none"](logits, labels, weight)
    torch.testing.assert_close(by["sum"](logits, labels, weight), none.sum())
    torch.testing.assert_close(by["mean"](logits, labels, weight), none.mean())
    if name != "dice":
        torch.testing.assert_close(none, by["none"](logits, labels) * weight)
    # a weight of 2 is as the row twice
    twice = torch.ones(len(logits)).index_fill(0, torch.tensor([3]), 2.0)
    doubled = torch.cat([torch.arange(len(logits)), torch.tensor([3])])
    torch.testing.assert_close(by["sum"](logits, labels, twice), by["sum"](logits[doubled], labels[doubled]))
    if soft and not binary:
        return  # shares name no class to ignore
    ignored = labels.clone()
    ignored[::3] = -100
    kept = ignored != -100
    for reduction in ("mean", "sum"):
        x = logits.clone().requires_grad_()
        loss = by[reduction](x, ignored, weight)
        torch.testing.assert_close(loss, by[reduction](logits[kept], labels[kept], weight[kept]))
        loss.backward()
        assert x.grad is not None
        assert not x.grad[::3].any()
    assert torch.isfinite(by["mean"](logits, torch.full_like(labels, -100)))


@kinds
@each
def test_gradients(name: str, binary: bool, soft: bool) -> None:
    logits, labels, *_ = batch(binary, soft, rows=6, scale=1.5)
    loss = made(name, binary).double()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@kinds
@each
def test_extreme_logits_are_finite(name: str, binary: bool, soft: bool, dtype: torch.dtype) -> None:
    values = torch.tensor([-1e4, -88.0, -17.0, 0.0, 17.0, 88.0, 1e4])
    columns = values if binary else torch.cartesian_prod(values, values, values)
    logits = columns.to(dtype).requires_grad_()
    rows, c = len(columns), 2 if binary else 3
    options: list[dict[str, float]] = {
        "focal": [{"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 2.0}],
        "class_balanced": [{"gamma": 0.5}],
        "ldam": [{"scale": 30.0}],
        "asymmetric": [{}, {"clip": 0.0}, {"gamma_negative": 0.5, "gamma_positive": 0.5}],
        "self_adjusting_dice": [{}, {"alpha": 0.5}],
    }.get(name, [{}])
    for given in options:
        loss = made(name, binary, **given)
        for code in range(c):
            hard = torch.full((rows,), code)
            labels = (0.9 * F.one_hot(hard, c) + 0.1 / c).float() if soft else hard
            out = loss(logits, labels[:, 1] if soft and binary else labels)
            (grad,) = torch.autograd.grad(out, logits)
            assert out.dtype == torch.float32
            assert torch.isfinite(out)
            assert torch.isfinite(grad).all()


@kinds
@each
def test_under_autocast_the_loss_is_of_float32(name: str, binary: bool, soft: bool) -> None:
    _, labels, *_ = batch(binary, soft)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(labels), 5, generator=generator)
    layer = nn.Linear(5, 1 if binary else 3)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(x)
        assert logits.dtype == torch.bfloat16
        loss = made(name, binary)(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, made(name, binary)(logits.float(), labels))
    loss.backward()
    assert layer.weight.grad is not None
    assert torch.isfinite(layer.weight.grad).all()


@each
def test_one_logit_is_two_with_the_first_zero(name: str) -> None:
    logits, labels, z, _ = batch(True, False)
    if name in ("asymmetric", "dice", "self_adjusting_dice"):
        pytest.skip("two logits are two classes against the rest")
    two = made(name, True)(torch.tensor(z), labels)
    torch.testing.assert_close(made(name, True)(logits, labels), two)


def test_shapes_of_binary_labels_do_not_matter() -> None:
    logits, labels, *_ = batch(True, False)
    loss = made("focal", True)
    expected = loss(logits, labels)
    for z in (logits, logits.unsqueeze(1)):
        for y in (
            labels,
            labels.unsqueeze(1),
            labels.bool(),
            labels.int(),
            labels.double(),
            labels.float().unsqueeze(1),
        ):
            torch.testing.assert_close(loss(z, y), expected)
        torch.testing.assert_close(loss(z, torch.stack([1 - labels, labels], 1).double()), expected)


# ---- where they coincide


@kinds
def test_without_weights_cross_entropy_is_torchs(binary: bool, soft: bool) -> None:
    logits, labels, *_ = batch(binary, soft)
    for reduction in ("mean", "sum", "none"):
        ours = [
            losses.WeightedCrossEntropyLoss(reduction=reduction),
            losses.FocalLoss(gamma=0.0, reduction=reduction),
            from_counts("cross_entropy", [7, 7] if binary else [7, 7, 7], reduction=reduction),
            from_counts("class_balanced", [7, 7] if binary else [7, 7, 7], reduction=reduction),
            from_counts("class_balanced", BINARY if binary else COUNTS, beta=0.0, reduction=reduction),
            from_counts("logit_adjusted", [7, 7] if binary else [7, 7, 7], reduction=reduction),
            from_counts("logit_adjusted", BINARY if binary else COUNTS, tau=0.0, reduction=reduction),
            from_counts("balanced_softmax", [7, 7] if binary else [7, 7, 7], reduction=reduction),
        ]
        if binary:
            theirs = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction=reduction)
            ours.append(losses.AsymmetricLoss(gamma_positive=0, gamma_negative=0, clip=0.0, reduction=reduction))
        else:
            theirs = F.cross_entropy(logits, labels, reduction=reduction)
        for loss in ours:
            torch.testing.assert_close(loss(logits, labels), theirs, rtol=1e-6, atol=1e-7)


def test_class_weights_are_torchs() -> None:
    logits, labels, *_ = batch(False, False)
    weights = [0.5, 2.0, 7.0]
    ours = losses.WeightedCrossEntropyLoss(class_weights=weights, reduction="sum")
    theirs = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float64), reduction="sum")
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    logits, labels, *_ = batch(False, True)
    ours = losses.WeightedCrossEntropyLoss(class_weights=weights)
    theirs = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    logits, labels, *_ = batch(True, True)
    ours = losses.WeightedCrossEntropyLoss(class_weights=[1.0, 9.0])
    binary = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0))
    torch.testing.assert_close(ours(logits, labels), binary(logits, labels))


def test_weights_from_counts_have_mean_one_over_the_rows() -> None:
    for name in ("cross_entropy", "focal"):
        weights = from_counts(name, COUNTS).class_weights
        assert isinstance(weights, Tensor)
        assert float(weights @ torch.tensor(COUNTS).float()) == pytest.approx(sum(COUNTS))


def test_towards_beta_one_class_balanced_weights_are_inverse_to_counts() -> None:
    balanced, inverse = from_counts("class_balanced", COUNTS, beta=1 - 1e-12), from_counts("cross_entropy", COUNTS)
    ratios = balanced.class_weights / inverse.class_weights  # type: ignore[operator]
    torch.testing.assert_close(ratios, ratios[0].expand(3))


def test_deferred_weights_come_with_their_epoch() -> None:
    logits, labels, *_ = batch(False, False)
    plain = from_counts("ldam", COUNTS, reduction="none")(logits, labels)
    loss = from_counts("ldam", COUNTS, drw_epoch=3, reduction="none")
    weights = torch.tensor(effective_weights(COUNTS, 0.9999))[labels]
    for epoch in (0, 2):
        loss.set_epoch(epoch)
        torch.testing.assert_close(loss(logits, labels), plain)
    for epoch in (3, 9):
        loss.set_epoch(epoch)
        torch.testing.assert_close(loss(logits, labels), plain * weights, rtol=1e-6, atol=1e-7)


def test_margins_of_soft_labels_go_over_into_those_of_hard_ones() -> None:
    logits, labels, *_ = batch(False, False)
    loss = from_counts("ldam", COUNTS, scale=30.0)
    torch.testing.assert_close(loss(logits, F.one_hot(labels, 3).double()), loss(logits, labels))


def test_the_adjusted_optimum_is_fair_to_both_classes() -> None:
    """One feature says nothing: with the natural prior, the loss is smallest where the logit favours no class."""
    labels = torch.tensor([0] * 95 + [1] * 5)
    for name, optimum in (("logit_adjusted", 0.0), ("balanced_softmax", 0.0), ("cross_entropy", 0.0)):
        z = torch.tensor(optimum, dtype=torch.float64, requires_grad=True)
        loss = from_counts(name, BINARY).double()(z.expand(100), labels)
        assert abs(float(torch.autograd.grad(loss, z)[0])) < 1e-6
    z = torch.tensor(np.log(5 / 95), requires_grad=True)
    (grad,) = torch.autograd.grad(losses.FocalLoss(gamma=0.0)(z.expand(100), labels), z)
    assert abs(float(grad)) < 1e-12


# ---- how they are built, and what they refuse


def test_from_a_manifest(tmp_path: Path) -> None:
    write_training_set(tmp_path / "set", COUNTS)
    logits, labels, *_ = batch(False, False)
    for name in LOSSES:
        ours, given = from_manifest(str(tmp_path / "set"), name), from_counts(name, COUNTS)
        torch.testing.assert_close(ours(logits, labels), given(logits, labels))
    assert from_manifest(str(tmp_path / "set"), "focal", gamma=1.0).gamma == 1.0


@each
def test_state_follows_to_and_is_saved(name: str) -> None:
    loss = made(name, False).to("meta")
    assert all(buffer.device.type == "meta" for buffer in loss.buffers())
    made(name, False).load_state_dict(made(name, False).state_dict())


@each
def test_wrong_counts_are_refused(name: str) -> None:
    for counts in ([10], [10, 0], [10, -1], [10, float("nan")], {"yes": 1, "no": 2}):
        with pytest.raises(SparkimbError, match="counts"):
            from_counts(name, counts)  # type: ignore[arg-type]
    assert from_counts(name, {1: 5, 0: 95}).classes == 2
    logits, labels, *_ = batch(False, False)
    with pytest.raises(SparkimbError, match=r"3 classes, and .* was built for 2"):
        from_counts(name, BINARY)(logits, labels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": -1.0}),
        ("focal", {"class_weights": [1.0, float("inf")]}),
        ("class_balanced", {"beta": 1.0}),
        ("ldam", {"max_margin": 0.0}),
        ("ldam", {"drw_epoch": -1}),
        ("logit_adjusted", {"tau": -0.1}),
        ("asymmetric", {"clip": 1.0}),
        ("asymmetric", {"gamma_negative": -1.0}),
        ("dice", {"smooth": 0.0}),
        ("self_adjusting_dice", {"alpha": -1.0}),
        ("cross_entropy", {"reduction": "average"}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(SparkimbError, match=next(iter(options))):
        from_counts(name, BINARY, **options)


def test_batches_that_do_not_fit_are_refused() -> None:
    loss = losses.FocalLoss()
    z, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(SparkimbError, match="no loss"):
        from_counts("hinge", BINARY)
    with pytest.raises(TypeError, match="logits"):
        loss(y, y)
    for logits, labels in ((z, y[:3]), (z, y.float()), (z.unsqueeze(0), y), (torch.zeros(4), torch.zeros(4, 3))):
        with pytest.raises(SparkimbError, match="shape"):
            loss(logits, labels)
    with pytest.raises(SparkimbError, match=r"1 labels are out of range, such as 3.*codes from 0 to 2"):
        loss(z, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(SparkimbError, match="out of range"):
        loss(torch.zeros(2), torch.tensor([0.5, 1.5]))
    with pytest.raises(SparkimbError, match="one per row"):
        loss(z, y, torch.ones(3))
