"""Row groups by petastorm: in the order asked for, as the manifest says, or an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed.data import write_training_set
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed.blocks import gather
from sparkimb.feed.engine import RowGroup, row_groups
from sparkimb.feed.manifest import DIRECTORY, Manifest
from sparkimb.feed.petastorm_compat import install_compat

if find_spec("petastorm") is None:
    pytest.skip("petastorm is not installed", allow_module_level=True)
install_compat()

from sparkimb.feed import petastorm, petastorm_dataset, petastorm_mends, petastorm_reader  # noqa: E402
from sparkimb.feed.petastorm import PetastormEngine  # noqa: E402
from sparkimb.feed.petastorm_dataset import ParquetDatasetPiece  # noqa: E402

ROWS, GROUPS = 1000, 20
WORKERS = pytest.mark.parametrize("workers", [1, 2, 5])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("feed") / "set"
    write_training_set(path, weights=True)
    return path


@pytest.fixture
def own_path(tmp_path: Path) -> Path:
    """A training set to spoil."""
    write_training_set(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    deadline = monotonic() + 20
    while threading.active_count() > before and monotonic() < deadline:
        sleep(0.01)
    assert threading.active_count() <= before


def engine(path: Path | str, **options: Any) -> Any:
    return closing(PetastormEngine(str(path), Manifest.read(str(path)), **{"timeout": 20, **options}))


def orders(path: Path, n: int) -> list[list[RowGroup]]:
    groups, rng = row_groups(Manifest.read(str(path))), np.random.default_rng(0)
    return [[groups[i] for i in rng.permutation(GROUPS)[: GROUPS - 3 * j]] for j in range(n)]


def numbers(blocks: Any) -> list[int]:
    """Return the rows' numbers, which feature 0 is."""
    return [int(row) for block in blocks for row in gather([block], len(block)).features[:, 0]]


def expected(order: list[RowGroup]) -> list[int]:
    return [250 * g.shard + 50 * g.group + i for g in order for i in range(g.rows)]


@WORKERS
def test_row_groups_come_in_the_order_asked_for(path: Path, workers: int) -> None:
    with engine(path, workers=workers) as reads:
        for order in orders(path, 4):
            assert numbers(reads.read(order)) == expected(order)
        assert numbers(reads.read([])) == []
        assert numbers(reads.read(order)) == expected(order)


@pytest.mark.parametrize("layout", ["scalars", "array"])
def test_blocks_hold_what_was_written(tmp_path: Path, layout: str) -> None:
    features, codes = write_training_set(tmp_path / "a", layout=layout, weights=True, width=5)
    with engine(tmp_path / "a") as reads:
        block = gather(reads.read(row_groups(Manifest.read(str(tmp_path / "a")))), ROWS)
    np.testing.assert_array_equal(block.features, features)
    np.testing.assert_array_equal(block.codes, codes)
    np.testing.assert_array_equal(block.weights, 1 + np.arange(ROWS) % 3)
    assert block.features.dtype == block.weights.dtype == np.float32


def test_one_reader_serves_all_epochs_and_a_read_left_midway_costs_another(path: Path, monkeypatch: Any) -> None:
    made = []
    make = petastorm_reader.make_batch_reader
    monkeypatch.setattr(petastorm_reader, "make_batch_reader", lambda *a, **k: made.append(a) or make(*a, **k))
    order = orders(path, 1)[0]
    with engine(path) as reads:
        for _ in range(3):
            assert numbers(reads.read(order)) == expected(order)
        assert len(made) == 1
        for _ in range(2):
            left = reads.read(order)
            next(left)
            assert numbers(reads.read(order[5:])) == expected(order[5:])
        assert len(made) == 3
        left = reads.read(order)
        next(left)
        left.close()
        never_begun = reads.read(order)
        assert numbers(reads.read(order[5:])) == expected(order[5:])
        never_begun.close()


@WORKERS
def test_row_groups_ahead_are_bounded_though_one_is_slow(path: Path, monkeypatch: Any, workers: int) -> None:
    order = orders(path, 1)[0]
    slow, begun = threading.Event(), []
    read, full = ParquetDatasetPiece.read, threading.Event()

    def read_slowly(self: Any, columns: Any) -> pa.Table:
        begun.append(self)
        if len(begun) == workers + 2:
            full.set()
        if len(begun) == 1:
            assert slow.wait(20)
        return read(self, columns)

    def release() -> None:
        full.wait(0.5)
        slow.set()

    monkeypatch.setattr(ParquetDatasetPiece, "read", read_slowly)
    threading.Thread(target=release).start()
    with engine(path, workers=workers) as reads:
        blocks = reads.read(order)
        first = next(blocks)
        assert len(begun) <= workers + 3  # one is handed on
        assert numbers([first, *blocks]) == expected(order)


@pytest.mark.parametrize("midway", [False, True])
def test_an_engine_that_nobody_closes_ends_its_threads(path: Path, midway: bool) -> None:
    before = threading.active_count()
    reads = PetastormEngine(str(path), Manifest.read(str(path)))
    blocks = reads.read(orders(path, 1)[0])
    assert next(blocks) if midway else list(blocks)
    assert threading.active_count() > before
    del blocks, reads
    assert threading.active_count() == before


def test_a_closed_engine_reads_no_more(path: Path) -> None:
    with engine(path) as reads:
        next(reads.read(orders(path, 1)[0]))
    reads.close()
    with pytest.raises(SparkimbError, match="closed"):
        reads.read(orders(path, 1)[0])


