"""The fields of PEFT's configs: which are supported, and which change answers and are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.peft.types import PEFT_TYPES
from manyhats.messages import short_repr
from manyhats.methods.libraries.fields import reject_fields
from manyhats.methods.libraries.peft import FieldType, PeftType
from manyhats.methods.libraries.peft_fields import ANY, FLAG, FLAG_OR_TEXT, INTEGERS, OBJECT, TEXT, TEXTS

# Fields of every config that do not change answers: bookkeeping, matching (the tensors say what is adapted) and
# training. A field that is neither here nor one of the type's must be empty, false or zero.
_COMMON: Mapping[str, FieldType] = {
    "auto_mapping": OBJECT,
    "base_model_name_or_path": TEXT,
    "inference_mode": FLAG,
    "peft_type": ANY,
    "peft_version": TEXT,
    "revision": TEXT,
    "task_type": ANY,
    "modules_to_save": TEXTS,
    "target_modules": TEXTS,
    "exclude_modules": TEXTS,
    "layers_to_transform": INTEGERS,
    "layers_pattern": TEXTS,
    "fan_in_fan_out": FLAG,
    "init_weights": FLAG_OR_TEXT,
    "runtime_config": OBJECT,
}
# Fields that other programs write, and former fields of PEFT: none of them changes answers.
_FOREIGN = {
    "unsloth_fixed", "unsloth", "_from_model_config", "_name_or_path", "torch_dtype", "dtype", "lora_dtype",
    "quantization_config", "merge_weights", "lorap_lr_ratio", "lorap_emb_lr", "transformers_version",
}  # fmt: skip
# The same, with the values that do not change answers; others are rejected.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"lora_nums": (1,)}

# Methods that are supported only as the difference of the weights.
_DIFFERENCES = {
    "LOHA", "LOKR", "OFT", "BOFT", "HRA", "FOURIERFT", "C3A", "RANDLORA", "VBLORA", "XLORA", "ROAD", "WAVEFT", "DELORA",
    "GRALORA", "HIRA", "GLORA", "PSOFT", "LILY", "MISS", "BONE", "OSF", "TINYLORA", "LORAFA", "PEANUT", "UNILORA",
}  # fmt: skip

# Of all types, because fields of other types are checked, too.
_ALL_FIELDS: dict[str, FieldType] = {
    name: field
    for fields in (*(more for one in PEFT_TYPES.values() for more in (one.unsupported, one.fields)), _COMMON)
    for name, field in fields.items()
}


def normalised(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with `peft_type` and `task_type` as PEFT spells them: `LORA` for `lora` and for `PeftType.LORA`."""
    normal = dict(config)
    for field, enum in (("peft_type", "PeftType."), ("task_type", "TaskType.")):
        value = normal.get(field)
        if isinstance(value, str):
            normal[field] = value.removeprefix(enum).upper()
    return normal


def check_type(config: Mapping[str, Any]) -> PeftType:
    """The file's `peft_type`. Raises AdapterMismatch for one that is not supported, with what can be done."""
    name = str(config.get("peft_type"))
    if name in PEFT_TYPES:
        return PEFT_TYPES[name]
    known = ", ".join(sorted(PEFT_TYPES))
    if name == "MULTITASK_PROMPT_TUNING":
        raise AdapterMismatch(
            "PEFT's MULTITASK_PROMPT_TUNING needs a task id with every input, and is not supported; multiply the "
            "prompt of one task and save it as PROMPT_TUNING",
            param="peft_type",
        )
    if name in _DIFFERENCES:
        raise AdapterMismatch(
            f"PEFT's {name} is not supported as it is; `manyhats convert PATH OUT --backbone BACKBONE` makes a plain "
            f"difference of its weights on your own machine. Supported as they are: {known}",
            param="peft_type",
        )
    raise AdapterMismatch(f"PEFT's {short_repr(name)} is not supported; these are: {known}", param="peft_type")


def check_fields(config: Mapping[str, Any], peft_type: PeftType) -> None:
    """Raises InvalidRequest for a field of another type, AdapterMismatch for one that changes answers and is not
    supported."""
    _check_types(config, peft_type)
    given = {name: value for name, value in config.items() if value not in _NEUTRAL.get(name, ())}
    reject_fields(given, _COMMON.keys() | _FOREIGN | peft_type.fields.keys(), " of adapter_config.json")
    if peft_type.check is not None:
        peft_type.check(config)


def _check_types(config: Mapping[str, Any], peft_type: PeftType) -> None:
    """Raises InvalidRequest for a known field of another type than PEFT gives it; null means not set."""
    known = {**_ALL_FIELDS, **peft_type.unsupported, **peft_type.fields}
    for name, value in config.items():
        if value is not None and name in known and not known[name].fits(value):
            raise InvalidRequest(
                f"{name} of adapter_config.json must be {known[name].description}, not {short_repr(value)}", param=name
            )
