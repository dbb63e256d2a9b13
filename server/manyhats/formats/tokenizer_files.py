"""An adapter's tokenizer files: chat template, end-of-text tokens, and settings that would change tokenisation.

Texts are tokenised by the backbone's tokenizer. Of an adapter's own files the chat template, the end-of-text tokens and
the defaults of generation are used. What would tokenise texts otherwise is rejected by name, or warned of where that is
not certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.added_tokens import CONFIG, NAMED, SPECIAL, check_added_tokens, token_text
from manyhats.formats.files import read_json
from manyhats.formats.generation_config import FILE as GENERATION
from manyhats.formats.generation_config import read_generation_config
from manyhats.messages import short_repr

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Tokenizer

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_JSON = "chat_template.json"
_TEMPLATE_LIMIT = 1 << 20  # bytes
_MORE_TEMPLATES = "additional_chat_templates"
# Settings that change tokenisation, which show only in a comparison of the two configs.
_SWITCHES = ("add_prefix_space", "split_special_tokens", "strip_accents", "tokenize_chinese_chars", "legacy")
_ANY_TOKENIZER = {"PreTrainedTokenizer", "PreTrainedTokenizerBase", "TokenizersBackend"}


def with_tokenizer_files(adapter: Adapter, folder: Path, backbone: Backbone) -> Adapter:
    """The adapter with the settings of its tokenizer files and generation config.

    The adapter's own files take precedence. Raises AdapterMismatch for files that would tokenise texts otherwise than
    the backbone's tokenizer, and InvalidRequest for damaged ones.
    """
    config = _object(folder / CONFIG)
    special = _object(folder / SPECIAL)
    warnings = check_added_tokens(folder, config, special, backbone.tokenizer)
    warnings += _check_config(config, backbone.tokenizer)
    settings: dict[str, Any] = {}
    if KINDS[adapter.kind].generates:
        stop_tokens, defaults, more = read_generation_config(folder)
        warnings += more
        stop_tokens = _stop_tokens(config, special, stop_tokens, backbone, warnings)
        template = _chat_template(folder, config, special, backbone.tokenizer, warnings)
        if stop_tokens:
            settings["stop_token_ids"] = stop_tokens
        if template is not None:
            settings["chat_template"] = template
        if defaults:
            settings["defaults"] = defaults | dict(adapter.settings.get("defaults", {}))
    return replace(adapter, settings=dict(adapter.settings) | settings, warnings=(*adapter.warnings, *warnings))


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


# ---- settings that are used


def _stop_tokens(
    config: Mapping[str, Any],
    special: Mapping[str, Any],
    of_generation: list[int],
    backbone: Backbone,
    warnings: list[str],
) -> list[int]:
    """The tokens that end a text, in addition to the backbone's."""
    size = int(backbone.config.vocab_size)
    for number in of_generation:
        if number >= size:
            raise AdapterMismatch(
                f"eos_token_id of {GENERATION} has {number}, but the backbone's tokens are 0 to {size - 1}",
                param="eos_token_id",
            )
    found = dict.fromkeys((number for number in of_generation if number not in backbone.eos_token_ids), GENERATION)
    for source, file in ((config, CONFIG), (special, SPECIAL)):
        if source.get("eos_token") is None:
            continue
        text = token_text(source["eos_token"])
        token = None if text is None else backbone.tokenizer.token_id(text)
        if token is None:
            raise AdapterMismatch(
                f"eos_token of {file} is {short_repr(source['eos_token'])}, which is no token of the "
                "backbone's tokenizer",
                param="eos_token",
            )
        if token not in backbone.eos_token_ids:
            found.setdefault(token, file)
        break  # transformers reads the second only where the first has none
    if found:
        names = backbone.tokenizer.loaded.convert_ids_to_tokens(list(found))
        listed = ", ".join(f"{name!r} ({number}, {found[number]})" for name, number in zip(names, found, strict=True))
        warnings.append(f"stop_token_ids taken from the adapter's files: {listed}")
    return list(found)


def _chat_template(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, Any], tokenizer: Tokenizer, warnings: list[str]
) -> str | None:
    """The template that differs from the backbone's; None where none does.

    A template may use special tokens by name. Where the adapter's differ from the backbone's, they are set at its
    beginning.
    """
    template, file = _own_template(folder, config, warnings)
    backbones = tokenizer.loaded.chat_template
    text = template if template is not None else backbones if isinstance(backbones, str) else None
    if text is None:
        return None
    expected = tokenizer.loaded.special_tokens_map
    stated = ((name, token_text(config.get(name, special.get(name)))) for name in NAMED if name in text)
    named = {name: token for name, token in stated if token is not None and token != expected.get(name)}
    if not named and text == backbones:
        return None
    if template is not None and template != backbones:
        warnings.append(f"chat_template taken from {file}")
    if named:
        warnings.append(f"the chat template writes the adapter's own {', '.join(named)}, as {CONFIG} says")
    return "".join(f"{{% set {name} = {_literal(token)} %}}\n" for name, token in named.items()) + text


