"""An adapter's own tokenizer files: what is taken from them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import KindName
from manyhats.serving.chat import chat_prompt
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests import tiny

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}{{ bos_token }}"
CHAT = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
END, OTHER = 0, 6  # tokens of the backbone


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A llama that reads bytes, without a template of its own."""
    return tiny.load(tiny.write_byte_base(tmp_path_factory.mktemp("bytes")))


Wrote = Callable[..., Path]


@pytest.fixture
def wrote(tmp_path: Path) -> Wrote:
    """Writes an adapter, and files beside it: JSON, or a text."""

    def write(backbone: Backbone, kind: KindName = "generate", /, **files: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        write_adapter(tiny.adapter(backbone, "lora", 3, kind=kind, only="0"), folder, backbone)
        (folder / "manyhats.json").unlink()
        for name, content in files.items():
            suffix = ".jinja" if name == "chat_template" and isinstance(content, str) else ".json"
            (folder / f"{name}{suffix}").write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return write


def told(adapter: Adapter) -> str:
    return "\n".join(adapter.warnings)


def text_of(backbone: Backbone, token: int) -> str:
    return backbone.tokenizer.loaded.convert_ids_to_tokens(token)


# ---- the template


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template": TEMPLATE},
        {"tokenizer_config": {"chat_template": TEMPLATE}},
        {"tokenizer_config": {"chat_template": [{"name": "default", "template": TEMPLATE}]}},
        {"chat_template": {"chat_template": TEMPLATE}},
        {"chat_template": TEMPLATE, "tokenizer_config": {"chat_template": "another"}},
    ],
)
def test_the_template_is_taken(wrote: Wrote, speaker: Backbone, files: dict[str, Any]) -> None:
    adapter = read_adapter(wrote(speaker, **files), speaker)
    assert adapter.settings == {"chat_template": TEMPLATE}
    assert "chat_template taken from" in told(adapter)


def test_of_named_templates_the_default_is_taken(wrote: Wrote, speaker: Backbone) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    adapter = read_adapter(wrote(speaker, tokenizer_config={"chat_template": named}), speaker)
    assert adapter.settings == {"chat_template": TEMPLATE}
    assert "not used: 'tool_use'" in told(adapter)
    adapter = read_adapter(wrote(speaker, tokenizer_config={"chat_template": named[:1]}), speaker)
    assert not adapter.settings
    assert "none called 'default'" in told(adapter)


@pytest.mark.parametrize("value", [1, [1], [{"name": "default"}], [{"name": 1, "template": "x"}], {"default": 3}])
def test_a_template_that_is_none_is_refused(wrote: Wrote, speaker: Backbone, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="chat_template"):
        read_adapter(wrote(speaker, tokenizer_config={"chat_template": value}), speaker)


def test_an_adapter_that_does_not_generate_takes_no_template(wrote: Wrote, speaker: Backbone) -> None:
    adapter = read_adapter(wrote(speaker, "embed", chat_template=TEMPLATE), speaker)
    assert not adapter.settings


@pytest.mark.parametrize("template", [TEMPLATE, f"\n  {TEMPLATE}", "  {% if true %}\n" + TEMPLATE + "{% endif %}"])
def test_a_prompt_is_the_one_that_transformers_makes(
    wrote: Wrote, speaker: Backbone, tmp_path: Path, template: str
) -> None:
    """The template writes special tokens by name, which are others for the adapter's tokenizer."""
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=speaker.tokenizer.loaded.backend_tokenizer,
        eos_token=text_of(speaker, OTHER),
        bos_token=text_of(speaker, OTHER + 1),
        chat_template=template,
    )
    folder = wrote(speaker)
    theirs.save_pretrained(folder)
    adapter = read_adapter(folder, speaker)
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False)
    got = chat_prompt(speaker.tokenizer, CHAT, template=adapter.settings["chat_template"], system_prompt=None)
    assert got == expected
    assert adapter.settings["stop_token_ids"] == [OTHER]


def test_special_tokens_are_written_as_they_are(wrote: Wrote, speaker: Backbone) -> None:
    strange = 'a"\\{{ é 😀 }}\n'
    config = {"chat_template": "{{ bos_token }}|{{ messages[0].content }}", "bos_token": strange}
    with pytest.raises(AdapterMismatch, match="does not have"):
        read_adapter(wrote(speaker, tokenizer_config=config), speaker)
    from manyhats.formats.tokenizer_files import _literal

    template = "{% set bos_token = " + _literal(strange) + " %}\n" + config["chat_template"]
    assert chat_prompt(speaker.tokenizer, CHAT, template=template, system_prompt=None) == f"{strange}|the cat"


# ---- the end of a text


