"""What comes as files: safetensors, archives, the adapters of every library, model cards, the server's settings."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache

import torch
from manyhats.access.keys import KeyFile
from manyhats.access.quotas import Quotas
from manyhats.access.scopes import task_pattern
from manyhats.backbone import Backbone
from manyhats.core.call import Caller
from manyhats.core.history import history_of
from manyhats.errors import ConfigurationError
from manyhats.formats.pickles import FIRST_BYTES
from manyhats.formats.reader import read_adapter
from manyhats.formats.tensor_file import check_start, load, parse_start, read_start
from manyhats.registry.archive import ArchiveLimits, unpack, unpack_adapter
from manyhats.registry.blobs import keep_adapter_files
from manyhats.registry.folders import read_folder
from manyhats.registry.records import parse_settings
from manyhats.settings import load_settings
from safetensors.torch import save

from tests import tiny
from tests.fuzz.contract import Broken, Check, pieces, scratch

# ---- safetensors


def header() -> Check:
    """The header of a file, of whatever size the file is said to have."""

    def check(data: bytes) -> None:
        check_start("a.safetensors", data[:FIRST_BYTES], len(data))
        start = read_start(io.BytesIO(data), "a.safetensors", len(data))
        entries = parse_start(start, "a.safetensors", len(data))
        if sum(one.end - one.start for one in entries) != len(data) - len(start):
            raise Broken("the tensors are not the whole data")

    return check


def tensor_file() -> Check:
    """A whole file: what it gives is what the library itself reads from it."""
    path = scratch() / "a.safetensors"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for tensor in load(path).values():
            if not tensor.is_contiguous():
                raise Broken("a tensor is not whole")
            tensor.clone()

    return check


def header_seeds() -> list[bytes]:
    few = {"a": torch.ones(2, 3), "b.weight": torch.zeros(4, dtype=torch.float16)}
    return [
        save(few, {"format": "pt"}),
        save({"x.mask": torch.zeros(3, dtype=torch.uint8), "x.indices": torch.arange(4)}),
        save({"e": torch.zeros(0, 4), "s": torch.tensor(1.0, dtype=torch.bfloat16)}),
        save({}),
    ]


# ---- archives


def archive() -> Check:
    """An archive fills its folder with at most so many files and bytes, and writes nowhere else."""
    root = scratch()
    limits = ArchiveLimits(max_files=6, max_bytes=64 << 10)
    into, path = root / "into", root / "archive"

    def check(data: bytes) -> None:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        path.write_bytes(data[1:])
        (unpack_adapter if data[:1] and data[0] % 2 else unpack)(path, "a.zip", into, limits)
        if {one.name for one in root.iterdir()} != {"into", "archive"}:
            raise Broken(f"something was written beside the folder: {list(root.iterdir())}")
        files = [one for one in into.rglob("*") if not one.is_dir()]
        if any(one.is_symlink() for one in files) or len(files) > limits.max_files:
            raise Broken(f"unpacked: {files}")
        if sum(one.stat().st_size for one in files) > limits.max_bytes:
            raise Broken("more bytes than the limit")

    return check


def archive_seeds() -> list[bytes]:
    members = {"a/adapter_config.json": b"{}", "a/adapter_model.safetensors": save({"a": torch.ones(1)})}

    def packed_tar(mode: str, form: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:  # type: ignore[call-overload]
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("a/link")
            link.type, link.linkname = tarfile.SYMTYPE, "../../x"
            if form == tarfile.PAX_FORMAT:
                tar.addfile(link)
        return buffer.getvalue()

    def packed_zip(kind: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as packed:
            for name, content in members.items():
                packed.writestr(zipfile.ZipInfo(name), content, kind)
        return buffer.getvalue()

    made = [packed_zip(zipfile.ZIP_STORED), packed_zip(zipfile.ZIP_DEFLATED)]
    made += [packed_tar("w", tarfile.USTAR_FORMAT), packed_tar("w:gz", tarfile.GNU_FORMAT)]
    made += [packed_tar("w:gz", tarfile.PAX_FORMAT)]
    return [bytes([which]) + one for one in made for which in (0, 1)]


# ---- adapters


@cache
def _backbone() -> Backbone:
    return tiny.load(tiny.write_base("bert", scratch() / "base"))


def _reading(files: dict[str, bytes], changed: list[str]) -> Callable[[], Check]:
    """A folder of files, of which those in `changed` are what an input says."""

    def make() -> Check:
        backbone, folder = _backbone(), scratch() / "adapter"

        def check(data: bytes) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, content in (files | dict(zip(changed, pieces(data, len(changed)), strict=False))).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
            read_folder(folder, folder.parent / "store")
            keep_adapter_files(folder)
            adapter = read_adapter(folder, backbone)
            for warning in adapter.warnings:
                warning.encode()
            parse_settings(adapter.settings)
            worn = adapter.bind(backbone)
            (states,) = tiny.run(backbone, [tiny.row(backbone, worn, "w1 w2")])
            if adapter.head is not None and states.shape[-1] != adapter.head.num_labels:
                raise Broken(f"{states.shape[-1]} outputs of {adapter.head.num_labels}")

        return check

    return make


@cache
def _written(method: str, kind: str = "classify") -> dict[str, bytes]:
    """The files of a good adapter, as it is stored."""
    from tests.api.live import adapter_files

    few = {"only": "layer.0.attention.self.query"} if method in ("lora", "mask") else {}
    labels = {"labels": ["a", "b", "c"]} if kind == "classify" else {}
    return adapter_files(_backbone(), method, kind=kind, seed=1, settings=labels, **few)  # type: ignore[arg-type]


_METHODS = ("lora", "bottleneck", "prefix", "mask")


def configs() -> Check:
    """The JSON files of an adapter of each library; the first byte says which adapter."""
    made: dict[int, Check] = {}

    def check(data: bytes) -> None:
        which = data[0] % len(_METHODS) if data else 0
        if which not in made:
            files = _written(_METHODS[which])
            made[which] = _reading(files, _changed(files))()
        made[which](data[1:])

    return check


def _changed(files: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files if name.endswith(".json"))


def config_seeds() -> list[bytes]:
    def one(number: int, method: str) -> bytes:
        files = _written(method)
        return bytes([number]) + b"\x00\xff".join(files[name] for name in _changed(files))

    return [one(number, method) for number, method in enumerate(_METHODS)]


_BESIDE = (
    "config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "README.md",
)  # fmt: skip


def beside() -> Check:
    """What may lie beside an adapter: the files of tokenizers, models and sentence-transformers; by the first byte."""
    made: dict[int, Check] = {}

    def check(data: bytes) -> None:
        which = data[0] % len(_BESIDE) if data else 0
        if which not in made:
            kind = "embed" if _BESIDE[which].startswith(("modules", "1_", "config_s")) else "classify"
            files = dict(_written("lora", kind))
            if kind == "embed":
                files |= {name: content for name, content in _SENTENCE.items() if name not in files}
            made[which] = _reading(files, [_BESIDE[which]])()
        made[which](data[1:])

    return check


_SENTENCE = {
    "modules.json": json.dumps(
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
    ).encode(),
    "1_Pooling/config.json": b'{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}',
}


def beside_seeds() -> list[bytes]:
    texts = {
        "config.json": b'{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", '
        b'"2": "c"}, "problem_type": "single_label_classification"}',
        "tokenizer_config.json": b'{"do_lower_case": true, "added_tokens_decoder": {"0": {"content": "[PAD]"}}, '
        b'"tokenizer_class": "BertTokenizer", "chat_template": "{{ a }}"}',
        "special_tokens_map.json": b'{"eos_token": {"content": "w1"}, "additional_special_tokens": ["w2"]}',
        "added_tokens.json": b'{"w1": 5, "new": 104}',
        "generation_config.json": b'{"eos_token_id": [1, 2], "temperature": 0.5, "do_sample": true}',
        "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}",
        "README.md": b"---\nbase_model: x\n---\ntext",
        "config_sentence_transformers.json": b'{"prompts": {"query": "q: "}, "default_prompt_name": "query", '
        b'"similarity_fn_name": "cosine"}',
    } | _SENTENCE
    return [bytes([i]) + texts[name] for i, name in enumerate(_BESIDE)]


def weights() -> Check:
    """The weights of a small adapter, header and all."""
    files = _written("lora")
    changed = [name for name in files if name.endswith(".safetensors")]
    return _reading(files, changed)()


def weight_seeds() -> list[bytes]:
    return [content for name, content in _written("lora").items() if name.endswith(".safetensors")]


# ---- cards and settings


def card() -> Check:
    """A model card's head, of which the course of a training is read."""
    from manyhats.core.history import history_warnings

    def check(data: bytes) -> None:
        text = data.decode(errors="replace")
        for warning in history_warnings(text):
            warning.encode()
        history_of(text)

    return check


