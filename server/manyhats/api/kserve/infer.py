"""What `infer` reads and answers."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from manyhats.api.body import parse_bytes, read_body
from manyhats.api.json_response import json_bytes
from manyhats.api.kserve.tensors import InputTensor, OutputTensor, output_tensors
from manyhats.api.pooled import predict
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest, TooLarge
from manyhats.registry.names import BASE
from manyhats.serving.inference import InferenceResponse
from manyhats.serving.threads import SMALL_BODY, SMALL_OUTPUT, at_once_if

HEADER = "Inference-Header-Content-Length"
_PAIR = "text_pair"
# Parameters of the protocol, which are none of a task's.
_OF_PROTOCOL = frozenset(
    ("binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers")
)


class WantedParameters(BaseModel):
    """How an output is returned."""

    model_config = ConfigDict(extra="allow")

    binary_data: StrictBool | None = None
    classification: Any = None


class WantedOutput(BaseModel):
    """An output that is wanted."""

    model_config = ConfigDict(extra="allow")

    name: StrictStr
    parameters: WantedParameters = Field(default_factory=WantedParameters)


class InferBody(BaseModel):
    """`POST /v2/models/{task}/infer`. One tensor of texts, and for pairs another one named `text_pair`.

    `parameters`: those of the task's kind.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a text", "another"]}],
                    "outputs": [{"name": "label"}],
                }
            ]
        },
    )

    id: StrictStr | None = None
    inputs: Many[InputTensor]
    outputs: Many[WantedOutput] | None = None
    parameters: dict[str, Any] | None = None


class Tensor(AnswerBody):
    """A tensor of an answer, its data in one row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class Inferred(AnswerBody):
    """The answer: each field of the task's answers as a tensor."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "model_name": "spam",
                    "model_version": "1",
                    "outputs": [{"name": "label", "datatype": "BYTES", "shape": [2], "data": ["spam", "ham"]}],
                }
            ]
        },
    )

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


async def infer(request: Request, task: str) -> Response:
    """Asks a task. Raises ManyhatsError."""
    body, texts = await _parsed(request)
    given = {name: value for name, value in (body.parameters or {}).items() if name not in _OF_PROTOCOL}
    for wanted in body.outputs or ():
        if wanted.parameters.classification is not None:
            raise InvalidRequest("'classification' is not supported; ask for 'label' or 'scores'", param="outputs")
    result = await predict(request, task, texts, given, kinds=(), field="inputs")
    return await at_once_if(result.size <= SMALL_OUTPUT, lambda: _answer(body, task, result))


async def _parsed(request: Request) -> tuple[InferBody, list[Text]]:
    """The body's JSON, and the texts of its tensors. Raises InvalidRequest or TooLarge."""
    data = await read_body(request)
    settings = runtime_of(request).settings
    size = len(data)
    if (given := request.headers.get(HEADER)) is not None:
        if not (given.isascii() and given.isdigit()) or len(given) > 12 or int(given) > len(data):
            raise InvalidRequest(f"{HEADER} is no number of bytes that the body has", param=HEADER)
        size = int(given)

    def parsed() -> tuple[InferBody, list[Text]]:
        body = parse_bytes(data[:size], InferBody, settings.max_values)
        return body, _texts(body, data[size:], settings.max_inputs)

    return await at_once_if(len(data) <= SMALL_BODY, parsed)


def _texts(body: InferBody, tail: bytes, most: int) -> list[Text]:
    """The inputs. Raises InvalidRequest for tensors that are not understood, and TooLarge for too many texts."""
    read: dict[str, list[str]] = {}
    for tensor in body.inputs:
        part = None
        if (size := tensor.binary_size) is not None:
            if size > len(tail):
                raise InvalidRequest(
                    f"the input '{tensor.name[:100]}' has {size} bytes, but the body ends before", param=tensor.name
                )
            part, tail = tail[:size], tail[size:]
        if tensor.name in read:
            raise InvalidRequest(f"the input '{tensor.name[:100]}' is there twice", param=tensor.name)
        read[tensor.name] = tensor.texts(part, most)
        if len(read[tensor.name]) > most:
            raise TooLarge(f"there are {len(read[tensor.name])} inputs; at most {most} in one call", param="inputs")
    if tail:
        raise InvalidRequest(f"{len(tail)} bytes at the body's end belong to no input", param="inputs")
    pairs = read.pop(_PAIR, None)
    if len(read) != 1:
        raise InvalidRequest(
            f"there are {len(read)} tensors of texts; give one, and for pairs another one named '{_PAIR}'",
            param="inputs",
        )
    (texts,) = read.values()
    if pairs is not None and len(pairs) != len(texts):
        raise InvalidRequest(f"there are {len(texts)} texts and {len(pairs)} of '{_PAIR}'", param=_PAIR)
    return [Text(text, None if pairs is None else pairs[i]) for i, text in enumerate(texts)]


def _answer(body: InferBody, task: str, result: InferenceResponse) -> Response:
    tensors = {tensor.name: tensor for tensor in output_tensors(result.outputs)}
    everywhere = (body.parameters or {}).get("binary_data_output") is True
    wanted: list[tuple[OutputTensor, bool]] = []
    for one in body.outputs or [WantedOutput(name=name) for name in tensors]:
        if one.name not in tensors:
            raise InvalidRequest(
                f"there is no output '{one.name[:100]}'; there are {', '.join(tensors)}", param="outputs"
            )
        binary = one.parameters.binary_data
        wanted.append((tensors[one.name], everywhere if binary is None else binary))
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor, binary in wanted:
        described = tensor.described()
        if binary:
            tail.append(tensor.as_bytes())
            described["parameters"] = described.get("parameters", {}) | {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = tensor.data
        outputs.append(described)
    answer: dict[str, Any] = {
        "model_name": task.partition("@")[0],
        "model_version": "" if result.version.task == BASE else str(result.version.number),
    }
    if body.id is not None:
        answer["id"] = body.id
    head = json_bytes(answer | {"outputs": outputs})
    if not tail:
        return Response(head, media_type="application/json")
    return Response(head + b"".join(tail), media_type="application/octet-stream", headers={HEADER: str(len(head))})
