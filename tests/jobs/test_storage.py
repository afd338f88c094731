"""A result directory appears whole or not at all; and Delta, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from session import require_source
from storage import RESULT, Storage, written_aside

from sparkimb.errors import SparkimbError

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    os.environ.get("SPARKIMB_SPARK") == "connect", reason="jobs run under spark-submit, on a classic session"
)


@pytest.fixture
def storage(spark):
    return Storage(spark)


def write(storage: Storage, path: Path | str, text: str, *, overwrite: bool = False) -> None:
    with written_aside(storage, str(path), overwrite=overwrite) as aside:
        storage.write_text(f"{aside}/{RESULT}", text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_is_seen_before_all_is_written(storage, tmp_path):
    out = tmp_path / "new" / "a result"
    with written_aside(storage, f"{out.as_uri()}/".replace("%20", " "), overwrite=False) as aside:
        storage.write_text(f"{aside}/{RESULT}", "größer")
        assert not out.exists()
    assert (out / RESULT).read_text(encoding="utf-8") == "größer"
    assert names(out.parent) == {out.name}


def test_a_relative_path_is_under_the_working_directory(storage, tmp_path):
    there = os.path.relpath(tmp_path / "out")
    write(storage, there, "x")
    assert storage.qualified(there).endswith(str(tmp_path / "out"))
    assert (tmp_path / "out" / RESULT).exists()


@pytest.mark.parametrize("stopped_by", [ValueError, KeyboardInterrupt])
def test_a_failed_run_leaves_the_older_result(storage, tmp_path, monkeypatch, stopped_by):
    out = tmp_path / "out"
    write(storage, out, "old")

    def stop(*_):
        raise stopped_by

    monkeypatch.setattr(Storage, "write_text", stop)
    with pytest.raises(stopped_by):
        write(storage, out, "new", overwrite=True)
    assert (out / RESULT).read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_what_a_killed_run_leaves_is_cleared_up(storage, tmp_path):
    out = tmp_path / "out"
    write(storage, out, "old")
    (tmp_path / "out.incomplete").mkdir()
    (tmp_path / "out.incomplete" / "half").touch()
    out.rename(tmp_path / "out.replaced")  # killed when the new directory was about to get its name
    with pytest.raises(SparkimbError, match="exists"):
        write(storage, out, "new")
    assert (out / RESULT).read_text() == "old"
    write(storage, out, "new", overwrite=True)
    assert (out / RESULT).read_text() == "new"
    assert "half" not in names(out)
    assert names(tmp_path) == {"out"}


def test_overwrite_spares_what_is_no_result(storage, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").touch()
    (tmp_path / "file").touch()
    for path in ("home", "file"):
        with pytest.raises(SparkimbError, match=f"no {RESULT}"):
            write(storage, tmp_path / path, "x", overwrite=True)
    assert names(tmp_path) == {"home", "file"}
    (tmp_path / "empty").mkdir()
    write(storage, tmp_path / "empty", "x", overwrite=True)
    assert names(tmp_path / "empty") >= {RESULT}


def test_paths_where_nothing_can_be_written(storage, tmp_path):
    (tmp_path / "file").touch()
    for path in (f"{tmp_path}/file/out", "nosuch://host/out", ""):
        with pytest.raises(SparkimbError, match=r"^output\.path '.*' cannot be written: [^\n]+\. Name another\.$"):
            write(storage, path, "x")
    assert names(tmp_path) == {"file"}


def test_a_format_that_spark_lacks_is_found_out_early(spark):
    require_source(spark, "parquet")
    with pytest.raises(SparkimbError, match=r"does not know the format 'sheet'\. .*--packages"):
        require_source(spark, "sheet")


DELTA_RUN = """
import sys
from balance import main
from session import session
from sparkimb.datasets import blobs

spark = session("delta", {"spark.sql.shuffle.partitions": 1, "spark.databricks.delta.snapshotPartitions": 1,
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": False}, delta=True)
blobs(spark, rows=200, minority=0.2, partitions=1).write.format("delta").save(sys.argv[1] + "/rows")
main(sys.argv[1] + "/config.yaml")
written = spark.read.format("delta").load(sys.argv[1] + "/out/training")
print("written:", dict(written.groupBy("label").count().collect()))
"""


@pytest.mark.skipif("SPARKIMB_JARS" not in os.environ, reason="SPARKIMB_JARS does not say where Delta's jars are")
def test_delta_in_and_out(tmp_path):
    config = {
        "input": {"format": "delta", "path": f"{tmp_path}/rows"},
        "columns": {"label": "label", "positive": 1, "numeric": ["f0", "f1"], "id": ["id"]},
        "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        "treatments": [{"name": "under", "steps": ["RandomUnderSampler"]}],
        "output": {"path": f"{tmp_path}/out", "format": "delta"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", DELTA_RUN, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "jobs"), "PYSPARK_SUBMIT_ARGS": "--master local[1] pyspark-shell"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "out" / RESULT).read_text())
    assert manifest["format"] == "delta"
    assert (tmp_path / "out" / "training" / "_delta_log").is_dir()
    rows = {int(label): n for label, n in manifest["rowsPerClass"]["after"].items()}
    assert f"written: {rows}" in done.stdout or f"written: {dict(reversed(rows.items()))}" in done.stdout
