"""Files that are damaged, incomplete, dangerous or made for something else."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest, ManyhatsError, UnsupportedFormat
from manyhats.formats.pickles import looks_like_pickle
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.libraries.peft_patterns import by_pattern
from manyhats.methods.lora import peft_vera
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from tests.references.adapterhub import STORE

WEIGHTS = {"lora": "adapter_model", "prefix": "adapter_model", "bottleneck": "adapter", "mask": "weights"}
CONFIG = {m: "manyhats.json" if m == "mask" else "adapter_config.json" for m in WEIGHTS}
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def wrote(bert: Backbone, tmp_path: Path) -> Callable[..., Path]:
    """Writes a classifier of a method, and leaves out our own description of the task unless it is the format."""

    def write(method: str, kind: Any = "classify", **options: Any) -> Path:
        folder = tmp_path / method
        folder.mkdir()
        write_adapter(tiny.adapter(bert, method, 3, kind=kind, **options), folder, bert)
        if method != "mask":
            (folder / "manyhats.json").unlink()
        read_adapter(folder, bert)
        return folder

    return write


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_inner(path: Path, **fields: Any) -> None:
    """Changes fields of AdapterHub's inner `config`."""
    value = json.loads(path.read_text())
    value["config"] |= fields
    path.write_text(json.dumps(value))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load(path)
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})


def load(path: Path) -> dict[str, Tensor]:
    """Copies of a file's tensors: those that are loaded are views of the file, which is to be changed."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def refused(folder: Path, backbone: Backbone, error: type[ManyhatsError], message: str = "") -> ManyhatsError:
    with pytest.raises(error, match=message or None) as caught:
        read_adapter(folder, backbone)
    assert len(caught.value.message) < 1000
    return caught.value


# ---- files


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_truncated_weights(wrote, bert: Backbone, method: str) -> None:
    path = wrote(method) / f"{WEIGHTS[method]}.safetensors"
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for cut in (0, 1, 7, 8, 9, 8 + header // 2, 8 + header - 1, 8 + header, 8 + header + 5, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path.parent, bert, InvalidRequest, "damaged or not safetensors")
    path.write_bytes(whole + b"x")
    refused(path.parent, bert, InvalidRequest, "damaged or not safetensors")
    path.unlink()
    refused(path.parent, bert, InvalidRequest, f"no {path.name}")
    path.mkdir()
    refused(path.parent, bert, InvalidRequest, f"no {path.name}")


@pytest.mark.parametrize(
    "content",
    [
        b"not a tensor file at all",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 2) + b"[]",
        b"\0" * 64,
        b"{" * 5000,
    ],
)
def test_other_content(wrote, bert: Backbone, content: bytes) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    path.write_bytes(content)
    refused(path.parent, bert, ManyhatsError)


def _safetensors(dtype: str, shape: list[int], data: bytes, name: str = "x") -> bytes:
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("BOOL", 1), ("I8", 1), ("I32", 4), ("I64", 8), ("U16", 2), ("U64", 8), ("C64", 8)),
        *(("F8_E5M2", 1), ("F8_E4M3", 1), ("F8_E8M0", 1), ("F4", 1), ("F9", 1)),
    ],
)
def test_types_that_are_not_served(wrote, bert: Backbone, dtype: str, size: int) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    path.write_bytes(_safetensors(dtype, [4, 32], bytes(128 * size), f"{QUERY}.lora_A.weight"))
    refused(path.parent, bert, InvalidRequest)


def test_pickle_under_the_name_of_safetensors(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    tensors = load(path)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(["anything"] * 20, protocol=protocol))
        refused(path.parent, bert, UnsupportedFormat, "manyhats convert")
    torch.save(tensors, path)
    refused(path.parent, bert, UnsupportedFormat, "manyhats convert")
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    refused(path.parent, bert, UnsupportedFormat, "manyhats convert")
    for protocol in (0, 1):
        path.write_bytes(pickle.dumps(["anything"] * 20, protocol=protocol))
        refused(path.parent, bert, InvalidRequest, "damaged or not safetensors")


@pytest.mark.parametrize("header", [0x80, 0x180, 0x280, 0x8003 & ~7, 0x04034B50])
def test_a_header_length_that_looks_like_a_pickle(tmp_path: Path, header: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", header) + b'{"__metadata__"')
    assert not looks_like_pickle(path)


def test_every_header_length_is_read(bert: Backbone, tmp_path: Path, wrote) -> None:
    """A header's length stands first in the file, and 1 in 32 begins as a pickle does."""
    folder = wrote("lora")
    path = folder / "adapter_model.safetensors"
    tensors, firsts = load(path), set()
    for pad in range(0, 256, 8):
        save_file(tensors, path, metadata={"format": "pt", "pad": "x" * pad})
        firsts.add(path.read_bytes()[0])
        read_adapter(folder, bert)
    assert 0x80 in firsts


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter.pt", "x.pth", "model.ckpt", "weights.pkl"])
def test_weights_in_a_pickle_name_the_converter(wrote, bert: Backbone, name: str) -> None:
    folder = wrote("lora")
    (folder / "adapter_model.safetensors").rename(folder / name)
    refused(folder, bert, UnsupportedFormat, "`manyhats convert PATH OUT`")


