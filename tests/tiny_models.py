"""Tiny random models of every family, with their tokenizer: what transformers alone makes.

Two layers of 32 units, and weights large enough for mistakes to show. The tokenizer splits at spaces and knows `w0` ...
`w99`. Nothing of Manyhats is imported, so that the makers of references run in environments of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AlbertConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    ReformerConfig,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from tests.families import DECODERS

MAX_TOKENS = 64
WORDS = 100
_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
VOCABULARY = WORDS + len(_BERT_SPECIALS)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


_SPEAKS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def config(family: str) -> Any:
    """The model's config."""
    match family:
        case "bert":
            return BertConfig(**_SHAPE, max_position_embeddings=MAX_TOKENS, pad_token_id=0)
        case "roberta":
            return RobertaConfig(**_SHAPE, max_position_embeddings=MAX_TOKENS + 2, type_vocab_size=1, pad_token_id=1)
        case "xlm-roberta":
            return XLMRobertaConfig(**_SHAPE, max_position_embeddings=MAX_TOKENS + 2, type_vocab_size=1, pad_token_id=1)
        case "electra":
            return ElectraConfig(**_SHAPE, embedding_size=32, max_position_embeddings=MAX_TOKENS, pad_token_id=0)
        case "electra-narrow":
            return ElectraConfig(**_SHAPE, embedding_size=16, max_position_embeddings=MAX_TOKENS, pad_token_id=0)
        case "distilbert":
            return DistilBertConfig(
                vocab_size=VOCABULARY,
                dim=32,
                hidden_dim=64,
                n_layers=2,
                n_heads=4,
                max_position_embeddings=MAX_TOKENS,
                pad_token_id=0,
            )
        case "albert":
            return AlbertConfig(**_SHAPE, embedding_size=16, max_position_embeddings=MAX_TOKENS, pad_token_id=0)
        case "modernbert":
            return ModernBertConfig(
                **_SHAPE,
                max_position_embeddings=MAX_TOKENS,
                pad_token_id=0,
                local_attention=8,
                global_attn_every_n_layers=2,
                cls_token_id=2,
                sep_token_id=3,
                bos_token_id=2,
                eos_token_id=3,
            )
        case "gpt2":
            return GPT2Config(
                vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_inner=64, n_positions=MAX_TOKENS, **_SPEAKS
            )
        case "llama":
            return LlamaConfig(
                **_SHAPE,
                num_key_value_heads=2,
                max_position_embeddings=MAX_TOKENS,
                tie_word_embeddings=False,
                **_SPEAKS,
            )
        case "mistral":
            return MistralConfig(
                **_SHAPE, num_key_value_heads=2, max_position_embeddings=MAX_TOKENS, sliding_window=8, **_SPEAKS
            )
        case "qwen2":
            return Qwen2Config(
                **_SHAPE, num_key_value_heads=2, max_position_embeddings=MAX_TOKENS, tie_word_embeddings=True, **_SPEAKS
            )
        case "qwen3":
            return Qwen3Config(
                **_SHAPE, num_key_value_heads=2, head_dim=8, max_position_embeddings=MAX_TOKENS, **_SPEAKS
            )
        case "opt" | "opt-after":
            return OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                word_embed_proj_dim=32 if family == "opt" else 16,
                do_layer_norm_before=family == "opt",
                max_position_embeddings=MAX_TOKENS,
                **_SPEAKS,
            )
        case "gpt_neox" | "gpt_neox-sequential":
            return GPTNeoXConfig(
                **_SHAPE,
                max_position_embeddings=MAX_TOKENS,
                use_parallel_residual=family == "gpt_neox",
                **_SPEAKS,
            )
        case "mpnet":
            return MPNetConfig(**_SHAPE, max_position_embeddings=MAX_TOKENS + 2, pad_token_id=1)
        case "reformer":
            return ReformerConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_attention_heads=4,
                attention_head_size=8,
                feed_forward_size=64,
                attn_layers=["local", "lsh"],
                num_buckets=4,
                num_hashes=2,
                lsh_attn_chunk_length=8,
                local_attn_chunk_length=8,
                axial_pos_shape=[8, 8],
                axial_pos_embds_dim=[16, 16],
                max_position_embeddings=MAX_TOKENS,
                is_decoder=False,
                pad_token_id=0,
                hash_seed=0,
            )
    raise ValueError(family)


def _is_roberta(family: str) -> bool:
    return "roberta" in family or family == "mpnet"


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer that splits at spaces, with the family's special tokens."""
    specials = _ROBERTA_SPECIALS if _is_roberta(family) else _BERT_SPECIALS
    vocabulary = {word: i for i, word in enumerate([*specials, *(f"w{i}" for i in range(WORDS))])}
    unknown = "<unk>" if _is_roberta(family) else "[UNK]"
    raw = RawTokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(list(specials))
    if _is_roberta(family):
        single, pair, ends = "<s> $A </s>", "<s> $A </s> </s> $B </s>", ("<s>", "</s>")
        roles = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>"}
        roles |= {"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    else:
        single, pair, ends = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]")
        roles = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    raw.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(end, vocabulary[end]) for end in ends]
    )
    named = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=MAX_TOKENS, **named)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level one of 320 tokens, in which most characters beyond ASCII are several."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    raw.train_from_iterator(["the cat sat on the mat and the dog too"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")


def write_byte_base(folder: Path) -> Path:
    """Writes a llama that reads bytes."""
    own = config("llama")
    own.vocab_size, own.eos_token_id, own.pad_token_id, own.bos_token_id = 320, 0, 0, None
    own.max_position_embeddings = 256
    model = AutoModelForCausalLM.from_config(own)
    randomise(model, 4)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def randomise(module: nn.Module, seed: int, spread: float = 0.2) -> None:
    """Random values for every trainable weight; layer norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            value = torch.randn(parameter.shape, generator=generator) * spread
            norm = name.lower().endswith("norm.weight")
            parameter.copy_(value + 1 if norm else value)


def write_base(family: str, folder: Path, seed: int = 1, *, masked: bool = False, layers: int = 2) -> Path:
    """Writes a backbone with its tokenizer into `folder`. `masked`: an encoder with its masked language-model head."""
    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM if masked else AutoModel
    own = config(family)
    own.num_hidden_layers = layers
    model = kind.from_config(own)
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


# ---- texts


def words(count: int, seed: int) -> str:
    """A text of `count` words."""
    pick = random.Random(seed)
    return " ".join(f"w{pick.randrange(WORDS)}" for _ in range(count))


def texts(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """One text for each number of words."""
    return [words(length, seed * 1000 + i) for i, length in enumerate(lengths)]
