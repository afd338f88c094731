"""What materialize writes is what it was given: the same rows, dealt and mixed exactly, whatever the partitioning."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkimb.errors import SparkimbError
from sparkimb.feed import Manifest, materialize, parquet, verify
from sparkimb.feed.dealing import quotas, strides
from sparkimb.feed.manifest import DIRECTORY
from sparkimb.under_sampling.random import RandomUnderSampler

NAMES = ["a.b", "two words, `quoted`"]
LABELS = {"usual": 1_003, "rare": 83, "très rare": 5}


@dataclass(frozen=True)
class Written:
    """A training set, its files' tables, and the plan by which it was written."""

    path: str
    manifest: Manifest
    tables: list[pa.Table]
    plan: str


def read(path: str, manifest: Manifest) -> list[pa.Table]:
    return [pq.read_table(f"{path}/{shard.file}", partitioning=None) for shard in manifest.shards]


def numbers(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()


def rows_of(tables: list[pa.Table]) -> Counter[tuple[Any, ...]]:
    """Count the rows by their values, lists as tuples."""
    found: Counter[tuple[Any, ...]] = Counter()
    for table in tables:
        columns = [[tuple(v) if isinstance(v, list) else v for v in c.to_pylist()] for c in table.columns]
        found.update(zip(*columns, strict=True))
    return found


def numbered(spark: SparkSession, partitions: int) -> DataFrame:
    """Rows of three classes with text labels, features under awkward names, and weights."""
    rng = np.random.default_rng(3)
    n = sum(LABELS.values())
    table = pa.table(
        {
            "id": np.arange(n),
            NAMES[0]: rng.normal(size=n),
            NAMES[1]: rng.integers(0, 50, n),
            "of.class": np.repeat(list(LABELS), list(LABELS.values())),
            "w": rng.integers(1, 4, n).astype(float),
        }
    )
    return spark.createDataFrame(table.take(pa.array(rng.permutation(n)))).repartition(partitions)


def write_numbered(spark: SparkSession, path: str, partitions: int) -> Manifest:
    return materialize(
        numbered(spark, partitions),
        path,
        inputCols=NAMES,
        labelCol="of.class",
        weightCol="w",
        shards=4,
        rows_per_group=50,
        seed=1,
    )


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path, plan = str(tmp_path_factory.mktemp("feed") / "set"), io.StringIO()
    write = parquet._write

    def explained(source: Any, rows: DataFrame, *rest: Any) -> None:
        with contextlib.redirect_stdout(plan):
            rows.explain()
        write(source, rows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_write", explained)
        manifest = write_numbered(spark, path, 7)
    return Written(path, manifest, read(path, manifest), plan.getvalue())


# ---- what is decided without Spark


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(1, 40))
def test_shards_and_their_classes_are_of_equal_size(counts: list[int], shards: int) -> None:
    dealt = quotas(counts, shards)
    assert dealt.shape == (len(counts), shards)
    assert dealt.sum(axis=1).tolist() == counts
    for sizes in (*dealt, dealt.sum(axis=0)):
        assert sizes.max() - sizes.min() <= 1


@given(st.integers(1, 2**31 - 1))
def test_strides_visit_every_place(n: int) -> None:
    (stride,) = strides(np.array([n]))
    assert gcd(int(stride), n) == 1
    assert stride * (n - 1) < 2**63


@settings(max_examples=20)
@given(st.integers(1_000, 10**6), st.integers(2, 20))
def test_strides_spread_neighbours(n: int, neighbours: int) -> None:
    places = np.sort(np.arange(neighbours) * int(strides(np.array([n]))[0]) % n)
    assert np.diff(places).min() > n / neighbours / 4


def test_a_reader_of_manifests_needs_neither_spark_nor_torch() -> None:
    code = "import sys, sparkimb.feed; sparkimb.feed.Manifest; assert not {'pyspark', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


# ---- the files


def test_the_files_hold_the_rows_of_the_dataset(spark: SparkSession, written: Written) -> None:
    given = numbered(spark, 1).toArrow()
    codes = {label: code for code, label in enumerate(written.manifest.labels)}
    floats = [numbers(given, name).astype(np.float32).tolist() for name in (*NAMES, "w")]
    label = [codes[name] for name in given["of.class"].to_pylist()]
    assert rows_of(written.tables) == Counter(zip(*floats[:2], label, floats[2], strict=True))


def test_the_files_are_of_the_types_that_readers_take(written: Written) -> None:
    types = [pa.float32(), pa.float32(), pa.int32(), pa.float32()]
    fields = [pa.field(n, t, nullable=False) for n, t in zip([*NAMES, "of.class", "w"], types, strict=True)]
    for table in written.tables:
        assert table.schema.remove_metadata() == pa.schema(fields)


def test_the_manifest_tells_what_the_files_hold(written: Written) -> None:
    manifest, path = written.manifest, Path(written.path)
    assert manifest.labels == ("rare", "très rare", "usual")
    assert manifest.counts == manifest.counts_before == (83, 5, 1_003)
    assert (manifest.layout, manifest.features, manifest.width) == ("scalars", tuple(NAMES), 2)
    assert (manifest.label, manifest.weight, manifest.seed, manifest.sampler) == ("of.class", "w", 1, None)
    assert [shard.file for shard in manifest.shards] == sorted(file.name for file in path.glob("*.parquet"))
    for shard, table in zip(manifest.shards, written.tables, strict=True):
        footer = pq.ParquetFile(path / shard.file).metadata
        assert tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups)) == shard.row_groups
        assert {*shard.row_groups[:-1]} == {50}
        assert shard.bytes == (path / shard.file).stat().st_size
        assert shard.counts == tuple(np.bincount(numbers(table, "of.class"), minlength=3))
    assert [list(shard.counts) for shard in manifest.shards] == quotas(manifest.counts, 4).T.tolist()
    assert Manifest.read(written.path) == manifest


