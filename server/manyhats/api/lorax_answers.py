"""What clients of LoRAX and TGI get of `/generate` and `/generate_stream`, for /openapi.json."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from manyhats.api.schemas import AnswerBody


class AlternativeToken(AnswerBody):
    """A token that could have stood in one's place."""

    id: int
    text: str
    logprob: float | None


class TopToken(AlternativeToken):
    """One of the likeliest tokens, as TGI has them."""

    special: bool


class GeneratedToken(TopToken):
    """A token. `alternative_tokens`: with `return_k_alternatives`."""

    alternative_tokens: list[AlternativeToken] | None = None


class StreamDetails(AnswerBody):
    """How a text ended, and the counts."""

    finish_reason: Literal["length", "stop_sequence", "eos_token"]
    prompt_tokens: int
    generated_tokens: int
    seed: int | None


class GenerateDetails(StreamDetails):
    """With the tokens. `prefill`: the prompt's, with `decoder_input_details`; `top_tokens`: with `top_n_tokens`."""

    prefill: list[AlternativeToken]
    tokens: list[GeneratedToken]
    top_tokens: list[list[TopToken]] | None = None


class Generated(AnswerBody):
    """A text, with `details` where they are requested."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "generated_text": " upon",
                    "details": {
                        "finish_reason": "length",
                        "prompt_tokens": 1,
                        "generated_tokens": 1,
                        "seed": None,
                        "prefill": [],
                        "tokens": [{"id": 2501, "text": " upon", "logprob": -0.1, "special": False}],
                    },
                }
            ]
        }
    )

    generated_text: str
    details: GenerateDetails | None = None


class GenerateEvent(AnswerBody):
    """One token; the last event has the whole text, too."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "token": {"id": 2501, "text": " upon", "logprob": -0.1, "special": False},
                    "generated_text": None,
                    "details": None,
                }
            ]
        }
    )

    token: GeneratedToken
    generated_text: str | None
    details: StreamDetails | None
    top_tokens: list[TopToken] | None = None
