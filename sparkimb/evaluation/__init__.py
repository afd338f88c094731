"""Exact metrics, thresholds and calibration over DataFrames."""