def test_every_run_of_rows_has_its_share_of_each_class(written: Written) -> None:
    for table in written.tables:
        code = numbers(table, "of.class")
        before = np.vstack([np.zeros((1, 3)), np.cumsum(np.eye(3)[code], axis=0)])
        shares = before[-1] / len(code)
        for m in (1, 7, 50, 51, 200):
            runs = before[m:] - before[:-m]
            assert np.all(np.abs(runs - m * shares) <= 1 + shares)


def test_rows_are_in_no_order(written: Written) -> None:
    values = np.concatenate([numbers(table, NAMES[1]) for table in written.tables])
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.15


@pytest.mark.parametrize("partitions", [1, 64])
def test_the_partitioning_changes_nothing(
    spark: SparkSession, written: Written, tmp_path: Path, partitions: int
) -> None:
    hostile = {
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.files.maxRecordsPerFile": "7",
        "spark.sql.requireAllClusterKeysForDistribution": "true",
        "spark.sql.shuffle.partitions": "3",
    }
    kept = {name: spark.conf.get(name) for name in hostile}
    try:
        for name, value in hostile.items() if partitions > 1 else ():
            spark.conf.set(name, value)
        manifest = write_numbered(spark, f"{tmp_path}/set", partitions)
    finally:
        for name, value in kept.items():
            spark.conf.set(name, value or "")
    assert read(f"{tmp_path}/set", manifest) == written.tables
    assert [s.checksum for s in manifest.shards] == [s.checksum for s in written.manifest.shards]


def test_no_row_goes_through_python(written: Written) -> None:
    assert "Sort [place" in written.plan
    assert written.plan.count("Exchange hashpartitioning") == 1
    assert not any(word in written.plan for word in ("Python", "Arrow", "Pandas"))


@pytest.mark.parametrize("idCols", [None, ["kind"]])
def test_rows_that_share_a_draw_are_dealt_exactly_too(
    spark: SparkSession, tmp_path: Path, idCols: list[str] | None
) -> None:
    copies = spark.range(40 * 13).select(
        (F.col("id") % 40 < 3).cast("int").alias("label"),
        F.array(F.col("id") % 40, F.when(F.lit(idCols is None), 0).otherwise(F.col("id"))).cast("array<double>"),
        (F.col("id") % 2).alias("kind"),
    )
    dataset = copies.toDF("label", "features", "kind").repartition(5)
    manifest = materialize(dataset, f"{tmp_path}/set", idCols=idCols, shards=11)
    tables = read(f"{tmp_path}/set", manifest)
    assert [list(shard.counts) for shard in manifest.shards] == quotas([37 * 13, 3 * 13], 11).T.tolist()
    given = dataset.toArrow()
    assert rows_of(tables) == rows_of([given.select(["features", "label"])])


# ---- inputs


def test_vectors_and_many_shards(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(150, 3)).round(1)
    data = [
        (Vectors.dense(x) if i % 2 else Vectors.sparse(3, range(3), x), float(1.5 * (i % 50 == 0) - 0.0))
        for i, x in enumerate(values.tolist())
    ]
    dataset = spark.createDataFrame(data, ["features", "label"])
    manifest = materialize(dataset, f"{tmp_path}/set", shards=32, seed=7)
    tables = read(f"{tmp_path}/set", manifest)
    assert (manifest.layout, manifest.features, manifest.width) == ("array", ("features",), 3)
    assert manifest.labels == (0.0, 1.5)
    assert sorted(table.num_rows for table in tables) == [4] * 10 + [5] * 22
    element = pa.field("element", pa.float32(), nullable=False)
    assert tables[0].schema.field("features").type == pa.list_(element)
    expected = [(tuple(x), int(i % 50 == 0)) for i, x in enumerate(values.astype(np.float32).tolist())]
    assert rows_of(tables) == Counter(expected)


