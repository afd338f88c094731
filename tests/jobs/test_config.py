"""Configs: what a good one resolves to, and the sentence for each mistake.  No Spark."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from config import Balance, load

from sparkimb.errors import SparkimbError

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "input": {"format": "parquet", "path": "rows"},
    "columns": {"label": "fraud", "numeric": ["amount"], "categorical": ["channel"], "id": ["id"]},
    "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
    "treatments": [
        {"name": "under", "steps": ["RandomUnderSampler"]},
        {"name": "weights", "steps": [{"RandomUnderSampler": {"samplingStrategy": 0.5}}, {"ClassWeigher": None}]},
    ],
    "learner": {"class": "LogisticRegression"},
    "output": {"path": "out"},
}


def written(tmp_path: Path, given: Any) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(given if isinstance(given, str) else yaml.safe_dump(given), encoding="utf-8")
    return str(path)


def changed(place: str, value: Any) -> dict[str, Any]:
    """Return the good config with one value set; the place is written as in the error sentences."""
    given = deepcopy(GOOD)
    *parents, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    at: Any = given
    for key in parents:
        at = at[key]
    at[last] = value
    return given


def complaint(tmp_path: Path, given: Any) -> str:
    with pytest.raises(SparkimbError) as caught:
        load(written(tmp_path, given), Balance)
    return str(caught.value)


def step(sampler: str, **params: Any) -> list[dict[str, Any]]:
    return [{sampler: params}]


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "balance").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_good(path):
    assert load(str(path), Balance).treatments


def test_defaults_are_filled_in(tmp_path):
    config = load(written(tmp_path, GOOD), Balance)
    assert [treatment.steps for treatment in config.treatments] == [
        [{"RandomUnderSampler": {}}],
        [{"RandomUnderSampler": {"samplingStrategy": 0.5}}, {"ClassWeigher": {}}],
    ]
    assert config.written == "under"
    assert config.learner is not None
    assert config.learner.params == {}  # it draws nothing
    assert [treatment.weightCol for treatment in config.treatments] == [None, "weight"]


def test_learners_get_one_seed_in_every_process(tmp_path):
    config = load(written(tmp_path, changed("learner/class", "RandomForestClassifier")), Balance)
    assert config.learner is not None
    assert config.learner.params == {"seed": 0}
    config = load(written(tmp_path, changed("learner", {"class": "GBTClassifier", "params": {"seed": 7}})), Balance)
    assert config.learner is not None
    assert config.learner.params == {"seed": 7}


MISTAKES = [
    ("columns/numerical", ["x"], ["columns.numerical is not a known key", "did you mean 'numeric'?", "categorical"]),
    ("inputs", {}, ["inputs is not a known key (did you mean 'input'?)"]),
    ("output/overwrit", True, ["output.overwrit is not a known key (did you mean 'overwrite'?)"]),
    ("treatments/0/step", [], ["treatments.0.step is not a known key (did you mean 'steps'?)"]),
    ("split/fractions", {"trian": 0.6, "validation": 0.2, "test": 0.2}, ["split.fractions.trian is not a known key"]),
    ("split/fractions", {"train": 0.6, "validation": 0.2, "test": 0.3}, ["sum to 1.1", "must sum to 1"]),
    ("split/fractions", {"train": 0.8, "validation": 0.2}, ["needs train, validation and test"]),
    ("split/column", "part", ["split: give either fractions or column"]),
    ("split", None, ["split is None", "fractions, column, seed"]),
    ("split/seed", "x", ["split.seed is 'x'", "integer"]),
    ("columns", {"label": "y"}, ["name at least one feature column"]),
    ("columns/id", ["amount"], ["'amount'", "more than one role"]),
    ("columns/positive", [1], ["columns.positive is [1]", "string, boolean, integer or number"]),
    ("input/format", "xlsx", ["input.format is 'xlsx'", "'parquet', 'csv', 'delta' or 'table'"]),
    ("input/format", "table", ["input: format 'table' wants table, and not path"]),
    ("input/table", "rows", ["input: format 'parquet' wants path, and not table"]),
    ("input/options", {"header": [1]}, ["input.options.header is [1]"]),
    ("treatments", [], ["treatments is []"]),
    ("treatments/0/name", "natural", ["treatments.0.name: 'natural' is the name of the untouched rows"]),
    ("treatments/0/name", "weights", ["share a name"]),
    ("treatments/0/steps", step("RandomUndersampler"), ["did you mean 'RandomUnderSampler'?"]),
    ("treatments/0/steps", step("RandomUnderSampler", samplingstrategy=1), ["did you mean 'samplingStrategy'?"]),
    ("treatments/0/steps", step("RandomUnderSampler", samplingStrategy=2), ["samplingStrategy is 2", "(0, 1]"]),
    ("treatments/0/steps", step("RandomUnderSampler", samplingStrategy=[1]), ["samplingStrategy must be", "[1]"]),
    ("treatments/0/steps", step("RandomUnderSampler", labelCol="y"), ["labelCol is set by the job"]),
    ("treatments/0/steps", [{"ClassWeigher": {}}, {"RandomUnderSampler": {}}], ["ClassWeigher is not the last step"]),
    ("treatments/0/steps", [{"ClassWeigher": {}}, {"ClassWeigher": {}}], ["ClassWeigher is not the last step"]),
    ("treatments/0/steps", [{"ClassWeigher": {}, "RandomUnderSampler": {}}], ["a step is one sampler or weigher"]),
    ("treatments/0/steps", step("ClassWeigher", weightCol="Amount"), ["'Amount' would overwrite that column"]),
    ("treatments/0/steps", [3], ["treatments.0.steps.0 is 3"]),
    ("learner", "LogisticRegression", ["learner is 'LogisticRegression'", "class, params"]),
    ("learner/class", "LogisticRegresion", ["did you mean 'LogisticRegression'?", "no classifier of pyspark.ml"]),
    ("learner/class", "LinearSVC", ["'LinearSVC' gives no probabilities"]),
    ("learner/class", "os", ["'os' is no classifier of pyspark.ml"]),
    ("learner/class", "FMClassifier", ["'FMClassifier' ignores weightCol", "['weights']"]),
    ("learner/class", "MultilayerPerceptronClassifier", ["has no weightCol", "['weights']"]),
    ("learner/params", {"maxIterations": 3}, ["has no Param 'maxIterations'", "did you mean 'maxIter'?"]),
    ("learner/params", {"maxIter": "three"}, ["LogisticRegression.maxIter is 'three'"]),
    ("learner/params", {"labelCol": "y"}, ["LogisticRegression.labelCol is set by the job"]),
    ("learner/params", {"weightCol": "w"}, ["LogisticRegression.weightCol is set by the job"]),
    ("threshold", "f2", ["threshold: 'f2' is no objective", "f1"]),
    ("output/treatment", "over", ["output.treatment 'over' is none of the treatments", "under"]),
    ("output/format", "csv", ["output.format is 'csv'", "'parquet' or 'delta'"]),
    ("spark", {"spark.jars": ["a"]}, ["spark.spark.jars is ['a']"]),
]


@pytest.mark.parametrize(("place", "value", "said"), MISTAKES, ids=[f"{i}-{m[0]}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_one_sentence(tmp_path, place, value, said):
    head, *sentences = complaint(tmp_path, changed(place, value)).split("\n")
    assert head.endswith("has 1 mistake:")
    assert len(sentences) == 1
    assert all(part in sentences[0] for part in said), sentences[0]


def test_a_split_column_has_no_other_role(tmp_path):
    assert "split.column 'channel' has a role" in complaint(tmp_path, changed("split", {"column": "channel"}))


@pytest.mark.parametrize("learner", [{"class": "FMClassifier"}, {"class": "MultilayerPerceptronClassifier"}])
def test_learners_that_cannot_weigh_are_welcome_without_weights(tmp_path, learner):
    given = changed("learner", learner)
    del given["treatments"][1]
    assert load(written(tmp_path, given), Balance).learner


def test_mistakes_come_all_at_once(tmp_path):
    given = changed("threshold", "f2")
    given["split"]["seed"] = "x"
    given["columns"]["numerical"] = []
    del given["output"]
    lines = complaint(tmp_path, given).split("\n")
    assert lines[0].endswith("has 4 mistakes:")
    assert [line.split()[1].rstrip(":") for line in lines[1:]] == [
        "columns.numerical", "split.seed", "threshold", "output",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no keys"), ("- a\n- b", "holds no keys"), ("a: [1", "is not YAML"), ("a: b: c", "is not YAML")],
)
def test_a_file_that_is_no_config(tmp_path, text, said):
    message = complaint(tmp_path, text)
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(SparkimbError, match="No such file"):
        load(str(tmp_path / "nothing.yaml"), Balance)
    with pytest.raises(SparkimbError, match="Is a directory"):
        load(str(tmp_path), Balance)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SparkimbError, match="not text in UTF-8"):
        load(str(tmp_path / "binary.yaml"), Balance)
