"""One test for each thing that the backbone uses of torch, transformers and tokenizers without being promised it.

Where one fails, a release has changed what the test is named after; `torch_internals` and `transformers_internals` say
what it is used for. What kernels use so is in `tests/kernels/test_internals.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from manyhats.backbone import torch_internals, transformers_internals
from manyhats.backbone.families import FAMILIES
from manyhats.backbone.token_bytes import decoder_types
from tokenizers import decoders
from torch import nn
from transformers import AutoModel, LlamaConfig, LlamaModel, ReformerConfig, ReformerModel

from tests import tiny

CHECKS: dict[str, Callable[[], None]] = {}
Check = Callable[[], None]


def uses(internal: str) -> Callable[[Check], Check]:
    """The check of what an internal must do."""

    def add(check: Check) -> Check:
        CHECKS[internal] = check
        return check

    return add


def small_decoder() -> LlamaModel:
    return LlamaModel(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()


@uses("torch.ops.mkldnn._reorder_linear_weight and _linear_pointwise")
def oneDNN_multiplies_with_a_reordered_weight() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    x, weight, bias = torch.randn(3, 24), torch.randn(40, 24), torch.randn(40)
    with torch.inference_mode():
        reordered = torch_internals.reorder_linear_weight(weight, 64)
        for own in (bias, None):
            expected = nn.functional.linear(x, weight, own)
            torch.testing.assert_close(torch_internals.linear_reordered(x, reordered, own), expected)


@uses("torch.segment_reduce")
def runs_of_rows_are_summed() -> None:
    values, lengths = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([2, 1])
    assert torch_internals.reduce_segments(values, lengths, "sum").tolist() == [[3.0], [5.0]]
    assert torch_internals.reduce_segments(values, lengths, "max").tolist() == [[2.0], [5.0]]


@uses("PreTrainedConfig._attn_implementation")
def a_config_says_how_its_model_attends() -> None:
    model = small_decoder()
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert transformers_internals.attention_implementation(model.config) == name


@uses("PreTrainedModel._keep_in_fp32_modules and _keep_in_fp32_modules_strict")
def classes_name_weights_that_stay_in_float32() -> None:
    for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        assert hasattr(transformers.PreTrainedModel, name)

    class Keeps(LlamaModel):
        _keep_in_fp32_modules = ["down_proj"]  # noqa: RUF012
        _keep_in_fp32_modules_strict = ["up_proj"]  # noqa: RUF012

    model = Keeps(small_decoder().config)
    assert transformers_internals.float32_patterns(model, torch.float16) == {"down_proj", "up_proj"}
    assert transformers_internals.float32_patterns(model, torch.bfloat16) == {"up_proj"}
    assert transformers_internals.float32_patterns(model, torch.float32) == set()


@uses("transformers.utils.cached_file(_raise_exceptions_for_...)")
def a_file_that_is_not_there_is_none() -> None:
    assert transformers_internals.file_from_hub("nobody/nothing-of-that-name", "modules.json") is None


@uses("transformers.models.reformer.modeling_reformer.ReformerOutput and ReformerEncoderOutput")
def reformer_takes_and_gives_these_outputs() -> None:
    config = ReformerConfig(
        vocab_size=16,
        hidden_size=8,
        feed_forward_size=8,
        num_attention_heads=2,
        attention_head_size=4,
        attn_layers=["local"],
        axial_pos_embds=False,
        max_position_embeddings=64,
        local_attn_chunk_length=8,
        num_hidden_layers=1,
        is_decoder=False,
    )
    model: Any = ReformerModel(config).eval()
    given: list[Any] = []
    model.encoder.layers[0].register_forward_hook(lambda module, inputs, output: given.append(output))
    model.encoder.register_forward_hook(lambda module, inputs, output: given.append(output))
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 8, dtype=torch.long))
    layer, encoder = given
    assert type(transformers_internals.reformer_layer_output(**_fields(layer))) is type(layer)
    assert type(transformers_internals.reformer_encoder_output(**_fields(encoder))) is type(encoder)
    assert set(_fields(layer)) == {"attn_output", "hidden_states", "attention_probs", "buckets"}
    names = {"hidden_states", "all_hidden_states", "all_attentions", "past_buckets_states"}
    assert set(_fields(encoder)) == names


def _fields(output: Any) -> dict[str, Any]:
    names = getattr(output, "_fields", None) or output.__dataclass_fields__
    return {name: getattr(output, name) for name in names}


@uses("a mask of four dimensions reaches attention as it is")
def a_decoder_hands_its_mask_on() -> None:
    model = small_decoder()
    masks: list[Any] = []
    attention = model.layers[0].self_attn
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    mask = transformers_internals.LAYOUT_AS_MASK
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 1, dtype=torch.long), attention_mask=mask, use_cache=False)
    assert masks == [mask]
    assert masks[0] is mask


@uses("tokenizers.decoders.Decoder.__getstate__, by `token_bytes`")
def a_decoder_says_what_it_is_made_of() -> None:
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert decoder_types(decoder) == {"Sequence", "ByteFallback", "Fuse"}
    assert decoder_types(decoders.ByteLevel()) == {"ByteLevel"}


@uses("a module's own `forward` stands before its class'")
def an_instance_may_have_a_forward_of_its_own() -> None:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x + 1  # type: ignore[method-assign]
    assert layer(torch.zeros(1)).tolist() == [1.0]


def _blocks_have_their_modules(name: str) -> None:
    config = tiny.config(name)
    family = FAMILIES[config.model_type]
    block = AutoModel.from_config(config).get_submodule(family.block_name(config, 0))
    assert block.get_submodule(family.attention) is not None


for _name in tiny.ALL_FAMILIES:
    uses(f"the modules of {_name}'s blocks, by their names in `families`")(partial(_blocks_have_their_modules, _name))


@pytest.mark.parametrize("internal", CHECKS)
def test_still_does_what_it_is_used_for(internal: str) -> None:
    try:
        CHECKS[internal]()
    except (pytest.skip.Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        raise AssertionError(f"{internal} no longer does what the backbone uses it for ({versions})") from error
