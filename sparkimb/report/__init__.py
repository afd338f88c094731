"""The balance job's results as one HTML page that needs nothing but a browser."""

from sparkimb.report.page import render

__all__ = ["render"]
