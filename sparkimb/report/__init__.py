"""What a job found, as one HTML page that needs nothing but a browser."""

from sparkimb.report.page import render
from sparkimb.report.stream import render_stream

__all__ = ["render", "render_stream"]
