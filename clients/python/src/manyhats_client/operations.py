"""Every call of the interface: how its request looks, and how its answer is read.

Nothing here does input or output; `Client` and `AsyncClient` send what these functions describe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NotRequired, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from manyhats_client.errors import APIError, InvalidAnswer, from_body
from manyhats_client.models import (
    Failure,
    Health,
    Prediction,
    Result,
    Results,
    TaskDetails,
    TaskPage,
    Upload,
    Version,
)
from manyhats_client.packing import Part

T = TypeVar("T")

OneInput = str | Mapping[str, str]
Inputs = OneInput | Iterable[OneInput]
"""A text, a pair (`{"text": ..., "text_pair": ...}`), or many of them."""

Split = Mapping[int, float] | Sequence[Mapping[str, Any]]
"""Weights by version (`{2: 90, 3: 10}`), or the interface's own list of `{"version", "weight"}`."""


class Question(TypedDict):
    """One question of `predict_many`."""

    task: str
    inputs: Inputs
    parameters: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One request, and how its answer is read. `retry`: whether a refusal may be tried again."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Any = None
    params: Mapping[str, str] | None = None
    form: Mapping[str, str] | None = None
    files: Sequence[Part] | None = None
    timeout: float | None = None
    retry: bool = True

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, against the address that `http` has."""
        return http.build_request(
            self.method,
            self.path,
            json=self.json,
            params=self.params,
            data=self.form,
            files=self.files,
            timeout=httpx.USE_CLIENT_DEFAULT if self.timeout is None else self.timeout,
        )


def exception_of(failure: Failure) -> APIError:
    """The exception that `predict` would have raised for one failed item."""
    code = failure.error.code
    return from_body(code if isinstance(code, int) else 500, failure.error)


# ---- asking


def predict(task: str, inputs: Inputs, parameters: Mapping[str, Any]) -> Operation[Prediction]:
    """Asks one task."""
    return Operation("POST", _path(task, "predict"), _prediction, json=_request_body(inputs, parameters))


def predict_many(questions: Iterable[Question]) -> Operation[list[Result]]:
    """Asks many questions at once."""
    requests = [{"task": q["task"]} | _request_body(q["inputs"], q.get("parameters", {})) for q in questions]
    return Operation("POST", "/v1/predict", _results(len(requests)), json={"requests": requests})


def predict_tasks(
    tasks: Iterable[str],
    inputs: Inputs,
    parameters: Mapping[str, Any],
) -> Operation[list[Result]]:
    """Asks several tasks about the same inputs."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    body = {"tasks": names} | _request_body(inputs, parameters)
    return Operation("POST", "/v1/predict", _results(len(names)), json=body)


