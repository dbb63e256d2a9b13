"""The calls that ask: how a request looks, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx

from manyhats_client.answers import GenerateAnswer, Prediction, Result, Results
from manyhats_client.chat import ChatAnswer
from manyhats_client.embeddings import EmbeddingPage
from manyhats_client.errors import InvalidAnswer, WrongKind, request_id_of
from manyhats_client.inputs import Inputs, Messages, OneInput, Question, conversation, plain
from manyhats_client.operations import Operation, path, reader

EVENTS = "text/event-stream, application/json;q=0.9"

_prediction: Callable[[httpx.Response], Prediction] = reader(Prediction)
_many: Callable[[httpx.Response], Results] = reader(Results)
_chat: Callable[[httpx.Response], ChatAnswer] = reader(ChatAnswer)
_page: Callable[[httpx.Response], EmbeddingPage] = reader(EmbeddingPage)


def predict(task: str, inputs: Inputs, parameters: Mapping[str, Any]) -> Operation[Prediction]:
    """Asks one task."""
    return Operation("POST", path(task, "predict"), _prediction, json=_body(inputs, parameters))


def generate(task: str, inputs: Inputs, parameters: Mapping[str, Any]) -> Operation[GenerateAnswer]:
    """Asks a task that generates."""
    return Operation("POST", path(task, "predict"), _generated, json=_body(inputs, parameters))


def generate_stream(task: str, inputs: Inputs, parameters: Mapping[str, Any]) -> Operation[None]:
    """The same, with an event for each token."""
    body = _body(inputs, parameters)
    body["parameters"] = body.get("parameters", {}) | {"stream": True}
    return Operation("POST", path(task, "predict"), _unread, json=body, accept=EVENTS)


def chat(task: str, messages: Messages, fields: Mapping[str, Any]) -> Operation[ChatAnswer]:
    """Asks for the next message of a conversation."""
    return Operation("POST", "/v1/chat/completions", _chat, json=_chat_body(task, messages, fields))


def chat_stream(task: str, messages: Messages, fields: Mapping[str, Any]) -> Operation[None]:
    """The same, with an event for each token and the usage behind them."""
    body = _chat_body(task, messages, fields) | {"stream": True, "stream_options": {"include_usage": True}}
    return Operation("POST", "/v1/chat/completions", _unread, json=body, accept=EVENTS)


def embed(task: str, texts: Sequence[str], fields: Mapping[str, Any]) -> Operation[EmbeddingPage]:
    """Vectors of texts, as bytes in base64."""
    body = {"model": task, "input": list(texts), "encoding_format": "base64"} | dict(fields)

    def read(response: httpx.Response) -> EmbeddingPage:
        page = _page(response)
        if len(page.data) != len(texts):
            raise _missing(response, len(page.data), len(texts))
        return page

    return Operation("POST", "/v1/embeddings", read, json=body)


def predict_batch(questions: Iterable[Question]) -> Operation[list[Result]]:
    """Asks many questions at once."""
    requests = [{"task": q["task"]} | _body(q["inputs"], q.get("parameters", {})) for q in questions]
    return Operation("POST", "/v1/predict", _results(len(requests)), json={"requests": requests})


def predict_each(task: str, inputs: Sequence[OneInput], parameters: Mapping[str, Any]) -> Operation[list[Result]]:
    """Asks one task about many inputs, each a question of its own."""
    return predict_batch([{"task": task, "inputs": one, "parameters": parameters} for one in inputs])


def predict_tasks(tasks: Iterable[str], inputs: Inputs, parameters: Mapping[str, Any]) -> Operation[list[Result]]:
    """Asks several tasks about the same inputs."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    body = {"tasks": names} | _body(inputs, parameters)
    return Operation("POST", "/v1/predict", _results(len(names)), json=body)


def _body(inputs: Inputs, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if parameters.get("stream"):
        raise ValueError("this call does not stream; generate_stream and chat_stream do")
    return {"inputs": plain(inputs)} | ({"parameters": dict(parameters)} if parameters else {})


def _chat_body(task: str, messages: Messages, fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields.get("stream"):
        raise ValueError("this call does not stream; generate_stream and chat_stream do")
    return {"model": task, "messages": conversation(messages)} | dict(fields)


def _generated(response: httpx.Response) -> GenerateAnswer:
    answer = _prediction(response)
    if not isinstance(answer, GenerateAnswer):
        raise WrongKind(f"`{answer.task}` is of kind {answer.kind} and does not generate; ask it with predict").of(
            answer.request_id
        )
    return answer


def _results(count: int) -> Callable[[httpx.Response], list[Result]]:
    def read(response: httpx.Response) -> list[Result]:
        answer = _many(response)
        if len(answer.results) != count:
            raise _missing(response, len(answer.results), count)
        for result in answer.results:
            result.request_id = answer.request_id
        return answer.results

    return read


def _missing(response: httpx.Response, given: int, count: int) -> InvalidAnswer:
    error = InvalidAnswer(f"{response.url} gave {given} results for {count} questions")
    error.request_id = request_id_of(response)
    return error


def _unread(response: httpx.Response) -> None:
    """A stream is read event by event."""
