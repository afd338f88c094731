"""Sizes that forget, and rates that follow from them: pure, against loops that take row after row."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkimb.streaming.counts import DecayedCounts, row_size
from sparkimb.streaming.rates import METHODS, poisson_bounds, sampling_rates


def row_by_row(labels: list[str], halfLife: float, sizes: dict[str, float]) -> dict[str, float]:
    keep = 0.5 ** (1 / halfLife)
    sizes = dict(sizes)
    for label in labels:
        sizes = {c: keep * sizes.get(c, 0.0) + (1 - keep) * (c == label) for c in {*sizes, label}}
    return sizes


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0.5, 1e6))
def test_batches_of_one_row_are_the_rule_of_the_paper(labels: list[str], halfLife: float) -> None:
    counts = DecayedCounts()
    for label in labels:
        counts = counts.after({label: 1}, halfLife)
    expected = {c: size for c, size in row_by_row(labels, halfLife, {}).items() if size > 1e-11}
    assert {c: s for c, s in counts.sizes.items() if c in expected} == pytest.approx(expected, rel=1e-9)
    assert counts.rows == len(labels)
    assert sum(counts.sizes.values()) == pytest.approx(1 - 0.5 ** (len(labels) / halfLife), abs=1e-9)


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=6), st.floats(1, 100), st.floats(0, 1))
def test_a_batch_is_the_mean_over_all_orders_of_its_rows(labels: list[str], halfLife: float, size: float) -> None:
    before = DecayedCounts(9, {"a": size, "b": 1 - size})
    orders = [row_by_row(list(order), halfLife, before.sizes) for order in permutations(labels)]
    after = before.after({c: labels.count(c) for c in "ab"}, halfLife)
    for c in "ab":
        assert after.sizes.get(c, 0.0) == pytest.approx(np.mean([sizes[c] for sizes in orders]), abs=1e-9)


def test_json_brings_labels_of_any_type_back() -> None:
    for labels in ({True: 3, False: 1}, {1: 2, 0: 5}, {1.5: 2}, {"x": 1, "é": 2}):
        counts = DecayedCounts().after(labels, 10)
        again = DecayedCounts.from_json(json.loads(json.dumps(counts.to_json())))
        assert again == counts
        assert [type(label) for label in again.sizes] == [type(label) for label in counts.sizes]


def test_classes_long_gone_are_forgotten() -> None:
    counts = DecayedCounts().after({"old": 10}, 1.0).after({"new": 100}, 1.0)
    assert list(counts.sizes) == ["new"]


@given(st.dictionaries(st.integers(0, 5), st.floats(1e-6, 1), min_size=2), st.floats(0.05, 1), st.floats(1, 100))
def test_rates_bring_the_smallest_and_the_largest_to_the_ratio(
    sizes: dict[int, float], ratio: float, cap: float
) -> None:
    for method in METHODS:
        rates = sampling_rates(method, sizes, ratio=ratio, maxRate=cap)
        out = {c: sizes[c] * rates[c] for c in sizes}
        if method == "weigh":
            assert max(rates.values()) <= cap
            if max(rates.values()) < cap:
                assert max(out.values()) == pytest.approx(min(out.values()))
        elif method in ("under", "uob"):
            assert max(rates.values()) <= 1
            assert max(out.values()) <= max(min(sizes.values()) / ratio, min(sizes.values())) * (1 + 1e-9)
        else:
            assert min(rates.values()) >= 1
            assert max(rates.values()) <= cap
            assert all(out[c] >= ratio * max(sizes.values()) * (1 - 1e-9) or rates[c] == cap for c in sizes)


def test_one_class_alone_is_left_as_it_is() -> None:
    assert {tuple(sampling_rates(m, {"a": 0.3}, ratio=1, maxRate=9).items()) for m in METHODS} == {(("a", 1.0),)}


@pytest.mark.parametrize("rate", [0.01, 0.7, 1.0, 3.2, 20.0, 100.0])
def test_bounds_are_the_poisson_distribution(rate: float) -> None:
    bounds = np.array(poisson_bounds(rate))
    k = np.searchsorted(bounds, (np.arange(200_000) + 0.5) / 200_000, side="right")
    assert k.mean() == pytest.approx(rate, rel=1e-3, abs=1e-4)
    assert k.var() == pytest.approx(rate, rel=2e-2)
    assert (np.diff(bounds) >= 0).all()
    assert bounds[-1] < 1


def test_rates_are_not_below_the_least() -> None:
    sizes = {"a": 0.9, "b": 0.1, "c": 1e-9}
    for method in ("under", "uob"):
        rates = sampling_rates(method, sizes, ratio=1.0, maxRate=20.0, minRate=0.01)
        assert rates == {"a": 0.01, "b": 0.01, "c": 1.0}
        assert sampling_rates(method, sizes, ratio=1.0, maxRate=20.0)["a"] == pytest.approx(1e-9 / 0.9)


def test_a_stray_label_is_not_the_smallest_class_where_two_are_left() -> None:
    least = 10 * row_size(1_000)
    known = DecayedCounts().after({"a": 900, "b": 100}, 1_000)
    before = sampling_rates("under", known.sizes, ratio=0.5, maxRate=20.0, strays=least)
    assert before == pytest.approx({"a": 2 / 9, "b": 1.0})
    stray = known.after({"stray": 1}, 1_000)
    assert sampling_rates("under", stray.sizes, ratio=0.5, maxRate=20.0, strays=least) == pytest.approx(
        {**before, "stray": 1.0}
    )
    settled = stray.after({"a": 90, "b": 10, "stray": 20}, 1_000)
    assert sampling_rates("under", settled.sizes, ratio=0.5, maxRate=20.0, strays=least)["a"] < 0.3 * before["a"]
    two = DecayedCounts().after({"a": 995, "b": 5}, 1_000)
    assert sampling_rates("under", two.sizes, ratio=0.5, maxRate=20.0, strays=least)["a"] == pytest.approx(10 / 995)


@given(st.floats(0.5, 1e6))
def test_a_row_adds_what_it_adds_to_nothing(halfLife: float) -> None:
    assert row_size(halfLife) == pytest.approx(DecayedCounts().after({"a": 1}, halfLife).sizes["a"], rel=1e-9)