def _request_body(inputs: Inputs, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if parameters.get("stream"):
        raise ValueError("this client does not stream; the server's OpenAI routes do, with any OpenAI client")
    plain: Any = inputs
    if isinstance(inputs, Mapping):
        plain = dict(inputs)
    elif not isinstance(inputs, str):
        plain = [one if isinstance(one, str) else dict(one) for one in inputs]
    return {"inputs": plain} | ({"parameters": dict(parameters)} if parameters else {})


# ---- tasks


def tasks(limit: int, page_token: str | None) -> Operation[TaskPage]:
    """One page of the list of tasks."""
    params = {"limit": str(limit)} | ({"page_token": page_token} if page_token else {})
    return Operation("GET", "/v1/tasks", _task_page, params=params)


def task(name: str) -> Operation[TaskDetails]:
    """One task."""
    return Operation("GET", _path(name), _details)


def configure(name: str, settings: Mapping[str, Any]) -> Operation[TaskDetails]:
    """Sets what is not weights."""
    return Operation("PUT", _path(name), _details, json=dict(settings))


def delete(name: str) -> Operation[None]:
    """Takes a task away."""
    return Operation("DELETE", _path(name), _nothing)


def set_alias(name: str, alias: str, target: int | Split) -> Operation[TaskDetails]:
    """Points an alias at a version or a split."""
    body: dict[str, Any]
    if isinstance(target, int):
        body = {"version": target}
    elif isinstance(target, Mapping):
        body = {"split": [{"version": version, "weight": weight} for version, weight in target.items()]}
    else:
        body = {"split": [dict(one) for one in target]}
    return Operation("PUT", _path(name, "aliases", alias), _details, json=body)


def delete_alias(name: str, alias: str) -> Operation[TaskDetails]:
    """Removes an alias."""
    return Operation("DELETE", _path(name, "aliases", alias), _details)


def rollback(name: str, version: int | None) -> Operation[TaskDetails]:
    """Points `stable` back."""
    body = None if version is None else {"version": version}
    return Operation("POST", _path(name, "rollback"), _details, json=body)


def placement(name: str, verb: str) -> Operation[TaskDetails]:
    """`load`, `unload`, `pin` or `unpin`."""
    return Operation("POST", _path(name, verb), _details)


# ---- versions


def upload(
    name: str, parts: Sequence[Part], alias: str, activate: bool, settings: Mapping[str, Any] | None
) -> Operation[Upload]:
    """Makes a version of an adapter's files."""
    form = {"alias": alias, "activate": "true" if activate else "false"}
    if settings is not None:
        form["task"] = json.dumps(dict(settings), ensure_ascii=False)
    return Operation("POST", _path(name, "versions"), _upload, form=form, files=parts)


def version(name: str, number: int) -> Operation[Version]:
    """One version."""
    return Operation("GET", _path(name, "versions", str(number)), _version)


def delete_version(name: str, number: int) -> Operation[None]:
    """Removes a version."""
    return Operation("DELETE", _path(name, "versions", str(number)), _nothing)


def download(name: str, number: int) -> Operation[None]:
    """A version's files; the answer's body is the archive."""
    return Operation("GET", _path(name, "versions", str(number), "download"), _nothing)


# ---- the server


def health() -> Operation[Health]:
    """Whether the process lives."""
    return Operation("GET", "/healthz", _health)


def ready(timeout: float | None = None) -> Operation[None]:
    """Whether the server can answer now: 503 is the answer, so it is not tried again."""
    return Operation("GET", "/readyz", _nothing, timeout=timeout, retry=False)


# ---- paths and answers


def _path(*segments: str) -> str:
    """The path under `/v1/tasks`, each segment percent-encoded."""
    for segment in segments:
        if segment in ("", ".", ".."):  # these would name another route
            raise ValueError(f"{segment!r} is not a name")
    return "/".join(["/v1/tasks", *(quote(segment, safe="") for segment in segments)])


def _reader(kind: Any) -> Callable[[httpx.Response], Any]:
    adapter = TypeAdapter(kind)

    def read(response: httpx.Response) -> Any:
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise InvalidAnswer(
                f"{response.url} answered {response.status_code} in a form that is not understood: "
                f"{where}: {first['msg']}; is it a Manyhats server?"
            ) from error

    return read


_prediction: Callable[[httpx.Response], Prediction] = _reader(Prediction)
_many: Callable[[httpx.Response], Results] = _reader(Results)
_task_page: Callable[[httpx.Response], TaskPage] = _reader(TaskPage)
_details: Callable[[httpx.Response], TaskDetails] = _reader(TaskDetails)
_version: Callable[[httpx.Response], Version] = _reader(Version)
_health: Callable[[httpx.Response], Health] = _reader(Health)
_uploaded: Callable[[httpx.Response], Upload] = _reader(Upload)


def _upload(response: httpx.Response) -> Upload:
    answer = _uploaded(response)
    answer.new = response.status_code == httpx.codes.CREATED
    return answer


def _results(count: int) -> Callable[[httpx.Response], list[Result]]:
    def read(response: httpx.Response) -> list[Result]:
        results = _many(response).results
        if len(results) != count:
            raise InvalidAnswer(f"{response.url} gave {len(results)} results for {count} questions")
        return results

    return read


def _nothing(response: httpx.Response) -> None:
    """For answers whose status says it all."""
