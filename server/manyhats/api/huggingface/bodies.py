"""The bodies of requests of Hugging Face's clients, and the fields of each pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, TypeAdapter, ValidationError

from manyhats.api.known_fields import CHANGE_POOLED, Known, reject_unsupported
from manyhats.api.lorax import Parameters
from manyhats.api.relevance import Compared
from manyhats.api.schemas import Many
from manyhats.errors import InvalidRequest
from manyhats.messages import first_error

M = TypeVar("M", bound=BaseModel)

_NEVER = Known()
# Of pipelines' parameters those that change answers and are not supported.
_CHANGE_ANSWERS: Mapping[str, Known] = {
    **CHANGE_POOLED,
    "align_to_words": Known((False,)),
    "doc_stride": _NEVER,
    "handle_impossible_answer": Known((False,)),
    "max_question_len": _NEVER,
    "max_seq_len": _NEVER,
    "stride": _NEVER,
    "ignore_labels": Known((["O"],)),
    "targets": _NEVER,
    "candidate_labels": _NEVER,
    "hypothesis_template": _NEVER,
    "multi_label": Known((), "use 'function_to_apply'"),
    "truncation_direction": Known(("right", "Right")),
    "truncation": Known((), "use 'truncate'"),
    "padding": Known((False,)),
}


class HubBody(BaseModel):
    """`POST /`. What `inputs` and `parameters` are depends on the task's kind.

    `parameters.adapter_id` or `model` names the task. The client sends parameters of embeddings at the top.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"inputs": "a text", "parameters": {"adapter_id": "spam", "top_k": 2}},
                {"inputs": {"question": "Who?", "context": "a text"}, "model": "answers"},
                {"inputs": {"source_sentence": "a text", "sentences": ["one", "two"]}},
            ]
        },
    )

    inputs: Any = None
    parameters: Parameters | None = None
    model: StrictStr | None = None
    stream: StrictBool | None = None

    @property
    def given(self) -> Parameters:
        """The parameters; where there are none, none of them is set."""
        return self.parameters or Parameters()

    @property
    def compares(self) -> bool:
        """Whether the inputs are a text and others to compare it with."""
        return isinstance(self.inputs, dict) and "source_sentence" in self.inputs

    def read(self, model: type[M]) -> M:
        """The parameters of a pipeline, at the top or in `parameters`.

        Raises InvalidRequest for one that changes answers and is not supported, by name, and for a wrong value.
        """
        inner = self.given.model_dump(exclude_unset=True, exclude={"adapter_id", "adapter_source", "merged_adapters"})
        fields = {**(self.model_extra or {}), **inner}
        reject_unsupported(fields, model.model_fields, _CHANGE_ANSWERS)
        return checked(TypeAdapter(model), fields, "parameters")


class Pair(BaseModel):
    """A text, or a pair of them."""

    text: StrictStr
    text_pair: StrictStr | None = None


class Asked(BaseModel):
    """A question, and the text that has its answer."""

    question: StrictStr
    context: StrictStr


TEXTS: TypeAdapter[Any] = TypeAdapter(StrictStr | Pair | Many[StrictStr | Pair])
ASKED: TypeAdapter[Any] = TypeAdapter(Asked | Many[Asked])
COMPARED: TypeAdapter[Any] = TypeAdapter(Compared)


class Truncating(BaseModel):
    """Whether inputs that are too long are truncated."""

    truncate: StrictBool | None = None


_TopK = Annotated[StrictInt, Field(ge=1)] | None


class Classifying(Truncating):
    """Parameters of `text-classification`."""

    function_to_apply: StrictStr | None = None
    top_k: _TopK = None


class Tagging(Truncating):
    """Parameters of `token-classification`."""

    aggregation_strategy: StrictStr | None = None


class Answering(Truncating):
    """Parameters of `question-answering`."""

    top_k: _TopK = None
    max_answer_len: Annotated[StrictInt, Field(ge=1)] | None = None


class Filling(Truncating):
    """Parameters of `fill-mask`."""

    top_k: _TopK = None


class Embedding(Truncating):
    """Parameters of `feature-extraction`."""

    normalize: StrictBool | None = None
    prompt_name: StrictStr | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    encoding_format: StrictStr | None = None


def checked(adapter: TypeAdapter[M], value: Any, field: str) -> M:
    """A value of a body by its type. Raises InvalidRequest that names the first part that is wrong."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = first_error(error)
        where = f"{field}.{first.field}" if first.field else field
        raise InvalidRequest(f"{where}: {first.message}", param=where) from None
