"""What routes of other servers share that ask for what one pass answers: vectors, labels and scores."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.api.known_fields import CHANGE_POOLED, reject_unsupported
from manyhats.api.model_names import task_of, unknown_model
from manyhats.api.schemas import AnswerBody, Timeout
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.core.kinds.base import Output
from manyhats.core.vectors import unit_vectors
from manyhats.errors import InvalidRequest, NotFound
from manyhats.registry.names import BASE
from manyhats.serving.inference import InferenceRequest, InferenceResponse

# The kinds of task whose answers routes for vectors, labels and relevance understand.
VECTORS, LABELS, TOKENS, RELEVANCE = ("embed",), ("classify",), ("tokens",), ("rerank",)


class PooledBody(BaseModel):
    """What such requests have in common.

    Fields that are not known are taken and mean nothing; those that are known to change answers stand in
    `api.known_fields`, or are declared.
    """

    model_config = ConfigDict(extra="allow")

    timeout: Timeout | None = None

    model: Annotated[StrictStr, Field(min_length=1)] | None = None
    truncate: StrictBool | None = None
    truncate_prompt_tokens: Annotated[StrictInt, Field(ge=-1)] | None = None

    def check(self, followed: Collection[str] = ()) -> None:
        """Raises InvalidRequest for a field that changes answers and is not `followed`."""
        reject_unsupported(self.model_extra, followed, CHANGE_POOLED)


def truncation(body: PooledBody, request: Request) -> dict[str, Any]:
    """Whether inputs that are too long are truncated, as a parameter.

    Raises InvalidRequest for a number of tokens: inputs are truncated to what the task takes.
    """
    tokens = body.truncate_prompt_tokens
    if tokens is None:
        return {} if body.truncate is None else {"truncate": body.truncate}
    longest = runtime_of(request).backbone.max_tokens
    if 0 <= tokens < longest:
        raise InvalidRequest(
            f"'truncate_prompt_tokens' {tokens} is not supported; give -1, which truncates to what the task takes",
            param="truncate_prompt_tokens",
        )
    return {"truncate": True}


async def predict(
    request: Request,
    model: str | None,
    texts: Sequence[Text],
    parameters: Mapping[str, Any],
    *,
    kinds: Sequence[str],
    tokens: Sequence[Sequence[int]] | None = None,
    field: str = "input",
    affinity: str | None = None,
) -> InferenceResponse:
    """Asks the task that `model` names, else the bare backbone. `field`: what the inputs are called in the body.
    `affinity`: whose version of a split it is.

    Raises ManyhatsError, among them InvalidRequest where the task is of none of the `kinds`.
    """
    runtime = runtime_of(request)
    task = BASE if model is None else task_of(runtime, model)
    inference = InferenceRequest(
        task,
        texts,
        parameters,
        prompts=tokens,
        kinds=kinds,
        names={name: name for name in parameters},
        affinity=affinity,
    )
    try:
        return await cancel_on_disconnect(request, runtime.service.predict(inference))
    except NotFound:
        raise unknown_model(model or BASE) from None
    except InvalidRequest as error:
        first, _, rest = (error.param or "").partition(".")
        if first in ("inputs", "prompt"):
            error.param = f"{field}.{rest}" if rest else field
        raise


def vectors(result: InferenceResponse, dimensions: int | None = None, *, unit: bool = True) -> list[Output]:
    """The vectors of an answer.

    `dimensions`: only so many of each one's first numbers, which are made of length one again where `unit` is true.
    Raises InvalidRequest where a vector has fewer, or an answer has a vector for each token.
    """
    found: list[Output] = [output["embedding"] for output in result.outputs]
    if any(vector.ndim > 1 for vector in found):
        raise InvalidRequest(
            "the task's pooling is 'none', which gives a vector for each token; ask it with "
            f"POST /v1/tasks/{result.version.task}/predict or POST /embed_all",
            param="model",
        )
    return found if dimensions is None else [shortened(vector, dimensions, unit=unit) for vector in found]


def shortened(vector: Output, dimensions: int, *, unit: bool = True) -> Output:
    """A vector's first numbers, or those of each of several, made of length one where `unit` is true.

    vector: (width,) or (tokens, width). Raises InvalidRequest where it has fewer.
    """
    width = vector.shape[-1]
    if dimensions > width:
        raise InvalidRequest(f"'dimensions' is {dimensions}, but the vectors have {width} numbers", param="dimensions")
    kept = np.ascontiguousarray(vector[..., :dimensions], dtype=np.float32)
    return unit_vectors(kept) if unit else kept


def as_base64(numbers: Any) -> str:
    """Numbers, in one list or in lists of one length, as little-endian float32 in base64."""
    return b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()


class Usage(AnswerBody):
    """How many tokens were read."""

    prompt_tokens: int
    total_tokens: int


def usage_of(result: InferenceResponse) -> dict[str, int]:
    """How many tokens were read."""
    return {"prompt_tokens": result.input_tokens, "total_tokens": result.input_tokens}


def with_warnings(body: dict[str, Any], *results: InferenceResponse) -> dict[str, Any]:
    """The body, and in it what the answers warn of: truncated inputs, for instance."""
    warnings = [
        {"input": one.input, "code": one.code, "message": one.message} for result in results for one in result.warnings
    ]
    return body | {"warnings": warnings} if warnings else body
