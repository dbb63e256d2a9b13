"""`parameters.merged_adapters`: several LoRA tasks merged for one request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manyhats.core.adapter import Adapter
from manyhats.errors import InvalidRequest
from manyhats.messages import first_error
from manyhats.methods.merging import METHOD, SignMethod, Strategy, merge_components
from manyhats.registry.records import Version

if TYPE_CHECKING:
    from manyhats.registry.registry import Registry

FIELD = "merged_adapters"


class MergeBody(BaseModel):
    """LoRAX's `merged_adapters`. `ids`: tasks; `weights`: one for each, by default 1."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(min_length=2, max_length=16)
    weights: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=list)
    merge_strategy: Strategy = "linear"
    density: float = Field(default=1.0, ge=0, le=1)
    majority_sign_method: SignMethod = "total"

    @model_validator(mode="after")
    def _fits(self) -> MergeBody:
        if self.weights and len(self.weights) != len(self.ids):
            raise ValueError(f"there are {len(self.weights)} weights for {len(self.ids)} ids")
        return self


@dataclass(frozen=True, slots=True)
class MergedVersion(Version):
    """A version that is not stored, but merged from its members. `head`: the version whose head it has."""

    members: tuple[Version, ...] = ()
    head: Version | None = None
    body: MergeBody | None = None


def parse(parameters: Mapping[str, Any]) -> tuple[MergeBody, dict[str, Any]]:
    """The field, and the parameters without it. Raises InvalidRequest that names what is wrong."""
    rest = dict(parameters)
    try:
        return MergeBody.model_validate(rest.pop(FIELD)), rest
    except ValidationError as error:
        first = first_error(error)
        name = ".".join([FIELD, *map(str, first.location)])
        raise InvalidRequest(f"parameters.{name}: {first.message}", param=f"parameters.{name}") from None


def open_merged(registry: Registry, body: MergeBody, requested: Version, base: bool) -> MergedVersion:
    """Pins every member, and returns the merged version. Raises NotFound for an unknown one.

    `requested`: the version that the request names, whose kind and head are used; `base`: whether it is the bare
    backbone.
    """
    pinned: list[Version] = []
    try:
        for ref in body.ids:
            pinned.append(registry.pin(ref))
    except Exception:
        for version in pinned:
            registry.unpin(version)
        raise
    head = None if base else requested
    content = body.model_dump() | {"ids": [v.sha256 for v in pinned], "head": head and head.sha256}
    sha = hashlib.sha256(b"merged:" + json.dumps(content, sort_keys=True).encode()).hexdigest()
    info = replace(requested.info, method=METHOD, bytes=sum(version.info.bytes for version in pinned))
    members = tuple(pinned)
    return MergedVersion(
        requested.task, requested.number, sha, info, requested.created, members=members, head=head, body=body
    )


def build(version: MergedVersion, read: Callable[[Version], Adapter]) -> Adapter:
    """The adapter; `read` reads a stored version. Raises InvalidRequest where the members cannot be merged."""
    assert version.body is not None
    body = version.body
    parts = []
    for member in version.members:
        adapter = read(member)
        if len(adapter.components) != 1:
            raise InvalidRequest(
                f"{member.ref} has {len(adapter.components)} parts ({adapter.method}); LoRAs of one part can be merged",
                param=f"parameters.{FIELD}.ids",
            )
        parts.append(adapter.components[0])
    weights = body.weights or [1.0] * len(parts)
    seed = int(version.sha256[:15], 16)
    part = merge_components(parts, weights, body.merge_strategy, body.density, body.majority_sign_method, seed)
    head_source = None if version.head is None else read(version.head)
    return Adapter(
        components=(part,),
        head=None if head_source is None else head_source.head,
        projection=None if head_source is None else head_source.projection,
        kind=head_source.kind if head_source is not None else version.info.kind,
        matched_tensors=sum(len(leaves) for leaves in part.tensors.values()),
    )