def test_the_sampler_s_plan_is_kept(spark: SparkSession, tmp_path: Path) -> None:
    dataset = spark.range(400).select("id", (F.col("id") % 20 == 0).alias("label"), F.col("id").alias("x"))
    model = RandomUnderSampler(samplingStrategy=0.25, idCols=["id"]).fit(dataset)
    manifest = materialize(model.resample(dataset), f"{tmp_path}/set", inputCols=["x"], idCols=["id"], sampler=model)
    assert manifest.labels == (False, True)
    assert (manifest.counts, manifest.counts_before) == ((80, 20), (380, 20))
    assert manifest.priors_before == (0.95, 0.05)
    assert manifest.sampler is not None
    assert manifest.sampler["class"] == "RandomUnderSampler"
    assert manifest.sampler["params"]["samplingStrategy"] == 0.25
    assert manifest.sampler["plan"] == [[False, 380, 80], [True, 20, 20]]
    assert Manifest.read(f"{tmp_path}/set") == manifest
    other = dataset.withColumn("label", F.when(F.col("id") < 9, "no").otherwise("true"))
    with pytest.raises(SparkimbError, match=r"classes \['no', 'true'\].*Give the sampler that made the dataset"):
        materialize(other, f"{tmp_path}/other", inputCols=["x"], sampler=model)


def test_images_stay_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for i in range(60):
        place = tmp_path / "digits" / f"digit={int(digits.target[i] == 3)}"
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(place / f"{i}.png")
    dataset = spark.read.format("binaryFile").load(f"{tmp_path}/digits")
    manifest = materialize(
        dataset, f"{tmp_path}/set", imageCol="content", labelCol="digit", idCols=["path"], rows_per_group=4
    )
    assert (manifest.layout, manifest.features, manifest.width) == ("bytes", ("content",), 0)
    assert manifest.labels == (0, 1)
    assert all({*shard.row_groups} == {4, 3} for shard in manifest.shards)
    tables = read(f"{tmp_path}/set", manifest)
    shown = [np.asarray(image.open(io.BytesIO(b))) for table in tables for b in table["content"].to_pylist()]
    label = np.concatenate([numbers(table, "digit") for table in tables])
    found = {(pixels.tobytes(), code) for pixels, code in zip(shown, label.tolist(), strict=True)}
    pixels = (digits.images[:60] * 15).astype(np.uint8)
    assert found == {(x.tobytes(), int(y == 3)) for x, y in zip(pixels, digits.target[:60], strict=True)}


# ---- what is refused


def few(spark: SparkSession, **changed: Any) -> DataFrame:
    columns = {"label": F.col("id") % 3, "x": F.col("id").cast("double"), "y": F.lit(1.0)} | changed
    return spark.range(30).select(*(value.alias(name) for name, value in columns.items()))


