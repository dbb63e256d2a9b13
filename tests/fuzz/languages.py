"""What callers write in languages of their own: chat templates, and what structured output is to look like."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from manyhats.backbone import Text
from manyhats.engine.structured_output import Grammars
from manyhats.errors import InvalidRequest
from manyhats.serving.template_process import environment
from manyhats.serving.templates import TemplateProcesses

from tests import tiny
from tests.fuzz.contract import Broken, Check, scratch

_MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]


def template_texts() -> Check:
    """A chat template compiles, or the template is to blame."""
    made = environment()

    def check(data: bytes) -> None:
        try:
            made.from_string(data.decode(errors="surrogateescape"))
        except (jinja2.TemplateError, RecursionError):
            pass  # what the process that renders makes an answer of
        except (ValueError, OverflowError, MemoryError, SyntaxError):
            pass  # the same; Jinja hands on what Python's own parser says

    return check


def templates() -> Check:
    """A chat template rendered within its limits, in the process that it may end."""
    processes = TemplateProcesses(computing=0.2, elapsed=1.0)
    variables: dict[str, Any] = {"messages": _MESSAGES, "add_generation_prompt": True, "bos_token": "<s>"}

    def check(data: bytes) -> None:
        text = processes.render(data.decode(errors="surrogateescape"), variables, 2000)
        if len(text) > 2000:
            raise Broken(f"a text of {len(text)} characters")

    return check


def template_seeds() -> list[bytes]:
    return [
        b"{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{% endfor %}",
        b"{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ bos_token }}",
        b"{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ dict(a=1) | tojson(indent=2) }}",
        b"{% macro f(x) %}{{ x }}{% endmacro %}{{ f(strftime_now('%Y')) }}{% generation %}a{% endgeneration %}",
        b"{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ '%s' % i }}{% endfor %}",
        b"{{ ''.__class__ }}",
    ]


def structured_output() -> Check:
    """A schema, an expression or a grammar (by the first byte) compiles, and says what may come next for 16 tokens."""
    backbone = tiny.load(tiny.write_byte_base(scratch() / "bytes"))
    grammars = Grammars(backbone.tokenizer, int(backbone.config.vocab_size), min(backbone.eos_token_ids, default=None))
    (letters,) = backbone.tokenizer.encode([Text('{"a": 1}')], 16)

    def check(data: bytes) -> None:
        text = data[1:].decode(errors="replace")
        match data[:1] and data[0] % 4:
            case 0:
                grammar = grammars.json_schema(_parsed(text))
            case 1:
                grammar = grammars.regex(text)
            case 2:
                grammar = grammars.grammar(text)
            case _:
                grammar = grammars.choice(text.split("\0"))
        for token in letters.ids:
            allowed = int(grammar.bitmask()[token // 32]) >> token % 32 & 1
            if not allowed:
                break
            if grammar.accept(token):
                break

    return check


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"no JSON: {error}"[:100]) from None  # as the parser of bodies does before


def grammar_seeds() -> list[bytes]:
    return [
        b'\x00{"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}',
        b'\x00{"anyOf": [{"const": 1}, {"enum": ["x"]}, {"$ref": "#/$defs/b"}], "$defs": {"b": {"type": "string", '
        b'"pattern": "^a+$", "maxLength": 3}}}',
        b'\x00{"type": "array", "items": {"type": "number"}, "minItems": 1, "format": "date"}',
        b"\x01[a-z]{1,3}(\\d|x)*",
        b"\x01(?i)a|\\p{L}+\\.\\s?",
        b'\x02start: "a" | b+\nb: /[0-9]+/\n%ignore " "\n',
        b'\x02root ::= "a" ws [b-c]*\nws ::= [ \\t]\n',
        b"\x03yes\0no",
    ]