@pytest.mark.parametrize(
    "files",
    [
        lambda text: {"tokenizer_config": {"eos_token": text}},
        lambda text: {"tokenizer_config": {"eos_token": {"content": text, "lstrip": False}}},
        lambda text: {"special_tokens_map": {"eos_token": text}},
        lambda text: {"special_tokens_map": {"eos_token": {"content": text}}},
        lambda text: {"generation_config": {"eos_token_id": OTHER}},
        lambda text: {"generation_config": {"eos_token_id": [END, OTHER]}},
    ],
)
def test_the_end_of_a_text_is_taken(wrote: Wrote, speaker: Backbone, files: Callable[[str], dict[str, Any]]) -> None:
    adapter = read_adapter(wrote(speaker, **files(text_of(speaker, OTHER))), speaker)
    assert adapter.settings == {"stop_token_ids": [OTHER]}
    assert "stop_token_ids taken" in told(adapter)


def test_the_backbones_own_end_is_nothing_new(wrote: Wrote, speaker: Backbone) -> None:
    files = {"tokenizer_config": {"eos_token": "<end>"}, "generation_config": {"eos_token_id": END}}
    adapter = read_adapter(wrote(speaker, **files), speaker)
    assert not adapter.settings
    assert not adapter.warnings


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": 5}}, "eos_token"),
        ({"tokenizer_config": {"eos_token": {"text": "x"}}}, "eos_token"),
        ({"generation_config": {"eos_token_id": "2"}}, "eos_token_id"),
        ({"generation_config": {"eos_token_id": [True]}}, "eos_token_id"),
        ({"generation_config": {"eos_token_id": 320}}, "320, but the backbone's tokens are 0 to 319"),
    ],
)
def test_an_end_that_is_none_is_refused(wrote: Wrote, speaker: Backbone, files: dict[str, Any], message: str) -> None:
    with pytest.raises((AdapterMismatch, InvalidRequest), match=message):
        read_adapter(wrote(speaker, **files), speaker)


# ---- generation


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50, "top_p": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
            {"temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
        ),
        ({"do_sample": False, "temperature": 0.6, "max_new_tokens": 9}, {"temperature": 0.0, "max_new_tokens": 9}),
        ({"temperature": 0.6}, None),
        ({"stop_strings": ["\n\n"]}, {"stop": ["\n\n"]}),
        ({"bos_token_id": 1, "transformers_version": "5.0", "_from_model_config": True}, None),
    ],
)
def test_what_generate_would_take(
    wrote: Wrote, speaker: Backbone, config: dict[str, Any], defaults: dict[str, Any] | None
) -> None:
    adapter = read_adapter(wrote(speaker, generation_config=config), speaker)
    assert adapter.settings.get("defaults") == defaults
    assert ("defaults taken from generation_config.json" in told(adapter)) is (defaults is not None)
    assert ("not taken" in told(adapter)) is ("temperature" in config and not config.get("do_sample"))


def test_what_is_not_supported_of_generation_is_named(wrote: Wrote, speaker: Backbone) -> None:
    config = {"num_beams": 4, "no_repeat_ngram_size": 3, "suppress_tokens": [1], "num_return_sequences": 1}
    adapter = read_adapter(wrote(speaker, generation_config=config), speaker)
    assert "num_beams, no_repeat_ngram_size, suppress_tokens" in told(adapter)
    assert "num_return_sequences" not in told(adapter)


# ---- tokens that are added

ADDED = "<|new|>"


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {ADDED: 320}},
        {"tokenizer_config": {"added_tokens_decoder": {"320": {"content": ADDED, "special": True}}}},
        {"tokenizer_config": {"additional_special_tokens": [ADDED]}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": ADDED}}},
        {"tokenizer_config": {"bos_token": ADDED}},
        {"special_tokens_map": {"additional_special_tokens": [{"content": ADDED}]}},
        {"tokenizer": {"version": "1.0", "added_tokens": [{"id": 320, "content": ADDED}], "model": {}}},
        {"tokenizer": {"model": {}, "added_tokens": [{"id": 320, "content": ADDED}]}},
    ],
)
@pytest.mark.parametrize("kind", ["generate", "embed"])
def test_an_added_token_is_refused_by_name(
    wrote: Wrote, speaker: Backbone, kind: KindName, files: dict[str, Any]
) -> None:
    with pytest.raises(AdapterMismatch, match=r"<\|new\|>.*does not have"):
        read_adapter(wrote(speaker, kind, **files), speaker)


@pytest.mark.parametrize("files", [{"added_tokens": {"<end>": 7}}, {"added_tokens": {"the": 319}}])
def test_a_token_with_another_number_is_refused(wrote: Wrote, speaker: Backbone, files: dict[str, Any]) -> None:
    with pytest.raises(AdapterMismatch, match="in the backbone's tokenizer"):
        read_adapter(wrote(speaker, **files), speaker)


