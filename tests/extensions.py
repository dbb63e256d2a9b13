"""A method, a format, a kernel backend and a family of models that nothing else knows, each one subclass or entry.

Run as a program it puts them into their registries, before anything reads those, and uses them as any other: what is
known of a method, a format, a backend or a family stands in one place, or this fails (`tests/test_extending.py`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from manyhats.backbone import Backbone
from manyhats.backbone.families import FAMILIES
from manyhats.formats import registry as formats
from manyhats.formats.base import Format, ReadContext
from manyhats.kernels.base import Kernels, ScaleAdd
from manyhats.kernels.reference import Reference
from manyhats.kernels.registry import BACKENDS, Backend
from manyhats.kernels.segments import Segments
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape, in_dtype
from manyhats.methods.component import Component, MethodConfig, size_of
from manyhats.methods.libraries.peft import WRAPPER, FullName, PeftFiles, PeftType, PeftWriter, claim, linear_in
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.operations import OperationKind, Tables
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS
from manyhats.methods.sites import linear_site
from manyhats.methods.targets import target_sites
from torch import Tensor, nn

if TYPE_CHECKING:
    from manyhats.core.adapter import Adapter

# ---- a method: y += mean(x) * vector, by an operation of its own


class MeansConfig(MethodConfig):
    """Nothing."""


def _add_means(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    for start, stop, slot in segments:
        y[start:stop] += x[start:stop].mean(1, keepdim=True) * tables["vector"][slot].offset


@dataclass(frozen=True, slots=True)
class AddMeans:
    """`vector`: (out,), as an offset."""

    vector: ScaleAdd
    kind: ClassVar = OperationKind("add means", ("vector",), _add_means)

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.vector,)


def _read_peft(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    sites, _ = claim(unclaimed, r"(.+)\.means_vector", linear_in(backbone), "vector")
    return [Component("means", MeansConfig(), sites)]


def _write_peft(component: Component[MeansConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    tensors = {f"{WRAPPER}{full(site)}.means_vector": leaves["vector"] for site, leaves in component.tensors.items()}
    return PeftFiles({"peft_type": "MEANS"}, tensors)


class Means(Method[MeansConfig]):
    """The leaf `vector` (out,) at a linear site."""

    name: ClassVar[str] = "means"
    config = MeansConfig
    peft_types = (PeftType("MEANS", _read_peft, {}, leaves=("means_vector",)),)
    peft_writer = PeftWriter(lambda component, backbone: True, _write_peft)
    recipes: ClassVar[Mapping[str, Recipe]] = {"means": Recipe("means", Schedule(1e-1), "nobody", peft=True)}

    def check(self, component: Component[MeansConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("vector",), site)
            expect_shape(leaves["vector"], linear_site(backbone, site).shape[:1], site, backbone)

    def bind(self, component: Component[MeansConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: in_dtype(leaves, backbone) for site, leaves in component.tensors.items()}
        linear = {site: [AddMeans(ScaleAdd(offset=leaves["vector"]))] for site, leaves in ready.items()}
        return BoundComponent(linear=linear, nbytes=size_of(ready.values()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        targets = chosen.names("targets", ["all-linear"])
        chosen.reject_unknown()
        return TrainableMeans(backbone, target_sites(backbone, targets))


class TrainableMeans(Trainable):
    """It starts with zeros."""

    def __init__(self, backbone: Backbone, sites: Sequence[str]) -> None:
        super().__init__()
        self.sites = list(sites)
        self.vectors = nn.ParameterList(nn.Parameter(torch.zeros(backbone.linear[site].shape[0])) for site in sites)

    def bound(self) -> BoundComponent:
        pairs = zip(self.sites, self.vectors, strict=True)
        return BoundComponent(linear={site: [AddMeans(ScaleAdd(offset=vector))] for site, vector in pairs})

    def component(self) -> Component[MeansConfig]:
        pairs = zip(self.sites, self.vectors, strict=True)
        return Component("means", MeansConfig(), {site: {"vector": vector.detach()} for site, vector in pairs})


# ---- a format: one safetensors file


class OneFile(Format):
    """`means.safetensors`: a site's vector by the site's name."""

    name: ClassVar[str] = "one file"
    config = "means.safetensors"
    files = weight_files = marks = ("means.safetensors",)

    def detect(self, folder: Path) -> bool:
        return (folder / self.config).is_file()

    def read(self, folder: Path, backbone: Backbone, context: ReadContext) -> Adapter:
        from manyhats.core.adapter import Adapter
        from manyhats.formats.wrappers import open_tensors

        unclaimed = open_tensors(folder / self.config)
        sites = {name: {"vector": unclaimed.claim(name)} for name in unclaimed.names()}
        components = (Component("means", MeansConfig(), sites),)
        return Adapter(components, None, context.hints.kind or "embed", unclaimed.claimed)

    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        return [component.method for component in adapter.components] == ["means"] and adapter.head is None

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        from manyhats.formats.files import write_tensors

        (component,) = adapter.components
        write_tensors(folder / self.config, {site: leaves["vector"] for site, leaves in component.tensors.items()})


# ---- a kernel backend: the reference by another name


class Plain(Reference):
    name = "plain"


# ---- what is asked of them


def register() -> None:
    """As a line in each registry would."""
    assert not {"manyhats.formats.contents", "manyhats.formats.reader", "manyhats.formats.peft.types"} & {*sys.modules}
    METHODS[Means.name] = Means()
    formats.FORMATS = (*formats.FORMATS, OneFile())
    BACKENDS[Plain.name] = Backend(Plain)
    FAMILIES["starcoder2"] = FAMILIES["llama"]


def check_the_method(folder: Path, bert: Backbone) -> None:
    """It is trained by its recipe, written as PEFT's type, read again, and answers beside others."""
    from manyhats.formats.reader import read_adapter
    from manyhats.training.job import Job, run
    from rich.console import Console

    from tests import tiny
    from tests.training import samples

    data, out = folder / "rows.jsonl", folder / "trained"
    data.write_text("".join(json.dumps(row) + "\n" for row in samples.rows("classify", 60, 0)))
    job = Job(task="t", method="means", kind="classify", data=data, out=out, schedule={"epochs": 1})
    run(job, bert, Console(quiet=True))
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "MEANS"
    adapter = read_adapter(out, bert)
    (component,) = adapter.components
    assert (adapter.method, adapter.kind) == ("means", "classify")
    assert all(bool(leaves["vector"].abs().max() > 0) for leaves in component.tensors.values())
    texts = tiny.texts([3, 9, 1])
    bound = [tiny.bound(bert, one) for one in (adapter, None, tiny.adapter(bert, "lora", 3))]
    alone = [output for one in bound for output in tiny.alone(bert, one, texts)]
    together = tiny.run(bert, [tiny.row(bert, one, text) for one in bound for text in texts])
    assert tiny.difference(together, alone) < tiny.CLOSE
    assert bound[0].nbytes <= adapter.slot_size(bert)


