"""petastorm's make_batch_reader under the layer, against plain pyarrow reads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from sparkimb.errors import SparkimbError
from sparkimb.feed import petastorm_compat
from sparkimb.feed.petastorm_compat import install_compat

if find_spec("petastorm") is None:
    pytest.skip("petastorm is not installed", allow_module_level=True)
install_compat()

import petastorm.reader  # noqa: E402
from petastorm import TransformSpec, make_batch_reader  # noqa: E402
from petastorm.predicates import in_lambda, in_set  # noqa: E402
from petastorm.weighted_sampling_reader import WeightedSamplingReader  # noqa: E402
from petastorm.workers_pool.dummy_pool import DummyPool  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402
from petastorm.workers_pool.ventilator import ConcurrentVentilator  # noqa: E402

from sparkimb.feed import petastorm_mends  # noqa: E402

GROUPS, ROWS_PER_GROUP = 8, 25
ROWS = GROUPS * ROWS_PER_GROUP
IDS = np.arange(ROWS) + 2**60  # a float64 cannot tell them apart
LABELS = np.arange(ROWS, dtype=np.int32) % 7

POOLS = pytest.mark.parametrize("pool", ["thread", "dummy"])

COLUMNS: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "int8": (pa.int8(), lambda i: i % 100),
    "uint8": (pa.uint8(), lambda i: i),
    "int16": (pa.int16(), lambda i: -i),
    "int32": (pa.int32(), lambda i: i * 1000),
    "int64": (pa.int64(), lambda i: i + 2**60),
    "bool": (pa.bool_(), lambda i: i % 3 == 0),
    "float32": (pa.float32(), lambda i: i / 3),
    "float64": (pa.float64(), lambda i: i / 7),
    "string": (pa.string(), lambda i: "ü" * (i % 4)),
    "binary": (pa.binary(), lambda i: b"\0" * (i % 4)),
    "fixed": (pa.binary(2), lambda i: bytes([i, 0])),
    "decimal": (pa.decimal128(12, 3), lambda i: Decimal(i) / 8),
    "date": (pa.date32(), lambda i: date(1960 + i, 2, 1)),
    "timestamp_us": (pa.timestamp("us"), lambda i: datetime(1960 + i, 2, 1, 3)),
    "timestamp_ms": (pa.timestamp("ms"), lambda i: datetime(2000, 2, 1, 3, i % 60)),
    "floats": (pa.list_(pa.float32()), lambda i: [i / 3, float(i)]),
    "integers": (pa.list_(pa.int64()), lambda i: [i, i + 2**60, 0]),
}


def table() -> pa.Table:
    return pa.table({"id": IDS, "label": LABELS, "x": IDS.astype(np.float32) / 3, "list": [[i, 1] for i in IDS]})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of two row groups."""
    path = tmp_path_factory.mktemp("plain")
    for i in range(4):
        pq.write_table(table().slice(i * 50, 50), path / f"{i}.parquet", row_group_size=ROWS_PER_GROUP)
    return path


def url(path: Path | str) -> str:
    return f"file://{path}"


def batches(where: Any, **options: Any) -> list[Any]:
    options = {"workers_count": 2, "shuffle_row_groups": False, **options}
    with make_batch_reader(where, **options) as reader:
        return list(reader)


def read(where: Any, **options: Any) -> dict[str, Any]:
    """Return the columns that the reader gives."""
    found = batches(where, **options)
    return {name: np.concatenate([getattr(batch, name) for batch in found]) for name in found[0]._fields}


def ids(where: Any, **options: Any) -> list[int]:
    return sorted(read(where, **options)["id"].tolist())


# ---------------------------------------------------------------------------------------------------- values


@POOLS
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_what_pyarrow_reads(tmp_path: Path, name: str, pool: str) -> None:
    kind, value = COLUMNS[name]
    values = [value(i) for i in range(100)]
    pq.write_table(pa.table({name: pa.array(values, kind)}), tmp_path / "a.parquet", row_group_size=40)
    found = read(url(tmp_path), reader_pool_type=pool, workers_count=1)[name]
    plain = pq.read_table(tmp_path / "a.parquet").column(name)
    if pa.types.is_list(kind):
        expected = np.array(plain.to_pylist(), kind.value_type.to_pandas_dtype())
    elif pa.types.is_string(kind):
        expected = np.array(plain.to_pylist())
    else:
        expected = plain.to_pandas().to_numpy()
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_nulls_of_numbers_are_nan(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, None], pa.int64()), "b": [None, 0.5]}), tmp_path / "a.parquet")
    found = read(url(tmp_path))
    np.testing.assert_array_equal(found["a"], [1, np.nan])
    np.testing.assert_array_equal(found["b"], [np.nan, 0.5])


