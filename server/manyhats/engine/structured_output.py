"""Structured output: JSON, JSON of a schema, one of some choices, or text that matches an expression or a grammar.

llguidance compiles the constraint and computes which tokens it allows next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.gbnf_to_lark
import llguidance.hf
import llguidance.numpy
import torch
from torch import Tensor

from manyhats.backbone import Tokenizer
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Without this, small models may generate white space without end.
_JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_MAX_SOURCE_LENGTH = 100_000  # characters of a schema or an expression
# Limits of the lexer states that llguidance builds for one step. With its defaults the expression `(a{1000}){1000}`
# takes five seconds, with these a tenth of that.
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=50_000, step_lexer_fuel=50_000)
_MAX_ERROR_LENGTH = 500
_MAX_GBNF_LENGTH = 20_000  # characters; the parser for GBNF is slow
_RULE_TEMPERATURE = re.compile(r"^[ \t]*\w+\[[^\]\n]*\btemperature[ \t]*=", re.MULTILINE)
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)


class Grammar:
    """The token constraint of one sequence: the state of a grammar after the tokens so far."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, vocabulary)
        self._bitmask_tensor = torch.from_numpy(self._bitmask)[0]
        self._vocabulary = vocabulary

    def copy(self) -> Grammar:
        """A copy with a state of its own, for another sequence."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)

    def bitmask(self) -> Tensor:
        """The tokens that are allowed next: (vocabulary / 32 rounded up,) int32, one bit a token, the lowest bit first.

        Valid until the next call. Raises InvalidRequest where nothing matches the grammar, or where it is too large.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask)
        self._check()
        return self._bitmask_tensor

    def accept(self, token: int) -> bool:
        """Advances by the sampled token. Returns whether the output is complete. Raises as `bitmask`."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                f"the structured output cannot be followed: {_first_line(self._matcher.get_error())}",
                param="response_format",
            )


class Grammars:
    """Compiles grammars for a tokenizer, in any thread. Raises InvalidRequest for a tokenizer that is not supported."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, eos_token_id: int | None) -> None:
        self._vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer.loaded, n_vocab=vocabulary, eos_token=eos_token_id)
        except (ValueError, TypeError, AssertionError) as error:
            raise InvalidRequest(
                f"structured output needs a tokenizer of bytes or characters, which the backbone's is not ({error})",
                param="response_format",
            ) from None

    def json_schema(self, schema: Any) -> Grammar:
        """JSON that a schema describes. Raises InvalidRequest with what is wrong with the schema."""
        if not isinstance(schema, (dict, bool)):
            raise InvalidRequest(f"a JSON schema is an object, not {type(schema).__name__}", param="response_format")
        text = json.dumps(schema)
        return self._compile(lambda: llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_JSON_STYLE), text)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole. Raises InvalidRequest with what is wrong with it."""
        return self._compile(lambda: llguidance.LLMatcher.grammar_from_regex(pattern), pattern)

    def choice(self, texts: Sequence[str]) -> Grammar:
        """Exactly one of the given texts."""
        quoted = " | ".join(json.dumps(text) for text in texts)
        return self._compile(lambda: llguidance.LLMatcher.grammar_from_lark(f"start: {quoted}"), quoted)

    def grammar(self, source: str) -> Grammar:
        """Text that a context-free grammar produces, in Lark's notation or in llama.cpp's (GBNF, rules with `::=`).

        Raises InvalidRequest with what is wrong with it.
        """
        if _RULE_TEMPERATURE.search(source):
            raise InvalidRequest(
                "a rule's own temperature is not supported; set the request's", param="response_format"
            )
        if not _GBNF_RULE.search(source):
            return self._compile(lambda: llguidance.LLMatcher.grammar_from_lark(source), source)
        _check_length(source, _MAX_GBNF_LENGTH)
        return self._compile(lambda: llguidance.LLMatcher.grammar_from_lark(_from_gbnf(source)), source)

    def _compile(self, grammar: Callable[[], str], source: str) -> Grammar:
        _check_length(source, _MAX_SOURCE_LENGTH)
        try:
            matcher = llguidance.LLMatcher(self._tokenizer, grammar(), log_level=0, limits=_LIMITS)
            error = matcher.get_error()
        except (ValueError, TypeError) as failure:
            error = str(failure)
        if error:
            raise InvalidRequest(f"the structured output is not valid: {_first_line(error)}", param="response_format")
        compiled = Grammar(matcher, self._vocabulary)
        compiled.copy().bitmask()  # some grammars that nothing matches, or that are too large, fail only here
        return compiled


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0][:_MAX_ERROR_LENGTH]


def _check_length(source: str, limit: int) -> None:
    if len(source) > limit:
        raise InvalidRequest(
            f"the structured output has {len(source)} characters; at most {limit} are read", param="response_format"
        )


def _from_gbnf(source: str) -> str:
    """A GBNF grammar in Lark's notation. Raises ValueError with what is wrong with the grammar."""
    try:
        return str(llguidance.gbnf_to_lark.any_to_lark(source))
    except RecursionError:
        raise ValueError("its groups are nested too deep") from None
    except Exception as error:  # llguidance raises `Exception` itself
        raise ValueError(str(error)) from None
