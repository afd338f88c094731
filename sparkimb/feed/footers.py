"""The row groups that Parquet files have, read by Spark from wherever it reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

# Spark hands on whole files, so a task holds one: twice what `materialize` makes by itself before compression.
MAX_BYTES = 2**29


def row_groups(spark: SparkSession, path: str) -> DataFrame:
    """Return `file` and `row_groups`, the rows of each of its row groups, of the files of at most MAX_BYTES: lazy."""
    files = spark.read.format("binaryFile").load(path).where(F.col("length") <= MAX_BYTES)
    # A file ends with its footer, the length of that in four bytes from the lowest, and "PAR1".
    length = F.conv(F.concat(*(F.hex(F.substring("content", -5 - i, 1)) for i in range(4))), 16, 10)
    footer = F.substr("content", -8 - length.cast("int"))
    return files.select("path", footer.alias("footer")).mapInArrow(_read, "file string, row_groups array<bigint>")


def _read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for path, footer in zip(*batch.to_pydict().values(), strict=True):
            found = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))  # a file of nothing but its footer
            rows = [found.row_group(i).num_rows for i in range(found.num_row_groups)]
            yield pa.RecordBatch.from_pydict({"file": [path.rsplit("/", 1)[-1]], "row_groups": [rows]})
