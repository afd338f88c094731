"""Training rows and what a treatment made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from config import STEPS, ColumnRoles, Treatment
from pyspark.sql import DataFrame

from sparkimb.base import Sampler
from sparkimb.errors import SparkimbError
from sparkimb.strategy import Label


@dataclass
class Treated:
    """The training rows after a treatment, and what it did to them."""

    name: str
    dataset: DataFrame
    rows: dict[Label, int]
    weights: dict[Label, float]
    weightCol: str | None = None
    steps: list[str] = field(default_factory=list)

    @property
    def priors(self) -> dict[Label, float]:
        """The class shares that a learner sees: rows times weights."""
        mass = {label: n * self.weights[label] for label, n in self.rows.items()}
        return {label: m / sum(mass.values()) for label, m in mass.items()}


@contextmanager
def kept(dataset: DataFrame) -> Iterator[DataFrame]:
    """Keep rows on the executors, spilling to disk, while they are read more than once."""
    dataset = dataset.persist()
    try:
        yield dataset
    finally:
        dataset.unpersist()


def treat(treatment: Treatment | None, training: DataFrame, counts: Mapping[Label, int], roles: ColumnRoles) -> Treated:
    """Apply the steps of a treatment, in order, to the training rows."""
    treated = Treated("natural", training, dict(counts), dict.fromkeys(counts, 1.0))
    if treatment is None:
        return treated
    treated.name = treatment.name
    for given in treatment.steps:
        (name, params), *_ = given.items()
        stage = STEPS[name](labelCol=roles.label, **params)
        if isinstance(stage, Sampler):
            columns = {"idCols": roles.id, "inputCols": roles.numeric, "categoricalCols": roles.categorical}
            stage.setParams(**{key: names or None for key, names in columns.items() if stage.hasParam(key)})
            model = stage.fit(treated.dataset)
            treated.dataset, treated.rows = model.resample(treated.dataset), dict(model.plan.targets)
        else:
            model = stage.fit(treated.dataset)
            treated.dataset, treated.weightCol = model.transform(treated.dataset), stage.getWeightCol()
            treated.weights = {label: w * model.classWeights[label] for label, w in treated.weights.items()}
        treated.steps.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in params.items())})")
    gone = [label for label, share in treated.priors.items() if share == 0]
    if gone:
        raise SparkimbError(f"Treatment '{treated.name}' leaves nothing of the classes {gone}. Keep some of each.")
    return treated


def text_of(label: Label) -> str:
    """Return a label as text."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def by_text(values: Mapping[Label, Any]) -> dict[str, Any]:
    """Return a dict by label as a dict by text, as JSON needs."""
    return {text_of(label): value for label, value in values.items()}
