"""What the installed PEFT computes for a recipe; only what makes the references and `tests/live` import this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import merge_utils
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests import tiny_models
from tests.references.peft import METADATA, Answer, files_of
from tests.references.peft_recipes import MERGES, NEW, WEIGHTS, Recipe, masked_texts, texts

CLASSES: dict[str, Any] = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
    "CAUSAL_LM": AutoModelForCausalLM,
    "MASKED_LM": AutoModelForMaskedLM,
}
GAP = 1e-3  # of logits: nearer ones may be settled by rounding


class Contradiction(Exception):
    """PEFT has an adapter that is listed as absent, or has it not for another reason than the listed one."""


def _task_model(recipe: Recipe, base: Path) -> Any:
    """transformers' model of the recipe's task; what the base does not hold of it is the same every time."""
    torch.manual_seed(1)
    options = {"num_labels": recipe.labels} if recipe.task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS") else {}
    model = CLASSES[recipe.task].from_pretrained(base, **options).eval()
    if recipe.task == "QUESTION_ANS":  # some of these call the bare model otherwise, and do not find its weights
        bare = AutoModel.from_pretrained(base)
        getattr(model, model.base_model_prefix).load_state_dict(bare.state_dict(), strict=False)
    return model


def make(recipe: Recipe, base: Path) -> Any:
    """PEFT's model with random weights everywhere; raises what PEFT raises where it has none."""
    model = _task_model(recipe, base)
    if recipe.config is None:
        return model
    told = {"task_type": recipe.task} if recipe.typed else {}
    wrapped = peft.get_peft_model(model, getattr(peft, recipe.config)(**told, **recipe.options)).eval()
    tiny_models.randomise(wrapped, recipe.seed)
    return wrapped


def tokens(recipe: Recipe) -> list[list[int]]:
    """What the recipe is asked, as tokens."""
    group = recipe.texts or recipe.group
    if group == "generation":
        return texts(group)
    asked = masked_texts(group, recipe.family) if recipe.task == "MASKED_LM" else texts(group)
    tokenizer = tiny_models.tokenizer(recipe.family)
    return [tokenizer(text).input_ids for text in asked]


@torch.inference_mode()
def answers(recipe: Recipe, model: Any) -> list[Tensor]:
    """PEFT's own outputs, every text alone and without pads, virtual positions left out."""
    virtual = recipe.config in ("PromptTuningConfig", "PromptEncoderConfig")
    extra = recipe.options["num_virtual_tokens"] if virtual else 0
    mask = tiny_models.tokenizer(recipe.family).mask_token_id
    outputs = []
    for asked in tokens(recipe):
        ids = torch.tensor([asked])
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        match recipe.task:
            case "FEATURE_EXTRACTION":
                outputs.append(out.last_hidden_state[0, extra:])
            case "QUESTION_ANS":
                outputs.append(torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1))
            case "TOKEN_CLS":
                outputs.append(out.logits[0, extra:])
            case "CAUSAL_LM":
                outputs.append(out.logits[0, -1])
            case "MASKED_LM":
                outputs.append(out.logits[0, [i for i, token in enumerate(asked) if token == mask]])
            case _:
                outputs.append(out.logits[0])
    return outputs


@torch.inference_mode()
def generate(model: Any, prompt: list[int], new: int) -> list[int] | None:
    """The library's new tokens; None where two were all but equally likely."""
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tops = [step[0].topk(2).values for step in out.logits]
    sure = min(float(top[0] - top[1]) for top in tops) > GAP
    return out.sequences[0].tolist()[len(prompt) :] if sure else None


def compute(recipe: Recipe, base: Path, folder: Path) -> Answer:
    """The recipe's adapter, saved into `folder`, and its answers; raises what PEFT raises."""
    model = make(recipe, base)
    if recipe.group == "generation":
        written = tuple(generate(model, prompt, NEW) for prompt in tokens(recipe))
        if recipe.config is None:
            return Answer(tokens=written)
        model.save_pretrained(folder)
        return Answer(files=files_of(folder), tokens=written)
    outputs = [] if recipe.again else answers(recipe, model)
    model.save_pretrained(folder)
    if recipe.half:
        path = folder / "adapter_model.safetensors"
        save_file({n: t.half() for n, t in load_file(path).items()}, path, metadata=METADATA)
    if recipe.again:
        model = peft.PeftModel.from_pretrained(_task_model(recipe, base), folder).eval()
        outputs = answers(recipe, model)
    return Answer(files=files_of(folder), outputs=tuple(outputs))


def attempt(recipe: Recipe, base: Path, folder: Path) -> Answer:
    """The same, but where PEFT has no such adapter the answer says why, which must be what is listed."""
    if recipe.absent is None:
        return compute(recipe, base, folder)
    try:
        compute(recipe, base, folder)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        raise Contradiction(f"{recipe}: PEFT has this adapter; take it out of the absent ones")
    if not reason.startswith(recipe.absent):
        raise Contradiction(f"{recipe}: {reason!r} does not begin with the listed {recipe.absent!r}")
    return Answer(absent=reason.splitlines()[0])


def merge(name: str, tensors: list[Tensor]) -> Tensor:
    """PEFT's own merge of some tensors with the weights of the tables."""
    function, arguments = MERGES[name]
    return getattr(merge_utils, function)(tensors, torch.tensor(WEIGHTS), *arguments)