def test_a_word_that_became_a_token_is_refused(wrote: Wrote, speaker: Backbone) -> None:
    """It is in the vocabulary, but only the adapter's tokenizer always reads it as one."""
    vocabulary = speaker.tokenizer.loaded.get_vocab()
    word = next(token for token in vocabulary if token.startswith("Ġ") and len(token) > 1)
    with pytest.raises(AdapterMismatch, match="does not read as one token"):
        read_adapter(wrote(speaker, added_tokens={word: vocabulary[word]}), speaker)


def test_the_backbones_own_tokens_are_nothing_new(wrote: Wrote, speaker: Backbone) -> None:
    folder = wrote(speaker, added_tokens={"<end>": 0})
    speaker.tokenizer.loaded.save_pretrained(folder)
    adapter = read_adapter(folder, speaker)
    assert not adapter.warnings
    assert not adapter.settings


def test_a_tokenizer_that_was_extended(wrote: Wrote, speaker: Backbone) -> None:
    extended = PreTrainedTokenizerFast(tokenizer_object=speaker.tokenizer.loaded.backend_tokenizer, eos_token="<end>")
    extended = PreTrainedTokenizerFast.from_pretrained(_saved(extended, wrote(speaker)))
    extended.add_tokens([AddedToken("<thought>")])
    with pytest.raises(AdapterMismatch, match="<thought>"):
        read_adapter(_saved(extended, wrote(speaker)), speaker)


def _saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


def test_a_token_that_only_pads_is_left_out_with_a_warning(wrote: Wrote, speaker: Backbone) -> None:
    files = {"added_tokens": {"[PAD]": 320}, "special_tokens_map": {"pad_token": "[PAD]"}}
    assert "the pad token '[PAD]'" in told(read_adapter(wrote(speaker, **files), speaker))
    files["special_tokens_map"]["unk_token"] = "[PAD]"  # type: ignore[index]
    with pytest.raises(AdapterMismatch, match="PAD"):
        read_adapter(wrote(speaker, **files), speaker)


@pytest.mark.parametrize(
    "content",
    ["x" * 40, "[]", "{", '{"version": ', '{"added_tokens": {}}', '{"added_tokens": [1]}', "[" * 100_000, ""],
)
def test_a_damaged_tokenizer_is_refused(wrote: Wrote, speaker: Backbone, content: str) -> None:
    with pytest.raises(InvalidRequest, match=r"tokenizer.json"):
        read_adapter(wrote(speaker, tokenizer=content), speaker)


def test_a_large_vocabulary_is_not_read(wrote: Wrote, speaker: Backbone) -> None:
    """What stands behind `added_tokens` need not even be JSON."""
    start = json.dumps({"version": "1.0", "padding": {"a": [1, 2]}, "added_tokens": [{"id": 0, "content": "<end>"}]})
    folder = wrote(speaker, tokenizer=start[:-1] + ', "model": {"vocab": {' + "x" * (5 << 20))
    assert not read_adapter(folder, speaker).warnings
    folder = wrote(speaker, tokenizer='{"model": {"vocab": {}}, "x": "' + "x" * (5 << 20))
    with pytest.raises(InvalidRequest, match="no added_tokens before its model"):
        read_adapter(folder, speaker)


# ---- what would make other tokens of a text


@pytest.mark.parametrize("name", ["do_lower_case", "add_bos_token", "add_eos_token"])
def test_another_way_of_reading_is_refused(wrote: Wrote, load_backbone: Callable[[str], Backbone], name: str) -> None:
    backbone = load_backbone("roberta")  # whose tokens stand between <s> and </s>
    does = name != "do_lower_case"
    config = {name: not does, "eos_token": "</s>", "bos_token": "<s>"}
    with pytest.raises(AdapterMismatch, match=f"{name} of tokenizer_config.json is {str(not does).lower()}"):
        read_adapter(wrote(backbone, "classify", tokenizer_config=config), backbone)
    config[name] = does
    assert not read_adapter(wrote(backbone, "classify", tokenizer_config=config), backbone).warnings


def test_the_same_way_of_reading_is_nothing(wrote: Wrote, speaker: Backbone, bert: Backbone) -> None:
    config = {"do_lower_case": False, "add_eos_token": False, "padding_side": "left", "model_max_length": 9}
    assert not read_adapter(wrote(speaker, tokenizer_config=config), speaker).warnings
    assert not read_adapter(wrote(bert, "classify", tokenizer_config={"do_lower_case": False}), bert).warnings


def test_what_cannot_be_told_for_sure_is_a_warning(
    wrote: Wrote, speaker: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"truncation_side": "left", "tokenizer_class": "T5TokenizerFast", "add_prefix_space": True}
    own = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    monkeypatch.setattr(speaker.tokenizer.loaded, "init_kwargs", speaker.tokenizer.loaded.init_kwargs | own)
    warnings = told(read_adapter(wrote(speaker, tokenizer_config=config), speaker))
    assert all(name in warnings for name in config)
    assert not told(read_adapter(wrote(speaker, tokenizer_config=own), speaker))
