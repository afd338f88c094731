"""Nearest neighbours on DataFrames: exact for small groups, by cells for large ones, or among random parts."""

from sparkimb.neighbors.table import NeighborQuality, nearest_neighbors

__all__ = ["NeighborQuality", "nearest_neighbors"]
