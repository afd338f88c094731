"""Samplers that drop rows."""

from sparkimb.under_sampling.random import RandomUnderSampler, RandomUnderSamplerModel

__all__ = ["RandomUnderSampler", "RandomUnderSamplerModel"]
