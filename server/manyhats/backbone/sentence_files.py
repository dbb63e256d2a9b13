"""Reads sentence-transformers' files of a model or an adapter: `modules.json` and the files that it names.

They are followed exactly, or rejected by name. Where releases differ, current ones (5.4 and later) are followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from manyhats.backbone.sentence import First, Projection, SentenceEmbedding, Step, UnitLength
from manyhats.backbone.sentence_source import MODULES, WEIGHTS, Source, reject_unknown, short_repr
from manyhats.backbone.sentence_steps import check_widths, step_of
from manyhats.errors import AdapterMismatch, InvalidRequest

__all__ = ["MODULES", "SETTINGS", "TRANSFORMER", "Source", "named_files", "read", "transformer_folder", "weight_files"]

SETTINGS = "config_sentence_transformers.json"
TOKENIZER = "tokenizer_config.json"
# The first that exists is read, as in the library.
TRANSFORMER = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

_CLASS = re.compile(
    r"sentence_transformers\.(?:models|(?:base|sentence_transformer)\.(?:models|modules))(?:\.\w+)?\.(\w+)"
)
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# The library's names, in the order in which it joins them.
_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ARGUMENTS = (
    "model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs",
)  # fmt: skip
# Arguments of loading that do not change answers, or only the precision, which the server sets.
_HARMLESS = {
    "trust_remote_code", "torch_dtype", "dtype", "attn_implementation", "device_map", "low_cpu_mem_usage",
    "add_pooling_layer", "padding_side", "use_fast", "model_max_length", "use_safetensors",
}  # fmt: skip
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_ALWAYS = ("query", "document")  # prompts that every model has, empty by default
_LONGEST_PROMPT = 20_000  # characters
_MAX_PROMPTS = 1000
_MAX_MODULES = 16
_NO_LIMIT = 10**9  # a tokenizer without a limit says 10^30


def read(source: Source, width: int) -> SentenceEmbedding:
    """How the folder, which has a modules.json, computes embeddings. `width`: of the backbone's last states.

    Raises InvalidRequest for damaged or missing files, UnsupportedFormat for weights in a pickle, AdapterMismatch for
    what is not supported here or does not fit the backbone.
    """
    modules = _modules(source)
    prompts, default, first = _settings(source)
    names = [name for name, _ in modules]
    if names[:2] != ["Transformer", "Pooling"]:
        raise AdapterMismatch(
            f"{MODULES} has the modules {', '.join(names)}; a Transformer and a Pooling must come first", param=MODULES
        )
    if modules[0][1] != source.transformer:
        raise AdapterMismatch(
            f"{MODULES} has its Transformer in the folder '{modules[0][1]}', but its files stand in "
            f"'{source.transformer}'; move them beside {MODULES}, and leave its path empty",
            param=MODULES,
        )
    lower_case, max_tokens = _transformer(source)
    pooling, include_prompt = _pooling(source, modules[1][1], width)
    if not include_prompt and "cls" in pooling and any(prompts.values()):
        raise AdapterMismatch(
            "include_prompt is false with the pooling 'cls', for which releases of sentence-transformers differ; "
            "not supported",
            param="include_prompt",
        )
    steps: list[Step] = []
    for name, folder in modules[2:]:
        steps += step_of(source, name, folder)
    normalize = bool(steps) and isinstance(steps[-1], UnitLength)
    if first is not None:  # vectors are truncated after they are normalised, and not normalised again
        steps.append(First(first))
        normalize = False
    while steps and isinstance(steps[-1], UnitLength):
        steps.pop()
    projection = Projection(tuple(steps))
    check_widths(projection, len(pooling) * width)
    return SentenceEmbedding(
        pooling=pooling[0] if len(pooling) == 1 else pooling,
        normalize=normalize,
        projection=projection,
        prompts=prompts,
        default_prompt_name=default,
        include_prompt=include_prompt,
        lower_case=lower_case,
        max_tokens=max_tokens,
        stated=True,
    )


def named_files(modules: Any) -> list[str]:
    """The files named by a modules.json, relative to the folder, without paths that are not allowed."""
    listed = modules if isinstance(modules, list) else []
    paths = [one.get("path") for one in listed[:_MAX_MODULES] if isinstance(one, dict)]
    folders = [path.rstrip("/") for path in paths if isinstance(path, str) and _FOLDER.fullmatch(path.rstrip("/"))]
    files = [f"{folder}/{name}" for folder in folders for name in ("config.json", WEIGHTS)]
    return [SETTINGS, TOKENIZER, *TRANSFORMER, *files]


def transformer_folder(modules: Any) -> str:
    """The folder of the first module of a modules.json; empty where it is the folder itself."""
    first = modules[0] if isinstance(modules, list) and modules else None
    path = first.get("path") if isinstance(first, dict) else None
    return path.rstrip("/") if isinstance(path, str) and _FOLDER.fullmatch(path.rstrip("/")) else ""


def weight_files(source: Source) -> set[str]:
    """The safetensors files of the modules after the Transformer, relative to the folder."""
    return {f"{folder}/{WEIGHTS}" for name, folder in _modules(source) if name in ("Dense", "LayerNorm") and folder}


def _modules(source: Source) -> list[tuple[str, str]]:
    """The class and the folder of each module, in order. Raises AdapterMismatch for a class of another library."""
    listed = source.json(source.folder / MODULES)
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_MODULES:
        raise InvalidRequest(f"{MODULES} must hold a list of 1 to {_MAX_MODULES} modules", param=MODULES)
    modules = []
    for i, one in enumerate(listed):
        kind = one.get("type") if isinstance(one, dict) else None
        folder = one.get("path", "") if isinstance(one, dict) else None
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise InvalidRequest(f"module {i} of {MODULES} has no 'type' and 'path'", param=MODULES)
        folder = folder.rstrip("/")
        if folder and (not _FOLDER.fullmatch(folder) or ".." in folder):
            raise InvalidRequest(f"the path {folder[:100]!r} in {MODULES} is not allowed", param=MODULES)
        found = _CLASS.fullmatch(kind)
        if not found:
            raise AdapterMismatch(f"the module '{kind[:100]}' of {MODULES} is not supported", param=MODULES)
        modules.append((found[1], folder))
    return modules


def _settings(source: Source) -> tuple[dict[str, str], str | None, int | None]:
    """The prompts by name, the default one's name, and the number of dimensions that embeddings are truncated to."""
    config = source.object(SETTINGS)
    kind = config.get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise AdapterMismatch(
            f"{SETTINGS} is of a {short_repr(kind)}; SentenceTransformer is supported", param="model_type"
        )
    prompts_given = config.get("prompts") or {}
    if not isinstance(prompts_given, dict) or len(prompts_given) > _MAX_PROMPTS:
        raise InvalidRequest(f"prompts in {SETTINGS} must be at most {_MAX_PROMPTS} texts by name", param="prompts")
    prompts = {}
    for name, text in prompts_given.items():
        text = "" if text is None else text
        if not isinstance(text, str) or len(text) > _LONGEST_PROMPT:
            raise InvalidRequest(
                f"the prompt '{name[:100]}' in {SETTINGS} is not a text of up to {_LONGEST_PROMPT} characters",
                param="prompts",
            )
        prompts[name] = text
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in {*prompts, *_ALWAYS}):
        raise InvalidRequest(
            f"default_prompt_name is {short_repr(default)}, but {SETTINGS} has the prompts {_listed(prompts)}",
            param="default_prompt_name",
        )
    first = config.get("truncate_dim")
    if first is not None and (type(first) is not int or first < 1):
        raise InvalidRequest(f"truncate_dim in {SETTINGS} is {short_repr(first)}, not a number", param="truncate_dim")
    return dict.fromkeys(_ALWAYS, "") | prompts, default, first


