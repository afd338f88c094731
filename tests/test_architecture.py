"""Who imports whom, which words would break Spark Connect, and where Spark jobs may start: read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkimb

PACKAGE = Path(sparkimb.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From the ground up: a part imports from lower layers and from itself, never from a neighbour.
LAYERS: tuple[set[str], ...] = (
    {"errors"},
    {"strategy", "columns"},
    {"draws", "params", "persistence"},
    {"statistics"},
    {"exact", "neighbors"},
    {"base"},
    {"under_sampling", "over_sampling", "weights", "evaluation", "generative", "datasets"},
    {"combine", "pipeline", "adviser"},
    {"ensemble", "streaming", "feed", "report"},
    {"training"},  # takes its rows from the feed
    {"testing", "cli"},
)
LAYER = {part: i for i, layer in enumerate(LAYERS) for part in layer}

NOT_ON_CONNECT = {"rdd", "sparkContext", "_sc", "_jsc", "_jvm", "_jdf", "_java_obj", "_jsparkSession", "accumulator"}

SESSIONS = {"SparkSession.builder", "SparkSession.active", "SparkSession.getActiveSession"}  # ours is the dataset's

# What runs a Spark job, or leaves something behind in the session.
ACTIONS = {
    *("collect", "head", "toPandas", "toArrow", "toLocalIterator", "show", "foreach", "foreachPartition", "isEmpty"),
    *("cache", "persist", "checkpoint", "localCheckpoint", "createTempView", "createOrReplaceTempView"),
    *("write", "writeTo", "writeStream", "saveAsTable"),
}
MAY_ACT = {
    "sparkimb.statistics": {"collect", "count", "head"},  # the counts, and the length of a vector
    "sparkimb.neighbors.spaces": {"toArrow"},  # a sample of a class too large for one task
    "sparkimb.neighbors.table": {"collect"},  # a sample's distances, to say how good a search is
    "sparkimb.over_sampling.smoten": {"toArrow"},  # counts of the values of categories by class
    "sparkimb.over_sampling.partition_local": {"collect"},  # counts of classes by group, at most 100,000
    "sparkimb.over_sampling.random": {"collect"},  # the standard deviations of the classes
    "sparkimb.evaluation.confusion": {"toArrow"},  # grouped counts
    "sparkimb.evaluation.probabilities": {"toArrow"},  # sums by bin, and the distinct scores that bins are cut at
    "sparkimb.evaluation.steps": {"toArrow"},  # scores on the driver up to a million, or sums of ranges
    "sparkimb.evaluation.score_gaps": {"toArrow"},  # the positives' scores, counts between them
    "sparkimb.evaluation.multiclass_ranking": {"toArrow", "collect"},
    "sparkimb.evaluation.intervals": {"toArrow"},  # rows alike, with their numbers
    "sparkimb.evaluation.calibrators": {"toArrow"},  # rows and weights by class
    "sparkimb.evaluation.data_balance": {"toArrow"},  # counts of values
    "sparkimb.evaluation.stratified_folds": {"toArrow"},  # counts of groups, or times of the smallest class
    "sparkimb.evaluation.instance_hardness": {"toArrow"},  # rows by class and bucket of hardness
    "sparkimb.pipeline": {"write"},  # its own writer
    "sparkimb.adviser": {"persist"},  # the rows while treatments are compared, and their scores
    "sparkimb.streaming.balancer": {"collect"},  # counts of a batch by class
    "sparkimb.streaming.reservoir": {"toArrow"},  # four times as many rows of a class as are kept, at most
    "sparkimb.streaming.state": {"head", "write"},  # a state, one line
    "sparkimb.streaming.waiting": {"count", "write"},  # the rows that wait for labels
    "sparkimb.streaming.query": {"count", "persist", "write", "writeStream"},  # late rows; small classes
    "sparkimb.streaming.sinks": {"write", "toArrow"},  # what they are for; in memory a bounded number of rows
    "sparkimb.streaming.metrics": {"collect", "toArrow"},  # grouped counts; scores of a window of rows
    "sparkimb.streaming.state_counts": {"collect"},  # sums by class
    "sparkimb.feed.source": {"toArrow"},  # rows, sums and faults by class and bucket of draws
    "sparkimb.feed.dealing": {"toArrow"},  # the draws about the cuts between files, at most 4 million counts
    "sparkimb.feed.parquet": {"write", "toArrow"},  # training sets; rows and sums by file and class; the manifest
    "sparkimb.testing": {"collect", "count", "persist", "write"},  # on a few hundred rows of its own
}


def _tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text())


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)


def _part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "sparkimb"])
def test_imports_point_down(module: str) -> None:
    assert _part(module) in LAYER, f"say in LAYERS where {_part(module)} belongs"
    for name in _imports(_tree(module)):
        assert name.split(".")[0] not in ("jobs", "tests"), f"{module} imports {name}"
        if name.startswith("sparkimb.") and _part(name) != _part(module):
            assert LAYER[_part(name)] < LAYER[_part(module)], f"{module} imports {name}"


@pytest.mark.parametrize("module", SOURCES)
def test_no_words_that_break_connect(module: str) -> None:
    tree = _tree(module)
    assert not [name for name in _imports(tree) if name.split(".")[0] == "py4j"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NOT_ON_CONNECT, f"{module}:{node.lineno}"
            on_session = isinstance(node.value, ast.Name) and node.value.id == "SparkSession"
            assert not (on_session and node.attr in ("builder", "getActiveSession", "active")), (
                f"{module}:{node.lineno}"
            )
        if isinstance(node, ast.Constant):  # getattr(df, "_jdf")
            assert node.value not in NOT_ON_CONNECT, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", SOURCES)
def test_jobs_start_where_they_may(module: str) -> None:
    assert set(_actions(_tree(module))) <= MAY_ACT.get(module, set())


def test_the_list_of_modules_that_start_jobs_is_not_too_long() -> None:
    for module, allowed in MAY_ACT.items():
        assert set(_actions(_tree(module))) == allowed, module


def _actions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ACTIONS:
            yield node.attr
        # count() of a DataFrame takes nothing; that of a list, a string and pyspark.sql.functions takes something
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
            yield from () if node.args else ("count",)


def test_import_is_light_and_starts_no_session() -> None:
    code = (
        "import sys, sparkimb; from pyspark.sql import SparkSession; "
        "heavy = {'torch', 'petastorm', 'pydantic', 'matplotlib', 'jinja2', 'typer', 'sklearn', 'yaml'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert SparkSession.getActiveSession() is None"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_training_and_reading_import_no_spark() -> None:
    code = (
        "import sys, sparkimb.feed.torch, sparkimb.feed.device, sparkimb.feed.petastorm; "
        "from sparkimb.training import MLP, augment, fit, imbalanced_trainer, losses, transfer; "
        "assert not {'pyspark', 'petastorm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
