"""Row groups by pyarrow: as the manifest says, from any file system, or an error, and never a hang."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed.data import write_training_set
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed import read_ahead as ahead
from sparkimb.feed.engine import Block, row_groups
from sparkimb.feed.manifest import DIRECTORY, Manifest
from sparkimb.feed.read_ahead import read_ahead
from sparkimb.feed.torch import ArrowEngine, make_torch_loader

FILE = "part-00002.parquet"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A training set to spoil."""
    write_training_set(tmp_path / "set", weights=True)
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "sparkimb-feed":
            thread.join(10)
            assert not thread.is_alive()


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], rows_per_group: int = 50) -> None:
    """Change one file and give the manifest its new size."""
    pq.write_table(change(pq.read_table(path / FILE)), path / FILE, row_group_size=rows_per_group)
    file = path / DIRECTORY / "part-00000.txt"
    content = json.loads(file.read_text())
    content["shards"][2]["bytes"] = (path / FILE).stat().st_size
    file.write_text(json.dumps(content))


def put(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


def with_one(value: Any, dtype: Any = np.float32) -> pa.Array:
    values = np.ones(250, dtype)
    values[70] = value
    return values


@pytest.mark.parametrize("workers", [1, 3])
def test_row_groups_come_in_the_order_asked_for(path: Path, workers: int) -> None:
    manifest = Manifest.read(str(path))
    engine = ArrowEngine(str(path), manifest, workers=workers)
    order = [row_groups(manifest)[i] for i in np.random.default_rng(0).permutation(20)]
    for group, block in zip(order, engine.read(order), strict=True):
        table = pq.ParquetFile(path / manifest.shards[group.shard].file).read_row_group(group.group)
        assert isinstance(block, Block)
        for name, values in zip(manifest.features, block.features, strict=True):
            assert (values == table.column(name).to_numpy()).all()
        assert (block.codes == table.column("label").to_numpy()).all()
        assert block.weights is not None
        assert (block.weights == table.column("weight").to_numpy()).all()
    engine.close()
    engine.close()
    with pytest.raises(SparkimbError, match="engine was closed"):
        engine.read(order)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / FILE).unlink(), f"{FILE}' is missing"),
        (
            lambda path: (path / FILE).write_bytes((path / FILE).read_bytes()[:-100]),
            f"{FILE}' is .* bytes long instead of",
        ),
        (lambda path: (path / DIRECTORY / "part-00000.txt").unlink(), "has no manifest"),
    ],
    ids=["missing", "truncated", "no manifest"],
)
def test_files_are_checked_at_once(spoil: Callable[[Path], None], message: str, path: Path) -> None:
    spoil(path)
    with pytest.raises(SparkimbError, match=message):
        make_torch_loader(str(path), 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["f1", "label"]), f"{FILE}' .* 'f1' is missing .* 'label' is missing"),
        (put("f1", np.zeros(250)), f"{FILE}' has other columns .* 'f1' is double instead of float"),
        (put("label", np.zeros(250)), "'label' is double instead of integers"),
        (put("f1", with_one(np.nan)), f"group 1 of '{FILE}' has 1 features .* column 'f1', the first at its row 20"),
        (put("f1", with_one(-np.inf)), "NaN or infinite in column 'f1'"),
        (put("f1", pa.array([None, *[1.0] * 249], pa.float32())), f"group 0 of '{FILE}' has 1 nulls in column 'f1'"),
        (put("label", pa.array([None, *[1] * 249], pa.int32())), "1 nulls in column 'label'"),
        (put("label", with_one(2, np.int32)), f"group 1 of '{FILE}' has class codes from 1 to 2 .* 2 classes"),
        (put("label", with_one(-1, np.int32)), "class codes from -1 to 1"),
        (put("weight", with_one(-1)), f"group 1 of '{FILE}' has weights in column 'weight' that are negative"),
        (put("weight", with_one(np.nan)), "that are negative, NaN or infinite"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_rows_that_cannot_be_used(change: Any, message: str, workers: int, path: Path) -> None:
    rewrite(path, change)
    with make_torch_loader(str(path), 64, workers=workers) as loader, pytest.raises(SparkimbError, match=message):
        list(loader)


def test_other_row_groups_are_refused(path: Path) -> None:
    rewrite(path, lambda table: table, rows_per_group=100)
    with pytest.raises(SparkimbError, match=f"{FILE}' has row groups of 100, 100, 50 rows, and 50, 50, 50, 50, 50"):
        list(make_torch_loader(str(path), 64))


def test_lists_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write_training_set(path, layout="array")
    rewrite(path, put("features", pa.array([[1.0] * 4] * 249 + [[1.0] * 5], pa.list_(pa.float32()))))
    with pytest.raises(SparkimbError, match=f"group 4 of '{FILE}' has lists of lengths .4, 5. .* manifest says 4"):
        list(make_torch_loader(str(path), 64))
    rewrite(path, put("features", pa.array([[1.0] * 4] * 249 + [[1.0, None, 1.0, 1.0]], pa.list_(pa.float32()))))
    with pytest.raises(SparkimbError, match=f"group 4 of '{FILE}' has 1 nulls in column 'features'"):
        list(make_torch_loader(str(path), 64))


def test_damage_within_a_file_names_it(path: Path) -> None:
    content = bytearray((path / FILE).read_bytes())
    content[4:4000] = bytes(3996)
    (path / FILE).write_bytes(content)
    with pytest.raises(SparkimbError, match=f"Row group . of '{FILE}' cannot be read"):
        list(make_torch_loader(str(path), 64))


def test_nan_is_let_through_where_asked(path: Path) -> None:
    rewrite(path, put("f1", with_one(np.nan)))
    loader = make_torch_loader(str(path), 64, check_finite=False)
    assert sum(int(batch.features.isnan().sum()) for batch in loader) == 1


def test_file_systems_by_uri(path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/feed-test", recursive=True)
    expected = [batch.features.tolist() for batch in make_torch_loader(str(path), 64)]
    local = fs.LocalFileSystem()
    for loader in (
        make_torch_loader("memory://feed-test", 64),
        make_torch_loader(path.as_uri(), 64),
        make_torch_loader(path.name, 64, filesystem=fs.SubTreeFileSystem(str(path.parent), local)),
    ):
        assert [batch.features.tolist() for batch in loader] == expected
    memory.rm("/feed-test", recursive=True)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_read_that_hangs_is_an_error(path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    read = ArrowEngine._read

    def hanging(self: ArrowEngine, group: Any) -> Block:
        if group.shard == 2:
            hangs.wait(30)
        return read(self, group)

    monkeypatch.setattr(ArrowEngine, "_read", hanging)
    loader = make_torch_loader(str(path), 64, workers=workers, timeout=0.2)
    with pytest.raises(SparkimbError, match=f"Reading row group . of '{FILE}' took longer than 0.2 seconds"):
        list(loader)
    hangs.set()


def test_a_loop_left_while_a_read_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, reads = threading.Event(), iter(range(20))
    read = ArrowEngine._read

    def hanging(self: ArrowEngine, group: Any) -> Block:
        if next(reads) == 1:
            hangs.wait(30)
        return read(self, group)

    monkeypatch.setattr(ArrowEngine, "_read", hanging)
    monkeypatch.setattr(ahead, "LEAVE_S", 0.1)
    loader = make_torch_loader(str(path), 16, shuffle_rows=50)
    batches = iter(loader)
    next(batches)
    loader.close()
    assert list(batches) == []
    with pytest.raises(SparkimbError, match="engine was closed"):
        next(iter(loader))
    hangs.set()


def test_a_reading_thread_that_dies_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: ArrowEngine, group: Any) -> Block:
        raise SystemExit("killed")

    monkeypatch.setattr(ArrowEngine, "_read", dying)
    with pytest.raises(SystemExit, match="killed"):
        list(make_torch_loader(str(path), 64, timeout=5))


def test_a_process_that_leaves_a_loop_ends(path: Path) -> None:
    code = f"""
from sparkimb.feed.torch import make_torch_loader
batches = iter(make_torch_loader({str(path)!r}, 16, shuffle_rows=50, workers=3))
next(batches)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_results_are_in_order_and_bounded() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(task: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001 * (task % 3))
        with lock:
            running -= 1
        return task

    asked = []

    def tasks() -> Iterator[int]:
        for task in range(30):
            asked.append(task)
            yield task

    for i, result in enumerate(read_ahead(work, tasks(), workers=3, timeout=10, describe=str)):
        assert result == i
        assert len(asked) <= i + 4
    assert i == 29
    assert most <= 3


def test_a_timeout_that_a_task_raised_is_its_own() -> None:
    def work(task: int) -> int:
        raise TimeoutError("of the store")

    with pytest.raises(TimeoutError, match="of the store"):
        list(read_ahead(work, [1], workers=1, timeout=10, describe=str))
