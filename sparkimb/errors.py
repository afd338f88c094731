"""The errors a caller may want to catch.  Each message says what is wrong, what was found and what to do."""


class SparkimbError(ValueError):
    """A value, column or row count that the library cannot work with."""


class ScoringPathError(SparkimbError):
    """A sampler was asked to `transform`, which would change the rows being scored."""


class NotEnoughSamplesError(SparkimbError):
    """A class has too few rows for what was asked of it."""