@pytest.mark.parametrize(
    "kind", [pa.uint32(), pa.large_string(), pa.list_(pa.float32(), 2), pa.struct({"a": pa.int8()})]
)
def test_petastorm_says_which_columns_it_cannot_read(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"a": [1], "b": pa.nulls(1, kind)}), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="Column 'b' has an unsupported field"):
        assert list(read(url(tmp_path))) == ["a"]


@pytest.mark.parametrize("lists", [[[1.0], [2.0, 3.0]], [[1.0], None]])
def test_lists_of_unequal_length_are_refused(tmp_path: Path, lists: list[Any]) -> None:
    pq.write_table(pa.table({"a": lists}), tmp_path / "a.parquet")
    with pytest.raises(SparkimbError, match="'a' has lists of lengths 1, "):
        read(url(tmp_path))


def test_schema_fields_choose_columns(path: Path) -> None:
    assert read(url(path), schema_fields=["id", "la.*"]).keys() == {"id", "label"}


# ------------------------------------------------------------------------------------------------------ rows


@POOLS
@pytest.mark.parametrize("options", [{}, {"shuffle_row_groups": True}, {"shuffle_rows": True, "seed": 3}], ids=str)
def test_every_row_comes_once_and_whole(path: Path, pool: str, options: dict[str, Any]) -> None:
    found = read(url(path), reader_pool_type=pool, **options)
    order = found["id"] - 2**60
    assert sorted(order) == list(range(ROWS))
    assert "shuffle_rows" not in options or list(order) != sorted(order)
    np.testing.assert_array_equal(found["label"], LABELS[order])
    np.testing.assert_array_equal(found["list"][:, 0], IDS[order])


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8])
def test_shards_are_disjoint_and_complete(path: Path, shards: int, seed: int | None) -> None:
    parts = [ids(url(path), cur_shard=i, shard_count=shards, seed=seed) for i in range(shards)]
    assert sorted(row for part in parts for row in part) == IDS.tolist()


def test_more_shards_than_row_groups(path: Path) -> None:
    with pytest.raises(petastorm.NoDataAvailableError):
        make_batch_reader(url(path), cur_shard=0, shard_count=9)


@POOLS
def test_rows_of_a_group_divided_into_parts_come_once(path: Path, pool: str) -> None:
    options = {"shuffle_row_drop_partitions": 3, "shuffle_rows": True, "seed": 1}
    found = batches(url(path), reader_pool_type=pool, **options)
    assert len(found) == 3 * GROUPS
    assert sorted(row for batch in found for row in batch.id.tolist()) == IDS.tolist()


@POOLS
def test_epochs(path: Path, pool: str) -> None:
    assert ids(url(path), reader_pool_type=pool, num_epochs=3) == sorted([*IDS, *IDS, *IDS])


@POOLS
def test_reset_reads_again(path: Path, pool: str) -> None:
    with make_batch_reader(url(path), reader_pool_type=pool, workers_count=2) as reader:
        for _ in range(3):
            assert sorted(row for batch in reader for row in batch.id) == IDS.tolist()
            reader.reset()


def test_a_reader_left_in_the_middle_ends(path: Path) -> None:
    before = threading.active_count()
    with make_batch_reader(url(path), num_epochs=None, workers_count=3) as reader:
        next(reader)
    assert threading.active_count() == before


def test_a_cache_gives_the_same_rows_and_keeps_columns_apart(path: Path, tmp_path: Path) -> None:
    options = {"cache_type": "local-disk", "cache_location": str(tmp_path), "cache_size_limit": 10**8}
    options |= {"cache_row_size_estimate": 20, "cache_extra_settings": {"shards": 1}}
    assert ids(url(path), **options) == ids(url(path), **options) == IDS.tolist()
    assert list(read(url(path), schema_fields=["label"], **options)) == ["label"]
    with pytest.raises(SparkimbError, match="cache_type"):
        read(url(path), predicate=in_lambda(["id"], lambda rows: rows > 0), **options)


# ------------------------------------------------------------------------------------------ predicates, transforms


