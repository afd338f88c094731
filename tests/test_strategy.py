"""Strategies mean what they mean in imbalanced-learn, and labels may be written as JSON writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imblearn.utils import check_sampling_strategy

from sparkimb.errors import SparkimbError
from sparkimb.strategy import WORDS, Kind, Label, SamplingPlan, majority_class, match_label, minority_class, resolve

KINDS = st.sampled_from(["under", "over"])
ROWS = st.integers(1, 60)
# Letters sort alike as labels and as text, so that ties are broken as imbalanced-learn breaks them.
COUNTS = st.dictionaries(st.sampled_from("abcdef"), ROWS, min_size=2)
BINARY = st.lists(ROWS, min_size=2, max_size=2, unique=True).map(lambda rows: dict(zip("ab", rows, strict=True)))


def imblearn_targets(strategy: Any, counts: dict[str, int], kind: str) -> dict[str, int]:
    """Return the rows after sampling by imbalanced-learn: it gives rows to keep, or rows to add."""
    y = [label for label, rows in sorted(counts.items()) for _ in range(rows)]
    given = check_sampling_strategy(strategy, y, f"{kind}-sampling")
    if kind == "under":
        return {**counts, **given}
    return {label: rows + given.get(label, 0) for label, rows in counts.items()}


@given(st.sampled_from(WORDS), COUNTS, KINDS)
def test_words_mean_what_imblearn_means(word: str, counts: dict[str, int], kind: Kind) -> None:
    if (kind, word) in (("under", "minority"), ("over", "majority")):
        with pytest.raises(ValueError, match=r"minority|majority"):
            imblearn_targets(word, counts, kind)
        with pytest.raises(SparkimbError, match=f"'{word}' names the"):
            resolve(word, counts, kind)
    else:
        assert resolve(word, counts, kind).targets == imblearn_targets(word, counts, kind)


@given(st.floats(0.01, 1.0), BINARY, KINDS)
def test_ratios_mean_what_imblearn_means(ratio: float, counts: dict[str, int], kind: Kind) -> None:
    minority, majority = sorted(counts.values())
    wanted, has = (int(minority / ratio), majority) if kind == "under" else (int(majority * ratio), minority)
    if wanted > has if kind == "under" else wanted < has:
        with pytest.raises(ValueError, match="ratio"):
            imblearn_targets(ratio, counts, kind)
        with pytest.raises(SparkimbError, match="can only"):
            resolve(ratio, counts, kind)
    elif wanted == has:  # imbalanced-learn refuses an over-sampling that adds nothing; we let it pass
        assert not resolve(ratio, counts, kind).changed
    else:
        assert resolve(ratio, counts, kind).targets == imblearn_targets(ratio, counts, kind)


@given(COUNTS, KINDS, st.data())
def test_dicts_mean_what_imblearn_means(counts: dict[str, int], kind: Kind, data: st.DataObject) -> None:
    labels = data.draw(st.sets(st.sampled_from(sorted(counts)), min_size=1))
    bounds = {label: (0, counts[label]) if kind == "under" else (counts[label], 99) for label in labels}
    wanted = {label: data.draw(st.integers(*bound)) for label, bound in bounds.items()}
    assert resolve(wanted, counts, kind).targets == imblearn_targets(wanted, counts, kind)


@given(COUNTS, KINDS, st.data())
def test_targets_on_the_wrong_side_are_refused(counts: dict[str, int], kind: Kind, data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(sorted(counts)))
    n = counts[label] + (1 if kind == "under" else -1)
    with pytest.raises(SparkimbError, match=f"{n:,} for class '{label}', which has {counts[label]:,}"):
        resolve({label: n}, counts, kind)


def test_a_ratio_needs_two_classes() -> None:
    with pytest.raises(SparkimbError, match="two classes; found 3"):
        resolve(0.5, {"a": 3, "b": 2, "c": 1}, "under")


def test_unknown_labels_are_named() -> None:
    with pytest.raises(SparkimbError, match=r"\['x', 'y'\].*'a', 'b'"):
        resolve({"a": 1, "x": 1, "y": 1}, {"a": 3, "b": 2}, "under")


@given(COUNTS)
def test_smallest_and_largest_class_are_two(counts: dict[str, int]) -> None:
    assert counts[minority_class(counts)] == min(counts.values())
    assert counts[majority_class(counts)] == max(counts.values())
    assert minority_class(counts) != majority_class(counts)


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("1", 1),
        ("1.0", 1),
        (1, 1.0),
        ("1", 1.0),
        ("1e0", 1.0),
        (1.0, 1),
        ("true", True),
        ("False", False),
        (True, True),
        ("yes", "yes"),
        (1, "1"),
    ],
)
def test_labels_match_as_json_writes_them(key: Any, label: Label) -> None:
    others: list[Label] = ["other", 7] if isinstance(label, str) else [7, 8]
    assert match_label(key, dict.fromkeys([*others, label])) is label


@pytest.mark.parametrize(
    ("key", "labels"), [("1", [True, False]), (True, [0, 1]), ("Yes", ["yes"]), ("nan", [1.0]), ("1.5", [1, 2])]
)
def test_labels_that_only_look_alike_do_not_match(key: Any, labels: list[Label]) -> None:
    assert match_label(key, dict.fromkeys(labels)) is None


@given(
    st.one_of(
        st.dictionaries(st.text(), ROWS, min_size=1),
        st.dictionaries(st.booleans(), ROWS, min_size=1),
        st.dictionaries(st.integers(), ROWS, min_size=1),
        st.dictionaries(st.floats(allow_nan=False, allow_infinity=False), ROWS, min_size=1),
    )
)
def test_plans_survive_json_with_the_type_of_their_labels(counts: dict[Label, int]) -> None:
    plan = SamplingPlan(counts, {label: 2 * rows for label, rows in counts.items()})
    again = SamplingPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert [type(label) for label in again.counts] == [type(label) for label in plan.counts]


@given(COUNTS)
def test_priors_are_shares(counts: dict[str, int]) -> None:
    plan = resolve("auto", counts, "under")
    assert sum(plan.priorsBefore.values()) == pytest.approx(1)
    assert list(plan.priorsAfter.values()) == pytest.approx([1 / len(counts)] * len(counts))
    shown = str(plan).splitlines()
    assert [line.split()[0] for line in shown] == list(counts)
