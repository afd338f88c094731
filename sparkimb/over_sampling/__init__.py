"""Samplers that add rows."""

from sparkimb.over_sampling.random import RandomOverSampler, RandomOverSamplerModel

__all__ = ["RandomOverSampler", "RandomOverSamplerModel"]
