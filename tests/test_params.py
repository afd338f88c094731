"""Params take what JSON and NumPy give, refuse the rest in words, and setting one twice changes nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.ml.param import Param, Params

from sparkimb import ClassWeigher, RandomOverSampler, RandomUnderSampler
from sparkimb.errors import SparkimbError
from sparkimb.params import choice, column_name, column_names, integer, label_map, number


@pytest.mark.parametrize(
    ("convert", "wrong_type", "wrong_value"),
    [
        (number("x", 0, 1), ["0.5", None, True, [0.5], 1j], [-0.1, 1.1, math.nan, math.inf]),
        (number("x", 0, 1, low_open=True), [False], [0, -1]),
        (number("x", 0), ["1"], [-1e-9, math.inf, math.nan]),
        (integer("x", 1), [1.0, "1", True, None], [0, -5]),
        (column_name("x"), [1, None, ["a"]], [""]),
        (column_names("x"), ["a", 1, [1], {"a"}], [["a", "b", "a"]]),
        (choice("x", ["a", "b"]), [1, None], ["c", "", "A"]),
        (label_map("x", integer("x", 0)), [[], {}, "a", {"a": "b"}, {"a": 1.5}], [{"a": -1}]),
    ],
)
def test_wrong_type_and_wrong_value_are_told_apart(convert: Any, wrong_type: list[Any], wrong_value: list[Any]) -> None:
    for value in wrong_type:
        with pytest.raises(TypeError, match=r"^x "):
            convert(value)
    for value in wrong_value:
        with pytest.raises(SparkimbError, match=r"^x "):
            convert(value)


@given(st.floats(0, 1))
def test_numbers_from_numpy_become_python_s(value: float) -> None:
    for given_ in (value, np.float64(value)):
        assert type(number("x", 0, 1)(given_)) is float
        assert number("x", 0, 1)(given_) == value


@given(st.dictionaries(st.one_of(st.booleans(), st.integers(), st.floats(0, 9), st.text()), st.integers(0), min_size=1))
def test_label_maps_are_the_same_after_json(given_: dict[Any, int]) -> None:
    convert = label_map("x", integer("x", 0))
    once = convert(given_)
    assert convert(json.loads(json.dumps(once))) == once


def test_errors_name_class_and_param() -> None:
    with pytest.raises(SparkimbError, match=r"^RandomUnderSampler\.samplingStrategy is 1\.5\. It must be in \(0, 1\]"):
        RandomUnderSampler(samplingStrategy=1.5)
    with pytest.raises(SparkimbError, match=r"^RandomOverSampler\.maxGrowth is 0\.5"):
        RandomOverSampler(maxGrowth=0.5)
    with pytest.raises(TypeError, match=r"^ClassWeigher\.beta must be a number"):
        ClassWeigher(beta="0.9")
    with pytest.raises(SparkimbError, match="Use one of: balanced, inverse"):
        ClassWeigher(mode="balance")


def test_copies_are_checked_as_constructors_are() -> None:
    sampler = RandomUnderSampler()
    with pytest.raises(SparkimbError, match=r"RandomUnderSampler\.samplingStrategy"):
        sampler.copy({sampler.samplingStrategy: -0.5})
    assert sampler.copy({sampler.samplingStrategy: {np.float64(1.0): np.int64(3)}}).getSamplingStrategy() == {"1.0": 3}


def test_unknown_params_are_refused_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"no Params \['ratio'\]\. Its Params are: .*samplingStrategy"):
        RandomUnderSampler().setParams(ratio=0.5)
    with pytest.raises(TypeError, match="ratio"):
        RandomUnderSampler(ratio=0.5)
    with pytest.raises(TypeError):
        RandomUnderSampler("label")  # keyword-only


def test_none_leaves_a_param_unset() -> None:
    assert not RandomUnderSampler(idCols=None).isDefined("idCols")


def test_seeds_are_the_same_in_every_process() -> None:
    assert RandomUnderSampler().getSeed() == RandomOverSampler().getSeed() == 0


@pytest.mark.parametrize("cls", [RandomUnderSampler, RandomOverSampler, ClassWeigher])
def test_every_param_explains_itself(cls: type[Params]) -> None:
    stage = cls()
    assert all(isinstance(p, Param) and p.doc for p in stage.params)
    assert len(stage.explainParams().splitlines()) == len(stage.params)
