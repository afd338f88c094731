"""Every sampler keeps the contract of `sparkimb.testing`, and none is left out."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from typing import Any

import pytest
from conftest import CONNECT
from pyspark.sql import SparkSession

import sparkimb
from sparkimb import SVMSMOTE, RandomOverSampler, RandomUnderSampler
from sparkimb.base import Sampler
from sparkimb.testing import CHECKS, Check, all_samplers, check_evaluator_sees_natural_rows, example, skip_reason


def shown(sampler: Sampler[Any]) -> str:
    set_params = [p.name for p in sampler.params if sampler.isSet(p)]
    return "-".join([type(sampler).__name__, *set_params])


FIRST_OF_EACH_CLASS = {shown(sampler) for sampler in {type(s): s for s in reversed(all_samplers())}.values()}


# Each time the whole contract of the three samplers is checked whose code the others share.  Variants and the relatives
# of SMOTE differ in which rows they keep or make, so of theirs is checked what that could break, and the rest by
# `make test-contract`; so is, on Connect, what no client sees.
IN_FULL = {"RandomUnderSampler-idCols", "RandomOverSampler-idCols", "SMOTE-idCols"}
WITHOUT_FIT = {"check_params", "check_wrong_values", "check_numpy_scalars", "check_copy"}
OF_EACH_VARIANT = {"check_majority_stays_in_the_jvm", "check_made_rows"}
OF_EACH_RELATIVE = {*OF_EACH_VARIANT, "check_growth", "check_saving"}
OF_RANDOM_SAMPLERS = {*OF_EACH_VARIANT, "check_targets", "check_same_rows", "check_validation_rows"}
ON_CONNECT = {
    "SMOTE-idCols": {*OF_EACH_RELATIVE, "check_same_rows", "check_pipeline", "check_resample_is_lazy"},
    "RandomOverSampler-idCols": {*OF_RANDOM_SAMPLERS, "check_saving"},
}


def checked_each_time(sampler: Sampler[Any]) -> set[str]:
    """Return the names of the checks that need a fit and are run each time; of IN_FULL on classic they all are."""
    if CONNECT:
        return ON_CONNECT.get(shown(sampler), set())
    if isinstance(sampler, RandomUnderSampler | RandomOverSampler):
        return OF_RANDOM_SAMPLERS
    if isinstance(sampler, SVMSMOTE):  # LinearSVC takes seconds
        return set()
    return OF_EACH_RELATIVE if shown(sampler) in FIRST_OF_EACH_CLASS else OF_EACH_VARIANT


def slow(sampler: Sampler[Any], check: Check) -> bool:
    in_full = shown(sampler) in IN_FULL and not (CONNECT and shown(sampler) in ON_CONNECT)
    return not in_full and check.__name__ not in WITHOUT_FIT | checked_each_time(sampler)


@pytest.mark.parametrize(
    ("sampler", "check"),
    [
        pytest.param(
            sampler,
            check,
            id=f"{shown(sampler)}-{check.__name__}",
            marks=[pytest.mark.slow] if slow(sampler, check) else [],
        )
        for sampler in all_samplers()
        for check in CHECKS
    ],
)
def test_contract(sampler: Sampler[Any], check: Check, spark: SparkSession) -> None:
    if (reason := skip_reason(check, sampler)) is not None:
        pytest.skip(reason)
    if check is check_evaluator_sees_natural_rows and shown(sampler) not in FIRST_OF_EACH_CLASS:
        pytest.skip("a cross-validation for each class is enough: variants share what Pipeline calls")
    check(sampler.copy(), spark)


def test_every_public_sampler_is_checked() -> None:
    for module in pkgutil.walk_packages(sparkimb.__path__, "sparkimb."):
        with contextlib.suppress(ImportError):  # of an extra that is not installed here
            importlib.import_module(module.name)
    ours = {cls for cls in _subclasses(Sampler) if cls.__module__.startswith("sparkimb.")}
    assert {cls for cls in ours if not cls.__subclasses__()} == {type(sampler) for sampler in all_samplers()}


def _subclasses(cls: type) -> set[type]:
    return {cls} - {Sampler} | {found for sub in cls.__subclasses__() for found in _subclasses(sub)}


ACTIONS_OF_FIT = {  # one count; one to warn of duplicates without idCols; one for the spread of noise
    "RandomUnderSampler-idCols": 1,
    "RandomUnderSampler": 2,
    "RandomUnderSampler-strataCols-idCols": 1,
    "RandomOverSampler-idCols": 1,
    "RandomOverSampler": 2,
    "RandomOverSampler-shrinkage-idCols": 2,
    "RandomOverSampler-shrinkage-categoricalCols-inputCols-idCols": 2,
    "SMOTE-idCols": 2,  # a count, and a look at the length of the vectors
    "SMOTE-idCols-referenceRows": 3,  # and the rows to keep
    "BorderlineSMOTE-mNeighbors-idCols": 3,  # a count, a vector's length, and the levels of rows
    "BorderlineSMOTE-mNeighbors-variant-idCols": 3,
    "ADASYN-idCols": 3,
    "SafeLevelSMOTE-idCols": 3,
    "SVMSMOTE-idCols": None,  # LinearSVC's own, besides 4: a sample for it, too
    "GaussianSMOTE-idCols": 2,
    "KMeansSMOTE-clusterBalanceThreshold-idCols": 5,  # samples for centres and distances, counts by cluster
    "PartitionLocalSampler-sampler-idCols": 3,  # and counts by group
    "SMOTENC-categoricalCols-inputCols-idCols": 1,
    "SMOTEN-categoricalCols-idCols": 2,  # a count, and the values by class
}


@pytest.mark.skipif(CONNECT, reason="a client does not see the server's list of actions")
@pytest.mark.parametrize(
    "sampler",
    [pytest.param(s, marks=[pytest.mark.slow] if isinstance(s, SVMSMOTE) else []) for s in all_samplers()],
    ids=shown,
)
def test_fit_runs_the_actions_it_documents_and_resample_none(sampler: Sampler[Any], spark: SparkSession) -> None:
    def actions() -> int:
        spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
        store = spark._jsparkSession.sharedState().statusStore()  # it forgets the oldest, but ids count all
        last = store.executionsList(store.executionsCount() - 1, 1)
        return int(last.head().executionId()) if last.nonEmpty() else -1

    dataset = example(spark, {"common": 400, "rare": 200})
    started = actions()
    model = sampler.fit(dataset)
    fitted = actions()
    out = model.resample(dataset)
    assert out.schema
    assert actions() == fitted
    known = {frozenset(name.split("-")): n for name, n in ACTIONS_OF_FIT.items()}
    expected = known[frozenset(shown(sampler).split("-"))]
    assert expected is None or fitted - started == expected
    assert spark.sparkContext._jsc.getPersistentRDDs().isEmpty()
