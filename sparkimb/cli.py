"""The command `sparkimb`: runs the jobs as spark-submit would, in this process."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

try:
    import typer
except ImportError as error:
    raise ImportError("The command needs typer: pip install 'sparkimb[jobs]'.") from error

# A wheel carries the jobs inside the package; a checkout has them beside it.
HERE = Path(__file__).parent
JOBS = next(folder for folder in (HERE / "jobs", HERE.parent / "jobs") if folder.is_dir())

app = typer.Typer(help="Imbalanced learning for Apache Spark.", no_args_is_help=True, add_completion=False)


@app.callback()
def _commands() -> None:
    """Imbalanced learning for Apache Spark."""


@app.command()
def balance(config: str = typer.Option(..., help="A YAML file: see conf/balance/.")) -> None:
    """Balance a training set and compare treatments on untouched rows."""
    _run("balance.py", "--config", config)


@app.command()
def stream(config: str = typer.Option(..., help="A YAML file: see conf/stream/.")) -> None:
    """Balance a stream, and go on where an earlier run of the same config stopped."""
    _run("stream.py", "--config", config)


@app.command()
def train(config: str = typer.Option(..., help="A YAML file: see conf/train/.")) -> None:
    """Train a perceptron on balanced rows, and go on where an earlier run of the same config stopped."""
    _run("train.py", "--config", config)


def _run(job: str, *arguments: str) -> None:
    # Spark looks for java on PATH, and an environment may carry its own beside its python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.path.insert(0, str(JOBS))  # as spark-submit does with a script's folder
    sys.argv = [str(JOBS / job), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
