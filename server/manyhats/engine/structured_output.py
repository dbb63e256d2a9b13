"""Texts that must have a form: JSON, JSON of a schema, one of some choices, or what an expression or a grammar matches.

llguidance follows them.
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

# Small models otherwise write white space for ever; what they are asked for reads the same without.
_JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_LONGEST = 100_000  # characters of a schema or an expression
# Of what llguidance builds for one step: with its own limits `(a{1000}){1000}` takes five seconds, with these a tenth.
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=50_000, step_lexer_fuel=50_000)
_LONGEST_ERROR = 500
_LONGEST_GBNF = 20_000  # is read by a parser in Python
_RULE_TEMPERATURE = re.compile(r"^[ \t]*\w+\[[^\]\n]*\btemperature[ \t]*=", re.MULTILINE)
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)


class Grammar:
    """Where one text stands in its form."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)
        self._bits_tensor = torch.from_numpy(self._bits)[0]
        self._vocabulary = vocabulary

    def copy(self) -> Grammar:
        """The same form for another text."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)

    def bits(self) -> Tensor:
        """(vocabulary / 32 rounded up,) int32 with a bit for each token, the lowest first: whether it may come next.

        It holds until the next call. Raises InvalidRequest where the form cannot be followed: nothing matches it, or it
        is too large.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        self._check()
        return self._bits_tensor

    def accept(self, token: int) -> bool:
        """Takes the token that was chosen; whether nothing may follow. Raises as `bits`."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                f"the form of the answer cannot be followed: {_first_line(self._matcher.get_error())}",
                param="response_format",
            )


class Grammars:
    """Makes grammars for a tokenizer, from any thread. Raises InvalidRequest for a tokenizer that cannot be used."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: int | None) -> None:
        self._vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer.loaded, n_vocab=vocabulary, eos_token=end)
        except (ValueError, TypeError, AssertionError) as error:
            raise InvalidRequest(
                f"answers of a form need a tokenizer of bytes or characters, which the backbone's is not ({error})",
                param="response_format",
            ) from None

    def json_schema(self, schema: Any) -> Grammar:
        """JSON of a schema. Raises InvalidRequest with what is wrong with the schema."""
        if not isinstance(schema, (dict, bool)):
            raise InvalidRequest(f"a JSON schema is an object, not {type(schema).__name__}", param="response_format")
        text = json.dumps(schema)
        return self._make(lambda: llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_JSON_STYLE), text)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """What an expression matches as a whole. Raises InvalidRequest with what is wrong with it."""
        return self._make(lambda: llguidance.LLMatcher.grammar_from_regex(pattern), pattern)

    def choice(self, texts: Sequence[str]) -> Grammar:
        """Exactly one of some texts."""
        quoted = " | ".join(json.dumps(text) for text in texts)
        return self._make(lambda: llguidance.LLMatcher.grammar_from_lark(f"start: {quoted}"), quoted)

    def grammar(self, source: str) -> Grammar:
        """What a context-free grammar produces, in Lark's notation or in llama.cpp's (GBNF, rules with `::=`).

        Raises InvalidRequest with what is wrong with it.
        """
        if _RULE_TEMPERATURE.search(source):
            raise InvalidRequest(
                "a rule's own temperature is not supported; set the request's", param="response_format"
            )
        if not _GBNF_RULE.search(source):
            return self._make(lambda: llguidance.LLMatcher.grammar_from_lark(source), source)
        _check_length(source, _LONGEST_GBNF)
        return self._make(lambda: llguidance.LLMatcher.grammar_from_lark(_from_gbnf(source)), source)

    def _make(self, grammar: Callable[[], str], source: str) -> Grammar:
        _check_length(source, _LONGEST)
        try:
            matcher = llguidance.LLMatcher(self._tokenizer, grammar(), log_level=0, limits=_LIMITS)
            error = matcher.get_error()
        except (ValueError, TypeError) as failure:
            error = str(failure)
        if error:
            raise InvalidRequest(f"the form of the answer is not valid: {_first_line(error)}", param="response_format")
        made = Grammar(matcher, self._vocabulary)
        made.copy().bits()  # some forms that nothing matches, or that are too large, show only now
        return made


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0][:_LONGEST_ERROR]


def _check_length(source: str, longest: int) -> None:
    if len(source) > longest:
        raise InvalidRequest(
            f"the form of the answer has {len(source)} characters; at most {longest} are read", param="response_format"
        )


def _from_gbnf(source: str) -> str:
    """Raises ValueError with what is wrong with the grammar."""
    try:
        return str(llguidance.gbnf_to_lark.any_to_lark(source))
    except RecursionError:
        raise ValueError("its groups are nested too deep") from None
    except Exception as error:  # it raises this very class
        raise ValueError(str(error)) from None
