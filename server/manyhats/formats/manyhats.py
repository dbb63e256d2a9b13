"""Our own adapter folders: `manyhats.json` + `weights.safetensors`, for methods that no library has a format for.

The same `manyhats.json` with the format `manyhats-task/1` stands beside another library's files and says what those
have no place for: labels, template, the backbone's digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import Remaining, read_json, read_tensors, write_json, write_tensors
from manyhats.methods.adapter import Adapter
from manyhats.methods.base import Part
from manyhats.methods.heads import Head, Kind, Layer, Reads
from manyhats.methods.mask import MaskConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

FILE = "manyhats.json"
WEIGHTS = "weights.safetensors"
_TASK: Literal["manyhats-task/1"] = "manyhats-task/1"
_MASK: Literal["manyhats-mask/1"] = "manyhats-mask/1"


class HeadDescription(BaseModel):
    """The head whose tensors are `head.<n>.weight` and `head.<n>.bias`."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    reads: Reads
    activations: list[str | None] = Field(min_length=1)  # one for each layer

    @model_validator(mode="after")
    def _fits(self) -> HeadDescription:
        if self.kind == "embed" or (self.kind == "tokens") != (self.reads == "tokens"):
            raise ValueError(f"a head of kind '{self.kind}' cannot read '{self.reads}'")
        return self


class Description(BaseModel):
    """`manyhats.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["manyhats-task/1", "manyhats-mask/1"]
    base_model_name_or_path: str | None = None
    base_sha256: str | None = None  # see backbone.loading.digest
    head: HeadDescription | None = None
    task: dict[str, Any] = Field(default_factory=dict)  # settings: labels, template, max_tokens, ...

    # manyhats-mask/1
    shapes: dict[str, tuple[int, int]] = Field(default_factory=dict)
    bit_order: Literal["little"] = "little"
    keep_is_one: Literal[True] = True
    zeros_fraction: float | None = None


def describe(folder: Path, backbone: Backbone) -> Description | None:
    """`manyhats.json`, checked against the backbone; None where there is none."""
    if not (folder / FILE).exists():
        return None
    try:
        description = Description.model_validate(read_json(folder / FILE))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{FILE}: {field}: {first['msg']}", param=field) from None
    if description.base_sha256 not in (None, backbone.sha256):
        raise AdapterMismatch(
            f"the adapter was made for a backbone with sha256 {description.base_sha256} "
            f"({description.base_model_name_or_path}), but {backbone.name} has {backbone.sha256}",
            param="base_sha256",
        )
    if description.format == _TASK and (description.head or description.shapes):
        raise InvalidRequest(
            f"{FILE} of the format {_TASK} stands beside another library's files and has no 'head' and no 'shapes'",
            param="head" if description.head else "shapes",
        )
    return description


def read(folder: Path, description: Description, backbone: Backbone) -> Adapter:
    """Reads an adapter in our own format. Raises InvalidRequest or AdapterMismatch with the reason."""
    remaining = Remaining(read_tensors(folder / WEIGHTS), WEIGHTS)
    sites: dict[str, dict[str, Tensor]] = {}
    for name in remaining.names():
        if name.endswith(".mask"):
            tensor = remaining.take(name)
            assert tensor is not None
            sites[name.removesuffix(".mask")] = {"mask": tensor}
    if sites.keys() != description.shapes.keys():
        odd = sorted(sites.keys() ^ description.shapes.keys())[0]
        raise InvalidRequest(f"{FILE} and {WEIGHTS} do not mask the same weights: {odd}", param=odd)
    head = None
    if description.head is not None:
        layers = []
        for i, activation in enumerate(description.head.activations):
            weight = remaining.take(f"head.{i}.weight")
            if weight is None:
                raise InvalidRequest(f"{WEIGHTS} has no 'head.{i}.weight'", param=f"head.{i}.weight")
            layers.append(Layer(weight, remaining.take(f"head.{i}.bias"), activation))
        head = Head(description.head.kind, description.head.reads, tuple(layers))
    remaining.done()
    return Adapter(
        parts=(Part("mask", MaskConfig(shapes=description.shapes), sites),),
        head=head,
        kind="embed" if head is None else head.kind,
        matched_tensors=remaining.taken,
        base=description.base_model_name_or_path,
        settings=description.task,
    )


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a mask adapter in our own format."""
    (part,) = adapter.parts
    assert isinstance(part.config, MaskConfig)
    tensors = {f"{site}.mask": leaves["mask"] for site, leaves in part.tensors.items()}
    head = None
    if adapter.head is not None:
        head = HeadDescription(
            kind=adapter.head.kind,
            reads=adapter.head.reads,
            activations=[layer.activation for layer in adapter.head.layers],
        )
        for i, layer in enumerate(adapter.head.layers):
            tensors[f"head.{i}.weight"] = layer.weight
            if layer.bias is not None:
                tensors[f"head.{i}.bias"] = layer.bias
    weights = sum(out * width for out, width in part.config.shapes.values())
    kept = sum(int(_ones(leaves["mask"])) for leaves in part.tensors.values())
    description = Description(
        format=_MASK,
        base_model_name_or_path=backbone.name,
        base_sha256=backbone.sha256,
        head=head,
        task=dict(adapter.settings),
        shapes=part.config.shapes,
        zeros_fraction=round(1 - kept / weights, 6),
    )
    write_json(folder / FILE, description.model_dump(exclude_none=True))
    write_tensors(folder / WEIGHTS, tensors)


def write_task(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes what another library's files have no place for."""
    description = Description(
        format=_TASK,
        base_model_name_or_path=backbone.name,
        base_sha256=backbone.sha256,
        task=dict(adapter.settings),
    )
    keep = {"format", "base_model_name_or_path", "base_sha256", "task"}
    write_json(folder / FILE, description.model_dump(include=keep))


def _ones(packed: Tensor) -> int:
    """How many bits are set."""
    return sum(int(((packed >> bit) & 1).sum()) for bit in range(8))
