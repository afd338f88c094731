"""Files on whatever file system Hadoop knows, and a directory that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from sparkimb.errors import SparkimbError


class Storage:
    """Hadoop's file systems, as the session is configured for them.  Needs a classic session, as spark-submit gives."""

    def __init__(self, spark: SparkSession):
        self._jvm: Any = spark._jvm
        self._conf: Any = spark.sparkContext._jsc.hadoopConfiguration()

    def _at(self, path: str) -> tuple[Any, Any]:
        where = self._jvm.org.apache.hadoop.fs.Path(path)
        return where.getFileSystem(self._conf), where

    def qualified(self, path: str) -> str:
        """Return the full URI of a path."""
        system, where = self._at(path)
        return str(system.makeQualified(where).toString())

    def exists(self, path: str) -> bool:
        """Say whether a path is there."""
        system, where = self._at(path)
        return bool(system.exists(where))

    def delete(self, path: str) -> None:
        """Delete a path and what is under it."""
        system, where = self._at(path)
        system.delete(where, True)

    def rename(self, old: str, new: str) -> None:
        """Rename a path within its file system."""
        system, source = self._at(old)
        if not system.rename(source, self._at(new)[1]):
            raise OSError(f"'{old}' could not be renamed to '{new}'.")

    def write_text(self, path: str, text: str) -> None:
        """Write a UTF-8 file."""
        system, where = self._at(path)
        stream = system.create(where, True)
        try:
            stream.write(bytearray(text.encode("utf-8")))
        finally:
            stream.close()


@contextmanager
def written_aside(storage: Storage, path: str, *, overwrite: bool) -> Iterator[str]:
    """Yield a directory to write into, and give it its name when all is written.

    A run that dies leaves `<path>.incomplete`, which the next run removes, and an older result as it was.
    """
    path = path.rstrip("/")
    aside, replaced = f"{path}.incomplete", f"{path}.replaced"
    if storage.exists(path) and not overwrite:
        raise SparkimbError(f"output.path '{path}' exists. Name another, or set output.overwrite to true.")
    storage.delete(aside)
    yield aside
    if storage.exists(path):
        storage.delete(replaced)
        storage.rename(path, replaced)
    storage.rename(aside, path)
    storage.delete(replaced)
