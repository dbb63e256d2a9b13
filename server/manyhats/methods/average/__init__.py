"""Averaging: the outputs of several bottleneck adapters at one site, weighted (AdapterHub's `Average`)."""

from manyhats.methods.average.method import Average, AverageConfig

__all__ = ["Average", "AverageConfig"]
