"""Kafka and Delta: their tests run in a process of their own, whose session starts with the connectors' jars."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONNECT

HERE = Path(__file__).parent


@pytest.mark.slow  # a broker and drivers are to be started
@pytest.mark.skipif(CONNECT, reason="jobs run under spark-submit, on a classic session")
@pytest.mark.skipif("SPARKIMB_JARS" not in os.environ, reason="SPARKIMB_JARS does not say where the jars are")
def test_kafka_and_delta() -> None:
    files = [str(HERE / f"{name}_tests.py") for name in ("delta", "kafka")]
    done = subprocess.run(
        # In their order: the broker that one test kills is one that has just started for what comes after it.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--durations=5", *files],
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "skipped" not in done.stdout, done.stdout[-8000:]
