"""Tokenizers of every kind that language models have, trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from manyhats.backbone import Tokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_CORPUS = ["the quick brown fox jumps over the lazy dog, and the cat sat. 日本語 naïve café"] * 3


def _bytes(*, trim: bool = False) -> RawTokenizer:
    """As GPT-2, Llama 3 and Qwen have it: characters may be split."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if trim:
        raw.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<e>"],
        show_progress=False,
    )
    raw.train_from_iterator(_CORPUS, trainer)
    return raw


def _sentencepiece(*, normalised: bool) -> RawTokenizer:
    """As Llama 1 and 2 and Mistral have it: spaces are letters, and what is not known is bytes."""
    raw = RawTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if normalised:
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    named = [f"<0x{byte:02X}>" for byte in range(256)]
    raw.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog"],
        trainers.BpeTrainer(vocab_size=330, special_tokens=[*specials, *named], show_progress=False),
    )
    whole = json.loads(raw.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] in specials]
    raw = RawTokenizer.from_str(json.dumps(whole))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return raw


def _unigram() -> RawTokenizer:
    """As T5 and XLNet have it."""
    raw = RawTokenizer(models.Unigram())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    raw.train_from_iterator(_CORPUS, trainer)
    return raw


def _wordpiece() -> RawTokenizer:
    """As BERT has it: letters are made small."""
    raw = RawTokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    raw.train_from_iterator(_CORPUS, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return raw


def _words() -> RawTokenizer:
    raw = RawTokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *_CORPUS[0].split()])}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return raw


KINDS: dict[str, Callable[[], RawTokenizer]] = {
    "bytes": _bytes,
    "bytes, trimmed": lambda: _bytes(trim=True),
    "sentencepiece": lambda: _sentencepiece(normalised=True),
    "sentencepiece, metaspace": lambda: _sentencepiece(normalised=False),
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "words": _words,
}


def make(kind: str, folder: Path) -> Tokenizer:
    """One of a kind."""
    PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]()).save_pretrained(folder)
    return Tokenizer(str(folder))