def card_seeds() -> list[bytes]:
    curves = {
        "metric": "accuracy", "more_is_better": True, "steps": [1, 2], "losses": [0.5, 0.4], "epochs": [1],
        "epoch_losses": [0.5], "scores": [0.9], "best_epoch": 1,
    }  # fmt: skip
    return [
        b"---\nlicense: mit\ntraining_history: " + json.dumps(curves).encode() + b"\n---\n# A card\n",
        b"# no head\n",
        b"---\ntraining_history: null\n---",
    ]


def settings() -> Check:
    """The server's settings file, whose errors name a setting in one line."""
    path = scratch() / "manyhats.toml"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load_settings(path)
        except ConfigurationError as error:
            if "\n" in str(error).strip():
                raise Broken(f"more than one line: {error}") from error
            raise

    return check


_QUICK_HASH = 24  # characters: of those that fit, few take long


def keys() -> Check:
    """The file of keys, whose errors the server's log has in one line, and what is asked of each key that it holds."""
    file = KeyFile(scratch() / "keys.json")

    def check(data: bytes) -> None:
        file.path.write_bytes(data)
        try:
            read = file.read()
        except ConfigurationError as error:
            if "\n" in str(error).strip():
                raise Broken(f"more than one line: {error}") from error
            raise
        for record in read[:8]:
            record.may_be("guess")
            if record.state not in ("active", "expired", "revoked"):
                raise Broken(f"a key that is {record.state}")
            if len(record.hash) < _QUICK_HASH:
                record.is_of("guess")
            Caller(tasks=task_pattern(record.tasks, record.namespace)).sees("acme-spam")
            Quotas("fuzz", requests=record.requests, tokens=record.tokens).headers()

    return check