def _literal(text: str) -> str:
    """A text as a Jinja literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _own_template(folder: Path, config: Mapping[str, Any], warnings: list[str]) -> tuple[str | None, str]:
    """The adapter's own template, and the file that has it: as in transformers, a .jinja file takes precedence."""
    more = sorted(path.stem for path in (folder / _MORE_TEMPLATES).glob("*.jinja"))
    if (folder / _TEMPLATE).is_file():
        _warn_of_unused(more, warnings)
        return _read_text(folder / _TEMPLATE), _TEMPLATE
    own = config.get("chat_template")
    if own is None:
        template = _object(folder / _TEMPLATE_JSON).get("chat_template")
        if template is not None and not isinstance(template, str):
            raise InvalidRequest(f"chat_template of {_TEMPLATE_JSON} must be a text", param="chat_template")
        return template, _TEMPLATE_JSON
    if isinstance(own, str):
        return own, CONFIG
    if isinstance(own, list):
        entries = [(one.get("name"), one.get("template")) if isinstance(one, dict) else (None, None) for one in own]
    else:
        entries = list(own.items()) if isinstance(own, dict) else [(None, None)]
    templates = {name: text for name, text in entries if isinstance(name, str) and isinstance(text, str)}
    if len(templates) != len(entries):
        raise InvalidRequest(
            f"chat_template of {CONFIG} must be a text, or a list of objects with name and template",
            param="chat_template",
        )
    _warn_of_unused([name for name in templates if name != "default"] + more, warnings)
    if "default" not in templates:
        warnings.append(f"chat_template of {CONFIG} has none called 'default': the backbone's own is used")
    return templates.get("default"), CONFIG


def _warn_of_unused(names: list[str], warnings: list[str]) -> None:
    if names:
        listed = ", ".join(short_repr(name) for name in names[:5])
        warnings.append(f"of several chat templates 'default' is used; not used: {listed}")


def _read_text(path: Path) -> str:
    if path.stat().st_size > _TEMPLATE_LIMIT:
        raise InvalidRequest(f"{path.name} is larger than {_TEMPLATE_LIMIT} bytes", param=path.name)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8: {error}", param=path.name) from None


# ---- settings that would change tokenisation


def _check_config(config: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    """Raises AdapterMismatch for a setting of tokenizer_config.json that would change the tokens of texts.

    Returns warnings for settings that may do so.
    """
    expected = tokenizer.loaded.init_kwargs
    for name, observed in tokenizer.observed_settings().items():
        declared = config.get(name)
        if isinstance(declared, bool) and declared != observed and expected.get(name) != declared:
            raise AdapterMismatch(
                f"{name} of {CONFIG} is {str(declared).lower()}, but {str(observed).lower()} for the backbone's "
                "tokenizer, which reads the texts; leave the file out where the adapter was trained with the "
                "backbone's",
                param=name,
            )
    warnings = [
        f"{name} of {CONFIG} is {short_repr(config[name])}, but {short_repr(expected[name])} for the backbone's "
        "tokenizer, which "
        "reads the texts"
        for name in _SWITCHES
        if config.get(name) is not None and expected.get(name) is not None and config[name] != expected[name]
    ]
    if config.get("truncation_side") == "left":
        warnings.append(f"truncation_side of {CONFIG} is left, but a text that is cut loses its end here")
    own = _class_of(config.get("tokenizer_class"))
    known = (_class_of(expected.get("tokenizer_class")), _class_of(type(tokenizer.loaded).__name__))
    backbones = known[0] or known[1]
    if own and backbones and own not in known:
        warnings.append(
            f"tokenizer_class of {CONFIG} is {short_repr(config['tokenizer_class'])}, but the backbone's tokenizer, "
            f"which reads the texts, is a {backbones}"
        )
    return warnings


def _class_of(name: Any) -> str | None:
    """A tokenizer's class name without `Fast`; None for a generic class."""
    plain = name.removesuffix("Fast") if isinstance(name, str) else None
    return None if plain in _ANY_TOKENIZER else plain
