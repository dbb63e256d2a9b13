"""What the events of a stream say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import ValidationError

from manyhats_client.answers import GenerateAnswer
from manyhats_client.chat import ChatAnswer, ChatChunk, joined
from manyhats_client.errors import ConnectionFailed, InvalidAnswer, ManyhatsError, from_body, request_id_of
from manyhats_client.models import ErrorEnvelope
from manyhats_client.outputs import GenerateEvent

E_co = TypeVar("E_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)

DONE = "[DONE]"


class EventReader(Protocol[E_co, A_co]):
    """Makes events of what a stream carries, and the whole answer of them all."""

    def read(self, body: Any) -> Iterator[E_co]:
        """The events in one piece of JSON; none where it is the whole answer. Raises ValidationError."""

    def answer(self) -> A_co | None:
        """The whole answer, once all events are read; None before."""


class GenerateEvents:
    """Those of `generate_stream`: tokens, and then the whole answer."""

    def __init__(self) -> None:
        self._answer: GenerateAnswer | None = None

    def read(self, body: Any) -> Iterator[GenerateEvent]:
        """See EventReader."""
        if "outputs" in body:
            self._answer = GenerateAnswer.model_validate(body)
        else:
            yield GenerateEvent.model_validate(body)

    def answer(self) -> GenerateAnswer | None:
        """See EventReader."""
        return self._answer


class ChatEvents:
    """Those of `chat_stream`: chunks in OpenAI's form."""

    def __init__(self) -> None:
        self._chunks: list[ChatChunk] = []

    def read(self, body: Any) -> Iterator[ChatChunk]:
        """See EventReader."""
        chunk = ChatChunk.model_validate(body)
        self._chunks.append(chunk)
        yield chunk

    def answer(self) -> ChatAnswer | None:
        """See EventReader."""
        return joined(self._chunks) if self._chunks else None


def decoded(data: str, response: httpx.Response) -> Any:
    """The JSON of an event. Raises the error that it tells, and InvalidAnswer for what no Manyhats server sends."""
    try:
        body = json.loads(data)
        if not isinstance(body, dict):
            raise ValueError(f"{type(body).__name__} instead of an object")
        if "error" in body:
            error = ErrorEnvelope.model_validate(body).error
            status = error.code if isinstance(error.code, int) else 500
            raise from_body(status, error).of(request_id_of(response))
    except (ValueError, ValidationError) as error:
        raise not_understood(response, error) from error
    return body


def not_understood(response: httpx.Response, error: Exception) -> ManyhatsError:
    """The error for an event that is in no known form."""
    first = str(error).splitlines()[0]
    return InvalidAnswer(f"{response.url} sent an event that is not understood: {first}").of(request_id_of(response))


def broken_off(response: httpx.Response) -> ManyhatsError:
    """The error for a stream that ends before its end."""
    return ConnectionFailed(f"{response.url}: the stream broke off before its end").of(request_id_of(response))