def test_pickles_beside_the_weights_are_not_opened(wrote, bert: Backbone) -> None:
    folder = wrote("lora")
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt", "checkpoint-5/adapter_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
        (folder / name).chmod(0)
    assert read_adapter(folder, bert).method == "lora"


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1,}',
        b"[]",
        b"null",
        b'"text"',
        b"3",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a": ' + b"[" * 950 + b"]" * 950 + b"}",
        b'{"peft_type": ' + b'{"a": ' * 40 + b"1" + b"}" * 41,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_damaged_json(wrote, bert: Backbone, method: str, content: bytes) -> None:
    path = wrote(method) / CONFIG[method]
    path.write_bytes(content)
    refused(path.parent, bert, InvalidRequest, path.name)


def test_json_that_is_too_large(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    edit_json(path, junk=["x" * 1000] * 5000)
    refused(path.parent, bert, InvalidRequest, "larger than")


def test_long_values_are_cut_in_messages(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    for fields in ({"unknown": "x" * 100_000}, {"peft_type": "y" * 100_000}, {"task_type": ["z" * 10_000] * 9}):
        edit_json(path, **fields)
        refused(path.parent, bert, ManyhatsError)


def test_an_empty_folder(bert: Backbone, tmp_path: Path) -> None:
    refused(tmp_path, bert, InvalidRequest, "no file")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, bert, InvalidRequest, "notes.txt")
    (tmp_path / "adapter_config.json").mkdir()
    refused(tmp_path, bert, InvalidRequest, "no adapter_config.json")


def test_a_config_of_no_known_format(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    path.write_text('{"r": 8}')
    refused(path.parent, bert, InvalidRequest, "neither PEFT's 'peft_type' nor AdapterHub's")


# ---- values


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(wrote, bert: Backbone, method: str, value: float) -> None:
    path = wrote(method) / f"{WEIGHTS[method]}.safetensors"
    edit_tensors(path, lambda tensors: next(iter(tensors.values())).view(-1).__setitem__(0, value))
    refused(path.parent, bert, InvalidRequest, "1 values that are NaN or infinite")


def test_a_double_that_is_infinite_as_a_float(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    edit_tensors(path, lambda t: t.update({f"{QUERY}.lora_A.weight": torch.full((3, 32), 1e200, dtype=torch.float64)}))
    refused(path.parent, bert, InvalidRequest, "96 values that are NaN or infinite")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
def test_other_precisions_are_read(wrote, bert: Backbone, method: str, dtype: torch.dtype) -> None:
    path = wrote(method) / f"{WEIGHTS[method]}.safetensors"
    batch = tiny.texts([3, 9])
    before = tiny.ask(bert, read_adapter(path.parent, bert), batch)
    edit_tensors(path, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    after = tiny.ask(bert, read_adapter(path.parent, bert), batch)
    assert tiny.difference(after, before) < 0.1


# ---- tensors


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_a_tensor_left_over(wrote, bert: Backbone, method: str) -> None:
    path = wrote(method) / f"{WEIGHTS[method]}.safetensors"
    edit_tensors(path, lambda tensors: tensors.update({"something.else": torch.zeros(2)}))
    assert refused(path.parent, bert, InvalidRequest, "1 tensors of .* are not understood").param == "something.else"


def test_a_lora_without_its_b(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    edit_tensors(path, lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight"))
    refused(path.parent, bert, AdapterMismatch, "no 'B' for encoder.layer.0.attention.self.query")


def test_a_tensor_stored_twice(wrote, bert: Backbone) -> None:
    """With and without the task model's prefix both names mean one site."""
    path = wrote("lora") / "adapter_model.safetensors"
    bare = QUERY.replace("bert.", "")
    edit_tensors(path, lambda t: t.update({f"{bare}.lora_A.weight": t[f"{QUERY}.lora_A.weight"].clone()}))
    refused(path.parent, bert, InvalidRequest, "two tensors are the A of")


@pytest.mark.parametrize("shape", [(), (3,), (3, 16), (0, 32), (3, 32, 1)])
def test_a_lora_of_another_shape(wrote, bert: Backbone, shape: tuple[int, ...]) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    edit_tensors(path, lambda tensors: tensors.update({f"{QUERY}.lora_A.weight": torch.zeros(shape)}))
    assert str(list(shape)) in refused(path.parent, bert, AdapterMismatch).message


@pytest.mark.parametrize("shape", [(), (3,), (3, 16), (0, 32), (3, 32, 1)])
@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_a_head_of_another_shape(wrote, bert: Backbone, method: str, shape: tuple[int, ...]) -> None:
    folder = wrote(method)
    path = folder / ("model_head.safetensors" if method == "bottleneck" else f"{WEIGHTS[method]}.safetensors")
    name = next(n for n in load_file(path) if n.endswith("weight") and ("classifier" in n or "head" in n))
    edit_tensors(path, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    refused(folder, bert, AdapterMismatch)


def test_no_weights_at_all(wrote, bert: Backbone) -> None:
    for method in tiny.METHOD_NAMES:
        path = wrote(method) / f"{WEIGHTS[method]}.safetensors"
        edit_tensors(path, lambda tensors: [tensors.pop(n) for n in list(tensors) if "head." not in n])
        refused(path.parent, bert, ManyhatsError)


# ---- PEFT's fields


@pytest.mark.parametrize("name", ["OFT", "LOHA", "MULTITASK_PROMPT_TUNING", "lorax", "", None, 3, ["LORA"], {"a": 1}])
def test_other_peft_types(wrote, bert: Backbone, name: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", peft_type=name)
    assert refused(folder, bert, AdapterMismatch, "not supported").param == "peft_type"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bias", "some"),
        ("bias", None),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["x"]),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
        ("arrow_config", {"top_k": 3}),
        ("megatron_config", {"a": 1}),
        ("use_bdlora", {"a": 1}),
        ("monteclora_config", {"a": 1}),
        ("kasa_config", {"a": 1}),
        ("some_future_field", 0.5),
    ],
)
def test_fields_that_change_the_answer(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", **{field: value})
    assert refused(folder, bert, AdapterMismatch, "not supported|not known").param == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", "yes"),
        ("use_rslora", "x"),
        ("use_rslora", 1),
        ("fan_in_fan_out", "x"),
        ("inference_mode", "false"),
        ("r", True),
        ("lora_dropout", "0.1"),
        ("target_modules", 5),
        ("target_modules", ["query", 7]),
        ("modules_to_save", {"a": 1}),
        ("layers_to_transform", "x"),
        ("init_lora_weights", {"a": 1}),
        ("auto_mapping", "x"),
        ("base_model_name_or_path", ["x"]),
        ("revision", {"a": 1}),
        ("runtime_config", [1]),
    ],
)
def test_fields_of_another_type(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", **{field: value})
    assert refused(folder, bert, InvalidRequest, f"{field} of adapter_config.json must be").param == field
    edit_json(folder / "adapter_config.json", **{field: None} if field != "r" else {"r": 3})
    read_adapter(folder, bert)


@pytest.mark.parametrize("field", ["use_gating", "use_dora"])
def test_flags_of_another_type_in_adapterhubs_configs(tmp_path: Path, bert: Backbone, field: str) -> None:
    folder = STORE.write("ah-bert-lora-r4-a16-qv-classify", tmp_path / "lora")
    edit_inner(folder / "adapter_config.json", **{field: "false"})
    assert refused(folder, bert, InvalidRequest, "must be true or false, not 'false'").param == field


def test_flags_of_another_type_in_a_bottlenecks_config(wrote, bert: Backbone) -> None:
    folder = wrote("bottleneck")
    edit_inner(folder / "adapter_config.json", ln_before="yes")
    assert refused(folder, bert, InvalidRequest).param == "ln_before"


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_a_field_that_stands_twice(wrote, bert: Backbone, method: str) -> None:
    path = wrote(method) / CONFIG[method]
    field = next(iter(json.loads(path.read_text())))
    path.write_text(path.read_text().rstrip()[:-1] + f', "{field}": null}}')
    assert refused(path.parent, bert, InvalidRequest, "twice").param == field


def test_numbers_that_no_field_can_mean(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    for field, value in (("init_r", 10**400), ("init_r", [1, -(10**30)]), ("init_r", 1e999)):
        edit_json(path, **{field: value})
        assert refused(path.parent, bert, InvalidRequest).param == field


def test_a_config_of_very_many_values(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    path.write_bytes(b'{"peft_type": [' + b"[]," * 600_000 + b"1]}")
    refused(path.parent, bert, InvalidRequest, "more than 250000 values")


def test_a_config_that_begins_with_a_byte_order_mark(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read_adapter(path.parent, bert)


@pytest.mark.parametrize(
    ("field", "value"), [("use_dora", True), ("lora_bias", True), ("trainable_token_indices", [3])]
)
def test_fields_whose_tensors_are_missing(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", **{field: value})
    assert refused(folder, bert, AdapterMismatch, "the file has no").param == field


def test_fields_that_are_off(wrote, bert: Backbone) -> None:
    folder = wrote("lora")
    off = {"use_dora": False, "layer_replication": None, "some_future_field": [], "another": 0, "third": {}}
    edit_json(folder / "adapter_config.json", **off, init_lora_weights="eva", lora_dropout=0.1)
    read_adapter(folder, bert)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "PiSSA"])
def test_loras_of_a_changed_base(wrote, bert: Backbone, start: str) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", init_lora_weights=start)
    refused(folder, bert, AdapterMismatch, "path_initial_model_for_weight_conversion")


@pytest.mark.parametrize("rank", [4, 2, 0, -1, 3.0, "3", None, True, [], 10**400])
def test_a_rank_that_is_not_the_tensors(wrote, bert: Backbone, rank: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", r=rank)
    assert refused(folder, bert, ManyhatsError, "rank|r of|'r'").param == "r"


@pytest.mark.parametrize("alpha", ["8", None, True, [8], {}, 10**400, 1e300])
def test_an_alpha_that_is_no_number(wrote, bert: Backbone, alpha: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", lora_alpha=alpha, alpha_pattern={})
    assert refused(folder, bert, InvalidRequest, "lora_alpha").param == "lora_alpha"


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    "value",
    [
        ["query"],
        "query",
        7,
        {"(": 1},
        {"*": 1},
        {"a{99999999999}": 1},
        {"x" * 500: 1},
        {"(" * 90 + ")" * 90 + "[": 1},
        {"((e|e)*)*x": 1},
        {"(.*)+y": 1},
        {"(a*){50}": 1},
        {".*.*.*.*.*.*.*.*x": 1},
        {r"(?=query)\w": 1},
        {r"(q)uery\1": 1},
        {r"\w{1000}": 1},
        {str(i): 1 for i in range(5000)},
    ],
)
def test_patterns_that_cannot_be_used(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", **{field: value})
    assert refused(folder, bert, InvalidRequest).param == field


@pytest.mark.parametrize("pattern", [".?" * 80 + "!", "(.|.)" * 35 + "!", "(.*.*.*.*)!", "(q|q|q)" * 20])
def test_patterns_that_pythons_engine_would_not_end(wrote, bert: Backbone, pattern: str) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", rank_pattern={pattern: 99}, alpha_pattern={pattern: 1})
    read_adapter(folder, bert)


@given(
    st.lists(
        st.sampled_from(["query", "self", r"\.", ".", "a", "(0|1)", ".*", r"\d+", "[qk]", "?", "|", "$"]), max_size=6
    )
)
def test_patterns_match_as_pythons_do(pieces: list[str]) -> None:
    key = "".join(pieces)
    try:
        value_of = by_pattern({"rank_pattern": {key: 1}}, "rank_pattern", 0)
    except InvalidRequest:
        return
    for module in ("query", "self.query", "layer.0.attention.self.query", "layer.11.key", "a", "selfquery", ""):
        assert value_of(module) == bool(re.match(rf"(.*\.)?({key})$", module)), (key, module)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_virtual_tokens", 4), ("num_layers", 1), ("token_dim", 64), ("num_virtual_tokens", "5"), ("num_layers", [2])],
)
def test_a_prefix_whose_config_says_otherwise(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("prefix")
    edit_json(folder / "adapter_config.json", **{field: value})
    assert refused(folder, bert, ManyhatsError, field).param == field


@pytest.mark.parametrize("shape", [(), (128,), (5, 64), (0, 128), (5, 128, 1), (1, 0)])
def test_a_prefix_of_another_shape(wrote, bert: Backbone, shape: tuple[int, ...]) -> None:
    path = wrote("prefix") / "adapter_model.safetensors"
    edit_tensors(path, lambda tensors: tensors.update({"prompt_embeddings": torch.zeros(shape)}))
    refused(path.parent, bert, AdapterMismatch)


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", "", 1, ["SEQ_CLS"], {"a": 1}])
def test_other_task_types(wrote, bert: Backbone, task: Any) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", task_type=task)
    refused(folder, bert, AdapterMismatch, "is not supported; these are")


def test_a_classifier_without_its_head(wrote, bert: Backbone) -> None:
    path = wrote("lora") / "adapter_model.safetensors"
    edit_tensors(path, lambda tensors: [tensors.pop(n) for n in list(tensors) if "classifier" in n])
    refused(path.parent, bert, AdapterMismatch, "no classifier")


def test_half_a_head(load_backbone, tmp_path: Path) -> None:
    backbone = load_backbone("roberta")
    for i, gone in enumerate(("classifier.dense.weight", "classifier.out_proj.weight")):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_adapter(tiny.adapter(backbone, "lora", 1, kind="classify"), folder, backbone)
        edit_tensors(folder / "adapter_model.safetensors", lambda t, gone=gone: t.pop(f"base_model.model.{gone}"))
        refused(folder, backbone, ManyhatsError)


# ---- AdapterHub's fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_gating", True),
        ("inv_adapter", "nice"),
        ("phm_layer", True),
        ("cross_adapter", True),
        ("some_future_field", "on"),
        ("non_linearity", "no_such"),
        ("residual_before_ln", "post_add"),
        ("scaling", "learned"),
        ("scaling", "channel"),
        ("ln_before", True),
        ("ln_after", True),
    ],
)
def test_bottleneck_fields_that_do_not_fit(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("bottleneck")
    edit_inner(folder / "adapter_config.json", **{field: value})
    refused(folder, bert, AdapterMismatch)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scaling", None),
        ("scaling", "much"),
        ("scaling", [1.0]),
        ("scaling", 10**400),
        ("is_parallel", "maybe"),
        ("residual_before_ln", 7),
        ("original_ln_after", None),
        ("non_linearity", 3),
    ],
)
def test_bottleneck_fields_of_the_wrong_type(wrote, bert: Backbone, field: str, value: Any) -> None:
    folder = wrote("bottleneck")
    edit_inner(folder / "adapter_config.json", **{field: value})
    refused(folder, bert, InvalidRequest, field)


def test_a_scaling_tensor_that_the_config_does_not_have(wrote, bert: Backbone) -> None:
    path = wrote("bottleneck") / "adapter.safetensors"
    edit_tensors(path, lambda t: t.update({"bert.encoder.layer.0.output.adapters.task.scaling": torch.ones(1)}))
    refused(path.parent, bert, AdapterMismatch, "has a tensor for it")


def test_two_down_projections(wrote, bert: Backbone) -> None:
    path = wrote("bottleneck") / "adapter.safetensors"
    stem = "bert.encoder.layer.0.output.adapters.task.adapter_down"
    edit_tensors(path, lambda t: t.update({f"{stem}.1.weight": t[f"{stem}.0.weight"].clone()}))
    refused(path.parent, bert, InvalidRequest, "differ")


@pytest.mark.parametrize("leaf", ["adapter_up.running_mean", "adapter_norm_before.scale", "gate.scale", "down.weight"])
def test_leaves_that_are_not_known(wrote, bert: Backbone, leaf: str) -> None:
    path = wrote("bottleneck") / "adapter.safetensors"
    edit_tensors(path, lambda t: t.update({f"bert.encoder.layer.0.output.adapters.task.{leaf}": torch.ones(32)}))
    refused(path.parent, bert, InvalidRequest, "not understood")


def test_adapterhub_without_a_version(wrote, bert: Backbone) -> None:
    """Files older than `adapters` call two activations otherwise."""
    path = wrote("bottleneck") / "adapter_config.json"
    value = json.loads(path.read_text())
    del value["version"]
    for theirs, ours in (("gelu", "gelu_new"), ("gelu_orig", "gelu"), ("relu", "relu")):
        value["config"]["non_linearity"] = theirs
        path.write_text(json.dumps(value))
        assert read_adapter(path.parent, bert).components[0].config.non_linearity == ours


def test_adapterhubs_architectures_and_short_names_are_listed(wrote, bert: Backbone) -> None:
    """Whatever methods they belong to."""
    folder = wrote("bottleneck")
    edit_json(folder / "adapter_config.json", config={"architecture": "reft"})
    listed = r"these are: bottleneck adapters, lora, prefix_tuning, prompt_tuning and unions of them"
    refused(folder, bert, AdapterMismatch, f"AdapterHub's 'reft' is not supported; {listed}")
    edit_json(folder / "adapter_config.json", config="compacter")
    listed = r"these are: pfeiffer, houlsby, parallel, seq_bn, double_seq_bn, par_bn, pfeiffer\+inv, seq_bn_inv, "
    refused(folder, bert, AdapterMismatch, f"'compacter' is not supported by its name alone; {listed}")


@pytest.mark.parametrize("inner", [None, "compacter", {}, {"architecture": "reft"}, {"architecture": ["x"] * 99}, 3])
def test_other_adapterhub_methods(wrote, bert: Backbone, inner: Any) -> None:
    folder = wrote("bottleneck")
    edit_json(folder / "adapter_config.json", config=inner)
    refused(folder, bert, AdapterMismatch, "is not supported|must be an object")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("head_type", "multiple_choice", AdapterMismatch),
        ("head_type", ["classification"], AdapterMismatch),
        ("head_type", None, AdapterMismatch),
        ("layers", 2, InvalidRequest),
        ("layers", "one", InvalidRequest),
        ("label2id", {"a": 0, "b": 1}, InvalidRequest),
        ("label2id", {"a": 0, "b": 1, "c": "2"}, InvalidRequest),
        ("label2id", {"a": 0, "b": 0, "c": 1}, InvalidRequest),
        ("label2id", {"a": 0, "b": 1, "c": 3}, InvalidRequest),
        ("label2id", {"a": 0, "b": 1, "c": None}, InvalidRequest),
    ],
)
def test_head_configs_that_do_not_fit(wrote, bert: Backbone, field: str, value: Any, error: Any) -> None:
    folder = wrote("bottleneck")
    edit_inner(folder / "head_config.json", **{field: value})
    refused(folder, bert, error)


@pytest.mark.parametrize("activation", [None, 3, ["tanh"], {}, "no_such"])
def test_head_activations(load_backbone, tmp_path: Path, activation: Any) -> None:
    backbone = load_backbone("roberta")
    write_adapter(tiny.adapter(backbone, "bottleneck", 1, kind="classify"), tmp_path, backbone)
    edit_inner(tmp_path / "head_config.json", activation_function=activation)
    refused(tmp_path, backbone, ManyhatsError)


@pytest.mark.parametrize("index", ["01", "٣", "9" * 5000, "-1", "x"])
def test_head_indices_that_are_none(wrote, bert: Backbone, index: str) -> None:
    path = wrote("bottleneck") / "model_head.safetensors"
    edit_tensors(path, lambda t: t.update({f"heads.task.{index}.weight": t.pop("heads.task.1.weight")}))
    with pytest.raises(InvalidRequest):
        read_adapter(path.parent, bert)


# ---- our own format


def test_another_backbones_digest(bert: Backbone, tmp_path: Path) -> None:
    for method in tiny.METHOD_NAMES:
        folder = tmp_path / method
        folder.mkdir()
        write_adapter(tiny.adapter(bert, method, 1), folder, bert)
        edit_json(folder / "manyhats.json", base_sha256="0" * 64)
        assert bert.sha256 in refused(folder, bert, AdapterMismatch, "0" * 64).message


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "manyhats-mask/2"},
        {"format": None},
        {"shapes": {}},
        {"shapes": {"encoder.layer.0.attention.self.query": [32]}},
        {"shapes": {"encoder.layer.0.attention.self.query": [32, 10**30]}},
        {"shapes": {"encoder.layer.0.attention.self.query": [-32, 32]}},
        {"shapes": []},
        {"bit_order": "big"},
        {"keep_is_one": False},
        {"head": {"kind": "classify", "reads": "pooler", "activations": []}},
        {"head": {"kind": "classify", "reads": "pooler", "activations": [None, None]}},
        {"head": {"kind": "classify", "reads": "pooler", "activations": ["no_such"]}},
        {"head": {"kind": "classify", "reads": "tokens", "activations": [None]}},
        {"head": {"kind": "tokens", "reads": "first", "activations": [None]}},
        {"head": {"kind": "embed", "reads": "first", "activations": [None]}},
        {"head": None},
        {"task": []},
        {"unknown": 1},
        {"task": {"labels": ["a", "b"]}},
        {"task": {"labels": ["a", "b", 3]}},
        {"task": {"labels": "abc"}},
        {"task": {"labels": {"a": 0, "b": 1, "c": 2}}},
    ],
    ids=str,
)
def test_descriptions_that_do_not_fit(wrote, bert: Backbone, fields: dict) -> None:
    folder = wrote("mask")
    edit_json(folder / "manyhats.json", **fields)
    refused(folder, bert, ManyhatsError)


def test_a_mask_of_the_wrong_type(wrote, bert: Backbone) -> None:
    path = wrote("mask") / "weights.safetensors"
    edit_tensors(path, lambda t: t.update({"encoder.layer.0.attention.self.query.mask": torch.ones(128)}))
    refused(path.parent, bert, AdapterMismatch, "must be uint8")


@pytest.mark.parametrize(
    "fields", [{"head": {"kind": "classify", "reads": "first", "activations": [None]}}, {"shapes": {"x": [1, 1]}}]
)
def test_a_task_description_has_no_weights(bert: Backbone, tmp_path: Path, fields: dict) -> None:
    write_adapter(tiny.adapter(bert, "lora", 1, kind="classify"), tmp_path, bert)
    edit_json(tmp_path / "manyhats.json", **fields)
    refused(tmp_path, bert, InvalidRequest, "stands beside")


def test_labels_that_are_too_few(bert: Backbone, tmp_path: Path) -> None:
    write_adapter(tiny.adapter(bert, "lora", 1, kind="classify"), tmp_path, bert)
    edit_json(tmp_path / "manyhats.json", task={"labels": ["a", "b"]})
    refused(tmp_path, bert, InvalidRequest, "there are 2 labels, but the head has 3 outputs")


# ---- another backbone


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A BERT of another width."""
    from transformers import AutoModel, BertConfig

    folder = tmp_path_factory.mktemp("wide")
    config = BertConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tiny.tokenizer("bert").save_pretrained(folder)
    return tiny.load(folder)


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_an_adapter_for_another_width(wrote, bert: Backbone, wide: Backbone, method: str) -> None:
    folder = wrote(method)
    if method == "mask":
        edit_json(folder / "manyhats.json", base_sha256=None)
    message = refused(folder, wide, AdapterMismatch).message
    assert wide.name in message
    assert "32" in message or method == "prefix"
    assert "64" in message or method == "prefix"


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_an_adapter_for_another_family(wrote, load_backbone, method: str, family: str) -> None:
    refused(wrote(method), load_backbone(family), ManyhatsError)


def test_bottlenecks_name_the_other_type(wrote, load_backbone) -> None:
    refused(wrote("bottleneck"), load_backbone("roberta"), AdapterMismatch, "type 'bert', but the backbone")


def test_reading_changes_no_file(wrote, bert: Backbone, tmp_path: Path) -> None:
    folder = wrote("lora")
    copy = shutil.copytree(folder, tmp_path / "copy")
    read_adapter(folder, bert)
    assert all((folder / p.name).read_bytes() == p.read_bytes() for p in Path(copy).iterdir())


def test_weights_that_no_config_speaks_of(bert: Backbone, tmp_path: Path) -> None:
    write_adapter(tiny.adapter(bert, "bottleneck", 1, kind="classify"), tmp_path, bert)
    (tmp_path / "head_config.json").unlink()
    with pytest.raises(InvalidRequest, match=r"'model_head\.safetensors' belongs to no config"):
        read_adapter(tmp_path, bert)


# ---- small files that stand for much


def test_a_compacter_of_a_huge_matrix(bert: Backbone, tmp_path: Path) -> None:
    """Factors of rank one make any size of a few kilobytes."""
    folder = STORE.write("ah-bert-compacter-phm4", tmp_path / "huge")
    tensors = load_file(folder / "adapter.safetensors")
    name = "bert.encoder.layer.0.output.adapters.task.adapter_down.0"
    tensors[f"{name}.W_left"] = torch.ones(4, 100_000, 1)
    tensors[f"{name}.W_right"] = torch.ones(4, 1, 100_000)
    save_file(tensors, folder / "adapter.safetensors")
    refused(folder, bert, AdapterMismatch, "would have 160000000000 values")


def test_zeros_of_a_huge_mask(bert: Backbone, tmp_path: Path) -> None:
    site = "encoder.layer.0.output.dense"
    description = {"format": "manyhats-mask/1", "encoding": "zeros_idx32", "shapes": {site: [40_000, 50_000]}}
    (tmp_path / "manyhats.json").write_text(json.dumps(description))
    save_file({f"{site}.zeros_indices": torch.tensor([1])}, tmp_path / "weights.safetensors")
    refused(tmp_path, bert, AdapterMismatch, "40000, 50000")


def test_a_shared_tensor_of_a_compacter_that_nothing_uses(bert: Backbone, tmp_path: Path) -> None:
    folder = STORE.write("ah-bert-compacter-phm4", tmp_path / "more")
    tensors = load_file(folder / "adapter.safetensors")
    tensors["bert.shared_parameters.task.W_sideways"] = torch.ones(4)
    save_file(tensors, folder / "adapter.safetensors")
    refused(folder, bert, InvalidRequest, "'W_sideways' among the compacter's shared parameters is not used")


@pytest.mark.parametrize("rank", [10**6, 2**14])
def test_the_matrices_of_a_huge_vera(
    bert: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """A file of short vectors stands for matrices of every layer; they are counted before one is made."""
    monkeypatch.setattr(peft_vera, "_MAX_VALUES", 2**14 * 64 - 1)
    monkeypatch.setattr(peft_vera, "materialise", lambda *given: pytest.fail("the matrices are made"))
    config = {"peft_type": "VERA", "task_type": "FEATURE_EXTRACTION", "r": rank, "projection_prng_key": 0}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    vectors = {f"{QUERY}.vera_lambda_b": torch.zeros(32), f"{QUERY}.vera_lambda_d": torch.zeros(rank)}
    save_file(vectors, tmp_path / "adapter_model.safetensors")
    assert refused(tmp_path, bert, ManyhatsError).param in ("r", "rank")
