"""`manyhats.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manyhats.core.kinds.embed import Embed
from manyhats.core.kinds.registry import KINDS, HeadlessKind, KnownKind
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import read_json
from manyhats.formats.native.names import FILE
from manyhats.messages import first_error
from manyhats.methods.fusion.config import FusionFlags
from manyhats.methods.heads import Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

TASK: Literal["manyhats-task/1"] = "manyhats-task/1"
Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

# Which of a description's fields belong to which format, besides those of all.
_FIELDS: dict[str, set[str]] = {
    TASK: set(),
    "manyhats-mask/1": {"head", "answers", "shapes", "bit_order", "keep_is_one", "zeros_fraction", "encoding"},
    "manyhats-sparse/1": {"head", "answers", "mode"},
    "manyhats-parts/1": {"head", "answers", "parts"},
    "manyhats-side/1": {"head", "answers", "kind", "side_model_config", "layers", "merge", "blend_at", "projection"},
    "manyhats-fusion/1": {"head", "answers", "members", "fusion"},
    "manyhats-stack/1": {"head", "answers", "members"},
    "manyhats-average/1": {"head", "answers", "members", "weights"},
}
_COMMON = {"format", "base_model_name_or_path", "base_sha256", "task"}


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
    """One part of an adapter, whose tensors are `<index>:<site>:<leaf>`. `config`: the method's own."""

    model_config = ConfigDict(extra="forbid")

    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    label: str | None = None


class Description(BaseModel):
    """`manyhats.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[
        "manyhats-task/1",
        "manyhats-mask/1",
        "manyhats-sparse/1",
        "manyhats-parts/1",
        "manyhats-side/1",
        "manyhats-fusion/1",
        "manyhats-stack/1",
        "manyhats-average/1",
    ]
    base_model_name_or_path: str | None = None
    base_sha256: str | None = None  # see backbone.loading.digest
    head: HeadDescription | None = None
    answers: HeadlessKind = Embed.name  # what an adapter without a head is for
    task: dict[str, Any] = Field(default_factory=dict)  # settings: labels, template, max_tokens, ...

    # manyhats-mask/1
    shapes: dict[str, tuple[int, int]] = Field(default_factory=dict)
    bit_order: Literal["little"] = "little"
    keep_is_one: Literal[True] = True
    zeros_fraction: float | None = None
    encoding: Literal["bits", "zeros_idx32"] = "bits"

    # manyhats-sparse/1
    mode: Literal["add", "replace", "replace_dense"] = "add"

    # manyhats-parts/1
    parts: list[ComponentDescription] = Field(default_factory=list, max_length=16)

    # manyhats-side/1: see methods.side
    kind: Literal["model", "layers"] = "model"
    side_model_config: dict[str, Any] = Field(default_factory=dict)
    layers: int = 0
    merge: Literal["alpha"] = "alpha"
    blend_at: Literal["last_hidden"] = "last_hidden"
    projection: Literal["linear"] | None = None

    # manyhats-fusion/1, manyhats-stack/1, manyhats-average/1: the sha256 of stored versions
    members: list[Sha] = Field(default_factory=list, max_length=64)
    fusion: FusionFlags = Field(default_factory=FusionFlags)
    weights: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None  # of an average; None: all alike

    @model_validator(mode="after")
    def _fits(self) -> Description:
        strange = self.model_fields_set - _COMMON - _FIELDS[self.format]
        if strange:
            beside = ", which stands beside another library's files," if self.format == TASK else ""
            raise ValueError(f"the format {self.format}{beside} has no '{min(strange)}'")
        if self.head is not None and self.answers != Embed.name:
            raise ValueError(f"with a head an adapter is of the head's kind, and does not '{self.answers}'")
        if "members" in _FIELDS[self.format] and len(self.members) < 2:
            raise ValueError(f"the format {self.format} needs two members or more")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"there are {len(self.weights)} weights for {len(self.members)} members")
        return self


def describe(folder: Path, backbone: Backbone) -> Description | None:
    """`manyhats.json`, checked against the backbone; None where there is none."""
    if not (folder / FILE).exists():
        return None
    try:
        # By JSON's own types: a text that reads like true is none.
        description = Description.model_validate_json(json.dumps(read_json(folder / FILE)), strict=True)
    except ValidationError as error:
        first = first_error(error)
        raise InvalidRequest(
            f"{FILE}: {first.field or first.type}: {first.message}", param=first.field or FILE
        ) from None
    if description.base_sha256 not in (None, backbone.sha256):
        raise AdapterMismatch(
            f"the adapter was made for a backbone with sha256 {description.base_sha256} "
            f"({description.base_model_name_or_path}), but {backbone.name} has {backbone.sha256}",
            param="base_sha256",
        )
    return description