def _transformer(source: Source) -> tuple[bool, int | None]:
    """Whether texts are put into lower case, and after how many tokens they are truncated."""
    inside = f"{source.transformer}/" if source.transformer else ""
    name = next((f"{inside}{name}" for name in TRANSFORMER if source.has(f"{inside}{name}")), TRANSFORMER[0])
    config = source.object(name)
    max_tokens = config.pop("max_seq_length", None)
    lower_case = config.pop("do_lower_case", False)
    for part in _ARGUMENTS:
        arguments = config.pop(part, None) or {}
        if not isinstance(arguments, dict):
            raise InvalidRequest(f"{part} in {name} must be an object", param=part)
        reject_unknown(arguments, _HARMLESS, f"{part} in {name}")
        max_tokens = max_tokens if max_tokens is not None else arguments.get("model_max_length")
    outputs = config.pop("transformer_task", None), config.pop("module_output_name", None)
    if outputs[0] not in (None, "feature-extraction") or outputs[1] not in (None, "token_embeddings"):
        raise AdapterMismatch(
            f"the Transformer of {name} gives {short_repr(outputs)}, which is not supported", param=name
        )
    modality = config.pop("modality_config", None)
    if modality not in (None, _TEXT_ONLY):
        raise AdapterMismatch(
            f"modality_config in {name} is {short_repr(modality)}; text alone is supported", param=name
        )
    config.pop("unpad_inputs", None)
    reject_unknown(config, set(), name)
    if not isinstance(lower_case, bool):
        raise InvalidRequest(f"do_lower_case in {name} is {short_repr(lower_case)}, not true or false", param=name)
    if max_tokens is None:
        max_tokens = source.object(f"{inside}{TOKENIZER}").get("model_max_length")
        if not _is_number(max_tokens):
            max_tokens = None
    elif type(max_tokens) is not int or max_tokens < 1:
        raise InvalidRequest(
            f"max_seq_length in {name} is {short_repr(max_tokens)}, not a number of tokens", param=name
        )
    return lower_case, None if max_tokens is None or max_tokens > _NO_LIMIT else int(max_tokens)


