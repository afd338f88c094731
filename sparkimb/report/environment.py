"""What all pages share: templates that escape every text, the filters for numbers, the style sheet."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sparkimb.report import formats
from sparkimb.report.drawing import DASHES, style_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def new_environment() -> Environment:
    """Return a jinja2 environment over the package's templates, which a page adds its own globals to."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("The report needs jinja2. Install sparkimb[jobs].") from error

    environment = Environment(
        loader=FunctionLoader(package_text),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": formats.short,
        "count": formats.count,
        "decimal": formats.decimal,
        "duration": formats.duration,
        "ratio": formats.ratio,
        "signed": formats.signed,
        "span": formats.span,
        "percent": formats.percent,
    }
    environment.globals |= {
        "style": markup(package_text("style.css")),
        "dashes": DASHES,
        "style_of": style_of,
        "exists": formats.exists,
    }
    return environment


def package_text(name: str) -> str:
    """Return a file of this package."""
    return files("sparkimb.report").joinpath(name).read_text("utf-8")


def markup(text: str) -> Markup:
    """Return text that a template does not escape: only for text that holds nothing from the data."""
    from markupsafe import Markup

    return Markup(text)


def _printable(value: Any) -> Any:
    return formats.printable(value) if type(value) is str else value
