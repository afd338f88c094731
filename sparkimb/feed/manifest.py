"""What a materialized training set holds: written last by `materialize`, read first by every loader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import pyarrow as pa
from pyarrow import fs

from sparkimb.errors import SparkimbError

FORMAT_VERSION = 1

# Readers of Parquet directories pass over names that begin with "_".
DIRECTORY = "_manifest"

Label = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file.

    Attributes
    ----------
    file : str
        Its path below the training set's directory.
    bytes : int
        Its size.
    row_groups : tuple of int
        Rows of each of its row groups, in their order.
    counts : tuple of int
        Rows of each class, by code.
    checksum : str
        Of its rows, in any order: 16 hexadecimal digits.
    """

    file: str
    bytes: int
    row_groups: tuple[int, ...]
    counts: tuple[int, ...]
    checksum: str

    @property
    def rows(self) -> int:
        """Return its rows."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A training set as it was written.

    Attributes
    ----------
    layout : {"scalars", "array", "bytes"}
        The features: one float32 column for each, one list<float> column, or one column of encoded bytes (images).
    features : tuple of str
        Their column or columns in the files.
    width : int
        Features of a row; 0 for bytes.
    label : str
        The column of class codes (int32): code i is the class `labels[i]`.
    labels : tuple
        Classes as they were in the data, by code.
    weight : str or None
        The column of row weights (float32).
    shards : tuple of Shard
    counts_before : tuple of int
        Rows of each class, by code, before the sampler; those of the files where there was none.
    seed : int
    sampler : dict or None
        What the sampler did: its plan and params.
    versions : dict of str to str
    """

    layout: str
    features: tuple[str, ...]
    width: int
    label: str
    labels: tuple[Label, ...]
    weight: str | None
    shards: tuple[Shard, ...]
    counts_before: tuple[int, ...]
    seed: int
    sampler: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the rows of all files."""
        return sum(shard.rows for shard in self.shards)

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the rows of each class in all files, by code."""
        return tuple(sum(rows) for rows in zip(*(shard.counts for shard in self.shards), strict=True))

    @property
    def priors(self) -> tuple[float, ...]:
        """Return each class's share of the rows of the files, by code."""
        return _shares(self.counts)

    @property
    def priors_before(self) -> tuple[float, ...]:
        """Return each class's share of the rows before the sampler, by code."""
        return _shares(self.counts_before)

    @property
    def fingerprint(self) -> str:
        """Return what tells this training set from any other, one written anew in its place too."""
        return blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """Return the manifest as one line of JSON."""
        content = {"formatVersion": FORMAT_VERSION, "rows": self.rows, **asdict(self)}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, *, path: str) -> Manifest:
        """Return what `to_json` wrote; `path` is for the error's sentence."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise SparkimbError(f"The manifest of '{path}' is damaged: {error}. Materialize the data again.") from error
        version = content.pop("formatVersion", None)
        if version != FORMAT_VERSION:
            raise SparkimbError(
                f"The manifest of '{path}' is of format version {version}, and this sparkimb reads version "
                f"{FORMAT_VERSION}. Read it with the release that wrote it, or materialize the data again."
            )
        rows = content.pop("rows")
        shards = tuple(
            Shard(**{**shard, "row_groups": tuple(shard["row_groups"]), "counts": tuple(shard["counts"])})
            for shard in content.pop("shards")
        )
        for name in ("features", "labels", "counts_before"):
            content[name] = tuple(content[name])
        manifest = cls(shards=shards, **content)
        if manifest.rows != rows or any(sum(shard.row_groups) != shard.rows for shard in shards):
            raise SparkimbError(f"The manifest of '{path}' contradicts itself: its rows do not add up to {rows}.")
        return manifest

    @classmethod
    def read(cls, path: str, *, filesystem: fs.FileSystem | None = None) -> Manifest:
        """Read the manifest of a materialized training set; no Spark.

        Parameters
        ----------
        path : str
            A local path or a URI of any file system that pyarrow or fsspec knows.
        filesystem : pyarrow.fs.FileSystem, optional
            Where the path's own is not to be used.

        Raises
        ------
        SparkimbError
            Where there is no manifest, or one that is damaged or of another format.
        """
        where, root = open_directory(path, filesystem)
        found = where.get_file_info(fs.FileSelector(f"{root}/{DIRECTORY}", allow_not_found=True))
        names = [info.path for info in found if info.is_file and not info.base_name.startswith(("_", "."))]
        if len(names) != 1:
            raise SparkimbError(
                f"'{path}' has {len(names) or 'no'} manifest{'s' * (len(names) > 1)} ({DIRECTORY}/): it is not a "
                "training set, or one whose writing did not end. Write it with sparkimb.feed.materialize."
            )
        with where.open_input_stream(names[0]) as stream:
            return cls.from_json(stream.read().decode(), path=path)


def open_directory(path: str, filesystem: fs.FileSystem | None = None) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it."""
    if filesystem is not None:
        return filesystem, path.rstrip("/")
    if "://" not in path and not path.startswith("file:"):
        return fs.LocalFileSystem(), path.rstrip("/")
    try:
        where, root = fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid:  # a scheme that pyarrow does not know
        import fsspec

        other, root = fsspec.core.url_to_fs(path)
        where = fs.PyFileSystem(fs.FSSpecHandler(other))
    return where, root.rstrip("/")


def _shares(counts: Sequence[int]) -> tuple[float, ...]:
    rows = sum(counts)
    return tuple(n / rows for n in counts)
