"""Saving and loading: JSON only, on classic and on Connect.  Nothing executable is ever read back."""

from __future__ import annotations

from typing import Any, TypeVar

from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql.utils import is_remote

from sparkimb.errors import SparkimbError

FORMAT_VERSION = 1

T = TypeVar("T", bound="JsonStage")


class ConnectOverwrite(MLWriter):
    """A writer whose `overwrite()` also works on Connect, where pyspark's asks a JVM session."""

    def _handleOverwrite(self, path: str) -> None:
        if is_remote():
            from pyspark.ml.connect.readwrite import RemoteMLWriter

            RemoteMLWriter.handleOverwrite(path, True)
        else:
            super()._handleOverwrite(path)


class JsonStage(Params, MLWritable, MLReadable[Any]):
    """A stage that is its Params and a state that JSON can hold."""

    def write(self) -> MLWriter:
        """Return a writer: `save(path)`, `overwrite().save(path)`."""
        return JsonWriter(self)

    @classmethod
    def read(cls: type[T]) -> MLReader[T]:
        """Return a reader: `load(path)`."""
        return JsonReader(cls)

    def _state(self) -> dict[str, Any]:
        """Return what is to be saved besides the Params."""
        return {}

    def _set_state(self, state: dict[str, Any]) -> None:
        """Take back what `_state` returned."""


class JsonWriter(ConnectOverwrite):
    """Writes Params and state as one JSON line under path/metadata."""

    def __init__(self, instance: JsonStage):
        super().__init__()
        self.instance = instance

    def saveImpl(self, path: str) -> None:
        """Write: one small Spark job."""
        extra = {"formatVersion": FORMAT_VERSION, "state": self.instance._state()}
        DefaultParamsWriter.saveMetadata(self.instance, path, self.sparkSession, extraMetadata=extra)


class JsonReader(MLReader[T]):
    """Reads what JsonWriter wrote."""

    def __init__(self, cls: type[T]):
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> T:
        """Read: one small Spark job."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        expected = f"{self.cls.__module__}.{self.cls.__name__}"
        if metadata["class"] != expected:
            raise SparkimbError(f"'{path}' holds a {metadata['class']}, not a {expected}. Load it with its own class.")
        if metadata.get("formatVersion") != FORMAT_VERSION:
            raise SparkimbError(
                f"'{path}' is of format version {metadata.get('formatVersion')}, and this sparkimb reads version "
                f"{FORMAT_VERSION}. Load it with the release that wrote it."
            )
        instance = self.cls()
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
        instance._set_state(metadata["state"])
        return instance