def test_places(path: Path) -> None:
    order, manifest = orders(path, 1)[0], Manifest.read(str(path))
    memory = fsspec.filesystem("memory")
    memory.put(f"{path}/", "/petastorm-engine/set/", recursive=True)
    try:
        for where in (path.as_uri(), "memory://petastorm-engine/set"):
            with engine(where) as reads:
                assert numbers(reads.read(order)) == expected(order)
    finally:
        memory.rm("/petastorm-engine", recursive=True)
    within = fs.SubTreeFileSystem(str(path.parent), fs.LocalFileSystem())
    with closing(PetastormEngine(path.name, manifest, filesystem=within)) as reads:
        assert numbers(reads.read(order)) == expected(order)


def rewrite(path: Path, change: Any) -> None:
    """Write the first file of a training set again, and its new size to the manifest."""
    manifest, file = Manifest.read(str(path)), path / "part-00000.parquet"
    pq.write_table(change(pq.read_table(file)), file, row_group_size=50)
    shards = (replace(manifest.shards[0], bytes=file.stat().st_size), *manifest.shards[1:])
    next((path / DIRECTORY).iterdir()).write_text(replace(manifest, shards=shards).to_json())


def label_as(kind: pa.DataType) -> Any:
    return lambda table: table.set_column(table.column_names.index("label"), "label", table["label"].cast(kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(10), "row groups of"),
        (lambda table: table.drop_columns(["f1"]), "f1"),
        (label_as(pa.float64()), "label"),
        (label_as(pa.uint32()), "types it does not know"),
    ],
)
def test_a_file_other_than_the_manifest_says_is_refused(own_path: Path, change: Any, message: str) -> None:
    rewrite(own_path, change)
    with engine(own_path) as reads, pytest.raises(SparkimbError, match=message):
        list(reads.read(row_groups(Manifest.read(str(own_path)))))


def test_a_file_that_is_gone_or_cut_short_is_refused(own_path: Path) -> None:
    groups = row_groups(Manifest.read(str(own_path)))
    file = own_path / "part-00003.parquet"
    content = file.read_bytes()
    with engine(own_path) as reads:
        for spoilt, message in (
            (content[:-100] + bytes(100), "cannot be read as Parquet"),
            (content[:4] + b"\xff" * 900 + content[904:], "Row group 0 of '.*part-00003.parquet' cannot be read"),
        ):
            file.write_bytes(spoilt)
            with pytest.raises(SparkimbError, match=message):
                list(reads.read(groups))
        file.write_bytes(content)
        assert numbers(reads.read(groups)) == list(range(ROWS))
    file.write_bytes(content[:-100])
    with pytest.raises(SparkimbError, match="bytes long"):
        engine(own_path)
    file.unlink()
    with pytest.raises(SparkimbError, match="missing"):
        engine(own_path)


def test_other_columns_do_not_matter(own_path: Path) -> None:
    rewrite(own_path, lambda table: table.append_column("other", pa.nulls(len(table), pa.struct({"a": pa.int8()}))))
    groups = row_groups(Manifest.read(str(own_path)))
    with engine(own_path) as reads:
        assert numbers(reads.read(groups)) == list(range(ROWS))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_features_that_are_no_numbers_are_refused(own_path: Path, value: Any) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        values = [*table["f2"].to_pylist()[:-1], value]
        return table.set_column(2, "f2", pa.array(values, pa.float32()))

    rewrite(own_path, spoil)
    with engine(own_path) as reads, pytest.raises(SparkimbError, match="f2"):
        list(reads.read(row_groups(Manifest.read(str(own_path)))))


def test_rows_lost_on_the_way_are_missed(path: Path, monkeypatch: Any) -> None:
    order, read = orders(path, 1)[0], ParquetDatasetPiece.read
    for left in (30, 0):
        monkeypatch.setattr(ParquetDatasetPiece, "read", lambda *a, left=left: read(*a).slice(0, left))
        with engine(path) as reads, pytest.raises(SparkimbError, match=f"gave {left} rows in row group"):
            list(reads.read(order))


def test_a_read_that_is_stuck_is_an_error(path: Path, monkeypatch: Any) -> None:
    released, read = threading.Event(), ParquetDatasetPiece.read
    monkeypatch.setattr(petastorm_mends, "JOIN_S", 0.1)
    monkeypatch.setattr(ParquetDatasetPiece, "read", lambda *args: released.wait(20) and read(*args))
    with engine(path, timeout=0.2) as reads, pytest.raises(SparkimbError, match=r"0\.2 seconds"):
        list(reads.read(orders(path, 1)[0]))
    released.set()


def test_opening_that_is_stuck_is_an_error(path: Path, monkeypatch: Any) -> None:
    released, order = threading.Event(), orders(path, 1)[0]
    opened, footer = petastorm.open_shard, ParquetDatasetPiece.get_metadata
    with monkeypatch.context() as patch:
        patch.setattr(petastorm, "open_shard", lambda *args: released.wait(20) and opened(*args))
        with engine(path, timeout=0.2) as reads, pytest.raises(SparkimbError, match=r"part-00000.* than 0\.2 seconds"):
            list(reads.read(order))
    monkeypatch.setattr(petastorm_dataset, "TIMEOUT", 0.2)
    monkeypatch.setattr(ParquetDatasetPiece, "get_metadata", lambda piece: released.wait(20) and footer(piece))
    dataset = petastorm_dataset.ParquetDataset([f"{path}/part-0000{i}.parquet" for i in range(4)])
    with pytest.raises(SparkimbError, match=r"footer of .*part-00000.* than 0\.2 seconds"):
        dataset.row_groups()
    released.set()
