"""A learner does on natural test rows after our SMOTE what it does after imbalanced-learn's, on three real tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imblearn.over_sampling
import numpy as np
import pandas as pd
import pytest
from conftest import CONNECT
from pyspark.sql import SparkSession
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from sparkimb import SMOTE
from sparkimb.datasets import path
from sparkimb.neighbors import spaces

pytestmark = pytest.mark.skipif(CONNECT, reason="the rows are the same on Connect: the contract shows it")

BOOTSTRAPS, LEVEL = 400, 0.95


def hypothyroid() -> tuple[pd.DataFrame, np.ndarray]:
    table = pd.read_csv(path("hypothyroid"))
    numbers = table[["age", "TSH", "T3", "TT4", "T4U", "FTI"]]
    return numbers.fillna(numbers.median()), (table.diagnosis == "hypothyroid").to_numpy(int)


def digits() -> tuple[pd.DataFrame, np.ndarray]:
    data = load_digits()
    return pd.DataFrame(data.data), (data.target == 8).astype(int)  # the digit that is hardest to tell, 9.7 %


def breast_cancer() -> tuple[pd.DataFrame, np.ndarray]:
    data = load_breast_cancer()
    malignant = 1 - data.target
    kept = np.flatnonzero((malignant == 0) | (np.cumsum(malignant) <= 60))  # 60 of 212: 14 %
    return pd.DataFrame(data.data[kept]), malignant[kept]


@pytest.mark.parametrize("table", [hypothyroid, digits, pytest.param(breast_cancer, marks=pytest.mark.slow)])
def test_average_precision_is_exact_smotes(
    table: Callable[[], tuple[pd.DataFrame, np.ndarray]], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, label = table()
    features.columns = [f"f{i}" for i in range(features.shape[1])]
    train, test, label_train, label_test = train_test_split(
        features, label, test_size=0.5, random_state=0, stratify=label
    )

    def scores(rows: Any, labels: Any) -> np.ndarray:
        with threadpool_limits(limits=1):  # its threads would wait for each other where other tests run
            learner = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(rows, labels)
            found: np.ndarray = learner.predict_proba(test)[:, 1]
        return found

    exact = scores(*imblearn.over_sampling.SMOTE(random_state=0).fit_resample(train, label_train))
    drawn = np.random.default_rng(0).integers(len(test), size=(BOOTSTRAPS, len(test)))
    spread = [average_precision_score(label_test[rows], exact[rows]) for rows in drawn]
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])

    dataset = spark.createDataFrame(train.assign(label=label_train, id=np.arange(len(train))))
    sampler = SMOTE(inputCols=list(train.columns), idCols=["id"], scale="none")
    for search in ("auto", "cells"):
        if search == "cells":  # cells so small that there are several
            monkeypatch.setattr(spaces, "MAX_UNIT_BYTES", 12 * 4 * train.shape[1])
        model = sampler.copy().setParams(neighborSearch=search).fit(dataset)
        assert (model.spaces[1].units > 1) == (search == "cells")
        balanced = model.resample(dataset).toPandas().sort_values(list(train.columns))
        found = average_precision_score(label_test, scores(balanced[train.columns], balanced.label))
        assert low <= found <= high, f"{search}: {found:.3f}, and exact SMOTE's is in [{low:.3f}, {high:.3f}]"