def check_the_format(folder: Path, bert: Backbone) -> None:
    """Its file is an upload's own, and written where it holds the adapter."""
    from manyhats.core.adapter import Adapter
    from manyhats.formats.contents import select
    from manyhats.formats.reader import read_adapter
    from manyhats.formats.writer import write_adapter

    from tests import tiny

    contents = select(["run/means.safetensors", "run/optimizer.pt"])
    assert (contents.root, contents.kept) == ("run", ("run/means.safetensors",))
    site = "encoder.layer.0.attention.self.query"
    component = Component("means", MeansConfig(), {site: {"vector": torch.randn(32)}})
    adapter = Adapter((component,), None, "embed", 1)
    write_adapter(adapter, folder, bert)
    assert (folder / "means.safetensors").is_file()
    again = read_adapter(folder, bert)
    texts = tiny.texts([3, 9, 1])
    assert tiny.difference(tiny.ask(bert, again, texts), tiny.ask(bert, adapter, texts)) == 0
    assert tiny.difference(tiny.ask(bert, again, texts), tiny.ask(bert, None, texts)) > 1e-3


def check_the_backend() -> None:
    """It can be chosen by its name, and is listed."""
    from manyhats.kernels.registry import choose, described

    device = torch.device("cpu")
    assert choose(device, "plain").name == "plain"
    assert described(device)["plain"] == "ready"


def check_the_family(folder: Path) -> None:
    """Its packed passes, and its steps over the cache, are the model's own."""
    from manyhats.engine.self_check import self_check
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    from tests import tiny_models

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = Starcoder2Config(
        vocab_size=tiny_models.VOCABULARY, max_position_embeddings=64, num_key_value_heads=2, sliding_window=None,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, **shape,
    )  # fmt: skip
    model = Starcoder2ForCausalLM(config)
    tiny_models.randomise(model, 4)
    model.save_pretrained(folder)
    tiny_models.tokenizer("llama").save_pretrained(folder)
    backbone = Backbone.load(str(folder), device="cpu", dtype="float32")
    assert list(backbone.residual) == [f"layers.{i}.{place}" for i in range(2) for place in ("attention", "ffn")]
    self_check(backbone)


def main() -> None:
    register()
    from tests import tiny

    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("bert", "method", "format", "family")]
        for folder in folders[1:]:
            folder.mkdir()
        bert = tiny.load(tiny.write_base("bert", folders[0]))
        check_the_method(folders[1], bert)
        check_the_format(folders[2], bert)
        check_the_backend()
        check_the_family(folders[3])
    print("all were used as any other")


if __name__ == "__main__":
    main()
