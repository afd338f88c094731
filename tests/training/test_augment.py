"""Augmentation: which rows change, by how much, and that a seed says it all."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training.augment import (
    Augmentation,
    ColorJitter,
    Compose,
    FeatureDropout,
    Flip,
    GaussianNoise,
    Mixup,
    RandomCrop,
    ReMix,
    Rotation,
)

COUNTS = [900, 100]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def table(rows: int = 400) -> Batch:
    g = seeded(1)
    scale = torch.tensor([1.0, 10.0, 100.0])
    return Batch(torch.randn(rows, 3, generator=g) * scale, torch.arange(rows) % 2, torch.rand(rows, generator=g))


def images(rows: int = 60, channels: int = 3, height: int = 8, width: int = 6) -> Batch:
    return Batch(torch.rand(rows, channels, height, width, generator=seeded(2)), torch.arange(rows) % 2, None)


STEPS: list[tuple[Callable[..., Augmentation], Callable[[], Batch]]] = [
    (GaussianNoise, table),
    (lambda **p: FeatureDropout(rate=0.5, **p), table),
    (lambda **p: Mixup(2, **p), table),
    (lambda **p: Mixup(2, **p), images),
    (lambda **p: ReMix(COUNTS, **p), table),
    (Flip, images),
    (RandomCrop, images),
    (Rotation, images),
    (ColorJitter, images),
]
each = pytest.mark.parametrize(("step", "batch"), STEPS)


def rows_that_differ(a: Tensor, b: Tensor) -> Tensor:
    return (a != b).flatten(1).any(1)


@each
def test_classes_change_by_their_probability(step: Callable[..., Augmentation], batch: Callable[[], Batch]) -> None:
    given = batch()
    before = given.features.clone()
    changed = step(probability={1: 1.0})(given, seeded())
    differ = rows_that_differ(changed.features, given.features)
    assert torch.equal(given.features, before), "the batch given is left as it is"
    assert not differ[given.labels == 0].any()
    assert differ[given.labels == 1].float().mean() > 0.6  # feature dropout and crops leave some as they are
    if given.weights is not None and changed.weights is not None:
        assert torch.equal(changed.weights[given.labels == 0], given.weights[given.labels == 0])
    for none in (0.0, {}, {0: 0.0}, {7: 1.0}):
        assert torch.equal(step(probability=none)(given, seeded()).features, given.features)


@each
def test_the_generator_says_it_all(step: Callable[..., Augmentation], batch: Callable[[], Batch]) -> None:
    given = batch()
    augment = step(probability=0.5)
    torch.manual_seed(11)
    once = augment(given, seeded(3))
    torch.manual_seed(12)
    again, other = augment(given, seeded(3)), augment(given, seeded(4))
    assert torch.equal(once.features, again.features)
    assert torch.equal(once.labels, again.labels)
    assert not torch.equal(once.features, other.features)
    torch.manual_seed(12)
    from_torchs_own = augment(given)
    torch.manual_seed(12)
    assert torch.equal(augment(given).features, from_torchs_own.features)


def test_probability_is_of_rows() -> None:
    given = table(4000)
    for labels in (given.labels, F.one_hot(given.labels, 2).float(), given.labels.float()):
        changed = GaussianNoise(probability={0: 0.2, 1: 0.7})(Batch(given.features, labels, None), seeded())
        differ = rows_that_differ(changed.features, given.features).float()
        assert differ[given.labels == 0].mean() == pytest.approx(0.2, abs=0.04)
        assert differ[given.labels == 1].mean() == pytest.approx(0.7, abs=0.04)


def test_noise_is_scaled_by_the_feature() -> None:
    given = table(4000)
    noise = GaussianNoise(scale=0.1)(given, seeded()).features - given.features
    torch.testing.assert_close(noise.std(0) / given.features.std(0), torch.full((3,), 0.1), rtol=0.1, atol=0.0)
    noise = GaussianNoise(scale=0.5, std=torch.tensor([0.0, 1.0, 2.0]))(given, seeded()).features - given.features
    assert not noise[:, 0].any()
    assert float(noise[:, 2].std()) == pytest.approx(1.0, rel=0.1)


def test_dropped_features_are_filled() -> None:
    given = table(4000)
    fill = torch.tensor([-1.0, 0.0, 5.0])
    changed = FeatureDropout(rate=0.25, fill=fill)(given, seeded()).features
    differ = changed != given.features
    assert torch.equal(changed[differ], fill.expand_as(changed)[differ])
    assert float(differ.float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("alpha", [0.05, 1.0, 5.0])
def test_mixed_rows_lie_between_two_with_labels_and_weights_to_match(alpha: float) -> None:
    rows = 2000
    # features that tell the row: a row's own number, and its label
    given = Batch(
        torch.stack([torch.arange(rows), torch.arange(rows) % 2], 1).float(), torch.arange(rows) % 2, torch.ones(rows)
    )
    changed = Mixup(2, alpha=alpha)(given, seeded())
    assert torch.isfinite(changed.features).all()
    torch.testing.assert_close(changed.labels[:, 1], changed.features[:, 1])  # label and features mixed alike
    torch.testing.assert_close(changed.labels.sum(1), torch.ones(rows))
    assert changed.weights is not None
    torch.testing.assert_close(changed.weights, torch.ones(rows))
    if alpha >= 1:  # of a smaller alpha, shares round to 1 that would not round to 0
        share = changed.labels[:, 1][given.labels == 1]
        between = share[(share > 0) & (share < 1)]  # kept, by those with a partner of the other class
        assert float(between.double().mean()) == pytest.approx(0.5, abs=0.05)
        assert float(between.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)  # of Beta(alpha, alpha)


def test_mixing_soft_labels_goes_on_from_them() -> None:
    given = table()
    twice = Compose([Mixup(2), Mixup(2)])(given, seeded())
    torch.testing.assert_close(twice.labels.sum(1), torch.ones(len(given.labels)))
    shares = Mixup(2)(Batch(given.features, given.labels.float(), None), seeded())
    torch.testing.assert_close(shares.labels, Mixup(2)(given, seeded()).labels)


def test_remix_is_the_papers() -> None:
    rows, counts, ratio, threshold = 3000, [1000, 400, 100], 3.0, 0.4
    labels = torch.arange(rows) % 3
    given = Batch(torch.stack([torch.arange(rows).float(), torch.ones(rows)], 1), labels, None)
    changed = ReMix(counts, ratio=ratio, threshold=threshold)(given, seeded(5))
    # the same draws, with features that say the share kept: those of a mix with rows of zeros
    g = seeded(5)
    torch.rand(rows, generator=g)  # which rows are chosen
    shape = torch.full((2, rows), 1.0, dtype=torch.float64)
    a, b = torch._standard_gamma(shape, generator=g)
    kept, partner = (a / (a + b)).float(), torch.randperm(rows, generator=g)
    seen = set()
    for i in range(rows):
        n, m, share = counts[labels[i]], counts[labels[partner[i]]], float(kept[i])
        if n / m >= ratio and share < threshold:
            expected, case = 0.0, "partner's"
        elif n / m <= 1 / ratio and 1 - share < threshold:
            expected, case = 1.0, "own"
        else:
            expected, case = share, "mixed"
        seen.add(case)
        soft = torch.zeros(3)
        soft[labels[i]] += expected
        soft[labels[partner[i]]] += 1 - expected
        assert torch.allclose(changed.labels[i], soft, atol=1e-6)
        assert float(changed.features[i, 0]) == pytest.approx(share * i + (1 - share) * float(partner[i]), rel=1e-4)
    assert seen == {"partner's", "own", "mixed"}


def test_flips() -> None:
    given = images()
    assert torch.equal(Flip()(given).features, given.features.flip(3))
    assert torch.equal(Flip(vertical=True)(given).features, given.features.flip(2))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_crops_are_windows_of_the_padded_image(mode: str) -> None:
    given = images()
    changed = RandomCrop(padding=2, mode=mode)(given, seeded()).features
    padded = F.pad(given.features, [2] * 4, mode=mode)
    places = set()
    for i, image in enumerate(changed):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[i, :, y : y + 8, x : x + 6], image)]
        assert found
        places.add(found[0])
    assert len(places) > 15  # of 25


def test_turns_keep_the_centre_and_lengths_in_pixels() -> None:
    square = images(height=7, width=7)
    turned = Rotation(degrees=90.0)(square, seeded()).features
    torch.testing.assert_close(turned[:, :, 3, 3], square.features[:, :, 3, 3])
    line = torch.zeros(1, 1, 41, 21)
    line[0, 0, 20, :] = 1.0  # level, in a tall image
    for seed in range(5):
        out = Rotation(degrees=30.0)(Batch(line, torch.zeros(1, dtype=torch.long), None), seeded(seed)).features
        assert float(out.sum()) == pytest.approx(21, rel=0.1)


def test_colours_stay_in_range_and_grey_images_have_no_hue() -> None:
    changed = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)(images(), seeded()).features
    assert changed.min() >= 0
    assert changed.max() <= 1
    grey = images(channels=1)
    ColorJitter(saturation=0.0)(grey, seeded())
    with pytest.raises(SparkimbError, match="1 channels"):
        ColorJitter()(grey, seeded())


def test_without_kornia_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match="pip install kornia"):
        ColorJitter()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GaussianNoise(probability=1.5), r"GaussianNoise.probability is 1.5"),
        (lambda: Flip(probability={1: -0.1}), "Flip.probability"),
        (lambda: GaussianNoise(scale=-1.0), "GaussianNoise.scale"),
        (lambda: FeatureDropout(rate=2.0), "FeatureDropout.rate"),
        (lambda: Mixup(1), "1 classes"),
        (lambda: Mixup(2, alpha=0.0), "Mixup.alpha"),
        (lambda: ReMix([5, 0]), "ReMix.counts"),
        (lambda: ReMix([5, 1], ratio=0.5), "ReMix.ratio"),
        (lambda: RandomCrop(padding=0), "RandomCrop.padding"),
        (lambda: RandomCrop(mode="wrap"), "RandomCrop.mode"),
        (lambda: Rotation(degrees=0.0), "Rotation.degrees"),
        (lambda: ColorJitter(hue=0.6), "ColorJitter.hue"),
        (lambda: Flip()(table()), r"\[400, 3\]"),
        (lambda: Compose([Mixup(2), ReMix(COUNTS)])(table()), "soft labels"),
    ],
)
def test_wrong_values_are_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(SparkimbError, match=match):
        make()
