"""The formats of methods: what is written in them is read back, as is what was written in parts before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.component import Component
from manyhats.methods.registry import METHODS
from manyhats.methods.side import SIDE_SITE
from manyhats.methods.sparse import SparseConfig
from safetensors.torch import save_file

from tests import every, tiny

TEXTS = tiny.texts([1, 8, 30], seed=31)


def _trained(backbone: Backbone, method: str, **options: Any) -> Component[Any]:
    """What training would save, after a step that moved every weight by chance."""
    generator = torch.Generator().manual_seed(5)
    trainable = METHODS[method].trainable(backbone, options, generator)
    for stage in range(trainable.stages):
        if stage:
            trainable.advance()
        with torch.no_grad():
            for parameter in trainable.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return trainable.component()


def _with_projection(component: Component[Any], backbone: Backbone) -> Component[Any]:
    """A side network whose states are turned before they are blended."""
    width = backbone.output_width
    leaves = dict(component.tensors[SIDE_SITE])
    leaves |= {"projection.weight": torch.eye(width).roll(1, 0), "projection.bias": torch.full((width,), 0.1)}
    return replace(component, tensors={SIDE_SITE: leaves})


def _replacing(component: Component[Any], backbone: Backbone) -> Component[Any]:
    """The same values in place of the backbone's."""
    return replace(component, config=SparseConfig(mode="replace"))


CASES: dict[str, tuple[str, Callable[[Backbone], Component[Any]]]] = {
    "mask": ("manyhats-mask/1", lambda b: _trained(b, "mask", initial_sparsity=0.3)),
    "sparse": ("manyhats-sparse/1", lambda b: _trained(b, "sparse")),
    "diff-pruning": ("manyhats-sparse/1", lambda b: _trained(b, "sparse", relaxation="l0")),
    "sparse, replacing": ("manyhats-sparse/1", lambda b: _replacing(_trained(b, "sparse"), b)),
    "sparse, whole parameters": ("manyhats-sparse/1", lambda b: _trained(b, "sparse", pick="parameters", share=0.2)),
    "side": ("manyhats-side/1", lambda b: _trained(b, "side", start="fresh")),
    "side, projected": ("manyhats-side/1", lambda b: _with_projection(_trained(b, "side"), b)),
}


def _adapter(component: Component[Any], backbone: Backbone) -> Adapter:
    head = tiny.head(backbone, "classify", 2, 3)
    return Adapter(components=(component,), head=head, kind="classify", matched_tensors=1)


def _write_parts(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """The files that were written before methods had formats of their own."""
    (component,) = adapter.components
    described = {"method": component.method, "config": component.config.model_dump(mode="json")}
    if component.label is not None:
        described["label"] = component.label
    assert adapter.head is not None
    description = {
        "format": "manyhats-parts/1",
        "base_sha256": backbone.sha256,
        "head": {
            "kind": adapter.head.kind,
            "reads": adapter.head.reads,
            "activations": [layer.activation for layer in adapter.head.layers],
        },
        "parts": [described],
    }
    (folder / "manyhats.json").write_text(json.dumps(description))
    tensors = {f"0:{s}:{n}": t.contiguous() for s, leaves in component.tensors.items() for n, t in leaves.items()}
    for i, layer in enumerate(adapter.head.layers):
        tensors[f"head.{i}.weight"] = layer.weight
        if layer.bias is not None:
            tensors[f"head.{i}.bias"] = layer.bias
    save_file(tensors, folder / "weights.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_component_is_read_back_from_its_methods_format_and_from_parts(
    bert: Backbone, tmp_path: Path, name: str
) -> None:
    wanted, make = CASES[name]
    first = _adapter(make(bert), bert)
    first.check(bert)
    folders = {"own": tmp_path / "own", "parts": tmp_path / "parts"}
    for folder in folders.values():
        folder.mkdir()
    write_adapter(first, folders["own"], bert)
    _write_parts(first, folders["parts"], bert)
    assert json.loads((folders["own"] / "manyhats.json").read_text())["format"] == wanted
    answers = tiny.ask(bert, first, TEXTS)
    for folder in folders.values():
        again = read_adapter(folder, bert)
        (component,) = again.components
        assert (component.method, component.config, component.label) == (
            first.components[0].method, first.components[0].config, first.components[0].label
        )  # fmt: skip
        assert component.tensors.keys() == first.components[0].tensors.keys()
        for site, leaves in first.components[0].tensors.items():
            assert component.tensors[site].keys() == leaves.keys()
            for leaf, tensor in leaves.items():
                assert torch.equal(component.tensors[site][leaf], tensor)
        assert tiny.difference(tiny.ask(bert, again, TEXTS), answers) == 0


@pytest.mark.parametrize("name", ["shira", "bias", "two"])
def test_what_a_methods_format_has_no_place_for_is_written_in_parts(bert: Backbone, tmp_path: Path, name: str) -> None:
    own = every.parts(bert)
    components = {
        "shira": (replace(own["sparse"], label="shira"),),  # a name that the format cannot hold
        "bias": (_trained(bert, "parameters", which="biases"),),
        "two": (own["sparse"], own["lora"]),
    }[name]
    first = replace(_adapter(components[0], bert), components=components)
    write_adapter(first, tmp_path, bert)
    assert json.loads((tmp_path / "manyhats.json").read_text())["format"] == "manyhats-parts/1"
    again = read_adapter(tmp_path, bert)
    assert again.method == first.method
    assert tiny.difference(tiny.ask(bert, again, TEXTS), tiny.ask(bert, first, TEXTS)) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "manyhats-sparse/1", "shapes": {}}, "Value error, the format manyhats-sparse/1 has no 'shapes'"),
        ({"format": "manyhats-side/1", "mode": "add"}, "Value error, the format manyhats-side/1 has no 'mode'"),
        ({"format": "manyhats-mask/1", "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"format": "manyhats-mask/2"}, "format: Input should be 'manyhats-task/1', "),
        ({"format": ["x"]}, "format: Input should be 'manyhats-task/1', "),
        ({}, "format: Field required"),
        ({"format": "manyhats-sparse/1", "mode": "times"}, "mode: Input should be 'add', 'replace' or 'replace_dense'"),
        ({"format": "manyhats-stack/1", "members": []}, "the format manyhats-stack/1 needs two members or more"),
        (
            {"format": "manyhats-task/1", "answers": "embed"},
            "the format manyhats-task/1, which stands beside another library's files, has no 'answers'",
        ),
    ],
)
def test_fields_that_a_format_has_not(bert: Backbone, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_adapter(_adapter(tiny.component(bert, "mask", 1), bert), tmp_path, bert)
    (tmp_path / "manyhats.json").write_text(json.dumps(fields))
    with pytest.raises(InvalidRequest) as error:
        read_adapter(tmp_path, bert)
    assert message in str(error.value)