@POOLS
@pytest.mark.parametrize("shuffle_rows", [False, True])
def test_a_predicate_keeps_rows_whole_and_integers_exact(path: Path, pool: str, shuffle_rows: bool) -> None:
    predicate = in_lambda(["label"], lambda labels: labels == 1)
    found = read(url(path), predicate=predicate, shuffle_rows=shuffle_rows, seed=0, reader_pool_type=pool)
    assert found["label"].dtype == np.int32
    assert set(found["label"]) == {1}
    assert found["id"].dtype == np.int64
    assert sorted(found["id"]) == IDS[LABELS == 1].tolist()
    np.testing.assert_array_equal(found["list"][:, 0], found["id"])


def test_a_predicate_that_keeps_nothing(path: Path) -> None:
    assert batches(url(path), predicate=in_lambda(["id"], lambda rows: rows < 0)) == []


def test_predicates_that_cannot_be(path: Path) -> None:
    with pytest.raises(SparkimbError, match="of columns nothing, and those read are: "):
        read(url(path), predicate=in_lambda(["nothing"], lambda rows: rows > 0))
    with pytest.raises(TypeError, match="one bool for each row"):
        read(url(path), predicate=in_lambda(["id"], lambda rows: True))


@pytest.mark.parametrize("keep", [0, 7])
def test_a_transform_sees_the_rows_that_a_predicate_keeps(path: Path, keep: int) -> None:
    def double(rows: pd.DataFrame) -> pd.DataFrame:
        assert (rows["label"] < keep).all()
        return rows.assign(double=rows["x"] * 2)

    spec = TransformSpec(double, edit_fields=[("double", np.float32, (), False)], removed_fields=["x", "list"])
    predicate = in_lambda(["label"], lambda labels: labels < keep)
    found = batches(url(path), transform_spec=spec, predicate=predicate)
    assert sum(len(batch.id) for batch in found) == sum(label < keep for label in LABELS)
    for batch in found:
        assert set(batch._fields) == {"id", "label", "double"}
        np.testing.assert_array_equal(batch.double, batch.id.astype(np.float32) / np.float32(3) * 2)


def test_a_transform_may_make_matrices(path: Path) -> None:
    def square(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[["id"]].assign(square=[np.full((2, 2), i) for i in rows["id"]])

    spec = TransformSpec(square, edit_fields=[("square", np.int64, (2, 2), False)], selected_fields=["id", "square"])
    found = read(url(path), transform_spec=spec)
    assert found["square"].shape == (ROWS, 2, 2)
    np.testing.assert_array_equal(found["square"][:, 1, 0], found["id"])


# ------------------------------------------------------------------------------------------------ files and places


def test_url_lists_keep_their_order(path: Path) -> None:
    files = [url(path / f"{i}.parquet") for i in (2, 0)]
    found = read(files, reader_pool_type="dummy")["id"]
    assert found.tolist() == [*IDS[100:150], *IDS[:50]]
    assert ids(files[:1]) == IDS[100:150].tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([3, -1], np.int64), ([5_000_000_000, 1], np.int64), (["a", "3"], np.str_), (["a b", "ü/ö=%"], np.str_)],
    ids=str,
)
def test_partition_columns(tmp_path: Path, values: list[Any], dtype: type) -> None:
    rows = pa.table({"id": np.arange(10), "part": pa.array([values[i % 2] for i in range(10)])})
    hive = ds.partitioning(pa.schema([rows.schema.field("part")]), flavor="hive")
    ds.write_dataset(rows, tmp_path, format="parquet", partitioning=hive)
    found = read(url(tmp_path))
    assert found["part"].dtype.type is dtype
    assert {*zip(found["id"].tolist(), found["part"].tolist(), strict=True)} == {(i, values[i % 2]) for i in range(10)}
    assert ids(url(tmp_path), predicate=in_set({values[1]}, "part")) == [1, 3, 5, 7, 9]
    assert ids(url(tmp_path), predicate=in_lambda(["id"], lambda rows: rows > 6)) == [7, 8, 9]


def test_two_levels_of_partitions_and_filters(tmp_path: Path) -> None:
    i = np.arange(24)
    rows = pa.table({"id": i, "year": i % 2 + 2020, "kind": np.array(["a", "b", "c"])[i % 3]})
    hive = ds.partitioning(pa.schema([("year", pa.int64()), ("kind", pa.string())]), flavor="hive")
    ds.write_dataset(rows, tmp_path, format="parquet", partitioning=hive)
    found = read(url(tmp_path))
    assert sorted(found["id"]) == list(range(24))
    np.testing.assert_array_equal(found["year"], found["id"] % 2 + 2020)
    assert ids(url(tmp_path), filters=[("year", "=", 2021)]) == list(range(1, 24, 2))
    assert ids(url(tmp_path), filters=[[("year", "=", 2021), ("kind", "in", {"b"})], [("kind", "=", "c")]]) == [
        i for i in range(24) if i % 3 == 2 or (i % 2 == 1 and i % 3 == 1)
    ]
    with pytest.raises(SparkimbError, match=r"filters name id, .* which are: kind, year"):
        read(url(tmp_path), filters=[("id", ">", 3)])
    with pytest.raises(SparkimbError, match="leave no file"):
        read(url(tmp_path), filters=[("year", "=", 1)])


