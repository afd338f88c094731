"""The command and spark-submit, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparkimb import datasets

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
JOB = str(ROOT / "jobs" / "balance.py")

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)

CONFIG: dict[str, Any] = {
    "input": {"format": "csv", "path": datasets.path("hypothyroid"), "options": {"header": True, "inferSchema": True}},
    "columns": {"label": "diagnosis", "numeric": ["TSH", "FTI"], "categorical": ["sex"], "id": ["patient_id"]},
    "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
    "treatments": [{"name": "under", "steps": [{"RandomUnderSampler": {"samplingStrategy": 0.5}}]}],
    "learner": {"class": "LogisticRegression", "params": {"maxIter": 2}},
    "output": {"path": "results/under sampled"},  # relative to the working directory
    "spark": {
        "spark.master": "local[2]",
        "spark.sql.shuffle.partitions": 1,
        "spark.ui.enabled": False,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    },
}


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # The fixture's own settings for Spark are not the command's, which is to start it by itself.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK_", "SPARK_"))}
    environment |= {"PATH": f"{BIN}{os.pathsep}{environment['PATH']}", "SPARK_LOCAL_IP": "127.0.0.1", "COLUMNS": "80"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def write(folder: Path, config: Any, name: str = "config.yaml") -> str:
    (folder / name).write_text(config if isinstance(config, str) else yaml.safe_dump(config), encoding="utf-8")
    return name


def figures(out: Path) -> list[Any]:
    results = json.loads((out / "metrics.json").read_text())
    return [results["split"], [{key: t[key] for key in t if key != "seconds"} for t in results["treatments"]]]


def test_help_names_the_commands(tmp_path):
    done = call(tmp_path, str(BIN / "sparkimb"), "--help")
    assert done.returncode == 0
    assert "balance" in done.stdout


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG | {"threshold": "f2", "treatment": []}, ["has 2 mistakes", "did you mean 'treatments'?", "'f2'"]),
        ("a: [", ["is not YAML"]),
        (None, ["No such file"]),
    ],
    ids=["mistakes", "no YAML", "no file"],
)
def test_a_bad_config_is_refused_before_spark_starts(tmp_path, config, said):
    if config is not None:
        write(tmp_path, config)
    done = call(tmp_path, str(BIN / "sparkimb"), "balance", "--config", "config.yaml")
    assert done.returncode == 2
    assert all(part in done.stdout for part in said), done.stdout
    assert "Start Spark" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


KILLED = f"""
import os, runpy, signal, sys
sys.path.insert(0, {str(ROOT / "jobs")!r})
import storage

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

storage.Storage.rename = kill  # all is written, and nothing has its name
sys.argv = [{JOB!r}, "--config", "config.yaml"]
runpy.run_path({JOB!r}, run_name="__main__")
"""


def check_run(folder: Path) -> None:
    """Run the command where no whole result is, and check that it says what it does."""
    done = call(folder, str(BIN / "sparkimb"), "balance", "--config", "config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (folder / "results").iterdir()} == {"under sampled"}
    for title in ("Start Spark", "Profile the classes", "Treat and measure: under", "Write figures and report"):
        assert f"✓ {title}" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_command_balances(tmp_path):
    write(tmp_path, CONFIG)
    check_run(tmp_path)


@pytest.mark.slow
def test_killed_under_spark_submit_then_run_by_the_command(tmp_path):
    write(tmp_path, CONFIG)
    (tmp_path / "killed.py").write_text(KILLED, encoding="utf-8")
    done = call(tmp_path, str(BIN / "spark-submit"), "killed.py")
    assert done.returncode != 0
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"under sampled.incomplete"}
    submitted = figures(tmp_path / "results" / "under sampled.incomplete")

    check_run(tmp_path)
    assert figures(tmp_path / "results" / "under sampled") == submitted

    done = call(tmp_path, str(BIN / "spark-submit"), JOB, "--config", "config.yaml")
    assert done.returncode == 2  # what is there is not overwritten
    assert "exists. Name another, or set output.overwrite to true." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
