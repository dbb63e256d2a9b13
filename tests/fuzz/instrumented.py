"""The packages whose branches count as a target's coverage. Imports nothing: they must not be imported before."""

from __future__ import annotations

_API = ("manyhats.api",)
_FILES = ("manyhats.formats", "manyhats.methods", "manyhats.core", "manyhats.backbone", "manyhats.registry")

INSTRUMENTED: dict[str, tuple[str, ...]] = {
    "names": (*_API, "manyhats.registry"),
    "json-bodies": (*_API, "manyhats.registry"),
    "safetensors-header": _FILES,
    "model-card": _FILES,
    "tensors": _API,
    "chat-template-text": ("manyhats.serving", "jinja2"),
    "gzip": _API,
    "keys-file": ("manyhats.access", "manyhats.messages"),
    "listing": _FILES,
    "http": (*_API, "uvicorn"),
    "multipart": (*_API, "python_multipart"),
    "tensor-file": _FILES,
    "archive": (*_FILES, "tarfile", "zipfile"),
    "structured-output": ("manyhats.engine", "llguidance"),
    "adapter-configs": _FILES,
    "beside-adapters": _FILES,
    "adapter-weights": _FILES,
    "settings": ("manyhats.settings", "manyhats.messages", "tomllib"),
    "chat-template": ("manyhats.serving",),
}
