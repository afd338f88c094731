"""The benchmarks run and report; how fast they are is no test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark import (
    CONTESTS,
    TICKS_PER_SECOND,
    Contest,
    Ground,
    Processes,
    check_names,
    check_without_python,
    measure,
    python_nodes,
    ratios,
    run,
)
from config import Benchmark, load
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)

BUSY = """
import time
held = bytearray(200 * 2**20)
began = time.perf_counter()
while time.process_time() < 0.5 or time.perf_counter() - began < 2:
    held[::4096] = bytes(len(held[::4096]))
"""


@pytest.fixture
def config(tmp_path: Path) -> Benchmark:
    return Benchmark(
        benchmarks=[name for name in CONTESTS if name != "drift"],  # tests/streaming/test_drift_benchmark.py runs it
        rows=400,
        features=3,
        minority=0.2,
        runs=1,
        warmup=0,
        path=str(tmp_path / "rows"),
        output=str(tmp_path / "results" / "all.jsonl"),
    )


@pytest.mark.slow  # every benchmark is run
def test_every_benchmark_prints_one_line_of_json(spark, config, capsys) -> None:
    found = run(config, spark)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == found
    assert [result["benchmark"] for result in found] == config.benchmarks
    assert Path(config.output).read_text().splitlines() == lines
    for result in found:
        subject, *baselines = result["contestants"]
        assert subject == "subject"
        assert list(result["ratios"]) == baselines
        for contestant in result["contestants"].values():
            assert len(contestant["cpu_seconds"]) == len(contestant["wall_seconds"]) == config.runs
            assert min(contestant["wall_seconds"]) > 0
        assert result["rows_in"] == config.rows
        assert set(result["versions"]) == {"sparkimb", "pyspark", "java", "python"}

    (kept,) = (path for path in Path(config.path).iterdir() if not path.name.endswith("-training"))
    generated = spark.read.parquet(str(kept))
    assert generated.count() == config.rows
    assert [type_ for _, type_ in generated.dtypes] == ["bigint", "int", "float", "float", "float"]
    rows = {result["benchmark"]: result["rows_out"] for result in found}
    minority = generated.where("label = 1").count()
    assert rows["under_sampling"] == rows["streaming"] == 2 * minority
    assert rows["over_sampling"] == 2 * (config.rows - minority)
    assert rows["class_weights"] == rows["streaming_weights"] == config.rows
    assert rows["smote"] == 2 * (config.rows - minority)
    (memory,) = (result["memory"] for result in found if result["benchmark"] == "streaming_memory")
    assert [mark["batch"] for mark in memory] == [1, 2], "the first after a tenth of the batches, the last at the end"
    assert all(min(mark[name] for name in ("heap_mb", "jvm_mb", "driver_mb")) > 0 for mark in memory)


def test_contestants_take_turns_on_the_same_generated_rows(spark, config) -> None:
    Ground(config, spark)
    written = {path: path.stat().st_mtime_ns for path in Path(config.path).rglob("*.parquet")}
    ground = Ground(config, spark)
    assert {path: path.stat().st_mtime_ns for path in Path(config.path).rglob("*.parquet")} == written

    turns: list[str] = []
    baselines = {"first": lambda: turns.append("first"), "second": lambda: turns.append("second")}
    contest = Contest(lambda: turns.append("subject"), baselines, rows_in=0, rows_out=0)
    spent = measure(contest, ground, runs=2, warmup=1)
    assert turns == ["subject", "first", "second"] * 3
    assert {name: len(runs) for name, runs in spent.items()} == {"subject": 2, "first": 2, "second": 2}
    turns.clear()
    measure(replace(contest, cold=frozenset({"second"})), ground, runs=1, warmup=1)
    assert turns == ["subject", "first", "subject", "first", "second"]


def test_rows_that_pass_through_python_are_seen_in_the_plan(spark) -> None:
    rows = spark.range(10)
    inside = rows.groupBy((F.col("id") % 3).alias("Python")).count().where("count > 1")
    assert python_nodes(inside) == []
    check_without_python(inside)
    for through in (
        rows.mapInArrow(lambda batches: batches, "id bigint"),
        rows.select(F.udf(lambda x: x, "bigint")("id").alias("id")).groupBy("id").count(),
        rows.groupBy("id").applyInPandas(lambda pdf: pdf, "id bigint").where("id > 1"),
    ):
        assert len(python_nodes(through)) == 1
        with pytest.raises(AssertionError, match="Python"):
            check_without_python(through)


def test_children_that_have_ended_are_counted(spark) -> None:
    spent = Processes(spark).spent_by(lambda: subprocess.run([sys.executable, "-c", BUSY], check=True))
    assert spent.cpu >= 0.5
    assert spent.wall >= 2
    assert spent.python_bytes >= 200 * 2**20
    assert spent.jvm_bytes > 0


def test_ratios_compare_medians_and_neighbours() -> None:
    assert ratios([2.0, 4.0, 30.0], [1.0, 4.0, 10.0]) == {"of_medians": 1.0, "of_pairs": 2.0}
    assert ratios([2 / TICKS_PER_SECOND], [0.0]) == {"of_medians": 2.0, "of_pairs": 2.0}


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(SparkimbError, match=r"'unheard_of'.* Known are under_sampling"):
        check_names(["fit", "unheard_of"])


@pytest.mark.parametrize("path", sorted(Path("conf/benchmark").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_are_sound(path: Path) -> None:
    check_names(load(str(path), Benchmark).benchmarks)
