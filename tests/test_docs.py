"""What the documentation says holds: signatures, defaults, doctests, and the README's marked blocks run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from pyspark.ml.param import Params
from pyspark.sql import SparkSession

import sparkimb
import sparkimb.evaluation
import sparkimb.feed
import sparkimb.streaming
import sparkimb.training
from sparkimb.feed.petastorm_compat import install_compat
from sparkimb.testing import documented_parameters, signature_parameters

README = Path(__file__).parent.parent / "README.md"
MODULES = ["sparkimb", *(module.name for module in pkgutil.walk_packages(sparkimb.__path__, "sparkimb."))]
PACKAGES = (sparkimb, sparkimb.evaluation, sparkimb.feed, sparkimb.streaming, sparkimb.training)
PUBLIC = {name: getattr(package, name) for package in PACKAGES for name in package.__all__}
STAGES = [
    cls for cls in PUBLIC.values() if inspect.isclass(cls) and issubclass(cls, Params) and signature_parameters(cls)
]


@pytest.mark.parametrize("cls", STAGES, ids=lambda cls: cls.__name__)
def test_parameters_are_documented_with_their_defaults(cls: type) -> None:
    assert list(documented_parameters(cls).items()) == list(signature_parameters(cls).items())


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_say_what_they_are(name: str) -> None:
    assert inspect.getdoc(PUBLIC[name])
    methods = [m for m in vars(PUBLIC[name]).values() if inspect.isfunction(m)] if inspect.isclass(PUBLIC[name]) else []
    assert not [m.__name__ for m in methods if not m.__name__.startswith("_") and not m.__doc__]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    install_compat()  # two modules of the feed import petastorm
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_readme_blocks_run(spark: SparkSession) -> None:
    text = README.read_text() if README.exists() else ""
    blocks = re.findall(r"^<!-- run -->\n```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == text.count("<!-- run -->"), "each mark stands on the line before a python block"
    if not blocks:
        pytest.skip("README.md has no block marked to be run")
    namespace = {"spark": spark}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
