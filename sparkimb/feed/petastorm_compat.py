"""petastorm 0.12.1, of 2022, on today's pyarrow, numpy and pandas: a layer laid over petastorm's own modules."""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sparkimb.errors import SparkimbError

VERSION = "0.12.1"

# Seconds between a waiting thread's looks at whether it is to end.  petastorm's 0.001 take 2 % of a core for a thread.
IDLE_S = 0.02

_lock = Lock()
_installed = False


def install_compat() -> None:
    """Make petastorm's `make_batch_reader` work on pyarrow 15 and later; call it before petastorm is first imported.

    Names are laid over those that petastorm's own modules imported; nothing that pyarrow, numpy or pandas has is
    replaced or added to.  Further calls do nothing.  On pyarrow 14 and earlier, where petastorm works as it is, nothing
    is done, nor are the mends below laid: sparkimb itself needs pyarrow 18.

    Raises
    ------
    ImportError
        If petastorm is not there.
    SparkimbError
        If it is another version, whose insides the layer does not know, or was imported before.

    Notes
    -----
    What else is mended, because it lost or changed data without an error:

    - an epoch could end before its last row groups had come, down to none of its rows (thread and dummy pool);
    - a predicate with shuffle_rows shuffled columns apart, and made integers floats;
    - shuffle_rows with shuffle_row_drop_partitions gave some rows twice and others never;
    - filters over columns that are not partitions were ignored, and are refused; so are null partitions.

    Lists of one length become a matrix at once, and a footer is parsed once for each file.  Any file system of pyarrow
    or fsspec can be given; an hdfs:// URL needs one.  Left out: pools of processes (refused), petastorm's own stores
    (`make_reader`) and its Spark converter.
    """
    global _installed
    with _lock:
        if _installed or hasattr(pq, "ParquetDatasetPiece"):
            return
        _check_petastorm()
        _import_petastorm()
        _lay_over()
        _installed = True


def _check_petastorm() -> None:
    try:
        found = metadata.version("petastorm")
    except metadata.PackageNotFoundError:
        raise ImportError('petastorm is not installed. Install it with: pip install "sparkimb[petastorm]"') from None
    if found != VERSION:
        raise SparkimbError(
            f"petastorm is version {found}, and sparkimb works with {VERSION} alone: later ones lose rows, and earlier "
            f'ones are not known to it. Install the right one with: pip install "sparkimb[petastorm]"'
        )
    if "petastorm" in sys.modules:
        raise SparkimbError(
            "petastorm was imported before sparkimb's layer for it, and may hold what that replaces. Call "
            "sparkimb.feed.petastorm_compat.install_compat() first, in a new process."
        )


def _import_petastorm() -> None:
    """Import petastorm with stand-ins for what it imports and cannot be had any more."""
    # Asked for by petastorm.utils, for its own stores; gone from pyarrow 16.
    filesystem: Any = ModuleType("pyarrow.filesystem")
    filesystem.LocalFileSystem = fs.LocalFileSystem
    # petastorm's module imports pyarrow.hdfs, gone from pyarrow 16, and distutils, gone from Python 3.12.
    namenode: Any = ModuleType("petastorm.hdfs.namenode")
    namenode.HdfsNamenodeResolver = namenode.HdfsConnector = _NoHdfs
    sys.modules.update({filesystem.__name__: filesystem, namenode.__name__: namenode})
    try:
        import_module("petastorm")
    finally:
        del sys.modules[filesystem.__name__]


def _lay_over() -> None:
    dataset = import_module("sparkimb.feed.petastorm_dataset")
    mends = import_module("sparkimb.feed.petastorm_mends")
    parquet = _Overlay(pq, ParquetDataset=dataset.ParquetDataset)
    numbers = _Overlay(np, unicode_=np.str_, string_=np.bytes_, float=float)
    names: dict[str, dict[str, Any]] = {
        "reader": {
            "pq": parquet,
            "ArrowReaderWorker": mends.MendedWorker,
            "ThreadPool": mends.MendedThreadPool,
            "DummyPool": mends.MendedDummyPool,
            "ProcessPool": mends.NoProcessPool,
            "get_filesystem_and_path_or_paths": mends.paths_as_given,
        },
        "etl.dataset_metadata": {
            "pq": parquet,
            "load_row_groups": dataset.ParquetDataset.row_groups,
            "get_filesystem_and_path_or_paths": mends.paths_as_given,
        },
        "fs_utils": {"pyarrow": _Overlay(pa, localfs=fs.LocalFileSystem())},
        "unischema": {"np": numbers},
        "weighted_sampling_reader": {"np": numbers},
        "workers_pool.thread_pool": {"IO_TIMEOUT_INTERVAL_S": IDLE_S},
    }
    for module, laid in names.items():
        vars(import_module(f"petastorm.{module}")).update(laid)


class _Overlay:
    """A module with some names laid over it, for one of petastorm's modules to use in its place."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NoHdfs:
    """What stands for petastorm's own ways to HDFS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.hdfs_connect_namenode()

    @staticmethod
    def hdfs_connect_namenode(*args: Any, **kwargs: Any) -> None:
        raise SparkimbError(
            "An hdfs:// URL was given without a file system. Give make_batch_reader a filesystem, such as "
            "pyarrow.fs.HadoopFileSystem."
        )
