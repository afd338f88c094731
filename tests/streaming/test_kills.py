"""A driver that is killed again and again, at every point of a batch, leaves what one that is never killed leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONNECT
from driver import POINTS, SCHEMA
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from written import contents

from sparkimb.datasets import drifting

BATCHES, ROWS = 40, 60
KILLS = 24
# Seconds that a driver may take: ten times what it takes alone on two cores.
PATIENCE = 600


def input_files(spark: SparkSession, folder: Path) -> None:
    rows = drifting(spark, BATCHES * ROWS, minority=0.2, partitions=1).withColumns(
        {
            "label": F.when(F.col("id") % 97 != 5, F.col("label")),  # poison, for the dead letters
            "f1": F.when(F.col("id") % 101 == 7, float("nan")).otherwise(F.col("f1")),
        }
    )
    for number in range(BATCHES):
        part = rows.where(F.floor(F.col("id") / ROWS) == number)
        part.selectExpr(*(field.split()[0] for field in SCHEMA.split(", "))).coalesce(1).write.parquet(
            str(folder), mode="append"
        )
    for number, file in enumerate(sorted(folder.glob("*.parquet"), key=lambda f: f.stat().st_mtime_ns)):
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))  # the order in which the source takes them


def drive(root: Path, partitions: int, *fate: str, seconds: float | None = None) -> int:
    """Run a driver to its end, or kill it after some seconds; return its exit status, -9 if it was killed."""
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(root), str(partitions), *fate]
    with (root / "log").open("a") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            return driver.wait(seconds or PATIENCE)
        except subprocess.TimeoutExpired:
            assert seconds is not None, f"a driver hangs; see {root}/log"
            os.killpg(driver.pid, signal.SIGKILL)
            return driver.wait()


@pytest.mark.faults
@pytest.mark.skipif(CONNECT, reason="the driver is a process of its own, with a classic session")
@pytest.mark.parametrize("seed", [0])
def test_kills_lose_and_repeat_nothing(spark: SparkSession, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    input_files(spark, tmp_path / "in")
    for root in (whole, killed):
        root.mkdir()
        (root / "in").symlink_to(tmp_path / "in")
    assert drive(whole, 2) == 0, (whole / "log").read_text()[-2000:]

    kills = []
    for turn in range(KILLS):
        partitions = chance.randint(1, 5)
        committed = len(list((killed / "checkpoint/commits").glob("[0-9]*")))
        if turn < 3 * len(POINTS):
            fate = POINTS[turn % len(POINTS)], str(committed + chance.randint(0, 1))
            status = drive(killed, partitions, *fate)
            kills.append((*fate, status))
        else:  # at a moment of chance, in which it may be starting
            seconds = chance.uniform(4, 14)
            status = drive(killed, partitions, seconds=seconds)
            kills.append((f"after {seconds:.1f} s", str(committed), status))
        assert status in (0, -signal.SIGKILL), (killed / "log").read_text()[-2000:]
    assert sum(status == -signal.SIGKILL for *_, status in kills) >= 20, kills
    assert drive(killed, 3) == 0, (killed / "log").read_text()[-2000:]

    expected = contents(whole)
    assert contents(killed) == expected
    assert len([name for name in expected if name.startswith("out/")]) == BATCHES
    assert sum(len(rows) for name, rows in expected.items() if name.startswith("dead/")) > 20