def key_seeds() -> list[bytes]:
    plain = {
        "id": "bot-1a2b3c", "name": "bot", "scopes": ["predict"], "created": 1.7e9, "check": "00ff", "salt": "c2FsdA",
        "hash": "scrypt:16:8:1:aGFzaA",
    }  # fmt: skip
    full = plain | {"tenant": "Acme", "tasks": ["spam", "mail-*"], "namespace": "acme-", "weight": 2.5}
    full |= {"requests": "100/minute", "tokens": "1000000/day", "expires": 1.9e9, "revoked": 1.8e9}
    full |= {"scopes": ["predict", "upload", "admin", "metrics"]}
    files = [{"format": 1, "keys": [plain]}, {"format": 1, "keys": [full, plain]}, {"format": 2}, {}]
    return [json.dumps(file).encode() for file in files]


def settings_seeds() -> list[bytes]:
    return [
        b'backbone = "x"\nport = 8000\nmax_body = "1MB"\nrequest_timeout = 1.5\n',
        b'api_keys = ["a", "b"]\nallowed_hosts = "*.example.com,localhost"\ncors_origins = ["https://a.example"]\n',
        b'store = "/s"\nadapter_folders = "/a,/b"\npinned = true\nlog_level = "debug"\n',
        b"[section]\na = 1\n",
    ]
