"""`manyhats.json`: fields that all formats share, and those of one format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from manyhats.core.kinds.embed import Embed
from manyhats.core.kinds.registry import KINDS, HeadlessKind, KnownKind
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import read_json
from manyhats.formats.native.names import FILE
from manyhats.messages import first_error
from manyhats.methods.heads import Reads
from manyhats.methods.libraries.native import NativeFields, NativeFormat
from manyhats.methods.registry import COMPOSITIONS, METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

TASK = "manyhats-task/1"  # with another library's files
PARTS = "manyhats-parts/1"  # components of any method

_Model = TypeVar("_Model", bound=BaseModel)


class HeadDescription(BaseModel):
    """The head whose tensors are `head.<n>.weight` and `head.<n>.bias`."""

    model_config = ConfigDict(extra="forbid")

    kind: KnownKind
    reads: Reads
    activations: list[str | None] = Field(min_length=1)  # one for each layer

    @model_validator(mode="after")
    def _fits(self) -> HeadDescription:
        spec = KINDS[self.kind].head
        if spec is None or self.reads not in spec.reads:
            raise ValueError(f"a head of kind '{self.kind}' cannot read '{self.reads}'")
        return self


class ComponentDescription(BaseModel):
    """One component of an adapter, whose tensors are `<index>:<site>:<name>`. `config`: the method's."""

    model_config = ConfigDict(extra="forbid")

    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    label: str | None = None


class PartsFields(NativeFields):
    """`parts`: in the order in which they act."""

    parts: list[ComponentDescription] = Field(default_factory=list, max_length=16)


# The models of the fields, by the name of the format.
METHOD_FORMATS: dict[str, NativeFormat[Any]] = {
    method.native.name: method.native for method in METHODS.values() if method.native is not None
}
FIELDS: dict[str, type[NativeFields]] = {
    TASK: NativeFields,
    PARTS: PartsFields,
    **{name: format.fields for name, format in METHOD_FORMATS.items()},
    **{name: composition.fields for name, composition in COMPOSITIONS.items()},
}
_NAMED = [f"'{name}'" for name in FIELDS]
_EXPECTED = f"Input should be {', '.join(_NAMED[:-1])} or {_NAMED[-1]}"


class CommonFields(BaseModel):
    """The fields of all formats; `manyhats-task/1` has neither `head` nor `answers`."""

    model_config = ConfigDict(extra="forbid")

    format: str
    base_model_name_or_path: str | None = None
    base_sha256: str | None = None  # see backbone.digest
    head: HeadDescription | None = None
    answers: HeadlessKind = Embed.name  # the kind of an adapter without a head
    task: dict[str, Any] = Field(default_factory=dict)  # settings: labels, template, max_tokens, ...

    @field_validator("format", mode="before")
    @classmethod
    def _known(cls, name: Any) -> Any:
        if not isinstance(name, str) or name not in FIELDS:
            raise PydanticCustomError("literal_error", "{expected}", {"expected": _EXPECTED})
        return name

    @model_validator(mode="after")
    def _fits(self) -> CommonFields:
        if self.head is not None and self.answers != Embed.name:
            raise ValueError(f"with a head an adapter is of the head's kind, and does not '{self.answers}'")
        return self


@dataclass(frozen=True, slots=True)
class Description:
    """`manyhats.json`: `common`: the fields of all formats, and `fields`, those of this one."""

    common: CommonFields
    fields: NativeFields

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, as in the file."""
        options: dict[str, Any] = {"exclude_none": True, "exclude_unset": True, "mode": "json"}
        return self.common.model_dump(**options) | self.fields.model_dump(**options)


def describe(folder: Path, backbone: Backbone) -> Description | None:
    """`manyhats.json`, checked against the backbone; None where there is none.

    Raises InvalidRequest for fields that are wrong or not of its format, AdapterMismatch for another backbone's.
    """
    if not (folder / FILE).exists():
        return None
    data = read_json(folder / FILE)
    common = _validated(CommonFields, data)
    model = FIELDS[common.format]
    fields = _validated(model, data)
    _reject_others(data, model, common.format)
    if common.base_sha256 not in (None, backbone.sha256):
        raise AdapterMismatch(
            f"the adapter was made for a backbone with sha256 {common.base_sha256} "
            f"({common.base_model_name_or_path}), but {backbone.name} has {backbone.sha256}",
            param="base_sha256",
        )
    return Description(common, fields)


def _validated(model: type[_Model], data: Mapping[str, Any]) -> _Model:
    """The fields of a model among the file's. Raises InvalidRequest for the first that is wrong."""
    own = {name: value for name, value in data.items() if name in model.model_fields}
    try:
        # Strict, so that the text "true" is not a truth value.
        return model.model_validate_json(json.dumps(own), strict=True)
    except ValidationError as error:
        first = first_error(error)
        raise InvalidRequest(
            f"{FILE}: {first.field or first.type}: {first.message}", param=first.field or FILE
        ) from None


def _reject_others(data: Mapping[str, Any], model: type[NativeFields], format: str) -> None:
    """Raises InvalidRequest for a field that no format has, or that belongs to another."""
    of_all = CommonFields.model_fields.keys()
    for name in data:
        if name not in of_all and not any(name in other.model_fields for other in FIELDS.values()):
            raise InvalidRequest(f"{FILE}: {name}: Extra inputs are not permitted", param=name)
    allowed = of_all | model.model_fields.keys()
    if format == TASK:
        allowed = allowed - {"head", "answers"}
    others = data.keys() - allowed
    if others:
        where = ", which stands beside another library's files," if format == TASK else ""
        raise InvalidRequest(
            f"{FILE}: value_error: Value error, the format {format}{where} has no '{min(others)}'", param=FILE
        )
