"""The calls about tasks, versions and the server: how a request looks, and how its answer is read.

Nothing here does input or output; `Client` and `AsyncClient` send what these functions describe.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from manyhats_client.answers import Failure
from manyhats_client.choices import CallOptions
from manyhats_client.errors import REQUEST_ID, APIError, InvalidAnswer, from_body, request_id_of
from manyhats_client.models import Alias, AuditPage, Health, Reply, TaskDetails, TaskPage, Upload, Version
from manyhats_client.packing import Part
from manyhats_client.transfer import CountedBody, Progress

T = TypeVar("T")

Split = Mapping[int, float] | Sequence[Mapping[str, Any]]
"""Weights by version (`{2: 90, 3: 10}`), or the interface's own list of `{"version", "weight"}`."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One request, and how its answer is read. `retry`: whether a refusal may be tried again.

    `progress`: is told the bytes of the body as they are sent. `accept`: another header than the client's own.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Any = None
    params: Mapping[str, str] | None = None
    form: Mapping[str, str] | None = None
    files: Sequence[Part] | None = None
    retry: bool = True
    progress: Progress | None = None
    accept: str | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient, options: CallOptions) -> httpx.Request:
        """The request, against the address that `http` has. It has an id, by which an error names it."""
        own = {REQUEST_ID: uuid.uuid4().hex} | ({"Accept": self.accept} if self.accept else {})
        headers = httpx.Headers(own)
        headers.update(options.get("headers"))
        request = http.build_request(
            self.method,
            self.path,
            json=self.json,
            params=self.params,
            data=self.form,
            files=self.files,
            headers=headers,
            timeout=options.get("timeout", httpx.USE_CLIENT_DEFAULT),
        )
        if self.progress is not None:
            request.stream = CountedBody(request, self.progress)
        return request


def exception_of(failure: Failure) -> APIError:
    """The exception that `predict` would have raised for one failed item."""
    code = failure.error.code
    return from_body(code if isinstance(code, int) else 500, failure.error).of(failure.request_id)


# ---- the audit log


def audit(limit: int, page_token: str | None, task: str | None) -> Operation[AuditPage]:
    """One page of the audit log."""
    params = {"limit": str(limit)} | ({"page_token": page_token} if page_token else {})
    params |= {"task": task} if task else {}
    return Operation("GET", "/v1/audit", _audit_page, params=params)


# ---- tasks


def tasks(limit: int, page_token: str | None, search: str | None) -> Operation[TaskPage]:
    """One page of the list of tasks."""
    params = {"limit": str(limit)} | ({"page_token": page_token} if page_token else {})
    params |= {"search": search} if search else {}
    return Operation("GET", "/v1/tasks", _task_page, params=params)


def task(name: str) -> Operation[TaskDetails]:
    """One task."""
    return Operation("GET", path(name), _details)


def configure(name: str, settings: Mapping[str, Any]) -> Operation[TaskDetails]:
    """Sets what is not weights."""
    return Operation("PUT", path(name), _details, json=dict(settings))


def delete(name: str) -> Operation[None]:
    """Takes a task away."""
    return Operation("DELETE", path(name), _nothing)


def set_alias(
    name: str, alias: str, target: int | Split, rollout: Mapping[str, Any] | None = None
) -> Operation[TaskDetails]:
    """Points an alias at a version or a split. `rollout`: what it has besides."""
    body: dict[str, Any]
    if isinstance(target, int):
        body = {"version": target}
    elif isinstance(target, Mapping):
        body = {"split": [{"version": version, "weight": weight} for version, weight in target.items()]}
    else:
        body = {"split": [dict(one) for one in target]}
    body |= {field: value for field, value in (rollout or {}).items() if value is not None}
    return Operation("PUT", path(name, "aliases", alias), _details, json=body)


def alias(name: str, alias: str) -> Operation[Alias]:
    """One alias."""
    return Operation("GET", path(name, "aliases", alias), _alias)


def delete_alias(name: str, alias: str) -> Operation[TaskDetails]:
    """Removes an alias."""
    return Operation("DELETE", path(name, "aliases", alias), _details)


def rollback(name: str, version: int | None) -> Operation[TaskDetails]:
    """Points `stable` back."""
    body = None if version is None else {"version": version}
    return Operation("POST", path(name, "rollback"), _details, json=body)


