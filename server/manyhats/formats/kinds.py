"""What an adapter is for, by what its files say.

Nothing is guessed in silence: where the files leave it open, whoever uploads says it by the setting `kind`.
"""

from __future__ import annotations

from dataclasses import dataclass

from manyhats.methods.heads import Kind

# How the names of transformers' classes end.
_CLASSES: dict[str, Kind] = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "span",
    "LMHeadModel": "generate",
    "ForCausalLM": "generate",
    "ForMaskedLM": "fill",
}
_NOT_BARE = ("HeadsModel", "AdapterModel")  # these have heads, though they are called models
SAY = "say what it is for with `kind` in the part `task`"


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside an adapter and may say what it is for.

    `architecture`: of its config.json. `embeds`: sentence-transformers' files say so. `kind`: what the uploader says,
    which holds where the files leave it open.
    """

    architecture: str | None = None
    embeds: bool = False
    kind: Kind | None = None


def kind_of_class(model_class: str) -> Kind | None:
    """What a class of transformers is for: a bare model gives its states. None for one that is not known."""
    found = next((kind for ending, kind in _CLASSES.items() if model_class.endswith(ending)), None)
    if found is None and model_class.endswith("Model") and not model_class.endswith(_NOT_BARE):
        return "embed"
    return found