REFUSED: dict[str, tuple[Callable[[SparkSession], DataFrame], dict[str, Any], str]] = {
    "null labels": (
        lambda spark: few(spark, label=F.when(F.col("id") > 1, F.col("id") % 2)),
        {},
        "labelCol 'label' has 2 null labels in 30 rows",
    ),
    "NaN, null and infinite features, and weights": (
        lambda spark: few(
            spark,
            y=F.when(F.col("id") == 1, float("nan")).when(F.col("id") != 2, 1.0),
            x=F.when(F.col("id") == 3, 1e300).otherwise(0.0),
            w=F.when(F.col("id") != 4, F.col("id") - 1),
        ),
        {"inputCols": ["x", "y"], "weightCol": "w"},
        "null, NaN or infinite as 32-bit floats in 3 of 30 rows, .*'x'.*weightCol 'w' .* negative in 2 rows",
    ),
    "arrays with nulls": (
        lambda spark: few(spark, x=F.array(F.lit(0.0), F.when(F.col("id") != 4, 1.0))),
        {"inputCols": None, "featuresCol": "x"},
        "in 1 of 30 rows",
    ),
    "arrays of different lengths": (
        lambda spark: few(spark, x=F.array_repeat(F.lit(1.0), (2 + F.col("id") % 2).cast("int"))),
        {"inputCols": None, "featuresCol": "x"},
        "featuresCol 'x' has from 2 to 3 numbers in a row",
    ),
    "one class": (lambda spark: few(spark, label=F.lit("a")), {}, "one class only: 'a' in all 30 rows"),
    "no rows": (lambda spark: few(spark).where("x < 0"), {}, "has no rows"),
    "too many shards": (few, {"shards": 31}, "shards is 31, but there are 30 rows. Use shards <= 30"),
    "all missing columns at once": (
        few,
        {"inputCols": ["x", "z"], "labelCol": "lable", "weightCol": "w", "idCols": ["i"]},
        r"inputCols 'z'.*, labelCol 'lable' \(did you mean 'label'\?\), weightCol 'w', idCols 'i' not found",
    ),
    "a column twice": (few, {"weightCol": "x"}, "two differ in case at most"),
    "text weights": (lambda spark: few(spark, w=F.lit("1")), {"weightCol": "w"}, "weightCol 'w' is of type string"),
    "images and scalars": (few, {"imageCol": "x"}, "are both given"),
    "numbers for images": (few, {"inputCols": None, "imageCol": "x"}, "imageCol 'x' is of type double"),
    "no shards": (few, {"shards": 0}, "shards is 0. It must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(spark: SparkSession, tmp_path: Path, case: str) -> None:
    dataset, arguments, message = REFUSED[case]
    with pytest.raises(SparkimbError, match=message):
        materialize(dataset(spark), f"{tmp_path}/set", **{"inputCols": ["x"], **arguments})
    assert not (tmp_path / "set").exists()


def test_wrong_types_are_type_errors(spark: SparkSession, tmp_path: Path) -> None:
    for arguments in ({"shards": "4"}, {"rows_per_group": 2.5}, {"sampler": RandomUnderSampler()}):
        with pytest.raises(TypeError):
            materialize(few(spark), f"{tmp_path}/set", inputCols=["x"], **arguments)


def test_a_path_that_exists_is_refused_before_any_job(spark: SparkSession, written: Written, tmp_path: Path) -> None:
    broken = few(spark, x=F.raise_error(F.lit("a job ran")).cast("double"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for path, message in (
        (written.path, "holds a training set already"),
        (f"{tmp_path}/other", "exists, without a manifest: other data, or what is left of a run that died"),
        (f"{tmp_path}/a[b]", "by which Spark searches"),
    ):
        with pytest.raises(SparkimbError, match=message):
            materialize(broken, path, inputCols=["x"])


def test_a_dataset_that_changes_gets_no_manifest(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = parquet.dealt
    monkeypatch.setattr(
        parquet,
        "dealt",
        lambda rows, how: deal(rows.withColumn("features", F.transform("features", lambda x: -x)), how),
    )
    with pytest.raises(SparkimbError, match=r"changed while it was materialized.*Delete"):
        materialize(few(spark), f"{tmp_path}/set", inputCols=["x"])
    with pytest.raises(SparkimbError, match="has no manifest"):
        verify(spark, f"{tmp_path}/set")
    with pytest.raises(SparkimbError, match="has no manifest"):
        Manifest.read(f"{tmp_path}/set")


# ---- verify


def test_verify_returns_the_manifest(spark: SparkSession, written: Written) -> None:
    assert verify(spark, written.path) == written.manifest


def damaged(path: Path, manifest: Manifest, how: str) -> str:
    """Damage the second file of a training set, or its neighbourhood, and return what is to be said of it."""
    shard = manifest.shards[1]
    file = path / shard.file
    if how == "lost":
        file.unlink()
        return f"{shard.file} not found"
    if how == "added":
        shutil.copy(file, path / "part-9.parquet")
        return "part-9.parquet not in the manifest"
    if how == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
        return f"{shard.file} has .* bytes instead of"
    table = pq.read_table(file, partitioning=None)
    if how == "a feature":
        changed = pa.array(np.where(np.arange(len(table)) == 9, 0.5, numbers(table, NAMES[0])).astype(np.float32))
        table = table.set_column(0, table.schema.field(0), changed)
    elif how == "a row":
        table = table.slice(1)
    pq.write_table(table, file, row_group_size=51 if how == "row groups" else None)
    renewed = replace(
        manifest, shards=[*manifest.shards[:1], replace(shard, bytes=file.stat().st_size), *manifest.shards[2:]]
    )
    (line,) = (path / DIRECTORY).glob("part-*")
    (path / DIRECTORY / f".{line.name}.crc").unlink()
    line.write_text(json.dumps(json.loads(renewed.to_json())) + "\n")
    if how == "row groups":
        return f"{shard.file} has row groups of other rows"
    return f"the rows of {shard.file} have another checksum" if how == "a feature" else f"{shard.file} has other rows"


@pytest.mark.parametrize("how", ["lost", "added", "cut short", "a feature", "a row", "row groups"])
def test_verify_finds(spark: SparkSession, written: Written, tmp_path: Path, how: str) -> None:
    shutil.copytree(written.path, tmp_path / "set")
    for crc in (tmp_path / "set").glob(".*.crc"):
        crc.unlink()
    message = damaged(tmp_path / "set", written.manifest, how)
    with pytest.raises(SparkimbError, match=f"is damaged: {message}"):
        verify(spark, f"{tmp_path}/set")