def placement(name: str, verb: str) -> Operation[TaskDetails]:
    """`load`, `unload`, `lift`, `pin` or `unpin`."""
    return Operation("POST", path(name, verb), _details)


# ---- versions


def upload(
    name: str,
    parts: Sequence[Part],
    alias: str,
    activate: bool,
    settings: Mapping[str, Any] | None,
    progress: Progress | None,
    gate: Mapping[str, Any] | None = None,
) -> Operation[Upload]:
    """Makes a version of an adapter's files. `gate`: how it is judged by the examples among the parts."""
    form = {"alias": alias, "activate": "true" if activate else "false"}
    if settings is not None:
        form["task"] = json.dumps(dict(settings), ensure_ascii=False)
    if gate is not None:
        form["gate"] = json.dumps({name: value for name, value in gate.items() if value is not None})
    return Operation("POST", path(name, "versions"), _upload, form=form, files=parts, progress=progress)


def upload_from(
    name: str,
    source: Mapping[str, str],
    alias: str,
    activate: bool,
    sha256: str | None,
    settings: Mapping[str, Any] | None,
    examples: Sequence[Mapping[str, Any]] | None,
    gate: Mapping[str, Any] | None,
) -> Operation[Upload]:
    """Makes a version of files that the server fetches. `gate`: how it is judged by `examples`."""
    body: dict[str, Any] = {"source": dict(source), "alias": alias, "activate": activate}
    if sha256 is not None:
        body["sha256"] = sha256
    if settings is not None:
        body["task"] = dict(settings)
    if examples is not None:
        body["examples"] = [dict(row) for row in examples]
        body["gate"] = {name: value for name, value in (gate or {}).items() if value is not None}
    return Operation("POST", path(name, "versions"), _upload, json=body)


def version(name: str, number: int) -> Operation[Version]:
    """One version."""
    return Operation("GET", path(name, "versions", str(number)), _version)


def delete_version(name: str, number: int) -> Operation[None]:
    """Removes a version."""
    return Operation("DELETE", path(name, "versions", str(number)), _nothing)


def download(name: str, number: int) -> Operation[None]:
    """A version's files; the answer's body is the archive."""
    return Operation("GET", path(name, "versions", str(number), "download"), _nothing)


# ---- the server


def health() -> Operation[Health]:
    """Whether the process lives."""
    return Operation("GET", "/healthz", _health)


def ready() -> Operation[None]:
    """Whether the server can answer now: 503 is the answer, so it is not tried again."""
    return Operation("GET", "/readyz", _nothing, retry=False)


# ---- paths and answers


def path(*segments: str) -> str:
    """The path under `/v1/tasks`, each segment percent-encoded."""
    for segment in segments:
        if segment in ("", ".", ".."):  # these would name another route
            raise ValueError(f"{segment!r} is not a name")
    return "/".join(["/v1/tasks", *(quote(segment, safe="") for segment in segments)])


def reader(kind: Any) -> Callable[[httpx.Response], Any]:
    adapter = TypeAdapter(kind)

    def read(response: httpx.Response) -> Any:
        try:
            answer = adapter.validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise InvalidAnswer(
                f"{response.url} answered {response.status_code} in a form that is not understood: "
                f"{where}: {first['msg']}; is it a Manyhats server?"
            ).of(request_id_of(response)) from error
        if isinstance(answer, Reply):
            answer.request_id = request_id_of(response)
        return answer

    return read


_audit_page: Callable[[httpx.Response], AuditPage] = reader(AuditPage)
_task_page: Callable[[httpx.Response], TaskPage] = reader(TaskPage)
_details: Callable[[httpx.Response], TaskDetails] = reader(TaskDetails)
_version: Callable[[httpx.Response], Version] = reader(Version)
_alias: Callable[[httpx.Response], Alias] = reader(Alias)
_health: Callable[[httpx.Response], Health] = reader(Health)
_uploaded: Callable[[httpx.Response], Upload] = reader(Upload)


def _upload(response: httpx.Response) -> Upload:
    answer = _uploaded(response)
    answer.new = response.status_code == httpx.codes.CREATED
    return answer


def _nothing(response: httpx.Response) -> None:
    """For answers whose status says it all."""
