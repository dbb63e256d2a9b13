"""Makes plain weights of a PEFT adapter whose method has no form of its own here, once and on the user's machine.

PEFT itself adds the difference to the backbone's weights; what came out changed is written as parameters that stand in
the backbone's place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.commands.folders import check_folders
from manyhats.errors import ConfigurationError, InvalidRequest
from manyhats.messages import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from manyhats.backbone import Backbone
    from manyhats.methods.component import Component
    from manyhats.methods.heads import KindName


def materialise(path: Path, out: Path, backbone_name: str, stated_kind: KindName | None = None) -> int:
    """Writes the adapter in `path` into the empty folder `out`; returns how many parameters it changes.

    `stated_kind`: what the adapter is for, where its files leave that open.

    Raises ConfigurationError without PEFT, and InvalidRequest for what PEFT cannot load or merge.
    """
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter
    from manyhats.formats.files import read_json
    from manyhats.formats.kinds import KindHints
    from manyhats.formats.peft.kinds import kind_of
    from manyhats.formats.peft.reader import read_head
    from manyhats.formats.peft.weights import open_weights
    from manyhats.formats.writer import write_adapter
    from manyhats.methods.libraries.fields import text_or_none
    from manyhats.methods.libraries.peft import WRAPPER

    check_folders(path, out)
    config = read_json(path / "adapter_config.json")
    if "peft_type" not in config:
        raise InvalidRequest("adapter_config.json has no 'peft_type'; only PEFT's adapters have differences to be made")
    backbone = Backbone.load(backbone_name, device="cpu", dtype="float32")
    warnings: list[str] = []
    tensors = open_weights(path, prompt=False)
    kind = kind_of(tensors, config, WRAPPER, backbone, KindHints(kind=stated_kind), warnings)
    head = read_head(tensors, kind, WRAPPER, backbone, stated_kind)
    component = _changed(path, config, backbone, backbone_name, kind, head.num_labels if head else None)
    adapter = Adapter(
        components=(component,),
        head=head,
        kind=kind if head is None else head.kind,
        matched_tensors=0,
        base=text_or_none(config.get("base_model_name_or_path")),
    )
    adapter.check(backbone)
    out.mkdir(parents=True, exist_ok=True)
    write_adapter(adapter, out, backbone)
    return sum(len(leaves) for leaves in component.tensors.values())


def _changed(
    path: Path, config: dict[str, Any], backbone: Backbone, name: str, kind: KindName, labels: int | None
) -> Component[Any]:
    """The parameters that differ from the backbone's once PEFT has merged its difference into its wrapped layers."""
    import torch
    import transformers

    from manyhats.backbone.loading import locate
    from manyhats.core.kinds.registry import KINDS
    from manyhats.methods.changed_parameters import changed_parameters

    try:
        import peft
    except ImportError:
        raise ConfigurationError("this needs PEFT: pip install peft") from None
    model_class: Any = getattr(transformers, KINDS[kind].libraries.auto_class)
    options = {} if labels is None else {"num_labels": labels}
    source = locate(name)
    try:
        model = model_class.from_pretrained(source, dtype=torch.float32, **options)
        wrapped: Any = peft.PeftModel.from_pretrained(model, str(path))
        wrapped.merge_adapter()
    except Exception as error:
        reason = first_line(error)
        raise InvalidRequest(f"PEFT cannot merge '{path}' into the backbone: {reason}") from None
    task_model = wrapped.get_base_model()
    bare = task_model if model_class is transformers.AutoModel else task_model.base_model
    backbones = backbone.model.state_dict()
    sites: dict[str, dict[str, Tensor]] = {}
    for full, tensor in bare.state_dict().items():
        plain = full.replace(".base_layer.", ".")
        module, _, leaf = plain.rpartition(".")
        site = backbone.find(module)
        own = site.parameter(leaf) if site is not None else None
        if site is None or own is None:
            unadaptable = backbones.get(plain)
            if unadaptable is not None and not torch.equal(tensor.detach(), unadaptable):
                raise InvalidRequest(f"'{path}' changes '{module}.{leaf}', where nothing can act on this backbone")
            continue
        value = site.to_canonical(leaf, tensor.detach())
        if not torch.equal(value, own):
            sites.setdefault(module, {})[leaf] = value.contiguous().clone()
    if not sites:
        raise InvalidRequest(f"'{path}' changes nothing of the backbone")
    return changed_parameters(sites, str(config["peft_type"]).lower()[:40])
