"""Training sets as Parquet files: of equal size, with every class in every row group, and a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from math import ceil, log2
from typing import Any, TypeAlias

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, DataType, FloatType, IntegerType, StructField, StructType

import sparkimb
from sparkimb.base import SamplerModel
from sparkimb.columns import column
from sparkimb.errors import SparkimbError
from sparkimb.feed.dealing import MAX_CUTS, Deal, changed, dealt, find_deal, quotas
from sparkimb.feed.footers import row_groups
from sparkimb.feed.manifest import DIRECTORY, Manifest, Shard
from sparkimb.feed.source import Counted, Source, content_hash, hash_sum, hash_sums, source_of
from sparkimb.params import integer

# Row groups of 13 MB were read at full speed (2 M rows of 32 floats on 2 cores), and a loader holds several of them.
GROUP_BYTES, GROUP_ROWS = 2**24, 100_000
# Sixteen such row groups: what one task sorts, and what a reader loses by starting anew.
SHARD_BYTES = 2**28
# Ranks and loader workers come in powers of two, and up to this many can each have files of their own.
MIN_SHARDS = 4
# Places within a shard are multiplied in 64 bits.
MAX_SHARD_ROWS = 2**31 - 1

FEATURE_TYPES: dict[str, DataType] = {
    "scalars": FloatType(),
    "array": ArrayType(FloatType(), containsNull=False),
    "bytes": BinaryType(),
}

# Rows and the sum of their hashes by class code, of one file.
Content: TypeAlias = dict[int | None, tuple[int, int]]


def materialize(
    dataset: DataFrame,
    path: str,
    *,
    featuresCol: str = "features",
    inputCols: Sequence[str] | None = None,
    imageCol: str | None = None,
    labelCol: str = "label",
    weightCol: str | None = None,
    idCols: Sequence[str] | None = None,
    shards: int | None = None,
    rows_per_group: int | None = None,
    seed: int = 0,
    sampler: SamplerModel | None = None,
) -> Manifest:
    """Write a dataset as a training set for the loaders of `sparkimb.feed`.

    Features and weights become 32-bit floats, labels become codes (int32), and other columns are left out.  Files are
    of equal size, and every run of their rows, so every row group, has the classes in the proportions of the whole.

    Parameters
    ----------
    dataset : DataFrame
        Say, what a sampler returned.  It is read three times, and must have the same rows each time.
    path : str
        A directory that does not exist yet, on any file system that Spark knows.
    featuresCol : str, default="features"
        Vector or array of floats or doubles, of one length: one list<float> column.
    inputCols : list of str, optional
        Instead, numeric scalar columns: one float column each.
    imageCol : str, optional
        Instead, a binary column of encoded images, written as it is: `content` of Spark's `binaryFile` source.
    labelCol : str, default="label"
        String, boolean, integer or double; no nulls, no NaN.  Codes are places among the sorted labels.
    weightCol : str, optional
        Non-negative numbers.
    idCols : list of str, optional
        Columns that draws are made from.  By default they are made from what is written of a row, which needs more
        reading and gives the same guarantees: rows that are alike are interchangeable.
    shards : int in [1, rows], optional
        Files.  By default a power of two, four or more, of files of at most 256 MB before compression.
    rows_per_group : int in [1, inf), optional
        Rows of each row group but the last of a file.  By default at most 100,000 and 16 MB before compression.
    seed : int, default=0
    sampler : SamplerModel, optional
        The fitted sampler that made the dataset: its plan and Params, and the class counts before it, go into the
        manifest, for losses and probabilities that take resampling into account.

    Returns
    -------
    Manifest
        As it was written, below `path`.

    Raises
    ------
    SparkimbError
        Before any job: a path that exists, missing columns (all at once) or columns of a wrong type.  After the first
        job, with nothing written: labels, features or weights that are null, NaN or infinite (as 32-bit floats),
        vectors of different lengths, one class only, fewer rows than shards.  After the write, without a manifest:
        files that do not hold what was counted.

    Notes
    -----
    Rows:   each in one file.  Files have the same number of rows up to one, and so has each class in them.  Which rows:
            by hash, the same whatever the partitioning, in the same order.
    Mix:    of m rows in a row m·p ± (1 + p·(C - 2)) are of a class of share p, with C classes: with two classes ± 1.
            Copies of one row are in one file, or in neighbouring ones, and far apart in it.
    Cost:   four jobs, a listing and a line of text.  A count by class that looks at all that is written, for faults and
            a checksum; a count of the draws where a class is cut into files, which reads idCols and labels, or all that
            is written if there are no idCols; the write, with one shuffle and two sorts within tasks; a count over the
            files.  Persist a dataset that takes long to make, or write it to a table, first.
    End:    the manifest is written last, after the files were found to hold the rows counted.  Without it the loaders
            refuse the directory.  What is left of a run that died must be deleted by hand.
    Options of Spark's own Parquet writer set the row groups.

    Examples
    --------
    >>> model = RandomUnderSampler(samplingStrategy=0.1).fit(train)  # doctest: +SKIP
    >>> materialize(model.resample(train), "s3a://bucket/train", shards=8, sampler=model)  # doctest: +SKIP
    """
    spark = dataset.sparkSession
    wanted = None if shards is None else integer("shards", 1)(shards)
    group = None if rows_per_group is None else integer("rows_per_group", 1)(rows_per_group)
    if sampler is not None and not isinstance(sampler, SamplerModel):
        raise TypeError(f"sampler must be a fitted sampler; got {sampler!r} of type {type(sampler).__name__}.")
    source = source_of(
        dataset,
        featuresCol=featuresCol,
        inputCols=inputCols,
        imageCol=imageCol,
        labelCol=labelCol,
        weightCol=weightCol,
        idCols=idCols,
        seed=integer("seed")(seed),
    )
    _require_new(spark, path)
    counted = source.count_rows()
    before = _counts_before(sampler, counted)
    n = _number_of_shards(wanted, counted)
    group = group or max(1, min(GROUP_ROWS, GROUP_BYTES // counted.mean_bytes))
    coded = source.coded(counted.labels)
    deal = find_deal(coded.select("code", "draw"), counted.buckets, quotas(counted.counts, n))
    _write(source, dealt(coded, deal), path, group, counted.most_bytes)
    manifest = Manifest(
        layout=source.layout,
        features=source.features,
        width=counted.width,
        label=labelCol,
        labels=tuple(counted.labels),
        weight=weightCol,
        shards=(),
        counts_before=before,
        seed=int(seed),
        sampler=None if sampler is None else _about(sampler),
        versions={"sparkimb": sparkimb.__version__, "spark": spark.version},
    )
    manifest = replace(manifest, shards=_shards(spark, path, manifest, counted, deal, group))
    line = spark.createDataFrame([(manifest.to_json(),)], "value string")
    line.coalesce(1).write.mode("error").text(f"{path}/{DIRECTORY}")
    return manifest


def verify(spark: SparkSession, path: str) -> Manifest:
    """Read every row of a materialized training set, and compare with its manifest, which is returned: four jobs.

    Row groups are looked at in files of at most 512 MB, which a task holds whole; loaders look at those of any.

    Raises
    ------
    SparkimbError
        Where there is no manifest, or where files are missing, were added, changed or damaged: with their names.
    """
    manifest = _read_manifest(spark, path)
    sizes = _sizes(spark, path)
    expected = {shard.file: shard for shard in manifest.shards}
    if lost := sorted(expected.keys() - sizes.keys()):
        raise _damaged(path, f"{', '.join(lost)} not found")
    if more := sorted(sizes.keys() - expected.keys()):
        raise _damaged(path, f"{', '.join(more)} not in the manifest")
    if resized := [
        f"{name} has {sizes[name]:,} bytes instead of {s.bytes:,}"
        for name, s in expected.items()
        if sizes[name] != s.bytes
    ]:
        raise _damaged(path, ", ".join(resized))
    try:
        found = _contents(spark, path, manifest)
    except Exception as error:  # of a task: on a classic session py4j's, which Spark Connect need not have
        raise _damaged(
            path, next((line.strip() for line in str(error).splitlines() if "part-" in line), str(error))
        ) from error
    classes = range(len(manifest.labels))
    for name, shard in expected.items():
        content = found.get(name, {})
        if content.keys() - {*classes} or shard.counts != tuple(content.get(code, (0, 0))[0] for code in classes):
            raise _damaged(path, f"{name} has other rows by class than the manifest says")
        if shard.checksum != checksum(content, len(classes)):
            raise _damaged(path, f"the rows of {name} have another checksum than the manifest says")
    found_groups = row_groups(spark, path).toArrow().to_pydict()
    for name, rows in sorted(zip(*found_groups.values(), strict=True)):
        if tuple(rows) != expected[name].row_groups:
            raise _damaged(path, f"{name} has row groups of other rows than the manifest says")
    return manifest


def _damaged(path: str, how: str) -> SparkimbError:
    return SparkimbError(f"The training set '{path}' is damaged: {how.rstrip('.')}. Put it back, or materialize anew.")


def _require_new(spark: SparkSession, path: str) -> None:
    if set(path) & set("*?[]{}\\"):
        raise SparkimbError(f"path '{path}' has one of * ? [ ] {{ }} \\, by which Spark searches. Name another.")
    if _exists(spark, f"{path}/{DIRECTORY}/*"):
        raise SparkimbError(f"'{path}' holds a training set already. Name a new directory, or delete this one first.")
    if _exists(spark, path):
        raise SparkimbError(
            f"'{path}' exists, without a manifest: other data, or what is left of a run that died. Name a new "
            "directory, or delete this one first."
        )


def _exists(spark: SparkSession, path: str) -> bool:
    try:
        return bool(spark.read.format("binaryFile").load(_twice(path)).columns)
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        return False


def _counts_before(sampler: SamplerModel | None, counted: Counted) -> tuple[int, ...]:
    if sampler is None:
        return tuple(counted.counts)
    unknown = [label for label in counted.labels if label not in sampler.plan.counts]
    if unknown:
        raise SparkimbError(
            f"The dataset has classes {unknown}, which the sampler did not see: its plan is of "
            f"{list(sampler.plan.counts)}. Give the sampler that made the dataset."
        )
    return tuple(sampler.plan.counts[label] for label in counted.labels)


def _about(sampler: SamplerModel) -> dict[str, Any]:
    return {
        "class": type(sampler).__name__.removesuffix("Model"),
        "params": {param.name: value for param, value in sampler.extractParamMap().items()},
        "plan": sampler.plan.to_json(),
    }


def _number_of_shards(wanted: int | None, counted: Counted) -> int:
    rows, classes = sum(counted.counts), len(counted.counts)
    if wanted is None:
        files = max(1.0, rows * counted.mean_bytes / SHARD_BYTES)
        return min(max(MIN_SHARDS, 1 << ceil(log2(files))), rows, MAX_CUTS // classes)
    if wanted > rows:
        raise SparkimbError(f"shards is {wanted:,}, but there are {rows:,} rows. Use shards <= {rows}.")
    if wanted * classes > MAX_CUTS:
        raise SparkimbError(
            f"shards is {wanted:,}, and with {classes:,} classes these are more than {MAX_CUTS:,} counts. Use "
            f"shards <= {MAX_CUTS // classes}."
        )
    if wanted * MAX_SHARD_ROWS < rows:
        raise SparkimbError(
            f"shards is {wanted}, but there are {rows:,} rows. Use shards >= {rows // MAX_SHARD_ROWS + 1}."
        )
    return wanted


def _write(source: Source, rows: DataFrame, path: str, group: int, most_bytes: int) -> None:
    zero = F.lit(0.0).cast("float")  # None is null, as was counted; what cannot be null takes less to write and read.
    columns = {source.features[0]: F.col("features")}
    if source.layout == "scalars":
        columns = {name: F.coalesce(F.get("features", F.lit(i)), zero) for i, name in enumerate(source.features)}
    columns[source.label] = F.col("code")
    if source.weight is not None:
        columns[source.weight] = F.coalesce("weight", zero)
    files = rows.select(*(value.alias(name) for name, value in columns.items()))
    # A row group ends when it has its rows, or has its bytes: none has more than these.
    sizes = {"parquet.block.row.count.limit": group, "parquet.block.size": max(2**27, group * (most_bytes + 64))}
    if tuple(map(int, rows.sparkSession.version.split(".")[:2])) < (4, 2):
        # Where Parquet's writer has no such limit it can be told to look at the bytes after this many rows, and that
        # one is too much.  It warns of that in its log.
        checks = ("parquet.page.size.row.check.min", "parquet.page.size.row.check.max")
        sizes = {"parquet.block.size": 1, **dict.fromkeys(checks, group)}
    files.write.mode("error").options(**sizes, maxRecordsPerFile=0).parquet(path)


def _shards(
    spark: SparkSession, path: str, manifest: Manifest, counted: Counted, deal: Deal, group: int
) -> tuple[Shard, ...]:
    """Return what the files hold, in the order of their names, or raise if it is not what was counted."""
    found, sizes = _contents(spark, path, manifest), _sizes(spark, path)
    classes = range(len(counted.labels))
    counts = [[found[name].get(code, (0, 0))[0] for code in classes] for name in sorted(found)]
    sums = [sum(content.get(code, (0, 0))[1] for content in found.values()) % 2**64 for code in classes]
    known = all(content.keys() <= {*classes} for content in found.values())
    if not known or counts != deal.quotas.T.tolist() or sums != counted.sums or sizes.keys() != found.keys():
        raise changed(f" Delete '{path}', which has no manifest.")
    return tuple(
        Shard(
            file=name,
            bytes=sizes[name],
            row_groups=tuple(min(group, sum(rows) - done) for done in range(0, sum(rows), group)),
            counts=tuple(rows),
            checksum=checksum(found[name], len(classes)),
        )
        for name, rows in zip(sorted(found), counts, strict=True)
    )


def _contents(spark: SparkSession, path: str, manifest: Manifest) -> dict[str, Content]:
    """Count and hash the rows of each file: one job, one aggregate."""
    weight = [] if manifest.weight is None else [manifest.weight]
    schema = StructType([StructField(name, FEATURE_TYPES[manifest.layout]) for name in manifest.features])
    schema.add(manifest.label, IntegerType())
    for name in weight:
        schema.add(name, FloatType())
    files = spark.read.schema(schema).parquet(path)
    table = (
        files.select(
            files.metadataColumn("_metadata")["file_name"].alias("file"),
            column(manifest.label).alias("code"),
            content_hash([*manifest.features, *weight]).alias("content"),
        )
        .groupBy("file", "code")
        .agg(F.count(F.lit(1)).alias("rows"), *hash_sums())
        .toArrow()
    )
    found: dict[str, Content] = {}
    for row in table.to_pylist():
        found.setdefault(row["file"], {})[row["code"]] = (row["rows"], hash_sum(row["high"], row["low"]))
    return found


def _sizes(spark: SparkSession, path: str) -> dict[str, int]:
    """Return the bytes of each file: one small job, which opens none."""
    files = spark.read.format("binaryFile").load(path).select("path", "length").toArrow()
    return {name.rsplit("/", 1)[-1]: size for name, size in zip(*files.to_pydict().values(), strict=True)}


def checksum(content: Content, classes: int) -> str:
    """Return the checksum of a file: of the sums of its rows' hashes by class code."""
    sums = ",".join(str(content.get(code, (0, 0))[1]) for code in range(classes))
    return blake2b(sums.encode(), digest_size=8).hexdigest()


def _read_manifest(spark: SparkSession, path: str) -> Manifest:
    if not _exists(spark, f"{path}/{DIRECTORY}/*"):
        raise SparkimbError(
            f"'{path}' has no manifest ({DIRECTORY}/): it is not a training set, or one whose writing did not end. "
            "Write it with sparkimb.feed.materialize."
        )
    lines = spark.read.text(_twice(f"{path}/{DIRECTORY}/*")).toArrow()["value"].to_pylist()
    return Manifest.from_json("\n".join({*lines}), path=path)


def _twice(path: str) -> list[str]:
    """Name a path so that Spark does not look for the log of a stream in it, and log 80 lines if nothing is there."""
    return [path, path]