def test_a_null_partition_is_refused(tmp_path: Path) -> None:
    for name in ("part=1", "part=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"id": [1]}), tmp_path / name / "a.parquet")
    with pytest.raises(SparkimbError, match="no value of the partition column part"):
        read(url(tmp_path))


def test_empty_files_and_what_spark_leaves_beside(tmp_path: Path, path: Path) -> None:
    for i in range(4):
        (tmp_path / f"part-{i}.snappy.parquet").write_bytes((path / f"{i}.parquet").read_bytes())
        (tmp_path / f".part-{i}.snappy.parquet.crc").write_bytes(b"crc")
    pq.write_table(table().slice(0, 0), tmp_path / "part-9.parquet")
    (tmp_path / "_SUCCESS").touch()
    pq.write_metadata(table().schema, tmp_path / "_metadata")
    pq.write_metadata(table().schema, tmp_path / "_common_metadata")
    assert ids(url(tmp_path)) == IDS.tolist()


def test_a_column_that_one_file_lacks_is_named(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table().drop_columns(["x"]), tmp_path / "b.parquet")
    with pytest.raises(SparkimbError, match=r"b.parquet' has no column x, .* Its columns are: id, label, list"):
        read(url(tmp_path))


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_batch_reader(url(tmp_path / "nothing"))
    with pytest.raises(SparkimbError, match="no Parquet file"):
        make_batch_reader(url(tmp_path))


@POOLS
def test_a_truncated_row_group_is_an_error_and_no_wait(tmp_path: Path, path: Path, pool: str, capsys: Any) -> None:
    content = bytearray((path / "0.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(SparkimbError, match=r"Row group 0 of '.*a\.parquet' cannot be read"):
        read(url(tmp_path), reader_pool_type=pool)


def test_file_systems_of_fsspec_and_pyarrow(path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{path}/", "/compat/a#b?/", recursive=True)
    try:
        assert ids("/compat/a#b?", filesystem=memory) == IDS.tolist()
        arrow = fs.PyFileSystem(fs.FSSpecHandler(memory))
        assert ids([f"/compat/a#b?/{i}.parquet" for i in range(4)], filesystem=arrow) == IDS.tolist()
        memory.mv("/compat/a#b?", "/compat/plain", recursive=True)
        assert ids("memory://compat/plain") == IDS.tolist()
    finally:
        memory.rm("/compat", recursive=True)
    assert ids(path.name, filesystem=fs.SubTreeFileSystem(str(path.parent), fs.LocalFileSystem())) == IDS.tolist()
    assert ids(url(path), filesystem=fs.LocalFileSystem()) == IDS.tolist()
    assert ids(url(path), filesystem=fsspec.filesystem("file")) == IDS.tolist()


@pytest.mark.parametrize("driver", ["libhdfs", "libhdfs3"])
def test_hdfs_needs_a_file_system(driver: str) -> None:
    with pytest.raises(SparkimbError, match="hdfs:// URL"):
        make_batch_reader("hdfs://host:8020/data", hdfs_driver=driver)


def test_weighted_sampling_mixes_readers(path: Path) -> None:
    readers = [make_batch_reader(url(path / f"{i}.parquet"), workers_count=1, num_epochs=None) for i in range(2)]
    with WeightedSamplingReader(readers, [0.0, 1.0]) as mixed:
        assert all(next(mixed).id.min() >= IDS[50] for _ in range(6))


# --------------------------------------------------------------------------------------- what ends an epoch


@pytest.mark.parametrize("mended", [False, True])
@POOLS
def test_an_epoch_does_not_end_before_its_rows_came(tmp_path: Path, monkeypatch: Any, pool: str, mended: bool) -> None:
    """The interleaving that loses rows: all row groups are handed out while the pool asks whether they are."""
    pq.write_table(pa.table({"id": np.arange(20_000)}), tmp_path / "a.parquet", row_group_size=7000)
    asked, reader_thread = threading.Event(), threading.current_thread()
    ventilate, completed = ConcurrentVentilator._ventilate, ConcurrentVentilator.completed

    def ventilate_when_asked(self: Any) -> None:
        assert asked.wait(10)
        ventilate(self)

    def completed_after_all(self: Any) -> bool:
        if threading.current_thread() is reader_thread:
            asked.set()
            self._ventilation_thread.join(10)
        return bool(completed(self))

    monkeypatch.setattr(ConcurrentVentilator, "_ventilate", ventilate_when_asked)
    monkeypatch.setattr(ConcurrentVentilator, "completed", completed_after_all)
    if not mended:
        monkeypatch.setattr(petastorm.reader, "ThreadPool", ThreadPool)
        monkeypatch.setattr(petastorm.reader, "DummyPool", DummyPool)
    rows = sum(len(batch.id) for batch in batches(url(tmp_path), reader_pool_type=pool))
    assert rows == (20_000 if mended else 0)


@POOLS
def test_an_epoch_ends_though_the_ventilator_says_so_late(path: Path, monkeypatch: Any, pool: str) -> None:
    completed, late = ConcurrentVentilator.completed, [False] * 3
    reader_thread = threading.current_thread()

    def completed_late(self: Any) -> bool:
        done = bool(completed(self))
        return late.pop() if done and late and threading.current_thread() is reader_thread else done

    monkeypatch.setattr(ConcurrentVentilator, "completed", completed_late)
    assert ids(url(path), reader_pool_type=pool) == IDS.tolist()
    assert not late


def test_a_read_that_is_stuck_is_not_waited_for_for_ever(path: Path, monkeypatch: Any) -> None:
    released = threading.Event()
    monkeypatch.setattr(petastorm.reader.ThreadPool, "timeout_s", 0.2)
    monkeypatch.setattr(petastorm_mends, "JOIN_S", 0.2)
    monkeypatch.setattr(petastorm.reader.ArrowReaderWorker, "process", lambda *args, **kwargs: released.wait(10))
    try:
        with pytest.raises(RuntimeError, match=r"no row group was read in 0\.2 seconds"):
            batches(url(path))
    finally:
        released.set()


# --------------------------------------------------------------------------------------------- installing


def test_nothing_of_pyarrow_numpy_and_pandas_is_changed() -> None:
    script = """
import warnings
warnings.simplefilter("error")
import sys
import numpy, numpy.typing, pandas, pyarrow, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet
modules = [numpy, pandas, pyarrow, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet]
from sparkimb.feed.petastorm_compat import install_compat
def held():
    loaded = {name for name in sys.modules if name.startswith(("pyarrow.fi", "pyarrow.hd"))}
    return loaded, [{name: id(value) for name, value in vars(module).items()} for module in modules]
before = held()
install_compat()
install_compat()
assert held()[0] == before[0] == set()
for module, old, new in zip(modules, before[1], held()[1]):
    assert old.items() <= new.items(), module
    added = {name for name in new.keys() - old.keys() if f"{module.__name__}.{name}" not in sys.modules}
    assert not added, (module, added)  # submodules apart, which others import
assert not any(name.startswith("pyspark") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.fixture
def not_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr(petastorm_compat, "_installed", False)


@pytest.mark.usefixtures("not_installed")
def test_petastorm_imported_before_is_refused() -> None:
    with pytest.raises(SparkimbError, match="imported before"):
        install_compat()


@pytest.mark.usefixtures("not_installed")
def test_another_version_is_refused() -> None:
    with mock.patch.object(metadata, "version", return_value="0.13.1"), pytest.raises(SparkimbError, match=r"0\.13\.1"):
        install_compat()


@pytest.mark.usefixtures("not_installed")
def test_a_missing_petastorm_names_the_extra() -> None:
    missing = mock.patch.object(metadata, "version", side_effect=metadata.PackageNotFoundError)
    with missing, pytest.raises(ImportError, match=r'pip install "sparkimb\[petastorm\]"'):
        install_compat()


@pytest.mark.usefixtures("not_installed")
def test_an_old_pyarrow_is_left_alone() -> None:
    with mock.patch.object(pq, "ParquetDatasetPiece", create=True):
        install_compat()
    assert not petastorm_compat._installed


def test_pools_of_processes_are_refused(path: Path) -> None:
    with pytest.raises(SparkimbError, match="Use 'thread'"):
        make_batch_reader(url(path), reader_pool_type="process")
