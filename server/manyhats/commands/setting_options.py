"""An option of the command line for every setting of the server, with its type, its choices and its range."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand

from manyhats.settings import Settings


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option for every setting, so that --help lists them all and none is forgotten.

    What is not given is None. Numbers and choices are checked before the command runs, the rest as the settings are.
    """
    config = Annotated[Path | None, typer.Option(help="TOML file of settings", envvar="MANYHATS_CONFIG")]
    parameters = [_parameter("config", config)]
    parameters += [_parameter(name, _option(name, field)) for name, field in Settings.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that options were given for."""
    given = {name: value for name, value in options.items() if value is not None}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in given.items()}


class Switches(TyperCommand):
    """A command whose switches may stand alone: `--allow-unauthenticated` is `--allow-unauthenticated true`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words, with what was left out of them."""
        switches = {f"--{name.replace('_', '-')}" for name, field in Settings.model_fields.items() if _is(field, bool)}
        whole = []
        for i, word in enumerate(args):
            whole.append(word)
            if word in switches and (i + 1 == len(args) or args[i + 1].startswith("--")):
                whole.append("true")
        return super().parse_args(ctx, whole)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(name: str, field: FieldInfo) -> Any:
    default = "" if field.default is PydanticUndefined else field.default
    text = f"{field.description} (MANYHATS_{name.upper()}; default {_default_text(default)})"
    about: dict[str, Any] = {"help": text, "show_default": False}
    kind: Any = str
    low, high, over = _range(field)
    if get_origin(field.annotation) is Literal:
        kind = _choices(name, get_args(field.annotation))
    elif _is(field, bool):
        about["metavar"] = "true|false"
    elif _is(field, ByteSize):
        about["metavar"] = "SIZE"  # 1000, 2GiB, 500MB
    elif over is not None:  # an option's range has no open end
        end = "" if high is None else f"<={high:g}"
        about["metavar"] = f"<float> [{over:g}<x{end}]"
    elif _is(field, int) or _is(field, float):
        kind = int if _is(field, int) else float
        about |= {"min": low, "max": high}
    return Annotated[kind | None, typer.Option(f"--{name.replace('_', '-')}", **about)]


def _choices(name: str, values: Iterable[str]) -> Any:
    made: Any = StrEnum  # called, it makes a class
    return made(name, {value: value for value in values})


def _is(field: FieldInfo, wanted: type) -> bool:
    """Whether a setting is of a type, or of it and None."""
    annotation = field.annotation
    return annotation is wanted or set(get_args(annotation)) == {wanted, NoneType}


def _range(field: FieldInfo) -> tuple[float | None, float | None, float | None]:
    """The least and the most that a number may be, and what it must be over."""
    low, high, over = (
        next((found for bound in field.metadata if (found := getattr(bound, name, None)) is not None), None)
        for name in ("ge", "le", "gt")
    )
    return low, high, over


def _default_text(default: Any) -> str:
    if isinstance(default, ByteSize) and default:
        return default.human_readable()
    return str(default) if default not in ("", (), None) else "none"
