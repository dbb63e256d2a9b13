"""The config of an invertible adapter."""

from manyhats.methods.component import MethodConfig

NAME = "invertible"


class InvertibleConfig(MethodConfig):
    """`non_linearity` of both nets."""

    non_linearity: str = "relu"