def _pooling(source: Source, folder: str, width: int) -> tuple[tuple[str, ...], bool]:
    """The modes, and whether a prompt's tokens are pooled."""
    name = f"{folder}/config.json" if folder else "config.json"
    config = source.object(name, needed=True)
    stated = config.pop("pooling_mode", None)
    flags = {flag: config.pop(flag, None) for flag in _FLAGS}
    if stated is None:
        chosen: Sequence[Any] = [_FLAGS[flag] for flag, on in flags.items() if on]
        if chosen and flags["pooling_mode_mean_tokens"] is None:
            raise AdapterMismatch(
                f"{name} does not say whether pooling_mode_mean_tokens is on, and releases of sentence-transformers "
                "differ in what they take it for; say true or false",
                param="pooling_mode_mean_tokens",
            )
        chosen = chosen or ["mean"]
    else:
        chosen = stated if isinstance(stated, list) else [stated]
    modes = []
    for mode in chosen:
        mode = mode.lower() if isinstance(mode, str) else mode
        if not isinstance(mode, str) or mode not in _MODES:
            raise AdapterMismatch(
                f"the pooling {short_repr(mode)} of {name} is not supported; these are: {', '.join(_MODES)}",
                param="pooling_mode",
            )
        modes.append(_MODES[mode])
    if not 0 < len(modes) <= len(_MODES):
        raise InvalidRequest(f"{name} has {len(modes)} pooling modes", param="pooling_mode")
    include = config.pop("include_prompt", True)
    if not isinstance(include, bool):
        raise InvalidRequest(f"include_prompt in {name} is {short_repr(include)}, not true or false", param=name)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        own = config.pop(key, None)
        if own is not None and own != width:
            raise AdapterMismatch(
                f"{key} in {name} is {short_repr(own)}, but the backbone's states have {width} numbers", param=key
            )
    reject_unknown(config, set(), name)
    return tuple(modes), include


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1


def _listed(prompts: Mapping[str, str]) -> str:
    return ", ".join(map(repr, list(prompts)[:20])) or "none"
