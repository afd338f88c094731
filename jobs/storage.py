"""Files on whatever file system Hadoop knows, and a directory that appears whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from sparkimb.errors import SparkimbError

# What Spark raises where it knows the Java exception, and where it does not.
SPARK_ERRORS = (PySparkException, Py4JJavaError)
RESULT = "manifest.json"  # what tells a directory of results from any other


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

    def names(self, path: str) -> list[str]:
        """Return the names in a directory; of a file, its own."""
        system, where = self._at(path)
        return [str(status.getPath().getName()) for status in system.listStatus(where)]

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it."""
        system, where = self._at(path)
        if not system.mkdirs(where):
            raise OSError(f"'{path}' could not be made.")

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

    def read_text(self, path: str) -> str:
        """Read a UTF-8 file of modest size."""
        system, where = self._at(path)
        stream = system.open(where)
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream)).decode("utf-8")
        finally:
            stream.close()

    def set_modified(self, path: str, seconds: int) -> None:
        """Set the time when a file was changed, in seconds since 1970."""
        system, where = self._at(path)
        system.setTimes(where, 1000 * seconds, -1)


def local_uri(path: Path) -> str:
    """Return an absolute local path as a URI of Hadoop's, which takes spaces and other letters as they are."""
    return f"file://{path}"


def reason(error: BaseException) -> str:
    """Return what Spark or Java says went wrong, without the stack and in one line."""
    java = getattr(error, "java_exception", None)
    said = str(error) if java is None else str(java.getMessage() or java.toString())
    return re.sub(r" SQLSTATE: \w+$", "", said.strip().split("\n")[0].strip()).rstrip(".")


@contextmanager
def written_aside(storage: Storage, path: str, *, overwrite: bool, source: str | None = None) -> Iterator[str]:
    """Yield a directory to write into, and give it its name when all is written.

    The last file to be written is RESULT.  A run that fails leaves an older result as it was; one that is killed leaves
    `<path>.incomplete` besides, which the next run removes.  Where renaming copies, as on object stores, a run that is
    killed in that instant leaves some of the files.  A path that touches `source`, the rows read, is refused.
    """
    try:
        path = storage.qualified(path)
        read = storage.qualified(source) if source is not None else None
        if read is not None and (f"{read}/".startswith(f"{path}/") or f"{path}/".startswith(f"{read}/")):
            raise SparkimbError(f"output.path '{path}' and input.path '{read}' lie one in the other. Part them.")
        aside, replaced = f"{path}.incomplete", f"{path}.replaced"
        if storage.exists(replaced) and not storage.exists(path):
            storage.rename(replaced, path)  # killed between the two renames below
        if storage.exists(path):
            if not overwrite:
                raise SparkimbError(f"output.path '{path}' exists. Name another, or set output.overwrite to true.")
            if RESULT not in storage.names(path) and storage.names(path):
                raise SparkimbError(
                    f"output.path '{path}' exists and holds no {RESULT}, so it is no earlier result to overwrite. "
                    "Name another path, or remove that one."
                )
        storage.delete(aside)
        storage.make_directory(aside)
    except (*SPARK_ERRORS, OSError) as error:
        raise SparkimbError(f"output.path '{path}' cannot be written: {reason(error)}. Name another.") from None
    try:
        yield aside
    except BaseException:
        with suppress(Exception):  # whatever stopped the run is the news
            storage.delete(aside)
        raise
    if storage.exists(path):
        storage.delete(replaced)
        storage.rename(path, replaced)
    storage.rename(aside, path)
    storage.delete(replaced)
