"""Renders chat templates in a separate process, which may be killed. Imports only Jinja and the standard library.

The environment is the one of transformers' `apply_chat_template`. Templates come from users; one that takes too much
time or memory ends this process, or is rejected by it.

On its standard input and output, each message is JSON after its length: `{"template", "variables", "max_length",
"seconds"}` in, `{"text"}` or `{"error", "kind"}` out. It ends with its input.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, BinaryIO

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY = 512 << 20  # bytes of address space
_KNOWN = 32  # compiled templates in the cache
_MAX_MESSAGE_LENGTH = 500  # characters of an error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012  as Jinja has it

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict`, without its class's other attributes."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **named)


class _Namespace(jinja2.utils.Namespace):
    """`namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:  # a variable may be called self
        self, args = args[0], args[1:]
        attributes = dict(*args, **named)
        for name in attributes:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no names that begin with an underscore: {name!r}")


def _raise(message: Any) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def environment() -> ImmutableSandboxedEnvironment:
    """The environment in which templates are compiled."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": _Dict(), "namespace": _Namespace}
    return made


class TooLong(Exception):
    """The text is too long."""


class Renderer:
    """Compiles templates and renders them."""

    def __init__(self) -> None:
        self._environment = environment()
        self._known: OrderedDict[str, jinja2.Template] = OrderedDict()

    def render(self, template: str, variables: Mapping[str, Any], max_length: int) -> str:
        """The text. Raises TooLong for more than `max_length` characters, and the template's errors."""
        compiled = self._known.pop(template, None) or self._environment.from_string(template)
        self._known[template] = compiled
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        chunks: list[str] = []
        length = 0
        for chunk in compiled.generate(variables):
            length += len(chunk)
            if length > max_length:
                raise TooLong
            chunks.append(chunk)
        return "".join(chunks)


def _limit() -> None:
    """Limits memory and forbids files, where the system supports that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, value in (("RLIMIT_AS", _MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
        except (AttributeError, ValueError, OSError):  # macOS does not limit address space
            continue


def _clock(seconds: float) -> None:
    """Lets the system end the process after so many seconds of CPU time; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(renderer: Renderer, request: Mapping[str, Any]) -> dict[str, Any]:
    _clock(request["seconds"])
    try:
        return {"text": renderer.render(request["template"], request["variables"], request["max_length"])}
    except TooLong:
        return {"error": "", "kind": "length"}
    except MemoryError:
        return {"error": "", "kind": "memory"}
    except RecursionError:
        return {"error": "it is nested too deep", "kind": "template"}
    except Exception as error:  # any error is the template's
        named = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"error": (named + str(error))[:_MAX_MESSAGE_LENGTH], "kind": "template"}
    finally:
        _clock(0)


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers until the end of the input, or of memory."""
    _limit()
    renderer = Renderer()
    while len(head := source.read(8)) == 8:
        request = json.loads(source.read(int.from_bytes(head, "big")))
        answer = _answer(renderer, request)
        data = json.dumps(answer).encode()
        sink.write(len(data).to_bytes(8, "big") + data)
        sink.flush()
        if answer.get("kind") == "memory":
            return


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
