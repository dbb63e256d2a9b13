"""Tokens and their probabilities, in the shapes of OpenAI and of vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from manyhats.backbone import Tokenizer
from manyhats.core.sampling_params import SampledToken
from manyhats.serving.generation import PromptLogprob, PromptLogprobs, finite
from manyhats.serving.token_texts import TokenText, TokenTexts, token_names


class CompletionLogprobs:
    """Lists by token, as completions have them. `top_logprobs` has the sampled token too."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float | None] | None] = []
        self._offsets: list[int] = []

    def add(self, token: TokenText, values: SampledToken | PromptLogprob | None, others: Sequence[TokenText]) -> None:
        """One more token. `values`: None for the first of a prompt; `others`: the texts of the likeliest tokens."""
        self.tokens.append(token.text)
        self._logprobs.append(None if values is None else finite(values.logprob))
        self._top.append(None if values is None else _top(token, values, others))
        self._offsets.append(token.offset)

    def copy(self) -> CompletionLogprobs:
        """The same tokens, for others to follow."""
        new = CompletionLogprobs()
        new.tokens, new._logprobs = list(self.tokens), list(self._logprobs)
        new._top, new._offsets = list(self._top), list(self._offsets)
        return new

    def body(self) -> dict[str, Any]:
        """All tokens so far."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }


def _top(
    token: TokenText, values: SampledToken | PromptLogprob, others: Sequence[TokenText]
) -> dict[str, float | None]:
    """The likeliest tokens and the sampled one, by text; those that read alike get names of their own."""
    texts = dict(zip((t for t, _ in values.top), (other.text for other in others), strict=True))
    logprobs = {**dict(values.top), values.token: values.logprob}
    texts[values.token] = token.text
    order = [values.token, *(t for t in logprobs if t != values.token)]
    names = dict(zip(order, token_names([(t, texts[t]) for t in order]), strict=True))
    return {names[t]: finite(value) for t, value in logprobs.items()}


def chat_token(token: TokenText, values: SampledToken, others: Sequence[TokenText]) -> dict[str, Any]:
    """One token of a chat, and the likeliest in its place."""
    top = [_chat_entry(other, value) for other, (_, value) in zip(others, values.top, strict=True)]
    return _chat_entry(token, values.logprob) | {"top_logprobs": top}


def _chat_entry(token: TokenText, logprob: float | None) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(logprob), "bytes": list(token.bytes)}


def alternatives(writer: TokenTexts, values: SampledToken | PromptLogprob) -> list[TokenText]:
    """The texts of the likeliest tokens in the place of the next."""
    return [writer.alternative(token) for token, _ in values.top]


def prompt_logprobs(scores: PromptLogprobs, tokenizer: Tokenizer) -> list[dict[str, Any] | None]:
    """vLLM's: for each token of the prompt but the first, it and the likeliest by number."""
    return [None if one is None else dict(_by_number(one, tokenizer)) for one in scores.scores]


def _by_number(score: PromptLogprob, tokenizer: Tokenizer) -> Iterable[tuple[str, dict[str, Any]]]:
    ranked = {score.token: (score.logprob, score.rank)}
    ranked |= {t: (value, ranked[t][1] if t in ranked else i) for i, (t, value) in enumerate(score.top, 1)}
    for token, (logprob, rank) in ranked.items():
        yield str(token), {"logprob": finite(logprob), "rank": rank, "decoded_token": tokenizer.token_to_string(token)}
