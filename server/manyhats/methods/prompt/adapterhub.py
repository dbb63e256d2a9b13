"""AdapterHub's prompt tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture, AdapterHubFile
from manyhats.methods.libraries.fields import reject_fields
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.prompt.config import NAME, PROMPT_SITE, PromptConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_ARCHITECTURE = "prompt_tuning"
# Fields that are read elsewhere, or change nothing.
_IGNORED = {
    "architecture", "combine", "init_weights_seed", "prompt_init", "prompt_init_text", "prompt_length",
}  # fmt: skip


def _read(
    unclaimed: UnclaimedTensors, config: Mapping[str, Any], file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """Claims the tensor of a soft prompt, which is inserted after the embedding block."""
    reject_fields(config, _IGNORED)
    if config.get("combine", "prefix") != "prefix":
        raise AdapterMismatch(
            f"combine {short_repr(config.get('combine'))} is not supported; 'prefix' is", param="combine"
        )
    suffix = f"prompt_tuning.prompt_tunings.{file.name}.prompt_embedding.weight"
    key = next((key for key in unclaimed.names() if backbone.bare_name(key) == suffix), None)
    if key is None:
        raise AdapterMismatch(f"the file has no '{suffix}'", param="prompt_tuning")
    prompt = unclaimed.claim(key)
    declared = config.get("prompt_length")
    if declared is not None and (prompt.dim() != 2 or declared != prompt.shape[0]):
        raise AdapterMismatch(
            f"prompt_length is {short_repr(declared)}, but the prompt has shape {list(prompt.shape)}",
            param="prompt_length",
        )
    return [Component(NAME, PromptConfig(after_embeddings=True), {PROMPT_SITE: {"prompt": prompt}})]


ADAPTERHUB = AdapterHubArchitecture(_ARCHITECTURE, lambda config: config.get("architecture") == _ARCHITECTURE, _read)
